"""ANet: the network of LNets+ANet that reads attributes off a face, with locally shared filters."""

from keras import layers, ops

from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization, LocallySharedConv2D, StrongestViews
from faceattr_tf.models.heads import check_size

_SHARED = ((20, 4), (40, 3))  # filters of C1 and C2 and their sides
_LOCAL = ((60, 3, 2), (80, 2, 1))  # of C3 and C4, and the sides of their cells

VIEWS = {
    1: ((0, 0),),
    5: ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)),
    9: tuple((row, column) for row in (0, -1, 1) for column in (0, -1, 1)),
}
"""Number of views -> their offsets from the strongest window, in cells of 4 pixels."""


def build(
    pixels,
    *,
    width: float = 1.0,
    features: int = 160,
    window: tuple[int, int] = (),
    views: int = 1,
    batch_normalization: bool = False,
) -> dict:
    """Two shared and two locally shared convolutions, three max-poolings, one layer of features.

    Source: Liu et al., "Deep Learning Face Attributes in the Wild" (LNets+ANet), section 3.2, after
    Sun et al., "Deep Learning Face Representation by Joint Identification-Verification" (DeepID2,
    NIPS 2014), section 2.

    The paper gives: C1 and C2 with globally, C3 and C4 with locally shared filters in the cells of
    a grid; three max-poolings, one fully-connected layer FC; rectified linear units. It leaves the
    numbers to a figure. Chosen here as DeepID2 has them: 20 filters of 4x4, 40 of 3x3, 60 of 3x3
    shared in cells of 2x2 neurons, 80 of 2x2 with cells of one neuron; 2x2 pooling behind C1, C2
    and C3; 160 features. Other than there, maps are padded with zeros, so that every pooling
    halves them (88x72 pixels end in a map of 11x9), and the features see C4 alone, as the paper's
    figure has it. He initialisation.

    With a `window`, the size of the pictures that training showed, larger pictures are seen through
    the interweaved operation (figure 5, equation 5): every local filter over the whole map, the
    window in which all of them together respond most, and the features of as many views around it,
    one behind the other. Pictures of the window's size with one view are what they are without.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1]; sides, or those of the window, multiples of 8.
        width: multiplies the filters of every convolution and `features`.
        features: width of the fully-connected layer.
        window: height and width of the pictures of training, where `pixels` are larger; empty for
            the whole picture.
        views: 1, 5 or 9 places around the strongest one, 4 pixels apart.
        batch_normalization: normalise what every layer gives, ahead of its rectified linear units
            (the paper: no). Without, the features of people as classes shrank towards nothing
            within 150 steps (see `faceattr_tf.configs.lnets_anet.anet_identity`).

    Returns:
        Stage -> output: `pool1`, `pool2`, `pool3`, `relu4` and the features `fc`, `[B, F]`; where
        a window is looked for, `pool1` and `pool2` of the whole picture and `views`, the features of
        every view, `[B, V F]`.

    Raises:
        UserError: a side is no multiple of 8, the window is larger than the picture, or there is no
            such number of views.
    """
    size = tuple(check_size(pixels, smallest=16).shape[1:3])
    window = tuple(window) or size
    if views not in VIEWS:
        raise UserError(f"views {views}: expected one of {', '.join(map(str, VIEWS))}")
    if len(window) != 2 or any(side % 8 or side < 16 for side in window):
        raise UserError(f"anet sees {window}: expected a height and width that are multiples of 8")
    if any(side % 4 or side < shown for side, shown in zip(size, window, strict=True)):
        raise UserError(
            f"anet looks for {window} in pictures of {size}: expected multiples of 4 that are no "
            "smaller"
        )
    interweaved = views > 1 or window != size

    def rectified(x, number, name=""):
        if batch_normalization:
            x = BatchNormalization(name=f"norm{number}")(x)
        return layers.ReLU(name=name or f"relu{number}")(x)

    x, stages = pixels, {}
    for number, (filters, side) in enumerate(_SHARED, start=1):
        x = layers.Conv2D(
            max(1, round(width * filters)),
            side,
            padding="same",
            kernel_initializer="he_normal",
            name=f"conv{number}",
        )(x)
        x = rectified(x, number)
        stages[f"pool{number}"] = x = layers.MaxPooling2D(2, name=f"pool{number}")(x)

    (third, fourth) = (
        LocallySharedConv2D(
            max(1, round(width * filters)),
            (side, side),
            grid=tuple(length // scale // cell for length in window),
            kernel_initializer="he_normal",
            name=f"conv{number}",
        )
        for number, scale, (filters, side, cell) in zip((3, 4), (4, 8), _LOCAL, strict=True)
    )
    places = ()
    if interweaved:
        x = third(x, window=tuple(length // 4 for length in window))
        places = tuple(x.shape[1:3])
        x = ops.reshape(x, (-1, *x.shape[3:]))  # every place as a picture of its own
    else:
        x = third(x)
    x = rectified(x, 3)
    x = layers.MaxPooling2D(2, name="pool3")(x)
    if not interweaved:
        stages["pool3"] = x
    x = rectified(fourth(x), 4)
    if not interweaved:
        stages["relu4"] = x
    else:
        x = ops.reshape(x, (-1, *places, *x.shape[1:]))
        x = StrongestViews(VIEWS[views], name="strongest")(x)
        x = ops.reshape(x, (-1, *x.shape[2:]))
    x = layers.Flatten(name="flatten")(x)
    units = max(1, round(width * features))
    x = layers.Dense(units, kernel_initializer="he_normal", name="dense")(x)
    x = rectified(x, 5, name="fc")
    if not interweaved:
        return stages | {"fc": x}
    x = ops.reshape(x, (-1, views * units))
    return stages | {"views": layers.Identity(name="views")(x)}
