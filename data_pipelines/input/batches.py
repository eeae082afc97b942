"""Batches from record sets: an endless shuffled stream for training, stored order for evaluation.

The place of an example in the training stream is a function of the seed alone, and everything
random about it a function of its place. So the step of a training is all that is needed to go on
where it stopped, and each of several workers can take its slice of every batch by itself.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.crop.geometry import Crop, compose, to_crop_coordinates
from data_pipelines.crop.image_headers import image_sizes
from data_pipelines.crop.pixels import compiled, decode_and_crop, traced
from data_pipelines.input.alignment_target import alignment_labels, face_numbers
from data_pipelines.input.augment import (
    Augment,
    RandomCopy,
    adjustment,
    change_colours,
    mirror,
    random_numbers,
    soften,
    ten_crop_patches,
)
from data_pipelines.input.labels import join_distribution, join_ragged, label_places, mirror_labels
from data_pipelines.input.people import (
    batches_of_people,
    class_people,
    has_people,
    identity_labels,
    people_apart,
)
from data_pipelines.input.reading import read_share, share_of
from data_pipelines.input.stream import (
    Source,
    batches_of_rows,
    explain_failure,
    named_failures,
    stored_stream,
)
from data_pipelines.input.view import View
from data_pipelines.tasks import Task

__all__ = [
    "Source",
    "evaluation_batches",
    "explain_failure",
    "named_failures",
    "training_batches",
    "unsharded",
]

_STORED = 2**40  # more examples than any split holds


def training_batches(
    sources: Sequence[Source],
    tasks: Sequence[Task],
    view: View,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    worker: tuple[int, int] = (0, 1),
):
    """An endless stream of training batches, the same for the same arguments.

    Every epoch of a source holds each of its examples once, in an order of its own; batches run
    across the ends of epochs. Where sources ask for several images of a person, the order is that
    of `samplers.OfPeople`. What stands in a batch is read where it lies, by each worker its share.

    Args:
        sources: where examples come from, mixed by their weights.
        tasks: the model's tasks; what a source does not label is unknown.
        view: what the network is shown of a face.
        augment: random changes.
        batch_size: examples per step, over all workers.
        seed: the seed of order and augmentation.
        start_step: steps to leave out, of which nothing is read.
        worker: index of this worker and number of workers; each gets its share of every batch, see
            `reading.share_of`.

    Returns:
        `tf.data.Dataset` of dicts: `image` float32 `[B, h, w, 3]` in 0..255, `filename` string
        `[B]`, `transform` float32 `[B, 2, 3]` from crop to source pixels, `source` int32 `[B]`,
        `labels`: task name to int32 (multilabel, multiclass; -1 unknown) or float32 (NaN unknown; of a
        distribution, where a source stores one class, all votes are for that).

    Raises:
        UserError: there is nothing to read, a worker has no share, files are damaged, or a crop or
            change makes no sense.
    """
    import tensorflow as tf

    prepare = preparation(sources, tasks, view, augment, seed)
    begin, end = share_of(batch_size, *worker)
    order = batches_of_people if sources[0].images_per_person else batches_of_rows
    stream = read_share(order(sources, seed, batch_size, start_step), sources, (begin, end))

    def prepare_share(step, batch):
        return prepare(step * batch_size + tf.range(begin, end, dtype=tf.int64), batch)

    stream = stream.map(
        as_written(prepare_share), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return unsharded(stream.prefetch(tf.data.AUTOTUNE))


def preparation(
    sources: Sequence[Source], tasks: Sequence[Task], view: View, augment: Augment, seed: int
):
    """How a batch of a training stream is made of what is stored.

    Returns:
        A function of the places of examples in the stream, int64 `[B]`, from which with the seed
        all that is random follows, and a pair: serialised examples, and the index of the source of
        each. It returns the dicts of `training_batches`.

    Raises:
        UserError: a crop or change makes no sense, or a source has none of the tasks.
    """
    augment.check()
    assemble, parse = _assembler(tasks, view, stream=True), _parser(sources, tasks)
    move, recolour = _changes(augment, view.crop, compiled)

    def prepare(places, batch):
        numbers = random_numbers(seed, places)
        return recolour(numbers, assemble(parse(*batch), *move(numbers)))

    return prepare


def evaluation_batches(
    source: Source,
    tasks: Sequence[Task],
    view: View,
    *,
    batch_size: int,
    flip: bool = False,
    copy: RandomCopy | None = None,
    start: int = 0,
    ten_crop: float = 0.0,
):
    """The examples of a source once, in stored order, the last batch as long as it is.

    Args:
        source: where examples come from.
        tasks: the model's tasks; what the source does not label is unknown.
        view: what the network is shown of a face.
        batch_size: examples per batch.
        flip: mirror every crop; transforms and labels are those of the mirrored crop, as in
            training.
        copy: change every example at random; what changes follows from the copy and the place of
            the example in the stored split alone. Not together with `flip`.
        start: examples to leave out at the beginning, before anything is decoded.
        ten_crop: show the five patches of `Augment.ten_crop` with such a share, not mirrored, in
            place of the crop: `image` is `[B, 5, H, W, 3]`; `transform` and places in `labels` are
            those of the first patch, the centre. Not together with `flip` and `copy`.

    Returns:
        `tf.data.Dataset` of the same dicts as `training_batches`.

    Raises:
        UserError: there is nothing to read, or a crop, change or displacement makes no sense.
    """
    import tensorflow as tf

    copy = copy or RandomCopy(Augment(), seed=0, number=0)
    copy.augment.check()
    if flip and copy.augment != Augment():
        raise ValueError("flip mirrors examples that are unchanged otherwise")
    # With fewer images, compiling for whole batches and the last one takes longer than it saves.
    make = compiled if source.count > 5_000 else traced
    assemble = _assembler(tasks, view, stream=source.count > 5_000)
    move, recolour = _changes(copy.augment, view.crop, make)
    parse = _parser([source], tasks)
    _, mask = source.select()
    stored = np.arange(source.count) if mask is None else np.flatnonzero(mask)
    batches = stored_stream(source).skip(start).batch(batch_size).enumerate()

    def prepare(number, batch):
        fields = parse(*batch)
        count = tf.shape(fields["image"])[0]
        if ten_crop:
            patches = ten_crop_patches(ten_crop, view.crop.height, view.crop.width)
            shown = [
                assemble(fields, tf.repeat(patch[None], count, axis=0), None)
                for patch in tf.unstack(patches)
            ]
            return shown[0] | {"image": tf.stack([patch["image"] for patch in shown], axis=1)}
        if flip:
            return assemble(fields, mirror(count, view.crop.width), tf.fill([count], True))
        first = start + number * batch_size
        places = tf.gather(stored, first + tf.range(count, dtype=tf.int64))
        numbers = random_numbers(copy.seed, places + copy.number * _STORED)
        return recolour(numbers, assemble(fields, *move(numbers)))

    batches = batches.map(
        as_written(prepare), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    return unsharded(batches.prefetch(tf.data.AUTOTUNE))


def encoded_batches(source: Source, tasks: Sequence[Task], *, batch_size: int):
    """The examples of a source once, in stored order, as they are stored.

    Args:
        source: where examples come from.
        tasks: whose labels are wanted; transforms are left out.
        batch_size: examples per batch.

    Returns:
        `tf.data.Dataset` of dicts: `image` string `[B]`, the encoded images; `filename` string
        `[B]`; `box` float32 `[B, 4]` and `landmarks` float32 `[B, 5, 2]` in pixels, NaN where
        unknown; `labels`, per task those of `evaluation_batches`, landmarks in pixels.

    Raises:
        UserError: there is nothing to read.
    """
    parse = _parser([source], tasks)

    def arrange(serialised, index):
        fields = parse(serialised, index)
        labels = {
            task.name: fields[f"tasks/{task.name}"] for task in tasks if task.kind != "transform"
        }
        return {name: fields[name] for name in ("image", "filename", "box", "landmarks")} | {
            "labels": labels
        }

    return stored_stream(source).batch(batch_size).map(as_written(arrange))


def as_written(function):
    """The function as TensorFlow traces it without AutoGraph, whose rewriting takes seconds."""
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


def unsharded(dataset):
    """The dataset as every worker reads it: they take their slices themselves.

    Sharding by file, which TensorFlow would do, gave each worker another stream.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _changes(augment: Augment, crop: Crop, make):
    """Two functions of random numbers: where crops lie and which are mirrored, and their colours.

    `make` is `compiled`, or `traced` where compiling takes longer than it saves.
    """
    place = make(adjustment, augment)
    colours = [make(soften, augment)] if augment.blur else []
    colours += [make(change_colours, augment)] if augment.colourful else []

    def move(numbers):
        return place(numbers, crop.height, crop.width) if augment.geometric else (None, None)

    def recolour(numbers, elements):
        for change in colours:
            elements["image"] = change(numbers, elements["image"])
        return elements

    return move, recolour


