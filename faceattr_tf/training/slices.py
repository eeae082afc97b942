"""Which slice of a recipe's `slices.by` every image is in, and what slices weigh."""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.batches import as_written
from data_pipelines.input.stream import Source
from data_pipelines.tasks import Task, join_labels
from faceattr_tf.configs.slices import Slices
from faceattr_tf.evaluation.slices import (
    ANSWERS,
    answered_labels,
    make_slicings,
    read_slice_labels,
)
from faceattr_tf.experiment import Experiment
from faceattr_tf.losses.slice_weights import SliceWeights
from faceattr_tf.workdir import Workdir

METHODS = ("reweight", "groupdro")

FEWEST = 2
"""Training images that every slice has to have."""


@dataclasses.dataclass(frozen=True)
class Sliced:
    """The slices of a run's images.

    Attributes:
        names: of the slices.
        train: int32, per source of training the slice of every image, -1 for none.
        validation: the same of the images of all sources of validation, one after the other.
        sources: the sources of training.
    """

    names: tuple[str, ...]
    train: tuple[np.ndarray, ...]
    validation: np.ndarray
    sources: tuple[Source, ...]

    @property
    def counts(self) -> np.ndarray:
        """Training images of every slice."""
        numbers = np.concatenate(self.train)
        return np.bincount(numbers[numbers >= 0], minlength=len(self.names))

    def groups(self) -> dict[str, np.ndarray]:
        """Slice -> which images of validation are in it, bool `[N]`."""
        return {name: self.validation == place for place, name in enumerate(self.names)}

    def describe(self, weights: SliceWeights) -> str:
        """The slices, their training images and what one of these weighs at the beginning."""
        values = np.asarray(weights.of_slices())
        parts = [
            f"{name}: {count:,} images, weight {value:.3g}"
            for name, count, value in zip(self.names, self.counts, values, strict=True)
        ]
        unknown = sum(int((numbers < 0).sum()) for numbers in self.train)
        return "; ".join((*parts, f"in no slice: {unknown:,} images, weight 1"))

    def added_to(self, dataset):
        """The training batches with `slice` int32 `[B]`, found by the names of the images.

        Args:
            dataset: of the dicts of `data_pipelines.input.batches.training_batches`.
        """
        import tensorflow as tf

        keys, values = [], []
        for index, (source, numbers) in enumerate(zip(self.sources, self.train, strict=True)):
            stored, mask = source.select()
            names = np.array([os.fsencode(one) for one in source.records.filenames(stored)])
            keys += [b"%d/%s" % (index, name) for name in (names if mask is None else names[mask])]
            values.append(numbers)
        pairs = tf.lookup.KeyValueTensorInitializer(keys, np.concatenate(values))
        table = tf.lookup.StaticHashTable(pairs, -1)

        def add(batch):
            source = tf.strings.as_string(batch["source"])
            return batch | {"slice": table.lookup(source + "/" + batch["filename"])}

        return dataset.map(as_written(add))


def read_slices(experiment: Experiment) -> Sliced | None:
    """The slices of the images of training and validation; None where the recipe names none.

    Labels are read once, and no pixels but for the answers of another run.

    Raises:
        UserError: the slicing, the method or a number makes no sense, or a slice has less than
            `FEWEST` training images.
    """
    config = experiment.recipe.slices
    if not config.by:
        return None
    _check(config)
    train, validation = (tuple(experiment.sources(split)) for split in ("train", "validation"))
    sources = (*train, *validation)
    labels = _joined([read_slice_labels(source) for source in sources], sources)
    answers = None
    if ANSWERS in config.by:
        run = Workdir.open(config.answers)
        answers = _joined([answered_labels(run, source) for source in sources], sources)
    groups = make_slicings([config.by], labels, {}, answers)[config.by].groups
    numbers = np.full(sum(source.count for source in sources), -1, np.int32)
    for place, member in enumerate(groups.values()):
        numbers[member] = place
    *own, rest = np.split(numbers, np.cumsum([source.count for source in train]))
    sliced = Sliced(tuple(groups), tuple(own), rest, train)
    for name, count in zip(sliced.names, sliced.counts, strict=True):
        if count < FEWEST:
            raise UserError(
                f"slices.by {config.by!r}: of the training images {count} is in {name!r}; expected "
                f"{FEWEST} or more in every slice: coarser ones"
            )
    return sliced


def create_weights(config: Slices, sliced: Sliced | None) -> SliceWeights | None:
    """What the slices weigh when training begins, by the recipe's method."""
    if sliced is None:
        return None
    options = {"step_size": config.step_size, "adjustment": config.adjustment}
    more = options if config.method == "groupdro" else {}
    return SliceWeights(sliced.counts, limit=config.limit, **more)


def _check(config: Slices) -> None:
    if config.method not in METHODS:
        raise UserError(f"slices.method {config.method!r} is none of {', '.join(METHODS)}")
    if not config.limit >= 1:
        raise UserError(f"slices.limit {config.limit}: expected 1 or more")
    for name in ("step_size", "adjustment"):
        value = getattr(config, name)
        if not 0 <= value < np.inf:
            raise UserError(f"slices.{name} {value}: expected a number from 0 on")
    if ANSWERS in config.by and not config.answers:
        raise UserError(
            f"slices.by {config.by!r}: name the run that answers, --config.slices.answers=DIR"
        )


def _joined(parts: Sequence[dict], sources: Sequence[Source]) -> dict:
    """The labels of several sources one after the other, as the first one that has a task has it.

    Args:
        parts: per source task -> the task and its labels.
        sources: as many; what one does not label is unknown.
    """
    tasks: dict[str, Task] = {}
    for part in parts:
        tasks = {name: task for name, (task, _) in part.items()} | tasks
    return {
        name: (
            task,
            np.concatenate(
                [
                    _as_labelled(task, part.get(name), source)
                    for part, source in zip(parts, sources, strict=True)
                ]
            ),
        )
        for name, task in tasks.items()
    }


def _as_labelled(task: Task, found: tuple[Task, np.ndarray] | None, source: Source) -> np.ndarray:
    unknown = task.unknown()
    if found is None:
        return np.broadcast_to(unknown, (source.count, *unknown.shape))
    stored, values = found
    try:
        places = np.array(join_labels(stored, task))
    except ValueError as error:
        raise UserError(f"{source.records.path}: {error}") from None
    if task.kind not in ("multilabel", "regression"):
        return values
    return np.where(places < 0, unknown, values[:, places])
