"""Slices of images: by their labels, by what is measured in the pictures, by a model's answers."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import CLASS_KINDS, IDENTITY, SENSITIVE, Task, most_voted

MEASURES = ("face_size", "brightness", "blur")
"""What is measured in every picture, see `measure_pictures`."""

ANSWERS = "answers/"
"""What the names of another model's tasks begin with."""

QUARTERS = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Slicing:
    """A partition of the images.

    Attributes:
        groups: name -> bool `[N]`; an image is in one at most.
        labels: that it is made of, as `TASK/LABEL`.
    """

    groups: dict[str, np.ndarray]
    labels: frozenset[str] = frozenset()


def default_slicings(tasks: Sequence[Task]) -> list[str]:
    """What images are sliced by if nothing is asked for: pictures, classes and numbers, and the
    attributes Male and Young; what is sensitive must be asked for by name."""
    found = list(MEASURES)
    for task in tasks:
        if task.name in SENSITIVE or task.name == IDENTITY:
            continue
        if task.kind in (*CLASS_KINDS, "regression"):
            found.append(task.name)
        elif task.kind == "multilabel":
            found += [f"{task.name}/{name}" for name in ("Male", "Young") if name in task.labels]
    return found


def make_slicings(
    wanted: Sequence[str],
    labels: Mapping[str, tuple[Task, np.ndarray]],
    measures: Mapping[str, np.ndarray],
    answers: Mapping[str, tuple[Task, np.ndarray]] | None = None,
) -> dict[str, Slicing]:
    """The slicings that were asked for.

    Args:
        wanted: of each the parts, joined by `*`: `TASK/LABEL` of attributes, `TASK` of classes,
            `TASK` or a measure with or without bounds such as `age:18:40`, by default quarters of
            the images; `answers/` before a task for the answers of another model.
        labels: task -> the task and its labels, as they are stored.
        measures: measure -> float `[N]`, NaN where it is unknown.
        answers: what `answered_labels` gave of the other model.

    Raises:
        UserError: a name that neither records, measures nor answers have, bounds that are none.
    """
    known = dict(labels) | {ANSWERS + name: pair for name, pair in (answers or {}).items()}
    found = {}
    for name in wanted:
        parts = [_part(text, known, measures) for text in name.split("*")]
        found[name] = _crossed(parts)
        if len(found[name].groups) < 2:
            raise UserError(f"slices by {name!r}: all images are in one; expected two or more")
    return found


def _crossed(parts: Sequence[Slicing]) -> Slicing:
    groups = {}
    for chosen in itertools.product(*(part.groups.items() for part in parts)):
        member = np.logical_and.reduce([member for _, member in chosen])
        if member.any():
            groups[", ".join(name for name, _ in chosen)] = member
    return Slicing(groups, frozenset().union(*(part.labels for part in parts)))


def _part(text: str, known, measures) -> Slicing:
    name, *bounds = text.split(":")
    prefix = ANSWERS if name.startswith(ANSWERS) else ""
    task_name, _, label = name.removeprefix(prefix).partition("/")
    if name in measures:
        return Slicing(_of_numbers(text, name, measures[name], bounds))
    if prefix + task_name not in known:
        there = ", ".join([*known, *measures])
        raise UserError(f"slices by {text!r}: no such task or measure; there are: {there}")
    task, values = known[prefix + task_name]
    if task.kind == "multilabel" and label in task.labels:
        column = values[:, task.labels.index(label)]
        groups = {f"{prefix}{label}": column == 1, f"{prefix}not {label}": column == 0}
        return Slicing(groups, frozenset(() if prefix else [f"{task_name}/{label}"]))
    if task.kind in CLASS_KINDS and not label:
        voted = most_voted(values) if values.ndim > 1 else values
        groups = {one: voted == place for place, one in enumerate(task.labels)}
        own = frozenset(() if prefix else [f"{task_name}/{one}" for one in task.labels])
        return Slicing({one: group for one, group in groups.items() if group.any()}, own)
    if task.kind == "regression" and (label or len(task.labels) == 1):
        place = task.labels.index(label) if label in task.labels else 0
        return Slicing(_of_numbers(text, prefix + (label or task_name), values[:, place], bounds))
    expected = {"multilabel": f"{task_name}/LABEL, such as {task_name}/{task.labels[0]}"}
    raise UserError(
        f"slices by {text!r}: {task.kind}; expected "
        + expected.get(task.kind, "a task of attributes, classes or numbers")
    )


