"""Signatures of exports that take photographs: faces are found first, and then judged.

    photographs ──► LNets, MTCNN ──► places ──► crops ──► network
     of any size      K faces        [N, K]      [M]       [M] ──► outputs [N, K, ...]

Servers that join requests cut answers apart along the first dimension. So every photograph has K
rows, of which the first `faces` are filled.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import LANDMARK_NAMES
from export.declared_inputs import as_declared
from export.description import (
    CANDIDATES_LEFT_OUT,
    FACE_BOX,
    FACE_LANDMARKS,
    FACE_RESPONSE,
    FACES,
    FACES_LEFT_OUT,
    PHOTO_PIXELS,
    PHOTOS,
)
from faceattr_tf.prediction import detection_graph, localisation_graph
from faceattr_tf.prediction.detection_graph import FaceDetector
from faceattr_tf.prediction.localisation import Localiser
from faceattr_tf.prediction.localisation_graph import Located, cutter_of_files, cutter_of_pixels


def photo_signatures(
    localiser: Localiser | FaceDetector, judge: Callable, crop: Crop, max_pixels: int
) -> dict[str, Callable]:
    """The traced functions, by name.

    Args:
        localiser: finds at most K faces in a photograph.
        judge: crops float32 `[M, height, width, 3]` and their transforms `[M, 2, 3]` -> output
            name -> values `[M, ...]`; M may be 0.
        crop: what it sees of a face that is found.
        max_pixels: width times height of the largest photograph that is decoded.
    """
    detects = isinstance(localiser, FaceDetector)
    graph = detection_graph if detects else localisation_graph

    def answers(located: Located, cut: Callable) -> dict:
        found = tf.math.is_finite(located.response)
        places = tf.where(found)
        # A localiser finds windows alone.
        points = tf.gather_nd(located.landmarks, places) if detects else None
        outputs = judge(*cut(places[:, 0], tf.gather_nd(located.box, places), crop, points))
        rows = tf.shape(found)

        def spread(values):
            shape = tf.concat([rows, tf.shape(values)[1:]], axis=0)
            missing = tf.cast(math.nan if values.dtype.is_floating else -1, values.dtype)
            whole = tf.tensor_scatter_nd_update(tf.fill(shape, missing), places, values)
            return tf.ensure_shape(whole, [None, localiser.faces, *values.shape[1:]])

        return _outputs_of(located) | {name: spread(values) for name, values in outputs.items()}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False)
    def photos(image_bytes):
        (image_bytes,) = as_declared(image_bytes=image_bytes)
        located = graph.locate_in_files(localiser, image_bytes, max_pixels)
        found = answers(located, cutter_of_files(image_bytes, max_pixels))
        return found | {"valid": located.usable}

    colours = tf.TensorSpec([None, None, None, 3], tf.uint8, "pixels")

    @tf.function(input_signature=[colours], autograph=False)
    def photo_pixels(pixels):
        (pixels,) = as_declared(pixels=pixels)
        return answers(graph.locate_in_pixels(localiser, pixels), cutter_of_pixels(pixels))

    return {PHOTOS: photos, PHOTO_PIXELS: photo_pixels}


def _outputs_of(located: Located) -> dict:
    """Where the faces are, by output."""
    found = tf.math.is_finite(located.response)
    outputs = {
        FACES: tf.math.count_nonzero(found, axis=1, dtype=tf.int32),
        FACE_BOX: located.box,
        FACE_RESPONSE: located.response,
        FACE_LANDMARKS: located.landmarks,
        FACES_LEFT_OUT: located.faces_left_out,
        CANDIDATES_LEFT_OUT: located.candidates_left_out,
    }
    return {name: values for name, values in outputs.items() if values is not None}


def describe_photo_signatures(
    files: dict, pixels: dict, answers: dict, valid: dict, localiser: Localiser | FaceDetector
) -> dict:
    """Their inputs and outputs for the metadata.

    Args:
        files, pixels: the inputs.
        answers: the outputs of a signature that takes faces; these have a second dimension here.
        valid: the output that tells which files could be read.
        localiser: finds the K faces.
    """
    faces, detects = localiser.faces, isinstance(localiser, FaceDetector)
    strength = "the detector's score, 0 to 1" if detects else "the peak above the map's median"
    found = {
        FACES: ("int32", [], "how many faces were found; the others' rows are not filled"),
        FACE_BOX: ("float32", [faces, 4], "left, top, width, height in pixels; NaN without a face"),
        FACE_RESPONSE: ("float32", [faces], f"{strength}; NaN without a face"),
    }
    if detects:
        points, beyond = [faces, len(LANDMARK_NAMES), 2], "places beyond maximum_candidates"
        found |= {
            FACE_LANDMARKS: ("float32", points, "x, y in pixels; NaN without a face"),
            FACES_LEFT_OUT: ("int32", [], "smaller faces that were found, too, and not judged"),
            CANDIDATES_LEFT_OUT: ("int32", [], f"{beyond}, where faces may have been missed"),
        }
    for name, tensor in answers.items():
        meaning = tensor["meaning"].replace("where not valid", "without a face")
        found[name] = tensor["dtype"], [faces, *tensor["shape"][1:]], meaning
    outputs = {
        name: {"dtype": dtype, "shape": ["N", *shape], "meaning": meaning}
        for name, (dtype, shape, meaning) in found.items()
    }
    return {
        PHOTOS: {"inputs": files, "outputs": outputs | valid},
        PHOTO_PIXELS: {"inputs": pixels, "outputs": outputs},
    }
