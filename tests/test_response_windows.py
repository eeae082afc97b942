"""Windows of response maps, in NumPy and in a TensorFlow graph."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.detection.density_peaks import density_peaks, windows
from data_pipelines.detection.response_windows import WindowSettings, find_windows
from data_pipelines.errors import UserError

REGION = WindowSettings(scale=1.0, aspect=3 / 4)
"""The window of a spot is the spot."""


def spots(*heights, level=0.0):
    """A row of plateaus of 3x4 cells with free cells between them, on an even ground."""
    response = np.full((7, 8 * len(heights)), level)
    for index, height in enumerate(heights):
        response[2:5, 8 * index + 2 : 8 * index + 6] += height
    return response


def test_a_plateau_above_an_even_ground_is_its_own_region():
    for level in (0.0, 7.0):
        found, heights = find_windows(spots(3.0, level=level), REGION)
        np.testing.assert_allclose(found, [[2, 2, 5, 6]])
        np.testing.assert_allclose(heights, [3.0])


@pytest.mark.parametrize(("scale", "aspect"), [(1.0, 3 / 4), (2.0, 3 / 4), (1.5, 1.0), (1.0, 3.0)])
def test_a_window_has_the_place_of_its_region_a_multiple_of_its_size_and_a_form_of_its_own(
    scale, aspect
):
    (window,), _ = find_windows(spots(3.0), WindowSettings(scale=scale, aspect=aspect))
    height, width = window[2:] - window[:2]
    np.testing.assert_allclose((window[:2] + window[2:]) / 2, [3.5, 4])
    np.testing.assert_allclose(height * width, scale**2 * 12)
    np.testing.assert_allclose(height / width, aspect)


def test_several_peaks_are_several_windows_unless_too_low_or_too_close():
    response = spots(2.0, 3.0, 1.0)
    found, heights = find_windows(response, dataclasses.replace(REGION, count=9))
    np.testing.assert_allclose(heights, [3, 2, 1])
    np.testing.assert_allclose(found, [[2, 10, 5, 14], [2, 2, 5, 6], [2, 18, 5, 22]])
    for settings, expected in (
        (WindowSettings(count=2), [3, 2]),
        (WindowSettings(count=9, threshold=0.4), [3, 2]),
        (WindowSettings(count=9, separation=9.0), [3]),
    ):
        np.testing.assert_allclose(find_windows(response, settings)[1], expected)


def test_what_is_below_the_threshold_changes_nothing_for_the_strongest_peak():
    response = np.random.default_rng(2).random((13, 17))
    above = np.maximum(response - np.median(response), 0)
    y0, x0, y1, x1 = windows(above, density_peaks(above, count=1), 0.4)[0]
    found = find_windows(response, dataclasses.replace(REGION, fraction=0.4))[0]
    np.testing.assert_allclose(found[:, :2] + found[:, 2:], [[y0 + y1, x0 + x1]])
    np.testing.assert_allclose(np.prod(found[:, 2:] - found[:, :2]), (y1 - y0) * (x1 - x0))


@pytest.mark.parametrize("response", [np.zeros((4, 5)), np.full((4, 5), 3.0), np.ones((1, 1))])
def test_an_even_map_has_no_window(response):
    found, heights = find_windows(response, WindowSettings(count=3))
    assert found.shape == (0, 4) and heights.shape == (0,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 0),
        ("threshold", 1.0),
        ("separation", -1.0),
        ("fraction", 0),
        ("scale", 0),
        ("aspect", 0),
    ],
)
def test_settings_that_make_no_sense_are_named(field, value):
    with pytest.raises(UserError, match=f"{field} {value}: expected"):
        find_windows(np.ones((3, 3)), WindowSettings(**{field: value}))


IN_GRAPH = (
    WindowSettings(),
    WindowSettings(count=4, threshold=0.0, aspect=0.7),
    WindowSettings(count=3, separation=3.5, fraction=0.3),
    WindowSettings(count=9, separation=0.0, fraction=1.0, scale=1.0),
)


def maps():
    """Noise, and maps of few values, so that responses, distances and both together are equal."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        height, width = rng.integers(1, 18, 2)
        yield rng.random((height, width))
        yield rng.integers(0, 4, (height, width))
        yield np.kron(rng.integers(0, 3, (height // 2 + 1, width // 3 + 1)), np.ones((2, 3)))
        yield (rng.random((height, width)) < 0.1) * rng.integers(1, 4, (height, width))
    yield from (np.ones((5, 6)), np.zeros((1, 1)), np.eye(7), spots(2.0, 3.0, 1.0, level=-4.0))


@pytest.mark.parametrize("settings", IN_GRAPH)
def test_a_graph_finds_the_same_windows(settings):
    import tensorflow as tf

    from faceattr_tf.prediction import localisation_graph

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.float32)], autograph=False)
    def in_graph(response):
        return localisation_graph.find_windows(response, settings)

    for response in maps():
        response = response.astype(np.float32)
        expected, heights = find_windows(response, settings)
        found, found_heights = (values.numpy() for values in in_graph(response))
        count = len(heights)
        np.testing.assert_array_equal(found_heights[:count], heights)
        np.testing.assert_allclose(found[:count], expected, rtol=1e-9, atol=1e-9)
        assert found.shape == (settings.count, 4)
        assert np.isnan(found[count:]).all() and np.isnan(found_heights[count:]).all()
