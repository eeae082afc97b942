"""Losses that leave unknown labels out, on any Keras backend.

`task_loss` is the contract: it picks the loss of a task's kind, masks what is unknown and averages
what is known of each example. The functions of `LOSSES` are the losses of single labels; those of
`BATCH_LOSSES` see more than labels and outputs, see `faceattr_tf.losses.batch`.
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import numpy as np
from keras import ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.losses.batch import BatchLoss
from faceattr_tf.losses.centre import CentreLoss
from faceattr_tf.losses.relation import RelationLoss
from faceattr_tf.losses.similarity import SimilarityLoss

# Feng et al. (CVPR 2018) use a width of 10 and a curvature of 2 pixels on crops of 64 pixels, in
# which one normalised unit is 32 pixels.
WING_WIDTH = 10 / 32
WING_CURVATURE = 2 / 32

GAUSSIAN_WIDTH = 0.5
"""Deviation of `gaussian_cross_entropy`, in mean distances between neighbouring values."""


def known(task: Task, labels):
    """Which labels somebody gave.

    Args:
        task: the task that the labels belong to.
        labels: `[B, n]` (multilabel, regression, distribution), `[B]` (multiclass), `[B, n, 2]`
            (landmarks) or `[B, 2, 3]` (transform).

    Returns:
        Booleans `[B, n]`, for classes and transform `[B]`. A landmark is known when both
        coordinates are, a transform when all six numbers are.
    """
    labels = ops.convert_to_tensor(labels)
    if task.kind in ("multilabel", "multiclass"):
        return labels >= 0
    given = ops.logical_not(ops.isnan(labels))
    together = {"landmarks": (-1,), "distribution": (-1,), "transform": (-2, -1)}.get(task.kind, ())
    return ops.all(given, axis=together) if together else given


def sigmoid_cross_entropy(labels, logits, smoothing=0.0):
    """Binary cross-entropy per label, `[B, n]`; smoothing pulls the targets towards 1/2."""
    targets = labels * (1 - smoothing) + smoothing / 2
    return ops.softplus(logits) - logits * targets


def softmax_cross_entropy(labels, logits, smoothing=0.0):
    """Cross-entropy of class indices `[B]` and logits `[B, n]`, `[B]`; smoothing as usual."""
    targets = ops.one_hot(ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)
    return votes_cross_entropy(targets, logits, smoothing)


def votes_cross_entropy(shares, logits, smoothing=0.0):
    """Cross-entropy of distributions over classes and logits, both `[B, n]`: `[B]`."""
    targets = shares * (1 - smoothing) + smoothing / logits.shape[-1]
    return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)


def gaussian_cross_entropy(labels, logits, values):
    """Cross-entropy `[B]` of ordered classes whose neighbours share in the target.

    The target falls off with the distance of the classes' values as a Gaussian does (label
    distribution learning, Geng, TKDE 2016), whose deviation is half the mean distance between
    neighbouring values: with equal distances the next class has e^-2 of the true one's share.

    Args:
        labels: class indices `[B]`.
        logits: `[B, n]`.
        values: the number that each class stands for, `Task.values`.
    """
    values = np.array(values, np.float32)
    deviation = GAUSSIAN_WIDTH * np.diff(values).mean()
    weights = np.exp(-0.5 * np.square((values[:, None] - values) / deviation))
    targets = ops.convert_to_tensor(weights / weights.sum(axis=1, keepdims=True), "float32")
    return votes_cross_entropy(ops.take(targets, ops.cast(labels, "int32"), axis=0), logits)


def squared(labels, outputs):
    """Squared difference per value, `[B, n]`."""
    return ops.square(outputs - labels)


def huber(labels, outputs):
    """Huber's loss per value, `[B, n]`: half the square up to a difference of 1, then linear."""
    difference = ops.abs(outputs - labels)
    return ops.where(difference < 1, 0.5 * ops.square(difference), difference - 0.5)


def euclidean(labels, outputs):
    """Half the squared distance per landmark, `[B, n]` (Zhang et al., ECCV 2014)."""
    return 0.5 * ops.sum(ops.square(outputs - labels), axis=-1)


