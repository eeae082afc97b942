"""Predictions for videos and cameras: rows per track and second, and annotated copies."""

import contextlib
import glob
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_pipelines.detection.mtcnn import Detector
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.video import SMALL, VideoFrames, VideoWriter, is_video
from data_pipelines.progress import progress_bar
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.annotate import annotate_faces
from faceattr_tf.prediction.smoothing import SECONDS
from faceattr_tf.prediction.video import THRESHOLDS, Frame, VideoAnalyzer


def split_videos(
    paths: Iterable[str | int | Path],
) -> tuple[list[str], list[str | int]]:
    """Those of `paths` that are no videos, and the videos and cameras, each once, in order.

    A video is a file that ends like one, named itself or by a pattern; folders are searched for
    pictures alone. A camera is a number.
    """
    others, videos = [], {}
    for path in paths:
        if isinstance(path, int):
            videos[path] = None
            continue
        name = str(local(path))
        matches = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))
        found = [match for match in matches if is_video(match) and not os.path.isdir(match)]
        videos.update(dict.fromkeys(found))
        if len(found) < len(matches) or not matches:
            others.append(name)
    return others, list(videos)


def predict_video(
    source: str | int,
    write: Callable,
    analyzer: Analyzer,
    *,
    annotated: Path | None = None,
    seconds: float = SECONDS,
    progress: bool = True,
) -> int:
    """Judges the faces of a video.

    Args:
        source: the video's file, or the number of a camera, which ends when it is interrupted.
        write: takes the rows of every second that is over.
        analyzer: judges the faces.
        annotated: the file of a video with what is said drawn on it, without its ending.
        seconds: half-life of answers, see `Smoother`.
        progress: show a bar, on a terminal.

    Returns:
        The number of faces that were followed and judged.

    Raises:
        UserError: the video cannot be read to its end, after what was read of it is done.
    """
    frames = VideoFrames(source, analyzer.max_pixels)
    detector = Detector(analyzer.minimum_size, analyzer.maximum_side, THRESHOLDS)
    following = VideoAnalyzer(
        frames.name, detector, analyzer, seconds=seconds, keep_pixels=annotated is not None
    )
    with contextlib.ExitStack() as stack:
        draw = None
        if annotated is not None:
            annotated.parent.mkdir(parents=True, exist_ok=True)
            file = annotated.with_name(annotated.name + SMALL[0])
            draw = stack.enter_context(VideoWriter(file, SMALL[1], frames.rate))
        for frame in shown(following, frames, progress):
            if frame.rows:
                write(frame.rows)
            if draw is not None:
                titles = [str(face.track) for face in frame.faces]
                draw(annotate_faces(frame.pixels, frame.faces, titles=titles, columns=2))
    say_what_is_missing(frames, copied=annotated is not None)
    return len(following.tracks)


def shown(following: VideoAnalyzer, frames: VideoFrames, progress: bool) -> Iterator[Frame]:
    """Frames with what is known of them, and a bar on a terminal."""
    with progress_bar(frames.count, "frame", show=progress, desc=frames.name) as bar:
        for frame in following(_until_interrupted(frames)):
            bar.update()
            yield frame


def say_what_is_missing(frames: VideoFrames, copied: bool) -> None:
    """What is to be known of a video when it is over.

    Args:
        frames: they were gone through.
        copied: whether a video was written of them, whose frames are equally distant.

    Raises:
        UserError: it has fewer frames than its header promises.
    """
    if frames.uneven and copied:
        print(
            f"{frames.name}: its frames are not equally distant in time, those of its copy are",
            file=sys.stderr,
        )
    if frames.missing:
        raise UserError(
            f"{frames.name}: only {frames.read} of {frames.count} frames could be read; "
            "they are done"
        )


def _until_interrupted(frames: VideoFrames) -> Iterator:
    """The frames; of a camera, an interruption is the end, and what was seen is done."""
    if not frames.camera or threading.current_thread() is not threading.main_thread():
        yield from frames
        return
    stopped = False

    def stop(*_) -> None:
        nonlocal stopped
        stopped = True
        signal.signal(signal.SIGINT, before)  # a second one is meant as usual

    before = signal.signal(signal.SIGINT, stop)
    try:
        for frame in frames:
            if stopped:
                return
            yield frame
    finally:
        signal.signal(signal.SIGINT, before)
