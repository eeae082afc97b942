"""The plots of a transform task, each as the text of an SVG picture."""

import numpy as np

from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.evaluation.transform_metrics import COMPONENTS, IDENTITY, components, corner_errors
from faceattr_tf.reports.plots import BLUE, ORANGE, svg, thin


def transform_histograms(result: TaskResult) -> str:
    """Distribution of rotation, scale and shift, predicted and, where known, labelled.

    The outermost bins also hold what lies beyond them, half a per cent on either side.
    """
    known = np.isfinite(result.errors)
    predicted = components(result.outputs, result.crop_size)
    labelled = components(result.labels[known], result.crop_size)

    def draw(figure):
        grid = figure.subplots(1, len(COMPONENTS))
        for axes, (name, title) in zip(grid, COMPONENTS.items(), strict=True):
            found, truth = predicted[name], labelled[name]
            low, high = np.percentile(np.concatenate([found, truth]), [0.5, 99.5])
            # Equal transforms, as at the start of training, still get bins of some width.
            middle, reach = (low + high) / 2, max((high - low) / 2, 1e-3)
            bins = np.linspace(middle - reach, middle + reach, 31)
            found, truth = (np.clip(values, bins[0], bins[-1]) for values in (found, truth))
            filled = {"color": BLUE, "alpha": 0.55, "label": "predicted"}
            axes.hist(found, bins, weights=np.full(len(found), 1 / len(found)), **filled)
            if len(truth):
                drawn = {"histtype": "step", "color": ORANGE, "lw": 1.4, "label": "labelled"}
                axes.hist(truth, bins, weights=np.full(len(truth), 1 / len(truth)), **drawn)
            axes.set_title(title)
            axes.yaxis.set_major_formatter("{x:.0%}")
            if name.startswith("shift"):
                axes.xaxis.set_major_formatter("{x:.0%}")
        grid[0].set_ylabel("share of images")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)

    return svg(draw, 9.5, 2.7)


def corner_error_curve(result: TaskResult) -> str:
    """Share of images whose corner error stays below a bound, beside that of the identity."""
    known = np.isfinite(result.errors)
    unmoved = np.broadcast_to(IDENTITY, (known.sum(), 2, 3))
    unmoved = corner_errors(result.labels[known], unmoved, result.crop_size)

    def draw(figure):
        axes = figure.subplots()
        share = np.arange(1, len(unmoved) + 1) / len(unmoved)
        axes.plot(*thin(np.sort(result.errors[known]), share), color=BLUE, lw=2, label="predicted")
        left = {"color": ORANGE, "linestyle": "--", "linewidth": 1, "label": "left as it is"}
        axes.plot(*thin(np.sort(unmoved), share), **left)
        axes.set(xlim=(0, None), ylim=(0, 1.01))
        axes.set_xlabel("mean distance of the corners in pixels of the crop")
        axes.set_ylabel("share of images")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.legend(loc="lower right")

    return svg(draw, 5.5, 3.2)
