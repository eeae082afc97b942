"""One picture in any of the forms in which Python programs hold one."""

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import encode, from_pillow, upright

_ARRAYS = "expected uint8 RGB of shape [H, W, 3], or grey of [H, W] or [H, W, 1]"
ACCEPTED = (
    "expected a file name, the bytes of an image file, a file opened for reading bytes, a PIL "
    f"image, an array or a tensor ({_ARRAYS.removeprefix('expected ')})"
)

Image = Any
"""A picture as `ACCEPTED` says; arrays and tensors are what NumPy takes without a copy from GPUs."""

NO_IMAGE = "not an image that can be decoded"

_BYTES = (bytes, bytearray, memoryview)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image file's name and its bytes, turned upright.

    Attributes:
        name: the file's name.
        content: bytes of an image file.
        quarters: by how many quarters of a circle it was turned clockwise beyond that.
        size: its width and height in pixels, where it was.
    """

    name: str
    content: bytes
    quarters: int = 0
    size: tuple[int, int] = (0, 0)

    def __str__(self):
        return self.name or "picture"

    def pixels(self) -> np.ndarray:
        """uint8 RGB `[H, W, 3]`, decoded by TensorFlow: OpenCV holds what it decodes twice."""
        import tensorflow as tf

        from data_pipelines.crop.image_headers import decode_exactly

        try:
            return np.asarray(decode_exactly(self.content))
        except tf.errors.InvalidArgumentError as error:
            raise UserError(f"{self}: {NO_IMAGE}") from error

    def turned(self, quarters: int) -> "Picture":
        """The same, turned clockwise by quarters of a circle."""
        pixels = np.rot90(self.pixels(), -quarters)
        size = pixels.shape[1::-1]
        return Picture(self.name, encode(np.ascontiguousarray(pixels)), quarters, size)

    def given_transform(self, transform: np.ndarray) -> np.ndarray:
        """A transform `[2, 3]` to its pixels as one to the pixels of what was turned."""
        if not self.quarters:
            return transform
        turn = self._turn
        return (turn[:, :2] @ transform + [[0, 0, x] for x in turn[:, 2]]).astype(np.float32)

    def given_place(self, box: np.ndarray, landmarks: np.ndarray) -> tuple:
        """A box `[4]` and points `[5, 2]` in its pixels in those of what was turned."""
        if not self.quarters:
            return box, landmarks
        turn, shift = self._turn[:, :2].T, self._turn[:, 2]
        # A box covers whole pixels: its corners are the centres of the first and the last one.
        corners = np.stack([box[:2], box[:2] + box[2:] - 1]) @ turn + shift
        box = np.concatenate([corners.min(axis=0), np.ptp(corners, axis=0) + 1])
        return box, landmarks @ turn + shift

    def own_place(self, box: np.ndarray, landmarks: np.ndarray) -> tuple:
        """The inverse of `given_place`: places in what was turned, in its own pixels."""
        if not self.quarters:
            return box, landmarks
        size = self.size[::-1] if self.quarters % 2 else self.size
        return Picture("", b"", 4 - self.quarters, size).given_place(box, landmarks)

    @property
    def _turn(self) -> np.ndarray:
        """The transform `[2, 3]` from its pixels (x, y, 1) to those of what was turned."""
        right, bottom = self.size[0] - 1.0, self.size[1] - 1.0
        by_quarters = {
            1: [[0.0, 1.0, 0.0], [-1.0, 0.0, right]],
            2: [[-1.0, 0.0, right], [0.0, -1.0, bottom]],
            3: [[0.0, -1.0, bottom], [1.0, 0.0, 0.0]],
        }
        return np.array(by_quarters[self.quarters])


def as_list(images: Image | Iterable[Image]) -> tuple[list[Image], bool]:
    """Pictures as a list, and whether it was one alone; an array of four dimensions is several."""
    if isinstance(images, (str, os.PathLike, *_BYTES)) or hasattr(images, "read"):
        return [images], True
    if _is_array(images) and len(images.shape) != 4:
        return [images], True
    if _is_pillow(images):
        return [images], True
    if isinstance(images, Iterable):
        return list(images), False
    raise UserError(f"picture of type {_type(images)}: {ACCEPTED}, or several of them")


def read_picture(image: Image, max_pixels: int) -> Picture:
    """A picture of any accepted form; orientation tags are applied.

    Args:
        image: see `ACCEPTED`.
        max_pixels: one that is larger by its header is refused before it is decoded.

    Raises:
        UserError: it is of no accepted type, a file is missing, or it does not decode.
    """
    if _is_pillow(image):
        return _from_pillow(image, max_pixels)
    if _is_array(image):
        return Picture("", encode(_pixels(image)))
    name, content = _content(image)
    try:
        return Picture(name, upright(content, max_pixels))
    except UserError as error:
        raise UserError(f"{name or 'picture'}: {error}") from error


def _content(image: Image) -> tuple[str, bytes]:
    if isinstance(image, _BYTES):
        return "", bytes(image)
    if isinstance(image, (str, os.PathLike)):
        try:
            return str(image), local(image).read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or str(error)
            shown = str(image).replace("\0", "\\0")
            raise UserError(f"{shown}: {reason.lower()}") from error
    if not hasattr(image, "read"):
        raise UserError(f"picture of type {_type(image)}: {ACCEPTED}")
    name = getattr(image, "name", "")
    content = image.read()
    if not isinstance(content, bytes):
        raise UserError(f"{name or 'file'}: it was opened for reading text: {ACCEPTED}")
    return name if isinstance(name, str) else "", content


def _from_pillow(image, max_pixels: int) -> Picture:
    name = getattr(image, "filename", "")
    width, height = image.size
    if width * height > max_pixels:
        raise UserError(
            f"{name or 'picture'}: {width:,} x {height:,} pixels, more than --max_pixels={max_pixels}"
        )
    try:
        return Picture(name, encode(from_pillow(image)))
    except (OSError, ValueError) as error:
        raise UserError(f"{name or 'picture'}: {error}") from error


def _pixels(image) -> np.ndarray:
    try:
        pixels = np.asarray(image)
    except (TypeError, RuntimeError) as error:  # tensors of a GPU or of a graph, or with gradients
        raise UserError(f"picture of type {_type(image)}: {error}") from error
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    fits = pixels.ndim == 3 and pixels.shape[2] in (1, 3) and pixels.size
    if pixels.dtype != np.uint8 or not fits:
        raise UserError(f"picture of shape {list(image.shape)} and type {pixels.dtype}: {_ARRAYS}")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def _is_array(image) -> bool:
    return hasattr(image, "__array__") and hasattr(image, "shape")


def _is_pillow(image) -> bool:
    from PIL import Image as pillow

    return isinstance(image, pillow.Image)


def _type(image) -> str:
    return type(image).__name__
