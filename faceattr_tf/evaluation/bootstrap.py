"""How much a figure would move with another sample of test images: percentile intervals.

The intervals do not hold what another seed or another training set would change.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import sparse

from faceattr_tf.evaluation.class_metrics import expected_values, known_and_truth
from faceattr_tf.evaluation.landmark_metrics import FAILURE
from faceattr_tf.evaluation.metrics import probabilities
from faceattr_tf.evaluation.reliability import BINS, TOP, calibration_columns, gaps_by_bin
from faceattr_tf.evaluation.results import ERRORS, TaskResult

TAILS = (2.5, 97.5)
"""Percentiles between which 95 % of the resampled figures lie (Efron's percentile method)."""


def resampled_sums(columns, samples: int, seed: int = 0) -> np.ndarray:
    """Sums of columns `[N, K]`, sparse or not, over N rows drawn with replacement.

    Returns:
        float64 `[samples, K]`.
    """
    columns = columns.astype(np.float64)
    count = columns.shape[0]
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
        seed: the seed of the draws; the same seed gives the same intervals.

    Returns:
        Measure -> `[low, high]`: accuracy and balanced accuracy, of classes that stand for numbers
        also within_one and value_mae, nme and failure rate, mae, or
        corner error; for multilabel such a dict per label under `labels` and one under `mean`. A
        measure that no draw defines is left out.
    """
    (found,) = drawn_figures(result, samples, (0.5 if thresholds is None else thresholds,), seed)
    if result.task.kind != "multilabel":
        error = ERRORS.get(result.task.kind)
        return _spans({error if name == "error" else name: of for name, of in found.items()})
    return {
        "labels": {
            label: _spans({name: draws[:, index] for name, draws in found.items()})
            for index, label in enumerate(result.task.labels)
        },
        "mean": _spans({name: mean_of_labels(draws) for name, draws in found.items()}),
    }


def drawn_figures(
    result: TaskResult, samples: int, thresholds: Sequence = (0.5,), seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """The main figures of a task, as measured and with its images drawn again.

    Args:
        result: the task over the whole split.
        samples: how often the images are drawn again; may be 0.
        thresholds: where a multilabel task is measured; each is a number or one per label.
        seed: of the draws, which are the same for all thresholds.

    Returns:
        Per threshold, for other kinds once: figure -> float64 `[1 + samples]`, for multilabel
        `[1 + samples, labels]`; NaN where it is not defined. For multilabel and multiclass accuracy
        and balanced_accuracy, within_one and value_mae where classes stand for numbers; for other kinds error, the metric of `results.ERRORS`, and for
        landmarks failure_rate.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if result.task.kind == "multilabel":
            return _of_answers(result, samples, thresholds, seed)
        if result.task.kind == "multiclass":
            return [_of_classes(result, samples, seed)]
        return [_of_errors(result, samples, seed)]


def _of_answers(result, samples, thresholds, seed):
    known, truth = known_and_truth(result.task, result.labels)
    yes, no = known & truth, known & ~truth
    columns = [yes, no]
    for threshold in thresholds:
        said = result.scores >= np.asarray(threshold)
        columns += [yes & said, no & ~said]
    yes, no, *found = np.split(_sums(np.hstack(columns), samples, seed), len(columns), axis=1)
    return [
        {
            "accuracy": (yes_found + no_found) / (yes + no),
            "balanced_accuracy": (yes_found / yes + no_found / no) / 2,
        }
        for yes_found, no_found in zip(found[::2], found[1::2], strict=True)
    ]


def _of_classes(result, samples, seed):
    labels, classes = np.asarray(result.labels), len(result.task.labels)
    # One of [wrong, right] x classes per image: with thousands of classes nearly all is 0.
    known = np.flatnonzero(labels >= 0)
    places = (labels + classes * (result.scores.argmax(axis=1) == labels))[known].astype(int)
    shape = (len(labels), 2 * classes)
    table = sparse.csr_array((np.ones(len(known)), (known, places)), shape=shape)
    wrong, found = np.split(_sums(table, samples, seed), 2, axis=1)
    total = wrong + found
    return {
        "accuracy": found.sum(axis=1) / total.sum(axis=1),
        "balanced_accuracy": mean_of_labels(found / total),
        **(_of_order(result, samples, seed) if result.task.values else {}),
    }


def _of_order(result, samples, seed):
    known, values = np.asarray(result.labels) >= 0, np.array(result.task.values)
    truth = np.where(known, result.labels, 0).astype(int)
    near = known & (np.abs(truth - result.scores.argmax(axis=1)) <= 1)
    errors = known * np.abs(expected_values(result.task, result.scores) - values[truth])
    count, near, errors = _sums(np.stack([known, near, errors], axis=1), samples, seed).T
    return {"within_one": near / count, "value_mae": errors / count}


def _of_errors(result, samples, seed):
    errors = result.errors[:, None]
    if (
        result.task.kind == "regression"
    ):  # the mean of its labels, each over the images that have it
        errors = np.abs(np.asarray(result.outputs, np.float64) - result.labels)
    known = np.isfinite(errors)
    errors = np.where(known, errors, 0)
    columns = np.hstack([known, errors, errors > FAILURE])
    count, total, failed = np.split(_sums(columns, samples, seed), 3, axis=1)
    rate = {"failure_rate": (failed / count)[:, 0]} if result.task.kind == "landmarks" else {}
    return {"error": mean_of_labels(total / count), **rate}


def _sums(table, samples: int, seed: int) -> np.ndarray:
    """Sums over the images of `[N, K]`, as measured and drawn again: `[1 + samples, K]`."""
    measured = np.asarray(table.sum(axis=0, dtype=np.float64))
    return np.concatenate([measured[None], resampled_sums(table, samples, seed)])


def mean_of_labels(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is defined there; NaN where nothing is."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis=-1) / known.sum(axis=-1)


def calibration_intervals(result: TaskResult, samples: int, seed: int = 0) -> dict:
    """95 % intervals of the calibration errors of a task, before and after calibration.

    They say how much a figure would move with as many other images. What few images add to it is
    in figure and interval alike (that drawing again adds once more is taken off): compare with
    what there is by chance, see `faceattr_tf.evaluation.reliability`.

    Args:
        result: the task over the whole split, with `calibration` in its numbers.
        samples: how often the split is drawn again.
        seed: of the draws.

    Returns:
        `before` and `after`: each `labels`, label or class -> `[low, high]`, and `error`, that of
        the task; without what has no images.
    """
    found = {}
    all_scores = {
        "before": probabilities(result.task, result.outputs),
        "after": result.scores,
    }
    for name, scores in all_scores.items():
        columns = calibration_columns(result.task, result.labels, scores)
        columns = {label: of for label, of in columns.items() if of[0].any()}
        if not columns:
            return {}
        parts = [[gaps_by_bin(*of), of[0][:, None]] for of in columns.values()]
        table = sparse.csr_array(sparse.hstack([part for pair in parts for part in pair]))
        sums = _sums(table, samples, seed).reshape(1 + samples, len(columns), BINS + 1)
        with np.errstate(invalid="ignore"):
            errors = np.abs(sums[..., :BINS]).sum(axis=-1) / sums[..., BINS]
        of_task = errors[:, -1] if TOP in columns else mean_of_labels(errors)
        found[name] = {
            "labels": {label: _spread(errors[:, i]) for i, label in enumerate(columns)},
            "error": _spread(of_task),
        }
    return found


def _spread(draws: np.ndarray) -> list[float]:
    """The spread of the draws about their own mean, put about the figure, which comes first."""
    low, high = np.nanpercentile(draws[1:], TAILS) - np.nanmean(draws[1:])
    return [max(0.0, float(draws[0] - end)) for end in (high, low)]


def _spans(figures: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    defined = {name: draws[1:][~np.isnan(draws[1:])] for name, draws in figures.items()}
    return {
        name: np.percentile(values, TAILS).tolist()
        for name, values in defined.items()
        if len(values)
    }
