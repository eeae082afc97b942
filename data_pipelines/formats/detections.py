"""The table of detected faces that `faceattr-data detect` writes and `build` joins in."""

import csv
import os

import numpy as np

from data_pipelines import tasks
from data_pipelines.errors import UserError

BOX_COLUMNS = ("left", "top", "width", "height")
LANDMARK_COLUMNS = tuple(f"{name}_{axis}" for name in tasks.LANDMARK_NAMES for axis in "xy")
COLUMNS = ("filename", *BOX_COLUMNS, "score", *LANDMARK_COLUMNS)


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
