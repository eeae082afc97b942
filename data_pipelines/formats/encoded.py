"""Encoded pictures: which are read, how large they may be, and which way is up.

Decoders disagree: OpenCV applies orientation tags and TensorFlow ignores them, TensorFlow gives a
BMP's palette indices for its colours, each reads formats that the others do not. One rule for
readers, detection, prediction and clients therefore makes of every picture what all of them see
alike: an upright JPEG or PNG. Format, size and orientation are read from the header, by Pillow,
before anything is decoded.

Transparency all of them ignore: of every pixel the stored colour counts, however little of it is to
be seen, so that what programs leave below what they cut out, often black, is part of the picture.
"""

import dataclasses
import functools
import io
import struct
import warnings

import numpy as np

from data_pipelines.errors import UserError

ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    ".png": "PNG",
    ".gif": "GIF",
    ".bmp": "BMP",
    ".webp": "WEBP",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
    ".avif": "AVIF",
}
"""Endings of pictures, in any case, and Pillow's name of their format."""

MAX_PIXELS = 120_000_000
"""Largest product of width and height that is decoded unless a command is told otherwise."""

_UNCHANGED = {("JPEG", "RGB"), ("JPEG", "L"), ("MPO", "RGB"), ("MPO", "L")}
"""Formats and modes that all decoders read alike; PNG is one of them in every mode."""

_BY_PILLOW = {"GIF", "TIFF", "HEIF", "AVIF"}
_ORIENTATION = 0x0112
# What Pillow raises depends on what is damaged.
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error, OverflowError)


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of an encoded picture says.

    Attributes:
        format: Pillow's name of the file format: JPEG, MPO (JPEG with further pictures), PNG, ...
        mode: Pillow's name of the pixels' layout: RGB, L, P, CMYK, ...
        width, height: in pixels as they are stored.
        orientation: 1 (upright, also where there is no tag or one that makes no sense) to 8.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int

    @property
    def plain(self) -> bool:
        """Whether all decoders give the same upright picture."""
        known = self.format == "PNG" or (self.format, self.mode) in _UNCHANGED
        return known and self.orientation == 1


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read; HEIF is one where pillow-heif is installed."""
    from PIL import Image, features

    # Size is judged here, by the caller's limit; of damaged tags only the orientation matters.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", module=r"PIL\.")
    known = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"]
    if features.check("avif"):
        known.append("AVIF")
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
        known.append("HEIF")
    return tuple(known)


def readable(name: str) -> bool:
    """Whether a file of this name counts as a picture, by its ending."""
    return ENDINGS.get(_ending(name)) in formats()


def unread(name: str) -> str:
    """What a file is counted as that is not `readable`: its ending, and what would read it."""
    ending = _ending(name)
    needs = " (pip install 'faceattr_tf[heif]' reads them)" if ending in ENDINGS else ""
    return f"files that end in {ending}{needs}" if ending else "files without an ending"


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return dot + ending.lower() if stem else ""


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of an encoded picture; nothing is decoded.

    Raises:
        UserError: it is of no format that is read, or larger than `max_pixels`.
    """
    with _opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UserError(
                f"{width:,} x {height:,} pixels by its header, more than --max_pixels={max_pixels}"
            )
        return Header(image.format, image.mode, width, height, _orientation(image, data))


def _opened(data: bytes):
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=formats())
    except Image.DecompressionBombError:
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UserError(f"more than {limit:,} pixels by its header, which is too large") from None
    except (UnidentifiedImageError, *_DAMAGED):
        start = f"it begins with {data[:8]!r}" if data else "it is empty"
        raise UserError(
            f"not an image of a format that is read ({', '.join(formats())}); {start}"
        ) from None


def _orientation(image, data: bytes) -> int:
    # To look for a tag behind the pixels, Pillow decodes all of a PNG.
    if image.format == "PNG" and b"eXIf" not in data and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION)
    except _DAMAGED:  # Viewers ignore what makes no sense.
        return 1
    return value if value in range(1, 9) else 1


def upright(data: bytes, max_pixels: int = MAX_PIXELS, *, lossy: bool = False) -> bytes:
    """The picture as a JPEG or PNG that all decoders see alike and upright.

    Bytes of a picture that is so already are returned as they are; others are decoded, turned, and
    encoded again.

    Args:
        data: an encoded picture.
        max_pixels: largest product of width and height that is decoded.
        lossy: encode what has to be encoded as a JPEG of high quality; without, as PNG, which loses
            nothing.

    Raises:
        UserError: it is of no format that is read, too large, or does not decode.
    """
    header = read_header(data, max_pixels)
    return data if header.plain else encode(_decode(data, header), lossy=lossy)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The upright picture as uint8 RGB `[H, W, 3]`.

    Raises:
        UserError: see `upright`.
    """
    return _decode(data, read_header(data, max_pixels))


def encode(pixels: np.ndarray, *, lossy: bool = False) -> bytes:
    """uint8 RGB `[H, W, 3]` as PNG, or as a JPEG of high quality."""
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if lossy else []
    return cv2.imencode(".jpg" if lossy else ".png", pixels[..., ::-1], options)[1].tobytes()


def _decode(data: bytes, header: Header) -> np.ndarray:
    import cv2

    try:
        if header.format in _BY_PILLOW or header.mode == "CMYK":
            return _by_pillow(data)
        else:
            flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            if pixels is None:
                raise ValueError("OpenCV gives None for what it cannot decode")
            return np.ascontiguousarray(_turned(pixels, header.orientation))
    except (cv2.error, *_DAMAGED) as error:
        raise UserError(f"not an image that can be decoded ({header.format})") from error


def _by_pillow(data: bytes) -> np.ndarray:
    with _opened(data) as image:
        return from_pillow(image)


def from_pillow(image) -> np.ndarray:
    """A PIL image, turned upright by its tag, as uint8 RGB `[H, W, 3]`.

    Raises:
        ValueError: its pixels are of a type without a range.
        OSError: it is read from a file, which is damaged.
    """
    from PIL import Image, ImageOps

    # Pillow turns some formats as it decodes them, and then says so.
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # it would not be scaled
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no range")
    return np.asarray(image.convert("RGB"))


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels as they are to be seen (EXIF 2.32, tag 0x0112)."""
    if orientation >= 5:  # rows are columns
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
