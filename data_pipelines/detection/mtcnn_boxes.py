"""Boxes between the stages of MTCNN: read from a network's outputs, made square, suppressed, cut.

Boxes are `[N, 4]`, left, top, right and bottom in pixels, with the conventions of the `mtcnn`
package, down to where it adds a pixel.
"""

import tensorflow as tf

from data_pipelines.detection.mtcnn_networks import FIELD, GREY, STRIDE

_BLOCK = 256  # boxes that are compared with all others at once: bounds the memory


def boxes_of_fields(fields: tf.Tensor, offsets: tf.Tensor, scales: tf.Tensor) -> tf.Tensor:
    """The boxes that P-Net means.

    Args:
        fields: `int32 [N, 2]`, row and column of the fields of view on their levels.
        offsets: `[N, 4]` of `propose`.
        scales: `float32 [N]`, of the levels against the picture.
    """
    begin = tf.cast(tf.reverse(fields, [1]) * STRIDE, tf.float32)
    return (tf.tile(begin, [1, 2]) + _within(offsets)) / scales[:, None]


def _within(offsets):
    """P-Net's boxes in pixels of their levels, from where their fields of view begin."""
    return tf.constant([1.0, 1.0, FIELD, FIELD]) + offsets * (FIELD - 1.0)


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


def unsuppressed(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    groups: tf.Tensor,
    threshold: float,
    minimum: bool = False,
) -> tf.Tensor:
    """Which boxes stay: those without a better one of their group that they overlap.

    Other than in the usual, greedy suppression, a box that is suppressed itself suppresses others
    too: it is what the package does. Of equal scores the last one is the best: so it is in the
    package, where NumPy's sort happens to be stable.

    Args:
        boxes: `[N, 4]`.
        scores: `[N]`.
        groups: `int32 [N]`, for instance to which picture each belongs.
        threshold: overlap above which the box of the lower score goes.
        minimum: the overlap is the intersection over the smaller box, not over the union.

    Returns:
        `int32 [M]`: indices of those that stay, the best first.
    """
    order = best_first(scores)
    boxes, groups = tf.unstack(tf.gather(boxes, order), num=4, axis=1), tf.gather(groups, order)
    areas = _areas(boxes, threshold, minimum)
    count = tf.shape(order)[0]
    kept = tf.TensorArray(tf.bool, 0, dynamic_size=True, element_shape=[None], infer_shape=False)

    def compare(begin, kept):
        end = tf.minimum(begin + _BLOCK, count)
        pairs = [(values[begin:end, None], values[None, :end]) for values in (*boxes, areas)]
        better = _overlap(*pairs, minimum) & (tf.range(begin, end)[:, None] > tf.range(end))
        better &= groups[begin:end, None] == groups[None, :end]
        return end, kept.write(kept.size(), ~tf.reduce_any(better, axis=1))

    _, kept = tf.while_loop(
        lambda begin, _: begin < count, compare, (0, kept.write(0, tf.zeros([0], tf.bool)))
    )
    return tf.boolean_mask(order, kept.concat())


def unsuppressed_fields(
    fields: tf.Tensor, offsets: tf.Tensor, scores: tf.Tensor, levels: tf.Tensor, threshold: float
) -> tf.Tensor:
    """Which of P-Net's boxes stay, as `unsuppressed` has it, each level being a group.

    Only those are compared whose fields of view are near enough for such an overlap, given the
    offsets that there are.

    Args:
        fields: `int32 [N, 2]`, row and column on the canvas, row by row.
        offsets: `[N, 4]` of `propose`.
        scores: `[N]`.
        levels: `int32 [N]`.
        threshold: overlap, over the union, above which the box of the lower score goes.

    Returns:
        `int32 [M]`: indices of those that stay, by level, the best first.
    """
    boxes = _within(offsets)
    first, second = _neighbours(fields, boxes, threshold)
    alike = tf.gather(levels, first) == tf.gather(levels, second)
    first, second = tf.boolean_mask(first, alike), tf.boolean_mask(second, alike)
    away = (tf.gather(fields, second) - tf.gather(fields, first)) * STRIDE
    away = tf.tile(tf.cast(tf.reverse(away, [1]), tf.float32), [1, 2])
    corners = [tf.gather(boxes, first), tf.gather(boxes, second) + away]
    corners = [tf.unstack(values, num=4, axis=1) for values in corners]
    pairs = [(*values, _areas(values, threshold, minimum=False)) for values in corners]
    common = _overlap(*zip(*pairs, strict=True), minimum=False)
    first, second = tf.boolean_mask(first, common), tf.boolean_mask(second, common)
    worse = tf.where(tf.gather(scores, first) > tf.gather(scores, second), second, first)
    lost = tf.scatter_nd(worse[:, None], tf.ones_like(worse), tf.shape(scores))
    order = best_first(scores)
    return ordered(tf.boolean_mask(order, tf.gather(lost, order) == 0), levels)


