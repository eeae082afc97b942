"""Networks that Keras distributes with weights of ImageNet."""

import collections
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers, ops

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

_MEAN = np.array((0.485, 0.456, 0.406), "float32")  # red, green, blue of ImageNet, in [0, 1]
_DEVIATION = np.array((0.229, 0.224, 0.225), "float32")
_MEAN_BGR = np.array((103.939, 116.779, 123.68), "float32")  # of Caffe's networks, in 0..255

PIXEL_VALUES = {
    "symmetric": lambda pixels: pixels,
    "unit": lambda pixels: pixels * 0.5 + 0.5,
    "rgb": lambda pixels: pixels * 127.5 + 127.5,
    "bgr": lambda pixels: ops.flip(pixels, axis=-1) * 127.5 + (127.5 - _MEAN_BGR),
    "imagenet": lambda pixels: pixels * (0.5 / _DEVIATION) + (0.5 - _MEAN) / _DEVIATION,
}
"""What weights were trained on, as a function of pixels in [-1, 1].

`symmetric` [-1, 1]; `unit` [0, 1]; `rgb` 0..255; `bgr` the same in reverse order, the mean colour
subtracted (Caffe); `imagenet` mean and deviation of every channel normalised (PyTorch).
"""


@dataclass(frozen=True)
class Backbone:
    """A network of `keras.applications`.

    Attributes:
        create: the function there.
        stages: the layers that end a stage, first to last; the last one ends the network.
        pixel_values: what the ImageNet weights that Keras distributes want, see `PIXEL_VALUES`.
        smallest: the least height and width, in pixels.
        arguments: further arguments of `create`, beside those that all take.
    """

    create: Callable[..., keras.Model]
    stages: tuple[str, ...]
    pixel_values: str
    smallest: int = 32
    arguments: dict = field(default_factory=dict)


_applications = keras.applications
_raw = {"include_preprocessing": False}
BACKBONES = {
    "inception_v3": Backbone(
        _applications.InceptionV3, tuple(f"mixed{i}" for i in range(11)), "symmetric", 75
    ),
    "mobilenet": Backbone(
        _applications.MobileNet, tuple(f"conv_pw_{i}_relu" for i in range(1, 14)), "symmetric"
    ),
    "mobilenet_v3_small": Backbone(
        _applications.MobileNetV3Small,
        (
            "expanded_conv_project_bn",
            *(f"expanded_conv_{i}_add" for i in (2, 5, 7, 10)),
            "activation_17",
        ),
        "symmetric",
        arguments=_raw,
    ),
    "mobilenet_v3_large": Backbone(
        _applications.MobileNetV3Large,
        (
            "expanded_conv_add",
            *(f"expanded_conv_{i}_add" for i in (2, 5, 9, 11, 14)),
            "activation_19",
        ),
        "symmetric",
        arguments=_raw,
    ),
    "efficientnet_v2_b0": Backbone(
        _applications.EfficientNetV2B0,
        (
            "block1a_project_activation",
            *(f"block{stage}_add" for stage in ("2b", "3b", "4c", "5e", "6h")),
            "top_activation",
        ),
        "imagenet",
        arguments=_raw,
    ),
    "resnet50": Backbone(
        _applications.ResNet50,
        ("pool1_pool", *(f"conv{i}_out" for i in ("2_block3", "3_block4", "4_block6", "5_block3"))),
        "bgr",
    ),
    "convnext_tiny": Backbone(
        _applications.ConvNeXtTiny,
        (*(f"convnext_tiny_downsampling_layernorm_{i}" for i in range(3)), "layer_normalization"),
        "imagenet",
        arguments=_raw,
    ),
}


def build(
    backbone: str,
    pixels,
    *,
    pixel_values: str = "",
) -> dict:
    """A network of `keras.applications` without its classes.

    The layers are those that Keras makes, with the project's batch normalisation. Names that Keras
    gives automatically are those of a fresh process, whatever was built before.

    Args:
        backbone: a key of `BACKBONES`.
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        pixel_values: a key of `PIXEL_VALUES`, what the weights were trained on, which is no
            property of the network. Empty: that of the ImageNet weights that Keras distributes.

    Returns:
        Stage -> output, the ends of all `Backbone.stages`; the last one is a map `[B, H, W, C]`.

    Raises:
        UserError: an option has no such value, or the input is too small.
    """
    entry = BACKBONES[backbone]
    pixel_values = pixel_values or entry.pixel_values
    if pixel_values not in PIXEL_VALUES:
        raise UserError(f"pixel_values {pixel_values!r} is none of {', '.join(PIXEL_VALUES)}")
    pixels = PIXEL_VALUES[pixel_values](check_size(pixels, entry.smallest))
    application = entry.create(
        weights=None, include_top=False, input_shape=tuple(pixels.shape[1:]), **entry.arguments
    )
    outputs = _copy(application, pixels)
    return {stage: outputs[stage] for stage in entry.stages}


def stable_names(application: keras.Model) -> dict[keras.Layer, str]:
    """The names that the layers of a network have in a fresh process, where it is the first.

    Names that Keras gives automatically count the layers of a kind that the process has made.

    Args:
        application: name of the network in `keras.applications`.

    Returns:
        Layer -> name, for the layers of models inside too.
    """
    names, automatic = {}, collections.defaultdict(list)
    for layer in _flatten(application):
        kind, number = re.fullmatch(r"(.*?)(?:_(\d+))?", layer.name).groups()
        names[layer] = layer.name
        if kind.replace("_", "") == type(layer).__name__.lower():
            automatic[kind].append((int(number or 0), layer))
    for kind, numbered in automatic.items():
        for index, (_, layer) in enumerate(sorted(numbered, key=lambda item: item[0])):
            names[layer] = f"{kind}_{index}" if index else kind
    return names


def _flatten(model: keras.Model) -> Iterator[keras.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flatten(layer)
        else:
            yield layer


def _copy(application: keras.Model, pixels) -> dict:
    """Copies a network onto `pixels`, without models inside; layer name -> output."""
    names, outputs = stable_names(application), {}

    def copy(operation):
        if isinstance(operation, keras.Sequential):
            return [copy(layer)[0] for layer in operation.layers]
        config, kind = operation.get_config(), type(operation)
        config["name"] = names.get(operation, operation.name)
        if kind is layers.BatchNormalization:
            kind = BatchNormalization
        return [kind.from_config(config)]

    def call(copies, *args, **kwargs):
        first, *others = copies
        # To a model inside, Keras passes a mask, which not every layer takes.
        x = outputs[first.name] = first(*args, **({} if others else kwargs))
        for operation in others:
            x = outputs[operation.name] = operation(x)
        return x

    # What `keras.models.clone_model` does, which would go on to give every layer a second node.
    application._run_through_graph(pixels, operation_fn=copy, call_fn=call)
    return outputs
