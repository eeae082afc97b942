"""Face detection ahead of training: a folder of pictures to one CSV of boxes and landmarks."""

import concurrent.futures
import csv
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import signal
from collections.abc import Iterator, Mapping, Sequence

import cv2
import numpy as np

from data_pipelines.detection.mtcnn import (
    MAXIMUM_SIDE,
    MINIMUM_SIZE,
    Detector,
    nearest_first,
)
from data_pipelines.errors import UserError
from data_pipelines.files import local, naming, replacing
from data_pipelines.formats.detections import COLUMNS, read_boxes
from data_pipelines.formats.encoded import ENDINGS, MAX_PIXELS, decode
from data_pipelines.formats.images import ImageFolder
from data_pipelines.keras_settings import set_keras
from data_pipelines.progress import progress_bar


@dataclasses.dataclass(frozen=True)
class Settings:
    """How faces are looked for in a folder.

    Attributes:
        processes: worker processes; 0: one per processor.
        batch_size: pictures that a worker takes at once.
        minimum_size, maximum_side: see `Detector`; boxes are in pixels of the full pictures.
        max_bad: pictures that may fail to decode; they are listed and get no row.
        max_pixels: a picture that is larger by its header is not decoded, and counts as one.
    """

    processes: int = 0
    batch_size: int = 32
    minimum_size: float = MINIMUM_SIZE
    maximum_side: int = MAXIMUM_SIDE
    max_bad: int = 0
    max_pixels: int = MAX_PIXELS


