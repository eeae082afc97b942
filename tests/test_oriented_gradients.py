"""Histograms of oriented gradients against their definition, pixel by pixel."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from faceattr_tf.layers import OrientedGradientHistograms


def gradient(image, y, x):
    """Of the colour that changes most: its length and its direction in degrees, 0 to 180."""
    height, width, colours = image.shape
    steepest = (0.0, 0.0)
    for colour in range(colours):
        right = image[y, x + 1, colour] - image[y, x - 1, colour] if 0 < x < width - 1 else 0.0
        down = image[y + 1, x, colour] - image[y - 1, x, colour] if 0 < y < height - 1 else 0.0
        length = math.hypot(right, down)
        if length > steepest[0]:
            steepest = length, math.degrees(math.atan2(down, right)) % 180
    return steepest


def block_of(image, top, left, cell, block, orientations):
    """The histograms of one block, `[block, block, orientations]`, every pixel voting in turn."""
    found, side = np.zeros((block, block, orientations)), cell * block
    for i in range(side):
        for j in range(side):
            length, degrees = gradient(image, top + i, left + j)
            down, across = i + 0.5 - side / 2, j + 0.5 - side / 2
            length *= math.exp(-(down**2 + across**2) / (2 * (side / 2) ** 2))
            place = degrees / (180 / orientations) - 0.5
            lower, upper = math.floor(place), math.floor(place) + 1
            for a in range(block):
                for b in range(block):
                    near = max(0, 1 - abs(i + 0.5 - (a + 0.5) * cell) / cell)
                    near *= max(0, 1 - abs(j + 0.5 - (b + 0.5) * cell) / cell)
                    found[a, b, lower % orientations] += length * near * (upper - place)
                    found[a, b, upper % orientations] += length * near * (place - lower)
    return found


def by_definition(image, cell, block, orientations, clip, epsilon):
    rows, columns = (length // cell - block + 1 for length in image.shape[:2])
    found = np.zeros((rows, columns, block * block * orientations))
    for row in range(rows):
        for column in range(columns):
            bins = block_of(image, row * cell, column * cell, cell, block, orientations).ravel()
            bins = np.minimum(bins / np.sqrt(np.sum(bins**2) + epsilon**2), clip)
            found[row, column] = bins / np.sqrt(np.sum(bins**2) + epsilon**2)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"cell": 4, "block": 2, "orientations": 9, "clip": 0.2, "epsilon": 0.1},
        {"cell": 3, "block": 3, "orientations": 4, "clip": 0.5, "epsilon": 1.0},
        {"cell": 5, "block": 1, "orientations": 2, "clip": 0.9, "epsilon": 1e-3},
    ],
)
def test_they_are_those_of_dalal_and_triggs(options):
    image = np.random.default_rng(0).uniform(-1, 1, (15, 13, 3)).astype("float32")
    image[:6, :6] = 0.25  # a part without any gradient
    (found,) = OrientedGradientHistograms(**options)(image[None])
    expected = by_definition(image.astype(float), **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("index", range(9))
def test_a_slope_votes_for_its_orientation_whichever_side_is_bright(index, sign):
    angle = math.radians(20 * index + 10)
    down, across = np.mgrid[:32, :32] / 32
    slope = sign * (math.cos(angle) * across + math.sin(angle) * down)
    layer = OrientedGradientHistograms(clip=1.0, epsilon=1e-3)
    (found,) = layer(slope[None, :, :, None].astype("float32"))
    cells = np.reshape(found[1, 1], (4, 9))  # away from the border
    np.testing.assert_allclose(np.delete(cells, index, axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(cells[:, index], 0.5, atol=1e-3)


def test_flat_images_have_neither_orientations_nor_infinite_gradients():
    layer, image = OrientedGradientHistograms(), tf.zeros((1, 16, 16, 3))
    with tf.GradientTape() as tape:
        tape.watch(image)
        outputs = layer(image)
    assert not np.any(outputs)
    assert np.isfinite(tape.gradient(outputs, image)).all()


def test_half_precision_loses_nothing_on_the_way():
    image = np.random.default_rng(1).uniform(-1, 1, (1, 16, 16, 3)).astype("float32")
    exact = OrientedGradientHistograms()(image)
    half = OrientedGradientHistograms(dtype="mixed_bfloat16")(image)
    np.testing.assert_array_equal(half, keras.ops.cast(exact, "bfloat16"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"cell": 0}, "cell is 0"), ({"orientations": 1}, "orientations is 1"), ({"clip": 0}, "clip")],
)
def test_arguments_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        OrientedGradientHistograms(**options)


def test_images_smaller_than_a_block_are_refused():
    with pytest.raises(ValueError, match="a block has 16 pixels"):
        OrientedGradientHistograms()(np.zeros((1, 15, 40, 3), "float32"))
