"""Verdicts about a canary: the interval that they rest on, what is counted, and what ends them."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from data_pipelines.errors import UserError
from export.canary import (
    PROMOTE,
    REFUSE,
    UNDECIDED,
    compare_versions,
    label_weights,
    shared_tasks,
    true_labels,
)
from export.commands.canary import main
from export.examples import Examples, without_places
from export.transports import Refused
from faceattr_tf.evaluation import confidence_sequence
from faceattr_tf.evaluation.confidence_sequence import ConfidenceSequence
from faceattr_tf.evaluation.conformal import UNSURE_INDEX

MULTILABEL = {
    "name": "attributes",
    "kind": "multilabel",
    "labels": ["Hat", "Smile"],
    "outputs": {"probability": "attributes_probability", "label": "attributes_label"},
}
CLASSES = {
    "name": "pose",
    "kind": "multiclass",
    "labels": ["left", "frontal", "right"],
    "outputs": {"probability": "pose_probability", "label": "pose_label"},
}
POINTS = {"name": "points", "kind": "landmarks", "labels": ["nose"], "outputs": {"points": "p"}}
TASKS = [MULTILABEL, CLASSES]


@pytest.mark.parametrize("mean", [0.02, 0.5, 0.9])
def test_the_interval_holds_at_all_times(monkeypatch, mean):
    monkeypatch.setattr(confidence_sequence, "CELLS", 250)
    rng, missed, widths = np.random.default_rng(0), 0, []
    for _ in range(60):
        sequence, held = ConfidenceSequence(-1.0, 3.0, level=0.9), True
        for _ in range(25):
            sequence.add(4 * (rng.random(10) < mean) - 1.0)
            low, high = sequence.interval
            held = held and low <= 4 * mean - 1 <= high
        missed += not held
        widths.append(high - low)
        assert low <= sequence.mean <= high
    assert missed <= 11  # of 60 by chance with 1 % at a risk of 10 %; usually none or one
    assert np.mean(widths) < 4 * (0.05 + 8 * np.sqrt(mean * (1 - mean) / 250))


def test_values_that_never_change_leave_a_narrow_interval():
    sequence = ConfidenceSequence(-2.0, 2.0)
    assert np.isnan(sequence.mean) and sequence.interval == (-2.0, 2.0)
    sequence.add(np.zeros(3000))
    assert -0.02 < sequence.interval[0] < 0 < sequence.interval[1] < 0.02
    with pytest.raises(ValueError, match=r"2\.5 is not within -2\.0 to 2\.0"):
        sequence.add([2.5])


def test_weights_make_mean_balanced_accuracy():
    rng = np.random.default_rng(1)
    truth = np.column_stack([rng.random(200) < 0.1, rng.integers(0, 3, 200), np.full(200, -1)])
    truth[rng.random(200) < 0.3, 0] = -1
    said = np.where(rng.random(truth.shape) < 0.2, (truth + 1) % 2, truth)
    found = ((said == truth) * label_weights(truth)).sum(axis=1).mean()
    known = truth[:, 0] >= 0
    expected = [
        balanced_accuracy_score(truth[known, 0], said[known, 0]),
        np.mean([np.mean(said[truth[:, 1] == k, 1] == k) for k in range(3)]),
    ]
    assert found == pytest.approx(np.mean(expected))


class Version:
    """A client whose version is wrong for one label in so many of an image's number."""

    def __init__(self, wrong_every=0, refuses=False, invalid=(), unsure_every=0):
        self.wrong_every, self.refuses, self.invalid = wrong_every, refuses, invalid
        self.unsure_every = unsure_every
        self.asked = []

    def call(self, signature, inputs):
        self.asked.append(signature)
        if self.refuses:
            raise Refused("not today")
        numbers = np.array([int(data) for data in inputs["image_bytes"]])
        attributes = np.column_stack([numbers % 2, numbers // 2 % 2])
        if self.wrong_every:
            attributes[numbers % self.wrong_every == 0] ^= 1
        if self.unsure_every:
            attributes[numbers % self.unsure_every == 0] = UNSURE_INDEX
        return {
            "attributes_label": attributes,
            "attributes_probability": attributes / 2,
            "pose_label": numbers % 3,
            "valid": ~np.isin(numbers, self.invalid),
        }


def requests(count, labelled):
    numbers = np.arange(count)
    labels = {"attributes": np.column_stack([numbers % 2, numbers // 2 % 2]), "pose": numbers % 3}
    whole = without_places([b"%d" % i for i in numbers])
    whole = Examples(whole.encoded, whole.box, whole.landmarks, labels if labelled else {})
    weights = label_weights(true_labels(whole, TASKS)) if labelled else None
    return (whole.at(numbers[begin:][:8]) for begin in range(0, count, 8)), weights


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("canary", "margin", "outcome"),
    [
        (Version(), 0.05, PROMOTE),
        (Version(wrong_every=3), 0.05, REFUSE),
        (Version(refuses=True), 0.05, REFUSE),
        (Version(wrong_every=3), 0.4, PROMOTE),
        (Version(), 0.0001, UNDECIDED),
    ],
)
def test_the_verdict_follows_from_the_answers(labelled, canary, margin, outcome):
    stable, seen = Version(invalid=[3]), []
    asked, weights = requests(1000, labelled)
    verdict = compare_versions(
        stable, canary, TASKS, asked, weights, margin=margin, progress=seen.append
    )
    assert verdict.outcome == outcome
    assert verdict.images == sum(seen) and verdict.low <= verdict.gain <= verdict.high
    assert (verdict.images == 1000) == (outcome == UNDECIDED)
    assert verdict.failed == (1, verdict.images if canary.refuses else 0)
    assert not verdict.identical  # one of them had no answer for image 3
    assert set(stable.asked) == {"crop" if labelled else "serving_default"}


@pytest.mark.parametrize(
    ("stable", "canary", "outcome"),
    [
        (Version(wrong_every=2), Version(wrong_every=2, unsure_every=2), PROMOTE),
        (Version(), Version(unsure_every=2), REFUSE),
        (Version(wrong_every=2, unsure_every=2), Version(wrong_every=2), REFUSE),
        (Version(unsure_every=2), Version(unsure_every=2), PROMOTE),
    ],
    ids=[
        "unsure where it was wrong",
        "unsure where it was right",
        "wrong where it was unsure",
        "the same",
    ],
)
def test_unsure_is_neither_right_nor_wrong(stable, canary, outcome):
    asked, weights = requests(1000, True)
    verdict = compare_versions(stable, canary, TASKS, asked, weights, margin=0.05)
    assert verdict.outcome == outcome
    wrong, low, high = verdict.wrong
    assert low <= wrong <= high and max(verdict.unsure) == pytest.approx(1 / 3, abs=0.01)


def test_equal_answers_and_none_are_told():
    asked, weights = requests(16, True)
    assert compare_versions(Version(), Version(), TASKS, asked, weights).identical
    with pytest.raises(UserError, match="no images"):
        compare_versions(Version(), Version(), TASKS, [])


@pytest.mark.parametrize("labelled", [True, False])
def test_versions_that_answer_nothing_are_no_reason_to_promote(labelled):
    asked, weights = requests(1000, labelled)
    silent = Version(refuses=True)
    with pytest.raises(UserError, match=r"answered none of \d+ images"):
        compare_versions(silent, silent, TASKS, asked, weights, margin=0.05)


def test_only_tasks_that_both_have_are_compared():
    other = CLASSES | {"labels": ["left", "right"]}
    assert shared_tasks({"tasks": [*TASKS, POINTS]}, {"tasks": [other, MULTILABEL]}) == [MULTILABEL]
    with pytest.raises(UserError, match="share no task"):
        shared_tasks({"tasks": [CLASSES, POINTS]}, {"tasks": [other, POINTS]})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "expected pictures or --records"),
        (["a.jpg", "--records=r"], "expected pictures or --records"),
        (["a.jpg", "--risk=1"], "--risk=1: expected a number between 0 and 1"),
        (["a.jpg", "--margin=0"], "--margin=0: expected a number between 0 and 100"),
        (["a.jpg", "--most=0"], "--most=0: expected at least 1"),
        (["a.jpg", "--stable=2", "--canary=2"], "both 2: expected two versions"),
        (["a.jpg"], "127.0.0.1:1: "),
    ],
)
def test_a_mistake_is_one_line(flags, words):
    with pytest.raises(UserError, match=words) as error:
        main(["--server=127.0.0.1:1", *flags])
    assert "\n" not in str(error.value)
