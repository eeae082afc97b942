"""Attributes that a network was not trained on: LNets+ANet, figure 12."""

import numpy as np
from scipy import special

from data_pipelines.errors import UserError
from faceattr_tf.evaluation.results import measure
from faceattr_tf.reports.analysis.fits import Fits, attributes_of, mean_with_interval, with_span
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import BLUE, ORANGE, svg
from faceattr_tf.reports.tables import Table, percent

_ABOUT = (
    "LNets+ANet, figure 12: attributes that no head of this network was trained on, of which "
    "linear SVMs are fitted to the features of {layer} on {training:,} training images and measured "
    "on {count:,} of {split}. Yes is said above the threshold at which as large a share of the "
    "training images gets a yes as is labelled yes. {note}. Whether an earlier stage of training, "
    "as pretraining, has seen the attributes is not known here"
)


def unseen(subject: Subject) -> Finding:
    """Balanced accuracy of attributes that only the records have.

    Raises:
        UserError: the model has all of the records' attributes, or see `Fits`.
    """
    settings, task = subject.settings, attributes_of(subject)
    learnt = {label for own in subject.workdir.tasks for label in own.labels}
    labels = [label for label in task.labels if label not in learnt]
    if not labels:
        raise UserError(
            "the model was trained on every attribute of these records; expected a run of which "
            "the recipe's tasks leave labels out"
        )
    task = task.select(labels)
    layer = subject.layer(settings.layer)
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
    each = {
        label: mean_with_interval(result, [label], settings.bootstrap, thresholds, settings.seed)
        for label in labels
    }
    mean = mean_with_interval(result, labels, settings.bootstrap, thresholds, settings.seed)
    rows = tuple(
        (
            name,
            with_span(own["balanced_accuracy"]),
            percent(own["accuracy"][0]),
            percent(own["majority_accuracy"]),
        )
        for name, own in {**each, "Mean": mean}.items()
    )
    header = ("Attribute", "Balanced accuracy", "Accuracy", "Majority guess")
    note = "In per cent, with 95 % intervals over the measured images; a guess is balanced at 50."
    numbers = {
        "layer": layer,
        "training_images": len(fits.labels("train")),
        "images": len(fits.labels(subject.split)),
        "labels": each,
        "thresholds": dict(zip(labels, thresholds, strict=True)),
        "mean": mean,
    }
    about = _ABOUT.format(
        layer=layer,
        training=numbers["training_images"],
        count=numbers["images"],
        split=subject.split,
        note=fits.note,
    )
    plot = Plot("Balanced accuracy of unseen attributes", _drawn(each))
    return Finding(
        Section("Unseen attributes", about, (Table(header, rows, note=note),), (plot,), ()), numbers
    )


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
