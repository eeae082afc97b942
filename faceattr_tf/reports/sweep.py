"""What a grid of recipes reached on validation, as a table."""

import statistics
from collections.abc import Mapping, Sequence

from faceattr_tf.evaluation.metrics import METRICS, shown_in
from faceattr_tf.reports.tables import NONE, Table, written

NOTE = (
    "Validation at every run's best step: the mean over seeds ± their standard deviation. The best "
    "of many is a little lucky, and where validation is a share of the training images every seed "
    "has its own. The test part was not looked at."
)
PREFIX = "validation/"


def sweep_table(runs: Mapping[str, Sequence[Mapping]]) -> Table:
    """A row for every condition, a column for every figure that a run logs.

    Args:
        runs: condition -> the best validation row of each of its finished runs.
    """
    rows = [row for of in runs.values() for row in of]
    measured = dict.fromkeys(key for row in rows for key in row if key.startswith(PREFIX))
    keys = [f"{PREFIX}loss", *shown_in("log", measured)]
    body = [
        (name, str(len(of)), *(_mean(key, [row[key] for row in of if key in row]) for key in keys))
        for name, of in runs.items()
    ]
    return Table(("Condition", "Runs", *map(_title, keys)), tuple(body), note=NOTE)


def _title(key: str) -> str:
    *task, name = key.removeprefix(PREFIX).split("/")
    unit = METRICS[name].unit
    return " ".join((*task, METRICS[name].words)) + (f" ({unit})" if unit else "")


def _mean(key: str, values: Sequence[float]) -> str:
    name = key.rpartition("/")[2]
    if not values:
        return NONE
    mean = written(name, statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {written(name, statistics.stdev(values))}"
