"""Batches from record sets: an endless shuffled stream for training, stored order for evaluation.

The place of an example in the training stream is a function of the seed alone, and everything
random about it a function of its place. So the step of a training is all that is needed to go on
where it stopped, and each of several workers can take its slice of every batch by itself.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.alignment import alignment_labels, check_disturbance, face_numbers
from data_pipelines.augment import (
    Augment,
    adjustment,
    change_colours,
    mirror,
    random_numbers,
    soften,
)
from data_pipelines.errors import UserError
from data_pipelines.geometry import Crop, compose, to_crop_coordinates
from data_pipelines.preprocess import compiled, decode_and_crop, image_sizes
from data_pipelines.stream import (
    Source,
    explain_failure,
    mixed_stream,
    named_failures,
    stored_stream,
)
from data_pipelines.tasks import UNKNOWN, Task, join_labels

__all__ = [
    "Source",
    "evaluation_batches",
    "explain_failure",
    "mirror_labels",
    "named_failures",
    "training_batches",
]


def training_batches(
    sources: Sequence[Source],
    tasks: Sequence[Task],
    crop: Crop,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    worker: tuple[int, int] = (0, 1),
    cache: bool = False,
    aligned: Crop | None = None,
    disturb: Augment | None = None,
):
    """An endless stream of training batches, the same for the same arguments.

    Every epoch of a source holds each of its examples once, in an order of its own; batches run
    across the ends of epochs.

    Args:
        sources: where examples come from, mixed by their weights.
        tasks: the model's tasks; what a source does not label is unknown.
        crop: what the network sees.
        augment: random changes.
        batch_size: examples per step, over all workers.
        seed: of order and augmentation.
        start_step: steps to leave out; they are skipped before anything is decoded.
        worker: index of this worker and number of workers; each gets its slice of every batch.
        cache: keep the encoded records in memory, where reading them again is slow.
        aligned: the crop that a spatial transformer is to make of the network's, whose size it is
            given; labels of the kind `transform` are computed from it, and unknown without it.
        disturb: a random displacement of each face (`shift`, `rotate`, `scale`), which stays the
            same in every epoch, split and run.

    Returns:
        `tf.data.Dataset` of dicts: `image` float32 `[B, h, w, 3]` in 0..255, `filename` string
        `[B]`, `transform` float32 `[B, 2, 3]` from crop to source pixels, `source` int32 `[B]`,
        `labels`: task name to int32 (multilabel, multiclass; -1 unknown) or float32 (NaN unknown).

    Raises:
        UserError: there is nothing to read, the batch cannot be divided among the workers, or a
            crop or change makes no sense.
    """
    import tensorflow as tf

    augment.check()
    assemble = _assembler(tasks, crop, aligned, disturb, stream=True)
    index, workers = worker
    if batch_size < 1 or batch_size % workers:
        raise UserError(f"batch_size {batch_size} cannot be divided evenly among {workers} workers")
    parse = _parser(sources, tasks)
    slice_size = batch_size // workers
    stream = mixed_stream(sources, seed, start_step * batch_size, cache)
    stream = stream.batch(slice_size, drop_remainder=True).enumerate(start_step * workers)
    if workers > 1:
        stream = stream.shard(workers, index)

    place = compiled(adjustment, augment)
    changes = [compiled(soften, augment)] if augment.blur else []
    changes += [compiled(change_colours, augment)] if augment.colourful else []

    def prepare(number, batch):
        numbers = random_numbers(seed, number * slice_size + tf.range(slice_size, dtype=tf.int64))
        adjust = flipped = None
        if augment.geometric:
            adjust, flipped = place(numbers, crop.height, crop.width)
        elements = assemble(parse(*batch), adjust, flipped)
        for change in changes:
            elements["image"] = change(numbers, elements["image"])
        return elements

    return _finish(stream.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True))


def evaluation_batches(
    source: Source,
    tasks: Sequence[Task],
    crop: Crop,
    *,
    batch_size: int,
    flip: bool = False,
    aligned: Crop | None = None,
    disturb: Augment | None = None,
):
    """The examples of a source once, in stored order, the last batch as long as it is.

    Args:
        source: where examples come from.
        tasks: the model's tasks; what the source does not label is unknown.
        crop: what the network sees.
        batch_size: examples per batch.
        flip: mirror every crop; transforms and labels are those of the mirrored crop, as in
            training.
        aligned: as in training.
        disturb: as in training.

    Returns:
        `tf.data.Dataset` of the same dicts as `training_batches`.

    Raises:
        UserError: there is nothing to read, or a crop or displacement makes no sense.
    """
    import tensorflow as tf

    # With fewer images, compiling for whole batches and the last one takes longer than it saves.
    assemble = _assembler(tasks, crop, aligned, disturb, stream=source.count > 5_000)
    parse = _parser([source], tasks)
    batches = stored_stream(source).batch(batch_size)

    def prepare(*batch):
        fields = parse(*batch)
        adjust = flipped = None
        if flip:
            count = tf.shape(fields["image"])[0]
            adjust, flipped = mirror(count, crop.width), tf.fill([count], True)
        return assemble(fields, adjust, flipped)

    return _finish(batches.map(prepare, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True))


def _finish(dataset):
    import tensorflow as tf

    options = tf.data.Options()
    # Workers take their slices themselves; sharding by file would give each another stream.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _parser(sources: Sequence[Source], tasks: Sequence[Task]):
    """A function of serialised examples and source indices that returns fields and raw labels."""
    import tensorflow as tf

    # Transforms follow from the crops; no record holds them.
    tasks = [task for task in tasks if task.kind != "transform"]
    joins = _joins(sources, tasks)
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "filename": tf.io.FixedLenFeature([], tf.string),
        "box": tf.io.FixedLenFeature([4], tf.float32),
        "landmarks": tf.io.FixedLenFeature([5, 2], tf.float32),
    }
    for task in tasks:
        if task.kind != "landmarks":
            dtype = tf.float32 if task.label_dtype == "float32" else tf.int64
            spec[f"tasks/{task.name}"] = tf.io.RaggedFeature(dtype)

    def parse(serialised, source):
        fields = tf.io.parse_example(serialised, spec)
        fields["source"] = tf.cast(source, tf.int32)
        for task in tasks:
            key, places = f"tasks/{task.name}", tf.gather(joins[task.name], source)
            if task.kind == "landmarks":
                # Points that only a detector found place the crop, but nobody labelled them.
                fields[key] = tf.where(places[..., None] < 0, np.nan, fields["landmarks"])
            else:
                fields[key] = _joined(task, fields[key], places)
        return fields

    return parse


def _joins(sources, tasks) -> dict[str, np.ndarray]:
    """Per task and source, where the stored labels stand: `[sources, labels]`, -1 for unknown."""
    joins = {}
    for task in tasks:
        rows = []
        for source in sources:
            stored = {known.name: known for known in source.records.tasks}.get(task.name)
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


def _joined(task, stored, places):
    """Labels of the model's task, `[B, n]` or `[B]`, from those stored in ragged rows."""
    import tensorflow as tf

    integer = task.label_dtype != "float32"
    unknown = tf.constant(UNKNOWN if integer else np.nan, tf.int32 if integer else tf.float32)
    stored = tf.cast(stored, unknown.dtype).to_tensor(unknown)
    # A column of unknowns in front takes the labels that a source does not have.
    stored = tf.pad(stored, [[0, 0], [1, 0]], constant_values=unknown)
    labels = tf.gather(stored, places + 1, batch_dims=1)
    return labels[:, 0] if task.kind == "multiclass" else labels


