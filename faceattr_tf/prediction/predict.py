"""Predictions for files: a table of results, and annotated pictures and videos."""

import collections
import contextlib
import csv
import dataclasses
import glob
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2

from data_pipelines.errors import UserError
from data_pipelines.files import local, naming, replacing
from data_pipelines.formats.encoded import ENDINGS, readable, unread
from data_pipelines.formats.images import ImageFolder
from data_pipelines.progress import progress_bar
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Face
from faceattr_tf.prediction.picture import read_picture
from faceattr_tf.prediction.predict_video import predict_video, split_videos
from faceattr_tf.prediction.smoothing import SECONDS
from faceattr_tf.prediction.video import COLUMNS as VIDEO_COLUMNS

FORMATS = ("jsonl", "csv")


@dataclasses.dataclass
class Summary:
    """What `predict` did.

    Attributes:
        images: how many images were judged.
        faces: how many faces were judged in them.
        videos: how many videos were gone through.
        tracks: how many faces were followed and judged in them.
        unreadable: file name -> why it could not be judged.
        faceless: names of images and videos in which no face was found.
        passed_over: kinds of files in the folders that are no images, and how many of each.
    """

    images: int = 0
    faces: int = 0
    videos: int = 0
    tracks: int = 0
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)
    faceless: list[str] = dataclasses.field(default_factory=list)
    passed_over: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def tried(self) -> int:
        """How many images and videos there were."""
        return self.images + self.videos + len(self.unreadable)

    def __str__(self) -> str:
        counts = [f"{self.faces} faces in {self.images} images"]
        if self.videos:
            counts = counts * bool(self.images)
            counts.append(f"{self.tracks} faces in {self.videos} videos")
        return ", ".join(counts)


