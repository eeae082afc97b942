"""Transforms of aligned crops against OpenCV and plain geometry of pixels."""

import json

import cv2
import numpy as np
import pytest

from data_pipelines.tasks import ALIGNMENT
from faceattr_tf.evaluation.metrics import average_mirrored, evaluate_task
from faceattr_tf.evaluation.transform_metrics import (
    CORNERS,
    IDENTITY,
    components,
    corner_errors,
    evaluate,
    outline,
)
from faceattr_tf.reports.galleries import sample

SIZE = HEIGHT, WIDTH = 48, 40
MIRROR = np.diag([-1.0, 1.0, 1.0])


def three(matrix):
    return np.vstack([matrix, [0, 0, 1]])


def theta_of(pixels):
    """Normalised theta of a transform of pixels `[2, 3]`."""
    normal = np.array([[2 / WIDTH, 0, 1 / WIDTH - 1], [0, 2 / HEIGHT, 1 / HEIGHT - 1], [0, 0, 1]])
    return (normal @ three(pixels) @ np.linalg.inv(normal))[:2]


def turned(degrees, scale, right, down):
    """Pixels of the output to pixels of the input: clockwise about the centre, then shifted."""
    angle = np.radians(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    return np.column_stack([linear, centre + [right, down] - linear @ centre])


def random_thetas(count, seed=0):
    random = np.random.default_rng(seed)
    return np.array(IDENTITY) + random.normal(0, 0.2, (count, 2, 3))


def test_components_are_the_parts_of_a_similarity_of_pixels():
    found = components(theta_of(turned(25, 0.8, 6, -12))[None], SIZE)
    expected = {"rotation": 25, "scale": 0.8, "shift_x": 6 / WIDTH, "shift_y": -12 / HEIGHT}
    assert {name: pytest.approx(value[0]) for name, value in found.items()} == expected


def test_components_of_any_transform_are_those_of_the_nearest_similarity():
    """The least-squares fit to what a transform does to the pixels of a square."""
    for theta in random_thetas(5):
        shape = np.diag([WIDTH, HEIGHT]) / 2
        linear = shape @ theta[:, :2] @ np.linalg.inv(shape)
        x, y = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]).T
        system = np.concatenate([np.stack([x, -y], 1), np.stack([y, x], 1)])
        targets = np.concatenate(linear @ [x, y])
        a, b = np.linalg.lstsq(system, targets, rcond=None)[0]
        found = components(theta[None], SIZE)
        assert found["rotation"][0] == pytest.approx(np.degrees(np.arctan2(b, a)))
        assert found["scale"][0] == pytest.approx(np.hypot(a, b))


def test_the_outline_is_clockwise_from_the_left_upper_corner():
    assert list(CORNERS) == ["left_top", "right_top", "right_bottom", "left_bottom"]
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    np.testing.assert_array_equal(outline(np.array([IDENTITY])), [square])
    thetas = random_thetas(4)
    expected = [cv2.transform(square[None].astype(float), theta)[0] for theta in thetas]
    np.testing.assert_allclose(outline(thetas), expected)


def test_corner_error_is_the_mean_distance_in_pixels():
    labels, outputs = random_thetas(6), random_thetas(6, seed=1)
    labels[2] = np.nan
    borders = np.array(
        [(-0.5, -0.5), (WIDTH - 0.5, -0.5), (WIDTH - 0.5, HEIGHT - 0.5), (-0.5, HEIGHT - 0.5)]
    )

    def corners(theta):
        """Of the output's area, in pixels of the input."""
        normal = (2 * borders + 1) / (WIDTH, HEIGHT) - 1
        return ((cv2.transform(normal[None], theta)[0] + 1) * (WIDTH, HEIGHT) - 1) / 2

    expected = [
        np.linalg.norm(corners(a) - corners(b), axis=1).mean()
        for a, b in zip(labels, outputs, strict=True)
    ]
    np.testing.assert_allclose(corner_errors(labels, outputs, SIZE), expected)
    found = evaluate_task(ALIGNMENT, labels, outputs, crop_size=SIZE)
    assert found["kind"] == "transform" and found["count"] == 5
    assert found["corner_error"] == pytest.approx(np.nanmean(expected))
    assert found["corner_error_median"] == pytest.approx(np.nanmedian(expected))
    identity = np.array(IDENTITY)
    still = [np.linalg.norm(corners(a) - corners(identity), axis=1).mean() for a in labels]
    assert found["corner_error_identity"] == pytest.approx(np.nanmean(still))
    difference = np.nanmean(np.abs(labels - outputs), axis=0).ravel()
    assert list(found["parameters"]) == list(ALIGNMENT.labels)
    assert list(found["parameters"].values()) == pytest.approx(difference)


