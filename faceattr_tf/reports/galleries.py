"""The images that a model gets most right and most wrong, as small pictures with captions."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from faceattr_tf.evaluation.results import TaskResult
from faceattr_tf.evaluation.transform_metrics import IDENTITY, components, corner_errors, outline

SHOWN = 12
"""Images in a gallery of best or worst."""

MISTAKES = 6
"""Images in the gallery of one attribute's mistakes."""

SIDE = 128
"""Longest side of a thumbnail in pixels; smaller crops stay as they are."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One image of a gallery, as the network saw it.

    Attributes:
        filename: its name in the records.
        jpeg: the thumbnail.
        size: width and height of the thumbnail in pixels.
        captions: lines of text, and whether each is right (None: neither).
        true: labelled points, or corners of the labelled transform, as shares of width and height.
        predicted: the model's, likewise.
        aligned: for a transform, the thumbnail of what it cuts out, of the same size.
    """

    filename: str
    jpeg: bytes
    size: tuple[int, int]
    captions: tuple[tuple[str, bool | None], ...]
    true: tuple[tuple[float, float], ...] = ()
    predicted: tuple[tuple[float, float], ...] = ()
    aligned: bytes = b""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Images that belong together; `label` names the attribute if they are about one only."""

    title: str
    examples: tuple[Example, ...]
    label: str = ""


def collect_examples(
    results: Sequence[TaskResult],
    batches: Iterable[dict],
    filenames: Sequence[str],
    choose: Callable | None = None,
) -> dict[str, list[Gallery]]:
    """Galleries for every task: best, worst, and the surest mistakes of each attribute.

    Args:
        results: the tasks over the whole split.
        batches: the same batches again, from which the chosen images are taken.
        filenames: N names.
        choose: gives of a result what else is shown, in the form of `surest_mistakes`.
    """
    choices = {result.task.name: (choose or _choose)(result) for result in results}
    wanted = {
        int(index) for chosen in choices.values() for _, found, _ in chosen for index in found
    }
    pictures = _pictures(batches, wanted)
    thumbnails = {index: thumbnail(picture) for index, picture in pictures.items()}
    galleries = {}
    for result in results:
        galleries[result.task.name] = [
            Gallery(
                title,
                tuple(
                    Example(
                        filenames[index],
                        *thumbnails[index],
                        _captions(result, index, label),
                        *_points(result, index),
                        _aligned(result, index, pictures[index]),
                    )
                    for index in found
                ),
                "" if label is None else result.task.labels[label],
            )
            for title, found, label in choices[result.task.name]
            if len(found)
        ]
    return galleries


def _choose(result: TaskResult) -> list[tuple[str, np.ndarray, int | None]]:
    """Title, indices of images, and the label that the gallery is about (None: all)."""
    if result.task.kind == "transform":
        return _choose_transforms(result)
    ranked = _ranked(result.errors)
    shown = min(SHOWN, len(ranked) // 2)
    chosen = [("Best", ranked[:shown], None)]
    if result.task.kind == "landmarks" and len(ranked) > 2 * shown:
        middle = np.linspace(shown, len(ranked) - shown - 1, min(SHOWN, len(ranked) - 2 * shown))
        chosen.append(("From good to bad, evenly", ranked[middle.astype(int)], None))
    chosen.append(("Worst", ranked[::-1][: max(shown, 1)], None))
    if result.task.kind == "multilabel":
        chosen += surest_mistakes(result, result.task.labels)
    return chosen


def surest_mistakes(
    result: TaskResult, labels: Sequence[str]
) -> list[tuple[str, np.ndarray, int | None]]:
    """Where a model was most convinced of a yes/no attribute and is wrong, at the threshold 0.5.

    Args:
        result: a multilabel task over the whole split.
        labels: some of its labels.

    Returns:
        For each label a title, the indices of at most `MISTAKES` images, and the label's index.
    """
    chosen = []
    for label in labels:
        index = result.task.labels.index(label)
        truth, score = result.labels[:, index], result.scores[:, index]
        wrong = np.flatnonzero((truth >= 0) & ((score >= 0.5) != (truth == 1)))
        surest = wrong[np.argsort(-np.abs(score[wrong] - 0.5), kind="stable")]
        chosen.append((f"Surest mistakes: {label}", surest[:MISTAKES], index))
    return chosen


def _choose_transforms(result: TaskResult) -> list[tuple[str, np.ndarray, int | None]]:
    """By corner error; where no label is known, by how far the crop is moved."""
    ranked = _ranked(result.errors)
    if len(ranked):
        evenly, worst = "From good to bad, evenly", [("Worst", ranked[::-1][:SHOWN], None)]
    else:
        unmoved = np.broadcast_to(IDENTITY, result.outputs.shape)
        ranked = _ranked(corner_errors(unmoved, result.outputs, result.crop_size))
        evenly, worst = "From least to most moved, evenly", []
    places = np.linspace(0, len(ranked) - 1, min(2 * SHOWN, len(ranked))).astype(int)
    return [(evenly, ranked[places], None), *worst]


def _ranked(errors: np.ndarray) -> np.ndarray:
    """Indices of the finite errors, from the smallest to the largest."""
    known = np.flatnonzero(np.isfinite(errors))
    return known[np.argsort(errors[known], kind="stable")]


def sample(image: np.ndarray, theta: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """What a transform cuts out of an image, bilinear; outside, the border is continued.

    Args:
        image: `[H, W, 3]`, uint8 or float32.
        theta: `[2, 3]`, output -> input in normalised coordinates.
        size: height and width of the output.

    Returns:
        `[*size, 3]` of the image's type.
    """
    (rows, columns), (height, width) = size, image.shape[:2]
    # Pixel -> normalised in the output, theta, normalised -> pixel in the input.
    inner = np.array([[2 / columns, 0, 1 / columns - 1], [0, 2 / rows, 1 / rows - 1], [0, 0, 1]])
    outer = np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2]])
    matrix = outer @ np.vstack([theta, [0, 0, 1]]) @ inner
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        image, matrix, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )


def _pictures(batches, wanted: set[int]) -> dict[int, np.ndarray]:
    """The wanted images as uint8 `[H, W, 3]`."""
    pictures, start = {}, 0
    for batch in batches:
        if len(pictures) == len(wanted):
            break
        images = np.asarray(batch["image"])
        for index in wanted.intersection(range(start, start + len(images))):
            image = images[index - start]
            pictures[index] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        start += len(images)
    return pictures


def thumbnail(pixels: np.ndarray, side: int = SIDE) -> tuple[bytes, tuple[int, int]]:
    """An uint8 RGB picture `[H, W, 3]` as JPEG, no larger than `side`; and its width and height."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if scale < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    return jpeg.tobytes(), size


