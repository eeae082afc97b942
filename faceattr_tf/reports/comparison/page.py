"""The report of a comparison: `compare.json`, `compare.md` and a self-contained `compare.html`."""

import dataclasses
import itertools
import json
import os
import pathlib
import textwrap
from collections.abc import Mapping, Sequence

from data_pipelines.files import write_text
from faceattr_tf.reports.comparison.decisions import POINTS, decision_table, decision_tables
from faceattr_tf.reports.comparison.tables import (
    attribute_table,
    chance_note,
    chosen_tables,
    detail_table,
    main_table,
    other_table,
    recovered_tables,
    signed,
    span,
)
from faceattr_tf.reports.galleries import Gallery
from faceattr_tf.reports.page import Plot, plain, render
from faceattr_tf.reports.plots import BLUE, GREY, ORANGE, draw_confusion, svg
from faceattr_tf.reports.tables import NONE, Table


def write_comparison(
    folder: str | os.PathLike,
    contents: dict,
    galleries: Mapping[str, Mapping[str, Gallery]] | None = None,
) -> pathlib.Path:
    """Writes the three files; each replaces an older one at once.

    Args:
        folder: where to; it exists.
        contents: what `faceattr_tf.reports.comparison.compare.compare` returns.
        galleries: condition -> attribute -> pictures of its surest mistakes.

    Returns:
        The HTML file.
    """
    folder = pathlib.Path(folder)
    text = json.dumps(plain(contents), indent=1, allow_nan=False)
    write_text(folder / "compare.json", text + "\n")
    write_text(folder / "compare.md", markdown(contents))
    page = render(
        "compare.html.jinja",
        title=title(contents),
        facts=facts(contents),
        warnings=contents["warnings"],
        headlines=headlines(contents),
        sections=sections(contents, galleries or {}),
    )
    write_text(folder / "compare.html", page)
    return folder / "compare.html"


def markdown(contents: dict) -> str:
    """The comparison's text and tables."""
    lines = [f"# {title(contents)}", ""]
    lines += [f"- **{key}**: {value}" for key, value in facts(contents).items()]
    lines += ["", *(f"> **Warning.** {text}\n" for text in contents["warnings"])]
    for name, shown in sections(contents).items():
        lines += [f"## {name}", ""]
        lines += [part.markdown() for part in shown if isinstance(part, Table)]
    return "\n".join(lines)


def title(contents: dict) -> str:
    """What was compared on what."""
    data = contents["data"]
    return f"{' / '.join(contents['conditions'])} on {data['name']}, {data['split']}"


def facts(contents: dict) -> dict[str, str]:
    """Data, conditions and how the intervals were made, for the head of the report."""
    data = contents["data"]
    found = {
        "Data set": f"{data['title'] or data['name']} ({data['path']})",
        "Split": f"{data['split']}, {data['examples']:,} images",
        "Baseline": contents["baseline"],
    }
    if contents["reference"]:
        found["Reference"] = contents["reference"]
    for condition, entries in contents["conditions"].items():
        runs = [list(run) for _, run in itertools.groupby(entries, key=lambda entry: entry["run"])]
        networks = " + ".join(_network(entry, len(runs[0]) > 1) for entry in runs[0])
        seeds = ", ".join("+".join(str(entry["seed"]) for entry in run) for run in runs)
        places = ", ".join("+".join(entry["workdir"] for entry in run) for run in runs)
        found[condition] = f"{networks}; seeds {seeds} ({places})"
    found["Flip averaging"] = "on" if contents["flip"] else "off"
    found["Intervals"] = (
        f"95 %, {contents['bootstrap']:,} bootstrap resamples of the images, the same in every "
        "run. These alone do not hold what another seed would change. Where a condition has two or "
        "more runs, all intervals but those called images alone hold that as well: by Student's "
        "distribution, with a variance pooled over the conditions"
        if contents["bootstrap"]
        else "none"
    )
    return found


def _network(entry: dict, labelled: bool) -> str:
    crop, steps = entry["crop"], f", {entry['steps']:,} steps" if entry["steps"] else ""
    text = f"{entry['network']}, {entry['parameters']:,} parameters, crop {crop['kind']} "
    text += f"{crop['height']}×{crop['width']}{steps}"
    return f"{text} ({', '.join(entry['learned'])})" if labelled else text


def headlines(contents: dict) -> list[tuple[str, str, str]]:
    """Per condition the difference of mean accuracy: the large numbers on top."""
    found = []
    for name, task in contents["tasks"].items():
        if task["kind"] == "multilabel":
            for condition, entry in task["figures"]["accuracy"].items():
                difference = entry["difference"]
                if difference and difference["value"] is not None:
                    points = signed({**difference, "clear": False}) + " points"
                    beside = f"interval {span(difference)}"
                    if difference["interval"]:
                        beside += (
                            ", excludes 0" if difference["clear"] else ", holds 0: could be noise"
                        )
                    of = name if task["shared"] == task["labels"] else ", ".join(task["shared"])
                    found.append((points, f"{condition}: mean accuracy, {of}", beside))
    return found


