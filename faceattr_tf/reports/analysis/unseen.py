"""Attributes that a network was not trained on: LNets+ANet, figure 12."""

import numpy as np
from scipy import special

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.evaluation.results import measure
from faceattr_tf.reports.analysis.fits import (
    Fits,
    attribute_tasks,
    mean_with_interval,
    with_span,
)
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import BLUE, ORANGE, svg
from faceattr_tf.reports.tables import Table, percent

_ABOUT = (
    "LNets+ANet, figure 12: attributes that no head of this network was trained on, of which "
    "linear SVMs are fitted to the features of {layer}. Yes is said above the threshold at which as "
    "large a share of the training images gets a yes as is labelled yes. Whether an earlier stage "
    "of training, as pretraining, has seen the attributes is not known here"
)
_NOTE = (
    "In per cent, with 95 % intervals over the measured images; a guess is balanced at 50. Fitted "
    "to {training:,} images, measured on {count:,} of {split}. {note}."
)
_HEADER = ("Balanced accuracy", "Accuracy", "Majority guess")


def unseen(subject: Subject) -> Finding:
    """Balanced accuracy of attributes that only the records have, each task of them by itself.

    Raises:
        UserError: the model has all of the records' attributes, or see `Fits`.
    """
    learnt = {label for own in subject.workdir.tasks for label in own.labels}
    tasks = [
        task.select(labels)
        for task in attribute_tasks(subject)
        if (labels := [label for label in task.labels if label not in learnt])
    ]
    if not tasks:
        raise UserError(
            "the model was trained on every attribute of these records; expected a run of which "
            "the recipe's tasks leave labels out"
        )
    layer = subject.layer(subject.settings.layer)
    numbers, left_out = {}, []
    for task in tasks:
        try:
            numbers[task.name] = _measured(subject, task, layer)
        except UserError as error:
            left_out.append(str(error))
    if not numbers:
        raise UserError("; ".join(left_out))
    tables, plots = [], []
    for name, found in numbers.items():
        rows = [
            (
                label,
                with_span(own["balanced_accuracy"]),
                percent(own["accuracy"][0]),
                percent(own["majority_accuracy"]),
            )
            for label, own in {**found["labels"], "Mean": found["mean"]}.items()
        ]
        note = _NOTE.format(
            training=found["training_images"],
            count=found["images"],
            split=subject.split,
            note=found["note"],
        )
        tables.append(Table((name.capitalize(), *_HEADER), tuple(rows), note=note))
        plots.append(Plot(f"Balanced accuracy of unseen {name}", _drawn(found["labels"])))
    about = ". Left out: ".join([_ABOUT.format(layer=layer), *left_out])
    return Finding(Section("Unseen attributes", about, tables, plots, ()), numbers)


def _measured(subject: Subject, task: Task, layer: str) -> dict:
    """The figures of machines for one task of unseen attributes."""
    settings = subject.settings
    fits = Fits(subject, task, [layer])
    outputs = fits.outputs(layer)
    cuts = matched_thresholds(fits.labels("train"), outputs["train"])
    thresholds = tuple(special.expit(cuts).tolist())
    result = measure(
        task,
        fits.labels(subject.split),
        outputs[subject.split],
        thresholds=thresholds,
        majority=fits.majority,
    )

    def mean(labels):
        return mean_with_interval(result, labels, settings.bootstrap, thresholds, settings.seed)

    return {
        "layer": layer,
        "training_images": len(fits.labels("train")),
        "images": len(fits.labels(subject.split)),
        "note": fits.note,
        "labels": {label: mean([label]) for label in task.labels},
        "thresholds": dict(zip(task.labels, thresholds, strict=True)),
        "mean": mean(task.labels),
    }


def matched_thresholds(labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Per label where as many outputs lie at or above as labels are yes; of known labels alone.

    Args:
        labels: `[N, L]`, 1 yes, 0 no, -1 unknown.
        outputs: `[N, L]`.

    Returns:
        float64 `[L]`; infinite where no label is yes, 0 where none is known.
    """
    cuts = np.zeros(labels.shape[1])
    for index, (truth, values) in enumerate(zip(labels.T, outputs.T, strict=True)):
        known = np.sort(values[truth >= 0].astype(float))[::-1]
        yes = int((truth == 1).sum())
        if len(known):
            # Half way to the next, so that rounding decides nothing.
            ends = known[yes - 1 : yes + 1] if yes else [np.inf]
            cuts[index] = np.mean(ends)
    return cuts


def _drawn(each: dict) -> str:
    names = list(each)

    def draw(figure):
        axes = figure.subplots()
        for place, name in enumerate(names):
            mean, low, high = each[name]["balanced_accuracy"]
            axes.plot([low, high], [place, place], color=BLUE, linewidth=1.2)
            axes.plot(mean, place, "o", color=BLUE, markersize=4.5)
        axes.axvline(0.5, color=ORANGE, linestyle=":", label="any guess")
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("balanced accuracy, with its 95 % interval")
        axes.legend(loc="lower right")

    return svg(draw, 7, 1 + 0.22 * max(len(names), 3))
