"""The grid of Flickr's figure 3: branches from every stage for every task, on stored activations.

Source: Baumgartner and Culpepper, "Deep Architectures for Face Attributes", sections 3.2 and 4.3.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import write_text
from data_pipelines.progress import progress_bar
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task, as_classes, join_labels
from faceattr_tf.configs.base import Recipe, TaskConfig
from faceattr_tf.evaluation.branch_depth import Cell, draw, main_metric
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.cache import weights_digest
from faceattr_tf.features.extract import extract, network_stages
from faceattr_tf.models.branching import take_weights
from faceattr_tf.models.create import frozen_layers, pretrained_model
from faceattr_tf.training.probe import train_top
from faceattr_tf.training.validation import check_validation, figures_of


@dataclasses.dataclass(frozen=True)
class Group:
    """What stands together on one branch: a task, or some attributes of one.

    Attributes:
        name: how tables call it.
        task: name of the task.
        labels: the attributes; empty for the whole task.
    """

    name: str
    task: str
    labels: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Group":
        """The group of `age`, `gender=attributes/Male` or `mouth=attributes/A+attributes/B`.

        Raises:
            UserError: it is none, or names several tasks.
        """
        name, named, whats = text.partition("=")
        parts = [what.partition("/") for what in (whats if named else text).split("+")]
        tasks, slashes, labels = ({*of} for of in zip(*parts, strict=True))
        if not name or len(tasks) > 1 or len(slashes) > 1 or not all(task for task in tasks):
            raise UserError(
                f"tasks {text!r}: expected TASK, NAME=TASK or NAME=TASK/LABEL+TASK/LABEL of one task"
            )
        own = tuple(label for _, _, label in parts) if labels != {""} else ()
        return cls(name, parts[0][0], own)

    @property
    def whats(self) -> tuple[str, ...]:
        """The same as an entry of `model.branches` names it."""
        return tuple(f"{self.task}/{label}" for label in self.labels) or (self.task,)


class Grid:
    """Branches of one recipe's network, one cell per stage, group, start of weights and seed."""

    def __init__(self, recipe: Recipe, stages: Sequence[str], groups: Sequence[Group]):
        """Checks that recipe, stages and groups fit together.

        Args:
            recipe: names network, weights, records, phases; its tasks configure those of groups.
            stages: names of stages; empty for all.
            groups: the columns.

        Raises:
            UserError: they do not.
        """
        own = dataclasses.replace(recipe.data.bottlenecks, use=True)
        data = dataclasses.replace(recipe.data, bottlenecks=own)
        self.recipe = dataclasses.replace(recipe, data=data)
        self.groups = tuple(groups)
        names = [group.name for group in self.groups]
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"tasks: {name!r} names more than one column")
        self.experiments = {group: self._experiment(group) for group in self.groups}
        known = network_stages(next(iter(self.experiments.values())))
        self.stages = tuple(stage for stage in known if stage in (stages or known))
        for stage in stages:
            if stage not in known:
                raise UserError(
                    f"{stage!r} ends no stage of {recipe.model.name}: {', '.join(known)}"
                )
        for experiment in self.experiments.values():
            check_validation(experiment)

    def recipe_of(self, group: Group, stage: str, weights: str, seed: int) -> Recipe:
        """What trains one cell."""
        recipe = self.experiments[group].recipe
        model = dataclasses.replace(
            recipe.model, branches=((stage, *group.whats),), branch_weights=weights
        )
        return dataclasses.replace(recipe, model=model, seed=seed)

    def run(
        self,
        weights: Sequence[str],
        seeds: Sequence[int],
        file: pathlib.Path | None = None,
        *,
        progress: bool = True,
    ) -> list[Cell]:
        """Trains the cells that a file does not have, and measures them on validation.

        The network passes over the images once, whatever the number of stages; what it gives is
        kept as training on bottlenecks keeps it. The test part is not looked at.

        Args:
            weights: what branches begin with, of `faceattr_tf.configs.base.BRANCH_WEIGHTS`.
            seeds: of new weights and of the order of examples; validation is that of the recipe.
            file: JSON with cells; written after every cell. None: nothing is kept.
            progress: show a bar.

        Returns:
            The cells, group by group, by stage, weights and seed.
        """
        if "trunk" in weights and not self.recipe.model.pretrained:
            raise UserError("branch_weights 'trunk': the recipe names no --config.model.weights")
        asked = {}
        for group in self.groups:
            digest = weights_digest(self.experiments[group].recipe)
            for stage in self.stages:
                for begun in weights:
                    for seed in seeds:
                        one = self.recipe_of(group, stage, begun, seed)
                        key = _key(self.experiments[group], one, digest)
                        asked[key] = (group, stage, begun, seed)
        found = {cell.key: cell for cell in read_cells(file)}
        missing = {key: one for key, one in asked.items() if key not in found}
        if file:
            print(f"{file}: {len(asked) - len(missing)} of {len(asked)} cells found")
        with progress_bar(len(missing), "branch", show=progress) as bar:
            for key, cell in self._train(missing, bar, progress):
                found[key] = cell
                if file:
                    write_cells(file, found.values())
        return [found[key] for key in asked]

    def _train(self, missing: dict, bar, progress: bool) -> Iterable[tuple[str, Cell]]:
        """Every missing cell by its key; stages of the same records are looked at together."""
        together: dict[tuple, list] = {}
        for key, (group, *place) in missing.items():
            records = self.experiments[group].recipe.data.records
            together.setdefault(records, []).append((key, group, *place))
        for cells in together.values():
            groups = list(dict.fromkeys(group for _, group, *_ in cells))
            layers = self._layers(groups[0], dict.fromkeys(stage for _, _, stage, *_ in cells))
            tasks = joined_tasks(self.experiments[group].tasks[0] for group in groups)
            everything = dataclasses.replace(self.experiments[groups[0]], tasks=tasks)
            stored = [
                extract(everything, split, tuple(layers.values()), progress=progress)
                for split in ("train", "validation")
            ]
            given = None
            for key, group, stage, begun, seed in cells:
                bar.set_description(f"{group.name}, {stage}, {begun}, {seed}")
                if begun == "trunk" and given is None:
                    given = pretrained_model(self.experiments[group], "float32")
                one = self.recipe_of(group, stage, begun, seed)
                experiment = dataclasses.replace(self.experiments[group], recipe=one)
                training, validation = (
                    _of_task(parts[layers[stage]], tasks, experiment.tasks[0]) for parts in stored
                )
                prepare = None
                if begun == "trunk":
                    prepare = functools.partial(take_weights, given=given, copies=True)
                step, values, outputs = train_top(experiment, training, validation, prepare)
                measured = _measured(experiment, *outputs)
                yield key, Cell(key, group.name, stage, begun, seed, step, values, *measured)
                bar.update()

    def _layers(self, group: Group, stages: Iterable[str]) -> dict[str, str]:
        """Stage -> what branches from it learn from, as `extract` takes it."""
        found = {}
        for stage in stages:
            one = self.recipe_of(group, stage, "new", 0)
            found[stage] = frozen_layers(dataclasses.replace(self.experiments[group], recipe=one))
        return found

    def _experiment(self, group: Group) -> Experiment:
        """The recipe on the records that know a group, with its heads on the network's own end."""
        data, weights = self.recipe.data, self.recipe.data.weights
        chosen = []
        for index, path in enumerate(data.records):
            tasks = [task for task in RecordSet.load(path).tasks if task.name == group.task]
            if any(not group.labels or {*group.labels} & {*task.labels} for task in tasks):
                chosen.append(index)
        if not chosen:
            raise UserError(
                f"no records hold {' or '.join(group.whats)}: {', '.join(data.records)}"
            )
        data = dataclasses.replace(
            data,
            records=tuple(data.records[index] for index in chosen),
            weights=tuple(weights[index] for index in chosen) if weights else (),
        )
        config = next((one for one in self.recipe.tasks if one.name == group.task), None)
        config = dataclasses.replace(config or TaskConfig(group.task), labels=group.labels)
        experiment = Experiment.of(dataclasses.replace(self.recipe, data=data, tasks=(config,)))
        (task,) = experiment.tasks
        best = f"{task.name}/{main_metric(task)}"
        chosen_by = dataclasses.replace(experiment.recipe, best_metric=best)
        return dataclasses.replace(experiment, recipe=chosen_by)


