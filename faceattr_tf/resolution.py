"""What a recipe leaves open and its records tell: tasks, crop, people, branches, paths."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.attribute_groups import read_groups
from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import ALIGNMENT, IDENTITY, Task, identity_task
from faceattr_tf.configs.base import Recipe


def with_absolute_paths(recipe: Recipe, record_sets: Sequence[RecordSet]) -> Recipe:
    """The recipe with paths that mean the same in every folder."""

    def whole(path: str) -> str:
        return str(local(path).absolute()) if path and path != "imagenet" else path

    kept = dataclasses.replace(
        recipe.data.bottlenecks, folder=whole(recipe.data.bottlenecks.folder)
    )
    records = tuple(one.path for one in record_sets)
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, records=records, bottlenecks=kept),
        model=dataclasses.replace(
            recipe.model,
            weights=whole(recipe.model.weights),
            trunks=tuple((name, whole(file)) for name, file in recipe.model.trunks),
        ),
        warm_start=",".join(map(whole, recipe.warm_starts)),
        distillation=dataclasses.replace(
            recipe.distillation, teachers=",".join(map(whole, recipe.teachers))
        ),
        slices=dataclasses.replace(recipe.slices, answers=whole(recipe.slices.answers)),
    )


def with_groups_as_branches(recipe: Recipe, tasks: Sequence[Task]) -> Recipe:
    """The recipe with a branch for every group of a file that `model.branches` names."""
    branches = []
    for stage, *whats in recipe.model.branches:
        if not (len(whats) == 1 and whats[0].startswith("@")):
            branches.append((stage, *whats))
            continue
        fitting = [task for task in tasks if task.kind == "multilabel"]
        if len(fitting) != 1:
            raise UserError(
                f"model.branches: {whats[0]} groups attributes; expected one task of these and not "
                f"{len(fitting)}"
            )
        (task,) = fitting
        groups = read_groups(whats[0][1:], task.labels).values()
        branches += [(stage, *(f"{task.name}/{label}" for label in of)) for of in groups]
    model = dataclasses.replace(recipe.model, branches=tuple(branches))
    return dataclasses.replace(recipe, model=model)


def with_validation_parted(recipe: Recipe, record_sets: Sequence[RecordSet]) -> Recipe:
    """The recipe, parting validation by person only where a set that lends it knows people."""
    data = recipe.data
    share = (data.validation_share, data.validation_of_training)
    lending = [one for one in record_sets if one.lends(*share)]
    by_person = data.validation_by_person and any(one.people for one in lending)
    for records in lending if data.validation_by_person else ():
        if records.people is None:
            print(
                f"{records.path}: built before people were counted: the validation share is one of "
                "images; records that are built again part it by person where they know people"
            )
    data = dataclasses.replace(data, validation_by_person=by_person)
    return dataclasses.replace(recipe, data=data)


def resolve_crop(crop: Crop, record_sets: Sequence[RecordSet]) -> Crop:
    """The crop with a window of 0 replaced by the mean box of the training images."""
    if crop.kind != "window" or crop.window:
        return crop
    counts = [records.splits.get("train", 0) for records in record_sets]
    means = [records.mean_box() for records in record_sets]
    window = float(np.average(means, weights=counts))
    return dataclasses.replace(crop, window=round(window, 3))


def training_examples(recipe: Recipe, records: RecordSet) -> int:
    """How many images of a record set are trained on: all, or where they stand by person, those
    of known people.
    """
    if recipe.data.images_per_person:
        return sum(records.images_of_people("train", *recipe.validation_rule).values())
    return records.count("train", *recipe.validation_rule)


def training_people(recipe: Recipe, record_sets: Sequence[RecordSet]) -> dict[str, int]:
    """How many images of every known person there are to train on, set after set.

    Returns:
        Name of the person, see `RecordSet.images_of_people` -> images.
    """
    people: collections.Counter[str] = collections.Counter()
    for records in record_sets:
        people.update(records.images_of_people("train", *recipe.validation_rule))
    return dict(people)


def select_tasks(recipe: Recipe, record_sets: Sequence[RecordSet]) -> tuple[Task, ...]:
    """The tasks that the recipe names, as the record sets know them, and that of a transformer.

    The classes of `identity` are the people of the training images.

    Raises:
        UserError: no record set has the task, or the task has no such label.
    """
    configs = [config for config in recipe.tasks if config.name != ALIGNMENT.name]
    if len(configs) < len(recipe.tasks) and not recipe.model.transformer:
        raise UserError(f"task {ALIGNMENT.name!r}: only a model with a transformer predicts it")
    tasks = [] if configs else list(record_sets[0].tasks)
    for config in configs:
        known = [task for records in record_sets for task in records.tasks]
        if config.name == IDENTITY and IDENTITY not in [task.name for task in known]:
            people = training_people(recipe, record_sets)
            if len(people) < 2:
                raise UserError(
                    f"task {IDENTITY!r}: {len(people)} people are known in the training images of "
                    + ", ".join(records.path for records in record_sets)
                    + "; expected at least 2"
                )
            known = [identity_task(tuple(people))]
        named = [task for task in known if task.name == config.name]
        # A distribution holds what single classes say, but not the other way round.
        task = next(
            (task for task in named if task.kind == "distribution"), next(iter(named), None)
        )
        if task is None:
            names = ", ".join(sorted({task.name for task in known}))
            raise UserError(f"no records hold the task {config.name!r}; they hold: {names}")
        try:
            tasks.append(task.select(config.labels) if config.labels else task)
        except ValueError as error:
            raise UserError(str(error)) from None
    if not tasks:
        raise UserError(
            f"{record_sets[0].path}: these records hold no task; expected a recipe that lists some, "
            f"such as {IDENTITY!r} where people are known"
        )
    if recipe.model.transformer:
        tasks.append(ALIGNMENT)
    return tuple(tasks)
