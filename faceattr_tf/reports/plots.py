"""The plots of a report, each as the text of an SVG picture.

Colours are those of Okabe and Ito, which people with a colour-vision deficiency tell apart; what
matters is also said by form, line style or text.
"""

import io
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from sklearn import metrics as sklearn_metrics

from faceattr_tf.evaluation.class_metrics import expected_values, known_and_truth
from faceattr_tf.evaluation.landmark_metrics import FAILURE
from faceattr_tf.evaluation.metrics import METRICS, shown_in
from faceattr_tf.evaluation.results import TaskResult

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A8F98"
SERIES = (BLUE, ORANGE, "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")

STYLE = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "grid.color": "#E6E8EB",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "faceattr",
    "xtick.color": "#50555E",
    "ytick.color": "#50555E",
}


def svg(draw: Callable, width: float, height: float, layout="constrained", size=8) -> str:
    """What `draw(figure)` draws on a figure of that size in inches; `size` is that of ticks."""
    # Figures are made without pyplot, which would keep them and might want a display.
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "xtick.labelsize": size, "ytick.labelsize": size}):
        figure = Figure(figsize=(width, height), layout=layout)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _small_multiples(titles: Sequence[str], draw: Callable, x: str, y: str, **axis) -> str:
    """One small square plot per title, drawn by `draw(axes, index)`, over the same axes.

    Margins are set rather than solved for, and shared axes set once: with 40 plots either would
    take seconds.
    """
    count = len(titles)
    few = count <= 5
    columns = count if few else math.ceil(count / math.ceil(count / 8))
    rows = math.ceil(count / columns)
    side, gap, head = (2.0, 0.2, 0.3) if few else (1.25, 0.14, 0.24)
    margin = 0.6
    width, height = margin + columns * (side + gap), margin + rows * (side + head)

    def draw_all(figure):
        grid = figure.subplots(
            rows,
            columns,
            sharex=True,
            sharey=True,
            squeeze=False,
            gridspec_kw={
                "left": margin / width,
                "right": 1 - gap / width,
                "bottom": margin / height,
                "top": 1 - head / height,
                "wspace": gap / side,
                "hspace": head / side,
            },
        )
        for axes in list(grid.flat)[count:]:
            axes.remove()
        for index, (axes, title) in enumerate(zip(grid.flat, titles, strict=False)):
            axes.set_title(title, fontsize=9 if few else 6.5, pad=3)
            draw(axes, index)
        grid[0, 0].set(**axis)
        figure.supxlabel(x, fontsize=8, y=0.1 / height)
        figure.supylabel(y, fontsize=8, x=0.05 / width)

    return svg(draw_all, width, height, layout=None, size=8 if few else 6.5)


UNIT = {
    "xlim": (-0.02, 1.02),
    "ylim": (-0.02, 1.02),
    "xticks": (0, 0.5, 1),
    "yticks": (0, 0.5, 1),
    "xticklabels": ("0", "0.5", "1"),
    "yticklabels": ("0", "0.5", "1"),
}
"""Axes of shares from 0 to 1."""


def thin(*arrays: np.ndarray, most: int = 160) -> list[np.ndarray]:
    """The arrays at no more than `most` common places, first and last included."""
    places = np.unique(np.linspace(0, len(arrays[0]) - 1, most).astype(int))
    return [array[places] for array in arrays]


def accuracy_against_guess(result: TaskResult) -> str:
    """Per attribute the accuracy with its 95 % interval, beside the majority guess."""
    rows = result.numbers["metrics"]["labels"]
    spans = result.numbers.get("intervals", {}).get("labels", {})
    names = [name for name in rows if rows[name]["accuracy"] is not None]

    def draw(figure):
        axes = figure.subplots()
        for place, name in enumerate(names):
            found, guess = rows[name]["accuracy"], rows[name]["majority_accuracy"]
            if guess is not None:
                axes.plot([guess, found], [place, place], color="#C9CED6", linewidth=3, zorder=1)
                label = "majority guess" if not place else None
                axes.plot(guess, place, "|", color=ORANGE, markersize=9, mew=2, label=label)
            if span := spans.get(name, {}).get("accuracy"):
                label = "95 % interval" if not place else None
                axes.plot(span, [place, place], color=BLUE, linewidth=1.2, zorder=2, label=label)
            label = "this model" if not place else None
            axes.plot(found, place, "o", color=BLUE, markersize=4.5, label=label)
        axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6))
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("accuracy")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=3)

    return svg(draw, 8.5, 0.9 + 0.2 * max(len(names), 2))


