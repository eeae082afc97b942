import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.crop.geometry import (
    TEMPLATE,
    Crop,
    compose,
    crop_transform,
    from_crop_coordinates,
    to_crop_coordinates,
    transform_points,
)
from data_pipelines.errors import UserError

UNKNOWN_BOX = np.full((1, 4), np.nan, np.float32)
UNKNOWN_POINTS = np.full((1, 5, 2), np.nan, np.float32)
FACE = np.array([[[70, 90], [120, 84], [98, 118], [80, 150], [122, 146]]], np.float32)


def transform_of(crop, size=(200, 300), box=UNKNOWN_BOX, landmarks=UNKNOWN_POINTS):
    return crop_transform(crop, np.array([size]), box, landmarks).numpy()[0]


def corners(crop, transform):
    """Source coordinates of the crop's upper left and lower right corners (not pixel centres)."""
    ends = np.array([[-0.5, -0.5], [crop.width - 0.5, crop.height - 0.5]])
    return ends @ transform[:, :2].T + transform[:, 2]


def test_none_keeps_the_shorter_side_and_the_centre():
    crop = Crop("none", height=50, width=50)
    np.testing.assert_allclose(
        corners(crop, transform_of(crop)), [[49.5, -0.5], [249.5, 199.5]], atol=1e-3
    )


def test_none_never_stretches_and_stays_inside():
    crop = Crop("none", height=100, width=84)
    transform = transform_of(crop, size=(109, 89))
    assert transform[0, 0] == transform[1, 1]
    (left, top), (right, bottom) = corners(crop, transform)
    np.testing.assert_allclose([left, right], [-0.5, 88.5], atol=1e-3)
    np.testing.assert_allclose(top + bottom, 108, atol=1e-3)
    assert top > -0.5


def test_box_grows_to_the_output_shape_with_a_margin_of_its_longer_side():
    crop = Crop("box", height=60, width=60, margin=0.25)
    box = np.array([[100, 40, 40, 60]], np.float32)  # pixels 100..139 and 40..99
    # 60 high, 15 more on every side: a square of 90 around the centre (119.5, 69.5).
    np.testing.assert_allclose(
        corners(crop, transform_of(crop, box=box)), [[74.5, 24.5], [164.5, 114.5]], atol=1e-3
    )


def test_box_of_the_whole_image_is_the_whole_image():
    crop = Crop("box", height=20, width=30)
    box = np.array([[0, 0, 300, 200]], np.float32)
    expected = transform_of(Crop("none", height=20, width=30))
    np.testing.assert_allclose(transform_of(crop, box=box), expected, atol=1e-4)


def test_vertical_moves_the_window_down_by_a_share_of_the_longer_side():
    box = np.array([[100, 40, 40, 60]], np.float32)
    plain = transform_of(Crop("box"), box=box)
    moved = transform_of(Crop("box", vertical=0.1), box=box)
    np.testing.assert_allclose(moved[:, 2] - plain[:, 2], [0, 6], atol=1e-4)
    plain = transform_of(Crop("align"), landmarks=FACE)
    moved = transform_of(Crop("align", vertical=0.1), landmarks=FACE)
    side = 64 * np.hypot(*plain[:, 0])
    np.testing.assert_allclose(np.hypot(*(moved - plain)[:, 2]), 0.1 * side, rtol=1e-4)


def test_box_falls_back_to_the_bounding_square_of_the_landmarks():
    crop = Crop("box", height=32, width=32, margin=0.5)
    # x 70..122, y 84..150: a square of 66 centred on (96, 117), doubled by the margin.
    np.testing.assert_allclose(
        corners(crop, transform_of(crop, landmarks=FACE)), [[30, 51], [162, 183]], atol=1e-3
    )


def test_nose_window_has_its_size_in_source_pixels():
    crop = Crop("nose", height=75, width=75, window=150)
    np.testing.assert_allclose(
        corners(crop, transform_of(crop, landmarks=FACE)), [[23, 43], [173, 193]], atol=1e-3
    )


