"""Faces of records pasted into other pictures: a manifest of canvases whose tags are the faces'."""

import csv
import dataclasses
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, naming
from data_pipelines.formats.detections import BOX_COLUMNS
from data_pipelines.formats.encoded import decode, encode
from data_pipelines.formats.images import ImageFolder
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.progress import progress_bar
from data_pipelines.records.record_set import RecordSet
from data_pipelines.synth.canvases import Canvas, draw_canvas
from data_pipelines.tasks import CELEBA, CELEBA_ATTRIBUTES, UNKNOWN, Task

MANIFEST = "manifest.csv"

_COLUMNS = ("path", "split", "identity", *BOX_COLUMNS, "pasted")


@dataclasses.dataclass(frozen=True)
class Pasting:
    """How many canvases are made, and of what.

    Attributes:
        canvases: in all; every split of the records has its share of them, and at least one.
        faces: greatest number of faces on a canvas.
        empty: share of the canvases without a face, on which every label is unknown.
        margin: what is shown around a face whose box the records know, as a share of the box's
            longer side; of other faces the whole picture is pasted.
        seed: the same seed makes the same canvases.
    """

    canvases: int = 1000
    faces: int = 1
    empty: float = 0.0
    margin: float = 0.3
    seed: int = 0

    def check(self) -> None:
        """Raises UserError if a value makes no sense."""
        if self.faces < 1:
            raise UserError(f"{self.faces} faces on a canvas; expected 1 or more")
        if not 0 <= self.empty < 1:
            raise UserError(f"{self.empty} of the canvases empty; expected a share below 1")
        if not 0 <= self.margin < np.inf:
            raise UserError(f"margin {self.margin} around faces; expected 0 or more")
        if self.seed < 0:
            raise UserError(f"seed {self.seed}; expected a whole number from 0")


@dataclasses.dataclass
class Pasted:
    """What became of it.

    Attributes:
        folder: the canvases and their manifest.
        canvases: split -> how many.
        tasks: the columns of labels, as the option `tasks` of the reader of manifests.
        passed_over: kinds of files among the backgrounds that are no pictures, and how many each.
        faces: how many were pasted.
        boxes: of how many of them the records know the box.
        empty: canvases without a face.
    """

    folder: pathlib.Path
    canvases: dict[str, int]
    tasks: str
    passed_over: dict[str, int]
    faces: int = 0
    boxes: int = 0
    empty: int = 0


def paste_faces(
    records: RecordSet,
    backgrounds: str | os.PathLike,
    folder: str | os.PathLike,
    pasting: Pasting,
    canvas: Canvas,
    *,
    progress: bool = True,
) -> Pasted:
    """Pastes the faces of records into the pictures of a folder, split by split.

    A face is used again only when all of its split have been. Every split has its own part of the
    backgrounds, in the proportions of its canvases, so that none is in two. Beside the canvases,
    JPEGs in a folder per split, lies a manifest with a row per face: path, split, person, box, the
    file that was pasted, and a column per label. Boxes are those of the faces where the records
    know them, else those of the pasted pictures: they are there to measure by, tags to learn from.

    Args:
        records: where the faces come from.
        backgrounds: a folder of pictures without faces, with its sub-folders.
        folder: must not exist or be empty; it is complete or absent, never half written.
        pasting: how many canvases, and of what.
        canvas: how they look.
        progress: show a bar, on a terminal.

    Raises:
        UserError: a setting makes no sense, the folder holds something, there are too few canvases
            or backgrounds for all splits, or a picture does not decode.
    """
    pasting.check()
    canvas.check()
    folder, root = local(folder), local(backgrounds)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: it is not empty, expected a new folder")
    if not root.is_dir():
        raise UserError(f"{root}: there is no such folder of backgrounds")
    images = ImageFolder(root)
    counts = _shares(pasting.canvases, records.splits, "canvases")
    shares = _shares(len(images.sizes), counts, f"pictures in {root}")
    names = iter(np.random.default_rng([pasting.seed, 0]).permutation(list(images.sizes)).tolist())
    columns, tasks = _columns(records.tasks)
    made = Pasted(folder, counts, tasks, dict(images.left_out))
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with (
            naming(folder),
            open(partial / MANIFEST, "w", encoding="utf-8", newline="") as file,
            progress_bar(pasting.canvases, "canvas", show=progress, desc="paste") as bar,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*_COLUMNS, *columns])
            for number, split in enumerate(counts):
                (partial / split).mkdir()
                part = _Part(records, split, images, list(itertools.islice(names, shares[split])))
                seed = [pasting.seed, 1 + number]
                for path, pixels, rows in part.draw(counts[split], seed, pasting, canvas, made):
                    (partial / path).write_bytes(encode(pixels, lossy=True))
                    writer.writerows(rows)
                    bar.update()
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return made


