"""The crop code beside exported networks: the same pixels as the graph, with NumPy and OpenCV."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tiny_workdir import encode

from data_pipelines.crop.geometry import KINDS, TEMPLATE, Crop, from_crop_coordinates
from data_pipelines.crop.pixels import crop_pixels, decode_and_crop, decode_and_crop_each
from export.runtimes import face_crop

NO_BOX, NO_POINTS = np.full(4, np.nan, "f4"), np.full((5, 2), np.nan, "f4")
BY_POINTS = ("align", "affine")


def drawn_face(rng):
    """A picture of random size, the box of a face somewhere in or across it, its landmarks."""
    height, width = rng.integers(20, 500, 2).tolist()
    picture = cv2.resize(rng.integers(0, 256, (9, 9, 3), np.uint8), (width, height))
    picture = np.clip(picture + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8)
    side = rng.uniform(0.1, 0.9) * min(height, width)
    corner = rng.uniform(-0.2, 1, 2) * (width - side, height - side)
    box = np.array([*corner, side, side * rng.uniform(0.8, 1.3)], np.float32)
    points = np.array(TEMPLATE) * side + corner + rng.normal(0, side / 20, (5, 2))
    return picture, box, points.astype(np.float32)


def drawn_crop(rng, kind):
    height, width = rng.integers(8, 100, 2).tolist()
    margin, vertical, window = rng.uniform((-0.2, -0.1, 30), (0.5, 0.1, 200)).tolist()
    return Crop(kind, height, width, margin, vertical, window)


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_the_pixels_of_the_graph(kind):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(6):
        picture, box, points = drawn_face(rng)
        crop = drawn_crop(rng, kind)
        for known in ((box, points), (box, NO_POINTS), (NO_BOX, points), (NO_BOX, NO_POINTS)):
            expected = crop_pixels(picture[None], *(place[None] for place in known), crop)
            given = [None if np.isnan(place).all() else place for place in known]
            pixels, transform = face_crop.crop_image(picture, crop.to_dict(), *given)
            assert pixels.dtype == np.float32
            # Sums over landmarks round in another order; nothing else differs at all.
            limit = 0.01 if kind in BY_POINTS else 0
            np.testing.assert_allclose(transform, expected[1][0], rtol=1e-5, atol=1e-3)
            np.testing.assert_allclose(pixels, expected[0], rtol=0, atol=limit)


@pytest.mark.parametrize("landmarks", [np.full((5, 2), 30.0), np.full((5, 2), np.inf)])
@pytest.mark.parametrize("box", [[5, 5, 0, 10], [5, 5, -3, 10], [np.nan, 5, 20, 20]])
@pytest.mark.parametrize("kind", KINDS)
def test_useless_places_are_passed_over_as_in_the_graph(kind, box, landmarks):
    picture = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    crop = Crop(kind, 12, 10)
    places = np.array([box], "f4"), landmarks[None].astype("f4")
    expected, transform = crop_pixels(picture[None], *places, crop)
    found = face_crop.crop_image(picture, crop.to_dict(), box, landmarks)
    np.testing.assert_array_equal(found[1], transform[0])
    np.testing.assert_array_equal(found[0], expected)


def test_a_face_far_outside_is_refused_as_in_the_graph():
    picture, crop = np.zeros((50, 60, 3), np.uint8), Crop("box", 12, 10)
    box = np.array([1e7, 5, 20, 20], "f4")
    assert not decode_and_crop_each(
        tf.constant([encode(picture)]), box[None], NO_POINTS[None], crop, max_pixels=9999
    )[2]
    with pytest.raises(ValueError, match="too far"):
        face_crop.crop_image(picture, crop.to_dict(), box)


def test_a_mirrored_face_is_not_mirrored_back():
    picture, _, points = drawn_face(np.random.default_rng(3))
    crop = Crop("affine", 20, 20)
    places = NO_BOX[None], points[None, [1, 0, 2, 4, 3]]
    expected, _ = crop_pixels(picture[None], *places, crop)
    found, _ = face_crop.crop_image(picture, crop.to_dict(), None, places[1][0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_files_without_loss_give_the_same_pixels(ending):
    picture, box, points = drawn_face(np.random.default_rng(1))
    crop = Crop("box", 24, 20)
    data = encode(picture, ending)
    expected, _ = decode_and_crop([data], box[None], points[None], crop)
    np.testing.assert_array_equal(face_crop.crop_file(data, crop.to_dict(), box)[0], expected)


@pytest.mark.parametrize(("times", "levels"), [(2, 4), (4, 0), (8, 0)])
def test_large_jpegs_are_decoded_at_reduced_size(times, levels):
    small = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)
    picture = cv2.resize(small, (40 * times, 48 * times), interpolation=cv2.INTER_CUBIC)
    data, crop = encode(picture), Crop("none", 48, 40)
    expected, _ = decode_and_crop([data], NO_BOX[None], NO_POINTS[None], crop)
    found, _ = face_crop.crop_file(data, crop.to_dict())
    np.testing.assert_allclose(found, expected, rtol=0, atol=levels)


def test_jpegs_differ_by_the_method_of_decoding_alone():
    picture = cv2.GaussianBlur(drawn_face(np.random.default_rng(2))[0], (0, 0), 2)
    crop = Crop("none", *picture.shape[:2])
    expected, _ = decode_and_crop([encode(picture)], NO_BOX[None], NO_POINTS[None], crop)
    found, _ = face_crop.crop_file(encode(picture), crop.to_dict())
    assert np.abs(found - expected).mean() < 1.5 and np.abs(found - expected).max() < 16


def test_points_come_back_to_the_picture():
    rng = np.random.default_rng(0)
    picture, box, points = drawn_face(rng)
    crop = Crop("align", 24, 20)
    _, transform = face_crop.crop_image(picture, crop.to_dict(), box, points)
    inside = rng.uniform(-1, 1, (1, 7, 2)).astype("f4")
    expected = from_crop_coordinates(inside, transform[None], 24, 20)
    found = face_crop.points_in_image(inside, transform, crop.to_dict())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_what_is_no_picture_is_refused():
    crop = Crop("none", 8, 8).to_dict()
    with pytest.raises(ValueError, match="OpenCV can decode"):
        face_crop.crop_file(b"no picture", crop)
    for pixels in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32)):
        with pytest.raises(ValueError, match="expected uint8"):
            face_crop.crop_image(pixels, crop)


def test_it_stands_alone(tmp_path):
    """Copied elsewhere, it imports nothing but NumPy, OpenCV and what these import."""
    copy = tmp_path / "face_crop.py"
    copy.write_bytes(Path(face_crop.__file__).read_bytes())
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import face_crop\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "ours = {'data_pipelines', 'faceattr_tf', 'export', 'tensorflow', 'keras'}\n"
        "assert not loaded & ours, loaded & ours\n"
        "print(face_crop.TEMPLATE)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(TEMPLATE), done.stderr
