"""Networks from pixels to named stages, one function each, listed in `MODELS`; and whole models."""

import functools
import inspect
from collections.abc import Callable, Sequence

import keras
from keras import ops

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.configs.base import BRANCH_WEIGHTS
from faceattr_tf.layers.spatial_transformer import SpatialTransformer, transform_matrix
from faceattr_tf.models import (
    anet,
    cascade_cnn,
    face_alexnet,
    facetracer,
    flickr,
    fusion,
    keras_applications,
    lnet,
    lonet,
    panda,
    resnet_small,
    tcdcn,
    vgg_face,
)
from faceattr_tf.models.auxiliary import auxiliary_classifier, auxiliary_name
from faceattr_tf.models.branching import Plan, grow_branches
from faceattr_tf.models.heads import TRANSFORMER, image_input
from faceattr_tf.models.keras_applications import BACKBONES
from faceattr_tf.models.stages import describe, places_of, stages_named

MODELS = {
    "anet": anet.build,
    "cascade_cnn": cascade_cnn.build,
    "face_alexnet": face_alexnet.build,
    "facetracer": facetracer.build,
    "flickr": flickr.build,
    "lnet": lnet.build,
    "panda": panda.build,
    "resnet_small": resnet_small.build,
    "tcdcn": tcdcn.build,
    "vgg_face": vgg_face.build,
    **{name: functools.partial(keras_applications.build, name) for name in BACKBONES},
}
"""Name -> `build(pixels, **options) -> {stage: output}` on pixels in [-1, 1].

The stages are in their order, each named as the layer that ends it. The last one is what heads see
unless they are asked to stand elsewhere: features `[B, F]`, or maps `[B, H, W, C]` to be pooled.
"""
MODELS["fusion"] = functools.partial(fusion.build, dict(MODELS))  # of the others

TRANSFORMERS = {"lonet": lonet.build}
"""Name -> `build(pixels, *, family, **options)`, the parameters `[B, P]` of a transform."""

__all__ = ["BACKBONES", "MODELS", "TRANSFORMER", "TRANSFORMERS", "build_model"]


def build_model(
    name: str,
    tasks: Sequence[Task],
    input_shape: Sequence[int],
    *,
    crop: Crop | None = None,
    layer: str = "",
    dropout: float | None = None,
    auxiliary: bool = False,
    branches: Sequence[Sequence[str]] = (),
    branch_weights: str = "new",
    top: bool = False,
    transformer: str = "",
    transformer_options: dict | None = None,
    **options,
) -> keras.Model:
    """Builds a network of `MODELS` with one head per task.

    Source: KTH-MTFL ("Prediction of Attributes"), section 3.3, for heads on the pooled maps of a
    pretrained network; FaceSTN, section II, for the transformer.

    Args:
        name: a key of `MODELS`.
        tasks: what the network predicts.
        input_shape: `(height, width, 3)`.
        crop: how the images were cropped, or what a transformer samples: for networks that look for
            the parts of a face at their places; None: as `Crop(kind="align")`.
        layer: stage on which the heads stand, or several joined by `+`; nothing behind them is
            built. Empty: the last.
        dropout: share of the features that training drops before the heads. None: none, but with
            `vgg_face` the paper's half.
        auxiliary: add the auxiliary classifier of `faceattr_tf.models.auxiliary`.
        branches: `(stage, what, ...)`: what stands on a copy of everything above a stage, tasks or
            `task/Label` of a multilabel task; everything else stands on the trunk's own end. See
            `faceattr_tf.models.branching`.
        branch_weights: `new`, or `trunk`: the layers of branches will have the weights of those that
            they copy, and learn at their rate where rates fall from stage to stage.
        top: build the branches and heads alone.
        transformer: a key of `TRANSFORMERS`: what it finds is sampled by a spatial transformer, of
            which the network sees the result; empty for none.
        transformer_options: keyword arguments of the transformer's `build`.
        **options: keyword arguments of the network's `build`.

    Returns:
        A functional model named `name` with the attributes of `faceattr_tf.models.stages.describe`.
        Input `image`: float32 `[B, H, W, 3]` in 0..255. Output: a dict from task name to logits
        `[B, n]` (attributes, classes), values `[B, n]`
        (regression), normalised coordinates `[B, n, 2]` in the input (landmarks) or the affine
        transform `[B, 2, 3]` of the transformer (`ALIGNMENT`), all float32. An auxiliary classifier
        adds its own under `auxiliary_name`. Of `top`, the input is flat: what `taps` of the
        whole model give, one behind the other.

    Raises:
        UserError: the name or an option does not exist, the input is too small for the network, or
            Keras is set to channels first.
    """
    check_keras("image_data_format")
    build = _find(MODELS, "model", name, options)
    dropout = head_dropout(name, dropout)
    if "dropout" in options_of(build):  # a network that drops inside as well
        options["dropout"] = dropout
    if "crop" in options_of(build):
        options["crop"] = crop
    image, pixels = image_input(input_shape)
    theta, predicted = None, [task for task in tasks if task.kind != ALIGNMENT.kind]
    if transformer:
        pixels, theta = _align(pixels, transformer, dict(transformer_options or {}))
    elif len(predicted) < len(tasks):
        raise UserError(f"task {ALIGNMENT.name!r}: only a model with a transformer predicts it")
    stages = build(pixels, **options)
    ends = stages_named(layer, tuple(stages), name)
    names = tuple(stages)[: max(map(tuple(stages).index, ends)) + 1]
    if branch_weights not in BRANCH_WEIGHTS:
        raise UserError(f"branch_weights {branch_weights!r} is none of {', '.join(BRANCH_WEIGHTS)}")
    if branches and auxiliary:
        raise UserError("branches: an auxiliary classifier stands on a network without branches")
    plan = Plan.of(branches, predicted, names, name)
    grown = grow_branches(image, stages, ends, plan, dropout, top=top)
    outputs = grown.outputs
    if auxiliary:
        outputs |= auxiliary_classifier({name: stages[name] for name in names}, predicted)
    if transformer:
        outputs = {**_to_input(outputs, predicted, theta), ALIGNMENT.name: theta}
    model = keras.Model(grown.image, outputs, name="top" if top else name)
    built = {layer.name for layer in model.layers}
    seen = {} if top else {one: stages[one] for one in names if not branches or one in built}
    depths = {}
    if branch_weights == "trunk":
        places = places_of(image, stages)
        last = len(names) - 1
        depths = {copy: min(places.get(of, last), last) for copy, of in grown.copies.items()}
    describe(model, seen, grown.features, grown.taps, grown.copies, depths)
    return model


