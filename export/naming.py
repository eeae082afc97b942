"""Outputs of an exported model with the names that its metadata gives them."""

import itertools
import json
import math
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local


def read_description(path: str | Path) -> dict:
    """The metadata of an export, from `assets/faceattr.json` or the folder of its version.

    Raises:
        UserError: it is not there or is something else.
    """
    file = local(path)
    file = file / "assets" / "faceattr.json" if file.is_dir() else file
    try:
        description = json.loads(file.read_text())
        for task in description["tasks"]:
            task["name"], task["kind"], task["labels"], task["outputs"].values()
        if not description["tasks"]:
            raise ValueError
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected a model's faceattr.json") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{file}: no description of an exported model") from None
    return description


def check_description(description: dict, served: dict, where: str) -> None:
    """Makes sure that a description names the outputs of the version that answers.

    Args:
        description: what a client was given.
        served: what the version says of itself.
        where: of the description, for the message.

    Raises:
        UserError: tasks or labels differ, in number, name or order.
    """
    fields = ("name", "kind", "labels", "outputs")
    pairs = itertools.zip_longest(description["tasks"], served["tasks"], fillvalue={})
    for ours, theirs in pairs:
        for field in fields:
            if ours.get(field) != theirs.get(field):
                task = theirs.get("name", ours.get("name"))
                raise UserError(
                    f"{where} describes another model than the one that answers: {field} of task "
                    f"{task!r} {_differ(ours.get(field), theirs.get(field))}; without "
                    "--description, names come from the server"
                )


def _differ(ours, theirs) -> str:
    if isinstance(ours, list) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            return f"has {len(ours)} entries there, {len(theirs)} here"
        index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if len({*pair}) > 1)
        return f"has {ours[index]!r} in place {index + 1} there, {theirs[index]!r} here"
    return f"is {ours!r} there, {theirs!r} here"


def named(outputs: dict[str, np.ndarray], description: dict | None) -> dict:
    """The outputs for one image as plain data.

    Args:
        outputs: name -> array without the batch dimension.
        description: the model's metadata; without it, outputs keep their names and are lists.

    Returns:
        Per task: multilabel `{label: {"probability": p, "label": bool}}`, multiclass `{"label":
        name, "probabilities": {name: p}}`, regression `{label: value}`, landmarks `{point: [x,
        y]}`, transform the corners `[[x, y]]`. Outputs of no task stay as they are.

    Raises:
        UserError: a task has another number of labels than the answer.
    """
    if description is None:
        return {name: _plain(value) for name, value in outputs.items()}
    found, rest = {}, dict(outputs)
    for task in description["tasks"]:
        names, labels = task["outputs"], task["labels"]
        if not set(names.values()) <= set(outputs):
            continue
        counted = next(iter(names.values()))
        if task["kind"] != "transform" and len(np.atleast_1d(outputs[counted])) != len(labels):
            raise UserError(
                f"the description has {len(labels)} labels of task {task['name']!r}, the answer "
                f"{len(np.atleast_1d(outputs[counted]))}: it is of another model"
            )
        values = {kind: _plain(rest.pop(name)) for kind, name in names.items()}
        if task["kind"] == "multilabel":
            found[task["name"]] = {
                label: {"probability": probability, "label": bool(yes)}
                for label, probability, yes in zip(
                    labels, values["probability"], values["label"], strict=True
                )
            }
        elif task["kind"] == "multiclass":
            found[task["name"]] = {
                "label": labels[values["label"]],
                "probabilities": dict(zip(labels, values["probability"], strict=True)),
            }
        else:
            (only,) = values.values()
            corners = task["kind"] == "transform"
            found[task["name"]] = only if corners else dict(zip(labels, only, strict=True))
    return found | {name: _plain(value) for name, value in rest.items()}


def summary(answer: dict) -> str:
    """What `named` gave with a description, in a line: labels that are yes, and classes."""
    parts = []
    for values in answer.values():
        if not isinstance(values, dict):
            continue
        if "probabilities" in values:
            parts.append(f"{values['label']} {values['probabilities'][values['label']]:.2f}")
        else:
            parts += [
                f"{label} {value['probability']:.2f}"
                for label, value in values.items()
                if isinstance(value, dict) and value["label"]
            ]
    return ", ".join(parts)


def _plain(value):
    """Lists and numbers that JSON has: no NaN."""
    value = value if isinstance(value, list) else np.asarray(value).tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
