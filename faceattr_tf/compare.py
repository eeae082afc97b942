"""Comparison of conditions, each a few runs that differ in their seed, on the same images.

The experiment of FaceSTN, section III.D: mean accuracy per condition and the difference of every
attribute to a baseline, here with intervals that say which differences are noise.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.evaluate import measure_split, share_tasks, split_batches, validation_part
from faceattr_tf.results import TaskResult
from faceattr_tf.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a condition over the whole split.

    Attributes:
        workdir: of the run.
        tasks: what it shares with the records.
        figures: task -> what `paired_bootstrap.run_figures` gives.
        majority: task -> accuracy of the majority guess, `mean` and per label.
        filenames: of the images.
        parameters: of its model.
        overlap: what `leakage.training_overlap` gives.
    """

    workdir: Workdir
    tasks: dict[str, Task]
    figures: dict[str, dict[str, np.ndarray]]
    majority: dict[str, dict]
    filenames: list[str]
    parameters: int
    overlap: dict


def compare(
    conditions: Mapping[str, Sequence[str | os.PathLike]],
    records: str | os.PathLike,
    split: str = "test",
    *,
    baseline: str = "",
    reference: str = "",
    attributes: Sequence[str] = (),
    published: str = "",
    output: str | os.PathLike | None = None,
    flip: bool = False,
    bootstrap: int = 2000,
    batch_size: int = 128,
) -> dict:
    """Evaluates every run and writes `compare.json`, `compare.md` and `compare.html`.

    Args:
        conditions: name -> workdirs of its runs.
        records: folder of the records that all are evaluated on.
        split: which part of the records.
        baseline: the condition that the others are compared with; default the first.
        reference: the condition that others would reach at best, for the share that they recover.
        attributes: those shown side by side; default those that differ most.
        published: data set whose published figures stand beside, or `none`; default the records'.
        output: folder; default `comparison-<records>-<split>[-flip]` beside the first workdir.
        flip: average every output with that of the mirrored image.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        batch_size: images per forward pass.

    Returns:
        What is in `compare.json`; its `folder` says where it lies.

    Raises:
        UserError: a name, a workdir or the records are not there or cannot be compared.
    """
    from faceattr_tf.compare_caveats import caveats, differing
    from faceattr_tf.compare_numbers import chosen_attributes
    from faceattr_tf.compare_report import write_comparison

    baseline = baseline or next(iter(conditions), "")
    _check(conditions, baseline, reference, bootstrap, batch_size)
    workdirs = {name: [Workdir.open(path) for path in paths] for name, paths in conditions.items()}
    record_set = RecordSet.load(records)
    # Everything that can be wrong is found before TensorFlow is loaded and time is spent.
    shared = _shared_attributes(workdirs, record_set)
    for name in attributes:
        if name not in shared:
            known = ", ".join(shared) or "none"
            raise UserError(f"attribute {name!r} is not shared by all; those that are: {known}")
    for workdir in (workdir for group in workdirs.values() for workdir in group):
        if not record_set.count(split, *validation_part(workdir, record_set)):
            raise UserError(f"{record_set.path}: split {split!r} holds no examples")
    name = f"comparison-{record_set.name}-{split}" + ("-flip" if flip else "")
    folder = pathlib.Path(output) if output else next(iter(workdirs.values()))[0].path.parent / name
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    runs = _evaluate(workdirs, record_set, split, flip, bootstrap, batch_size)
    first = runs[baseline][0]
    recipes = {
        name: {str(workdir.path): workdir.recipe() for workdir in group}
        for name, group in workdirs.items()
    }
    contents = {
        "folder": str(folder),
        "data": {
            "name": record_set.name,
            "title": record_set.description.get("title"),
            "path": str(record_set.path),
            "fingerprint": record_set.description.get("fingerprint"),
            "split": split,
            "examples": len(first.filenames),
        },
        "flip": flip,
        "bootstrap": bootstrap,
        "baseline": baseline,
        "reference": reference,
        "conditions": {name: [_describe(run) for run in group] for name, group in runs.items()},
        "recipes": differing({name: next(iter(of.values())) for name, of in recipes.items()}),
        "tasks": _tasks(runs, baseline, reference),
        "published": _published(record_set.name, published, split, len(first.filenames)),
    }
    contents["chosen"] = {
        name: [label for label in attributes if label in task["labels"]] or chosen_attributes(task)
        for name, task in contents["tasks"].items()
        if task["kind"] == "multilabel"
    }
    contents["warnings"] = caveats(recipes, contents)
    write_comparison(folder, contents)
    return contents


def _check(conditions, baseline, reference, bootstrap, batch_size) -> None:
    names = ", ".join(conditions)
    if len(conditions) < 2:
        raise UserError(f"conditions: {names or 'none'}: expected at least two to compare")
    for what, name in (("baseline", baseline), ("reference", reference)):
        if name and name not in conditions:
            raise UserError(f"{what} {name!r} is no condition; there are: {names}")
    if reference and (reference == baseline or len(conditions) < 3):
        raise UserError(
            f"reference {reference!r}: expected a third condition beside it and the baseline "
            f"{baseline!r}; there are: {names}"
        )
    for name, paths in conditions.items():
        if not paths:
            raise UserError(f"condition {name!r} has no workdir")
        places = [pathlib.Path(path).resolve() for path in paths]
        for place, path in zip(places, paths, strict=True):
            if places.count(place) > 1:
                raise UserError(f"condition {name!r}: workdir {path} is given twice")
    if bootstrap < 0:
        raise UserError(f"bootstrap {bootstrap}: expected 0 or more resamples")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")


