"""Thresholds of yes/no labels for a given false positive rate, and what they cost.

Flickr (section 4.7) judges groups of people so: to be told what one is not is worse than to be told
nothing, so the false positive rate is given, and the true positive rate and the share of people
without any label follow.
"""

import dataclasses

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.evaluation.metrics import probabilities
from faceattr_tf.evaluation.on_validation import answers_on_validation
from faceattr_tf.evaluation.results import TaskResult


@dataclasses.dataclass(frozen=True)
class Threshold:
    """Where a label is said, as validation chose.

    Attributes:
        value: the probability from which on it is said.
        negatives: validation images that do not have the label.
        false_positive_rate: the share of these that reach it.
    """

    value: float
    negatives: int
    false_positive_rate: float


def threshold_for(negatives: np.ndarray, rate: float) -> Threshold:
    """The lowest threshold that no larger share of examples without the label reaches.

    Args:
        negatives: their probabilities `[N]`.
        rate: the largest share that may.
    """
    falling = np.sort(negatives)[::-1]
    allowed = int(rate * len(falling) + 1e-9)
    # Just above the first that must not reach it, and all that are equal to it.
    value = np.nextafter(falling[allowed], 2) if allowed < len(falling) else 0.0
    return Threshold(float(value), len(falling), float((falling >= value).mean()))


def choose_on_validation(
    workdir,
    model,
    rate: float,
    *,
    flip: bool = False,
    ten_crop: float = 0.0,
    batch_size: int = 128,
) -> dict[str, dict[str, Threshold]]:
    """Thresholds for every label of a run's yes/no tasks, from its own validation images.

    Args:
        workdir: the `Workdir` of the run.
        model: its model.
        rate: the false positive rate, between 0 and 1.
        flip: average every output with that of the mirrored image, as in what is measured.
        ten_crop: the same over such patches.
        batch_size: images per forward pass.

    Returns:
        Task -> label -> threshold.

    Raises:
        UserError: the run has no yes/no task, its records are not there any more or hold no
            validation images, or every one of these has a label.
    """
    check_yes_no(workdir)
    shown = {"flip": flip, "ten_crop": ten_crop, "batch_size": batch_size}
    found = answers_on_validation(workdir, model, **shown)
    chosen = {}
    for task in (task for task in workdir.tasks if task.kind == "multilabel"):
        labels, outputs = found[task.name]
        temperature = workdir.calibration().get(task.name, {}).get("temperature", 1.0)
        scores = probabilities(task, outputs, temperature)
        chosen[task.name] = _of_labels(task, labels, scores, rate)
    return chosen


def check_yes_no(workdir) -> None:
    """Raises UserError where a run has no yes/no task."""
    if not any(task.kind == "multilabel" for task in workdir.tasks):
        raise UserError(
            f"{workdir.path}: a false positive rate is one of yes/no labels, and the model has none"
        )


def _of_labels(task: Task, labels, scores, rate: float) -> dict[str, Threshold]:
    found = {}
    for index, label in enumerate(task.labels):
        negatives = scores[labels[:, index] == 0, index]
        if not len(negatives):
            raise UserError(
                f"task {task.name!r}: no validation image is known to be without {label!r}, so that "
                "no threshold for a false positive rate can be chosen"
            )
        found[label] = threshold_for(negatives, rate)
    return found


def measure_at(result: TaskResult, thresholds: dict[str, Threshold], rate: float) -> dict:
    """What thresholds give on the split that was measured.

    Args:
        result: a yes/no task over the whole split.
        thresholds: label -> what `choose_on_validation` gave.
        rate: the false positive rate that they were chosen for.

    Returns:
        `rate`; `labels`: label -> threshold, validation_rate and validation_negatives of it,
        negatives, false_positives, false_positive_rate, positives, true_positives and
        true_positive_rate; `together`: these counts and rates over all labels of all people; and
        `without_label`, the share of images of which no label is said. Rates without examples are
        None.
    """
    labels, rows = np.asarray(result.labels), {}
    values = np.array([thresholds[label].value for label in result.task.labels])
    said = result.scores >= values
    for index, label in enumerate(result.task.labels):
        chosen = thresholds[label]
        rows[label] = {
            "threshold": chosen.value,
            "validation_rate": chosen.false_positive_rate,
            "validation_negatives": chosen.negatives,
            **_rates(labels[:, index : index + 1], said[:, index : index + 1]),
        }
    return {
        "rate": rate,
        "labels": rows,
        "together": _rates(labels, said),
        "without_label": float((~said.any(axis=1)).mean()) if len(said) else None,
    }


def _rates(labels: np.ndarray, said: np.ndarray) -> dict:
    found = {}
    for sign, name, all_ in ((0, "false_positive", "negatives"), (1, "true_positive", "positives")):
        count, of = int((said & (labels == sign)).sum()), int((labels == sign).sum())
        found |= {all_: of, f"{name}s": count, f"{name}_rate": count / of if of else None}
    return found
