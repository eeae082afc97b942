import math
import time

import numpy as np
import pytest

from data_pipelines.detection.density_peaks import density_peaks, pixel_boxes, windows
from data_pipelines.errors import UserError

RANDOM = np.random.default_rng(5)
ROWS, COLUMNS = np.mgrid[:10, :12]
FALLING = np.add.outer(np.arange(10), np.arange(12))[::-1, ::-1] + 1.0

MAPS = {
    "noise": RANDOM.random((10, 12)),
    "ties": RANDOM.integers(0, 4, (10, 12)),
    "two values": RANDOM.integers(1, 3, (10, 12)),
    "sparse": RANDOM.random((10, 12)) * (RANDOM.random((10, 12)) < 0.1),
    "sparse ties": (RANDOM.random((10, 12)) < 0.1) * RANDOM.integers(1, 3, (10, 12)),
    "plateau": np.ones((10, 12)),
    "plateaus": np.kron(RANDOM.integers(0, 3, (5, 4)), np.ones((2, 3))),
    "checkerboard": (ROWS + COLUMNS) % 2 + 1,
    "spots": (ROWS % 2 == 0) * (COLUMNS % 3 == 0) * RANDOM.random((10, 12)) + 0.01 * FALLING,
    "slope": FALLING,
    "corners": np.where((ROWS % 9 == 0) & (COLUMNS % 11 == 0), 5.0, 1.0),
    "row": RANDOM.integers(0, 9, (1, 60)),
    "column": RANDOM.integers(0, 9, (60, 1)),
    "float32": RANDOM.random((10, 12), np.float32),
    "zeros": np.zeros((10, 12)),
    "one position": np.eye(1, 30, 7).reshape(5, 6),
    "one cell": np.ones((1, 1)),
    "empty": np.ones((0, 4)),
}


def by_definition(response, threshold=0.0):
    """sigma and the nearest higher position of each position above the threshold, pair by pair."""
    response = np.asarray(response, float)
    taking_part = [tuple(at) for at in np.argwhere(response > threshold)]

    def order(position):  # first by response, of equal ones the first in the map
        return response[position], -position[0], -position[1]

    sigma, parent = {}, {}
    for own in taking_part:
        distance = {other: math.dist(own, other) for other in taking_part}
        higher = [other for other in taking_part if order(other) > order(own)]
        sigma[own] = min(map(distance.get, higher)) if higher else max(distance.values())
        nearest = [other for other in higher if distance[other] == sigma[own]]
        parent[own] = max(nearest, key=order) if higher else None
    return sigma, parent


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("name", MAPS)
def test_every_position_has_the_values_of_the_definition(name, threshold):
    response = np.asarray(MAPS[name], float)
    sigma, _ = by_definition(response, threshold)
    found = density_peaks(MAPS[name], threshold, separation=0)
    assert {tuple(at) for at in found.positions} == sigma.keys()
    assert len(found.positions) == len(sigma)
    for at, value in zip(map(tuple, found.positions), found.sigma, strict=True):
        assert value == sigma[at], at
    np.testing.assert_array_equal(found.rho, response[tuple(found.positions.T)])
    if sigma:
        scale = np.array([found.rho.max(), found.sigma.max() or 1.0])
        relative = np.stack([found.rho, found.sigma], axis=1) / scale
        np.testing.assert_allclose(found.d, np.linalg.norm(relative, axis=1))
        assert (np.diff(found.d) <= 0).all()


@pytest.mark.parametrize(("count", "separation"), [(None, 2.0), (3, 2.5)])
@pytest.mark.parametrize("name", MAPS)
def test_peaks_lie_apart_and_collect_the_chains_that_end_at_them(name, count, separation):
    sigma, parent = by_definition(MAPS[name])
    peaks = density_peaks(MAPS[name], count=count, separation=separation)
    positions = [tuple(at) for at in peaks.positions]
    apart = {at for at in sigma if sigma[at] >= separation or parent[at] is None}
    assert set(positions) <= apart
    assert len(positions) == min(len(apart), count or len(apart))
    for at in np.ndindex(peaks.cluster.shape):
        end = at
        while end in parent and end not in positions:
            end = parent[end]
        expected = positions.index(end) if end in parent else -1
        assert peaks.cluster[at] == expected, at


@pytest.mark.parametrize("shape", [(200, 200), (5, 4000)])
def test_distances_are_exact_however_far_the_next_higher_position_is(shape):
    response = np.zeros(shape)
    response[0, 0], response[-1, -1], response[2, -3] = 3, 2, 1
    response[1:-1, 5:-5] = 0.5
    found = density_peaks(response)
    height, width = shape
    far = np.hypot(height - 1, width - 1)
    np.testing.assert_array_equal(found.positions[:2], [[0, 0], [height - 1, width - 1]])
    np.testing.assert_array_equal(found.sigma[:2], [far, far])
    third = found.positions.tolist().index([2, width - 3])
    assert found.sigma[third] == np.hypot(height - 3, 2)


@pytest.mark.parametrize("name", ["noise", "plateau", "spots", "checkerboard"])
def test_time_does_not_grow_with_the_square_of_the_positions(name):
    response = {
        "noise": RANDOM.random((256, 256)),
        "plateau": np.ones((256, 256)),
        "spots": np.tile([[2.0, 1.0], [1.0, 1.0]], (128, 128)) + RANDOM.random((256, 256)),
        "checkerboard": np.tile([[2.0, 1.0], [1.0, 2.0]], (128, 128)),
    }[name]
    begin = time.process_time()
    density_peaks(response)
    # Some 0.03 s; all pairs take 20 s and more.
    assert time.process_time() - begin < 1.0


