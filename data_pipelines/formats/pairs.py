"""Pairs of images that show the same person or two, in the formats of LFW's `pairs*.txt`.

`pairs.txt` begins with the numbers of folds and of pairs: `10  300` stands for ten times 300 rows
`NAME I J`, the images I and J of one person, and then 300 rows `NAME I OTHER J` of two. The files
of the development view, `pairsDevTrain.txt` and `pairsDevTest.txt`, are one fold and begin with the
number of pairs alone.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.numeric_table import read_lines

LISTED = 5
"""Images named in an error that counts more."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of a file, in its order.

    Attributes:
        path: the file.
        images: `[P, 2]` names without ending, `PERSON/PERSON_0001`.
        same: bool `[P]`, whether both show one person.
        folds: int `[P]`, counted from 0.
    """

    path: pathlib.Path
    images: np.ndarray
    same: np.ndarray
    folds: np.ndarray

    def __len__(self) -> int:
        return len(self.same)

    def rows(self, filenames: Iterable[str]) -> np.ndarray:
        """Where the images of each pair stand among some files: int `[P, 2]`.

        Args:
            filenames: paths whose last two parts are `PERSON/PERSON_0001.jpg`, of any ending.

        Raises:
            UserError: images are not there (all are counted), or several files are one of them.
        """
        wanted, places = set(self.images.ravel().tolist()), {}
        for place, filename in enumerate(filenames):
            name = image_name(filename)
            if name not in wanted:
                continue
            if name in places:
                raise UserError(f"{self.path}: image {name} is {filename!r} and another file, too")
            places[name] = place
        if missing := sorted(wanted - places.keys()):
            pairs = int((~np.isin(self.images, list(places))).any(axis=1).sum())
            shown = ", ".join(missing[:LISTED]) + (", ..." if len(missing) > LISTED else "")
            raise UserError(
                f"{self.path}: {len(missing):,} of {len(wanted):,} images, of {pairs:,} pairs, are "
                f"not among the records: {shown}"
            )
        return np.array([[places[name] for name in pair] for pair in self.images.tolist()])


def image_name(filename: str) -> str:
    """The last folder and the name of a file, without its ending: `PERSON/PERSON_0001`."""
    path = pathlib.PurePosixPath(filename)
    return f"{path.parent.name}/{path.stem}"


def read_pairs(path: str | os.PathLike) -> Pairs:
    """The pairs of a file.

    Raises:
        UserError: the file is missing, or a row is not what the first one announces.
    """
    path = local(path)
    try:
        lines = [line.split() for line in read_lines(path)]
    except OSError as error:
        raise UserError(f"{path}: these pairs cannot be read ({error.strerror})") from None
    while lines and not lines[-1]:
        lines.pop()
    header = lines[0] if lines else []
    if len(header) not in (1, 2) or not all(map(_is_number, header)):
        raise UserError(
            f"{path}, row 1: {' '.join(header)!r}, expected the number of folds and that of the "
            "pairs of the same person in each, or the latter alone"
        )
    folds, count = map(int, header if len(header) == 2 else ("1", *header))
    if len(lines) - 1 != folds * count * 2:
        raise UserError(
            f"{path}: {len(lines) - 1:,} rows of pairs, expected {folds * count * 2:,}: {folds} x "
            f"{count:,} of the same person and as many of two, as row 1 says"
        )
    fold, place = np.divmod(np.arange(len(lines) - 1), 2 * count)
    same = place < count
    images = [
        _images(fields, alike, f"{path}, row {row}")
        for row, (fields, alike) in enumerate(zip(lines[1:], same, strict=True), 2)
    ]
    return Pairs(path, np.array(images), same, fold)


def _images(fields: list[str], same: bool, where: str) -> tuple[str, str]:
    """The two images of a row."""
    expected = "NAME I J, two images of one person" if same else "NAME I OTHER J, of two people"
    if len(fields) != (3 if same else 4):
        raise UserError(f"{where}: {' '.join(fields)!r}, expected {expected}")
    first, number, *second = fields
    second = [first, *second] if same else second
    for value in (number, second[1]):
        if not _is_number(value):
            raise UserError(f"{where}: {value!r} is no number of an image, expected {expected}")
    if same == (first != second[0]) or (same and int(number) == int(second[1])):
        raise UserError(f"{where}: {' '.join(fields)!r}, expected {expected}")
    return _name(first, number), _name(*second)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def _name(person: str, number: str) -> str:
    return f"{person}/{person}_{int(number):04d}"
