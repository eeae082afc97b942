"""For whom a model is worse: every rate of every slice of a split, as a page and as numbers."""

import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.evaluation.metrics import METRICS
from faceattr_tf.evaluation.results import ERRORS
from faceattr_tf.evaluation.slices import (
    ANSWERS,
    Slicing,
    answered_labels,
    default_slicings,
    make_slicings,
    measure_pictures,
    read_slice_labels,
)
from faceattr_tf.evaluation.split import measure_split, split_batches, validation_part
from faceattr_tf.evaluation.subgroups import (
    ALARMS,
    SMALLEST,
    Cell,
    balanced_accuracy,
    calibration_error,
    compare_slices,
    group_differences,
    trials_of,
)
from faceattr_tf.reports.mitigation import mitigate, mitigation_section
from faceattr_tf.reports.page import Plot, Section, plain, render
from faceattr_tf.reports.plots import BLUE, GREY, ORANGE, svg
from faceattr_tf.reports.tables import NONE, Table
from faceattr_tf.workdir import Workdir

WORDS = {
    "accuracy": "accuracy",
    "false_positive_rate": "false positives",
    "false_negative_rate": "false negatives",
    "calibration_gap": "probability above label",
}


def audit(
    workdir: str | os.PathLike,
    records: str | os.PathLike,
    split: str = "test",
    *,
    by: Sequence[str] = (),
    answers: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    flip: bool = False,
    smallest: int = SMALLEST,
    price: float | None = None,
) -> dict:
    """Compares slices of a split and writes audit.json and audit.html.

    Args:
        workdir: folder of a training run.
        records: folder of records that share a task with the model.
        split: which part of the records.
        by: slicings, see `evaluation.slices.make_slicings`; empty for `default_slicings`.
        answers: folder of another run, by whose answers may be sliced.
        output: folder for the page; default `<workdir>/audit/<records>-<split>`.
        flip: average every output with that of the mirrored image.
        smallest: images below which a slice is not judged.
        price: also look for thresholds by which the worst slice of yes/no labels gains, and which
            cost all images no more than these points of balanced accuracy; both on the records'
            validation part, see `evaluation.mitigation`.

    Returns:
        What is in audit.json; the key `folder` says where it lies.

    Raises:
        UserError: workdir or records are missing or share no task, a slicing is unknown, or there
            is no validation part to choose thresholds on.
    """
    if smallest < 2:
        raise UserError(f"smallest slice {smallest}: expected at least 2 images")
    run, record_set = Workdir.open(workdir), RecordSet.load(records)
    other = Workdir.open(answers) if answers else None
    if any(part.startswith(ANSWERS) for name in by for part in name.split("*")) and not other:
        raise UserError(f"slices by {ANSWERS}...: name the run that answers, --answers=DIR")
    if not record_set.count(split, *validation_part(run, record_set)):
        raise UserError(f"{record_set.path}: split {split!r} holds no examples")
    if price is not None:
        if not 0 <= price < 50:
            raise UserError(f"price {price}: expected points of balanced accuracy, from 0 on")
        if split == "validation" or not record_set.count(
            "validation", *validation_part(run, record_set)
        ):
            raise UserError(
                f"{record_set.path}: thresholds are chosen on its validation part and measured on "
                "another one"
            )
    folder = local(output) if output else run.path / "audit" / f"{record_set.name}-{split}"
    slicings = _slicings(run, record_set, split, by, other, flip)
    model = run.load_model()
    results, filenames = _results(run, model, record_set, split, flip)
    found = {result.task.name: _judge(result, slicings, smallest) for result in results}
    contents = {
        "folder": str(folder),
        "workdir": str(run.path),
        "records": {"name": record_set.name, "path": str(record_set.path)},
        "split": split,
        "examples": len(filenames),
        "answers": str(other.path) if other else None,
        "smallest": smallest,
        "slicings": {
            name: {group: int(member.sum()) for group, member in of.groups.items()}
            for name, of in slicings.items()
        },
        "tasks": {name: numbers for name, (numbers, _) in found.items()},
    }
    sections = [section for _, section in found.values()]
    if price is not None:
        part = "validation"
        elsewhere = (
            _results(run, model, record_set, part, flip)[0],
            _slicings(run, record_set, part, tuple(slicings), other, flip),
        )
        given = mitigate(results, slicings, elsewhere, price / 100, smallest)
        contents["mitigation"] = given
        sections += [mitigation_section(name, numbers) for name, numbers in given.items()]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "audit.json", json.dumps(plain(contents), indent=1, allow_nan=False) + "\n")
    write_text(folder / "audit.html", html(contents, sections))
    return contents


