"""The order in which records are used.

The place of an example in the training stream is a function of the seed alone, and what is shuffled
are the numbers of rows: a stream can begin at any place before anything is read.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet

SHUFFLED = 200_000
"""Rows that are shuffled at a time: all of CelebA's training part.

A larger set is shuffled within a moving window of this size, over the order in which records were
written, which TensorFlow Datasets has shuffled already.
"""

MIXED = 1_000
"""Of so many successive examples, or a power of ten times as many, every source gives its share."""

LARGEST_MIXED = 1_000_000
"""The smallest share is one of so many examples."""

SHARE_ERROR = 0.05
"""By how much of itself a share may differ from what the weights say."""


@dataclasses.dataclass
class Source:
    """A part of a record set to read from.

    Attributes:
        records: the record set.
        split: "train", "validation", "test" or whatever the set has.
        validation_share: see `RecordSet.select`.
        seed: the seed of the choice of the validation share.
        by_person: see `RecordSet.select`.
        of_training: see `RecordSet.select`.
        weight: share of this source in the training stream, relative to the other sources.
        cache: keep the encoded examples that were read for training in memory, where reading them
            again is slow.
        images_per_person: how many images of a person stand together in the training stream, the
            same for all of its sources, see `samplers.OfPeople`; 0: images stand in any order.
    """

    records: RecordSet
    split: str = "train"
    validation_share: float = 0.0
    seed: int = 0
    by_person: bool = False
    of_training: bool = False
    weight: float = 1.0
    cache: bool = False
    images_per_person: int = 0

    def select(self) -> tuple[str, np.ndarray | None]:
        """The stored split and which of its examples belong to the source, None for all."""
        rule = (self.validation_share, self.seed, self.by_person, self.of_training)
        return self.records.select(self.split, *rule)

    @property
    def count(self) -> int:
        """Number of examples."""
        stored, mask = self.select()
        return self.records.splits[stored] if mask is None else int(mask.sum())


def stored_stream(source: Source):
    """Pairs of a serialised example of the source and 0, in stored order."""
    import tensorflow as tf

    split, mask = source.select()
    _check_any(source)
    dataset = tf.data.TFRecordDataset(list(source.records.shards[split]), buffer_size=2**20)
    # Files that hold fewer end in an error, and not in an epoch without examples that never ends.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(source.records.splits[split]))
    if mask is not None:
        # By the thousand: a Python-defined function per record costs more than reading it.
        chosen = tf.data.Dataset.from_tensor_slices(mask)
        dataset = tf.data.Dataset.zip(dataset, chosen).batch(1024)
        dataset = dataset.map(tf.boolean_mask).unbatch()
    return tf.data.Dataset.zip(dataset, _only_source())


def _check_any(source: Source) -> None:
    if not source.count:
        raise UserError(f"{source.records.path}: split {source.split!r} holds no examples")


def _shuffled(source: Source, seed: tuple[int, int], start: int):
    """The endless stream of the rows of a source, in its stored split, from number `start` on."""
    import tensorflow as tf

    _check_any(source)
    count, (_, mask) = source.count, source.select()
    if mask is None:
        dataset = tf.data.Dataset.range(count)
    else:
        dataset = tf.data.Dataset.from_tensor_slices(np.flatnonzero(mask))

    def epoch(number):
        key = tf.random.experimental.stateless_fold_in(tf.constant(seed, tf.int64), number)
        order = tf.random.stateless_uniform([], key, 0, tf.int64.max, tf.int64)
        # Else the order would depend on the program's global seed too.
        tf.compat.v1.set_random_seed(1)
        return dataset.shuffle(min(count, SHUFFLED), order, reshuffle_each_iteration=False)

    epochs = tf.data.Dataset.range(start // count, tf.int64.max)
    return epochs.flat_map(tf.autograph.experimental.do_not_convert(epoch)).skip(start % count)


def batches_of_rows(sources: Sequence[Source], seed: int, batch_size: int, start_step: int):
    """What stands in batches: every epoch of a source holds each of its examples once.

    Args:
        sources: where examples come from.
        seed: the seed of the order.
        batch_size: examples per step, over all workers.
        start_step: steps to leave out.

    Returns:
        `tf.data.Dataset` of the step and a pair: rows of the stored splits, and the index of the
        source of each, int64 `[B]`.

    Raises:
        UserError: a source holds no examples, or the weights make no sense.
    """
    start = start_step * batch_size
    if len(sources) == 1:
        stream = _shuffled(sources[0], (seed, 0), start).batch(batch_size, drop_remainder=True)
        # For the whole batch: whatever is done row by row costs more than shuffling.
        stream = stream.map(lambda rows: (rows, rows * 0))
    else:
        stream = _mixed(sources, seed, start).batch(batch_size, drop_remainder=True)
    return stream.enumerate(start_step)


def _mixed(sources: Sequence[Source], seed: int, start: int):
    """The endless stream of (row, index of its source) from place `start` on."""
    import tensorflow as tf

    pattern = mixing_pattern([source.weight for source in sources])

    def order(block):
        key = tf.random.experimental.stateless_fold_in(tf.constant([seed, -1], tf.int64), block)
        return tf.random.experimental.stateless_shuffle(pattern, key)

    whole, rest = divmod(start, len(pattern))
    passed = whole * np.bincount(pattern, minlength=len(sources))
    with tf.device("CPU:0"):  # where the stream below draws the same order
        begun = order(tf.constant(whole, tf.int64))[:rest]
    passed += np.bincount(begun, minlength=len(sources))
    streams = [
        _shuffled(source, (seed, index), int(passed[index])) for index, source in enumerate(sources)
    ]
    blocks = tf.data.Dataset.range(whole, tf.int64.max)
    choices = blocks.flat_map(lambda block: tf.data.Dataset.from_tensor_slices(order(block)))
    choices = choices.skip(rest)
    return tf.data.Dataset.zip(tf.data.Dataset.choose_from_datasets(streams, choices), choices)


def _only_source():
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(np.int64(0)).repeat()


def mixing_pattern(weights: Sequence[float]) -> np.ndarray:
    """The sources of so many successive examples, in proportion to their weights.

    They are `MIXED` or, where a small source would get none of these or clearly more or less than
    its share, ten times as many, and so on.

    Raises:
        UserError: a weight is negative or not finite, all are zero, or one is too small beside the
            others.
    """
    weights = np.array(weights, float)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise UserError(f"weights {weights.tolist()} of the sources must be positive numbers")
    shares, length = weights / weights.sum(), MIXED
    while length <= LARGEST_MIXED:
        bounds = np.round(np.cumsum(shares) * length).astype(np.int64)
        counts = np.diff(bounds, prepend=0)
        if (np.abs(counts - shares * length) <= SHARE_ERROR * shares * length).all():
            return np.repeat(np.arange(len(weights)), counts)
        length *= 10
    raise UserError(
        f"weights {weights.tolist()} of the sources: with the smallest, a source is hardly ever "
        f"shown; expected 0, or 1 of {LARGEST_MIXED:,} examples at least (data.weights)"
    )


def named_failures(batches: Iterable, sources: Sequence[Source]) -> Iterator:
    """The batches, with a failure to read or decode turned into one that names the file.

    Raises:
        UserError: an image or a file of records is damaged.
    """
    try:
        yield from batches
    except read_failures() as error:
        raise explain_failure(error, sources) from error


def read_failures() -> tuple[type, ...]:
    """What TensorFlow raises when an image or a file of records is damaged, cut, or too long."""
    import tensorflow as tf

    errors = tf.errors
    return errors.InvalidArgumentError, errors.DataLossError, errors.FailedPreconditionError


def explain_failure(error: Exception, sources: Sequence[Source]) -> Exception:
    """A UserError that names the damaged image or file of records, or else the error itself.

    TensorFlow's own error does not know which file it was, so the sources are read again.
    """
    import tensorflow as tf

    from data_pipelines.crop.image_headers import decode

    spec = {key: tf.io.FixedLenFeature([], tf.string) for key in ("image", "filename")}
    for source in sources:
        split, _ = source.select()
        count = 0
        for shard in source.records.shards[split]:
            try:
                for record in tf.data.TFRecordDataset(shard):
                    count += 1
                    fields = tf.io.parse_single_example(record, spec)
                    try:
                        decode(fields["image"])
                    except tf.errors.InvalidArgumentError:
                        name = fields["filename"].numpy().decode(errors="replace")
                        return UserError(f"{shard}: image {name} cannot be decoded")
            except tf.errors.OpError:
                return UserError(f"{shard}: not a whole file of records; build the records again")
        if count != (expected := source.records.splits[split]):
            return UserError(
                f"{source.records.path}: {count:,} examples of {split!r} where {expected:,} were "
                "built; build the records again"
            )
    return error
