"""Linear support vector machines on stored features, as the heads of a network.

Source: LNets+ANet (Liu et al., ICCV 2015), section 3 and figure 3 (d): one linear SVM per attribute
on the features of a network that is trained already.
"""

import collections
import hashlib
import pathlib
import zipfile
from collections.abc import Sequence

import joblib
import keras
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import replacing
from data_pipelines.progress import progress_bar
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import LINEAR_SVM, Phase
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.features.machines import Machine, fit_machine
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
    folder: pathlib.Path | None = None,
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
        folder: where every machine is kept as soon as it is fitted, so that what was interrupted
            goes on; made if it is missing. None: nowhere.
        progress: show a bar.
    """
    features, labels = _joined(training, every_copy=True)
    held, held_labels = _joined(validation, every_copy=False)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation[deviation < 1e-6 * max(1.0, float(deviation.max()))] = np.inf  # always the same
    features = (features - mean) / deviation
    held = (held - mean) / deviation
    columns = [(task, index) for task in tasks for index in range(len(task.labels))]
    kept = _Kept(folder, phase.costs, (features, held, *labels.values(), *held_labels.values()))
    fitted = {(task.name, index): kept.read(task, index) for task, index in columns}
    columns = [(task, index) for task, index in columns if not fitted[task.name, index]]
    if len(columns) < len(fitted):
        print(f"{folder}: {len(fitted) - len(columns)} of {len(fitted)} machines found")
    with (
        progress_bar(len(fitted), "SVM", show=progress, initial=len(fitted) - len(columns)) as bar,
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
        for (task, index), machine in zip(columns, machines, strict=True):
            fitted[task.name, index] = machine
            kept.write(task, index, machine)
            bar.update()
    for task in tasks:
        own = [fitted[task.name, index] for index in range(len(task.labels))]
        kernel = np.stack([weights for weights, _, _ in own], axis=1) / deviation[:, None]
        bias = np.array([bias for _, bias, _ in own]) - mean @ kernel
        model.get_layer(HEAD_PREFIX + task.name).set_weights([kernel, bias])
        chosen = collections.Counter(cost for _, _, cost in own if cost)
        words = ", ".join(f"{cost:g} for {count}" for cost, count in sorted(chosen.items()))
        print(f"{task.name}: C chosen on validation: {words or 'none'}")


class _Kept:
    """Machines in files, each of which says by a digest what it was fitted to."""

    def __init__(
        self, folder: pathlib.Path | None, costs: Sequence[float], data: Sequence[np.ndarray]
    ):
        self.folder = folder
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(repr(tuple(costs)).encode())
        for values in data:
            digest.update(repr(values.shape).encode())
            digest.update(np.ascontiguousarray(values))
        self.digest = digest.hexdigest()

    def _file(self, task: Task, index: int) -> pathlib.Path:
        return self.folder / f"{task.name}-{index}.npz"

    def read(self, task: Task, index: int) -> Machine | None:
        """The machine of a label or class; None where there is none of these features."""
        if self.folder is None:
            return None
        try:
            with np.load(self._file(task, index), allow_pickle=False) as file:
                if file["digest"] != self.digest:
                    return None
                cost = float(file["cost"])
                return file["weights"], float(file["bias"]), cost or None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, task: Task, index: int, machine: Machine) -> None:
        if self.folder is None:
            return
        weights, bias, cost = machine
        with replacing(self._file(task, index)) as temporary:
            np.savez(temporary, weights=weights, bias=bias, cost=cost or 0.0, digest=self.digest)


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
