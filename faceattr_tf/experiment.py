"""A recipe together with its records: what a run learns, from what, for how long."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input import Source
from data_pipelines.records import RecordSet
from data_pipelines.tasks import Task, join_labels
from faceattr_tf.configs.base import Recipe


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe together with the records it reads.

    Attributes:
        recipe: what the user asked for.
        record_sets: the records, in the order of `recipe.data.records`.
        tasks: what the model learns.
        phase_ends: for each phase the step at which it ends, counted from the start of the run.
        steps_per_epoch: steps in which as many examples are seen as the training split holds.
    """

    recipe: Recipe
    record_sets: tuple[RecordSet, ...]
    tasks: tuple[Task, ...]
    phase_ends: tuple[int, ...]
    steps_per_epoch: int

    @classmethod
    def of(cls, recipe: Recipe) -> "Experiment":
        """Loads the records and resolves tasks and lengths.

        Raises:
            UserError: records, tasks or phases do not fit together.
        """
        data = recipe.data
        if not data.records:
            raise UserError("no records: give --records=FOLDER, as faceattr-data build wrote it")
        if not recipe.phases:
            raise UserError(f"recipe {recipe.name!r} has no phases")
        record_sets = tuple(RecordSet.load(path) for path in data.records)
        if data.weights and len(data.weights) != len(record_sets):
            raise UserError(
                f"data.weights has {len(data.weights)} values for {len(record_sets)} record sets"
            )
        examples = sum(
            records.count("train", data.validation_share, recipe.seed) for records in record_sets
        )
        steps_per_epoch = max(1, round(examples / data.batch_size))
        ends, end = [], 0
        for phase in recipe.phases:
            end += phase.steps or round(phase.epochs * steps_per_epoch)
            ends.append(end)
        if not end:
            raise UserError(f"recipe {recipe.name!r}: its phases have no steps and no epochs")
        tasks = select_tasks(recipe, record_sets)
        return cls(recipe, record_sets, tasks, tuple(ends), steps_per_epoch)

    def sources(self, split: str) -> list[Source]:
        """One source of examples per record set."""
        data = self.recipe.data
        weights = data.weights or [
            records.count("train", data.validation_share, self.recipe.seed)
            for records in self.record_sets
        ]
        return [
            Source(records, split, data.validation_share, self.recipe.seed, weight)
            for records, weight in zip(self.record_sets, weights, strict=True)
        ]

    def phase_at(self, step: int) -> int:
        """Index of the phase that the step belongs to."""
        return next(index for index, end in enumerate(self.phase_ends) if step < end)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input."""
        return (self.recipe.data.crop.height, self.recipe.data.crop.width, 3)

    def majority(self) -> dict[str, list[int]]:
        """Per task the classes that the training splits hold most of; the honest floor."""
        return {
            name: np.argmax(counts, axis=-1).reshape(-1).tolist()
            for name, counts in self.label_counts().items()
        }

    def label_counts(self) -> dict[str, np.ndarray]:
        """Per task the training labels: `[labels, 2]` no/yes, or `[classes]`."""
        counts = {}
        for task in self.tasks:
            if task.kind not in ("multilabel", "multiclass"):
                continue
            width = (len(task.labels), 2) if task.kind == "multilabel" else (len(task.labels),)
            total = np.zeros(width, np.int64)
            for records, places in self._places(task):
                of_split = records.label_counts["train"][task.name]
                for index, place in places:
                    total[index] += of_split[place]
            counts[task.name] = total
        return counts

    def statistics(self, task: Task) -> np.ndarray:
        """Mean and standard deviation `[n, 2]` of a regression task's training labels.

        They are those of the first record set that has the value.
        """
        values = np.tile([0.0, 1.0], (len(task.labels), 1))
        for records, places in reversed(self._places(task)):
            for index, place in places:
                values[index] = records.statistics["train"][task.name][place]
        return values

    def _places(self, task: Task) -> list[tuple[RecordSet, list[tuple[int, int]]]]:
        """The record sets with this task, and for each label that they have (index, index there)."""
        found = []
        for records in self.record_sets:
            for stored in (known for known in records.tasks if known.name == task.name):
                try:
                    joined = join_labels(stored, task)
                except ValueError as error:
                    raise UserError(f"{records.path}: {error}") from None
                found.append((records, [pair for pair in enumerate(joined) if pair[1] >= 0]))
        return found

    def metadata(self) -> dict:
        """What evaluation, prediction and export have to know of the run."""
        return {
            "tasks": [task.to_dict() for task in self.tasks],
            "crop": self.recipe.data.crop.to_dict(),
            "input_shape": list(self.input_shape),
            "majority": self.majority(),
            "records": [
                {
                    "path": records.path,
                    "name": records.name,
                    "fingerprint": records.description.get("fingerprint"),
                    "licence": records.description.get("licence"),
                    "splits": records.splits,
                }
                for records in self.record_sets
            ],
        }


def select_tasks(recipe: Recipe, record_sets: Sequence[RecordSet]) -> tuple[Task, ...]:
    """The tasks that the recipe names, as the record sets know them.

    Raises:
        UserError: no record set has the task, or the task has no such label.
    """
    if not recipe.tasks:
        return record_sets[0].tasks
    tasks = []
    for config in recipe.tasks:
        known = [task for records in record_sets for task in records.tasks]
        task = next((task for task in known if task.name == config.name), None)
        if task is None:
            names = ", ".join(sorted({task.name for task in known}))
            raise UserError(f"no records hold the task {config.name!r}; they hold: {names}")
        try:
            tasks.append(task.select(config.labels) if config.labels else task)
        except ValueError as error:
            raise UserError(str(error)) from None
    return tuple(tasks)