def joined_tasks(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Every task once, with the labels of all that have its name."""
    found: dict[str, Task] = {}
    for task in tasks:
        before = found.get(task.name, task)
        labels = tuple(dict.fromkeys((*before.labels, *task.labels)))
        if labels != before.labels:
            before = dataclasses.replace(before, labels=labels)
        found[task.name] = before
    return tuple(found.values())


def read_cells(file: pathlib.Path | None) -> list[Cell]:
    """The cells of a file, none where it does not exist.

    Raises:
        UserError: it holds something else.
    """
    if file is None or not file.is_file():
        return []
    try:
        return [Cell(**fields) for fields in json.loads(file.read_text())["cells"]]
    except (ValueError, TypeError, KeyError):
        raise UserError(
            f"{file}: holds no cells of faceattr-branch; expected another file"
        ) from None


def write_cells(file: pathlib.Path, cells: Iterable[Cell]) -> None:
    """Keeps all cells."""
    write_text(file, json.dumps({"cells": [dataclasses.asdict(cell) for cell in cells]}) + "\n")


def _key(experiment: Experiment, recipe: Recipe, weights: str) -> str:
    """A digest of everything that decides a cell, wherever its files lie."""
    fields = recipe.to_dict()
    del fields["name"], fields["data"]["records"], fields["data"]["bottlenecks"]["folder"]
    fields["model"]["weights"] = weights
    fields["records"] = [one.description.get("fingerprint") for one in experiment.record_sets]
    fields["split"] = experiment.recipe.seed  # by which validation was set aside
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:20]


def _of_task(parts: Sequence[Features], known: Sequence[Task], task: Task) -> list[Features]:
    """The same features with the labels of one task alone."""
    (given,) = (one for one in known if one.name == task.name)
    found = []
    for part in parts:
        labels = part.labels[task.name]
        if task.labels != given.labels:
            labels = labels[..., join_labels(given, task)]
        found.append(dataclasses.replace(part, labels={task.name: labels}))
    return found


def _measured(experiment: Experiment, outputs: dict, labels: dict, transforms) -> tuple:
    """The draws of a cell, and what the best answer without images would be."""
    (task,) = experiment.tasks
    common = {"transforms": transforms, "crop_size": experiment.input_shape[:2]}
    given = labels[task.name]
    draws = draw(task, given, outputs[task.name], **common)
    answers = {
        "multilabel": lambda: 2.0 * np.array(experiment.majority()[task.name]) - 1.0,
        "multiclass": lambda: np.eye(len(task.labels))[experiment.majority()[task.name][0]],
        "regression": lambda: experiment.statistics(task)[:, 0],
    }
    kind = as_classes(task).kind
    if kind not in answers:
        return draws, None
    constant = np.tile(answers[kind](), (len(given), 1)).astype(np.float32)
    guess = figures_of(experiment, {task.name: constant}, labels, transforms)
    return draws, guess.get(f"{task.name}/{main_metric(task)}")
