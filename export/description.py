"""`faceattr.json`: what a client needs to know of an exported model, written, read and applied."""

import dataclasses
import functools
import importlib.metadata
import itertools
import json
import math
import re
import subprocess
from pathlib import Path

import numpy as np

from data_pipelines.crop.framing import check_tells_faces_apart, crop_of_face
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.tasks import LANDMARK_NAMES, Task, as_classes
from faceattr_tf.evaluation.conformal import UNSURE, UNSURE_INDEX, with_unsure
from faceattr_tf.prediction.sensitive import answered_tasks

METADATA_NAME = "faceattr.json"

NO_IMAGE = "no image that the model takes"
"""What is said of a file of which the model's output `valid` is false."""

PHOTOS, PHOTO_PIXELS = "photos", "photo_pixels"
"""Signatures that find faces first: their answers have a row for every face."""

FACES, FACE_BOX, FACE_RESPONSE = "faces", "face_box", "face_response"
"""Outputs of these signatures: how many faces were found; where, and how strongly."""

FACE_LANDMARKS = "face_landmarks"
FACES_LEFT_OUT, CANDIDATES_LEFT_OUT = "faces_left_out", "candidates_left_out"
"""Further ones of MTCNN: the points; smaller faces that were found, too; places not looked into."""

_PACKAGES = ("faceattr_tf", "keras", "numpy", "tensorflow")
_OUTPUTS = {
    "multilabel": ("probability", "label"),
    "multiclass": ("probability", "label"),
    "landmarks": ("points",),
    "regression": ("value",),
    "transform": ("outline",),
}


def describe(workdir, model, options, localiser=None) -> dict:
    """What a client needs to know of a model, as written to `assets/faceattr.json`.

    Args:
        workdir: a `faceattr_tf.workdir.Workdir`.
        model: its model.
        options: the `export.saved_model.ExportOptions`, how it is served.
        localiser: what finds faces and is exported with it, a `Localiser` or a `FaceDetector`, both
            of `faceattr_tf.prediction`.

    Returns:
        Signatures (dtypes, shapes, meanings), tasks (kind, labels, temperature, thresholds, of a
        consistent export the pairs of answers that are impossible, of one that may be unsure the
        risk and the least probabilities of possible answers, names of the outputs), options,
        crop (of a model of whole pictures that of a face whose place is known, else the whole), the
        framing of faces in these, the stages of the localiser or the settings of the detector, input shape, order of
        the landmarks, recipe, training records, package versions and, where known, the git commit
        of the code that exported.

    Raises:
        UserError: two tasks would share an output, a sensitive task or impossible pairs are asked for
            that there are not, or a model of whole pictures would not tell the faces apart that a
            detector finds.
    """
    from export.signatures import TPU_FUNCTION, describe_signatures, embedding_of

    metadata, recipe = workdir.metadata(), workdir.recipe()
    calibration = workdir.calibration(options.consistent)
    if options.unsure is not None:
        calibration = with_unsure(workdir, calibration, options.unsure, model)
    tasks, answered = [], answered_tasks(workdir.tasks, options.sensitive)
    for task in answered:
        stored = calibration.get(task.name, {})
        task = as_classes(task)  # how its classes were taught is nothing to whom they answer
        fields = {"name": task.name, "kind": task.kind, "labels": list(task.labels)}
        if task.kind in ("multilabel", "multiclass"):
            fields["temperature"] = stored.get("temperature", 1.0)
        if task.kind == "multilabel":
            fields["thresholds"] = stored.get("thresholds") or [0.5] * len(task.labels)
            if options.consistent:
                fields["impossible"] = stored.get("impossible", [])
        if "least" in stored:
            fields |= {"risk": stored["risk"], "least": stored["least"]}
        if task.values:
            fields["values"] = list(task.values)
        tasks.append({**fields, "outputs": output_names(task)})
    names = [name for fields in tasks for name in fields["outputs"].values()]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise UserError(f"two tasks would share the output {repeated[0]!r}: rename one of them")
    width = embedding_of(model, answered).shape[-1]
    finder = localiser.describe() if localiser else []
    crop, framing = workdir.crop, workdir.framing
    if isinstance(finder, dict):
        check_tells_faces_apart(crop, framing)
    return {
        "signatures": describe_signatures(answered, tasks, width, localiser),
        "device_function": TPU_FUNCTION,
        "tasks": tasks,
        **dataclasses.asdict(options),
        "crop": crop_of_face(crop, framing).to_dict(),
        "framing": framing,
        "localiser": finder if isinstance(finder, list) else [],
        "detector": finder if isinstance(finder, dict) else {},
        "input_shape": metadata["input_shape"],
        "landmark_names": list(LANDMARK_NAMES),
        "recipe": recipe.name,
        "model": recipe.model.name,
        "records": [
            {key: value for key, value in records.items() if key != "path"}
            for records in metadata["records"]
        ],
        "packages": {name: _package_version(name) for name in _PACKAGES},
        "commit": _commit(),
    }


