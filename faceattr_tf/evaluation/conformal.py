"""When a model says `unsure`: split conformal prediction at a risk that the user chooses.

An answer is possible where its probability is no lower than that which all but a share (the risk) of
the validation images have for the answer that is right there (Sadinle, Lei and Wasserman, Least
ambiguous set-valued classifiers, JASA 2019). The answer that a model gives anyway always counts as
possible; where another one is, too, the model says `unsure`. Of images that are drawn as those of
validation were, at most that share is then told something wrong: in expectation over validation
images, and whatever the model is worth, which shows in how often it is unsure.

The risk holds for the images of every answer by themselves (Mondrian, or class-conditional): of
those that have a label, and of those that do not; of every class. What is rare would else pay for
what is not: always denying what 2 in 100 have is wrong in 2 of 100 cases. `overall` takes all images
of a label or task together.

It holds for every label by itself, not for all labels of an image at once: of 40 labels at a risk
of 0.05, up to 2 of an image's may be wrong on average. At once, the 40 would be unsure of nearly
everything.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task, most_voted

UNSURE = "unsure"
"""What is said in place of a label or class."""

UNSURE_INDEX = -2
"""The same in an export's outputs, where -1 stands for images that could not be read."""


@dataclasses.dataclass(frozen=True)
class Risk:
    """Which share of the images may be told something wrong.

    Attributes:
        share: between 0 and 1.
        overall: of all images of a label or task, in place of those of every answer by itself.
        tasks: names of those whose answers may be unsure; empty for all that can.
    """

    share: float
    overall: bool = False
    tasks: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: "Risk | float | str") -> "Risk":
        """A share as a number or as text, which may go on with `,overall` and names of tasks.

        Raises:
            UserError: it is none.
        """
        if isinstance(value, Risk):
            return value
        text, *more = str(value).split(",")
        try:
            share = float(text)
        except ValueError:
            share = math.nan
        if not 0 < share < 1:
            raise UserError(
                f"unsure {value}: expected the share of answers that may be wrong, between 0 and 1 "
                "as in 0.05, or 0.05,overall"
            )
        return cls(share, "overall" in more, tuple(name for name in more if name != "overall"))

    def __str__(self):
        return f"{self.share:g}" + (",overall" if self.overall else "")


def with_unsure(workdir, calibration: Mapping, risk, model=None, **shown) -> dict[str, dict]:
    """The calibration of a run with what makes answers unsure: per task `risk` and `least`.

    Args:
        workdir: the `Workdir` of the run.
        calibration: what it gave.
        risk: what was asked for, see `Risk.of`.
        model: its model, where it is loaded already.
        **shown: how answers come about, see `on_validation.answers_on_validation`.

    Raises:
        UserError: validation has too few images for the risk, or cannot be judged; or the model has
            no answers that could be unsure, or no task of a name.
    """
    from faceattr_tf.evaluation.metrics import probabilities
    from faceattr_tf.evaluation.on_validation import answers_on_validation, is_kept

    found, risk = dict(calibration), Risk.of(risk)
    known = [task.name for task in workdir.tasks if is_kept(task)]
    unknown = [name for name in risk.tasks if name not in known]
    if unknown or not known:
        raise UserError(
            f"unsure {risk}: {workdir.path} has no such task {', '.join(unknown)} of yes/no labels or "
            f"some classes; there are: {', '.join(known) or 'none'}"
        )
    answered = answers_on_validation(workdir, model, **shown)
    for task in (task for task in workdir.tasks if task.name in (risk.tasks or known)):
        stored, (labels, outputs) = calibration.get(task.name, {}), answered[task.name]
        if task.kind == "distribution":
            labels = most_voted(labels)
        scores = probabilities(task, outputs, stored.get("temperature", 1.0))
        least = least_probabilities(task, labels, scores, risk).tolist()
        found[task.name] = {**stored, "risk": str(risk), "least": least}
    return found


