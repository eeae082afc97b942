"""Tables of impossible answers: how often a model gives them, and what it costs to give none."""

from faceattr_tf.reports.tables import NONE, READINGS, Table, gain, percent

LISTED = 12
"""Pairs in a table; the JSON file holds all."""


def impossible_tables(numbers: dict) -> list[Table]:
    """What a report says of the impossible pairs of a task, of which the run may know none.

    Args:
        numbers: `TaskResult.numbers`, see `evaluation.consistency.measure_consistency`.
    """
    found = numbers.get("impossible")
    if not found:
        return []
    tables = [_overview(found), _worst(found["at_thresholds"])]
    return [*tables, _costs(found["at_thresholds"])] if "consistent" in found["at_half"] else tables


def _overview(found: dict) -> Table:
    rows = []
    for key, at in READINGS.items():
        read = found[key]
        share = percent(read["images"] / found["images"], 2)
        cells = [f"{read['images']:,}", share, f"{read['pairs']:,}"]
        if resolved := read.get("consistent"):
            plain = read["plain"]
            cells += [f"{resolved['images']:,}", f"{resolved['changed']:,}"]
            for figure in ("accuracy", "balanced_accuracy"):
                cells += [percent(plain[figure], 2), percent(resolved[figure], 2)]
        rows.append((f"Answers{at}", *cells))
    header = ["", "Images with impossible pairs", "%", "Pairs in all"]
    if "consistent" in found["at_half"]:
        header += ["Images, consistent", "Answers changed", "Mean accuracy", "Consistent"]
        header += ["Mean balanced accuracy", "Consistent"]
    note = (
        f"{found['pairs']} pairs of answers (almost) never occur in the training labels, where "
        "independent attributes would have them in ten images or more; at most 3 % of that many "
        "are there."
    )
    if "consistent" in found["at_half"]:
        note += (
            " Of such a pair the answer that is less certain gives way: whose log-odds are nearer "
            "to its threshold's. All other figures of this report are of the answers as they are."
        )
    return Table(tuple(header), tuple(rows), "Impossible answers", note)


def _worst(read: dict) -> Table:
    rows = [
        (pair["pair"], f"{pair['images']:,}", f"{pair['observed']:,}", f"{pair['expected']:,}")
        for pair in read["worst"][:LISTED]
    ] or [(NONE,) * 4]
    left = len(read["worst"]) - LISTED
    note = f"{left} more in the JSON file." if left > 0 else ""
    header = ("Pair", "Images", "In training", "There by chance")
    return Table(header, tuple(rows), "Most frequent impossible pairs at the thresholds", note)


def _costs(read: dict) -> Table:
    rows = []
    for label, plain in read["plain"]["labels"].items():
        consistent = read["consistent"]["labels"][label]
        cells = []
        for figure in ("accuracy", "balanced_accuracy"):
            cells += [percent(plain[figure]), gain(consistent[figure], plain[figure])]
        rows.append((label, *cells))
    header = ("Attribute", "Accuracy", "Consistent", "Balanced accuracy", "Consistent")
    return Table(header, tuple(rows), "What consistent answers change at the thresholds", "")
