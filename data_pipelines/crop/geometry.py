"""Where a crop lies in its picture: one affine transform per image, and points through it.

Pixels: the centre of the first pixel is (0, 0), x points right and y down, so an image of width W
covers [-0.5, W - 0.5]. A transform `[B, 2, 3]` maps a pixel (x, y, 1) of the crop (the output) to a
pixel of the source image (the input). Normalised coordinates span the crop from -1 at its left and
upper border to +1 at its right and lower border.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.errors import UserError

KINDS = ("none", "box", "window", "nose", "align", "affine")

TEMPLATE = (
    (0.3427, 0.4607),
    (0.6573, 0.4607),
    (0.5000, 0.6405),
    (0.3697, 0.8240),
    (0.6303, 0.8240),
)
"""Where `align` and `affine` put the five landmarks in a unit square, without `margin`, `vertical`.

A choice: the positions that face recognition has used since SphereFace and ArcFace (given there for
a crop of 112x112), made symmetric, so that the crop of a mirrored picture is the mirrored crop.
"""


@dataclasses.dataclass
class Crop:
    """What part of a picture the network sees, stored with every model.

    Every kind but `affine` scales both axes alike, and only `align` and `affine` rotate. Where a
    record lacks what its kind needs, `affine` falls back to `align`, `nose` and `align` to `box`,
    `box` and `window` to `none`.

    Attributes:
        kind: `none`: the largest centred window of the output's shape, that is, the shorter side
            resized and the centre kept. `box`: the face's box, or, where there is none, the
            bounding square of its landmarks, grown to the output's shape. `window`: a window of
            fixed size around the centre of the same (FaceSTN, section III.B). `nose`: one around
            the nose (KTH-MTFL, section 3.1). `align`: the similarity transform (rotation, scale,
            shift) that fits the five landmarks best to `TEMPLATE`. `affine`: the affine transform
            that does (FaceSTN, section III.C), where it neither mirrors nor flattens the face.
        height: height of the crop given to the network, in pixels.
        width: its width.
        margin: what all but `none` and `nose` add on every side, as a share of the longer side of
            the box, of the window, or of the template's square; negative for a tighter crop, above
            -0.5.
        vertical: how far the same move their window down, as a share of the same side: 0.1 brings
            the chin into an aligned crop, -0.1 the hair.
        window: what the crop's shorter side spans of the source image with `nose` and `window`, in
            pixels. 0 (`window` only) stands for the records' mean box, which has to be put in its
            place before pictures are cropped (`RecordSet.mean_box`).
    """

    kind: str = "none"
    height: int = 64
    width: int = 64
    margin: float = 0.0
    vertical: float = 0.0
    window: float = 150.0

    def check(self, resolved: bool = False) -> None:
        """Raises UserError if a value makes no sense (fields can change after construction).

        Args:
            resolved: whether a window that is still to be found in the records is a mistake, too.
        """
        if self.kind not in KINDS:
            raise UserError(f"crop: kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.height < 1 or self.width < 1:
            raise UserError(
                f"crop: height {self.height} and width {self.width} must be 1 pixel or more"
            )
        if not (-0.5 < self.margin < math.inf):
            raise UserError(f"crop: margin {self.margin} must be above -0.5 (the whole face)")
        if not math.isfinite(self.vertical):
            raise UserError(f"crop: vertical {self.vertical} must be a number")
        if self.kind == "window" and self.window == 0:
            if resolved:
                raise UserError(
                    "crop: window 0 stands for the mean box of records; give its size in pixels"
                )
        elif not (0 < self.window < math.inf):
            raise UserError(f"crop: window {self.window} must be above 0 pixels")

    def to_dict(self) -> dict:
        """A JSON-ready description, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "Crop":
        """The crop that `to_dict` described.

        Raises:
            UserError: a field is unknown, or a value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in fields:
            if name not in known:
                raise UserError(f"crop: no field {name!r}; it has: {', '.join(known)}")
        crop = cls(**fields)
        crop.check()
        return crop


def crop_transform(crop: Crop, image_size, box, landmarks):
    """The transform from crop pixels to source pixels, in TensorFlow (graph or eager).

    Args:
        crop: which part of the picture is wanted.
        image_size: `[B, 2]` height and width of the source images.
        box: `[B, 4]` left, top, width and height of the face in pixels: the pixels from `left` to
            `left + width - 1`. NaN where unknown.
        landmarks: `[B, 5, 2]` x, y in source pixels, in the order of `tasks.LANDMARK_NAMES`; NaN
            where unknown.

    Returns:
        float32 `[B, 2, 3]`, always finite.
    """
    import tensorflow as tf

    crop.check(resolved=True)
    height, width = float(crop.height), float(crop.width)
    image_size = tf.cast(image_size, tf.float32)
    box = tf.cast(box, tf.float32)
    landmarks = tf.cast(landmarks, tf.float32)

    # Every window is a transform of x and y from the crop's centre.
    step = tf.minimum(image_size[:, 0] / height, image_size[:, 1] / width)
    centre = (image_size[:, ::-1] - 1.0) / 2.0
    window = _similarity(step, tf.zeros_like(step), centre[:, 0], centre[:, 1])

    def prefer(candidate, known):
        known = known & tf.reduce_all(tf.math.is_finite(candidate), axis=[1, 2])
        return tf.where(known[:, None, None], candidate, window)

    if crop.kind != "none":
        window = prefer(*_box_similarity(crop, box, landmarks))
    if crop.kind == "nose":
        x, y = landmarks[:, 2, 0], landmarks[:, 2, 1]
        step = tf.fill(tf.shape(x), crop.window / min(height, width))
        window = prefer(_similarity(step, tf.zeros_like(step), x, y), True)
    if crop.kind in ("align", "affine"):
        window = prefer(*_align_similarity(crop, landmarks))
    if crop.kind == "affine":
        window = prefer(*_align_affine(crop, landmarks))

    middle_x, middle_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
    shift = window[:, :, 2] - window[:, :, 0] * middle_x - window[:, :, 1] * middle_y
    return tf.concat([window[:, :, :2], shift[:, :, None]], axis=2)


def _similarity(a, b, x, y):
    """The transform `[B, 2, 3]` that rotates and scales by (a, b), and takes 0 to (x, y)."""
    import tensorflow as tf

    return tf.reshape(tf.stack([a, -b, x, b, a, y], axis=1), [-1, 2, 3])


def known_box(box, landmarks):
    """The box of a face, or else the bounding square of its landmarks.

    Args:
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.

    Returns:
        float32 `[B, 4]` in the same order, and bool `[B]`, where there is either.
    """
    import tensorflow as tf

    low, high = tf.reduce_min(landmarks, axis=1), tf.reduce_max(landmarks, axis=1)
    side = tf.reduce_max(high - low, axis=1, keepdims=True)
    square = tf.concat([(low + high - side + 1.0) / 2.0, side, side], axis=1)
    # Minimum and maximum of some kernels pass over NaN: one unknown point makes all unknown.
    points_known = tf.reduce_all(tf.math.is_finite(landmarks), axis=[1, 2])
    square = tf.where(points_known[:, None], square, math.nan)

    def sound(box):
        return tf.reduce_all(tf.math.is_finite(box), axis=1) & tf.reduce_all(box[:, 2:] > 0, axis=1)

    box = tf.where(sound(box)[:, None], box, square)
    return box, sound(box)


def _box_similarity(crop, box, landmarks):
    """Window of the box, or of the landmarks' bounding square, and where there is either."""
    import tensorflow as tf

    box, known = known_box(box, landmarks)
    longer = tf.reduce_max(box[:, 2:], axis=1)
    if crop.kind == "window":
        longer = tf.fill(tf.shape(longer), float(crop.window))
        step = longer * ((1.0 + 2.0 * crop.margin) / min(crop.height, crop.width))
    else:
        added = 2.0 * crop.margin * longer
        # A long thin box with a negative margin keeps a window: its longer side decides.
        step = tf.maximum((box[:, 2] + added) / crop.width, (box[:, 3] + added) / crop.height)
    x = box[:, 0] + (box[:, 2] - 1.0) / 2.0
    y = box[:, 1] + (box[:, 3] - 1.0) / 2.0 + crop.vertical * longer
    return _similarity(step, tf.zeros_like(step), x, y), known


