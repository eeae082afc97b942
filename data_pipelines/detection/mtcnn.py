"""Faces in pictures: MTCNN (Zhang et al., IEEE Signal Processing Letters 2016), ready to use.

The networks are those of the `mtcnn` package, whose weights come inside the package: no network
connection is needed.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import check_keras

MINIMUM_SIZE = 20
MAXIMUM_SIDE = 2048
_PIXELS_PER_PASS = 8_000_000  # bounds the memory whatever the size of the pictures
_CELL = 12  # pixels that the proposal network sees of a face
_PYRAMID_STEP = 0.709


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

    Pictures of equal size run as one batch, so that what is found in a picture does not depend on
    the pictures beside it (the package would pad them to a common size).

    Time and memory of a picture grow with its area, therefore faces of a larger one than
    `maximum_side` are looked for in a reduced copy. What is found is given in the picture's own
    pixels.

    Args:
        minimum_size: side in pixels of the smallest face that is looked for, roughly. The time
            per picture falls with its square; the networks themselves need at least 12. In a
            reduced picture it counts after the reduction: in one of 4,096 pixels at the default,
            faces from 40 of its own pixels on are found.
        maximum_side: width or height in pixels above which a picture is reduced.
    """

    def __init__(self, minimum_size: float = MINIMUM_SIZE, maximum_side: int = MAXIMUM_SIDE):
        """Loads the networks, which takes seconds the first time in a process."""
        if not minimum_size >= _CELL:
            raise UserError(f"minimum_size {minimum_size}: at least {_CELL} pixels are needed")
        if maximum_side < minimum_size:
            raise UserError(
                f"maximum_side {maximum_side}: expected at least minimum_size, {minimum_size}"
            )
        check_keras()
        self._minimum_size = minimum_size
        self._maximum_side = maximum_side
        self._network = _network()

    def __call__(self, images: Iterable[np.ndarray]) -> list[list[Detection]]:
        """The faces of each picture, the one nearest to the picture's centre first.

        Args:
            images: `uint8 [H, W, 3]`, RGB, of any sizes; of a generator's, one at a time is held
                in its full size.
        """
        sizes, reduced, by_size = [], [], collections.defaultdict(list)
        for image in images:
            sizes.append(image.shape[1::-1])
            reduced.append(_reduce(image, self._maximum_side))
            by_size[reduced[-1].shape[:2]].append(len(reduced) - 1)
            del image  # before the next one is made
        found = [[] for _ in reduced]
        for (height, width), indices in by_size.items():
            if min(height, width) < self._minimum_size:
                continue
            count = max(1, _PIXELS_PER_PASS // (height * width))
            for part in (indices[i : i + count] for i in range(0, len(indices), count)):
                faces = self._faces([reduced[i] for i in part])
                for index, detections in zip(part, faces, strict=True):
                    size = np.array(sizes[index], np.float32)
                    own = [_enlarge(face, size / (width, height)) for face in detections]
                    found[index] = nearest_first(own, (size - 1) / 2)
        return found

    def _faces(self, images):
        rows = self._network.detect_faces(
            [image.astype(np.float32) for image in images],
            min_face_size=self._minimum_size,
            fit_to_image=False,
            output_type="numpy",
        )
        return [
            [
                Detection(
                    np.array(row[1:5], np.float32),
                    float(row[5]),
                    np.stack([row[6:11], row[11:16]], axis=1).astype(np.float32),
                )
                for row in rows[rows[:, 0] == index]
            ]
            for index in range(len(images))
        ]


def _reduce(image, maximum_side):
    side = max(image.shape[:2])
    if side <= maximum_side:
        return image
    import cv2

    height, width = (max(1, round(length * maximum_side / side)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _enlarge(face: Detection, factor: np.ndarray) -> Detection:
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


@functools.cache
def _network():
    # Loading takes seconds: one per process, whatever the sizes asked for.
    import mtcnn
    from mtcnn.stages import StageONet, StagePNet, StageRNet
    from mtcnn.utils.bboxes import (
        generate_bounding_box,
        resize_to_square,
        smart_nms_from_bboxes,
        upscale_bboxes,
    )
    from mtcnn.utils.images import scale_images

    class Proposals(StagePNet):
        """The package's first stage with a pyramid that stops where faces get too small for it.

        The package's own goes on below the network's field of view when `min_face_size` is above
        20, fails, and reports that there are no faces.
        """

        def __call__(self, images_normalized, min_face_size, **_):
            sides = images_normalized.shape[1:3]
            found = [np.empty((0, 6))]
            scale = _CELL / min_face_size
            while min(sides) * scale >= _CELL:
                offsets, scores = self.model(scale_images(images_normalized, scale))
                cells = generate_bounding_box(offsets, scores, 0.6)
                cells = upscale_bboxes(cells, np.full(len(images_normalized), scale))
                found.append(smart_nms_from_bboxes(cells, threshold=0.5, initial_sort=False))
                scale *= _PYRAMID_STEP
            return resize_to_square(smart_nms_from_bboxes(np.concatenate(found), threshold=0.7))

    # By default the package prefers, and unpickles, a file of that name in the current folder.
    weights = pathlib.Path(mtcnn.__file__).parent / "assets" / "weights"
    stages = ((Proposals, "pnet"), (StageRNet, "rnet"), (StageONet, "onet"))
    return mtcnn.MTCNN(stages=[stage(weights=str(weights / f"{n}.lz4")) for stage, n in stages])
