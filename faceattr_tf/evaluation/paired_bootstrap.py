"""Differences between conditions on the same images, and how far chance would move them.

Every figure is a ratio of sums over images, so that drawing images again is a product of the draws
with a few columns per run. The same draws serve every run, hence a difference of two runs is paired
by image.

Another seed moves a figure, too. A handful of runs is too few to be drawn again: their mean is
moved by what Student's distribution allows instead, with a variance that the conditions share, as
in an analysis of variance. Drawing both is on the safe side: what a run makes of single images
counts in both (Owen, The pigeonhole bootstrap, 2007).

Arrays carry the draws on an axis whose first entry is the figure as measured.
"""

from collections.abc import Sequence

import numpy as np

from faceattr_tf.evaluation.bootstrap import TAILS, drawn_figures
from faceattr_tf.evaluation.results import TaskResult


def run_figures(result: TaskResult, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """The main figures of one run on one task, measured and with its images drawn again.

    Args:
        result: the task over the whole split.
        samples: how often the images are drawn again; may be 0.
        seed: the seed of the draws; runs with the same seed and images get the same draws.

    Returns:
        Figure -> float64, NaN where it is not defined. For multilabel `accuracy` and
        `balanced_accuracy` at 0.5 and `balanced_accuracy_at_thresholds`, `[1 + samples, labels]`;
        for multiclass `accuracy` and `balanced_accuracy`; for other kinds `error`, the metric
        of `results.ERRORS`. These are `[1 + samples]`.
    """
    if result.task.kind == "multilabel":
        half, tuned = drawn_figures(result, samples, (0.5, result.thresholds), seed)
        return half | {"balanced_accuracy_at_thresholds": tuned["balanced_accuracy"]}
    (found,) = drawn_figures(result, samples, seed=seed)
    return {name: draws for name, draws in found.items() if name != "failure_rate"}


def seed_weights(runs: Sequence[int], samples: int, seed: int = 0) -> list[np.ndarray]:
    """What every run weighs in the mean of each condition, with the seeds drawn again and without.

    A drawn mean is that of the condition's runs, plus a deviation that follows Student's t: scaled
    by the pooled variance of the runs about the mean of their condition, over the condition's
    number of runs. A condition of one run thus borrows from the others; where none has two runs,
    nothing is known of other seeds and nothing is drawn. A figure is linear in the runs, so weights
    serve all figures alike.

    Args:
        runs: number of runs per condition.
        samples: number of draws.
        seed: the seed of the draws.

    Returns:
        Per condition `[2, 1 + samples, all runs]`: seeds drawn again, and the runs weighed equally.
        Rows sum to 1, and in the first draw only the condition's own runs count.
    """
    random = np.random.default_rng(seed)
    runs = np.asarray(runs)
    owner = np.repeat(np.arange(len(runs)), runs)
    member = owner[:, None] == np.arange(len(runs))
    freedom = len(owner) - len(runs)
    if freedom:
        spread = np.sqrt(1 / random.chisquare(freedom, (samples, 1)))
    found = []
    for place, count in enumerate(runs):
        weights = np.tile(member[:, place] / count, (2, 1 + samples, 1))
        if freedom:
            noise = random.normal(size=(samples, len(owner)))
            noise -= (noise @ (member / runs))[:, owner]
            weights[0, 1:] += noise * spread / np.sqrt(count)
        found.append(weights)
    return found


def over_runs(figures: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The mean of a condition.

    Args:
        figures: one of `run_figures` per run, of all conditions: `[1 + samples]` each.
        weights: what `seed_weights` gives for this condition.

    Returns:
        `[2, 1 + samples]`, the first with the seeds drawn again, the second without.
    """
    return np.einsum("vsr,rs->vs", weights, np.stack(figures))


def estimate(draws: np.ndarray) -> dict:
    """A figure with its 95 % percentile intervals.

    Args:
        draws: `[2, 1 + samples]`, as `over_runs` gives them, or differences or ratios of such.

    Returns:
        `value`; `interval`, of images and seeds drawn again; `interval_images`, of images alone.
        None where there is nothing.
    """
    spans = []
    for row in draws[:, 1:]:
        known = row[np.isfinite(row)]
        spans.append(np.percentile(known, TAILS).tolist() if len(known) else None)
    value = float(draws[1, 0])
    return {
        "value": value if np.isfinite(value) else None,
        "interval": spans[0],
        "interval_images": spans[1],
    }


def excludes_zero(found: dict) -> bool:
    """Whether the interval of an `estimate` lies on one side of 0."""
    span = found["interval"]
    return span is not None and (span[0] > 0 or span[1] < 0)


def recovered_share(condition, baseline, reference) -> dict:
    """How much of what lies between baseline and reference a condition wins back.

    Args:
        condition: draws `[2, 1 + samples]`, as are the next ones.
        baseline: the share is 0 here.
        reference: and 1 here.

    Returns:
        The `estimate` of `(condition - baseline) / (reference - baseline)`, and `reason`: why there
        is none, where the interval of the denominator holds 0; else empty.
    """
    gap = estimate(reference - baseline)
    if gap["value"] in (None, 0.0) or (gap["interval"] and not excludes_zero(gap)):
        nothing = {"value": None, "interval": None, "interval_images": None}
        return {**nothing, "reason": "reference and baseline cannot be told apart"}
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (condition - baseline) / (reference - baseline)
    return {**estimate(share), "reason": ""}
