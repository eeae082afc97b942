"""What a network gives at its named stages, and what grows on them.

A stage is named as the layer that ends it, so that a model which was built, or loaded, finds it
again. Heads stand on any stage: on features `[B, F]` as they are, on maps after global average
pooling.
"""

import itertools
import math
import types
from collections.abc import Mapping, Sequence

import keras
from keras import layers, ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.models.auxiliary import AUXILIARY_INPUT, AUXILIARY_STAGE, auxiliary_pool
from faceattr_tf.models.heads import BOTTLENECK, NEW_LAYERS, TRANSFORMER, grow_heads, head_output

MAP = "-map"
"""What follows the name of a layer where its output itself is meant, flat, and not its means."""


def pool_features(stage, name: str | None = None):
    """What new layers see of a stage's output: features `[B, F]`, of maps their means in float32.

    Args:
        stage: `[B, F]` or `[B, H, W, C]`.
        name: the name of the layer that pools.
    """
    if len(stage.shape) == 2:
        return stage
    return layers.GlobalAveragePooling2D(dtype="float32", name=name)(stage)


def pool_stages(stages: Sequence) -> list:
    """The features `[B, F]` of the stages on which heads stand.

    Args:
        stages: outputs of stages, `[B, F]` or `[B, H, W, C]`.
    """
    if len(stages) == 1:
        return [pool_features(stages[0], BOTTLENECK)]
    return [pool_features(one, f"{BOTTLENECK}_{index}") for index, one in enumerate(stages)]


def join_features(features: Sequence, name: str | None = None):
    """Features of one place or of several `[B, F]`, one behind the other.

    Args:
        features: `[B, F]` each.
        name: the name of the layer that joins them.
    """
    if len(features) == 1:
        return features[0]
    return layers.Concatenate(dtype="float32", name=name)(features)


def drop_and_grow(features, tasks: Sequence[Task], dropout: float) -> dict:
    """The heads of `grow_heads`, before them the dropout of their input in training."""
    if dropout:
        features = layers.Dropout(dropout, dtype=features.dtype, name="dropout")(features)
    return grow_heads(features, tasks)


def build_top(features: int, tasks: Sequence[Task], *, dropout: float = 0.0) -> keras.Model:
    """The heads of a network alone, their layers named as in the whole.

    Args:
        features: how many they see.
        tasks: what to predict.
        dropout: share of the features that training drops.

    Returns:
        A model from the input `image`, the features `[B, F]` in float32, to task name -> output.
    """
    inputs = keras.Input((features,), name="image", dtype="float32")
    model = keras.Model(inputs, drop_and_grow(inputs, tasks, dropout), name="top")
    describe(model, {}, inputs, {})
    return model


def describe(
    model: keras.Model,
    stages: Mapping,
    features,
    taps: Mapping,
    copies: Mapping = types.MappingProxyType({}),
    depths: Mapping = types.MappingProxyType({}),
) -> None:
    """Gives a model, as attributes, what it is made of.

    Args:
        model: a network or its new layers alone.
        stages: name -> output, from the pixels to the heads.
        features: what its heads see, `[B, F]`, before dropout; of heads in several places, all.
        taps: name for `features_at` -> what its heads and branches take from the layers before.
        copies: name of a branch's layer -> name of the layer that it copies.
        depths: name of a branch's layer -> index of its stage, where it is no new layer.
    """
    parts = {"stages": stages, "taps": taps, "copies": copies, "depths": depths}
    for name, part in parts.items():
        # Keras would look for variables in a plain dict.
        setattr(model, name, types.MappingProxyType(dict(part)))
    model.features = features


def copy_layers(frontier: Sequence, end, inputs: Sequence, prefix: str) -> tuple:
    """The layers between a frontier and an end once more, on other inputs.

    Returns:
        The copy's end, and name of its layers -> name of what they copy.
    """
    if any(tensor is end for tensor in frontier):
        return inputs[0], {}
    made = {}

    def copy(operation):
        if operation not in made:
            config = {**operation.get_config(), "name": prefix + operation.name}
            made[operation] = type(operation).from_config(config)
        return made[operation]

    # What `keras.models.clone_model` does, which does not rename arithmetic.
    copied = keras.Function(frontier, end)._run_through_graph(inputs, operation_fn=copy)
    return copied, {
        one.name: layer.name for layer, one in made.items() if isinstance(layer, keras.Layer)
    }


