"""Networks as recipes name them: their options, their weights, their precision."""

import dataclasses
from collections.abc import Sequence

import keras

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.configs.base import Model as ModelConfig
from faceattr_tf.experiment import Experiment
from faceattr_tf.models import MODELS, build_model, head_dropout, options_of, stage_names
from faceattr_tf.models.branching import take_weights
from faceattr_tf.models.face_parts import EYES_ELSEWHERE
from faceattr_tf.models.heads import head_layers, image_input
from faceattr_tf.models.keras_applications import BACKBONES, PIXEL_VALUES
from faceattr_tf.models.pretrained import load_imagenet, load_weights
from faceattr_tf.models.stages import build_top, pool_features, stages_named
from faceattr_tf.workdir import MODEL, Workdir

PLACES = 6
"""Places along a side that a map has to have to be worth a look."""


def create_model(
    experiment: Experiment, precision: str, *, training: bool = False, top: bool = False
) -> keras.Model:
    """The recipe's network for its tasks and crop, under a precision policy.

    Args:
        experiment: gives recipe, tasks and crop.
        precision: name of a Keras dtype policy.
        training: build the auxiliary classifier too, where the recipe has one.
        top: build its branches and heads alone.

    Raises:
        UserError: see `create_network`; or the network looks for the parts of a face at the places
            where a crop puts them by landmarks, and no training image has any.
    """
    recipe = experiment.recipe
    _check_landmarks(experiment)
    model = create_network(
        recipe.model,
        experiment.tasks,
        experiment.input_shape,
        precision,
        crop=experiment.view.aligned or experiment.crop,
        auxiliary=training and bool(recipe.model.auxiliary_weight),
        top=top,
    )
    for task in experiment.tasks:
        if task.kind == "regression":
            # A head that begins at the mean has no long way to go.
            (head,) = head_layers(model, task)
            head.bias.assign(experiment.statistics(task)[:, 0])
    return model


def _check_landmarks(experiment: Experiment) -> None:
    """Says how many faces a network of face parts is shown that no landmarks have placed."""
    config, crop = experiment.recipe.model, experiment.crop
    own = options_of(MODELS[config.name]) if config.name in MODELS else {}
    if (
        "crop" not in own
        or crop.kind not in ("align", "affine")
        or dict(config.options).get("eyes")
    ):
        return
    known = [records.boxes.get("train", {}).get("landmarks") for records in experiment.record_sets]
    for records, count in zip(experiment.record_sets, known, strict=True):
        images = records.splits.get("train", 0)
        if count is not None and count < images:
            print(
                f"{records.path}: {images - count:,} of {images:,} training images have no "
                f"landmarks, so that {config.name} looks for the parts of their faces at wrong places"
            )
    if not any(count is None or count for count in known):
        raise UserError(
            f"{experiment.record_sets[0].path}: no training image has landmarks, by which the crop "
            f"{crop.kind!r} places the parts of a face for {config.name!r}; build the records with "
            f"--detections, or crop by 'none' and {EYES_ELSEWHERE}"
        )


def create_top(experiment: Experiment, features: int, precision: str = "float32") -> keras.Model:
    """The new layers of the recipe's network alone: its heads, and branches where it has some.

    Args:
        experiment: gives recipe, tasks and crop.
        features: how many numbers of the frozen network they see of an image.
        precision: name of a Keras dtype policy, for branches; heads are float32 under each.
    """
    config = experiment.recipe.model
    if config.branches:
        return create_model(experiment, precision, top=True)
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
            branches=config.branches,
            branch_weights=config.branch_weights,
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
    if config.trunks:
        options["trunks"] = tuple(name for name, _ in config.trunks)
    for name, value in config.options:
        if name in options:
            raise UserError(
                f"model.options gives {name!r} as {value!r}, but it is {options[name]!r} already; "
                "expected it in one place"
            )
        options[name] = value
    return options