def detect_folder(
    source: str,
    output: str | None = None,
    settings: Settings | None = None,
    *,
    boxes: str | Mapping[str, Sequence[float]] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> dict:
    """Detects the faces of every picture below a folder and writes one CSV.

    Of several faces in a picture, the one chosen by `nearest_first` is written. Pictures are
    turned by their EXIF orientation first, as the readers do. Finished batches are appended to
    `OUTPUT.partial`; the same command continues from there after an interruption.

    Args:
        source: the folder; its sub-folders are searched too.
        output: the CSV with `COLUMNS`, sorted by filename (relative to `source`, with `/`);
            default `detections.csv` in the folder.
        settings: sizes, limits and processes; None for the usual ones.
        boxes: annotated boxes, filename -> (left, top, width, height), or the file with them that
            `read_boxes` reads.
        overwrite: replace an output that exists.
        progress: show a bar, on a terminal.

    Returns:
        `images` (rows written), `faces` (rows with a face), `not_found` and `undecodable` (names),
        `passed_over` (what kinds of files are no pictures, and how many each),
        `output` (path of the CSV).

    Raises:
        UserError: no folder, no pictures, an output that exists, too many undecodable pictures, a
            boxes file in another format, a worker process that died.
    """
    settings = settings or Settings()
    root = local(source)
    if not root.is_dir():
        raise UserError(f"{source}: there is no such folder")
    output = local(output or root / "detections.csv")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists; --overwrite replaces it")
    boxes = read_boxes(boxes) if isinstance(boxes, str | os.PathLike) else dict(boxes or {})
    folder = ImageFolder(root)
    names = sorted(folder.sizes)
    if not names:
        raise UserError(f"{root}: no pictures ({', '.join(ENDINGS)}) in the folder or below it")
    points = {name: _centre(boxes[name]) for name in names if name in boxes}
    if boxes and not points:
        raise UserError(
            f"{source}: none of the {len(boxes)} annotated boxes is for a picture here; the first "
            f"is for {next(iter(boxes))!r}, the first picture is {names[0]!r}"
        )
    partial = output.with_name(output.name + ".partial")
    done, undecodable = _detect(root, names, points, partial, settings, progress)
    _write(output, [done[name] for name in sorted(done)])
    partial.unlink()
    not_found = [name for name in sorted(done) if done[name][1] == ""]
    return {
        "images": len(done),
        "faces": len(done) - len(not_found),
        "not_found": not_found,
        "undecodable": sorted(undecodable),
        "passed_over": dict(folder.left_out),
        "output": str(output),
    }


def _detect(root, names, points, partial, settings: Settings, progress):
    """The row of every picture by its name, and the names of those that do not decode.

    What an interrupted run left in `partial` is not computed again.
    """
    heading = _heading(points, settings)
    done = _resume(partial, heading, set(names))
    if done:
        print(f"{partial}: continues after {len(done)} of {len(names)} pictures")
    left = [name for name in names if name not in done]
    batches = [
        (str(root), batch, [points.get(name) for name in batch], settings)
        for batch in _batches(left, settings.batch_size)
    ]
    undecodable = []
    with (
        naming(partial),
        open(partial, "a", encoding="utf-8", errors="surrogateescape", newline="") as file,
        progress_bar(len(names), "image", show=progress, initial=len(done), desc="detect") as bar,
    ):
        if not file.tell():
            file.write(heading + "\n")
        for rows, bad in _run(batches, settings.processes or os.cpu_count() or 1):
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            done.update((row[0], row) for row in rows)
            undecodable += bad
            bar.update(len(rows) + len(bad))
            if len(undecodable) > settings.max_bad:
                raise UserError(
                    f"{root}: {len(undecodable)} pictures do not decode, more than "
                    f"--max_bad={settings.max_bad}: {_listed(undecodable)}"
                )
    return done, undecodable


@functools.cache
def _detector(minimum_size, maximum_side):
    return Detector(minimum_size, maximum_side)


def _detect_batch(job) -> tuple[list[tuple], list[str]]:
    """The rows of one batch of files, and the names of those that do not decode."""
    root, names, points, settings = job
    good, bad = [], []

    def images():
        for name, point in zip(names, points, strict=True):
            image = _read_image(os.path.join(root, name), settings.max_pixels)
            if image is None:
                bad.append(name)
            else:
                good.append((name, point))
                yield image
            del image

    faces = _detector(settings.minimum_size, settings.maximum_side)(images())
    rows = []
    for (name, point), detections in zip(good, faces, strict=True):
        if point is not None:
            detections = nearest_first(detections, point)
        rows.append((name, *_fields(detections[0] if detections else None)))
    return rows, bad


def _fields(face):
    if face is None:
        return [""] * (len(COLUMNS) - 1)
    return [f"{value:.3f}" for value in (*face.box, face.score, *face.landmarks.flat)]


def _run(batches, processes) -> Iterator[tuple[list[tuple], list[str]]]:
    """The results of all batches, in order."""
    processes = min(processes, len(batches))
    if processes <= 1:
        yield from map(_detect_batch, batches)
        return
    # TensorFlow does not survive a fork.
    executor = concurrent.futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(max(1, (os.cpu_count() or 1) // processes),),
    )
    try:
        yield from executor.map(_detect_batch, batches)
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(
            "a worker process died (out of memory?): the same command with fewer --processes or a "
            "smaller --batch_size continues"
        ) from None
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker(threads):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    cv2.setNumThreads(threads)
    set_keras()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _read_image(path, max_pixels) -> np.ndarray | None:
    """A picture as upright `uint8 [H, W, 3]` RGB, as records hold it; None if they would not."""
    from data_pipelines.formats.images import decodes

    data = pathlib.Path(path).read_bytes()
    try:
        pixels = decode(data, max_pixels)
    except UserError:
        return None
    # OpenCV fills what is missing of these two, which the readers refuse.
    return pixels if decodes(data) or not data.startswith((b"\xff\xd8", b"\x89PNG")) else None


def _centre(box):
    return (float(box[0]) + float(box[2]) / 2, float(box[1]) + float(box[3]) / 2)


def _listed(names, most=20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _batches(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def _resume(partial, heading, names) -> dict[str, tuple]:
    """The rows of an interrupted run, by filename; the file is cut after the last whole row.

    A file with another heading is removed: its rows would answer another question.
    """
    if not partial.exists():
        return {}
    data = partial.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    first, *lines = whole.decode("utf-8", "surrogateescape").split("\n")
    rows = [tuple(row) for row in csv.reader(lines) if row]
    if first != heading or any(len(row) != len(COLUMNS) for row in rows):
        partial.unlink()
        return {}
    os.truncate(partial, len(whole))
    return {row[0]: row for row in rows if row[0] in names}


def _heading(points, settings: Settings) -> str:
    """The line that says of what run a file of finished batches is."""
    annotated = hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()
    sizes = {"minimum_size": float(settings.minimum_size), "maximum_side": settings.maximum_side}
    return f"# {json.dumps(sizes | {'boxes': annotated})}"


def _write(path, rows) -> None:
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
