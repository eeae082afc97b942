"""Losses that see a batch as a whole and may remember: what every one of them gives.

Beside the losses of single labels, a recipe may add such losses, see `Recipe.losses`. They see
labels, outputs, features and people, and their variables are part of a run as its weights are: kept
in checkpoints, the same on every replica. What they learn of a batch are sums over its examples,
so that neither micro-batches nor replicas change it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a loss sees of B examples.

    Attributes:
        labels: per task, see `faceattr_tf.losses.task_loss`; unknown is -1 or NaN.
        outputs: per task what the model gives.
        features: float32 `[B, F]`, what the heads see, before their dropout.
        identity: int64 `[B]`, the number of the person; -1 where unknown.
        taught: per task that teachers know their soft labels, see
            `faceattr_tf.losses.distillation.soft_labels`.
        slices: int32 `[B]`, the number of the slice that an image weighs by; -1 in none.
    """

    labels: dict[str, Any]
    outputs: dict[str, Any]
    features: Any
    identity: Any
    taught: dict[str, Any] = dataclasses.field(default_factory=dict)
    slices: Any = None


def find_task(loss: str, tasks: Sequence[Task], kind: str, name: str) -> Task:
    """The task of a kind that a loss is about.

    Args:
        loss: name of the loss, for the message.
        tasks: those of the model.
        kind: of the task.
        name: of the task; empty for the only one of its kind.

    Raises:
        UserError: there is none, or several and no name.
    """
    fitting = {task.name: task for task in tasks if task.kind == kind}
    if not name and len(fitting) == 1:
        (name,) = fitting
    if name not in fitting:
        raise UserError(
            f"loss {loss!r}: task {name!r} is no {kind} task of the model; there are: "
            + (", ".join(fitting) or "none")
        )
    return fitting[name]


class BatchLoss:
    """A loss of the examples of a batch, with variables or without.

    A subclass gives `loss`; one that remembers also makes its variables by `add_variable`, sets
    `shapes`, and gives `statistics` and `update`. Options are keyword arguments of its `__init__`,
    which begins `(self, tasks, features, *, ...)`: the model's tasks and the number of features.
    """

    shapes: Sequence[Sequence[int]] = ()
    """Of the statistics."""

    needs_people = False
    """Whether it is nothing where records know nobody."""

    def __init__(self):
        """Begins without variables."""
        self.variables: list[keras.Variable] = []

    def add_variable(self, shape: Sequence[int], name: str) -> keras.Variable:
        """A float32 variable of zeros, which no optimizer changes."""
        variable = keras.Variable(
            keras.ops.zeros(shape, "float32"), trainable=False, dtype="float32", name=name
        )
        self.variables.append(variable)
        return variable

    def loss(self, seen: Seen):
        """The loss of every example, float32 `[B]`, by the variables as they are."""
        raise TypeError(f"{type(self).__name__} gives no loss")

    def statistics(self, seen: Seen) -> list:
        """What `update` needs: float32 sums over the examples, of the `shapes`."""
        return []

    def update(self, sums: list) -> None:
        """Changes the variables, once a step, by the statistics of the whole batch."""