def _align_similarity(crop, landmarks):
    """Least-squares fit of the landmarks to the template, and where it exists.

    The error is minimised in the crop, from landmarks to template, and the result inverted: in
    this direction a face in profile, whose points lie close together, keeps its true scale; in the
    other one it would be enlarged up to twice.
    """
    import tensorflow as tf

    template, template_mean = _template(crop)
    to = tf.constant(template, tf.float32)
    mean = tf.reduce_mean(landmarks, axis=1)
    points = landmarks - mean[:, None]
    spread = tf.reduce_sum(tf.square(points), axis=[1, 2])
    cosine = tf.reduce_sum(points * to, axis=[1, 2]) / spread
    sine = tf.reduce_sum(points[..., 0] * to[:, 1] - points[..., 1] * to[:, 0], axis=1) / spread
    square = tf.square(cosine) + tf.square(sine)
    a, b = cosine / square, -sine / square
    x = mean[:, 0] - a * template_mean[0] + b * template_mean[1]
    y = mean[:, 1] - b * template_mean[0] - a * template_mean[1]
    return _similarity(a, b, x, y), spread > 0


def _align_affine(crop, landmarks):
    """Least-squares fit of the template to the landmarks, and where it is a face.

    The error is minimised in the source, from template to landmarks, as FaceSTN's equation 1 runs:
    the same transform for whatever crop the landmarks are measured in.
    """
    import tensorflow as tf

    template, template_mean = _template(crop)
    mean = tf.reduce_mean(landmarks, axis=1)
    fit = tf.constant(np.linalg.pinv(template), tf.float32)
    linear = tf.einsum("bni,jn->bij", landmarks - mean[:, None], fit)
    shift = mean - tf.linalg.matvec(linear, tf.constant(template_mean, tf.float32))
    # Twice the ratio of the axes, for small ones: 1 for a similarity, negative for a mirror image.
    determinant = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    likeness = 2.0 * determinant / tf.reduce_sum(tf.square(linear), axis=[1, 2])
    return tf.concat([linear, shift[:, :, None]], axis=2), likeness > 0.1


