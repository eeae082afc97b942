"""The tables of a comparison (the layout of FaceSTN, Tables 2, 3 and 4), with their intervals."""

from collections.abc import Mapping

from data_pipelines.tasks import CELEBA_ATTRIBUTES
from faceattr_tf.evaluation.metrics import METRICS
from faceattr_tf.evaluation.results import ERRORS
from faceattr_tf.reports.tables import AT, NONE, Table, percent, sources


def _words(figure: str) -> str:
    """A figure that `paired_bootstrap.run_figures` gives of yes/no attributes, in words."""
    name, ending, _ = figure.partition("_at_thresholds")
    return f"{METRICS[name].words}{AT[ending]}"


def main_table(name: str, contents: dict) -> Table:
    """Means over the attributes of one task, methods as rows (FaceSTN, Table 2)."""
    task = contents["tasks"][name]
    plain_figures, tuned = task["figures"]["accuracy"], "balanced_accuracy_at_thresholds"
    rows = []
    for condition, entry in plain_figures.items():
        balanced = task["figures"]["balanced_accuracy"][condition]
        at_thresholds = task["figures"][tuned][condition]
        rows.append(
            (
                condition,
                str(len(entry["runs"])),
                percent(entry["value"], 2),
                span(entry),
                percent(entry["deviation"], 2),
                signed(entry["difference"]),
                span(entry["difference"]),
                percent(balanced["value"], 2),
                percent(at_thresholds["value"], 2),
                signed(at_thresholds["difference"]),
                span(at_thresholds["difference"]),
            )
        )
    guess = percent(task["majority"]["mean"], 2)
    rows.append(("Majority guess", "", guess, *[""] * 4, "50", "50", "", ""))
    wide = [
        row
        for row in contents["published"]
        if row["average"] is not None and set(task["shared"]) == set(CELEBA_ATTRIBUTES)
    ]
    rows += [(row["method"], "", f"{row['average']:g}", *[""] * 8) for row in wide]
    header = (
        "Method", "Runs", "Accuracy", "95 % interval", "Between runs", "Difference",
        "95 % interval", "Balanced, 0.5", "Balanced, tuned", "Difference", "95 % interval",
    )  # fmt: skip
    partial = task["shared"] != task["labels"]
    title = f"{', '.join(task['shared'])}: what all conditions have" if partial else ""
    count = len(task["shared"])
    note = (
        f"In per cent, means over {count} attribute{'s' * (count > 1)} and over the runs; differences "
        f"to {contents['baseline']} in points. A star marks a difference whose interval excludes "
        "0. Accuracy is at the threshold 0.5; the thresholds were chosen on validation. Between "
        "runs: their standard deviation. " + (sources(wide) if wide else "")
    )
    return Table(header, tuple(rows), title, note.strip())


def recovered_tables(task: dict) -> list[Table]:
    """How much of the way from baseline to reference the other conditions come."""
    rows = [
        (
            condition,
            f"mean {_words(name)}",
            percent(found["value"]),
            span(found, 1),
            found["reason"],
        )
        for name, conditions in task["recovered"].items()
        for condition, found in conditions.items()
    ]
    header = ("Condition", "Measure", "Share %", "95 % interval", "Remark")
    note = "0 is the baseline and 100 the reference."
    return [Table(header, tuple(rows), "Recovered share", note)] if rows else []


def chosen_tables(name: str, contents: dict) -> list[Table]:
    """Accuracy on single attributes side by side (FaceSTN, Tables 3 and 4)."""
    task, labels = contents["tasks"][name], contents["chosen"][name]
    if not labels:
        return []
    by_label = [task["attributes"]["accuracy"][label] for label in labels]
    rows = [
        (
            condition,
            *(
                cell
                for found in by_label
                for cell in (
                    percent(found[condition]["value"], 2),
                    signed(found[condition]["difference"]),
                    span(found[condition]["difference"]),
                )
            ),
        )
        for condition in by_label[0]
    ]
    guesses = [task["majority"]["labels"].get(label) for label in labels]
    rows.append(("Majority guess", *(cell for g in guesses for cell in (percent(g, 2), "", ""))))
    quoted = [row for row in contents["published"] if set(labels) & set(row["accuracy"])]
    methods: dict[str, dict] = {}
    for row in quoted:
        methods.setdefault(row["method"], {}).update(row["accuracy"])
    for method, accuracy in methods.items():
        values = [accuracy.get(label) for label in labels]
        cells = (cell for v in values for cell in (NONE if v is None else f"{v:g}", "", ""))
        rows.append((method, *cells))
    header = ["Method"]
    for label in labels:
        header += [label, "Difference", "95 % interval"]
    note = "Accuracy at 0.5 in per cent. " + (sources(quoted) if quoted else "")
    return [Table(tuple(header), tuple(rows), "Attributes side by side", note.strip())]


