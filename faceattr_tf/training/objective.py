"""What a run minimises."""

import functools

from faceattr_tf.experiment import Experiment
from faceattr_tf.losses import find_loss, label_weights, task_loss


def create_losses(experiment: Experiment) -> dict:
    """Per task `loss(labels, outputs) -> [B]`, as the recipe configures it."""
    counts = experiment.label_counts()
    losses = {}
    for task, config in zip(experiment.tasks, experiment.task_configs, strict=True):
        options = {"loss": config.loss, "label_smoothing": config.label_smoothing}
        find_loss(task, config.loss, config.label_smoothing)
        if config.balance_labels:
            options["label_weights"] = label_weights(task, counts.get(task.name, ()))
        if task.kind == "regression":
            # In units of the labels' spread, so that years do not outweigh probabilities.
            options["label_weights"] = 1 / experiment.statistics(task)[:, 1] ** 2
        losses[task.name] = functools.partial(task_loss, task, **options)
    return losses
