"""Networks that Keras distributes with weights of ImageNet, with heads of ours behind them."""

import collections
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
from keras import layers, ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import HEAD_PREFIX, check_size, grow_heads

BOTTLENECK = "bottleneck"
"""Name of the layer that pools the last map; its output `[B, F]`, float32, is what heads see."""

AUXILIARY = "aux_"
"""The layers of the auxiliary classifier begin so."""

AUXILIARY_INPUT = f"{AUXILIARY}pool"
"""The layer whose output the auxiliary classifier learns from; it has no weights."""

AUXILIARY_STAGE = "mixed7"
"""The stage of InceptionV3 at whose end that layer stands."""

NEW_LAYERS = (HEAD_PREFIX, AUXILIARY, "lonet_")
"""The layers that no pretrained network has begin so."""

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
        arguments: of `create`, beside those that all take.
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
    tasks: Sequence[Task],
    *,
    layer: str = "",
    pixel_values: str = "",
    dropout: float = 0.0,
    auxiliary: bool = False,
    synchronized: bool = False,
) -> dict:
    """A network of `keras.applications` up to a layer, global average pooling, one head per task.

    Source: KTH-MTFL ("Prediction of Attributes"), section 3.3, for InceptionV3, and there for its
    two ways: what `BOTTLENECK` gives, computed once per image, and new layers on the network.

    The layers are those that Keras makes, with the project's batch normalisation. Names that Keras
    gives automatically are those of a fresh process, whatever was built before.

    The auxiliary classifier is TF-Slim's `AuxLogits` of InceptionV3 on its last map of 17x17x768
    at 299x299, which Keras calls `mixed7`: average pooling 5x5 of stride 3, a 1x1 convolution to
    128 and one to 768 maps over the 5x5 that remain, one head per task. Smaller maps reduce the
    kernels, as there. It exists for training; leave it out of what predicts.

    Args:
        backbone: a key of `BACKBONES`.
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        tasks: what to predict.
        layer: end of the stage whose output is pooled; nothing behind it is built. Empty: the last.
        pixel_values: a key of `PIXEL_VALUES`, what the weights were trained on, which is no
            property of the network. Empty: that of the ImageNet weights that Keras distributes.
        dropout: share of the pooled features that training drops.
        auxiliary: add the auxiliary classifier; its outputs are named by `auxiliary_name`.
        synchronized: take the statistics of batch normalisation over all replicas.

    Returns:
        Task name -> output, see `grow_heads`; with `auxiliary` also those of the classifier.

    Raises:
        UserError: an option has no such value or does not fit, or the input is too small.
    """
    entry = BACKBONES[backbone]
    layer = layer or entry.stages[-1]
    if layer not in entry.stages:
        raise UserError(f"layer {layer!r} ends no stage of {backbone}: {', '.join(entry.stages)}")
    pixel_values = pixel_values or entry.pixel_values
    if pixel_values not in PIXEL_VALUES:
        raise UserError(f"pixel_values {pixel_values!r} is none of {', '.join(PIXEL_VALUES)}")
    built = entry.stages[: entry.stages.index(layer) + 1]
    if auxiliary and AUXILIARY_STAGE not in built:
        raise UserError(
            f"{backbone} up to {layer}: only inception_v3 from mixed7 on has an auxiliary classifier"
        )
    pixels = PIXEL_VALUES[pixel_values](check_size(pixels, entry.smallest))
    application = entry.create(
        weights=None, include_top=False, input_shape=tuple(pixels.shape[1:]), **entry.arguments
    )
    maps = _copy(application, pixels, synchronized)
    pooled = layers.GlobalAveragePooling2D(dtype="float32", name=BOTTLENECK)(maps[layer])
    outputs = _top(pooled, tasks, dropout)
    if auxiliary:
        outputs |= _auxiliary_classifier(maps[AUXILIARY_STAGE], tasks, synchronized)
    return outputs


def build_top(features: int, tasks: Sequence[Task], *, dropout: float = 0.0) -> keras.Model:
    """The part of a network behind `BOTTLENECK` alone, its layers named as in the whole.

    Args:
        features: how many there are.
        tasks: what to predict.
        dropout: share of the features that training drops.

    Returns:
        A model from the input `image`, the features `[B, F]` in float32, to the outputs of `build`.
    """
    inputs = keras.Input((features,), name="image", dtype="float32")
    return keras.Model(inputs, _top(inputs, tasks, dropout), name="top")


