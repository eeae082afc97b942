"""The figures of a comparison: per condition, and as differences to a baseline.

Source of the layout: FaceSTN (Tan et al.), section III.D; the intervals are this project's.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.tasks import Task
from faceattr_tf.bootstrap import mean_of_labels
from faceattr_tf.paired_bootstrap import (
    estimate,
    excludes_zero,
    over_runs,
    recovered_share,
    seed_weights,
)

FEW = 3
"""Attributes up to which all of them are shown side by side."""

RECOVERABLE = ("accuracy", "balanced_accuracy_at_thresholds")
"""Figures of which a recovered share is given: means over yes/no attributes."""


def compare_task(
    task: Task,
    figures: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    baseline: str,
    reference: str = "",
) -> dict:
    """One task in all conditions that have it.

    Args:
        task: the task.
        figures: condition -> per run what `paired_bootstrap.run_figures` gave, all from the same
            images and draws.
        baseline: the condition that the others are compared with.
        reference: the condition that others would reach at best; empty for none.

    Returns:
        `kind`, `labels`, and `figures`: figure -> condition -> `value` (the mean over the runs),
        `interval` and `interval_images` (see `paired_bootstrap.estimate`), `runs` (of each),
        `deviation` (between the runs; None for one) and `difference` to the baseline (an estimate,
        and `clear`: whether its interval excludes 0; None for the baseline itself). For multilabel
        these are means over the attributes; `attributes` (figure -> attribute -> condition) holds
        the same for each of them, and `recovered` (figure -> condition) the recovered shares.
    """
    samples = len(next(iter(next(iter(figures.values()))[0].values()))) - 1
    counts = [len(runs) for runs in figures.values()]
    weights = dict(zip(figures, seed_weights(counts, samples), strict=True))
    result = {"kind": task.kind, "labels": list(task.labels), "figures": {}}
    multilabel = task.kind == "multilabel"
    if multilabel:
        result |= {"attributes": {}, "recovered": {}}
    for name in next(iter(figures.values()))[0]:
        runs = {condition: [run[name] for run in group] for condition, group in figures.items()}
        if multilabel:
            result["attributes"][name] = {
                label: _in_conditions(_part(runs, index), weights, baseline)[0]
                for index, label in enumerate(task.labels)
            }
            runs = {key: [mean_of_labels(run) for run in group] for key, group in runs.items()}
        result["figures"][name], draws = _in_conditions(runs, weights, baseline)
        if multilabel and name in RECOVERABLE and {baseline, reference} <= set(draws):
            result["recovered"][name] = {
                condition: recovered_share(draws[condition], draws[baseline], draws[reference])
                for condition in draws
                if condition not in (baseline, reference)
            }
    return result


def _part(runs, index):
    return {key: [run[:, index] for run in group] for key, group in runs.items()}


def _in_conditions(runs, weights, baseline) -> tuple[dict, dict]:
    """The entry of every condition, and its draws, of figures `[1 + samples]` per run."""
    everyone = [run for group in runs.values() for run in group]
    draws = {key: over_runs(everyone, weights[key]) for key in runs}
    entries = {}
    for key, group in runs.items():
        measured = [float(run[0]) if np.isfinite(run[0]) else None for run in group]
        difference = None
        if key != baseline and baseline in draws:
            difference = estimate(draws[key] - draws[baseline])
            difference["clear"] = excludes_zero(difference)
        entries[key] = {
            **estimate(draws[key]),
            "runs": measured,
            "deviation": float(np.std(measured, ddof=1))
            if len(measured) > 1 and None not in measured
            else None,
            "difference": difference,
        }
    return entries, draws


def chosen_attributes(task: dict) -> list[str]:
    """The attributes to show side by side (FaceSTN, Tables 3 and 4).

    Those with the largest clear gain and the largest clear loss of accuracy in any condition, and
    Smiling; all of them where there are no more than `FEW`.

    Args:
        task: a multilabel task, from `compare_task`.
    """
    if len(task["labels"]) <= FEW:
        return task["labels"]
    clear = [
        (entry["difference"]["value"], label)
        for label, conditions in task["attributes"]["accuracy"].items()
        for entry in conditions.values()
        if entry["difference"] and entry["difference"]["clear"]
    ]
    found = []
    if clear:
        found += [label for value, label in [max(clear)] if value > 0]
        found += [label for value, label in [min(clear)] if value < 0]
    if "Smiling" in task["labels"]:
        found.append("Smiling")
    return list(dict.fromkeys(found))