def least_probabilities(task: Task, labels, scores, risk: Risk) -> np.ndarray:
    """The probability from which on an answer is possible.

    Args:
        task: multilabel or of classes.
        labels: of images that the model was not fitted on, `[N, n]` or `[N]`, -1 where unknown.
        scores: probabilities `[N, n]`.
        risk: what was asked for.

    Returns:
        Of classes `[n]`; of yes/no labels `[n, 2]`, for `no` (of the probability that the label is
        not there) and `yes`.

    Raises:
        UserError: too few images have an answer.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    if task.kind != "multilabel":
        found = [scores[labels == index, index] for index in range(len(task.labels))]
        return np.array(_least_of(task, task.labels, found, risk))
    rows = []
    for index, label in enumerate(task.labels):
        truth, score = labels[:, index], scores[:, index]
        names = f"without {label}", f"with {label}"
        found = [1 - score[truth == 0], score[truth == 1]]
        rows.append(_least_of(task, names, found, risk))
    return np.array(rows)


def _least_of(task, names: Sequence[str], found: Sequence[np.ndarray], risk: Risk) -> list[float]:
    """For each answer, given the probabilities of it where it is right."""
    if risk.overall:
        return [_least(task, "labelled", np.concatenate(found), risk)] * len(found)
    return [_least(task, name, of, risk) for name, of in zip(names, found, strict=True)]


def _least(task: Task, name: str, probabilities: np.ndarray, risk: Risk) -> float:
    count = len(probabilities)
    # One image more, the next one, is as likely as any to have the lowest probability of all.
    place = math.floor((count + 1) * risk.share + 1e-9)
    if not place:
        needed = math.ceil(1 / risk.share - 1e-9) - 1
        lowest = math.ceil(1000 / (count + 1)) / 1000
        more = "" if risk.overall else f"{risk},overall asks less, and "
        raise UserError(
            f"unsure {risk}: task {task.name!r} has {count} validation images {name}, and this risk "
            f"needs {needed}; the lowest that they allow is {lowest:g}; {more}{risk} with names of "
            "tasks behind it leaves other tasks out"
        )
    return float(np.partition(probabilities, place - 1)[place - 1])


def possible_answers(task: Task, probability, least):
    """Which answers are possible, for arrays and in graphs.

    Returns:
        Of classes bool `[N, n]`; of yes/no labels two of them, for `no` and `yes`.
    """
    least = np.asarray(least)
    if task.kind != "multilabel":
        return probability >= least
    return 1 - probability >= least[:, 0], probability >= least[:, 1]


def unsure_answers(task: Task, probability, label, least):
    """Whether another answer than the one that is given is possible, for arrays and in graphs.

    Args:
        task: multilabel or of classes.
        probability: `[N, n]`.
        label: the answer: bool `[N, n]`, or the class `[N]`.
        least: what `least_probabilities` gave.

    Returns:
        Bool of the shape of `label`.
    """
    from keras import ops

    possible = possible_answers(task, probability, least)
    if task.kind == "multilabel":
        return ops.where(label, *possible)
    others = ops.logical_not(ops.one_hot(label, len(task.labels), dtype="bool"))
    return ops.any(ops.logical_and(possible, others), axis=-1)


def measure_unsure(result, risk: str, least: Mapping) -> dict:
    """What being unsure gives and costs on a split.

    Args:
        result: the `TaskResult` of a multilabel or multiclass task.
        risk: what was asked for.
        least: label or class -> of what `least_probabilities` gave.

    Returns:
        `risk`; `answers`: of every label with its answers no and yes, or of every class, the images
        that it is right for (`count`), the shares of them that were `wrong`ly told another one, told
        to be `unsure`, and for which it was `possible`, as the risk bounds it; `labels`: of every
        label, of classes the task's name, `count`, the shares `wrong` and `unsure` of all images, the
        `accuracy` of all answers, and that of those that are given (`accuracy_answered`). Shares of
        nothing are None. `mean` has the means of both.
    """
    task, labels, scores = result.task, np.asarray(result.labels), result.scores
    least = [least[label] for label in task.labels]
    said = scores.argmax(axis=-1)
    if task.kind == "multilabel":
        said = scores >= np.array(result.thresholds)
    unsure = np.asarray(unsure_answers(task, scores, said, least))
    possible = possible_answers(task, scores, least)
    rows, answers = {}, {}
    if task.kind == "multilabel":
        for index, label in enumerate(task.labels):
            column = labels[:, index], said[:, index], unsure[:, index]
            rows[label] = _overall(*column)
            for value, name in enumerate(("no", "yes")):
                of = _of_answer(value, *column, possible[value][:, index])
                answers[f"{label}: {name}"] = of
    else:
        rows[task.name] = _overall(labels, said, unsure)
        for index, label in enumerate(task.labels):
            answers[label] = _of_answer(index, labels, said, unsure, possible[:, index])
    return {
        "risk": risk,
        "labels": rows,
        "answers": answers,
        "mean": {"answers": _means(answers), "labels": _means(rows)},
    }


def _overall(labels, said, unsure) -> dict:
    known = labels >= 0
    right, unsure = (said == labels)[known], unsure[known]
    return {
        "count": len(right),
        "wrong": _share(~right & ~unsure),
        "unsure": _share(unsure),
        "accuracy": _share(right),
        "accuracy_answered": _share(right[~unsure]),
    }


def _of_answer(value, labels, said, unsure, possible) -> dict:
    own = labels == value
    return {
        "count": int(own.sum()),
        "wrong": _share(((said != value) & ~unsure)[own]),
        "unsure": _share(unsure[own]),
        "possible": _share(possible[own]),
    }


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _means(rows: Mapping[str, dict]) -> dict:
    from faceattr_tf.evaluation.class_metrics import mean

    names = [name for name in next(iter(rows.values())) if name != "count"]
    return {name: mean(row[name] for row in rows.values()) for name in names}