@pytest.mark.parametrize("margin", [-0.15, 0.0, 0.3])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 84)])
def test_align_is_the_least_squares_similarity_from_landmarks_to_template(margin, height, width):
    crop = Crop("align", height=height, width=width, margin=margin)
    transform = transform_of(crop, landmarks=FACE)
    side = min(height, width)
    targets = (np.array(TEMPLATE) - 0.5) / (1 + 2 * margin) * side
    targets += [(width - 1) / 2, (height - 1) / 2]
    # Unknowns p, q, u, v of x' = p x - q y + u, y' = q x + p y + v.
    x, y = FACE[0].T.astype(float)
    zero, one = np.zeros(5), np.ones(5)
    matrix = np.block([[np.stack([x, -y, one, zero], 1)], [np.stack([y, x, zero, one], 1)]])
    p, q, u, v = np.linalg.lstsq(matrix, targets.T.ravel(), rcond=None)[0]
    to_crop = np.array([[p, -q, u], [q, p, v], [0, 0, 1]])
    np.testing.assert_allclose(transform, np.linalg.inv(to_crop)[:2], rtol=1e-3, atol=1e-3)


def test_align_recovers_an_exact_similarity():
    angle, scale, shift = 0.4, 1.7, np.array([33.0, 21.0])
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (np.array(TEMPLATE) * 64 - 0.5) @ linear.T + shift
    transform = transform_of(Crop("align"), landmarks=points[None])
    np.testing.assert_allclose(transform, np.c_[linear, shift], atol=1e-3)


def test_a_face_in_profile_keeps_its_scale():
    points = (np.array(TEMPLATE) - 0.5) * 100 + 100
    frontal = transform_of(Crop("align"), landmarks=points[None])
    points[:, 0] = 100 + 0.2 * (points[:, 0] - 100)
    profile = transform_of(Crop("align"), landmarks=points[None])
    assert 0.8 < profile[0, 0] / frontal[0, 0] < 1.1


@pytest.mark.parametrize("margin", [-0.15, 0.3])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (100, 84)])
def test_affine_is_the_least_squares_fit_from_template_to_landmarks(margin, height, width):
    crop = Crop("affine", height=height, width=width, margin=margin, vertical=0.1)
    points = (np.array(TEMPLATE) - [0.5, 0.6]) / (1 + 2 * margin) * min(height, width)
    points += [(width - 1) / 2, (height - 1) / 2]
    expected = np.linalg.lstsq(np.c_[points, np.ones(5)], FACE[0].astype(float), rcond=None)[0].T
    np.testing.assert_allclose(transform_of(crop, landmarks=FACE), expected, rtol=1e-4, atol=1e-3)


def test_affine_recovers_an_exact_affine_transform():
    expected = np.array([[1.7, -0.3, 33.0], [0.5, 0.9, 21.0]])
    points = np.c_[np.array(TEMPLATE) * 64 - 0.5, np.ones(5)] @ expected.T
    np.testing.assert_allclose(
        transform_of(Crop("affine"), landmarks=points[None]), expected, atol=1e-3
    )


def test_a_face_that_is_flat_or_mirrored_is_only_rotated_and_scaled():
    mirrored = FACE * [-1, 1] + [299, 0]
    flat = FACE * [0.02, 1] + [100, 0]
    for points in (mirrored, flat):
        np.testing.assert_allclose(
            transform_of(Crop("affine"), landmarks=points),
            transform_of(Crop("align"), landmarks=points),
            atol=1e-4,
        )


def test_window_has_its_size_in_source_pixels_around_the_box_or_the_landmarks():
    crop = Crop("window", height=40, width=20, window=50)
    box = np.array([[100, 40, 40, 60]], np.float32)  # about (119.5, 69.5)
    # The shorter side spans 50 pixels, whatever the box.
    np.testing.assert_allclose(
        corners(crop, transform_of(crop, box=box)), [[94.5, 19.5], [144.5, 119.5]], atol=1e-3
    )
    np.testing.assert_allclose(
        corners(crop, transform_of(crop, landmarks=FACE)), [[71, 67], [121, 167]], atol=1e-3
    )
    wider = Crop("window", height=20, width=20, window=50, margin=0.5, vertical=0.2)
    np.testing.assert_allclose(
        corners(wider, transform_of(wider, box=box)), [[69.5, 29.5], [169.5, 129.5]], atol=1e-3
    )
    np.testing.assert_array_equal(
        transform_of(crop), transform_of(Crop("none", height=40, width=20))
    )


def test_a_window_of_the_mean_box_has_to_be_given_its_size():
    crop = Crop("window", window=0)
    crop.check()
    with pytest.raises(UserError, match="window 0 stands for the mean box"):
        transform_of(crop)


