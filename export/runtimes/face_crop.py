# SPDX-License-Identifier: Apache-2.0
"""The crop that an exported network sees, with NumPy and OpenCV alone.

    import json, face_crop
    crop = json.load(open("faceattr.json"))["crop"]
    crops, transform = face_crop.crop_file(open("face.jpg", "rb").read(), crop, box=(40, 30, 90, 90))
    # crops: float32 [1, height, width, 3], RGB in 0..255, the input `crops` of the network

This file is copied next to every exported network and needs nothing else of the project that wrote
it. Pixels: the centre of the first one is (0, 0), x points right and y down. A transform `[2, 3]`
maps a pixel (x, y, 1) of the crop to a pixel of the image.
"""

import cv2
import numpy as np

TEMPLATE = (
    (0.3427, 0.4607),
    (0.6573, 0.4607),
    (0.5000, 0.6405),
    (0.3697, 0.8240),
    (0.6303, 0.8240),
)
"""Where `align` and `affine` put the five landmarks in a unit square, without margin, vertical."""

_REDUCED = {
    1: cv2.IMREAD_REDUCED_COLOR_2,
    2: cv2.IMREAD_REDUCED_COLOR_4,
    3: cv2.IMREAD_REDUCED_COLOR_8,
}


def crop_file(data: bytes, crop: dict, box=None, landmarks=None):
    """Decodes a file (JPEG, PNG and what else OpenCV reads) and crops it.

    The image is turned upright by its orientation tag first; box and landmarks are those of the
    upright image. A JPEG that is larger than needed is decoded at a half, a quarter or an eighth
    of its size, as in the SavedModel, which decodes a JPEG by the library's faster method and
    OpenCV by the exact one: at full size pixels differ by one level on average and single ones by
    a dozen, at half size by up to four. All else is the same.

    Args:
        data: the file's bytes.
        crop: the entry `crop` of faceattr.json.
        box: left, top, width, height of the face in pixels; None where unknown.
        landmarks: `[5, 2]` x, y of both eyes, the nose and both corners of the mouth (the left one
            of the image first) in pixels; None where unknown.

    Returns:
        float32 `[1, height, width, 3]`, RGB in 0..255, and the transform float32 `[2, 3]`.

    Raises:
        ValueError: the file cannot be decoded, or the face lies far outside of the image.
    """
    pixels = _decode(data, cv2.IMREAD_COLOR)
    placed = _place(crop, pixels.shape[:2], box, landmarks)
    halvings = placed[1]
    if data[:3] == b"\xff\xd8\xff" and halvings in _REDUCED:
        pixels = _decode(data, _REDUCED[halvings])
    else:
        pixels = _halved(pixels, halvings)
    return _sample(pixels, crop, placed), placed[0]


