"""One task over a whole split: all its figures, and what plots and examples are made from."""

import dataclasses

import numpy as np
from scipy import special

from data_pipelines.tasks import Task, as_classes, most_voted
from faceattr_tf.evaluation import landmark_metrics, metrics, transform_metrics
from faceattr_tf.evaluation.class_metrics import has_many_classes

ERRORS = {"landmarks": "nme", "transform": "corner_error", "regression": "mae"}
"""Kind of task -> the metric that is the mean of its errors."""


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """A shared task over the whole split: what plots and examples are made from.

    Attributes:
        task: the task with the labels that model and records share.
        labels: `[N, ...]`, unknown ones -1 or NaN.
        outputs: the model's, of the same labels.
        scores: calibrated probabilities; for other kinds the outputs.
        errors: one number per image, the higher the worse, NaN where nothing is known:
            cross-entropy, absolute error, landmark error in eye distances, or corner error of a
            transform in pixels.
        thresholds: per label of a multilabel task, chosen on validation.
        numbers: all figures, ready for JSON.
        crop_size: height and width of the crop, where they were given.
    """

    task: Task
    labels: np.ndarray
    outputs: np.ndarray
    scores: np.ndarray
    errors: np.ndarray
    thresholds: tuple[float, ...]
    numbers: dict
    crop_size: tuple[int, int] | None = None


def measure(
    task: Task,
    labels: np.ndarray,
    outputs: np.ndarray,
    *,
    temperature: float = 1.0,
    thresholds: tuple[float, ...] = (),
    majority=None,
    transforms=None,
    crop_size: tuple[int, int] | None = None,
) -> TaskResult:
    """Every figure of one task.

    A distribution is measured as the multiclass task of its classes, whose labels are the most
    voted ones; its figures hold those of the votes as well.

    Its `numbers` hold `metrics` (at the threshold 0.5); for yes/no attributes
    `metrics_at_thresholds`; and `reliability`, for each label or class whether its probability
    means what it says, unless there are many classes.

    Args:
        task: the task.
        labels: as `metrics.evaluate_task` takes them; so are the arguments that follow.
        outputs: the model's.
        temperature: divides logits.
        thresholds: per label, chosen on validation; empty means 0.5.
        majority: the most frequent answers in training.
        transforms: crop pixels to source pixels.
        crop_size: height and width of the crop.
    """
    if task.kind == "distribution":
        voted, classes = labels, as_classes(task)
        common = {"temperature": temperature, "majority": majority}
        result = measure(classes, most_voted(voted), outputs, **common)
        result.numbers["metrics"] = metrics.evaluate_task(task, voted, outputs, **common)
        return result
    common = {
        "temperature": temperature,
        "majority": majority,
        "transforms": transforms,
        "crop_size": crop_size,
    }
    numbers = {
        "kind": task.kind,
        "labels": list(task.labels),
        "metrics": metrics.evaluate_task(task, labels, outputs, **common),
    }
    scores = metrics.probabilities(task, outputs, temperature)
    errors = image_errors(task, labels, outputs, scores, transforms, crop_size)
    if task.kind in ("multilabel", "multiclass"):
        numbers["temperature"] = temperature
        if not has_many_classes(task):
            numbers["reliability"] = _reliability(task, labels, scores)
    if task.kind == "multilabel":
        thresholds = tuple(thresholds) or (0.5,) * len(task.labels)
        numbers["metrics_at_thresholds"] = metrics.evaluate_task(
            task, labels, outputs, thresholds=thresholds, **common
        )
    return TaskResult(task, labels, outputs, scores, errors, thresholds, numbers, crop_size)


def image_errors(task: Task, labels, outputs, scores, transforms=None, crop_size=None):
    """How wrong the model is on each image: `[N]`, the higher the worse, NaN if nothing is known.

    Mean cross-entropy over the known labels, mean absolute error, for landmarks the mean error in
    eye distances, for a transform the corner error in pixels of the crop. Arguments as for `metrics.evaluate_task`; `scores` are probabilities.
    """
    if task.kind == "landmarks":
        errors = landmark_metrics.landmark_errors(task, labels, outputs, transforms, crop_size)
    elif task.kind == "transform":
        errors = transform_metrics.corner_errors(labels, outputs, crop_size)[:, None]
    elif task.kind == "regression":
        errors = np.abs(np.asarray(outputs, np.float64) - labels)
    else:
        if task.kind == "multiclass":  # as yes or no to the true class, however many there are
            labels = np.asarray(labels).astype(int)[:, None]
            scores = np.take_along_axis(scores, np.maximum(labels, 0), axis=1)
            known = truth = labels >= 0
        else:
            known, truth = known_and_truth(task, labels)
        # A probability of exactly 0 or 1 would otherwise cost an infinite amount.
        scores = np.clip(scores, 1e-12, 1 - 1e-12)
        errors = -special.xlogy(truth, scores) - special.xlogy(~truth, 1 - scores)
        errors = np.where(known, errors, np.nan)
    known = ~np.isnan(errors)
    with np.errstate(invalid="ignore"):
        return np.where(known, errors, 0).sum(axis=1) / known.sum(axis=1)


def known_and_truth(task: Task, labels) -> tuple[np.ndarray, np.ndarray]:
    """Booleans `[N, n]`: which labels or classes are known, and which are true."""
    labels = np.asarray(labels)
    if task.kind == "multilabel":
        return labels >= 0, labels == 1
    truth = labels[:, None] == np.arange(len(task.labels))
    return np.broadcast_to(labels[:, None] >= 0, truth.shape), truth


def _reliability(task: Task, labels, scores) -> dict[str, dict]:
    known, truth = known_and_truth(task, labels)
    return {
        label: reliability(truth[known[:, index], index], scores[known[:, index], index])
        for index, label in enumerate(task.labels)
    }


def reliability(truth: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> dict:
    """Whether a probability means what it says: per bin the mean probability and the share true.

    Args:
        truth: bool `[N]`.
        probabilities: `[N]` in 0...1.
        bins: number of bins of equal width; empty ones are left out.

    Returns:
        `probability`, `share` and `count` per bin, and `error`, the expected calibration error:
        the mean gap, weighted by count (Naeini et al., AAAI 2015); None without examples.
    """
    index = np.minimum((np.asarray(probabilities) * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    mean = np.bincount(index, probabilities, bins)[used] / count[used]
    share = np.bincount(index, truth, bins)[used] / count[used]
    gap = np.abs(mean - share) @ count[used]
    return {
        "probability": mean.tolist(),
        "share": share.tolist(),
        "count": count[used].tolist(),
        "error": float(gap / len(index)) if len(index) else None,
    }