def attribute_table(task: dict, baseline: str) -> Table:
    """Accuracy of every attribute in every condition."""
    found = task["attributes"]["accuracy"]
    others = [condition for condition in task["figures"]["accuracy"] if condition != baseline]
    rows = [
        (
            label,
            percent(task["majority"]["labels"].get(label), 2),
            *([percent(entries[baseline]["value"], 2)] if baseline in entries else []),
            *(
                cell
                for other in others
                for cell in (
                    percent(entries[other]["value"], 2),
                    signed(entries[other]["difference"]),
                    span(entries[other]["difference"]),
                )
            ),
        )
        for label, entries in found.items()
    ]
    header = ["Attribute", "Majority guess"]
    header += [baseline] if baseline in task["figures"]["accuracy"] else []
    for other in others:
        header += [other, "Difference", "95 % interval"]
    return Table(tuple(header), tuple(rows), "Every attribute", chance_note(task, "star"))


def chance_note(task: dict, mark: str) -> str:
    """How often chance alone marks an attribute."""
    text = f"Accuracy at 0.5. Where nothing differs, a {mark} still falls on one attribute of 20"
    count = len(task["labels"])
    return text + (f": on about {round(count / 20)} of these {count}." if count >= 20 else ".")


def detail_table(task: dict) -> Table:
    """Every mean with its single runs and both kinds of interval."""
    rows = [
        (
            condition,
            _words(name),
            " ".join(percent(value, 2) for value in entry["runs"]),
            percent(entry["value"], 2),
            span(entry),
            span(entry, key="interval_images"),
            signed(entry["difference"]),
            span(entry["difference"]),
            span(entry["difference"], key="interval_images"),
        )
        for name, conditions in task["figures"].items()
        for condition, entry in conditions.items()
    ]
    header = (
        "Condition", "Measure", "Each run", "Mean", "95 % interval", "Images alone", "Difference",
        "95 % interval", "Images alone",
    )  # fmt: skip
    return Table(header, tuple(rows), "Runs and intervals")


def other_table(tasks: Mapping[str, dict]) -> Table:
    """Tasks that are no yes/no attributes: one row per figure and condition."""
    rows = []
    for name, task in tasks.items():
        for figure, conditions in task["figures"].items():
            metric = METRICS[ERRORS[task["kind"]] if figure == "error" else figure]
            measure, unit = ", ".join(filter(None, (metric.words, metric.unit))), metric.scale

            def scaled(value, unit=unit):
                return NONE if value is None else f"{unit * value:.2f}"

            for condition, entry in conditions.items():
                rows.append(
                    (
                        f"{name}, {condition}",
                        measure,
                        scaled(entry["value"]),
                        span(entry, unit=unit),
                        " ".join(scaled(run) for run in entry["runs"]),
                        signed(entry["difference"], unit),
                        span(entry["difference"], unit=unit),
                    )
                )
    header = ("Task", "Measure", "Value", "95 % interval", "Each run", "Difference",
              "95 % interval")  # fmt: skip
    return Table(header, tuple(rows), "", "Of errors, less is better.")


def signed(found: dict | None, unit: float = 100) -> str:
    """A difference as `+0.52 *`, the star where the interval excludes 0."""
    if not found or found["value"] is None:
        return NONE
    value = round(unit * found["value"], 2)
    return f"{'−' if value < 0 else '+'}{abs(value):.2f}" + (" *" if found["clear"] else "")


def span(found: dict | None, digits: int = 2, unit: float = 100, key: str = "interval") -> str:
    """An interval as `−0.10 to 0.52`."""
    if not found or not found[key]:
        return NONE
    ends = (round(unit * end, digits) + 0.0 for end in found[key])  # no negative zero
    low, high = (f"{end:.{digits}f}".replace("-", "−") for end in ends)
    return f"{low} to {high}"
