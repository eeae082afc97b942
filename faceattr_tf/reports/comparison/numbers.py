"""The figures of a comparison: per condition, and as differences to a baseline.

Source of the layout: FaceSTN (Tan et al.), section III.D; the intervals are this project's.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.tasks import Task
from faceattr_tf.evaluation.bootstrap import mean_of_labels
from faceattr_tf.evaluation.metrics import METRICS
from faceattr_tf.evaluation.paired_bootstrap import (
    estimate,
    excludes_zero,
    over_runs,
    recovered_share,
    seed_weights,
)

FEW = 3
"""Attributes up to which all of them are shown side by side."""

LACKING = {
    "value": None,
    "interval": None,
    "interval_images": None,
    "runs": [],
    "deviation": None,
    "difference": None,
}
"""The entry of a condition that lacks an attribute."""


def compare_task(
    task: Task,
    figures: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    baseline: str,
    reference: str = "",
    labels: Mapping[str, Sequence[str]] | None = None,
) -> dict:
    """One task in all conditions that have it.

    Args:
        task: the task.
        figures: condition -> per run what `paired_bootstrap.run_figures` gave, all from the same
            images and draws.
        baseline: the condition that the others are compared with.
        reference: the condition that others would reach at best; empty for none.
        labels: condition -> the yes/no attributes that it has, as in its figures; default the
            task's. All are the task's.

    Returns:
        `kind`, `labels`, `shared` (the labels that all these conditions have), and `figures`: figure -> condition -> `value` (the mean over the runs),
        `interval` and `interval_images` (see `paired_bootstrap.estimate`), `runs` (of each),
        `deviation` (between the runs; None for one) and `difference` to the baseline (an estimate,
        and `clear`: whether its interval excludes 0; None for the baseline itself). For multilabel
        these are means over the shared attributes; `attributes` (figure -> attribute -> condition)
        holds the same for each of them, without figures where a condition lacks it, and `recovered`
        (figure -> condition) the recovered shares.
    """
    samples = len(next(iter(next(iter(figures.values()))[0].values()))) - 1

    @functools.cache
    def weights(conditions: tuple[str, ...]) -> dict[str, np.ndarray]:
        counts = [len(figures[condition]) for condition in conditions]
        return dict(zip(conditions, seed_weights(counts, samples), strict=True))

    has = {condition: tuple((labels or {}).get(condition, task.labels)) for condition in figures}
    shared = [label for label in task.labels if all(label in found for found in has.values())]
    result = {"kind": task.kind, "labels": list(task.labels), "shared": shared, "figures": {}}
    multilabel = task.kind == "multilabel"
    if multilabel:
        result |= {"attributes": {}, "recovered": {}}
    for name in next(iter(figures.values()))[0]:
        runs = {condition: [run[name] for run in group] for condition, group in figures.items()}
        if multilabel:
            rows = result["attributes"][name] = {}
            for label in task.labels:
                parts = {
                    condition: [run[:, has[condition].index(label)] for run in group]
                    for condition, group in runs.items()
                    if label in has[condition]
                }
                found, _ = _in_conditions(parts, weights(tuple(parts)), baseline)
                rows[label] = {condition: found.get(condition, LACKING) for condition in figures}
            for condition, group in runs.items():
                places = [has[condition].index(label) for label in shared]
                runs[condition] = [mean_of_labels(run[:, places]) for run in group]
        result["figures"][name], draws = _in_conditions(runs, weights(tuple(runs)), baseline)
        # What thresholds are chosen for is recovered at these, everything else at 0.5.
        metric, tuned, _ = name.partition("_at_thresholds")
        recoverable = multilabel and METRICS[metric].tuned == bool(tuned)
        if recoverable and {baseline, reference} <= set(draws):
            result["recovered"][name] = {
                condition: recovered_share(draws[condition], draws[baseline], draws[reference])
                for condition in draws
                if condition not in (baseline, reference)
            }
    return result


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
