"""PANDA: features of convolutional networks on aligned parts of a face, side by side."""

from collections.abc import Sequence

from keras import layers, ops

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.layers import BatchNormalization, CropRegion
from faceattr_tf.models import keras_applications
from faceattr_tf.models.face_parts import MOUTH, NOSE, Box, choose, locate
from faceattr_tf.models.heads import check_size
from faceattr_tf.models.stages import pool_features

PARTS: dict[str, Box] = {
    "face": (-1.8, -1.5, 1.8, 2.1),
    "upper_face": (-1.2, -1.5, 1.2, 0.9),
    "lower_face": (-1.1, 0.0, 1.1, 2.2),
    "left_eye": (-1.05, -0.6, 0.05, 0.5),
    "right_eye": (-0.05, -0.6, 1.05, 0.5),
    "nose": (-0.6, NOSE - 0.8, 0.6, NOSE + 0.4),
    "mouth": (-0.75, MOUTH - 0.75, 0.75, MOUTH + 0.75),
    "left_side": (-2.0, -0.3, -0.3, 1.4),
    "right_side": (0.3, -0.3, 2.0, 1.4),
}
"""Part -> its box, a square, see `faceattr_tf.models.face_parts.locate`; left is as seen."""

_LAYERS = ((5, "same"), (5, "valid"), (3, "same"), (3, "same"))


def build(
    pixels,
    *,
    crop: Crop | None = None,
    eyes: Sequence[float] = (),
    parts: Sequence[str] = (),
    size: int = 56,
    trunk: str = "",
    pixel_values: str = "",
    width: float = 1.0,
) -> dict:
    """Every part of the face through a network, the features of all parts side by side.

    Source: Zhang et al., "PANDA: Pose Aligned Networks for Deep Attribute Modeling" (CVPR 2014),
    as LNets+ANet, section 5, adapts it to faces: its parts are placed by landmarks.

    The networks are those that the authors released: 56x56 pixels, four convolutions of 64 filters
    of 5, 5, 3 and 3 pixels, of which the second alone is not padded, after each a max-pooling of 3
    pixels with stride 2, and 576 features per part. Otherwise here: the parts; batch normalisation
    in place of that of local responses; and a fully-connected layer in place of a last convolution
    with own filters at every place of its 3x3 map. The networks of the parts share nothing.

    With a `trunk`, a network of `keras.applications` that all parts share takes their place, which
    can be pretrained.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        crop: see `faceattr_tf.models.face_parts.locate`.
        eyes: see there.
        parts: names of `PARTS`; empty for all.
        size: height and width to which every part is brought, in pixels.
        trunk: a key of `faceattr_tf.models.BACKBONES`; empty for the networks of the paper.
        pixel_values: what the trunk's weights want, see `faceattr_tf.models.keras_applications`.
        width: multiplies the filters of the paper's networks.

    Returns:
        Stage -> output: `pool1` to `pool4`, `[B, H, W, parts · C]`, and `parts`, `[B, parts · F]`;
        with a trunk for each of its stages `parts_<stage>`, the means of its maps `[B, parts · C]`.

    Raises:
        UserError: an option has no such value, or the crop puts the eyes at no known places.
    """
    boxes = choose(PARTS, parts)
    if trunk and trunk not in keras_applications.BACKBONES:
        known = ", ".join(keras_applications.BACKBONES)
        raise UserError(f"there is no trunk {trunk!r}; there are: {known}")
    for name, given, of in (
        ("width", width != 1, not trunk),
        ("pixel_values", pixel_values, trunk),
    ):
        if given and not of:
            raise UserError(f"panda: {name} is none of the network with the trunk {trunk!r}")
    places = locate(boxes, pixels.shape[1:3], crop, eyes)
    images = {
        name: CropRegion(place, (size, size), dtype="float32", name=f"{name}_pixels")(pixels)
        for name, place in places.items()
    }
    if trunk:
        return _shared(list(images.values()), trunk, pixel_values)
    return _own(images, max(1, round(64 * width)), max(1, round(576 * width)))


def _shared(images: list, trunk: str, pixel_values: str) -> dict:
    """The stages of one network on all parts, which it sees as so many more images."""
    size, count = images[0].shape[1:], len(images)
    stacked = ops.reshape(ops.stack(images, axis=1), (-1, *size))
    stages = keras_applications.build(trunk, stacked, pixel_values=pixel_values)
    found = {}
    for stage, maps in stages.items():
        means = pool_features(maps)
        joined = ops.reshape(means, (-1, count * means.shape[-1]))
        name = f"parts_{stage}"
        found[name] = layers.Identity(dtype="float32", name=name)(joined)
    return found


def _own(images: dict, filters: int, features: int) -> dict:
    """The stages of a network for each part, what they give joined."""

    def convolution(x, maps, kernel, padding, name):
        x = layers.Conv2D(maps, kernel, padding=padding, use_bias=False, name=f"{name}_conv")(x)
        x = BatchNormalization(name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    def joined(parts, name):
        if len(parts) > 1:
            return layers.Concatenate(name=name)(list(parts.values()))
        return layers.Identity(name=name)(*parts.values())

    stages, x = {}, {part: check_size(image, smallest=9) for part, image in images.items()}
    for index, (kernel, padding) in enumerate(_LAYERS, start=1):
        for part, image in x.items():
            name = f"{part}_{index}"
            maps = convolution(image, filters, kernel, padding, name)
            x[part] = layers.MaxPooling2D(3, 2, "same", name=f"{name}_pool")(maps)
        stages[f"pool{index}"] = joined(x, f"pool{index}")
    for part, image in x.items():
        maps = convolution(image, features, image.shape[1:3], "valid", f"{part}_5")
        x[part] = layers.Flatten(name=part)(maps)
    return stages | {"parts": joined(x, "parts")}
