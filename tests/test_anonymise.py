import cv2
import numpy as np
import pytest
from drawn_video import SquareDetector, draw, face_of

from data_pipelines.detection.mtcnn import Detector
from faceattr_tf.prediction.anonymise import (
    THRESHOLDS,
    Anonymiser,
    enlarged,
    mean_colours,
    patch,
    turned_back,
)


def outside(shape, parts):
    mask = np.ones(shape[:2], bool)
    for left, top, right, bottom in parts:
        mask[top:bottom, left:right] = False
    return mask


def test_only_what_is_named_is_changed_and_no_face_is_left():
    pixels = draw([(10, 20), (100, 40)])
    given, detector = pixels.copy(), SquareDetector()
    (found,) = detector([pixels])
    covered, parts = Anonymiser(detector)(pixels, [face.box for face in found])
    np.testing.assert_array_equal(pixels, given)
    mask = outside(pixels.shape, parts)
    assert 0.3 < mask.mean() < 1
    np.testing.assert_array_equal(covered[mask], pixels[mask])
    assert detector([covered]) == [[]]
    for left, top, right, bottom in parts[:2]:
        assert right - left >= 1.7 * 30 - 1 and bottom - top >= 1.7 * 30 - 1


def test_what_was_overlooked_is_covered_by_one_colour():
    pixels = draw([(10, 20), (100, 40)])
    covered, parts = Anonymiser(SquareDetector())(pixels, [])
    assert SquareDetector()([covered]) == [[]] and len(parts) == 2
    left, top, right, bottom = parts[0]
    assert np.ptp(covered[top:bottom, left:right], axis=(0, 1)).max() == 0


def test_what_always_passes_for_a_face_ends_in_one_colour():
    class Stubborn:
        def __call__(self, images):
            return [[face_of((40, 40, 20, 20))] for _ in images]

    covered, parts = Anonymiser(Stubborn())(draw([(10, 20)]))
    assert np.ptp(covered, axis=(0, 1)).max() == 0 and parts[-1] == (0, 0, 160, 96)


def test_of_a_track_the_colours_of_one_frame_remain():
    anonymise, patches = Anonymiser(SquareDetector()), []
    for frame in range(3):
        pixels = draw([(20 + 5 * frame, 30)])
        pixels[40:50, 30 + 5 * frame : 40 + 5 * frame] = 50 * frame  # what the face does
        box = np.array([20 + 5 * frame, 30, 30, 30])
        covered, ((left, top, right, bottom),) = anonymise(pixels, (), {7: box})
        patches.append(covered[top:bottom, left:right])
    assert patches[0].shape == patches[2].shape
    np.testing.assert_array_equal(patches[0], patches[2])


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 20, 40, 20), (6, 18, 54, 42)),
        ((-10, 50, 40, 20), (0, 48, 34, 64)),
        ((200, 10, 5, 5), None),
        ((np.nan, 10, 5, 5), None),
    ],
)
def test_boxes_are_enlarged_to_whole_pixels_within_the_picture(box, expected):
    assert enlarged(np.array(box, float), 0.1, (64, 100, 3)) == expected


def test_a_patch_has_the_mean_colours_of_its_cells():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    colours = mean_colours(pixels, (0, 0, 80, 40))
    means = pixels.reshape(4, 10, 4, 20, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(colours, means, atol=1e-3)
    drawn = patch(colours, 80, 40)
    assert drawn.shape == (40, 80, 3)
    assert np.abs(np.diff(drawn.astype(int), axis=1)).max() < 10, "smooth"
    assert mean_colours(pixels, (0, 0, 3, 2)).shape == (1, 1, 3)


@pytest.mark.parametrize("quarters", range(4))
def test_boxes_of_turned_pictures_are_turned_back(quarters):
    pixels = np.zeros((40, 90), np.uint8)
    pixels[5:15, 20:50] = 1
    rows, columns = np.nonzero(np.rot90(pixels, -quarters))
    begin = columns.min(), rows.min()
    box = np.array([*begin, columns.max() + 1 - begin[0], rows.max() + 1 - begin[1]])
    np.testing.assert_array_equal(turned_back(box, quarters, pixels.shape), [20, 5, 30, 10])


def test_faces_that_lie_are_covered_where_that_is_asked_for():
    class Upright(SquareDetector):
        """Finds squares of high pictures alone."""

        def __call__(self, images):
            images = list(images)
            found = zip(images, super().__call__(images), strict=True)
            return [faces if image.shape[0] > image.shape[1] else [] for image, faces in found]

    pixels = draw([(10, 20)])
    covered, parts = Anonymiser(Upright())(pixels)
    assert not parts
    covered, parts = Anonymiser(Upright(), rotations=True)(pixels)
    assert parts and SquareDetector()([covered]) == [[]]
    mask = outside(pixels.shape, parts)
    np.testing.assert_array_equal(covered[mask], pixels[mask])


@pytest.mark.slow
@pytest.mark.real_data
def test_the_package_finds_no_face_in_what_was_covered(real_data):
    import mtcnn

    names = sorted((real_data / "mtfl" / "AFLW").glob("*.jpg"))[:200:100]
    pictures = [cv2.imread(str(name))[..., ::-1] for name in names]
    # Room for what surrounds a face, and one that the border cuts.
    pictures = [cv2.copyMakeBorder(one, 0, 60, 80, 0, cv2.BORDER_REFLECT) for one in pictures]
    detector, judge = Detector(thresholds=THRESHOLDS), mtcnn.MTCNN()
    lower = dict.fromkeys(("threshold_pnet", "threshold_rnet", "threshold_onet"), 0.5)
    for pixels in pictures:
        assert judge.detect_faces(pixels)
        covered, parts = Anonymiser(detector)(pixels)
        assert judge.detect_faces(covered) == judge.detect_faces(covered, **lower) == []
        mask = outside(pixels.shape, parts)
        assert mask.any()
        np.testing.assert_array_equal(covered[mask], pixels[mask])