def _parser(sources: Sequence[Source], tasks: Sequence[Task]):
    """A function of serialised examples and source indices that returns fields and raw labels."""
    import tensorflow as tf

    # Transforms follow from the crops; no record holds them.
    tasks = [task for task in tasks if task.kind != "transform"]
    joins, apart = label_places(sources, tasks), people_apart(sources)
    record_sets = [source.records for source in sources]
    stored_kinds = [{(known.name, known.kind) for known in one.tasks} for one in record_sets]
    people = {
        task.name: class_people(sources, task) for task in tasks if has_people(task, record_sets)
    }
    of_classes = {
        task.name: np.array([(task.name, "multiclass") in of for of in stored_kinds])
        for task in tasks
        if task.kind == "distribution"
    }
    spec = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "filename": tf.io.FixedLenFeature([], tf.string),
        "box": tf.io.FixedLenFeature([4], tf.float32),
        "landmarks": tf.io.FixedLenFeature([5, 2], tf.float32),
        "identity": tf.io.FixedLenFeature([], tf.int64),
    }
    for task in tasks:
        if task.kind not in ("landmarks", "distribution") and task.name not in people:
            dtype = tf.float32 if task.label_dtype == "float32" else tf.int64
            spec[f"tasks/{task.name}"] = tf.io.RaggedFeature(dtype)

    def parse(serialised, source):
        fields = tf.io.parse_example(serialised, spec)
        fields["source"] = tf.cast(source, tf.int32)
        number = fields["identity"]
        fields["identity"] = tf.where(number < 0, number, number + tf.gather(apart, source))
        for task in tasks:
            key, places = f"tasks/{task.name}", tf.gather(joins[task.name], source)
            if task.kind == "landmarks":
                # Points that only a detector found place the crop, but nobody labelled them.
                fields[key] = tf.where(places[..., None] < 0, np.nan, fields["landmarks"])
            elif task.name in people:
                fields[key] = identity_labels(people[task.name], fields["identity"])
            elif task.kind == "distribution":
                single = tf.gather(of_classes[task.name], source)
                fields[key] = join_distribution(task, serialised, places, single)
            else:
                fields[key] = join_ragged(task, fields[key], places)
        return fields

    return parse


def _assembler(tasks, view, stream):
    """A function of parsed fields, adjustment and which crops are mirrored that makes a batch."""
    import tensorflow as tf

    make = compiled if stream else traced
    crop, aligned, displacement = view.crop, view.aligned, view.displacement
    if displacement is not None:
        displace = make(adjustment, displacement)
    if aligned is not None:
        align = make(alignment_labels, aligned)
    show = traced(_decode_and_crop, crop, stream=stream)

    def moved(fields, adjust):
        if displacement is None:
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
        image, transform = show(*place, adjust)
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
            "identity": fields["identity"],
            "source": fields["source"],
        }

    return assemble


def _decode_and_crop(crop, image_bytes, box, landmarks, adjust, stream):
    return decode_and_crop(image_bytes, box, landmarks, crop, adjust=adjust, stream=stream)