def test_a_plateau_has_one_peak_its_first_position():
    response = np.zeros((9, 9))
    response[2:6, 3:8] = 1
    np.testing.assert_array_equal(density_peaks(response).positions, [[2, 3]])


def test_the_scale_of_responses_does_not_change_the_peaks():
    first, second = (density_peaks(MAPS["noise"] * scale) for scale in (1.0, 4096.0))
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.d, second.d)


def test_a_map_without_responses_has_no_peaks_and_no_windows():
    for response in (np.zeros((6, 7)), np.full((6, 7), 0.5)):
        peaks = density_peaks(response, threshold=0.5)
        assert peaks.positions.shape == (0, 2)
        assert (peaks.cluster == -1).all()
        assert windows(response, peaks).shape == (0, 4)
        assert pixel_boxes(windows(response, peaks), stride=8, offset=3.5).shape == (0, 4)


def blob(centre, size, shape=(60, 80)):
    """A bump in cells (y, x), half as high as its centre at `size` / 2 from it."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return 2.0 ** -(((y - centre[0]) / size[0] * 2) ** 2 + ((x - centre[1]) / size[1] * 2) ** 2)


def test_two_blobs_give_two_windows_of_their_sizes_the_stronger_first():
    noise = np.random.default_rng(1).uniform(0.95, 1.05, (60, 80))
    response = (0.8 * blob((20, 22), (10, 10)) + blob((40, 58), (20, 16))) * noise
    peaks = density_peaks(response, threshold=0.1, count=2, separation=6)
    large, small = windows(response, peaks)
    for window, centre, size in ((large, (40, 58), (20, 16)), (small, (20, 22), (10, 10))):
        np.testing.assert_allclose((window[:2] + window[2:]) / 2, centre, atol=0.5)
        # The standard deviation of an even ellipse's axis is a quarter of it; less, as the centre
        # weighs more.
        even = np.array(size) * np.sqrt(12) / 4
        np.testing.assert_array_less(window[2:] - window[:2], even + 0.5)
        np.testing.assert_array_less(0.85 * even, window[2:] - window[:2])


def test_touching_regions_are_divided_where_their_chains_part():
    response = np.maximum(blob((25, 30), (16, 16)), 0.9 * blob((34, 39), (16, 16)))
    peaks = density_peaks(response, threshold=0.1, separation=4)
    for window, centre in zip(windows(response, peaks), ((25, 30), (34, 39)), strict=True):
        np.testing.assert_allclose((window[:2] + window[2:]) / 2, centre, atol=1)
        np.testing.assert_allclose(window[2:] - window[:2], 13, atol=1)


def test_window_of_an_even_rectangle_is_the_rectangle():
    response = np.zeros((20, 30))
    response[2:9, 9:24] = 0.5
    response[3:8, 10:22] = 2.0
    for fraction in (0.5, 1.0):
        found = windows(response, density_peaks(response), fraction)
        np.testing.assert_allclose(found, [[3, 10, 8, 22]])


def test_window_has_the_mean_and_variance_of_the_responses_in_cells_that_touch_at_corners():
    response = np.zeros((9, 9))
    response[2, 3], response[3, 4], response[4, 5] = 4, 3, 3
    window = windows(response, density_peaks(response))[0]
    y = np.repeat([2.5, 3.5, 4.5], [4, 3, 3])
    np.testing.assert_allclose((window[0] + window[2]) / 2, y.mean())
    np.testing.assert_allclose((window[2] - window[0]) ** 2, 12 * y.var() + 1)
    np.testing.assert_allclose(window[1::2] - window[::2], 1)  # the columns are one further


def test_window_leaves_out_what_is_low_and_what_is_not_connected():
    response = np.zeros((20, 30))
    response[3:8, 10:22] = 2.0
    response[8, 12:16] = 0.9  # below half of the peak
    response[12, 12] = 1.9  # high, but apart; in the peak's cluster, as one peak is asked for
    peaks = density_peaks(response, count=1)
    assert peaks.cluster[12, 12] == 0
    np.testing.assert_allclose(windows(response, peaks), [[3, 10, 8, 22]])
    assert windows(response, peaks, fraction=0.4)[0, 2] > 8.1


def test_boxes_are_those_of_the_pixels_that_the_cells_were_made_of():
    image = np.zeros((48, 64))
    image[8:20, 24:44] = 1.0  # on the borders of cells of 4x4 pixels
    response = image.reshape(12, 4, 16, 4).mean(axis=(1, 3))
    box = pixel_boxes(windows(response, density_peaks(response)), stride=4, offset=1.5)
    np.testing.assert_allclose(box, [[24, 8, 20, 12]])


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"response \(2, 3, 1\): expected a map"):
        density_peaks(np.ones((2, 3, 1)))
    with pytest.raises(UserError, match="nan at row 1, column 2"):
        density_peaks([[1, 2, 3], [4, 5, np.nan]])
    for wrong in ({"threshold": -1}, {"threshold": np.nan}, {"count": 0}, {"separation": -0.5}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} .*: expected"):
            density_peaks(np.ones((3, 3)), **wrong)
    peaks = density_peaks(np.ones((3, 3)))
    with pytest.raises(UserError, match="expected the map of the peaks"):
        windows(np.ones((3, 4)), peaks)
    for wrong in ({"fraction": 0.0}, {"fraction": 1.5}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} .*: expected"):
            windows(np.ones((3, 3)), peaks, **wrong)