def features_at(model: keras.Model, stage: str):
    """What a network gives new layers to learn from, `[B, F]`.

    Args:
        model: what `build_model` gave, whose heads stand on this stage or on a later one.
        stage: see `model.stages`, for its features; `AUXILIARY_INPUT`, flat; or a layer's name with
            `MAP` behind it, for what the layer gives, flat.
    """
    flat = layers.Flatten(name=f"{stage.removesuffix(MAP)}_flat")  # no name that the model has
    if stage == AUXILIARY_INPUT:
        return flat(auxiliary_pool(model.get_layer(AUXILIARY_STAGE).output))
    if stage.endswith(MAP):
        return flat(model.get_layer(stage.removesuffix(MAP)).output)
    return pool_features(model.stages[stage])


def fully_convolutional(model: keras.Model, stage: str) -> keras.Model:
    """A network up to one of its maps, for images of any size; the variables stay shared.

    Args:
        model: what `build_model` gave, for images of one size.
        stage: one of `model.stages` whose output is a map and which sees no more than maps.

    Returns:
        A model from images `[B, H, W, 3]` as the network takes them to the stage's `[B, h, w, C]`.
    """
    image = keras.Input((None, None, 3), name="image", dtype="float32")
    graph = keras.Function(model.input, model.get_layer(stage).output)
    return keras.Model(image, graph.call(image), name=stage)


def split_features(features, parts: Sequence) -> list:
    """Flat features `[B, F]` cut into tensors of the shapes of `parts`, which they stand for."""
    sizes = [math.prod(part.shape[1:]) for part in parts]
    return [
        ops.reshape(features[:, stop - size : stop], (-1, *part.shape[1:]))
        for stop, size, part in zip(itertools.accumulate(sizes), sizes, parts, strict=True)
    ]


def new_layers_of(model: keras.Model) -> keras.Model:
    """The branches, heads and, where it has one, the auxiliary classifier: the same variables.

    Args:
        model: what `build_model` gave, without a transformer.

    Returns:
        A model from what the layers before them give, `[B, F]`: `model.taps` and then the output of
        `AUXILIARY_INPUT`, flat, one behind the other; to the outputs of the network and its
        `features`.
    """
    ends = list(model.taps.values())
    if any(layer.name == AUXILIARY_INPUT for layer in model.layers):
        ends.append(model.get_layer(AUXILIARY_INPUT).output)
    size = sum(math.prod(end.shape[1:]) for end in ends)
    features = keras.Input((size,), name="features", dtype="float32")
    parts = split_features(features, ends)
    for end, part in zip(ends, parts, strict=True):
        if end is model.features:  # Keras takes no input for an output.
            return keras.Model(features, [keras.Model(ends, model.output)(parts), part])
    return keras.Model(features, keras.Model(ends, [model.output, model.features])(parts))


def stages_of(model: keras.Model) -> dict[str, int]:
    """Where in the network every layer with weights is: a number that grows from the pixels on.

    Args:
        model: what `build_model` gave.

    Returns:
        Layer name -> index of its stage; for new layers, as heads, an auxiliary classifier and a
        transformer, and branches unless they begin with the trunk's weights, one more than all.
    """
    indices = {**places_of(model.input, model.stages), **model.depths}
    top = max([len(model.stages), *(index + 1 for index in indices.values())])
    return {layer.name: indices.get(layer.name, top) for layer in model.layers if layer.weights}


def places_of(image, stages: Mapping) -> dict[str, int]:
    """Name of a layer, other than new ones -> index of the stage that it belongs to."""
    indices = {}
    for index, end in enumerate(stages.values()):
        for operation in keras.Function(image, end).operations:
            if not operation.name.startswith(NEW_LAYERS):
                indices.setdefault(operation.name, index)
    return indices


def classifier_of(model: keras.Model, tasks: Sequence[Task]) -> keras.Model:
    """The part of a model behind its transformer, with the same variables.

    Returns:
        Model from what the transformer gives, `[B, H, W, 3]` in [-1, 1], to the outputs of all
        tasks but `alignment`, landmarks normalised to that crop, and what the heads see.
    """
    outputs = {task.name: head_output(model, task) for task in tasks if task != ALIGNMENT}
    return keras.Model(model.get_layer(TRANSFORMER).output, [outputs, model.features])


def stages_named(layer: str, stages: Sequence[str], network: str) -> tuple[str, ...]:
    """The stages on which heads stand: one, or several joined by `+`; empty for the last.

    Raises:
        UserError: the network has no stage of this name, or one is named twice.
    """
    named = tuple(layer.split("+")) if layer else (list(stages)[-1],)
    for stage in named:
        if stage not in stages:
            raise UserError(f"layer {stage!r} ends no stage of {network}: {', '.join(stages)}")
        if named.count(stage) > 1:
            raise UserError(f"layer {layer!r} names the stage {stage!r} more than once")
    return named
