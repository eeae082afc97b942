"""From which stage on a task should have layers of its own: cells of a grid, compared.

Source: Flickr (Baumgartner and Culpepper, "Deep Architectures for Face Attributes"), section 3.2
and figure 3.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.tasks import Task
from faceattr_tf.evaluation.bootstrap import drawn_figures, mean_of_labels
from faceattr_tf.evaluation.metrics import METRICS
from faceattr_tf.evaluation.paired_bootstrap import (
    estimate,
    excludes_zero,
    over_runs,
    seed_weights,
)
from faceattr_tf.evaluation.results import ERRORS, measure

DRAWS = 400
"""How often the validation images are drawn again."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One branch that was trained.

    Attributes:
        key: a digest of everything that decides it.
        group: name of what stands on it, a column of the grid.
        stage: above which it was trained.
        weights: what its layers began with.
        seed: of new weights and of the order of examples.
        step: at which validation was best.
        values: what validation measured then, metric -> value.
        draws: the metric by which depths are chosen, as measured and with the images drawn again;
            None where it is not defined.
        guess: the same metric of the best answer that sees no image; None where there is none.
    """

    key: str
    group: str
    stage: str
    weights: str
    seed: int
    step: int
    values: dict[str, float]
    draws: list[float | None]
    guess: float | None


@dataclasses.dataclass(frozen=True)
class Depth:
    """What was measured of a stage, over seeds.

    Attributes:
        stage: above which branches were trained.
        weights: what their layers began with.
        value: mean of the metric.
        interval: 95 %, images and seeds drawn again.
        worse: whether the best one of the group is better beyond chance.
    """

    stage: str
    weights: str
    value: float
    interval: tuple[float, float] | None
    worse: bool


def main_metric(task: Task) -> str:
    """The metric of a task by which depths are chosen."""
    return ERRORS.get(task.kind, "balanced_accuracy")


def draw(task: Task, labels, outputs, **common) -> list[float | None]:
    """The main metric as measured and with the images drawn again, the same draws for the same
    images.

    Args:
        task: what was predicted.
        labels: of the images, as `evaluation.metrics.evaluate_task` takes them.
        outputs: the model's.
        **common: further arguments of `evaluation.results.measure`.
    """
    (found,) = drawn_figures(measure(task, labels, outputs, **common), DRAWS)
    draws = found["error" if task.kind in ERRORS else main_metric(task)]
    draws = mean_of_labels(draws) if draws.ndim == 2 else draws
    return [round(float(value), 6) if np.isfinite(value) else None for value in draws]


def compare_depths(cells: Sequence[Cell], metric: str) -> list[Depth]:
    """The depths of one group, in the order of the cells.

    Images are the same in all cells, hence differences are paired by image; the spread over seeds
    is pooled (`evaluation.paired_bootstrap`). The best of many is a little lucky, so that a depth
    which is not worse is not proven to be as good.

    Args:
        cells: of one group.
        metric: the one of their draws.
    """
    runs = {}
    for cell in cells:
        runs.setdefault((cell.stage, cell.weights), []).append(np.array(cell.draws, float))
    figures = [draws for of in runs.values() for draws in of]
    weights = seed_weights([len(of) for of in runs.values()], len(figures[0]) - 1)
    means = [over_runs(figures, one) for one in weights]
    sign = METRICS[metric].sign
    best = min(means, key=lambda mean: sign * mean[1, 0])
    found = []
    for (stage, begun), mean in zip(runs, means, strict=True):
        own = estimate(mean)
        gap = estimate(sign * (mean - best))
        worse = gap["value"] > 0 and excludes_zero(gap)
        span = own["interval"] and tuple(own["interval"])
        found.append(Depth(stage, begun, own["value"], span, worse))
    return found


def choose_depth(depths: Sequence[Depth], stages: Sequence[str], metric: str) -> Depth:
    """The latest stage that is not worse than the best one: what shares most and costs least.

    Args:
        depths: what `compare_depths` gave.
        stages: the stages, first to last.
        metric: the one of the depths.
    """
    good = [depth for depth in depths if not depth.worse]
    sign = METRICS[metric].sign
    return min(good, key=lambda depth: (-stages.index(depth.stage), sign * depth.value))