def _slicings(run, record_set, split, by, other, flip) -> dict[str, Slicing]:
    batches = split_batches(run, record_set, split)
    labels, measures = read_slice_labels(batches.source), measure_pictures(batches.source, batches)
    wanted = list(by) or [
        name
        for name in default_slicings([task for task, _ in labels.values()])
        if name not in measures or np.isfinite(measures[name]).any()
    ]
    # What is wrong with the others is found before a network runs.
    make_slicings([name for name in wanted if ANSWERS not in name], labels, measures)
    answers = answered_labels(other, batches.source, flip) if other else None
    return make_slicings(wanted, labels, measures, answers)


def _results(run, model, record_set, split, flip):
    batches = split_batches(run, record_set, split)
    return measure_split(run, model, record_set, batches, flip)


def _judge(result, slicings: Mapping[str, Slicing], smallest: int):
    """The numbers of one task, and its section of the page."""
    task = result.task
    about = {
        name: frozenset(
            label.partition("/")[2] for label in of.labels if label.startswith(task.name + "/")
        )
        for name, of in slicings.items()
    }
    groups = {name: of.groups for name, of in slicings.items()}
    cells, bound = compare_slices(trials_of(result), groups, about=about, smallest=smallest)
    numbers = {
        "kind": task.kind,
        "probability_of_an_alarm": bound,
        "cells": [_numbers(cell) for cell in cells],
        "balanced": _balanced(cells),
    }
    if task.kind in ("multilabel", "multiclass"):
        numbers["differences"] = {
            name: group_differences(result, of) for name, of in groups.items()
        }
        for one in numbers["balanced"]:
            member = groups[one["slicing"]][one["group"]]
            place = task.labels.index(one["label"])
            one["calibration_error"] = calibration_error(result, place, member)
    return numbers, _section(task.name, cells, numbers, bool(result.thresholds))


def _numbers(cell: Cell) -> dict:
    fields = ("slicing", "group", "label", "rate", "count", "value", "overall", "interval", "alarm")
    return {name: getattr(cell, name) for name in fields}


def _balanced(cells: Sequence[Cell]) -> list[dict]:
    """Balanced accuracy of every label in every slice that has images with and without it."""
    rates = {(one.slicing, one.group, one.label, one.rate): one for one in cells}
    found = []
    for (slicing, group, label, rate), miss in rates.items():
        other = rates.get((slicing, group, label, "false_positive_rate"))
        if rate == "false_negative_rate" and other:
            value, interval = balanced_accuracy(miss, other)
            found.append(
                {
                    "slicing": slicing,
                    "group": group,
                    "label": label,
                    "yes": miss.count,
                    "no": other.count,
                    "value": value,
                    "interval": interval,
                }
            )
    return found


def alarm_table(cells: Sequence[dict], kind: str, most: int = 40) -> Table:
    """Where a slice differs from all beyond chance, the largest differences first."""
    found = [Cell(**cell) for cell in cells if cell["alarm"]]
    found.sort(key=lambda cell: -abs(cell.value - cell.overall))
    rows = tuple(
        (
            f"{cell.label or 'all'}: {_words(cell.rate, kind)}",
            cell.group,
            f"{cell.count:,}",
            _shown(cell.rate, cell.value),
            _span(cell.rate, cell.interval),
            _shown(cell.rate, cell.overall),
            "worse" if cell.worse > 0 else "better",
        )
        for cell in found[:most]
    )
    left = f" {len(found) - most} more stand in audit.json." * (len(found) > most)
    note = (
        f"{len(found)} of {len(cells)} differ. By chance, {ALARMS:.0%} of audits have one or more "
        f"such rows at all. Intervals hold for all rows at once.{left}"
    )
    header = ("What", "Slice", "Images", "There", "Interval", "In all", "")
    return Table(header, rows, "Differences beyond chance", note)


