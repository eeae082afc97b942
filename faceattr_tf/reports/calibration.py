"""What a report says of probabilities and of answers that are unsure."""

from faceattr_tf.reports.tables import NONE, Table, percent


def calibration_rows(numbers: dict) -> list[tuple[str, str, str, str]]:
    """What the summary says of calibration.

    Args:
        numbers: `TaskResult.numbers`, see `evaluation.reliability.measure_calibration`.
    """
    found = numbers.get("calibration")
    if not found or found["after"]["error"] is None:
        return []
    of = "mean " if numbers["kind"] == "multilabel" and len(numbers["labels"]) > 1 else ""
    beside = f"{percent(found['before']['error'], 2)} before calibration, "
    beside += f"{percent(found['after']['by_chance'], 2)} by chance alone"
    span = numbers.get("intervals_of_calibration", {}).get("after", {}).get("error")
    error = percent(found["after"]["error"], 2)
    return [(f"{of}expected calibration error", error, _span(span), beside)]


def calibration_tables(numbers: dict) -> list[Table]:
    """Calibration errors of every label or class, before and after."""
    found = numbers.get("calibration")
    if not found or found["after"]["error"] is None:
        return []
    spans = numbers.get("intervals_of_calibration", {})
    rows = []
    for label, after in found["after"]["labels"].items():
        before = found["before"]["labels"][label]
        ends = [spans.get(part, {}).get("labels", {}).get(label) for part in ("before", "after")]
        errors = [percent(one["error"], 2) for one in (before, after)]
        cells = errors[0], _span(ends[0]), errors[1], _span(ends[1])
        rows.append((label, *cells, percent(after["by_chance"], 2)))
    header = ("", "Before", "95 % interval", "After", "95 % interval", "By chance")
    note = (
        "In per cent: the mean distance between probability and share that is true, over ten bins of "
        "equally many images, before and after the outputs were divided by the temperature. Few "
        "images make it too high: “by chance” is what a model would show here whose probabilities "
        "are all right. The intervals (bootstrap) say how much a figure would move with as many other "
        "images."
    )
    return [Table(header, tuple(rows), "Expected calibration error", note)]


def unsure_rows(numbers: dict) -> list[tuple[str, str, str, str]]:
    """What the summary says of answers that are unsure.

    Args:
        numbers: `TaskResult.numbers`, see `evaluation.conformal.measure_unsure`.
    """
    found = numbers.get("unsure")
    if not found:
        return []
    of = found["mean"]["labels"]
    beside = f"wrong {percent(of['wrong'], 2)}, right {percent(of['accuracy_answered'])} of the "
    beside += f"others, {percent(of['accuracy'])} of all"
    return [(f"unsure at a risk of {found['risk']}", percent(of["unsure"], 2), NONE, beside)]


def unsure_tables(numbers: dict) -> list[Table]:
    """What being unsure gives and costs, by label and by answer."""
    found = numbers.get("unsure")
    if not found:
        return []
    names = ("unsure", "wrong", "accuracy_answered", "accuracy")
    means = found["mean"]
    rows = [
        (label, f"{row['count']:,}", *(percent(row[name]) for name in names))
        for label, row in found["labels"].items()
    ]
    if len(rows) > 1:
        rows.append(("Mean", "", *(percent(means["labels"][name]) for name in names)))
    header = ("", "Images", "Unsure", "Wrong", "Accuracy of the others", "Accuracy of all")
    which = "all images" if found["risk"].endswith("overall") else "the images of each answer"
    note = (
        "In per cent of the images. An answer is given where validation rules out all others at the "
        f"risk, which is a share of {which}, of every label by itself."
    )
    overall = Table(header, tuple(rows), f"Unsure at a risk of {found['risk']}", note)
    names = ("wrong", "unsure", "possible")
    rows = [
        (answer, f"{row['count']:,}", *(percent(row[name]) for name in names))
        for answer, row in found["answers"].items()
    ]
    rows.append(("Mean", "", *(percent(means["answers"][name]) for name in names)))
    header = ("Right answer", "Images", "Told another", "Unsure", "Possible")
    note = (
        "In per cent of the images of which this is the right answer. “Possible” is how often it is "
        "not ruled out, which on images like those of validation is one minus the risk, give or take "
        "what few images do. Told another is less, as the likelier answer is given where all are "
        "ruled out."
    )
    return [overall, Table(header, tuple(rows), "By right answer", note)]


def _span(ends) -> str:
    return " to ".join(percent(end, 2) for end in ends) if ends else NONE
