"""MTCNN (Zhang et al., IEEE Signal Processing Letters 2016) as one TensorFlow function.

It finds what the `mtcnn` package finds, whose weights it uses, without Python between the steps:
the levels of a picture's pyramid stand on one canvas for P-Net (`mtcnn_pyramid`), and the proposals
of all pictures of a batch go through R-Net, and those that are left through O-Net, together.

Of candidates for one face the best one stays. Scores near 1 can be equal in float32; the package's
sort, which is not stable, then takes one that depends on the processor, this one always the same.
"""

import math

import tensorflow as tf

from data_pipelines.detection import mtcnn_boxes, mtcnn_networks, mtcnn_pyramid
from data_pipelines.detection.mtcnn import THRESHOLDS

ALL = 2**31 - 1  # as maximum_candidates
_CANVAS = 50_000  # pixels of canvases that a network sees at once, or one canvas
_PARALLEL = 2  # pictures, or chunks of crops, in work at a time


class FaceFinder(tf.Module):
    """Faces in a batch of pictures of mixed sizes, in a graph that can be exported.

    >>> faces = FaceFinder()(pictures, sizes, 20.0, ALL)

    XLA does not compile it: it has no means of areas, and what is found has no fixed number.
    """

    def __init__(self, thresholds: tuple[float, float, float] = THRESHOLDS):
        """Loads the weights, which become constants of the graph.

        Args:
            thresholds: scores that P-Net, R-Net and O-Net have to give to a face.
        """
        super().__init__()
        self._thresholds = tuple(thresholds)
        self._weights = mtcnn_networks.load_weights()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, "pictures"),
            tf.TensorSpec([None, 2], tf.int32, "sizes"),
            tf.TensorSpec([], tf.float64, "minimum_size"),
            tf.TensorSpec([], tf.int32, "maximum_candidates"),
        ],
        autograph=False,
    )
    def __call__(self, pictures, sizes, minimum_size, maximum_candidates):
        """The faces of each picture, the one with the highest score first.

        Args:
            pictures: `uint8 [B, H, W, 3]`, RGB, each at the top left of its place, whatever else is
                there: it changes nothing.
            sizes: `int32 [B, 2]`, height and width of the pictures in pixels.
            minimum_size: side in pixels of the smallest face that is looked for, at least 12.
            maximum_candidates: bounds time and memory whatever a picture shows: of each picture,
                so many of P-Net's fields of view may go on, the best ones. `ALL` for all, as in the
                package.

        Returns:
            `boxes float32 [N, 4]` (left, top, right, bottom in pixels; they may reach beyond the
            picture), `scores float32 [N]`, `landmarks float32 [N, 5, 2]` (x, y in pixels),
            `splits int32 [B + 1]` (the faces of picture i are those from `splits[i]` up to
            `splits[i + 1]`) and `left_out int32 [B]`, candidates above the maximum.
        """
        boxes, owners, left_out = self._proposals(pictures, sizes, minimum_size, maximum_candidates)
        boxes, owners = self._refined(pictures, sizes, boxes, owners)
        boxes, scores, landmarks, owners = self._output(pictures, sizes, boxes, owners)
        return {
            "boxes": boxes,
            "scores": scores,
            "landmarks": landmarks,
            "splits": tf.searchsorted(owners, tf.range(tf.shape(sizes)[0] + 1)),
            "left_out": left_out,
        }

    def _proposals(self, pictures, sizes, minimum_size, maximum):
        """Square boxes `[N, 4]` by P-Net, to which picture each belongs, and what is left out."""
        count = tf.shape(sizes)[0]
        found = [_array(tf.float32, [4]), _array(tf.int32, []), _array(tf.int32, [])]

        def add(begin, found):
            # As many pictures of one size at a time as fit into a processor's cache.
            size = sizes[begin]
            scales, levels = mtcnn_pyramid.level_scales(size, minimum_size)
            alike = tf.reduce_all(sizes[begin:] == size, axis=1)
            run = tf.reduce_sum(tf.math.cumprod(tf.cast(alike, tf.int32)))
            few = _CANVAS // tf.reduce_prod(mtcnn_pyramid.canvas_sides(levels))
            end = begin + tf.clip_by_value(few, 1, run)
            part = pictures[begin:end, : size[0], : size[1]]
            boxes, owners, left_out = self._propose(part, scales, levels, maximum)
            return end, _append(found, (boxes, owners + begin, left_out))

        _, found = tf.while_loop(
            lambda begin, _: begin < count, add, (0, found), parallel_iterations=_PARALLEL
        )
        return [one.concat() for one in found]

    def _propose(self, pictures, scales, sizes, maximum):
        """The same for pictures of one size, given its levels."""
        canvas = mtcnn_pyramid.draw_pyramids(pictures, sizes)
        logits, offsets = mtcnn_networks.propose(canvas, self._weights.pnet)
        threshold = math.log(self._thresholds[0] / (1 - self._thresholds[0]))
        places = tf.cast(tf.where(logits[..., 1] - logits[..., 0] > threshold), tf.int32)
        within, levels = mtcnn_pyramid.locate(places[:, 1:], sizes)
        places, levels = tf.boolean_mask(places, within), tf.boolean_mask(levels, within)
        scores = tf.nn.softmax(tf.gather_nd(logits, places))[:, 1]
        counts = tf.math.bincount(places[:, 0], minlength=tf.shape(pictures)[0])
        places, levels, scores = tf.cond(
            tf.reduce_any(counts > maximum),
            lambda: _gather(_best(scores, places[:, 0], counts, maximum), places, levels, scores),
            lambda: [places, levels, scores],
        )
        offsets = tf.gather_nd(offsets, places)
        owners, fields = places[:, 0], places[:, 1:]
        rows = fields + owners[:, None] * [tf.shape(logits)[1], 0]  # one picture below the other
        groups = owners * mtcnn_pyramid.MAXIMUM_LEVELS + levels
        best = mtcnn_boxes.unsuppressed_fields(rows, offsets, scores, groups, 0.5)
        boxes = mtcnn_boxes.boxes_of_fields(
            fields - tf.gather(mtcnn_pyramid.level_corners(sizes), levels) // mtcnn_networks.STRIDE,
            offsets,
            tf.gather(tf.cast(scales, tf.float32), levels),
        )
        boxes, scores, owners = _gather(best, boxes, scores, owners)
        best = mtcnn_boxes.unsuppressed(boxes, scores, owners, 0.7)
        boxes, owners = _gather(best, mtcnn_boxes.squared(boxes), owners)
        return boxes, owners, tf.maximum(counts - maximum, 0)

    def _refined(self, pictures, sizes, boxes, owners):
        """Square boxes by R-Net, and to which picture each belongs."""
        scores, offsets = _in_chunks(
            lambda crops: mtcnn_networks.refine(crops, self._weights.rnet),
            ([], [4]),
            (pictures, sizes, boxes, owners),
            side=24,
            chunk=64,
            multiple=8,
        )
        boxes = mtcnn_boxes.adjusted(boxes, offsets)
        boxes, scores, owners = _above(self._thresholds[1], scores, boxes, scores, owners)
        best = mtcnn_boxes.unsuppressed(boxes, scores, owners, 0.7)
        return mtcnn_boxes.squared(tf.gather(boxes, best)), tf.gather(owners, best)

    def _output(self, pictures, sizes, boxes, owners):
        """Boxes, scores, landmarks and pictures by O-Net, by picture and score."""
        scores, offsets, landmarks = _in_chunks(
            lambda crops: mtcnn_networks.output(crops, self._weights.onet),
            ([], [4], [5, 2]),
            (pictures, sizes, boxes, owners),
            side=48,
            chunk=16,
            multiple=1,
        )
        landmarks = mtcnn_boxes.placed(landmarks, boxes)
        boxes = mtcnn_boxes.adjusted(boxes, offsets)
        boxes, landmarks, scores, owners = _above(
            self._thresholds[2], scores, boxes, landmarks, scores, owners
        )
        best = mtcnn_boxes.unsuppressed(boxes, scores, owners, 0.7, minimum=True)
        best = mtcnn_boxes.ordered(best, owners)
        return _gather(best, boxes, scores, landmarks, owners)