def confusions(result: TaskResult) -> str:
    """Confusion matrices: one two by two per attribute, or one over all classes."""
    numbers, labels = result.numbers["metrics"], result.task.labels
    if result.task.kind == "multilabel":
        size = 8 if len(labels) <= 5 else 6.5

        def draw_label(axes, index):
            draw_confusion(axes, numbers["labels"][labels[index]]["confusion"], size)

        names = {"xticklabels": ("no", "yes"), "yticklabels": ("no", "yes")}
        places = {"xticks": (0, 1), "yticks": (0, 1)}
        return _small_multiples(labels, draw_label, "predicted", "labelled", **places, **names)

    def draw(figure):
        axes, places = figure.subplots(), range(len(labels))
        draw_confusion(axes, numbers["confusion"], 8)
        axes.set(xticks=places, xticklabels=labels, xlabel="predicted")
        axes.set(yticks=places, yticklabels=labels, ylabel="labelled")
        axes.tick_params(axis="x", rotation=30)

    side = 1.6 + 0.75 * len(labels)
    return svg(draw, side, side - 0.5)


def draw_confusion(axes, matrix, size) -> None:
    """A matrix of counts, `size` in points: shares of its rows, with the counts below."""
    matrix = np.array(matrix, float)
    total = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, total, out=np.zeros_like(matrix), where=total > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{share:.0%}\n{matrix[row, column]:,.0f}"
        colour = "white" if share > 0.55 else "#1A1D21"
        axes.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)
    axes.grid(visible=False)


def roc_curves(result: TaskResult) -> str:
    """Receiver operating characteristics, one per label or class (against all others)."""
    known, truth = known_and_truth(result.task, result.labels)

    def draw(axes, index):
        mask = known[:, index]
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9)
        if len(np.unique(truth[mask, index])) == 2:
            alarms, hits, _ = sklearn_metrics.roc_curve(
                truth[mask, index], result.scores[mask, index]
            )
            axes.plot(*thin(alarms, hits), color=BLUE)
            _note(axes, 0.97, 0.06, "right", f"area {sklearn_metrics.auc(alarms, hits):.3f}")

    return _small_multiples(
        result.task.labels, draw, "false positive rate", "true positive rate", **UNIT
    )


def precision_recall_curves(result: TaskResult) -> str:
    """Precision over recall, one per label or class; the dotted line is the share of positives."""
    known, truth = known_and_truth(result.task, result.labels)

    def draw(axes, index):
        mask = known[:, index]
        positive, score = truth[mask, index], result.scores[mask, index]
        if len(np.unique(positive)) == 2:
            precision, recall, _ = sklearn_metrics.precision_recall_curve(positive, score)
            axes.axhline(positive.mean(), color=GREY, linestyle=":", linewidth=0.9)
            axes.plot(*thin(recall, precision), color=BLUE)
            area = sklearn_metrics.average_precision_score(positive, score)
            _note(axes, 0.03, 0.06, "left", f"AP {area:.3f}")

    return _small_multiples(result.task.labels, draw, "recall", "precision", **UNIT)


def reliability_curves(result: TaskResult) -> str:
    """How often a probability comes true, before (dashed) and after calibration."""
    before, after = (result.numbers["calibration"][part]["labels"] for part in ("before", "after"))
    titles = list(after)

    def draw(axes, index):
        axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9)
        if after[titles[index]]["error"] is None:
            return
        for curves, colour, style in ((before, ORANGE, "--"), (after, BLUE, ".-")):
            curve = curves[titles[index]]
            axes.plot(
                curve["probability"],
                curve["share"],
                style,
                color=colour,
                linewidth=1,
                markersize=4,
            )
        _note(axes, 0.97, 0.06, "right", f"error {curve['error']:.1%}")

    return _small_multiples(titles, draw, "predicted probability", "share that is true", **UNIT)


def _note(axes, x, y, align, text):
    axes.text(x, y, text, ha=align, fontsize=6.5, transform=axes.transAxes, color="#30343A")


