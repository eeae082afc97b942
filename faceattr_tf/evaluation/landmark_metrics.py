"""How far landmarks lie from where they belong, measured by the distance of the eyes."""

import numpy as np

from data_pipelines.tasks import Task

FAILURE = 0.10
"""A face whose landmarks are off by more than this share of the eye distance has failed."""


def landmark_errors(task: Task, labels, outputs, transforms=None, crop_size=None) -> np.ndarray:
    """Distance of every landmark from its label, over the distance of the eyes.

    The eyes are the labelled points `left_eye` and `right_eye`, in tasks without them the first
    two points. Arguments as for `metrics.evaluate_task`.

    Returns:
        float64 `[N, n]`; NaN where the point or an eye is unknown.
    """
    truth = _source_pixels(labels, transforms, crop_size)
    found = _source_pixels(outputs, transforms, crop_size)
    names = list(task.labels)
    named = "left_eye" in names and "right_eye" in names
    left, right = (names.index("left_eye"), names.index("right_eye")) if named else (0, 1)
    eyes = np.linalg.norm(truth[:, left] - truth[:, right], axis=-1, keepdims=True)
    eyes[eyes == 0] = np.nan
    return np.linalg.norm(found - truth, axis=-1) / eyes


def _source_pixels(points, transforms, crop_size):
    points = np.asarray(points, np.float64)
    height, width = crop_size or (2, 2)
    pixels = ((points + 1) * [width, height] - 1) / 2
    if transforms is None:
        return pixels
    transforms = np.asarray(transforms, np.float64)
    return pixels @ transforms[:, :, :2].transpose(0, 2, 1) + transforms[:, None, :, 2]


def evaluate(task: Task, labels, outputs, transforms=None, crop_size=None) -> dict:
    """The metrics of a landmark task; arguments as for `metrics.evaluate_task`.

    Returns:
        `count` (faces with a known point and known eyes); nme, the mean distance over the distance
        of the eyes; failure_rate, the share of faces with more than `FAILURE`; and `points`
        (name -> nme). None where there are no faces.
    """
    errors = landmark_errors(task, labels, outputs, transforms, crop_size)
    errors = errors[~np.isnan(errors).all(axis=1)]
    count = len(errors)
    faces = np.nanmean(errors, axis=1) if count else np.empty(0)
    points = {
        name: errors[known, index].tolist()
        for index, (name, known) in enumerate(zip(task.labels, ~np.isnan(errors).T, strict=True))
    }
    return {
        "count": count,
        "nme": float(faces.sum()) / count if count else None,
        "failure_rate": int((faces > FAILURE).sum()) / count if count else None,
        "points": {name: sum(of) / len(of) if of else None for name, of in points.items()},
    }
