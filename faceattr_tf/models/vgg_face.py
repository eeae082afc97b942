"""ClNet of FaceSTN: VGG-Face without its identities."""

import numpy as np
from keras import layers, ops

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

_FILTERS = (64, 128, 256, 512, 512)
_STAGES = {8: (1, 1, 2, 2, 2), 13: (2, 2, 3, 3, 3)}
_MEAN_COLOUR = (129.1863, 104.7624, 93.5940)  # red, green, blue

PIXEL_VALUES = ("unit", "rgb", "bgr")


def build(
    pixels,
    *,
    convolutions: int = 8,
    width: float = 1.0,
    features: int = 4096,
    dropout: float = 0.5,
    extra_pooling: bool = True,
    pixel_values: str = "unit",
    batch_normalization: bool = False,
) -> dict:
    """Eight or thirteen convolutions and two fully-connected layers.

    Source: Tan et al., "Deep Face Attributes Recognition Using Spatial Transformer Network"
    (FaceSTN), section II.C; the network is that of Parkhi et al., "Deep Face Recognition" (BMVC
    2015), table 3: configuration A with 11 blocks (8 convolutions), which FaceSTN names, or D with
    16 (13 convolutions), whose weights were released. Layers are named as there, conv1_1 to fc7, so
    that `faceattr_tf.models.pretrained.load_weights` finds them.

    FaceSTN ends in a softmax of two per attribute with the cross-entropy of equation 6. It depends
    on the difference of the two values only, and the difference is what a head gives here: one
    logit per label, under the sigmoid cross-entropy, which is the same loss.

    Released weights were trained on 224x224 pixels, where pool5 gives 7x7x512 to fc6. FaceSTN's
    256x256 give 8x8, which an additional 2x2 max-pooling of stride 1 takes to 7x7: the same fc6.
    At 224x224 leave it out (`extra_pooling=False`).

    Chosen here: He initialisation, and what the pixels are when no weights are released for them.
    Random weights train on values of order one, so `unit` is the default.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; H and W at least 32.
        convolutions: 8 or 13.
        width: multiplies the filters of every convolution and `features`.
        features: width of the two fully-connected layers.
        dropout: share of the output of fc6 that training drops; `build_model` drops as much of
            fc7's.
        extra_pooling: the additional pooling before fc6; a side of one element stays as it is.
        pixel_values: what the first convolution sees, the mean colour of VGG-Face subtracted:
            `unit` for red, green, blue within a range of 2, for random weights; `rgb` for a range
            of 255, for the released MatConvNet weights; `bgr` for the same in reverse order, for
            the Caffe weights and the Keras files made of them (keras-vggface).
        batch_normalization: normalise every convolution's output (the paper: no).

    Returns:
        Stage -> output: `pool1` to `pool5`, `fc6` and the features `fc7`, `[B, F]`.

    Raises:
        UserError: an option has no such value, or the input is too small.
    """
    if convolutions not in _STAGES:
        raise UserError(f"vgg_face has 8 or 13 convolutions, not {convolutions}")
    if pixel_values not in PIXEL_VALUES:
        raise UserError(f"pixel_values {pixel_values!r} is none of {', '.join(PIXEL_VALUES)}")

    x, stages = _subtract_mean(check_size(pixels, smallest=32), pixel_values), {}
    for stage, count in enumerate(_STAGES[convolutions], start=1):
        for index in range(1, count + 1):
            name = f"conv{stage}_{index}"
            x = layers.Conv2D(
                max(1, round(width * _FILTERS[stage - 1])),
                3,
                padding="same",
                use_bias=not batch_normalization,
                kernel_initializer="he_normal",
                name=name,
            )(x)
            if batch_normalization:
                x = BatchNormalization(name=f"{name}_norm")(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
        stages[f"pool{stage}"] = x = layers.MaxPooling2D(2, name=f"pool{stage}")(x)
    if extra_pooling:
        sides = tuple(min(2, side) for side in x.shape[1:3])
        x = layers.MaxPooling2D(sides, strides=1, name="extra_pool")(x)
    x = layers.Flatten(name="flatten")(x)
    units = max(1, round(width * features))

    def fully_connected(x, name):
        return layers.Dense(units, "relu", kernel_initializer="he_normal", name=name)(x)

    stages["fc6"] = x = fully_connected(x, "fc6")
    if dropout:
        x = layers.Dropout(dropout, name="fc6_dropout")(x)
    return stages | {"fc7": fully_connected(x, "fc7")}


def _subtract_mean(pixels, pixel_values: str):
    """Plain arithmetic, as in `scale_pixels`: float32 under mixed precision too."""
    x = pixels - np.array([value / 127.5 - 1 for value in _MEAN_COLOUR], "float32")
    if pixel_values == "unit":
        return x
    return (ops.flip(x, axis=-1) if pixel_values == "bgr" else x) * 127.5
