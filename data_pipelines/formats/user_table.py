"""Tables of a user's own: CSV or JSON lines as columns of text that remember their row numbers."""

import csv
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable

import numpy as np

from data_pipelines.errors import UserError

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclasses.dataclass(frozen=True)
class UserTable:
    """A table of text.

    Attributes:
        path: the file, or the folder that the rows were found in.
        columns: name of a column -> text of every row, "" where a row has none.
        numbers: number of every row in the file, counted from 1.
    """

    path: pathlib.Path
    columns: dict[str, list[str]]
    numbers: list[int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.numbers)

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return f"{self.path}, row {self.numbers[row]}"

    def column(self, name: str) -> list[str]:
        """The texts of a column.

        Raises:
            UserError: there is no such column; the message lists those that exist.
        """
        if name not in self.columns:
            known = ", ".join(self.columns)
            raise UserError(f"{self.path}: there is no column {name!r}; it has: {known}")
        return self.columns[name]

    def parse(self, name: str, convert: Callable, expected: str) -> np.ndarray:
        """A column converted text by text.

        Raises:
            UserError: `convert` raised ValueError or KeyError for a text; names its row.
        """
        values = []
        for row, text in enumerate(self.column(name)):
            try:
                values.append(convert(text.strip()))
            except (ValueError, KeyError):
                raise UserError(
                    f"{self.where(row)}: {name} is {text!r}, expected {expected}"
                ) from None
        return np.array(values)

    def numbers_of(self, name: str) -> np.ndarray:
        """A column as float64; empty texts are NaN."""
        return self.parse(name, _number, "a finite number or nothing")


def unknown(text: str) -> bool:
    """Whether a field says nothing: it is empty, or what a table program writes for that."""
    return text.strip().lower() in ("", "nan")


def _number(text: str) -> float:
    if unknown(text):
        return np.nan
    value = float(text)
    if np.isinf(value):
        raise ValueError(text)
    return value


def read_rows(path: pathlib.Path) -> UserTable:
    """A CSV file with a row of column names, or JSON lines (`.jsonl`, `.ndjson`): one object each.

    In JSON, null is an empty text, true and false are `true` and `false`.

    Raises:
        UserError: text that is not UTF-8, a row that is malformed, or no rows at all.
    """
    data = path.read_bytes()
    try:
        data.decode()
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        text = data.splitlines()[row - 1][:60]
        raise UserError(
            f"{path}, row {row}: {text!r} is not UTF-8; save the table as UTF-8"
        ) from None
    rows = _read_json(path) if path.suffix.lower() in JSON_SUFFIXES else _read_csv(path)
    if not len(rows):
        raise UserError(f"{path}: it has no rows")
    return rows


def _read_csv(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows, numbers = [], []
            for fields in reader:
                if not any(fields):
                    continue
                if len(fields) != len(header):
                    raise UserError(
                        f"{path}, row {reader.line_num}: {len(fields)} fields, expected "
                        f"{len(header)} as in the first row"
                    )
                rows.append(fields)
                numbers.append(reader.line_num)
        except csv.Error as error:
            raise UserError(f"{path}, row {reader.line_num}: {error}") from None
    if len(header) == 1 and (mark := next((m for m in ";\t|" if m in header[0]), "")):
        raise UserError(
            f"{path}, row 1: one column {header[0]!r}; its fields seem to be parted by {mark!r}, "
            "expected commas"
        )
    if header and not header[0] and [row[0] for row in rows] == [str(i) for i in range(len(rows))]:
        print(f"{path}: its first column, without a name, holds row numbers", file=sys.stderr)
        header, rows = header[1:], [row[1:] for row in rows]
    for name in header:
        if not name or header.count(name) > 1:
            fault = f"column {name!r} occurs twice" if name else "a column has no name"
            raise UserError(f"{path}, row 1: {fault}")
    return UserTable(
        path, {name: [row[i] for row in rows] for i, name in enumerate(header)}, numbers
    )


def _read_json(path):
    rows, numbers = [], []
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                rows.append({name: _json_text(value) for name, value in fields.items()})
            except (ValueError, TypeError, AttributeError, RecursionError):
                raise UserError(
                    f"{path}, row {number}: expected one JSON object of plain values a line"
                ) from None
            numbers.append(number)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return UserTable(path, {name: [row.get(name, "") for row in rows] for name in names}, numbers)


def _json_text(value) -> str:
    if isinstance(value, dict | list):
        raise TypeError(value)
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)
