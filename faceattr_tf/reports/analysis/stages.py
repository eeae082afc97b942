"""What the stages of a network know of attributes: LNets+ANet, figure 9."""

from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.reports.analysis.fits import (
    MAJORITY,
    Fits,
    attribute_tasks,
    mean_with_interval,
    with_span,
)
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import ORANGE, SERIES, svg
from faceattr_tf.reports.tables import Table, percent

SHOWN = 3
"""Stages that are compared unless they are named: the last ones."""

IDENTITY_RELATED = (
    "Male",
    "Young",
    "Chubby",
    "Double_Chin",
    "Bald",
    "Receding_Hairline",
    "Big_Lips",
    "Big_Nose",
    "Pointy_Nose",
    "Oval_Face",
    "High_Cheekbones",
    "Narrow_Eyes",
    "Arched_Eyebrows",
    "Bushy_Eyebrows",
)
"""What stays with a person for years. The paper names gender and age, and face components of its
neurons, and leaves the list to its figure; all others change with expression, hair and dress."""

GROUPS = ("Related to identity", "Not related to identity")

_ABOUT = (
    "LNets+ANet, figure 9: one linear SVM per attribute on the features of every stage, maps "
    "averaged over their places; fitted to {training:,} training images and measured on {count:,} "
    "of {split}. {note}. Wider stages have more features for a machine to use: {widths}. Related to "
    "identity is what stays with a person for years, a choice made here"
)


def stages(subject: Subject) -> Finding:
    """Accuracy of attributes from several stages, in two groups side by side.

    Raises:
        UserError: see `Fits`.
    """
    from faceattr_tf.models.create import seen_stages

    settings = subject.settings
    last = list(seen_stages(subject.model, subject.workdir.recipe().model))[-SHOWN:]
    layers = [subject.layer(layer) for layer in settings.stages or last]
    task = attribute_tasks(subject)[0]
    fits = Fits(subject, task, layers)
    results = {layer: fits.result(layer) for layer in layers}
    groups = dict(zip(GROUPS, _parted(task.labels), strict=True))
    groups = {name: labels for name, labels in groups.items() if labels}
    means = {
        layer: {
            name: mean_with_interval(result, labels, settings.bootstrap, seed=settings.seed)
            for name, labels in {**groups, "All": task.labels}.items()
        }
        for layer, result in results.items()
    }
    rows = []
    for name in (*groups, "All"):
        for layer in layers:
            own = means[layer][name]
            spans = [with_span(own[key]) for key in _KEYS]
            rows.append((name, layer, *spans, percent(own["majority_accuracy"])))
    table = Table(
        ("Attributes", "Stage", "Accuracy", "Balanced accuracy", MAJORITY.capitalize()),
        tuple(rows),
        note="Means over attributes in per cent, with 95 % intervals over the measured images; "
        "a majority guess has a balanced accuracy of 50.",
    )
    widths = {layer: fits.parts["train"][layer][0].features.width for layer in layers}
    numbers = {
        "training_images": len(fits.labels("train")),
        "images": len(fits.labels(subject.split)),
        "widths": widths,
        "groups": groups,
        "means": means,
        "labels": {
            layer: {
                label: {key: row[key] for key in (*_KEYS, "majority_accuracy")}
                for label, row in result.numbers["metrics"]["labels"].items()
            }
            for layer, result in results.items()
        },
    }
    about = _ABOUT.format(
        training=numbers["training_images"],
        count=numbers["images"],
        split=subject.split,
        note=fits.note,
        widths=", ".join(f"{layer} {width:,}" for layer, width in widths.items()),
    )
    plots = [
        Plot(title, _drawn(results, groups, key), _NOTES[key])
        for key, title in zip(
            _KEYS, ("Accuracy by stage", "Balanced accuracy by stage"), strict=True
        )
    ]
    return Finding(Section("Stages", about, (table,), plots, ()), numbers)


_KEYS = ("accuracy", "balanced_accuracy")
_NOTES = {
    "accuracy": "The orange line is the majority guess of the training images.",
    "balanced_accuracy": "Mean of the accuracies on yes and on no; the orange line is any guess.",
}


def _parted(labels) -> tuple[list[str], list[str]]:
    related = [label for label in labels if label in IDENTITY_RELATED]
    return related, [label for label in labels if label not in IDENTITY_RELATED]


def _drawn(results: dict[str, TaskResult], groups: dict[str, list[str]], key: str) -> str:
    longest = max(map(len, groups.values()))

    def draw(figure):
        grid = figure.subplots(1, len(groups), squeeze=False, sharex=True)[0]
        for axes, (title, labels) in zip(grid, groups.items(), strict=True):
            for index, (layer, result) in enumerate(results.items()):
                rows = result.numbers["metrics"]["labels"]
                points = [
                    (rows[label][key], place)
                    for place, label in enumerate(labels)
                    if rows[label][key] is not None
                ]
                axes.plot(
                    *zip(*points, strict=True) if points else ((), ()),
                    "os^Dv*P"[index % 7],
                    color=[SERIES[0], *SERIES[2:]][index % (len(SERIES) - 1)],
                    markersize=4.5,
                    alpha=0.85,
                    label=layer if title == next(iter(groups)) else None,
                )
            for place, label in enumerate(labels):
                guess = 0.5 if key == "balanced_accuracy" else rows[label]["majority_accuracy"]
                if guess is not None:
                    axes.plot(guess, place, "|", color=ORANGE, markersize=9, mew=2)
            axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(longest - 0.4, -0.6))
            axes.set_title(title)
            axes.xaxis.set_major_formatter("{x:.0%}")
            axes.set_xlabel(key.replace("_", " "))
        figure.legend(loc="outside upper right", ncols=len(results))

    return svg(draw, 5 * len(groups), 1 + 0.2 * max(longest, 3))
