"""Which places of a picture an answer depends on: by occlusion, and by gradients (Grad-CAM).

Neither is a proof of cause. Occlusion shows the network pictures that it never saw in training;
gradient maps show where the features lie that push an answer, as coarse as the map is.
"""

import itertools
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data_pipelines.tasks import ALIGNMENT, CLASS_KINDS, Task
from faceattr_tf.evaluation.class_metrics import has_many_classes

GRID = 10
"""Cells of an occlusion map along either side of the crop."""

SQUARE = 3
"""Cells along a side of what is hidden at a time."""


def explained_tasks(tasks: Sequence[Task]) -> list[Task]:
    """The tasks whose answers have a place: attributes, and classes unless there are many."""
    kinds = ("multilabel", *CLASS_KINDS)
    return [task for task in tasks if task.kind in kinds and not has_many_classes(task)]


def logits_of(tasks: Sequence[Task], outputs: dict):
    """What a model says of every label of some tasks, one behind the other: `[B, L]`.

    Args:
        tasks: what `explained_tasks` gave.
        outputs: of the model, task name -> `[B, n]`.
    """
    from keras import ops

    return ops.concatenate([outputs[task.name] for task in tasks], axis=-1)


def occlusion_maps(score: Callable, images: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """What logits lose when a square of the picture is hidden, slid over the whole of it.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks" (ECCV 2014),
    section 4.2. Hidden is what gets the picture's own mean colour.

    Args:
        score: images float32 `[B, H, W, 3]` -> logits `[B, L]`.
        images: in 0..255.
        signs: `[B, L]`, what every logit is multiplied by: 1 where yes is explained, -1 where no
            is, 0 where nothing is.

    Returns:
        float32 `[B, L, GRID, GRID]`: for every cell the mean loss over the squares that hide it, in
        logits.
    """
    edges = [np.linspace(0, side, GRID + 1).round().astype(int) for side in images.shape[1:3]]
    colour = images.mean(axis=(1, 2), keepdims=True)
    whole = np.asarray(score(images))
    total = np.zeros((*signs.shape, GRID, GRID), np.float32)
    squares = np.zeros((GRID, GRID), np.float32)
    for place in itertools.product(range(GRID - SQUARE + 1), repeat=2):
        cells = tuple(slice(start, start + SQUARE) for start in place)
        pixels = [
            slice(edge[cut.start], edge[cut.stop]) for edge, cut in zip(edges, cells, strict=True)
        ]
        hidden = images.copy()
        hidden[:, *pixels] = colour
        loss = signs * (whole - np.asarray(score(hidden)))
        total[:, :, *cells] += loss[..., None, None]
        squares[cells] += 1
    return total / squares


def gradient_maps(
    model, layer: str, tasks: Sequence[Task], images: np.ndarray, signs: np.ndarray
) -> np.ndarray:
    """Grad-CAM: the maps of a layer, each weighted by the mean gradient of a logit to it.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization" (ICCV 2017), equations 1 and 2. Behind a spatial transformer the maps are those of
    what it cut out, and are moved back to where that lies.

    Args:
        model: what a workdir's `load_model` gave.
        layer: a layer of it that gives maps `[B, h, w, C]`.
        tasks: what `explained_tasks` gave.
        images: float32 `[B, H, W, 3]` in 0..255.
        signs: `[B, L]` as `occlusion_maps` takes them.

    Returns:
        float32 `[B, L, h, w]`, nowhere negative.
    """
    import keras
    import tensorflow as tf

    network = keras.Model(model.input, [model.get_layer(layer).output, model.output])
    images = tf.convert_to_tensor(images, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(images)  # a frozen model has no variables that would be
        maps, outputs = network(images, training=False)
        explained = tf.unstack(logits_of(tasks, outputs) * signs, axis=1)
    heat = []
    for logits, sign in zip(explained, signs.T, strict=True):
        if not sign.any():
            heat.append(tf.zeros(maps.shape[:-1]))
            continue
        weights = tf.reduce_mean(tape.gradient(logits, maps), axis=(1, 2), keepdims=True)
        heat.append(tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)))
    heat = tf.stack(heat, axis=1).numpy()
    theta = outputs.get(ALIGNMENT.name)
    return heat if theta is None else _moved_back(heat, theta.numpy())


def _moved_back(heat: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Maps `[B, L, h, w]` of what transforms `[B, 2, 3]` cut out, over the input; 0 elsewhere."""
    rows, columns = heat.shape[2:]
    inner = np.array([[2 / columns, 0, 1 / columns - 1], [0, 2 / rows, 1 / rows - 1], [0, 0, 1]])
    moved = np.empty_like(heat)
    for one, transform, target in zip(heat, theta, moved, strict=True):
        matrix = np.linalg.inv(inner) @ np.vstack([transform, [0, 0, 1]]) @ inner
        for label, values in enumerate(one):
            target[label] = cv2.warpAffine(values, matrix[:2], (columns, rows))
    return moved


def draw_heat(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map over a grey copy of a picture: the brighter and warmer, the more of its largest value.

    Args:
        pixels: `[H, W, 3]` in 0..255.
        heat: `[h, w]`; what is negative is drawn as 0.

    Returns:
        uint8 RGB `[H, W, 3]`.
    """
    height, width = pixels.shape[:2]
    heat = np.maximum(np.asarray(heat, np.float32), 0)
    heat = cv2.resize(heat / (heat.max() or 1), (width, height), interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap(np.rint(255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = 0.75 * heat[..., None]
    grey = np.asarray(pixels, np.float32).mean(axis=-1, keepdims=True)
    return np.clip((1 - share) * grey + share * colour[..., ::-1], 0, 255).astype(np.uint8)
