"""Pictures by which an export is checked, and what the workdir's model says of them."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.crop.framing import crop_of_face
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import ENDINGS, upright
from data_pipelines.formats.images import ImageFolder
from data_pipelines.tasks import Task, most_voted
from export.description import (
    FACE_BOX,
    FACE_LANDMARKS,
    FACE_RESPONSE,
    FACES,
    FACES_LEFT_OUT,
    PHOTO_PIXELS,
    PHOTOS,
    described_tasks,
)
from export.drawn_requests import draw_requests
from faceattr_tf.evaluation.answers import answers
from faceattr_tf.evaluation.conformal import UNSURE_INDEX

PAGE = 32
"""Pictures on a page of drawn faces."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Files with what is known of the faces in them.

    Attributes:
        encoded: JPEG or PNG files, upright.
        box: float32 `[N, 4]`, left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[N, 5, 2]`, x, y in pixels; NaN where unknown.
        labels: task name -> labels, for examples from records.
    """

    encoded: list[bytes]
    box: np.ndarray
    landmarks: np.ndarray
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def at(self, rows: np.ndarray) -> "Examples":
        """Those in the places `rows`, int `[M]`."""
        labels = {name: values[rows] for name, values in self.labels.items()}
        return Examples(
            [self.encoded[i] for i in rows], self.box[rows], self.landmarks[rows], labels
        )


def without_places(encoded: list[bytes]) -> Examples:
    """Files of which nothing else is known."""
    count = len(encoded)
    return Examples(
        encoded, np.full((count, 4), np.nan, "f4"), np.full((count, 5, 2), np.nan, "f4")
    )


def page_of_faces(folder: str | Path) -> Examples:
    """The pictures of a folder, drawn faces where it is empty.

    Files that cannot be decoded are left out by name.

    Raises:
        UserError: the folder holds no JPEG or PNG files that can be decoded.
    """
    import tensorflow as tf

    if not folder:
        faces = draw_requests(PAGE, seed=1)
        return Examples(faces.encoded, faces.box, faces.landmarks)
    encoded = []
    for file in picture_files(folder):
        try:
            data = upright(file.read_bytes())
            tf.io.decode_image(data)
        except (tf.errors.InvalidArgumentError, UserError):
            print(f"{file}: left out, it cannot be decoded", file=sys.stderr)
        else:
            encoded.append(data)
    if not encoded:
        raise UserError(f"{folder}: no picture there can be decoded")
    return without_places(encoded)


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures of a folder and its sub-folders.

    Raises:
        UserError: there are none.
    """
    folder = local(folder)
    files = [folder / name for name in ImageFolder(folder).sizes]
    if not files:
        raise UserError(f"{folder} holds no pictures ({', '.join(ENDINGS)})")
    return files


def examples_of(
    records: str, split: str, tasks: Sequence[Task], most: int | None = None
) -> Examples:
    """The examples of a split of records, with their labels.

    Args:
        records: folder of the records.
        split: which of them.
        tasks: whose labels are wanted.
        most: only the first ones, up to so many; None for all.

    Raises:
        UserError: the records have no such split.
    """
    from data_pipelines.input.batches import encoded_batches
    from data_pipelines.input.stream import Source
    from data_pipelines.records.record_set import RecordSet

    size = min(256, most or 256)
    batches = encoded_batches(Source(RecordSet.load(records), split), tasks, batch_size=size)
    batches = list(batches if most is None else batches.take(-(-most // size)))
    gathered = [
        {key: np.asarray(batch[key]) for key in ("image", "box", "landmarks")} for batch in batches
    ]
    labels = {
        task.name: np.concatenate([np.asarray(batch["labels"][task.name]) for batch in batches])
        for task in tasks
        if task.kind != "transform"
    }
    labels |= {
        task.name: most_voted(labels[task.name]) for task in tasks if task.kind == "distribution"
    }
    return Examples(
        [data for part in gathered for data in part["image"].tolist()][:most],
        np.concatenate([part["box"] for part in gathered])[:most],
        np.concatenate([part["landmarks"] for part in gathered])[:most],
        {name: values[:most] for name, values in labels.items()},
    )


def task_answers(raw: dict, transform, workdir, description: dict) -> dict[str, np.ndarray]:
    """What an export has to answer where the workdir's Keras model gives `raw`, by output.

    Args:
        raw: task name -> output of the model.
        transform: float32 `[N, 2, 3]`, from crop pixels to source pixels.
        workdir: gives tasks and crop.
        description: the export's metadata.
    """
    found = {}
    tasks = described_tasks(workdir, description)
    for task, fields in zip(tasks, description["tasks"], strict=True):
        names = fields["outputs"]
        said = answers(task, raw[task.name], transform, workdir.crop, fields)
        if said.labels is not None:
            labels = said.labels
            if said.unsure is not None:
                labels = np.where(said.unsure, UNSURE_INDEX, labels)
            found |= {names["probability"]: said.values, names["label"]: labels}
            if said.expected is not None:
                found[names["value"]] = said.expected
        else:
            (name,) = names.values()
            found[name] = said.values
    return found


def expected_answers(model, workdir, description: dict, examples: Examples, localiser=None) -> dict:
    """What the workdir's Keras model says: signature -> output -> values."""
    import keras

    from data_pipelines.crop.image_headers import decode
    from data_pipelines.crop.pixels import crop_pixels, decode_and_crop
    from export.signatures import EMBEDDING, embedding_of

    crop = crop_of_face(workdir.crop, workdir.framing)
    seen = embedding_of(model, described_tasks(workdir, description))
    network = keras.Model(model.input, (model.output, seen))
    unknown = np.full_like(examples.box, np.nan), np.full_like(examples.landmarks, np.nan)

    def from_files(box, landmarks):
        for begin in range(0, len(examples.encoded), PAGE):
            part = slice(begin, begin + PAGE)
            yield decode_and_crop(examples.encoded[part], box[part], landmarks[part], crop)

    def from_pixels():
        for data in examples.encoded:
            yield crop_pixels(decode(data)[None], unknown[0][:1], unknown[1][:1], crop)

    def answered(crops):
        rows = []
        for images, transform in crops:
            raw, embedding = network(images, training=False)
            found = task_answers(raw, transform, workdir, description)
            rows.append({EMBEDDING: np.asarray(embedding), **found})
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    found = {
        "serving_default": answered(from_files(*unknown)),
        "pixels": answered(from_pixels()),
        "crop": answered(from_files(examples.box, examples.landmarks)),
    }
    embedding = {EMBEDDING: found["serving_default"][EMBEDDING]}
    for outputs in found.values():
        del outputs[EMBEDDING]
    found["features"] = embedding
    if localiser:
        pixels = (decode(data).numpy() for data in examples.encoded)
        of = model, workdir, description, localiser
        found[PHOTOS] = _answers_of_photos(examples.encoded, *of)
        found[PHOTO_PIXELS] = _answers_of_photos(pixels, *of)
    return found


def _answers_of_photos(images, model, workdir, description: dict, localiser) -> dict:
    """What is said of the faces that a localiser or detector finds in images, by output."""
    from faceattr_tf.prediction.detection_graph import FaceDetector
    from faceattr_tf.prediction.localisation import crop_faces, crop_of_window

    detects, rows = isinstance(localiser, FaceDetector), []
    whole = workdir.crop
    crop = crop_of_face(whole, workdir.framing) if detects else crop_of_window(whole)
    for image in images:
        (found,) = localiser([image])
        faces = found[: localiser.faces]
        boxes = np.array([face.box for face in faces], "f4").reshape(-1, 4)
        points = np.array([face.landmarks for face in faces], "f4").reshape(-1, 5, 2)
        # Without a face, the answers have the shape of those of any.
        one = np.full((1, 4), np.nan), np.full((1, 5, 2), np.nan)
        crops, transform = crop_faces(image, *((boxes, points) if faces else one), crop)
        said = task_answers(model(crops, training=False), transform, workdir, description)
        said[FACE_BOX] = boxes
        said[FACE_RESPONSE] = np.array([face.score for face in faces], "f4")
        if detects:
            said[FACE_LANDMARKS] = points
        said = {
            name: _filled(np.asarray(values)[: len(faces)], localiser.faces)
            for name, values in said.items()
        }
        said[FACES] = np.int32(len(faces))
        if detects:
            said[FACES_LEFT_OUT] = np.int32(len(found) - len(faces))
        rows.append(said)
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _filled(values: np.ndarray, count: int) -> np.ndarray:
    """Rows for faces that were not found, behind those of the others."""
    values = values.astype("f4" if values.dtype.kind == "f" else "i4")
    missing = np.nan if values.dtype.kind == "f" else -1
    rows = np.full((count - len(values), *values.shape[1:]), missing, values.dtype)
    return np.concatenate([values, rows])
