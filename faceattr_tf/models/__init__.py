"""Networks that take pixels and predict tasks: one function each, listed in `MODELS`."""

import inspect
from collections.abc import Callable, Sequence

import keras

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.models import cascade_cnn, resnet_small, tcdcn
from faceattr_tf.models.heads import image_input

MODELS = {
    "cascade_cnn": cascade_cnn.build,
    "resnet_small": resnet_small.build,
    "tcdcn": tcdcn.build,
}
"""Name -> `build(pixels, tasks, **options) -> {task name: output}` on pixels in [-1, 1]."""

__all__ = ["MODELS", "build_model"]


def build_model(
    name: str, tasks: Sequence[Task], input_shape: Sequence[int], **options
) -> keras.Model:
    """Builds a network of `MODELS` with one head per task.

    Args:
        name: a key of `MODELS`.
        tasks: what the network predicts.
        input_shape: `(height, width, 3)`.
        **options: keyword arguments of the network's `build`.

    Returns:
        A functional model named `name`. Input `image`: float32 `[B, H, W, 3]` in 0..255. Output: a
        dict from task name to logits `[B, n]` (multilabel, multiclass), values `[B, n]`
        (regression) or normalised coordinates `[B, n, 2]` (landmarks), all float32.

    Raises:
        UserError: the name or an option does not exist, or the input is too small for the network.
    """
    build = _find(MODELS, "model", name, options)
    image, pixels = image_input(input_shape)
    return keras.Model(image, build(pixels, tuple(tasks), **options), name=name)


def _find(registry: dict, what: str, name: str, options: dict) -> Callable:
    """The entry of a registry, after a check of its options."""
    if name not in registry:
        raise UserError(f"there is no {what} {name!r}; there are: {', '.join(registry)}")
    known = [
        parameter.name
        for parameter in inspect.signature(registry[name]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            message = f"{what} {name!r} has no option {option!r}; it has: {', '.join(known)}"
            raise UserError(message)
    return registry[name]
