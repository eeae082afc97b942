"""Faces made unrecognisable, and nothing else of a picture changed.

Of a face 4 x 4 mean colours of an enlarged box remain, drawn as one smooth patch; of a face of a
video those of one frame for as long as it is followed, since many frames of few colours each would
tell more. What is left is looked at again, with low thresholds, and whatever still passes for a
face is covered by one colour, until nothing does. It errs on the side of too much: what is no face
but might be one is covered as well.
"""

import math
from collections.abc import Iterable, Mapping

import cv2
import numpy as np

from data_pipelines.detection.mtcnn import Detector

THRESHOLDS = (0.5, 0.5, 0.5)
"""Of MTCNN, for what might be a face."""

MARGIN = 0.35
"""Of its width and height, by which a face's box is enlarged on each side."""

_CELLS = 4
_LOOKS = 8


class Anonymiser:
    """Covers the faces of pictures, or of one video.

    Args:
        detector: finds what might be a face, with `THRESHOLDS`.
        rotations: look for faces that lie on their side or on their head, too.
    """

    def __init__(self, detector: Detector, rotations: bool = False):
        """Begins with no face."""
        self._detector, self._quarters = detector, (0, 1, 2, 3) if rotations else (0,)
        self._colours: dict[int, np.ndarray] = {}

    def __call__(
        self,
        pixels: np.ndarray,
        boxes: Iterable[np.ndarray] = (),
        tracks: Mapping[int, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
        """A picture without faces, and what was covered.

        Args:
            pixels: uint8 RGB `[H, W, 3]`, left as it is.
            boxes: left, top, width, height `[4]` of faces that are known already.
            tracks: the same of a video's frame, by number of the track.

        Returns:
            uint8 RGB `[H, W, 3]`, and left, top, right, bottom of every part that was changed;
            right and bottom are the first ones behind it. All other pixels are equal.
        """
        covered, parts = pixels.copy(), []

        def cover(box, margin, colours=None):
            part = enlarged(box, margin, pixels.shape)
            if part is not None:
                left, top, right, bottom = part
                colours = mean_colours(pixels, part) if colours is None else colours
                covered[top:bottom, left:right] = patch(colours, right - left, bottom - top)
                parts.append(part)

        for box in boxes:
            cover(box, MARGIN)
        tracks = tracks or {}
        for number in set(self._colours) - set(tracks):
            del self._colours[number]
        for number, box in tracks.items():
            part = enlarged(box, MARGIN, pixels.shape)
            if part is not None and number not in self._colours:
                self._colours[number] = mean_colours(pixels, part)
            cover(box, MARGIN, self._colours.get(number))
        for look in range(_LOOKS):
            found = self._look(covered)
            if not found:
                return covered, parts
            for box in found:
                part = enlarged(box, MARGIN, pixels.shape)
                if part is not None:
                    cover(box, MARGIN * (1 + look), mean_colours(pixels, part, cells=1))
        covered[:] = np.rint(pixels.mean(axis=(0, 1)))
        return covered, [*parts, (0, 0, pixels.shape[1], pixels.shape[0])]

    def _look(self, pixels: np.ndarray) -> list[np.ndarray]:
        """Boxes `[4]` of what might be a face, whichever way it lies."""
        turned = (np.ascontiguousarray(np.rot90(pixels, -quarters)) for quarters in self._quarters)
        found = zip(self._quarters, self._detector(turned), strict=True)
        return [
            turned_back(face.box, quarters, pixels.shape)
            for quarters, faces in found
            for face in faces
        ]


def turned_back(box: np.ndarray, quarters: int, shape: tuple[int, ...]) -> np.ndarray:
    """A box of a picture that was turned clockwise, in the picture as it was before.

    Args:
        box: left, top, width, height in pixels.
        quarters: by how many quarters of a circle it was turned.
        shape: height and width before.
    """
    for step in reversed(range(quarters)):
        left, top, width, height = box
        box = np.array([top, shape[step % 2] - left - width, height, width])
    return box


def enlarged(
    box: np.ndarray, margin: float, shape: tuple[int, ...]
) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of whole pixels of an enlarged box within a picture.

    Args:
        box: left, top, width, height in pixels.
        margin: what is added on each side, as a share of width and height.
        shape: height and width of the picture.

    Returns:
        None where nothing of it lies in the picture. Right and bottom are not part of it.
    """
    left, top, width, height = map(float, box)
    if not all(map(math.isfinite, (left, top, width, height))):
        return None
    sides = (left, width, shape[1]), (top, height, shape[0])
    begin = [max(0, math.floor(first - margin * side)) for first, side, _ in sides]
    end = [min(all_, math.ceil(first + (1 + margin) * side)) for first, side, all_ in sides]
    return (*begin, *end) if begin[0] < end[0] and begin[1] < end[1] else None


def mean_colours(
    pixels: np.ndarray, part: tuple[int, int, int, int], cells: int = _CELLS
) -> np.ndarray:
    """Mean colours of a part of a picture, float32 `[cells, cells, 3]`."""
    left, top, right, bottom = part
    inside = pixels[top:bottom, left:right].astype(np.float32)
    if min(inside.shape[:2]) < cells:
        return inside.mean(axis=(0, 1), keepdims=True)
    return cv2.resize(inside, (cells, cells), interpolation=cv2.INTER_AREA).reshape(cells, cells, 3)


def patch(colours: np.ndarray, width: int, height: int) -> np.ndarray:
    """Colours `[n, n, 3]` drawn as a smooth patch, uint8 `[height, width, 3]`."""
    drawn = cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.rint(drawn).clip(0, 255).astype(np.uint8)
