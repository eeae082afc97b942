"""Thresholds for the slice that is worst off, the same for everybody, chosen on validation.

One threshold per label is what a model has in any case; another one may serve the worst slice better
and all others worse. How much of the one is to be had for how much of the other is a curve: for
every price, the threshold whose worst slice is best among those that cost all images together no
more balanced accuracy than that, on validation. What it is worth is measured elsewhere.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from faceattr_tf.evaluation.class_metrics import known_and_truth
from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.evaluation.slices import Slicing

PRICES = (0.0, 0.0025, 0.005, 0.01, 0.02, 0.05)
"""Of balanced accuracy, for the curve."""

CANDIDATES = 200


def thresholds_by_price(
    result: TaskResult, slicings: Mapping[str, Slicing], prices: Sequence[float], smallest: int
) -> dict[str, list[float]]:
    """Per label the threshold for every price.

    Args:
        result: a multilabel task on validation.
        slicings: of its images.
        prices: how much balanced accuracy of all images each may cost, against the thresholds of
            the result.
        smallest: a slice with fewer images that have the label, or that do not, says nothing.

    Returns:
        Label -> thresholds, in the order of the prices; without labels that no slice says anything of.
    """
    found = {}
    for index, label in enumerate(result.task.labels):
        own = result.thresholds[index]
        candidates = np.quantile(result.scores[:, index], np.linspace(0, 1, CANDIDATES))
        candidates = np.concatenate([[own], candidates])
        accuracies = balanced_accuracies(result, index, candidates, slicings, smallest)
        overall = accuracies.pop("")
        if not accuracies:
            continue
        worst = np.min(list(accuracies.values()), axis=0)
        found[label] = [
            # Of equally good ones the first, so that a threshold stays where nothing is gained.
            float(candidates[np.argmax(np.where(overall >= overall[0] - price, worst, -1))])
            for price in prices
        ]
    return found


def balanced_accuracies(
    result: TaskResult, index: int, thresholds, slicings: Mapping[str, Slicing], smallest: int
) -> dict[str, np.ndarray]:
    """That of a label at each of some thresholds, by slice, and "" for all images.

    Slices with too few images of either answer are left out, and those by the label itself.
    """
    own = f"{result.task.name}/{result.task.labels[index]}"
    known, truth = known_and_truth(result.task, result.labels)
    scores, found = result.scores[:, index], {}
    groups = {"": np.ones(len(scores), bool)}
    for slicing, of in slicings.items():
        if own not in of.labels:
            groups |= {f"{slicing}: {group}": member for group, member in of.groups.items()}
    for name, member in groups.items():
        where = np.asarray(member) & known[:, index]
        yes, no = (np.sort(scores[where & (truth[:, index] == value)]) for value in (True, False))
        if name and min(len(yes), len(no)) < smallest:
            continue
        below = np.searchsorted(yes, thresholds) / max(len(yes), 1)
        right = np.searchsorted(no, thresholds) / max(len(no), 1)
        found[name] = (1 - below + right) / 2
    return found


def measure_thresholds(
    result: TaskResult,
    slicings: Mapping[str, Slicing],
    chosen: Mapping[str, Sequence[float]],
    smallest: int,
) -> dict[str, list[dict]]:
    """What thresholds are worth on a split that they were not chosen on.

    Args:
        result: the task over that split.
        slicings: of its images.
        chosen: label -> thresholds.
        smallest: as of `thresholds_by_price`.

    Returns:
        Label -> of its own threshold and then of each of these `threshold`, `overall` and `worst`
        balanced accuracy, and `slice`, the worst one; without labels that no slice here says
        anything of.
    """
    found = {}
    for label in (label for label in result.task.labels if label in chosen):
        index = result.task.labels.index(label)
        thresholds = [result.thresholds[index], *chosen[label]]
        accuracies = balanced_accuracies(result, index, thresholds, slicings, smallest)
        overall = accuracies.pop("")
        if not accuracies:
            continue
        found[label] = [
            {
                "threshold": float(threshold),
                "overall": float(overall[place]),
                "worst": float(min(of[place] for of in accuracies.values())),
                "slice": min(accuracies, key=lambda name: accuracies[name][place]),
            }
            for place, threshold in enumerate(thresholds)
        ]
    return found
