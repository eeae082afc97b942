"""Thresholds for the worst slice: against exhaustive search, and at no more than their price."""

import types

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from tiny_workdir import make_workdir

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import MTFL_ATTRIBUTES
from faceattr_tf.evaluation.mitigation import measure_thresholds, thresholds_by_price
from faceattr_tf.evaluation.slices import Slicing
from faceattr_tf.reports.mitigation import adopt_thresholds
from faceattr_tf.workdir import Workdir

SMILING = MTFL_ATTRIBUTES.select(["Smiling"])


def drawn(seed):
    """A label that is seldom seen in a tenth of the images, which are darker."""
    random = np.random.default_rng(seed)
    dark, labels = random.random(3000) < 0.1, random.integers(0, 2, (3000, 1))
    scores = np.clip(random.normal(0.5 + 0.15 * (2 * labels - 1), 0.15), 0, 1)
    scores[dark] -= 0.2
    result = types.SimpleNamespace(task=SMILING, labels=labels, scores=scores, thresholds=(0.5,))
    slicings = {
        "light": Slicing({"dark": dark, "few": np.arange(3000) < 8, "bright": ~dark}),
        "by itself": Slicing({"yes": labels[:, 0] == 1}, frozenset({"attributes/Smiling"})),
    }
    return result, slicings


def test_the_worst_slice_gains_what_a_search_finds_and_all_lose_no_more_than_the_price():
    result, slicings = drawn(0)
    dark = slicings["light"].groups["dark"]
    chosen = thresholds_by_price(result, slicings, (0.0, 0.02, 0.5), smallest=20)["Smiling"]

    def accuracy(threshold, member=slice(None)):
        return balanced_accuracy_score(
            result.labels[member, 0], result.scores[member, 0] >= threshold
        )

    worst = [min(accuracy(t, dark), accuracy(t, ~dark)) for t in (0.5, *chosen)]
    assert worst[0] <= worst[1] <= worst[2] <= worst[3] and worst[3] > worst[0] + 0.08
    for threshold, price in zip(chosen, (0.0, 0.02, 0.5), strict=True):
        assert accuracy(threshold) >= accuracy(0.5) - price
    best = max(min(accuracy(t, dark), accuracy(t, ~dark)) for t in np.unique(result.scores)[::7])
    assert abs(worst[3] - best) < 0.01
    found = measure_thresholds(result, slicings, {"Smiling": chosen}, 20)["Smiling"]
    for row, value in zip(found, worst, strict=True):
        assert abs(row["worst"] - value) < 1e-9 and row["slice"] in ("light: dark", "light: bright")
        assert abs(row["overall"] - accuracy(row["threshold"])) < 1e-9


def test_what_is_adopted_is_what_the_run_answers_by(tmp_path):
    run = make_workdir(tmp_path / "run", Crop("align", 12, 10))
    before = run.calibration()
    rows = [{"threshold": 0.5}, {"threshold": 0.7}]
    adopt_thresholds(run, {"attributes": {"labels": {"Smiling": rows}}})
    after = Workdir.open(run.path).calibration()
    assert after["attributes"] == {**before["attributes"], "thresholds": [0.1, 0.7, 0.9]}
    assert after["pose"] == before["pose"]


def test_where_no_slice_says_anything_nothing_is_chosen():
    result, slicings = drawn(1)
    assert thresholds_by_price(result, slicings, (0.1,), smallest=2000) == {}
    assert measure_thresholds(result, slicings, {"Smiling": [0.4]}, 2000) == {}
