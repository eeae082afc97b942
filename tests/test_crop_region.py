"""Boxes of images against Pillow's resampling."""

import numpy as np
import pytest
from PIL import Image

from faceattr_tf.layers import CropRegion

IMAGE = np.random.default_rng(0).normal(size=(30, 40)).astype("float32")


def by_pillow(image, box, size):
    """The box in pixels of a grey image, by Pillow."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR, box=box)
    return np.asarray(resized)


@pytest.mark.parametrize("size", [(7, 5), (16, 21), (30, 11)], ids=["shrunk", "grown", "both"])
def test_a_box_is_resampled_as_pillow_does(size):
    box = (10.5, 6.25, 26.0, 21.5)
    shares = (box[0] / 40, box[1] / 30, box[2] / 40, box[3] / 30)
    (found,) = CropRegion(shares, size)(IMAGE[None, :, :, None])
    np.testing.assert_allclose(found[..., 0], by_pillow(IMAGE, box, size), atol=1e-5)


def test_whole_pixels_are_copied():
    (found,) = CropRegion((0.25, 0.2, 0.75, 0.6), (12, 20))(IMAGE[None, :, :, None])
    np.testing.assert_array_equal(found[..., 0], IMAGE[6:18, 10:30])


def test_outside_the_border_repeats():
    (found,) = CropRegion((-0.25, 0.8, 0.5, 1.6), (9, 13))(IMAGE[None, :, :, None])
    padded = np.pad(IMAGE, 30, mode="edge")
    expected = by_pillow(padded, (30 - 10, 30 + 24, 30 + 20, 30 + 48), (9, 13))
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("box", "size", "message"),
    [
        ((0.5, 0, 0.5, 1), (4, 4), "left < right"),
        ((0, 0.9, 1, 0.1), (4, 4), "top < bottom"),
        ((0, 0, float("nan"), 1), (4, 4), "left < right"),
        ((0, 0, 1, 1), (4, 0), "height and a width"),
    ],
)
def test_boxes_that_are_none_are_refused(box, size, message):
    with pytest.raises(ValueError, match=message):
        CropRegion(box, size)