def features_at(model: keras.Model, layer: str):
    """What a network gives new layers to learn from, `[B, F]`.

    Args:
        model: of `build`.
        layer: end of a stage, for its pooled output; or `AUXILIARY_INPUT`.
    """
    if layer == AUXILIARY_INPUT:
        return layers.Flatten()(_auxiliary_pool(model.get_layer(AUXILIARY_STAGE).output))
    return model.get_layer(BOTTLENECK)(model.get_layer(layer).output)


def new_layers_of(model: keras.Model) -> keras.Model:
    """The heads and, where it has one, the auxiliary classifier of a network: the same variables.

    Args:
        model: of `build`.

    Returns:
        A model from what the layers before them give, `[B, F]`: the output of `BOTTLENECK` and then
        that of `AUXILIARY_INPUT`, flat; to the outputs of the network.
    """
    before = (BOTTLENECK, AUXILIARY_INPUT)
    present = {layer.name for layer in model.layers}
    ends = [model.get_layer(name).output for name in before if name in present]
    sizes = [math.prod(end.shape[1:]) for end in ends]
    features = keras.Input((sum(sizes),), name="features", dtype="float32")
    stops = list(itertools.accumulate(sizes))
    parts = [
        ops.reshape(features[:, stop - size : stop], (-1, *end.shape[1:]))
        for stop, size, end in zip(stops, sizes, ends, strict=True)
    ]
    return keras.Model(features, keras.Model(ends, model.output)(parts))


def auxiliary_name(task_name: str) -> str:
    """The key of a task's auxiliary output among the outputs of a network."""
    return f"{task_name}/auxiliary"


def stages_of(model: keras.Model) -> dict[str, int]:
    """Where in the network every layer with weights is: a number that grows from the pixels on.

    Args:
        model: of `build_model`, named as a key of `BACKBONES`.

    Returns:
        Layer name -> index of its stage; for layers that no pretrained network has, the number of
        stages of the model.

    Raises:
        UserError: the model is none of these.
    """
    if model.name not in BACKBONES:
        raise UserError(f"model {model.name!r} has no stages; these have: {', '.join(BACKBONES)}")
    present = {layer.name for layer in model.layers}
    ends = [name for name in BACKBONES[model.name].stages if name in present]
    stages = {}
    for index, end in enumerate(ends):
        for layer in keras.Model(model.input, model.get_layer(end).output).layers:
            if not layer.name.startswith(NEW_LAYERS):
                stages.setdefault(layer.name, index)
    return {
        layer.name: stages.get(layer.name, len(ends)) for layer in model.layers if layer.weights
    }


def stable_names(application: keras.Model) -> dict[keras.Layer, str]:
    """The names that the layers of a network have in a fresh process, where it is the first.

    Names that Keras gives automatically count the layers of a kind that the process has made.

    Args:
        application: of `keras.applications`.

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


def _copy(application: keras.Model, pixels, synchronized: bool) -> dict:
    """Copies a network onto `pixels`, without models inside; layer name -> output."""
    names, outputs = stable_names(application), {}

    def copy(operation):
        if isinstance(operation, keras.Sequential):
            return [copy(layer)[0] for layer in operation.layers]
        config, kind = operation.get_config(), type(operation)
        config["name"] = names.get(operation, operation.name)
        if kind is layers.BatchNormalization:
            kind, config["synchronized"] = BatchNormalization, synchronized
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


def _top(features, tasks: Sequence[Task], dropout: float) -> dict:
    if dropout:
        features = layers.Dropout(dropout, dtype="float32", name="dropout")(features)
    return grow_heads(features, tasks)


def _auxiliary_classifier(x, tasks: Sequence[Task], synchronized: bool) -> dict:
    def convolution(x, maps, kernel, start, name):
        x = layers.Conv2D(maps, kernel, use_bias=False, kernel_initializer=start, name=name)(x)
        x = BatchNormalization(scale=False, synchronized=synchronized, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    small = keras.initializers.TruncatedNormal(stddev=0.01)  # as in TF-Slim
    x = _auxiliary_pool(x)
    x = convolution(x, 128, 1, "he_normal", f"{AUXILIARY}conv1")
    x = convolution(x, 768, _five(x), small, f"{AUXILIARY}conv2")
    x = layers.Flatten(name=f"{AUXILIARY}flatten")(x)
    heads = grow_heads(x, tasks, prefix=AUXILIARY)
    return {auxiliary_name(name): output for name, output in heads.items()}


def _auxiliary_pool(x):
    return layers.AveragePooling2D(_five(x), strides=3, name=AUXILIARY_INPUT)(x)


def _five(x) -> tuple[int, ...]:
    """A kernel of 5x5, or as much of it as the map has."""
    return tuple(min(5, side) for side in x.shape[1:3])