def described_tasks(workdir, description: dict) -> list[Task]:
    """The tasks of a workdir that an export answers for."""
    names = [fields["name"] for fields in description["tasks"]]
    return [task for task in workdir.tasks if task.name in names]


def output_names(task: Task) -> dict[str, str]:
    """Which outputs a task has: `probability` -> `<task>_probability` and so on."""
    prefix = re.sub(r"[^A-Za-z0-9_]", "_", task.name)
    kinds = _OUTPUTS[as_classes(task).kind] + (("value",) if task.values else ())
    return {kind: f"{prefix}_{kind}" for kind in kinds}


def read_description(path: str | Path) -> dict:
    """The metadata of an export, from `assets/faceattr.json` or the folder of its version.

    Raises:
        UserError: it is not there or is something else.
    """
    file = local(path)
    file = file / "assets" / METADATA_NAME if file.is_dir() else file
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
        where: where the description comes from, for the message.

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
        Per task: multilabel `{label: {"probability": p, "label": bool or "unsure"}}`, multiclass `{"label":
        name, "probabilities": {name: p}}` and the expected `value` of classes that stand for
        numbers, regression `{label: value}`, landmarks `{point: [x,
        y]}`, transform the corners `[[x, y]]`. Outputs of no task stay as they are. Of photographs
        `{"faces": [...]}`, where that and `face_box` and `face_response` are of every face.

    Raises:
        UserError: a task has another number of labels than the answer.
    """
    if description is None:
        return {name: _plain(value) for name, value in outputs.items()}
    if FACES in outputs:
        of_faces = {name: values for name, values in outputs.items() if np.ndim(values)}
        rows = range(int(outputs[FACES]))
        faces = [{name: values[row] for name, values in of_faces.items()} for row in rows]
        others = {name: _plain(outputs[name]) for name in outputs.keys() - of_faces.keys()}
        return others | {FACES: [named(face, description) for face in faces]}
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
                label: {
                    "probability": probability,
                    "label": UNSURE if yes == UNSURE_INDEX else bool(yes),
                }
                for label, probability, yes in zip(
                    labels, values["probability"], values["label"], strict=True
                )
            }
        elif task["kind"] == "multiclass":
            found[task["name"]] = {
                "label": UNSURE if values["label"] == UNSURE_INDEX else labels[values["label"]],
                "probabilities": dict(zip(labels, values["probability"], strict=True)),
                **({"value": values["value"]} if "value" in values else {}),
            }
        else:
            (only,) = values.values()
            corners = task["kind"] == "transform"
            found[task["name"]] = only if corners else dict(zip(labels, only, strict=True))
    return found | {name: _plain(value) for name, value in rest.items()}


def summary(answer: dict) -> str:
    """What `named` gave with a description, in a line: labels that are yes, classes, values.

    Labels that are unsure have a question mark.
    """
    if FACES in answer:
        count = len(answer[FACES])
        faces = "; ".join(
            f"at ({box[0]:.0f}, {box[1]:.0f}) {box[2]:.0f} x {box[3]:.0f}: {summary(face)}"
            for face in answer[FACES]
            for box in [face[FACE_BOX]]
        )
        return f"{count} face{'s' * (count != 1)}{faces and ' '}{faces}"
    parts = []
    for values in answer.values():
        if not isinstance(values, dict):
            continue
        if "probabilities" in values:
            text = values["label"]
            if text in values["probabilities"]:
                text += f" {values['probabilities'][text]:.2f}"
            parts.append(text + (f" (about {values['value']:.3g})" if "value" in values else ""))
        else:
            parts += [
                f"{label} {value['probability']:.2f}{'?' * (value['label'] == UNSURE)}"
                for label, value in values.items()
                if isinstance(value, dict) and value["label"]
            ]
            parts += [
                f"{label} {value:.3g}"
                for label, value in values.items()
                if isinstance(value, float)
            ]
    return ", ".join(parts)


def _plain(value):
    """Lists and numbers that JSON has: no NaN."""
    value = value if isinstance(value, list) else np.asarray(value).tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The git commit that this file stands in; None outside of a checkout of the project."""
    git = ["git", "-C", str(Path(__file__).parent)]
    run = functools.partial(subprocess.run, check=True, capture_output=True, text=True, timeout=10)
    try:
        run([*git, "ls-files", "--error-unmatch", __file__])
        return run([*git, "rev-parse", "HEAD"]).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
