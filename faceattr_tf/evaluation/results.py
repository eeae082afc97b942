"""One task over a whole split: all its figures, and what plots and examples are made from."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import special

from data_pipelines.tasks import Task, as_classes, most_voted
from faceattr_tf.evaluation import landmark_metrics, metrics, transform_metrics
from faceattr_tf.evaluation.class_metrics import has_many_classes, known_and_truth
from faceattr_tf.evaluation.reliability import measure_calibration

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
    temperature: float | Sequence[float] = 1.0,
    thresholds: tuple[float, ...] = (),
    majority=None,
    transforms=None,
    crop_size: tuple[int, int] | None = None,
) -> TaskResult:
    """Every figure of one task.

    A distribution is measured as the multiclass task of its classes, whose labels are the most
    voted ones; its figures hold those of the votes as well.

    Its `numbers` hold `metrics` (at the threshold 0.5); for yes/no attributes
    `metrics_at_thresholds`; and `calibration`, whether probabilities mean what they say, unless
    there are many classes.

    Args:
        task: the task.
        labels: as `metrics.evaluate_task` takes them; so are the arguments that follow.
        outputs: the model's.
        temperature: divides logits, one for all or one per label.
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
            numbers["calibration"] = measure_calibration(task, labels, outputs, temperature)
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
