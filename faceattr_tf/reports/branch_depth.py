"""The grid of branch depths as a table and as a picture, after Flickr's figure 3."""

from collections.abc import Mapping, Sequence

import numpy as np

from faceattr_tf.evaluation.branch_depth import Depth
from faceattr_tf.evaluation.metrics import METRICS
from faceattr_tf.reports.plots import GREY, ORANGE, STYLE
from faceattr_tf.reports.tables import NONE, Table

NOTE = (
    "On validation, the mean over seeds with half of its 95 % interval (images and seeds drawn "
    "again), early stages first. A star marks the latest stage that is not worse beyond chance "
    "than the best of its column; of many, the best is a little lucky."
)


def depth_table(
    depths: Mapping[str, Sequence[Depth]],
    chosen: Mapping[str, Depth],
    metrics: Mapping[str, str],
    guesses: Mapping[str, float | None],
) -> Table:
    """The grid: a row for every stage and start of weights, a column for every group.

    Args:
        depths: group -> what was measured.
        chosen: group -> the depth that was chosen.
        metrics: group -> the metric.
        guesses: group -> what the best answer without images would reach.
    """
    rows = []
    for place in _places(depths):
        row = [" ".join(place)]
        for group, of in depths.items():
            depth = next(one for one in of if (one.stage, one.weights) == place)
            text = _shown(depth, metrics[group])
            row.append(text + (" *" if depth is chosen[group] else "  "))
        rows.append(tuple(row))
    guess = [_number(guesses[group], metrics[group]) + "  " for group in depths]
    rows.append(("guess without images", *guess))
    header = (f"{group} ({METRICS[metrics[group]].words})" for group in depths)
    return Table(("Stage", *header), tuple(rows), "Depth of branches", NOTE)


def draw_depths(
    depths: Mapping[str, Sequence[Depth]],
    chosen: Mapping[str, Depth],
    metrics: Mapping[str, str],
    path,
) -> None:
    """Writes the grid as a picture: the darker, the better within a column; framed is what was
    chosen.

    Args:
        depths: group -> what was measured.
        chosen: group -> the depth that was chosen.
        metrics: group -> the metric.
        path: a file whose name ends in `.png`, `.svg` or `.pdf`.
    """
    # Figures are made without pyplot, which would keep them and might want a display.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    places, groups = _places(depths), list(depths)
    values = np.array([[depth.value for depth in depths[group]] for group in groups]).T
    signs = np.array([-METRICS[metrics[group]].sign for group in groups])
    ranked = values * signs
    spread = np.maximum(np.ptp(ranked, axis=0), 1e-12)
    shades = (ranked - ranked.min(axis=0)) / spread
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        size = (2.4 + 1.1 * len(groups), 1.2 + 0.32 * len(places))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shades, cmap="Blues", vmin=-0.15, vmax=1.6, aspect="auto")
        for column, group in enumerate(groups):
            for row, depth in enumerate(depths[group]):
                text = _shown(depth, metrics[group])
                axes.text(column, row, text, ha="center", va="center", fontsize=7)
                if depth is chosen[group]:
                    frame = (column - 0.48, row - 0.46), 0.96, 0.92
                    axes.add_patch(Rectangle(*frame, fill=False, edgecolor=ORANGE, linewidth=1.6))
        titles = [f"{group}\n{METRICS[metrics[group]].words}" for group in groups]
        axes.set_xticks(range(len(groups)), titles, fontsize=7)
        axes.set_yticks(range(len(places)), [" ".join(place) for place in places], fontsize=7)
        axes.set_ylabel("branches from", color=GREY)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.savefig(path, dpi=160)


def _places(depths: Mapping[str, Sequence[Depth]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.stage, one.weights) for of in depths.values() for one in of))


def _shown(depth: Depth, metric: str) -> str:
    low, high = depth.interval or (np.nan, np.nan)
    half = (high - low) / 2
    return f"{_number(depth.value, metric)} ±{_number(half, metric)}"


def _number(value: float | None, metric: str) -> str:
    if value is None or not np.isfinite(value):
        return NONE
    known = METRICS[metric]
    return f"{known.scale * value:.{known.digits}f}"
