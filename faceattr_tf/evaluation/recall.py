"""How many faces are found, against how well a window has to fit: LNets+ANet, figure 7.

Boxes are left, top, width, height in pixels.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from faceattr_tf.evaluation.bootstrap import TAILS, resampled_sums

HALF = 0.5
"""The overlap at which recall is told as one number."""

_MEETING = 0.1  # windows that overlap less tell nothing of how they frame a face


def overlaps(first, second) -> np.ndarray:
    """Intersection over union of every pair of boxes.

    Args:
        first: `[P, 4]`.
        second: `[Q, 4]`.

    Returns:
        float `[P, Q]`.
    """
    first, second = (np.reshape(boxes, (-1, 4)).astype(float) for boxes in (first, second))
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum((first[:, :2] + first[:, 2:])[:, None], second[:, :2] + second[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    whole = np.prod(first[:, 2:], axis=1)[:, None] + np.prod(second[:, 2:], axis=1) - shared
    return shared / np.where(whole > 0, whole, 1)


def best_overlaps(true, found) -> np.ndarray:
    """By how much each true box is found, `[T]`: every window stands for one face at most.

    Args:
        true: `[T, 4]`.
        found: `[F, 4]`.
    """
    rows, _, shared = _pairs(true, found)
    best = np.zeros(len(np.reshape(true, (-1, 4))))
    best[rows] = shared
    return best


def _pairs(true, found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of true boxes and of windows that stand for each other, and by how much they overlap."""
    every = overlaps(true, found)
    rows, columns = linear_sum_assignment(every, maximize=True)
    return rows, columns, every[rows, columns]


def framed(true: Sequence, found: Sequence) -> list[np.ndarray]:
    """Windows moved and scaled to how the true boxes frame a face.

    A detector's box may end at chin and forehead, and the true one show head and shoulders; four
    numbers make one of the other: where the centre lies, and what width and height are multiplied
    by. They are the medians over the pairs that meet, of every other picture: those of even
    pictures serve for the odd ones and the other way round, so that no picture has a part in its
    own.

    Args:
        true: `[T, 4]` per picture.
        found: `[F, 4]` per picture.

    Returns:
        `[F, 4]` per picture; as they were where the other pictures have no pair that meets.
    """
    frames = [_frame(true[half::2], found[half::2]) for half in (0, 1)]
    moved = []
    for index, windows in enumerate(found):
        windows = np.reshape(windows, (-1, 4)).astype(float)
        shift, scale = frames[1 - index % 2]
        centre = windows[:, :2] + windows[:, 2:] / 2 + shift * windows[:, 2:]
        sides = windows[:, 2:] * scale
        moved.append(np.concatenate([centre - sides / 2, sides], axis=1))
    return moved


def _frame(true, found) -> tuple[np.ndarray, np.ndarray]:
    """Shift of the centre in sides of the window, and factors on the sides: two `[2]`."""
    shifts, scales = [np.zeros((0, 2))], [np.zeros((0, 2))]
    for boxes, windows in zip(true, found, strict=True):
        boxes, windows = (np.reshape(part, (-1, 4)).astype(float) for part in (boxes, windows))
        rows, columns, shared = _pairs(boxes, windows)
        met = shared >= _MEETING
        boxes, windows = boxes[rows[met]], windows[columns[met]]
        between = boxes[:, :2] + boxes[:, 2:] / 2 - windows[:, :2] - windows[:, 2:] / 2
        shifts.append(between / windows[:, 2:])
        scales.append(boxes[:, 2:] / windows[:, 2:])
    shifts, scales = np.concatenate(shifts), np.concatenate(scales)
    if not len(shifts):
        return np.zeros(2), np.ones(2)
    return np.median(shifts, axis=0), np.median(scales, axis=0)


def recall(best: np.ndarray, ratios) -> np.ndarray:
    """Share of the faces that are found with at least each overlap ratio.

    Args:
        best: `[T]`, what `best_overlaps` gives, of all pictures.
        ratios: `[R]`.
    """
    return (best[:, None] >= np.asarray(ratios)).mean(axis=0)


def recall_draws(
    best: Sequence[np.ndarray], samples: int, seed: int = 0, ratio: float = HALF
) -> np.ndarray:
    """Recall as measured, then with the pictures drawn again: float `[1 + samples]`.

    Args:
        best: what `best_overlaps` gives, per picture. Of the same pictures the same seed draws the
            same, so that differences of draws are paired by picture.
        samples: number of draws.
        seed: their seed.
        ratio: the overlap that counts as found.
    """
    columns = np.array([[(one >= ratio).sum(), len(one)] for one in best])
    found, faces = np.concatenate([columns.sum(0)[None], resampled_sums(columns, samples, seed)]).T
    return found / faces


def with_interval(draws: np.ndarray) -> list[float]:
    """A figure and its 95 % percentile interval."""
    return [float(draws[0]), *np.percentile(draws[1:], TAILS).tolist()]
