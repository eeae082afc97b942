"""What an exported model computes: its signatures, and the part of them that an accelerator runs.

    encoded images ──► decode, crop ──► device function ──► points in pixels, what is not valid
    on the host: one by one             crops ──► network     on the host

The device function (`TPU_FUNCTION`) takes float32 `[N, height, width, 3]` and consists of plain
tensor arithmetic with shapes that are known but for N, so that XLA compiles it for one N.
"""

import json
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from data_pipelines.crop.framing import crop_of_face
from data_pipelines.crop.geometry import Crop, from_crop_coordinates
from data_pipelines.crop.pixels import crop_pixels, decode_and_crop_each
from data_pipelines.tasks import ALIGNMENT, CLASS_KINDS, LANDMARK_NAMES, Task
from export.declared_inputs import as_declared
from export.photo_signatures import describe_photo_signatures, photo_signatures
from faceattr_tf.evaluation.answers import calibrated_answers
from faceattr_tf.evaluation.conformal import UNSURE, UNSURE_INDEX
from faceattr_tf.models.heads import head_layers
from faceattr_tf.prediction.detection_graph import FaceDetector
from faceattr_tf.prediction.localisation import Localiser, crop_of_window

TPU_FUNCTION = "tpu_func"
"""The alias of the device function, by which the converter for TPUs finds it."""

VALID, EMBEDDING, DESCRIPTION = "valid", "embedding", "description"


def create_signatures(
    model: keras.Model,
    tasks: Sequence[Task],
    crop: Crop,
    description: dict,
    localiser: Localiser | FaceDetector | None = None,
) -> tuple[dict[str, Callable], Callable]:
    """The traced functions of an export.

    Args:
        model: crops float32 `[N, height, width, 3]` in 0..255 -> task name -> output.
        tasks: what it predicts.
        crop: what it was trained to see of an image.
        description: the export's metadata, see `export.description.describe`; the signature
            `description` answers with it, so that clients know which version they speak to.
        localiser: finds faces in photographs, for signatures that take these.

    Returns:
        Name -> function of every signature; and the device function.
    """
    described, max_pixels = description["tasks"], description["max_pixels"]
    of_window, crop = crop_of_window(crop), crop_of_face(crop, description["framing"])
    on_device = device_function(model, tasks, crop, described)

    def computed(crops):
        """What the device gives, for no crops too: convolutions want at least one."""
        count = tf.shape(crops)[0]
        one = tf.zeros([1, *crops.shape[1:]])
        outputs = on_device(tf.cond(count > 0, lambda: crops, lambda: one))
        return {name: values[:count] for name, values in outputs.items()}

    def judge(crops, transform):
        outputs = computed(crops)
        del outputs[EMBEDDING]
        for task, fields in zip(tasks, described, strict=True):
            if task.kind in ("landmarks", "transform"):
                (name,) = fields["outputs"].values()
                place = transform, crop.height, crop.width
                outputs[name] = from_crop_coordinates(outputs[name], *place)
        return outputs

    def decoded(image_bytes, *place):
        return decode_and_crop_each(image_bytes, *place, crop, max_pixels=max_pixels)

    strings = tf.TensorSpec([None], tf.string, "image_bytes")
    colours = tf.TensorSpec([None, None, None, 3], tf.uint8, "pixels")
    boxes = tf.TensorSpec([None, 4], tf.float32, "box")
    points = tf.TensorSpec([None, len(LANDMARK_NAMES), 2], tf.float32, "landmarks")
    questions = tf.TensorSpec([None], tf.string, "question")

    @tf.function(input_signature=[strings], autograph=False)
    def from_bytes(image_bytes):
        (image_bytes,) = as_declared(image_bytes=image_bytes)
        crops, transform, usable = decoded(image_bytes, *_nowhere(tf.size(image_bytes)))
        return _only_where(usable, judge(crops, transform))

    @tf.function(input_signature=[colours], autograph=False)
    def from_pixels(pixels):
        (pixels,) = as_declared(pixels=pixels)
        return judge(*crop_pixels(pixels, *_nowhere(tf.shape(pixels)[0]), crop))

    @tf.function(input_signature=[strings, boxes, points], autograph=False)
    def from_faces(image_bytes, box, landmarks):
        given = {"image_bytes": image_bytes, "box": box, "landmarks": landmarks}
        image_bytes, box, landmarks = as_declared(**given)
        crops, transform, usable = decoded(image_bytes, box, landmarks)
        return _only_where(usable, judge(crops, transform))

    @tf.function(input_signature=[strings], autograph=False)
    def features(image_bytes):
        (image_bytes,) = as_declared(image_bytes=image_bytes)
        crops, _, usable = decoded(image_bytes, *_nowhere(tf.size(image_bytes)))
        return _only_where(usable, {EMBEDDING: computed(crops)[EMBEDDING]})

    @tf.function(input_signature=[questions], autograph=False)
    def describe(question):
        return {DESCRIPTION: tf.fill(tf.shape(question), json.dumps(description))}

    signatures = {
        DESCRIPTION: describe,
        "serving_default": from_bytes,
        "pixels": from_pixels,
        "crop": from_faces,
        "features": features,
    }
    if localiser:
        seen = crop if isinstance(localiser, FaceDetector) else of_window
        signatures |= photo_signatures(localiser, judge, seen, max_pixels)
    return signatures, on_device


