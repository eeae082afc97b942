"""Released weights, from a local file or of ImageNet by Keras, into a model, layer by layer."""

import dataclasses
import math
import pathlib
import re
import socket
from collections.abc import Collection

import keras
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from faceattr_tf.models.heads import NEW_LAYERS
from faceattr_tf.models.keras_applications import BACKBONES, stable_names
from faceattr_tf.models.weights_file import StoredLayer, open_weights

_PATIENCE = 30.0  # seconds without a byte after which a download has failed
_AUTOMATIC = re.compile(
    r"(?:conv2d|convolution2d|depthwise_conv2d|dense|layer_normalization"
    r"|batch_normalization|batchnormalization)(?:_v1)?(?:_(\d+))?"
)
_NOT_ASKED = "not asked for"
_STATISTICS = ("gamma", "beta", "mean", "variance")


SHOWN = 24
"""Names of loaded layers that a report shows; of more it shows the first and the last."""


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What became of every layer; its `str` is a page to read.

    Attributes:
        path: the file.
        loaded: layer of the model -> its name in the file.
        left_out: layer of the model that keeps its weights -> why.
        unused: layers of the file of which nothing was taken.
    """

    path: str
    loaded: dict[str, str]
    left_out: dict[str, str]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        names = [
            ours if ours == theirs else f"{ours} ({theirs})" for ours, theirs in self.loaded.items()
        ]
        if len(names) > SHOWN:
            names[SHOWN // 2 : -SHOWN // 2] = ["..."]
        lines = [f"{self.path}: {len(self.loaded)} layers loaded: {', '.join(names)}"]
        lines += [f"  not loaded: {name}: {why}" for name, why in self.left_out.items()]
        if self.unused:
            lines.append(f"  unused in the file: {', '.join(self.unused)}")
        return "\n".join(lines)


def load_imagenet(model: keras.Model, backbone: str) -> LoadReport:
    """Loads the ImageNet weights that Keras distributes, and prints what became of every layer.

    Keras downloads them into its cache (`~/.keras`, or `KERAS_HOME`), unless they are there.

    Args:
        model: what `build_model` gave.
        backbone: its name, a key of `BACKBONES`.

    Returns:
        What was loaded, and what is new.

    Raises:
        UserError: there are none for this network, or they cannot be downloaded.
    """
    if backbone not in BACKBONES:
        raise UserError(
            f"there are no ImageNet weights for model {backbone!r}; "
            f"there are for: {', '.join(BACKBONES)}"
        )
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        source = BACKBONES[backbone].create(
            weights="imagenet", include_top=False, input_shape=(224, 224, 3)
        )
    # Keras raises plain exceptions here, besides those of sockets and of files.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split())
        raise UserError(
            f"imagenet: the weights of {backbone} cannot be downloaded ({reason}); "
            "give a file of weights with --config.model.weights=FILE"
        ) from None
    finally:
        socket.setdefaulttimeout(patience)
    given = {name: layer for layer, name in stable_names(source).items() if layer.weights}
    loaded, left_out = {}, {}
    for layer in model.layers:
        if layer.name in given:
            layer.set_weights(given[layer.name].get_weights())
            loaded[layer.name] = layer.name
        elif layer.weights:
            left_out[layer.name] = "new"
    unused = tuple(name for name in given if name not in loaded)
    report = LoadReport(f"{backbone} of ImageNet", loaded, left_out, unused)
    print(report)
    return report


def load_weights(
    model: keras.Model,
    path: str | pathlib.Path,
    *,
    layers: Collection[str] | None = None,
    strict: bool = False,
) -> LoadReport:
    """Loads what fits of a file of weights into a model, and prints what became of every layer.

    Formats: see `faceattr_tf.models.weights_file.open_weights`.

    A layer is found by its name. Names that Keras gave automatically say nothing, since they depend
    on what was built before. Such layers, or all if no name agrees, are matched in their order,
    kernels in one sequence and batch normalisations in another, up to the first that does not fit.
    A fully-connected layer also takes the convolution over its whole input map as which MatConvNet
    stores it. `NEW_LAYERS` are never loaded: heads, auxiliary classifiers, LoNet.

    The weights are taken as they are: what range and order of colours they want of the pixels is
    an option of the network, as `pixel_values` of `vgg_face`.

    Args:
        model: a functional model without models inside.
        path: the file.
        layers: names of the layers to load; the others stay as they are. None: all that fit.
        strict: every layer that may be loaded, or of `layers`, must find its weights.

    Returns:
        What was loaded, what was not and why.

    Raises:
        UserError: the file is missing, is no file of weights, holds values that are not finite, or
            fits no layer; or the model has no such layer; or, being strict, one differs, of which
            the first is named. The model is then unchanged.
    """
    path = local(path)
    targets = [
        layer for layer in model.layers if layer.weights and not layer.name.startswith(NEW_LAYERS)
    ]
    for name in layers or ():
        if name not in [layer.name for layer in targets]:
            raise UserError(f"{path}: the model has no layer {name!r} to load weights into")
    values, loaded, left_out = [], {}, {}
    with open_weights(path) as stored:
        matches = _match(targets, stored)
        for layer in targets:
            entry = matches.get(layer.name)
            if layers is not None and layer.name not in layers:
                left_out[layer.name] = _NOT_ASKED
            elif entry is None:
                left_out[layer.name] = "nothing in the file matches"
            elif (arrays := _fit(layer, entry)) is None:
                left_out[layer.name] = (
                    f"{entry.name} has shapes {_show(entry.shapes)}, not {_show(_shapes(layer))}"
                )
            else:
                values += _read(path, layer, entry.name, arrays)
                loaded[layer.name] = entry.name
        used = set(loaded.values())
        unused = tuple(entry.name for entry in stored if entry.name not in used)
    missing = [layer for layer in targets if left_out.get(layer.name, _NOT_ASKED) != _NOT_ASKED]
    if strict and missing:
        first = min(missing, key=lambda layer: _number(layer.name))
        raise UserError(
            f"{path}: holds no weights of this network; the first layer that differs is "
            f"{first.name!r} of shapes {_show(_shapes(first))}: {left_out[first.name]}"
        )
    if not loaded:
        reasons = [f"{name}: {why}" for name, why in left_out.items() if why != _NOT_ASKED]
        raise UserError(f"{path}: fits no layer of the model; {[*reasons, 'none asked for'][0]}")
    for variable, value in values:
        variable.assign(value)
    report = LoadReport(str(path), loaded, left_out, unused)
    print(report)
    return report


def _match(targets, stored: list[StoredLayer]) -> dict[str, StoredLayer]:
    """Name of the model's layer -> what the file has for it, whether or not its shape fits."""
    named = {entry.name: entry for entry in stored if not _AUTOMATIC.fullmatch(entry.name)}
    matches = {layer.name: named[layer.name] for layer in targets if layer.name in named}

    def rest(candidates, kind):
        """The layers to be matched in order: where some names agreed, only those without a name."""
        ordered = []
        for candidate, shapes in candidates:
            own = candidate.name.startswith(NEW_LAYERS)
            if candidate.name in matches or own or _kind(shapes) != kind:
                continue
            # The last normalisation of ConvNeXt has a name only in files with the top.
            if _AUTOMATIC.fullmatch(candidate.name) or not matches or kind == "scale and offset":
                number = _number(candidate.name)
                ordered.append((len(shapes[0]) == 2, number, len(ordered), candidate))
        return [candidate for *_, candidate in sorted(ordered, key=lambda item: item[:3])]

    in_order = {}
    for kind in ("kernel", "normalisation", "scale and offset"):
        ours = rest([(layer, _shapes(layer)) for layer in targets], kind)
        theirs = rest([(entry, entry.shapes) for entry in stored], kind)
        for layer, entry in zip(ours, theirs, strict=False):
            in_order[layer.name] = entry
            if _fit(layer, entry) is None:
                break
    return matches | in_order


