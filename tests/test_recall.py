"""Recall of localisation: overlaps, pairs, frames and intervals."""

import numpy as np
import pytest

from faceattr_tf.evaluation.recall import (
    best_overlaps,
    framed,
    overlaps,
    recall,
    recall_draws,
    with_interval,
)


def drawn(box, size=40):
    mask = np.zeros((size, size), bool)
    left, top, width, height = box
    mask[top : top + height, left : left + width] = True
    return mask


def test_overlaps_are_those_of_the_pixels_of_the_boxes():
    boxes = np.random.default_rng(0).integers(1, 20, (12, 4))
    found = overlaps(boxes[:7], boxes[5:])
    for row, first in zip(found, boxes[:7], strict=True):
        for value, second in zip(row, boxes[5:], strict=True):
            one, other = drawn(first), drawn(second)
            assert value == pytest.approx((one & other).sum() / (one | other).sum())


def test_a_window_stands_for_one_face():
    true = [[0, 0, 10, 10], [4, 0, 10, 10]]
    assert best_overlaps(true, [[1, 0, 10, 10]]) == pytest.approx([9 / 11, 0])
    assert best_overlaps(true, [[4, 0, 10, 10], [0, 0, 10, 10]]) == pytest.approx([1, 1])
    assert best_overlaps(true, np.zeros((0, 4))).tolist() == [0, 0]


def test_what_frames_a_face_otherwise_is_brought_to_the_true_frame_by_other_pictures():
    rng = np.random.default_rng(1)
    true = [rng.uniform(10, 60, (1 + number % 2, 4)) for number in range(9)]
    found = [np.column_stack([b[:, :2] + b[:, 2:] * [0.2, 0.4], b[:, 2:] * 0.5]) for b in true]
    for boxes, windows in zip(true, framed(true, found), strict=True):
        np.testing.assert_allclose(best_overlaps(boxes, windows), 1)
    # The only odd picture cannot make its own frame: without one, windows stay as they are.
    found[1] = np.array([[900.0, 900, 5, 5]])
    np.testing.assert_allclose(framed(true[:2], found[:2])[0], found[0])
    assert framed([], []) == []


def test_recall_counts_faces_and_draws_pictures():
    best = [np.array([0.9, 0.4]), np.array([0.5]), np.array([0.2])]
    assert recall(np.concatenate(best), [0, 0.3, 0.5, 1]).tolist() == [1, 0.75, 0.5, 0]
    draws = recall_draws(best, 500, seed=3)
    assert draws[0] == 0.5
    random = np.random.default_rng(3)
    rows = random.integers(3, size=3)
    counts = np.array([[1, 2], [1, 1], [0, 1]])[rows].sum(axis=0)
    assert draws[1] == counts[0] / counts[1]
    value, low, high = with_interval(draws)
    assert value == 0.5 and 0 <= low < 0.5 < high <= 1
    np.testing.assert_array_equal(recall_draws(best, 500, seed=3), draws)
