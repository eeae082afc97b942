"""The outputs of a model over batches of images."""

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from data_pipelines.tasks import Task


def forward_function(model) -> Callable:
    """A compiled `images -> {task: outputs}` in inference mode that takes any batch size.

    Compiling takes seconds, so a caller that predicts repeatedly (validation) keeps it.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def forward(images):
        return model(images, training=False)

    return forward


def predict_outputs(
    model, batches: Iterable[dict], flip: bool = False, tasks: Sequence[Task] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, list[str]]:
    """Runs a model over batches and gathers everything that metrics need, in the batches' order.

    Args:
        model: a `keras.Model`, or what `forward_function` made of one.
        batches: the elements of `data_pipelines.input.batches.evaluation_batches`; where they show
            several patches of an image, the outputs are averaged over these.
        flip: average the outputs with those of the mirrored image. Needs `tasks`.
        tasks: the model's tasks, whose `mirror` says how labels swap in a mirrored image.

    Returns:
        outputs: task name -> float32, as the model gives them (logits, values, coordinates).
        labels: task name -> the labels of the batches.
        transforms: float32 `[N, 2, 3]`, crop pixel -> source pixel.
        filenames: N strings.
    """
    import keras

    from faceattr_tf.evaluation.metrics import average_mirrored

    if flip and not tasks:
        raise ValueError("flip averaging needs the tasks, to know which labels swap")
    forward = forward_function(model) if isinstance(model, keras.Model) else model
    outputs, labels, transforms, filenames = [], [], [], []
    for batch in batches:
        shown = batch["image"]
        # Of several patches: [B, P, H, W, 3].
        patches = [shown[:, i] for i in range(shown.shape[1])] if len(shown.shape) == 5 else [shown]
        results = []
        for images in patches:
            result = _to_numpy(forward(images))
            if flip:
                mirrored = _to_numpy(forward(images[:, :, ::-1]))
                for task in tasks:
                    pair = result[task.name], mirrored[task.name]
                    result[task.name] = average_mirrored(task, *pair)
            results.append(result)
        outputs.append({name: np.mean([one[name] for one in results], axis=0) for name in result})
        labels.append({name: np.asarray(label) for name, label in batch["labels"].items()})
        transforms.append(np.asarray(batch["transform"], np.float32))
        filenames += map(os.fsdecode, np.asarray(batch["filename"]))
    if not outputs:
        return {}, {}, np.zeros((0, 2, 3), np.float32), []
    return _concatenate(outputs), _concatenate(labels), np.concatenate(transforms), filenames


def _to_numpy(outputs: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def _concatenate(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
