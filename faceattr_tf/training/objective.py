"""What a run minimises: the losses of its tasks, and those of whole batches that its recipe adds."""

import functools
from collections.abc import Sequence

import numpy as np
from keras import ops

from data_pipelines.errors import UserError
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.losses import create_batch_loss, find_loss, label_weights, task_loss
from faceattr_tf.losses.batch import BatchLoss, Seen
from faceattr_tf.losses.distillation import DistillationLoss
from faceattr_tf.losses.slice_weights import SliceWeights
from faceattr_tf.models.auxiliary import auxiliary_name

DISTILLATION = "distillation"
"""Name of the loss by soft labels."""


def create_losses(experiment: Experiment) -> dict:
    """Per task `loss(labels, outputs) -> [B]`, as the recipe configures it."""
    counts = experiment.label_counts()
    losses = {}
    for task, config in zip(experiment.tasks, experiment.task_configs, strict=True):
        options = {"loss": config.loss, "label_smoothing": config.label_smoothing}
        find_loss(task, config.loss, config.label_smoothing)
        if config.balance_labels:
            options["label_weights"] = label_weights(task, counts.get(task.name, ()))
        if task.kind == "regression":
            # In units of the labels' spread, so that years do not outweigh probabilities.
            options["label_weights"] = 1 / experiment.statistics(task)[:, 1] ** 2
        losses[task.name] = functools.partial(task_loss, task, **options)
    return losses


def named_losses(recipe: Recipe) -> dict[str, float]:
    """The losses that a recipe adds, and their weights; `distillation`, where it has teachers, last.

    Raises:
        UserError: an entry is no `(name, weight, (option, value), ...)`, or a name occurs twice.
    """
    weights = {}
    for entry in recipe.losses:
        try:
            name, weight, *options = entry
            weight = float(weight)
            dict(options)
        except (TypeError, ValueError):
            raise UserError(
                f"losses: {entry!r} is no entry; expected ('name', weight), behind them "
                "('option', value) pairs"
            ) from None
        if name in weights or not np.isfinite(weight):
            raise UserError(f"losses: {entry!r}: expected one finite weight for every name")
        weights[name] = weight
    if recipe.teachers:
        weights[DISTILLATION] = recipe.distillation.weight
    return weights


def create_batch_losses(experiment: Experiment, features: int) -> dict[str, BatchLoss]:
    """The losses that the recipe adds, by name, their variables new.

    Args:
        experiment: gives recipe and tasks.
        features: how many the heads of the model see.

    Raises:
        UserError: a loss or an option does not exist, or the records know nobody of the people
            that a loss needs.
    """
    recipe = experiment.recipe
    named_losses(recipe)
    losses = {
        name: create_batch_loss(name, experiment.tasks, features, **dict(options))
        for name, _, *options in recipe.losses
    }
    if recipe.teachers:
        losses[DISTILLATION] = DistillationLoss(
            experiment.tasks,
            weights=experiment.soft_weights(),
            losses=create_losses(experiment),
            temperature=recipe.distillation.temperature,
        )
    if not any((records.people or {}).get("train") for records in experiment.record_sets):
        for name in (name for name, loss in losses.items() if loss.needs_people):
            raise UserError(
                f"{experiment.record_sets[0].path}: nobody is known in these records, and the loss "
                f"{name!r} is one of people"
            )
    return losses


class Objective:
    """The losses of a phase, summed over the examples of a part of a batch.

    Attributes:
        names: the names of the losses, tasks first.
        weights: float32, one per loss.
        learned: whether it counts, one per loss.
    """

    def __init__(
        self,
        experiment: Experiment,
        phase: Phase,
        added: dict[str, BatchLoss],
        slices: SliceWeights | None = None,
    ):
        """Takes the weights of losses from the phase.

        Args:
            experiment: gives recipe and tasks.
            phase: of its phases.
            added: what `create_batch_losses` gave.
            slices: what images weigh in the losses of tasks; None for all the same.
        """
        self.added, self.recipe, self.slices = added, experiment.recipe, slices
        self.losses = create_losses(experiment)
        self.names = (*self.losses, *added)
        weights = [*experiment.task_weights(phase), *named_losses(self.recipe).values()]
        self.weights = np.array(weights, np.float32)
        self.learned = [weight != 0 for weight in weights]

    def __call__(self, seen: Seen):
        """Every loss of the batch, `[losses]`, and the same with the auxiliary classifier's share.

        A loss without weight is left out, and with it whatever computes only that loss.
        """
        plain = self._of_tasks(seen) + [
            ops.sum(loss.loss(seen)) if self._learns(name) else 0.0
            for name, loss in self.added.items()
        ]
        plain = total = ops.stack(plain) / self.recipe.data.batch_size
        if self.recipe.model.auxiliary_weight:
            auxiliary = self._of_tasks(seen, auxiliary_name) + [0.0] * len(self.added)
            share = self.recipe.model.auxiliary_weight / self.recipe.data.batch_size
            total = plain + share * ops.stack(auxiliary)
        return plain, total

    def statistics(self, seen: Seen) -> list:
        """What the added losses and the weights of slices need to be updated, flat."""
        sums = [value for loss in self.added.values() for value in loss.statistics(seen)]
        if self.slices:
            total = sum(
                weight * loss(seen.labels[name], seen.outputs[name])
                for weight, (name, loss) in zip(self.weights, self.losses.items(), strict=False)
                if weight
            )
            sums += self.slices.statistics(seen.slices, total)
        return sums

    def update(self, sums: Sequence) -> None:
        """Changes the variables of these by the statistics of the whole batch."""
        sums = list(sums)
        for one in self._learning:
            count = len(one.shapes)
            one.update(sums[:count])
            del sums[:count]

    @property
    def _learning(self) -> list:
        """What `statistics` are for, in their order."""
        return [*self.added.values(), *([self.slices] if self.slices else [])]

    @property
    def zeros(self) -> list:
        """Zeros of the shapes of the losses and of the statistics."""
        shapes = [shape for one in self._learning for shape in one.shapes]
        return [ops.zeros(shape, "float32") for shape in ((len(self.names),), *shapes)]

    def _learns(self, name: str) -> bool:
        return self.learned[self.names.index(name)]

    def _of_tasks(self, seen: Seen, name_of=lambda name: name) -> list:
        weights = self.slices.of_images(seen.slices) if self.slices else 1.0
        return [
            ops.sum(weights * loss(seen.labels[name], seen.outputs[name_of(name)]))
            if self._learns(name)
            else 0.0
            for name, loss in self.losses.items()
        ]


def seen_of(batch: dict, outputs: dict, features, taught: dict) -> Seen:
    """What losses see of a batch: its labels, people and slices, what the model made of its images,
    and what teachers did.
    """
    features = ops.cast(features, "float32")
    known = batch.get("identity"), taught, batch.get("slice")
    return Seen(batch["labels"], outputs, features, *known)
