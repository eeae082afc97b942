"""Requests with drawn faces for every signature of an export: to warm it up and to try it."""

import dataclasses

import cv2
import numpy as np

from data_pipelines.synth.drawing import draw_face
from data_pipelines.tasks import CELEBA_ATTRIBUTES
from export.description import PHOTO_PIXELS


@dataclasses.dataclass(frozen=True)
class DrawnRequests:
    """A row of drawn faces of one size.

    Attributes:
        encoded: their JPEG files.
        pixels: uint8 `[N, H, W, 3]`, RGB.
        box: float32 `[N, 4]`, left, top, width, height in pixels.
        landmarks: float32 `[N, 5, 2]`, x, y in pixels.
    """

    encoded: list[bytes]
    pixels: np.ndarray
    box: np.ndarray
    landmarks: np.ndarray

    def inputs(self, signature: str) -> dict:
        """What a signature takes: name -> array, or list of bytes."""
        if signature in ("pixels", PHOTO_PIXELS):
            return {"pixels": self.pixels}
        given = {"image_bytes": self.encoded}
        if signature == "crop":
            given |= {"box": self.box, "landmarks": self.landmarks}
        return given


def draw_requests(
    count: int, *, seed: int = 0, size: tuple[int, int] = (218, 178)
) -> DrawnRequests:
    """Draws faces, the same ones for the same arguments.

    Args:
        count: how many.
        seed: which ones.
        size: height and width in pixels.
    """
    pictures, boxes, points = [], [], []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        chosen = dict(zip(CELEBA_ATTRIBUTES, rng.random(len(CELEBA_ATTRIBUTES)) < 0.5, strict=True))
        picture, landmarks, box = draw_face(rng, chosen, size=size)
        pictures.append(picture)
        boxes.append(box)
        points.append(landmarks)
    encoded = [cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes() for picture in pictures]
    return DrawnRequests(encoded, np.stack(pictures), np.stack(boxes), np.stack(points))
