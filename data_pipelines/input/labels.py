"""Labels of a model's tasks from those that sources store: joined by name, the rest unknown."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.stream import Source
from data_pipelines.tasks import IDENTITY, UNKNOWN, Task, join_labels


def label_places(sources: Sequence[Source], tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    """Per task and source, where the stored labels stand: `[sources, labels]`, -1 for unknown.

    Of a multiclass task, `[sources, 1]`: 0 where it is stored, or people may be of its classes.
    A distribution stands there too where it is stored as multiclass, see `join_distribution`.

    Raises:
        UserError: a source has a task of that name with other classes, or none of the tasks.
    """
    joins = {}
    for task in tasks:
        rows = []
        for source in sources:
            stored = {known.name: known for known in source.records.tasks}.get(task.name)
            if task.name == IDENTITY and not stored:
                rows.append([0 if source.records.knows(task) else -1])
                continue
            try:
                row = join_labels(stored, task) if stored else [-1] * len(task.labels)
            except ValueError as error:
                raise UserError(f"{source.records.path}: {error}") from None
            rows.append([min(row)] if task.kind == "multiclass" else row)
        joins[task.name] = np.array(rows, np.int64)
    for index, source in enumerate(sources):
        if joins and all((rows[index] < 0).all() for rows in joins.values()):
            raise UserError(
                f"{source.records.path}: none of its tasks ("
                + ", ".join(task.name for task in source.records.tasks)
                + f") has labels of the model's ({', '.join(task.name for task in tasks)})"
            )
    return joins


def join_ragged(task: Task, stored, places):
    """Labels of the model's task, `[B, n]` or `[B]`, from those that records store in ragged rows.

    Args:
        task: the model's task; not one of landmarks.
        stored: ragged `[B, (n)]`, as parsed.
        places: int64 `[B, n]`, for each example the row of `label_places` of its source.
    """
    import tensorflow as tf

    integer = task.label_dtype != "float32"
    unknown = tf.constant(UNKNOWN if integer else np.nan, tf.int32 if integer else tf.float32)
    stored = tf.cast(stored, unknown.dtype).to_tensor(unknown)
    # A column of unknowns in front takes the labels that a source does not have.
    stored = tf.pad(stored, [[0, 0], [1, 0]], constant_values=unknown)
    labels = tf.gather(stored, places + 1, batch_dims=1)
    return labels[:, 0] if task.kind == "multiclass" else labels


def join_distribution(task: Task, serialised, places, of_classes):
    """Shares of votes `[B, n]`; where a single class is stored, all of them are for this one.

    Args:
        task: the model's task, a distribution.
        serialised: the records `[B]`.
        places: as of `join_ragged`.
        of_classes: bool `[B]`, whether the example's source stores a class.
    """
    import tensorflow as tf

    def stored(where, dtype):
        key = f"tasks/{task.name}"
        kept = tf.where(where, serialised, b"")
        return tf.io.parse_example(kept, {key: tf.io.RaggedFeature(dtype)})[key]

    nowhere = tf.where(of_classes[:, None], np.int64(-1), places)
    votes = join_ragged(task, stored(~of_classes, tf.float32), nowhere)
    classes = stored(of_classes, tf.int64).to_tensor(UNKNOWN, shape=[None, 1])
    shares = tf.where(classes < 0, np.nan, tf.one_hot(classes[:, 0], len(task.labels)))
    return tf.where(of_classes[:, None], shares, votes)


def mirror_labels(task: Task, labels, flipped):
    """Labels `[B, ...]` of crops of which those in `flipped`, bool `[B]`, are mirrored.

    Coordinates of landmarks have followed the transform already; left and right points swap.
    """
    import tensorflow as tf

    if not task.mirror:
        return labels
    if task.kind == "multiclass":
        swapped = tf.gather(
            tf.constant((*task.mirror, UNKNOWN)), tf.where(labels < 0, len(task.mirror), labels)
        )
        return tf.where(flipped, swapped, labels)
    swapped = tf.gather(labels, np.argsort(task.mirror), axis=1)
    return tf.where(tf.reshape(flipped, [-1] + [1] * (len(labels.shape) - 1)), swapped, labels)
