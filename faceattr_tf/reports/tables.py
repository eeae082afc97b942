"""The tables of a report, as text that Markdown, HTML and the terminal all show."""

import dataclasses
from collections.abc import Sequence

from faceattr_tf.evaluation.transform_metrics import COMPONENTS

NONE = "–"
"""What stands in a table where there is no figure."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text; the first column is what the row is about."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""
    note: str = ""

    def markdown(self) -> str:
        """The table as Markdown, with title and note."""
        lines = [f"### {self.title}\n"] if self.title else []
        lines.append("| " + " | ".join(self.header) + " |")
        lines.append("|---" + "|--:" * (len(self.header) - 1) + "|")
        lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in self.rows]
        if self.note:
            lines.append(f"\n{self.note}")
        return "\n".join(lines) + "\n"

    def text(self) -> str:
        """The table in columns of equal width."""
        rows = [self.header, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.header))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        )


def _markdown_cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")


def percent(value: float | None, digits: int = 1) -> str:
    """0.8642 as `86.4`; a dash for None."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 3) -> str:
    """0.98765 as `0.988`; a dash for None."""
    return NONE if value is None else f"{value:.{digits}f}"


def gain(value: float | None, guess: float | None = 0.0) -> str:
    """What a share has beyond another one, in points, as `+1.2`; a dash where one is None."""
    if value is None or guess is None:
        return NONE
    points = round(100 * (value - guess), 1)
    return f"{'−' if points < 0 else '+'}{abs(points):.1f}"


def _span(interval: Sequence[float] | None) -> str:
    return NONE if not interval else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def summary_table(contents: dict) -> Table:
    """The main figures of every task, in per cent."""
    rows = [
        (name, *row)
        for name, numbers in contents["tasks"].items()
        for row in _SUMMARIES[numbers["kind"]](numbers, numbers.get("intervals", {}))
    ]
    return Table(("Task", "Measure", "%", "95 % interval", "Beside"), tuple(rows))


def _multilabel_summary(numbers: dict, spans: dict) -> list[tuple]:
    mean, spans = numbers["metrics"]["mean"], spans.get("mean", {})
    tuned = numbers["metrics_at_thresholds"]["mean"]["balanced_accuracy"]
    tuned_span = numbers.get("intervals_at_thresholds", {}).get("mean", {})
    of = "mean " if len(numbers["labels"]) > 1 else ""
    return [
        (
            f"{of}accuracy",
            percent(mean["accuracy"]),
            _span(spans.get("accuracy")),
            f"{percent(mean['majority_accuracy'])} majority guess",
        ),
        (
            f"{of}balanced accuracy at 0.5",
            percent(mean["balanced_accuracy"]),
            _span(spans.get("balanced_accuracy")),
            "50.0 any guess",
        ),
        (
            f"{of}balanced accuracy at validation thresholds",
            percent(tuned),
            _span(tuned_span.get("balanced_accuracy")),
            "50.0 any guess",
        ),
    ]


def _multiclass_summary(numbers: dict, spans: dict) -> list[tuple]:
    found = numbers["metrics"]
    return [
        (
            "accuracy",
            percent(found["accuracy"]),
            _span(spans.get("accuracy")),
            f"{percent(found['majority_accuracy'])} majority guess",
        ),
        (
            "balanced accuracy",
            percent(found["balanced_accuracy"]),
            _span(spans.get("balanced_accuracy")),
            f"{percent(1 / len(numbers['labels']))} any guess",
        ),
    ]


def _landmarks_summary(numbers: dict, spans: dict) -> list[tuple]:
    found = numbers["metrics"]
    return [
        ("mean error / eye distance", percent(found["nme"], 2), _span(spans.get("nme")), ""),
        ("images with more than 10 %", percent(found["failure_rate"]), "", ""),
    ]


def _transform_summary(numbers: dict, spans: dict) -> list[tuple]:
    found = numbers["metrics"]
    span = [number(value, 2) for value in spans.get("corner_error", ())]
    unmoved = number(found["corner_error_identity"], 2)
    beside = f"{unmoved} left as it is" if found["count"] else "no labels"
    error = number(found["corner_error"], 2)
    return [("corner error, in pixels", error, " to ".join(span) or NONE, beside)]


