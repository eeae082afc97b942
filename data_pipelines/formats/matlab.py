"""Matrices and lists of text in MATLAB files of both kinds: version 7.3 (HDF5) and version 5."""

import pathlib

import h5py
import numpy as np
import scipy.io

from data_pipelines.errors import UserError
from data_pipelines.files import other_format


def read_matlab(path: pathlib.Path, *names: str) -> dict[str, np.ndarray | list[str]]:
    """Some variables of a MATLAB file.

    Nothing of the file is executed or followed: no pickles, no links to other files.

    Args:
        path: a `.mat` file of version 7.3 or of version 5 and older.
        *names: the variables.

    Returns:
        Per variable a `float64` matrix as MATLAB shows it (rows first), or for a cell array its
        texts, column after column.

    Raises:
        UserError: the file is damaged, a variable is missing, or it is of another type.
    """
    read = _read_hdf5 if h5py.is_hdf5(path) else _read_version_5
    try:
        return read(path, names)
    except UserError:
        raise
    # A damaged file trips both libraries in more ways than they document.
    except Exception as error:  # noqa: BLE001
        reason = other_format(path) or error
        raise UserError(f"{path}: no readable MATLAB file ({reason})") from None


def _read_hdf5(path, names):
    with h5py.File(path, "r") as file:
        return {name: _hdf5_variable(path, file, name) for name in names}


def _hdf5_variable(path, file, name):
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise _missing(path, name, [key for key in file if not key.startswith("#")])
    data = file[name]
    # External and virtual storage would read other files of this machine.
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise UserError(f"{path}: variable {name!r} is no matrix stored in the file itself")
    if h5py.check_ref_dtype(data.dtype) is h5py.Reference:
        return [_hdf5_text(path, name, file[cell]) for cell in data[()].ravel()]
    if data.dtype.kind not in "fiub":
        raise _wrong_type(path, name)
    return data[()].astype(np.float64).T  # MATLAB stores columns first, HDF5 rows first


def _hdf5_text(path, name, cell):
    if cell.attrs.get("MATLAB_empty", 0):
        return ""
    if cell.dtype.kind != "u":
        raise _wrong_type(path, name)
    # One number per UTF-16 code unit; the array is a transposed row of characters.
    return cell[()].ravel().astype("<u2").tobytes().decode("utf-16-le")


def _read_version_5(path, names):
    variables = scipy.io.loadmat(path, variable_names=names)
    return {name: _version_5_variable(path, variables, name) for name in names}


def _version_5_variable(path, variables, name):
    if name not in variables:
        raise _missing(path, name, [found for found, *_ in scipy.io.whosmat(path)])
    data = variables[name]
    if data.dtype.kind in "fiub":
        return data.astype(np.float64)
    if data.dtype.kind == "U":  # a matrix of characters, rows padded with blanks
        return [str(text).rstrip() for text in data.ravel()]
    cells = [np.ravel(cell) for cell in data.ravel("F")] if data.dtype.kind == "O" else [None]
    if any(cell is None or cell.dtype.kind != "U" for cell in cells):
        raise _wrong_type(path, name)
    return [str(cell[0]) if cell.size else "" for cell in cells]


def _missing(path, name, present):
    return UserError(f"{path}: there is no variable {name!r}; it has: {', '.join(present)}")


def _wrong_type(path, name):
    return UserError(f"{path}: variable {name!r} is neither a numeric matrix nor a list of texts")


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
