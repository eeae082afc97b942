"""Whether probabilities mean what they say: reliability curves and expected calibration errors.

The error is the mean distance between probability and share that is true, over bins that hold the
same number of images each (Nixon et al., Measuring calibration in deep learning, CVPR workshops
2019): bins of equal width are nearly empty where a model is sure of nearly everything. It is too high
for few images: in every bin chance adds a distance of its own, for a calibrated model, too. So it
stands beside `by_chance`, what a model would show on as many images whose probabilities are all
right: of an error that is not above that, nothing is known to be wrong.

Of a task, it is the mean of its labels' errors, or of classes that of the likeliest class alone.
"""

import numpy as np
from scipy import sparse

from data_pipelines.tasks import Task
from faceattr_tf.evaluation.class_metrics import known_and_truth, mean
from faceattr_tf.evaluation.metrics import probabilities

BINS = 10
TOP = "the likeliest class"
DRAWS = 20
"""How often labels are drawn for `by_chance`."""


def reliability(truth: np.ndarray, scores: np.ndarray, bins: int = BINS) -> dict:
    """Per bin the mean probability and the share that is true.

    Args:
        truth: bool `[N]`.
        scores: probabilities `[N]`.
        bins: number of bins of equally many examples; equal probabilities stay in one bin.

    Returns:
        `probability`, `share` and `count` per bin that is not empty, and `error`, the expected
        calibration error; None without examples.
    """
    places = _places(scores, bins)
    count = np.bincount(places, minlength=bins)
    used = count > 0
    expected = np.bincount(places, scores, bins)[used] / count[used]
    share = np.bincount(places, truth, bins)[used] / count[used]
    gap = np.abs(expected - share) @ count[used]
    return {
        "probability": expected.tolist(),
        "share": share.tolist(),
        "count": count[used].tolist(),
        "error": float(gap / len(places)) if len(places) else None,
    }


def gaps_by_bin(known, truth, scores) -> sparse.csr_array:
    """How far a probability lies above what came true, in the column of its bin: `[N, BINS]`.

    Summed over rows, the absolute values of all columns are the calibration error times the number
    of `known` images.
    """
    places = np.flatnonzero(known), _places(scores[known], BINS)
    gaps = scores[known] - truth[known]
    return sparse.csr_array((gaps, places), shape=(len(known), BINS))


def _places(scores: np.ndarray, bins: int) -> np.ndarray:
    """The bin of every probability."""
    if not len(scores):
        return np.zeros(0, int)
    return np.searchsorted(np.quantile(scores, np.arange(1, bins) / bins), scores)


def calibration_columns(task: Task, labels, scores) -> dict[str, tuple[np.ndarray, ...]]:
    """What the probabilities of a task are of: label or class -> `known`, `truth`, `scores` `[N]`.

    Of classes, `TOP` is the likeliest one, whichever it is.

    Args:
        task: multilabel or multiclass.
        labels: `[N, n]` or `[N]`, -1 where unknown.
        scores: probabilities `[N, n]`.
    """
    known, truth = known_and_truth(task, labels)
    found = dict(zip(task.labels, zip(known.T, truth.T, scores.T, strict=True), strict=True))
    if task.kind != "multilabel":
        right = scores.argmax(axis=1) == np.asarray(labels)
        found[TOP] = known.any(axis=1), right, scores.max(axis=1)
    return found


def measure_calibration(task: Task, labels, outputs, temperature) -> dict:
    """Calibration of a task before and after its outputs are divided by the temperature.

    Args:
        task: multilabel or multiclass.
        labels: `[N, n]` or `[N]`, -1 where unknown.
        outputs: logits `[N, n]`.
        temperature: what was fitted on validation.

    Returns:
        `before` and `after`: each `labels`, of every label or class (against all others) its
        `reliability`, and the `error` of the task. Of `after` errors stand beside those `by_chance`.
    """
    found = {}
    for name, divisor in (("before", 1.0), ("after", temperature)):
        columns = calibration_columns(task, labels, probabilities(task, outputs, divisor))
        found[name] = {
            "labels": {
                label: reliability(truth[known], scores[known])
                for label, (known, truth, scores) in columns.items()
            }
        }
    for label, (known, _, scores) in columns.items():
        found["after"]["labels"][label]["by_chance"] = _error_by_chance(scores[known])
    for part, names in (("before", ("error",)), ("after", ("error", "by_chance"))):
        rows = found[part]["labels"]
        for name in names:
            own = rows[TOP][name] if TOP in rows else mean(row[name] for row in rows.values())
            found[part][name] = own
    return found


def _error_by_chance(scores: np.ndarray) -> float | None:
    """The mean error where every probability is right and labels are drawn by it."""
    if not len(scores):
        return None
    random = np.random.default_rng(0)
    draws = [random.random(len(scores)) < scores for _ in range(DRAWS)]
    return float(np.mean([reliability(truth, scores)["error"] for truth in draws]))
