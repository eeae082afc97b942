"""Tables of corrected labels, as `faceattr-labels` writes them and `build` applies them."""

import collections
import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.user_table import read_rows
from data_pipelines.tasks import UNKNOWN, Task

COLUMNS = ("picture", "attribute", "given", "likely")
"""Which label of which picture, as `TASK/LABEL`, what it says, and what it is to say instead."""

WORDS = {"no": 0, "yes": 1, "unknown": UNKNOWN}
"""What stands in the columns `given` and `likely`."""


class Corrections:
    """Labels that are replaced while a data set is read.

    Args:
        path: a table with `COLUMNS` and any others, of which every row is applied.

    Attributes:
        counts: `TASK/LABEL` -> corrected labels so far.

    Raises:
        UserError: the file is missing or no such table, holds a word that is none of `WORDS`, or
            says twice what a label is to be.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the table."""
        self.path = local(path)
        self.counts = collections.Counter()
        if not self.path.is_file():
            raise UserError(f"{path}: no such file of corrections; `faceattr-labels` writes one")
        table = read_rows(self.path)
        pictures, attributes = (table.column(name) for name in COLUMNS[:2])
        expected = "yes, no or unknown"
        given, likely = (table.parse(name, WORDS.__getitem__, expected) for name in COLUMNS[2:])
        self._rows: dict[str, dict[str, tuple[int, int, str]]] = collections.defaultdict(dict)
        for row, (picture, attribute) in enumerate(zip(pictures, attributes, strict=True)):
            of_picture = self._rows[picture]
            if attribute in of_picture:
                raise UserError(f"{table.where(row)}: {attribute} of {picture} is corrected twice")
            of_picture[attribute] = int(given[row]), int(likely[row]), table.where(row)
        self._left = set(self._rows)

    def check_tasks(self, tasks: Sequence[Task]) -> None:
        """Makes sure that there are such labels.

        Raises:
            UserError: there is none of that name, with the row and the names that exist.
        """
        known = {
            f"{task.name}/{label}"
            for task in tasks
            if task.kind == "multilabel"
            for label in task.labels
        }
        for of_picture in self._rows.values():
            for attribute, (*_, where) in of_picture.items():
                if attribute not in known:
                    there = ", ".join(sorted(known)) or "none"
                    raise UserError(f"{where}: no attribute {attribute!r}; there are: {there}")

    def apply(
        self, picture: str, labels: Mapping[str, np.ndarray], tasks: Sequence[Task]
    ) -> dict[str, np.ndarray]:
        """The labels of a picture with what is corrected of them.

        Args:
            picture: its name in the records.
            labels: task -> its label.
            tasks: the tasks.

        Raises:
            UserError: a label says something else than the table says it does, or the picture was
                there before, as one of several faces.
        """
        if picture not in self._rows:
            return dict(labels)
        rows, changed = self._rows[picture], {name: value.copy() for name, value in labels.items()}
        where = next(iter(rows.values()))[-1]
        if picture not in self._left:
            raise UserError(f"{where}: {picture} shows several faces, so that it is unclear whose")
        self._left.remove(picture)
        for task in tasks:
            for place, label in enumerate(task.labels if task.kind == "multilabel" else ()):
                given, likely, where = rows.get(f"{task.name}/{label}", (None, None, ""))
                found = int(changed[task.name][place])
                if where and found != given:
                    words = {number: word for word, number in WORDS.items()}
                    raise UserError(
                        f"{where}: {task.name}/{label} of {picture} is {words[found]} here, not "
                        f"{words[given]}; the table is of other labels"
                    )
                if where:
                    changed[task.name][place] = likely
                    self.counts[f"{task.name}/{label}"] += 1
        return changed

    def check_applied(self) -> None:
        """Makes sure that every row was applied.

        Raises:
            UserError: pictures are not in the data set.
        """
        for picture in self._rows:
            if picture in self._left:
                *_, where = next(iter(self._rows[picture].values()))
                more = f", and {len(self._left) - 1:,} others" if len(self._left) > 1 else ""
                raise UserError(f"{where}: the records have no picture {picture!r}{more}")
