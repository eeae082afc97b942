"""A compact residual network: the baseline that every paper's network is compared with."""

from collections.abc import Sequence

from keras import layers

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization, PositionalPooling
from faceattr_tf.models.heads import check_size

POOLINGS = ("average", "depthwise")


def build(
    pixels,
    *,
    width: float = 1.0,
    filters: Sequence[int] = (32, 64, 96, 128),
    blocks: Sequence[int] = (1, 1, 1, 1),
    stem_stride: int = 2,
    squeeze_excitation: int = 0,
    pooling: str = "average",
) -> dict:
    """A strided convolution, stages of basic residual blocks, pooling.

    Source: basic blocks of He et al., "Deep Residual Learning" (CVPR 2016), with the shortcut that
    averages before it projects (He et al., "Bag of Tricks", CVPR 2019, model D), optional channel
    weights (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018) and optionally the learned
    average per place and channel of MobileFaceNets (Chen et al., 2018, section 3.1), which unlike
    a plain average still knows where in the face something was seen. The sizes follow none of
    them: they are chosen for inputs of 64 to 112 pixels and a processor without a GPU, where maps
    at full resolution would cost more than everything else. About 0.5 M parameters by default.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        width: multiplies all `filters`.
        filters: maps per stage; every stage but the first halves height and width.
        blocks: residual blocks per stage.
        stem_stride: stride of the first convolution.
        squeeze_excitation: channels per hidden unit of the channel weights; 0 leaves them out.
        pooling: `average`, or `depthwise` for one learned weight per place and channel.

    Returns:
        Stage -> output: `stem_relu`, the end of every block, and the pooled features `[B, F]`.

    Raises:
        UserError: `filters` and `blocks` differ in length, or the pooling does not exist.
    """
    if len(filters) != len(blocks):
        raise UserError(f"filters {filters} and blocks {blocks} name different numbers of stages")
    if pooling not in POOLINGS:
        raise UserError(f"pooling {pooling!r} is none of {', '.join(POOLINGS)}")

    def normalise(x, name, gamma="ones"):
        return BatchNormalization(
            momentum=0.95,
            epsilon=1.001e-5,
            gamma_initializer=gamma,
            name=name,
        )(x)

    def convolution(x, maps, kernel, stride, name, gamma="ones"):
        x = layers.Conv2D(
            maps,
            kernel,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        return normalise(x, f"{name}_norm", gamma)

    def block(x, maps, stride, name):
        shortcut = x
        if stride > 1:
            shortcut = layers.AveragePooling2D(stride, padding="same", name=f"{name}_average")(x)
        if x.shape[-1] != maps:
            shortcut = convolution(shortcut, maps, 1, 1, f"{name}_project")
        y = convolution(x, maps, 3, stride, f"{name}_conv1")
        y = layers.ReLU(name=f"{name}_relu1")(y)
        # A last scale of zero makes every block start as its shortcut.
        y = convolution(y, maps, 3, 1, f"{name}_conv2", gamma="zeros")
        if squeeze_excitation:
            y = layers.Multiply(name=f"{name}_excite")([y, channel_weights(y, name)])
        return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([shortcut, y]))

    def channel_weights(y, name):
        maps = y.shape[-1]
        weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
        weights = layers.Dense(
            max(4, maps // squeeze_excitation), "relu", name=f"{name}_squeeze_hidden"
        )(weights)
        return layers.Dense(maps, "sigmoid", name=f"{name}_squeeze_weights")(weights)

    maps = [max(8, round(width * count)) for count in filters]
    x = check_size(pixels, smallest=16)
    x = layers.ReLU(name="stem_relu")(convolution(x, maps[0], 3, stem_stride, "stem"))
    stages = {"stem_relu": x}
    for stage, (stage_maps, count) in enumerate(zip(maps, blocks, strict=True), start=1):
        for index in range(1, count + 1):
            stride = 2 if stage > 1 and index == 1 else 1
            name = f"stage{stage}_block{index}"
            stages[f"{name}_relu2"] = x = block(x, stage_maps, stride, name)
    if pooling == "average":
        return stages | {"pool": layers.GlobalAveragePooling2D(name="pool")(x)}
    return stages | {"pool_norm": normalise(PositionalPooling(name="pool")(x), "pool_norm")}
