"""How well faces are found by networks that learnt attributes alone: LNets+ANet, figure 7."""

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from data_pipelines.detection.response_windows import above_median
from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import decode
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.progress import progress_bar
from faceattr_tf.evaluation.explanation import draw_heat
from faceattr_tf.evaluation.recall import (
    HALF,
    best_overlaps,
    framed,
    recall,
    recall_draws,
    with_interval,
)
from faceattr_tf.evaluation.split import validation_part
from faceattr_tf.reports.analysis.fits import with_span
from faceattr_tf.reports.analysis.subject import Finding, Subject
from faceattr_tf.reports.galleries import Example, Gallery, thumbnail
from faceattr_tf.reports.page import Plot, Section
from faceattr_tf.reports.plots import GREY, SERIES, svg
from faceattr_tf.reports.tables import NONE, Table, number

MTCNN = "mtcnn"
"""What names the detector of `faceattr-data detect` among the localisers."""

RATIOS = np.linspace(0, 1, 101)

_SHOWN = 12  # examples of a gallery
_SIDE = 240  # of an example, in pixels
_AT_ONCE = 32  # pictures held decoded
_TRUE, _FOUND = (255, 255, 255), (230, 159, 0)

_ABOUT = (
    "LNets+ANet, figure 7, on {faces:,} faces in {pictures:,} pictures of {split}, chosen at "
    "random; {left_out:,} more have a face without a box and are left out. A "
    "picture with n faces is given the n strongest windows of a localiser, each of which stands for "
    "one face at most; a face is found if intersection over union with its window is at least the "
    "overlap ratio. True boxes are those of the records: where a localiser frames a face otherwise "
    "than they do, its windows as found fit badly wherever they are. Framed: all windows of a "
    "localiser moved and scaled by the same four numbers, medians over the other half of the "
    "pictures. Networks learnt attributes and saw no box; how a response map becomes a window was "
    "measured beforehand"
)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures and their faces.

    Attributes:
        names: of the files.
        data: encoded.
        boxes: float `[T, 4]` per picture, left, top, width, height in pixels.
        left_out: further ones, whose face has none.
    """

    names: list[str]
    data: list[bytes]
    boxes: list[np.ndarray]
    left_out: int


def localisation(subject: Subject) -> Finding:
    """Recall against overlap ratio of several localisers, and what they find on some pictures.

    Raises:
        UserError: the records know no boxes, or a localiser is no LNet.
    """
    from faceattr_tf.prediction.localisation import Localiser

    settings, pictures = subject.settings, annotated_pictures(subject)
    localisers = localisers_of(subject, max(map(len, pictures.boxes)))
    numbers, rows, galleries, first = {}, [], [], None
    for name, find in localisers.items():
        windows = _strongest(find, pictures, name, settings.progress)
        best = _best(pictures.boxes, windows)
        moved = _best(pictures.boxes, framed(pictures.boxes, windows))
        draws = [recall_draws(part, settings.bootstrap, settings.seed) for part in (best, moved)]
        first = draws[1] if first is None else first
        numbers[name] = own = {
            "recall": with_interval(draws[0]),
            "recall_framed": with_interval(draws[1]),
            "difference_framed": with_interval(draws[1] - first),
            "median_overlap_framed": float(np.median(np.concatenate(moved))),
            "curve": recall(np.concatenate(best), RATIOS),
            "curve_framed": recall(np.concatenate(moved), RATIOS),
        }
        rows.append(
            (
                name,
                with_span(own["recall"]),
                with_span(own["recall_framed"]),
                _difference(own["difference_framed"]) if rows else NONE,
                number(own["median_overlap_framed"], 2),
            )
        )
        if isinstance(find, Localiser):
            galleries += _galleries(name, find, pictures, windows, best, settings.seed)
    against = f"Framed, less {rows[0][0]}"
    header = ("Localiser", "Recall at 0.5, as found", "Framed", against, "Median overlap, framed")
    note = (
        "Per cent of the faces with 95 % intervals, pictures being drawn again; differences are "
        "paired by picture. Another training run would add to them."
    )
    plot = Plot("Recall against overlap ratio", _drawn(numbers), "Solid: framed. Dotted: as found.")
    counts = {
        "pictures": len(pictures.data),
        "faces": sum(map(len, pictures.boxes)),
        "left_out": pictures.left_out,
    }
    about = _ABOUT.format(**counts, split=subject.split)
    section = Section(
        "Localisation", about, (Table(header, tuple(rows), note=note),), (plot,), galleries
    )
    return Finding(section, counts | {"ratios": RATIOS, "localisers": numbers})


def annotated_pictures(subject: Subject) -> Pictures:
    """Some pictures of the split, as many as `images` of the settings, with all boxes of faces.

    Raises:
        UserError: the boxes of none of them are known.
    """
    records, settings = subject.records, subject.settings
    split, mask = records.select(subject.split, *validation_part(subject.workdir, records))
    names = np.array(records.filenames(split))
    rows = np.arange(len(names)) if mask is None else np.flatnonzero(mask)
    order = np.random.default_rng(settings.seed).permutation(np.unique(names[rows]))
    rows = rows[np.isin(names[rows], order[: settings.images])]
    boxes, data = collections.defaultdict(list), {}
    for row, example in read_examples(records.shards[split], rows.tolist()):
        boxes[names[row]].append(example["box"])
        data[names[row]] = example["image"][0]
    boxes = {name: np.array(faces, float) for name, faces in boxes.items()}
    known = [name for name, faces in boxes.items() if np.isfinite(faces).all()]
    if not known:
        raise UserError(f"{records.path}: no picture of {split!r} with the box of a face")
    return Pictures(
        list(map(str, known)),
        [data[name] for name in known],
        [boxes[name] for name in known],
        len(boxes) - len(known),
    )


def localisers_of(subject: Subject, faces: int) -> dict[str, Callable]:
    """Name -> what finds faces in pictures, the subject's own network first.

    Each takes uint8 RGB pictures `[H, W, 3]` and gives the detections in each, strongest first.

    Args:
        subject: the run and the settings that name others.
        faces: the largest number of faces in a picture.

    Raises:
        UserError: one of them is no LNet.
    """
    from faceattr_tf.prediction.localisation import Localiser

    given = [str(subject.workdir.path), *subject.settings.localisers]
    names = ["+".join(os.path.basename(os.path.abspath(p)) for p in g.split("+")) for g in given]
    found = {}
    for name, one in zip(names, given, strict=True):
        name = name if names.count(name) == 1 else one
        found[name] = (
            mtcnn() if one == MTCNN else Localiser.from_workdirs(one.split("+"), faces=faces)
        )
    return found


def mtcnn() -> Callable:
    """MTCNN as a localiser: what it is surest of comes first."""
    from data_pipelines.detection.mtcnn import Detector

    detector = Detector()

    def find(images):
        return [sorted(faces, key=lambda face: -face.score) for faces in detector(images)]

    return find


def _strongest(find: Callable, pictures: Pictures, name: str, show: bool) -> list[np.ndarray]:
    """The boxes that a localiser finds, `[F, 4]` per picture, no more than there are faces."""
    found = []
    with progress_bar(len(pictures.data), "picture", show=show) as bar:
        bar.set_description(name)
        for start in range(0, len(pictures.data), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            detections = find([decode(data) for data in pictures.data[rows]])
            for faces, boxes in zip(detections, pictures.boxes[rows], strict=True):
                found.append(np.reshape([face.box for face in faces[: len(boxes)]], (-1, 4)))
                bar.update()
    return found


def _best(true, found) -> list[np.ndarray]:
    return [best_overlaps(*pair) for pair in zip(true, found, strict=True)]


def _difference(values: Sequence[float]) -> str:
    mean, low, high = (f"{100 * value:+.1f}" for value in values)
    return f"{mean} ({low} to {high})"


def _drawn(numbers: dict[str, dict]) -> str:
    def draw(figure):
        axes = figure.subplots()
        for index, (name, own) in enumerate(numbers.items()):
            colour = SERIES[index % len(SERIES)]
            axes.plot(RATIOS, own["curve_framed"], color=colour, label=name)
            axes.plot(RATIOS, own["curve"], ":", color=colour)
        axes.axvline(HALF, color=GREY, linewidth=0.8)
        axes.set(xlabel="overlap ratio", ylabel="recall", xlim=(0, 1), ylim=(0, 1.01))
        axes.xaxis.set_major_formatter("{x:.1f}")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.legend(loc="lower left")

    return svg(draw, 5.5, 4)


def _galleries(name: str, localiser, pictures: Pictures, found, best, seed: int) -> list[Gallery]:
    """Response maps of one localiser with windows, of pictures chosen at random and of misses."""
    chosen = np.random.default_rng(seed).permutation(len(best))
    missed = [index for index in chosen if best[index].min() < HALF]
    return [
        Gallery(
            f"{title}: {name}",
            tuple(
                _example(localiser, pictures, index, found[index], best[index]) for index in rows
            ),
        )
        for title, rows in (("At random", chosen[:_SHOWN]), ("Not found", missed[:_SHOWN]))
        if len(rows)
    ]


def _example(localiser, pictures: Pictures, index: int, found, best) -> Example:
    picture = decode(pictures.data[index])
    height, width = picture.shape[:2]
    scale = _SIDE / max(height, width)
    size = round(scale * width), round(scale * height)
    drawn = draw_heat(
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA),
        _heat(localiser.stages[0], picture, scale, size),
    )
    for boxes, colour in ((pictures.boxes[index], _TRUE), (found, _FOUND)):
        corners = scale * np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        for left, top, right, bottom in np.rint(corners).astype(int).tolist():
            cv2.rectangle(drawn, (left, top), (right, bottom), (0, 0, 0), 4)
            cv2.rectangle(drawn, (left, top), (right, bottom), colour, 2)
    text = ", ".join(f"{value:.2f}" for value in best)
    captions = ((f"overlap {text}", bool(best.min() >= HALF)),)
    return Example(pictures.names[index], *thumbnail(drawn, _SIDE), captions)


def _heat(stage, picture: np.ndarray, scale: float, size: tuple[int, int]) -> np.ndarray:
    """The response of LNet_o above its median, where its cells lie in a picture that is drawn."""
    from data_pipelines.crop.scaling import scaled_pixels

    seen = scaled_pixels(picture[None], stage.side, stage.least)
    response = above_median(stage.network(seen.read(0)[None], training=False)[0])
    step, start = seen.transform[0, 0, 0].numpy(), seen.transform[0, :, 2].numpy()
    cell = np.float64([[1, 0, 0], [0, 1, 0]]) * scale * step * stage.field.stride
    cell[:, 2] = scale * (start + 0.5 + step * stage.field.offset) - 0.5
    return cv2.warpAffine(np.float32(response), cell, size, borderMode=cv2.BORDER_REPLICATE)
