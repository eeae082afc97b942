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


def canvas_sides(sizes: tf.Tensor) -> tf.Tensor:
    """Height and width, `int32 [2]`, of the canvas for levels of these `sizes`."""
    sides = _measure(_LAYOUT, _parts(sizes))
    return tf.maximum(-(-sides // _MULTIPLE), 1) * _MULTIPLE  # even of no levels there is one


def draw_pyramids(pictures: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """The levels of each picture's pyramid on a canvas.

    The value of a pixel is the mean of the picture over the pixel's area.

    Args:
        pictures: `uint8 [B, H, W, 3]`, all of one size.
        sizes: `int32 [L, 2]` of `level_scales`.

    Returns:
        `float32 [B, h, w, 4]`, as `propose` wants it.
    """
    return _draw(_LAYOUT, _parts(sizes), _images(pictures, sizes), canvas_sides(sizes))


def level_corners(sizes: tf.Tensor) -> tf.Tensor:
    """Top and left, `int32 [L, 2]`, of each level on the canvas."""
    corners = {}
    _place(_LAYOUT, _parts(sizes), tf.zeros([2], tf.int32), corners)
    down = tf.cumsum(_slots(sizes)[_REST:, 0], exclusive=True)
    small = corners.pop(_REST) + tf.stack([down, tf.zeros_like(down)], axis=1)
    return tf.concat([tf.stack([corners[level] for level in sorted(corners)]), small], axis=0)


def locate(fields: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """In which level P-Net's fields of view lie.

    Args:
        fields: `int32 [N, 2]`, row and column in what `propose` gives.
        sizes: `int32 [L, 2]` of `level_scales`.

    Returns:
        `within bool [N]`, false for those that lie across a border, and `levels int32 [N]`.
    """
    begin = level_corners(sizes) // STRIDE
    end = begin + _slots(sizes) // STRIDE - (FIELD // STRIDE - 1)
    inside = tf.reduce_all((fields[:, None] >= begin) & (fields[:, None] < end), axis=2)
    return tf.reduce_any(inside, axis=1), tf.argmax(inside, axis=1, output_type=tf.int32)


def _slots(sizes):
    """Sides of the levels with what they need to end in an even row and column."""
    return sizes + sizes % STRIDE


def _parts(sizes):
    """Height and width of each part of the layout."""
    slots = _slots(sizes)
    rest = tf.stack([tf.reduce_sum(slots[_REST:, 0]), slots[_REST, 1]])
    return [*tf.unstack(slots[:_REST]), rest]


def _images(pictures, sizes):
    """What stands on each part of the canvas; a fourth channel is 1 outside of levels, 0 inside."""
    slots, batch = _slots(sizes), tf.shape(pictures)[0]
    count = tf.reduce_sum(tf.cast(sizes[:, 0] > 0, tf.int32))
    pixels = tf.cast(pictures, tf.float32)

    def reduced(level):
        mean = tf.image.resize(pixels, sizes[level], tf.image.ResizeMethod.AREA)
        return tf.pad(mean, [[0, 0], [0, 0], [0, 0], [0, 1]])

    def append(level, rest):
        rows = _fitted(reduced(level), [slots[level, 0], slots[_REST, 1]])
        return level + 1, rest.write(rest.size(), tf.reshape(_turned(rows), [-1, 4]))

    images = tf.TensorArray(tf.float32, _REST, element_shape=[None] * 3 + [4], infer_shape=False)
    rest = tf.TensorArray(tf.float32, 0, True, element_shape=[None, 4], infer_shape=False)
    first = tf.minimum(count, _REST)
    _, images = tf.while_loop(
        lambda level, _: level < first,
        lambda level, images: (level + 1, images.write(level, reduced(level))),
        (0, images),
    )
    _, images = tf.while_loop(
        lambda level, _: level < _REST,
        lambda level, images: (level + 1, images.write(level, tf.zeros([batch, 0, 0, 4]))),
        (first, images),
    )
    _, rest = tf.while_loop(
        lambda level, _: level < count, append, (_REST, rest.write(0, tf.zeros([0, 4])))
    )
    height, width = tf.unstack(_parts(sizes)[_REST])
    rest = _turned(tf.reshape(rest.concat(), [height, batch, width, 4]))
    return [*(images.read(level) for level in range(_REST)), rest]


def _turned(images):
    """Pictures' rows together, `[H, B, W, C]`, and back."""
    return tf.transpose(images, [1, 0, 2, 3])


def _fitted(images, sides):
    """Images with the outside to their right and below them, to the sides given."""
    space = tf.stack(sides) - tf.shape(images)[1:3]
    paddings = [[0, 0], [0, space[0]], [0, space[1]], [0, 0]]
    return tf.pad(images, paddings, constant_values=1.0)


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
    return tf.concat(drawn, axis + 1)
