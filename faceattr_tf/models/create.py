"""Networks as recipes name them: their options, their weights, their precision."""

from collections.abc import Sequence

import keras

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Model as ModelConfig
from faceattr_tf.experiment import Experiment
from faceattr_tf.models import build_model, head_dropout
from faceattr_tf.models.heads import HEAD_PREFIX
from faceattr_tf.models.keras_applications import BACKBONES
from faceattr_tf.models.pretrained import load_imagenet, load_weights
from faceattr_tf.models.stages import build_top


def create_model(experiment: Experiment, precision: str, *, training: bool = False) -> keras.Model:
    """The recipe's network for its tasks and crop, under a precision policy.

    Args:
        experiment: gives recipe, tasks and crop.
        precision: name of a Keras dtype policy.
        training: build the auxiliary classifier too, where the recipe has one.
    """
    recipe = experiment.recipe
    model = create_network(
        recipe.model,
        experiment.tasks,
        experiment.input_shape,
        precision,
        auxiliary=training and bool(recipe.model.auxiliary_weight),
    )
    for task in experiment.tasks:
        if task.kind == "regression":
            # A head that begins at the mean has no long way to go.
            model.get_layer(HEAD_PREFIX + task.name).bias.assign(experiment.statistics(task)[:, 0])
    return model


def create_top(experiment: Experiment, features: int) -> keras.Model:
    """The heads of the recipe's network alone, behind so many features of a frozen network."""
    config = experiment.recipe.model
    dropout = head_dropout(config.name, model_options(config).get("dropout"))
    return build_top(features, experiment.tasks, dropout=dropout)


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
        **options: further arguments of `build_model`.

    Raises:
        UserError: an option that is none, or Keras is set up otherwise than is needed.
    """
    check_keras()
    options = model_options(config, **options)
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


def model_options(config: ModelConfig, **options) -> dict:
    """The arguments of `build_model`: those that a recipe names, and further ones.

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
    model = create_model(experiment, precision)
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
