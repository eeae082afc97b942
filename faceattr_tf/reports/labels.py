"""Suspicious labels of a record set: a table of corrections, a page to look at, and the numbers."""

import csv
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, replacing, write_text
from data_pipelines.formats.corrections import COLUMNS
from data_pipelines.records.counting import read_labels
from data_pipelines.records.people import read_groups
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Recipe
from faceattr_tf.evaluation.label_noise import (
    FEWEST,
    FOLDS,
    SUREST,
    Judgement,
    judge_labels,
    out_of_fold_scores,
)
from faceattr_tf.evaluation.leakage import training_overlap
from faceattr_tf.reports.galleries import Example, Gallery, thumbnail
from faceattr_tf.reports.page import Section, plain, render
from faceattr_tf.reports.tables import NONE, Table, percent
from faceattr_tf.workdir import Workdir

SUSPICIOUS = "suspicious.csv"
SHOWN = 100
"""Pictures on the page."""

LEAST = 0.35
"""Probability of being wrong from which on a label is suspicious: a look at one that is right costs
less than one that is wrong and stays."""

LEARNED = 0.9
"""Balanced accuracy below which what an attribute's scores suspect is mostly right."""


@dataclasses.dataclass(frozen=True)
class Suspect:
    """A label that is likely wrong: what `formats.corrections` calls its picture, and how likely."""

    row: int
    attribute: str
    given: str
    likely: str
    probability: float


def find_suspicious(
    network: Workdir | Recipe,
    records: str | os.PathLike,
    output: str | os.PathLike,
    *,
    attributes: Sequence[str] = (),
    layer: str = "",
    flip: bool = False,
    least: float = LEAST,
    learned: float = LEARNED,
    surest: float = SUREST,
    progress: bool = True,
) -> dict:
    """Judges every label by what other people's images say; writes page, table and numbers.

    Args:
        network: a run, or a recipe that names a network and its weights; features are kept on disk.
        records: folder of records, all splits of which are judged together.
        output: folder for `suspicious.csv`, `labels.html` and `labels.json`.
        attributes: `LABEL` or `TASK/LABEL` of multilabel tasks, `TASK` of classes; empty for all.
        layer: stages of the network, several joined by `+`; empty for what the heads stand on.
        flip: take the mean of the features of a picture and of its mirror image.
        least: probability of being wrong from which on a label is suspicious.
        learned: estimated balanced accuracy of an attribute's scores below which none is.
        surest: share of the clearest scores among which wrong labels are counted.
        progress: show a bar.

    Returns:
        What is in labels.json; the key `folder` says where it lies.

    Raises:
        UserError: there are no such records, attributes or stage, or too few labels of either kind.
    """
    if not 0 < least < 1 or not 0 < surest <= 1:
        raise UserError(f"least {least}, surest {surest}: expected numbers between 0 and 1")
    records = RecordSet.load(records)
    columns = _columns(records, attributes)
    from faceattr_tf.features.frozen import FrozenNetwork

    run = network if isinstance(network, Workdir) else None
    of = FrozenNetwork.of_workdir if run else FrozenNetwork.of_recipe
    frozen = of(network, records, (layer,) if layer else ())
    filenames = frozen.filenames()
    ((stage, features),) = frozen.features(flip=flip, progress=progress).items()
    given = _given(records, columns)
    groups = [group for split in records.splits for group in read_groups(records.shards[split])]
    scores = out_of_fold_scores(features, given, np.array(groups))
    judged = _judge(columns, scores, given, surest)
    left_out = [name for name, judgement in judged.items() if judgement is None]
    judged = {name: judgement for name, judgement in judged.items() if judgement}
    if not judged:
        raise UserError(
            f"{records.path}: no attribute or class has {FEWEST} labels of yes and of no; among "
            f"{', '.join(left_out[:3])} nothing can be judged"
        )
    trusted = {name: one for name, one in judged.items() if one.learned >= learned}
    suspects = _suspects(trusted, judged, columns, least)
    contents = {
        "folder": str(local(output)),
        "records": {"name": records.name, "path": records.path},
        "network": frozen.experiment.recipe.model.name,
        "weights": frozen.weights,
        "stage": stage,
        "images": len(filenames),
        "groups": len(set(groups)),
        "least": least,
        "learned": learned,
        "surest": surest,
        "left_out": left_out,
        "warnings": _warnings(run, records, filenames, judged),
        "attributes": {
            name: _numbers(one, least if name in trusted else 1.0) for name, one in judged.items()
        },
    }
    _write(contents, suspects, filenames, _gallery(frozen, suspects, filenames, progress))
    return contents


