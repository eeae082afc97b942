"""Writes MATLAB files of both kinds, byte for byte the same for the same content."""

import pathlib

import h5py
import numpy as np
import scipy.io


def write_matlab(
    path: pathlib.Path,
    matrices: dict[str, np.ndarray],
    cells: dict[str, list[str]],
    version: str,
) -> None:
    """Writes matrices of doubles and columns of texts as MATLAB itself does.

    Args:
        path: file to write.
        matrices: `[rows, columns]` by name.
        cells: texts by name, each list becomes a cell array of one column.
        version: "7.3" (HDF5) or "5".
    """
    if version == "5":
        columns = {name: np.array(texts, object)[:, None] for name, texts in cells.items()}
        scipy.io.savemat(path, {**matrices, **columns})
        with open(path, "r+b") as file:
            file.write(b"MATLAB 5.0 MAT-file".ljust(116))  # SciPy's header holds the time of day
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, matrix in matrices.items():
            # MATLAB stores columns first, HDF5 rows first: arrays read transposed.
            file.create_dataset(name, data=matrix.T).attrs["MATLAB_class"] = np.bytes_("double")
        for name, texts in cells.items():
            references = np.empty((1, len(texts)), h5py.ref_dtype)
            for index, text in enumerate(texts):
                units = np.frombuffer(text.encode("utf-16-le"), np.uint16)[:, None]
                characters = file.create_dataset(f"#refs#/{name}{index}", data=units)
                characters.attrs["MATLAB_class"] = np.bytes_("char")
                references[0, index] = characters.ref
            file.create_dataset(name, data=references).attrs["MATLAB_class"] = np.bytes_("cell")
    with open(path, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, HDF5 schema 1.00 .".ljust(124) + b"\x00\x02IM")