def _captions(result: TaskResult, index: int, label: int | None):
    task, truth, score = result.task, result.labels[index], result.scores[index]
    if task.kind == "landmarks":
        return ((f"error {result.errors[index]:.1%} of the eye distance", None),)
    if task.kind == "transform":
        return _transform_captions(result, index)
    if task.kind == "regression":
        return tuple(
            (f"{name} {value:.3g}, labelled {known:.3g}", None)
            for name, value, known in zip(task.labels, score, truth, strict=True)
            if np.isfinite(known)
        )
    if task.kind == "multiclass":
        guess = int(score.argmax())
        lines = [(f"{task.labels[guess]} {score[guess]:.0%}", guess == truth)]
        if guess != truth:
            lines.append((f"labelled {task.labels[truth]}, given {score[truth]:.0%}", None))
        return tuple(lines)
    asked = range(len(task.labels)) if label is None else [label]
    known = [i for i in asked if truth[i] >= 0]
    wrong = sorted(
        (i for i in known if (score[i] >= 0.5) != truth[i]), key=lambda i: -abs(score[i] - 0.5)
    )
    if len(known) <= 4:
        return tuple(_yes_no(task.labels[i], score[i], truth[i]) for i in known)
    right = len(known) - len(wrong)
    head = (f"{right} of {len(known)} right", None)
    return head, *(_yes_no(task.labels[i], score[i], truth[i]) for i in wrong[:4])


def _transform_captions(result: TaskResult, index: int):
    theta = result.outputs[index : index + 1]
    parts = {name: value[0] for name, value in components(theta, result.crop_size).items()}
    lines = [
        f"rotation {parts['rotation']:+.1f}°, scale {parts['scale']:.2f}",
        f"shift {parts['shift_x']:+.0%}, {parts['shift_y']:+.0%}",
    ]
    if np.isfinite(result.errors[index]):
        lines.append(f"corners off by {result.errors[index]:.1f} px")
    return tuple((line, None) for line in lines)


def _yes_no(name: str, score: float, truth: int) -> tuple[str, bool]:
    said, labelled = ("yes" if value else "no" for value in (score >= 0.5, truth))
    sure = f"{max(score, 1 - score):.0%}"
    if said == labelled:
        return f"{name}: {said} {sure}", True
    return f"{name}: {said} {sure}, labelled {labelled}", False


def _points(result: TaskResult, index: int):
    if result.task.kind not in ("landmarks", "transform"):
        return (), ()
    pair = [values[index] for values in (result.labels, result.outputs)]
    if result.task.kind == "transform":
        pair = outline(np.stack(pair))
    shares = ((points + 1) / 2 for points in pair)
    return tuple(
        tuple((float(x), float(y)) for x, y in points if np.isfinite([x, y]).all())
        for points in shares
    )


def _aligned(result: TaskResult, index: int, picture: np.ndarray) -> bytes:
    if result.task.kind != "transform":
        return b""
    return thumbnail(sample(picture, result.outputs[index], picture.shape[:2]))[0]
