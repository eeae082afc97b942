"""The table of detected faces that `faceattr-data detect` writes and `build` joins in."""

import csv
import os

import numpy as np

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.files import local

BOX_COLUMNS = ("left", "top", "width", "height")
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in tasks.LANDMARK_NAMES for axis in "xy")
COLUMNS = ("filename", *BOX_COLUMNS, "score", *LANDMARK_COLUMNS)
_BOX_HEADERS = ((COLUMNS[0], *BOX_COLUMNS), ("image_id", "x_1", "y_1", "width", "height"))


def read_detections(path: str | os.PathLike) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The detected face per image of a table written by `faceattr-data detect`.

    Args:
        path: CSV file with `COLUMNS`; rows of images without a face have empty fields.

    Returns:
        filename -> box `[4]` (left, top, width, height) and landmarks `[5, 2]`, float32 pixels;
        images without a face are absent.

    Raises:
        UserError: the file is missing, has other columns, or a field that is no number.
    """
    faces = {}
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such detections file; `faceattr-data detect` writes it")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        header = tuple(next(rows, ()))
        if header != COLUMNS:
            raise UserError(f"{path}, row 1: expected the columns {','.join(COLUMNS)}")
        for number, row in enumerate(rows, 2):
            if len(row) != len(COLUMNS):
                raise UserError(f"{path}, row {number}: {len(row)} fields, expected {len(COLUMNS)}")
            if not row[1]:
                continue
            try:
                values = np.array(row[1:], np.float32)
            except ValueError:
                raise UserError(
                    f"{path}, row {number}: a field is not a number: {','.join(row)}"
                ) from None
            faces[row[0]] = values[:4], values[5:].reshape(-1, 2)
    return faces


def read_boxes(path: str) -> dict[str, tuple[float, float, float, float]]:
    """Annotated boxes from a CSV with `filename,left,top,width,height`, or CelebA's text file or CSV.

    Returns:
        filename -> (left, top, width, height) in pixels.

    Raises:
        UserError: the file is missing or a row is not in the format.
    """
    path = local(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of boxes")
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        lines = file.read().replace("\r\n", "\n").split("\n")
    # list_bbox_celeba.txt: the number of rows, the names of the columns, then rows of blanks.
    if lines and lines[0].strip().isdigit():
        rows, first = [line.split() for line in lines[2:]], 3
    else:
        header, *rows = csv.reader(lines) if lines else [[]]
        if tuple(name.strip() for name in header[:5]) not in _BOX_HEADERS:
            expected = ",".join((COLUMNS[0], *BOX_COLUMNS))
            raise UserError(f"{path}, row 1: {','.join(header)!r}, expected {expected}")
        first = 2
    boxes = {}
    for number, row in enumerate(rows, first):
        if not row:
            continue
        try:
            name, (left, top, width, height) = row[0], map(float, row[1:5])
        except ValueError:
            raise UserError(
                f"{path}, row {number}: {' '.join(row)!r} is not a filename and four numbers"
            ) from None
        boxes[name] = (left, top, width, height)
    return boxes