def _template(crop):
    """`TEMPLATE` in pixels from the crop's centre: about its mean, and its mean."""
    shown = min(crop.height, crop.width) / (1.0 + 2.0 * crop.margin)
    points = (np.array(TEMPLATE) - [0.5, 0.5 + crop.vertical]) * shown
    mean = points.mean(axis=0)
    return points - mean, mean


def compose(outer, inner):
    """The transform `[B, 2, 3]` that applies `inner` first and `outer` to its result."""
    import tensorflow as tf

    shift = outer[..., :2] @ inner[..., 2:] + outer[..., 2:]
    return tf.concat([outer[..., :2] @ inner[..., :2], shift], axis=-1)


def transform_points(points, transform):
    """Points of the crop in the source image: `[B, n, 2]` x, y in pixels through `[B, 2, 3]`.

    Arguments are NumPy arrays or TensorFlow tensors; NaN stays NaN.
    """
    x, y = points[..., 0], points[..., 1]
    entry = _entries(transform)
    return _stack(
        x * entry[0][0] + y * entry[0][1] + entry[0][2],
        x * entry[1][0] + y * entry[1][1] + entry[1][2],
    )


def to_crop_coordinates(points, transform, height: int, width: int):
    """Source pixels to normalised coordinates of a crop of this size, both `[B, n, 2]`.

    Arguments are NumPy arrays or TensorFlow tensors; NaN (unknown) stays NaN.
    """
    entry = _entries(transform)
    x, y = points[..., 0] - entry[0][2], points[..., 1] - entry[1][2]
    determinant = entry[0][0] * entry[1][1] - entry[0][1] * entry[1][0]
    column = (x * entry[1][1] - y * entry[0][1]) / determinant
    row = (y * entry[0][0] - x * entry[1][0]) / determinant
    return _stack((2.0 * column + 1.0) / width - 1.0, (2.0 * row + 1.0) / height - 1.0)


def from_crop_coordinates(points, transform, height: int, width: int):
    """Normalised coordinates of a crop to source pixels, the inverse of `to_crop_coordinates`."""
    column = ((points[..., 0] + 1.0) * width - 1.0) / 2.0
    row = ((points[..., 1] + 1.0) * height - 1.0) / 2.0
    return transform_points(_stack(column, row), transform)


def _entries(transform):
    """The six numbers of `[B, 2, 3]`, each `[B, 1]`, to combine with `[B, n]`."""
    return [[transform[..., i, j][..., None] for j in range(3)] for i in range(2)]


def _stack(x, y):
    if isinstance(x, np.ndarray):
        return np.stack([x, y], axis=-1)
    import tensorflow as tf

    return tf.stack([x, y], axis=-1)
