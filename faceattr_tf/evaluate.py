"""Evaluation of a trained model: its outputs over a whole split, then every figure of the report.

Nothing is fitted here: thresholds and temperatures come from the workdir, where training chose
them on validation data.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data_pipelines.tasks import Task


def forward_function(model) -> Callable:
    """A compiled `images -> {task: outputs}` in inference mode that any batch size can use.

    Compiling takes seconds, so a caller that predicts repeatedly (validation) keeps it.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def forward(images):
        return model(images, training=False)

    return forward


def predict_outputs(
    model, batches: Iterable[dict], flip: bool = False, tasks: Sequence[Task] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, list[str]]:
    """Runs a model over batches and gathers everything that metrics need, in the batches' order.

    Args:
        model: a `keras.Model`, or what `forward_function` made of one.
        batches: the elements of `data_pipelines.input.evaluation_batches`.
        flip: average the outputs with those of the mirrored image. Needs `tasks`.
        tasks: the model's tasks, whose `mirror` says how labels swap in a mirrored image.

    Returns:
        outputs: task name -> float32, as the model gives them (logits, values, coordinates).
        labels: task name -> the labels of the batches.
        transforms: float32 `[N, 2, 3]`, crop pixel -> source pixel.
        filenames: N strings.
    """
    import keras

    from faceattr_tf import metrics

    if flip and not tasks:
        raise ValueError("flip averaging needs the tasks, to know which labels swap")
    forward = forward_function(model) if isinstance(model, keras.Model) else model
    outputs, labels, transforms, filenames = [], [], [], []
    for batch in batches:
        images = batch["image"]
        result = _to_numpy(forward(images))
        if flip:
            mirrored = _to_numpy(forward(images[:, :, ::-1]))
            result |= {
                task.name: metrics.average_mirrored(task, result[task.name], mirrored[task.name])
                for task in tasks
                if task.name in result
            }
        outputs.append(result)
        labels.append({name: np.asarray(label) for name, label in batch["labels"].items()})
        transforms.append(np.asarray(batch["transform"], np.float32))
        filenames += [name.decode(errors="replace") for name in np.asarray(batch["filename"])]
    if not outputs:
        return {}, {}, np.zeros((0, 2, 3), np.float32), []
    return _concatenate(outputs), _concatenate(labels), np.concatenate(transforms), filenames


def _to_numpy(outputs: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def _concatenate(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
