"""Anybody's own data: a CSV or JSON-lines manifest, or a folder per class."""

import dataclasses
import functools
import re
from collections.abc import Mapping

import numpy as np

from data_pipelines.detections import BOX_COLUMNS, LANDMARK_COLUMNS
from data_pipelines.errors import UserError
from data_pipelines.readers.base import About, Face, FaceBuilder
from data_pipelines.readers.declarations import parse_tasks, read_labels
from data_pipelines.readers.images import ImageFolder
from data_pipelines.readers.paths import relative_path
from data_pipelines.readers.rows import Rows, read_rows
from data_pipelines.tasks import LANDMARKS

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "1"), "validation"),
    **dict.fromkeys(("test", "testing", "2"), "test"),
}
"""Accepted spellings of the usual splits, in any case; the numbers are those of CelebA."""


class Manifest(FaceBuilder):
    """A table with a column `path` and any others, or `CLASS/*.jpg`, or `SPLIT/CLASS/*.jpg`.

    The source is the table itself, or a folder that holds `manifest.csv` or `manifest.jsonl`; paths
    are relative to the table's folder. A folder without such a file is read as a table with the
    columns `path`, `class` and, where every first folder is called like a split, `split`.

    Options (all text):
        tasks: what the columns are, see `declarations.parse_tasks`; for folders per class the
            default is `class:multiclass`.
        manifest: name of the table in the source folder.
        images: sub-folder that the paths are relative to.
        identity: column of the person (default: `identity` if there is one); whole numbers are
            kept, other texts are numbered in sorted order, empty is unknown.
        split: column of the split (default: `split` if there is one); without it all is `train`.
        shares: instead of a split column, seeded shares such as `train:0.8,validation:0.1,test:0.1`;
            of people where there is a column of identities, so that nobody is in two splits.
        seed: of the shares.
        box: four columns: left, top, width, height in pixels (default: of these names).
        landmarks: ten columns, x and y of the five points in pixels (default: named as in the table
            of `faceattr-data detect`).
        minus_one: what -1 means in a yes/no column: refuse, no or unknown.
        title, licence: of the data, for reports and model cards.
    """

    ABOUT = About(
        title="faces of a manifest",
        obtain="Expected a CSV or JSON-lines file with a column path, or a folder per class",
    )
    OPTIONS: Mapping[str, tuple] = {
        **dict.fromkeys(("tasks", "manifest", "images", "identity", "split", "shares"), ()),
        **dict.fromkeys(("seed", "box", "landmarks", "title", "licence"), ()),
        "minus_one": ("refuse", "no", "unknown"),
    }

    def _locate(self):
        given = {name: self.options[name] for name in ("title", "licence") if self.options[name]}
        self.ABOUT = dataclasses.replace(self.ABOUT, **given)
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
    def _rows(self) -> Rows:
        if not self.tables:
            return self._folders()
        rows = read_rows(self.tables["manifest"])
        paths = rows.column("path")
        seen: dict[str, int] = {}
        for row, path in enumerate(paths):
            paths[row] = name = relative_path(path, rows.where(row))
            if name in seen:
                raise UserError(
                    f"{rows.where(row)}: image {name!r} is already in row {rows.numbers[seen[name]]}"
                )
            seen[name] = row
        return rows

    def _folders(self) -> Rows:
        """The table that folders per class amount to."""
        parts = [name.split("/") for name in self.images.sizes]
        split = all(part[0].lower() in SPLIT_NAMES for part in parts)
        depth = 1 if split else 0
        found = [part for part in parts if len(part) > depth + 1]
        if not found:
            raise UserError(
                f"{self.source}: neither manifest.csv nor manifest.jsonl nor folders of images. "
                f"{self.ABOUT.obtain}"
            )
        self.left_out["images in no folder of a class"] = len(parts) - len(found)
        columns = {
            "path": ["/".join(part) for part in found],
            "class": [part[depth] for part in found],
        }
        if split:
            columns["split"] = [part[0] for part in found]
        return Rows(self.source, columns, list(range(1, len(found) + 1)))

    @functools.cached_property
    def _labels(self):
        rows = self._rows
        declared = self.options["tasks"] or ("" if self.tables else "class:multiclass")
        declarations = parse_tasks(declared, list(rows.columns))
        return [read_labels(each, rows, self.options["minus_one"]) for each in declarations]

    def _info(self):
        annotated = (LANDMARKS,) if self._columns("landmarks", LANDMARK_COLUMNS) else ()
        return self.face_info((*(task for task, _ in self._labels), *annotated))

    def _split_generators(self, dl_manager):
        rows = self._rows
        identities = self._identities()
        splits = self._splits(identities)
        boxes = self._values("box", BOX_COLUMNS)
        if boxes is not None:
            whole = ~np.isnan(boxes).any(1) & (boxes[:, 2:] > 0).all(1)
            wrong = ~whole & ~np.isnan(boxes).all(1)
            if wrong.any():
                raise UserError(
                    f"{rows.where(int(wrong.argmax()))}: expected a box with left, top, and width "
                    "and height above 0, or none of them"
                )
        landmarks = self._values("landmarks", LANDMARK_COLUMNS)
        paths = rows.column("path")
        if self.tables:
            self.left_out["images without a row"] = len(self.images.sizes.keys() - set(paths))

        def faces(split):
            for row in np.flatnonzero(splits == split):
                box = None if boxes is None or np.isnan(boxes[row, 0]) else boxes[row]
                points = None if landmarks is None else landmarks[row].reshape(5, 2)
                yield Face(
                    filename=paths[row],
                    labels={task.name: labels[row] for task, labels in self._labels},
                    box=box,
                    landmarks=None if points is None or np.isnan(points).all() else points,
                    identity=identities[row],
                )

        return {
            str(split): self._generate_examples(str(split), faces(split), (splits == split).sum())
            for split in np.unique(splits)
        }

    def _generate_examples(self, split, faces, total):
        yield from self.examples(split, faces, int(total))

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

    def _values(self, role: str, usual: tuple[str, ...]) -> np.ndarray | None:
        names = self._columns(role, usual)
        if names is None:
            return None
        return np.stack([self._rows.numbers_of(name) for name in names], axis=1)

    def _identities(self) -> np.ndarray:
        texts = self._column("identity")
        if texts is None:
            return np.full(len(self._rows), -1)
        texts = [text.strip() for text in texts]
        known = sorted(set(texts) - {""})
        if all(re.fullmatch(r"\d{1,18}", text, re.ASCII) for text in known):
            numbers = {text: int(text) for text in known}
        else:
            numbers = {text: number for number, text in enumerate(known)}
        return np.array([numbers.get(text, -1) for text in texts])

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
