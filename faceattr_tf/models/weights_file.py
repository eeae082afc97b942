"""Files of trained weights, one entry per layer: Keras' formats and MatConvNet's."""

import contextlib
import dataclasses
import io
import pathlib
import re
import zipfile
from collections.abc import Iterator

import h5py
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import other_format


@dataclasses.dataclass(frozen=True)
class StoredLayer:
    """Weights of one layer in a file.

    Attributes:
        name: the name of the layer.
        arrays: its weights in their order, NumPy arrays or HDF5 data sets that are not read yet.
        names: names of the weights, or empty where the file gives none.
    """

    name: str
    arrays: tuple
    names: tuple[str, ...] = ()

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the arrays."""
        return [tuple(array.shape) for array in self.arrays]


@contextlib.contextmanager
def open_weights(path: pathlib.Path) -> Iterator[list[StoredLayer]]:
    """The layers with weights of a file, in their order; they can be read while it is open.

    Read are Keras' legacy `.h5` (weights or whole models), Keras 3's `.weights.h5` and `.keras`,
    and networks of MatConvNet (`.mat` of version 5 or 7.3). Nothing is unpickled or executed, and
    no description of a network is read.

    Args:
        path: the file.

    Raises:
        UserError: the file is missing, damaged, or of another format.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of weights")
    try:
        with contextlib.ExitStack() as stack:
            if h5py.is_hdf5(path):
                layers = _hdf5_layers(stack.enter_context(h5py.File(path, "r")))
            elif zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    inner = io.BytesIO(archive.read("model.weights.h5"))
                layers = _hdf5_layers(stack.enter_context(h5py.File(inner, "r")))
            else:
                layers = _matlab_layers(path)
            yield [entry for entry in map(_only_floats, layers) if entry.arrays]
    except UserError:
        raise
    # A damaged or foreign file trips these libraries in more ways than they document.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        if not zipfile.is_zipfile(path):
            reason = other_format(path) or reason
        raise UserError(f"{path}: no readable weights of Keras or MatConvNet ({reason})") from None


def _only_floats(entry: StoredLayer) -> StoredLayer:
    """Without the whole numbers that a layer may keep beside weights, as the seeds of dropout."""
    kept = [index for index, array in enumerate(entry.arrays) if array.dtype.kind == "f"]
    names = tuple(entry.names[index] for index in kept) if entry.names else ()
    return StoredLayer(entry.name, tuple(entry.arrays[index] for index in kept), names)


def _hdf5_layers(file: h5py.File) -> Iterator[StoredLayer]:
    root = file.get("model_weights", file)
    if any(name.startswith("layer_names") for name in root.attrs):
        return _legacy_layers(root)
    layers = file.get("net/layers", file.get("layers"))
    if layers is not None and "MATLAB_class" in layers.attrs:
        return _matlab_hdf5_layers(file, layers)
    return _keras_layers(file)


def _legacy_layers(root: h5py.Group) -> Iterator[StoredLayer]:
    for layer in _texts(root, "layer_names"):
        groups = {}  # one group, or one for each layer of a model within the model
        for weight in _texts(root[layer], "weight_names"):
            groups.setdefault(weight.rpartition("/")[0], []).append(weight)
        for inner, weights in groups.items():
            name = layer if len(groups) == 1 else inner.rpartition("/")[2]
            yield StoredLayer(
                name, tuple(root[layer][weight] for weight in weights), tuple(weights)
            )


def _texts(group: h5py.Group, name: str) -> list[str]:
    """A list of texts in an attribute, or in numbered ones where it was too long for one."""
    keys = sorted(
        (key for key in group.attrs if re.fullmatch(name + r"\d*", key)),
        key=lambda key: (len(key), key),
    )
    texts = [text for key in keys for text in group.attrs[key]]
    return [text.decode() if isinstance(text, bytes) else text for text in texts]


def _keras_layers(file: h5py.File) -> list[StoredLayer]:
    found = {}

    def visit(path, item):
        if path.endswith("/vars") and not path.startswith("optimizer"):
            found[path] = item

    file.visititems(visit)

    def numbers_in_order(path):
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path)]

    return [
        StoredLayer(
            str(found[path].attrs.get("name", path.split("/")[-2])),
            tuple(found[path][index] for index in sorted(found[path], key=int)),
        )
        for path in sorted(found, key=numbers_in_order)
    ]


def _matlab_layers(path: pathlib.Path) -> Iterator[StoredLayer]:
    import scipy.io

    variables = scipy.io.loadmat(path)
    layers = variables["net"]["layers"][0, 0] if "net" in variables else variables["layers"]
    for layer in layers.ravel():
        record = layer.ravel()[0] if isinstance(layer, np.ndarray) else layer
        fields = record.dtype.names
        if "weights" in fields:
            arrays = list(record["weights"].ravel())
        else:
            arrays = [record[field] for field in ("filters", "biases") if field in fields]
        yield _matconvnet("".join(record["name"].ravel()), arrays)


def _matlab_hdf5_layers(file: h5py.File, layers) -> Iterator[StoredLayer]:
    """Of a cell array (references to structures) or of a structure array (fields of references)."""
    if isinstance(layers, h5py.Dataset):
        records = [file[layer] for layer in layers[()].ravel()]
    else:
        fields = {field: layers[field][()].ravel() for field in layers}
        count = len(fields["name"])
        records = [{key: file[refs[i]] for key, refs in fields.items()} for i in range(count)]
    for record in records:
        cells = record.get("weights")
        if cells is None:
            arrays = [record[field][()].T for field in ("filters", "biases") if field in record]
        elif h5py.check_ref_dtype(cells.dtype) is None:  # an empty cell array
            arrays = []
        else:
            arrays = [file[cell][()].T for cell in cells[()].ravel()]
        yield _matconvnet("".join(map(chr, record["name"][()].ravel())), arrays)


def _matconvnet(name: str, arrays: list) -> StoredLayer:
    """Filters `[h, w, in, out]`, of which MATLAB leaves out last sides of one, and biases."""
    if arrays:
        filters, *others = arrays
        filters = filters.reshape(filters.shape + (1,) * (4 - filters.ndim))
        arrays = [filters, *(other.ravel() for other in others)]
    return StoredLayer(name, tuple(arrays))