def crop_image(pixels: np.ndarray, crop: dict, box=None, landmarks=None):
    """Crops an image that is decoded already.

    Args:
        pixels: uint8 `[H, W, 3]`, RGB, upright.
        crop: the entry `crop` of faceattr.json.
        box, landmarks: as of `crop_file`.

    Returns:
        float32 `[1, height, width, 3]`, RGB in 0..255, and the transform float32 `[2, 3]`.

    Raises:
        ValueError: the image is of another type or shape, or the face lies far outside of it.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected uint8 [H, W, 3], found {pixels.dtype} {list(pixels.shape)}")
    placed = _place(crop, pixels.shape[:2], box, landmarks)
    return _sample(_halved(pixels, placed[1]), crop, placed), placed[0]


def points_in_image(points: np.ndarray, transform: np.ndarray, crop: dict) -> np.ndarray:
    """Points that a network gave, `[..., 2]` from -1 to 1 over the crop, in pixels of the image."""
    size = np.array([crop["width"], crop["height"]], np.float32)
    inside = ((points + 1) * size - 1) / 2
    return inside @ transform[:, :2].T + transform[:, 2]


def crop_transform(crop: dict, size, box=None, landmarks=None) -> np.ndarray:
    """The transform float32 `[2, 3]` from pixels of the crop to pixels of the image.

    Args:
        crop: the entry `crop` of faceattr.json.
        size: height and width of the image.
        box, landmarks: as of `crop_file`.
    """
    kind = crop["kind"]
    height, width = np.float32(size[0]), np.float32(size[1])
    box = _array(box, [4])
    landmarks = _array(landmarks, [5, 2])
    with np.errstate(all="ignore"):  # what is not known is NaN, and is not taken
        step = min(height / np.float32(crop["height"]), width / np.float32(crop["width"]))
        window = _similarity(step, 0, (width - 1) / 2, (height - 1) / 2)
        candidates = []
        if kind != "none":
            candidates.append(_of_box(crop, box, landmarks))
        if kind == "nose":
            step = np.float32(crop["window"] / min(crop["height"], crop["width"]))
            candidates.append(_similarity(step, 0, *landmarks[2]))
        if kind in ("align", "affine"):
            candidates.append(_aligned(crop, landmarks))
        if kind == "affine":
            candidates.append(_affine(crop, landmarks))
        for candidate in candidates:  # the last one that is known
            if candidate is not None and np.isfinite(candidate).all():
                window = candidate
    middle_x, middle_y = (crop["width"] - 1) / 2, (crop["height"] - 1) / 2
    shift = window[:, 2] - window[:, 0] * middle_x - window[:, 1] * middle_y
    return np.concatenate([window[:, :2], shift[:, None]], axis=1)


def _of_box(crop, box, landmarks):
    """Window of the box, or of the landmarks' bounding square; None where there is neither."""
    if not (np.isfinite(box).all() and (box[2:] > 0).all()):
        low, high = landmarks.min(axis=0), landmarks.max(axis=0)
        side = (high - low).max()
        box = np.concatenate([(low + high - side + 1) / 2, [side, side]]).astype(np.float32)
        if not (np.isfinite(landmarks).all() and side > 0):
            return None
    longer = box[2:].max()
    if crop["kind"] == "window":
        longer = np.float32(crop["window"])
        step = longer * ((1 + 2 * crop["margin"]) / min(crop["height"], crop["width"]))
    else:
        added = 2 * crop["margin"] * longer
        step = max((box[2] + added) / crop["width"], (box[3] + added) / crop["height"])
    x = box[0] + (box[2] - 1) / 2
    y = box[1] + (box[3] - 1) / 2 + crop["vertical"] * longer
    return _similarity(step, 0, x, y)


def _aligned(crop, landmarks):
    """The similarity that fits the landmarks best to the template; None for a single point."""
    template, template_mean = _template(crop)
    mean = landmarks.mean(axis=0)
    points = landmarks - mean
    spread = np.square(points).sum()
    if not spread > 0:
        return None
    cosine = (points * template).sum() / spread
    sine = (points[:, 0] * template[:, 1] - points[:, 1] * template[:, 0]).sum() / spread
    square = cosine * cosine + sine * sine
    a, b = cosine / square, -sine / square
    x = mean[0] - a * template_mean[0] + b * template_mean[1]
    y = mean[1] - b * template_mean[0] - a * template_mean[1]
    return _similarity(a, b, x, y)


def _affine(crop, landmarks):
    """The affine transform that fits the template best to the landmarks; None for no face."""
    template, template_mean = _template(crop, np.float64)
    fit = np.linalg.pinv(template).astype(np.float32)
    mean = landmarks.mean(axis=0)
    linear = np.einsum("ni,jn->ij", landmarks - mean, fit)
    shift = mean - linear @ template_mean.astype(np.float32)
    determinant = linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]
    # A mirror image, or a face from so far aside that it is a line, is not stretched.
    if not 2 * determinant / np.square(linear).sum() > 0.1:
        return None
    return np.concatenate([linear, shift[:, None]], axis=1)