def _regression_summary(numbers: dict, spans: dict) -> list[tuple]:
    mean = numbers["metrics"]["mean"]
    return [("mean absolute error", number(mean["mae"]), "", "not in per cent")]


_SUMMARIES = {
    "multilabel": _multilabel_summary,
    "multiclass": _multiclass_summary,
    "landmarks": _landmarks_summary,
    "transform": _transform_summary,
    "regression": _regression_summary,
}


def task_tables(numbers: dict, published: Sequence[dict]) -> list[Table]:
    """Every table of one task."""
    found = numbers["metrics"]
    if numbers["kind"] == "multilabel":
        return [_attribute_table(numbers), *_published_tables(numbers, published)]
    if numbers["kind"] == "multiclass":
        rows = [
            (
                label,
                f"{row['count']:,}",
                *map(percent, (row["precision"], row["recall"], row["f1"])),
            )
            for label, row in found["classes"].items()
        ]
        note = f"The class is off by {number(found['mean_error'], 2)} places on average."
        return [Table(("Class", "Images", "Precision", "Recall", "F1"), tuple(rows), "", note)]
    if numbers["kind"] == "landmarks":
        rows = [(label, percent(value, 2)) for label, value in found["points"].items()]
        note = (
            "Distance from the label over the distance of the labelled eyes, in the source image."
        )
        return [Table(("Point", "Mean error %"), tuple(rows), "", note)]
    if numbers["kind"] == "transform":
        return _transform_tables(found)
    rows = [
        (label, f"{row['count']:,}", *map(number, (row["mae"], row["rmse"], row["r2"])))
        for label, row in found["labels"].items()
    ]
    header = ("Value", "Images", "Mean absolute error", "Root mean square error", "R²")
    return [Table(header, tuple(rows))]


def _attribute_table(numbers: dict) -> Table:
    tuned, spans = numbers["metrics_at_thresholds"], numbers.get("intervals", {})

    def row(label, found, tuned, span, images, yes, threshold):
        return (
            label,
            images,
            yes,
            percent(found["accuracy"]),
            _span(span.get("accuracy")),
            percent(found["majority_accuracy"]),
            gain(found["accuracy"], found["majority_accuracy"]),
            percent(found["balanced_accuracy"]),
            percent(tuned["balanced_accuracy"]),
            threshold,
            percent(found["precision"]),
            percent(found["recall"]),
            percent(found["f1"]),
            percent(found["average_precision"]),
            percent(found["roc_auc"]),
        )

    rows = [
        row(
            label,
            found,
            tuned["labels"][label],
            spans.get("labels", {}).get(label, {}),
            f"{found['count']:,}",
            percent(found["positives"] / found["count"] if found["count"] else None),
            number(tuned["labels"][label]["threshold"], 2),
        )
        for label, found in numbers["metrics"]["labels"].items()
    ]
    if len(rows) > 1:
        mean = numbers["metrics"]["mean"]
        rows.append(row("Mean", mean, tuned["mean"], spans.get("mean", {}), "", "", ""))
    header = (
        "Attribute", "Images", "Yes %", "Accuracy", "95 % interval", "Majority guess", "Gain",
        "Balanced at 0.5", "Balanced at threshold", "Threshold", "Precision", "Recall", "F1", "AP",
        "ROC-AUC",
    )  # fmt: skip
    note = (
        "In per cent. Accuracy, precision, recall and F1 are at the threshold 0.5; the thresholds "
        "were chosen on validation for balanced accuracy. The majority guess always says what most "
        "training images have."
    )
    return Table(header, tuple(rows), "", note)


