"""Whole images at one length of their longer side."""

import numpy as np
import pytest
from tiny_workdir import draw_picture, encode

from data_pipelines.crop.geometry import Crop
from data_pipelines.crop.pixels import decode_and_crop
from data_pipelines.crop.scaling import scaled_images, scaled_images_each, scaled_pixels


def ramp(height, width):
    """Red grows with the column and green with the row, by one a pixel."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "side", "scaled"),
    [((60, 100), 50, (30, 50)), ((200, 80), 50, (50, 20)), ((20, 30), 60, (40, 60))],
)
def test_scaled_pixels_show_what_the_transform_says(size, side, scaled):
    for images in (
        scaled_images([encode(ramp(*size), ".png")], side),
        scaled_pixels(ramp(*size)[None], side),
    ):
        found, transform = images.read(0).numpy(), images.transform[0].numpy()
        assert found.shape == (*scaled, 3)
        assert images.scaled.numpy().tolist() == [list(scaled)]
        assert images.sizes.numpy().tolist() == [list(size)]
        y, x = np.mgrid[1 : scaled[0] - 1, 1 : scaled[1] - 1]
        place = np.stack([x, y, np.ones_like(x)], axis=-1) @ transform.T
        # Averages of four whole numbers are rounded.
        np.testing.assert_allclose(found[1:-1, 1:-1, :2], place, atol=0.51)


def test_a_square_is_scaled_as_a_crop_is():
    files = [encode(draw_picture(1, 300, 300))]
    nowhere = np.full((1, 4), np.nan, "f4"), np.full((1, 5, 2), np.nan, "f4")
    crops, transform = decode_and_crop(files, *nowhere, Crop("none", 90, 90))
    images = scaled_images(files, 90)
    np.testing.assert_allclose(images.read(0), crops[0], atol=1e-3)
    np.testing.assert_allclose(images.transform, transform, atol=1e-5)


def test_what_is_too_narrow_is_completed_by_its_edges_on_both_ends():
    images = scaled_pixels(ramp(5, 100)[None], 100, least=35)
    found = images.read(0).numpy()
    np.testing.assert_allclose(found[15:20], ramp(5, 100))
    np.testing.assert_allclose(found[:15], np.repeat(found[15:16], 15, axis=0))
    np.testing.assert_allclose(found[20:], np.repeat(found[19:20], 15, axis=0))


def test_damaged_and_too_large_images_are_left_out():
    good = [encode(draw_picture(0, 50, 70)), encode(draw_picture(1, 90, 40), ".png")]
    files = [
        b"",
        good[0],
        good[0][:300],
        encode(draw_picture(2, 200, 200)),
        b"\xff\xd8\xff",
        good[1],
    ]
    rows, images = scaled_images_each(files, 60, max_pixels=199 * 200)
    assert rows.numpy().tolist() == [1, 5]
    whole = scaled_images(good, 60)
    np.testing.assert_array_equal(images.transform, whole.transform)
    np.testing.assert_array_equal(images.sizes, [[50, 70], [90, 40]])
    for index in range(2):
        np.testing.assert_array_equal(images.read(index), whole.read(index))
