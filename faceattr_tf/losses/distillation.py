"""Soft labels: what other networks answer, learned as if somebody had said it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from keras import ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.losses import task_loss
from faceattr_tf.losses.batch import BatchLoss, Seen


def soft_labels(task: Task, answers: Sequence, places: Sequence[Sequence[int]], temperature=1.0):
    """What teachers say of a batch, averaged over those who know a label.

    Args:
        task: what the pupil learns.
        answers: per teacher its outputs for this task: logits, values or coordinates.
        places: per teacher where the task's labels stand among its own, -1 where they do not.
        temperature: divides logits before they become probabilities.

    Returns:
        Probabilities `[B, n]` (multilabel, multiclass, distribution), values `[B, n]`, landmarks
        `[B, n, 2]` or transforms `[B, 2, 3]`, float32. What no teacher knows is -1, a value NaN.
    """
    answers = [ops.cast(answer, "float32") for answer in answers]
    if task.kind == "multilabel":
        answers = [ops.sigmoid(answer / temperature) for answer in answers]
    elif task.kind in CLASS_KINDS:
        answers = [ops.softmax(answer / temperature, axis=-1) for answer in answers]
    if task.kind not in ("multilabel", "regression"):
        return sum(answers) / len(answers)
    places = np.array(places)
    given = places >= 0
    share = given / np.maximum(given.sum(axis=0), 1)
    mean = sum(
        ops.take(answer, np.maximum(own, 0), axis=1) * part.astype(np.float32)
        for answer, own, part in zip(answers, places, share, strict=True)
    )
    unknown = -1.0 if task.kind == "multilabel" else np.nan
    return ops.where(given.any(axis=0), mean, ops.full_like(mean, unknown))


class DistillationLoss(BatchLoss):
    """The loss of every task by its soft labels, summed as the tasks weigh (Hinton et al., 2015).

    Cross-entropy of probabilities at a temperature T, times T squared, so that gradients keep their
    size; of values and landmarks the task's own loss.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        weights: Sequence[float],
        losses: Mapping[str, Callable],
        temperature: float = 1.0,
    ):
        """Of these tasks.

        Args:
            tasks: what the pupil learns.
            weights: of the tasks' losses.
            losses: per task `(labels, outputs) -> [B]`, for tasks without probabilities.
            temperature: see `faceattr_tf.configs.base.Distillation`.

        Raises:
            UserError: the temperature is not above 0.
        """
        super().__init__()
        if not 0 < temperature < np.inf:
            raise UserError(f"distillation.temperature {temperature} is not above 0")
        self.tasks, self.weights, self.temperature = tasks, weights, temperature
        self.losses = losses

    def loss(self, seen: Seen):
        """The sum over the tasks that somebody teaches, float32 `[B]`."""
        return sum(
            weight * self._of_task(task, seen.taught[task.name], seen.outputs[task.name])
            for task, weight in zip(self.tasks, self.weights, strict=True)
            if task.name in seen.taught and weight
        )

    def _of_task(self, task: Task, labels, outputs):
        if task.kind not in ("multilabel", *CLASS_KINDS):
            return self.losses[task.name](labels, outputs)
        if task.kind in CLASS_KINDS:
            task = dataclasses.replace(task, kind="distribution")
        outputs = ops.cast(outputs, "float32") / self.temperature
        return self.temperature**2 * task_loss(task, labels, outputs)
