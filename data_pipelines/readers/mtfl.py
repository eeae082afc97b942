"""MTFL, the Multi-Task Facial Landmark data set (Zhang et al., ECCV 2014)."""

import os

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.formats.images import ImageFolder
from data_pipelines.formats.numeric_table import NumericTable, parse_rows, read_lines
from data_pipelines.readers.base import About, AnnotatedFace, FaceBuilder

_POINTS = tuple(f"{axis}{number}" for axis in "xy" for number in range(1, 6))
_COLUMNS = (*_POINTS, "gender", "smile", "glasses", "pose")


class Mtfl(FaceBuilder):
    """`training.txt` and `testing.txt` with the images that they name, as MTFL unpacks.

    A row is the path, x of the five points, y of the five points (pixels), gender (1 male,
    2 female), smile (1 yes, 2 no), glasses (1 yes, 2 no) and head pose (1 left profile to 5 right
    profile). Paths hold backslashes in `training.txt`, rows start with a blank and end with CRLF.
    There is no validation split: it is a seeded share of training, chosen when records are used.
    """

    ABOUT = About(
        title="MTFL: faces with five landmarks, gender, smile, glasses and head pose",
        homepage="http://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html",
        licence="for non-commercial research only; the images belong to their owners",
        citation="Zhanpeng Zhang, Ping Luo, Chen Change Loy, Xiaoou Tang. Facial Landmark "
        "Detection by Deep Multi-task Learning. ECCV 2014.",
        obtain="MTFL is to be had from http://mmlab.ie.cuhk.edu.hk/projects/TCDCN.html: "
        "unpack MTFL.zip and give the folder that holds training.txt",
    )

    def _locate(self):
        self.tables = {"train": self.need("training.txt"), "test": self.need("testing.txt")}
        self.images = ImageFolder(self.source)

    def _info(self):
        return self.face_info((tasks.MTFL_ATTRIBUTES, tasks.POSE, tasks.LANDMARKS))

    def _faces(self):
        rows = {split: _read(path) for split, path in self.tables.items()}
        shared = set(rows["train"].names).intersection(rows["test"].names)
        if shared:
            raise UserError(f"{self.tables['test']}: {min(shared)!r} is also in training.txt")
        listed = set(rows["train"].names).union(rows["test"].names)
        self.left_out["images without a row"] = len(self.images.sizes.keys() - listed)
        return {split: _faces(table) for split, table in rows.items()}


def _read(path: os.PathLike) -> NumericTable:
    return parse_rows(path, read_lines(path), _COLUMNS, rename=lambda name: name.replace("\\", "/"))


def _faces(table: NumericTable) -> list[AnnotatedFace]:
    points = table.values[:, :10].reshape(-1, 2, 5).transpose(0, 2, 1)
    attributes = table.require(slice(10, 13), (1, 2)) == 1
    pose = table.require(slice(13, 14), (1, 2, 3, 4, 5))[:, 0] - 1
    return [
        AnnotatedFace(
            name, {"attributes": attributes[row], "pose": pose[row]}, landmarks=points[row]
        )
        for row, name in enumerate(table.names)
    ]
