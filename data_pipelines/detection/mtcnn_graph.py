"""MTCNN (Zhang et al., IEEE Signal Processing Letters 2016) as one TensorFlow function.

It finds what the `mtcnn` package finds, whose weights it uses, without Python between the steps:
the levels of a picture's pyramid stand on one canvas for P-Net (`mtcnn_pyramid`), and the proposals
of all pictures of a batch go through R-Net, and those that are left through O-Net, together.
"""

import math

import tensorflow as tf

from data_pipelines.detection import mtcnn_boxes, mtcnn_networks, mtcnn_pyramid

ALL = 2**31 - 1  # as maximum_candidates
_THRESHOLDS = (0.6, 0.7, 0.8)  # of P-Net, R-Net and O-Net, as in the package
_PARALLEL = 2  # pictures, or chunks of crops, in work at a time


class FaceFinder(tf.Module):
    """Faces in a batch of pictures of mixed sizes, in a graph that can be exported.

    >>> faces = FaceFinder()(pictures, sizes, 20.0, ALL)

    XLA does not compile it: it has no means of areas, and what is found has no fixed number.
    """

    def __init__(self):
        """Loads the weights, which become constants of the graph."""
        super().__init__()
        self._weights = mtcnn_networks.load_weights()

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, None, None, 3], tf.uint8, "pictures"),
            tf.TensorSpec([None, 2], tf.int32, "sizes"),
            tf.TensorSpec([], tf.float64, "minimum_size"),
            tf.TensorSpec([], tf.int32, "maximum_candidates"),
        ]
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
        boxes = tf.TensorArray(tf.float32, count, element_shape=[None, 4], infer_shape=False)
        numbers = tf.TensorArray(tf.int32, count, element_shape=[2])

        def add(index, boxes, numbers):
            picture = pictures[index, : sizes[index, 0], : sizes[index, 1]]
            found, left_out = self._propose(picture, minimum_size, maximum)
            number = tf.stack([tf.shape(found)[0], left_out])
            return index + 1, boxes.write(index, found), numbers.write(index, number)

        _, boxes, numbers = tf.while_loop(
            lambda index, *_: index < count, add, (0, boxes, numbers), parallel_iterations=_PARALLEL
        )
        found, left_out = tf.unstack(numbers.stack(), axis=1)
        return boxes.concat(), tf.repeat(tf.range(count), found), left_out

    def _propose(self, picture, minimum_size, maximum):
        scales, sizes = mtcnn_pyramid.level_scales(tf.shape(picture)[:2], minimum_size)
        canvas, corners = mtcnn_pyramid.draw_pyramid(picture, sizes)
        logits, offsets = mtcnn_networks.propose(canvas, self._weights.pnet)
        threshold = math.log(_THRESHOLDS[0] / (1 - _THRESHOLDS[0]))
        fields = tf.cast(tf.where(logits[0, ..., 1] - logits[0, ..., 0] > threshold), tf.int32)
        fields, levels = mtcnn_pyramid.locate(fields, corners, sizes)
        scores = tf.nn.softmax(tf.gather_nd(logits[0], fields))[:, 1]
        left_out = tf.maximum(tf.shape(scores)[0] - maximum, 0)
        fields, levels, scores = tf.cond(
            left_out > 0,
            lambda: _gather(
                tf.sort(tf.math.top_k(scores, maximum).indices), fields, levels, scores
            ),
            lambda: [fields, levels, scores],
        )
        offsets = tf.gather_nd(offsets[0], fields)
        best = mtcnn_boxes.unsuppressed_fields(fields, offsets, scores, levels, 0.5)
        fields, levels, scores, offsets = _gather(best, fields, levels, scores, offsets)
        boxes = mtcnn_boxes.boxes_of_fields(
            fields - tf.gather(corners, levels) // mtcnn_networks.STRIDE,
            offsets,
            tf.gather(tf.cast(scales, tf.float32), levels),
        )
        best = mtcnn_boxes.unsuppressed(boxes, scores, None, 0.7)
        return mtcnn_boxes.squared(tf.gather(boxes, best)), left_out

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
        boxes, scores, owners = _above(_THRESHOLDS[1], scores, boxes, scores, owners)
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
            _THRESHOLDS[2], scores, boxes, landmarks, scores, owners
        )
        best = mtcnn_boxes.unsuppressed(boxes, scores, owners, 0.7, minimum=True)
        best = mtcnn_boxes.ordered(best, owners)
        return _gather(best, boxes, scores, landmarks, owners)


def _gather(indices, *values):
    return [tf.gather(value, indices) for value in values]


def _above(threshold, scores, *values):
    return [tf.boolean_mask(value, scores > threshold) for value in values]


def _in_chunks(network, shapes, found, *, side, chunk, multiple):
    """What a network gives for the crops of boxes, in parts whose activations fit into a cache.

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
    outputs = [
        tf.TensorArray(tf.float32, 0, True, element_shape=[None, *shape], infer_shape=False).write(
            0, tf.zeros([0, *shape])
        )
        for shape in shapes
    ]

    def add(begin, outputs):
        number = tf.minimum(chunk, -(-(count - begin) // multiple) * multiple)
        rows = tf.minimum(tf.range(begin, begin + number), count - 1)
        crops = mtcnn_boxes.cut(
            pictures, sizes, tf.gather(boxes, rows), tf.gather(owners, rows), side
        )
        values = network(crops)
        written = [o.write(o.size(), value) for o, value in zip(outputs, values, strict=True)]
        return begin + number, written

    _, outputs = tf.while_loop(
        lambda begin, _: begin < count, add, (0, outputs), parallel_iterations=_PARALLEL
    )
    return [output.concat()[:count] for output in outputs]
