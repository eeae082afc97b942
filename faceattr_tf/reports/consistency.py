"""Tables of impossible answers: how often a model gives them, and what it costs to give none."""

from data_pipelines.input.impossible_pairs import EXPECTED, SHARE
from faceattr_tf.reports.tables import AT, NONE, Table, percent

BALANCED = "balanced_accuracy"

LISTED = 12
"""Pairs in a table; the JSON file holds all."""

READINGS = {"at_half": AT[""], "at_thresholds": AT["_at_thresholds"]}
"""Key of the numbers about impossible pairs -> where attributes were read as yes or no."""


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
            for figure in ("accuracy", BALANCED):
                cells += [percent(plain[figure], 2), percent(resolved[figure], 2)]
        rows.append((f"Answers{at}", *cells))
    header = ["", "Images with impossible pairs", "%", "Pairs in all"]
    if "consistent" in found["at_half"]:
        header += ["Images, consistent", "Answers changed"]
        header += ["Accuracy", "Accuracy, consistent", "Balanced", "Balanced, consistent"]
    note = (
        f"{found['pairs']} pairs of answers (almost) never occur in the training labels: where "
        f"independent attributes would have them in {EXPECTED:.0f} images or more, at most "
        f"{100 * SHARE:.0f} % of these are there."
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
    plain, consistent = read["plain"]["labels"], read["consistent"]["labels"]
    changed = [label for label in plain if plain[label] != consistent[label]]
    rows = [
        (
            label,
            *(percent(plain[label]["accuracy"]), percent(consistent[label]["accuracy"])),
            *(percent(plain[label][BALANCED]), percent(consistent[label][BALANCED])),
        )
        for label in changed
    ] or [(NONE,) * 5]
    header = ("Attribute", "Accuracy", "Accuracy, consistent", "Balanced", "Balanced, consistent")
    note = f"In per cent. The figures of the other {len(plain) - len(changed)} attributes stay."
    return Table(header, tuple(rows), "What consistent answers change at the thresholds", note)


def impossible_rows(numbers: dict) -> list[tuple[str, str, str, str]]:
    """What the summary says of impossible pairs of answers, and of answers without them."""
    rows, found = [], numbers.get("impossible")
    for key, at in READINGS.items() if found else ():
        read = found[key]
        beside = f"{read['images']:,} images, {read['pairs']:,} pairs"
        if read["worst"]:
            beside += f", most often {read['worst'][0]['pair']}"
        share = percent(read["images"] / found["images"], 2)
        rows.append((f"images with impossible answers{at}", share, NONE, beside))
        if resolved := read.get("consistent"):
            before = f"{percent(read['plain']['accuracy'], 2)} before"
            beside = f"{before}, {resolved['changed']:,} answers changed"
            accuracy = percent(resolved["accuracy"], 2)
            rows.append((f"mean accuracy{at}, consistent", accuracy, NONE, beside))
    return rows
