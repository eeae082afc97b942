"""LoNet: the network that looks at an image and says how to transform it (FaceSTN)."""

import keras
from keras import layers

from data_pipelines.errors import UserError
from faceattr_tf.layers.spatial_transformer import IDENTITY
from faceattr_tf.models.heads import check_size


def build(
    pixels,
    *,
    family: str = "affine",
    width: float = 1.0,
    features: int = 128,
    dropout: float = 0.8,
    shrink: int = 1,
):
    """Four convolutions, three max-poolings and two fully-connected layers.

    Source: Tan et al., "Deep Face Attributes Recognition Using Spatial Transformer Network"
    (FaceSTN), section II.B and figure 2.

    The paper gives: 3x3 filters, four convolutional and two fully-connected layers, a stride of 2
    at conv1_2, pool1 and pool2 and of 3 at pool3, rectified linear units behind all but the last
    layer, dropout of 0.8 on the fully-connected features, a last layer that begins with the
    identity [1 0 0 0 1 0] (section III.C).
    Chosen here, as it gives no sizes: 16, 16, 32 and 48 filters, 128 features, poolings as large as
    their strides, zero padding so that small inputs do not vanish, He initialisation. 256x256
    pixels end in 11x11x48 and 0.8 M parameters, 64x64 pixels in 3x3x48 and 0.1 M.

    The last layer starts with a kernel of zeros, so that at first nothing is transformed whatever
    the image shows, and computes in float32 under mixed precision: bfloat16 would place the grid
    only to a pixel of 256.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; H and W at least 32.
        family: transforms to choose from, a key of
            `faceattr_tf.layers.spatial_transformer.IDENTITY`.
        width: multiplies the filters of every convolution.
        features: width of the first fully-connected layer.
        dropout: share of its features that training drops.
        shrink: average this many pixels squared into one before all else (the paper: 1).

    Returns:
        Parameters of one transform per image, float32 `[B, P]`, for `SpatialTransformer`.

    Raises:
        UserError: the family does not exist, `shrink` is below 1, or the input is too small.
    """
    if family not in IDENTITY:
        raise UserError(f"transform family {family!r} is none of {', '.join(IDENTITY)}")
    if shrink < 1:
        raise UserError(f"LoNet shrinks its input by a whole number from 1 on, not by {shrink}")

    def convolution(x, filters, name, stride=1):
        return layers.Conv2D(
            max(1, round(width * filters)),
            3,
            strides=stride,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"lonet_{name}",
        )(x)

    x = check_size(pixels, smallest=32)
    if shrink > 1:
        x = layers.AveragePooling2D(shrink, dtype="float32", name="lonet_shrink")(x)
    x = convolution(x, 16, "conv1_1")
    x = convolution(x, 16, "conv1_2", stride=2)
    x = layers.MaxPooling2D(2, padding="same", name="lonet_pool1")(x)
    x = convolution(x, 32, "conv2")
    x = layers.MaxPooling2D(2, padding="same", name="lonet_pool2")(x)
    x = convolution(x, 48, "conv3")
    x = layers.MaxPooling2D(3, padding="same", name="lonet_pool3")(x)
    x = layers.Flatten(name="lonet_flatten")(x)
    x = layers.Dense(features, "relu", kernel_initializer="he_normal", name="lonet_fc1")(x)
    if dropout:
        x = layers.Dropout(dropout, name="lonet_dropout")(x)
    return layers.Dense(
        len(IDENTITY[family]),
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(IDENTITY[family]),
        dtype="float32",
        name="lonet_fc2",
    )(x)
