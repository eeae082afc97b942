"""Looking at records: counts, label balance, and a sheet of faces with what is known about them."""

import math
import os

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, replacing
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import LANDMARK_NAMES, UNKNOWN, Task

_POINT_COLOURS = ("#00e5ff", "#2979ff", "#ffea00", "#ff4081", "#d500f9")  # as LANDMARK_NAMES
_BOX_COLOUR = "#76ff03"
_WIDTH = 1.8  # of a drawn face, inches, as the following
_BESIDE = 1.25  # width of the labels where they are many
_LINE = 0.103  # height of a line of text


def inspect_records(
    records: RecordSet | str | os.PathLike,
    picture: str | os.PathLike | None = None,
    *,
    split: str = "",
    count: int = 24,
    seed: int = 0,
) -> None:
    """Prints counts and label balance, and draws faces with boxes, landmarks and labels.

    Args:
        records: a record set, or its folder.
        picture: PNG file to write; none is drawn where it is None.
        split: stored split that the drawn faces come from; empty for the first.
        count: how many faces to draw, chosen at random.
        seed: the seed of the choice.

    Raises:
        UserError: no such records or split, or a count below 1.
    """
    if not isinstance(records, RecordSet):
        records = RecordSet.load(records)
    picture = local(picture) if picture else None
    print(records.summary())
    if picture is None:
        return
    stored, _ = records.select(split or next(iter(records.splits)))
    if count < 1:
        raise UserError(f"{count} faces cannot be drawn, expected at least 1")
    total = records.splits[stored]
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    examples = [example for _, example in read_examples(records.shards[stored], chosen.tolist())]
    title = f"{records.name}, {stored}: {len(examples)} of {total:,} faces"
    _write_sheet(picture, title, examples, records.tasks)
    print(f"{picture}: {title}")


def label_lines(example: dict, tasks: tuple[Task, ...]) -> list[str]:
    """What a record says about its face, a line per fact: attributes that it has, class, value.

    Args:
        example: features by name, as `tfrecord.read_examples` yields them.
        tasks: the tasks of the records.
    """
    lines = []
    for task in tasks:
        if task.kind == "landmarks":
            continue
        labels = np.asarray(example[f"tasks/{task.name}"])
        if task.kind == "multilabel":
            names = [name.replace("_", " ") for name in task.labels]
            lines += [name for name, label in zip(names, labels, strict=True) if label == 1]
            if unknown := int((labels == UNKNOWN).sum()):
                lines.append(f"({unknown} of {len(labels)} {task.name} unknown)")
            elif not (labels == 1).any():
                lines.append(f"(none of {len(names)} {task.name})")
        elif task.kind == "multiclass":
            known = labels[0] != UNKNOWN
            text = task.labels[labels[0]].replace("_", " ") if known else "unknown"
            lines.append(f"{task.name}: {text}")
        elif task.kind == "distribution":
            shares = sorted(zip(labels, task.labels, strict=True), key=lambda of: -of[0])
            voted = [f"{name.replace('_', ' ')} {share:.0%}" for share, name in shares if share > 0]
            lines.append(f"{task.name}: {', '.join(voted[:2]) or 'unknown'}")
        else:
            values = zip(task.labels, labels, strict=True)
            lines += [
                f"{name}: {'unknown' if math.isnan(value) else f'{value:g}'}"
                for name, value in values
            ]
    return lines


def _write_sheet(path, title, examples, tasks):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = [_decode(example["image"][0]) for example in examples]
    texts = [(_name_lines(example), label_lines(example, tasks)) for example in examples]
    tallest = _WIDTH * min(1.6, max(image.shape[0] / image.shape[1] for image in images))
    lines = max(len(names) + len(labels) for names, labels in texts)
    # A few lines go below the face, many beside it.
    below = lines <= 7
    if below:
        card = (_WIDTH, tallest + lines * _LINE)
    else:
        card = (_WIDTH + _BESIDE, max(tallest, min(lines, 30) * _LINE))
    rows = math.ceil(len(examples) / (8 if below else 6))
    columns = math.ceil(len(examples) / rows)
    width, height = columns * (card[0] + 0.1) + 0.1, rows * (card[1] + 0.15) + 0.5
    figure = Figure((width, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    top = 1 - 0.25 / height
    figure.text(0.1 / width, top, title, fontsize=11, weight="bold", va="center")
    if width > 9:
        _legend(figure, top, width)
    for index, example in enumerate(examples):
        row, column = divmod(index, columns)
        left = column * (card[0] + 0.1) + 0.1
        upper = height - 0.5 - row * (card[1] + 0.15)
        rectangle = np.divide((left, upper - tallest, _WIDTH, tallest), (width, height) * 2)
        _show_face(figure.add_axes(rectangle, anchor="NW"), images[index], example)
        if below:
            shape = images[index].shape
            place = (left, upper - min(tallest, _WIDTH * shape[0] / shape[1]) - 0.04)
        else:
            place = (left + _WIDTH + 0.06, upper)
        fitting = round(card[1] / _LINE)
        _write_text(figure, np.divide(place, (width, height)), *texts[index], fitting)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _legend(figure, top, width):
    place = 1 - 0.1 / width
    entries = [*zip(LANDMARK_NAMES, _POINT_COLOURS, strict=True), ("box", _BOX_COLOUR)]
    for name, colour in reversed(entries):
        text = f"\u25cf {name.replace('_', ' ')}"
        place -= (0.15 + 0.075 * len(text)) / width
        figure.text(place, top, text, fontsize=8, color="black", va="center")
        figure.text(place, top, "\u25cf", fontsize=8, color=colour, va="center")


def _show_face(axes, image, example):
    axes.set_axis_off()
    height, width = image.shape[:2]
    shrink = min(1.0, 480 / max(height, width))
    if shrink < 1:
        image = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    # Pixel centres are integers, in the coordinates of the picture before it was made smaller.
    axes.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="antialiased")
    left, up, across, down = example["box"]
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]) * [across, down] + [left, up]
    axes.plot(*corners.T, color=_BOX_COLOUR, linewidth=1.2)
    points = np.reshape(example["landmarks"], (-1, 2))
    for point, colour in zip(points, _POINT_COLOURS, strict=True):
        axes.plot(*point, "o", color=colour, markersize=4.5, markeredgecolor="black", mew=0.6)
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)


def _name_lines(example):
    name = os.fsdecode(example["filename"][0]).rsplit("/", 1)[-1]
    name = name.encode(errors="backslashreplace").decode()
    lines = [name if len(name) <= 24 else f"{name[:11]}\u2026{name[-11:]}"]
    if example["identity"][0] != UNKNOWN:
        lines.append(f"identity {example['identity'][0]}")
    return lines


def _write_text(figure, place, names, labels, fitting):
    if len(names) + len(labels) > fitting:
        shown = fitting - len(names) - 1
        labels = [*labels[:shown], f"and {len(labels) - shown} more"]
    style = {"fontsize": 6.2, "va": "top", "linespacing": 1.2, "parse_math": False}
    figure.text(*place, "\n".join(names), color="#777777", **style)
    figure.text(*place, "\n" * len(names) + "\n".join(labels), color="black", **style)


def _decode(data: bytes) -> np.ndarray:
    """RGB `[H, W, 3]`; records hold upright pixels, so a tag that is left means nothing."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise UserError("an image of these records does not decode; build them again")
    return np.ascontiguousarray(image[..., ::-1])
