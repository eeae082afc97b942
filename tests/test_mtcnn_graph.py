"""The graph of MTCNN against the `mtcnn` package, which stays the reference."""

import pathlib

import cv2
import mtcnn_package
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.detection import mtcnn_boxes, mtcnn_networks, mtcnn_pyramid
from data_pipelines.detection.mtcnn_graph import ALL, FaceFinder
from data_pipelines.synth.drawing import draw_face

NAMES = ("boxes", "scores", "landmarks")
DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def finder():
    return FaceFinder()


@pytest.fixture(scope="module")
def drawn():
    """Pictures of mixed sizes with drawn faces that the networks take for some, and without."""
    seeds = (7, 8, 13, 16, 23, 58)
    faces = [draw_face(np.random.default_rng(seed), {"Smiling": True})[0] for seed in seeds]
    group = np.vstack([np.hstack(faces[:3]), np.hstack(faces[3:])])
    enlarged = cv2.resize(faces[5], (331, 267))
    return [*faces[:2], group, enlarged, faces[4][:121], faces[5][:31], faces[4]]


def find(finder, pictures, minimum_size=20.0):
    """Boxes, scores and landmarks of each picture, all in one call; the rest of the array is noise."""
    sizes = np.array([picture.shape[:2] for picture in pictures], np.int32)
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 256, (len(pictures), *sizes.max(axis=0), 3), np.uint8)
    for place, picture in zip(batch, pictures, strict=True):
        place[: picture.shape[0], : picture.shape[1]] = picture
    found = {
        name: values.numpy() for name, values in finder(batch, sizes, minimum_size, ALL).items()
    }
    assert not found["left_out"].any()
    parts = (np.split(found[name], found["splits"][1:-1]) for name in NAMES)
    return list(zip(*parts, strict=True))


def assert_equal(found, expected, pixels=0.05):
    """The same faces in the same order, to a fraction of the pixel that is asked for."""
    assert len(found[0]) == len(expected[0])
    np.testing.assert_allclose(found[0], expected[0], atol=pixels)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)
    np.testing.assert_allclose(found[2], expected[2], atol=pixels)


@pytest.mark.parametrize("minimum_size", [20.0, 12.0, 37.5])
def test_drawn_faces_are_those_of_the_package(finder, drawn, minimum_size):
    found = find(finder, drawn, minimum_size)
    assert sum(len(scores) for _, scores, _ in found) > 1
    for one, picture in zip(found, drawn, strict=True):
        assert_equal(one, mtcnn_package.detect(picture, minimum_size))


def test_a_picture_alone_has_the_faces_that_it_has_among_others(finder, drawn):
    for one, picture in zip(find(finder, drawn), drawn, strict=True):
        (alone,) = find(finder, [picture])
        assert_equal(one, alone, 0.01)


def test_pictures_without_a_face_have_empty_answers(finder):
    flat = np.full((64, 80, 3), 90, np.uint8)
    for boxes, scores, landmarks in find(finder, [flat, flat[:30]]):
        assert boxes.shape == (0, 4)
        assert scores.shape == (0,)
        assert landmarks.shape == (0, 5, 2)
    none = finder(np.zeros((0, 30, 30, 3), np.uint8), np.zeros((0, 2), np.int32), 20.0, ALL)
    assert none["splits"].numpy().tolist() == [0]


def test_candidates_above_a_maximum_are_counted(finder, drawn):
    pictures, sizes = drawn[2][None], np.array([drawn[2].shape[:2]], np.int32)
    (count,) = finder(pictures, sizes, 20.0, 0)["left_out"].numpy()
    assert count > 10
    few = finder(pictures, sizes, 20.0, 10)
    assert few["left_out"].numpy().tolist() == [count - 10]
    assert 0 < len(few["scores"]) <= 10
    assert finder(pictures, sizes, 20.0, count)["left_out"].numpy().tolist() == [0]


def test_the_graph_works_where_there_is_no_python(finder, drawn, tmp_path):
    tf.saved_model.save(finder, str(tmp_path / "model"))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    for one, same in zip(find(loaded, drawn[:2]), find(finder, drawn[:2]), strict=True):
        assert_equal(one, same, 0.01)


def test_sizes_of_pictures_do_not_make_the_graph_anew(finder):
    count = finder.__call__.experimental_get_tracing_count()
    for side in (40, 41, 44):
        find(finder, [np.zeros((side, side, 3), np.uint8)] * (side - 39))
    assert finder.__call__.experimental_get_tracing_count() == max(count, 1)