def _neighbours(fields, boxes, threshold):
    """Pairs of fields of view near enough for an overlap, `int32 [P]` twice, the earlier first."""
    # In each direction alone, boxes have at least as much in common as over their areas.
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = tf.reduce_max(boxes[:, 2:] - boxes[:, :2], axis=0) * (1 - threshold) / (1 + threshold)
    reach = (apart + tf.reduce_max(centres, axis=0) - tf.reduce_min(centres, axis=0)) / STRIDE
    count = tf.shape(fields)[0]
    across, down = tf.unstack(tf.cast(tf.where(count > 0, reach, 0.0), tf.int32))
    width = tf.reduce_max(tf.pad(fields[:, 1], [[0, 1]])) + across + 1
    places = fields[:, 0] * width + fields[:, 1]
    steps = tf.range(down + 1)[:, None] * width + tf.range(-across, across + 1)
    steps = tf.boolean_mask(steps, steps > 0)
    size = tf.reduce_max(tf.pad(places, [[0, 1]])) + down * width + across + 1
    numbers = tf.scatter_nd(places[:, None], tf.range(1, count + 1), [size])
    others = tf.gather(numbers, places[:, None] + steps)
    pairs = tf.where(others > 0)
    return tf.cast(pairs[:, 0], tf.int32), tf.gather_nd(others, pairs) - 1


def best_first(scores: tf.Tensor) -> tf.Tensor:
    """Indices by score; of equal ones, the last one is the first."""
    order = tf.argsort(scores[::-1], direction="DESCENDING", stable=True)
    return tf.shape(scores)[0] - 1 - order


def ordered(indices: tf.Tensor, groups: tf.Tensor) -> tf.Tensor:
    """Indices by the group to which they belong, otherwise as they were."""
    return tf.gather(indices, tf.argsort(tf.gather(groups, indices), stable=True))


def _areas(boxes, threshold, minimum):
    """Of each box, the share of its area that `_overlap` compares."""
    left, top, right, bottom = boxes
    share = threshold if minimum else threshold / (1 + threshold)
    return (right - left) * (bottom - top) * share


def _overlap(left, top, right, bottom, areas, minimum):
    """Which pairs of boxes have more in common than the threshold of their `_areas`."""
    width = tf.minimum(*right) - tf.maximum(*left)
    height = tf.minimum(*bottom) - tf.maximum(*top)
    return tf.maximum(width, 0.0) * height > (tf.minimum(*areas) if minimum else sum(areas))


def cut(
    pictures: tf.Tensor, sizes: tf.Tensor, boxes: tf.Tensor, owners: tf.Tensor, side: int
) -> tf.Tensor:
    """What the networks see of square boxes: a crop each, grey beyond the picture's border.

    Args:
        pictures: `uint8 [B, H, W, 3]`, each at the top left, whatever else is in the array.
        sizes: `int32 [B, 2]`, height and width of the pictures.
        boxes: `[N, 4]`.
        owners: `int32 [N]`, to which picture a box belongs.
        side: of the crops in pixels.

    Returns:
        `float32 [N, side, side, 3]`, 0 to 255.
    """
    # The package divides a position by the picture's side, of which the crop then takes all pixels
    # but one: in effect, positions shrink by a pixel over the picture.
    size = tf.cast(tf.gather(sizes, owners), tf.float32)
    full = tf.cast(tf.shape(pictures)[1:3], tf.float32)
    shrink = (size - 1.0) / size
    positions = tf.gather(boxes, [1, 0, 3, 2], axis=1) * tf.tile(shrink, [1, 2])
    crops = tf.image.crop_and_resize(
        pictures,
        positions / tf.tile(full - 1.0, [2]),
        owners,
        [side, side],
        extrapolation_value=GREY,
    )

    def bordered():
        """The same where an array holds more than the picture."""
        steps = tf.cast(tf.range(side), tf.float32) / (side - 1.0)
        begin, end = positions[:, None, :2], positions[:, None, 2:]
        inside = begin + (end - begin) * steps[:, None] <= size[:, None] - 1.0
        return tf.where(inside[:, :, None, :1] & inside[:, None, :, 1:], crops, GREY)

    beyond = (positions[:, 2:] > size - 1.0) & (size < full)
    return tf.cond(tf.reduce_any(beyond), bordered, lambda: crops)
