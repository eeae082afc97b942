"""Decisions on one attribute: precision and recall of both classes and confusion matrices.

The layout of KTH-MTFL (Canal Garcia et al.), Tables 3 to 5; what thresholds change is this
project's. Rows of matrices are the labelled class, unless it is said otherwise.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from faceattr_tf.reports.comparison.tables import span
from faceattr_tf.reports.tables import NONE, Table, gain, number, percent, printed, sources

FEW = 6
"""Attributes up to which a task has tables for each of them."""

FIGURES = (
    "accuracy", "balanced_accuracy", "precision", "precision_no", "recall", "recall_no"
)  # fmt: skip
"""The columns of the tables that KTH-MTFL prints, which a new metric does not widen."""

POINTS = {"at_half": "metrics", "at_thresholds": "metrics_at_thresholds"}


def detailed_labels(labels: Sequence[str], attributes: Sequence[str] = ()) -> list[str]:
    """The attributes of a task that are shown one by one.

    Args:
        labels: all of the task.
        attributes: the attributes asked for, of any task; empty for all where there are no more
            than `FEW`.
    """
    if attributes:
        return [label for label in attributes if label in labels]
    return list(labels) if len(labels) <= FEW else []


def compare_decisions(runs: Sequence[Mapping[str, Mapping]]) -> dict:
    """One attribute in one condition.

    Args:
        runs: per run `metrics` (at 0.5) and `metrics_at_thresholds` of the attribute, as
            `metrics.evaluate_task` gives them.

    Returns:
        `at_half` and `at_thresholds` with the means over the runs of `FIGURES`, of `confusion`
        (`[[tn, fp], [fn, tp]]`, counts) and of `confusion_shares` (of the labelled class; None
        without one of the classes); `change`, what the thresholds add to the `FIGURES`;
        `thresholds` of the runs; and `runs` as given. A figure is None where a run has none.
    """
    found = {
        point: {name: _mean([run[key][name] for run in runs]) for name in FIGURES}
        | _confusion([run[key]["confusion"] for run in runs])
        for point, key in POINTS.items()
    }
    half, tuned = found.values()
    return found | {
        "change": {
            name: None if None in (half[name], tuned[name]) else tuned[name] - half[name]
            for name in FIGURES
        },
        "thresholds": [run["metrics_at_thresholds"]["threshold"] for run in runs],
        "runs": list(runs),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))


def _confusion(matrices) -> dict:
    counts = np.mean(matrices, axis=0)
    totals = counts.sum(axis=1, keepdims=True)
    shares = (counts / totals).tolist() if totals.all() else None
    return {"confusion": counts.tolist(), "confusion_shares": shares}


def decision_tables(name: str, label: str, contents: dict) -> list[Table]:
    """Both tables of an attribute.

    Args:
        name: the name of the task.
        label: the attribute.
        contents: what `faceattr_tf.reports.comparison.compare.compare` returns.
    """
    return [decision_table(name, label, contents), confusion_table(name, label, contents)]


def decision_table(name: str, label: str, contents: dict, short: bool = False) -> Table:
    """Accuracy, precision and recall at 0.5, at the thresholds, and their change.

    Args:
        name: as for `decision_tables`; so are the arguments that follow.
        label: the attribute.
        contents: the comparison.
        short: without intervals, for the terminal.
    """
    task, published = contents["tasks"][name], _published(label, contents)
    accuracies, balanced, balanced_tuned = (
        task["attributes"][figure][label]
        for figure in ("accuracy", "balanced_accuracy", "balanced_accuracy_at_thresholds")
    )
    rows = []
    for condition, entry in task["decisions"][label].items():
        half, tuned, change = entry["at_half"], entry["at_thresholds"], entry["change"]
        spans = (span(accuracies[condition], 1), span(balanced[condition], 1))
        tuned_spans = (NONE, span(balanced_tuned[condition], 1))
        rows += [
            (condition, "0.5", *_figures(half, percent, spans)),
            (condition, _thresholds(entry), *_figures(tuned, percent, tuned_spans)),
            (condition, "change", *_figures(change, gain, ("", ""))),
        ]
    guess = percent(task["majority"]["labels"].get(label))
    rows.append(("Majority guess", "", guess, "", "50", *[""] * 5))
    for row in published:
        precision, precision_no = row["precision"].get(label, (None, None))
        recall, recall_no = row["recall"].get(label, (None, None))
        both = None not in (recall, recall_no)
        figures = {
            "accuracy": row["accuracy"][label],
            "balanced_accuracy": (recall + recall_no) / 2 if both else None,
            "precision": precision,
            "precision_no": precision_no,
            "recall": recall,
            "recall_no": recall_no,
        }
        rows.append((row["method"], "printed", *_figures(figures, printed, ("", ""))))
    header = (
        "Method", "Threshold", "Accuracy", "95 % interval", "Balanced", "95 % interval",
        "Precision, yes", "Precision, no", "Recall, yes", "Recall, no",
    )  # fmt: skip
    if short:
        kept = [place for place, text in enumerate(header) if "interval" not in text]
        header, *rows = (tuple(row[place] for place in kept) for row in (header, *rows))
    note = _decision_note(task, label, published)
    return Table(tuple(header), tuple(rows), f"{label}: accuracy, precision and recall", note)


def _decision_note(task: dict, label: str, published: Sequence[dict]) -> str:
    entries = task["decisions"][label]
    row = next(iter(entries.values()))["runs"][0]["metrics"]
    share = percent(row["positives"] / row["count"] if row["count"] else None)
    text = (
        f"In per cent, means over the runs, of {row['count']:,} images, {share} % of them yes. "
        "Thresholds were chosen on validation for balanced accuracy; change: what they add, in "
        "points."
    )
    parts = [text]
    if lacking := [name for name in task["figures"]["accuracy"] if name not in entries]:
        parts.append(f"Conditions without it: {', '.join(lacking)}.")
    if any(label in row["recall"] for row in published):
        parts.append(
            "The balanced accuracy of published rows is the mean of the printed recalls; where one "
            "precision and recall is printed, its class is not named."
        )
    return " ".join([*parts, sources(published)] if published else parts)


def confusion_table(name: str, label: str, contents: dict) -> Table:
    """Confusion matrices, one per row, as shares of the labelled and of the predicted class."""
    rows = []
    for condition, entry in contents["tasks"][name]["decisions"][label].items():
        for point, threshold in (("at_half", "0.5"), ("at_thresholds", _thresholds(entry))):
            counts, shares = entry[point]["confusion"], entry[point]["confusion_shares"]
            cells = [
                f"{counts[row][column]:,.0f} ({percent(shares and shares[row][column])} %)"
                for row in range(2)
                for column in range(2)
            ]
            no, yes = (entry[point][key] for key in ("precision_no", "precision"))
            rest = [None if share is None else 1 - share for share in (no, yes)]
            rows.append((condition, threshold, *cells, *map(percent, (no, rest[0], rest[1], yes))))
    published = [row for row in _published(label, contents) if label in row["confusion"]]
    for row in published:
        cells = [printed(cell) for line in row["confusion"][label] for cell in line]
        rows.append((row["method"], "printed", *[NONE] * 4, *cells))
    header = (
        "Method", "Threshold", "No, said no", "No, said yes", "Yes, said no", "Yes, said yes",
        "Said no, is no", "Said no, is yes", "Said yes, is no", "Said yes, is yes",
    )  # fmt: skip
    note = (
        "The first four columns are the matrix whose rows are the labelled class: counts, and in "
        "brackets the share of the images with that label. The last four are the one whose rows "
        "are the predicted class, in per cent."
    )
    if published:
        note += (
            " The published matrices repeat the published precisions, so their rows are read as "
            f"the predicted class. {sources(published)}"
        )
    return Table(header, tuple(rows), f"{label}: confusion matrices", note)


def _published(label: str, contents: dict) -> list[dict]:
    return [row for row in contents["published"] if label in row["accuracy"]]


def _figures(found: Mapping, shown, spans) -> tuple[str, ...]:
    accuracy, balanced, *rest = (shown(found[name]) for name in FIGURES)
    return accuracy, spans[0], balanced, spans[1], *rest


def _thresholds(entry: dict) -> str:
    return " ".join(number(threshold, 2) for threshold in entry["thresholds"])
