"""Training batches that other processes prepare, by the service of `tf.data`.

It is for accelerators that wait for a host whose processors are too few. Files of records are given
out to the service's workers one by one, so that without failures every pass shows each example
once; that is all that is promised. The order follows from no seed, a run that goes on begins a new
pass, and of a file whose worker failed the rest is missed until the next pass.
"""

import re
import socket
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import RecordFiles
from data_pipelines.input.augment import Augment
from data_pipelines.input.batches import as_written, preparation, unsharded
from data_pipelines.input.stream import Source, mixing_pattern
from data_pipelines.input.view import View
from data_pipelines.tasks import Task

SHUFFLED = 10_000
"""Encoded examples that a worker of the service holds to shuffle them; files come in any order."""

LOST = (
    "the order of images follows from no seed, a run that goes on begins a new pass through the "
    "records, and where a worker of the service fails, images are missed in that pass"
)
"""What training gives up for it."""


def service_batches(
    address: str,
    sources: Sequence[Source],
    tasks: Sequence[Task],
    view: View,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    job: str = "",
):
    """An endless stream of training batches from a service.

    Args:
        address: of the service's dispatcher, `grpc://HOST:PORT`; its workers see the files of
            records under the same names.
        sources: where examples come from, mixed by their weights; by chance, so that shares are
            right on average, and images of a person do not stand together.
        tasks: the model's tasks.
        view: what the network is shown of a face.
        augment: random changes.
        batch_size: examples of a batch.
        seed: of random changes, together with what they change.
        job: a name, the same for all processes that share one pass through the records; each has
            one of its own where it is empty.

    Returns:
        `tf.data.Dataset` of the dicts of `batches.training_batches`.

    Raises:
        UserError: nobody answers there, images are to stand by person, or there is nothing to read.
    """
    import tensorflow as tf

    _check_answers(address)
    prepare = preparation(sources, tasks, view, augment, seed)

    def prepared(serialised, index):
        # In every pass others, and no two workers the same.
        numbers = tf.random.uniform(tf.shape(serialised), maxval=2**31, dtype=tf.int64)
        numbers += tf.strings.to_hash_bucket_fast(serialised, 2**31) * 2**31
        return prepare(numbers, (serialised, index))

    batches = _mixed(sources).batch(batch_size, drop_remainder=True)
    batches = batches.map(as_written(prepared), num_parallel_calls=tf.data.AUTOTUNE)
    service = tf.data.experimental.service
    batches = batches.apply(
        service.distribute(service.ShardingPolicy.DYNAMIC, address, job_name=job or None)
    )
    return unsharded(batches.prefetch(tf.data.AUTOTUNE))


def _check_answers(address: str) -> None:
    """Raises UserError where nobody listens, for whom TensorFlow would wait without a word."""
    found = re.fullmatch(r"grpc://\[?([^\[\]/\s]+?)\]?:(\d{1,5})", address)
    if not found:
        raise UserError(f"data.service {address!r}: expected grpc://HOST:PORT of a dispatcher")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"data.service {address}: no dispatcher answers there: {error}") from None


def _mixed(sources: Sequence[Source]):
    """The endless stream of pairs of a serialised example and the index of its source."""
    import tensorflow as tf

    shares = np.bincount(mixing_pattern([source.weight for source in sources]))
    used = np.flatnonzero(shares)
    streams = [_passes(sources[index], int(index)) for index in used]
    if len(streams) == 1:
        return streams[0]
    weights = (shares[used] / shares.sum()).tolist()
    return tf.data.Dataset.sample_from_datasets(streams, weights)


def _passes(source: Source, index: int):
    """Passes through a source: its files in any order, and their examples shuffled."""
    import tensorflow as tf

    split, mask = source.select()
    if not source.count:
        raise UserError(f"{source.records.path}: split {source.split!r} holds no examples")
    paths = list(source.records.shards[split])
    frames = source.records.frames(split)
    counts = np.array([len(one) for one in frames or (RecordFiles([path]) for path in paths)])
    chosen = tf.constant(np.ones(counts.sum(), bool) if mask is None else mask)

    def examples(path, begin, count):
        own = tf.data.Dataset.from_tensor_slices(chosen[begin : begin + count])
        pairs = tf.data.Dataset.zip(tf.data.TFRecordDataset(path, buffer_size=2**20), own)
        pairs = pairs.filter(lambda _, taken: taken)
        return pairs.map(lambda data, _: (data, tf.constant(index, tf.int64)))

    files = tf.data.Dataset.from_tensor_slices((paths, np.cumsum(counts) - counts, counts))
    files = files.shuffle(len(paths)).flat_map(as_written(examples))
    return files.shuffle(min(SHUFFLED, source.count)).repeat()
