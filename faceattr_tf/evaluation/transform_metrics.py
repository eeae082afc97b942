"""What the transform of an aligned crop does: its outline, and how far it turns, scales and shifts.

`theta` `[N, 2, 3]` maps the aligned crop (the transformer's output) to the network's crop (its
input), both of the same shape and in normalised coordinates: -1 and +1 are a crop's borders
(FaceSTN, equation 1).
"""

import numpy as np

from data_pipelines.crop.geometry import transform_points
from data_pipelines.tasks import Task

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""The transform that leaves the crop as it is."""

CORNERS = {
    "left_top": (-1, -1),
    "right_top": (1, -1),
    "right_bottom": (1, 1),
    "left_bottom": (-1, 1),
}
"""The corners of a crop in normalised coordinates, clockwise."""

COMPONENTS = {
    "rotation": "rotation, degrees clockwise",
    "scale": "scale",
    "shift_x": "shift right, of the width",
    "shift_y": "shift down, of the height",
}
"""What `components` finds, and how it is called in tables and plots."""

_SQUARE = np.array(list(CORNERS.values()), np.float32)


def outline(theta):
    """Where the corners of the aligned crop lie in the network's crop, in the order of `CORNERS`.

    Args:
        theta: `[N, 2, 3]`, a NumPy array or a TensorFlow tensor.

    Returns:
        Normalised coordinates `[N, 4, 2]`.
    """
    return transform_points(_SQUARE[None], theta)


def components(theta, crop_size=None) -> dict[str, np.ndarray]:
    """The similarity part of each transform: the rotation, scale and shift nearest to it.

    Args:
        theta: `[N, 2, 3]`.
        crop_size: `(height, width)` of the crop in pixels. Default: a square.

    Returns:
        `rotation` in degrees, clockwise; `scale`, the aligned crop's size over the network's;
        `shift_x` and `shift_y`, how far its centre lies right of and below the other's, as shares
        of width and height: each float64 `[N]`. A face that is turned by 10 degrees and stands too
        far to the right has a rotation of 10 and a positive shift.
    """
    theta = np.asarray(theta, np.float64)
    height, width = crop_size or (2, 2)
    # Normalised axes have different units; the nearest rotation is one of pixels.
    cosine = (theta[:, 0, 0] + theta[:, 1, 1]) / 2
    sine = (theta[:, 1, 0] * height / width - theta[:, 0, 1] * width / height) / 2
    return {
        "rotation": np.degrees(np.arctan2(sine, cosine)),
        "scale": np.hypot(sine, cosine),
        "shift_x": theta[:, 0, 2] / 2,
        "shift_y": theta[:, 1, 2] / 2,
    }


def corner_errors(labels, outputs, crop_size=None) -> np.ndarray:
    """How far the corners of the aligned crop lie from where they belong, in pixels of the crop.

    Args:
        labels: transforms `[N, 2, 3]`, NaN where unknown.
        outputs: the model's.
        crop_size: `(height, width)` of the crop in pixels. Default: 2x2 (normalised units).

    Returns:
        The mean over the four corners, float64 `[N]`; NaN where the label is unknown.
    """
    height, width = crop_size or (2, 2)
    labels, outputs = np.asarray(labels, np.float64), np.asarray(outputs, np.float64)
    offsets = (outline(outputs) - outline(labels)) * [width / 2, height / 2]
    return np.linalg.norm(offsets, axis=-1).mean(axis=-1)


def evaluate(task: Task, labels, outputs, crop_size=None) -> dict:
    """The metrics of a transform task, as `metrics.evaluate_task` gives them.

    Args:
        task: its labels name the six numbers.
        labels: `[N, 2, 3]`, NaN where unknown.
        outputs: the model's.
        crop_size: `(height, width)` of the crop in pixels. Default: 2x2 (normalised units).

    Returns:
        `count` (examples with a label); corner_error, its mean in pixels of the crop, and its
        median; corner_error_identity, what leaving every crop as it is would give; rotation_error
        in degrees; scale_error, the mean absolute logarithm of the ratio; shift_error in pixels;
        `parameters` (name -> mean absolute error); and `predicted` and `labelled`: per component
        of `components` mean, deviation, low and high (5th and 95th percentile), over all examples
        and over those with a label. None where there are no examples.
    """
    height, width = crop_size or (2, 2)
    labels, outputs = np.asarray(labels, np.float64), np.asarray(outputs, np.float64)
    known = ~np.isnan(labels).any(axis=(1, 2))
    labels, found = labels[known], outputs[known]
    count = len(labels)
    errors = corner_errors(labels, found, crop_size)
    unmoved = corner_errors(labels, np.broadcast_to(IDENTITY, labels.shape), crop_size)
    truth, guess = components(labels, crop_size), components(found, crop_size)
    turned = (guess["rotation"] - truth["rotation"] + 180) % 360 - 180
    # A crop that has collapsed to a point is wrong by much, but not without end.
    scaled = np.log(np.maximum(guess["scale"], 1e-6)) - np.log(np.maximum(truth["scale"], 1e-6))
    shifted = np.hypot(
        (guess["shift_x"] - truth["shift_x"]) * width,
        (guess["shift_y"] - truth["shift_y"]) * height,
    )
    differences = np.abs(found - labels).reshape(count, len(task.labels)).T
    everything = components(outputs, crop_size)
    return {
        "count": count,
        "corner_error": _mean(errors),
        "corner_error_identity": _mean(unmoved),
        "corner_error_median": float(np.median(errors)) if count else None,
        "rotation_error": _mean(np.abs(turned)),
        "scale_error": _mean(np.abs(scaled)),
        "shift_error": _mean(shifted),
        "parameters": {
            name: _mean(values) for name, values in zip(task.labels, differences, strict=True)
        },
        "predicted": {name: _spread(values) for name, values in everything.items()},
        "labelled": {name: _spread(values) for name, values in truth.items()},
    }


def _mean(values):
    return float(values.mean()) if len(values) else None


def _spread(values):
    if not len(values):
        return dict.fromkeys(("mean", "deviation", "low", "high"))
    low, high = np.percentile(values, [5, 95]).tolist()
    return {
        "mean": float(values.mean()),
        "deviation": float(values.std()),
        "low": low,
        "high": high,
    }
