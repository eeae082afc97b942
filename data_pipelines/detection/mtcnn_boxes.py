"""Boxes between the stages of MTCNN: from a network's outputs, made square, suppressed, cut out.

Boxes are `[N, 4]`, left, top, right and bottom in pixels, with the conventions of the `mtcnn`
package, down to where it adds a pixel.
"""

import tensorflow as tf

from data_pipelines.detection.mtcnn_networks import FIELD, STRIDE
from data_pipelines.detection.mtcnn_pyramid import scaled

_BLOCK = 256  # boxes that are compared with all others at once: bounds the memory


def boxes_of_fields(cells: tf.Tensor, offsets: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """The boxes that P-Net means.

    Args:
        cells: `int32 [N, 2]`, row and column of the fields of view on their level.
        offsets: `[N, 4]` of `propose`.
        scales: `float32 [N]`, of the level against the picture.
    """
    begin = tf.cast(tf.reverse(cells, [1]) * STRIDE + 1, tf.float32)
    side = FIELD - 1.0
    corners = tf.concat([begin, begin + side], axis=1)
    return (corners + offsets * side) / scales[:, None]


def adjusted(boxes: tf.Tensor, offsets: tf.Tensor) -> tf.Tensor:
    """Boxes moved by offsets in their own sides, which count one pixel more than they measure."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1.0
    return boxes + offsets * tf.tile(sides, [1, 2])


def squared(boxes: tf.Tensor) -> tf.Tensor:
    """Boxes with both sides as long as the longer one, about the same centres."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = tf.reduce_max(sides, axis=1, keepdims=True)
    begin = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return tf.concat([begin, begin + longer], axis=1)


def placed(landmarks: tf.Tensor, boxes: tf.Tensor) -> tf.Tensor:
    """Landmarks `[N, 5, 2]` (x, y), 0 to 1 within square boxes, in pixels of the picture."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1.0
    return landmarks * sides[:, None] + boxes[:, None, :2] - 1.0


def unsuppressed(boxes, scores, groups, threshold, minimum=False):
    """Which boxes stay: those without a better one of their group that they overlap.

    Other than in the usual, greedy suppression, a box that is suppressed itself suppresses others
    too: it is what the package does.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`.
        groups: `int32 [N]`, of the picture, or of picture and level.
        threshold: overlap above which the box of the lower score goes.
        minimum: the overlap is the intersection over the smaller box, not over the union.

    Returns:
        `int32 [M]`: indices of those that stay, the best first.
    """
    # Of equal scores the last one is the best: so does the package's sorting, where it is stable.
    order = tf.argsort(scores[::-1], direction="DESCENDING", stable=True)
    order = tf.shape(scores)[0] - 1 - order
    boxes, groups = tf.gather(boxes, order), tf.gather(groups, order)
    count = tf.shape(boxes)[0]
    kept = tf.TensorArray(tf.bool, 0, dynamic_size=True, element_shape=[None], infer_shape=False)

    def compare(begin, kept):
        end = tf.minimum(begin + _BLOCK, count)
        better = _overlap(boxes[begin:end], boxes[:end], minimum) > threshold
        better &= groups[begin:end, None] == groups[None, :end]
        better &= tf.range(begin, end)[:, None] > tf.range(end)[None]
        return end, kept.write(kept.size(), ~tf.reduce_any(better, axis=1))

    _, kept = tf.while_loop(
        lambda begin, _: begin < count, compare, (0, kept.write(0, tf.zeros([0], tf.bool)))
    )
    return tf.boolean_mask(order, kept.concat())


def _overlap(first, second, minimum):
    """Overlaps of boxes `[A, 4]` with boxes `[B, 4]`: `[A, B]`."""
    first, second = tf.unstack(first[:, None], axis=2), tf.unstack(second[None], axis=2)
    width = tf.minimum(first[2], second[2]) - tf.maximum(first[0], second[0])
    height = tf.minimum(first[3], second[3]) - tf.maximum(first[1], second[1])
    common = tf.maximum(width, 0.0) * tf.maximum(height, 0.0)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (first, second)]
    return common / (tf.minimum(*areas) if minimum else areas[0] + areas[1] - common)


def cut(pictures, sizes, boxes, owners, side):
    """What the networks see of square boxes: a crop each, 0 beyond the picture's border.

    Args:
        pictures: `uint8 [B, H, W, 3]`, each at the top left, whatever else is in the array.
        sizes: `int32 [B, 2]`, height and width of the pictures.
        boxes: `[N, 4]`.
        owners: `int32 [N]`, to which picture a box belongs.
        side: of the crops.

    Returns:
        `float32 [N, side, side, 3]`, scaled for the networks.
    """
    # The package divides a position by the picture's side, of which the crop then takes side - 1
    # parts: in effect, positions shrink by one pixel over the picture.
    size = tf.cast(tf.gather(sizes, owners), tf.float32)
    full = tf.cast(tf.shape(pictures)[1:3], tf.float32)
    shrink = tf.reverse((size - 1.0) / size, [1])
    positions = boxes * tf.tile(shrink, [1, 2])
    steps = tf.cast(tf.range(side), tf.float32) / (side - 1.0)
    begin, end = positions[:, :2], positions[:, 2:]
    points = begin[:, None] + (end - begin)[:, None] * steps[:, None]  # [N, side, 2], x and y
    inside = tf.cast((points >= 0.0) & (points <= tf.reverse(size - 1.0, [1])[:, None]), tf.float32)
    unit = tf.gather(positions, [1, 0, 3, 2], axis=1) / tf.tile(full - 1.0, [2])
    crops = scaled(tf.image.crop_and_resize(pictures, unit, owners, [side, side]))
    return crops * inside[:, :, None, 1:] * inside[:, None, :, :1]
