"""LFWA and LFWA+, attributes of Labeled Faces in the Wild (Liu et al., ICCV 2015)."""

import dataclasses
import functools
import pathlib

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.matlab import read_matlab
from data_pipelines.formats.paths import relative_path
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder, FacesOfRows
from data_pipelines.readers.lfw import images_at, number_people
from data_pipelines.tasks import CELEBA, CELEBA_ATTRIBUTES, UNKNOWN, Task, celeba_name

SPLITS = ("train", "test")
FURTHER_TASK = "lfwa_attributes"


class Lfwa(FaceBuilder):
    """`lfw/PERSON/PERSON_0001.jpg`, `lfw_att_40.mat` or `lfw_att_73.mat`, `indices_train_test.mat`.

    Attribute names are read from the files. Those that CelebA has too, whatever their case, blanks
    and punctuation, are the task `attributes` under CelebA's names and in its order; the further
    ones are the task `lfwa_attributes`, blanks written as underscores. Where both attribute files
    are there, the shared attributes come from `lfw_att_40.mat`.

    Labels are 0 and 1. A further attribute may also be NaN or -1, which means unknown; and where no
    image of a split has a single yes among all further attributes, the split was not labelled for
    them, and all are unknown there (LNets+ANet, section 5: LFWA+ labels the test images only).

    `indices_train_test.mat` counts from one and gives 6,263 training and 6,880 test images; images
    without a row (90 of the official 13,233) are counted as left out. A person's number is the
    place of the folder's name among all sorted ones. The package has no file of boxes or landmarks:
    `faceattr-data detect` makes them. `lfw.zip` may stay packed.
    """

    ABOUT = About(
        title="LFWA: Labeled Faces in the Wild with 40 or 73 attributes",
        homepage="http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        licence="for non-commercial research only; the images belong to their owners",
        citation="Ziwei Liu, Ping Luo, Xiaogang Wang, Xiaoou Tang. Deep Learning Face Attributes "
        "in the Wild. ICCV 2015.",
        obtain="LFWA is to be had from http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: give the "
        "folder that holds lfw, lfw_att_40.mat or lfw_att_73.mat, and indices_train_test.mat",
    )

    def _locate(self):
        self.images = images_at(self.need("lfw", "lfw.zip"))
        self.need("lfw_att_40.mat", "lfw_att_73.mat")
        self.tables = {
            role: path
            for role in ("lfw_att_40", "lfw_att_73")
            if (path := self.find(f"{role}.mat"))
        }
        self.tables["indices"] = self.need("indices_train_test.mat")

    @functools.cached_property
    def _attributes(self) -> "_Attributes":
        tables = [path for role, path in self.tables.items() if role != "indices"]
        return _joined([_read_attributes(path) for path in tables])

    def _info(self):
        return self.face_info(self._attributes.tasks)

    def _faces(self):
        attributes = self._attributes
        names = attributes.names
        people = number_people(names)
        rows = self._rows(len(names))
        labels = attributes.labels(rows)
        self.left_out["images without labels"] = len(self.images.sizes.keys() - set(names))
        self.left_out["labelled images in no split"] = len(names) - sum(map(len, rows.values()))

        def face(row: int) -> AnnotatedFace:
            return AnnotatedFace(
                filename=names[row],
                labels={name: values[row] for name, values in labels.items()},
                identity=people[row],
            )

        return {split: FacesOfRows(rows[split], face) for split in SPLITS}

    def _rows(self, count: int) -> dict[str, np.ndarray]:
        """Rows of each split, counted from zero and checked."""
        path = self.tables["indices"]
        variables = read_matlab(path, *(f"indices_img_{split}" for split in SPLITS))
        seen = np.zeros(count, bool)
        rows = {}
        for split in SPLITS:
            name = f"indices_img_{split}"
            values = np.ravel(variables[name])
            if not values.size or values.dtype.kind != "f":
                raise UserError(f"{path}: variable {name!r} holds no indices")
            for row, value in enumerate(values, 1):
                if not 1 <= value <= count or value != int(value):
                    raise UserError(
                        f"{path}, {name}, row {row}: {value:g} is no index from 1 to {count}"
                    )
                if seen[int(value) - 1]:
                    raise UserError(f"{path}, {name}, row {row}: {value:g} occurs a second time")
                seen[int(value) - 1] = True
            rows[split] = np.sort(values.astype(np.int64) - 1)
        return rows


