"""Every variable of a run, and what makes them."""

import dataclasses
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.configs.base import Model as ModelConfig
from faceattr_tf.configs.base import Phase, Recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.models import TRANSFORMER, build_model
from faceattr_tf.models.heads import HEAD_PREFIX, head_output
from faceattr_tf.models.keras_applications import AUXILIARY, BACKBONES, build_top
from faceattr_tf.models.pretrained import load_imagenet, load_weights
from faceattr_tf.reports.evaluate import forward_function
from faceattr_tf.training.optimizers import create_optimizer
from faceattr_tf.workdir import Workdir


class TrainingState:
    """Every variable of a run: what a checkpoint holds."""

    def __init__(self, experiment: Experiment, strategy: tf.distribute.Strategy):
        recipe = experiment.recipe
        self.strategy = strategy
        check_micro_batch(recipe, strategy.num_replicas_in_sync)
        keras.utils.set_random_seed(recipe.seed)
        with strategy.scope():
            self.model = create_model(
                experiment,
                recipe.precision,
                training=True,
                synchronized=strategy.num_replicas_in_sync > 1,
            )
            count = len(experiment.tasks)
            # 1 for every task that still learns, 0 for one that was stopped.
            self.active = tf.Variable(tf.ones(count), trainable=False)
            # Per task the sum of its losses and the number of steps that had one, since the last
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
                optimizer.build(freeze(self.model, phase))
                self.optimizers.append(optimizer)
            self.averages = (
                [tf.Variable(weight.value, trainable=False) for weight in self.model.weights]
                if recipe.average
                else []
            )
        # Validation, the best model and export use this one: float32, outside every strategy.
        self.evaluated_model = create_model(experiment, "float32")
        self.forward = forward_function(self.evaluated_model)
        self.seeds = [layer.seed_generator.state for layer in self.model.layers if has_seed(layer)]
        self.checkpoint = tf.train.Checkpoint(
            weights=[weight.value for weight in self.model.weights],
            averages=self.averages,
            optimizers=[[v.value for v in optimizer.variables] for optimizer in self.optimizers],
            active=self.active,
            logged=self.logged,
            validated=self.validated,
            step=self.step,
            best=self.best,
            best_step=self.best_step,
        )

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
    """Makes sure that a replica's share of the batch consists of whole micro-batches.

    Raises:
        UserError: it does not.
    """
    share, size = recipe.data.batch_size // replicas, recipe.data.micro_batch
    if size < 0 or (size and share % size):
        raise UserError(
            f"data.micro_batch {size} does not divide the {share} examples of a step"
            + (" and replica" if replicas > 1 else "")
        )


def has_seed(layer: keras.Layer) -> bool:
    """Whether the layer draws random numbers from a seed of its own (dropout)."""
    return getattr(layer, "seed_generator", None) is not None


def create_model(
    experiment: Experiment, precision: str, *, training: bool = False, **options
) -> keras.Model:
    """The recipe's network for its tasks and crop, under a precision policy.

    Where the experiment has bottlenecks, it is what stands behind them: no image goes in.

    Args:
        experiment: gives recipe, tasks and crop.
        precision: name of a Keras dtype policy.
        training: build the auxiliary classifier too, where the recipe has one.
        **options: further arguments of the network's build function.
    """
    recipe, tasks = experiment.recipe, experiment.tasks
    if experiment.bottlenecks:
        width = experiment.bottlenecks["train"][0].features.shape[-1]
        dropout = network_options(recipe.model).get("dropout", 0.0)
        return build_top(width, tasks, dropout=dropout)
    if training and recipe.model.auxiliary_weight:
        options["auxiliary"] = True
    model = create_network(recipe.model, tasks, experiment.input_shape, precision, **options)
    for task in tasks:
        if task.kind == "regression":
            # A head that begins at the mean has no long way to go.
            model.get_layer(HEAD_PREFIX + task.name).bias.assign(experiment.statistics(task)[:, 0])
    return model


