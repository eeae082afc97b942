"""The report of an evaluation: `report.json`, `report.md` and a self-contained `report.html`."""

import base64
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from data_pipelines.files import write_text
from data_pipelines.tasks import SENSITIVE
from faceattr_tf.evaluation.class_metrics import MANY_CLASSES, has_many_classes
from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.reports import plots, transform_plots
from faceattr_tf.reports.calibration import calibration_tables, unsure_tables
from faceattr_tf.reports.consistency import impossible_tables
from faceattr_tf.reports.galleries import Gallery
from faceattr_tf.reports.summary import summary_table
from faceattr_tf.reports.tables import Table, main_figures, percent, task_tables

LISTED = 10
"""Names of files listed in the text; the JSON file holds all."""


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture with what it shows."""

    title: str
    svg: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """All that is shown of one task."""

    name: str
    about: str
    tables: Sequence[Table]
    plots: Sequence[Plot]
    galleries: Sequence[Gallery]


def write_report(
    folder: str | os.PathLike,
    contents: dict,
    results: Sequence[TaskResult],
    galleries: dict[str, list[Gallery]],
    metrics_log: Sequence[dict],
) -> pathlib.Path:
    """Writes the three files; each replaces an older one at once.

    Args:
        folder: where to; made if it is missing.
        contents: what `faceattr_tf.reports.evaluate.evaluate` returns.
        results: the tasks over the whole split, for the plots.
        galleries: task name -> example images.
        metrics_log: rows of the run's `metrics.jsonl`.

    Returns:
        The HTML file.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sections = [
        Section(
            result.task.name,
            _about(result),
            [
                *task_tables(result.numbers, contents["published"]),
                *unsure_tables(result.numbers),
                *calibration_tables(result.numbers),
                *impossible_tables(result.numbers),
            ],
            task_plots(result),
            galleries.get(result.task.name, ()),
        )
        for result in results
    ]
    best = (contents["model"]["best"] or {}).get("step")
    training = plots.training_curves(metrics_log, best) if metrics_log else ""
    text = json.dumps(plain(contents), indent=1, allow_nan=False)
    write_text(folder / "report.json", text + "\n")
    write_text(folder / "report.md", markdown(contents, sections))
    write_text(folder / "report.html", html(contents, sections, training))
    return folder / "report.html"


