"""Slices compared with all images: exact chances, alarms by chance and where there is a gap."""

import numpy as np
import pytest
from scipy import stats

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.evaluation import subgroups
from faceattr_tf.evaluation.results import measure
from faceattr_tf.evaluation.slices import default_slicings, make_slicings

NAMES = ("Smiling", "Eyeglasses", "Male")
ATTRIBUTES = Task("attributes", "multilabel", NAMES)
POSE = Task("pose", "multiclass", ("left", "frontal", "right"))
AGE = Task("age", "regression", ("age",))


def drawn_result(random, count=1500, prevalence=(0.5, 0.1, 0.4), unknown=0.05):
    """Answers that are right for some 90 % of the labels, for some images more than for others."""
    truth = random.random((count, len(NAMES))) < prevalence
    labels = np.where(random.random(truth.shape) < unknown, -1, truth).astype(np.int8)
    sure = 2 + random.normal(0, 0.5, (count, 1)) + random.normal(0, 1.5, truth.shape)
    return measure(ATTRIBUTES, labels, np.where(truth, sure, -sure), thresholds=(0.5, 0.4, 0.5))


def drawn_slicings(random, count=1500):
    shares = (0.4, 0.3, 0.2, 0.06, 0.04)
    groups = random.choice(len(shares), (4, count), p=shares)
    return {f"by {i}": {str(k): of == k for k in range(len(shares))} for i, of in enumerate(groups)}


@pytest.mark.parametrize("total, hits, count", [(50, 7, 20), (500, 480, 60), (40, 0, 9), (9, 9, 4)])
def test_chances_of_shares_are_those_of_the_hypergeometric_distribution(total, hits, count):
    of, places = stats.hypergeom(total, hits, count), np.arange(count + 1)
    tails = np.minimum(of.cdf(places), of.sf(places - 1))
    found = subgroups._two_sided(total, hits, count)
    np.testing.assert_allclose(found, np.minimum(1, 2 * tails), atol=1e-9)


def test_trials_are_the_labels_that_are_known():
    labels = np.array([[1, -1, 0], [0, 1, 0], [1, 0, 1]], np.int8)
    outputs = np.array([[3.0, 3, 3], [3, -3, -3], [-3, -3, 3]])
    found = subgroups.trials_of(measure(ATTRIBUTES, labels, outputs))
    trials = {(one.label, one.rate): one for one in found}
    np.testing.assert_array_equal(trials["", "accuracy"].values, [1 / 2, 1 / 3, 2 / 3])
    assert trials["Smiling", "false_negative_rate"].places.tolist() == [0, 2]
    assert trials["Smiling", "false_negative_rate"].values.tolist() == [0, 1]
    assert trials["Smiling", "false_positive_rate"].values.tolist() == [1]
    assert trials["Eyeglasses", "accuracy"].places.tolist() == [1, 2]
    assert trials["Male", "calibration_gap"].values[0] == pytest.approx(stats.logistic.cdf(3))


def test_a_class_is_missed_where_another_is_likelier():
    outputs = np.array([[2.0, 1, 0], [2, 1, 0], [0, 1, 2], [0, 0, 9]])
    found = subgroups.trials_of(measure(POSE, np.array([0, 1, 2, -1], np.int8), outputs))
    trials = {(one.label, one.rate): one.values.tolist() for one in found}
    assert trials["", "accuracy"] == [1, 0, 1]
    assert trials["frontal", "false_negative_rate"] == [1]
    assert trials["left", "false_positive_rate"] == [1, 0]


def test_chance_raises_an_alarm_in_no_more_than_5_percent_of_audits():
    random, audits = np.random.default_rng(0), 60
    alarmed = 0
    for seed in range(audits):
        trials = subgroups.trials_of(drawn_result(random))
        cells, _ = subgroups.compare_slices(trials, drawn_slicings(random), draws=400, seed=seed)
        alarmed += any(cell.alarm for cell in cells)
    assert stats.binom.sf(alarmed - 1, audits, subgroups.ALARMS) > 0.01, alarmed


