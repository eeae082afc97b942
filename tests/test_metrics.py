"""Metrics against scikit-learn and OpenCV on the whole set, and what is undefined."""

import json
import math
import tracemalloc

import cv2
import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics as reference

from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task, as_classes
from faceattr_tf.evaluation.bootstrap import intervals
from faceattr_tf.evaluation.landmark_metrics import landmark_errors
from faceattr_tf.evaluation.metrics import (
    METRICS,
    Metric,
    average_mirrored,
    choosing,
    evaluate_task,
    probabilities,
    score_of,
    shown_in,
)
from faceattr_tf.evaluation.results import measure

AGE = Task("age", "regression", ("years", "months"))
RANGES = Task("range", "multiclass", ("0-2", "3-6", "7-10", "11+"), values=(1.0, 4.5, 8.5, 30.0))
VOTES = Task("emotion", "distribution", ("happy", "sad", "neutral"))


@pytest.fixture
def multilabel():
    """Labels with unknown ones, and logits that know something of them, `[300, 3]`."""
    random = np.random.default_rng(0)
    labels = random.integers(-1, 2, (300, 3))
    return labels, random.normal(size=(300, 3)) + labels


def test_multilabel_equals_scikit_learn(multilabel):
    labels, logits = multilabel
    thresholds = np.array([0.5, 0.7, 0.2])
    found = evaluate_task(
        MTFL_ATTRIBUTES,
        labels,
        logits,
        thresholds=thresholds,
        temperature=2.0,
        majority=[True, False, True],
    )
    scores = special.expit(logits / 2)
    for index, name in enumerate(MTFL_ATTRIBUTES.labels):
        mask = labels[:, index] != -1
        truth, score = labels[mask, index], scores[mask, index]
        said, half = score >= thresholds[index], score >= 0.5
        usual = np.full(len(truth), (True, False, True)[index])
        row = found["labels"][name]
        assert row["count"] == mask.sum()
        assert row["positives"] == truth.sum()
        assert row["threshold"] == thresholds[index]
        assert row["confusion"] == reference.confusion_matrix(truth, said).tolist()
        expected = {
            "accuracy": reference.accuracy_score(truth, said),
            "accuracy_at_half": reference.accuracy_score(truth, half),
            "majority_accuracy": reference.accuracy_score(truth, usual),
            "balanced_accuracy": reference.balanced_accuracy_score(truth, said),
            "balanced_accuracy_at_half": reference.balanced_accuracy_score(truth, half),
            "precision": reference.precision_score(truth, said),
            "recall": reference.recall_score(truth, said),
            "precision_no": reference.precision_score(truth, said, pos_label=0),
            "recall_no": reference.recall_score(truth, said, pos_label=0),
            "f1": reference.f1_score(truth, said),
            "average_precision": reference.average_precision_score(truth, score),
            "roc_auc": reference.roc_auc_score(truth, score),
        }
        for key, value in expected.items():
            assert row[key] == pytest.approx(value), (name, key)
    for key in expected:
        values = [row[key] for row in found["labels"].values()]
        assert found["mean"][key] == pytest.approx(np.mean(values)), key
    assert found["count"] == (labels != -1).any(axis=1).sum()


def test_multiclass_equals_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(-1, 5, 200)
    logits = random.normal(size=(200, 5)) + 2 * np.eye(6)[labels][:, :5]
    found = evaluate_task(POSE, labels, logits, majority=[2])
    truth, said = labels[labels >= 0], logits.argmax(axis=1)[labels >= 0]
    assert found["count"] == len(truth)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert found["balanced_accuracy"] == pytest.approx(
        reference.balanced_accuracy_score(truth, said)
    )
    assert found["majority_accuracy"] == pytest.approx((truth == 2).mean())
    assert found["mean_error"] == pytest.approx(reference.mean_absolute_error(truth, said))
    assert found["confusion"] == reference.confusion_matrix(truth, said).tolist()
    columns = reference.precision_recall_fscore_support(truth, said)
    for index, name in enumerate(POSE.labels):
        row = found["classes"][name]
        expected = [column[index] for column in columns]
        assert [row["precision"], row["recall"], row["f1"], row["count"]] == pytest.approx(expected)


