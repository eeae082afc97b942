"""The network of IdentityNet, AgeNet and RaceNet: AlexNet that looks closer."""

from keras import layers

from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

_CONVOLUTIONS = ((96, 7, 2), (256, 5, 2), (384, 3, 1), (384, 3, 1), (256, 3, 1))
"""Filters, their sides and strides."""

_POOLED = (1, 2, 5)


def build(
    pixels,
    *,
    width: float = 1.0,
    features: int = 4096,
    dropout: float = 0.5,
    batch_normalization: bool = True,
) -> dict:
    """Five convolutions, three max-poolings and two fully-connected layers.

    Source: Wang, Su and Zhao, "Joint Multi-Feature Fusion and Attribute Relationships for Facial
    Attribute Prediction" (Fusion+OBRL), section II.A, which says no more than that it resembles
    AlexNet, with "decreased stride and smaller receptive field in convolutional layers", and sees
    224x224 pixels.

    Chosen here: the numbers of Zeiler and Fergus, "Visualizing and Understanding Convolutional
    Networks" (ECCV 2014), who changed AlexNet in just this way: 96 filters of 7x7 and not 11x11 with
    stride 2 and not 4, 256 of 5x5 with stride 2, then 384, 384 and 256 of 3x3; max-pooling of 3x3
    with stride 2 behind C1, C2 and C5; two fully-connected layers of 4,096 units, of which training
    drops half. Convolutions and poolings are padded with zeros: 224x224 pixels give maps of 14x14
    at C3 to C5. Batch normalisation in place of that of local responses, since three networks are
    trained from nothing; He initialisation.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1], at least 32x32.
        width: multiplies the filters of every convolution and `features`.
        features: width of the two fully-connected layers.
        dropout: share of the output of fc6 that training drops; `build_model` drops as much of
            fc7's.
        batch_normalization: normalise what every convolution gives, before it is rectified.

    Returns:
        Stage -> output: `pool1`, `pool2`, `conv3`, `conv4`, `conv5`, `pool5`, `fc6` and the features
        `fc7`, `[B, F]`, all rectified.

    Raises:
        UserError: the pixels are fewer than 32x32.
    """
    x, stages = check_size(pixels, smallest=32), {}
    for number, (filters, side, stride) in enumerate(_CONVOLUTIONS, start=1):
        x = layers.Conv2D(
            max(1, round(width * filters)),
            side,
            strides=stride,
            padding="same",
            use_bias=not batch_normalization,
            kernel_initializer="he_normal",
            name=f"conv{number}_filters",
        )(x)
        if batch_normalization:
            x = BatchNormalization(name=f"norm{number}")(x)
        x = layers.ReLU(name=f"conv{number}")(x)
        if number > 2:
            stages[f"conv{number}"] = x
        if number in _POOLED:
            x = layers.MaxPooling2D(3, 2, padding="same", name=f"pool{number}")(x)
            stages[f"pool{number}"] = x
    x = layers.Flatten(name="flat")(x)
    units = max(1, round(width * features))
    for name in ("fc6", "fc7"):
        x = layers.Dense(units, "relu", kernel_initializer="he_normal", name=name)(x)
        stages[name] = x
        if dropout and name == "fc6":
            x = layers.Dropout(dropout, name="fc6_dropout")(x)
    return stages
