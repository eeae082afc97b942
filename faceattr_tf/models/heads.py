"""The two ends that all networks share: pixels in, one head per task out; and names of layers.

Workdirs and weights depend on the names, so none of them changes.
"""

from collections.abc import Sequence

import keras
from keras import layers

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task

HEAD_PREFIX = "head_"
"""The layer of a head is named `head_<task>`; no other layer begins so."""

AUXILIARY = "aux_"
"""The layers of an auxiliary classifier begin so."""

LOCALIZATION = "lonet_"
"""The layers of a transformer's localisation network begin so."""

BRANCH = "branch_"
"""The layers that a task has for itself begin so (`faceattr_tf.models.branching`)."""

NEW_LAYERS = (HEAD_PREFIX, AUXILIARY, LOCALIZATION, BRANCH)
"""The layers that no pretrained network has begin so."""

BOTTLENECK = "bottleneck"
"""The layer that pools the map on which heads stand, `[B, F]` in float32, or joins those of several."""

TRANSFORMER = "transformer"
"""The layer that samples the aligned crop, in models that have one."""

# Where the points of an upright face lie in a crop that shows little else, normalised to [-1, 1].
# A landmark head starts there, so that it learns deviations and not the mean.
MEAN_FACE = {
    "left_eye": (-0.3, -0.25),
    "right_eye": (0.3, -0.25),
    "nose": (0.0, 0.1),
    "left_mouth": (-0.25, 0.4),
    "right_mouth": (0.25, 0.4),
}


def image_input(input_shape: Sequence[int]):
    """The input `image` and the same pixels scaled to [-1, 1].

    Args:
        input_shape: `(height, width, 3)`.

    Returns:
        The Keras input, float32 `[B, H, W, 3]` in 0..255, and the scaled tensor of that shape.

    Raises:
        UserError: the shape is not that of a colour image.
    """
    input_shape = tuple(input_shape)
    if len(input_shape) != 3 or input_shape[2] != 3 or min(input_shape[:2]) < 1:
        raise UserError(f"input shape {input_shape}: a network takes (height, width, 3)")
    image = keras.Input(input_shape, name="image", dtype="float32")
    return image, scale_pixels(image)


def scale_pixels(image):
    """Pixels in 0..255 scaled to [-1, 1].

    Plain arithmetic stays in float32 under mixed precision, where a layer would first round the
    pixels; and Keras' Rescaling needs TensorFlow on every backend.
    """
    return image * (1 / 127.5) - 1.0


def check_size(pixels, smallest: int):
    """The pixels `[B, H, W, 3]`, if they are enough for the network.

    Args:
        pixels: what the network sees.
        smallest: the least height and width at which its last map is not empty.

    Raises:
        UserError: one side is below `smallest`.
    """
    if min(pixels.shape[1:3]) < smallest:
        raise UserError(
            f"input shape {tuple(pixels.shape[1:])}: this network takes (height, width, 3) "
            f"with height and width of at least {smallest} pixels"
        )
    return pixels


def grow_heads(features, tasks: Sequence[Task], *, prefix: str = "") -> dict:
    """One linear layer per task on shared features.

    Heads compute in float32 under mixed precision as well, since the losses take logarithms. They
    start close to indifference, whatever the scale of the features: logits near zero, landmarks at
    `MEAN_FACE` (points of other names: at the centre).

    Args:
        features: `[B, F]`.
        tasks: what to predict.
        prefix: what the names of the layers begin with, where a network has heads in several
            places.

    Returns:
        Task name -> `[B, n]`, for landmarks `[B, n, 2]`.
    """
    return {task.name: _head(features, task, prefix) for task in tasks}


def head_output(model: keras.Model, task: Task):
    """What a task's head gives in a model, before a transformer's geometry is taken into account."""
    points = task.kind == "landmarks"
    return model.get_layer(f"{task.name}_points" if points else HEAD_PREFIX + task.name).output


def head_layers(model: keras.Model, task: Task) -> list[keras.Layer]:
    """The layers in which a task's head learns: one, or of labels on several branches one each."""
    name = HEAD_PREFIX + task.name
    parts = [
        layer
        for layer in model.layers
        if layer.name.startswith(BRANCH) and layer.name.endswith(name) and layer.weights
    ]
    return parts or [model.get_layer(name)]


def _head(features, task: Task, prefix: str):
    name = prefix + HEAD_PREFIX + task.name
    if task.kind != "landmarks":
        small = keras.initializers.RandomNormal(stddev=0.01)
        return layers.Dense(task.output_size, kernel_initializer=small, dtype="float32", name=name)(
            features
        )
    start = [value for point in task.labels for value in MEAN_FACE.get(point, (0.0, 0.0))]
    coordinates = layers.Dense(
        task.output_size,
        kernel_initializer="zeros",
        bias_initializer=keras.initializers.Constant(start),
        dtype="float32",
        name=name,
    )(features)
    return layers.Reshape(task.label_shape, dtype="float32", name=f"{prefix}{task.name}_points")(
        coordinates
    )
