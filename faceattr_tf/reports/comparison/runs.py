"""The runs of a comparison: what they learned, whether they can be compared, and their figures.

A run is one workdir, or several whose labels complement each other: KTH-MTFL (section 3.3) trains
one network for gender and another one for smile.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.progress import progress_bar
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import ALIGNMENT, Task
from faceattr_tf.evaluation.split import measure_split, share_tasks, split_batches, validation_part
from faceattr_tf.reports.galleries import Gallery
from faceattr_tf.workdir import Workdir


@dataclasses.dataclass(frozen=True)
class Part:
    """One workdir of a run over the whole split.

    Attributes:
        workdir: the workdir of the model.
        tasks: task name -> what the model shares with the records.
        figures: task name -> what `paired_bootstrap.run_figures` gives.
        metrics: task name -> `metrics` and, for yes/no attributes, `metrics_at_thresholds`, as
            `results.measure` gives them.
        mistakes: label -> its surest mistakes: `filename`, `labelled`, `probability` (of yes).
        galleries: label -> the same with pictures.
        filenames: the filenames of the images.
        parameters: number of the model's parameters.
        overlap: what `leakage.training_overlap` gives.
    """

    workdir: Workdir
    tasks: dict[str, Task]
    figures: dict[str, dict[str, np.ndarray]]
    metrics: dict[str, dict]
    mistakes: dict[str, list[dict]]
    galleries: dict[str, Gallery]
    filenames: list[str]
    parameters: int
    overlap: dict


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a condition over the whole split.

    Attributes:
        parts: one per workdir.
        tasks: what `learned` gives for the workdirs.
    """

    parts: tuple[Part, ...]
    tasks: dict[str, Task]

    def figures(self, name: str) -> dict[str, np.ndarray]:
        """What `paired_bootstrap.run_figures` gives of a task, for all labels of the run."""
        task = self.tasks[name]
        if task.kind != "multilabel":
            return self.owner(name).figures[name]
        columns = []
        for label in task.labels:
            part = self.owner(name, label)
            index = part.tasks[name].labels.index(label)
            columns.append(
                {figure: draws[:, index] for figure, draws in part.figures[name].items()}
            )
        return {
            figure: np.stack([column[figure] for column in columns], axis=1)
            for figure in columns[0]
        }

    def rows(self, name: str, label: str) -> dict[str, dict]:
        """The `metrics` and `metrics_at_thresholds` of a yes/no attribute."""
        found = self.owner(name, label).metrics[name]
        return {key: found[key]["labels"][label] for key in ("metrics", "metrics_at_thresholds")}

    def galleries(self) -> dict[str, Gallery]:
        """Label -> pictures of its surest mistakes."""
        return {label: found for part in self.parts for label, found in part.galleries.items()}

    def owner(self, name: str, label: str = "") -> Part:
        """The part that learned a task, and of it a label."""
        return next(
            part
            for part in self.parts
            if name in part.tasks and (not label or label in part.tasks[name].labels)
        )


def separable(task: Task) -> tuple[str, ...]:
    """What of a task is compared by itself: yes/no attributes, or the whole of another kind."""
    return task.labels if task.kind == "multilabel" else (task.name,)


def learned(workdirs: Sequence[Workdir], records: RecordSet) -> dict[str, Task]:
    """What a run shares with the records.

    Args:
        workdirs: the workdirs of the run.
        records: the record set.

    Returns:
        Task name -> task; of yes/no attributes the labels of all workdirs, in the records' order.
        Transformers are left out where there are several workdirs, each with its own.

    Raises:
        UserError: a workdir shares nothing with the records, or two learned the same.
    """
    stored = {task.name: task for task in records.tasks}
    owners: dict[tuple[str, str], Workdir] = {}
    tasks: dict[str, Task] = {}
    for workdir in workdirs:
        for task in share_tasks(workdir.tasks, records)[0]:
            if task.kind == ALIGNMENT.kind and len(workdirs) > 1:
                continue
            for label in separable(task):
                other = owners.setdefault((task.name, label), workdir)
                if other is not workdir:
                    what = " ".join(dict.fromkeys((task.name, label)))
                    raise UserError(
                        f"workdirs {other.path} and {workdir.path} of one run both learned {what}; "
                        "expected other labels of the same task"
                    )
            tasks[task.name] = task
    for name, task in tasks.items():
        if task.kind == "multilabel":
            labels = [label for label in stored[name].labels if (name, label) in owners]
            tasks[name] = stored[name].select(labels)
    return tasks