def _template(crop, dtype=np.float32):
    """`TEMPLATE` in pixels from the crop's centre: about its mean, and its mean."""
    shown = min(crop["height"], crop["width"]) / (1 + 2 * crop["margin"])
    points = (np.array(TEMPLATE) - [0.5, 0.5 + crop["vertical"]]) * shown
    mean = points.mean(axis=0)
    return (points - mean).astype(dtype), mean.astype(dtype)


def _similarity(a, b, x, y):
    return np.array([[a, -b, x], [b, a, y]], np.float32)


def _array(values, shape):
    if values is None:
        return np.full(shape, np.nan, np.float32)
    return np.asarray(values, np.float32).reshape(shape)


def _place(crop, size, box, landmarks):
    """The transform, how often the image is halved, and what is seen of the halved image.

    That is the transform from the crop to a window of it, and the window's first and last pixel,
    row before column.
    """
    transform = crop_transform(crop, size, box, landmarks)
    if not (np.abs(transform) < 2.0**20).all():  # float32 cannot tell neighbouring pixels apart
        raise ValueError("box or landmarks lie too far from the image")
    size = np.asarray(size)
    scale = np.linalg.norm(transform[:, :2], axis=0).min()
    halvings = int(np.log(max(scale, np.float32(1))) / np.log(np.float32(2)) + np.float32(1e-4))
    block = 1 << halvings
    limits = -(-size // block) - 1
    half = np.array([0, 0, 0.5], np.float32)
    halved = (transform + half) / np.float32(block) - half
    right, bottom = crop["width"] - 1, crop["height"] - 1
    ends = np.array([[x, y, 1] for x in (0, right) for y in (0, bottom)], np.float32)
    corners = ends @ halved.T
    first = np.floor(corners.min(axis=0)).astype(np.int64)[::-1]
    last = np.floor(corners.max(axis=0)).astype(np.int64)[::-1] + 1
    first, last = np.clip(first, 0, limits), np.clip(last, 0, limits)
    if np.prod(last - first + 1) * 2 > np.prod(limits + 1):
        first, last = np.zeros_like(limits), limits
    # Positions count from the window's corner, which rounds as in the SavedModel.
    halved[:, 2] -= first[::-1].astype(np.float32)
    return transform, halvings, halved, first, last


def _halved(image, times):
    """An image whose sides were halved so many times: means of blocks, rounded to whole levels."""
    if not times:
        return image
    block = 1 << times
    more = [(0, -length % block) for length in image.shape[:2]]
    image = np.pad(image, [*more, (0, 0)], mode="edge")
    height, width = (length // block for length in image.shape[:2])
    sums = image.reshape(height, block, width, block, 3).sum(axis=(1, 3), dtype=np.float32)
    return np.rint(sums / np.float32(block * block)).astype(np.uint8)


def _sample(image, crop, placed):
    """Bilinear interpolation, float32 `[1, height, width, 3]`; edge pixels go on outside."""
    local, first, last = placed[2:]
    image = image[first[0] : last[0] + 1, first[1] : last[1] + 1]
    column = np.arange(crop["width"], dtype=np.float32)
    row = np.arange(crop["height"], dtype=np.float32)[:, None]

    def neighbours(axis, length):
        a, b, c = local[axis]
        position = a * column + b * row + c
        below = np.floor(position)
        index = below.astype(np.int64)
        low, high = np.clip(index, 0, length - 1), np.clip(index + 1, 0, length - 1)
        return low, high, (position - below)[..., None]

    left, right, to_right = neighbours(0, image.shape[1])
    top, bottom, to_bottom = neighbours(1, image.shape[0])
    image = image.astype(np.float32)

    def between(line):
        first, second = image[line, left], image[line, right]
        return first + (second - first) * to_right

    upper = between(top)
    return (upper + (between(bottom) - upper) * to_bottom)[None]


def _decode(data, flags):
    """The pixels of a file, uint8 `[H, W, 3]`, RGB."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ValueError("not an image that OpenCV can decode")
    return np.ascontiguousarray(pixels[..., ::-1])
