"""TCDCN: the small multi-task network of Zhang et al. as KTH-MTFL built it."""

from keras import layers

from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

_FILTERS = (20, 48, 64, 80)
_KERNELS = (5, 5, 3, 3)


def build(
    pixels,
    *,
    features: int = 256,
    width: float = 1.0,
    batch_normalization: bool = False,
) -> dict:
    """Four convolutions, three max-poolings, one fully-connected layer that all tasks share.

    Source: KTH-MTFL ("Prediction of Attributes"), section 3.4 and figure 3, after Zhang et al.,
    "Learning Deep Representation for Face Alignment with Auxiliary Attributes" (TPAMI 2016).

    The paper gives: four convolutions, three max-poolings, one fully-connected layer of 256 that
    all tasks share, rectified linear units, colour input of 150x150 (Zhang et al.: 60x60).
    Chosen here, as the paper's text gives no sizes: Zhang-like filters 20, 48, 64, 80 of 5, 5, 3
    and 3 pixels with stride 1 and no padding, a 2x2 pooling after each of the first three, which
    takes 60x60 to a last map of 3x3x80 (150x150: 14x14x80); He initialisation. Zhang et al. use
    grey input and a last convolution that has own filters at every place; KTH-MTFL has ordinary
    convolutions throughout, and so has this.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; H and W at least 44.
        features: width of the shared fully-connected layer.
        width: multiplies the filters of every convolution.
        batch_normalization: normalise every convolution's output (the paper: no).

    Returns:
        Stage -> output: `pool1` to `pool3`, `relu4` and the features `shared`, `[B, F]`.
    """
    x, stages = check_size(pixels, smallest=44), {}
    for index, (filters, kernel) in enumerate(zip(_FILTERS, _KERNELS, strict=True), start=1):
        x = layers.Conv2D(
            max(1, round(width * filters)),
            kernel,
            use_bias=not batch_normalization,
            kernel_initializer="he_normal",
            name=f"conv{index}",
        )(x)
        if batch_normalization:
            x = BatchNormalization(name=f"norm{index}")(x)
        name = f"relu{index}"
        x = layers.ReLU(name=name)(x)
        if index < len(_FILTERS):
            name = f"pool{index}"
            x = layers.MaxPooling2D(2, name=name)(x)
        stages[name] = x
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(features, "relu", kernel_initializer="he_normal", name="shared")(x)
    return stages | {"shared": x}