def predict(
    workdir: str | Path,
    paths: Sequence[str | int | Path],
    *,
    output: str | Path | None = None,
    format: str = "jsonl",
    detect: bool = False,
    annotate: bool | None = None,
    explain: Sequence[str] = (),
    progress: bool = True,
    **options,
) -> Summary:
    """Judges images with a workdir's best model, and writes one row per face.

    Of a video one per face and second, see `faceattr_tf.prediction.video`.

    Args:
        workdir: folder of a training run.
        paths: image files, folders (searched recursively for images), glob patterns, videos, and
            numbers of cameras.
        output: folder for `results.jsonl` or `results.csv`, which appears when it is complete, and
            for `annotated/` and `explained/`, which replace those of an earlier run; None writes
            the rows to standard output.
        format: one of `FORMATS`.
        detect: find the faces first and judge each of them; otherwise one face per image. Of
            videos they are always found.
        annotate: whether to write annotated pictures; None: whenever there is an output folder.
        explain: attributes and classes of which heat maps are drawn, see `Explainer`.
        progress: show a bar, on a terminal.
        options: `seconds`, half-life of answers of a video, see `Smoother`; `consistent` and
            `unsure`, see `Analyzer.from_workdir`; the others are those of `Analyzer`. Images are
            read as many at a time as faces are judged. With a localiser, which needs `detect`, it
            is this that finds them.

    Raises:
        UserError: no image at all, a path or the workdir is missing, `annotate` or `explain`
            without `output`, or what is to be explained is no label of the model. Images that
            cannot be read are no error but part of the summary.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r}: expected one of {', '.join(FORMATS)}")
    output = None if output is None else local(output)
    if annotate and output is None:
        raise UserError("annotated pictures need a folder: give --output=DIR")
    if explain and output is None:
        raise UserError("pictures that explain need a folder: give --output=DIR")
    if explain and options.get("try_rotations"):
        raise UserError("--explain explains pictures as they are: leave out --try_rotations")
    if explain and options.get("unsure"):
        raise UserError("--explain shows what speaks for a yes or a no: leave out --unsure")
    summary, passed_over = Summary(), collections.Counter()
    others, videos = split_videos(paths)
    files = {}
    if others or not videos:
        files = list_images(others, leave_out=output, passed_over=passed_over)
    summary.passed_over = dict(passed_over)
    seconds = options.pop("seconds", SECONDS)
    if videos:
        _refuse_for_videos(explain=explain, **options)
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    analyzer = Analyzer.from_workdir(workdir, **options)
    explainer = None
    if explain:
        from faceattr_tf.prediction.explain import Explainer
        from faceattr_tf.workdir import Workdir

        explainer = Explainer(analyzer, Workdir.open(workdir), explain)
    if files and not detect:
        analyzer.warn_of_whole_pictures()
    if detect or videos:
        analyzer.say_how_faces_are_shown()
    with (
        _writer(output, format, columns=VIDEO_COLUMNS if videos else ()) as write,
        _pictures(output, "annotated") as annotated,
        _pictures(output, "explained") as explained,
    ):
        drawn = None if annotate is False else annotated
        with progress_bar(len(files), "image", show=progress and bool(files)) as bar:
            for name, faces in _analyze_all(analyzer, list(files), detect, summary, bar):
                write(faces)
                if drawn is not None:
                    _annotate(name, faces, drawn / files[name])
                for number, face in enumerate(faces if explainer else (), 1):
                    prefix = f"{number}-" if len(faces) > 1 else ""
                    explainer.write(face, explained / files[name], prefix)
        taken = set(files.values())
        for video in videos:
            name = Path(video).name if isinstance(video, str) else f"camera-{video}"
            target = drawn and drawn / unused(Path(name), taken)
            settings = {"annotated": target, "seconds": seconds, "progress": progress}
            _predict_video(video, write, analyzer, settings, summary)
    return summary


def _refuse_for_videos(**options) -> None:
    """Raises UserError for what is for pictures alone."""
    flags = dict.fromkeys(("try_rotations", "consistent", "unsure", "explain"), "")
    flags["localiser"] = "localise"
    for name, flag in flags.items():
        if options.get(name):
            raise UserError(f"--{flag or name} is for pictures: leave it out for videos")


def _predict_video(video, write, analyzer, settings: dict, summary: Summary) -> None:
    """Judges a video; that it cannot be read is noted in the summary."""
    name = f"camera {video}" if isinstance(video, int) else video
    found = 0

    def note(faces) -> None:
        nonlocal found
        found += len(faces)
        write(faces)

    try:
        summary.tracks += predict_video(video, note, analyzer, **settings)
        summary.videos += 1
    except UserError as error:
        summary.unreadable[name] = str(error)
    else:
        if not found:
            summary.faceless.append(name)


def list_images(
    paths: Iterable[str | Path],
    leave_out: str | Path | None = None,
    passed_over: collections.Counter[str] | None = None,
) -> dict[str, Path]:
    """The image files that `paths` name, each once, in order.

    Args:
        paths: files, folders (searched as by `ImageFolder`) and glob patterns. A file that is
            named itself may end in anything.
        leave_out: a folder whose content is not taken, such as the one of the results.
        passed_over: counts the kinds of files in folders, and of a pattern's, that are no images.

    Returns:
        File name -> its path relative to the folder through which it was found, numbered where
        another file has the same.

    Raises:
        UserError: a path does not exist, a pattern matches nothing, or there is no image at all.
    """
    paths = [str(local(path)) for path in paths]
    excluded = Path(leave_out).resolve() if leave_out is not None else None
    passed_over = collections.Counter() if passed_over is None else passed_over
    found, taken = {}, set()
    for path in paths:
        matches = [path] if os.path.lexists(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            kind = "pattern that matches nothing" if glob.has_magic(path) else "no such file"
            raise UserError(f"{path}: {kind}; expected images, folders or patterns")
        for match in map(Path, matches):
            base, inside = match.parent, [match]
            if match.is_dir():
                folder = ImageFolder(match)
                base, inside = match, [match / name for name in folder.sizes]
                passed_over.update(folder.left_out)
            elif matches != [path] and not readable(match.name):
                passed_over[unread(match.name)] += 1
                continue
            for file in inside:
                if excluded and excluded in file.resolve().parents:
                    continue
                if str(file) not in found:
                    found[str(file)] = unused(file.relative_to(base), taken)
    if not found:
        others = "; ".join(f"{count} {what}" for what, count in passed_over.items())
        raise UserError(
            f"{', '.join(paths) or 'no path given'}: no image found; expected files that end in "
            f"{', '.join(ENDINGS)}{others and f'; there are {others}'}"
        )
    return found


def unused(path: Path, taken: set[Path]) -> Path:
    """The path, or with a number the first one that is not taken; it is, from now on."""
    candidates = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in itertools.count(2))
    path = next(item for item in itertools.chain([path], candidates) if item not in taken)
    taken.add(path)
    return path


def _analyze_all(
    analyzer: Analyzer, names: list[str], detect: bool, summary: Summary, bar
) -> Iterator[tuple[str, list[Face]]]:
    """Name and faces of each image that can be read, as many at a time as faces are judged."""
    for start in range(0, len(names), analyzer.batch_size):
        batch = names[start : start + analyzer.batch_size]
        yield from _analyze(analyzer, batch, detect, summary)
        bar.update(len(batch))


def _analyze(
    analyzer: Analyzer, names: list[str], detect: bool, summary: Summary
) -> Iterator[tuple[str, list[Face]]]:
    """Name and faces of each image that can be read; the others are noted in the summary."""
    try:
        results = (
            analyzer.analyze(names, detect=True)
            if detect
            else [[face] for face in analyzer.analyze(names)]
        )
    except UserError as error:
        if len(names) == 1:
            summary.unreadable[names[0]] = str(error)
            return
        for name in names:
            yield from _analyze(analyzer, [name], detect, summary)
        return
    for name, faces in zip(names, results, strict=True):
        summary.images += 1
        summary.faces += len(faces)
        if not faces:
            summary.faceless.append(name)
        yield name, faces


@contextlib.contextmanager
def _writer(output: str | Path | None, format: str, columns: Sequence[str] = ()):
    """A function that writes faces as rows; a file appears under its name when it is complete.

    Args:
        output: its folder; None for standard output.
        format: one of `FORMATS`.
        columns: those behind the name that a table has in any case.
    """
    with contextlib.ExitStack() as stack:
        if output is None:
            file = sys.stdout
        else:
            temporary = stack.enter_context(replacing(Path(output, f"results.{format}")))
            file = stack.enter_context(
                open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="")
            )
        yield _write_csv(file, columns) if format == "csv" else _write_jsonl(file)


@contextlib.contextmanager
def _pictures(output: str | Path | None, kind: str) -> Iterator[Path | None]:
    """A folder for pictures of a kind, which at the end takes the place of an earlier run's."""
    if output is None:
        yield None
        return
    with tempfile.TemporaryDirectory(dir=output, prefix=f".{kind}-") as folder:
        drawn, earlier = Path(folder, "drawn"), Path(output, kind)
        drawn.mkdir()
        with naming(output):
            yield drawn
        if earlier.exists():
            os.replace(earlier, Path(folder, "earlier"))
        if any(drawn.iterdir()):
            os.replace(drawn, earlier)


def _write_jsonl(file):
    def write(faces: Sequence[Face]) -> None:
        file.writelines(json.dumps(face.to_dict()) + "\n" for face in faces)
        file.flush()  # of a camera, somebody may wait for them

    return write


def _write_csv(file, columns: Sequence[str]):
    table = None

    def write(faces: Sequence[Face]) -> None:
        nonlocal table
        for row in (face.to_row() for face in faces):
            row = {"filename": None} | dict.fromkeys(columns) | row
            if table is None:
                table = csv.DictWriter(file, row, lineterminator="\n")
                table.writeheader()
            table.writerow(row)
        file.flush()

    return write


def _annotate(name: str, faces: list[Face], target: Path) -> None:
    from faceattr_tf.prediction.annotate import annotate_faces

    pixels = read_picture(name, sys.maxsize).pixels()
    if target.suffix.lower() not in (".jpg", ".jpeg"):
        target = target.with_name(target.name + ".jpg")
    target.parent.mkdir(parents=True, exist_ok=True)
    drawn = annotate_faces(pixels, faces)
    content = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    target.write_bytes(content.tobytes())
