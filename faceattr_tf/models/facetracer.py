"""FaceTracer: gradients and colours of the functional regions of a face, nothing learned."""

from collections.abc import Sequence

from keras import layers

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.layers import ColourHistograms, CropRegion, OrientedGradientHistograms
from faceattr_tf.models.face_parts import MOUTH, NOSE, Box, choose, locate

REGIONS: dict[str, Box] = {
    "face": (-1.6, -1.5, 1.6, 2.1),
    "hair": (-1.4, -1.6, 1.4, -0.8),
    "forehead": (-0.9, -1.0, 0.9, -0.3),
    "eyebrows": (-1.0, -0.6, 1.0, -0.1),
    "eyes": (-1.0, -0.35, 1.0, 0.35),
    "nose": (-0.5, 0.0, 0.5, NOSE + 0.25),
    "left_cheek": (-1.15, 0.2, -0.3, 1.05),
    "right_cheek": (0.3, 0.2, 1.15, 1.05),
    "upper_lip": (-0.6, NOSE + 0.05, 0.6, MOUTH + 0.05),
    "mouth": (-0.75, MOUTH - 0.4, 0.75, MOUTH + 0.4),
    "chin": (-0.9, MOUTH + 0.15, 0.9, MOUTH + 0.9),
    "left_side": (-1.8, -0.8, -0.9, 1.6),
    "right_side": (0.9, -0.8, 1.8, 1.6),
    "neck": (-1.6, MOUTH + 0.7, 1.6, MOUTH + 1.5),
}
"""Region -> its box, see `faceattr_tf.models.face_parts.locate`; left is as seen."""

_CELL = 8


def build(
    pixels,
    *,
    crop: Crop | None = None,
    eyes: Sequence[float] = (),
    regions: Sequence[str] = (),
    resolution: float = 24.0,
) -> dict:
    """Histograms of oriented gradients and of colours, region by region.

    Source: Kumar et al., "FaceTracer: A Search Engine for Large Collections of Images with Faces"
    (ECCV 2008), in the form in which LNets+ANet, section 5, compares with it: HOG and colour
    histograms on functional regions that landmarks place, for a linear SVM. (The original chooses
    among regions, kinds of pixels and their normalisations by boosting.)

    The paper names neither the regions nor the histograms. Chosen here: the regions that Kumar et
    al. show, the whole face, hair, forehead, eyebrows, eyes, nose, cheeks, upper lip, mouth and
    chin, and what attributes as earrings and neckties need, both sides of the head and the neck;
    cells of 8 pixels (the whole face at half the resolution); joint histograms of 3 bins of luma
    and 5 of each colour difference, of which finer ones are no better. Nothing is learned before
    the heads: blocks of gradients and histograms of colours all have about length one.

    Args:
        pixels: `[B, H, W, 3]`, scaled to [-1, 1].
        crop: see `faceattr_tf.models.face_parts.locate`.
        eyes: see there.
        regions: names of `REGIONS`; empty for all.
        resolution: pixels between the eyes, to which regions are resampled.

    Returns:
        Stage -> output, all `[B, F]` in float32: for each region its gradients and colours, then
        `hog`, the gradients of all, `colours`, the colours of all, and `regions`, both.

    Raises:
        UserError: an option has no such value, or the crop puts the eyes at no known places.
    """
    if not 1 <= resolution < float("inf"):
        raise UserError(f"resolution {resolution}: expected 1 pixel between the eyes or more")
    boxes = choose(REGIONS, regions)
    gradients, colours, both = [], [], {}
    for name, place in locate(boxes, pixels.shape[1:3], crop, eyes).items():
        size = _cells(boxes[name], resolution / 2 if name == "face" else resolution)
        region = CropRegion(place, size, dtype="float32", name=f"{name}_pixels")(pixels)
        blocks = OrientedGradientHistograms(_CELL, dtype="float32", name=f"{name}_blocks")(region)
        gradients.append(layers.Flatten(dtype="float32", name=f"{name}_hog")(blocks))
        histogram = ColourHistograms((3, 5, 5), 0.2, dtype="float32", name=f"{name}_colours")
        colours.append(histogram(region))
        both[name] = _join([gradients[-1], colours[-1]], name)
    return both | {
        "hog": _join(gradients, "hog"),
        "colours": _join(colours, "colours"),
        "regions": _join(list(both.values()), "regions"),
    }


def _cells(box: Box, scale: float) -> tuple[int, int]:
    """Height and width of a region in pixels, whole cells and a block at least."""
    left, top, right, bottom = box
    lengths = (bottom - top) * scale, (right - left) * scale
    height, width = (max(2, round(length / _CELL)) * _CELL for length in lengths)
    return height, width


def _join(features: list, name: str):
    if len(features) > 1:
        return layers.Concatenate(dtype="float32", name=name)(features)
    return layers.Identity(dtype="float32", name=name)(features[0])
