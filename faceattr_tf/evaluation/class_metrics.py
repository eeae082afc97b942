"""Metrics of classes, exactly one of which is right: with and without an order, and of votes."""

import numpy as np
from scipy import special

from data_pipelines.tasks import CLASS_KINDS, SENSITIVE, Task

MANY_CLASSES = 100
"""Beyond as many classes, single ones get no figures, and nothing grows with their square."""


def has_many_classes(task: Task) -> bool:
    """Whether a task tells apart so many classes that single ones are left out."""
    return task.kind in CLASS_KINDS and len(task.labels) > MANY_CLASSES


def known_and_truth(task: Task, labels) -> tuple[np.ndarray, np.ndarray]:
    """Booleans `[N, n]`: which labels or classes are known, and which are true."""
    labels = np.asarray(labels)
    if task.kind == "multilabel":
        return labels >= 0, labels == 1
    truth = labels[:, None] == np.arange(len(task.labels))
    return np.broadcast_to(labels[:, None] >= 0, truth.shape), truth


def expected_values(task: Task, scores) -> np.ndarray:
    """The mean of the numbers that classes stand for, `[N]`, weighted by probabilities `[N, n]`."""
    return np.asarray(scores) @ np.array(task.values)


def ratio(part, whole):
    """A share as a float; None of nothing."""
    return float(part) / float(whole) if whole else None


def mean(values):
    """The mean of those that are not None; None where all are."""
    values = [value for value in values if value is not None]
    return sum(values) / len(values) if values else None


def false_positives(task: Task, rate: float | None) -> dict:
    """The false positive rate as a figure of sensitive tasks, of which it is the first; else none."""
    return {"false_positive_rate": rate} if task.name in SENSITIVE else {}


def evaluate(task: Task, labels: np.ndarray, outputs: np.ndarray, temperature, majority) -> dict:
    """The metrics of a multiclass task; arguments as for `metrics.evaluate_task`."""
    mask, classes = labels >= 0, len(task.labels)
    truth, outputs = labels[mask].astype(int), outputs[mask]
    predicted = outputs.argmax(axis=-1)
    right, true, guessed = (
        np.bincount(found, minlength=classes)
        for found in (truth[truth == predicted], truth, predicted)
    )
    count = len(truth)
    usual = None if majority is None else int(np.ravel(majority)[0])
    wrongly = [ratio(*of) for of in zip(guessed - right, count - true, strict=True)]
    result = {
        "count": count,
        **false_positives(task, mean(wrongly)),
        "accuracy": ratio(right.sum(), count),
        "majority_accuracy": None if usual is None else ratio((truth == usual).sum(), count),
        "balanced_accuracy": mean(map(ratio, right, true)),
    }
    if task.values:
        result |= _evaluate_order(task, truth, outputs, temperature, usual)
    if has_many_classes(task):
        return result | {"top5_accuracy": ratio(_among_first(truth, outputs, 5).sum(), count)}
    confusion = np.bincount(classes * truth + predicted, minlength=classes**2)
    rows = {
        name: {
            "count": int(true[index]),
            **false_positives(task, wrongly[index]),
            "precision": ratio(right[index], guessed[index]),
            "recall": ratio(right[index], true[index]),
            "f1": ratio(2 * right[index], true[index] + guessed[index]),
        }
        for index, name in enumerate(task.labels)
    }
    return result | {
        "mean_error": ratio(np.abs(truth - predicted).sum(), count),
        "confusion": confusion.reshape(classes, classes).tolist(),
        "classes": rows,
    }


def _evaluate_order(task, truth, outputs, temperature, usual):
    count, values = len(truth), np.array(task.values)
    near = np.abs(truth - outputs.argmax(axis=-1)) <= 1
    expected = expected_values(
        task, special.softmax(outputs.astype(np.float64) / temperature, axis=-1)
    )
    median = np.median(values[truth]) if count else 0.0
    usual_near = 0 if usual is None else (np.abs(truth - usual) <= 1).sum()
    return {
        "within_one": ratio(near.sum(), count),
        "majority_within_one": None if usual is None else ratio(usual_near, count),
        "value_mae": ratio(np.abs(expected - values[truth]).sum(), count),
        "median_value_mae": ratio(np.abs(median - values[truth]).sum(), count),
    }


def evaluate_votes(labels: np.ndarray, outputs: np.ndarray, temperature: float) -> dict:
    """What a distribution has beside the metrics of its classes; arguments as before."""
    known = np.isfinite(labels).all(axis=1)
    shares, logits = labels[known].astype(np.float64), outputs[known].astype(np.float64)
    logs = special.log_softmax(logits / temperature, axis=1)
    count, cross_entropy = len(shares), -(shares * logs).sum()
    return {
        "votes_cross_entropy": ratio(cross_entropy, count),
        "votes_divergence": ratio(cross_entropy - special.entr(shares).sum(), count),
    }


def _among_first(truth, outputs, most):
    """Where the true class is among the `most` largest outputs; of equal ones the first wins."""
    own = outputs[np.arange(len(truth)), truth][:, None]
    earlier = (outputs == own) & (np.arange(outputs.shape[1]) < truth[:, None])
    return (~(outputs <= own) | earlier).sum(axis=1) < most