def _kind(shapes) -> str:
    ranks = [len(shape) for shape in shapes]
    if ranks in ([2], [4], [2, 1], [4, 1]):
        return "kernel"
    if ranks == [1, 1]:
        return "scale and offset"
    return "normalisation" if ranks in ([1] * 3, [1] * 4) else ""


def _number(name: str) -> int:
    """Of a name that Keras gave automatically; 0 for the first, and for other names."""
    automatic = _AUTOMATIC.fullmatch(name)
    return int(automatic[1] or 0) if automatic else 0


def _shapes(layer) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _fit(layer, entry: StoredLayer) -> list | None:
    """The entry's arrays in the order of the layer's weights, or None if they do not fit."""
    arrays = list(entry.arrays)
    if (
        isinstance(layer, keras.layers.BatchNormalization)
        and _kind(entry.shapes) == "normalisation"
    ):
        theirs = dict(zip(_statistics(entry), arrays, strict=True))
        ours = [_statistic(weight.name) for weight in layer.weights]
        if not set(theirs) <= set(ours):
            return None
        # A normalisation without scale or offset is one with a scale of one or an offset of zero.
        size = layer.weights[0].shape
        theirs = {"gamma": np.ones(size), "beta": np.zeros(size)} | theirs
        arrays = [theirs[name] for name in ours if name in theirs]
    if len(arrays) != len(layer.weights):
        return None
    pairs = zip(layer.weights, arrays, strict=True)
    return arrays if all(_same(tuple(w.shape), tuple(a.shape)) for w, a in pairs) else None


def _same(ours: tuple, theirs: tuple) -> bool:
    """Equal shapes, or those of a fully-connected layer and the same as a convolution."""
    if len(ours) == 2 and len(theirs) == 4:
        return ours == (math.prod(theirs[:3]), theirs[3])
    return ours == theirs


def _statistics(entry: StoredLayer) -> tuple[str, ...]:
    if entry.names:
        return tuple(_statistic(name) for name in entry.names)
    return _STATISTICS[len(_STATISTICS) - len(entry.arrays) :]


def _statistic(name: str) -> str:
    """`moving_variance:0`, or `running_std` as Keras 1 called it -> `variance`."""
    name = name.rpartition("/")[2].replace("running_std", "variance")
    return next((statistic for statistic in _STATISTICS if statistic in name), name)


def _read(path, layer, name: str, arrays: list) -> list[tuple]:
    values = []
    for variable, array in zip(layer.weights, arrays, strict=True):
        value = np.asarray(array, "float32").reshape(variable.shape)
        if not np.isfinite(value).all():
            raise UserError(f"{path}: layer {name!r} has weights that are not finite numbers")
        values.append((variable, value))
    return values


def _show(shapes) -> str:
    return " ".join("x".join(map(str, shape)) for shape in shapes)
