"""Batches of features in the place of images: an endless mixed stream, and stored order."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.batches import unsharded
from data_pipelines.input.ending import close_iterators_at_exit
from data_pipelines.input.people import check_people_fit
from data_pipelines.input.reading import share_of
from data_pipelines.input.samplers import COPY, OfPeople, Shuffled, random
from data_pipelines.tasks import Task
from faceattr_tf.features.cache import LABELS


@dataclasses.dataclass(frozen=True)
class Stored:
    """Features on disk, of which a batch's rows are read when it is made.

    Attributes:
        files: per copy the files whose rows are joined along the last axis, see `Cache.features`.
        rows: int `[N]`, the rows of the files that the N examples have.
    """

    files: tuple[tuple[pathlib.Path, ...], ...]
    rows: np.ndarray

    @functools.cached_property
    def width(self) -> int:
        """Features of an example."""
        return sum(np.load(file, mmap_mode="r").shape[-1] for file in self.files[0])

    def read(self, rows, copies) -> np.ndarray:
        """Float32 `[B, F]` of the examples `rows`, each in its copy; both integers `[B]`."""
        stored = self.rows[rows]
        found = np.empty((len(stored), self.width), np.float32)
        for copy in np.unique(copies):
            places = np.flatnonzero(copies == copy)
            begin = 0
            for file in self.files[copy]:
                # Opened for every batch: a map that stays open holds all that was ever read.
                values = np.load(file, mmap_mode="r")[stored[places]]
                found[places, begin : begin + values.shape[-1]] = values
                begin += values.shape[-1]
        return found


@dataclasses.dataclass(frozen=True)
class Features:
    """What a frozen network gives for the N examples of one source, in stored order.

    Attributes:
        features: the features of every copy, on disk; copy 0 is the image itself, the others are
            randomly changed.
        labels: per task of the model `[N, copies + 1, ...]`, int32 or float32, unknown where the
            source does not label it; coordinates are those of the copy's crop.
        filenames: bytes `[N]`.
        identities: int64 `[N]`, the number of the person, -1 where unknown.
        transforms: float32 `[N, copies + 1, 2, 3]`, from crop to source pixels.
    """

    features: Stored
    labels: dict[str, np.ndarray]
    filenames: np.ndarray
    identities: np.ndarray
    transforms: np.ndarray

    @classmethod
    def of(
        cls,
        tasks: Sequence[Task],
        files: Sequence[Sequence[pathlib.Path]],
        copies: Sequence[Sequence[dict]],
        mask,
        places,
    ) -> "Features":
        """The features of a source from those of its stored split.

        Args:
            tasks: the tasks of the model.
            files: for every copy the files whose features are joined, `Cache.features`.
            copies: the blocks of every copy, see `faceattr_tf.features.cache`.
            mask: bool, which of the stored examples the source has; None for all.
            places: per task its row of `data_pipelines.input.labels.label_places`.
        """
        kept = np.ones(sum(len(block["filename"]) for block in copies[0]), bool)
        kept = kept if mask is None else mask

        def gather(name):
            first = copies[0][0][name]
            joined = np.empty((kept.sum(), len(copies), *first.shape[1:]), first.dtype)
            for copy, blocks in enumerate(copies):
                joined[:, copy] = np.concatenate([block[name] for block in blocks])[kept]
            return joined

        def labels_of(task):
            unknown = task.unknown()
            unknown = unknown.astype("int32" if unknown.dtype.kind == "i" else unknown.dtype)
            if LABELS + task.name not in copies[0][0]:
                return np.tile(unknown, (kept.sum(), len(copies), *[1] * unknown.ndim))
            labels = gather(LABELS + task.name)
            if task.kind in ("multiclass", "landmarks"):
                return labels
            if task.kind == "distribution" and labels.ndim == 2:  # stored as single classes
                shares = np.eye(len(task.labels), dtype=np.float32)[labels]
                return np.where(labels[..., None] < 0, unknown, shares)
            return np.where(places[task.name] < 0, unknown, labels[..., places[task.name]])

        return cls(
            features=Stored(tuple(map(tuple, files)), np.flatnonzero(kept)),
            labels={task.name: labels_of(task) for task in tasks},
            # Names of every block are as wide as its longest.
            filenames=np.concatenate([block["filename"] for block in copies[0]])[kept],
            identities=gather("identity")[:, 0],
            transforms=gather("transform"),
        )

    def __len__(self) -> int:
        return len(self.filenames)

    @property
    def copies(self) -> int:
        """Copies of every image, itself among them."""
        return len(self.features.files)

    def images(self) -> np.ndarray:
        """The features of the images themselves, float32 `[N, F]`."""
        rows = np.arange(len(self))
        return self.features.read(rows, np.zeros_like(rows))

    def batch(self, rows, copies) -> dict:
        """The examples `rows` in their copies, both integers `[B]`, as an image's batch."""
        return {
            "image": self.features.read(rows, copies),
            "filename": self.filenames[rows],
            "identity": self.identities[rows],
            "transform": self.transforms[rows, copies],
            "labels": {name: values[rows, copies] for name, values in self.labels.items()},
        }


