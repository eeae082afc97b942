"""What a model says about a face: plain data, ready for JSON, tables and the terminal."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.formats.detections import BOX_COLUMNS, COLUMNS
from data_pipelines.tasks import CLASS_KINDS, Task


@dataclasses.dataclass(frozen=True)
class Attribute:
    """One yes/no attribute: its calibrated probability, and whether that passes the threshold.

    The label may also be `unsure`, where that was asked for.
    """

    probability: float
    label: bool | str


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several classes: the likeliest (or `unsure`), and the probability of each."""

    label: str
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Graded(Choice):
    """One of several classes that stand for numbers: also the mean, weighted by probability."""

    value: float


@dataclasses.dataclass(frozen=True)
class Alignment:
    """What a transformer cuts out of the network's crop.

    Attributes:
        rotation: degrees, clockwise, against the crop.
        scale: size over the crop's.
        shift: how far the centre lies right of and below the crop's, as shares of its sides.
        outline: name of a corner -> (x, y) in pixels of the picture.
    """

    rotation: float
    scale: float
    shift: tuple[float, float]
    outline: dict[str, tuple[float, float]]


TaskPrediction = (
    Alignment | Choice | dict[str, Attribute] | dict[str, tuple[float, float]] | dict[str, float]
)


def task_predictions(
    task: Task, outputs: np.ndarray, transforms: np.ndarray, crop: Crop, calibration: Mapping
) -> list[TaskPrediction]:
    """What a model says of one task, face by face.

    Args:
        task: what was predicted.
        outputs: the model's, `[N, ...]`.
        transforms: float32 `[N, 2, 3]`, from pixels of the crop to those of the picture.
        crop: what the model sees.
        calibration: as of `faceattr_tf.evaluation.answers.answers`.
    """
    from faceattr_tf.evaluation.answers import answers
    from faceattr_tf.evaluation.conformal import UNSURE
    from faceattr_tf.evaluation.transform_metrics import CORNERS, components

    found = answers(task, outputs, transforms, crop, calibration)
    values = found.values.tolist()
    if task.kind == "transform":
        parts = components(outputs, (crop.height, crop.width))
        parts = np.stack(list(parts.values()), axis=1).tolist()
        return [
            Alignment(turn, scale, (x, y), dict(zip(CORNERS, map(tuple, places), strict=True)))
            for (turn, scale, x, y), places in zip(parts, values, strict=True)
        ]
    if task.kind == "landmarks":
        return [dict(zip(task.labels, map(tuple, row), strict=True)) for row in values]
    rows = [dict(zip(task.labels, row, strict=True)) for row in values]
    if task.kind == "regression":
        return rows
    said = found.labels
    if task.kind in CLASS_KINDS:
        said = np.array(task.labels, object)[said]
    if found.unsure is not None:
        said = np.where(found.unsure, np.array(UNSURE, object), said)
    said = said.tolist()
    if task.kind in CLASS_KINDS:
        if found.expected is not None:
            return list(map(Graded, said, rows, found.expected.tolist()))
        return list(map(Choice, said, rows))
    return [
        {name: Attribute(row[name], yes) for name, yes in zip(task.labels, one, strict=True)}
        for row, one in zip(rows, said, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Face:
    """What a model says about one face.

    Coordinates are pixels of the upright picture, the centre of its first pixel being (0, 0).

    Attributes:
        filename: name of the picture's file, empty for bytes and arrays.
        box: left, top, width and height as given or detected; None where unknown.
        landmarks: name of a point -> (x, y), as given or detected, without unknown points;
            None where all are unknown.
        score: the detector's confidence in 0...1, or what a localiser's peak has above the median
            of its map; None where nothing was detected.
        tasks: name of a task -> what was predicted: label -> `Attribute` (multilabel), `Choice`
            (classes; `Graded` where they stand for numbers), point -> (x, y) (landmarks), label -> value (regression), or `Alignment`
            (transform).
        turned: by how many degrees the picture was turned clockwise before the face was found.
    """

    filename: str
    box: tuple[float, float, float, float] | None
    landmarks: dict[str, tuple[float, float]] | None
    score: float | None
    tasks: dict[str, TaskPrediction]
    turned: int = 0

    def to_dict(self) -> dict:
        """The same as dictionaries, lists, strings and numbers, ready for JSON."""
        return _plain(dataclasses.asdict(self))

    def to_row(self) -> dict[str, str | float | bool | None]:
        """The same as one row of a table; every face of a model has the same columns.

        First those of `data_pipelines.formats.detections`, then the path of each value joined by `/`, such
        as `attributes/Smiling/probability`. What is unknown is None.
        """
        row = dict.fromkeys(COLUMNS)
        row |= {"filename": self.filename, "score": self.score, "turned": self.turned}
        row |= dict(zip(BOX_COLUMNS, self.box or (), strict=False))
        for name, (x, y) in (self.landmarks or {}).items():
            row |= {f"{name}_x": x, f"{name}_y": y}
        for name, result in self.tasks.items():
            row |= _flatten(name, result)
        return row

    def __str__(self) -> str:
        """A head line, then one aligned line per label, class, point or value."""
        head = self.filename or "picture"
        if self.box is not None:
            head += "  face {2:.0f} x {3:.0f} at ({0:.0f}, {1:.0f})".format(*self.box)
        if self.score is not None:
            head += f", score {self.score:.2f}"
        if self.turned:
            head += f", picture turned by {self.turned} degrees"
        rows = [row for name, result in self.tasks.items() for row in _table(name, result)]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = (f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>7}" for row in rows)
        return "\n".join([head, *(line.rstrip() for line in lines)])


def in_words(label: bool | str) -> str:
    """The label of an attribute: yes, no, or `unsure`."""
    return label if isinstance(label, str) else "yes" if label else "no"


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _flatten(prefix: str, value) -> dict:
    if dataclasses.is_dataclass(value):
        value = dataclasses.asdict(value)
    if isinstance(value, tuple):
        value = dict(zip("xy", value, strict=True))
    if not isinstance(value, dict):
        return {prefix: value}
    rows = (_flatten(f"{prefix}/{key}", item) for key, item in value.items())
    return {key: item for row in rows for key, item in row.items()}


def _table(name: str, result: TaskPrediction) -> list[tuple[str, str, str]]:
    """Rows (what, label or value, probability) of one task."""
    if isinstance(result, Choice):
        ranked = sorted(result.probabilities.items(), key=lambda item: -item[1])
        rows = [] if result.label in result.probabilities else [("", result.label, "")]
        rows += [("", label, f"{probability:.1%}") for label, probability in ranked]
        if isinstance(result, Graded):
            rows.append(("", f"expected {result.value:.4g}", ""))
        return [(name, *rows[0][1:]), *rows[1:]]
    if isinstance(result, Alignment):
        x, y = result.shift
        values = f"{result.rotation:+.1f}°", f"{result.scale:.3f}", f"({x:+.3f}, {y:+.3f})"
        parts = zip(("rotation", "scale", "shift"), values, strict=True)
        return [(name, "", ""), *((f"  {part}", value, "") for part, value in parts)]
    rows = [(name, "", "")]
    for label, value in result.items():
        if isinstance(value, Attribute):
            rows.append((f"  {label}", in_words(value.label), f"{value.probability:.1%}"))
        elif isinstance(value, tuple):
            rows.append((f"  {label}", f"({value[0]:.1f}, {value[1]:.1f})", ""))
        else:
            rows.append((f"  {label}", f"{value:.4g}", ""))
    return rows
