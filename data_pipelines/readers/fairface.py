"""FairFace: age, gender and group of faces, levelled over the groups (Karkkainen, Joo, WACV 2021)."""

import pathlib
from collections.abc import Mapping

import numpy as np

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageFolder
from data_pipelines.formats.paths import relative_path
from data_pipelines.formats.user_table import read_rows
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder

_DATES = {
    **dict.fromkeys(("03-sep", "3-sep", "sep-03", "09-mar", "9-mar", "mar-09"), "3-9"),
    **dict.fromkeys(("oct-19", "19-oct"), "10-19"),
}
"""What spreadsheets make of two of the ranges, in small letters."""

_FIVE = {
    **{name: name for name in ("White", "Black", "Indian")},
    **dict.fromkeys(("East_Asian", "Southeast_Asian"), "Asian"),
    **dict.fromkeys(("Latino_Hispanic", "Middle_Eastern"), "Others"),
}
"""FairFace's group -> UTKFace's."""


class Fairface(FaceBuilder):
    """`fairface_label_train.csv` and `fairface_label_val.csv` with the pictures that they name.

    A row is file, age (one of nine ranges), gender (Male, Female) and race (one of seven groups);
    further columns are not read. Of copies that went through a spreadsheet, whose 3-9 and 10-19
    became dates (`03-Sep`, `Oct-19`), these are understood and counted.

    The official validation part is the test part, as nothing else is labelled; validation is a
    seeded share of training, chosen when records are used. With the option `groups=five` the groups
    are those of UTKFace, so that both share the task: East and Southeast Asian are Asian, Latino and
    Middle Eastern are Others.
    """

    ABOUT = About(
        title="FairFace: faces with range of age, gender and group",
        homepage="https://github.com/joojs/fairface",
        licence="CC BY 4.0; the images belong to their owners",
        citation="Kimmo Karkkainen, Jungseock Joo. FairFace: Face Attribute Dataset for Balanced "
        "Race, Gender, and Age for Bias Measurement and Mitigation. WACV 2021.",
        obtain="FairFace is to be had from https://github.com/joojs/fairface: give the folder that "
        "holds train, val, fairface_label_train.csv and fairface_label_val.csv",
    )
    OPTIONS: Mapping[str, tuple] = {"groups": ("seven", "five")}

    def _locate(self):
        self.tables = {
            "train": self.need("fairface_label_train.csv"),
            "test": self.need("fairface_label_val.csv"),
        }
        self.images = ImageFolder(self.source)

    @property
    def _groups(self) -> tuple[str, ...]:
        return tasks.SEVEN_GROUPS if self.options["groups"] == "seven" else tasks.FIVE_GROUPS

    def _info(self):
        return self.face_info((tasks.AGE_RANGE, tasks.MALE, *tasks.ethnicity_tasks(self._groups)))

    def _faces(self):
        listed: set[str] = set()
        faces = {split: self._read(path, listed) for split, path in self.tables.items()}
        self.left_out["images without a row"] = len(self.images.sizes.keys() - listed)
        return faces

    def _read(self, path: pathlib.Path, listed: set[str]) -> list[AnnotatedFace]:
        """The faces of a table; adds their names to `listed`."""
        rows = read_rows(path)
        names = [
            relative_path(text, rows.where(row), self.images.path)
            for row, text in enumerate(rows.column("file"))
        ]
        for row, name in enumerate(names):
            if name in listed:
                raise UserError(f"{rows.where(row)}: image {name!r} occurs a second time")
            listed.add(name)
        self.check_missing(names, "a table", f". {self.ABOUT.obtain}")
        ages = [text.strip() for text in rows.column("age")]
        if dates := [text for text in ages if text.lower() in _DATES]:
            what = f"ages of {path.name} that a spreadsheet made dates, such as {dates[0]!r}"
            self.noted[what] = len(dates)
        ranges, groups = tasks.AGE_RANGE.labels, self._groups
        age = rows.parse(
            "age",
            lambda text: ranges.index(_DATES.get(text.lower(), text)),
            f"one of {', '.join(ranges)}",
        )
        male = rows.parse("gender", {"Male": True, "Female": False}.__getitem__, "Male or Female")
        known = ", ".join(tasks.SEVEN_GROUPS).replace("_", " ")
        group = rows.parse("race", lambda text: groups.index(self._group(text)), f"one of {known}")
        return [
            AnnotatedFace(
                name,
                {
                    "age_range": age[row],
                    "attributes": male[row : row + 1],
                    "ethnicity": group[row],
                    "ethnicities": np.arange(len(groups)) == group[row],
                },
            )
            for row, name in enumerate(names)
        ]

    def _group(self, text: str) -> str:
        name = text.replace(" ", "_")
        return name if self.options["groups"] == "seven" else _FIVE[name]
