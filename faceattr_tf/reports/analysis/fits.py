"""Linear SVMs on what a run's network gives at its stages, fitted for a figure alone."""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.people import choose_people
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Bottlenecks, TaskConfig
from faceattr_tf.configs.lnets_anet import SVM
from faceattr_tf.evaluation.bootstrap import TAILS, drawn_figures, mean_of_labels
from faceattr_tf.evaluation.results import TaskResult, measure
from faceattr_tf.evaluation.split import validation_part
from faceattr_tf.reports.analysis.subject import Subject
from faceattr_tf.reports.tables import percent
from faceattr_tf.workdir import MODEL

MAJORITY = "majority guess"


def attribute_tasks(subject: Subject) -> list[Task]:
    """The records' tasks of attributes.

    Raises:
        UserError: they have none.
    """
    tasks = [task for task in subject.records.tasks if task.kind == "multilabel"]
    if not tasks:
        raise UserError(f"{subject.records.path}: no attributes are labelled in these records")
    return tasks


class Fits:
    """Features of a run's network for the records of a subject, and machines on them.

    The features are those of the workdir's model, kept on disk under a key of its file. Parts of
    the records are those of the run: what it lends to validation is no longer in training. Where
    the training images know nothing of the task (those of LFWA+, LNets+ANet, section 4), all three
    parts are people of the subject's split: half of them are measured, a tenth are validation.

    Args:
        subject: what is analysed.
        task: the attributes that machines are fitted for.
        layers: what `Subject.layer` gave.

    Raises:
        UserError: the network has a transformer, the records have nothing to train on or to
            validate with, or the subject's split knows nothing of the task.
    """

    def __init__(self, subject: Subject, task: Task, layers: Sequence[str]):
        """Computes the features of all parts, or finds them on disk."""
        from faceattr_tf.experiment import Experiment
        from faceattr_tf.features.extract import extract
        from faceattr_tf.features.frozen import loaded_function

        part = validation_part(subject.workdir, subject.records)
        counts = subject.records.label_counts
        knowing = [split for split, of in counts.items() if np.any(of[task.name])]
        if (stored := subject.records.select(subject.split, *part)[0]) not in knowing:
            raise UserError(
                f"task {task.name!r}: no label of {stored} images is known; known in: "
                + (", ".join(knowing) or "no split")
            )
        recipe = subject.workdir.recipe()
        data = dataclasses.replace(
            recipe.data,
            records=(subject.records.path,),
            weights=(),
            validation_of_training=part[3],
            images_per_person=0,
            crop=subject.workdir.crop,
            bottlenecks=Bottlenecks(True, 0, recipe.data.bottlenecks.folder),
        )
        model = dataclasses.replace(
            recipe.model, weights=str(subject.workdir.path / MODEL), layer="", auxiliary_weight=0.0
        )
        experiment = Experiment.of(
            dataclasses.replace(
                recipe,
                data=data,
                model=model,
                losses=(),
                tasks=(TaskConfig(task.name, labels=task.labels),),
                phases=(SVM,),
                warm_start="",
            )
        )
        self.subject, self.task, self.parts = subject, task, {}
        self.shared_out = "train" not in knowing
        splits = () if self.shared_out else ("train", "validation")
        for split in dict.fromkeys((*splits, subject.split)):
            self.parts[split] = extract(
                experiment,
                split,
                layers,
                progress=subject.settings.progress,
                create=functools.partial(loaded_function, subject.model),
            )
        self.held = self._share_out() if self.shared_out else self.parts["validation"]

    def _share_out(self) -> dict[str, list]:
        """Leaves half of the people in the part that is measured; gives those of validation."""
        split, seed = self.subject.split, self.subject.settings.seed
        whole = self.parts[split]
        people = next(iter(whole.values()))[0].identities
        measured = choose_people(people, 0.5, seed)
        others = np.flatnonzero(~measured)
        held = choose_people(people[others], 0.2, seed)

        def take(rows):
            return {layer: [_only(part, rows)] for layer, (part,) in whole.items()}

        self.parts = {"train": take(others[~held]), split: take(np.flatnonzero(measured))}
        return take(others[held])

    def outputs(self, layer: str, rows: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What machines say that were fitted to some training examples.

        Args:
            layer: one of `layers`.
            rows: training examples, all if None.

        Returns:
            `train` and the subject's split -> margins `[N, L]` of all examples of the part.
        """
        from faceattr_tf.features.linear import fit_heads
        from faceattr_tf.models.stages import build_top

        (training,), held = self.parts["train"][layer], self.held[layer]
        chosen = training if rows is None else _only(training, rows)
        top = build_top(training.features.width, (self.task,))
        with contextlib.redirect_stdout(io.StringIO()):  # costs are chosen often here
            progress = self.subject.settings.progress
            fit_heads(top, (self.task,), SVM, [chosen], held, progress=progress)
        found = {}
        for split in dict.fromkeys(("train", self.subject.split)):
            part = self.parts[split][layer][0]
            features = part.batch(np.arange(len(part)), np.zeros(len(part), int))["image"]
            found[split] = top.predict(features, verbose=0)[self.task.name]
        return found

    def labels(self, split: str) -> np.ndarray:
        """The labels of a part `[N, L]`, -1 unknown."""
        (part,) = next(iter(self.parts[split].values()))
        return part.labels[self.task.name][:, 0]

    def result(self, layer: str, rows: np.ndarray | None = None) -> TaskResult:
        """How well machines do on the subject's split; for the arguments see `outputs`.

        The majority guess is that of all training examples.
        """
        outputs = self.outputs(layer, rows)[self.subject.split]
        return measure(self.task, self.labels(self.subject.split), outputs, majority=self.majority)

    @property
    def majority(self) -> list[int]:
        """Per label what most training examples are: 0 or 1."""
        labels = self.labels("train")
        return ((labels == 1).sum(axis=0) > (labels == 0).sum(axis=0)).astype(int).tolist()

    @property
    def note(self) -> str:
        """What has to be said of figures that these machines give."""
        text = (
            f"SVM costs of {', '.join(f'{cost:g}' for cost in SVM.costs)} are chosen on validation"
        )
        if self.shared_out:
            (held,) = next(iter(self.held.values()))
            text += (
                f", {len(held):,} images: all three parts are of {self.subject.split}, as no "
                "training image knows these attributes, and no known person is in two of them"
            )
        elif self.subject.split == "validation":
            text += ", which is also what is measured: a little optimistic"
        return text


def mean_with_interval(
    result: TaskResult,
    labels: Sequence[str],
    samples: int,
    thresholds: Sequence[float] | float = 0.5,
    seed: int = 0,
) -> dict:
    """Means over some labels with their 95 % intervals, the images being drawn again.

    Returns:
        `accuracy` and `balanced_accuracy` -> `[mean, low, high]`, NaN where nothing is known; and
        `majority_accuracy`, or None.
    """
    (drawn,) = drawn_figures(result, samples, (thresholds,), seed)
    columns = [result.task.labels.index(label) for label in labels]
    found = {}
    for name, draws in drawn.items():
        means = mean_of_labels(draws[:, columns])
        found[name] = [float(means[0]), *np.nanpercentile(means[1:], TAILS).tolist()]
    rows = result.numbers["metrics"]["labels"]
    guesses = [rows[label]["majority_accuracy"] for label in labels]
    known = [guess for guess in guesses if guess is not None]
    return found | {"majority_accuracy": float(np.mean(known)) if known else None}


def with_span(values: Sequence[float]) -> str:
    """A mean and its interval in per cent."""
    mean, low, high = (percent(value if np.isfinite(value) else None) for value in values)
    return f"{mean} ({low} to {high})"


def _only(part, rows: np.ndarray):
    """Some examples of `Features`."""
    return dataclasses.replace(
        part,
        features=dataclasses.replace(part.features, rows=part.features.rows[rows]),
        labels={name: labels[rows] for name, labels in part.labels.items()},
        filenames=part.filenames[rows],
        identities=part.identities[rows],
        transforms=part.transforms[rows],
    )
