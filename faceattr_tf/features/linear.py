"""Linear support vector machines on stored features, as the heads of a network.

Source: LNets+ANet (Liu et al., ICCV 2015), section 3 and figure 3 (d): one linear SVM per attribute
on the features of a network that is trained already.
"""

import collections
from collections.abc import Sequence

import joblib
import keras
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.progress import progress_bar
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import LINEAR_SVM, Phase
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.machines import fit_machine
from faceattr_tf.models.heads import HEAD_PREFIX

_WORTH_PROCESSES = 1_000_000
"""Numbers in all features from which on machines are fitted by several processes."""


def check_linear_svm(experiment: Experiment, phase: Phase) -> None:
    """Makes sure that a phase that fits support vector machines has what it takes.

    Raises:
        UserError: it trains on images, is longer than a step, has no cost to choose from, or a task
            has neither attributes nor classes.
    """
    where = f"phase {phase.name!r}: optimizer {LINEAR_SVM!r}"
    if not experiment.recipe.data.bottlenecks.use:
        raise UserError(f"{where} fits heads to stored features: expected data.bottlenecks.use")
    if experiment.recipe.model.branches:
        raise UserError(f"{where} fits heads to what a whole network gives: expected no branches")
    if phase.steps != 1:
        raise UserError(f"{where} takes all examples at once: expected steps 1, not {phase.steps}")
    if not phase.costs or min(phase.costs) <= 0:
        raise UserError(f"{where}: costs {phase.costs} must be positive numbers, at least one")
    for task in experiment.tasks:
        if task.kind not in ("multilabel", "multiclass"):
            raise UserError(
                f"{where}: task {task.name!r} is of kind {task.kind}; it fits attributes "
                "(multilabel) and classes (multiclass)"
            )


def fit_heads(
    model: keras.Model,
    tasks: Sequence[Task],
    phase: Phase,
    training: Sequence[Features],
    validation: Sequence[Features],
    *,
    progress: bool = True,
) -> None:
    """Gives the heads of a model the linear SVMs of its tasks.

    Every label, and every class against the others, has a machine of its own. Its cost is the one
    of `phase.costs` with the best sum of accuracy and balanced accuracy on validation, at the
    machine's own threshold; of equal ones the smaller (`fit_machine`). Features are standardised by
    the training examples, which the weights of the head undo. Labels of one sign alone, which no
    machine can be fitted to, get a constant answer.

    Args:
        model: what `faceattr_tf.models.stages.build_top` gave.
        tasks: its tasks, multilabel or multiclass.
        phase: names the costs.
        training: features of the training sources; randomly changed copies are further examples.
        validation: features of the validation sources.
        progress: show a bar.
    """
    features, labels = _joined(training, every_copy=True)
    held, held_labels = _joined(validation, every_copy=False)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-6 * max(1.0, float(deviation.max()))] = np.inf  # always the same
    features = (features - mean) / deviation
    held = (held - mean) / deviation
    columns = [(task, index) for task in tasks for index in range(len(task.labels))]
    fitted = {task.name: [] for task in tasks}
    with (
        progress_bar(len(columns), "SVM", show=progress) as bar,
        # In processes, since the solver's random numbers are shared by the threads of one.
        joblib.Parallel(
            n_jobs=-1 if features.size > _WORTH_PROCESSES else 1, return_as="generator"
        ) as parallel,
    ):
        machines = parallel(
            joblib.delayed(fit_machine)(
                features,
                signs(task, labels[task.name], index),
                held,
                signs(task, held_labels[task.name], index),
                phase.costs,
            )
            for task, index in columns
        )
        for (task, _), machine in zip(columns, machines, strict=True):
            fitted[task.name].append(machine)
            bar.update()
    for task in tasks:
        weights = np.stack([weight for weight, _, _ in fitted[task.name]], axis=1)
        kernel = weights / deviation[:, None]
        bias = np.array([bias for _, bias, _ in fitted[task.name]]) - mean @ kernel
        model.get_layer(HEAD_PREFIX + task.name).set_weights([kernel, bias])
        chosen = collections.Counter(cost for _, _, cost in fitted[task.name] if cost)
        words = ", ".join(f"{cost:g} for {count}" for cost, count in sorted(chosen.items()))
        print(f"{task.name}: C chosen on validation: {words or 'none'}")


def _joined(parts: Sequence[Features], every_copy: bool) -> tuple[np.ndarray, dict]:
    """Features float32 `[N, F]` and labels `[N, ...]` of several sources."""
    features, labels = [], []
    for part in parts:
        rows = np.arange(len(part))
        for copy in range(part.copies if every_copy else 1):
            batch = part.batch(rows, np.full_like(rows, copy))
            features.append(batch["image"])
            labels.append(batch["labels"])
    return np.concatenate(features), {
        name: np.concatenate([one[name] for one in labels]) for name in labels[0]
    }


def signs(task: Task, labels: np.ndarray, index: int) -> np.ndarray:
    """What every example says of one label, or class: `[N]`, 1 yes, 0 no, -1 unknown."""
    if task.kind == "multilabel":
        return labels[:, index]
    return np.where(labels < 0, -1, labels == index)
