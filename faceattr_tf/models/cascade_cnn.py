"""Cascade CNN: the DeepID-like network with one inception layer of KTH-MTFL."""

from keras import layers

from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

_KERNELS = (4, 3, 3, 2)


def build(
    pixels,
    *,
    width: float = 1.0,
    features: int = 512,
    batch_normalization: bool = False,
) -> dict:
    """Four convolutions each with a max-pooling, one inception layer, one fully-connected layer.

    Source: KTH-MTFL ("Prediction of Attributes"), section 3.4 and figure 2, after DeepID2+
    (arXiv:1412.1265) for the convolutions and DeepID3 (arXiv:1502.00873) for the inception layer.

    The paper gives: four convolutions of 128 maps "with the same characteristics (size and number
    of filters, stride)" as DeepID2+, four max-poolings, one inception layer, one fully-connected
    layer (512 in DeepID2+), rectified linear units, 150x150 colour input, no local convolutions.
    Chosen here, as the paper's text gives no sizes: filters of 4, 3, 3 and 2 pixels with stride 1
    and no padding as in the DeepID networks, poolings of 2x2, which leaves 7x7x128 of 150x150; the
    inception layer has GoogLeNet's four branches with the widths of its first one (1x1: 64, 3x3:
    96 to 128, 5x5: 16 to 32, pooled: 32; 256 maps together); He initialisation.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; H and W at least 39.
        width: multiplies the maps of every convolution; below 1 is narrower than the paper's.
        features: width of the fully-connected layer.
        batch_normalization: normalise every convolution's output (the paper: no).

    Returns:
        Stage -> output: `pool1` to `pool4`, `inception` and the features `shared`, `[B, F]`.
    """

    def convolution(x, filters, kernel, name, padding="valid"):
        x = layers.Conv2D(
            max(1, round(width * filters)),
            kernel,
            padding=padding,
            use_bias=not batch_normalization,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        if batch_normalization:
            x = BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    x, stages = check_size(pixels, smallest=39), {}
    for index, kernel in enumerate(_KERNELS, start=1):
        x = convolution(x, 128, kernel, f"conv{index}")
        stages[f"pool{index}"] = x = layers.MaxPooling2D(2, name=f"pool{index}")(x)

    pooled = layers.MaxPooling2D(3, strides=1, padding="same", name="inception_pool")(x)
    narrow3 = convolution(x, 96, 1, "inception_3x3_reduce")
    narrow5 = convolution(x, 16, 1, "inception_5x5_reduce")
    stages["inception"] = x = layers.Concatenate(name="inception")(
        [
            convolution(x, 64, 1, "inception_1x1"),
            convolution(narrow3, 128, 3, "inception_3x3", padding="same"),
            convolution(narrow5, 32, 5, "inception_5x5", padding="same"),
            convolution(pooled, 32, 1, "inception_pool_reduce"),
        ]
    )
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(features, "relu", kernel_initializer="he_normal", name="shared")(x)
    return stages | {"shared": x}
