"""The TOML file of a sweep: a recipe, what every run changes of it, axes with their values, seeds."""

import itertools
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence

from data_pipelines.errors import UserError
from faceattr_tf.commands.recipe_flags import parse
from faceattr_tf.configs import Recipe
from faceattr_tf.configs.base import tuples
from faceattr_tf.training.sweep import Cell

FIELDS = ("config", "fixed", "seeds", "axes")
ELSEWHERE = {"name": "config", "seed": "seeds = [0, 1, 2]", "data.records": "--records"}
"""Fields of a recipe that no cell sets -> what does."""


def read_grid(file: pathlib.Path, folder: pathlib.Path, records: Sequence[str]) -> list[Cell]:
    """All cells of a grid: every combination of values with every seed, the last axis fastest.

    Args:
        file: the grid, see `faceattr_tf.commands.sweep`.
        folder: of the cells' workdirs.
        records: folders of records.

    Raises:
        UserError: the file has an entry that it should not have, lacks one, or changes a recipe as
            `faceattr-train` would not accept it.
    """
    grid = _GridFile(file, [f"--records={','.join(records)}"])
    cells = []
    for values in itertools.product(*grid.axes.values()):
        chosen = tuple(zip(grid.axes, values, strict=True))
        of_values = [flag for axis, value in chosen for flag in grid.axes[axis][value]]
        for seed in grid.seeds:
            flags = [*grid.flags, *of_values, f"--config.seed={seed}"]
            recipe = grid.recipe("axes", flags)
            condition = ", ".join(map(" ".join, chosen)) or recipe.name
            name = "/".join((*map("=".join, chosen), f"seed={seed}"))
            train = (sys.executable, "-m", "faceattr_tf.commands.train", *flags)
            command = (*train, f"--workdir={folder / name}", "--noprogress")
            cells.append(Cell(name, condition, recipe, folder / name, command))
    return cells


class _GridFile:
    """The entries of a grid, checked.

    Attributes:
        flags: of every cell.
        axes: axis -> value -> flags.
        seeds: the seeds.
    """

    def __init__(self, file: pathlib.Path, flags: Sequence[str]):
        self.file = file
        try:
            fields = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{file} is no TOML: {error}") from None
        for name in fields:
            if name not in FIELDS:
                raise self._error(name, f"no field of a grid; there are: {', '.join(FIELDS)}")
        if not isinstance(fields.get("config"), str):
            raise self._error("config", "expected the name of a recipe")
        self.owners: dict[str, str] = {}
        self.flags = [f"--config={fields['config']}", *flags]
        base = self.recipe("config", self.flags)
        self.flags += self._settings("fixed", "fixed", fields.get("fixed", {}))
        axes = fields.get("axes", {})
        if not isinstance(axes, dict):
            raise self._error("axes", "expected a table of axes")
        self.axes = {axis: self._axis(axis, values) for axis, values in axes.items()}
        self.seeds = fields.get("seeds", [base.seed])
        whole = isinstance(self.seeds, list) and all(type(seed) is int for seed in self.seeds)
        if not whole or not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise self._error("seeds", f"expected whole numbers that differ, not {self.seeds!r}")

    def recipe(self, entry: str, flags: Sequence[str]) -> Recipe:
        """What flags of `faceattr-train` come to; a mistake among them is that of an entry."""
        try:
            return parse(list(flags), lambda values: None)[0]
        except UserError as error:
            raise self._error(entry, str(error)) from None

    def _axis(self, axis: str, values) -> dict[str, list[str]]:
        entry = f"axes.{axis}"
        self._check_name(entry, axis)
        if axis == "seed":
            raise self._error(entry, "seeds are no axis; expected seeds = [0, 1, 2]")
        if not isinstance(values, dict) or not values:
            raise self._error(entry, "has no values; expected NAME = {FIELD = VALUE}, a line each")
        flags, recipes = {}, {}
        for name, settings in values.items():
            self._check_name(f"{entry}.{name}", name)
            flags[name] = self._settings(f"{entry}.{name}", entry, settings)
            recipe = self.recipe(f"{entry}.{name}", [*self.flags, *flags[name]])
            for other, known in recipes.items():
                if known == recipe:
                    raise self._error(f"{entry}.{name}", f"is the same recipe as {entry}.{other}")
            recipes[name] = recipe
        return flags

    def _check_name(self, entry: str, name: str) -> None:
        if not re.fullmatch(r"[\w.-]+", name):
            raise self._error(entry, f"{name!r}: expected letters, digits and any of _ . -")

    def _settings(self, entry: str, owner: str, table) -> list[str]:
        """The flags of `{FIELD = VALUE}`; no field may be set by two owners."""
        if not isinstance(table, dict):
            raise self._error(entry, f"expected {{FIELD = VALUE}} and not {table!r}")
        flags: dict[str, str] = {}
        for field, value in _flat(table):
            if field in ELSEWHERE:
                raise self._error(entry, f"sets {field!r}; expected {ELSEWHERE[field]}")
            if field in flags or self.owners.setdefault(field, owner) != owner:
                raise self._error(entry, f"sets {field!r}, which {self.owners[field]} sets too")
            if not re.fullmatch(r"[\w.\[\]]+", field) or re.match(r"\d", field):
                raise self._error(
                    entry, f"{field!r} is no field of a recipe; names with a dot stand in quotes"
                )
            flags[field] = f"--config.{field}={_text(value)}"
            self.recipe(f"{entry}.{field}", [self.flags[0], flags[field]])
        return list(flags.values())

    def _error(self, entry: str, text: str) -> UserError:
        return UserError(f"{self.file}: {entry}: {text}")


def _flat(table: dict, path: str = "") -> Iterator[tuple[str, object]]:
    """`{"data": {"batch_size": 2}}`, as TOML reads `data.batch_size = 2`, as `data.batch_size`."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def _text(value) -> str:
    """A value of TOML as a flag has it."""
    return value if isinstance(value, str) else repr(tuples(value))
