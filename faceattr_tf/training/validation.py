"""Losses and metrics of a run's model on its validation examples."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.batches import encoded_batches, evaluation_batches, named_failures
from data_pipelines.input.people import has_people
from data_pipelines.tasks import CLASS_KINDS, IDENTITY, Task
from faceattr_tf.evaluation.inference import predict_outputs
from faceattr_tf.evaluation.metrics import choosing, evaluate_task
from faceattr_tf.evaluation.subgroups import SMALLEST
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import EvaluationBatches, Features
from faceattr_tf.losses import known
from faceattr_tf.training.objective import create_losses
from faceattr_tf.training.slices import Sliced

WORST = ("accuracy", "balanced_accuracy")
"""The metrics of tasks that are measured in every slice."""

KEPT = 2**26
"""Bytes up to which the crops of a validation source stay in memory: 64 MiB, a thousand of 75x75."""


def check_validation(experiment: Experiment, sliced: Sliced | None = None) -> None:
    """Makes sure, before a step is trained, that validation can tell which model is best.

    Reads the labels of the validation examples and none of their pixels.

    Args:
        experiment: what is trained.
        sliced: the slices of its images, from whoever trains with their weights.

    Raises:
        UserError: a task's loss cannot be had, no validation example has a label of a task that the
            loss counts, or the recipe's `best_metric` cannot be measured.
    """
    create_losses(experiment)
    if experiment.recipe.slices.by and not sliced:
        raise UserError(
            f"slices.by {experiment.recipe.slices.by!r}: only whole runs weigh images by slices, as "
            "faceattr-train and faceattr-sweep make them; expected it empty"
        )
    labels = _validation_labels(experiment)
    measured = ["loss"]
    for task, config in zip(experiment.tasks, experiment.task_configs, strict=True):
        given = labels[task.name]
        if config.weight and not np.asarray(known(task, given)).any():
            if has_people(task, experiment.record_sets):
                raise UserError(_nobody_known(len(given)))
            raise UserError(
                f"task {task.name!r}: every label of the {len(given):,} validation examples is "
                "unknown, so that no model could be chosen; expected records whose validation part "
                "knows some, or the task left out"
            )
        measured += [f"{task.name}/{name}" for name in ("loss", *_measurable(task, given))]
        measured += [f"{task.name}/{name}" for name in _worst(task, given, None, sliced)]
    if experiment.recipe.best_metric not in measured:
        raise UserError(
            f"best_metric {experiment.recipe.best_metric!r} is not measured on validation; "
            f"there are: {', '.join(measured)}"
        )


def _nobody_known(count: int) -> str:
    """What to say where none of so many validation examples shows anybody of the classes."""
    expected = (
        "--config.data.validation_by_person=False, --config.data.validation_of_training=True where "
        "records have a validation split of their own, and a --config.data.validation_share"
    )
    return (
        f"task {IDENTITY!r}: none of the {count:,} validation examples shows anybody who is trained; "
        f"to take other images of the same people: {expected}"
    )


def _measurable(task: Task, labels: np.ndarray) -> list[str]:
    """The metrics of a task that some outputs have a value of, given these labels."""
    found = set()
    for sign in (1.0, -1.0):  # Precision is that of answers which are given at all.
        result = evaluate_task(task, labels, _constant(task, labels, sign))
        found |= {name for name, value in result.get("mean", result).items() if value is not None}
    return [name for name in choosing() if name in found]


def _constant(task: Task, labels: np.ndarray, value: float) -> np.ndarray:
    """Outputs that are the same number for every image."""
    last = [len(task.labels)] if task.kind == "multiclass" else labels.shape[1:]
    return np.full((len(labels), *last), value, np.float32)


def _worst(task: Task, labels: np.ndarray, outputs, sliced: Sliced | None) -> dict[str, float]:
    """The metrics of `WORST` in the slice that is worst off, of those with `SMALLEST` images.

    Args:
        task: of any kind; where these metrics are none of it, nothing is found.
        labels, outputs: of the images of validation; outputs of None stand for any.
        sliced: their slices.
    """
    if sliced is None or task.kind not in ("multilabel", *CLASS_KINDS):
        return {}
    outputs = _constant(task, labels, 1.0) if outputs is None else outputs
    found: dict[str, list] = {name: [] for name in WORST}
    for member in sliced.groups().values():
        if member.sum() >= SMALLEST:
            result = evaluate_task(task, labels[member], outputs[member])
            for name, values in found.items():
                values.append(result.get("mean", result).get(name))
    known = {name: [v for v in values if v is not None] for name, values in found.items()}
    return {f"worst_{name}": min(values) for name, values in known.items() if values}


def _validation_labels(experiment: Experiment) -> dict[str, np.ndarray]:
    """The labels of all validation examples as records hold them.

    A transform counts as known where it can be computed: its numbers are 0 there.
    """
    parts: dict[str, list] = {task.name: [] for task in experiment.tasks}
    for source in experiment.sources("validation"):
        batches = encoded_batches(source, experiment.tasks, batch_size=1024)
        for batch in named_failures(batches, [source]):
            for task in experiment.tasks:
                if task.kind == "transform":
                    parts[task.name].append(_transforms(experiment.view.aligned, batch))
                else:
                    parts[task.name].append(batch["labels"][task.name].numpy())
    return {name: np.concatenate(found) for name, found in parts.items()}


def _transforms(aligned: Crop | None, batch: dict) -> np.ndarray:
    box, points = batch["box"].numpy(), batch["landmarks"].numpy().reshape(-1, 10)
    labels = np.zeros((len(box), 2, 3), np.float32)
    needed = {"align": points, "affine": points}.get(aligned.kind, labels) if aligned else None
    unknown = True if needed is None else np.isnan(needed).reshape(len(box), -1).any(axis=1)
    labels[unknown] = np.nan
    return labels


def validate(
    forward,
    experiment: Experiment,
    batches: Sequence[Iterable[dict]] | None = None,
    sliced: Sliced | None = None,
) -> dict:
    """Losses and metrics on the validation split of all record sets together.

    Args:
        forward: a model, or what `forward_function` made of one.
        experiment: gives data, tasks and losses.
        batches: `validation_batches(experiment)`, from a caller that validates repeatedly.
        sliced: the slices of the images, of which the worst is then measured, too.

    Returns:
        What `figures_of` gives.
    """
    return figures_of(experiment, *validation_outputs(forward, experiment, batches), sliced)


def figures_of(
    experiment: Experiment, outputs: dict, labels: dict, transforms, sliced: Sliced | None = None
) -> dict:
    """Losses and metrics of what `validation_outputs` gave.

    Returns:
        `{"loss": weighted sum, "<task>/loss": …, "<task>/<metric>": …}`, without the metrics where
        the loss is not finite; with slices also `<task>/worst_<metric>` of `WORST`, at 0.5.
    """
    losses = create_losses(experiment)
    majority = experiment.majority()
    values = {"loss": 0.0}
    for task, config in zip(experiment.tasks, experiment.task_configs, strict=True):
        loss = losses[task.name](labels[task.name], outputs[task.name])
        values[f"{task.name}/loss"] = float(np.mean(loss))
        values["loss"] += config.weight * values[f"{task.name}/loss"]
    if not np.isfinite(values["loss"]):
        return values
    for task in experiment.tasks:
        result = evaluate_task(
            task,
            labels[task.name],
            outputs[task.name],
            majority=majority.get(task.name),
            transforms=transforms,
            crop_size=experiment.input_shape[:2],
        )
        worst = _worst(task, labels[task.name], outputs[task.name], sliced)
        for name, value in (result.get("mean", result) | worst).items():
            if isinstance(value, float):
                values[f"{task.name}/{name}"] = value
    return values


def validation_outputs(
    forward, experiment: Experiment, batches: Sequence[Iterable[dict]] | None = None
):
    """Outputs, labels and crop transforms of all validation examples, joined over record sets."""
    parts = [
        predict_outputs(forward, part, tasks=experiment.tasks)
        for part in batches or validation_batches(experiment)
    ]
    outputs = {
        t.name: np.concatenate([part[0][t.name] for part in parts]) for t in experiment.tasks
    }
    labels = {t.name: np.concatenate([part[1][t.name] for part in parts]) for t in experiment.tasks}
    return outputs, labels, np.concatenate([part[2] for part in parts])


def validation_batches(
    experiment: Experiment, features: Sequence[Features] = ()
) -> list[Iterable[dict]]:
    """The batches of every record set, which may be gone through as often as wanted.

    Making them takes a second, so a caller that validates repeatedly keeps them. What is little is
    decoded once; TensorFlow takes a third of a second to begin with a data set anew, too.

    Args:
        experiment: gives data and tasks.
        features: the stored features of every validation source, for a run on bottlenecks.
    """
    size = experiment.recipe.data.batch_size
    if features:
        return [EvaluationBatches(part, size) for part in features]
    image = 4 * math.prod(experiment.input_shape)
    parts = []
    for source in experiment.sources("validation"):
        part = evaluation_batches(source, experiment.tasks, experiment.view, batch_size=size)
        parts.append(_Kept(part) if source.count * image <= KEPT else part)
    return parts


class _Kept:
    """Batches that stay in memory from the first time on that all of them were gone through."""

    def __init__(self, batches: Iterable[dict]):
        self.batches: Iterable[dict] = batches
        self.complete = False

    def __iter__(self) -> Iterator[dict]:
        if self.complete:
            yield from self.batches
            return
        found = []
        for batch in self.batches:
            found.append(batch)
            yield batch
        self.batches, self.complete = found, True
