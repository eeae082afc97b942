"""Videos as OpenCV reads and writes them, frame by frame: nothing is held but one frame.

Frames come upright, by the rotation that a video file states. Pictures are encoded again where a
video is written; sound and what else a file has (place, device, dates, subtitles) are not carried
over.
"""

import math
import os
import pathlib
from collections.abc import Iterator
from typing import Self

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".mts", ".m2ts", ".ts", ".ogv"),
)
"""Endings of videos, in any case."""

LOSSLESS = ".mkv", "FFV1"
"""Ending and codec of videos that give every pixel back as it was written."""

SMALL = ".webm", "VP80"
"""Ending and codec of videos to be looked at, which browsers play."""

_RATES = 1.0, 240.0  # frames/s that are believed
_RATE = 25.0
_EVEN = 1.5  # of frames' distances, the longest one over the mean, where they count as equal


def is_video(name: str | os.PathLike) -> bool:
    """Whether a file of this name counts as a video, by its ending."""
    return os.fspath(name).lower().endswith(ENDINGS)


class VideoFrames:
    """The frames of a video file or a camera, to be gone through once.

    Attributes:
        name: the file's name, or `camera N`.
        width, height: of the upright frames, in pixels.
        rate: frames/s by the header; None where it says nothing that makes sense.
        count: frames by the header, which may be wrong by some; None where it does not say.
        read: how many frames were read.
    """

    def __init__(self, source: str | os.PathLike | int, max_pixels: int):
        """Opens a file, or a camera by its number.

        Args:
            source: which.
            max_pixels: a video whose frames are larger is refused.

        Raises:
            UserError: there is no such file or camera, it is no video that OpenCV reads, or its
                frames are too large.
        """
        import cv2

        self.camera = isinstance(source, int)
        if self.camera:
            self.name, self._capture = f"camera {source}", cv2.VideoCapture(source)
        else:
            self.name = str(source)
            path = local(source)
            try:
                path.open("rb").close()  # OpenCV does not say why it cannot read a file
            except OSError as error:
                raise UserError(f"{self.name}: {error.strerror.lower()}") from error
            self._capture = cv2.VideoCapture(_checked(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            what = "there is no such camera, or it is in use"
            if not self.camera:
                what = "not a video that can be read: damaged, empty, or of an unknown format"
            raise UserError(f"{self.name}: {what}")
        # Without it, some backends give frames as they are stored.
        self._capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        self.width, self.height = (
            int(self._capture.get(side))
            for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if self.width * self.height > max_pixels:
            self.close()
            raise UserError(
                f"{self.name}: frames of {self.width:,} x {self.height:,} pixels, more than "
                f"--max_pixels={max_pixels}"
            )
        rate, count = (
            self._capture.get(one) for one in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT)
        )
        self.rate = rate if _RATES[0] <= rate <= _RATES[1] else None
        known = not self.camera and math.isfinite(count) and count > 0
        self.count = int(count) if known else None
        self.read = 0
        self._distances: list[float] = [0.0, 0.0]  # the longest one, their sum

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time in seconds from the first frame, and pixels uint8 RGB `[H, W, 3]`, of every frame.

        Raises:
            UserError: there is no frame that can be decoded, or one of another size.
        """
        import cv2

        time, first = 0.0, None
        try:
            while True:
                given, frame = self._capture.read()
                if not given:
                    break
                stated = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if first is None:
                    first, (self.height, self.width) = stated, frame.shape[:2]
                # Some files state no times, or some that go back.
                later = stated - first
                if self.read:
                    step = later - time if later > time else 1 / (self.rate or _RATE)
                    self._distances = [max(self._distances[0], step), self._distances[1] + step]
                    time += step
                self.read += 1
                if frame.shape[:2] != (self.height, self.width):
                    height, width = frame.shape[:2]
                    raise UserError(
                        f"{self.name}: frame {self.read} has {width} x {height} pixels, those "
                        f"before it {self.width} x {self.height}"
                    )
                yield time, np.ascontiguousarray(_three_channels(frame)[..., ::-1])
        finally:
            self.close()
        if not self.read:
            raise UserError(f"{self.name}: it has no frame that can be decoded")

    @property
    def missing(self) -> int:
        """How many frames the header promises beyond those that were read; 0 for a few."""
        lacking = (self.count or 0) - self.read
        return lacking if lacking > max(3, 0.02 * (self.count or 0)) else 0

    @property
    def uneven(self) -> bool:
        """Whether the frames that were read do not follow each other at equal distances."""
        longest, total = self._distances
        return self.read > 2 and longest > _EVEN * total / (self.read - 1)

    def close(self) -> None:
        """Lets go of the file or the camera."""
        self._capture.release()


def _checked(path: pathlib.Path) -> str:
    """A path that OpenCV can be given: of others the process ends without a word."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: a name that is not UTF-8, which OpenCV cannot open") from None
    return str(path)


def _three_channels(frame: np.ndarray) -> np.ndarray:
    if frame.ndim == 2 or frame.shape[2] == 1:
        return np.repeat(frame.reshape(*frame.shape[:2], 1), 3, axis=2)
    return frame[..., :3]


class VideoWriter:
    """Writes a video of equally distant frames.

    >>> with replacing("x.mkv") as file, VideoWriter(file, LOSSLESS[1], 25.0) as write:
    ...     write(pixels)

    Codecs take frames of even sides: of odd ones, the last column or row is repeated.
    """

    def __init__(self, file: str | os.PathLike, codec: str, rate: float | None):
        """Remembers them; the file begins with the first frame, which gives the size.

        Args:
            file: path with the ending of the container.
            codec: four letters, as of `LOSSLESS`.
            rate: frames/s; None for 25.
        """
        self._file, self._codec, self._rate = pathlib.Path(file), codec, rate or _RATE
        self._writer, self._size, self._written = None, None, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind, *_) -> None:
        import cv2

        if self._writer is None:
            return
        self._writer.release()
        if kind is None:
            # OpenCV says nothing of a disk that is full.
            written = cv2.VideoCapture(str(self._file), cv2.CAP_FFMPEG)
            count = written.get(cv2.CAP_PROP_FRAME_COUNT) if written.isOpened() else 0
            written.release()
            if count < 0.99 * self._written - 1:
                raise UserError(f"{self._file}: the video could not be written; is the disk full?")

    def __call__(self, pixels: np.ndarray) -> None:
        """Adds a frame, uint8 RGB `[H, W, 3]`, of the same size as the first one.

        Raises:
            UserError: OpenCV has no such codec, or the frame has another size.
        """
        import cv2

        height, width = pixels.shape[:2]
        if self._writer is None:
            self._size = height, width
            even = width + width % 2, height + height % 2
            letters = cv2.VideoWriter_fourcc(*self._codec)
            name = _checked(self._file)
            self._writer = cv2.VideoWriter(name, cv2.CAP_FFMPEG, letters, self._rate, even)
            if not self._writer.isOpened():
                raise UserError(
                    f"{self._file}: this OpenCV does not write {self._codec} videos of "
                    f"{even[0]} x {even[1]} pixels"
                )
        if (height, width) != self._size:
            was = f"{self._size[1]} x {self._size[0]}"
            raise UserError(
                f"{self._file}: a frame of {width} x {height} pixels in a video of {was}"
            )
        frame = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        self._written += 1
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))
