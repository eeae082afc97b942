"""How good a version is on records, and whether it may replace the one before."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UserError
from export.examples import Examples
from faceattr_tf.evaluation.subgroups import SMALLEST


def scores(
    answers: dict, examples: Examples, description: dict, least: int = 0, left_out=frozenset()
) -> dict[str, float]:
    """Balanced accuracy per label or task, from the labels that an export gives.

    Of one that may be unsure, from those that it would give else.

    Args:
        answers: what `ask` gave.
        examples: what was asked, with labels.
        description: the export's metadata.
        least: images that have to have each of two or more answers; 0 asks for nothing.
        left_out: `TASK/LABEL` of labels that are not judged; of classes the task is not.
    """
    found = {}
    for fields in description["tasks"]:
        name, truth = fields["name"], examples.labels.get(fields["name"])
        if truth is None or "label" not in fields["outputs"]:
            continue
        given = answers[f"answer/crop/{fields['outputs']['label']}"]
        if fields.get("least"):
            probability = answers[f"answer/crop/{fields['outputs']['probability']}"]
            given = probability.argmax(axis=-1)
            if "thresholds" in fields:
                given = (probability >= fields["thresholds"]).astype(int)
        columns = {name: (truth, given)}
        if fields["kind"] == "multilabel":
            columns = {
                label: (truth[:, i], given[:, i]) for i, label in enumerate(fields["labels"])
            }
        for label, (right, said) in columns.items():
            of_classes = [f"{name}/{one}" for one in fields["labels"]]
            own = of_classes if fields["kind"] != "multilabel" else [f"{name}/{label}"]
            if left_out & set(own):
                continue
            values, counts = np.unique(right[right >= 0], return_counts=True)
            recalls = [np.mean(said[right == value] == value) for value in values]
            enough = not least or (len(values) > 1 and counts.min() >= least)
            if recalls and enough:
                found[label] = float(np.mean(recalls))
    return found


def slice_scores(answers: dict, examples: Examples, description: dict, slicings: Mapping) -> dict:
    """The `scores` of every slice by the labels that it is not made of: slice -> label -> score.

    A label is judged where `SMALLEST` images or more have each of its answers.
    """
    found = {}
    for slicing, of in slicings.items():
        for group, member in of.groups.items():
            labels = {name: values[member] for name, values in examples.labels.items()}
            own = {key: v[member] for key, v in answers.items() if key.startswith("answer/crop/")}
            part = dataclasses.replace(examples, labels=labels)
            rates = scores(own, part, description, SMALLEST, of.labels)
            if rates:
                found[f"{slicing}: {group}"] = rates
    return found


def refuse_if_worse(new: dict, old: dict, margin: float, records: str) -> None:
    """Raises UserError where the mean of the scores fell by more than `margin` percentage points."""
    shared = sorted(set(new) & set(old))
    if not shared:
        raise UserError(f"{records}: the new version and the one it replaces share no label there")
    after, before = (100 * float(np.mean([s[name] for name in shared])) for s in (new, old))
    if after < before - margin:
        raise UserError(
            f"not published: mean balanced accuracy on {records} is {after:.2f} %, that of the "
            f"version it would replace {before:.2f} % (margin {margin:g} points)"
        )


def refuse_if_worst_is_worse(new: dict, old: dict, margin: float, records: str) -> None:
    """Raises UserError where the worst slice fell by more than `margin` percentage points.

    Prints what the worst slices are.

    Args:
        new, old: what `slice_scores` gave.
        margin: what the mean over labels may lose there.
        records: folder of the records, for the message.
    """
    worst = []
    for one, other in ((new, old), (old, new)):
        means = {}
        for name in one.keys() & other.keys():
            if shared := one[name].keys() & other[name].keys():
                means[name] = 100 * float(np.mean([one[name][label] for label in shared]))
        if not means:
            raise UserError(
                f"{records}: no slice has {SMALLEST} images with and {SMALLEST} without a label of "
                "both versions"
            )
        worst.append(min((value, name) for name, value in means.items()))
    (after, slice_now), (before, slice_then) = worst
    words = f"{slice_now}, {after:.2f} %, that of the version it would replace {slice_then}, "
    words += f"{before:.2f} %"
    print(f"  worst slice {words}")
    if after < before - margin:
        raise UserError(
            f"not published: the mean balanced accuracy of the worst slice of {records} is that of "
            f"{words} (margin {margin:g} points)"
        )


def mean_of(found: dict[str, float]) -> str:
    """The mean of what `scores` gave, in words."""
    if not found:
        return "no label of the model"
    mean = 100 * float(np.mean(list(found.values())))
    return f"mean balanced accuracy {mean:.2f} % of {len(found)} labels"
