"""The tables of a report, as text that Markdown, HTML and the terminal all show."""

import dataclasses
from collections.abc import Sequence

from faceattr_tf.evaluation.metrics import METRICS
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


def written(name: str, value: float | None) -> str:
    """A metric's value as its row of `METRICS` says, without the unit; a dash for None."""
    metric = METRICS[name]
    return number(None if value is None else metric.scale * value, metric.digits)


def _span(name: str, spans: dict) -> str:
    return " to ".join(written(name, end) for end in spans.get(name, ())) or NONE


AT = {"": " at 0.5", "_at_thresholds": " at validation thresholds"}
"""Ending of a key -> where yes/no attributes were measured."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A main figure of a task and the guess that it stands beside, both without their unit."""

    words: str
    unit: str
    value: str
    span: str
    guess: str
    guess_words: str
    tuned: bool

    @property
    def measured(self) -> str:
        """The value with its unit."""
        return f"{self.value} {self.unit}".strip()


def main_figures(numbers: dict) -> list[Figure]:
    """What the summary shows of a task; what thresholds are chosen for is there twice.

    Args:
        numbers: of `TaskResult.numbers`, with the intervals.
    """
    yes_no, found = numbers["kind"] == "multilabel", []
    of = "mean " if yes_no and len(numbers["labels"]) > 1 else ""
    for name, metric in METRICS.items():
        for ending, at in AT.items() if yes_no and metric.tuned else [("", "")]:
            measured, spans = numbers["metrics" + ending], numbers.get("intervals" + ending, {})
            measured, spans = measured.get("mean", measured), spans.get("mean", spans)
            if "summary" in metric.shown and name in measured:
                words = f"{of}{metric.words}{at}"
                value, span = written(name, measured[name]), _span(name, spans)
                guess = _guess(name, measured, 2 if yes_no else len(numbers["labels"]))
                found.append(Figure(words, metric.unit, value, span, *guess, bool(ending)))
    return found


def _guess(name: str, measured: dict, classes: int) -> tuple[str, str]:
    """What a metric is without any model, and how that guess is called; empty if it has none."""
    for other, metric in METRICS.items():
        if metric.guess_of == name and other in measured:
            return written(other, measured[other]), metric.words
    chance = METRICS[name].chance / classes
    return (percent(chance), "any guess") if chance else ("", "")


def task_tables(numbers: dict, published: Sequence[dict]) -> list[Table]:
    """Every table of one task."""
    found = numbers["metrics"]
    if numbers["kind"] == "multilabel":
        tables = [_attribute_table(numbers), *_published_tables(numbers, published)]
        return [*_wrong_first(numbers), *tables]
    if numbers["kind"] == "multiclass":
        if "classes" not in found:
            return []
        note = f"The class is off by {number(found['mean_error'], 2)} places on average."
        return [_label_table("Class", found["classes"], note)]
    if numbers["kind"] == "landmarks":
        rows = [(label, percent(value, 2)) for label, value in found["points"].items()]
        note = (
            "Distance from the label over the distance of the labelled eyes, in the source image."
        )
        return [Table(("Point", "Mean error %"), tuple(rows), "", note)]
    if numbers["kind"] == "transform":
        return _transform_tables(found)
    return [_label_table("Value", found["labels"])]


def _wrong_first(numbers: dict) -> list[Table]:
    """Who is wrongly told a label: at 0.5 of sensitive tasks, and at the operating point."""
    header = ("Label", "Images without it", "False positive rate %", "False positives")
    tables = []
    if point := numbers.get("operating_point"):
        rows = [
            (
                *_wrong_and_right(
                    label, row, row["negatives"], row["false_positives"], row["true_positive_rate"]
                ),
                f"{row['threshold']:.3f}" if "threshold" in row else "",
                percent(row.get("validation_rate"), 2) if "threshold" in row else "",
            )
            for label, row in (*point["labels"].items(), ("Together", point["together"]))
        ]
        more = ("Images with it", "True positive rate %", "Threshold", "On validation %")
        title = f"At a false positive rate of {percent(point['rate'], 2)} % on validation"
        note = (
            "Each threshold is the lowest that no larger share of the run's validation images "
            f"without the label reaches. {percent(point['without_label'], 2)} % of the images get "
            "no label at all."
        )
        tables.append(Table((*header, *more), tuple(rows), title, note))
    if "false_positive_rate" in numbers["metrics"]["mean"]:
        rows = [
            _wrong_and_right(
                label,
                row,
                row["count"] - row["positives"],
                row["confusion"][0][1],
                row["recall"],
            )
            for label, row in numbers["metrics"]["labels"].items()
        ]
        more = ("Images with it", "True positive rate %")
        tables.append(Table((*header, *more), tuple(rows), "False positives at 0.5", ""))
    return tables


def _wrong_and_right(label: str, row: dict, negatives: int, wrong: int, right: float | None):
    """The columns that tables of false positives share."""
    return (
        label,
        f"{negatives:,}",
        percent(row["false_positive_rate"], 2),
        f"{wrong:,}",
        f"{row['positives']:,}",
        percent(right, 2),
    )


def _label_table(what: str, labels: dict[str, dict], note: str = "") -> Table:
    """Every metric of every class or value."""
    names = [name for name in METRICS if name in next(iter(labels.values()))]
    rows = [
        (label, f"{row['count']:,}", *(written(name, row[name]) for name in names))
        for label, row in labels.items()
    ]
    header = (what, "Images", *(METRICS[name].title for name in names))
    return Table(header, tuple(rows), "", note)


def _attribute_table(numbers: dict) -> Table:
    tuned, spans = numbers["metrics_at_thresholds"], numbers.get("intervals", {})

    def row(label, found, tuned, span, images, yes, threshold):
        return (
            label,
            images,
            yes,
            percent(found["accuracy"]),
            _span("accuracy", span),
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
            (f"{metric.title}, {metric.unit}", written(name, found[name]))
            for name, metric in METRICS.items()
            if name in found
        ]
        rows += [(name, number(value, 4)) for name, value in found["parameters"].items()]
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
