"""What workers read: their share of every batch, however many there are, and nothing beside it."""

import collections
import itertools
import os
import pathlib
import shutil

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import RecordFiles
from data_pipelines.input.reading import read_share, share_of
from data_pipelines.input.stream import Source, batches_of_rows
from data_pipelines.records.counting import read_labels
from data_pipelines.records.record_set import RecordSet

BATCH = 10


@pytest.fixture
def reads(monkeypatch):
    """Bytes of every read of a file of records."""
    found, read = [], os.pread

    def counted(*arguments):
        data = read(*arguments)
        found.append(len(data))
        return data

    monkeypatch.setattr(os, "pread", counted)
    return found


def examples(sources, steps, worker=(0, 1), start=0):
    """The examples that a worker reads in so many steps, step by step."""
    stream = batches_of_rows(sources, seed=5, batch_size=BATCH, start_step=start)
    shares = read_share(stream, sources, share_of(BATCH, *worker)).take(steps)
    return [batch.tolist() for _, (batch, _) in shares.as_numpy_iterator()]


def test_shares_are_all_of_a_batch_and_differ_by_one_at_most():
    shares = [share_of(10, index, 4) for index in range(4)]
    assert shares == [(0, 2), (2, 5), (5, 7), (7, 10)]
    with pytest.raises(UserError, match="batch_size 3 is less than one example for each of 4"):
        share_of(3, 0, 4)


def joined(batches):
    return list(itertools.chain(*batches))


def test_a_worker_reads_its_share_and_no_more(celeba_records, reads):
    sources = [Source(celeba_records)]
    whole = examples(sources, 12)
    size = sum(map(len, joined(whole)))
    for workers in (2, 3):
        parts = []
        for index in range(workers):
            reads.clear()
            parts.append(examples(sources, 12, (index, workers)))
            # What is read ahead of the last step is a worker's own share, too.
            assert sum(reads) < 1.6 * size / workers
        assert [joined(step) for step in zip(*parts, strict=True)] == whole


def test_a_run_goes_on_with_more_or_fewer_workers_on_the_same_examples(celeba_records, lfw_records):
    sources = [Source(celeba_records), Source(lfw_records, "test")]
    whole, begin = examples(sources, 9), 0
    for workers, steps in ((2, 4), (1, 2), (3, 3)):
        parts = [examples(sources, steps, (index, workers), begin) for index in range(workers)]
        for step, together in enumerate(zip(*parts, strict=True)):
            assert collections.Counter(joined(together)) == collections.Counter(whole[begin + step])
        begin += steps


def test_examples_that_are_kept_are_not_read_in_every_epoch(celeba_records, reads):
    source = Source(celeba_records, cache=True)
    kept = examples([source], 3 * source.count // BATCH)
    # What two batches that are read at the same time have in common may be read for both.
    size = sum(length for shard in celeba_records.frames("train") for length, _ in shard)
    assert sum(reads) < 1.5 * size
    assert kept == examples([Source(celeba_records)], 3 * source.count // BATCH)


def test_frames_say_where_examples_lie_and_what_they_were(celeba_records, tmp_path):
    shards, frames = celeba_records.shards["train"], celeba_records.frames("train")
    rows = np.arange(sum(map(len, frames)))[::-1]
    known, walked = RecordFiles(shards, frames).read(rows), RecordFiles(shards).read(rows)
    assert known.tolist() == walked.tolist() and len(known) == celeba_records.splits["train"]
    (tmp_path / "a").write_bytes(b"longer than one example")
    with pytest.raises(UserError, match="a: not a whole file of records"):
        RecordFiles([tmp_path / "a"], [[(3, 0)]])

    data = bytearray(pathlib.Path(shards[0]).read_bytes())
    data[12 + frames[0][0][0] // 2] ^= 1
    (tmp_path / "b").write_bytes(data)
    damaged = RecordFiles([tmp_path / "b"], frames[:1])
    assert len(damaged.read(np.arange(1, len(damaged)))) == len(damaged) - 1
    with pytest.raises(ValueError, match="b: not as it was built"):
        damaged.read(np.arange(1))
    with pytest.raises(UserError, match="b: not a whole file of records"):
        read_labels([str(tmp_path / "b")], [])


def test_what_lies_beside_records_and_is_damaged_is_one_line(celeba_records, tmp_path):
    copy = shutil.copytree(celeba_records.path, tmp_path / "copy")
    for name in ("frames.json", "filenames.json"):
        (copy / name).write_text("{")
    records = RecordSet.load(copy)
    for read in (records.frames, records.filenames):
        with pytest.raises(UserError, match=".json is missing or not theirs; build"):
            read("train")