def test_errors_of_rotation_scale_and_shift():
    pairs = [((170, 1, 0, 0), (-170, 2, 3, 4)), ((10, 0.5, 1, 1), (4, 1, 1, 1))]
    labels, outputs = (
        np.array([theta_of(turned(*parts)) for parts in side]) for side in zip(*pairs, strict=True)
    )
    found = evaluate(ALIGNMENT, labels, outputs, SIZE)
    assert found["rotation_error"] == pytest.approx((20 + 6) / 2)  # across 180 degrees
    assert found["scale_error"] == pytest.approx(np.log(2))
    assert found["shift_error"] == pytest.approx(5 / 2)
    assert found["predicted"]["scale"]["mean"] == pytest.approx(1.5)
    assert found["labelled"]["scale"]["deviation"] == pytest.approx(0.25)
    assert evaluate(ALIGNMENT, labels, labels, SIZE)["corner_error"] == 0


@pytest.mark.parametrize("count", [0, 3])
def test_without_labels_errors_are_none_and_predictions_are_described(count):
    outputs = random_thetas(count)
    found = evaluate(ALIGNMENT, np.full((count, 2, 3), np.nan), outputs, SIZE)
    assert found["count"] == 0
    named = {key: value for key, value in found.items() if key.endswith(("error", "identity"))}
    assert len(named) == 5 and set(named.values()) == {None}
    assert set(found["parameters"].values()) == {None}
    assert found["labelled"]["scale"]["mean"] is None
    assert (found["predicted"]["scale"]["mean"] is None) == (count == 0)
    json.dumps(found, allow_nan=False)


def test_a_collapsed_crop_has_a_finite_error():
    labels = np.array([IDENTITY])
    found = evaluate(ALIGNMENT, labels, np.zeros((1, 2, 3)), SIZE)
    assert np.isfinite(found["scale_error"])


def test_averaging_with_the_mirrored_image_agrees_with_mirrored_points():
    """Who is right for an image and for its mirror image loses nothing by averaging."""
    thetas = random_thetas(3)
    mirrored = np.array([(MIRROR @ three(theta) @ MIRROR)[:2] for theta in thetas])
    np.testing.assert_allclose(average_mirrored(ALIGNMENT, thetas, mirrored), thetas)
    other = average_mirrored(ALIGNMENT, thetas, np.zeros_like(thetas))
    np.testing.assert_allclose(other, thetas / 2)


def test_samples_are_the_pixels_under_the_grid():
    """Brightness that is linear in x and y shows where each pixel was taken from."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    image = np.stack([columns, rows, np.ones_like(rows)], axis=2)
    pixels = turned(12, 0.5, 3, -4)
    size = HEIGHT // 2, WIDTH // 2
    # Half as many pixels on each side: the centre of the first lies between two of the others.
    halved = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]])
    found = sample(image, theta_of(pixels), size)
    y, x = np.mgrid[: size[0], : size[1]]
    places = np.stack([x, y, np.ones_like(x)], axis=-1) @ (pixels @ halved).T
    np.testing.assert_allclose(found[..., :2], places, atol=1 / 16)  # OpenCV's fixed point
    np.testing.assert_allclose(sample(image, np.array(IDENTITY), SIZE), image, atol=1e-5)


def test_outside_the_image_its_border_is_continued():
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, -1] = 200
    moved = sample(image, np.array([[1.0, 0, 1], [0, 1, 0]]), SIZE)
    assert (moved[:, WIDTH // 2 :] == 200).all() and (moved[:, : WIDTH // 2 - 1] == 0).all()
