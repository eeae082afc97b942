"""What is counted in stored records: names, labels, and how large the faces are."""

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import CLASS_KINDS, UNKNOWN, Task, most_voted

_SIDES = ("width", "height", "longer")


def count_shard(
    records: Sequence[Mapping], sizes: Sequence[tuple[int, int]], tasks: Sequence[Task]
) -> dict:
    """What is counted of the records of one file, as JSON writes it.

    Args:
        records: at least one, see `FaceBuilder.record`; their images are not looked at.
        sizes: height and width of the image of each.
        tasks: what is labelled.

    Returns:
        `filenames` and `identities` in stored order; `labels`, an entry of
        `RecordSet.label_counts`; `moments`, regression task -> `[count, mean, sum of squared
        differences from it]` per value, over the examples that know it; `boxes`, see
        `_measure_boxes`.
    """

    def labels(task: Task) -> np.ndarray:
        return np.stack([record["tasks"][task.name] for record in records])

    counted = [task for task in tasks if task.kind in ("multilabel", *CLASS_KINDS)]
    measured = [task for task in tasks if task.kind == "regression"]
    return {
        "filenames": [os.fsdecode(record["filename"]) for record in records],
        "identities": [int(record["identity"]) for record in records],
        "labels": {task.name: _label_counts(task, labels(task)) for task in counted},
        "moments": {task.name: _moments(labels(task)) for task in measured},
        "boxes": _measure_boxes(records, np.array(sizes)),
    }


def sum_counts(shards: Sequence[dict]) -> dict:
    """What `count_shard` found in all files of a split, together.

    Args:
        shards: what it found in each, in stored order, on which the last digits of means depend.

    Returns:
        `filenames` and `identities`, and the entries of `RecordSet.label_counts`, `.statistics` and
        `.boxes` as `label_counts`, `statistics` and `boxes`.
    """

    def total(place, name):
        return sum(np.array(each[place][name]) for each in shards)

    first = shards[0]
    boxes = {name: total("boxes", name).item() for name in first["boxes"]}
    for side in _SIDES:
        boxes[f"mean_{side}"] = boxes.pop(side) / max(1, boxes["count"])
    return {
        "filenames": [name for each in shards for name in each["filenames"]],
        "identities": np.concatenate([each["identities"] for each in shards]),
        "label_counts": {task: total("labels", task).tolist() for task in first["labels"]},
        "statistics": {
            task: _statistics([each["moments"][task] for each in shards])
            for task in first["moments"]
        },
        "boxes": boxes,
    }


def read_labels(
    shards: Sequence[str], tasks: Sequence[Task]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Filenames in stored order and, by task, the labels of one split.

    Args:
        shards: TFRecord files of the split, in stored order.
        tasks: whose labels are wanted, as they are stored.

    Raises:
        UserError: a file is damaged.
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
    for serialised in _serialised(shards):
        batch = tf.io.parse_example(serialised, spec)
        filenames += map(os.fsdecode, batch["filename"].numpy())
        for task in tasks:
            values = batch[f"tasks/{task.name}"].numpy()
            labels[task.name].append(values.astype(task.label_dtype))
    return filenames, {name: np.concatenate(values) for name, values in labels.items()}


def _serialised(shards: Sequence[str]) -> Iterator:
    """The examples of files in stored order, 512 at a time."""
    import tensorflow as tf

    for shard in shards:
        try:
            yield from tf.data.TFRecordDataset(shard).batch(512)
        except tf.errors.DataLossError:
            raise UserError(
                f"{shard}: not a whole file of records; build the records again"
            ) from None


def _moments(labels: np.ndarray) -> list:
    columns = [column[np.isfinite(column)].astype(np.float64) for column in labels.T]
    return [
        [known.size, known.mean(), ((known - known.mean()) ** 2).sum()] if known.size else [0, 0, 0]
        for known in columns
    ]


def _statistics(moments: list) -> list:
    """`[mean, standard deviation]` per value; 0 and 1 where none is known or all are equal.

    Moments are joined pair by pair (Chan, Golub and LeVeque, Updating formulae and a pairwise
    algorithm for computing sample variances, 1979, equation 2.1b).
    """
    count, mean, squares = np.array(moments[0], float).T
    for each in moments[1:]:
        more, other, further = np.array(each, float).T
        whole = np.maximum(count + more, 1)
        squares = squares + further + (other - mean) ** 2 * count * more / whole
        mean = mean + (other - mean) * more / whole
        count = count + more
    deviation = np.sqrt(squares / np.maximum(count, 1))
    return [
        [average, spread or 1.0]
        for average, spread in zip(mean.tolist(), deviation.tolist(), strict=True)
    ]


def _label_counts(task: Task, labels: np.ndarray) -> list:
    if task.kind == "distribution":
        labels = most_voted(labels)
    if task.kind in CLASS_KINDS:
        return np.bincount(labels[labels != UNKNOWN], minlength=len(task.labels)).tolist()
    return np.stack([(labels == 0).sum(0), (labels == 1).sum(0)], axis=1).tolist()


def _measure_boxes(records: Sequence[Mapping], sizes: np.ndarray) -> dict:
    """How large the faces of one file are: an entry of `RecordSet.boxes`, of sides their sums."""
    from data_pipelines.crop.geometry import known_box

    landmarks = np.stack([record["landmarks"] for record in records])
    boxes, known = known_box(np.stack([record["box"] for record in records]), landmarks)
    known = known.numpy()
    left, top, width, height = boxes.numpy()[known].astype(np.float64).T
    image_height, image_width = sizes[known].T
    outside = (left < 0) | (top < 0) | (left + width > image_width) | (top + height > image_height)
    complete = np.isfinite(landmarks).all(axis=(1, 2))
    counts = {"count": known.sum(), "cut": outside.sum(), "landmarks": complete.sum()}
    sides = (width, height, np.maximum(width, height))
    return {name: int(count) for name, count in counts.items()} | {
        name: float(side.sum()) for name, side in zip(_SIDES, sides, strict=True)
    }
