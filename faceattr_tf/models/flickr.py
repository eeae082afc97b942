"""The base network of Flickr ("Deep Architectures for Face Attributes"): about 1 GFLOP a face."""

import keras
from keras import layers

from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import check_size

MODULES = (
    (32, 64, 1),  # (b)
    (64, 128, 2),  # (c)
    (128, 256, 2),  # (c)
    *((128, 256, 1),) * 5,  # (d)
    (256, 512, 2),  # (e)
    *((256, 512, 1),) * 2,  # (f)
)
"""Filters of the 1x1 and of the 3x3 convolution and stride of every residual module, (b) to (f)."""


def build(pixels, *, width: float = 1.0, features: int = 320, stddev: float = 0.1) -> dict:
    """24 convolutions: one of 7x7, eleven residual modules of two, one to the 320 features.

    Source: Baumgartner and Culpepper, "Deep Architectures for Face Attributes" (Flickr), section
    3.1 and figure 2. A module is a 1x1 convolution to fewer maps, batch normalisation, rectified
    linear units, a 3x3 convolution to more maps, and the sum with a shortcut, which is a 1x1
    convolution where height, width or maps differ. The text gives stage (a), the widths of (d),
    the two of (f) and (g), the doubling by strides in (c) and (e), and the sums: 24 convolutions
    without shortcuts, 9 to 10 M parameters with 10,000 people, 0.9 GFLOP. It leaves the repetitions
    to a figure, and they follow:

    - 24 = 1 + 2 m + 1 for the first, m modules and the one to the features: m = 11.
    - 14x14 in (d) after 56x56 in (b) takes two strides: (c) stands twice. 256 maps in (d), doubled
      by each (c): 64 in (b), 128, 256; (e) doubles to 512, which (f) keeps.
    - The grid of figure 3 branches off at conv17, conv19, conv21, conv22, and stages (a) to (e)
      are the shared ones of figure 1, of which emotion leaves first, at conv19. With two
      convolutions a module, the ninth has to be (e), and (f) the tenth and eleventh.
    - Of the eight below, two are (c); stage (d) holds "the bulk": one (b), five (d).

    Shortcuts included, that is 0.81 G multiply-adds and 9.5 M parameters, 3.2 M of them for 10,000
    people; every other split of the modules among (b), (d) and (f) costs as many multiply-adds,
    since a module does at every stage, while one (f) in place of two has 8.5 M parameters. Of the
    parameters that figure 4 says were trained, gender's 642 are what `fc` has; those of age and
    emotion fit no network that fits the rest.

    The convolutions are numbered from 1. The stage `conv17` is the sum that the seventeenth ends
    in; `conv22` is the 1x1 convolution of the last module. A row of figure 3 names what is learned
    anew first: its conv17, conv19 and conv21 begin behind these stages here, conv22 behind the 1x1
    convolution, conv-bn320 behind `conv23`, fc behind `conv_bn320`.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; the paper's are 224x224, aligned.
        width: multiplies the filters of every convolution, and `features`.
        features: the width of the bottleneck.
        stddev: of the normal distribution, about 0, from which convolutions start. The paper says
            "variance 0.01", where Gaussians of networks are often given by their deviation; taken
            at its word it is 0.1, and fits: a 1x1 shortcut of 64 to 256 maps then multiplies what
            it is given by 0.8 to 1.6, with a deviation of 0.01 by 0.08 to 0.16, four times in a row.

    Returns:
        Stage -> output: `conv1`, pooled, the sums of the modules `conv3` to `conv23`, before the
        last `conv22`, and the features `conv_bn320`, `[B, F]`.

    Raises:
        UserError: the pixels are fewer than 32x32.
    """
    x = check_size(pixels, smallest=32)

    def convolution(x, maps, kernel, stride, name):
        return layers.Conv2D(
            max(1, round(width * maps)),
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            name=name,
        )(x)

    def rectified(x, name):
        return layers.ReLU(name=f"{name}_relu")(BatchNormalization(name=f"{name}_norm")(x))

    x = rectified(convolution(x, 32, 7, 2, "conv1_filters"), "conv1")
    x = layers.MaxPooling2D(2, padding="same", name="conv1")(x)
    stages = {"conv1": x}
    for number, (fewer, more, stride) in zip(range(2, 24, 2), MODULES, strict=True):
        reduce, expand = f"conv{number}", f"conv{number + 1}"
        y = convolution(x, fewer, 1, 1, reduce)
        if number == 22:
            stages[reduce] = y
        y = convolution(rectified(y, reduce), more, 3, stride, f"{expand}_filters")
        if stride > 1 or x.shape[-1] != y.shape[-1]:
            x = convolution(x, more, 1, stride, f"{expand}_shortcut")
        stages[expand] = x = layers.Add(name=expand)([x, y])
    x = layers.GlobalAveragePooling2D(keepdims=True, name="pool")(x)
    x = layers.Flatten(name="flatten")(convolution(x, features, 1, 1, "conv24"))
    return stages | {"conv_bn320": BatchNormalization(name="conv_bn320")(x)}
