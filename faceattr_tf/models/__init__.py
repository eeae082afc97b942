"""Networks that take pixels and predict tasks: one function each, listed in `MODELS`."""

import inspect
from collections.abc import Sequence

import keras

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.models import cascade_cnn, resnet_small, tcdcn

MODELS = {
    "cascade_cnn": cascade_cnn.build,
    "resnet_small": resnet_small.build,
    "tcdcn": tcdcn.build,
}
"""Name -> `build(tasks, input_shape, **options) -> keras.Model`."""

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
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}; there are: {', '.join(MODELS)}")
    known = [
        parameter.name
        for parameter in inspect.signature(MODELS[name]).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    for option in options:
        if option not in known:
            raise UserError(f"model {name!r} has no option {option!r}; it has: {', '.join(known)}")
    return MODELS[name](tuple(tasks), tuple(input_shape), **options)
