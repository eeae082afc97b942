"""Whether a canary may replace the stable version, by what both answer to the same requests.

Every image is asked of both. Where its labels are known, the canary's gain is the balanced accuracy
that the image adds. Unsure is neither right nor wrong, and the canary may neither be right less often
nor be wrong more often by more than the margin, as in `export.scores`. Where labels are not known,
all that can be said is how many of them the canary changes. The interval of the mean gain holds
however often one looks (`evaluation.confidence_sequence`), so that the comparison ends as soon as it
is clear, and says so if it never gets clear.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data_pipelines.errors import UserError
from export.client import Client
from export.examples import Examples
from export.transports import Refused
from faceattr_tf.evaluation.confidence_sequence import ConfidenceSequence
from faceattr_tf.evaluation.conformal import UNSURE_INDEX

_NO_ANSWER = -3
"""In place of a label; those that are unsure are -2, and unknown ones -1."""

PROMOTE, REFUSE, UNDECIDED = "promote", "refuse", "undecided"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a comparison of two versions came to.

    Attributes:
        outcome: `PROMOTE`, `REFUSE` or `UNDECIDED`.
        images: that both were asked about.
        gain: mean over these: balanced accuracy of the canary less that of the stable version; or,
            less than 0, the share of labels that it changes.
        low, high: interval of the gain.
        wrong: how much more often the canary is wrong, and the interval of that: the gain with the
            other sign where no answer is unsure. None where labels are not known.
        unsure: share of the answers that are unsure, of the stable version and of the canary.
        failed: images without an answer, of the stable version and of the canary.
        milliseconds: median of a request, likewise.
        identical: both gave the same to the last bit for every image.
    """

    outcome: str
    images: int
    gain: float
    low: float
    high: float
    wrong: tuple[float, float, float] | None
    unsure: tuple[float, float]
    failed: tuple[int, int]
    milliseconds: tuple[float, float]
    identical: bool


def shared_tasks(stable: dict, canary: dict) -> list[dict]:
    """The tasks that both versions answer by labels of the same names, as they are described.

    Raises:
        UserError: there are none.
    """

    fields = ("name", "kind", "labels", "outputs")
    theirs = [[task[field] for field in fields] for task in canary["tasks"]]
    found = [
        task
        for task in stable["tasks"]
        if "label" in task["outputs"] and [task[field] for field in fields] in theirs
    ]
    if not found:
        raise UserError("the two versions share no task whose answers are labels")
    return found


def label_weights(labels: np.ndarray) -> np.ndarray:
    """What a right answer adds to mean balanced accuracy.

    Args:
        labels: int `[N, L]`, the class of every image in every column; -1 where unknown.

    Returns:
        float64 `[N, L]`; the mean over images of the sum of those that are right is the mean
        balanced accuracy of the columns. 0 where unknown.
    """
    weights = np.zeros(labels.shape)
    for column, values in enumerate(labels.T):
        known, counts = np.unique(values[values >= 0], return_counts=True)
        for value, count in zip(known, counts, strict=True):
            weights[values == value, column] = len(labels) / (len(known) * count)
    return weights / max(1, int((weights.any(axis=0)).sum()))


