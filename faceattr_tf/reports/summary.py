"""The table on top of a report: the main figures of every task."""

from faceattr_tf.reports.calibration import calibration_rows, unsure_rows
from faceattr_tf.reports.consistency import impossible_rows
from faceattr_tf.reports.tables import NONE, Table, main_figures, percent


def summary_table(contents: dict) -> Table:
    """The main figures of every task, in per cent where nothing else is said."""
    rows = []
    for name, numbers in contents["tasks"].items():
        if point := numbers.get("operating_point"):
            together = point["together"]
            words = f"false positive rate, {percent(point['rate'], 2)} % on validation"
            beside = f"true positive rate {percent(together['true_positive_rate'], 2)}"
            beside += f", no label {percent(point['without_label'], 2)}"
            rows.append((name, words, percent(together["false_positive_rate"], 2), NONE, beside))
        for figure in main_figures(numbers):
            unit = "" if figure.unit in ("", "%") else f", in {figure.unit}"
            guess = f"{figure.guess} {figure.guess_words}".strip()
            beside = ", ".join(filter(None, (guess, "" if figure.unit else "not in per cent")))
            beside = beside if numbers["metrics"]["count"] else "no labels"
            rows.append((name, figure.words + unit, figure.value, figure.span, beside))
        for more in (calibration_rows, unsure_rows, impossible_rows):
            rows += [(name, *row) for row in more(numbers)]
    return Table(("Task", "Measure", "%", "95 % interval", "Beside"), tuple(rows))
