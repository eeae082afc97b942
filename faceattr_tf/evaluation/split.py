"""A run's model on a split of records: what both share, in batches, measured."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import ALIGNMENT, IDENTITY, Task, join_labels, list_labels
from faceattr_tf.evaluation.inference import predict_outputs
from faceattr_tf.evaluation.results import TaskResult, measure


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
        if task.name == IDENTITY and records.knows(task):
            places = range(len(task.labels))
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


def validation_part(workdir, records: RecordSet) -> tuple[float, int, bool, bool]:
    """The rule by which training parted these records; other records are not parted."""
    fingerprint = records.description.get("fingerprint")
    for entry in workdir.metadata().get("records", []):
        if fingerprint is not None and entry.get("fingerprint") == fingerprint:
            return workdir.recipe().validation_rule
    return 0.0, 0, False, False


def _describe(tasks: Sequence[Task]) -> str:
    parts = [f"{task.name} ({task.kind}: {list_labels(task.labels, 5)})" for task in tasks]
    return "; ".join(parts) or "none"


@dataclasses.dataclass(frozen=True)
class SplitBatches:
    """What `split_batches` gives: the batches, as often as they are asked for.

    Attributes:
        dataset: what `data_pipelines.input.batches.evaluation_batches` gives.
        source: what it reads, for the name of a file that fails.
    """

    dataset: Iterable[dict]
    source: object

    def __iter__(self) -> Iterator[dict]:
        from data_pipelines.input.batches import named_failures

        return named_failures(self.dataset, [self.source])


def ten_crop_share(workdir) -> float:
    """Side of the patches that a run was trained on at its end, as a share of the crop's.

    Raises:
        UserError: it was not trained on patches, or answers with places in what it sees.
    """
    recipe = workdir.recipe()
    share = recipe.data.augment.ten_crop
    for phase in recipe.phases[-1:]:
        share = dict(phase.augment).get("ten_crop", share)
    if not share:
        raise UserError(
            f"{workdir.path}: the run was not trained on ten crops (data.augment.ten_crop is 0)"
        )
    for task in workdir.tasks:
        if task.kind in ("landmarks", "transform"):
            raise UserError(
                f"task {task.name!r}: ten crops cannot be averaged, as its answers are places in "
                "each of them"
            )
    return share


def split_batches(
    workdir,
    records: RecordSet,
    split: str = "test",
    batch_size: int = 128,
    ten_crop: float = 0.0,
) -> SplitBatches:
    """A split as a run's model sees it, with the labels of the tasks that both share.

    Args:
        workdir: the `Workdir` of the run.
        records: the record set.
        split: which part of it; what training held back for validation is found again.
        batch_size: images per batch.
        ten_crop: side of the patches that stand in place of the crop, as a share of its own; 0
            for the crop.

    Returns:
        The elements of `data_pipelines.input.batches.evaluation_batches`.
    """
    from data_pipelines.input.batches import Source, evaluation_batches

    source = Source(records, split, *validation_part(workdir, records))
    tasks = [task for task, _ in _shared_pairs(workdir, records)]
    dataset = evaluation_batches(
        source,
        tasks,
        workdir.view,
        batch_size=batch_size,
        ten_crop=ten_crop,
    )
    return SplitBatches(dataset, source)


def measure_split(
    workdir,
    model,
    records: RecordSet,
    batches: Iterable[dict],
    flip: bool = False,
    consistent: bool = False,
) -> tuple[list[TaskResult], list[str]]:
    """Every shared task of a run over a whole split, without intervals.

    Args:
        workdir: the `Workdir` of the run.
        model: what the workdir's `load_model` gave.
        records: the record set.
        batches: what `split_batches` gave.
        flip: average every output with that of the mirrored image.
        consistent: measure answers without impossible pairs as well.

    Returns:
        One result per shared task, with the shared labels only; and the names of the images. Where
        the run knows impossible pairs, the numbers hold how often they are asserted, see
        `consistency.measure_consistency`.
    """
    from faceattr_tf.evaluation.consistency import measure_consistency

    pairs = _shared_pairs(workdir, records)
    tasks = [full for full, _ in pairs]
    outputs, labels, transforms, filenames = predict_outputs(model, batches, flip, tasks)
    crop, metadata = workdir.crop, workdir.metadata()
    majorities, impossible = metadata.get("majority", {}), metadata.get("impossible", {})
    results = []
    for full, task in pairs:
        columns = [full.labels.index(label) for label in task.labels]
        calibration = workdir.calibration().get(task.name, {})
        majority = majorities.get(task.name)
        task_labels, task_outputs = labels[task.name], outputs[task.name]
        thresholds = calibration.get("thresholds") or ()
        temperature = calibration.get("temperature", 1.0)
        all_outputs = task_outputs
        if len(columns) < len(full.labels):  # multilabel and regression only
            task_labels, task_outputs = task_labels[:, columns], task_outputs[:, columns]
            thresholds = [thresholds[index] for index in columns if thresholds]
            temperature = np.broadcast_to(temperature, len(full.labels))[columns].tolist()
            majority = [majority[index] for index in columns] if majority else None
        results.append(
            measure(
                task,
                task_labels,
                task_outputs,
                temperature=temperature,
                thresholds=tuple(thresholds),
                majority=majority,
                transforms=transforms,
                crop_size=(crop.height, crop.width),
            )
        )
        if excluded := impossible.get(task.name):
            results[-1].numbers["impossible"] = measure_consistency(
                full, all_outputs, task, task_labels, calibration, excluded, consistent
            )
    return results, filenames


def _shared_pairs(workdir, records) -> list[tuple[Task, Task]]:
    """Every shared task as the model has it, and with the shared labels only."""
    full = {task.name: task for task in workdir.tasks}
    return [(full[task.name], task) for task in share_tasks(workdir.tasks, records)[0]]