def test_a_gap_in_a_small_slice_is_found_and_is_the_first():
    random, found, trials = np.random.default_rng(1), 0, 20
    for seed in range(trials):
        few = random.random(1500) < 0.04
        result = drawn_result(random)
        outputs = np.where(few[:, None] & (random.random((1500, 3)) < 0.3), -1, 1) * result.outputs
        result = measure(ATTRIBUTES, result.labels, outputs)
        slicings = drawn_slicings(random) | {"planted": {"few": few, "most": ~few}}
        cells, _ = subgroups.compare_slices(
            subgroups.trials_of(result), slicings, draws=400, seed=seed
        )
        worst = max((cell for cell in cells if cell.alarm), key=lambda one: one.worse, default=None)
        found += worst is not None and (worst.slicing, worst.group) == ("planted", "few")
    assert found == trials


def test_intervals_hold_what_is_true_of_all_slices_at_once():
    random, audits, missed = np.random.default_rng(2), 60, 0
    for seed in range(audits):
        labels = np.zeros((1500, 3), np.int8)
        outputs = np.where(random.random((1500, 3)) < 0.1, 1.0, -1.0)
        trials = subgroups.trials_of(measure(ATTRIBUTES, labels, outputs))
        trials = [one for one in trials if one.rate == "false_positive_rate"]
        cells, _ = subgroups.compare_slices(trials, drawn_slicings(random), draws=400, seed=seed)
        ends = np.array([cell.interval for cell in cells])
        missed += not ((ends[:, 0] <= 0.1) & (ends[:, 1] >= 0.1)).all()
    assert stats.binom.sf(missed - 1, audits, 0.05) > 0.01, missed


def test_slices_of_few_images_and_of_the_label_itself_are_not_judged():
    random = np.random.default_rng(3)
    result = drawn_result(random)
    few = np.arange(1500) < 20
    slicings = {"few": {"few": few, "most": ~few}}
    cells, _ = subgroups.compare_slices(
        subgroups.trials_of(result), slicings, about={"few": frozenset({"Male"})}
    )
    assert {cell.label for cell in cells} == {"", "Smiling", "Eyeglasses"}
    small = [cell for cell in cells if cell.group == "few"]
    assert small and all(cell.interval is None and not cell.alarm for cell in small)


def test_what_is_measured_is_what_numpy_says():
    random = np.random.default_rng(4)
    result = drawn_result(random, unknown=0.2)
    half = random.random(1500) < 0.5
    cells, bound = subgroups.compare_slices(
        subgroups.trials_of(result), {"half": {"in": half, "out": ~half}}
    )
    rates = {(one.group, one.label, one.rate): one for one in cells}
    said, labels = result.scores[:, 1] >= 0.4, result.labels[:, 1]
    miss = rates["in", "Eyeglasses", "false_negative_rate"]
    assert miss.value == pytest.approx((~said)[half & (labels == 1)].mean())
    assert miss.overall == pytest.approx((~said)[labels == 1].mean())
    hits = (~said)[half & (labels == 1)].sum()
    exact = stats.binomtest(int(hits), miss.count).proportion_ci(1 - bound)
    np.testing.assert_allclose(miss.interval, (exact.low, exact.high), rtol=1e-6)
    false_alarm = rates["in", "Eyeglasses", "false_positive_rate"]
    value, (low, high) = subgroups.balanced_accuracy(miss, false_alarm)
    assert low < value < high and value == pytest.approx(1 - (miss.value + false_alarm.value) / 2)


FAIRLEARN = {
    "Smiling": (0.0382783034473632, 0.006981158204286353),
    "Eyeglasses": (0.14583333333333337, 0.03795661987642948),
    "Male": (0.028605962933118456, 0.024919863509461293),
}
"""What `equalized_odds_difference` and `demographic_parity_difference` of fairlearn 0.15.0 gave."""


def test_differences_of_groups_are_those_of_fairlearn():
    random = np.random.default_rng(5)
    result = drawn_result(random, unknown=0)
    group = random.integers(0, 3, 1500)
    found = subgroups.group_differences(result, {str(k): group == k for k in range(3)})
    names = "equalized_odds_difference", "demographic_parity_difference"
    for label, values in FAIRLEARN.items():
        assert found[label] == pytest.approx(dict(zip(names, values, strict=True)))