def _columns(records: RecordSet, wanted: Sequence[str]) -> dict[str, Task]:
    """What is judged, as `TASK/LABEL` in stored order, and its task: attributes, and classes."""
    tasks = [task for task in records.tasks if task.kind in ("multilabel", "multiclass")]
    names = {}  # of a column -> by what it may be asked for
    for task in tasks:
        for label in task.labels:
            own = {f"{task.name}/{label}", label} if task.kind == "multilabel" else {task.name}
            names[f"{task.name}/{label}"] = task, own
    if not names:
        raise UserError(f"{records.path}: no yes/no attributes or classes in these records")
    known = dict.fromkeys(
        name if task.kind == "multilabel" else task.name for name, (task, _) in names.items()
    )
    for name in wanted:
        if not any(name in own for _, own in names.values()):
            raise UserError(f"{records.path}: no attribute {name!r}; there are: {', '.join(known)}")
    return {name: task for name, (task, own) in names.items() if not wanted or own & set(wanted)}


def _given(records: RecordSet, columns: Mapping[str, Task]) -> np.ndarray:
    """The labels of all splits, int `[N, L]`, of classes whether it is this one."""
    tasks = list({task.name: task for task in columns.values()}.values())
    of_splits = [read_labels(records.shards[split], tasks)[1] for split in records.splits]
    found = []
    for name, task in columns.items():
        labels = np.concatenate([each[task.name] for each in of_splits]).astype(int)
        place = task.labels.index(name.partition("/")[2])
        if task.kind == "multiclass":
            found.append(np.where(labels < 0, labels, labels == place))
        else:
            found.append(labels[:, place])
    return np.stack(found, axis=1)


def _judge(
    columns: Mapping[str, Task], scores: np.ndarray, given: np.ndarray, surest: float
) -> dict[str, Judgement | None]:
    """What is known of every column; of a class, only pictures that are labelled so may be wrong."""
    judged = {}
    for (name, task), of_label, labels in zip(columns.items(), scores.T, given.T, strict=True):
        judgement = judge_labels(of_label, labels, surest)
        if judgement and task.kind == "multiclass":
            wrong = np.where(labels == 1, judgement.wrong, np.nan)
            judgement = dataclasses.replace(judgement, wrong=wrong)
        judged[name] = judgement
    return judged


def _suspects(
    trusted: Mapping[str, Judgement],
    judged: Mapping[str, Judgement],
    columns: Mapping[str, Task],
    least: float,
) -> list[Suspect]:
    """The labels that are wrong with `least` or more, the likeliest first.

    Args:
        trusted: what may be suspected.
        judged: all that is judged, among which is what a class likely is instead.
        columns: their tasks.
        least: the probability.
    """
    found = []
    for name, one in trusted.items():
        task, label = columns[name], name.partition("/")[2]
        others = [f"{task.name}/{other}" for other in task.labels if other != label]
        others = [other for other in others if other in judged]
        for row in np.flatnonzero(one.wrong >= least).tolist():
            if task.kind == "multilabel":
                words = (name, *(_word(yes) for yes in (one.given[row], 1 - one.given[row])))
            else:
                likely = max(others, key=lambda other: judged[other].yes[row])
                words = task.name, label, likely.partition("/")[2]
            found.append(Suspect(row, *words, float(one.wrong[row])))
    return sorted(found, key=lambda suspect: -suspect.probability)


def _numbers(one, least: float) -> dict:
    suspicious = one.wrong >= least
    return {
        "labels": int((one.given >= 0).sum()),
        "yes": int((one.given == 1).sum()),
        "no_labelled_yes": one.no_as_yes,
        "yes_labelled_no": one.yes_as_no,
        "ceiling": one.ceiling,
        "learned": one.learned,
        "suspicious": int(suspicious.sum()),
        "expected_wrong": float(one.wrong[suspicious].sum()),
    }