@pytest.mark.parametrize("kind", ["none", "box", "window", "nose", "align", "affine"])
def test_the_crop_of_a_mirrored_picture_is_the_mirrored_crop(kind):
    crop = Crop(kind, height=40, width=30, margin=0.1, vertical=0.05)
    box = np.array([[60, 60, 80, 110]], np.float32)
    plain = transform_of(crop, box=box, landmarks=FACE)
    mirrored_points = FACE[:, [1, 0, 2, 4, 3]] * [-1, 1] + [299, 0]
    mirrored_box = box * [-1, 1, 1, 1] + [300 - box[0, 2], 0, 0, 0]
    mirrored = transform_of(crop, box=mirrored_box, landmarks=mirrored_points)
    flip_source = np.array([[-1, 0, 299], [0, 1, 0], [0, 0, 1]])
    flip_crop = np.array([[-1, 0, 29], [0, 1, 0], [0, 0, 1]])
    expected = flip_source @ np.r_[plain, [[0, 0, 1]]] @ flip_crop
    np.testing.assert_allclose(mirrored, expected[:2], atol=1e-3)


@pytest.mark.parametrize("kind", ["nose", "align", "affine"])
def test_unknown_landmarks_fall_back_to_the_box_and_then_to_the_whole_picture(kind):
    box = np.array([[100, 40, 40, 60]], np.float32)
    np.testing.assert_array_equal(
        transform_of(Crop(kind), box=box), transform_of(Crop("box"), box=box)
    )
    np.testing.assert_array_equal(transform_of(Crop(kind)), transform_of(Crop("none")))


def test_fallbacks_are_taken_image_by_image():
    crop = Crop("align")
    points = np.concatenate([FACE, UNKNOWN_POINTS, FACE])
    points[2, 3, 1] = np.nan  # one unknown coordinate
    boxes = np.array([[100, 40, 40, 60]] * 3, np.float32)
    transforms = crop_transform(crop, [[200, 300]] * 3, boxes, points).numpy()
    assert np.isfinite(transforms).all()
    np.testing.assert_allclose(transforms[0], transform_of(crop, landmarks=FACE), atol=1e-4)
    for transform in transforms[1:]:
        np.testing.assert_array_equal(transform, transform_of(Crop("box"), box=boxes[:1]))


def test_landmarks_that_coincide_are_no_face():
    points = np.full((1, 5, 2), 50, np.float32)
    for kind in ("align", "affine"):
        np.testing.assert_array_equal(
            transform_of(Crop(kind), landmarks=points), transform_of(Crop("none"))
        )


def test_crop_coordinates_run_from_border_to_border():
    identity = np.array([[[1, 0, 0], [0, 1, 0]]], np.float32)
    points = np.array([[[-0.5, -0.5], [99.5, 49.5], [49.5, 24.5]]], np.float32)
    normalised = to_crop_coordinates(points, identity, height=50, width=100)
    np.testing.assert_allclose(normalised, [[[-1, -1], [1, 1], [0, 0]]], atol=1e-6)


@pytest.mark.parametrize("as_tensor", [np.asarray, tf.constant])
def test_crop_coordinates_return_to_source_pixels(as_tensor):
    points = FACE.copy()
    points[0, 2] = np.nan
    transform = transform_of(Crop("align", height=40, width=30), landmarks=FACE)[None]
    normalised = to_crop_coordinates(as_tensor(points), as_tensor(transform), 40, 30)
    assert isinstance(normalised, type(as_tensor(points)))
    back = np.asarray(from_crop_coordinates(normalised, as_tensor(transform), 40, 30))
    np.testing.assert_allclose(back, points, atol=1e-3)
    assert np.isnan(np.asarray(normalised)[0, 2]).all()


def test_compose_applies_the_inner_transform_first():
    random = np.random.default_rng(0)
    outer, inner = random.normal(size=(2, 3, 2, 3)).astype(np.float32)
    points = random.normal(size=(3, 4, 2)).astype(np.float32)
    expected = transform_points(transform_points(points, inner), outer)
    both = compose(tf.constant(outer), tf.constant(inner)).numpy()
    np.testing.assert_allclose(transform_points(points, both), expected, rtol=1e-4, atol=1e-5)


def test_a_crop_survives_its_description():
    crop = Crop("align", height=100, width=84, margin=0.2, vertical=0.1, window=90)
    assert Crop.from_dict(crop.to_dict()) == crop


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "face"}, "kind 'face' is none of none, box, window, nose"),
        ({"height": 0}, "height 0"),
        ({"margin": -0.5}, "margin -0.5 must be above -0.5"),
        ({"window": 0.0}, "window 0.0"),
        ({"kind": "window", "window": -1.0}, "window -1.0"),
        ({"side": 3}, "no field 'side'; it has: kind, height"),
    ],
)
def test_a_senseless_crop_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Crop.from_dict(fields)
