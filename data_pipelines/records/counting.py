"""What is counted in stored records: names, labels, and how large the faces are."""

import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.tasks import CLASS_KINDS, UNKNOWN, Task, most_voted


def count_labels(
    shards: list[str], tasks: tuple[Task, ...]
) -> tuple[list[str], dict[str, list], dict[str, list]]:
    """Filenames in stored order, label counts and statistics of one split.

    Args:
        shards: TFRecord files of the split, in stored order.
        tasks: what is labelled.

    Returns:
        The names, and entries of `RecordSet.label_counts` and `RecordSet.statistics`.
    """
    counted = [task for task in tasks if task.kind in ("multilabel", *CLASS_KINDS)]
    measured = [task for task in tasks if task.kind == "regression"]
    filenames, labels = read_labels(shards, counted + measured)
    counts = {task.name: _label_counts(task, labels[task.name]) for task in counted}
    return filenames, counts, {task.name: _statistics(labels[task.name]) for task in measured}


def read_labels(
    shards: Sequence[str], tasks: Sequence[Task]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Filenames in stored order and, by task, the labels of one split.

    Args:
        shards: TFRecord files of the split, in stored order.
        tasks: whose labels are wanted, as they are stored.
    """
    import tensorflow as tf

    spec = {
        f"tasks/{task.name}": tf.io.FixedLenFeature(
            task.label_shape, tf.float32 if task.label_dtype == "float32" else tf.int64
        )
        for task in tasks
    }
    spec["filename"] = tf.io.FixedLenFeature((), tf.string)
    filenames: list[str] = []
    labels: dict[str, list] = {task.name: [] for task in tasks}
    for serialised in tf.data.TFRecordDataset(list(shards)).batch(512):
        batch = tf.io.parse_example(serialised, spec)
        filenames += map(os.fsdecode, batch["filename"].numpy())
        for task in tasks:
            values = batch[f"tasks/{task.name}"].numpy()
            labels[task.name].append(values.astype(task.label_dtype))
    return filenames, {name: np.concatenate(values) for name, values in labels.items()}


def _statistics(labels: np.ndarray) -> list:
    """`[mean, standard deviation]` per value; 0 and 1 where none is known or all are equal."""
    columns = [column[np.isfinite(column)].astype(np.float64) for column in labels.T]
    return [
        [float(known.mean()), float(known.std()) or 1.0] if known.size else [0.0, 1.0]
        for known in columns
    ]


def _label_counts(task: Task, labels: np.ndarray) -> list:
    if task.kind == "distribution":
        labels = most_voted(labels)
    if task.kind in CLASS_KINDS:
        return np.bincount(labels[labels != UNKNOWN], minlength=len(task.labels)).tolist()
    return np.stack([(labels == 0).sum(0), (labels == 1).sum(0)], axis=1).tolist()


def measure_boxes(shards: list[str]) -> dict:
    """How large the faces of one split are: an entry of `RecordSet.boxes`.

    Args:
        shards: TFRecord files of the split.
    """
    import tensorflow as tf

    from data_pipelines.crop.geometry import known_box
    from data_pipelines.crop.image_headers import image_sizes

    spec = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "box": tf.io.FixedLenFeature((4,), tf.float32),
        "landmarks": tf.io.FixedLenFeature((5, 2), tf.float32),
    }

    def place(data):
        fields = tf.io.parse_example(data, spec)
        box, known = known_box(fields["box"], fields["landmarks"])
        # Only of faces that count: a size may take decoding the picture.
        box, image = tf.boolean_mask(box, known), tf.boolean_mask(fields["image"], known)
        faces = tf.concat([box, tf.cast(image_sizes(image), tf.float32)], axis=1)
        points = tf.reduce_all(tf.math.is_finite(fields["landmarks"]), axis=[1, 2])
        return faces, tf.math.count_nonzero(points)

    place = tf.autograph.experimental.do_not_convert(place)  # which takes longer than it runs
    dataset = tf.data.TFRecordDataset(shards).batch(128).map(place, tf.data.AUTOTUNE)
    faces, landmarks = zip(*dataset.as_numpy_iterator(), strict=True)
    faces = np.concatenate(faces).astype(np.float64)
    left, top, width, height, image_height, image_width = faces.T
    outside = (left < 0) | (top < 0) | (left + width > image_width) | (top + height > image_height)
    sides = {"width": width, "height": height, "longer": np.maximum(width, height)}
    means = {
        f"mean_{name}": float(side.mean()) if side.size else 0.0 for name, side in sides.items()
    }
    counts = {"count": len(faces), "cut": int(outside.sum()), "landmarks": int(sum(landmarks))}
    return {**counts, **means}
