"""Thresholds and temperatures against exhaustive search."""

import json

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import balanced_accuracy_score, log_loss

from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task, as_classes
from faceattr_tf.evaluation.calibration import (
    calibrate,
    choose_temperature,
    choose_thresholds,
    fit_temperature,
)
from faceattr_tf.evaluation.metrics import evaluate_task

SMILING = MTFL_ATTRIBUTES.select(["Smiling"])


def logit(probability):
    return special.logit(np.array(probability, np.float64))[:, None]


def test_thresholds_maximise_balanced_accuracy():
    random = np.random.default_rng(0)
    labels = (random.random((150, 3)) < [0.1, 0.5, 0.9]).astype(int)
    logits = random.normal(size=(150, 3)) + labels - 0.7
    labels[random.random((150, 3)) < 0.2] = -1
    chosen = choose_thresholds(MTFL_ATTRIBUTES, labels, logits, temperature=1.5)
    scores = special.expit(logits / 1.5)
    for index, threshold in enumerate(chosen):
        mask = labels[:, index] >= 0
        truth, score = labels[mask, index], scores[mask, index]
        best = max(balanced_accuracy_score(truth, score >= limit) for limit in score)
        assert balanced_accuracy_score(truth, score >= threshold) == pytest.approx(best)
    # What is chosen is what evaluation then finds.
    found = evaluate_task(MTFL_ATTRIBUTES, labels, logits, thresholds=chosen, temperature=1.5)
    assert found["mean"]["balanced_accuracy"] > found["mean"]["balanced_accuracy_at_half"]


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        # 0.5 is as good as any other threshold between the two groups.
        ([0, 0, 1, 1], [0.1, 0.3, 0.6, 0.9], 0.5),
        # The middle of the gap where 0.5 is not.
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], 0.25),
        # Thresholds of 0.25 and 0.65 each make one mistake: the nearer one to 0.5 wins.
        ([0, 1, 0, 0, 1, 1], [0.2, 0.3, 0.35, 0.6, 0.7, 0.8], 0.65),
        # Only one answer, or none at all.
        ([1, 1, -1, 1], [0.1, 0.2, 0.3, 0.4], 0.5),
        ([-1, -1], [0.1, 0.2], 0.5),
    ],
)
def test_ties_and_single_answers(labels, scores, expected):
    found = choose_thresholds(SMILING, np.array(labels)[:, None], logit(scores))
    np.testing.assert_allclose(found, [expected])


def test_temperature_of_votes_is_that_of_as_many_voters():
    random = np.random.default_rng(0)
    votes, logits = random.multinomial(10, [0.5, 0.3, 0.2], 200), random.normal(size=(200, 3)) * 3
    task = Task("emotion", "distribution", ("happy", "sad", "neutral"))
    voters = np.concatenate([np.repeat(np.arange(3), row) for row in votes])
    expected = fit_temperature(as_classes(task), voters, np.repeat(logits, 10, axis=0))
    shares = np.concatenate([votes / 10, np.full((5, 3), np.nan)])
    found = calibrate(task, shares, np.concatenate([logits, np.ones((5, 3))]))
    assert found == {"temperature": pytest.approx(expected), "thresholds": []}
    assert fit_temperature(task, shares[-5:], np.ones((5, 3))) == 1.0


@pytest.mark.parametrize("task", [MTFL_ATTRIBUTES, POSE])
def test_temperature_minimises_cross_entropy(task):
    random = np.random.default_rng(0)
    true_logits = random.normal(size=(4000, len(task.labels)), scale=1.5)
    if task.kind == "multilabel":
        labels = (random.random(true_logits.shape) < special.expit(true_logits)).astype(int)
    else:
        noise = random.gumbel(size=true_logits.shape)
        labels = (true_logits + noise).argmax(axis=1)
    logits = 3 * true_logits
    found = fit_temperature(task, labels, logits)
    assert found == pytest.approx(3, rel=0.1)

    def cross_entropy(temperature):
        if task.kind == "multilabel":
            return log_loss(labels.ravel(), special.expit(logits / temperature).ravel())
        return log_loss(labels, special.softmax(logits / temperature, axis=1))

    assert cross_entropy(found) <= min(map(cross_entropy, np.geomspace(0.1, 10, 60))) + 1e-9
    unknown = np.full_like(labels, -1)
    hidden = np.concatenate([labels, unknown]), np.concatenate([logits, -logits])
    assert fit_temperature(task, *hidden) == pytest.approx(found, rel=1e-4)


def test_labels_have_temperatures_of_their_own_only_where_that_is_better_on_other_images():
    random = np.random.default_rng(1)
    logits = random.normal(size=(1500, 3), scale=2)
    labels = (random.random(logits.shape) < special.expit(logits)).astype(int)
    labels[:50, 0] = -1
    assert choose_temperature(MTFL_ATTRIBUTES, labels, 2 * logits) == pytest.approx(2, rel=0.1)
    apart = choose_temperature(MTFL_ATTRIBUTES, labels, logits * [0.5, 1, 4])
    assert apart == pytest.approx([0.5, 1, 4], rel=0.2)
    found = calibrate(MTFL_ATTRIBUTES, labels, logits * [0.5, 1, 4])
    assert json.loads(json.dumps(found)) == found and found["temperature"] == apart
    # The same of one label, whose thresholds are those of its own probabilities.
    alone = choose_thresholds(SMILING, labels[:, 1:2], logits[:, 1:2], apart[1])
    assert found["thresholds"][1] == pytest.approx(alone[0])


def test_where_nothing_is_known_nothing_changes():
    empty = np.full((4, 3), -1)
    assert calibrate(MTFL_ATTRIBUTES, empty, np.ones((4, 3))) == {
        "temperature": 1.0,
        "thresholds": [0.5, 0.5, 0.5],
    }
    points = np.zeros((4, 5, 2))
    assert calibrate(LANDMARKS, points, points) == {"temperature": 1.0, "thresholds": []}
    theta = np.zeros((4, 2, 3))
    assert calibrate(ALIGNMENT, theta, theta) == {"temperature": 1.0, "thresholds": []}


def test_result_is_ready_for_json():
    random = np.random.default_rng(0)
    found = calibrate(POSE, random.integers(0, 5, 50), random.normal(size=(50, 5)))
    assert json.loads(json.dumps(found)) == found
    assert found["thresholds"] == []
