"""Random changes to crops during training: geometry as one affine, colours on the whole batch.

Nothing here holds state. The random numbers of an example are a hash of (seed, position of the
example in the training stream, number of the draw), so that a stream continued at any step, or cut
into slices for several workers, gives every example the same changes.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.errors import UserError

# Fixed places of the draws, so that switching one change on leaves the others as they were.
_DRAWS = (
    "flip", "shift_x", "shift_y", "rotate", "scale", "brightness", "contrast", "saturation",
    "grey", "blur", "cutout", "cutout_x", "cutout_y", "patch",
)  # fmt: skip

# The centre and the corners: directions from a crop's centre to those of its patches.
_PATCHES = ((0.0, 0.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0))


@dataclasses.dataclass
class Augment:
    """How training crops are varied; everything is off unless asked for.

    Attributes:
        flip: mirror every second picture; labels that have a mirror image follow.
        ten_crop: side of a patch in the centre or a corner of the crop, as a share of the crop's width
            and height: one of these five, mirrored every second time, takes the place of the whole
            (Krizhevsky et al., NIPS 2012; LNets+ANet, section 4). 0 for none.
        shift: greatest shift to either side, as a share of the crop's width and height.
        rotate: greatest rotation to either side about the crop's centre, in degrees.
        scale: greatest change of scale, as a natural logarithm: 0.1 scales by 0.905 to 1.105.
        brightness: greatest change of brightness, as a share of the full range.
        contrast: greatest relative change of contrast about the middle of the range.
        saturation: greatest relative change of saturation.
        grey: probability of a crop without colour.
        blur: greatest share that a 3x3 mean gets in the crop.
        cutout: side of a square that is hidden, as a share of the crop's width and height.
        cutout_probability: probability of that square.
    """

    flip: bool = False
    ten_crop: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    cutout: float = 0.0
    cutout_probability: float = 0.5

    def check(self, name: str = "augment") -> None:
        """Raises UserError if a value makes no sense; `name` says whose it is."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            highest = math.inf if field.name in ("rotate", "scale", "shift") else 1.0
            if not (0 <= value <= highest and math.isfinite(value)):
                limits = "0 or more" if highest == math.inf else "between 0 and 1"
                raise UserError(f"{name}: {field.name} {value} must be {limits}")

    @property
    def geometric(self) -> bool:
        """Whether pixels move at all."""
        return bool(self.flip or self.ten_crop or self.shift or self.rotate or self.scale)

    @property
    def colourful(self) -> bool:
        """Whether `change_colours` changes anything."""
        colours = self.brightness or self.contrast or self.saturation or self.grey
        return bool(colours or self.cutout)


@dataclasses.dataclass(frozen=True)
class RandomCopy:
    """One of several randomly changed copies of the same stored examples.

    Attributes:
        augment: the changes.
        seed: seed of the changes.
        number: which copy; each number changes the examples in another way.
    """

    augment: Augment
    seed: int
    number: int


def random_numbers(seed: int, positions):
    """One uniform number in [0, 1) per example and draw: a dict of float32 `[B]` per draw.

    The hash is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014) over a combination of the
    three numbers with odd constants; vectorised integer arithmetic, where TensorFlow's stateless
    generators would need one small operation per example.

    Args:
        seed: seed of the run.
        positions: int64 `[B]`, place of each example in the training stream.
    """
    import tensorflow as tf

    shift = tf.bitwise.right_shift

    def constant(value):
        return tf.constant(value % 2**64, tf.uint64)

    draws = tf.constant(
        [(i + 1) * 0x9E3779B97F4A7C15 % 2**64 for i in range(len(_DRAWS))], tf.uint64
    )
    bits = tf.cast(positions, tf.uint64) * constant(0xD1342543DE82EF95)
    bits = _mix(bits + constant(seed * 0x2545F4914F6CDD1D + 0x9E3779B97F4A7C15))
    bits = _mix(bits[:, None] + draws)
    uniform = tf.cast(shift(bits, constant(40)), tf.float32) * 2.0**-24
    return dict(zip(_DRAWS, tf.unstack(uniform, axis=1), strict=True))


def _mix(bits):
    import tensorflow as tf

    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
        bits = tf.bitwise.bitwise_xor(bits, shifted) * tf.constant(factor, tf.uint64)
    return bits


