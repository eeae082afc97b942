"""The auxiliary classifier of InceptionV3, which helps training and takes no part in predictions."""

from collections.abc import Mapping, Sequence

import keras
from keras import layers

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models.heads import AUXILIARY, grow_heads

AUXILIARY_INPUT = f"{AUXILIARY}pool"
"""The layer whose output the auxiliary classifier learns from; it has no weights."""

AUXILIARY_STAGE = "mixed7"
"""The stage of InceptionV3 at whose end that layer stands."""


def auxiliary_name(task_name: str) -> str:
    """The key of a task's auxiliary output among the outputs of a network."""
    return f"{task_name}/auxiliary"


def auxiliary_classifier(stages: Mapping[str, object], tasks: Sequence[Task]) -> dict:
    """TF-Slim's `AuxLogits` on InceptionV3's last map of 17x17x768 at 299x299.

    Average pooling 5x5 of stride 3, a 1x1 convolution to 128 and one to 768 maps over the 5x5 that
    remain, one head per task. Smaller maps reduce the kernels, as there.

    Args:
        stages: what the network gives up to the stage of its heads.
        tasks: what to predict.

    Returns:
        `auxiliary_name` of a task -> output, see `grow_heads`.

    Raises:
        UserError: the network does not have the stage, or its heads stand before it.
    """
    if AUXILIARY_STAGE not in stages:
        raise UserError(
            f"a network up to {list(stages)[-1]}: only inception_v3 from {AUXILIARY_STAGE} on has an "
            "auxiliary classifier"
        )

    def convolution(x, maps, kernel, start, name):
        x = layers.Conv2D(maps, kernel, use_bias=False, kernel_initializer=start, name=name)(x)
        x = BatchNormalization(scale=False, name=f"{name}_norm")(x)
        return layers.ReLU(name=f"{name}_relu")(x)

    small = keras.initializers.TruncatedNormal(stddev=0.01)  # as in TF-Slim
    x = auxiliary_pool(stages[AUXILIARY_STAGE])
    x = convolution(x, 128, 1, "he_normal", f"{AUXILIARY}conv1")
    x = convolution(x, 768, _five(x), small, f"{AUXILIARY}conv2")
    x = layers.Flatten(name=f"{AUXILIARY}flatten")(x)
    heads = grow_heads(x, tasks, prefix=AUXILIARY)
    return {auxiliary_name(name): output for name, output in heads.items()}


def auxiliary_pool(x):
    """What the classifier learns from: the map `[B, H, W, 768]`, averaged over 5x5 by stride 3."""
    return layers.AveragePooling2D(_five(x), strides=3, name=AUXILIARY_INPUT)(x)


def _five(x) -> tuple[int, ...]:
    """A kernel of 5x5, or as much of it as the map has."""
    return tuple(min(5, side) for side in x.shape[1:3])
