"""What an audit says of thresholds for the slice that is worst off."""

from collections.abc import Mapping, Sequence

import numpy as np

from faceattr_tf.evaluation.mitigation import PRICES, measure_thresholds, thresholds_by_price
from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.evaluation.slices import Slicing
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import BLUE, ORANGE, svg
from faceattr_tf.reports.tables import Table, percent
from faceattr_tf.workdir import Workdir

NOTE = (
    "Balanced accuracy in per cent, of all images and of the slice that is worst off, at the "
    "thresholds of validation and at others, the same for everybody. These were chosen on validation, "
    "as the best for the worst slice there that cost all images no more than the price there; here, "
    "they may cost more and give less."
)


def mitigate(
    results: Sequence[TaskResult],
    slicings: Mapping[str, Slicing],
    on_validation: tuple[Sequence[TaskResult], Mapping[str, Slicing]],
    price: float,
    smallest: int,
) -> dict[str, dict]:
    """Thresholds for the worst slice of every yes/no task, and what they are worth.

    Args:
        results: the tasks over the split.
        slicings: of its images.
        on_validation: the same of validation.
        price: how much balanced accuracy of all images they may cost there.
        smallest: images of each answer below which a slice says nothing.

    Returns:
        Task -> `price`, `labels`: what `measure_thresholds` gives at the own threshold and at that
        for the price; `prices` and `curve`: for the own thresholds and each price the means over
        labels of `overall` and `worst`. Without tasks of which no slice says anything.
    """
    found = {}
    known = {result.task.name: result for result in on_validation[0]}
    for result in (result for result in results if result.task.kind == "multilabel"):
        prices = (price, *PRICES)
        own = known[result.task.name], on_validation[1]
        chosen = thresholds_by_price(*own, prices, smallest)
        rows = measure_thresholds(result, slicings, chosen, smallest)
        if rows:
            curve = [[row[0], *row[2:]] for row in rows.values()]
            found[result.task.name] = {
                "price": price,
                "labels": {label: row[:2] for label, row in rows.items()},
                "prices": [None, *PRICES],
                "curve": [
                    {
                        name: float(np.mean([one[name] for one in of]))
                        for name in ("overall", "worst")
                    }
                    for of in zip(*curve, strict=True)
                ],
            }
    return found


def adopt_thresholds(run: Workdir, found: Mapping[str, dict]) -> None:
    """Makes the thresholds for the price the run's own, by which it is predicted and exported.

    Args:
        run: whose `calibration.json` is rewritten; labels of which no slice says anything keep
            their thresholds.
        found: what `mitigate` gave.
    """
    calibration = run.calibration()
    for task in (task for task in run.tasks if task.name in found):
        thresholds = list(calibration[task.name]["thresholds"])
        for label, (_, chosen) in found[task.name]["labels"].items():
            thresholds[task.labels.index(label)] = chosen["threshold"]
        calibration[task.name] = {**calibration[task.name], "thresholds": thresholds}
    run.write_json("calibration.json", calibration)


def mitigation_table(numbers: dict) -> Table:
    """A row per label: what the thresholds for the price change."""
    rows = []
    for label, (before, after) in numbers["labels"].items():
        cells = [f"{before['threshold']:.2f}", f"{after['threshold']:.2f}"]
        for name in ("overall", "worst"):
            cells += [percent(before[name]), percent(after[name])]
        rows.append((label, *cells, before["slice"], after["slice"]))
    means = [
        percent(float(np.mean([pair[place][name] for pair in numbers["labels"].values()])))
        for name in ("overall", "worst")
        for place in (0, 1)
    ]
    if len(rows) > 1:
        rows.append(("Mean", "", "", *means, "", ""))
    header = (
        "Label",
        "Threshold",
        "then",
        "All images",
        "then",
        "Worst slice",
        "then",
        "which",
        "then",
    )
    title = f"Thresholds for the worst slice, at a price of {100 * numbers['price']:g} points"
    return Table(header, tuple(rows), title, NOTE)


def mitigation_section(name: str, numbers: dict) -> Section:
    """The part of the page: what the price buys for each label, and the curve."""

    def draw(figure):
        axes = figure.subplots()
        first, *curve = numbers["curve"]
        x, y = ([100 * one[key] for one in curve] for key in ("overall", "worst"))
        axes.plot(x, y, ".-", color=BLUE, label="for the worst slice")
        axes.plot(
            100 * first["overall"], 100 * first["worst"], "s", color=ORANGE, label="as they are"
        )
        places = zip(x, y, strict=True)
        first_there = dict(reversed(list(zip(places, numbers["prices"][1:], strict=True))))
        for place, price in first_there.items():
            axes.annotate(
                f"{100 * price:g}", place, (3, 3), textcoords="offset points", fontsize=6.5
            )
        axes.set(xlabel="all images, %", ylabel="worst slice, %")
        axes.legend()

    note = "Mean balanced accuracy over labels; numbers are the price on validation, in points."
    plot = Plot("Worst slice against all images", svg(draw, 4.5, 3.2), note)
    about = "multilabel, thresholds that are the same for everybody"
    return Section(f"{name}: mitigation", about, [mitigation_table(numbers)], [plot], ())
