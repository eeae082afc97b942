"""One network out of runs that trained branches of the same trunk, without a further step."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.batches import Source
from data_pipelines.input.impossible_pairs import impossible_pairs
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Bottlenecks, Recipe, TaskConfig
from faceattr_tf.models.create import create_network
from faceattr_tf.models.joining import take_from_runs
from faceattr_tf.training.resumption import first_difference
from faceattr_tf.workdir import Workdir


def join(paths: Sequence[str], target: str) -> None:
    """Writes the workdir of a network that answers as all of the runs do, the trunk computed once.

    Source: Flickr (Baumgartner and Culpepper, "Deep Architectures for Face Attributes"), figure 1.

    Every run names the branches that it trained (`model.branches`), or has all of its heads on the
    network's own end. The runs must have frozen the same trunk and seen the same crop.

    Args:
        paths: workdirs.
        target: the new workdir.

    Raises:
        UserError: the runs do not fit together, or the new workdir holds a run; nothing is written.
    """
    if len(paths) < 2:
        raise UserError(f"{len(paths)} runs: expected two or more that are to be joined")
    workdirs = [Workdir.open(path) for path in paths]
    joined = Workdir(target)
    if (joined.path / "config.json").exists():
        raise UserError(f"workdir {joined.path} holds a run already; expected a new one")
    _check_alike(workdirs)
    tasks = _tasks(workdirs)
    recipe = _recipe(workdirs)
    first = workdirs[0]
    view, metadata = first.view, first.metadata()
    shape = metadata["input_shape"]
    model = create_network(recipe.model, tasks, shape, crop=view.aligned or view.crop)
    models = {str(one.path): one.load_model() for one in workdirs}
    take_from_runs(model, models, whole=True)
    records = {entry["path"]: entry for one in workdirs for entry in one.metadata()["records"]}
    metadata.pop("impossible", None)
    metadata |= {
        "tasks": [task.to_dict() for task in tasks],
        "majority": _majority(workdirs),
        **_impossible(recipe, tasks),
        "records": list(records.values()),
        "best": None,
        "steps": 0,
    }
    calibration = _calibration(workdirs, tasks)
    cards = [one.path / "model_card.md" for one in workdirs]
    card = f"# Model card: {', '.join(map(str, paths))}, joined on one trunk\n\n"
    card += "\n".join(one.read_text() for one in cards if one.is_file())
    try:
        joined.path.mkdir(parents=True, exist_ok=True)
        joined.save_model(model)
        joined.write_json("calibration.json", calibration)
        joined.write_text("model_card.md", card)
        joined.write_json("metadata.json", metadata)
        joined.write_json("config.json", recipe.to_dict())
    except OSError as error:
        raise UserError(f"workdir {joined.path} cannot be written: {error.strerror}") from error


def _check_alike(workdirs: Sequence[Workdir]) -> None:
    """Raises UserError unless all networks are the same but for their branches."""

    def shown(workdir: Workdir) -> dict:
        model = workdir.recipe().to_dict()["model"]
        for name in ("branches", "branch_weights", "weights", "dropout", "auxiliary_weight"):
            del model[name]
        return {"model": model, **workdir.view.to_dict()}

    first, *others = workdirs
    for other in others:
        difference = first_difference(shown(first), shown(other), "its network")
        if difference:
            raise UserError(f"{first.path} cannot be joined with {other.path}: {difference}")


def _tasks(workdirs: Sequence[Workdir]) -> tuple[Task, ...]:
    """All tasks of the runs, each label predicted by one of them."""
    found: dict[str, Task] = {}
    owner = {}
    for workdir in workdirs:
        for task in workdir.tasks:
            for label in task.labels if task.kind == "multilabel" else ("",):
                what = f"{task.name}/{label}" if label else task.name
                if what in owner:
                    raise UserError(f"{what} is predicted by {owner[what]} and {workdir.path}")
                owner[what] = workdir.path
            before = found.get(task.name)
            if before and before.kind != task.kind:
                raise UserError(f"{workdir.path}: {task.name} is {task.kind} and not {before.kind}")
            labels = (*(before.labels if before else ()), *task.labels)
            found[task.name] = dataclasses.replace(task, labels=labels)
    return tuple(found.values())


def _recipe(workdirs: Sequence[Workdir]) -> Recipe:
    """The first run's recipe for all that the runs predict."""
    recipes = [workdir.recipe() for workdir in workdirs]
    configs: dict = {}
    for workdir, recipe in zip(workdirs, recipes, strict=True):
        given = {config.name: config for config in recipe.tasks}
        for task in workdir.tasks:
            config = configs.get(task.name) or given.get(task.name) or TaskConfig(task.name)
            if task.kind == "multilabel":
                before = configs[task.name].labels if task.name in configs else ()
                config = dataclasses.replace(config, labels=(*before, *task.labels))
            configs[task.name] = config
    first = recipes[0]
    records = dict.fromkeys(path for recipe in recipes for path in recipe.data.records)
    data = dataclasses.replace(
        first.data, records=tuple(records), weights=(), bottlenecks=Bottlenecks()
    )
    branches = tuple(entry for recipe in recipes for entry in recipe.model.branches)
    return dataclasses.replace(
        first,
        data=data,
        tasks=tuple(configs.values()),
        model=dataclasses.replace(first.model, branches=branches, weights=""),
        warm_start=",".join(str(workdir.path.absolute()) for workdir in workdirs),
        best_metric="loss",
    )


def _majority(workdirs: Sequence[Workdir]) -> dict:
    """The most frequent answers in the training images of every run."""
    found = {}
    for workdir in workdirs:
        for name, answers in workdir.metadata().get("majority", {}).items():
            found[name] = [*found.get(name, ()), *answers]
    return found


def _impossible(recipe: Recipe, tasks: Sequence[Task]) -> dict:
    """The pairs of answers that exclude each other, of labels of different runs too, for metadata.

    They are counted in the runs' records; where these are gone, that is said, and there are none.
    """
    try:
        sources = [
            Source(RecordSet.load(path), "train", *recipe.validation_rule)
            for path in recipe.data.records
        ]
        return {"impossible": impossible_pairs(tasks, sources)}
    except UserError as error:
        print(f"{error}; which answers exclude each other is not counted, and --consistent refused")
        return {}


def _calibration(workdirs: Sequence[Workdir], tasks: Sequence[Task]) -> dict:
    """The runs' temperatures and thresholds, so that answers stay what they were.

    Of a task that several runs share out, every label has a temperature of its own.
    """
    found = {}
    for task in tasks:
        parts = [
            (len(own.labels), workdir.calibration()[task.name])
            for workdir in workdirs
            for own in workdir.tasks
            if own.name == task.name
        ]
        temperature = parts[0][1]["temperature"]
        if len(parts) > 1:
            each = (np.broadcast_to(one["temperature"], count).tolist() for count, one in parts)
            temperature = list(itertools.chain(*each))
        thresholds = list(itertools.chain(*(one["thresholds"] for _, one in parts)))
        found[task.name] = {"temperature": temperature, "thresholds": thresholds}
    return found
