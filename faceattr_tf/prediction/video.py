"""Faces of videos: found, followed, judged and smoothed, as frames come.

Nothing grows with the length of a video. Frames leave `PATIENCE` later than they come, since only
then is it known whether a face that is not found was there all the same, between two frames in
which it is. A track of fewer than `CONFIRMED` found faces within that time says nothing: what
MTCNN takes for a face in single frames is mostly none.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from data_pipelines.detection.mtcnn import Detection, Detector, largest_first
from data_pipelines.detection.tracking import CERTAIN, PATIENCE, Track, Tracker
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Face
from faceattr_tf.prediction.smoothing import SECONDS, Smoother

THRESHOLDS = (0.6, 0.6, 0.6)
"""Of MTCNN in videos, below those for pictures: less certain faces go on with tracks."""

CONFIRMED = 3
"""In how many frames a face must be found before anything is said of it."""

COLUMNS = ("track", "second", "frames")
"""What a row of a video's face has beyond that of a picture's."""

_TOGETHER = 4  # frames that go through the networks at a time


@dataclasses.dataclass(frozen=True)
class TrackedFace(Face):
    """What is said of a face of a video, as of one of its frames.

    Attributes:
        track: number of the track, from 1 on.
        second: which second of the video the frame belongs to, from 0 on.
        frames: in how many frames of that second the face was found, up to this one.
    """

    track: int = 0
    second: int = 0
    frames: int = 0

    def to_row(self) -> dict[str, str | float | bool | None]:
        """As that of a picture's face, and `COLUMNS` behind the name of the file."""
        row = super().to_row()
        return {"filename": row.pop("filename")} | {n: getattr(self, n) for n in COLUMNS} | row


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame with all that is known of it.

    Attributes:
        index: from 0 on.
        time: seconds from the first frame.
        pixels: uint8 RGB `[H, W, 3]`; None unless they are asked for.
        faces: what is said of the faces in it, by their tracks; one that is between two frames in
            which it is found has an interpolated box, and what was said last.
        others: boxes `[4]` of what may be a face and belongs to no track.
        tracks: the boxes of tracks in it, also shortly before they begin and after they end.
        rows: of the second that is over with this frame, the last of each face, by track.
    """

    index: int
    time: float
    pixels: np.ndarray | None
    faces: list[TrackedFace]
    others: list[np.ndarray]
    tracks: dict[int, np.ndarray]
    rows: list[TrackedFace]


@dataclasses.dataclass
class _Seen:
    """A frame that waits until it is known what comes after it."""

    index: int
    time: float
    pixels: np.ndarray | None
    found: list[Detection]
    tracks: list[Track | None]
    said: list[dict | None]


class VideoAnalyzer:
    """Goes through the frames of a video.

    Args:
        name: the video's, for rows.
        detector: finds the faces, best with `THRESHOLDS`.
        analyzer: judges them; None to follow them alone.
        seconds: half-life of answers, see `Smoother`.
        keep_pixels: whether frames leave with their pixels.
        certain: score from which on a face begins a track.
    """

    def __init__(
        self,
        name: str,
        detector: Detector,
        analyzer: Analyzer | None = None,
        *,
        seconds: float = SECONDS,
        keep_pixels: bool = False,
        certain: float = CERTAIN,
    ):
        """Begins with no track."""
        self._name, self._detector, self._analyzer = name, detector, analyzer
        self._seconds, self._keep_pixels = seconds, keep_pixels
        self._tracker = Tracker(certain)
        self._smoothers: dict[int, Smoother] = {}
        self._last: dict[int, TrackedFace] = {}
        self._rows: dict[int, TrackedFace] = {}
        self._counts: collections.Counter[int] = collections.Counter()
        self._second = 0
        self.tracks: set[int] = set()
        """Numbers of the tracks of which something was said."""

    def __call__(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[Frame]:
        """Frames with what is known of them.

        Args:
            frames: time in seconds, and pixels uint8 RGB `[H, W, 3]`, as of `VideoFrames`.
        """
        waiting: collections.deque[_Seen] = collections.deque()
        numbered = ((index, *frame) for index, frame in enumerate(frames))
        while part := list(itertools.islice(numbered, _TOGETHER)):
            for seen in self._see(part):
                waiting.append(seen)
                if len(waiting) > PATIENCE + 1:
                    yield self._leave(waiting.popleft(), waiting[0].time)
        while waiting:
            seen = waiting.popleft()
            yield self._leave(seen, waiting[0].time if waiting else float("inf"))

    def _see(self, part) -> list[_Seen]:
        found = self._detector(pixels for _, _, pixels in part)
        found = [largest_first(faces) for faces in found]
        tracks = [
            self._tracker(pixels, faces) for (_, _, pixels), faces in zip(part, found, strict=True)
        ]
        judged = [
            [face for face, track in zip(*pair, strict=True) if track][: self._at_most]
            for pair in zip(found, tracks, strict=True)
        ]
        if self._analyzer is not None:
            said = self._analyzer.judge(np.stack([pixels for _, _, pixels in part]), judged)
        else:
            said = [[{} for _ in faces] for faces in judged]
        seen = []
        for (index, time, pixels), *rest in zip(part, found, tracks, said, strict=True):
            answers = iter(rest.pop())
            own = [next(answers, None) if track else None for track in rest[1]]
            seen.append(_Seen(index, time, pixels if self._keep_pixels else None, *rest, own))
        return seen

    @property
    def _at_most(self) -> int | None:
        return self._analyzer.faces if self._analyzer else None

    def _leave(self, seen: _Seen, following: float) -> Frame:
        """The frame `seen`, of which it is known now what came after it."""
        remembered = {track.number: track for track in self._tracker.tracks}
        faces = []
        for face, track, said in zip(seen.found, seen.tracks, seen.said, strict=True):
            if track is not None and said is not None and track.found >= CONFIRMED:
                faces.append(self._say(seen, face, track.number, said))
        here = {face.track for face in faces}
        boxes = {}
        for number, track in remembered.items():
            box = track.box(seen.index, PATIENCE)
            if box is None:
                continue
            boxes[number] = box
            if number in self._last and number not in here and track.found_around(seen.index):
                place = {"box": tuple(box.tolist()), "landmarks": None, "score": None}
                faces.append(dataclasses.replace(self._last[number], **place))
        for number in set(self._last) - set(remembered):
            del self._last[number], self._smoothers[number]
        rows = []
        if following >= self._second + 1:
            rows = [self._rows[number] for number in sorted(self._rows)]
            self._rows.clear()
            self._counts.clear()
            self._second = int(min(following, 1e9))  # infinite after the last one
        others = [f.box for f, track in zip(seen.found, seen.tracks, strict=True) if track is None]
        return Frame(seen.index, seen.time, seen.pixels, faces, others, boxes, rows)

    def _say(self, seen: _Seen, face: Detection, number: int, said: dict) -> TrackedFace:
        if number not in self._smoothers:
            tasks = self._analyzer.tasks if self._analyzer else ()
            calibration = self._analyzer.calibration if self._analyzer else {}
            self._smoothers[number] = Smoother(tasks, calibration, self._seconds)
        self._counts[number] += 1
        points = zip(LANDMARK_NAMES, face.landmarks.tolist(), strict=True)
        tracked = TrackedFace(
            self._name,
            tuple(face.box.tolist()),
            {name: (x, y) for name, (x, y) in points},
            float(face.score),
            self._smoothers[number](seen.time, said),
            track=number,
            second=int(seen.time),
            frames=self._counts[number],
        )
        self.tracks.add(number)
        self._last[number] = self._rows[number] = tracked
        return tracked
