"""Face attributes of pictures from Python, in three lines, as plain data that prints well.

    from faceattr_tf import Analyzer

    print(Analyzer.from_workdir("work/celeba").analyze("photo.jpg"))

Pictures pass through the same decoding, crop and calibration as in evaluation, so that both give
the same numbers.
"""

import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.crop.framing import Framing, check_tells_faces_apart, crop_of_face
from data_pipelines.detection.mtcnn import (
    MAXIMUM_SIDE,
    MINIMUM_SIZE,
    Detection,
    Detector,
    check_sizes,
    largest_first,
)
from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import MAX_PIXELS
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import LANDMARK_NAMES, Task
from faceattr_tf.prediction.face import Face, TaskPrediction, task_predictions
from faceattr_tf.prediction.localisation import Localiser, crop_of_window
from faceattr_tf.prediction.picture import NO_IMAGE, Image, Picture, as_list, read_picture
from faceattr_tf.prediction.sensitive import answered_tasks

_DECODED = 8  # pictures held at a time for detection, decoded and reduced


class Analyzer:
    """A trained model with all that it needs to judge pictures.

    Args:
        model: Keras model, `float32 [B, H, W, 3]` in 0...255 -> a dict of one output per task.
        tasks: the model's tasks.
        crop: the `data_pipelines.crop.geometry.Crop` that the model was trained with.
        framing: how its training pictures frame their faces if it was trained on whole ones, see
            `data_pipelines.crop.framing`: a face whose place is known is shown so.
        calibration: task name -> `{"temperature": t, "thresholds": [one per label]}`; what is
            absent is temperature 1 and thresholds 0.5. Of pairs of answers that are `impossible`
            there, one gives way (`Workdir.calibration`); with `least` probabilities of answers, some
            are `unsure` (`faceattr_tf.evaluation.conformal`).
        batch_size: how many faces go through the model at a time.
        max_pixels: a picture that is larger by its header is refused before it is decoded.
        maximum_side: width or height in pixels above which faces are looked for in a reduced copy,
            see `data_pipelines.detection.mtcnn.Detector`; all else sees the picture as it is.
        minimum_size: side in pixels of the smallest face that MTCNN looks for.
        faces: at most so many faces of a picture are judged, the largest; None for all.
        try_rotations: pictures in which no face is found are turned by 90, 180 and 270 degrees.
        localiser: looks for faces in place of MTCNN. What is judged of a face is then its window,
            where the model was trained on whole pictures, too (`crop_of_window`).
        sensitive: names of tasks of `data_pipelines.tasks.SENSITIVE` that are answered, too; the
            others are left out, which a line on standard error says.

    Raises:
        UserError: a number makes no sense, a name is no sensitive task of the model, or nothing is
            left to answer.
    """

    def __init__(
        self,
        model,
        tasks: Sequence[Task],
        crop,
        calibration: dict[str, dict] | None = None,
        *,
        batch_size: int = 64,
        max_pixels: int = MAX_PIXELS,
        maximum_side: int = MAXIMUM_SIDE,
        minimum_size: float = MINIMUM_SIZE,
        faces: int | None = None,
        try_rotations: bool = False,
        localiser: Localiser | None = None,
        sensitive: Sequence[str] = (),
        framing: dict | None = None,
    ):
        """Keeps what it is given; networks are compiled when they are first used."""
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected at least 1")
        if faces is not None and faces < 1:
            raise UserError(f"faces {faces}: expected at least 1")
        check_sizes(minimum_size, maximum_side)
        check_keras()
        self.model = model
        self.tasks = answered_tasks(tasks, sensitive)
        self.crop = crop_of_window(crop) if localiser else crop_of_face(crop, framing)
        self.framing, self._whole = framing, crop.kind == "none"
        self.calibration = calibration or {}
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.maximum_side, self.minimum_size = maximum_side, minimum_size
        self.faces, self.try_rotations = faces, try_rotations
        self.localiser = localiser

    @classmethod
    def from_workdir(
        cls,
        path: str | Path,
        *,
        consistent: bool = False,
        unsure: float | str | None = None,
        **options,
    ) -> "Analyzer":
        """The best model of a training run; `options` are those of the class.

        Args:
            path: its workdir.
            consistent: of every pair of answers that is impossible by the labels of training, the
                less certain one gives way, see `faceattr_tf.evaluation.consistency`.
            unsure: the share of answers that may be wrong; where an answer would be wrong more
                often, it is `unsure`, see `faceattr_tf.evaluation.conformal`.
            **options: of the class.

        Raises:
            UserError: the folder is no workdir, holds no model that loads, does not know impossible
                pairs that are asked for, or its validation has too few images for a risk.
        """
        from faceattr_tf.evaluation.conformal import with_unsure
        from faceattr_tf.workdir import Workdir

        workdir = Workdir.open(path)
        calibration = workdir.calibration(consistent)
        model = workdir.load_model()
        if unsure is not None:
            calibration = with_unsure(workdir, calibration, unsure, model)
        options = {"framing": workdir.framing, **options}
        return cls(model, workdir.tasks, workdir.crop, calibration, **options)

    @property
    def needs_face(self) -> bool:
        """Whether the model was trained on faces with a known place, and not on whole pictures."""
        return not self._whole

    def check_tells_faces_apart(self) -> None:
        """Raises UserError where the model would say the same of all faces that are found."""
        check_tells_faces_apart(self.crop, self.framing)

    def say_how_faces_are_shown(self) -> None:
        """Says on standard error what a model of whole pictures sees of the faces that are found.

        Raises:
            UserError: see `check_tells_faces_apart`.
        """
        self.check_tells_faces_apart()
        if self._whole and not self.localiser:
            print(
                "the model was trained on whole pictures; faces that are found are shown to it by "
                f"{Framing(**self.framing)}",
                file=sys.stderr,
            )

    def warn_of_whole_pictures(self) -> None:
        """Says on standard error what it means to detect nothing, where that makes a difference."""
        if self.needs_face:
            print(
                f"warning: the model was trained on faces cropped by {self.crop.kind}; without "
                "--detect it sees whole pictures, which suits tightly framed faces only",
                file=sys.stderr,
            )

    def analyze(
        self, images: Image | Sequence[Image], *, box=None, landmarks=None, detect: bool = False
    ) -> Face | list[Face] | list[list[Face]]:
        """What the model says of faces: one of every picture, or with `detect` all that are there.

        Where the crop needs a box or landmarks and there are none, it falls back to what is known,
        and finally to the whole picture (see `data_pipelines.crop.geometry.crop_transform`).

        Args:
            images: one picture or several: file names, bytes of image files, open files, PIL
                images, or uint8 arrays and tensors, RGB `[H, W, 3]` or grey `[H, W]`. Orientation
                tags are applied.
            box: the face's left, top, width, height `[4]` in pixels of the upright picture, or
                `[N, 4]` for N pictures; NaN where unknown.
            landmarks: its points `[5, 2]` (x, y) in pixels, ordered as
                `data_pipelines.tasks.LANDMARK_NAMES`, or `[N, 5, 2]`; NaN where unknown.
            detect: look for the faces, and judge each of them.

        Returns:
            A `Face` for one picture, a list of them for several. With `detect` the faces of one
            picture, or a list of such lists for several: of MTCNN the largest first, of a localiser
            the strongest peak; none where none is found.

        Raises:
            UserError: a file is missing or is no image, a shape does not fit (named), or a model of
                whole pictures cannot tell the faces apart that are to be detected.
        """
        images, single = as_list(images)
        if detect and (box is not None or landmarks is not None):
            raise UserError("detect=True finds the faces itself: leave box and landmarks out")
        if detect:
            self.check_tells_faces_apart()
        faces = []
        for pictures, jobs in self._jobs(images, box, landmarks):
            if not detect:
                faces += self._judge(jobs)
                continue
            found = self._detect(pictures)
            judged = iter(self._judge([job for jobs in found for job in jobs]))
            faces += [list(itertools.islice(judged, len(jobs))) for jobs in found]
        return faces[0] if single else faces

    def judge(
        self, frames: np.ndarray, faces: Sequence[Sequence[Detection]]
    ) -> list[list[dict[str, TaskPrediction]]]:
        """What the model says of faces of frames of a video, which are found already.

        It is what `analyze` says of a frame as a picture. Nothing is encoded on the way.

        Args:
            frames: uint8 RGB `[N, H, W, 3]`.
            faces: those of each frame.

        Returns:
            Of each face of each frame, task -> what was predicted.

        Raises:
            UserError: a model of whole pictures cannot tell the faces apart.
        """
        self.check_tells_faces_apart()
        owners = np.repeat(np.arange(len(frames)), [len(found) for found in faces])
        flat = [face for found in faces for face in found]
        said = []
        for start in range(0, len(flat), self.batch_size):
            part = slice(start, start + self.batch_size)
            boxes = np.stack([face.box for face in flat[part]])
            points = np.stack([face.landmarks for face in flat[part]])
            outputs, transforms = self._frame_network(frames, owners[part], boxes, points)
            outputs = {name: output.numpy() for name, output in outputs.items()}
            said += self._said(outputs, transforms.numpy())
        said = iter(said)
        return [list(itertools.islice(said, len(found))) for found in faces]

    def outputs(
        self, images: Sequence[Image], *, box=None, landmarks=None
    ) -> dict[str, np.ndarray]:
        """What the model itself gives for a face per picture: output -> `[N, ...]`.

        For arguments and errors see `analyze`.
        """
        found = [self._run(jobs)[0] for _, jobs in self._jobs(images, box, landmarks)]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _jobs(self, images, box, landmarks) -> Iterator[tuple[list[Picture], list["_Job"]]]:
        """Pictures as many at a time as faces are judged, each with the face where it is said."""
        boxes = _per_picture("box", box, len(images), (4,))
        points = _per_picture("landmarks", landmarks, len(images), (len(LANDMARK_NAMES), 2))
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            pictures = [read_picture(image, self.max_pixels) for image in images[part]]
            yield pictures, list(map(_Job, pictures, boxes[part], points[part]))

    @functools.cached_property
    def _detector(self):
        return Detector(self.minimum_size, self.maximum_side)

    def _detect(self, pictures: list[Picture]) -> list[list["_Job"]]:
        """The faces of every picture; with `try_rotations` of pictures that are turned, too."""
        found = self._found(pictures)
        if not self.try_rotations:
            return found
        for index, picture in enumerate(pictures):
            if not found[index]:
                turns = self._found([picture.turned(quarters) for quarters in (1, 2, 3)])
                found[index] = max(turns, key=lambda jobs: max((j.score for j in jobs), default=0))
        return found

    def _found(self, pictures: list[Picture]) -> list[list["_Job"]]:
        found = [self._localised(picture) for picture in pictures] if self.localiser else []
        for start in range(len(found), len(pictures), _DECODED):
            part = pictures[start : start + _DECODED]
            found += map(largest_first, self._detector(picture.pixels() for picture in part))
        return [
            [
                _Job(picture, face.box, face.landmarks, float(face.score))
                for face in faces[: self.faces]
            ]
            for picture, faces in zip(pictures, found, strict=True)
        ]

    def _localised(self, picture: Picture) -> list[Detection]:
        import tensorflow as tf

        try:
            (faces,) = self.localiser([picture.content])
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{picture}: {NO_IMAGE}") from error
        return faces

    @functools.cached_property
    def _network(self):
        """Image bytes `[N]`, of which each face is `[B]`, boxes, landmarks -> outputs, transforms."""
        import tensorflow as tf

        from data_pipelines.crop.pixels import decode_and_crop

        def network(image_bytes, owners, box, landmarks):
            pixels, transform = decode_and_crop(
                image_bytes, box, landmarks, self.crop, owners=owners
            )
            # Kernels for one row round otherwise than those for several (with AVX-512 these alone):
            # the last digits would say whether a face was judged among others.
            alone = tf.shape(pixels)[0] == 1
            pixels = tf.cond(alone, lambda: tf.repeat(pixels, 2, axis=0), lambda: pixels)
            outputs = self.model(pixels, training=False)
            return {name: rows[: tf.shape(box)[0]] for name, rows in outputs.items()}, transform

        points = [None, len(LANDMARK_NAMES), 2]
        signature = [([None], tf.string), ([None], tf.int32)]
        signature += [([None, 4], tf.float32), (points, tf.float32)]
        return tf.function(network, [tf.TensorSpec(*spec) for spec in signature], autograph=False)

    @functools.cached_property
    def _frame_network(self):
        """Frames `[N, H, W, 3]`, of which each face is `[B]`, boxes, landmarks -> as `_network`."""
        import tensorflow as tf

        from data_pipelines.crop.pixels import crop_pixels

        def network(frames, owners, box, landmarks):
            pixels, transform = crop_pixels(frames, box, landmarks, self.crop, owners)
            return self.model(pixels, training=False), transform

        points = [None, len(LANDMARK_NAMES), 2]
        signature = [([None, None, None, 3], tf.uint8), ([None], tf.int32)]
        signature += [([None, 4], tf.float32), (points, tf.float32)]
        return tf.function(network, [tf.TensorSpec(*spec) for spec in signature], autograph=False)

    def _judge(self, jobs: list["_Job"]) -> list[Face]:
        faces = []
        for start in range(0, len(jobs), self.batch_size):
            part = jobs[start : start + self.batch_size]
            said = self._said(*self._run(part))
            faces += [job.face(tasks) for job, tasks in zip(part, said, strict=True)]
        return faces

    def _said(self, outputs: dict, transforms: np.ndarray) -> list[dict[str, TaskPrediction]]:
        """Of each face, task -> what was predicted."""
        results = {
            task.name: task_predictions(
                task,
                outputs[task.name],
                transforms,
                self.crop,
                self.calibration.get(task.name, {}),
            )
            for task in self.tasks
        }
        return [
            {name: rows[row] for name, rows in results.items()} for row in range(len(transforms))
        ]

    def _run(self, jobs: list["_Job"]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        import tensorflow as tf

        contents = list(dict.fromkeys(job.picture.content for job in jobs))
        places = {content: place for place, content in enumerate(contents)}
        owners = [places[job.picture.content] for job in jobs]
        boxes, landmarks = np.stack([job.box for job in jobs]), [job.landmarks for job in jobs]
        try:
            outputs, transforms = self._network(contents, owners, boxes, np.stack(landmarks))
        except tf.errors.InvalidArgumentError as error:
            if len(jobs) > 1:  # one bad picture fails a whole batch: find out which
                for job in jobs:
                    self._run([job])
                raise
            raise UserError(f"{jobs[0].picture}: {NO_IMAGE}") from error
        transforms = zip(jobs, transforms.numpy(), strict=True)
        transforms = np.stack([job.picture.given_transform(one) for job, one in transforms])
        return {name: output.numpy() for name, output in outputs.items()}, transforms


@dataclasses.dataclass(frozen=True)
class _Job:
    """A face to be judged: its picture, and where it is in it (NaN where unknown)."""

    picture: Picture
    box: np.ndarray
    landmarks: np.ndarray
    score: float | None = None

    def face(self, tasks: dict[str, TaskPrediction]) -> Face:
        box, landmarks = self.picture.given_place(self.box, self.landmarks)
        box = None if np.isnan(box).any() else tuple(box.tolist())
        points = zip(LANDMARK_NAMES, landmarks.tolist(), strict=True)
        known = {name: (x, y) for name, (x, y) in points if not math.isnan(x + y)}
        turned = 90 * self.picture.quarters
        return Face(self.picture.name, box, known or None, self.score, tasks, turned)


def _per_picture(name: str, values, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """`values` as float32 `[count, *shape]`; all NaN where there are none."""
    if values is None:
        return np.full((count, *shape), np.nan, np.float32)
    values = np.asarray(values, np.float32)
    if count == 1 and values.shape == shape:
        values = values[None]
    if values.shape != (count, *shape):
        raise UserError(
            f"{name} of shape {list(values.shape)}: expected {[count, *shape]} "
            f"for {count} picture{'s' * (count != 1)}"
        )
    return values
