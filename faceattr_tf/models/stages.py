"""What a network gives at its named stages, and what grows on them.

A stage is named as the layer that ends it, so that a model which was built, or loaded, finds it
again. Heads stand on any stage: on features `[B, F]` as they are, on maps after global average
pooling.
"""

import itertools
import math
from collections.abc import Sequence

import keras
from keras import layers, ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.models.auxiliary import AUXILIARY_INPUT, AUXILIARY_STAGE, auxiliary_pool
from faceattr_tf.models.heads import BOTTLENECK, NEW_LAYERS, TRANSFORMER, grow_heads, head_output


def pool_features(stage, name: str | None = None):
    """What new layers see of a stage's output: features `[B, F]`, of maps their means in float32.

    Args:
        stage: `[B, F]` or `[B, H, W, C]`.
        name: the name of the layer that pools.
    """
    if len(stage.shape) == 2:
        return stage
    return layers.GlobalAveragePooling2D(dtype="float32", name=name)(stage)


def join_features(stages: Sequence):
    """What heads see of one stage or of several: their features `[B, F]`, one behind the other.

    Args:
        stages: outputs of stages, `[B, F]` or `[B, H, W, C]`.
    """
    if len(stages) == 1:
        return pool_features(stages[0], BOTTLENECK)
    pooled = [pool_features(one, f"{BOTTLENECK}_{index}") for index, one in enumerate(stages)]
    return layers.Concatenate(dtype="float32", name=BOTTLENECK)(pooled)


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
    return keras.Model(inputs, drop_and_grow(inputs, tasks, dropout), name="top")


def features_at(model: keras.Model, stage: str):
    """What a network gives new layers to learn from, `[B, F]`.

    Args:
        model: what `build_model` gave, whose heads stand on this stage or on a later one.
        stage: see `model.stages`, for its features; or `AUXILIARY_INPUT`, flat.
    """
    if stage == AUXILIARY_INPUT:
        return layers.Flatten()(auxiliary_pool(model.get_layer(AUXILIARY_STAGE).output))
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


def head_input(model: keras.Model):
    """What the heads of a model of `build_model` or `build_top` see, `[B, F]`, before dropout."""
    present = {layer.name for layer in model.layers}
    if "stages" not in vars(model):
        return model.input
    return model.get_layer(BOTTLENECK if BOTTLENECK in present else list(model.stages)[-1]).output


def new_layers_of(model: keras.Model) -> keras.Model:
    """The heads and, where it has one, the auxiliary classifier of a network: the same variables.

    Args:
        model: what `build_model` gave, without a transformer.

    Returns:
        A model from what the layers before them give, `[B, F]`: the features that the heads see and
        then the output of `AUXILIARY_INPUT`, flat; to the outputs of the network and the features.
    """
    ends = [head_input(model)]
    if any(layer.name == AUXILIARY_INPUT for layer in model.layers):
        ends.append(model.get_layer(AUXILIARY_INPUT).output)
    sizes = [math.prod(end.shape[1:]) for end in ends]
    features = keras.Input((sum(sizes),), name="features", dtype="float32")
    stops = list(itertools.accumulate(sizes))
    parts = [
        ops.reshape(features[:, stop - size : stop], (-1, *end.shape[1:]))
        for stop, size, end in zip(stops, sizes, ends, strict=True)
    ]
    outputs = keras.Model(ends, model.output)(parts)
    return keras.Model(features, [outputs, parts[0]])


def stages_of(model: keras.Model) -> dict[str, int]:
    """Where in the network every layer with weights is: a number that grows from the pixels on.

    Args:
        model: what `build_model` gave.

    Returns:
        Layer name -> index of its stage; for heads, an auxiliary classifier and a transformer, the
        number of stages of the model.
    """
    indices = {}
    for index, end in enumerate(model.stages.values()):
        for layer in keras.Model(model.input, end).layers:
            if not layer.name.startswith(NEW_LAYERS):
                indices.setdefault(layer.name, index)
    return {
        layer.name: indices.get(layer.name, len(model.stages))
        for layer in model.layers
        if layer.weights
    }


def classifier_of(model: keras.Model, tasks: Sequence[Task]) -> keras.Model:
    """The part of a model behind its transformer, with the same variables.

    Returns:
        Model from what the transformer gives, `[B, H, W, 3]` in [-1, 1], to the outputs of all
        tasks but `alignment`, landmarks normalised to that crop, and what the heads see.
    """
    outputs = {task.name: head_output(model, task) for task in tasks if task != ALIGNMENT}
    return keras.Model(model.get_layer(TRANSFORMER).output, [outputs, head_input(model)])


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
