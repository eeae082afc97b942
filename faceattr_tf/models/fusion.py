"""AttributeNet: maps of several networks side by side, and what learns attributes from them."""

from collections.abc import Callable, Mapping, Sequence

from keras import layers

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.stages import copy_layers

FUSED = "fused"
"""The stage at which the networks meet."""


def build(
    networks: Mapping[str, Callable],
    pixels,
    *,
    trunks: Sequence[str] = ("identity", "age", "race"),
    network: str = "face_alexnet",
    network_options: Sequence[tuple] = (),
    stage: str = "conv5",
    width: float = 1.0,
    filters: int = 256,
    features: int = 512,
    dropout: float = 0.5,
) -> dict:
    """Convolutional features of several networks, concatenated, then a convolution and two layers.

    Source: Fusion+OBRL, figure 1 and sections II.A and II.B: the convolutions of IdentityNet, AgeNet
    and RaceNet are kept, their maps concatenated by channel, and every group of attributes has a
    convolutional and two fully-connected layers of its own. The second of these is the head. With
    the nine groups of `data_pipelines.attribute_groups` as branches from `fused` on
    (`Model.branches`) this is the paper's network; without, all attributes share one group.

    The paper gives no sizes of these layers. Chosen here: 256 filters of 3x3, max-pooling of 3x3
    with stride 2, as AlexNet has it behind its last convolution, 512 units.

    Args:
        networks: the networks that there are, name -> `build(pixels, **options) -> stages`.
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        trunks: names of the networks that are fused, any; their layers are named `<trunk>_<layer>`.
        network: what each of them is, a name of `networks`.
        network_options: `(name, value)` pairs of that network's build function.
        stage: the stage of the network whose maps are fused.
        width: multiplies `filters` and `features`; not the trunks (`network_options`).
        filters: of the convolution.
        features: units of the fully-connected layer before the heads.
        dropout: share of the pooled maps that training drops; `build_model` drops as much of the
            features.

    Returns:
        Stage -> output: `fused`, `[B, H, W, C]` of all trunks, `conv`, `pool` and the features `fc`.

    Raises:
        UserError: a trunk, network, option or stage does not exist, or a stage gives no maps.
    """
    if not trunks or isinstance(trunks, str) or len(set(trunks)) < len(trunks):
        raise UserError(f"fusion: trunks {trunks!r}: expected names that differ, at least one")
    if network not in networks:
        raise UserError(
            f"fusion: there is no network {network!r}; there are: {', '.join(networks)}"
        )
    given = networks[network](pixels, **dict(network_options))
    maps = {name: one for name, one in given.items() if len(one.shape) == 4}
    if stage not in maps:
        raise UserError(f"fusion: stage {stage!r} gives no maps of {network}: {', '.join(maps)}")
    seen = [copy_layers([pixels], maps[stage], [pixels], f"{name}_")[0] for name in trunks]
    fused = (
        layers.Concatenate(name=FUSED)(seen)
        if len(seen) > 1
        else layers.Identity(name=FUSED)(*seen)
    )
    x = layers.Conv2D(
        max(1, round(width * filters)),
        3,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name="conv_filters",
    )(fused)
    conv = layers.ReLU(name="conv")(BatchNormalization(name="conv_norm")(x))
    pooled = layers.MaxPooling2D(3, 2, padding="same", name="pool")(conv)
    x = layers.Flatten(name="flat")(pooled)
    if dropout:
        x = layers.Dropout(dropout, name="flat_dropout")(x)
    units = max(1, round(width * features))
    return {
        FUSED: fused,
        "conv": conv,
        "pool": pooled,
        "fc": layers.Dense(units, "relu", kernel_initializer="he_normal", name="fc")(x),
    }
