"""What the columns of a user's table mean: tasks declared in a short text, and their labels."""

import dataclasses
import re

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.user_table import UserTable, unknown
from data_pipelines.tasks import CELEBA, POSE, UNKNOWN, Task, celeba_name

SYNTAX = "NAME:KIND:COLUMN,...;... with KIND multilabel, multiclass, distribution or regression"
_YES_NO = {
    **dict.fromkeys(("1", "1.0", "yes", "true"), 1),
    **dict.fromkeys(("0", "0.0", "no", "false"), 0),
    **dict.fromkeys(("", "nan"), UNKNOWN),
}
_MINUS_ONE = {"no": 0, "unknown": UNKNOWN}


@dataclasses.dataclass(frozen=True)
class Declaration:
    """One task as its user declared it.

    Attributes:
        name: the name of the task.
        kind: multilabel, multiclass, distribution or regression.
        columns: label -> column of the table; for multiclass the one column.
        classes: the classes of a multiclass task in their order; empty: those that occur, sorted.
    """

    name: str
    kind: str
    columns: dict[str, str]
    classes: tuple[str, ...] = ()


def parse_tasks(text: str, available: list[str]) -> list[Declaration]:
    """Tasks from their declaration, `;` between them.

    `NAME:multilabel:COLUMN,...`, `NAME:regression:COLUMN,...` and `NAME:distribution:COLUMN,...`,
    whose columns are the classes and hold votes for them; a column may be given another
    label name by `LABEL=COLUMN`, and `*` stands for every column that is one of CelebA's 40
    attributes. `NAME:multiclass:COLUMN`, or `NAME:multiclass:COLUMN:CLASS,...` to fix the classes
    and their order. Without `:COLUMN` the column is called like the task. The labels of a task
    named `attributes` get CelebA's spelling, so that they join with other data sets.

    Args:
        text: for example `attributes:multilabel:Male,Smiling;age:regression;race:multiclass`.
        available: columns of the table, for `*`.

    Raises:
        UserError: it does not follow this syntax.
    """
    declarations = [
        _parse_task(part.strip(), available) for part in text.split(";") if part.strip()
    ]
    if not declarations:
        raise UserError(
            f"option tasks says what the columns are: {SYNTAX}; columns: {', '.join(available)}"
        )
    names = [declaration.name for declaration in declarations]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"tasks={text!r}: task {name!r} occurs twice")
    return declarations


def _parse_task(part, available):
    fields = [field.strip() for field in part.split(":")]
    if len(fields) < 2:
        raise UserError(f"tasks: cannot read {part!r}; expected {SYNTAX}")
    name, kind, *rest = fields
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "landmarks":
        raise UserError(f"tasks: {name!r} in {part!r} is no name for a task (letters, digits, _)")
    if kind not in ("multilabel", "multiclass", "distribution", "regression"):
        raise UserError(f"tasks: {kind!r} in {part!r} is no kind of task; expected {SYNTAX}")
    if len(rest) > (2 if kind == "multiclass" else 1) or "" in rest:
        raise UserError(f"tasks: cannot read {part!r}; expected {SYNTAX}")
    given = [item.strip() for item in (rest[0] if rest else name).split(",")]
    if kind == "multiclass":
        classes = tuple(item.strip() for item in rest[1].split(",")) if rest[1:] else ()
        if len(given) != 1 or len(set(classes)) < len(classes):
            raise UserError(f"tasks: {part!r}: expected one column, and no class twice")
        return Declaration(name, kind, {name: given[0]}, classes)
    columns = {}
    for item in _expanded(given, available, part):
        label, _, column = (side.strip() for side in item.partition("="))
        if name == CELEBA.name:
            column, label = column or label, celeba_name(label) or label
        if not label or label in columns:
            raise UserError(f"tasks: {part!r}: a label is empty or occurs twice ({item!r})")
        columns[label] = column or label
    return Declaration(name, kind, columns)


def _expanded(items, available, part):
    for item in items:
        if item != "*":
            yield item
            continue
        found = [column for column in available if celeba_name(column)]
        if not found:
            raise UserError(f"tasks: {part!r}: no column is called like one of CelebA's attributes")
        yield from found


def read_labels(
    declaration: Declaration, rows: UserTable, minus_one: str
) -> tuple[Task, np.ndarray]:
    """A declared task and the labels of all rows, `[rows, *task.label_shape]`.

    Yes and no are 1, yes, true and 0, no, false in any case; empty or nan is unknown. What -1 means
    differs between data sets, so it has to be said.

    Args:
        declaration: the task.
        rows: the table.
        minus_one: what -1 means in a multilabel column: "refuse", "no" or "unknown".

    Raises:
        UserError: a column is missing, or a value is wrong; names its row.
    """
    if declaration.kind == "multiclass":
        return _classes(declaration, rows)
    if declaration.kind == "multilabel":
        known = dict(_YES_NO)
        if minus_one in _MINUS_ONE:
            known |= dict.fromkeys(("-1", "-1.0"), _MINUS_ONE[minus_one])
        expected = "1, yes, true, 0, no, false or nothing (option minus_one says what -1 means)"
        values = [
            rows.parse(column, lambda text: known[text.lower()], expected)
            for column in declaration.columns.values()
        ]
    else:
        values = [rows.numbers_of(column) for column in declaration.columns.values()]
    if declaration.kind == "distribution":
        values = list(_shares(declaration, rows, np.stack(values, axis=1)).T)
    task = Task(declaration.name, declaration.kind, tuple(declaration.columns))
    return task, np.stack(values, axis=1).astype(task.label_dtype)


def _shares(declaration, rows, votes):
    """Votes `[rows, classes]` as shares; NaN where a row has none."""
    given = np.isfinite(votes)
    total = np.where(given, votes, 0).sum(axis=1)
    wrong = (given & (votes < 0)).any(axis=1) | (given.any(axis=1) & (~given.all(1) | (total <= 0)))
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{rows.where(row)}: the votes of {declaration.name} are {votes[row].tolist()}, expected "
            "numbers from 0, one of them above 0, or nothing in any column"
        )
    return votes / np.where(total > 0, total, np.nan)[:, None]


def _classes(declaration, rows):
    (column,) = declaration.columns.values()
    texts = [text.strip() for text in rows.column(column)]
    classes = declaration.classes or _sorted({text for text in texts if not unknown(text)})
    if not classes:
        raise UserError(f"{rows.path}: column {column!r} is empty, expected classes")
    if declaration.name == POSE.name and set(classes) <= set(POSE.labels):
        task = POSE  # it knows what becomes of a class when the picture is mirrored
    else:
        task = Task(declaration.name, "multiclass", tuple(classes))
    index = {name: index for index, name in enumerate(task.labels)}
    index |= {text: UNKNOWN for text in texts if unknown(text) and text not in declaration.classes}
    expected = f"one of {', '.join(task.labels[:20])} or nothing"
    return task, rows.parse(column, index.__getitem__, expected).astype(task.label_dtype)


def _sorted(names):
    """As numbers where all are whole numbers, else as text."""
    whole = all(re.fullmatch(r"-?\d+", name, re.ASCII) for name in names)
    return sorted(names, key=lambda name: (int(name) if whole else 0, name))
