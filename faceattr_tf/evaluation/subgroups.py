"""For whom a model is worse: rates of every slice of the images, compared with those of all.

A slice is a set of images, such as the women of 40 to 60 years. With many slices, labels and rates
some are far from the rest by luck, and most of all the small ones. Hence every cell gets its exact
probability under chance, and an alarm is raised where this is smaller than the smallest one of
nearly all (95 %) audits in which answers were dealt anew to the images (Westfall and Young,
"Resampling-Based Multiple Testing", 1993: the smallest p-value, which unlike the largest deviation
weighs small and large slices alike). Intervals are as wide as the same share asks for.

Differences of groups are defined as in fairlearn (Weerts et al., JMLR 2023): equalized odds by the
larger spread of the true and the false positive rate (Hardt et al., NeurIPS 2016), demographic
parity by the spread of the share that is answered yes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special, stats

from faceattr_tf.evaluation.class_metrics import has_many_classes, known_and_truth
from faceattr_tf.evaluation.reliability import reliability
from faceattr_tf.evaluation.results import TaskResult

DRAWS = 2000
"""How often answers are dealt anew."""

ALARMS = 0.05
"""Share of audits without any difference in which chance raises an alarm."""

SMALLEST = 30
"""Images with a known label below which a rate of a slice is not judged."""

RATES = {
    "accuracy": 1,
    "false_positive_rate": -1,
    "false_negative_rate": -1,
    "calibration_gap": 0,
    "error": -1,
}
"""What is compared -> whether more is better (1), worse (-1), or neither: the mean of what the
probability is above the label."""


@dataclasses.dataclass(frozen=True)
class Trials:
    """One figure of one label, image by image, whose mean over a slice is compared.

    Attributes:
        label: what is answered; empty for a task as a whole.
        rate: a key of `RATES`.
        places: int `[n]`, the images that it is known of.
        values: float `[n]`: 0 or 1, else a mean, an error or a gap.
    """

    label: str
    rate: str
    places: np.ndarray
    values: np.ndarray

    @functools.cached_property
    def counted(self) -> bool:
        """Whether the values are yes or no."""
        return bool(np.isin(self.values, (0, 1)).all())


@dataclasses.dataclass(frozen=True)
class Cell:
    """One rate of one slice.

    Attributes:
        slicing, group: the slice.
        label, rate: what of it.
        count: images of the slice that it is known of.
        value: the mean over these.
        overall: that over all images that it is known of.
        interval: of the value, wide enough for all cells at once; None where there are too few.
        alarm: whether it differs from all beyond chance.
    """

    slicing: str
    group: str
    label: str
    rate: str
    count: int
    value: float
    overall: float
    interval: tuple[float, float] | None
    alarm: bool

    @property
    def worse(self) -> float:
        """By how much the slice is worse than all; of a calibration gap, how far it is from 0."""
        sign = RATES[self.rate]
        if sign:
            return sign * (self.overall - self.value)
        return abs(self.value) - abs(self.overall)


def trials_of(result: TaskResult) -> list[Trials]:
    """All that is compared of one task.

    Yes/no labels are answered at their thresholds. Of classes the largest counts, and each is a
    label of its own, whose false negatives are its images taken for others.

    Args:
        result: the task over the whole split.
    """
    task, found = result.task, []
    if task.kind not in ("multilabel", "multiclass"):
        places = np.flatnonzero(np.isfinite(result.errors))
        return [Trials("", "error", places, result.errors[places])]
    known, truth = known_and_truth(task, result.labels)
    said = answers_of(result)
    right = said == truth
    some = np.flatnonzero(known.any(axis=1))
    if task.kind == "multiclass":
        found.append(Trials("", "accuracy", some, (right.all(axis=1))[some].astype(float)))
    elif len(task.labels) > 1:
        mean = np.where(known, right, 0).sum(axis=1)[some] / known.sum(axis=1)[some]
        found.append(Trials("", "accuracy", some, mean))
    if has_many_classes(task):
        return found
    for index, label in enumerate(task.labels):
        one = known[:, index]
        gap = result.scores[:, index] - truth[:, index]
        by_rate = {
            "accuracy": (one, right[:, index]),
            "false_positive_rate": (one & ~truth[:, index], said[:, index]),
            "false_negative_rate": (one & truth[:, index], ~said[:, index]),
            "calibration_gap": (one, gap),
        }
        if task.kind == "multiclass":
            del by_rate["accuracy"]
        for rate, (where, values) in by_rate.items():
            places = np.flatnonzero(where)
            found.append(Trials(label, rate, places, values[places].astype(float)))
    return found


def answers_of(result: TaskResult) -> np.ndarray:
    """What is answered: bool `[N, labels]`, for classes True at the likeliest."""
    if result.task.kind == "multilabel":
        return result.scores >= np.asarray(result.thresholds)
    return result.scores.argmax(axis=1)[:, None] == np.arange(len(result.task.labels))


def compare_slices(
    trials: Sequence[Trials],
    slicings: Mapping[str, Mapping[str, np.ndarray]],
    *,
    about: Mapping[str, frozenset[str]] | None = None,
    smallest: int = SMALLEST,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[list[Cell], float]:
    """Every rate of every slice, with the alarms.

    Args:
        trials: what is compared.
        slicings: name -> group -> bool `[N]`. Groups of a slicing exclude each other; an image may
            be in none.
        about: slicing -> labels that it is made of, which are not compared over it.
        smallest: images below which a slice is not judged.
        draws: how often answers are dealt anew.
        seed: of the draws.

    Returns:
        The cells, by trial and slice; and the probability under chance below which an alarm is
        raised.
    """
    random = np.random.default_rng(seed)
    least, judged, cells = np.ones(draws), [], []
    for one in trials:
        for name, groups in slicings.items():
            if one.label and one.label in (about or {}).get(name, ()):
                continue
            members = np.stack([np.asarray(group)[one.places] for group in groups.values()])
            counts = members.sum(axis=1)
            large = counts >= max(smallest, 1)
            chances = np.ones(len(counts))
            if large.any() and np.ptp(one.values) > 0:
                measured, dealt = _chances(one, members[large], draws, random)
                chances[large] = measured
                least = np.minimum(least, dealt.min(axis=1))
            for group, count, member, chance in zip(groups, counts, members, chances, strict=True):
                if count:
                    judged.append((one, name, group, member, chance, count >= max(smallest, 1)))
    bound = float(np.quantile(least, ALARMS)) if draws else 0.0
    for one, name, group, member, chance, large in judged:
        values = one.values[member]
        cells.append(
            Cell(
                *(name, group, one.label, one.rate, len(values)),
                float(values.mean()),
                float(one.values.mean()),
                _interval(one, values, bound) if large else None,
                bool(large and chance < bound),
            )
        )
    return cells, bound


def _chances(one: Trials, members: np.ndarray, draws: int, random):
    """How likely means this far off are, as measured `[S]` and dealt anew `[draws, S]`."""
    counts, total = members.sum(axis=1), len(one.values)
    if one.counted:
        hits = int(one.values.sum())
        urn = [*counts, total - counts.sum()]
        dealt = random.multivariate_hypergeometric(urn, hits, size=draws)[:, : len(counts)]
        measured = (members @ one.values).astype(int)
        tables = [_two_sided(total, hits, count) for count in counts]
        found = np.array([table[hit] for table, hit in zip(tables, measured, strict=True)])
        drawn = [table[column] for table, column in zip(tables, dealt.T, strict=True)]
        return found, np.stack(drawn, axis=1)
    # Means of 30 and more are nearly normal. Dealt anew they are those of parts of one total: of
    # independent means of the parts, what these have beyond the mean of all.
    parts = np.append(counts, max(total - counts.sum(), 0))
    means = random.normal(size=(draws, len(parts))) / np.sqrt(np.maximum(parts, 1))
    beyond = means[:, :-1] - (means @ parts / total)[:, None]
    spread = np.sqrt(1 / counts - 1 / total + np.finfo(float).tiny)
    gaps = members @ one.values / counts - one.values.mean()
    unit = one.values.std() * np.sqrt(total / (total - 1))
    return tuple(2 * stats.norm.sf(np.abs(gap) / spread) for gap in (gaps / unit, beyond))


def _two_sided(total: int, hits: int, count: int) -> np.ndarray:
    """Twice the smaller tail of the hypergeometric distribution, for 0 to `count` hits."""
    places = np.arange(count + 1)
    every = special.gammaln(np.arange(total + 1) + 1.0)  # logarithms of the factorials

    def ways(of, taken):
        possible = (taken >= 0) & (taken <= of)
        taken = np.clip(taken, 0, of)
        return np.where(possible, every[of] - every[taken] - every[of - taken], -np.inf)

    chances = np.exp(ways(hits, places) + ways(total - hits, count - places) - ways(total, count))
    return np.minimum(1, 2 * np.minimum(chances.cumsum(), chances[::-1].cumsum()[::-1]))


def _interval(one: Trials, values: np.ndarray, chance: float) -> tuple[float, float]:
    """Clopper and Pearson's for shares, Student's for means."""
    count, half = len(values), max(chance, 1e-12) / 2
    if one.counted:
        hits = values.sum()
        low = stats.beta.ppf(half, hits, count - hits + 1) if hits else 0.0
        high = stats.beta.isf(half, hits + 1, count - hits) if hits < count else 1.0
        return float(low), float(high)
    wide = stats.t.isf(half, count - 1) * values.std(ddof=1) / np.sqrt(count)
    return float(values.mean() - wide), float(values.mean() + wide)


def balanced_accuracy(miss: Cell, false_alarm: Cell) -> tuple[float, tuple[float, float] | None]:
    """That of a slice, from its two error rates, with an interval (Newcombe's, by their squares).

    Args:
        miss: the cell of the false negative rate.
        false_alarm: that of the false positive rate.
    """
    rates = [1 - miss.value, 1 - false_alarm.value]
    value = sum(rates) / 2
    if miss.interval is None or false_alarm.interval is None:
        return value, None
    ends = [[1 - high, 1 - low] for low, high in (miss.interval, false_alarm.interval)]
    below, above = (np.hypot(*(rates[i] - ends[i][side] for i in (0, 1))) / 2 for side in (0, 1))
    return value, (float(value - below), float(value + above))


def group_differences(result: TaskResult, groups: Mapping[str, np.ndarray]) -> dict[str, dict]:
    """How far the groups of a slicing lie apart, by label.

    Args:
        result: the task over the whole split, multilabel or multiclass.
        groups: group -> bool `[N]`.

    Returns:
        Label -> `equalized_odds_difference` and `demographic_parity_difference`, as fairlearn
        defines them with its default `agg="worst_case"`; None where less than two groups have
        images with and without the label.
    """
    known, truth = known_and_truth(result.task, result.labels)
    said, found = answers_of(result), {}
    for index, label in enumerate(result.task.labels):
        rates = []
        for group in groups.values():
            where = np.asarray(group) & known[:, index]
            yes, no = where & truth[:, index], where & ~truth[:, index]
            if yes.any() and no.any():
                rates.append([said[part, index].mean() for part in (yes, no, where)])
        spread = np.ptp(rates, axis=0) if len(rates) > 1 else None
        found[label] = {
            "equalized_odds_difference": None if spread is None else float(spread[:2].max()),
            "demographic_parity_difference": None if spread is None else float(spread[2]),
        }
    return found


def calibration_error(result: TaskResult, index: int, group: np.ndarray) -> float | None:
    """Expected calibration error of one label in a slice; the smaller the slice, the larger by
    chance alone."""
    known, truth = known_and_truth(result.task, result.labels)
    where = np.asarray(group) & known[:, index]
    return reliability(truth[where, index], result.scores[where, index])["error"]