def distance(labels, outputs):
    """Distance per landmark, `[B, n]`: what the normalised mean error measures."""
    # The root's gradient is infinite at zero, where the floor makes it zero.
    return ops.sqrt(ops.maximum(ops.sum(ops.square(outputs - labels), axis=-1), 1e-12))


def wing(labels, outputs):
    """Wing loss per landmark, `[B, n]`, summed over x and y (Feng et al., CVPR 2018).

    `w ln(1 + |d| / e)` for `|d| < w`, else `|d| - C` with C such that both meet: small errors weigh
    more than in the squared loss. w is `WING_WIDTH`, e `WING_CURVATURE`, in normalised units.
    """
    difference = ops.abs(outputs - labels)
    offset = WING_WIDTH - WING_WIDTH * np.log1p(WING_WIDTH / WING_CURVATURE)
    near = WING_WIDTH * ops.log1p(difference / WING_CURVATURE)
    return ops.sum(ops.where(difference < WING_WIDTH, near, difference - offset), axis=-1)


def parameters(labels, outputs):
    """Mean squared difference of a transform's six numbers, `[B]` (FaceSTN, section III.C)."""
    return ops.mean(ops.square(outputs - labels), axis=(-2, -1))


def corners(labels, outputs):
    """Mean distance of the four corners that a transform gives to a crop, `[B]`.

    Normalised units; what the corner error measures in pixels. Its square would be nothing new: the
    mean squared distance is six times `parameters`.
    """
    square = ops.convert_to_tensor([[-1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]], dtype="float32")
    offsets = ops.matmul(outputs - labels, square)
    # As in `distance`.
    return ops.mean(ops.sqrt(ops.maximum(ops.sum(ops.square(offsets), axis=-2), 1e-12)), axis=-1)


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of single labels.

    Attributes:
        kind: the kind of task that it belongs to.
        function: `(labels, outputs) -> ` loss per label, of the shape of `known`.
        smooths: whether the function takes `smoothing` of labels as well.
        ordered: whether it takes `values` as well, those of classes that have an order.
    """

    kind: str
    function: Callable
    smooths: bool = False
    ordered: bool = False


LOSSES = {
    "sigmoid_cross_entropy": Loss("multilabel", sigmoid_cross_entropy, smooths=True),
    "softmax_cross_entropy": Loss("multiclass", softmax_cross_entropy, smooths=True),
    "gaussian_cross_entropy": Loss("multiclass", gaussian_cross_entropy, ordered=True),
    "votes_cross_entropy": Loss("distribution", votes_cross_entropy, smooths=True),
    "squared": Loss("regression", squared),
    "huber": Loss("regression", huber),
    "wing": Loss("landmarks", wing),
    "euclidean": Loss("landmarks", euclidean),
    "distance": Loss("landmarks", distance),
    "parameters": Loss("transform", parameters),
    "corners": Loss("transform", corners),
}
"""Name -> loss; the first one of a kind is that kind's default."""

BATCH_LOSSES = {"centre": CentreLoss, "similarity": SimilarityLoss, "relation": RelationLoss}
"""Name -> subclass of `BatchLoss`, of which a recipe may add any by `Recipe.losses`."""


def find_loss(task: Task, name: str = "", label_smoothing: float = 0.0) -> Loss:
    """The loss of that name, or the default of the task's kind.

    Raises:
        UserError: there is no such loss for tasks of this kind, it smooths no labels, or it needs
            classes with an order.
    """
    fitting = {key: loss for key, loss in LOSSES.items() if loss.kind == task.kind}
    name = name or next(iter(fitting))
    if name not in fitting:
        raise UserError(
            f"task {task.name!r}: there is no loss {name!r} for {task.kind} tasks; "
            f"there are: {', '.join(fitting)}"
        )
    if not 0 <= label_smoothing < 1:
        raise UserError(f"task {task.name!r}: label_smoothing {label_smoothing} is not in [0, 1)")
    if label_smoothing and not fitting[name].smooths:
        raise UserError(
            f"task {task.name!r}: the loss {name!r} smooths no labels; "
            f"expected label_smoothing 0 and not {label_smoothing}"
        )
    if fitting[name].ordered and not task.values:
        raise UserError(
            f"task {task.name!r}: the loss {name!r} is one of classes that stand for numbers, which "
            "these do not"
        )
    return fitting[name]


