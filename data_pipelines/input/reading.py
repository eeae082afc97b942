"""Examples read where they lie: every worker reads what stands in its share of a batch, and no more.

What stands at which place of a training stream is decided by row numbers alone, so it costs nothing
to pass over what others read, or what was read before a run was interrupted.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import RecordFiles
from data_pipelines.input.ending import close_iterators_at_exit
from data_pipelines.input.stream import Source


def share_of(batch_size: int, index: int, workers: int) -> tuple[int, int]:
    """Where the share of a worker, or of a replica, begins and ends among the places of a batch.

    Shares follow one another and differ by one example at most.

    Raises:
        UserError: there is less than one example for each.
    """
    if batch_size < workers or workers < 1:
        raise UserError(f"batch_size {batch_size} is less than one example for each of {workers}")
    return index * batch_size // workers, (index + 1) * batch_size // workers


def read_share(stream, sources: Sequence[Source], share: tuple[int, int]):
    """The examples of a share of every batch.

    Args:
        stream: `tf.data.Dataset` of batches: its number, and a pair: rows of the stored splits, and
            the index of the source of each; int64 `[B]`.
        sources: what is read from.
        share: places in a batch, see `share_of`.

    Returns:
        `tf.data.Dataset` of the number, and a pair: serialised examples, and their sources.

    Raises:
        UserError: files are damaged.
    """
    import tensorflow as tf

    begin, end = share
    reader = _Reader(sources)

    def examples_at(number, places):
        rows, own = (each[begin:end] for each in places)
        examples = tf.numpy_function(reader.read, [rows, own], tf.string)
        return number, (tf.ensure_shape(examples, [end - begin]), own)

    close_iterators_at_exit()
    return stream.map(
        tf.autograph.experimental.do_not_convert(examples_at),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


class _Reader:
    """Serialised examples of several sources, in any order."""

    def __init__(self, sources: Sequence[Source]):
        self._files, self._kept = [], []
        for source in sources:
            split, _ = source.select()
            files = RecordFiles(source.records.shards[split], source.records.frames(split))
            if len(files) != (expected := source.records.splits[split]):
                raise UserError(
                    f"{source.records.path}: {len(files):,} examples of {split!r} where "
                    f"{expected:,} were built; build the records again"
                )
            self._files.append(files)
            self._kept.append(np.full(len(files), None) if source.cache else None)

    def read(self, rows: np.ndarray, sources: np.ndarray) -> np.ndarray:
        """The examples at rows of sources, both int64 `[B]`: bytes, object `[B]`."""
        examples = np.empty(len(rows), object)
        for source in np.unique(sources):
            where = sources == source
            examples[where] = self._of(source, rows[where])
        return examples

    def _of(self, source: int, rows: np.ndarray) -> np.ndarray:
        files, kept = self._files[source], self._kept[source]
        if kept is None:
            return files.read(rows)
        missing = rows[np.equal(kept[rows], None)]
        kept[missing] = files.read(missing)
        return kept[rows]
