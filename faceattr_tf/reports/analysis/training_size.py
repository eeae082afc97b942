"""How much training data heads need: LNets+ANet, figure 13."""

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.records.people import choose_people
from faceattr_tf.reports.analysis.fits import (
    MAJORITY,
    Fits,
    attribute_tasks,
    mean_with_interval,
    with_span,
)
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import BLUE, GREY, ORANGE, svg
from faceattr_tf.reports.tables import Table, percent

_ABOUT = (
    "LNets+ANet, figure 13: one linear SVM per attribute on the features of {layer}, fitted to "
    "shares of the {training:,} training images ({by}; a smaller share lies within the larger ones) "
    "and measured on {count:,} images of {split}. {note}. The network stays as it is, and was "
    "trained before on what it was trained on: this is what heads need, not what a network needs"
)


def training_size(subject: Subject) -> Finding:
    """Accuracy of SVM heads over shares of the training examples.

    Raises:
        UserError: a share is out of range, or see `Fits`.
    """
    settings, task = subject.settings, attribute_tasks(subject)[0]
    for share in settings.shares:
        if not 0 < share <= 1:
            raise UserError(f"share {share:g}: expected above 0 and up to 1")
    layer = subject.layer(settings.layer)
    fits = Fits(subject, task, [layer])
    (training,) = fits.parts["train"][layer]
    people = training.identities
    rows, found = [], []
    for share in sorted(set(settings.shares)):
        chosen = np.arange(len(people))
        if share < 1:
            chosen = np.flatnonzero(choose_people(people, share, settings.seed))
        result = fits.result(layer, chosen)
        means = mean_with_interval(result, task.labels, settings.bootstrap, seed=settings.seed)
        known = np.unique(people[chosen][people[chosen] >= 0])
        found.append({"share": share, "images": len(chosen), "people": len(known), **means})
        spans = [with_span(means[key]) for key in ("accuracy", "balanced_accuracy")]
        counts = f"{len(chosen):,}", f"{len(known):,}" if len(known) else "–"
        rows.append((f"{share:.0%}", *counts, *spans, percent(means["majority_accuracy"])))
    header = ("Share", "Images", "People", "Accuracy", "Balanced accuracy", MAJORITY.capitalize())
    table = Table(
        header,
        tuple(rows),
        note="Means over attributes in per cent with 95 % intervals over the measured images; "
        "another choice of training images would add to them.",
    )
    by = "taken by person, with all images" if (people >= 0).any() else "taken by image"
    about = _ABOUT.format(
        layer=layer,
        training=len(people),
        by=by,
        count=len(fits.labels(subject.split)),
        split=subject.split,
        note=fits.note,
    )
    numbers = {"layer": layer, "images": len(fits.labels(subject.split)), "sizes": found}
    return Finding(
        Section(
            "Training size",
            about,
            (table,),
            (Plot("Accuracy over training images", _drawn(found)),),
            (),
        ),
        numbers,
    )


def _drawn(found: list[dict]) -> str:
    sizes = [one["images"] for one in found]

    def draw(figure):
        grid = figure.subplots(1, 2)
        for axes, key in zip(grid, ("accuracy", "balanced_accuracy"), strict=True):
            mean, low, high = np.array([one[key] for one in found]).T
            axes.fill_between(sizes, low, high, color=BLUE, alpha=0.2, label="95 % interval")
            axes.plot(sizes, mean, "o-", color=BLUE, label="linear SVM")
            guess = 0.5 if key == "balanced_accuracy" else found[-1]["majority_accuracy"]
            axes.axhline(guess, color=ORANGE, linestyle=":", label=MAJORITY)
            axes.set(xscale="log", xlabel="training images", title=key.replace("_", " "))
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=30)
            axes.minorticks_off()
            axes.tick_params(axis="x", color=GREY)
            axes.yaxis.set_major_formatter("{x:.0%}")
        grid[0].legend(loc="best")

    return svg(draw, 9, 3.6)
