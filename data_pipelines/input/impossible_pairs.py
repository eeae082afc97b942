"""Pairs of answers that training labels (almost) never hold together, such as Bald and Bangs.

Two answers to yes/no attributes of a task are an impossible pair where, among the images of which
both attributes are known, chance alone would have put at least `EXPECTED` images with both, and at
most `SHARE` of these are there. Chance is that of independent attributes: the count of one answer
times that of the other over the number of these images.

With an expectation of 10, chance leaves a pair out with a probability of exp(-10), so that of the
3,120 pairs of CelebA's attributes none is expected to look impossible by accident. `SHARE` allows
for wrong labels, which every large set has: in CelebA, 1 % of the faces that are expected to have
`Goatee` with `No_Beard` are said to.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.input.labels import label_places
from data_pipelines.input.stream import Source
from data_pipelines.records.counting import read_labels
from data_pipelines.tasks import SENSITIVE, UNKNOWN, Task

EXPECTED = 10.0
"""Images that chance alone would have put into a pair at least."""

SHARE = 0.03
"""Of those the largest share that is there."""


def impossible_pairs(tasks: Sequence[Task], sources: Sequence[Source]) -> dict[str, list[dict]]:
    """The impossible pairs of every multilabel task, counted in the labels that are stored.

    Groups of people (`tasks.SENSITIVE`) have none: that data sets put everybody into one group does
    not make two of them impossible.

    Args:
        tasks: what a model predicts.
        sources: what it is trained on. All labels of a part are read once: a few seconds for the 160,000
            images of CelebA, so that nothing has to be kept with the records.

    Returns:
        Task -> pairs, see `find_pairs`.

    Raises:
        UserError: a source has a task of such a name with other classes, or none of the tasks.
    """
    places = label_places(sources, tasks)
    tasks = [task for task in tasks if task.kind == "multilabel" and task.name not in SENSITIVE]
    counts = {task.name: np.zeros([2 * len(task.labels)] * 2) for task in tasks}
    for index, source in enumerate(sources):
        split, mask = source.select()
        stored = [source.records.task(name) for name in counts if (places[name][index] >= 0).any()]
        _, labels = read_labels(source.records.shards[split], stored)
        for name, values in labels.items():
            place = places[name][index]
            values = values if mask is None else values[mask]
            counts[name] += count_answers(np.where(place < 0, UNKNOWN, values[:, place]))
    return {task.name: find_pairs(task, counts[task.name]) for task in tasks}


def count_answers(labels: np.ndarray) -> np.ndarray:
    """How many images have two answers, `[2n, 2n]`: n times no, then n times yes.

    Args:
        labels: `[N, n]`: 0, 1, or -1 where unknown.
    """
    given = np.concatenate([labels == 0, labels == 1], axis=1).astype(np.float64)
    return given.T @ given


def find_pairs(task: Task, counts: np.ndarray) -> list[dict]:
    """The impossible pairs of a task, the surest first.

    Pairs that together leave no answer at all, which takes labels of different data sets that
    contradict each other, are left out from the least sure on until there is one.

    Args:
        task: multilabel.
        counts: of `count_answers`.

    Returns:
        Per pair `answers` (label -> whether it is yes, of both), `observed` and `expected` images.
    """
    n = len(task.labels)
    both_known = counts.reshape(2, n, 2, n).sum(axis=(0, 2))
    of_one = counts.reshape(2 * n, 2, n).sum(axis=1)  # [answer, other label that is known]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.tile(of_one, 2) * np.tile(of_one, 2).T / np.tile(both_known, (2, 2))
    rows, columns = np.nonzero((expected >= EXPECTED) & (counts <= SHARE * expected))
    found = [
        (counts[a, b] / expected[a, b], -expected[a, b], a, b)
        for a, b in zip(rows.tolist(), columns.tolist(), strict=True)
        if a % n < b % n
    ]
    pairs = [
        {
            "answers": {task.labels[answer % n]: answer >= n for answer in (a, b)},
            "observed": int(counts[a, b]),
            "expected": round(float(expected[a, b]), 1),
        }
        for _, _, a, b in sorted(found)
    ]
    kept = list(pairs)
    while _contradict(implications(task, kept)):
        kept.pop()
    if len(kept) < len(pairs):
        print(
            f"{task.name}: {len(pairs)} pairs of answers are impossible by the training labels and "
            f"leave no answer at all; the {len(pairs) - len(kept)} least sure are left out"
        )
    return kept


def implications(task: Task, pairs: Sequence[dict]) -> np.ndarray:
    """Which answers follow from an answer, bool `[2n, 2n]`: n times no, then n times yes.

    Of an impossible pair one answer rules out the other; what follows from what follows is there
    too, and every answer follows from itself.
    """
    n = len(task.labels)
    follows = np.eye(2 * n, dtype=bool)
    for pair in pairs:
        a, b = (task.labels.index(label) + n * yes for label, yes in pair["answers"].items())
        follows[a, (b + n) % (2 * n)] = follows[b, (a + n) % (2 * n)] = True
    for through in range(2 * n):
        follows |= follows[:, through, None] & follows[through]
    return follows


def _contradict(follows: np.ndarray) -> bool:
    """Whether, of some attribute, yes follows from no and no from yes."""
    n = len(follows) // 2
    places = np.arange(n)
    return bool((follows[places, places + n] & follows[places + n, places]).any())
