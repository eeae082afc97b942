"""Batches that workers of a `tf.data` service prepare."""

import collections

import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from data_pipelines.input.service import service_batches
from data_pipelines.input.stream import Source
from data_pipelines.input.view import View

VIEW = View(Crop("none", height=8, width=8))


@pytest.fixture(scope="module")
def address():
    """A dispatcher and two workers in this process."""
    import tensorflow as tf

    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    config = service.WorkerConfig(dispatcher.target.split("://")[1])
    workers = [service.WorkerServer(config) for _ in range(2)]
    yield dispatcher.target
    for server in (*workers, dispatcher):
        server._stop()


def test_without_failures_all_examples_arrive_equally_often(address, celeba_records):
    sources = [
        Source(celeba_records, "train", validation_share=0.25, of_training=True, weight=2.0),
        Source(celeba_records, "test", weight=1.0),
    ]
    tasks, augment = celeba_records.tasks[:1], Augment(rotate=20)
    batches = service_batches(address, sources, tasks, VIEW, augment, batch_size=5, seed=0)
    seen = [collections.Counter(), collections.Counter()]
    for batch in batches.as_numpy_iterator():
        assert batch["image"].shape == (5, 8, 8, 3)
        for name, source in zip(batch["filename"], batch["source"], strict=True):
            seen[source][name] += 1
        shown = [found.total() / source.count for found, source in zip(seen, sources, strict=True)]
        if min(shown) > 3:
            break
    for found, source in zip(seen, sources, strict=True):
        assert len(found) == source.count
        # A worker may have begun the next pass when another still has a file of the one before.
        assert max(found.values()) - min(found.values()) <= 2


def test_where_nobody_answers_is_one_line(celeba_records):
    for address, words in (
        ("localhost:1", "expected grpc://HOST"),
        ("grpc://localhost:1", "no dis"),
    ):
        with pytest.raises(UserError, match=words):
            service_batches(
                address, [Source(celeba_records)], (), VIEW, Augment(), batch_size=5, seed=0
            )