def load_pretrained(model: keras.Model, config: ModelConfig) -> None:
    """Gives a model without branches the weights that its configuration names, and says which.

    Raises:
        UserError: they cannot be had or do not fit.
    """
    if config.trunks:
        _load_trunks(model, config)
        return
    options = dict(config.options)
    network = options.get("trunk") or config.name
    if config.weights != "imagenet":
        known = _check_file(config, config.weights)
        load_weights(model, config.weights, strict=network in BACKBONES)
        if network in BACKBONES and "pixel_values" not in options and not known:
            print(
                f"{config.weights}: taken to want pixels as ImageNet's weights do, "
                f"{shown_pixels(config)!r}; of others say how (model.options "
                f"pixel_values, one of {', '.join(PIXEL_VALUES)})"
            )
    elif network in BACKBONES:
        load_imagenet(model, network)
    else:
        raise UserError(
            f"weights 'imagenet': Keras distributes none for {config.name!r}, only for: "
            + ", ".join(BACKBONES)
        )


def shown_pixels(config: ModelConfig) -> str:
    """How a recipe's network, or its trunk, is shown pixels; empty where there is but one way."""
    own = options_of(MODELS[config.name]) if config.name in MODELS else {}
    options = {**own, **dict(config.options)}
    network = options.get("trunk") or options.get("network") or config.name
    options |= dict(options.get("network_options", ()))
    usual = BACKBONES[network].pixel_values if network in BACKBONES else ""
    return options.get("pixel_values") or usual


def check_pixel_values(config: ModelConfig, run: Workdir) -> None:
    """Makes sure that the weights of a run go on seeing pixels as they did.

    Raises:
        UserError: the network that shall have them shows pixels in another way.
    """
    before, now = shown_pixels(run.recipe().model), shown_pixels(config)
    if before and now and before != now:
        raise UserError(
            f"{run.path}: its weights saw pixels as {before!r}, and this recipe shows them as "
            f"{now!r}; expected ('pixel_values', {before!r}) in model.options"
        )


def _check_file(config: ModelConfig, file: str) -> bool:
    """Whether a run wrote a file of weights; if so, how pixels are shown is checked."""
    run = Workdir(local(file).parent)
    wrote = (run.path / "config.json").is_file() and local(file).name == MODEL
    if wrote:
        check_pixel_values(config, run)
    return wrote


def _load_trunks(model: keras.Model, config: ModelConfig) -> None:
    """Gives every network that a fusion fuses its own weights."""
    if config.weights:
        raise UserError("model.weights and model.trunks both name weights; expected one of them")
    options = {**options_of(MODELS[config.name]), **dict(config.options)}
    network = options["network"]
    for name, file in config.trunks:
        if not file:
            print(f"{name}: new weights")
            continue
        own = dict(options["network_options"])
        image, pixels = image_input(model.input_shape[1:])
        alone = keras.Model(image, MODELS[network](pixels, **own)[options["stage"]])
        if file == "imagenet":
            load_imagenet(alone, network)
        else:
            _check_file(config, file)
            load_weights(alone, file, strict=True)
        for layer in alone.layers:
            if layer.weights:
                model.get_layer(f"{name}_{layer.name}").set_weights(layer.get_weights())


def load_recipe_weights(model: keras.Model, experiment: Experiment) -> None:
    """Gives a recipe's network, or its branches and heads alone, the weights that it names.

    Branches have them where they begin with the trunk's.

    Raises:
        UserError: see `load_pretrained`.
    """
    config = experiment.recipe.model
    if not config.branches:
        load_pretrained(model, config)
        return
    given = pretrained_model(without_branches(experiment), "float32")
    take_weights(model, given, copies=config.branch_weights == "trunk")


def without_branches(experiment: Experiment) -> Experiment:
    """The same with all heads on the network's own end."""
    recipe = experiment.recipe
    model = dataclasses.replace(recipe.model, branches=(), branch_weights="new")
    return dataclasses.replace(experiment, recipe=dataclasses.replace(recipe, model=model))


