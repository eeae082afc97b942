"""What is said of one face in frames after frames, smoothed over time.

Probabilities and values are averaged, with weights that fall by half for every half-life that lies
between: `SECONDS` unless told otherwise. A yes/no label changes only where the averaged probability
leaves its threshold by `_BAND` on the scale of log-odds (with a threshold of 0.5: above 0.62 or
below 0.38), and a class only where another one is likelier than it by `_LEAD`: what lies close to a
threshold does not flicker. Points and alignments belong to a frame and are left as they are.
"""

import math
from collections.abc import Mapping, Sequence

from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.prediction.face import Attribute, Choice, Graded, TaskPrediction

SECONDS = 1.0
_BAND = 0.5
_LEAD = 0.1
_SMALLEST = 1e-6


class Smoother:
    """Smooths what is said of one track, frame by frame."""

    def __init__(self, tasks: Sequence[Task], calibration: Mapping, seconds: float = SECONDS):
        """Begins without memory.

        Args:
            tasks: what is predicted.
            calibration: task -> `thresholds`, where there are other ones than 0.5.
            seconds: half-life of what was said; 0 leaves everything as it is.
        """
        self._tasks, self._calibration, self._seconds = tasks, calibration, seconds
        self._time: float | None = None
        self._weight = 0.0
        self._sums: dict[str, dict[str, float]] = {}
        self._said: dict[str, dict[str, bool] | str] = {}

    def __call__(
        self, time: float, said: Mapping[str, TaskPrediction]
    ) -> dict[str, TaskPrediction]:
        """What is said at a time in seconds, given what the model says of this frame alone."""
        if not self._seconds:
            return dict(said)
        passed = 0.0 if self._time is None else time - self._time
        kept = 0.5 ** (passed / self._seconds)
        self._time, self._weight = time, kept * self._weight + 1
        return {
            task.name: self._smoothed(task, said[task.name], kept)
            for task in self._tasks
            if task.name in said
        }

    def _smoothed(self, task: Task, said: TaskPrediction, kept: float) -> TaskPrediction:
        if task.kind in ("landmarks", "transform"):
            return said
        if task.kind == "multilabel":
            means = self._means(task, {name: one.probability for name, one in said.items()}, kept)
            return self._labelled(task, means, said)
        if task.kind not in CLASS_KINDS:
            return self._means(task, said, kept)
        means = self._means(task, said.probabilities, kept)
        best = max(means, key=means.get)
        last = self._said.get(task.name, best)
        chosen = best if means[best] > means[last] + _LEAD else last
        self._said[task.name] = chosen
        if not isinstance(said, Graded):
            return Choice(chosen, means)
        pairs = zip(task.labels, task.values, strict=True)
        return Graded(chosen, means, sum(means[name] * value for name, value in pairs))

    def _means(self, task: Task, values: Mapping[str, float], kept: float) -> dict[str, float]:
        before = self._sums.get(task.name, {})
        sums = {name: kept * before.get(name, 0.0) + value for name, value in values.items()}
        self._sums[task.name] = sums
        return {name: value / self._weight for name, value in sums.items()}

    def _labelled(self, task: Task, means, said) -> dict[str, Attribute]:
        stored = self._calibration.get(task.name, {}).get("thresholds") or [0.5] * len(task.labels)
        thresholds = dict(zip(task.labels, stored, strict=True))
        before = self._said.get(task.name, {})
        labels = {}
        for name, mean in means.items():
            distance = _log_odds(mean) - _log_odds(thresholds[name])
            last = before.get(name, distance >= 0)
            labels[name] = distance > -_BAND if last else distance > _BAND
        self._said[task.name] = labels
        return {name: Attribute(means[name], labels[name]) for name in said}


def _log_odds(probability: float) -> float:
    inside = min(max(probability, _SMALLEST), 1 - _SMALLEST)
    return math.log(inside / (1 - inside))