@pytest.mark.parametrize("size", [(12, 12), (25, 400), (300, 21), (331, 267)])
def test_each_level_on_the_canvas_has_its_own_surroundings(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    weights = mtcnn_networks.load_weights().pnet
    minimum_size = tf.constant(12.0, tf.float64)
    scales, sizes = mtcnn_pyramid.level_scales(tf.constant(size), minimum_size)
    canvas = mtcnn_pyramid.draw_pyramids(np.stack([picture[::-1], picture]), sizes)
    logits, offsets = (values.numpy()[1] for values in mtcnn_networks.propose(canvas, weights))
    network = mtcnn_package.network().stages[0].model
    fields = np.stack(np.indices(logits.shape[:2]), -1).reshape(-1, 2).astype(np.int32)
    within, owners = (values.numpy() for values in mtcnn_pyramid.locate(fields, sizes))
    fields, owners = fields[within], owners[within]
    levels = np.flatnonzero(sizes.numpy()[:, 0])
    assert set(owners) == set(levels)
    assert len(levels) == sum(min(size) * scale >= 12 for scale in scales.numpy())
    for level in levels:
        pixels = tf.image.resize(picture, sizes[level], tf.image.ResizeMethod.AREA)
        expected = [values.numpy()[0] for values in network((pixels[None] - 127.5) / 128)]
        rows, columns = fields[owners == level].T
        shape = expected[0].shape[:2]
        assert len(rows) == np.prod(shape)
        found = offsets[rows, columns].reshape(*shape, 4)
        np.testing.assert_allclose(found, expected[0], atol=1e-5)
        scores = tf.nn.softmax(logits[rows, columns].reshape(*shape, 2))
        np.testing.assert_allclose(scores, expected[1], atol=1e-5)


@pytest.mark.parametrize(("minimum", "count"), [(False, 20), (True, 20), (False, 700)])
def test_boxes_are_suppressed_by_better_ones_even_where_these_go(minimum, count):
    from mtcnn.utils.bboxes import smart_nms_from_bboxes

    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 60, (count, 2))
    boxes = np.hstack([corners, corners + rng.uniform(10, 40, (count, 2))])
    scores, groups = rng.permutation(count) / count, np.sort(rng.integers(0, 3, count))
    rows = np.column_stack([groups, boxes, scores])
    method = "min" if minimum else "union"
    expected = smart_nms_from_bboxes(rows, threshold=0.4, method=method)
    kept = mtcnn_boxes.unsuppressed(
        boxes.astype(np.float32), scores, groups.astype(np.int32), 0.4, minimum
    )
    assert 0 < len(expected) < count
    assert sorted(scores[kept.numpy()]) == sorted(expected[:, 5])
    assert (np.diff(scores[kept.numpy()]) < 0).all()


@pytest.mark.parametrize("spread", [0.0, 0.1, 0.5])
def test_near_fields_suppress_each_other_as_the_package_has_it(spread):
    from mtcnn.utils.bboxes import smart_nms_from_bboxes

    rng = np.random.default_rng(0)
    fields = np.argwhere(rng.random((40, 30)) < 0.3).astype(np.int32)
    offsets = rng.uniform(-spread, spread, (len(fields), 4)).astype(np.float32)
    levels = (fields[:, 1] >= 14).astype(np.int32)  # two levels side by side
    scores = rng.permutation(len(fields)) / len(fields)
    boxes = mtcnn_boxes.boxes_of_fields(fields, offsets, np.ones(len(fields), np.float32))
    rows = np.column_stack([levels, boxes, scores])
    expected = smart_nms_from_bboxes(rows, threshold=0.5)
    kept = mtcnn_boxes.unsuppressed_fields(fields, offsets, scores, levels, 0.5).numpy()
    assert 0 < len(expected) < len(fields)
    np.testing.assert_array_equal(scores[kept], expected[:, 5])
    np.testing.assert_array_equal(levels[kept], expected[:, 0])


def test_crops_at_the_border_are_those_of_the_package():
    from mtcnn.utils.images import extract_patches

    picture = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    boxes = np.array([[-9.3, -4.1, 20.4, 25.6], [50.2, 30.1, 75, 54.9], [69, 3, 70.5, 4.5]])
    normalized = ((picture.astype(np.float32) - 127.5) / 128)[None]
    expected = extract_patches(normalized, np.insert(boxes, 0, 0, axis=1), (24, 24))
    batch = np.full((2, 64, 90, 3), 200, np.uint8)
    batch[1, :50, :70] = picture
    found = mtcnn_boxes.cut(
        batch, np.array([[9, 9], [50, 70]]), boxes.astype(np.float32), np.ones(3, np.int32), 24
    )
    np.testing.assert_allclose((found - 127.5) / 128, expected, atol=1e-3)


class TestRealPictures:
    pytestmark = pytest.mark.real_data

    @pytest.mark.parametrize("pattern", ["mtfl/AFLW/*.jpg", "wider_face/WIDER_val/images/*/*.jpg"])
    def test_faces_are_those_of_the_package(self, finder, pattern):
        names = sorted(DATA.glob(pattern))
        pictures = [cv2.imread(str(name))[:, :, ::-1] for name in names[:: len(names) // 5]]
        found = find(finder, pictures)
        for one, picture in zip(found, pictures, strict=True):
            assert_equal(one, mtcnn_package.detect(picture))