def create_batch_loss(name: str, tasks: Sequence[Task], features: int, **options) -> BatchLoss:
    """A loss of `BATCH_LOSSES` for a model.

    Args:
        name: its key.
        tasks: the tasks of the model.
        features: how many its heads see.
        **options: keyword arguments of the loss.

    Raises:
        UserError: the loss or an option does not exist.
    """
    if name not in BATCH_LOSSES:
        raise UserError(f"there is no loss {name!r}; there are: {', '.join(BATCH_LOSSES)}")
    parameters = inspect.signature(BATCH_LOSSES[name]).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UserError(
                f"loss {name!r} has no option {option!r}; it has: {', '.join(known) or 'none'}"
            )
    return BATCH_LOSSES[name](tasks, features, **options)


def task_loss(
    task: Task, labels, outputs, *, loss: str = "", label_weights=None, label_smoothing: float = 0.0
):
    """The loss of every example: the mean over those of its labels that are known.

    An unknown label adds neither to the loss nor to any gradient.

    Args:
        task: what is predicted.
        labels: `[B, n]`, `[B]`, `[B, n, 2]` or `[B, 2, 3]`; unknown is -1, in float labels NaN.
        outputs: what the model gives for this task, `[B, n]`, for landmarks `[B, n, 2]`, for a
            transform `[B, 2, 3]`.
        loss: a key of `LOSSES`; empty for the default of the task's kind.
        label_weights: factors of the single losses: `[n, 2]` for no and yes (multilabel), else
            `[n]` per class (of a distribution the mean over the votes), value or point; see the function of that name.
        label_smoothing: share of the target that is spread over all classes (cross-entropies).

    Returns:
        float32 `[B]`; 0 where no label of the example is known.
    """
    found = find_loss(task, loss, label_smoothing)
    outputs = ops.cast(outputs, "float32")
    mask = known(task, labels)
    labels = ops.cast(labels, "float32")
    # An unknown label is replaced before the loss is taken: NaN would survive a mask behind it,
    # in the gradient if not in the value.
    given = mask
    while len(given.shape) < len(labels.shape):
        given = ops.expand_dims(given, -1)
    labels = ops.where(given, labels, ops.zeros_like(labels))
    more = {"smoothing": label_smoothing} if found.smooths else {}
    more |= {"values": task.values} if found.ordered else {}
    values = found.function(labels, outputs, **more)
    if label_weights is not None:
        values = values * _spread_weights(task, labels, label_weights)
    values = ops.where(mask, values, ops.zeros_like(values))
    if task.kind in (*CLASS_KINDS, "transform"):
        return values
    count = ops.sum(ops.cast(mask, "float32"), axis=-1)
    return ops.sum(values, axis=-1) / ops.maximum(count, 1.0)


def _spread_weights(task, labels, label_weights):
    weights = ops.convert_to_tensor(label_weights, dtype="float32")
    if task.kind == "multilabel":
        return ops.where(labels > 0.5, weights[:, 1], weights[:, 0])
    if task.kind == "multiclass":
        return ops.take(weights, ops.cast(labels, "int32"), axis=0)
    if task.kind == "distribution":
        return ops.sum(labels * weights, axis=-1)
    return weights


def label_weights(
    task: Task, counts: Sequence, *, strength: float = 1.0, limit: float = 10.0
) -> np.ndarray:
    """Weights that give rare answers more say.

    With full strength every answer of a label has the same total weight, and the mean weight over
    the examples is 1 (before the limit).

    Args:
        task: a task of attributes or classes.
        counts: examples per answer: `[[no, yes], ...]` per label, or one count per class.
        strength: exponent of the weights; 0 leaves every weight at 1, 1 balances fully.
        limit: no weight is above this or below its reciprocal.

    Returns:
        float32 `[n, 2]` (multilabel) or `[n]` (multiclass), for `task_loss`.

    Raises:
        UserError: the task's kind has no answers to count.
    """
    if task.kind not in ("multilabel", *CLASS_KINDS):
        raise UserError(f"task {task.name!r}: a {task.kind} task has no classes to weight")
    counts = np.asarray(counts, np.float64)
    shares = counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1)
    weights = 1 / (counts.shape[-1] * np.maximum(shares, 1e-9))
    return (np.clip(weights, 1 / limit, limit) ** strength).astype(np.float32)
