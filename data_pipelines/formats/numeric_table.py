"""Text tables of data sets: rows of a path and numbers, checked field by field."""

import array
import csv
import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class NumericTable:
    """A text table that was read.

    Attributes:
        path: the file.
        names: first field of every row, the image.
        values: `[rows, columns]` the others, float64.
        columns: names of the columns of `values`.
        numbers: `[rows]` number of each row in the file, counted from 1.
    """

    path: pathlib.Path
    names: list[str]
    values: np.ndarray
    columns: tuple[str, ...]
    numbers: np.ndarray

    def column(self, name: str) -> np.ndarray:
        """One column of `values`."""
        return self.values[:, self.columns.index(name)]

    def require(self, columns: slice, allowed: tuple[int, ...], hint: str = "") -> np.ndarray:
        """Some columns as integers, after a check that each value is allowed.

        Args:
            columns: which of them.
            allowed: the values that they may have.
            hint: what else the message says.

        Raises:
            UserError: the first value that is not allowed, with its row and column.
        """
        values = self.values[:, columns]
        wrong = np.argwhere(~np.isin(values, allowed))
        if len(wrong):
            row, column = wrong[0]
            choices = ", ".join(map(str, allowed))
            raise UserError(
                f"{self.path}, row {self.numbers[row]}: {self.columns[columns][column]} is "
                f"{values[row, column]:g}, expected one of {choices}{hint}"
            )
        return values.astype(np.int64)


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file without their ends; bytes that are not UTF-8 survive in names."""
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")


def csv_fields(line: str) -> list[str]:
    """The fields of a row of a CSV file, which may be quoted."""
    return next(csv.reader([line.rstrip("\r")]), [])


def parse_rows(
    path: pathlib.Path,
    lines: list[str],
    columns: tuple[str, ...],
    *,
    first_row: int = 1,
    comma: bool = False,
    rename: Callable[[str], str] = str,
) -> NumericTable:
    """Reads rows of an image's name and one number per column; empty lines are skipped.

    Args:
        path: the file, for messages.
        lines: its rows, headers taken off.
        columns: names of the columns after the first.
        first_row: number of the first of `lines` in the file.
        comma: whether the rows are those of a CSV file; else any run of blanks parts fields.
        rename: turns the first field into the image's name.

    Raises:
        UserError: a row with too few fields, a field that is no number, an image that
            occurs twice.
    """
    names, numbers, values = [], [], array.array("d")
    for number, line in enumerate(lines, first_row):
        if not line.strip():
            continue
        # From the right: a name may hold blanks, a number cannot.
        fields = csv_fields(line) if comma else line.strip().rsplit(None, len(columns))
        if len(fields) != 1 + len(columns):
            raise UserError(
                f"{path}, row {number}: {len(fields)} fields, expected {1 + len(columns)} "
                f"(the image and {len(columns)} values)"
            )
        try:
            values.extend(map(float, fields[1:]))
        except ValueError as error:
            raise UserError(
                f"{path}, row {number}: {error}, expected an image and {len(columns)} numbers"
            ) from None
        names.append(rename(fields[0].strip()))
        numbers.append(number)
    if not names:
        raise UserError(f"{path}: it has no rows")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        repeated = next(i for i, name in enumerate(names) if name in seen or seen.add(name))
        raise UserError(
            f"{path}, row {numbers[repeated]}: image {names[repeated]!r} occurs a second time"
        )
    grid = np.frombuffer(values).reshape(len(names), len(columns))
    return NumericTable(path, names, grid, columns, np.array(numbers))
