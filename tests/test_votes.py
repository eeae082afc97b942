"""Votes and ordered classes from records to the report: trained, evaluated, predicted."""

import dataclasses
import json

import numpy as np
import pytest
from test_train import tiny, train
from untrained_run import make_run

from data_pipelines.records.build import build
from data_pipelines.synth import layouts
from data_pipelines.tasks import AGE_BINS, EMOTIONS, Task
from faceattr_tf.configs.base import TaskConfig
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features
from faceattr_tf.reports.evaluate import evaluate


@pytest.fixture(scope="module")
def emotions(tmp_path_factory):
    """Records of the same drawn faces: one class each, and votes."""
    folder = tmp_path_factory.mktemp("emotions")
    drawn = layouts.draw("fer2013", folder / "drawn", images=60)
    return [
        build("fer2013", drawn, folder / labels, labels=labels)
        for labels in ("fer2013", "ferplus_seven")
    ]


def test_votes_and_single_classes_are_one_task_whichever_records_come_first(emotions):
    votes = Task("emotion", "distribution", EMOTIONS)
    counts = sum(np.array(records.label_counts["train"]["emotion"]) for records in emotions)
    for records in (emotions, emotions[::-1]):
        experiment = Experiment.of(tiny(records, tasks=(TaskConfig("emotion"),)))
        assert experiment.tasks == (votes,)
        assert experiment.label_counts()["emotion"].tolist() == counts.tolist()


def test_features_on_disk_hold_single_classes_as_votes_for_one():
    task = Task("emotion", "distribution", ("happy", "sad"))
    block = {
        "labels/emotion": np.array([1, -1, 0]),
        "filename": np.array([b"a", b"b", b"c"]),
        "identity": np.full(3, -1),
        "transform": np.zeros((3, 2, 3), np.float32),
    }
    votes = {"labels/emotion": np.array([[0.3, 0.7], [np.nan, np.nan], [1, 0]], np.float32)}
    places = {"emotion": np.arange(2)}
    for stored, expected in (
        (block, [[0, 1], [np.nan, np.nan], [1, 0]]),
        (block | votes, votes["labels/emotion"]),
    ):
        found = Features.of([task], [["a.npy"]], [[stored]], None, places).labels["emotion"]
        np.testing.assert_array_equal(found, np.array(expected, np.float32)[:, None])
        assert found.dtype == np.float32


def test_a_model_of_votes_is_trained_and_judged_by_single_classes_too(emotions, tmp_path):
    recipe = tiny(emotions, tasks=(TaskConfig("emotion", balance_labels=True),))
    recipe.phases = (dataclasses.replace(recipe.phases[1], steps=2),)
    recipe.best_metric = "emotion/votes_divergence"
    best = train(recipe, tmp_path / "w")
    assert np.isfinite(best["validation/emotion/votes_divergence"])
    calibration = json.loads((tmp_path / "w/calibration.json").read_text())["emotion"]
    assert calibration["thresholds"] == [] and calibration["temperature"] != 1
    reports = evaluate(tmp_path / "w", [one.path for one in emotions], bootstrap=20)
    hard, votes = (contents["tasks"]["emotion"] for contents in reports.values())
    for numbers in (hard, votes):
        assert numbers["metrics"]["count"] == emotions[0].splits["test"]
        assert set(numbers["intervals"]) == {"accuracy", "balanced_accuracy"}
    # To be sure of one class costs as much as its own surprise: no entropy explains any of it.
    of_hard = hard["metrics"]
    assert of_hard["votes_divergence"] == pytest.approx(of_hard["votes_cross_entropy"])
    page = (tmp_path / "w/evaluation/fer2013-test-2/report.md").read_text()
    assert "labels that are votes" in page
    assert "Divergence from the votes, in nats" in page or "divergence from the votes" in page


def test_ages_are_reported_in_years_beside_always_the_median(tmp_path):
    drawn = layouts.draw("utkface", tmp_path / "drawn", images=60)
    records = build("utkface", drawn, tmp_path / "records")
    workdir = make_run(tmp_path / "run", tasks=(AGE_BINS,), records=records)
    (contents,) = evaluate(workdir.path, records.path, "train", bootstrap=20).values()
    numbers = contents["tasks"]["age_bins"]
    assert set(numbers["intervals"]) == {"accuracy", "balanced_accuracy", "within_one", "value_mae"}
    page = (workdir.path / "evaluation/utkface-train/report.html").read_text()
    for words in ("At most one class off", "error of the expected value", "Expected value"):
        assert words.lower() in page.lower()
    summary = (workdir.path / "evaluation/utkface-train/report.md").read_text()
    (row,) = [line for line in summary.splitlines() if "error of the expected value" in line]
    guess = numbers["metrics"]["median_value_mae"]
    assert f"{guess:.2f} always the median" in row
