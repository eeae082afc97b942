"""The pyramid of a picture on one canvas, so that a network goes over all its levels at once."""

import numpy as np
import tensorflow as tf

from data_pipelines.detection.mtcnn_networks import FIELD, STRIDE

MAXIMUM_LEVELS = 24  # enough for pictures of 30,000 pixels
_STEP = 0.709
_MULTIPLE = 32  # of a canvas' sides: convolutions prepare themselves for each size that they see

# Each level's sides are 0.709 times those of the one before. The largest one stands on top, the
# second one below it with all small ones at its right, the third and the fourth at the bottom:
# a tenth of the canvas stays empty.
_SMALL = ("below", 4, ("beside", 5, 7), ("beside", 6, 8), ("beside", *range(9, MAXIMUM_LEVELS)))
_LAYOUT = ("below", 0, ("beside", 1, _SMALL), ("beside", 2, 3))
_AXES = {"below": 0, "beside": 1}


def level_scales(size: tf.Tensor, minimum_size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """By how much a picture is reduced for each level of its pyramid.

    Args:
        size: `int32 [2]`, height and width of the picture in pixels.
        minimum_size: float64, side in pixels of the smallest face that is looked for.

    Returns:
        `scales float64 [L]` and `sizes int32 [L, 2]`, height and width of the levels: 0 for those
        that would be smaller than the network's field of view.
    """
    scales = FIELD / minimum_size * _STEP ** np.arange(MAXIMUM_LEVELS)
    sides = tf.cast(size, tf.float64) * scales[:, None]
    sizes = tf.cast(sides, tf.int32)  # cut off, as the package does
    return scales, tf.where(tf.reduce_min(sides, axis=1, keepdims=True) >= FIELD, sizes, 0)


def draw_pyramid(picture: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The levels of a picture's pyramid on one canvas.

    The value of a pixel is the mean of the picture over the pixel's area.

    Args:
        picture: `uint8 [H, W, 3]`.
        sizes: `int32 [L, 2]` of `level_scales`.

    Returns:
        The canvas, `float32 [1, h, w, 4]`, as `propose` wants it, and `corners int32 [L, 2]`, top
        and left of each level on it.
    """
    levels = _levels(picture, sizes)
    slots = tf.unstack(sizes + sizes % STRIDE)
    sides = tf.maximum(_measure(_LAYOUT, slots), 1)  # the canvas of no levels is a small one
    canvas = _draw(_LAYOUT, slots, levels, -(-sides // _MULTIPLE) * _MULTIPLE)
    corners = {}
    _place(_LAYOUT, slots, tf.zeros([2], tf.int32), corners)
    return canvas[None], tf.stack([corners[level] for level in range(MAXIMUM_LEVELS)])


def locate(fields: tf.Tensor, corners: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of P-Net's fields of view, those that lie within a level, and which it is.

    Args:
        fields: `int32 [N, 2]`, row and column in what `propose` gives.
        corners, sizes: `int32 [L, 2]`, top and left, height and width of the levels on the canvas.

    Returns:
        `fields [M, 2]` and `levels int32 [M]`.
    """
    begin = corners // STRIDE
    end = begin + (sizes + sizes % STRIDE) // STRIDE - (FIELD // STRIDE - 1)
    inside = (fields[:, None] >= begin) & (fields[:, None] < end)
    inside = tf.reduce_all(inside, axis=2)
    within = tf.reduce_any(inside, axis=1)
    levels = tf.argmax(tf.boolean_mask(inside, within), axis=1, output_type=tf.int32)
    return tf.boolean_mask(fields, within), levels


def _levels(picture, sizes):
    """The pixels of each level, with a fourth channel of zeros."""
    count = tf.reduce_sum(tf.cast(sizes[:, 0] > 0, tf.int32))
    pixels = tf.cast(picture, tf.float32)[None]
    levels = tf.TensorArray(
        tf.float32, MAXIMUM_LEVELS, element_shape=[None, None, 4], infer_shape=False
    )

    def add(level, levels):
        reduced = tf.image.resize(pixels, sizes[level], tf.image.ResizeMethod.AREA)[0]
        return level + 1, levels.write(level, tf.pad(reduced, [[0, 0], [0, 0], [0, 1]]))

    _, levels = tf.while_loop(lambda level, _: level < count, add, (0, levels))
    _, levels = tf.while_loop(
        lambda level, _: level < MAXIMUM_LEVELS,
        lambda level, levels: (level + 1, levels.write(level, tf.zeros([0, 0, 4]))),
        (count, levels),
    )
    return levels


def _measure(layout, slots):
    """Height and width of a part of the layout."""
    if isinstance(layout, int):
        return slots[layout]
    axis, sides = _AXES[layout[0]], tf.stack([_measure(part, slots) for part in layout[1:]])
    along, across = tf.reduce_sum(sides[:, axis]), tf.reduce_max(sides[:, 1 - axis])
    return tf.stack([across, along] if axis else [along, across])


def _place(layout, slots, corner, corners):
    """Writes top and left of each level of a part of the layout whose own corner is given."""
    if isinstance(layout, int):
        corners[layout] = corner
        return
    for part in layout[1:]:
        _place(part, slots, corner, corners)
        corner = corner + _measure(part, slots) * tf.one_hot(_AXES[layout[0]], 2, dtype=tf.int32)


def _draw(layout, slots, levels, sides):
    """A part of the layout, with the outside to its right and below it, to the sides given."""
    if isinstance(layout, int):
        level = levels.read(layout)
        right, below = sides[1] - tf.shape(level)[1], sides[0] - tf.shape(level)[0]
        return tf.pad(level, [[0, below], [0, right], [0, 0]], constant_values=1.0)
    axis, *parts = _AXES[layout[0]], *layout[1:]
    drawn = []
    for part in parts:
        along = sides[axis] if part is parts[-1] else _measure(part, slots)[axis]
        own = [sides[0], along] if axis else [along, sides[1]]
        drawn.append(_draw(part, slots, levels, own))
        sides = tf.unstack(tf.stack(sides) - along * tf.one_hot(axis, 2, dtype=tf.int32))
    return tf.concat(drawn, axis)
