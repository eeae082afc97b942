"""Evaluation of a trained model: its outputs over a whole split, then every figure of the report.

Nothing is fitted here: thresholds and temperatures come from the workdir, where training chose
them on validation data.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.records.build import RecordSet
from data_pipelines.tasks import ALIGNMENT, Task, join_labels
from faceattr_tf.evaluation.results import TaskResult, measure


def forward_function(model) -> Callable:
    """A compiled `images -> {task: outputs}` in inference mode that takes any batch size.

    Compiling takes seconds, so a caller that predicts repeatedly (validation) keeps it.
    """
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def forward(images):
        return model(images, training=False)

    return forward


def predict_outputs(
    model, batches: Iterable[dict], flip: bool = False, tasks: Sequence[Task] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray, list[str]]:
    """Runs a model over batches and gathers everything that metrics need, in the batches' order.

    Args:
        model: a `keras.Model`, or what `forward_function` made of one.
        batches: the elements of `data_pipelines.input.batches.evaluation_batches`.
        flip: average the outputs with those of the mirrored image. Needs `tasks`.
        tasks: the model's tasks, whose `mirror` says how labels swap in a mirrored image.

    Returns:
        outputs: task name -> float32, as the model gives them (logits, values, coordinates).
        labels: task name -> the labels of the batches.
        transforms: float32 `[N, 2, 3]`, crop pixel -> source pixel.
        filenames: N strings.
    """
    import keras

    from faceattr_tf.evaluation.metrics import average_mirrored

    if flip and not tasks:
        raise ValueError("flip averaging needs the tasks, to know which labels swap")
    forward = forward_function(model) if isinstance(model, keras.Model) else model
    outputs, labels, transforms, filenames = [], [], [], []
    for batch in batches:
        images = batch["image"]
        result = _to_numpy(forward(images))
        if flip:
            mirrored = _to_numpy(forward(images[:, :, ::-1]))
            for task in tasks:
                pair = result[task.name], mirrored[task.name]
                result[task.name] = average_mirrored(task, *pair)
        outputs.append(result)
        labels.append({name: np.asarray(label) for name, label in batch["labels"].items()})
        transforms.append(np.asarray(batch["transform"], np.float32))
        filenames += map(os.fsdecode, np.asarray(batch["filename"]))
    if not outputs:
        return {}, {}, np.zeros((0, 2, 3), np.float32), []
    return _concatenate(outputs), _concatenate(labels), np.concatenate(transforms), filenames


def _to_numpy(outputs: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def _concatenate(parts: list[dict]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluate(
    workdir: str | os.PathLike,
    records: str | os.PathLike | Sequence[str | os.PathLike],
    split: str = "test",
    *,
    output: str | os.PathLike | None = None,
    flip: bool = False,
    bootstrap: int = 1000,
    batch_size: int = 128,
) -> dict[str, dict]:
    """Evaluates a trained model on record sets and writes a report for each.

    Args:
        workdir: folder of a training run.
        records: one or several folders of records that share a task with the model.
        split: which part of the records.
        output: folder for the reports; default `<workdir>/evaluation`.
        flip: average every output with that of the mirrored image.
        bootstrap: resamples for the 95 % intervals; 0 leaves them out.
        batch_size: images per forward pass.

    Returns:
        Name of the report's folder (`<records>-<split>[-flip]`) -> everything that is in its
        `report.json`; the key `folder` says where it lies.

    Raises:
        UserError: the workdir or records are missing, share no task, or the split is unknown.
    """
    from faceattr_tf.workdir import Workdir

    if bootstrap < 0:
        raise UserError(f"bootstrap {bootstrap}: expected 0 or more resamples")
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: expected at least 1")
    workdir = Workdir.open(workdir)
    folder = local(output) if output else workdir.path / "evaluation"
    if isinstance(records, str | os.PathLike):
        records = [records]
    record_sets = [RecordSet.load(path) for path in records]
    if not record_sets:
        raise UserError("no records given: name at least one folder of records")
    # Everything that can be wrong is found before TensorFlow is loaded and time is spent.
    for record_set in record_sets:
        share_tasks(workdir.tasks, record_set)
        if not record_set.count(split, *validation_part(workdir, record_set)):
            raise UserError(f"{record_set.path}: split {split!r} holds no examples")
    model = workdir.load_model()
    reports = {}
    for record_set in record_sets:
        stem = f"{record_set.name}-{split}" + ("-flip" if flip else "")
        name, number = stem, 1
        while name in reports:
            number += 1
            name = f"{stem}-{number}"
        reports[name] = _evaluate_records(
            workdir, model, record_set, split, folder / name, flip, bootstrap, batch_size
        )
    return reports


def share_tasks(tasks: Sequence[Task], records: RecordSet) -> tuple[list[Task], dict]:
    """What a model and a record set have in common, and what only one of them has.

    Args:
        tasks: the model's.
        records: the record set.

    Returns:
        The model's tasks that the records share, with the shared labels only, and the transformer's
        task, whose labels come from geometry; and
        `{"model_only": {task: labels}, "data_only": {task: labels}}`.

    Raises:
        UserError: they share nothing.
    """
    shared, model_only, data_only = [], {}, {}
    stored = {task.name: task for task in records.tasks}
    for task in tasks:
        if task.kind == ALIGNMENT.kind:
            continue
        try:
            places = join_labels(stored[task.name], task) if task.name in stored else []
        except ValueError:
            places = []
        common = [label for label, place in zip(task.labels, places, strict=False) if place >= 0]
        if common:
            shared.append(task if len(common) == len(task.labels) else task.select(common))
        if len(common) < len(task.labels):
            model_only[task.name] = [label for label in task.labels if label not in common]
    common = {task.name: task.labels for task in shared}
    for task in records.tasks:
        left = [label for label in task.labels if label not in common.get(task.name, ())]
        if left:
            data_only[task.name] = left
    if not shared:
        raise UserError(
            f"{records.path}: no task is shared with the model; the model has "
            f"{_describe(tasks)}, the records have {_describe(records.tasks)}"
        )
    shared += [task for task in tasks if task.kind == ALIGNMENT.kind]
    return shared, {"model_only": model_only, "data_only": data_only}


def validation_part(workdir, records: RecordSet) -> tuple[float, int, bool]:
    """The rule by which training parted these records; other records are not parted."""
    fingerprint = records.description.get("fingerprint")
    for entry in workdir.metadata().get("records", []):
        if fingerprint is not None and entry.get("fingerprint") == fingerprint:
            return workdir.recipe().validation_rule
    return 0.0, 0, False


def _describe(tasks: Sequence[Task]) -> str:
    parts = []
    for task in tasks:
        more = "" if len(task.labels) <= 5 else f", ... {len(task.labels)} in all"
        parts.append(f"{task.name} ({task.kind}: {', '.join(task.labels[:5])}{more})")
    return "; ".join(parts)


@dataclasses.dataclass(frozen=True)
class SplitBatches:
    """What `split_batches` gives: the batches, as often as they are asked for.

    Attributes:
        dataset: of `data_pipelines.input.batches.evaluation_batches`.
        source: what it reads, for the name of a file that fails.
    """

    dataset: Iterable[dict]
    source: object

    def __iter__(self) -> Iterator[dict]:
        from data_pipelines.input.batches import named_failures

        return named_failures(self.dataset, [self.source])


def split_batches(
    workdir, records: RecordSet, split: str = "test", batch_size: int = 128
) -> SplitBatches:
    """A split as a run's model sees it, with the labels of the tasks that both share.

    Args:
        workdir: the `Workdir` of the run.
        records: the record set.
        split: which part of it; what training held back for validation is found again.
        batch_size: images per batch.

    Returns:
        The elements of `data_pipelines.input.batches.evaluation_batches`.
    """
    from data_pipelines.input.batches import Source, evaluation_batches

    source = Source(records, split, *validation_part(workdir, records))
    tasks = [task for task, _ in _shared_pairs(workdir, records)]
    dataset = evaluation_batches(
        source,
        tasks,
        workdir.crop,
        batch_size=batch_size,
        aligned=workdir.aligned,
        disturb=workdir.disturb,
    )
    return SplitBatches(dataset, source)


def measure_split(
    workdir, model, records: RecordSet, batches: Iterable[dict], flip: bool = False
) -> tuple[list[TaskResult], list[str]]:
    """Every shared task of a run over a whole split, without intervals.

    Args:
        workdir: the `Workdir` of the run, with its temperatures and thresholds.
        model: what the workdir's `load_model` gave.
        records: the record set.
        batches: what `split_batches` gave.
        flip: average every output with that of the mirrored image.

    Returns:
        One result per shared task, with the shared labels only; and the names of the images.
    """
    pairs = _shared_pairs(workdir, records)
    tasks = [full for full, _ in pairs]
    outputs, labels, transforms, filenames = predict_outputs(model, batches, flip, tasks)
    crop, majorities = workdir.crop, workdir.metadata().get("majority", {})
    results = []
    for full, task in pairs:
        columns = [full.labels.index(label) for label in task.labels]
        calibration = workdir.calibration().get(task.name, {})
        majority = majorities.get(task.name)
        task_labels, task_outputs = labels[task.name], outputs[task.name]
        thresholds = calibration.get("thresholds") or ()
        if len(columns) < len(full.labels):  # multilabel and regression only
            task_labels, task_outputs = task_labels[:, columns], task_outputs[:, columns]
            thresholds = [thresholds[index] for index in columns if thresholds]
            majority = [majority[index] for index in columns] if majority else None
        results.append(
            measure(
                task,
                task_labels,
                task_outputs,
                temperature=calibration.get("temperature", 1.0),
                thresholds=tuple(thresholds),
                majority=majority,
                transforms=transforms,
                crop_size=(crop.height, crop.width),
            )
        )
    return results, filenames


def _shared_pairs(workdir, records) -> list[tuple[Task, Task]]:
    """Every shared task as the model has it, and with the shared labels only."""
    full = {task.name: task for task in workdir.tasks}
    return [(full[task.name], task) for task in share_tasks(workdir.tasks, records)[0]]


def _evaluate_records(workdir, model, records, split, folder, flip, bootstrap, batch_size):
    from faceattr_tf.evaluation.bootstrap import intervals
    from faceattr_tf.evaluation.leakage import training_overlap
    from faceattr_tf.reports import page
    from faceattr_tf.reports.galleries import collect_examples
    from faceattr_tf.reports.published import published_rows

    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    recipe, metadata = workdir.recipe(), workdir.metadata()

    batches = split_batches(workdir, records, split, batch_size)
    results, filenames = measure_split(workdir, model, records, batches, flip)
    if bootstrap:
        for result in results:
            result.numbers["intervals"] = intervals(result, bootstrap)
            if result.thresholds:
                result.numbers["intervals_at_thresholds"] = intervals(
                    result, bootstrap, result.thresholds
                )
    contents = {
        "folder": str(folder),
        "data": {
            "name": records.name,
            "title": records.description.get("title"),
            "path": str(records.path),
            "fingerprint": records.description.get("fingerprint"),
            "split": split,
            "examples": len(filenames),
        },
        "model": {
            "workdir": str(workdir.path),
            "recipe": recipe.name,
            "network": recipe.model.name,
            "parameters": model.count_params(),
            "best": metadata.get("best"),
            "crop": workdir.crop.to_dict(),
            "trained_on": metadata.get("records", []),
        },
        "flip": flip,
        "bootstrap": bootstrap,
        "tasks": {result.task.name: result.numbers for result in results},
        "not_shared": share_tasks(workdir.tasks, records)[1],
        "overlap": training_overlap(workdir, records, filenames),
        "published": [
            dataclasses.asdict(row) for row in published_rows(records.name, split, len(filenames))
        ],
    }
    examples = collect_examples(results, batches, filenames)
    page.write_report(folder, contents, results, examples, workdir.metrics_log())
    return contents
