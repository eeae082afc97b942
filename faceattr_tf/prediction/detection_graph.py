"""The faces of photographs by MTCNN as part of a TensorFlow graph, without Python.

It finds what `data_pipelines.detection.mtcnn.Detector` finds, the largest faces first, with one
exception: that one reduces photographs above a maximum side by OpenCV (INTER_AREA), this one by
TensorFlow (ResizeArea). Both take the mean over the area of a pixel. They differ by one level of 255
at most: in one value of eight where sides are halved exactly, as OpenCV then rounds halves up and
not to even numbers; in none or a few of a thousand where they are reduced by other factors. Boxes
then lie some tenths of a pixel apart.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from data_pipelines.crop.image_headers import decode_exactly, header_sizes, isolated
from data_pipelines.detection.mtcnn import (
    MAXIMUM_SIDE,
    MINIMUM_SIZE,
    Detection,
    Detector,
    check_sizes,
    enlarged,
    face_finder,
    largest_first,
)
from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.prediction.localisation_graph import Located

FACES = 10
MAXIMUM_CANDIDATES = 20_000
_COLUMNS = 5 + 2 * len(LANDMARK_NAMES)  # of a face: box, score, landmarks


@dataclasses.dataclass(frozen=True)
class FaceDetector:
    """What MTCNN looks for in photographs.

    Attributes:
        faces: the largest number of faces in a photograph, of which the largest ones stay.
        minimum_size: side in pixels of the smallest face that is looked for, see `Detector`.
        maximum_side: width or height in pixels above which faces are looked for in a reduced copy.
        maximum_candidates: bounds time and memory whatever a photograph shows: so many of P-Net's
            fields of view go on, the best ones. Crowds of 1,024 pixels have 3,000.
    """

    faces: int = FACES
    minimum_size: float = MINIMUM_SIZE
    maximum_side: int = MAXIMUM_SIDE
    maximum_candidates: int = MAXIMUM_CANDIDATES

    def __post_init__(self):
        """Raises UserError where a number makes no sense."""
        for name in ("faces", "maximum_candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected 1 or more")
        check_sizes(self.minimum_size, self.maximum_side)

    def describe(self) -> dict:
        """Its name and settings, ready for JSON."""
        return {"name": "mtcnn", **dataclasses.asdict(self)}

    def __call__(self, images: Iterable[bytes | np.ndarray]) -> Iterator[list[Detection]]:
        """All faces of each photograph by `Detector`, the largest first, for comparison.

        Args:
            images: upright encoded images (JPEG or PNG), or uint8 RGB `[H, W, 3]`.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded.
        """
        detector = Detector(self.minimum_size, self.maximum_side)
        for image in images:
            exact = decode_exactly if isinstance(image, bytes) else tf.convert_to_tensor
            pixels = exact(image)
            small = _reduced(pixels[None], self.maximum_side)[0].numpy()
            (faces,) = detector([small])
            factor = np.array(pixels.shape[1::-1]) / small.shape[1::-1]
            yield largest_first(enlarged(face, factor) for face in faces)


def locate_in_files(detector: FaceDetector, image_bytes, max_pixels: int) -> Located:
    """The faces in encoded images `[N]`, JPEG or PNG; one that is damaged spoils no other.

    One image after the other is decoded and searched.
    """
    sizes = header_sizes(image_bytes)
    usable = tf.reduce_all(sizes > 0, axis=1)
    usable &= tf.reduce_prod(tf.cast(sizes, tf.int64), axis=1) <= max_pixels

    def find(index):
        pixels = decode_exactly(image_bytes[index])
        same = tf.reduce_all(tf.shape(pixels)[:2] == sizes[index])
        with tf.control_dependencies([tf.debugging.Assert(same, ["another size than stated"])]):
            faces, left_out = _find(detector, tf.identity(pixels)[None])
            return faces[0], left_out[0]

    indices = tf.where(usable)[:, 0]
    rows, (faces, left_out) = isolated(find, indices, _specification(detector), side_by_side=1)
    count, rows = tf.shape(image_bytes), rows[:, None]
    none = tf.fill([count[0], detector.faces, _COLUMNS], tf.constant(np.nan, tf.float32))
    faces = tf.tensor_scatter_nd_update(none, rows, faces)
    left_out = tf.tensor_scatter_nd_update(tf.zeros([count[0], 2], tf.int32), rows, left_out)
    read = tf.fill(tf.shape(rows)[:1], True)
    usable = tf.tensor_scatter_nd_update(tf.fill(count, False), rows, read)
    return _located(faces, left_out, usable)


def locate_in_pixels(detector: FaceDetector, pixels) -> Located:
    """The faces in images of one size, uint8 `[N, H, W, 3]`, which are searched together."""
    with tf.device("CPU:0"):  # as those in files: there are many small steps
        faces, left_out = _find(detector, pixels)
    return _located(faces, left_out, tf.ones(tf.shape(pixels)[:1], tf.bool))


def _located(faces, left_out, usable):
    landmarks = tf.reshape(faces[..., 5:], [-1, faces.shape[1], len(LANDMARK_NAMES), 2])
    return Located(faces[..., :4], faces[..., 4], usable, landmarks, left_out[:, 0], left_out[:, 1])


def _specification(detector):
    """Of what `_find` gives for an image."""
    faces = tf.TensorSpec([detector.faces, _COLUMNS], tf.float32)
    return faces, tf.TensorSpec([2], tf.int32)


def _find(detector, pixels):
    """The faces of images of one size, uint8 `[N, H, W, 3]`.

    Returns:
        float32 `[N, K, 15]`, box, score and landmarks, NaN where there is no face; and int32
        `[N, 2]`, faces beyond K and candidates beyond their maximum.
    """
    small = _reduced(pixels, detector.maximum_side)
    count, size, smaller = tf.shape(pixels)[0], tf.shape(pixels)[1:3], tf.shape(small)[1:3]
    minimum_size = tf.constant(detector.minimum_size, tf.float64)
    sizes = tf.tile(smaller[None], [count, 1])
    found = face_finder()(small, sizes, minimum_size, detector.maximum_candidates)
    factor = tf.cast(size[::-1], tf.float64) / tf.cast(smaller[::-1], tf.float64)

    def placed(points):
        # Whole numbers are centres of pixels.
        return tf.cast(tf.cast(points + 0.5, tf.float64) * factor - 0.5, tf.float32)

    begin, end = found["boxes"][:, :2], found["boxes"][:, 2:]
    begin, sides = placed(begin), tf.cast(tf.cast(end - begin, tf.float64) * factor, tf.float32)
    landmarks = tf.reshape(placed(found["landmarks"]), [-1, 2 * len(LANDMARK_NAMES)])
    faces = tf.concat([begin, sides, found["scores"][:, None], landmarks], axis=1)
    middle = (tf.cast(size[::-1], tf.float32) - 1.0) / 2.0

    def of_one(bounds):
        return _largest(faces[bounds[0] : bounds[1]], middle, detector.faces)

    splits = found["splits"]
    kept, beyond = tf.map_fn(
        of_one,
        tf.stack([splits[:-1], splits[1:]], axis=1),
        fn_output_signature=(
            tf.TensorSpec([detector.faces, _COLUMNS], tf.float32),
            tf.TensorSpec([], tf.int32),
        ),
    )
    return kept, tf.stack([beyond, found["left_out"]], axis=1)


def _largest(faces, middle, count: int):
    """The largest faces `[count, 15]` of those of an image, and how many there are beyond.

    Of equally large ones, the one nearest to the centre `middle` comes first; they come by score.
    """
    away = tf.norm(faces[:, :2] + faces[:, 2:4] / 2.0 - middle, axis=1)
    faces = tf.gather(faces, tf.argsort(away, stable=True))
    area = faces[:, 2] * faces[:, 3]
    faces = tf.gather(faces, tf.argsort(area, direction="DESCENDING", stable=True))
    beyond = tf.maximum(tf.shape(faces)[0] - count, 0)
    faces = faces[:count]
    missing = [[0, count - tf.shape(faces)[0]], [0, 0]]
    faces = tf.pad(faces, missing, constant_values=np.nan)
    return tf.ensure_shape(faces, [count, _COLUMNS]), beyond


def _reduced(pixels, maximum_side: int):
    """Images uint8 `[N, H, W, 3]`, no larger than `maximum_side`, by the mean over areas."""
    size = tf.shape(pixels)[1:3]
    side = tf.reduce_max(size)

    def smaller():
        lengths = tf.cast(size, tf.float64) * maximum_side / tf.cast(side, tf.float64)
        lengths = tf.maximum(tf.cast(tf.round(lengths), tf.int32), 1)
        means = tf.raw_ops.ResizeArea(images=pixels, size=lengths)
        return tf.cast(tf.round(means), tf.uint8)

    small = tf.cond(side > maximum_side, smaller, lambda: pixels)
    return tf.ensure_shape(small, [None, None, None, 3])