@dataclasses.dataclass(frozen=True)
class _Attributes:
    """The content of one attribute file.

    Attributes:
        path: the file.
        names: image per row.
        columns: attribute name (CelebA's where it has one) -> column of `values`.
        values: `[images, columns]` float64 as the file holds them.
        sources: file per column, where files were joined.
    """

    path: pathlib.Path
    names: list[str]
    columns: dict[str, int]
    values: np.ndarray
    sources: list[pathlib.Path]

    @property
    def tasks(self) -> tuple[Task, ...]:
        shared = tuple(name for name in CELEBA_ATTRIBUTES if name in self.columns)
        further = tuple(name for name in self.columns if name not in CELEBA_ATTRIBUTES)
        tasks = (Task(CELEBA.name, "multilabel", shared),)
        return (*tasks, Task(FURTHER_TASK, "multilabel", further)) if further else tasks

    def labels(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Per task the labels of all images, int8 `[images, labels]`."""
        shared, *further = self.tasks
        labels = {shared.name: self._checked(shared, (0, 1))}
        for task in further:
            values = self._checked(task, (0, 1, UNKNOWN))
            for split in rows.values():
                if not (values[split] == 1).any():
                    values[split] = UNKNOWN
            labels[task.name] = values
        return labels

    def _checked(self, task, allowed):
        values = self.values[:, [self.columns[name] for name in task.labels]]
        if UNKNOWN in allowed:
            values = np.where(np.isnan(values), UNKNOWN, values)
        wrong = np.argwhere(~np.isin(values, allowed))
        if len(wrong):
            row, column = wrong[0]
            name = task.labels[column]
            raise UserError(
                f"{self.sources[self.columns[name]]}, row {row + 1} ({self.names[row]}): {name} is "
                f"{values[row, column]:g}, expected 0 or 1"
            )
        return values.astype(np.int8)


def _read_attributes(path: pathlib.Path) -> _Attributes:
    variables = read_matlab(path, "name", "AttrName", "label")
    names, spellings, values = variables["name"], variables["AttrName"], variables["label"]
    if not isinstance(names, list) or not isinstance(spellings, list) or isinstance(values, list):
        raise UserError(f"{path}: expected lists of texts name and AttrName and a matrix label")
    names = [relative_path(name, f"{path}, name, row {row}") for row, name in enumerate(names, 1)]
    if repeated := _repeated(names):
        raise UserError(f"{path}: image {repeated!r} occurs a second time")
    if values.shape != (len(names), len(spellings)):
        raise UserError(
            f"{path}: label is {'x'.join(map(str, values.shape))}, expected one row for each of "
            f"{len(names)} images and one column for each of {len(spellings)} attributes"
        )
    attributes = [celeba_name(name) or "_".join(name.split()) for name in spellings]
    if repeated := _repeated(attributes):
        raise UserError(f"{path}: attribute {repeated!r} occurs a second time")
    if not set(attributes) & set(CELEBA_ATTRIBUTES):
        raise UserError(f"{path}: none of its attributes, such as {spellings[:1]}, is CelebA's")
    columns = {name: column for column, name in enumerate(attributes)}
    return _Attributes(path, names, columns, values, [path] * len(attributes))


def _joined(tables: list[_Attributes]) -> _Attributes:
    """The attributes of several files over the same images; those of the first win."""
    first, *others = tables
    for other in others:
        if other.names != first.names:
            raise UserError(f"{other.path}: its images are not those of {first.path}")
        new = [name for name in other.columns if name not in first.columns]
        start = first.values.shape[1]
        first = _Attributes(
            first.path,
            first.names,
            first.columns | {name: start + index for index, name in enumerate(new)},
            np.hstack([first.values, other.values[:, [other.columns[name] for name in new]]]),
            first.sources + [other.path] * len(new),
        )
    return first


def _repeated(names: list[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
