"""Canvases: pictures of faces pasted into other pictures, for what looks for faces by itself.

A network that learns to find faces from tags of whole pictures would learn the seams of pasting,
if only faces had seams. So edges are soft, and pieces of other pictures are pasted in the same way.
"""

import dataclasses
import math
from collections.abc import Sequence

import cv2
import numpy as np

from data_pipelines.errors import UserError

_ATTEMPTS = 30  # at a place that is still free before what is to be placed gets smaller
_SHRINK = 0.9


@dataclasses.dataclass(frozen=True)
class Canvas:
    """How canvases look.

    Attributes:
        height: of the canvas, in pixels.
        width: of the canvas, in pixels.
        smallest: longer side of the smallest picture pasted, as a share of the canvas's shorter
            side; sizes are drawn evenly on a logarithmic scale.
        largest: the same of the largest one.
        distractors: greatest number of pieces of other pictures that are pasted below the faces.
        textures: share of the backgrounds and pieces that are drawn: colours that run into each
            other, with noise from coarse to fine.
        feather: greatest width of the soft edge, as a share of the shorter side of what is pasted.
    """

    height: int = 227
    width: int = 227
    smallest: float = 0.3
    largest: float = 0.8
    distractors: int = 2
    textures: float = 0.2
    feather: float = 0.2

    def check(self) -> None:
        """Raises UserError if a value makes no sense."""
        if min(self.height, self.width) < 32:
            raise UserError(
                f"canvases of {self.height}x{self.width} pixels; expected at least 32x32"
            )
        if not 0 < self.smallest <= self.largest <= 1:
            raise UserError(
                f"pasted pictures of {self.smallest} to {self.largest} of the canvas; expected "
                "shares above 0, the smaller one first, up to 1"
            )
        if self.distractors < 0:
            raise UserError(f"{self.distractors} distractors; expected 0 or more")
        for name, highest in (("textures", 1.0), ("feather", 0.5)):
            if not 0 <= (value := getattr(self, name)) <= highest:
                raise UserError(f"{name} {value}; expected a share from 0 to {highest}")


def draw_canvas(
    rng: np.random.Generator,
    faces: Sequence[np.ndarray],
    pictures: Sequence[np.ndarray],
    settings: Canvas,
) -> tuple[np.ndarray, np.ndarray]:
    """One canvas: a background, pieces of pictures, and the faces, which do not cover each other.

    Args:
        rng: decides everything that is random.
        faces: uint8 RGB `[h, w, 3]`, of any sizes.
        pictures: the background, and behind it those of which pieces are pasted.
        settings: how it looks.

    Returns:
        The canvas uint8 RGB `[H, W, 3]`, and where the faces lie on it, float32 `[n, 4]`: left,
        top, width and height in pixels.
    """
    size = (settings.height, settings.width)
    background, *others = [
        _texture(rng, size) if rng.uniform() < settings.textures else picture
        for picture in pictures
    ]
    canvas = _window(rng, background, size).astype(np.float32)
    for picture in others:
        share = rng.uniform(0.7, 1.4)  # height to width
        sides = _fit(rng, (math.sqrt(share), 1 / math.sqrt(share)), settings)
        _blend(rng, canvas, _window(rng, picture, sides), _place(rng, sides, size), settings)
    taken: list[tuple[int, int, int, int]] = []
    for face in faces:
        sides = _fit(rng, face.shape[:2], settings)
        for attempt in range(_ATTEMPTS * 100):
            if attempt and attempt % _ATTEMPTS == 0:
                sides = tuple(max(1, round(_SHRINK * side)) for side in sides)
            top, left = _place(rng, sides, size)
            if not any(_overlap((top, left, *sides), other) for other in taken):
                break
        taken.append((top, left, *sides))
        shrinks = sides[0] < face.shape[0]
        resized = cv2.resize(
            face, sides[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        )
        _blend(rng, canvas, resized, (top, left), settings)
    boxes = [(left, top, width, height) for top, left, height, width in taken]
    return canvas.round().astype(np.uint8), np.reshape(np.float32(boxes), (-1, 4))


def _fit(rng, shape, settings) -> tuple[int, int]:
    """Height and width of something of this shape at a random size that fits on the canvas."""
    sizes = np.log([settings.smallest, settings.largest])
    longer = math.exp(rng.uniform(*sizes)) * min(settings.height, settings.width)
    return tuple(max(1, round(side * longer / max(shape))) for side in shape)


def _place(rng, sides, size) -> tuple[int, int]:
    """Top and left of a window that lies within the canvas."""
    return tuple(
        int(rng.integers(whole - side + 1)) for side, whole in zip(sides, size, strict=True)
    )


def _overlap(first, second) -> bool:
    return all(
        first[axis] < second[axis] + second[axis + 2]
        and second[axis] < first[axis] + first[axis + 2]
        for axis in (0, 1)
    )


def _window(rng, picture, sides) -> np.ndarray:
    """A random window of a picture, enlarged or reduced to these sides, mirrored every other time."""
    cover = min(extent / side for extent, side in zip(picture.shape, sides, strict=False))
    step = cover * rng.uniform(0.5, 1.0)
    spans = [max(1, round(step * side)) for side in sides]
    top, left = _place(rng, spans, picture.shape[:2])
    window = picture[top : top + spans[0], left : left + spans[1], :: rng.choice([-1, 1])]
    smooth = cv2.INTER_AREA if step > 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(window), sides[::-1], interpolation=smooth)


def _texture(rng, size) -> np.ndarray:
    """Noise in octaves about a random colour, some of it nearly plain, some rough."""
    picture = np.tile(rng.uniform(0, 255, 3), (*size, 1))
    roughness = rng.uniform(0.3, 1.2)
    cells = 2
    while cells < max(size):
        strength = rng.uniform(0, 90) * (cells / 2) ** -roughness
        noise = rng.normal(0, strength, (cells, cells, 3))
        picture += cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
        cells *= 2
    return picture.clip(0, 255).astype(np.uint8)


def _blend(rng, canvas, picture, place, settings) -> None:
    """Pastes a picture with soft edges; the canvas is float32 and is changed."""
    height, width = picture.shape[:2]
    edge = max(1e-6, rng.uniform(0, settings.feather) * min(height, width))
    ramps = []
    for side in (height, width):
        pixels = np.arange(side)
        nearest = np.minimum(pixels, side - 1 - pixels) + 0.5
        ramp = (nearest / edge).clip(0, 1)
        ramps.append(ramp * ramp * (3 - 2 * ramp))
    alpha = np.outer(*ramps).astype(np.float32)[..., None]
    region = canvas[place[0] : place[0] + height, place[1] : place[1] + width]
    region += alpha * (picture - region)