def synchronize(model: keras.Model) -> None:
    """Takes the statistics of batch normalisation over all replicas from now on."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


def head_dropout(name: str, dropout: float | None = None) -> float:
    """The share of the features that training drops before the heads; None: as the network's."""
    return options_of(MODELS[name]).get("dropout", 0.0) if dropout is None else dropout


def stage_names(name: str, input_shape: Sequence[int], **options) -> tuple[str, ...]:
    """The stages of a network of `MODELS`, first to last.

    Args:
        name: a key of `MODELS`.
        input_shape: `(height, width, 3)`.
        **options: keyword arguments of the network's `build`; others are passed over.

    Raises:
        UserError: as `build_model` does.
    """
    if name in BACKBONES:  # known without building
        return BACKBONES[name].stages
    build = _find(MODELS, "model", name, {})
    own = {key: value for key, value in options.items() if key in options_of(build)}
    return tuple(build(image_input(input_shape)[1], **own))


def _align(pixels, transformer: str, options: dict):
    """What a transformer finds in the pixels, sampled, and its transform `[B, 2, 3]`."""
    locate = _find(TRANSFORMERS, "transformer", transformer, options)
    family = options.get("family", "affine")
    parameters = locate(pixels, **options)
    sampled = SpatialTransformer(family=family, name=TRANSFORMER)([pixels, parameters])
    height, width = pixels.shape[1:3]
    return sampled, transform_matrix(parameters, family, aspect=width / height)


def _to_input(outputs: dict, tasks: Sequence[Task], theta) -> dict:
    """The outputs, landmarks moved from what the transformer sampled to the model's input."""
    outputs = dict(outputs)
    for task in tasks:
        for name in (task.name, auxiliary_name(task.name)):
            if task.kind == "landmarks" and name in outputs:
                moved = ops.matmul(outputs[name], ops.transpose(theta[:, :, :2], (0, 2, 1)))
                outputs[name] = moved + theta[:, None, :, 2]
    return outputs


def options_of(build: Callable) -> dict:
    """The keyword arguments of a build function and their defaults."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(build).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def _find(registry: dict, what: str, name: str, options: dict) -> Callable:
    """The entry of a registry, after a check of its options."""
    if name not in registry:
        raise UserError(f"there is no {what} {name!r}; there are: {', '.join(registry)}")
    known = options_of(registry[name])
    for option in options:
        if option not in known:
            message = f"{what} {name!r} has no option {option!r}; it has: {', '.join(known)}"
            raise UserError(message)
    return registry[name]