def create_network(
    config: ModelConfig,
    tasks: Sequence[Task],
    input_shape: Sequence[int],
    precision: str = "float32",
    **options,
) -> keras.Model:
    """The network that a recipe names, its weights new, under a precision policy.

    Args:
        config: names network and options.
        tasks: what it predicts.
        input_shape: `(height, width, 3)`.
        precision: name of a Keras dtype policy; weights are float32 under each of them.
        **options: further arguments of the network's build function.

    Raises:
        UserError: an option that is none, or Keras is set up otherwise than is needed.
    """
    check_keras()
    options = network_options(config, **options)
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return build_model(
            config.name,
            tasks,
            input_shape,
            transformer=config.transformer,
            transformer_options=dict(config.transformer_options),
            **options,
        )
    finally:
        keras.config.set_dtype_policy(previous)


def network_options(config: ModelConfig, **options) -> dict:
    """The arguments of a network's build function: those that a recipe names, and further ones.

    Raises:
        UserError: one is given twice, in `model.options` or beside them.
    """
    usual = {"layer": "", "dropout": 0.0, "width": 1.0}
    named = {name: getattr(config, name) for name in usual}
    options |= {name: value for name, value in named.items() if value != usual[name]}
    for name, value in config.options:
        if name in options:
            raise UserError(
                f"model.options gives {name!r} as {value!r}, but it is {options[name]!r} already; "
                "expected it in one place"
            )
        options[name] = value
    return options


def classifier_of(model: keras.Model, tasks: Sequence[Task]) -> keras.Model:
    """The part of a model behind its transformer, with the same variables.

    Returns:
        Model from what the transformer gives, `[B, H, W, 3]` in [-1, 1], to the outputs of all
        tasks but `alignment`; landmarks are normalised to that crop.
    """
    outputs = {task.name: head_output(model, task) for task in tasks if task != ALIGNMENT}
    return keras.Model(model.get_layer(TRANSFORMER).output, outputs)


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


def load_pretrained(model: keras.Model, config: ModelConfig) -> None:
    """Gives a model the weights that its configuration names, and says which.

    Raises:
        UserError: they cannot be had or do not fit.
    """
    if config.weights != "imagenet":
        load_weights(model, config.weights, strict=config.name in BACKBONES)
    elif config.name in BACKBONES:
        load_imagenet(model, config.name)
    else:
        raise UserError(
            f"weights 'imagenet': Keras distributes none for {config.name!r}, only for: "
            + ", ".join(BACKBONES)
        )


def pretrained_model(experiment: Experiment, precision: str) -> keras.Model:
    """The recipe's network from images to outputs as a run on bottlenecks begins with it.

    Its weights are those that the recipe names; random ones follow from the seed.
    """
    recipe = experiment.recipe
    keras.utils.set_random_seed(recipe.seed)
    model = create_model(dataclasses.replace(experiment, bottlenecks={}), precision)
    if recipe.model.weights:
        load_pretrained(model, recipe.model)
    return model


def whole_model(top: keras.Model, experiment: Experiment) -> keras.Model:
    """The recipe's network from images to outputs, with heads that were trained on bottlenecks."""
    model = pretrained_model(experiment, "float32")
    for layer in top.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def warm_start(state: TrainingState, path: str) -> None:
    """Takes over the weights of another run's model where name and shape agree, and says which."""
    given = {v.path: v for v in Workdir.open(path).load_model().weights}
    taken = 0
    for weight in state.model.weights:
        source = given.get(weight.path)
        if source is not None and source.shape == weight.shape:
            weight.assign(source.numpy())
            taken += 1
    if not taken:
        raise UserError(f"warm start: no weight of {path} fits this model by name and shape")
    state.restart_averages()
    print(f"warm start: {taken} of {len(state.model.weights)} weights from {path}")
