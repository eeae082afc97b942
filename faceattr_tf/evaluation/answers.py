"""What a model says of faces: its outputs as probabilities, labels and places in the picture.

Exports have `calibrated_answers` in their graphs: arrays and graphs say the same, to the last bit.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.crop.geometry import Crop, from_crop_coordinates
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.conformal import unsure_answers
from faceattr_tf.evaluation.consistency import consistent_answers
from faceattr_tf.evaluation.transform_metrics import outline

VECTOR = 16
"""How many numbers processors work on at once, or a multiple of it."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of N faces for one task.

    Attributes:
        values: float32 `[N, n]`: probabilities (of attributes, classes) or values (regression);
            `[N, n, 2]`: points, or of a transform the corners of its crop.
        labels: multilabel bool `[N, n]`, whether the probability reaches the threshold; of
            classes int `[N]`, the likeliest class; None for the other kinds.
        unsure: where asked for, bool of the shape of `labels`: whether validation does not rule out
            another answer at the risk that was asked for, see `faceattr_tf.evaluation.conformal`.
        expected: of classes that stand for numbers float32 `[N]`, their mean, weighted by
            probability.
    """

    values: np.ndarray
    labels: np.ndarray | None = None
    unsure: np.ndarray | None = None
    expected: np.ndarray | None = None


def answers(
    task: Task, outputs: np.ndarray, transforms: np.ndarray, crop: Crop, calibration: Mapping
) -> Answers:
    """The answers of a task as arrays, points in pixels of the picture.

    Args:
        task, outputs, calibration: as of `calibrated_answers`.
        transforms: float32 `[N, 2, 3]`, from pixels of the crop to pixels of the picture.
        crop: what the model saw.
    """
    outputs = np.asarray(outputs)
    # Of numbers that do not fill a vector of the processor, sigmoids differ in the last digit.
    more = [(0, -len(outputs) % VECTOR), *[(0, 0)] * (outputs.ndim - 1)]
    found = calibrated_answers(task, np.pad(outputs, more), calibration)
    said = found.values, found.labels, found.unsure, found.expected
    values, *rest = (None if one is None else np.asarray(one)[: len(outputs)] for one in said)
    if task.kind in ("landmarks", "transform"):
        place = np.asarray(transforms), crop.height, crop.width
        values = np.asarray(from_crop_coordinates(values, *place))
    return Answers(values, *rest)


def calibrated_answers(task: Task, outputs, calibration: Mapping) -> Answers:
    """The answers of a task, points still in the crop, of arrays and in graphs.

    Args:
        task: what was predicted.
        outputs: what the model gives for this task, see `faceattr_tf.models.build_model`.
        calibration: `temperature` and `thresholds` of the task, where they were chosen; without
            them 1 and 0.5. With pairs of answers that are `impossible`, one of each gives way, see
            `faceattr_tf.evaluation.consistency`. With `least` probabilities of answers, some are
            `unsure`.
    """
    import tensorflow as tf

    outputs = tf.cast(outputs, tf.float32)
    if task.kind == "transform":
        return Answers(outline(outputs))
    if task.kind not in ("multilabel", *CLASS_KINDS):
        return Answers(outputs)
    # TensorFlow makes this product of a quotient in graphs, and there alone.
    logits = outputs * (1 / np.asarray(calibration.get("temperature", 1.0), np.float32))
    expected = None
    if task.kind == "multilabel":
        thresholds = calibration.get("thresholds") or [0.5] * len(task.labels)
        probability = shown = tf.sigmoid(logits)
        labels = probability >= np.float32(thresholds)
        if pairs := calibration.get("impossible"):
            shown, labels = consistent_answers(task, logits, thresholds, pairs)
    else:
        probability = shown = tf.nn.softmax(logits)
        labels = tf.argmax(outputs, axis=-1)
        if task.values:
            expected = tf.reduce_sum(probability * np.float32(task.values), axis=-1)
    unsure = None
    if least := calibration.get("least"):
        unsure = unsure_answers(task, probability, labels, np.float32(least))
    return Answers(shown, labels, unsure, expected)