def test_ordered_classes_are_measured_by_the_numbers_that_they_stand_for():
    random = np.random.default_rng(0)
    labels, logits = random.integers(-1, 4, 300), random.normal(size=(300, 4))
    found = evaluate_task(RANGES, labels, logits, temperature=2.0, majority=[3])
    truth, logits = labels[labels >= 0], logits[labels >= 0]
    off = np.abs(truth - logits.argmax(axis=1))
    assert found["within_one"] == pytest.approx((off <= 1).mean())
    assert found["majority_within_one"] == pytest.approx((truth >= 2).mean())
    years = np.array(RANGES.values)[truth]
    scores = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    expected = [sum(p * v for p, v in zip(row, RANGES.values, strict=True)) for row in scores]
    assert found["value_mae"] == pytest.approx(reference.mean_absolute_error(years, expected))
    guess = np.full(len(years), np.median(years))
    assert found["median_value_mae"] == pytest.approx(reference.mean_absolute_error(years, guess))
    assert "within_one" not in evaluate_task(POSE, labels, random.normal(size=(300, 5)))
    result = measure(RANGES, labels, random.normal(size=(300, 4)), majority=[3])
    for name, (low, high) in intervals(result, 200).items():
        assert low < result.numbers["metrics"][name] < high, name


def test_votes_are_measured_against_all_of_them_and_the_most_voted_class():
    random = np.random.default_rng(0)
    shares, logits = random.dirichlet([0.5, 0.5, 0.5], 80), random.normal(size=(80, 3))
    shares[0], shares[1] = np.nan, [0, 1, 0]
    found = evaluate_task(VOTES, shares, logits, temperature=2.0, majority=[1])
    known, scores = shares[1:], probabilities(VOTES, logits, 2.0)[1:]
    divergence = [stats.entropy(p, q) for p, q in zip(known, scores, strict=True)]
    assert found["votes_divergence"] == pytest.approx(np.mean(divergence))
    entropy = np.mean([stats.entropy(row) for row in known])
    assert found["votes_cross_entropy"] == pytest.approx(found["votes_divergence"] + entropy)
    labels = np.append(-1, known.argmax(axis=1))
    of_classes = evaluate_task(as_classes(VOTES), labels, logits, temperature=2.0, majority=[1])
    assert found | of_classes == found
    result = measure(VOTES, shares, logits, temperature=2.0, majority=[1])
    assert (result.task, result.labels.tolist()) == (as_classes(VOTES), labels.tolist())
    assert result.numbers["metrics"] == found
    assert set(intervals(result, 20)) == {"accuracy", "balanced_accuracy"}


def _people(count):
    return Task("person", "multiclass", tuple(f"person {number}" for number in range(count)))


def test_many_classes_have_no_figures_of_single_ones_but_those_among_the_first_five():
    random = np.random.default_rng(0)
    labels = random.integers(-1, 150, 400)
    logits = random.normal(size=(400, 150)) + 2 * np.eye(151)[labels][:, :150]
    found = evaluate_task(_people(150), labels, logits, majority=[7])
    truth, scores = labels[labels >= 0], logits[labels >= 0]
    said = scores.argmax(axis=1)
    expected = {
        "kind": "multiclass",
        "count": len(truth),
        "accuracy": reference.accuracy_score(truth, said),
        "majority_accuracy": np.mean(truth == 7),
        "balanced_accuracy": reference.recall_score(
            truth, said, labels=np.unique(truth), average="macro"
        ),
        "top5_accuracy": reference.top_k_accuracy_score(truth, scores, k=5, labels=range(150)),
    }
    assert found == pytest.approx(expected)
    assert "top5_accuracy" not in evaluate_task(_people(100), labels % 100, logits[:, :100])
    same = evaluate_task(_people(150), labels, np.zeros((400, 150)))
    assert same["top5_accuracy"] == np.mean(truth < 5)  # who says the same of all knows nothing
    broken = evaluate_task(_people(150), labels, np.full((400, 150), np.nan))
    assert broken["top5_accuracy"] == 0