def _assembler(tasks, crop, aligned, disturb, stream):
    """A function of parsed fields, adjustment and which crops are mirrored that makes a batch."""
    import tensorflow as tf

    make = compiled if stream else functools.partial
    crop.check(resolved=True)
    if disturb is not None:
        check_disturbance(disturb)
        displace = make(adjustment, disturb)
    if aligned is not None:
        aligned = dataclasses.replace(aligned, height=crop.height, width=crop.width)
        aligned.check(resolved=True)
        align = make(alignment_labels, aligned)

    def moved(fields, adjust):
        if disturb is None or not disturb.geometric:
            return adjust
        displaced, _ = displace(face_numbers(fields["filename"]), crop.height, crop.width)
        return displaced if adjust is None else compose(displaced, adjust)

    def theta(fields, transform, flipped):
        if aligned is None:
            return tf.fill(tf.shape(transform), np.float32(np.nan))
        place = (image_sizes(fields["image"]), fields["box"], fields["landmarks"])
        return align(*place, transform, flipped)

    def assemble(fields, adjust, flipped):
        place = (fields["image"], fields["box"], fields["landmarks"])
        adjust = moved(fields, adjust)
        image, transform = decode_and_crop(*place, crop, adjust=adjust, stream=stream)
        labels = {}
        for task in tasks:
            if task.kind == "transform":
                label = theta(fields, transform, flipped)
            else:
                label = fields[f"tasks/{task.name}"]
            if task.kind == "landmarks":
                label = to_crop_coordinates(label, transform, crop.height, crop.width)
            labels[task.name] = label if flipped is None else mirror_labels(task, label, flipped)
        return {
            "image": image,
            "filename": fields["filename"],
            "transform": transform,
            "labels": labels,
            "source": fields["source"],
        }

    return assemble


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
