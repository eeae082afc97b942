"""What the page asks for: the faces of a picture, and where an answer about one comes from."""

import collections
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import decode, read_header
from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.explanation import explained_tasks
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Face
from faceattr_tf.prediction.picture import read_picture
from faceattr_tf.reports.page import plain
from faceattr_tf.workdir import Workdir

HELD = 4
"""Pictures whose faces can still be explained; of more, the oldest is forgotten."""

PATIENCE = 60.0
"""Seconds that a request waits for the ones before it."""

_COPY = 2048  # longest side in pixels of a picture that the page is sent because it cannot show it
_QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 92]


class BusyError(UserError):
    """Those before have not been answered yet."""


@dataclasses.dataclass(frozen=True)
class _Held:
    content: bytes
    faces: list[Face]


class Service:
    """Answers about pictures, one at a time, of which it remembers the last few.

    Args:
        analyzer: the model and all that it needs.
        workdir: the run that it is of.
        patience: seconds that a request waits for the ones before it.
    """

    def __init__(self, analyzer: Analyzer, workdir: Workdir, patience: float = PATIENCE):
        """Finds out what can be explained; nothing is computed."""
        self.analyzer, self.workdir, self.patience = analyzer, workdir, patience
        self._numbers = itertools.count(1)
        self._held: collections.OrderedDict[int, _Held] = collections.OrderedDict()
        self._one_at_a_time = threading.Lock()
        from faceattr_tf.prediction.explain import Explainer

        self._explainer = None
        self.unexplained = ""
        try:
            self._explainer = Explainer(analyzer, workdir, _names_of_labels(analyzer.tasks))
        except UserError as error:
            self.unexplained = str(error)

    @property
    def cannot_detect(self) -> str:
        """Why faces in pictures cannot be judged, but only pictures that are one; empty if they can."""
        try:
            self.analyzer.check_tells_faces_apart()
        except UserError as error:
            return str(error)
        return ""

    @property
    def explained(self) -> list[str]:
        """The labels of which maps can be drawn."""
        return list(self._explainer.columns) if self._explainer else []

    @property
    def tasks(self) -> list[dict]:
        """Name, kind and labels of every task, and the thresholds of those with any."""
        return [
            {
                "name": task.name,
                "kind": "multiclass" if task.kind in CLASS_KINDS else task.kind,
                "labels": list(task.labels),
                "thresholds": self._thresholds(task),
            }
            for task in self.analyzer.tasks
        ]

    def _thresholds(self, task: Task) -> list[float]:
        if task.kind != "multilabel":
            return []
        stored = self.analyzer.calibration.get(task.name, {}).get("thresholds")
        return [float(value) for value in stored or [0.5] * len(task.labels)]

    def analyze(self, content: bytes, whole: bool = False) -> dict:
        """What the model says of all faces of a picture.

        Args:
            content: of an image file.
            whole: look for no faces, and judge the picture as one.

        Returns:
            `picture`, its number for `explain` and `copy`; `width` and `height` of the upright
            picture in pixels; and `faces`, each what `Face.to_dict` gives.

        Raises:
            UserError: it is no image that can be decoded, or is too large; or too many wait.
        """
        with self._turn():
            picture = read_picture(content, self.analyzer.max_pixels)
            if whole:
                faces = [self.analyzer.analyze(picture.content)]
            else:
                faces = self.analyzer.analyze(picture.content, detect=True)
            number = next(self._numbers)
            self._held[number] = _Held(picture.content, faces)
            while len(self._held) > HELD:
                self._held.popitem(last=False)
            header = read_header(picture.content, self.analyzer.max_pixels)
        size = {"width": header.width, "height": header.height}
        return {"picture": number, **size, "faces": [plain(face.to_dict()) for face in faces]}

    def explain(self, picture: int, face: int, label: str) -> bytes:
        """The maps of an answer as a JPEG, see `Explainer.draw`.

        Args:
            picture: its number.
            face: place among the faces of the picture, from 0.
            label: one of `explained`.

        Raises:
            UserError: the picture is forgotten, there is no such face or label, or too many wait.
        """
        if label not in self.explained:
            raise UserError(self.unexplained or f"{label!r}: no label that can be explained")
        with self._turn():
            held = self._known(picture)
            if not 0 <= face < len(held.faces):
                raise UserError(f"face {face + 1}: the picture has {len(held.faces)}")
            drawn = self._explainer.draw(held.faces[face], held.content, [label])
            return _jpeg(drawn[label])

    def copy(self, picture: int) -> bytes:
        """A picture upright as a JPEG of at most `_COPY` pixels a side, for who cannot show it.

        Raises:
            UserError: it is forgotten, or too many wait.
        """
        with self._turn():
            pixels = decode(self._known(picture).content, self.analyzer.max_pixels)
            factor = min(1.0, _COPY / max(pixels.shape[:2]))
            size = [max(1, round(side * factor)) for side in pixels.shape[1::-1]]
            return _jpeg(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))

    def finish(self, seconds: float) -> None:
        """Waits until what is being computed is done, so long at most; no more is begun."""
        self._one_at_a_time.acquire(timeout=seconds)

    def _known(self, picture: int) -> _Held:
        if picture not in self._held:
            raise UserError("the picture is no longer held: choose it again")
        return self._held[picture]

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._one_at_a_time.acquire(timeout=self.patience):
            raise BusyError("the model is busy with other pictures: try again later")
        try:
            yield
        finally:
            self._one_at_a_time.release()


def _names_of_labels(tasks: Sequence[Task]) -> list[str]:
    """All labels that have a place in the picture, with their task where others have them too."""
    pairs = [(task.name, label) for task in explained_tasks(tasks) for label in task.labels]
    count = collections.Counter(label for _, label in pairs)
    return [label if count[label] == 1 else f"{task}/{label}" for task, label in pairs]


def _jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], _QUALITY)[1].tobytes()
