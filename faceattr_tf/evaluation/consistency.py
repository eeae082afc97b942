"""Answers that do not contradict each other: of an impossible pair the less certain one gives way.

How certain an answer is, is the distance of its calibrated log-odds from those of its threshold.
Answers are settled from the most certain one on, each together with all that follows from it
(`implications`); one that is ruled out by then becomes its opposite, from which nothing can follow
that would contradict what is settled. So every chain of pairs ends, none is left, and the order of
pairs says nothing (of two answers that are equally certain the one of the earlier label counts).
Answers without an impossible pair stay as they are.

The probability of an answer that gave way moves just across its threshold, by a hundredth (`BEYOND`)
of what lies there: probability and label say the same, and no more than that. All other
probabilities stay calibrated.
"""

from collections.abc import Sequence

import numpy as np
from keras import ops
from scipy import special

from data_pipelines.input.impossible_pairs import implications
from data_pipelines.tasks import Task
from faceattr_tf.evaluation.metrics import evaluate_task

BEYOND = 0.01


def consistent_answers(task: Task, logits, thresholds, pairs: Sequence[dict]):
    """Answers of a task without impossible pairs, on any Keras backend and in graphs.

    Args:
        task: multilabel.
        logits: `[N, n]`, divided by the temperature.
        thresholds: on the probability, per label.
        pairs: what `data_pipelines.input.impossible_pairs` found.

    Returns:
        Probabilities float32 `[N, n]`, and bool `[N, n]`, whether the answer is yes, which is where
        the probability reaches the threshold.
    """
    logits = ops.cast(logits, "float32")
    limits = np.clip(special.logit(np.asarray(thresholds, np.float64)), -1e4, 1e4)
    thresholds = np.asarray(thresholds, np.float32)
    probability = ops.sigmoid(logits)
    yes = probability >= thresholds
    certainty = ops.abs(logits - limits.astype(np.float32))
    settled = _settle(yes, certainty, implications(task, pairs))
    across = ops.where(
        settled, thresholds + BEYOND * (1 - thresholds), thresholds - BEYOND * thresholds
    )
    return ops.where(ops.equal(settled, yes), probability, across), settled


def _settle(yes, certainty, follows: np.ndarray):
    """Bool `[N, n]`: the answers `yes`, as far as more certain ones do not rule them out."""
    n = len(follows) // 2
    opposite = np.roll(np.arange(2 * n), n)
    # What follows from its opposite holds whatever a model says.
    given = follows[follows[opposite, np.arange(2 * n)]].any(axis=0)
    order = ops.argsort(-certainty, axis=1)
    answers = ops.arange(n) + n * ops.cast(yes, "int32")
    answers = ops.take_along_axis(answers, order, axis=1)
    follows = ops.convert_to_tensor(follows)

    def settle(place, settled):
        answer = ops.take(answers, place, axis=1)
        other = (answer + n) % (2 * n)
        ruled_out = ops.take_along_axis(settled, other[:, None], axis=1)[:, 0]
        return ops.logical_or(
            settled, ops.take(follows, ops.where(ruled_out, other, answer), axis=0)
        )

    settled = ops.logical_or(ops.concatenate([yes, yes], axis=1) & False, given)
    return ops.fori_loop(0, n, settle, settled)[:, n:]


def measure_consistency(
    task: Task,
    outputs: np.ndarray,
    shared: Task,
    labels: np.ndarray,
    calibration: dict,
    pairs: Sequence[dict],
    resolve: bool = False,
) -> dict:
    """How often a model asserts impossible pairs over a whole split, and what consistency costs.

    Args:
        task: multilabel, as the model has it: pairs of all of its labels count.
        outputs: the model's, `[N, n]`.
        shared: the task with the labels that are known here.
        labels: of these, `[N, m]`, -1 where unknown.
        calibration: `temperature` and `thresholds` of the task.
        pairs: impossible by the labels of training.
        resolve: measure the answers of `consistent_answers` as well.

    Returns:
        `pairs` and `images`, how many there are; and of the answers `at_half` and `at_thresholds`:
        `images` with an impossible pair, `pairs` asserted in them all together, and `worst`, the
        pairs in words with the number of images that assert them, most first. With `resolve` also `plain`
        and `consistent`, each with mean `accuracy` and `balanced_accuracy` and those of all
        `labels`; and of `consistent` the `images` with an impossible pair, and how many answers
        have `changed`.
    """
    logits = np.asarray(outputs, np.float64) / calibration.get("temperature", 1.0)
    halves = [0.5] * len(task.labels)
    found = {"pairs": len(pairs), "images": len(logits)}
    readings = {"at_half": halves, "at_thresholds": calibration.get("thresholds") or halves}
    columns = [task.labels.index(label) for label in shared.labels]
    for reading, thresholds in readings.items():
        yes = special.expit(logits) >= np.array(thresholds)
        found[reading] = _count(task, yes, pairs)
        if resolve:
            settled = np.asarray(consistent_answers(task, logits, thresholds, pairs)[1])
            found[reading] |= {
                "plain": _accuracies(shared, labels, yes[:, columns]),
                "consistent": {
                    "images": _count(task, settled, pairs)["images"],
                    "changed": int((settled != yes).sum()),
                    **_accuracies(shared, labels, settled[:, columns]),
                },
            }
    return found


def _count(task: Task, yes: np.ndarray, pairs: Sequence[dict]) -> dict:
    asserted = np.ones([len(yes), len(pairs)], bool)
    for column, pair in enumerate(pairs):
        for label, answer in pair["answers"].items():
            asserted[:, column] &= yes[:, task.labels.index(label)] == answer
    images = asserted.sum(axis=0)
    worst = [
        {"pair": _words(pairs[column]), **pairs[column], "images": int(images[column])}
        for column in np.argsort(-images, kind="stable")
        if images[column]
    ]
    counts = {"images": int(asserted.any(axis=1).sum()), "pairs": int(images.sum())}
    return counts | {"worst": worst}


def _words(pair: dict) -> str:
    """The two answers of an impossible pair, as `Bald with Bangs` or `Mustache without Male`."""
    answers = sorted(pair["answers"].items(), key=lambda answer: not answer[1])
    (first, yes), (second, other) = answers
    if not yes:
        return f"neither {first} nor {second}"
    return f"{first} {'with' if other else 'without'} {second}"


def _accuracies(task: Task, labels: np.ndarray, yes: np.ndarray) -> dict:
    numbers = evaluate_task(task, labels, np.where(yes, 1.0, -1.0))
    names = ("accuracy", "balanced_accuracy")
    rows = {label: {name: row[name] for name in names} for label, row in numbers["labels"].items()}
    return {name: numbers["mean"][name] for name in names} | {"labels": rows}