def compare_versions(
    stable: Client,
    canary: Client,
    tasks: Sequence[dict],
    requests: Iterable[Examples],
    weights: np.ndarray | None = None,
    *,
    margin: float = 0.01,
    level: float = 0.95,
    progress: Callable[[int], object] = lambda _: None,
) -> Verdict:
    """Asks both versions until one of them has to be taken.

    Args:
        stable, canary: clients that ask one version each.
        tasks: whose labels are compared, see `shared_tasks`.
        requests: images in random order, with labels where `weights` are given.
        weights: `label_weights` of all the images in their order; None where labels are unknown.
        margin: how far below 0 the gain may be.
        level: chance that the verdict is right, whatever the images show on the way.
        progress: told how many images were asked about.

    Raises:
        UserError: there are no images, or the stable version answers none.
        Unavailable: the server is gone.
    """
    most = 0.0 if weights is None else float(weights.sum(axis=1).max())
    bounds = (-1.0 if weights is None else -most, most, level)
    # Neither may fall: answers that are right, and those that are right or unsure.
    sequence, forgiving = ConfidenceSequence(*bounds), ConfidenceSequence(*bounds)
    outcome, failed, seconds, identical = UNDECIDED, np.zeros(2, int), ([], []), True
    unsure = np.zeros(2)
    for turn, request in enumerate(requests):
        answers = {}
        for which in (0, 1) if turn % 2 else (1, 0):  # neither is always the first
            begin = time.perf_counter()
            answers[which] = _ask((stable, canary)[which], request)
            seconds[which].append(time.perf_counter() - begin)
        identical = identical and _identical(answers[0], answers[1])
        said = [_labels(answers[which], tasks, len(request.encoded)) for which in (0, 1)]
        failed += [int((labels[:, 0] == _NO_ANSWER).sum()) for labels in said]
        doubtful = [labels == UNSURE_INDEX for labels in said]
        unsure += [each.mean(axis=1).sum() for each in doubtful]
        if weights is None:
            sequence.add(-(said[0] != said[1]).mean(axis=1))
            intervals = [sequence.interval]
        else:
            own = weights[sequence.count :][: len(request.encoded)]
            right = [labels == true_labels(request, tasks) for labels in said]
            sequence.add(_gains(right, own))
            forgiving.add(_gains(np.logical_or(right, doubtful), own))
            intervals = [sequence.interval, forgiving.interval]
        progress(len(request.encoded))
        if any(high < -margin for _, high in intervals):
            outcome = REFUSE
            break
        if all(low > -margin for low, _ in intervals):
            outcome = PROMOTE
            break
    if not sequence.count:
        raise UserError("there are no images to ask about")
    if failed[0] == sequence.count:  # two versions that say nothing do not differ
        raise UserError(
            f"the stable version answered none of {sequence.count} images: there is nothing to "
            "compare the canary with"
        )
    return Verdict(
        outcome,
        sequence.count,
        sequence.mean,
        *sequence.interval,
        None if weights is None else _negative(forgiving),
        tuple((unsure / sequence.count).tolist()),
        tuple(failed.tolist()),
        tuple(1000 * float(np.median(taken)) for taken in seconds),
        identical,
    )


def _gains(good: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
    """What the canary's answers add over the stable version's, of every image."""
    return ((good[1] * 1.0 - good[0]) * weights).sum(axis=1)


def _negative(sequence: ConfidenceSequence) -> tuple[float, float, float]:
    low, high = sequence.interval
    return -sequence.mean, -high, -low


def true_labels(examples: Examples, tasks: Sequence[dict]) -> np.ndarray:
    """The class of every image in every column of the tasks, int `[N, L]`; -1 where unknown."""
    rows = len(examples.encoded)
    columns = [
        examples.labels[task["name"]].reshape(rows, -1)
        if task["name"] in examples.labels
        else np.full((rows, _columns(task)), -1)
        for task in tasks
    ]
    return np.concatenate(columns, axis=1).astype(int)


def _ask(client: Client, request: Examples) -> dict[str, np.ndarray]:
    """A version's answer; empty where it refuses the request."""
    inputs, signature = {"image_bytes": request.encoded}, "serving_default"
    if request.labels:
        inputs |= {"box": request.box, "landmarks": request.landmarks}
        signature = "crop"
    try:
        return client.call(signature, inputs)
    except Refused:
        return {}


def _labels(answer: dict, tasks: Sequence[dict], rows: int) -> np.ndarray:
    """What a version says, as `true_labels` has it; `_NO_ANSWER` for images without one."""
    if not answer:
        return np.full((rows, sum(map(_columns, tasks))), _NO_ANSWER)
    columns = [answer[task["outputs"]["label"]].reshape(rows, -1) for task in tasks]
    labels = np.concatenate(columns, axis=1).astype(int)
    labels[~answer["valid"].astype(bool)] = _NO_ANSWER
    return labels


def _columns(task: dict) -> int:
    return len(task["labels"]) if task["kind"] == "multilabel" else 1


def _identical(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(values, other[name], equal_nan=values.dtype.kind == "f")
        for name, values in one.items()
    )
