"""LNet: the network of LNets+ANet whose response maps show where faces are."""

import dataclasses

import keras
from keras import layers, ops

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size
from faceattr_tf.models.stages import fully_convolutional

_POOLINGS = {
    "flat": layers.Flatten,
    "average": layers.GlobalAveragePooling2D,
    "max": layers.GlobalMaxPooling2D,
}

RESPONSE = "conv5"
"""The stage whose channels are averaged to the response map."""

_CONVOLUTIONS = ((96, 11), (256, 5), (384, 3), (384, 3), (256, 3))  # filters and their sides
_POOLED = (1, 2)


def build(
    pixels,
    *,
    width: float = 1.0,
    stride: int = 4,
    features: int = 4096,
    dropout: float = 0.5,
    pooling: str = "flat",
    batch_normalization: bool = False,
) -> dict:
    """Five convolutions, two max-poolings and, for training, two fully-connected layers.

    Source: Liu et al., "Deep Learning Face Attributes in the Wild" (LNets+ANet), sections 3.1 and
    4, for LNet_o, LNet_s and LNet+, which differ in nothing but what they are trained on; the paper
    follows Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks"
    (AlexNet, NIPS 2012).

    The paper gives: 96 filters of 11x11 at C1 and 256 channels at C5, of which each sees 384 of C4;
    rectified linear units; max-pooling over overlapping cells behind C1 and C2 and none behind C5;
    two fully-connected layers of 4,096. Chosen here, as AlexNet has it: 256 filters of 5x5 at C2,
    384 of 3x3 at C3 and C4, 3x3 at C5; stride 4 at C1; pooling of 3x3 with stride 2; C2 to C5
    padded with zeros, C1 and the poolings not padded; dropout of one half on both fully-connected
    layers. 227x227 pixels end in 13x13x256, and cell i of the map lies at pixel 17 + 16 i
    (`receptive_field`). Left out: AlexNet's normalisation of local responses, which the paper does
    not name, and its two groups of filters, which had to do with the memory of its GPUs. He
    initialisation.

    The convolutions take images of any size; `response_model` uses them so. The fully-connected
    layers stand on the flattened map of images of one size. Where training images are few, `max` or
    `average` lets them see what there is, wherever it is.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; H and W large enough for a map of one element (35
            at stride 4).
        width: multiplies the filters of every convolution and `features`.
        stride: stride of C1.
        features: width of the two fully-connected layers.
        dropout: share of the output of fc6 that training drops; `build_model` drops as much of
            fc7's.
        batch_normalization: normalise what every convolution gives, behind its rectified linear units
            (the paper: no). See `configs/lnets_anet.py` for what was seen without.
        pooling: what fc6 sees of the map: `flat`, all of it; `average` or `max` over its places.

    Returns:
        Stage -> output: `conv1`, `pool1`, `conv2`, `pool2`, `conv3`, `conv4`, `conv5`, `fc6` and the
        features `fc7`, `[B, F]`. Those of convolutions are rectified.

    Raises:
        UserError: there is no such pooling, or the input is too small.
    """
    if pooling not in _POOLINGS:
        raise UserError(f"pooling {pooling!r} is none of {', '.join(_POOLINGS)}")

    x = check_size(pixels, smallest=11 + 6 * stride)
    stages = {}
    for number, (filters, side) in enumerate(_CONVOLUTIONS, start=1):
        stages[f"conv{number}"] = x = layers.Conv2D(
            max(1, round(width * filters)),
            side,
            strides=stride if number == 1 else 1,
            padding="valid" if number == 1 else "same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"conv{number}",
        )(x)
        if batch_normalization:
            x = BatchNormalization(name=f"norm{number}")(x)
        if number in _POOLED:
            stages[f"pool{number}"] = x = layers.MaxPooling2D(3, strides=2, name=f"pool{number}")(x)
    x = _POOLINGS[pooling](name=pooling)(x)
    units = {
        "units": max(1, round(width * features)),
        "activation": "relu",
        "kernel_initializer": "he_normal",
    }
    stages["fc6"] = x = layers.Dense(**units, name="fc6")(x)
    if dropout:
        x = layers.Dropout(dropout, name="fc6_dropout")(x)
    return stages | {"fc7": layers.Dense(**units, name="fc7")(x)}


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What the cells of a map see: cell (i, j) is centred at y = offset + stride * i, x likewise.

    Attributes:
        size: side of the square that a cell sees, in pixels.
        stride: distance of neighbouring cells, in pixels.
        offset: centre of the first cell, in pixels; (0, 0) is the centre of the first pixel.
    """

    size: int
    stride: int
    offset: float


def receptive_field(model: keras.Model, stage: str = RESPONSE) -> ReceptiveField:
    """What the cells of a stage see, computed along the chain of layers before it.

    Every layer widens what is seen by its side less one, in steps of what lies between the cells
    that it sees, and moves the first cell by half of that unless it pads its input.

    Args:
        model: LNet, as `build_model` gave it.
        stage: a convolution or a pooling.
    """
    size, stride, offset = 1, 1, 0.0
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D | layers.MaxPooling2D):
            (side, *_) = layer.kernel_size if isinstance(layer, layers.Conv2D) else layer.pool_size
            size += (side - 1) * stride
            offset += (side - 1) / 2 * stride if layer.padding == "valid" else 0.0
            stride *= layer.strides[0]
        if layer.name == stage:
            break
    return ReceptiveField(size, stride, offset)


def response_model(model: keras.Model, stage: str = RESPONSE) -> keras.Model:
    """The response map of images of any size.

    Source: LNets+ANet, section 3.1 ("averaging the response maps of attribute filters").

    Args:
        model: LNet, as `build_model` gave it; the variables stay shared.
        stage: the stage whose channels are averaged.

    Returns:
        A model from float32 `[B, H, W, 3]` in 0..255, H and W of any size that is enough for one
        cell, to the mean over channels `[B, h, w]`; `receptive_field` says where its cells lie.
    """
    maps = fully_convolutional(model, stage)
    return keras.Model(maps.input, ops.mean(maps.output, axis=-1), name="response")
