"""How much a figure would move with another sample of test images: percentile intervals.

The intervals do not hold what another seed or another training set would change.
"""

import numpy as np

from faceattr_tf.evaluation.results import TaskResult, known_and_truth

TAILS = (2.5, 97.5)
"""Percentiles between which 95 % of the resampled figures lie (Efron's percentile method)."""


def resampled_sums(columns: np.ndarray, samples: int, seed: int = 0) -> np.ndarray:
    """Sums of the columns `[N, K]` over N rows drawn with replacement: float64 `[samples, K]`."""
    columns = np.asarray(columns, np.float64)
    count = len(columns)
    random = np.random.default_rng(seed)
    sums = np.empty((samples, columns.shape[1]))
    for start in range(0, samples, 256):  # bounds memory to 256 * N weights
        weights = np.empty((min(256, samples - start), count))
        for row in weights:
            row[:] = np.bincount(random.integers(count, size=count), minlength=count)
        sums[start : start + len(weights)] = weights @ columns
    return sums


def intervals(result: TaskResult, samples: int, thresholds=None, seed: int = 0) -> dict:
    """95 % intervals of a task's main figures, whole images being drawn again.

    Args:
        result: the task over the whole split.
        samples: how often the split is drawn again.
        thresholds: one per label of a multilabel task; default 0.5.
        seed: of the draws; the same seed gives the same intervals.

    Returns:
        Measure -> `[low, high]`: accuracy and balanced accuracy, nme and failure rate, mae, or
        corner error; for multilabel such a dict per label under `labels` and one under `mean`. A
        measure that no draw defines is left out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if result.task.kind in ("multilabel", "multiclass"):
            return _of_decisions(result, samples, thresholds, seed)
        return _of_errors(result, samples, seed)


def _of_decisions(result, samples, thresholds, seed):
    task = result.task
    known, truth = known_and_truth(task, result.labels)
    if task.kind == "multilabel":
        said = result.scores >= (0.5 if thresholds is None else np.asarray(thresholds))
        kinds = [known & truth, known & ~truth, known & truth & said, known & ~truth & ~said]
        yes, no, yes_found, no_found = np.split(
            resampled_sums(np.hstack(kinds), samples, seed), 4, axis=1
        )
        accuracy = (yes_found + no_found) / (yes + no)
        balanced = (yes_found / yes + no_found / no) / 2
        return {
            "labels": {
                label: _spans(accuracy=accuracy[:, index], balanced_accuracy=balanced[:, index])
                for index, label in enumerate(task.labels)
            },
            "mean": _spans(
                accuracy=mean_of_labels(accuracy), balanced_accuracy=mean_of_labels(balanced)
            ),
        }
    right = truth & (result.scores.argmax(axis=1) == result.labels)[:, None]
    total, found = np.split(resampled_sums(np.hstack([truth, right]), samples, seed), 2, axis=1)
    return _spans(
        accuracy=found.sum(1) / total.sum(1), balanced_accuracy=mean_of_labels(found / total)
    )


def _of_errors(result, samples, seed):
    from faceattr_tf.evaluation.metrics import FAILURE

    known = np.isfinite(result.errors)
    errors = np.where(known, result.errors, 0)
    columns = np.stack([known, errors, errors > FAILURE], axis=1)
    count, total, failed = resampled_sums(columns, samples, seed).T
    if result.task.kind == "landmarks":
        return _spans(nme=total / count, failure_rate=failed / count)
    if result.task.kind == "transform":
        return _spans(corner_error=total / count)
    return _spans(mae=total / count)


def mean_of_labels(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined there; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)


def _spans(**measures: np.ndarray) -> dict[str, list[float]]:
    defined = {name: values[~np.isnan(values)] for name, values in measures.items()}
    return {
        name: np.percentile(values, TAILS).tolist()
        for name, values in defined.items()
        if len(values)
    }