@dataclasses.dataclass(frozen=True)
class _Part:
    """A split of records and the backgrounds that are its own."""

    records: RecordSet
    split: str
    images: ImageFolder
    backgrounds: list[str]

    def draw(self, count: int, seed: list[int], pasting, canvas, made) -> Iterator[tuple]:
        """Path, pixels and rows of the manifest of every canvas; counts what it does."""
        plan = _plan(np.random.default_rng(seed), count, self.records.splits[self.split], pasting)
        wanted = set(itertools.chain(*plan))
        stored = dict(read_examples(self.records.shards[self.split], wanted))
        for number, positions in enumerate(plan):
            rng = np.random.default_rng([*seed, number])
            chosen = [stored[position] for position in positions]
            shown = [_shown(example, pasting.margin) for example in chosen]
            names = rng.choice(self.backgrounds, 1 + rng.integers(canvas.distractors + 1)).tolist()
            pictures = [_decoded(self.images.read(name), self.images.path / name) for name in names]
            pixels, places = draw_canvas(rng, [face for face, _ in shown], pictures, canvas)
            path = f"{self.split}/{number:06d}.jpg"
            rows = []
            for example, (face, box), place in zip(chosen, shown, places, strict=True):
                scale = place[2:] / face.shape[1::-1]
                box = [*(place[:2] + box[:2] * scale), *(box[2:] * scale)]
                rows.append(_row(path, self.split, example, self.records.tasks, box))
            made.faces += len(rows)
            made.boxes += sum(_known(example["box"]) for example in chosen)
            made.empty += not rows
            yield path, pixels, rows or [_row(path, self.split, None, self.records.tasks, ())]


def _shares(total: int, weights: Mapping[str, int], what: str) -> dict[str, int]:
    """Whole numbers that sum to a total, in proportion to weights but none below 1."""
    if total < len(weights):
        raise UserError(f"{total} {what}; expected at least one for each of {len(weights)} splits")
    whole = sum(weights.values())
    shares = {name: max(1, total * weight // whole) for name, weight in weights.items()}
    shares[max(shares, key=shares.get)] += total - sum(shares.values())
    return shares


def _plan(rng, count: int, faces: int, pasting: Pasting) -> list[list[int]]:
    """For every canvas the positions of its faces in their split."""
    order = itertools.chain.from_iterable(rng.permutation(faces) for _ in itertools.count())
    numbers = rng.integers(1, pasting.faces + 1, count) * (rng.uniform(size=count) >= pasting.empty)
    return [[int(position) for position in itertools.islice(order, int(n))] for n in numbers]


def _shown(example: dict, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """What is pasted of a face, uint8 RGB, and the face's box in it: left, top, width, height."""
    pixels = _decoded(example["image"][0], os.fsdecode(example["filename"][0]))
    height, width = pixels.shape[:2]
    box = np.float64(example["box"])
    if not _known(box):
        return pixels, np.array([0.0, 0.0, width, height])
    added = margin * max(box[2:])
    low = np.floor(np.clip(box[:2] - added, 0, None)).astype(int)
    high = np.ceil(np.minimum(box[:2] + box[2:] + added, (width, height))).astype(int)
    return pixels[low[1] : high[1], low[0] : high[0]], np.array([*(box[:2] - low), *box[2:]])


def _known(box) -> bool:
    return bool(np.isfinite(box).all())


def _decoded(data: bytes, name) -> np.ndarray:
    try:
        return decode(data)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _columns(tasks: tuple[Task, ...]) -> tuple[list[str], str]:
    """The columns of the labels, and what the reader of manifests has to be told of them."""
    columns, declared = [], []
    for task in tasks:
        if task.kind == "multiclass":
            columns.append(task.name)
            declared.append(f"{task.name}:multiclass:{task.name}:{','.join(task.labels)}")
        elif task.kind in ("multilabel", "distribution", "regression"):
            columns += task.labels
            celeba = task.name == CELEBA.name and set(task.labels) <= set(CELEBA_ATTRIBUTES)
            declared.append(f"{task.name}:{task.kind}:{'*' if celeba else ','.join(task.labels)}")
    for name in columns:
        if [*_COLUMNS, *columns].count(name) > 1:
            raise UserError(f"two columns of {MANIFEST} would be called {name!r}")
    return columns, ";".join(declared)


def _row(path: str, split: str, example: dict | None, tasks: tuple[Task, ...], box) -> list:
    """A row of the manifest; of a canvas without a face nothing but where it is is known."""
    if example is None:
        return [path, split, *[""] * (len(_COLUMNS) - 2 + len(_columns(tasks)[0]))]
    identity = int(example["identity"][0])
    name = os.fsdecode(example["filename"][0])
    row = [path, split, "" if identity < 0 else identity, *[f"{side:.2f}" for side in box], name]
    for task in tasks:
        labels = example.get(f"tasks/{task.name}", ())
        if task.kind == "multiclass":
            row.append("" if labels[0] == UNKNOWN else task.labels[labels[0]])
        elif task.kind == "multilabel":
            row += ["" if label == UNKNOWN else int(label) for label in labels]
        elif task.kind in ("distribution", "regression"):
            row += ["" if np.isnan(label) else f"{label:.9g}" for label in labels]
    return row
