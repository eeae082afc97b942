"""CelebA, the CelebFaces Attributes data set (Liu et al., ICCV 2015), in all its usual layouts."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageArchive, ImageFolder
from data_pipelines.formats.numeric_table import NumericTable, csv_fields, parse_rows, read_lines
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder, FacesOfRows

SPLITS = ("train", "validation", "test")
IDENTITY_RANGES = {
    "identity": {"train": (1, 8000), "validation": (8001, 9000), "test": (9001, 10000)},
    "identity_svm": {"train": (8001, 9000), "test": (9001, 10000)},
}
"""First and last identity per split of `split=identity` and `split=identity_svm`.

LNets+ANet (section 5) trains its networks on the images of the first eight thousand identities,
its support vector machines on those of another thousand, and tests on the remaining thousand: the
networks learn from records of the first kind, the machines from records of the second. The data set
has 10,177 identities: the images of the others are counted and left out.
"""

_POINTS = tuple(
    f"{name}_{axis}"
    for name in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
    for axis in "xy"
)
_BOX = ("x_1", "y_1", "width", "height")
_FOLDERS = {"aligned": "img_align_celeba", "wild": "img_celeba"}
_LANDMARKS = {"aligned": "list_landmarks_align_celeba", "wild": "list_landmarks_celeba"}


class Celeba(FaceBuilder):
    """The official folders, the flat variant, and the CSV variant of the well-known competition site.

    Images: `Img/img_align_celeba/` or `img_align_celeba/`, also with the folder nested in itself,
    also as `img_align_celeba.zip`, which is read in place; `images=wild` takes `img_celeba`, the
    photographs that the aligned ones were cut from. Tables: `Anno/` and `Eval/` or beside the
    images, `.txt` or `.csv`. `list_landmarks_*`, `list_bbox_celeba` and `identity_CelebA` are used
    when present. `list_bbox_celeba` and `list_landmarks_celeba` describe the photographs and are
    never joined to aligned images. The files say -1 for no; records say 0.

    What circulates besides the whole set is read when asked for: with `rows=subset` rows without
    their images, images without their rows, and tables shorter than their first line says are left
    out and counted; with `no=0` the attributes say 0 for no.

    `split=official` is `list_eval_partition` (162,770 / 19,867 / 19,962 images); `split=identity`
    and `split=identity_svm` are the protocol of LNets+ANet, see `IDENTITY_RANGES`.
    """

    ABOUT = About(
        title="CelebA: faces with 40 attributes",
        homepage="http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="for non-commercial research only; the images belong to their owners",
        citation="Ziwei Liu, Ping Luo, Xiaogang Wang, Xiaoou Tang. Deep Learning Face Attributes "
        "in the Wild. ICCV 2015.",
        obtain="CelebA is to be had from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: give "
        "the folder that holds its Img, Anno and Eval",
    )
    OPTIONS: Mapping[str, tuple] = {
        "images": ("aligned", "wild"),
        "split": ("official", *IDENTITY_RANGES),
        "rows": ("complete", "subset"),
        "no": ("-1", "0"),
    }
    LATER_OPTIONS = frozenset({"rows", "no"})
    NUMBERING = "celeba"

    def _locate(self):
        kind = self.options["images"]
        self.images = self._images(_FOLDERS[kind])
        found = {
            "attributes": self.need(*_places("list_attr_celeba")),
            "landmarks": self.find(*_places(_LANDMARKS[kind])),
            "boxes": self.find(*_places("list_bbox_celeba")) if kind == "wild" else None,
        }
        if self.options["split"] == "official":
            found["identities"] = self.find(*_places("identity_CelebA"))
            found["partition"] = self.need(*_places("list_eval_partition"))
        else:
            found["identities"] = self.need(*_places("identity_CelebA"))
        self.tables = {role: path for role, path in found.items() if path}

    def _images(self, folder: str) -> ImageFolder | ImageArchive:
        names = (folder, f"{folder}_png")  # the second are the same images without losses
        places = [f"{place}{name}" for name in names for place in ("Img/", "")]
        path = self.need(*places, *(f"{place}.zip" for place in places))
        if path.suffix == ".zip":
            return ImageArchive(path, path.stem)
        nested = path / path.name  # as the competition site's archive unpacks
        return ImageFolder(nested if nested.is_dir() else path)

    def _info(self):
        annotated = (tasks.LANDMARKS,) if "landmarks" in self.tables else ()
        return self.face_info((tasks.CELEBA, *annotated))

    def _faces(self):
        attributes = self._read("attributes", tasks.CELEBA_ATTRIBUTES)
        zero = self.options["no"] == "0"
        hint = "" if zero else "; where 0 means no: --option no=0"
        labels = attributes.require(slice(None), (0, 1) if zero else (-1, 1), hint) == 1
        names = attributes.names
        identities = self._identities(names)
        parts = self._parts(names, identities)
        landmarks = self._values("landmarks", _POINTS, names)
        boxes = self._values("boxes", _BOX, names)
        if boxes is not None:
            boxes = np.where((boxes[:, 2:] > 0).all(1, keepdims=True), boxes, np.nan)
        self.left_out["images without a row"] = len(self.images.sizes.keys() - set(names))
        advice = "; --option rows=subset builds from those that are there"
        self.check_missing(np.array(names)[parts >= 0], "the tables", advice)

        def face(row: int) -> AnnotatedFace:
            return AnnotatedFace(
                filename=names[row],
                labels={"attributes": labels[row]},
                box=None if boxes is None else boxes[row],
                landmarks=None if landmarks is None else landmarks[row].reshape(5, 2),
                identity=identities[row],
            )

        return {
            split: FacesOfRows(np.flatnonzero(parts == part), face)
            for part, split in enumerate(SPLITS)
            if (parts == part).any()
        }

    @property
    def _subset(self) -> bool:
        return self.options["rows"] == "subset"

    def _names(self, names: list[str]) -> list[str]:
        """Names of images as they lie there: losslessly stored ones end in `.png`."""
        if not self.images.path.stem.endswith("_png"):
            return names
        return [str(pathlib.PurePosixPath(name).with_suffix(".png")) for name in names]

    def _present(self, parts: np.ndarray, names: list[str]) -> np.ndarray:
        """The parts of a subset, without rows whose images are not there; these are counted."""
        if self._subset:
            absent = np.array([name not in self.images.sizes for name in names])
            self.left_out["rows without an image"] = int((absent & (parts >= 0)).sum())
            parts = np.where(absent, -1, parts)
            if not (parts >= 0).any():
                raise UserError(
                    f"{self.images.path}: none of its images is in the tables, such as {names[0]!r}"
                )
        return parts

    def _read(self, role: str, columns: tuple[str, ...]) -> NumericTable:
        """A table of the official format (row count, column names, rows; or rows alone) or as CSV.

        Raises:
            UserError: the count or the column names do not match, or a row is wrong.
        """
        path = self.tables[role]
        lines = read_lines(path)
        if path.suffix == ".csv":
            _check_header(path, 1, csv_fields(lines[0])[1:], columns)
            table = parse_rows(path, lines[1:], columns, first_row=2, comma=True)
        elif role in ("identities", "partition"):
            table = parse_rows(path, lines, columns)
        else:
            if columns[0] in lines[0].split():
                raise UserError(
                    f"{path}, row 1: names of columns; the line above them with the number of rows "
                    "is missing"
                )
            given = (lines + [""])[1].split()
            # list_bbox_celeba.txt names its first column too, the others do not.
            _check_header(path, 2, given[1:] if given[:1] == ["image_id"] else given, columns)
            table = parse_rows(path, lines[2:], columns, first_row=3)
            said = lines[0].strip()
            if said != str(len(table.names)) and not (self._subset and said.isdigit()):
                raise UserError(
                    f"{path}, row 1: says {said!r} rows, but {len(table.names)} follow; "
                    "--option rows=subset takes these"
                )
        return dataclasses.replace(table, names=self._names(table.names))

    def _values(self, role: str, columns: tuple[str, ...], names: list[str]) -> np.ndarray | None:
        """An optional table in the order of `names`, NaN where it has no row; None without it."""
        if role not in self.tables:
            return None
        table = self._read(role, columns)
        rows = {name: row for row, name in enumerate(table.names)}
        values = np.append(table.values, np.full((1, len(columns)), np.nan), axis=0)
        return values[[rows.get(name, -1) for name in names]]

    def _identities(self, names: list[str]) -> np.ndarray:
        values = self._values("identities", ("identity",), names)
        if values is None:
            return np.full(len(names), -1)
        return np.where(np.isnan(values[:, 0]), -1, values[:, 0]).astype(np.int64)

    def _parts(self, names: list[str], identities: np.ndarray) -> np.ndarray:
        """Index of each image's split in `SPLITS`, -1 for what the protocol leaves out."""
        if ranges := IDENTITY_RANGES.get(self.options["split"]):
            parts = np.full(len(names), -1)
            for split, (first, last) in ranges.items():
                part = SPLITS.index(split)
                parts[(identities >= first) & (identities <= last)] = part
            self.left_out["images of identities beyond the protocol"] = int((parts < 0).sum())
            return self._present(parts, names)
        table = self._read("partition", ("partition",))
        part_of = dict(zip(table.names, table.require(slice(None), (0, 1, 2))[:, 0], strict=True))
        if self._subset:
            parts = np.array([part_of.get(name, -1) for name in names])
            there = np.array([name in self.images.sizes for name in names])
            self.left_out["images without a split"] = int((there & (parts < 0)).sum())
            return self._present(parts, names)
        for source, others in ((names, part_of), (table.names, set(names))):
            for name in source:
                if name not in others:
                    other = table.path if source is names else self.tables["attributes"]
                    raise UserError(
                        f"{other}: there is no row of image {name!r}; --option rows=subset builds "
                        "from the images that all tables have"
                    )
        return np.array([part_of[name] for name in names])


def _places(name: str) -> list[str]:
    """Where a table may stand, the official place first."""
    folders = ("Eval/", "Anno/", "") if name == "list_eval_partition" else ("Anno/", "")
    return [f"{folder}{name}{suffix}" for suffix in (".txt", ".csv") for folder in folders]


def _check_header(path: os.PathLike, row: int, given: list[str], expected: tuple[str, ...]):
    given = [name.strip() for name in given]
    if len(given) != len(expected):
        raise UserError(f"{path}, row {row}: {len(given)} column names, expected {len(expected)}")
    for number, (name, wanted) in enumerate(zip(given, expected, strict=True), 1):
        if name != wanted:
            raise UserError(f"{path}, row {row}: column {number} is {name!r}, expected {wanted!r}")