def feature_batches(
    parts: Sequence[Features],
    weights: Sequence[float],
    *,
    batch_size: int,
    seed: int,
    images_per_person: int = 0,
    start_step: int = 0,
    worker: tuple[int, int] = (0, 1),
):
    """An endless stream of training batches, the same for the same arguments.

    Every epoch of a source holds each of its examples once, in an order of its own; or several
    images of a person stand together, see `samplers.OfPeople`. An example passes through all its
    copies when it is shown as many times, beginning with any of them.

    Args:
        parts: what `extract` gave, one for each source.
        weights: sampling weights of the sources, see `data_pipelines.input.stream`.
        batch_size: examples per step, over all workers.
        seed: seed of order and copies.
        images_per_person: how many images of a person stand together; 0 for any order.
        start_step: the step to begin at.
        worker: index of this worker and number of workers; each gets its share of every batch, see
            `data_pipelines.input.reading.share_of`.

    Returns:
        `tf.data.Dataset` of the dicts of `data_pipelines.input.batches.training_batches`, with the features
        float32 `[B, F]` as `image`.

    Raises:
        UserError: a worker has no share, the batch cannot be divided among people, a source holds
            no examples or knows nobody, or the weights make no sense.
    """
    import tensorflow as tf

    begin, end = share_of(batch_size, *worker)
    check_people_fit(images_per_person, batch_size)
    if not all(map(len, parts)):
        raise UserError("a source of bottlenecks holds no examples to train on")
    size = end - begin
    stream = _Stream(parts, weights, images_per_person, seed)

    def batches():
        for step in itertools.count(start_step):
            yield stream.examples(step * batch_size + begin, size)

    def specification(values):
        dtype = tf.string if values.dtype.kind == "S" else values.dtype
        return tf.TensorSpec((size, *values.shape[1:]), dtype)

    signature = keras.tree.map_structure(specification, stream.examples(0, size))
    close_iterators_at_exit()
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return unsharded(dataset.prefetch(tf.data.AUTOTUNE))


@dataclasses.dataclass(frozen=True)
class EvaluationBatches:
    """The images themselves once, in stored order, the last batch as long as it is.

    Gives, as often as it is gone through, dicts of NumPy arrays like the elements of
    `data_pipelines.input.batches.evaluation_batches`, with the features float32 `[B, F]` as
    `image`.

    Attributes:
        part: the features.
        batch_size: examples of a batch.
    """

    part: Features
    batch_size: int

    def __iter__(self) -> Iterator[dict]:
        for begin in range(0, len(self.part), self.batch_size):
            rows = np.arange(begin, min(begin + self.batch_size, len(self.part)))
            zeros = np.zeros(len(rows), np.int32)
            yield self.part.batch(rows, zeros) | {"source": zeros}


class _Stream:
    """Which examples stand at which place of the endless training stream."""

    def __init__(self, parts: Sequence[Features], weights: Sequence[float], images: int, seed: int):
        self.parts = parts
        if images:
            self.sampler = OfPeople([part.identities for part in parts], weights, images, seed)
        else:
            self.sampler = Shuffled(list(map(len, parts)), weights, seed)
        self.first_copies = [
            random(seed, COPY, source).integers(part.copies, size=len(part))
            for source, part in enumerate(parts)
        ]

    def examples(self, begin: int, count: int) -> dict:
        """The batch at the places `begin` to `begin + count`."""
        sources, rows, shown = self.sampler.at(begin, count)
        batches, places = [], []
        for source in np.unique(sources):
            part, where = self.parts[source], np.flatnonzero(sources == source)
            copies = (self.first_copies[source][rows[where]] + shown[where]) % part.copies
            of_source = {"source": np.full(len(where), source, np.int32)}
            batches.append(part.batch(rows[where], copies) | of_source)
            places.append(where)
        if len(batches) == 1:
            return batches[0]
        order = np.argsort(np.concatenate(places))
        return keras.tree.map_structure(lambda *one: np.concatenate(one)[order], *batches)