def _section(name: str, cells: Sequence[Cell], numbers: dict, tuned: bool) -> Section:
    kind = numbers["kind"]
    tables = [alarm_table(numbers["cells"], kind)]
    whole = [cell for cell in cells if not cell.label]
    if whole:
        tables.append(_whole_table(whole, kind))
    labels = list(dict.fromkeys(one["label"] for one in numbers["balanced"]))
    for label in labels if len(labels) <= 8 else ():
        tables.append(_label_table(label, cells, numbers["balanced"]))
    shown = [(one.group, one.value, one.interval, one.alarm) for one in whole]
    plots = []
    if whole:
        title = f"{_words(whole[0].rate, kind)} by slice".capitalize()
        plots.append(Plot(title, _plot(shown, whole[0].overall), PLOT_NOTE))
    for label in labels if len(labels) <= 8 else ():
        rows = [one for one in numbers["balanced"] if one["label"] == label]
        alarms = {
            (cell.slicing, cell.group) for cell in cells if cell.label == label and cell.alarm
        }
        shown = [
            (one["group"], one["value"], one["interval"], (one["slicing"], one["group"]) in alarms)
            for one in rows
        ]
        mean = float(np.mean([one[1] for one in shown]))
        plots.append(Plot(f"{label}: balanced accuracy by slice", _plot(shown, mean), PLOT_NOTE))
    few = sum(cell.interval is None for cell in cells)
    said = "at the thresholds of validation" if tuned else "the likeliest class"
    about = f"{kind}, {said if kind in ('multilabel', 'multiclass') else 'errors'}"
    return Section(
        name, f"{about}; {len(cells):,} rates, {few:,} of too few images", tables, plots, ()
    )


PLOT_NOTE = (
    "Lines are the intervals, the dashed one the mean; orange is what differs beyond chance, grey "
    "what has too few images to say."
)


def _whole_table(cells: Sequence[Cell], kind: str) -> Table:
    rows = tuple(
        (
            f"{cell.slicing}: {cell.group}" if cell.slicing not in cell.group else cell.group,
            f"{cell.count:,}",
            _shown(cell.rate, cell.value),
            _span(cell.rate, cell.interval),
            _shown(cell.rate, cell.overall),
        )
        for cell in cells
    )
    words = _words(cells[0].rate, kind).capitalize()
    return Table(("Slice", "Images", words, "Interval", "In all"), rows, "The task as a whole")


def _label_table(label: str, cells: Sequence[Cell], balanced: Sequence[dict]) -> Table:
    rates = {(one.slicing, one.group, one.rate): one for one in cells if one.label == label}
    rows = []
    for one in (one for one in balanced if one["label"] == label):
        place = one["slicing"], one["group"]
        row = [one["group"], f"{one['yes']:,}, {one['no']:,}", _shown("accuracy", one["value"])]
        row.append(_span("accuracy", one["interval"]))
        for rate in ("accuracy", "false_positive_rate", "false_negative_rate", "calibration_gap"):
            cell = rates.get((*place, rate))
            star = " *" if cell and cell.alarm else ""
            row.append(_shown(rate, cell.value) + star if cell else NONE)
        error = one["calibration_error"]
        rows.append((*row, NONE if error is None else f"{100 * error:.1f}"))
    header = (
        *("Slice", "Images yes, no", "Balanced accuracy", "Interval", "Accuracy"),
        *("False positives", "False negatives", "Probability above label", "Calibration error"),
    )
    return Table(
        header, tuple(rows), label, "In per cent; a star marks a difference beyond chance."
    )


def _plot(shown, overall: float) -> str:
    def draw(figure):
        axes = figure.subplots()
        for place, (_, value, interval, alarm) in enumerate(shown):
            colour = GREY if interval is None else ORANGE if alarm else BLUE
            if interval is not None:
                axes.plot(interval, (place, place), color=colour)
            axes.plot(value, place, "o", color=colour, markersize=4)
        axes.axvline(overall, color=GREY, linestyle="--", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [name for name, *_ in shown])
        axes.invert_yaxis()

    return svg(draw, 6.4, 0.6 + 0.2 * len(shown))


def _words(rate: str, kind: str) -> str:
    return METRICS[ERRORS[kind]].words if rate == "error" else WORDS[rate]


def _shown(rate: str, value: float) -> str:
    return f"{value:.3g}" if rate == "error" else f"{100 * value:.1f}"


def _span(rate: str, interval) -> str:
    if interval is None:
        return "too few"
    return " to ".join(_shown(rate, end) for end in interval)


def html(contents: dict, sections: Sequence[Section]) -> str:
    """One page that needs no other file and no network."""
    return render(
        "analysis.html.jinja",
        title=f"For whom {os.path.basename(contents['workdir'])} is worse, on "
        f"{contents['records']['name']}, {contents['split']}",
        facts={
            "Records": contents["records"]["path"],
            "Split": f"{contents['split']}, {contents['examples']:,} images",
            "Workdir": contents["workdir"],
            "Slices": "; ".join(contents["slicings"]),
            "Too few": f"a rate of less than {contents['smallest']} images is not judged",
        },
        left_out={},
        sections=sections,
    )