def plain(value):
    """A copy that JSON can hold: no NumPy types, and None for what is not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def task_plots(result: TaskResult) -> list[Plot]:
    """The plots that suit the kind of a task; without known labels, of transforms only.

    A task of many classes has none.
    """
    if result.task.kind == "transform":
        return _transform_plots(result)
    if not result.numbers["metrics"]["count"] or has_many_classes(result.task):
        return []
    if result.task.kind == "landmarks":
        note = "Share of images whose mean landmark error stays below a bound."
        return [Plot("Cumulative error", plots.landmark_error_curve(result), note)]
    if result.task.kind == "regression":
        return [Plot("Predicted against labelled", plots.regression_scatter(result))]
    found = []
    if result.task.kind == "multilabel":
        note = "The grey bar is what the model knows beyond the majority guess."
        found.append(Plot("Accuracy by attribute", plots.accuracy_against_guess(result), note))
    if result.task.values:
        note = "The expected value is the mean of all classes' values, weighted by probability."
        found.append(Plot("Expected value", plots.expected_value_curve(result), note))
    of_labels = result.task.kind == "multilabel"
    return [
        *found,
        Plot(
            "Confusion matrices" if of_labels else "Confusion matrix",
            plots.confusions(result),
            "Rows are the labels and add up to 100 %"
            + ("; predictions at the threshold 0.5." if of_labels else "."),
        ),
        Plot("ROC curves", plots.roc_curves(result), "The dotted diagonal is guessing."),
        Plot(
            "Precision-recall curves",
            plots.precision_recall_curves(result),
            "The dotted line is the share of positives, which guessing has as its precision.",
        ),
        Plot(
            "Reliability",
            plots.reliability_curves(result),
            "On the diagonal a probability of 70 % comes true in 70 of 100 images. Dashed: before "
            "calibration. Each point stands for a tenth of the images.",
        ),
    ]


def _transform_plots(result: TaskResult) -> list[Plot]:
    known = result.numbers["metrics"]["count"] > 0
    if not known and not len(result.outputs):
        return []
    note = "The outermost bars also hold what lies beyond them."
    found = [
        Plot("Distribution of the transform", transform_plots.transform_histograms(result), note)
    ]
    if known:
        note = (
            "Share of images whose corners are off by less than a bound, on average over the four; "
            "the dashed line leaves every crop as it is."
        )
        found.append(
            Plot("Cumulative corner error", transform_plots.corner_error_curve(result), note)
        )
    return found


def _about(result: TaskResult) -> str:
    numbers = result.numbers
    text = f"{result.task.kind}, {numbers['metrics']['count']:,} images with labels"
    if "votes_divergence" in numbers["metrics"]:
        text += " that are votes, of which the most counts where one class is right"
    if "temperature" in numbers:
        text += f", {_in_words(numbers['temperature'])}"
    if result.task.name in SENSITIVE:
        text += (
            ". Its labels are what others took the people on the pictures for, in a few coarse groups, "
            "and not how they describe themselves; to be taken for what one is not offends, so false "
            "positives come first"
        )
    if has_many_classes(result.task):
        text += (
            f"; figures and plots of its {len(result.task.labels):,} single classes are left out"
        )
    return text


def _in_words(temperature: float | Sequence[float]) -> str:
    if isinstance(temperature, Sequence):
        return f"temperatures from {min(temperature):.2f} to {max(temperature):.2f}, one per label"
    return f"temperature {temperature:.2f}"


def warnings(contents: dict) -> list[str]:
    """What a reader must know before believing the figures."""
    found = []
    overlap, data = contents["overlap"], contents["data"]
    if count := overlap["count"]:
        share = percent(count / data["examples"])
        found.append(
            f"{count:,} of {data['examples']:,} evaluation images ({share} %) carry the name of an "
            "image that the model was trained on: the figures are likely too good. "
            f"They are: {_list(overlap['filenames'])}."
        )
    for reason in overlap["unchecked"]:
        found.append(
            "Whether evaluation images also occur in training could not be checked for a part of "
            f"the training records: {reason}."
        )
    own = [entry["fingerprint"] for entry in contents["model"]["trained_on"]]
    if data["split"] == "validation" and data["fingerprint"] in own:
        found.append(
            "The best model, temperatures and thresholds were chosen on this very split: its "
            "figures are optimistic."
        )
    for name, numbers in contents["tasks"].items():
        rows = numbers["metrics"].get("labels", {})
        if not numbers["metrics"]["count"]:
            found.append(f"{name}: every label of this split is unknown; nothing was measured.")
        elif empty := [label for label, row in rows.items() if not row["count"]]:
            found.append(f"{name}: this split has no known label for {_list(empty)}.")
    return found


def not_shared(contents: dict) -> list[str]:
    """What only the model or only the data has, one sentence per task."""
    return [
        f"{owner} {name}: {_list(labels) if len(labels) > MANY_CLASSES else ', '.join(labels)}."
        for key, owner in (("model_only", "Only the model has"), ("data_only", "Only the data has"))
        for name, labels in contents["not_shared"][key].items()
    ]


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED:,} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def title(contents: dict) -> str:
    """What was evaluated on what."""
    model, data = contents["model"], contents["data"]
    return f"{model['recipe'] or model['network']} on {data['name']}, {data['split']}"


def facts(contents: dict) -> dict[str, str]:
    """Data, model and conditions of the evaluation, for the head of the report."""
    model, data = contents["model"], contents["data"]
    step = (model["best"] or {}).get("step")
    crop = ", ".join(f"{key} {value}" for key, value in model["crop"].items())
    return {
        "Data set": f"{data['title'] or data['name']} ({data['path']})",
        "Split": f"{data['split']}, {data['examples']:,} images",
        "Model": f"{model['network']}, {model['parameters']:,} parameters"
        + (f", step {step:,}" if step is not None else ""),
        "Workdir": model["workdir"],
        "Trained on": ", ".join(entry["name"] for entry in model["trained_on"]) or "unknown",
        "Crop": crop,
        "Averaged over": _views(contents),
        "Intervals": f"95 %, {contents['bootstrap']:,} bootstrap resamples of the test images; "
        "another training run would add to them"
        if contents["bootstrap"]
        else "none",
    }


def _views(contents: dict) -> str:
    """What every answer is the mean of."""
    if contents["ten_crop"]:
        return f"ten crops of {contents['ten_crop']:.1%} of the sides"
    return "the image and its mirror image" if contents["flip"] else "the image alone"


def headlines(contents: dict) -> list[tuple[str, str, str]]:
    """The large numbers on top: a task's first figure, and those at its thresholds.

    Returns:
        Figure with unit, its measure, and the guess that it stands beside, or else other figures.
    """
    found = []
    for name, numbers in contents["tasks"].items():
        if not numbers["metrics"]["count"]:
            continue
        first, *rest = main_figures(numbers)
        for figure in (first, *(other for other in rest if other.tuned)):
            guess = f"{figure.guess_words}: {figure.guess} {figure.unit}".strip()
            others = ", ".join(f"{other.words}: {other.measured}" for other in rest)
            beside = guess if figure.guess else others
            found.append((figure.measured, f"{figure.words}, {name}", beside))
    return found


def markdown(contents: dict, sections: Sequence[Section]) -> str:
    """The report's text and tables."""
    lines = [f"# {title(contents)}", ""]
    lines += [f"- **{key}**: {value}" for key, value in facts(contents).items()]
    lines += ["", *(f"> **Warning.** {text}\n" for text in warnings(contents))]
    lines += ["## Summary", "", summary_table(contents).markdown()]
    for section in sections:
        lines += [f"## {section.name}", "", f"{section.about}.", ""]
        lines += [table.markdown() for table in section.tables]
    if missing := not_shared(contents):
        lines += ["## Not shared by model and data", "", *(f"- {text}" for text in missing), ""]
    return "\n".join(lines)


def html(contents: dict, sections: Sequence[Section], training: str = "") -> str:
    """One page that needs no other file and no network."""
    return render(
        "report.html.jinja",
        title=title(contents),
        headlines=headlines(contents),
        facts=facts(contents),
        warnings=warnings(contents),
        summary=summary_table(contents),
        sections=sections,
        training=training,
        not_shared=not_shared(contents),
    )


def render(template: str, *folders: pathlib.Path, **values) -> str:
    """A template, filled; its filters `svg` and `jpeg` make links of pictures.

    Args:
        template: a file of this package, or of `folders`, which come first.
        *folders: with further templates.
        **values: names in it.
    """
    import jinja2

    own = pathlib.Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, own]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = lambda text: _data("image/svg+xml", text.encode())
    environment.filters["jpeg"] = lambda content: _data("image/jpeg", content)
    return environment.get_template(template).render(values)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
