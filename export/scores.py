"""How good a version is on records, and whether it may replace the one before.

The rule, here and in `export.canary`: a version may not be right less often than the one before, nor
wrong more often, by more than a margin. Unsure is neither, so that one that answers less is not better
for it, and one that guesses instead is not either.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from export.examples import Examples
from faceattr_tf.evaluation.conformal import UNSURE_INDEX
from faceattr_tf.evaluation.subgroups import SMALLEST

RIGHT, NOT_WRONG = (
    "mean balanced accuracy",
    "mean balanced share of answers that are right or unsure",
)
"""What is compared: the `scores` of answers, and those with `unsure_as_right`."""


def scores(
    answers: dict, examples: Examples, description: dict, least: int = 0, left_out=frozenset()
) -> dict[str, float]:
    """Balanced accuracy per label or task, from the labels that an export gives; unsure is not right.

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


def may_be_unsure(description: dict) -> bool:
    """Whether an export was told to say so where it is."""
    return any(fields.get("least") for fields in description["tasks"])


def unsure_as_right(answers: dict, examples: Examples, description: dict) -> dict:
    """The answers with the true label where they are unsure: what their `scores` lack is wrong."""
    found = dict(answers)
    for fields in description["tasks"]:
        truth, output = examples.labels.get(fields["name"]), fields["outputs"].get("label")
        if truth is not None and output:
            given = answers[f"answer/crop/{output}"]
            found[f"answer/crop/{output}"] = np.where(given == UNSURE_INDEX, truth, given)
    return found


def measures(versions: Sequence[tuple[dict, dict]], examples: Examples) -> dict[str, list]:
    """What is compared of versions: `RIGHT` or `NOT_WRONG` -> answers and description of each.

    The latter is the same as the former where no version may be unsure, and is left out.
    """
    found = {RIGHT: list(versions)}
    if any(may_be_unsure(description) for _, description in versions):
        found[NOT_WRONG] = [(unsure_as_right(a, examples, d), d) for a, d in versions]
    return found


def refuse_if_worse(
    new: dict, old: dict, margin: float, records: str, measure: str = RIGHT
) -> None:
    """Raises UserError where the mean of the scores fell by more than `margin` percentage points."""
    shared = sorted(set(new) & set(old))
    if not shared:
        raise UserError(f"{records}: the new version and the one it replaces share no label there")
    after, before = (100 * float(np.mean([s[name] for name in shared])) for s in (new, old))
    if after < before - margin:
        raise UserError(
            f"not published: {measure} on {records} is {after:.2f} %, that of the "
            f"version it would replace {before:.2f} % (margin {margin:g} points)"
        )


def refuse_if_worst_is_worse(
    new: dict, old: dict, margin: float, records: str, measure: str = RIGHT
) -> None:
    """Raises UserError where the worst slice fell by more than `margin` percentage points.

    Prints what the worst slices are.

    Args:
        new, old: what `slice_scores` gave.
        margin: what the mean over labels may lose there.
        records: folder of the records, for the message.
        measure: `RIGHT` or `NOT_WRONG`, for the message.
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
    print(f"  worst slice by {measure}: {words}")
    if after < before - margin:
        raise UserError(
            f"not published: the {measure} of the worst slice of {records} is that of "
            f"{words} (margin {margin:g} points)"
        )


def said_of(answers: dict, examples: Examples, description: dict) -> str:
    """The mean of the `scores`, in words; of a version that may be unsure, also how often it is."""
    found = scores(answers, examples, description)
    if not found:
        return "no label of the model"
    mean = 100 * float(np.mean(list(found.values())))
    text = f"{RIGHT} {mean:.2f} % of {len(found)} labels"
    if may_be_unsure(description):
        as_right = unsure_as_right(answers, examples, description)
        unsure = 100 * float(np.mean(list(scores(as_right, examples, description).values()))) - mean
        answered = 100 * mean / max(100 - unsure, 1e-9)
        text += f"; unsure {unsure:.2f} %, right where it answers {answered:.2f} %"
    return text
