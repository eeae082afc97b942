"""Faces in pictures: MTCNN (Zhang et al., IEEE Signal Processing Letters 2016), ready to use.

The weights are those that come inside the `mtcnn` package: no network connection is needed. What
is found is what the package finds, by the graph of `mtcnn_graph`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.errors import UserError

THRESHOLDS = (0.6, 0.7, 0.8)
"""Scores that P-Net, R-Net and O-Net have to give to a face, as in the package."""

MINIMUM_SIZE = 20
MAXIMUM_SIDE = 2048
_PIXELS_PER_PASS = 8_000_000  # bounds the memory whatever the size of the pictures
_FIELD = 12  # pixels that the proposal network sees of a face


@dataclasses.dataclass(frozen=True)
class Detection:
    """One face in one picture.

    Attributes:
        box: `[4]` left, top, width, height in pixels; it may reach beyond the picture.
        score: the network's confidence, 0 to 1.
        landmarks: `[5, 2]` (x, y) in pixels, in the order of `tasks.LANDMARK_NAMES`.
    """

    box: np.ndarray
    score: float
    landmarks: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """The centre of the box: `[2]` (x, y) in pixels."""
        return self.box[:2] + self.box[2:] / 2


class Detector:
    """Finds the faces of pictures with MTCNN.

    What is found in a picture does not depend on the pictures beside it, of whatever sizes these
    are (the package would pad them to a common size).

    Time and memory of a picture grow with its area, therefore faces of a larger one than
    `maximum_side` are looked for in a reduced copy. What is found is given in the picture's own
    pixels.

    Args:
        minimum_size: side in pixels of the smallest face that is looked for, roughly. The time
            per picture falls with its square; the networks themselves need at least 12. In a
            reduced picture it counts after the reduction: in one of 4,096 pixels at the default,
            faces from 40 of its own pixels on are found.
        maximum_side: width or height in pixels above which a picture is reduced.
        thresholds: scores that the three networks have to give to a face; lower ones overlook
            fewer faces, and take more for faces that are none.
    """

    def __init__(
        self,
        minimum_size: float = MINIMUM_SIZE,
        maximum_side: int = MAXIMUM_SIDE,
        thresholds: tuple[float, float, float] = THRESHOLDS,
    ):
        """Loads the networks, which takes seconds the first time in a process."""
        check_sizes(minimum_size, maximum_side)
        self._minimum_size = minimum_size
        self._maximum_side = maximum_side
        self._finder = face_finder(thresholds)

    def __call__(self, images: Iterable[np.ndarray]) -> list[list[Detection]]:
        """The faces of each picture, the one nearest to the picture's centre first.

        Args:
            images: `uint8 [H, W, 3]`, RGB, of any sizes; of a generator's, one at a time is held
                in its full size.
        """
        sizes, reduced = [], []
        for image in images:
            sizes.append(image.shape[1::-1])
            reduced.append(_reduce(image, self._maximum_side))
            del image  # before the next one is made
        found = [[] for _ in reduced]
        large = [i for i, one in enumerate(reduced) if min(one.shape[:2]) >= self._minimum_size]
        for part in _passes(large, [image.shape[:2] for image in reduced]):
            faces = self._faces([reduced[index] for index in part])
            for index, detections in zip(part, faces, strict=True):
                size = np.array(sizes[index], np.float32)
                factor = size / reduced[index].shape[1::-1]
                own = [enlarged(face, factor) for face in detections]
                found[index] = nearest_first(own, (size - 1) / 2)
        return found

    def _faces(self, images):
        import tensorflow as tf

        from data_pipelines.detection.mtcnn_graph import ALL

        sizes = np.array([image.shape[:2] for image in images], np.int32)
        pictures = np.zeros((len(images), *sizes.max(axis=0), 3), np.uint8)
        for picture, image in zip(pictures, images, strict=True):
            picture[: image.shape[0], : image.shape[1]] = image
        with tf.device("CPU:0"):
            faces = self._finder(pictures, sizes, float(self._minimum_size), ALL)
        names = ("boxes", "scores", "landmarks", "splits")
        boxes, scores, landmarks, splits = (faces[name].numpy() for name in names)
        boxes[:, 2:] -= boxes[:, :2]
        return [
            [Detection(boxes[i], float(scores[i]), landmarks[i]) for i in range(begin, end)]
            for begin, end in itertools.pairwise(splits)
        ]


def check_sizes(minimum_size: float, maximum_side: int) -> None:
    """Raises UserError where these make no sense for a `Detector`, without loading anything."""
    if not minimum_size >= _FIELD:
        raise UserError(f"minimum_size {minimum_size:g}: at least {_FIELD} pixels are needed")
    if maximum_side < minimum_size:
        raise UserError(
            f"maximum_side {maximum_side}: expected at least minimum_size, {minimum_size:g}"
        )


def _passes(indices, sizes):
    """Indices of pictures that go through the networks together, higher ones first.

    In the array of them, each takes the room of the highest and the widest one.
    """
    part, sides = [], np.zeros(2, int)
    for index in sorted(indices, key=lambda index: sizes[index], reverse=True):
        needed = np.maximum(sides, sizes[index])
        if part and (len(part) + 1) * needed.prod() > _PIXELS_PER_PASS:
            yield part
            part, needed = [], np.array(sizes[index])
        part.append(index)
        sides = needed
    if part:
        yield part


def _reduce(image, maximum_side):
    side = max(image.shape[:2])
    if side <= maximum_side:
        return image
    import cv2

    height, width = (max(1, round(length * maximum_side / side)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def enlarged(face: Detection, factor: np.ndarray) -> Detection:
    """A face of a reduced picture in pixels of the full one; `factor` [2] is full by reduced."""

    def place(points):
        return ((points + 0.5) * factor - 0.5).astype(np.float32)  # whole numbers: pixels' centres

    box = np.concatenate([place(face.box[:2]), face.box[2:] * factor]).astype(np.float32)
    return Detection(box, face.score, place(face.landmarks))


def nearest_first(detections: Sequence[Detection], point) -> list[Detection]:
    """Sorted by the distance of the box's centre from `point` (x, y); ties: higher score first.

    The first one is the face that a data set's annotation means: `point` is the centre of the
    annotated box where there is one, else the centre of the picture. On 480 pictures of MTFL this
    rule never chose another person than the annotated one, the largest face 4 times, the highest
    score 17 times.
    """
    return sorted(detections, key=lambda face: (np.hypot(*(face.centre - point)), -face.score))


def largest_first(detections: Iterable[Detection]) -> list[Detection]:
    """Sorted by the area of the box, the largest first; equally large ones stay in their order."""
    return sorted(detections, key=lambda face: -face.box[2:].prod())


def face_finder(thresholds: tuple[float, float, float] = THRESHOLDS):
    """The graph of MTCNN, made once for the same thresholds."""
    return _finder(tuple(thresholds))


@functools.cache
def _finder(thresholds):
    # Making the graph takes seconds: one per process, whatever the sizes asked for.
    from data_pipelines.detection.mtcnn_graph import FaceFinder

    return FaceFinder(thresholds)