def adjustment(augment: Augment, numbers: dict, height: int, width: int):
    """The geometric changes as a transform from crop pixels to pixels of the unchanged crop.

    Args:
        augment: the strengths.
        numbers: what `random_numbers` gave.
        height: height of the crop in pixels.
        width: its width.

    Returns:
        float32 `[B, 2, 3]` transform, and bool `[B]`, which of the crops are mirrored.
    """
    import tensorflow as tf

    def symmetric(name, strength):
        return (2.0 * numbers[name] - 1.0) * strength

    flipped = (numbers["flip"] < 0.5) & bool(augment.flip or augment.ten_crop)
    angle = symmetric("rotate", math.radians(augment.rotate))
    factor = tf.exp(symmetric("scale", augment.scale))
    share = augment.ten_crop or 1.0
    factor *= share
    patch = tf.minimum(tf.cast(numbers["patch"] * len(_PATCHES), tf.int32), len(_PATCHES) - 1)
    away = tf.gather(tf.constant(_PATCHES), patch) * (1.0 - share) / 2.0
    a, b = factor * tf.cos(angle), factor * tf.sin(angle)
    sign = tf.where(flipped, -1.0, 1.0)
    x, y = (width - 1) / 2.0, (height - 1) / 2.0
    to_x = x + symmetric("shift_x", augment.shift * width) + away[:, 0] * width
    to_y = y + symmetric("shift_y", augment.shift * height) + away[:, 1] * height
    rows = [sign * a, -b, to_x - sign * a * x + b * y, sign * b, a, to_y - sign * b * x - a * y]
    return tf.reshape(tf.stack(rows, axis=1), [-1, 2, 3]), flipped


def ten_crop_patches(share: float, height: int, width: int):
    """The five patches of `Augment.ten_crop`, not mirrored.

    Args:
        share: side of a patch as a share of the crop's.
        height: height of the crop, and of a patch, in pixels.
        width: its width.

    Returns:
        float32 `[5, 2, 3]`, from a patch's pixels to those of the crop.
    """
    import tensorflow as tf

    count = len(_PATCHES)
    numbers = dict.fromkeys(_DRAWS, tf.fill([count], 0.5))  # the middle of every change is none
    numbers["patch"] = (tf.range(count, dtype=tf.float32) + 0.5) / count
    return adjustment(Augment(ten_crop=share), numbers, height, width)[0]


def mirror(count, width: int):
    """The transform `[count, 2, 3]` that mirrors a crop of this width."""
    import tensorflow as tf

    return tf.tile(tf.constant([[[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]]]), [count, 1, 1])


def soften(augment: Augment, numbers: dict, images):
    """Mixes crops `[B, h, w, 3]` with their mean over 3x3 pixels, borders repeated."""
    import tensorflow as tf

    images = tf.convert_to_tensor(images)
    height, width = images.shape[1:3]
    rows = tf.gather(images, np.arange(-1, height + 1).clip(0, height - 1), axis=1)
    rows = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    columns = tf.gather(rows, np.arange(-1, width + 1).clip(0, width - 1), axis=2)
    means = (columns[:, :, :-2] + columns[:, :, 1:-1] + columns[:, :, 2:]) / 9.0
    return images + (means - images) * (numbers["blur"] * augment.blur)[:, None, None, None]


def change_colours(augment: Augment, numbers: dict, images):
    """Brightness, contrast, saturation, grey and cutout of a batch of crops.

    Args:
        augment: the strengths.
        numbers: what `random_numbers` gave.
        images: float32 `[B, h, w, 3]` in 0..255.

    Returns:
        float32 `[B, h, w, 3]` in 0..255.
    """
    import tensorflow as tf

    images = tf.convert_to_tensor(images)

    def relative(name, strength):
        return 1.0 + (2.0 * numbers[name] - 1.0) * strength

    def per_image(values):
        return values[:, None, None, None]

    if augment.saturation or augment.grey or augment.contrast or augment.brightness:
        saturation = relative("saturation", augment.saturation)
        saturation = tf.where(numbers["grey"] < augment.grey, 0.0, saturation)
        contrast = relative("contrast", augment.contrast)
        offset = (relative("brightness", augment.brightness) - 1.0) * 255.0
        offset += 127.5 * (1.0 - contrast)
        changed = images * per_image(contrast * saturation) + per_image(offset)
        if augment.saturation or augment.grey:
            changed += _grey(images) * per_image(contrast * (1.0 - saturation))
        images = tf.clip_by_value(changed, 0.0, 255.0)
    if augment.cutout:
        images = _cut_out(augment, numbers, images)
    return images


def _grey(images):
    return 0.299 * images[..., :1] + 0.587 * images[..., 1:2] + 0.114 * images[..., 2:]


def _cut_out(augment, numbers, images):
    """Hides a square that lies wholly inside the crop behind mid-grey."""
    import tensorflow as tf

    def inside(name, length):
        side = augment.cutout * length
        start = numbers[name][:, None] * (length - side) - 0.5
        pixels = tf.range(length, dtype=tf.float32)
        return (pixels >= start) & (pixels < start + side)

    rows, columns = inside("cutout_y", images.shape[1]), inside("cutout_x", images.shape[2])
    chosen = (numbers["cutout"] < augment.cutout_probability)[:, None, None]
    hidden = chosen & rows[:, :, None] & columns[:, None, :]
    return tf.where(hidden[..., None], 127.5, images)
