"""Comparison of conditions, each a few runs that differ in their seed, on the same images.

The table of FaceSTN, III.D: mean accuracy per condition and the difference of every attribute to a
baseline, here with intervals that say which differences are noise. Of KTH-MTFL, Tables 3 to 5:
accuracy, precision and recall of both classes for every approach and crop, beside theirs.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.evaluation.split import validation_part
from faceattr_tf.reports.comparison.caveats import caveats, differing
from faceattr_tf.reports.comparison.runs import Run, evaluate_runs, separable, shared_tasks
from faceattr_tf.workdir import Workdir

Place = str | os.PathLike


@dataclasses.dataclass(frozen=True)
class Options:
    """What is compared with what, and how it is measured.

    Attributes:
        baseline: the condition that the others are compared with; default the first.
        reference: the condition that others would reach at best, for the share that they recover.
        attributes: the attributes shown side by side and one by one; default those that differ most
            side by side, and one by one all of a task with few of them.
        published: data set whose published figures stand beside, or `none`; default the records'.
        flip: average every output with that of the mirrored image.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        batch_size: images per forward pass.
    """

    baseline: str = ""
    reference: str = ""
    attributes: Sequence[str] = ()
    published: str = ""
    flip: bool = False
    bootstrap: int = 2000
    batch_size: int = 128


def compare(
    conditions: Mapping[str, Sequence[Place | Sequence[Place]]],
    records: Place,
    split: str = "test",
    options: Options = Options(),
    *,
    output: Place | None = None,
    progress: bool = True,
) -> dict:
    """Evaluates every run and writes `compare.json`, `compare.md` and `compare.html`.

    Args:
        conditions: name -> its runs, each a workdir or several whose labels complement each other.
            A condition may have fewer attributes than others.
        records: folder of the records that all are evaluated on.
        split: which part of the records.
        options: see there.
        output: folder; default `comparison-<records>-<split>[-flip]` beside the first workdir.
        progress: show a bar, on a terminal.

    Returns:
        What is in `compare.json`; its `folder` says where it lies.

    Raises:
        UserError: a name, a workdir or the records are not there or cannot be compared.
    """
    from faceattr_tf.reports.comparison.decisions import detailed_labels
    from faceattr_tf.reports.comparison.page import write_comparison

    baseline = options.baseline or next(iter(conditions), "")
    options = dataclasses.replace(options, baseline=baseline)
    places = {name: [_places(run) for run in runs] for name, runs in conditions.items()}
    _check(places, baseline, options.reference, options.bootstrap, options.batch_size)
    workdirs = {
        name: [[Workdir.open(place) for place in run] for run in runs]
        for name, runs in places.items()
    }
    record_set = RecordSet.load(records)
    # Everything that can be wrong is found before TensorFlow is loaded and time is spent.
    shared = shared_tasks(workdirs, record_set, baseline).values()
    _check_attributes(options.attributes, shared)
    everyone = [workdir for runs in workdirs.values() for run in runs for workdir in run]
    _check_images(everyone, record_set, split)
    name = f"comparison-{record_set.name}-{split}" + ("-flip" if options.flip else "")
    folder = local(output) if output else everyone[0].path.parent / name
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    detailed = {
        task.name: detailed_labels(task.labels, options.attributes)
        for task in shared
        if task.kind == "multilabel"
    }
    runs = evaluate_runs(
        workdirs,
        record_set,
        split,
        shown=[label for found in detailed.values() for label in found],
        flip=options.flip,
        bootstrap=options.bootstrap,
        batch_size=options.batch_size,
        progress=progress,
    )
    recipes = {name: _recipes(group) for name, group in workdirs.items()}
    tasks = {
        task.name: _compare_task(
            task, runs, baseline, options.reference, detailed.get(task.name, ())
        )
        for task in shared
    }
    contents = {"folder": str(folder), "tasks": {k: task for k, task in tasks.items() if task}}
    contents |= _contents(record_set, split, options, runs, recipes, contents["tasks"])
    contents["warnings"] = caveats(recipes, contents)
    galleries = {name: group[0].galleries() for name, group in runs.items()}
    write_comparison(folder, contents, galleries)
    return contents


def _contents(record_set, split, options, runs, recipes, tasks) -> dict:
    """What the report holds beside tasks and warnings."""
    from faceattr_tf.reports.comparison.numbers import chosen_attributes

    count = len(runs[options.baseline][0].parts[0].filenames)
    return {
        "data": {
            "name": record_set.name,
            "title": record_set.description.get("title"),
            "path": str(record_set.path),
            "fingerprint": record_set.description.get("fingerprint"),
            "split": split,
            "examples": count,
        },
        "flip": options.flip,
        "bootstrap": options.bootstrap,
        "baseline": options.baseline,
        "reference": options.reference,
        "conditions": {name: _describe(group) for name, group in runs.items()},
        "recipes": differing({name: next(iter(of[0].values())) for name, of in recipes.items()}),
        "published": _published(record_set.name, options.published, split, count),
        "chosen": {
            name: [label for label in options.attributes if label in task["labels"]]
            or chosen_attributes(task)
            for name, task in tasks.items()
            if task["kind"] == "multilabel"
        },
    }


def _check_attributes(attributes: Sequence[str], shared) -> None:
    labels = [label for task in shared if task.kind == "multilabel" for label in task.labels]
    for name in attributes:
        if name not in labels:
            known = ", ".join(labels) or "none"
            raise UserError(f"attribute {name!r} is in no condition; those that are: {known}")


def _places(run: Place | Sequence[Place]) -> list[Place]:
    return [run] if isinstance(run, str | os.PathLike) else list(run)


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
    for name, runs in conditions.items():
        if not all(runs) or not runs:
            raise UserError(f"condition {name!r} has no workdir")
        paths = [path for run in runs for path in run]
        resolved = [local(path).resolve() for path in paths]
        for place, path in zip(resolved, paths, strict=True):
            if resolved.count(place) > 1:
                raise UserError(f"condition {name!r}: workdir {path} is given twice")
    if bootstrap < 0:
        raise UserError(f"bootstrap {bootstrap}: expected 0 or more resamples")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")


def _check_images(workdirs: Sequence[Workdir], records: RecordSet, split: str) -> None:
    """All must see the same images, and some; of their training records each parts a share."""
    parts = [records.select(split, *validation_part(workdir, records)) for workdir in workdirs]
    for workdir, (stored, mask) in zip(workdirs, parts, strict=True):
        if stored != parts[0][0] or not np.array_equal(mask, parts[0][1]):
            raise UserError(
                f"workdir {workdir.path} parts split {split!r} of {records.path} in another way "
                f"than {workdirs[0].path}: expected the same images"
            )
    if not records.count(split, *validation_part(workdirs[0], records)):
        raise UserError(f"{records.path}: split {split!r} holds no examples")


def _recipes(runs: Sequence[Sequence[Workdir]]) -> list[dict]:
    """Workdir -> recipe of the workdirs that learned the same, once for every part of a run."""
    parts: dict[tuple, dict] = {}
    for run in runs:
        for workdir in run:
            labels = tuple((task.name, task.labels) for task in workdir.tasks)
            parts.setdefault(labels, {})[str(workdir.path)] = workdir.recipe()
    return list(parts.values())


def _compare_task(task, runs: dict[str, list[Run]], baseline, reference, detailed) -> dict:
    """One task in the conditions all runs of which have it; empty where there is none."""
    from faceattr_tf.reports.comparison.decisions import compare_decisions
    from faceattr_tf.reports.comparison.numbers import compare_task

    runs = {
        condition: group
        for condition, group in runs.items()
        if all(task.name in run.tasks for run in group)
    }
    if not runs:
        return {}
    figures = {
        condition: [run.figures(task.name) for run in group] for condition, group in runs.items()
    }
    labels = {condition: group[0].tasks[task.name].labels for condition, group in runs.items()}
    found = compare_task(task, figures, baseline, reference, labels)
    first = [baseline, *runs] if baseline in runs else list(runs)
    if task.kind != "multilabel":
        numbers = runs[first[0]][0].owner(task.name).metrics[task.name]
        guess = numbers["metrics"].get("majority_accuracy")
        return found | {"majority": {"mean": guess, "labels": {}}}
    guesses = {}
    for label in task.labels:
        owner = next(condition for condition in first if label in labels[condition])
        row = runs[owner][0].rows(task.name, label)["metrics"]
        guesses[label] = row["majority_accuracy"]
    known = [guesses[label] for label in found["shared"] if guesses[label] is not None]
    mean = sum(known) / len(known) if known else None
    found["majority"] = {"mean": mean, "labels": guesses}
    found["decisions"] = {
        label: {
            condition: compare_decisions([run.rows(task.name, label) for run in group])
            | {"mistakes": group[0].owner(task.name, label).mistakes[label]}
            for condition, group in runs.items()
            if label in labels[condition]
        }
        for label in detailed
    }
    return found


def _describe(runs: Sequence[Run]) -> list[dict]:
    """One entry per workdir."""
    entries = []
    for number, run in enumerate(runs):
        for part in run.parts:
            recipe, metadata = part.workdir.recipe(), part.workdir.metadata()
            entries.append(
                {
                    "run": number,
                    "workdir": str(part.workdir.path),
                    "recipe": recipe.name,
                    "seed": recipe.seed,
                    "network": recipe.model.name,
                    "parameters": part.parameters,
                    "best": metadata.get("best"),
                    "steps": metadata.get("steps"),
                    "crop": part.workdir.crop.to_dict(),
                    "learned": [label for task in part.tasks.values() for label in separable(task)],
                    "trained_on": metadata.get("records", []),
                    "overlap": part.overlap,
                }
            )
    return entries


def _published(data: str, name: str, split: str, count: int) -> list[dict]:
    from faceattr_tf.reports.published import published_rows

    if name == "none":
        return []
    rows = [dataclasses.asdict(row) for row in published_rows(name or data, split, count)]
    for row in rows:
        if row["data"] != data:
            other = f"published for {row['data']}, not for {data}"
            row["caveat"] = "; ".join(filter(None, (row["caveat"], other)))
    return rows
