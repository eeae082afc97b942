"""Networks that take pixels and predict tasks: one function each, listed in `MODELS`."""

import functools
import inspect
from collections.abc import Callable, Sequence

import keras
from keras import ops

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.layers.spatial_transformer import SpatialTransformer, transform_matrix
from faceattr_tf.models import cascade_cnn, keras_applications, lonet, resnet_small, tcdcn, vgg_face
from faceattr_tf.models.heads import image_input
from faceattr_tf.models.keras_applications import BACKBONES, auxiliary_name

MODELS = {
    "cascade_cnn": cascade_cnn.build,
    "resnet_small": resnet_small.build,
    "tcdcn": tcdcn.build,
    "vgg_face": vgg_face.build,
    **{name: functools.partial(keras_applications.build, name) for name in BACKBONES},
}
"""Name -> `build(pixels, tasks, **options) -> {task name: output}` on pixels in [-1, 1]."""

TRANSFORMERS = {"lonet": lonet.build}
"""Name -> `build(pixels, *, family, **options)`, the parameters `[B, P]` of a transform."""

TRANSFORMER = "transformer"
"""Name of the layer that samples the aligned crop, in models that have one."""

__all__ = ["BACKBONES", "MODELS", "TRANSFORMER", "TRANSFORMERS", "build_model"]


def build_model(
    name: str,
    tasks: Sequence[Task],
    input_shape: Sequence[int],
    *,
    transformer: str = "",
    transformer_options: dict | None = None,
    **options,
) -> keras.Model:
    """Builds a network of `MODELS` with one head per task.

    Args:
        name: a key of `MODELS`.
        tasks: what the network predicts.
        input_shape: `(height, width, 3)`.
        transformer: a key of `TRANSFORMERS`: what it finds is sampled by a spatial transformer, of
            which the network sees the result (FaceSTN, section II); empty for none.
        transformer_options: keyword arguments of the transformer's `build`.
        **options: keyword arguments of the network's `build`.

    Returns:
        A functional model named `name`. Input `image`: float32 `[B, H, W, 3]` in 0..255. Output: a
        dict from task name to logits `[B, n]` (multilabel, multiclass), values `[B, n]`
        (regression), normalised coordinates `[B, n, 2]` in the input (landmarks) or the affine
        transform `[B, 2, 3]` of the transformer (`ALIGNMENT`), all float32. An auxiliary classifier
        adds its own under `auxiliary_name`.

    Raises:
        UserError: the name or an option does not exist, the input is too small for the network, or
            Keras is set to channels first.
    """
    check_keras("image_data_format")
    build = _find(MODELS, "model", name, options)
    image, pixels = image_input(input_shape)
    predicted = [task for task in tasks if task.kind != ALIGNMENT.kind]
    if not transformer:
        if len(predicted) < len(tasks):
            raise UserError(f"task {ALIGNMENT.name!r}: only a model with a transformer predicts it")
        return keras.Model(image, build(pixels, predicted, **options), name=name)
    transformer_options = dict(transformer_options or {})
    locate = _find(TRANSFORMERS, "transformer", transformer, transformer_options)
    family = transformer_options.get("family", "affine")
    parameters = locate(pixels, **transformer_options)
    sampled = SpatialTransformer(family=family, name=TRANSFORMER)([pixels, parameters])
    theta = transform_matrix(parameters, family, aspect=input_shape[1] / input_shape[0])
    outputs = build(sampled, predicted, **options)
    for task in predicted:
        for name_of_output in (task.name, auxiliary_name(task.name)):
            if task.kind == "landmarks" and name_of_output in outputs:
                points = outputs[name_of_output]
                moved = ops.matmul(points, ops.transpose(theta[:, :, :2], (0, 2, 1)))
                outputs[name_of_output] = moved + theta[:, None, :, 2]
    return keras.Model(image, {**outputs, ALIGNMENT.name: theta}, name=name)


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