def expected_value_curve(result: TaskResult) -> str:
    """Per class the expected value, middle and four fifths of its images, over the class's own."""
    values = np.array(result.task.values)
    labels, expected = np.asarray(result.labels), expected_values(result.task, result.scores)
    found = [(value, expected[labels == index]) for index, value in enumerate(values)]
    found = [(value, of) for value, of in found if len(of)]
    places = [value for value, _ in found]
    low, middle, high = np.array([np.quantile(of, (0.1, 0.5, 0.9)) for _, of in found]).T

    def draw(figure):
        axes = figure.subplots()
        axes.plot(values[[0, -1]], values[[0, -1]], color=GREY, linestyle=":", label="right")
        axes.axhline(
            np.median(values[labels[labels >= 0]]),
            color=ORANGE,
            linestyle="--",
            linewidth=1,
            label="always the median",
        )
        axes.vlines(places, low, high, color=BLUE, linewidth=1.2, label="80 % of the images")
        axes.plot(places, middle, "o", color=BLUE, markersize=4.5, label="half below, half above")
        axes.set(xlabel="value of the labelled class", ylabel="expected value")
        axes.legend(loc="upper left", fontsize=6.5)

    return svg(draw, 5.5, 3.6)


def landmark_error_curve(result: TaskResult) -> str:
    """Share of images whose mean landmark error stays below a bound."""

    def draw(figure):
        axes = figure.subplots()
        errors = np.sort(result.errors[np.isfinite(result.errors)])
        if len(errors):
            share = np.arange(1, len(errors) + 1) / len(errors)
            axes.plot(*thin(errors, share), color=BLUE, linewidth=2, label="mean of the points")
        axes.axvline(FAILURE, color=ORANGE, linestyle="--", linewidth=1, label="counted as failure")
        limit = max(2 * FAILURE, float(np.quantile(errors, 0.95)) if len(errors) else 0)
        axes.set(xlim=(0, limit), ylim=(0, 1.01))
        axes.set_xlabel("error / distance of the eyes")
        axes.set_ylabel("share of images")
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.legend(loc="lower right")

    return svg(draw, 5.5, 3.2)


def regression_scatter(result: TaskResult) -> str:
    """Predicted over labelled values, at most 2,000 images."""
    labels = result.task.labels

    def draw(figure):
        for index, axes in enumerate(figure.subplots(1, len(labels), squeeze=False)[0]):
            truth, value = result.labels[:, index], result.outputs[:, index]
            truth, value = thin(*(a[np.isfinite(truth)] for a in (truth, value)), most=2000)
            if len(truth):
                ends = [min(truth.min(), value.min()), max(truth.max(), value.max())]
                axes.plot(ends, ends, color=GREY, linestyle=":")
            axes.plot(truth, value, ".", color=BLUE, markersize=3, alpha=0.5)
            axes.set(title=labels[index], xlabel="labelled", ylabel="predicted")

    return svg(draw, 3.2 * min(len(labels), 4), 3.0)


def training_curves(rows: Sequence[dict], best_step: int | None = None) -> str:
    """Losses, the main validation metrics of each task and the learning rate, over the steps.

    Args:
        rows: the rows of `metrics.jsonl`.
        best_step: step of the model that is evaluated, marked by a line.
    """
    groups: dict[str, list[str]] = {"loss": []}
    for key in dict.fromkeys(key for row in rows for key in row):
        part, _, name = key.partition("/")
        if part in ("train", "validation") and name == "loss":
            groups["loss"].append(key)
        elif part == "validation" and shown_in("curves", [name]):
            groups.setdefault(name.rpartition("/")[0], []).append(key)
        elif key == "train/learning_rate":
            groups["learning rate"] = [key]
    if rate := groups.pop("learning rate", None):
        groups["learning rate"] = rate
    columns = min(3, len(groups))
    lines = math.ceil(len(groups) / columns)
    phases = [
        after["step"]
        for before, after in itertools.pairwise(rows)
        if after.get("phase") != before.get("phase")
    ]

    def draw(figure):
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in list(grid.flat)[len(groups) :]:
            axes.set_visible(False)
        for axes, (title, keys) in zip(grid.flat, groups.items(), strict=False):
            for index, key in enumerate(keys):
                points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
                metric = METRICS.get(key.rpartition("/")[2])
                guess = metric and metric.guess_of
                axes.plot(
                    *thin(*np.array(points, float).T, most=400),
                    linestyle=":" if guess else "-",
                    marker="o" if len(points) < 3 else None,
                    color="#30343A" if guess else SERIES[index % len(SERIES)],
                    label=key.partition("/")[0] if title == "loss" else metric and metric.words,
                )
            for step in phases:
                axes.axvline(step, color=GREY, linestyle=":", linewidth=0.9)
            if best_step is not None:
                axes.axvline(best_step, color=GREY, linewidth=0.9)
            axes.set(title=title, xlabel="step")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if len(keys) > 1:
                axes.legend(fontsize=6.5)

    return svg(draw, 3.7 * columns, 2.6 * lines)
