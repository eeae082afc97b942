"""Every variable of a run, and what makes them."""

import re

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.evaluation.inference import forward_function
from faceattr_tf.experiment import Experiment
from faceattr_tf.models import synchronize
from faceattr_tf.models.create import check_pixel_values, create_model, create_top
from faceattr_tf.models.heads import AUXILIARY
from faceattr_tf.models.joining import take_from_runs
from faceattr_tf.training.objective import create_batch_losses
from faceattr_tf.training.optimizers import create_optimizer
from faceattr_tf.training.slices import Sliced, create_weights
from faceattr_tf.training.teachers import Teachers
from faceattr_tf.workdir import Workdir


class TrainingState:
    """Every variable of a run: what a checkpoint holds."""

    def __init__(
        self,
        experiment: Experiment,
        strategy: tf.distribute.Strategy,
        *,
        features: int = 0,
        sliced: Sliced | None = None,
    ):
        """Makes all variables, new ones.

        Args:
            experiment: what is trained.
            strategy: over which replicas.
            features: number of stored features of a run on bottlenecks, which makes the heads
                alone.
            sliced: what `read_slices` gave; None where images weigh the same.
        """
        recipe = experiment.recipe
        self.strategy = strategy
        check_micro_batch(recipe, strategy.num_replicas_in_sync)
        keras.utils.set_random_seed(recipe.seed)
        with strategy.scope():
            self.model = (
                create_top(experiment, features, recipe.precision)
                if features
                else create_model(experiment, recipe.precision, training=True)
            )
            if strategy.num_replicas_in_sync > 1:
                synchronize(self.model)
            self.losses = create_batch_losses(experiment, self.model.features.shape[-1])
            self.slices = create_weights(recipe.slices, sliced)
            self.teach = Teachers(experiment)
            tasks = len(experiment.tasks)
            count = tasks + len(self.losses)
            # 1 for every task that still learns, 0 for one that was stopped.
            self.active = tf.Variable(tf.ones(tasks), trainable=False)
            # Per loss, those of tasks first, the sum of its values and the number of steps that had one, since the last
            # log row and since the last validation.
            self.logged = tf.Variable(tf.zeros([2, count]), trainable=False)
            self.validated = tf.Variable(tf.zeros([2, count]), trainable=False)
            self.step = tf.Variable(0, trainable=False, dtype=tf.int64)
            self.broken_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
            self.best = tf.Variable(np.inf, trainable=False, dtype=tf.float64)
            self.best_step = tf.Variable(-1, trainable=False, dtype=tf.int64)
            self.optimizers = []
            for index, phase in enumerate(recipe.phases):
                begin = experiment.phase_ends[index - 1] if index else 0
                steps = experiment.phase_ends[index] - begin
                optimizer = create_optimizer(phase, steps, recipe.precision)
                learning = freeze(self.model, phase)
                if optimizer:
                    optimizer.build(learning)
                self.optimizers.append(optimizer)
            self.averages = (
                [tf.Variable(weight.value, trainable=False) for weight in self.model.weights]
                if recipe.ema_decay
                else []
            )
        # Validation, the best model and export use this one: float32, outside every strategy.
        self.evaluated_model = (
            create_top(experiment, features) if features else create_model(experiment, "float32")
        )
        self.forward = forward_function(self.evaluated_model)
        self.seeds = [layer.seed_generator.state for layer in self.model.layers if has_seed(layer)]
        self.checkpoint = tf.train.Checkpoint(
            weights=[weight.value for weight in self.model.weights],
            averages=self.averages,
            optimizers=[
                [v.value for v in optimizer.variables] if optimizer else []
                for optimizer in self.optimizers
            ],
            active=self.active,
            logged=self.logged,
            validated=self.validated,
            step=self.step,
            best=self.best,
            best_step=self.best_step,
            **({"losses": self._loss_variables()} if self.losses else {}),
            **({"slices": self.slices.q.value} if self.slices else {}),
        )

    def _loss_variables(self) -> dict:
        return {name: [one.value for one in loss.variables] for name, loss in self.losses.items()}

    def restart_averages(self) -> None:
        """Lets the averages, where there are any, begin at the present weights."""
        for average, weight in zip(self.averages, self.model.weights, strict=False):
            average.assign(weight.value)

    def update_evaluated_model(self) -> None:
        """Gives the model that is validated the present weights, averaged where asked for."""
        present = self.averages or self.model.weights
        self.evaluated_model.set_weights(
            [
                value.numpy()
                for weight, value in zip(self.model.weights, present, strict=True)
                if not weight.path.startswith(AUXILIARY)
            ]
        )


def check_micro_batch(recipe: Recipe, replicas: int) -> None:
    """Makes sure that every replica's share of the batch consists of whole micro-batches.

    Raises:
        UserError: they do not.
    """
    share, size = recipe.data.batch_size // replicas, recipe.data.micro_batch
    if size and recipe.data.batch_size % replicas:
        raise UserError(
            f"data.micro_batch {size}: batch_size {recipe.data.batch_size} is no multiple of the "
            f"{replicas} replicas; expected one that is, or micro_batch 0"
        )
    if size < 0 or (size and share % size):
        raise UserError(
            f"data.micro_batch {size} does not divide the {share} examples of a step"
            + (" and replica" if replicas > 1 else "")
        )


def has_seed(layer: keras.Layer) -> bool:
    """Whether the layer draws random numbers from a seed of its own (dropout)."""
    return getattr(layer, "seed_generator", None) is not None


def freeze(model: keras.Model, phase: Phase) -> list:
    """Makes the layers of a phase trainable and freezes the others; returns what trains.

    A frozen batch normalisation neither learns nor moves its statistics.

    Raises:
        UserError: no layer matches.
    """
    for layer in model.layers:
        layer.trainable = re.search(phase.trainable, layer.name) is not None
    if not model.trainable_variables:
        raise UserError(
            f"phase {phase.name!r}: trainable {phase.trainable!r} matches no layer with weights"
        )
    return list(model.trainable_variables)


def warm_start(state: TrainingState, recipe: Recipe) -> None:
    """Takes over the weights of other runs' models where name and shape agree, and says how many.

    Args:
        state: has the model.
        recipe: names the runs, the layers, and what branches begin with.

    Raises:
        UserError: no weight fits, two runs differ in what they should share, or in one of them the
            network is shown pixels in another way.
    """
    workdirs = {path: Workdir.open(path) for path in recipe.warm_starts}
    for workdir in workdirs.values():
        check_pixel_values(recipe.model, workdir)
    runs = {path: workdir.load_model() for path, workdir in workdirs.items()}
    copies = recipe.model.branch_weights == "trunk"
    take_from_runs(state.model, runs, layers=recipe.warm_start_layers, copies=copies)
    state.restart_averages()
