"""Losses and metrics of a run's model on its validation examples."""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.input import evaluation_batches
from faceattr_tf import bottlenecks
from faceattr_tf.evaluate import predict_outputs
from faceattr_tf.experiment import Experiment
from faceattr_tf.losses import label_weights, task_loss
from faceattr_tf.metrics import evaluate_task


def create_losses(experiment: Experiment) -> dict:
    """Per task `loss(labels, outputs) -> [B]`, as the recipe configures it."""
    counts = experiment.label_counts()
    losses = {}
    for task, config in zip(experiment.tasks, experiment.task_configs, strict=True):
        options = {"loss": config.loss, "label_smoothing": config.label_smoothing}
        if config.balance_labels:
            options["label_weights"] = label_weights(task, counts.get(task.name, ()))
        if task.kind == "regression":
            # In units of the labels' spread, so that years do not outweigh probabilities.
            options["label_weights"] = 1 / experiment.statistics(task)[:, 1] ** 2
        losses[task.name] = functools.partial(task_loss, task, **options)
    return losses


def validate(
    forward, experiment: Experiment, batches: Sequence[Iterable[dict]] | None = None
) -> dict:
    """Losses and metrics on the validation split of all record sets together.

    Args:
        forward: a model, or what `forward_function` made of one.
        experiment: gives data, tasks and losses.
        batches: `validation_batches(experiment)`, from a caller that validates repeatedly.

    Returns:
        `{"loss": weighted sum, "<task>/loss": …, "<task>/<metric>": …}`, without the metrics where
        the loss is not finite.
    """
    outputs, labels, transforms = validation_outputs(forward, experiment, batches)
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
        for name, value in result.get("mean", result).items():
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


def validation_batches(experiment: Experiment) -> list[Iterable[dict]]:
    """The batches of every record set, which may be gone through as often as wanted.

    Making them takes a second, so a caller that validates repeatedly keeps them.
    """
    size = experiment.recipe.data.batch_size
    if experiment.bottlenecks:
        return [
            bottlenecks.evaluation_batches(part, size)
            for part in experiment.bottlenecks["validation"]
        ]
    return [
        evaluation_batches(
            source,
            experiment.tasks,
            experiment.crop,
            batch_size=size,
            aligned=experiment.aligned,
            disturb=experiment.disturb,
        )
        for source in experiment.sources("validation")
    ]
