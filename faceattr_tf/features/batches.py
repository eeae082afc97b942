"""Batches of features in the place of images: an endless mixed stream, and stored order."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import keras
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.batches import unsharded
from data_pipelines.input.stream import MIXED, mixing_pattern
from data_pipelines.tasks import Task
from faceattr_tf.features.cache import LABELS

# What random numbers are for: each use has a stream of its own.
_BLOCK, _EPOCH, _COPY = range(3)


@dataclasses.dataclass(frozen=True)
class Features:
    """What a frozen network gives for the N examples of one source, in stored order.

    Attributes:
        features: float32 `[N, copies + 1, F]`; copy 0 is the image itself, the others are randomly
            changed.
        labels: per task of the model `[N, copies + 1, ...]`, int32 or float32, unknown where the
            source does not label it; coordinates are those of the copy's crop.
        filenames: bytes `[N]`.
        transforms: float32 `[N, copies + 1, 2, 3]`, from crop to source pixels.
    """

    features: np.ndarray
    labels: dict[str, np.ndarray]
    filenames: np.ndarray
    transforms: np.ndarray

    @classmethod
    def of(
        cls, tasks: Sequence[Task], copies: Sequence[Sequence[dict]], mask, places
    ) -> "Features":
        """The features of a source from those of its stored split.

        Args:
            tasks: of the model.
            copies: the shards of every copy, see `faceattr_tf.features.cache`.
            mask: bool, which of the stored examples the source has; None for all.
            places: per task its row of `data_pipelines.input.labels.label_places`.
        """
        kept = np.ones(sum(len(shard["features"]) for shard in copies[0]), bool)
        kept = kept if mask is None else mask

        def gather(name):
            first = copies[0][0][name]
            joined = np.empty((kept.sum(), len(copies), *first.shape[1:]), first.dtype)
            for copy, shards in enumerate(copies):
                begin = stored = 0
                for shard in shards:
                    rows = shard[name][kept[stored : stored + len(shard[name])]]
                    joined[begin : begin + len(rows), copy] = rows
                    begin, stored = begin + len(rows), stored + len(shard[name])
            return joined

        def labels_of(task):
            unknown = task.unknown()
            unknown = unknown.astype("int32" if unknown.dtype.kind == "i" else unknown.dtype)
            if LABELS + task.name not in copies[0][0]:
                return np.tile(unknown, (kept.sum(), len(copies), *[1] * unknown.ndim))
            labels = gather(LABELS + task.name)
            if task.kind in ("multiclass", "landmarks"):
                return labels
            return np.where(places[task.name] < 0, unknown, labels[..., places[task.name]])

        return cls(
            features=gather("features"),
            labels={task.name: labels_of(task) for task in tasks},
            filenames=np.concatenate([shard["filename"] for shard in copies[0]])[kept],
            transforms=gather("transform"),
        )

    def batch(self, rows, copies) -> dict:
        """The examples `rows` in their copies, as `evaluation_batches` gives them."""
        return {
            "image": self.features[rows, copies],
            "filename": self.filenames[rows],
            "transform": self.transforms[rows, copies],
            "labels": {name: values[rows, copies] for name, values in self.labels.items()},
        }


def training_batches(
    parts: Sequence[Features],
    weights: Sequence[float],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    worker: tuple[int, int] = (0, 1),
):
    """An endless stream of training batches, the same for the same arguments.

    Every epoch of a source holds each of its examples once, in an order of its own. An example
    passes through all its copies in as many epochs, beginning with any of them.

    Args:
        parts: what `extract` gave, one for each source.
        weights: of the sources, see `data_pipelines.input.stream`.
        batch_size: examples per step, over all workers.
        seed: of order and copies.
        start_step: the step to begin at.
        worker: index of this worker and number of workers; each gets its slice of every batch.

    Returns:
        `tf.data.Dataset` of the dicts of `data_pipelines.input.batches.training_batches`, with the features
        float32 `[B, F]` as `image`.

    Raises:
        UserError: the batch cannot be divided among the workers, a source holds no examples, or the
            weights make no sense.
    """
    import tensorflow as tf

    index, workers = worker
    if batch_size < 1 or batch_size % workers:
        raise UserError(f"batch_size {batch_size} cannot be divided evenly among {workers} workers")
    if not all(len(part.features) for part in parts):
        raise UserError("a source of bottlenecks holds no examples to train on")
    size = batch_size // workers
    stream = _Stream(parts, weights, seed)

    def batches():
        for step in itertools.count(start_step):
            yield stream.examples(step * batch_size + index * size, size)

    def specification(values):
        dtype = tf.string if values.dtype.kind == "S" else values.dtype
        return tf.TensorSpec((size, *values.shape[1:]), dtype)

    signature = keras.tree.map_structure(specification, stream.examples(0, size))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return unsharded(dataset.prefetch(tf.data.AUTOTUNE))


def evaluation_batches(part: Features, batch_size: int) -> list[dict]:
    """The images themselves once, in stored order, the last batch as long as it is.

    Returns:
        Dicts of NumPy arrays like the elements of `data_pipelines.input.batches.evaluation_batches`, with
        the features float32 `[B, F]` as `image`. Nothing is copied.
    """
    source = np.zeros(len(part.features), np.int32)
    slices = [slice(begin, begin + batch_size) for begin in range(0, len(source), batch_size)]
    return [part.batch(rows, 0) | {"source": source[rows]} for rows in slices]


class _Stream:
    """Which examples stand at which place of the endless training stream."""

    def __init__(self, parts: Sequence[Features], weights: Sequence[float], seed: int):
        self.parts, self.seed = parts, seed
        self.pattern = mixing_pattern(weights)
        self.shares = np.bincount(self.pattern, minlength=len(parts))
        self.first_copies = [
            self._random(_COPY, source).integers(part.features.shape[1], size=len(part.features))
            for source, part in enumerate(parts)
        ]
        self.sources_of = functools.lru_cache(maxsize=8)(self._sources_of)
        self.order = functools.lru_cache(maxsize=2 * len(parts))(self._order)

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *purpose))

    def _sources_of(self, block: int) -> np.ndarray:
        """The sources of `MIXED` successive places, each with its exact share."""
        return self._random(_BLOCK, block).permutation(self.pattern)

    def _order(self, source: int, epoch: int) -> np.ndarray:
        return self._random(_EPOCH, source, epoch).permutation(len(self.parts[source].features))

    def examples(self, begin: int, count: int) -> dict:
        """The batch at the places `begin` to `begin + count`."""
        first, last = begin // MIXED, (begin + count - 1) // MIXED
        sources = np.concatenate([self.sources_of(block) for block in range(first, last + 1)])
        skipped = begin - first * MIXED
        passed = first * self.shares + np.bincount(sources[:skipped], minlength=len(self.parts))
        sources = sources[skipped : skipped + count]
        batches, places = [], []
        for source in np.unique(sources):
            where = np.flatnonzero(sources == source)
            rows, copies = self._rows(source, passed[source] + np.arange(len(where)))
            of_source = {"source": np.full(len(where), source, np.int32)}
            batches.append(self.parts[source].batch(rows, copies) | of_source)
            places.append(where)
        if len(batches) == 1:
            return batches[0]
        order = np.argsort(np.concatenate(places))
        return keras.tree.map_structure(lambda *one: np.concatenate(one)[order], *batches)

    def _rows(self, source: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and copies of successive examples of a source, by their numbers in its stream."""
        part = self.parts[source].features
        epochs, places = np.divmod(numbers, len(part))
        rows = np.concatenate(
            [self.order(source, epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )
        return rows, (self.first_copies[source][rows] + epochs) % part.shape[1]