def _transform_tables(found: dict) -> list[Table]:
    """How the transforms are distributed, and, where labels are known, how wrong they are."""
    labelled = ("labelled",) if found["count"] else ()
    values = ("mean", "deviation", "low", "high")
    rows = [
        (name, of, *(number(found[of][key][value]) for value in values))
        for key, name in COMPONENTS.items()
        for of in ("predicted", *labelled)
    ]
    header = ("Component", "Of", "Mean", "Deviation", "5 % below", "5 % above")
    note = "Where the aligned crop lies in the network's crop: its angle, size and centre."
    tables = [Table(header, tuple(rows), "", note)]
    if labelled:
        rows = [
            ("Corners, mean, pixels", number(found["corner_error"], 2)),
            ("Corners, median, pixels", number(found["corner_error_median"], 2)),
            ("Corners if every crop were left as it is", number(found["corner_error_identity"], 2)),
            ("Rotation, degrees", number(found["rotation_error"], 2)),
            ("Scale, logarithm of the ratio", number(found["scale_error"])),
            ("Shift, pixels", number(found["shift_error"], 2)),
            *((name, number(value, 4)) for name, value in found["parameters"].items()),
        ]
        note = "Mean absolute errors; pixels are those of the network's crop."
        tables.append(Table(("Error", "Value"), tuple(rows), "", note))
    return tables


def _published_tables(numbers: dict, published: Sequence[dict]) -> list[Table]:
    """One accuracy table over all attributes, and one per attribute of which more is published."""
    found = numbers["metrics"]["labels"]
    published = [row for row in published if set(row["accuracy"]) & set(found)]
    tables = []
    if wide := [row for row in published if len(row["accuracy"]) > len(found) / 2]:
        shared = [label for label in found if label in wide[0]["accuracy"]]
        rows = [
            (
                label,
                percent(found[label]["accuracy"]),
                percent(found[label]["majority_accuracy"]),
                *(printed(row["accuracy"].get(label)) for row in wide),
            )
            for label in shared
        ]
        rows.append(
            (
                "Mean",
                percent(_mean(found[label]["accuracy"] for label in shared)),
                percent(_mean(found[label]["majority_accuracy"] for label in shared)),
                *(printed(_average(row, shared)) for row in wide),
            )
        )
        header = ("Attribute", "This model", "Majority guess", *(row["method"] for row in wide))
        tables.append(Table(header, tuple(rows), "Beside published accuracies", sources(wide)))
    for label in found:
        narrow = [row for row in published if label in row["accuracy"] and row not in wide]
        if not narrow:
            continue
        own = found[label]
        names = ("accuracy", "precision", "recall", "precision_no", "recall_no")
        rows = [("This model", *(percent(own[name]) for name in names))]
        rows.append(("Majority guess", percent(own["majority_accuracy"]), *[NONE] * 4))
        for row in narrow:
            pairs = (row[key].get(label, (None, None)) for key in ("precision", "recall"))
            (precision, precision_no), (recall, recall_no) = pairs
            cells = (row["accuracy"][label], precision, recall, precision_no, recall_no)
            rows.append((row["method"], *map(printed, cells)))
        header = ("Method", "Accuracy", "Precision, yes", "Recall, yes", "Precision, no",
                  "Recall, no")  # fmt: skip
        tables.append(
            Table(header, tuple(rows), f"{label} beside published figures", sources(narrow))
        )
    return tables


def printed(value: float | None) -> str:
    """A published figure as its source prints it; a dash for None."""
    return NONE if value is None else f"{value:g}"


def _average(row: dict, labels: Sequence[str]) -> float | None:
    """The published average, where it is one over the same labels as ours."""
    return row["average"] if set(row["accuracy"]) == set(labels) else None


def _mean(values) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def sources(rows: Sequence[dict]) -> str:
    """Where published rows come from, and what stands against comparing them."""
    by_source: dict[str, list[str]] = {}
    for row in rows:
        by_source.setdefault(row["source"], []).append(row["method"])
    texts = [f"{', '.join(methods)}: {source}." for source, methods in by_source.items()]
    if len(rows) > 6:
        texts = [f"Sources: {'; '.join(by_source)}."]
    caveats = dict.fromkeys(text for row in rows for text in row["caveat"].split("; ") if text)
    return " ".join(["Quoted as printed.", *texts, *(f"Caution: {text}." for text in caveats)])
