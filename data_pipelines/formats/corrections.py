"""Tables of corrected labels, as `faceattr-labels` writes them and `build` applies them."""

import collections
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.user_table import read_rows
from data_pipelines.tasks import UNKNOWN, Task

COLUMNS = ("picture", "attribute", "given", "likely")
"""Which label of which picture, as `TASK/LABEL`, or `TASK` where it is one of several classes, what it
says, and what it is to say instead."""

WORDS = {"yes": 1, "no": 0, "unknown": UNKNOWN}
"""What stands in the columns `given` and `likely` for a yes/no label; else names of classes."""


class Corrections:
    """Labels that are replaced while a data set is read.

    Args:
        path: a table with `COLUMNS` and any others, of which every row is applied.

    Attributes:
        counts: `TASK/LABEL` or `TASK` -> corrected labels.

    Raises:
        UserError: the file is missing or no such table, holds a word that is none of `WORDS` for a
            `TASK/LABEL`, or says twice what a label is to be.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the table."""
        self.path = local(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file of corrections; `faceattr-labels` writes one")
        table = read_rows(self.path)
        columns = [table.column(name) for name in COLUMNS]
        self.counts = collections.Counter(table.column("attribute"))
        self._rows: dict[str, dict[str, tuple[str, str, str]]] = collections.defaultdict(dict)
        for row, (picture, attribute, given, likely) in enumerate(zip(*columns, strict=True)):
            of_picture, where = self._rows[picture], table.where(row)
            given, likely = given.strip(), likely.strip()
            if attribute in of_picture:
                raise UserError(f"{where}: {attribute} of {picture} is corrected twice")
            if "/" in attribute:
                _check_words(where, given, likely, WORDS)
            of_picture[attribute] = given, likely, where

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Makes sure that there are such labels.

        Raises:
            UserError: there is none of that name, with the row and the names that exist, or no such
                class.
        """
        known = {name: words for task in tasks for name, _, words in _labels_of(task)}
        for of_picture in self._rows.values():
            for attribute, (given, likely, where) in of_picture.items():
                if attribute not in known:
                    there = ", ".join(sorted(known)) or "none"
                    raise UserError(f"{where}: no attribute {attribute!r}; there are: {there}")
                _check_words(where, given, likely, known[attribute])

    def apply(
        self, picture: str, labels: Mapping[str, np.ndarray], tasks: Sequence[Task]
    ) -> dict[str, np.ndarray]:
        """The labels of a picture with what is corrected of them.

        Args:
            picture: its name in the records.
            labels: task -> its label.
            tasks: the tasks.

        Raises:
            UserError: a label says something else than the table says it does.
        """
        if picture not in self._rows:
            return dict(labels)
        rows, changed = self._rows[picture], {name: np.array(one) for name, one in labels.items()}
        for task in tasks:
            for name, place, words in _labels_of(task):
                if name not in rows:
                    continue
                given, likely, where = rows[name]
                found = int(changed[task.name][place])
                if found != words[given]:
                    here = next(word for word, number in words.items() if number == found)
                    raise UserError(
                        f"{where}: {name} of {picture} is {here} here, not {given}; the table is of "
                        "other labels"
                    )
                changed[task.name][place] = words[likely]
        return changed

    def check_pictures(self, pictures: Iterable[str]) -> None:
        """Makes sure that every row is of one face of the data set.

        Args:
            pictures: the names of all its faces' pictures.

        Raises:
            UserError: a picture is not there, or as one of several faces.
        """
        found = collections.Counter(name for name in pictures if name in self._rows)
        missing = [picture for picture in self._rows if picture not in found]
        for picture, rows in self._rows.items():
            *_, where = next(iter(rows.values()))
            if picture not in found:
                more = f", and {len(missing) - 1:,} others" if len(missing) > 1 else ""
                raise UserError(f"{where}: the records have no picture {picture!r}{more}")
            if found[picture] > 1:
                raise UserError(
                    f"{where}: {picture} shows several faces, so that it is unclear whose"
                )


def _labels_of(task: Task) -> Iterator[tuple[str, tuple[int, ...], Mapping[str, int]]]:
    """What can be corrected of a task: its name in the table, its index, and word -> label."""
    if task.kind == "multilabel":
        for place, label in enumerate(task.labels):
            yield f"{task.name}/{label}", (place,), WORDS
    elif task.kind == "multiclass":
        classes = {label: number for number, label in enumerate(task.labels)}
        yield task.name, (), {"unknown": UNKNOWN} | classes


def _check_words(where: str, given: str, likely: str, words: Mapping[str, int]) -> None:
    """Raises UserError where one is none of `words`."""
    *first, last = words
    for name, word in zip(COLUMNS[2:], (given, likely), strict=True):
        if word not in words:
            expected = f"{', '.join(first)} or {last}"
            raise UserError(f"{where}: {name} is {word!r}, expected {expected}")
