"""Anybody's own data: a CSV or JSON-lines manifest, or a folder per class."""

import dataclasses
import functools
import os
import re
import unicodedata
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.detections import BOX_COLUMNS, LANDMARK_COLUMNS
from data_pipelines.formats.images import ImageFolder, is_hidden
from data_pipelines.formats.paths import relative_path
from data_pipelines.formats.user_table import UserTable, read_rows, unknown
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder, FacesOfRows
from data_pipelines.readers.declarations import parse_tasks, read_labels
from data_pipelines.tasks import LANDMARKS

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "1"), "validation"),
    **dict.fromkeys(("test", "testing", "2"), "test"),
}
"""Accepted spellings of the usual splits, in any case; the numbers are those of CelebA."""


_CORNERS = (
    ("x1", "y1", "x2", "y2"),
    ("xmin", "ymin", "xmax", "ymax"),
    ("left", "top", "right", "bottom"),
)


class Manifest(FaceBuilder):
    """A table with a column `path` and any others, or `CLASS/*.jpg`, or `SPLIT/CLASS/*.jpg`.

    The source is the table itself, or a folder that holds `manifest.csv` or `manifest.jsonl`; paths
    are relative to the table's folder. A folder without such a file is read as a table with the
    columns `path`, `class` and, where every first folder is called like a split, `split`.

    Options (all text):
        tasks: what the columns are, see `declarations.parse_tasks`; for folders per class the
            default is `class:multiclass`; not needed where people are known.
        manifest: name of the table in the source folder.
        path: column of the images (default: `path`). Two faces of one image are two rows with a box
            each.
        images: sub-folder that the paths are relative to.
        identity: column of the person (default: `identity` if there is one); whole numbers of up
            to 12 digits are kept, other texts are numbered in sorted order, empty is unknown.
        numbers: whose numbers those of people are, where other records number the same people alike
            (`celeba`: those of `identity_CelebA`); people of any others are different people.
        split: column of the split (default: `split` if there is one); without it all is `train`.
        shares: instead of a split column, seeded shares such as
            `train:0.8,validation:0.1,test:0.1`; of people where there is a column of identities, so
            that nobody is in two splits.
        seed: the seed of the shares.
        box: four columns: left, top, width, height in pixels (default: of these names).
        corners: four columns in place of `box`: left, top, right, bottom in pixels.
        landmarks: ten columns, x and y of the five points in pixels (default: named as in the table
            of `faceattr-data detect`).
        minus_one: what -1 means in a yes/no column: refuse, no or unknown.
        title, licence: those of the data, for reports and model cards.
    """

    ABOUT = About(
        title="faces of a manifest",
        obtain="Expected a CSV or JSON-lines file with a column path, or a folder per class",
    )
    OPTIONS: Mapping[str, tuple] = {
        **dict.fromkeys(("tasks", "manifest", "images", "identity", "split", "shares"), ()),
        **dict.fromkeys(("seed", "box", "landmarks", "title", "licence"), ()),
        "minus_one": ("refuse", "no", "unknown"),
        "path": (),
        "corners": (),
        "numbers": (),
    }
    LATER_OPTIONS = frozenset({"path", "corners", "numbers"})

    def _locate(self):
        given = {name: self.options[name] for name in ("title", "licence") if self.options[name]}
        self.ABOUT = dataclasses.replace(self.ABOUT, **given)
        self.NUMBERING = self.options["numbers"]
        if self.source.is_file():
            table, root = self.source, self.source.parent
        else:
            name = self.options["manifest"]
            table = self.need(name) if name else self.find("manifest.csv", "manifest.jsonl")
            root = table.parent if table else self.source
        self.tables = {"manifest": table} if table else {}
        if self.options["images"]:
            root = root / relative_path(self.options["images"], "option images")
        if not root.is_dir():
            raise UserError(f"{root}: no such folder of images")
        self.images = ImageFolder(root)

    @functools.cached_property
    def _rows(self) -> UserTable:
        if not self.tables:
            return self._folders()
        rows = read_rows(self.tables["manifest"])
        paths = self._paths_of(rows)
        # Systems write an accented letter as one character or as two.
        composed = {unicodedata.normalize("NFC", name): name for name in self.images.sizes}
        for row, path in enumerate(paths):
            name = relative_path(path, rows.where(row), self.images.path)
            if name not in self.images.sizes:
                name = composed.get(unicodedata.normalize("NFC", name), name)
            paths[row] = name
        return rows

    def _paths_of(self, rows: UserTable) -> list[str]:
        if not self.options["path"] and "path" not in rows.columns:
            known = ", ".join(rows.columns)
            raise UserError(
                f"{rows.path}: there is no column 'path'; it has: {known}; --option path=COLUMN "
                "names the one of the images"
            )
        return rows.column(self.options["path"] or "path")

    def _check_shared(self, paths: list[str], boxes: np.ndarray | None) -> None:
        """Notes images with several faces.

        Raises:
            UserError: two rows name one image, and not each has a box of its own.
        """
        first: dict[str, int] = {}
        known: set[tuple] = set()
        for row, name in enumerate(paths):
            box = None if boxes is None or np.isnan(boxes[row]).any() else tuple(boxes[row])
            if name in first:
                if box is None or not known.isdisjoint({(name, box), (name, None)}):
                    raise UserError(
                        f"{self._rows.where(row)}: image {name!r} is already in row "
                        f"{self._rows.numbers[first[name]]}; several faces of an image need a box each"
                    )
                self.shared.add(name)
            first.setdefault(name, row)
            known.add((name, box))

    def _folders(self) -> UserTable:
        """The table that folders per class amount to."""
        parts = [name.split("/") for name in self.images.sizes]
        # What lies beside the folders, or beside those of classes, says nothing about the layout.
        tops = {part[0] for part in parts if len(part) > 1}
        deep = {part[0] for part in parts if len(part) > 2}
        splits = {name for name in deep if name.lower() in SPLIT_NAMES}
        split = bool(tops) and splits == tops
        if splits and not split and not all(name.isdigit() for name in splits):
            raise UserError(
                f"{self.source}: the folders {', '.join(sorted(splits))} look like splits, "
                f"{', '.join(sorted(tops - splits))} like classes; expected either, or a manifest"
            )
        depth = 1 if split else 0
        found = [part for part in parts if len(part) > depth + 1]
        if not found:
            raise UserError(
                f"{self.source}: neither manifest.csv nor manifest.jsonl nor folders of images. "
                f"{self.ABOUT.obtain}"
            )
        self.left_out["images in no folder of a class"] = len(parts) - len(found)
        self._check_classes(sorted(tops) if split else [""], {tuple(p[: depth + 1]) for p in found})
        columns = {
            "path": ["/".join(part) for part in found],
            "class": [part[depth] for part in found],
        }
        if split:
            columns["split"] = [part[0] for part in found]
        for name in sorted(set(columns["class"])):
            if os.fsencode(name).decode("utf-8", "ignore") != name:
                shown = os.fsencode(name)
                raise UserError(f"{self.source}: {shown!r} is not UTF-8; rename the folder")
        return UserTable(self.source, columns, list(range(1, len(found) + 1)))

    def _check_classes(self, parents: list[str], filled: set[tuple[str, ...]]) -> None:
        """Raises UserError for a folder of a class without any picture that is read."""
        for parent in parents:
            for folder in sorted((self.images.path / parent).iterdir()):
                place = (parent, folder.name) if parent else (folder.name,)
                if folder.is_dir() and not is_hidden(folder.name) and place not in filled:
                    inside = ImageFolder(folder)
                    files = ", ".join(f"{n} {what}" for n, what in _counted(inside))
                    raise UserError(
                        f"{folder}: this class holds no picture that is read "
                        f"({files or 'it is empty'}); remove the folder or convert its files"
                    )

    @functools.cached_property
    def _labels(self):
        minus_one = self.options["minus_one"]
        return [read_labels(each, self._rows, minus_one) for each in self._declarations]

    @functools.cached_property
    def _declarations(self):
        declared = self.options["tasks"] or ("" if self.tables else "class:multiclass")
        if not declared and self._column("identity") is not None:
            return []
        return parse_tasks(declared, list(self._rows.columns))

    def _info(self):
        annotated = (LANDMARKS,) if self._columns("landmarks", LANDMARK_COLUMNS) else ()
        return self.face_info((*(task for task, _ in self._labels), *annotated))

    def _faces(self):
        rows = self._rows
        identities = self._identities()
        splits = self._splits(identities)
        boxes = self._boxes()
        if boxes is not None:
            whole = ~np.isnan(boxes).any(1) & (boxes[:, 2:] > 0).all(1)
            wrong = ~whole & ~np.isnan(boxes).all(1)
            if wrong.any():
                raise UserError(
                    f"{rows.where(int(wrong.argmax()))}: expected a box with left, top, and width "
                    "and height above 0, or none of them"
                )
        landmarks = self._values("landmarks", LANDMARK_COLUMNS)
        paths = self._paths_of(rows)
        self._check_shared(paths, boxes)
        if self.tables:
            self._note_unused()
            self.left_out["images without a row"] = len(self.images.sizes.keys() - set(paths))

        def face(row: int) -> AnnotatedFace:
            box = None if boxes is None or np.isnan(boxes[row, 0]) else boxes[row]
            points = None if landmarks is None else landmarks[row].reshape(5, 2)
            return AnnotatedFace(
                filename=paths[row],
                labels={task.name: labels[row] for task, labels in self._labels},
                box=box,
                landmarks=None if points is None or np.isnan(points).all() else points,
                identity=identities[row],
            )

        return {
            str(split): FacesOfRows(np.flatnonzero(splits == split), face)
            for split in np.unique(splits)
        }

    def _column(self, role: str) -> list[str] | None:
        """The column that an option names, or the one called like it if there is one."""
        if self.options[role]:
            return self._rows.column(self.options[role])
        return self._rows.columns.get(role)

    def _columns(self, role: str, usual: tuple[str, ...]) -> tuple[str, ...] | None:
        """The columns that an option lists, or the usual ones if all are there."""
        if not self.options[role]:
            return usual if set(usual) <= self._rows.columns.keys() else None
        names = tuple(name.strip() for name in self.options[role].split(","))
        if len(names) != len(usual):
            raise UserError(
                f"option {role}: {len(names)} columns, expected {len(usual)} for {', '.join(usual)}"
            )
        return names

    def _boxes(self) -> np.ndarray | None:
        """Left, top, width and height of every row; None without such columns."""
        if self.options["corners"]:
            if self.options["box"]:
                raise UserError("options box and corners: expected one of them")
            corners = self._values("corners", BOX_COLUMNS)
            return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        boxes = self._values("box", BOX_COLUMNS)
        lower = {name.lower(): name for name in self._rows.columns}
        for names in _CORNERS:
            if boxes is None and set(names) <= lower.keys():
                given = ",".join(lower[name] for name in names)
                raise UserError(
                    f"{self._rows.path}, row 1: the columns {given} seem to be corners of boxes; "
                    f"--option corners={given} reads them, --option box={given} takes the last two "
                    "for width and height"
                )
        return boxes

    def _note_unused(self) -> None:
        """Counts the columns that no option, task or usual name reads."""
        boxes = self._columns("corners", BOX_COLUMNS) if self.options["corners"] else None
        used = {
            self.options["path"] or "path",
            self.options["identity"] or "identity",
            self.options["split"] or "split",
            *(boxes or self._columns("box", BOX_COLUMNS) or ()),
            *(self._columns("landmarks", LANDMARK_COLUMNS) or ()),
            *(column for each in self._declarations for column in each.columns.values()),
        }
        if unused := [name for name in self._rows.columns if name not in used]:
            self.images.left_out[f"columns: {', '.join(unused)}"] = len(unused)

    def _values(self, role: str, usual: tuple[str, ...]) -> np.ndarray | None:
        names = self._columns(role, usual)
        if names is None:
            return None
        return np.stack([self._rows.numbers_of(name) for name in names], axis=1)

    def _identities(self) -> np.ndarray:
        texts, numbers = self._column("identity"), self.options["numbers"]
        if texts is None:
            if numbers:
                raise UserError(f"option numbers: {numbers!r} numbers people, and there are none")
            return np.full(len(self._rows), -1)
        texts = [text.strip() for text in texts]
        known = sorted({text for text in texts if not unknown(text)})
        other = [text for text in known if not re.fullmatch(r"\d{1,12}", text, re.ASCII)]
        if other and numbers:
            raise UserError(
                f"{self._rows.where(texts.index(other[0]))}: person {other[0]!r} is no whole number "
                f"of up to 12 digits, as those of {numbers!r} are (option numbers)"
            )
        number_of = {text: number if other else int(text) for number, text in enumerate(known)}
        return np.array([number_of.get(text, -1) for text in texts])

    def _splits(self, identities: np.ndarray) -> np.ndarray:
        """Name of the split of every row."""
        if not self.options["shares"]:
            texts = self._column("split")
            if texts is None:
                return np.full(len(self._rows), "train")
            column = self.options["split"] or "split"
            return self._rows.parse(column, _split_name, f"a split ({', '.join(SPLIT_NAMES)})")
        if self._column("split") is not None:
            raise UserError(f"{self._rows.path}: it has a column of splits, so shares are not used")
        shares = _parse_shares(self.options["shares"])
        try:
            rng = np.random.default_rng(int(self.options["seed"] or 0))
        except ValueError:
            raise UserError(
                f"option seed: {self.options['seed']!r} is no whole number from 0"
            ) from None
        # Rows of an unknown person stand alone.
        alone = -1 - np.arange(len(identities))
        people, owner = np.unique(np.where(identities < 0, alone, identities), return_inverse=True)
        ends = np.rint(np.cumsum(list(shares.values())) * len(people)).astype(int)
        counts = np.diff(ends, prepend=0)
        for name, count in zip(shares, counts, strict=True):
            if not count:
                raise UserError(
                    f"option shares: {name} gets none of {len(people)} people or images"
                )
        parts = np.empty(len(people), object)
        parts[rng.permutation(len(people))] = np.repeat(list(shares), counts)
        return parts[owner].astype(str)


def _counted(folder: ImageFolder) -> list[tuple[int, str]]:
    folder.sizes  # noqa: B018 - counts what it passes over
    return [(count, what) for what, count in folder.left_out.items()]


def _split_name(text: str) -> str:
    name = SPLIT_NAMES.get(text.lower(), text)
    # `all` means every split to TensorFlow Datasets.
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name == "all":
        raise ValueError(text)
    return name


def _parse_shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, _, share = part.partition(":")
            name = _split_name(name.strip())
            if name in shares or not 0 < float(share) <= 1:
                raise ValueError
            shares[name] = float(share)
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError
    except ValueError:
        raise UserError(
            f"option shares: {text!r}, expected SPLIT:SHARE,... with shares that sum to 1, such as "
            "train:0.8,validation:0.1,test:0.1"
        ) from None
    return shares