def sections(
    contents: dict, galleries: Mapping[str, Mapping[str, Gallery]] | None = None
) -> dict[str, list[Table | Plot | Gallery]]:
    """Heading -> what stands under it."""
    found, rest = {}, {}
    for name, task in contents["tasks"].items():
        if task["kind"] != "multilabel":
            rest[name] = task
            continue
        found[name] = [
            *([main_table(name, contents)] if task["shared"] else []),
            *recovered_tables(task),
            *difference_plots(task, contents["baseline"]),
            *chosen_tables(name, contents),
            *([attribute_table(task, contents["baseline"])] if len(task["labels"]) > 1 else []),
            *([detail_table(task)] if task["shared"] else []),
        ]
        for label, conditions in task["decisions"].items():
            found[f"{name}: {label}"] = [
                *decision_tables(name, label, contents),
                confusion_plot(conditions),
                *(
                    dataclasses.replace(of[label], title=f"Surest mistakes of {condition}")
                    for condition, of in (galleries or {}).items()
                    if label in of
                ),
            ]
    if rest:
        found["Other tasks"] = [other_table(rest)]
    if contents["recipes"]:
        header = ("Field", *contents["conditions"])
        rows = [
            (field, *(NONE if value is None else str(value) for value in values.values()))
            for field, values in contents["recipes"].items()
        ]
        note = "Of the first workdir of each condition."
        found["What differs between the recipes"] = [Table(header, tuple(rows), "", note)]
    return found


def printed(contents: dict) -> list[Table]:
    """The tables that the terminal shows."""
    found = []
    for name, task in contents["tasks"].items():
        if task["kind"] == "multilabel":
            found += [main_table(name, contents)] if task["shared"] else []
            found += recovered_tables(task)
            found += [
                decision_table(name, label, contents, short=True) for label in task["decisions"]
            ]
    return found or [
        part for part in sections(contents).get("Other tasks", ()) if isinstance(part, Table)
    ]


def difference_plots(task: dict, baseline: str) -> list[Plot]:
    """The difference of every attribute to the baseline (FaceSTN, figures 4 and 5)."""
    found = task["attributes"]["accuracy"]
    differences: dict[str, dict[str, dict]] = {}
    for label, entries in found.items():
        for condition, entry in entries.items():
            if entry["difference"] and entry["difference"]["value"] is not None:
                differences.setdefault(condition, {})[label] = entry["difference"]
    if not differences:
        return []
    note = (
        f"Points of accuracy above or below {baseline}; the lines are 95 % intervals. Blue and "
        "orange: the interval excludes 0; grey: it does not. " + chance_note(task, "coloured bar")
    )
    text = f"Difference to {baseline} by attribute"
    return [Plot(text, attribute_differences(differences, tuple(found)), note)]


def attribute_differences(
    differences: Mapping[str, Mapping[str, dict]], labels: Sequence[str]
) -> str:
    """One column of bars per condition, one row per attribute, as the text of an SVG picture.

    Args:
        differences: condition -> attribute -> `value`, `interval` and `clear`; attributes without
            a difference are left out.
        labels: all attributes, from top to bottom.
    """

    def draw(figure):
        row = figure.subplots(1, len(differences), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (condition, found) in zip(row, differences.items(), strict=True):
            for place, label in enumerate(labels):
                if label not in found:
                    continue
                value, ends = 100 * found[label]["value"], found[label]["interval"]
                colour = (BLUE if value > 0 else ORANGE) if found[label]["clear"] else "#C9CED6"
                axes.barh(place, value, height=0.72, color=colour, zorder=2)
                if ends:
                    axes.plot(
                        [100 * end for end in ends],
                        [place, place],
                        color="#30343A",
                        linewidth=0.9,
                        zorder=3,
                    )
            axes.axvline(0, color=GREY, linewidth=0.9, zorder=1)
            axes.set_title(condition)
            axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
            axes.xaxis.set_major_formatter("{x:+g}")
            axes.set_xlabel("points of accuracy")
            axes.grid(axis="y", visible=False)

    return svg(draw, 1.7 + 3.2 * len(differences), 0.9 + 0.19 * max(len(labels), 4))


def confusion_plot(conditions: Mapping[str, dict]) -> Plot:
    """The confusion matrices of one attribute (KTH-MTFL, Tables 3 and 4).

    Args:
        conditions: name -> what `compare_decisions.compare_decisions` gives.
    """

    def draw(figure):
        grid = figure.subplots(2, len(conditions), sharex=True, sharey=True, squeeze=False)
        for column, (condition, entry) in zip(grid.T, conditions.items(), strict=True):
            column[0].set_title(textwrap.fill(condition, 20))
            for axes, point in zip(column, POINTS, strict=True):
                draw_confusion(axes, entry[point]["confusion"], 8)
        names = ("no", "yes")
        grid[0, 0].set(xticks=(0, 1), xticklabels=names, yticks=(0, 1), yticklabels=names)
        for axes, text in zip(grid[:, 0], ("at 0.5", "at the thresholds"), strict=True):
            axes.set_ylabel(f"{text}\nlabelled")
        for axes in grid[1]:
            axes.set_xlabel("predicted")

    note = "Rows are the labelled class and add up to 100 %; below the share the number of images."
    return Plot("Confusion matrices", svg(draw, 0.9 + 1.5 * len(conditions), 3.6), note)