def device_function(model: keras.Model, tasks: Sequence[Task], crop: Crop, described) -> Callable:
    """Crops to the embedding and the answers of every task, points still in the crop.

    Args:
        model, tasks, crop: as of `create_signatures`.
        described: the tasks as the export's metadata has them.

    Returns:
        The traced function of `crops` float32 `[N, height, width, 3]` to output name -> values.
    """
    with_embedding = keras.Model(model.input, (model.output, embedding_of(model, tasks)))
    crops = tf.TensorSpec([None, crop.height, crop.width, 3], tf.float32, "crops")

    @tf.function(input_signature=[crops], autograph=False)
    def on_device(crops):
        raw, embedding = with_embedding(crops, training=False)
        outputs = {EMBEDDING: tf.cast(embedding, tf.float32)}
        for task, fields in zip(tasks, described, strict=True):
            names, said = fields["outputs"], calibrated_answers(task, raw[task.name], fields)
            if said.labels is None:
                (name,) = names.values()
                outputs[name] = said.values
                continue
            labels = tf.cast(said.labels, tf.int32)
            if said.unsure is not None:
                labels = tf.where(said.unsure, UNSURE_INDEX, labels)
            outputs |= {names["probability"]: said.values, names["label"]: labels}
            if said.expected is not None:
                outputs[names["value"]] = said.expected
        return outputs

    return on_device


def embedding_of(model: keras.Model, tasks: Sequence[Task]):
    """What the heads of a model see, `[N, F]`; of heads that see different things, all of it."""
    tasks = [task for task in tasks if task.kind != ALIGNMENT.kind]
    heads = [head for task in tasks for head in head_layers(model, task)]
    seen = {id(tensor): tensor for tensor in (head.input for head in heads)}
    # Keras would name them as it has named layers of the model, where that was made elsewhere.
    flat = [
        keras.layers.Flatten(name=f"{EMBEDDING}_{place}")(tensor)
        for place, tensor in enumerate(seen.values())
    ]
    return keras.layers.Concatenate(name=EMBEDDING)(flat) if len(flat) > 1 else flat[0]


def describe_signatures(
    tasks: Sequence[Task],
    described: Sequence[dict],
    embedding: int,
    localiser: Localiser | FaceDetector | None = None,
) -> dict:
    """Per signature its inputs and outputs: name -> dtype, shape and meaning, for the metadata.

    Args:
        tasks: what the model predicts.
        described: the same as of `create_signatures`.
        embedding: width of the embedding.
        localiser: finds faces in photographs, as of `create_signatures`.
    """
    image_bytes = _tensor("string", ["N"], "JPEG or PNG file, upright; grey or RGBA too")
    answers = {}
    for task, fields in zip(tasks, described, strict=True):
        for kind, name in fields["outputs"].items():
            answers[name] = _answer(task, kind, f", {UNSURE_INDEX} {UNSURE}" * ("least" in fields))
    valid = {VALID: _tensor("bool", ["N"], "whether the image could be read")}
    inputs = {"image_bytes": image_bytes}
    one_size = "RGB in 0..255; of one size in all requests that a server may join"
    pixels = {"pixels": _tensor("uint8", ["N", "H", "W", 3], one_size)}
    signatures = {
        "serving_default": {"inputs": inputs, "outputs": answers | valid},
        "pixels": {"inputs": pixels, "outputs": answers},
        "crop": {
            "inputs": inputs
            | {
                "box": _tensor(
                    "float32", ["N", 4], "left, top, width, height in pixels; NaN where unknown"
                ),
                "landmarks": _tensor(
                    "float32", ["N", len(LANDMARK_NAMES), 2], "x, y in pixels; NaN where unknown"
                ),
            },
            "outputs": answers | valid,
        },
        "features": {
            "inputs": inputs,
            "outputs": {EMBEDDING: _tensor("float32", ["N", embedding], "what the heads see")}
            | valid,
        },
    }
    if localiser:
        signatures |= describe_photo_signatures(inputs, pixels, answers, valid, localiser)
    return signatures


def _answer(task: Task, kind: str, unsure: str) -> dict:
    count = len(task.labels)
    if kind == "probability":
        of = "class" if task.kind in CLASS_KINDS else "label"
        return _tensor("float32", ["N", count], f"of every {of}, 0 to 1; NaN where not valid")
    if kind == "label":
        if task.kind in CLASS_KINDS:
            return _tensor("int32", ["N"], f"index of the class{unsure}; -1 where not valid")
        return _tensor("int32", ["N", count], f"1 yes, 0 no{unsure}; -1 where not valid")
    if kind == "points":
        return _tensor("float32", ["N", count, 2], "x, y in pixels; NaN where not valid")
    if kind == "outline":
        corners = "corners of the aligned crop, x, y in pixels; NaN where not valid"
        return _tensor("float32", ["N", 4, 2], corners)
    if task.kind in CLASS_KINDS:
        return _tensor("float32", ["N"], "mean of the classes' values; NaN where not valid")
    return _tensor("float32", ["N", count], "in the labels' units; NaN where not valid")


def _tensor(dtype: str, shape: list, meaning: str) -> dict:
    return {"dtype": dtype, "shape": shape, "meaning": meaning}


def _nowhere(count):
    """Boxes and landmarks that are not known."""
    return tf.fill([count, 4], math.nan), tf.fill([count, len(LANDMARK_NAMES), 2], math.nan)


def _only_where(usable, outputs: dict) -> dict:
    """The outputs of usable images, for others NaN or -1, and which are which."""
    masked = {VALID: usable}
    for name, values in outputs.items():
        mask = tf.reshape(usable, [-1] + [1] * (values.shape.rank - 1))
        masked[name] = tf.where(mask, values, math.nan if values.dtype.is_floating else -1)
    return masked