def test_memory_does_not_grow_with_the_square_of_the_classes():
    task, labels = _people(5000), np.arange(8)
    logits = np.random.default_rng(0).normal(size=(8, 5000))
    tracemalloc.start()
    intervals(measure(task, labels, logits, majority=[0]), 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6 < 5000**2


def test_regression_equals_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.normal(size=(50, 2))
    outputs = labels + random.normal(size=(50, 2), scale=0.3)
    labels[:10, 1] = np.nan
    found = evaluate_task(AGE, labels, outputs)
    for index, name in enumerate(AGE.labels):
        mask = ~np.isnan(labels[:, index])
        pair = labels[mask, index], outputs[mask, index]
        row = found["labels"][name]
        assert row["count"] == mask.sum()
        assert row["mae"] == pytest.approx(reference.mean_absolute_error(*pair))
        middle = np.full(mask.sum(), np.median(pair[0]))
        assert row["median_mae"] == pytest.approx(reference.mean_absolute_error(pair[0], middle))
        assert row["rmse"] == pytest.approx(reference.root_mean_squared_error(*pair))
        assert row["r2"] == pytest.approx(reference.r2_score(*pair))
    assert found["mean"]["mae"] == pytest.approx(
        np.mean([row["mae"] for row in found["labels"].values()])
    )


def test_landmark_error_is_measured_in_the_source_image():
    """Points are set in source pixels and brought to a crop that is stretched and turned."""
    random = np.random.default_rng(0)
    height, width = 40, 20
    truth = random.uniform(0, 100, (6, 5, 2))
    shift = np.zeros((6, 5, 2))
    shift[:, 2] = (3, 4)
    transforms, labels, outputs = [], [], []
    for points, moved in zip(truth, truth + shift, strict=True):
        transform = cv2.getRotationMatrix2D((7, 9), random.uniform(0, 90), 1.7)
        transform[0] *= 3
        back = cv2.invertAffineTransform(transform)
        transforms.append(transform)
        for group, target in ((points, labels), (moved, outputs)):
            pixels = cv2.transform(group[None], back)[0]
            target.append((2 * pixels + 1) / (width, height) - 1)
    labels, outputs = np.array(labels), np.array(outputs)
    labels[0, 4] = np.nan

    expected = 5 / np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    errors = landmark_errors(LANDMARKS, labels, outputs, transforms, (height, width))
    np.testing.assert_allclose(errors[:, 2], expected, rtol=1e-6)
    np.testing.assert_allclose(errors[1:, [0, 1, 3, 4]], 0, atol=1e-6)

    found = evaluate_task(
        LANDMARKS, labels, outputs, transforms=transforms, crop_size=(height, width)
    )
    faces = expected / np.array([4, 5, 5, 5, 5, 5])
    assert found["count"] == 6
    assert found["nme"] == pytest.approx(faces.mean())
    assert found["failure_rate"] == pytest.approx((faces > 0.1).mean())
    assert found["points"]["nose"] == pytest.approx(expected.mean())


def test_faces_with_unknown_eyes_are_left_out():
    labels = np.random.default_rng(0).uniform(-1, 1, (3, 5, 2))
    labels[1, 0] = np.nan
    assert evaluate_task(LANDMARKS, labels, labels)["count"] == 2


@pytest.mark.parametrize("task", [MTFL_ATTRIBUTES, POSE, RANGES, VOTES, AGE, LANDMARKS])
@pytest.mark.parametrize("count", [0, 3])
def test_without_known_labels_numbers_are_none(task, count):
    labels = np.full((count, *task.label_shape), task.unknown())
    shape = (count, 5, 2) if task.kind == "landmarks" else (count, len(task.labels))
    found = evaluate_task(task, labels, np.zeros(shape))
    assert found["count"] == 0
    assert "NaN" not in json.dumps(found)
    numbers = (
        found["mean"].values() if "mean" in found else [found.get("accuracy", found.get("nme"))]
    )
    assert all(value is None for value in numbers)


def test_undefined_numbers_are_none_and_left_out_of_means():
    task = MTFL_ATTRIBUTES.select(["Male", "Smiling"])
    labels = np.array([[1, 0], [1, 1]])
    found = evaluate_task(task, labels, np.array([[-1.0, -1.0], [-1.0, 1.0]]))
    male = found["labels"]["Male"]
    assert male["precision"] is None
    assert male["balanced_accuracy"] is None
    assert male["roc_auc"] is None
    assert male["accuracy"] == 0.0
    assert found["mean"]["balanced_accuracy"] == 1.0
    assert found["mean"]["accuracy"] == 0.5


def test_probabilities():
    logits = np.array([[2.0, -800.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        probabilities(MTFL_ATTRIBUTES, logits, 2.0), [[1 / (1 + np.exp(-1)), 0, 0.5]], atol=1e-12
    )
    scores = probabilities(POSE, np.array([[0, np.log(3), 0, 0, 0]]))
    np.testing.assert_allclose(scores, np.array([[1, 3, 1, 1, 1]]) / 7)
    assert probabilities(AGE, [[3.0, 4.0]]).tolist() == [[3.0, 4.0]]


def test_mirrored_outputs_are_seen_from_the_original():
    """Who predicts an image perfectly, and its mirror image too, loses nothing by averaging."""
    truth = np.array([[-0.3, -0.2], [0.4, -0.1], [0.1, 0.0], [-0.2, 0.5], [0.3, 0.6]])[None]
    seen_mirrored = truth[:, [1, 0, 2, 4, 3]] * (-1, 1)
    np.testing.assert_allclose(average_mirrored(LANDMARKS, truth, seen_mirrored), truth)

    pose = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(average_mirrored(POSE, pose, pose[:, ::-1]), pose)

    found = average_mirrored(MTFL_ATTRIBUTES, np.array([[1.0, 2, 3]]), np.array([[3.0, 2, 1]]))
    np.testing.assert_allclose(found, [[2, 2, 2]])


FLOORS = {
    *("majority_accuracy", "majority_within_one", "median_value_mae", "median_mae"),
    "corner_error_identity",
}


@pytest.mark.parametrize("task", [MTFL_ATTRIBUTES, POSE, RANGES, VOTES, AGE, LANDMARKS, ALIGNMENT])
def test_every_metric_prefers_the_truth_to_its_opposite(task):
    random = np.random.default_rng(0)
    if task.kind == "multilabel":
        labels = random.integers(0, 2, (40, 3))
        right = 8.0 * labels - 4
    elif task.kind == "multiclass":
        labels = np.arange(40) % len(task.labels)
        right = np.eye(len(task.labels))[labels]
    elif task.kind == "distribution":
        labels = random.dirichlet(np.ones(3), 40)
        right = np.log(labels)
    else:
        labels = right = random.normal(1, 0.3, (40, *task.label_shape))
    wrong = -2 * right if task.kind != "multiclass" else -right + np.roll(right, 1, axis=1)
    good, bad = (
        {
            name: value
            for name, value in (result.get("mean") or result).items()
            if isinstance(value, float)
        }
        for result in (
            evaluate_task(task, labels, outputs, majority=np.zeros(len(task.labels), int))
            for outputs in (right, wrong)
        )
    )
    assert set(good) <= set(METRICS) and set(METRICS) - set(choosing()) == FLOORS
    for name in set(good) - FLOORS:
        assert score_of(good, name) < score_of(bad, name), name


def test_what_is_no_metric_chooses_no_model():
    with pytest.raises(
        UserError, match="'luck' chooses no model; there are: loss, false_positive_rate, acc"
    ):
        score_of({"pose/luck": 1.0}, "pose/luck")
    for name in FLOORS:
        with pytest.raises(
            UserError, match=f"'{name}' chooses no model; there are: loss, false_pos"
        ):
            score_of({f"pose/{name}": 1.0}, f"pose/{name}")
    assert score_of({}, "attributes/precision") == math.inf


def test_a_row_says_where_a_metric_is_shown_and_which_value_is_better(monkeypatch):
    keys = ["loss", "pose/accuracy", "pose/recall", "pose/majority_accuracy", "pose/toy"]
    assert shown_in("log", keys) == ["pose/accuracy"]
    assert shown_in("curves", keys) == ["pose/accuracy", "pose/majority_accuracy"]
    monkeypatch.setitem(METRICS, "toy", Metric("toy", lower_is_better=True))
    assert shown_in("log", keys) == ["pose/accuracy", "pose/toy"]
    assert score_of({"pose/toy": 1.0}, "pose/toy") < score_of({"pose/toy": 2.0}, "pose/toy")