def _of_numbers(text: str, name: str, values: np.ndarray, bounds: Sequence[str]) -> dict:
    known = np.isfinite(values)
    if not known.any():
        raise UserError(f"slices by {text!r}: no image has a known {name}")
    try:
        edges = [float(bound) for bound in bounds]
    except ValueError:
        raise UserError(f"slices by {text!r}: expected numbers, as in {name}:10:20") from None
    if any(low >= high for low, high in itertools.pairwise(edges)):
        raise UserError(f"slices by {text!r}: expected bounds that ascend")
    edges = edges or sorted(set(np.quantile(values[known], QUARTERS)))
    place = np.searchsorted(edges, values, side="right")
    shown = [f"{edge:.3g}" if abs(edge) < 1000 else f"{edge:.0f}" for edge in edges]
    names = [f"{name} < {shown[0]}"]
    names += [f"{name} {low} to {high}" for low, high in itertools.pairwise(shown)]
    names += [f"{name} >= {shown[-1]}"]
    groups = {one: known & (place == index) for index, one in enumerate(names)}
    return {one: group for one, group in groups.items() if group.any()}


def answered_labels(workdir, source, flip: bool = False) -> dict[str, tuple[Task, np.ndarray]]:
    """What a run says of images, of every task that could slice them, known to the records or not.

    Args:
        workdir: the `Workdir` of the run.
        source: the `data_pipelines.input.batches.Source` of the images.
        flip: average outputs with those of the mirrored image.

    Returns:
        Task -> the task and its answers, as labels are stored.
    """
    from data_pipelines.input.batches import evaluation_batches, named_failures
    from faceattr_tf.evaluation.answers import answers
    from faceattr_tf.evaluation.inference import predict_outputs

    tasks = [
        task for task in workdir.tasks if task.kind in ("multilabel", "regression", *CLASS_KINDS)
    ]
    batches = evaluation_batches(source, (), workdir.view, batch_size=128)  # no labels are needed
    outputs, _, transforms, _ = predict_outputs(
        workdir.load_model(), named_failures(batches, [source]), flip, tasks
    )
    found, calibration = {}, workdir.calibration()
    for task in tasks:
        of_task = outputs[task.name], transforms, workdir.crop, calibration.get(task.name, {})
        said = answers(task, *of_task)
        found[task.name] = task, said.values if said.labels is None else said.labels.astype(int)
    return found


def measure_pictures(source, batches) -> dict[str, np.ndarray]:
    """What is measured in every picture of a part of the records.

    Args:
        source: the `data_pipelines.input.batches.Source` of the part.
        batches: its images as the model sees them.

    Returns:
        `face_size`: the longer side of the box in pixels of the stored picture, that around the
        landmarks where there is no box; NaN without either. `brightness`: the mean of the crop's
        luma (BT.601), 0 to 255. `blur`: minus the logarithm of the variance of its Laplacian, so
        that more is more blurred (Pech-Pacheco et al., ICPR 2000); a crop that was enlarged is
        blurred by that.
    """
    import cv2

    brightness, blur = [], []
    for batch in batches:
        for image in np.asarray(batch["image"], np.float32):
            luma = image @ np.array([0.299, 0.587, 0.114], np.float32)
            brightness.append(float(luma.mean()))
            blur.append(-float(np.log(cv2.Laplacian(luma, cv2.CV_32F).var() + 1e-6)))
    return {
        "face_size": _face_sizes(source),
        "brightness": np.array(brightness),
        "blur": np.array(blur),
    }


def _face_sizes(source) -> np.ndarray:
    import tensorflow as tf

    from data_pipelines.crop.geometry import known_box

    split, chosen = source.select()
    spec = {
        "box": tf.io.FixedLenFeature((4,), tf.float32),
        "landmarks": tf.io.FixedLenFeature((5, 2), tf.float32),
    }
    sizes = []
    for data in tf.data.TFRecordDataset(list(source.records.shards[split])).batch(512):
        fields = tf.io.parse_example(data, spec)
        box, known = known_box(fields["box"], fields["landmarks"])
        sizes.append(np.where(known, np.max(box[:, 2:], axis=1), np.nan))
    sizes = np.concatenate(sizes).astype(float)
    return sizes if chosen is None else sizes[chosen]


def read_slice_labels(source) -> dict[str, tuple[Task, np.ndarray]]:
    """The labels of a part of the records that images can be sliced by, with their tasks.

    Args:
        source: the `data_pipelines.input.batches.Source` of the part.
    """
    from data_pipelines.records.counting import read_labels

    split, chosen = source.select()
    kinds = ("multilabel", "regression", *CLASS_KINDS)
    tasks = [one for one in source.records.tasks if one.kind in kinds]
    _, labels = read_labels(source.records.shards[split], tasks)
    return {
        one.name: (one, labels[one.name] if chosen is None else labels[one.name][chosen])
        for one in tasks
    }
