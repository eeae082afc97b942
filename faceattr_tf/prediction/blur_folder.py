"""A folder of pictures and videos without faces, and the table of what was covered in them."""

import collections
import contextlib
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.detection.mtcnn import MAXIMUM_SIDE, MINIMUM_SIZE, Detector
from data_pipelines.errors import UserError
from data_pipelines.files import local, replacing
from data_pipelines.formats.encoded import MAX_PIXELS, decode, encode
from data_pipelines.formats.video import LOSSLESS, VideoFrames, VideoWriter
from data_pipelines.progress import progress_bar
from faceattr_tf.prediction.anonymise import THRESHOLDS, Anonymiser
from faceattr_tf.prediction.predict import Summary, list_images, unused
from faceattr_tf.prediction.predict_video import say_what_is_missing, shown, split_videos
from faceattr_tf.prediction.video import VideoAnalyzer

TABLE = "boxes.csv"
COLUMNS = ("filename", "frame", "left", "top", "width", "height")

SIDE = 4096
"""Width or height up to which pictures are looked at as they are, in place of `MAXIMUM_SIDE`."""


def anonymise(
    paths: Sequence[str | int | Path],
    folder: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: bool = True,
    **options,
) -> Summary:
    """Writes copies of images and videos in which faces are covered.

    Args:
        paths: image files, folders (searched recursively for images), glob patterns, videos, and
            numbers of cameras.
        folder: where the copies go, named as they are, with the ending of their format behind.
        max_pixels: what is larger by its header is not decoded.
        progress: show bars, on a terminal.
        options: those of `BlurFolder.open`.

    Returns:
        `faceless` names those in which nothing was covered; their copies are there, too.

    Raises:
        UserError: nothing to do, or a path is missing. What cannot be read is no error but part of
            the summary.
    """
    others, videos = split_videos(paths)
    passed_over: collections.Counter[str] = collections.Counter()
    files = {}
    if others or not videos:
        files = list_images(others, leave_out=folder, passed_over=passed_over)
    summary = Summary(passed_over=dict(passed_over))
    taken = set(files.values())
    sources = [*files, *(video for video in videos if isinstance(video, str))]
    with BlurFolder.open(folder, sources, **options) as blurred:
        with progress_bar(len(files), "image", show=progress and bool(files)) as bar:
            for file, name in files.items():
                with _noted(file, summary):
                    count = blurred.picture(file, name, max_pixels)
                    summary.images += 1
                    summary.faceless += [file] * (not count)
                bar.update()
        for video in videos:
            known = isinstance(video, str)
            name = unused(Path(Path(video).name if known else f"camera-{video}"), taken)
            with _noted(video if known else f"camera {video}", summary):
                count = blurred.video(video, name, max_pixels, progress)
                summary.videos += 1
                summary.faceless += [str(video)] * (not count)
    return summary


@contextlib.contextmanager
def _noted(name: str, summary: Summary) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        summary.unreadable[name] = str(error)


class BlurFolder:
    """Writes copies in which faces are covered.

    Pictures become PNG: upright, 8 bits a colour, every pixel outside of what was covered as it was
    decoded. Videos become FFV1 in Matroska, which is as exact. Neither has what else the file says
    (place, device, dates, a preview that shows the face), nor videos their sound.

    Attributes:
        path: the folder.
        detector: finds what might be a face.
    """

    def __init__(self, path: Path, detector: Detector, table, rotations: bool, kept: set[Path]):
        """Is made by `open`."""
        self._kept = kept
        self.path, self.detector, self._rotations = path, detector, rotations
        self._table = csv.writer(table, lineterminator="\n")
        self._table.writerow(COLUMNS)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        path: str | Path,
        sources: Iterable[str | Path],
        *,
        minimum_size: float = MINIMUM_SIZE,
        maximum_side: int = MAXIMUM_SIDE,
        try_rotations: bool = False,
    ) -> Iterator["BlurFolder"]:
        """Makes the folder; the table appears in it when the block ends well.

        Args:
            path: the folder. Files in it of the same names are replaced.
            sources: files of which copies will be made, and which no copy may replace.
            minimum_size: side in pixels of the smallest face that is looked for.
            maximum_side: width or height in pixels above which faces are looked for in a reduced
                copy, where it is more than `SIDE`.
            try_rotations: look for faces that lie on their side or on their head, too.
        """
        path = local(path)
        path.mkdir(parents=True, exist_ok=True)
        detector = Detector(minimum_size, max(maximum_side, SIDE), THRESHOLDS)
        with (
            replacing(path / TABLE) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as table,
        ):
            yield cls(
                path, detector, table, try_rotations, {Path(one).resolve() for one in sources}
            )

    def picture(self, source: str | Path, name: Path, max_pixels: int) -> int:
        """Writes a picture without faces; how many parts of it were covered.

        Args:
            source: the picture's file.
            name: that of the copy, without the ending `.png` where it has another one.
            max_pixels: one that is larger by its header is refused.

        Raises:
            UserError: it cannot be read, or its copy would replace another file.
        """
        try:
            pixels = decode(Path(source).read_bytes(), max_pixels)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
        except OSError as error:
            raise UserError(f"{source}: {error.strerror.lower()}") from error
        (found,) = self.detector([pixels])
        covered, parts = Anonymiser(self.detector, self._rotations)(
            pixels, [face.box for face in found]
        )
        with replacing(self._target(name, ".png")) as file:
            file.write_bytes(encode(covered))
        self._note(source, None, parts)
        return len(parts)

    def video(self, source: str | int, name: Path, max_pixels: int, progress: bool = True) -> int:
        """Writes a video without faces; how many parts of its frames were covered.

        Whatever might be a face is followed, so that it is covered also where it is not found.

        Args:
            source: the video's file, or the number of a camera.
            name: that of the copy, without the ending `.mkv` where it has another one.
            max_pixels: frames that are larger are refused.
            progress: show a bar, on a terminal.

        Raises:
            UserError: it cannot be read to its end, after what was read of it is done, or its copy
                would replace another file.
        """
        target = self._target(name, LOSSLESS[0])
        frames = VideoFrames(source, max_pixels)
        anonymise = Anonymiser(self.detector, self._rotations)
        following = VideoAnalyzer(frames.name, self.detector, keep_pixels=True, certain=0.0)
        count = 0
        with replacing(target) as file, VideoWriter(file, LOSSLESS[1], frames.rate) as write:
            for frame in shown(following, frames, progress):
                covered, parts = anonymise(frame.pixels, frame.others, frame.tracks)
                write(covered)
                self._note(frames.name, frame.index, parts)
                count += len(parts)
        say_what_is_missing(frames, copied=True)
        return count

    def _target(self, name: Path, ending: str) -> Path:
        target = self.path / name
        if target.suffix.lower() != ending:
            target = target.with_name(target.name + ending)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.resolve() in self._kept:
            raise UserError(f"{target}: a copy would replace it: give another folder to --blur")
        return target

    def _note(self, source, frame: int | None, parts) -> None:
        for left, top, right, bottom in np.unique(np.array(parts).reshape(-1, 4), axis=0).tolist():
            self._table.writerow([source, frame, left, top, right - left, bottom - top])