def _warnings(run: Workdir | None, records: RecordSet, filenames, judged: Mapping) -> list[str]:
    if not run:
        return []
    learned = {f"{task.name}/{label}" for task in run.tasks for label in task.labels}
    seen = training_overlap(run, records, filenames)
    if not seen["count"] or not learned & set(judged):
        return []
    text = (
        f"{run.path} was trained on {seen['count']:,} of these {len(filenames):,} pictures with "
        "such labels, whose mistakes it repeats; expected a network that has not learned them"
    )
    return [text]


def _gallery(frozen, suspects: Sequence[Suspect], filenames, progress: bool) -> Gallery:
    shown = suspects[:SHOWN]
    if not shown:
        return Gallery("No label is suspicious", ())
    rows = np.unique([suspect.row for suspect in shown]).astype(int)
    height, width, _ = frozen.experiment.input_shape
    pixels = frozen.pixels(rows, progress=progress).reshape(-1, height, width, 3)
    pictures = {row: thumbnail(image) for row, image in zip(rows.tolist(), pixels, strict=True)}
    examples = tuple(
        Example(
            filenames[one.row],
            *pictures[one.row],
            (
                (f"{one.attribute.rpartition('/')[2]}: labelled {one.given}", False),
                (f"wrong with {one.probability:.1%}, likely: {one.likely}", None),
            ),
        )
        for one in shown
    )
    return Gallery(f"The {len(examples)} most suspicious labels", examples)


def _word(given: int) -> str:
    return "yes" if given == 1 else "no"


def _write(contents: dict, suspects: Sequence[Suspect], filenames, gallery: Gallery) -> None:
    folder = local(contents["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / SUSPICIOUS) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow([*COLUMNS, "probability", "rank"])
        for rank, one in enumerate(suspects, 1):
            row = filenames[one.row], one.attribute, one.given, one.likely
            table.writerow([*row, f"{one.probability:.4f}", rank])
    text = json.dumps(plain(contents), indent=1, allow_nan=False)
    write_text(folder / "labels.html", _html(contents, gallery))
    write_text(folder / "labels.json", text + "\n")


def noise_table(contents: dict) -> Table:
    """A row for every attribute, the best learned first."""
    ordered = sorted(contents["attributes"].items(), key=lambda pair: -pair[1]["learned"])
    rows = []
    for name, one in ordered:
        row = [name, f"{one['labels']:,}", percent(one["yes"] / one["labels"])]
        row.append(percent(one["learned"]))
        if one["learned"] < contents["learned"]:
            row += [NONE] * 5
        else:
            row += [percent(one[key]) for key in ("no_labelled_yes", "yes_labelled_no", "ceiling")]
            row += [f"{one['suspicious']:,}", f"{one['expected_wrong']:,.0f}"]
        rows.append(tuple(row))
    note = (
        "In per cent. Learned: balanced accuracy of the scores, as estimated; below "
        f"{contents['learned']:.0%} nothing is suspected. Shares of wrong labels are rather too "
        "high, most of rare answers, since what the features do not tell counts, too. Ceiling: "
        "accuracy that perfect answers would have on these labels."
    )
    header = (
        *("Attribute", "Labels", "Yes", "Learned", "No labelled yes", "Yes labelled no"),
        *("Ceiling", "Suspicious", "Of these wrong"),
    )
    return Table(header, tuple(rows), "Wrong labels, as estimated", note)


def _html(contents: dict, gallery: Gallery) -> str:
    about = (
        f"{contents['images']:,} pictures; each judged by a classifier that saw none of its "
        f"person, or no copy of it ({contents['groups']:,} people or pictures in {FOLDS} parts). A "
        f"label is suspicious from a probability of {contents['least']:.0%} on; {SUSPICIOUS} has all"
    )
    return render(
        "analysis.html.jinja",
        title=f"Suspicious labels of {contents['records']['name']}",
        facts={
            "Records": contents["records"]["path"],
            "Network": contents["network"],
            "Weights": contents["weights"],
            "Stage": contents["stage"],
            "Too few labels": ", ".join(contents["left_out"]) or "none",
        },
        warnings=contents["warnings"],
        left_out={},
        sections=[Section("Labels", about, [noise_table(contents)], (), [gallery])],
    )