def test_differences_of_groups_by_hand():
    labels = np.array([[1], [1], [0], [0], [1], [1], [0], [0]], np.int8)
    said = np.array([1, 0, 0, 0, 1, 1, 1, 0])
    result = measure(Task("a", "multilabel", ("x",)), labels, np.where(said, 1.0, -1.0)[:, None])
    first = np.arange(8) < 4
    found = subgroups.group_differences(result, {"first": first, "second": ~first})
    assert found == {"x": {"equalized_odds_difference": 0.5, "demographic_parity_difference": 0.5}}
    alone = subgroups.group_differences(result, {"first": first, "none": np.zeros(8, bool)})
    assert set(alone["x"].values()) == {None}


LABELS = {
    "attributes": (ATTRIBUTES, np.array([[1, 0, 1], [0, 0, 0], [1, 1, -1], [1, 0, 0]], np.int8)),
    "pose": (POSE, np.array([0, 1, 1, -1], np.int8)),
    "age": (AGE, np.array([[10.0], [20], [np.nan], [40]], np.float32)),
}
MEASURES = {"brightness": np.array([1.0, 2, 3, 4]), "face_size": np.full(4, np.nan)}


def test_slices_by_labels_classes_numbers_and_crossed():
    wanted = ["attributes/Male", "pose", "age:20:30", "attributes/Male*pose", "brightness"]
    found = make_slicings(wanted, LABELS, MEASURES)
    images = {
        name: {group: np.flatnonzero(member).tolist() for group, member in one.groups.items()}
        for name, one in found.items()
    }
    assert images["attributes/Male"] == {"Male": [0], "not Male": [1, 3]}
    assert images["pose"] == {"left": [0], "frontal": [1, 2]}
    assert images["age:20:30"] == {"age < 20": [0], "age 20 to 30": [1], "age >= 30": [3]}
    assert images["attributes/Male*pose"] == {"Male, left": [0], "not Male, frontal": [1]}
    assert [len(places) for places in images["brightness"].values()] == [1, 1, 1, 1]
    assert found["attributes/Male*pose"].labels >= {"attributes/Male", "pose/left"}


def test_slices_by_what_another_model_answers():
    outputs = np.array([[30.0], [12], [50], [20]], np.float32)
    answers = {"age": (AGE, outputs)}
    found = make_slicings(["answers/age:20"], LABELS, MEASURES, answers)["answers/age:20"]
    assert {name: np.flatnonzero(one).tolist() for name, one in found.groups.items()} == {
        "answers/age < 20": [1],
        "answers/age >= 20": [0, 2, 3],
    }
    assert not found.labels


@pytest.mark.parametrize(
    "wanted, said",
    [
        ("hair", "no such task or measure; there are: attributes, pose, age, brightness"),
        ("attributes/Tall", "expected attributes/LABEL, such as attributes/Smiling"),
        ("age:young", "expected numbers, as in age:10:20"),
        ("age:30:20", "expected bounds that ascend"),
        ("age:99", "all images are in one"),
        ("face_size", "no image has a known face_size"),
        ("pose/left", "expected a task of attributes, classes or numbers"),
    ],
)
def test_slices_that_are_none_are_named(wanted, said):
    with pytest.raises(UserError, match=said):
        make_slicings([wanted], LABELS, MEASURES)


def test_sensitive_labels_are_sliced_by_only_if_they_are_named():
    groups = Task("ethnicity", "multiclass", ("a", "b"))
    tasks = [ATTRIBUTES, POSE, AGE, groups]
    wanted = ["face_size", "brightness", "blur", "attributes/Male", "pose", "age"]
    assert default_slicings(tasks) == wanted
    labels = {"ethnicity": (groups, np.array([0, 1, 1, 0], np.int8))}
    assert set(make_slicings(["ethnicity"], labels, {})["ethnicity"].groups) == {"a", "b"}
