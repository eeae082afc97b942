"""What a model says of faces: its outputs as probabilities, labels and places in the picture."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.crop.geometry import Crop, from_crop_coordinates
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.metrics import probabilities
from faceattr_tf.evaluation.transform_metrics import outline


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of N faces for one task.

    Attributes:
        values: float32 `[N, n]`: probabilities (of attributes, classes) or values (regression);
            `[N, n, 2]`: points, or of a transform the corners of its crop, in pixels of the picture.
        labels: multilabel bool `[N, n]`, whether the probability reaches the threshold; of
            classes int `[N]`, the likeliest class; None for the other kinds.
        unsure: where asked for, bool of the shape of `labels`: whether validation does not rule out
            another answer at the risk that was asked for, see `faceattr_tf.evaluation.conformal`.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    unsure: np.ndarray | None = None


def answers(
    task: Task, outputs: np.ndarray, transforms: np.ndarray, crop: Crop, calibration: Mapping
) -> Answers:
    """The answers of a task; an export computes the same in its graph.

    Args:
        task: what was predicted.
        outputs: what the model gives for this task, see `faceattr_tf.models.build_model`.
        transforms: float32 `[N, 2, 3]`, from pixels of the crop to pixels of the picture.
        crop: what the model saw.
        calibration: `temperature` and `thresholds` of the task, where they were chosen; without
            them 1 and 0.5. With pairs of answers that are `impossible`, one of each gives way, see
            `faceattr_tf.evaluation.consistency`. With `least` probabilities of answers, some are
            `unsure`.
    """
    values = probabilities(task, outputs, calibration.get("temperature", 1.0))
    if task.kind in ("landmarks", "transform"):
        points = outline(values) if task.kind == "transform" else values
        place = np.asarray(transforms), crop.height, crop.width
        return Answers(np.asarray(from_crop_coordinates(points, *place)))
    if task.kind not in ("multilabel", *CLASS_KINDS):
        return Answers(values)
    shown = values
    if task.kind == "multilabel":
        thresholds = calibration.get("thresholds") or [0.5] * len(task.labels)
        labels = values >= np.array(thresholds)
        if pairs := calibration.get("impossible"):
            from faceattr_tf.evaluation.consistency import consistent_answers

            logits = np.asarray(outputs, np.float64) / calibration.get("temperature", 1.0)
            shown, labels = map(np.asarray, consistent_answers(task, logits, thresholds, pairs))
    else:
        labels = values.argmax(axis=-1)
    unsure = None
    if least := calibration.get("least"):
        from faceattr_tf.evaluation.conformal import unsure_answers

        unsure = np.asarray(unsure_answers(task, values, labels, least))
    return Answers(shown, labels, unsure)