def _array(dtype, shape):
    """An array of parts with rows of that shape, to be concatenated; the first has none."""
    array = tf.TensorArray(dtype, 0, True, element_shape=[None, *shape], infer_shape=False)
    return array.write(0, tf.zeros([0, *shape], dtype))


def _append(arrays, parts):
    return [array.write(array.size(), part) for array, part in zip(arrays, parts, strict=True)]


def _gather(indices, *values):
    return [tf.gather(value, indices) for value in values]


def _best(scores, owners, counts, maximum):
    """Indices, in their order, of each picture's best ones, up to a maximum."""
    order = mtcnn_boxes.ordered(mtcnn_boxes.best_first(scores), owners)
    first = tf.gather(tf.cumsum(counts, exclusive=True), tf.gather(owners, order))
    return tf.sort(tf.boolean_mask(order, tf.range(tf.shape(order)[0]) - first < maximum))


def _above(threshold, scores, *values):
    return [tf.boolean_mask(value, scores > threshold) for value in values]


def _in_chunks(network, shapes, found, *, side, chunk, multiple):
    """What a network gives for the crops of boxes, in parts that fit into a processor's cache.

    Args:
        network: crops -> outputs.
        shapes: of one crop's outputs.
        found: pictures, their sizes, boxes and owners, as `mtcnn_boxes.cut` wants them.
        side: of the crops in pixels.
        chunk: how many crops the network sees at once.
        multiple: of the last part's crops, of which some are then seen twice. Convolutions prepare
            themselves for each number that they see, therefore these should be few.
    """
    pictures, sizes, boxes, owners = found
    count = tf.shape(boxes)[0]
    outputs = [_array(tf.float32, shape) for shape in shapes]

    def add(begin, outputs):
        number = tf.minimum(chunk, -(-(count - begin) // multiple) * multiple)
        rows = tf.minimum(tf.range(begin, begin + number), count - 1)
        crops = mtcnn_boxes.cut(
            pictures, sizes, tf.gather(boxes, rows), tf.gather(owners, rows), side
        )
        return begin + number, _append(outputs, network(crops))

    _, outputs = tf.while_loop(
        lambda begin, _: begin < count, add, (0, outputs), parallel_iterations=_PARALLEL
    )
    return [output.concat()[:count] for output in outputs]