def _shared_attributes(workdirs, records: RecordSet) -> list[str]:
    """The yes/no attributes of all runs; a task that two of them have must have equal labels."""
    seen: dict[str, tuple[Task, Workdir]] = {}
    common: set[str] | None = None
    for workdir in (workdir for group in workdirs.values() for workdir in group):
        tasks, _ = share_tasks(workdir.tasks, records)
        for task in tasks:
            other, owner = seen.setdefault(task.name, (task, workdir))
            if (task.kind, task.labels) != (other.kind, other.labels):
                raise UserError(
                    f"workdir {workdir.path}: task {task.name} is {', '.join(task.labels)}, but "
                    f"{', '.join(other.labels)} in {owner.path}; expected the same labels"
                )
        names = {task.name for task in tasks}
        common = names if common is None else common & names
    if not common:
        raise UserError(f"{records.path}: no task of these records is shared by all workdirs")
    tasks = (task for task, _ in seen.values() if task.name in common)
    return [label for task in tasks if task.kind == "multilabel" for label in task.labels]


def _evaluate(workdirs, records, split, flip, bootstrap, batch_size) -> dict[str, list[Run]]:
    import keras
    from tqdm import tqdm

    runs: dict[str, list[Run]] = {name: [] for name in workdirs}
    first = None
    total = sum(
        records.count(split, *validation_part(workdir, records))
        for group in workdirs.values()
        for workdir in group
    )
    with tqdm(total=total, unit="image", disable=None) as progress:
        for condition, group in workdirs.items():
            for workdir in group:
                progress.set_description(f"{condition}, {workdir.path.name}")
                batches = _watched(split_batches(workdir, records, split, batch_size), progress)
                run = _run(workdir, records, batches, flip, bootstrap)
                first = first or run
                if run.filenames != first.filenames:
                    raise UserError(
                        f"workdir {workdir.path} parts split {split!r} of {records.path} in "
                        f"another way than {first.workdir.path}: expected the same images"
                    )
                runs[condition].append(run)
                keras.utils.clear_session()  # frees the model
    return runs


def _watched(batches: Iterable[dict], progress) -> Iterable[dict]:
    for batch in batches:
        yield batch
        progress.update(len(batch["filename"]))


def _run(workdir, records, batches, flip, bootstrap) -> Run:
    from faceattr_tf.leakage import training_overlap
    from faceattr_tf.paired_bootstrap import run_figures

    model = workdir.load_model()
    results, filenames = measure_split(workdir, model, records, batches, flip)
    return Run(
        workdir,
        {result.task.name: result.task for result in results},
        {result.task.name: run_figures(result, bootstrap) for result in results},
        {result.task.name: _majority(result) for result in results},
        filenames,
        model.count_params(),
        training_overlap(workdir, records, filenames),
    )


def _majority(result: TaskResult) -> dict:
    found = result.numbers["metrics"]
    if result.task.kind == "multilabel":
        rows = {label: row["majority_accuracy"] for label, row in found["labels"].items()}
        return {"mean": found["mean"]["majority_accuracy"], "labels": rows}
    return {"mean": found.get("majority_accuracy"), "labels": {}}


def _tasks(runs: dict[str, list[Run]], baseline: str, reference: str) -> dict[str, dict]:
    """Every task that all runs of at least one condition have, with its figures."""
    from faceattr_tf.compare_numbers import compare_task

    tasks = {
        name: task for group in runs.values() for run in group for name, task in run.tasks.items()
    }
    found = {}
    for name, task in tasks.items():
        figures = {
            condition: [run.figures[name] for run in group]
            for condition, group in runs.items()
            if all(name in run.figures for run in group)
        }
        if figures:
            owner = runs[baseline if baseline in figures else next(iter(figures))][0]
            majority = {"majority": owner.majority[name]}
            found[name] = compare_task(task, figures, baseline, reference) | majority
    return found


def _describe(run: Run) -> dict:
    recipe, metadata = run.workdir.recipe(), run.workdir.metadata()
    return {
        "workdir": str(run.workdir.path),
        "recipe": recipe.name,
        "seed": recipe.seed,
        "network": recipe.model.name,
        "parameters": run.parameters,
        "best": metadata.get("best"),
        "steps": metadata.get("steps"),
        "crop": run.workdir.crop.to_dict(),
        "trained_on": metadata.get("records", []),
        "overlap": run.overlap,
    }


def _published(data: str, name: str, split: str, count: int) -> list[dict]:
    from faceattr_tf.published import published_rows

    if name == "none":
        return []
    rows = [dataclasses.asdict(row) for row in published_rows(name or data, split, count)]
    for row in rows:
        if row["data"] != data:
            other = f"published for {row['data']}, not for {data}"
            row["caveat"] = "; ".join(filter(None, (row["caveat"], other)))
    return rows