def shared_tasks(
    conditions: Mapping[str, Sequence[Sequence[Workdir]]], records: RecordSet, baseline: str
) -> dict[str, Task]:
    """What at least one condition learned, yes/no attributes in the records' order.

    Args:
        conditions: name -> runs -> workdirs.
        records: the record set.
        baseline: the condition that the others are compared with.

    Raises:
        UserError: the runs of a condition learned different labels, tasks of the same name cannot
            be compared, or a condition shares no label with the baseline.
    """
    found: dict[str, Task] = {}
    of: dict[str, dict[str, Task]] = {}
    for condition, runs in conditions.items():
        for run in runs:
            tasks = learned(run, records)
            first = of.setdefault(condition, tasks)
            for name, task in tasks.items():
                # Of yes/no attributes a condition may lack some; anything else is one figure.
                known = found if task.kind != "multilabel" else first
                if name in known and known[name].labels != task.labels:
                    raise UserError(
                        f"workdir {_place(run)}: task {name} is {', '.join(task.labels)}, but "
                        f"{', '.join(known[name].labels)} in another run; expected the same labels"
                    )
                found.setdefault(name, task)
    names = {
        condition: {
            (name, label)
            for name, task in tasks.items()
            if task.kind != ALIGNMENT.kind  # which is geometry, not a label
            for label in separable(task)
        }
        for condition, tasks in of.items()
    }
    for condition in conditions:
        if not names[condition] & names[baseline]:
            raise UserError(
                f"condition {condition!r} ({_place(conditions[condition][0])}) shares no label "
                f"with the baseline {baseline!r} ({_place(conditions[baseline][0])})"
            )
    everything = set().union(*names.values())
    for task in records.tasks:
        if task.kind == "multilabel" and task.name in found:
            labels = [label for label in task.labels if (task.name, label) in everything]
            found[task.name] = task.select(labels)
    return found


def _place(run: Sequence[Workdir]) -> str:
    return "+".join(str(workdir.path) for workdir in run)


def evaluate_runs(
    conditions: Mapping[str, Sequence[Sequence[Workdir]]],
    records: RecordSet,
    split: str,
    *,
    shown: Collection[str] = (),
    flip: bool = False,
    bootstrap: int = 2000,
    batch_size: int = 128,
    progress: bool = True,
) -> dict[str, list[Run]]:
    """Every run over the whole split, with a progress bar.

    Args:
        conditions: name -> runs -> workdirs.
        records: the record set.
        split: which part of it.
        shown: labels whose mistakes are gathered, for the first run of each condition.
        flip: average every output with that of the mirrored image.
        bootstrap: how often the images are drawn again.
        batch_size: images per forward pass.
        progress: show a bar, on a terminal.

    Raises:
        UserError: a model cannot be read.
    """
    import keras

    runs: dict[str, list[Run]] = {name: [] for name in conditions}
    total = sum(
        records.count(split, *validation_part(workdir, records))
        for group in conditions.values()
        for run in group
        for workdir in run
    )
    with progress_bar(total, "image", show=progress) as bar:
        for condition, group in conditions.items():
            for run in group:
                parts = []
                for workdir in run:
                    bar.set_description(f"{condition}, {workdir.path.name}")
                    labels = () if runs[condition] else shown
                    part = _evaluate(
                        workdir, records, split, labels, flip, bootstrap, batch_size, bar
                    )
                    parts.append(part)
                    keras.utils.clear_session()  # frees the model
                runs[condition].append(Run(tuple(parts), learned(run, records)))
    return runs


def _evaluate(workdir, records, split, shown, flip, bootstrap, batch_size, progress) -> Part:
    from faceattr_tf.evaluation.leakage import training_overlap
    from faceattr_tf.evaluation.paired_bootstrap import run_figures
    from faceattr_tf.reports.galleries import collect_examples, surest_mistakes

    batches = split_batches(workdir, records, split, batch_size)
    model = workdir.load_model()
    results, filenames = measure_split(workdir, model, records, _watched(batches, progress), flip)
    mistakes, chosen = {}, {}
    for result in results:
        if labels := [label for label in result.task.labels if label in shown]:
            chosen[result.task.name] = surest_mistakes(result, labels)
            for _, found, label in chosen[result.task.name]:
                mistakes[result.task.labels[label]] = [
                    {
                        "filename": filenames[index],
                        "labelled": int(result.labels[index, label]),
                        "probability": float(result.scores[index, label]),
                    }
                    for index in found
                ]
    galleries = {}
    if any(mistakes.values()):
        pictured = [result for result in results if result.task.name in chosen]
        galleries = collect_examples(
            pictured, batches, filenames, lambda result: chosen[result.task.name]
        )
    return Part(
        workdir,
        {result.task.name: result.task for result in results},
        {result.task.name: run_figures(result, bootstrap) for result in results},
        {result.task.name: result.numbers for result in results},
        mistakes,
        {gallery.label: gallery for found in galleries.values() for gallery in found},
        filenames,
        model.count_params(),
        training_overlap(workdir, records, filenames),
    )


def _watched(batches: Iterable[dict], progress) -> Iterable[dict]:
    for batch in batches:
        yield batch
        progress.update(len(batch["filename"]))
