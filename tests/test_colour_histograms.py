"""Histograms of colours against their definition, pixel by pixel."""

import itertools
import math

import numpy as np
import pytest

from faceattr_tf.layers import ColourHistograms


def by_definition(image, bins, reach, epsilon):
    found = np.zeros(bins)
    for red, green, blue in (image.reshape(-1, 3) + 1) / 2:
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        differences = (blue - luma) / 1.772, (red - luma) / 1.402
        positions = luma, *((value + reach) / (2 * reach) for value in differences)
        places = [
            min(max(position * count - 0.5, 0), count - 1)
            for position, count in zip(positions, bins, strict=True)
        ]
        for steps in itertools.product((0, 1), repeat=3):
            index, vote = [], 1.0
            for place, step in zip(places, steps, strict=True):
                lower = math.floor(place)
                vote *= place - lower if step else lower + 1 - place
                index.append(lower + step)
            if vote:
                found[tuple(index)] += vote
    return np.sqrt(found.ravel() / (image.size / 3) + epsilon)


@pytest.mark.parametrize(
    "options",
    [
        {"bins": (4, 6, 6), "reach": 0.3, "epsilon": 1e-4},
        {"bins": (1, 2, 5), "reach": 0.5, "epsilon": 1e-6},
    ],
)
def test_they_are_those_of_the_definition(options):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 9, 7, 3)).astype("float32")
    expected = [by_definition(image.astype(float), **options) for image in images]
    np.testing.assert_allclose(ColourHistograms(**options)(images), expected, atol=1e-4)


def test_a_histogram_has_length_one_and_knows_no_places():
    image = np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)).astype("float32")
    layer = ColourHistograms(epsilon=1e-9)
    found = np.asarray(layer(image))
    np.testing.assert_allclose(np.linalg.norm(found), 1, atol=1e-5)
    np.testing.assert_allclose(layer(image[:, ::-1, ::-1]), found, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bins": (4, 0, 4)}, "bins"), ({"bins": (4, 4)}, "bins"), ({"reach": 0.6}, "reach"),
     ({"epsilon": 0}, "epsilon")],
)  # fmt: skip
def test_arguments_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ColourHistograms(**options)


def test_images_without_colours_are_refused():
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\]"):
        ColourHistograms()(np.zeros((1, 8, 8, 1), "float32"))
