"""A recipe together with its records: what a run learns, from what, for how long."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from data_pipelines.input.batches import Source
from data_pipelines.input.framing import framing_of
from data_pipelines.input.impossible_pairs import impossible_pairs
from data_pipelines.input.people import check_people_fit, has_people
from data_pipelines.input.stream import mixing_pattern
from data_pipelines.input.view import View
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import ALIGNMENT, CLASS_KINDS, Task, join_labels
from faceattr_tf.configs.base import LINEAR_SVM, Phase, Recipe, TaskConfig
from faceattr_tf.precision import resolve
from faceattr_tf.resolution import (
    resolve_crop,
    select_tasks,
    training_examples,
    training_people,
    with_absolute_paths,
    with_groups_as_branches,
    with_validation_parted,
)

CLASSIFIER_INPUTS = ("transformed", "crop", "aligned")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A recipe together with the records it reads.

    Attributes:
        recipe: what the user asked for; a precision of `auto` is replaced by what it stands for.
        record_sets: the records, in the order of `recipe.data.records`.
        tasks: what the model predicts; the last one is `alignment` where it has a transformer.
        task_configs: how each of them is learned.
        crop: the recipe's, with a window of 0 replaced by the mean box of the training images.
        phase_ends: for each phase the step at which it ends, counted from the start of the run.
        steps_per_epoch: steps in which as many examples are seen as all training splits hold,
            however they are mixed.
    """

    recipe: Recipe
    record_sets: tuple[RecordSet, ...]
    tasks: tuple[Task, ...]
    task_configs: tuple[TaskConfig, ...]
    crop: Crop
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
        recipe = dataclasses.replace(
            recipe, precision=resolve(recipe.precision, recipe.strategy)[0]
        )
        record_sets = tuple(RecordSet.load(path) for path in data.records)
        recipe = with_absolute_paths(recipe, record_sets)
        if data.weights and len(data.weights) != len(record_sets):
            raise UserError(
                f"data.weights has {len(data.weights)} values for {len(record_sets)} record sets"
            )
        recipe = with_validation_parted(recipe, record_sets)
        examples = sum(training_examples(recipe, records) for records in record_sets)
        steps_per_epoch = max(1, round(examples / data.batch_size))
        ends, end = [], 0
        for phase in recipe.phases:
            end += phase_length(phase, steps_per_epoch)
            ends.append(end)
        if not end:
            raise UserError(f"recipe {recipe.name!r}: its phases have no steps and no epochs")
        tasks = select_tasks(recipe, record_sets)
        recipe = with_groups_as_branches(recipe, tasks)
        listed = {config.name: config for config in recipe.tasks}
        # A transformer without a listed task learns by the other tasks' losses alone.
        configs = tuple(
            listed.get(task.name) or TaskConfig(task.name, weight=float(task != ALIGNMENT))
            for task in tasks
        )
        crop = resolve_crop(data.crop, record_sets)
        experiment = cls(recipe, record_sets, tasks, configs, crop, tuple(ends), steps_per_epoch)
        experiment._check_alignment()
        experiment._check_people()
        experiment._check_service()
        if len(record_sets) > 1:
            mixing_pattern([source.weight for source in experiment.sources("train")])
        for phase in recipe.phases:
            experiment._check(phase)
        experiment._check_weights("distillation", recipe.distillation.task_weights)
        return experiment

    def _check_alignment(self) -> None:
        aligned = self.view.aligned
        if not aligned or aligned.kind not in ("align", "affine"):
            return
        known = [records.boxes.get("train", {}).get("landmarks") for records in self.record_sets]
        if not any(count is None or count for count in known):
            raise UserError(
                f"{self.record_sets[0].path}: no training image has landmarks, which the task "
                "'alignment' is taught by; build the records with --detections"
            )

    def _check_people(self) -> None:
        data = self.recipe.data
        for name in ("batch_size", "micro_batch"):
            check_people_fit(data.images_per_person, getattr(data, name), name)
        for records in self.record_sets if data.images_per_person else ():
            if not training_examples(self.recipe, records):
                raise UserError(
                    f"{records.path}: nobody is known in its training images; expected "
                    f"images_per_person 0 and not {data.images_per_person}"
                )

    def _check_service(self) -> None:
        data = self.recipe.data
        bottlenecks = data.bottlenecks.use or any(phase.bottlenecks for phase in self.recipe.phases)
        if data.service and (data.images_per_person or bottlenecks):
            reason = "features are read" if bottlenecks else "images of a person stand together"
            raise UserError(
                f"data.service prepares images in any order, and here {reason}; expected no service"
            )

    def _check(self, phase: Phase) -> None:
        self.augment(phase).check()
        if not 0 <= phase.mixup < np.inf:
            raise UserError(f"phase {phase.name!r}: mixup {phase.mixup} must be 0 or more")
        sliced = bool(self.recipe.slices.by)
        if sliced and phase.optimizer == LINEAR_SVM:
            raise UserError(
                f"phase {phase.name!r}: a linear_svm weighs no slices; expected slices.by empty"
            )
        if phase.mixup and (self.recipe.losses or sliced or phase.optimizer == LINEAR_SVM):
            what = "a linear_svm" if phase.optimizer == LINEAR_SVM else "losses of whole batches"
            what = "weights of slices" if sliced else what
            raise UserError(
                f"phase {phase.name!r}: mixup shows two faces in one, which {what} "
                "cannot learn; expected mixup 0"
            )
        self._check_weights(f"phase {phase.name!r}", phase.task_weights)
        if phase.classifier_input not in CLASSIFIER_INPUTS:
            raise UserError(
                f"phase {phase.name!r}: classifier_input {phase.classifier_input!r} is none of "
                f"{', '.join(CLASSIFIER_INPUTS)}"
            )
        if phase.classifier_input != "transformed" and not self.recipe.model.transformer:
            raise UserError(
                f"phase {phase.name!r}: classifier_input {phase.classifier_input!r} passes a "
                "transformer by, but the model has none"
            )
        if phase.classifier_input == "aligned" and not self.view.aligned:
            raise UserError(
                f"phase {phase.name!r}: the aligned crop is known where the task 'alignment' is "
                "listed among the recipe's tasks"
            )

    def _check_weights(self, where: str, pairs: Sequence[tuple[str, float]]) -> None:
        names = [task.name for task in self.tasks]
        for name, _ in pairs:
            if name not in names:
                raise UserError(
                    f"{where}: task_weights names the task {name!r}; there are: {', '.join(names)}"
                )

    @property
    def view(self) -> View:
        """What the network is shown; the aligned crop where the task `alignment` is listed."""
        data, aligned = self.recipe.data, None
        if any(config.name == ALIGNMENT.name for config in self.recipe.tasks):
            aligned = resolve_crop(data.aligned, self.record_sets)
        return View(self.crop, aligned, data.displacement)

    def augment(self, phase: Phase) -> Augment:
        """The random changes of training images in a phase.

        Raises:
            UserError: the phase changes a field that does not exist.
        """
        known = [field.name for field in dataclasses.fields(Augment)]
        for name, _ in phase.augment:
            if name not in known:
                raise UserError(
                    f"phase {phase.name!r}: augment has no field {name!r}; it has: "
                    + ", ".join(known)
                )
        return dataclasses.replace(self.recipe.data.augment, **dict(phase.augment))

    def task_weights(self, phase: Phase) -> list[float]:
        """Weights of the tasks' losses in a phase; 0 for a transformer that is passed by."""
        replaced = dict(phase.task_weights)
        if phase.classifier_input != "transformed":
            replaced[ALIGNMENT.name] = 0.0
        return [replaced.get(config.name, config.weight) for config in self.task_configs]

    def soft_weights(self) -> list[float]:
        """Weights of the tasks in the loss by soft labels."""
        replaced = dict(self.recipe.distillation.task_weights)
        return [replaced.get(config.name, config.weight) for config in self.task_configs]

    def sources(self, split: str) -> list[Source]:
        """One source of examples per record set."""
        data = self.recipe.data
        weights = data.weights or [
            training_examples(self.recipe, records) for records in self.record_sets
        ]
        own = (data.cache, data.images_per_person)
        return [
            Source(records, split, *self.recipe.validation_rule, weight, *own)
            for records, weight in zip(self.record_sets, weights, strict=True)
        ]

    def describe_epoch(self) -> str:
        """How often an epoch shows what every record set holds."""
        sources, size = self.sources("train"), self.steps_per_epoch * self.recipe.data.batch_size
        shares = np.bincount(mixing_pattern([source.weight for source in sources]))
        shares = np.pad(shares, (0, len(sources) - len(shares))) / shares.sum()
        shown = (
            f"{source.records.path} {share * size / source.count:.3g} times"
            for source, share in zip(sources, shares, strict=True)
        )
        return (
            f"an epoch is {self.steps_per_epoch:,} steps, in which as many images are seen as all "
            f"records hold: those of {', '.join(shown)}"
        )

    def describe_people(self) -> str:
        """Whom batches of `data.images_per_person` show, and what they repeat and leave out."""
        images = self.recipe.data.images_per_person
        counts = list(training_people(self.recipe, self.record_sets).values())
        few = sum(count < images for count in counts)
        rule = self.recipe.validation_rule
        unknown = sum(one.count("train", *rule) for one in self.record_sets) - sum(counts)
        return (
            f"{images} images of a person together: {sum(counts):,} images of {len(counts):,} "
            f"people, {few:,} of whom have fewer, which repeat; {unknown:,} images of nobody known "
            "are left out"
        )

    def phase_at(self, step: int) -> int:
        """Index of the phase that the step belongs to."""
        return next(index for index, end in enumerate(self.phase_ends) if step < end)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the model's input."""
        return (self.crop.height, self.crop.width, 3)

    def majority(self) -> dict[str, list[int]]:
        """Per task the classes that the training splits hold most of; the honest floor.

        What training lends to validation is counted too, here as in `label_counts`, `statistics`
        and the mean box of crops: record sets know these figures of whole splits alone.
        """
        return {
            name: np.argmax(counts, axis=-1).reshape(-1).tolist()
            for name, counts in self.label_counts().items()
        }

    def label_counts(self) -> dict[str, np.ndarray]:
        """Per task the training labels: `[labels, 2]` no/yes, or `[classes]`."""
        counts = {}
        for task in self.tasks:
            if task.kind not in ("multilabel", *CLASS_KINDS):
                continue
            if has_people(task, self.record_sets):
                people = training_people(self.recipe, self.record_sets)
                counts[task.name] = np.array([people[name] for name in task.labels])
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

    @functools.cached_property
    def impossible(self) -> dict[str, list[dict]]:
        """Per task the pairs of answers that the labels of the training images rule out.

        They are read once, by TensorFlow, which several machines must have been joined for.
        """
        return impossible_pairs(self.tasks, self.sources("train"))

    @functools.cached_property
    def framing(self) -> dict | None:
        """How training pictures that are shown whole frame their faces; None of other crops.

        It is looked at once, by TensorFlow, as `impossible`.
        """
        if self.crop.kind != "none":
            return None
        return dataclasses.asdict(framing_of(self.crop, self.sources("train")))

    def metadata(self) -> dict:
        """What evaluation, prediction and export have to know of the run."""
        return {
            "tasks": [task.to_dict() for task in self.tasks],
            **self.view.to_dict(),
            "input_shape": list(self.input_shape),
            "majority": self.majority(),
            "impossible": self.impossible,
            "framing": self.framing,
            "records": self.describe_records(),
        }

    def describe_records(self) -> list[dict]:
        """What a run's metadata says of the records."""
        return [
            {
                "path": records.path,
                "name": records.name,
                "fingerprint": records.description.get("fingerprint"),
                "licence": records.description.get("licence"),
                "splits": records.splits,
            }
            for records in self.record_sets
        ]


def phase_length(phase: Phase, steps_per_epoch: int) -> int:
    """Steps of a phase."""
    return phase.steps or round(phase.epochs * steps_per_epoch)
