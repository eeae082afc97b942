"""The pyramid of a picture on one canvas, so that a network goes over all its levels at once."""

import numpy as np
import tensorflow as tf

from data_pipelines.detection.mtcnn_networks import FIELD, STRIDE

MAXIMUM_LEVELS = 24  # enough for pictures of 30,000 pixels
_STEP = 0.709
_MULTIPLE = 32  # of a canvas' sides: convolutions prepare themselves for each size that they see

# Each level's sides are 0.709 times those of the one before. The largest one stands on top, the
# second one below it with all small ones at its right, the third and the fourth at the bottom:
# a tenth of the canvas stays empty. The smallest ones, one below the other, are one part of it.
_REST = 9
_LAYOUT = (
    *("below", 0),
    ("beside", 1, ("below", 4, ("beside", 5, 7), ("beside", 6, 8, _REST))),
    ("beside", 2, 3),
)
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
    slots = sizes + sizes % STRIDE
    rest = tf.stack([tf.reduce_sum(slots[_REST:, 0]), slots[_REST, 1]])
    parts = [*tf.unstack(slots[:_REST]), rest]
    sides = tf.maximum(_measure(_LAYOUT, parts), 1)  # the canvas of no levels is a small one
    images = _images(picture, sizes, slots)
    canvas = _draw(_LAYOUT, parts, images, -(-sides // _MULTIPLE) * _MULTIPLE)
    corners = {}
    _place(_LAYOUT, parts, tf.zeros([2], tf.int32), corners)
    down = tf.cumsum(slots[_REST:, 0], exclusive=True)
    small = corners.pop(_REST) + tf.stack([down, tf.zeros_like(down)], axis=1)
    return canvas[None], tf.concat([tf.stack([corners[i] for i in sorted(corners)]), small], 0)


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


def _images(picture, sizes, slots):
    """What stands on each part of the canvas; a fourth channel is 1 outside of levels, 0 inside."""
    count = tf.reduce_sum(tf.cast(sizes[:, 0] > 0, tf.int32))
    pixels = tf.cast(picture, tf.float32)[None]

    def reduced(level):
        mean = tf.image.resize(pixels, sizes[level], tf.image.ResizeMethod.AREA)[0]
        return tf.pad(mean, [[0, 0], [0, 0], [0, 1]])

    def append(level, rest):
        row = _fitted(reduced(level), [slots[level, 0], slots[_REST, 1]])
        return level + 1, rest.write(rest.size(), tf.reshape(row, [-1, 4]))

    images = tf.TensorArray(tf.float32, _REST, element_shape=[None, None, 4], infer_shape=False)
    rest = tf.TensorArray(tf.float32, 0, True, element_shape=[None, 4], infer_shape=False)
    first = tf.minimum(count, _REST)
    _, images = tf.while_loop(
        lambda level, _: level < first,
        lambda level, images: (level + 1, images.write(level, reduced(level))),
        (0, images),
    )
    _, images = tf.while_loop(
        lambda level, _: level < _REST,
        lambda level, images: (level + 1, images.write(level, tf.zeros([0, 0, 4]))),
        (first, images),
    )
    _, rest = tf.while_loop(
        lambda level, _: level < count, append, (_REST, rest.write(0, tf.zeros([0, 4])))
    )
    rest = tf.reshape(rest.concat(), [tf.reduce_sum(slots[_REST:, 0]), slots[_REST, 1], 4])
    return [*(images.read(level) for level in range(_REST)), rest]


def _fitted(image, sides):
    """An image with the outside to its right and below it, to the sides given."""
    space = tf.stack(sides) - tf.shape(image)[:2]
    return tf.pad(image, [[0, space[0]], [0, space[1]], [0, 0]], constant_values=1.0)


def _measure(layout, parts):
    """Height and width of a section of the layout, from those of its parts."""
    if isinstance(layout, int):
        return parts[layout]
    axis, sides = _AXES[layout[0]], tf.stack([_measure(one, parts) for one in layout[1:]])
    along, across = tf.reduce_sum(sides[:, axis]), tf.reduce_max(sides[:, 1 - axis])
    return tf.stack([across, along] if axis else [along, across])


def _place(layout, parts, corner, corners):
    """Writes top and left of each part of a section of the layout whose own corner is given."""
    if isinstance(layout, int):
        corners[layout] = corner
        return
    for one in layout[1:]:
        _place(one, parts, corner, corners)
        corner = corner + _measure(one, parts) * tf.one_hot(_AXES[layout[0]], 2, dtype=tf.int32)


def _draw(layout, parts, images, sides):
    """A section of the layout, with the outside to its right and below it, to the sides given."""
    if isinstance(layout, int):
        return _fitted(images[layout], sides)
    axis, drawn = _AXES[layout[0]], []
    for one in layout[1:]:
        along = sides[axis] if one is layout[-1] else _measure(one, parts)[axis]
        drawn.append(_draw(one, parts, images, [sides[0], along] if axis else [along, sides[1]]))
        sides = [sides[0], sides[1] - along] if axis else [sides[0] - along, sides[1]]
    return tf.concat(drawn, axis)