def pretrained_model(experiment: Experiment, precision: str) -> keras.Model:
    """The recipe's network from images to outputs as a run on bottlenecks begins with it.

    Its weights are those that the recipe names; random ones follow from the seed.
    """
    recipe = experiment.recipe
    keras.utils.set_random_seed(recipe.seed)
    model = create_model(experiment, precision)
    if recipe.model.pretrained:
        load_recipe_weights(model, experiment)
    return model


def frozen_layers(experiment: Experiment) -> str:
    """What a run's new layers learn from, several joined by `+`, as `features.extract` takes it."""
    if not experiment.recipe.model.branches:
        return experiment.recipe.model.layer
    return "+".join(create_model(experiment, "float32").taps)


def whole_model(top: keras.Model, experiment: Experiment) -> keras.Model:
    """The recipe's network from images to outputs, with heads that were trained on bottlenecks."""
    model = pretrained_model(experiment, "float32")
    for layer in top.layers:
        if layer.weights:
            model.get_layer(layer.name).set_weights(layer.get_weights())
    return model


def seen_stages(model: keras.Model, config: ModelConfig) -> dict:
    """The stages of a network that its heads see -> their outputs, first to last.

    Args:
        model: the network, built or loaded.
        config: names network and options.
    """
    names = stage_names(config.name, model.input_shape[1:], **model_options(config))
    present = {layer.name: layer.output for layer in model.layers if layer.name in names}
    return {name: present[name] for name in names if name in present}


def map_stage(model: keras.Model, config: ModelConfig, layer: str = "") -> str:
    """The stage whose maps say where an answer comes from.

    Args:
        model: the network, built or loaded.
        config: names network and options.
        layer: a stage that gives maps and that all heads see; empty for the last whose maps have at
            least `PLACES` on either side, or else the most: the last of all may have 3 by 3 places,
            which say nothing about parts of a face.

    Raises:
        UserError: it gives no maps, or no stage does.
    """
    outputs = seen_stages(model, config).items()
    answers = [one for task, one in model.output.items() if task != ALIGNMENT.name]
    seen = [keras.Function(model.input, one).operations for one in answers]
    known = {
        name: min(out.shape[1:3])
        for name, out in outputs
        if len(out.shape) == 4 and all(model.get_layer(name) in of for of in seen)
    }
    if not known:
        raise UserError(f"{config.name}: none of its stages gives maps")
    if layer and layer not in known:
        raise UserError(f"layer {layer!r} gives no maps in this {config.name}: {', '.join(known)}")
    return layer or max(reversed(known), key=lambda name: min(known[name], PLACES))


def feature_layer(model: keras.Model, config: ModelConfig, layer: str = "") -> str:
    """The stage whose features are meant: the one that is named, or what the heads stand on.

    Args:
        model: the network, built or loaded.
        config: names network and options.
        layer: stages that the heads see, several joined by `+`; empty for those they stand on.

    Raises:
        UserError: the heads see no stage of this name.
    """
    known = list(seen_stages(model, config))
    if not known:
        raise UserError(f"{config.name}: the model has none of its stages")
    return "+".join(stages_named(layer or config.layer, known, f"this {config.name}"))


def feature_network(model: keras.Model, layer: str, flip: bool = False) -> keras.Model:
    """What a network gives at a stage: images -> `{"features": [B, F]}`, of maps their means.

    Args:
        model: the network, built or loaded; the variables stay shared.
        layer: what `feature_layer` gave.
        flip: the mean of what it gives for an image and for its mirror image.
    """
    parts = [pool_features(model.get_layer(name).output) for name in layer.split("+")]
    network = keras.Model(model.input, {"features": keras.ops.concatenate(parts, axis=-1)})
    if not flip:
        return network
    views = (model.input, keras.ops.flip(model.input, axis=2))
    both = [network(view)["features"] for view in views]
    return keras.Model(model.input, {"features": keras.ops.add(*both) / 2})
