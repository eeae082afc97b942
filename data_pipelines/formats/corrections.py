"""Tables of corrected labels, as `faceattr-labels` writes them and `build` applies them."""

import collections
import os
from collections.abc import Iterable, Mapping, Sequence

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
        counts: `TASK/LABEL` -> corrected labels.

    Raises:
        UserError: the file is missing or no such table, holds a word that is none of `WORDS`, or
            says twice what a label is to be.
    """

    def __init__(self, path: str | os.PathLike):
        """Reads the table."""
        self.path = local(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file of corrections; `faceattr-labels` writes one")
        table = read_rows(self.path)
        pictures, attributes = (table.column(name) for name in COLUMNS[:2])
        expected = "yes, no or unknown"
        self.counts = collections.Counter(attributes)
        given, likely = (table.parse(name, WORDS.__getitem__, expected) for name in COLUMNS[2:])
        self._rows: dict[str, dict[str, tuple[int, int, str]]] = collections.defaultdict(dict)
        for row, (picture, attribute) in enumerate(zip(pictures, attributes, strict=True)):
            of_picture = self._rows[picture]
            if attribute in of_picture:
                raise UserError(f"{table.where(row)}: {attribute} of {picture} is corrected twice")
            of_picture[attribute] = int(given[row]), int(likely[row]), table.where(row)

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
            UserError: a label says something else than the table says it does.
        """
        if picture not in self._rows:
            return dict(labels)
        rows, changed = self._rows[picture], {name: value.copy() for name, value in labels.items()}
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
