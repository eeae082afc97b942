"""The comparison: paired intervals, what is drawn again, tables, caveats, and the command."""

import json
import pathlib
import re
import sys
import xml.dom.minidom

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import ALIGNMENT, CELEBA, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.commands.compare import parse_conditions
from faceattr_tf.configs.base import Data, Phase, Recipe
from faceattr_tf.evaluation.paired_bootstrap import recovered_share, run_figures, seed_weights
from faceattr_tf.evaluation.results import ERRORS, TaskResult, measure
from faceattr_tf.reports.comparison import caveats as compare_caveats
from faceattr_tf.reports.comparison import decisions as compare_decisions
from faceattr_tf.reports.comparison import page as compare_report
from faceattr_tf.reports.comparison import runs as compare_runs
from faceattr_tf.reports.comparison import tables as compare_tables
from faceattr_tf.reports.comparison.compare import Options, compare
from faceattr_tf.reports.comparison.numbers import chosen_attributes, compare_task
from faceattr_tf.workdir import Workdir

CROP = Crop(kind="box", height=24, width=20, margin=0.2)
AB = Task("attributes", "multilabel", ("a", "b"))
TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS, ALIGNMENT)
TUNED = "balanced_accuracy_at_thresholds"


def _labels(task, count, seed=0, unknown=0.2):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, len(task.labels)))
    return np.where(random.uniform(size=labels.shape) < unknown, -1, labels)


def _figures(task, labels, right, seed, samples=400):
    """The figures of a run that is right with a given probability (a number, or one per label)."""
    random = np.random.default_rng(seed)
    said = np.where(random.uniform(size=labels.shape) < right, labels == 1, labels != 1)
    scores = 0.5 + np.where(said, 1, -1) * random.uniform(0.02, 0.5, labels.shape)
    thresholds = (0.5,) * len(task.labels)
    return run_figures(
        TaskResult(task, labels, scores, scores, np.zeros(len(labels)), thresholds, {}), samples
    )


def test_measured_figures_leave_unknown_labels_out():
    labels = _labels(AB, 300)
    outputs = labels + np.random.default_rng(1).normal(0, 1, labels.shape) - 0.5
    result = measure(AB, labels, outputs, thresholds=(0.3, 0.6))
    found = run_figures(result, 5)
    for index, threshold in enumerate((0.3, 0.6)):
        known = labels[:, index] >= 0
        truth, score = labels[known, index], result.scores[known, index]
        assert found["accuracy"][0, index] == np.mean((score >= 0.5) == truth)
        for name, limit in (("balanced_accuracy", 0.5), (TUNED, threshold)):
            expected = sklearn_metrics.balanced_accuracy_score(truth, score >= limit)
            assert found[name][0, index] == pytest.approx(expected)
    assert found["accuracy"].shape == (6, 2)


def test_a_paired_interval_is_that_of_an_independent_bootstrap():
    labels = _labels(AB, 200)
    figures = {
        "base": [_figures(AB, labels, 0.75, 1, 4000), _figures(AB, labels, 0.75, 2, 4000)],
        "new": [_figures(AB, labels, 0.85, 3, 4000)],
    }
    found = compare_task(AB, figures, "base")["attributes"]["accuracy"]["a"]["new"]["difference"]
    # The same by brute force: correctness per image, averaged over the seeds, images drawn again.
    known = labels[:, 0] >= 0
    right = {}
    for seed, rate in ((1, 0.75), (2, 0.75), (3, 0.85)):
        random = np.random.default_rng(seed)
        right[seed] = (random.uniform(size=labels.shape) < rate)[:, 0]
    gain = right[3].astype(float) - (right[1].astype(float) + right[2]) / 2
    assert found["value"] == pytest.approx(gain[known].mean())
    random = np.random.default_rng(9)
    draws = []
    for _ in range(4000):
        rows = random.integers(200, size=200)
        draws.append(gain[rows][known[rows]].mean())
    expected = np.percentile(draws, [2.5, 97.5])
    np.testing.assert_allclose(found["interval_images"], expected, atol=0.006)
    low, high = found["interval"]  # the two seeds of the baseline are drawn again, too
    assert high - low > expected[1] - expected[0]


def test_the_difference_of_identical_runs_is_exactly_zero():
    labels = _labels(CELEBA, 100)
    run = _figures(CELEBA, labels, 0.8, 1)
    task = compare_task(CELEBA, {"base": [run], "same": [run]}, "base")
    nothing = {"value": 0.0, "interval": [0, 0], "interval_images": [0, 0], "clear": False}
    for name in ("accuracy", "balanced_accuracy", TUNED):
        assert task["figures"][name]["same"]["difference"] == nothing
        for conditions in task["attributes"][name].values():
            assert conditions["same"]["difference"] == nothing
            assert conditions["base"]["difference"] is None


def test_a_known_gain_is_found_and_noise_is_not():
    labels = _labels(CELEBA, 800)
    gains = np.zeros(40)
    gains[[4, 31]] = 0.12, -0.12  # Bald and Smiling
    figures = {
        "base": [_figures(CELEBA, labels, 0.8, seed) for seed in range(3)],
        "new": [_figures(CELEBA, labels, 0.8 + gains, seed) for seed in range(10, 13)],
    }
    task = compare_task(CELEBA, figures, "base")
    clear = {
        label: conditions["new"]["difference"]["value"]
        for label, conditions in task["attributes"]["accuracy"].items()
        if conditions["new"]["difference"]["clear"]
    }
    assert clear["Bald"] == pytest.approx(0.12, abs=0.04) and clear["Smiling"] < -0.08
    assert len(clear) <= 2 + 5  # 2 of the other 38 are expected, more than 5 in one of 70 cases
    assert not task["figures"]["accuracy"]["new"]["difference"]["clear"]
    assert chosen_attributes(task) == ["Bald", "Smiling"]


def test_intervals_hold_the_true_difference_as_often_as_they_say():
    """Images and seeds both vary; an interval over images alone would be far too narrow."""
    held = {"interval": 0, "interval_images": 0}
    random = np.random.default_rng(0)
    for trial in range(60):
        labels = _labels(AB, 400, seed=trial, unknown=0)
        rates = 0.8 + random.normal(0, 0.03, (3, 3))
        figures = {
            name: [_figures(AB, labels, rate, int(random.integers(1 << 30)), 100) for rate in group]
            for name, group in zip(("base", "new", "other"), rates, strict=True)
        }
        found = compare_task(AB, figures, "base")["figures"]["accuracy"]["new"]["difference"]
        for key in held:
            held[key] += found[key][0] <= 0 <= found[key][1]
    assert held["interval"] >= 54
    assert held["interval_images"] <= 48


def test_seeds_are_averaged_and_their_spread_is_given():
    labels = _labels(AB, 200)
    runs = [_figures(AB, labels, 0.8, seed) for seed in range(3)]
    entry = compare_task(AB, {"a": runs, "b": runs[:1]}, "a")["figures"]["accuracy"]
    each = [run["accuracy"][0].mean() for run in runs]
    assert entry["a"]["runs"] == pytest.approx(each)
    assert entry["a"]["value"] == pytest.approx(np.mean(each))
    assert entry["a"]["deviation"] == pytest.approx(np.std(each, ddof=1))
    assert entry["b"]["deviation"] is None
    low, high = entry["b"]["interval"]  # borrows the spread of the other condition's runs
    assert high - low > np.diff(entry["b"]["interval_images"])


def test_seeds_move_a_difference_as_in_an_analysis_of_variance():
    values = np.array([0.81, 0.84, 0.86, 0.90, 0.91, 0.95])
    groups = np.split(values, [3, 5])
    one, two, three = seed_weights([3, 2, 1], 40000)
    for weights in (one, two, three):
        np.testing.assert_allclose(weights.sum(axis=-1), 1)
    np.testing.assert_allclose(two[:, 0], [[0, 0, 0, 0.5, 0.5, 0]] * 2)
    assert np.ptp(two[1] @ values) == pytest.approx(0)
    pooled = sum(((group - group.mean()) ** 2).sum() for group in groups) / 3
    for first, second, count in ((one, two, 1 / 3 + 1 / 2), (one, three, 1 / 3 + 1)):
        draws = second[0, 1:] @ values - first[0, 1:] @ values
        measured = second[0, 0] @ values - first[0, 0] @ values
        expected = measured + np.sqrt(pooled * count) * stats.t.ppf([0.025, 0.975], 3)
        np.testing.assert_allclose(np.percentile(draws, [2.5, 97.5]), expected, atol=0.003)
    for weights in seed_weights([1, 1], 10):  # of one run each nothing is known
        assert not np.ptp(weights, axis=1).any()


def test_what_no_draw_defines_has_no_figure():
    labels = np.stack([np.full(50, -1), np.ones(50, int)], axis=1)  # never known, never "no"
    run = _figures(AB, labels, 0.9, 1)
    task = compare_task(AB, {"base": [run, run], "new": [run]}, "base")
    unknown = task["attributes"]["accuracy"]["a"]["new"]
    assert unknown["value"] is None and unknown["interval"] is None and unknown["runs"] == [None]
    assert unknown["difference"]["value"] is None and not unknown["difference"]["clear"]
    assert task["attributes"]["accuracy"]["b"]["new"]["value"] > 0.8
    assert task["figures"]["balanced_accuracy"]["new"]["value"] is None
    json.dumps(task, allow_nan=False)


def test_a_condition_may_lack_attributes_and_means_are_over_those_that_all_have():
    labels = _labels(AB, 200)
    both = [_figures(AB, labels, 0.8, seed) for seed in range(2)]
    only_b = [{name: draws[:, 1:] for name, draws in both[1].items()}]
    figures, has = {"both": both, "b": only_b}, {"b": ("b",)}
    task = compare_task(AB, figures, "both", labels=has)
    alone = compare_task(AB.select(["b"]), {"both": [_only(run, 1) for run in both], "b": only_b},
                         "both")  # fmt: skip
    assert task["shared"] == ["b"] and task["labels"] == ["a", "b"]
    for name in ("accuracy", TUNED):
        assert task["attributes"][name]["b"] == alone["attributes"][name]["b"]
        assert task["figures"][name] == alone["figures"][name]
        lacking = task["attributes"][name]["a"]["b"]
        assert lacking["value"] is None and not lacking["runs"] and not lacking["difference"]
    # The spread of the seeds is that of the conditions which have the attribute.
    pair = compare_task(AB.select(["a"]), {"both": [_only(run, 0) for run in both]}, "both")
    assert (
        task["attributes"]["accuracy"]["a"]["both"] == pair["attributes"]["accuracy"]["a"]["both"]
    )
    nothing = compare_task(AB, {"both": [_only(both[0], 0)], "b": only_b}, "both",
                           labels={"both": ("a",), "b": ("b",)})  # fmt: skip
    assert not nothing["shared"] and nothing["figures"]["accuracy"]["both"]["value"] is None


def _only(run, index):
    return {name: draws[:, [index]] for name, draws in run.items()}


def _rows(labels, outputs, thresholds, label="a"):
    numbers = measure(AB, labels, outputs, thresholds=thresholds).numbers
    keys = ("metrics", "metrics_at_thresholds")
    return {key: numbers[key]["labels"][label] for key in keys}


def test_decisions_are_those_of_sklearn_and_means_over_the_runs():
    labels = _labels(AB, 200)
    random = np.random.default_rng(3)
    runs = [(labels + random.normal(0, 1, labels.shape) - 0.5, limit) for limit in (0.3, 0.7)]
    found = compare_decisions.compare_decisions(
        [_rows(labels, outputs, (limit, 0.5)) for outputs, limit in runs]
    )
    known = labels[:, 0] >= 0
    truth = labels[known, 0]
    expected = {"at_half": [], "at_thresholds": []}
    for outputs, limit in runs:
        score = 1 / (1 + np.exp(-outputs[known, 0]))
        for point, threshold in (("at_half", 0.5), ("at_thresholds", limit)):
            pair = {"y_true": truth, "y_pred": score >= threshold}
            expected[point].append(
                [
                    sklearn_metrics.precision_score(**pair),
                    sklearn_metrics.precision_score(**pair, pos_label=0),
                    sklearn_metrics.recall_score(**pair),
                    sklearn_metrics.recall_score(**pair, pos_label=0),
                    sklearn_metrics.accuracy_score(**pair),
                    *sklearn_metrics.confusion_matrix(**pair).ravel(),
                    *sklearn_metrics.confusion_matrix(**pair, normalize="true").ravel(),
                ]
            )
    names = ("precision", "precision_no", "recall", "recall_no", "accuracy")
    means = {point: np.mean(values, axis=0) for point, values in expected.items()}
    for point, values in means.items():
        of = found[point]
        assert [of[name] for name in names] == pytest.approx(values[:5])
        assert np.ravel(of["confusion"]) == pytest.approx(values[5:9])
        assert np.ravel(of["confusion_shares"]) == pytest.approx(values[9:])
    change = means["at_thresholds"] - means["at_half"]
    assert [found["change"][name] for name in names] == pytest.approx(change[:5])
    assert found["thresholds"] == [0.3, 0.7] and len(found["runs"]) == 2


def test_a_run_that_never_says_yes_has_no_precision_and_one_class_no_shares():
    labels = np.array([[1, 1], [1, 0], [1, 1]])
    found = compare_decisions.compare_decisions([_rows(labels, labels - 9.0, (0.5, 0.5))])
    assert found["at_half"]["precision"] is None and found["change"]["precision"] is None
    assert found["at_half"]["recall"] == 0 and found["at_half"]["confusion_shares"] is None
    assert found["at_half"]["confusion"] == [[0, 0], [3, 0]]


def test_attributes_one_by_one_stand_beside_the_published_tables():
    labels = _labels(MTFL_ATTRIBUTES, 1997, unknown=0)
    random = np.random.default_rng(0)
    results = {
        name: measure(MTFL_ATTRIBUTES, labels, labels + noise, thresholds=(0.6,) * 3)
        for name, noise in zip("xy", random.normal(-0.5, 1, (2, 1997, 3)), strict=True)
    }
    figures = {name: [run_figures(result, 20)] for name, result in results.items()}
    task = compare_task(MTFL_ATTRIBUTES, figures, "x")
    task["majority"] = {"mean": 0.5, "labels": dict.fromkeys(MTFL_ATTRIBUTES.labels, 0.5)}
    task["decisions"] = {
        label: {
            name: compare_decisions.compare_decisions(
                [
                    {
                        key: result.numbers[key]["labels"][label]
                        for key in ("metrics", "metrics_at_thresholds")
                    }
                ]
            )
            for name, result in results.items()
        }
        for label in ("Male", "Smiling")
    }
    from faceattr_tf.reports.comparison.compare import _published

    contents = {"tasks": {"it": task}, "published": _published("mtfl", "", "test", 1997)}
    table, confusion = compare_decisions.decision_tables("it", "Smiling", contents)
    own = [row for row in table.rows if row[0] == "x"]
    assert [row[1] for row in own] == ["0.5", "0.60", "change"]
    shown = results["x"].numbers["metrics"]["labels"]["Smiling"]
    assert own[0][6] == f"{100 * shown['precision']:.1f}" and " to " in own[0][3]
    assert own[2][8].startswith("−") and own[2][9].startswith("+")  # recall of yes falls
    rows = {row[0]: row for row in table.rows}
    assert rows["InceptionV3 fine-tuned"][2::2] == ("87.5", "89.45", "97.6", "82.6")
    assert rows["InceptionV3 fine-tuned"][7::2] == ("75.4", "96.3")
    assert rows["Cascade CNN, 1e-4, 125 epochs"][6:] == ("71.4", "–", "75.1", "–")
    assert rows["TCDCN, 1e-4, 45 epochs"][2] == "72.5"
    assert rows["TCDCN, 1e-4, 45 epochs, validation"][2] == "86"
    assert "not strictly comparable" in table.note and "for these 1,997" in table.note
    assert table.note.count("not strictly comparable") == 1
    printed = {row[0]: row for row in confusion.rows if row[1] == "printed"}
    assert printed["InceptionV3 bottlenecks"][6:] == ("74", "26", "36", "64")
    for row in confusion.rows[:4]:
        shares = [float(cell.split("(")[1].split()[0]) for cell in row[2:6]]
        assert shares[0] + shares[1] == pytest.approx(100, abs=0.11)
        assert float(row[6]) + float(row[7]) == pytest.approx(100, abs=0.11)
    short = compare_decisions.decision_table("it", "Smiling", contents, short=True)
    assert {len(row) for row in short.rows} == {8} and "95 % interval" not in short.header
    (male,) = [row for row in confusion_rows("Male", contents) if row[0].endswith("tuned")]
    assert male[6:] == ("77", "23", "6", "94")
    plot = compare_report.confusion_plot(task["decisions"]["Male"])
    xml.dom.minidom.parseString(plot.svg)


def confusion_rows(label, contents):
    return compare_decisions.confusion_table("it", label, contents).rows


def test_attributes_are_shown_one_by_one_where_they_are_few_or_named():
    assert compare_decisions.detailed_labels(AB.labels) == ["a", "b"]
    assert compare_decisions.detailed_labels(AB.labels, ["b", "Smiling"]) == ["b"]
    assert compare_decisions.detailed_labels(CELEBA.labels) == []
    assert compare_decisions.detailed_labels(CELEBA.labels, ["Smiling"]) == ["Smiling"]


def test_without_resamples_there_are_figures_but_no_intervals():
    labels = _labels(AB, 50)
    figures = {name: [_figures(AB, labels, 0.8, seed, 0)] for seed, name in enumerate("xyz")}
    task = compare_task(AB, figures, "x", "z")
    entry = task["figures"]["accuracy"]["y"]
    assert entry["value"] > 0 and entry["interval"] is None
    assert entry["difference"]["interval"] is None and not entry["difference"]["clear"]
    assert task["recovered"]["accuracy"]["y"]["value"] is not None


@pytest.mark.parametrize("kind", ["multiclass", "landmarks", "transform", "regression"])
def test_other_kinds_have_the_figure_of_their_kind(kind):
    random = np.random.default_rng(0)
    if kind == "multiclass":
        labels = random.integers(-1, 5, 100)
        outputs = random.normal(0, 1, (100, 5))
        result = measure(POSE, labels, outputs)
        known = labels >= 0
        truth, said = labels[known], outputs[known].argmax(axis=1)
        expected = {"accuracy": np.mean(said == truth)}
        expected["balanced_accuracy"] = sklearn_metrics.balanced_accuracy_score(truth, said)
    else:
        names = tuple(f"theta{place}" for place in range(6))
        task = {
            "landmarks": LANDMARKS,
            "transform": Task("alignment", "transform", names),
            "regression": Task("age", "regression", ("years", "months")),
        }[kind]
        labels = random.uniform(-0.5, 0.5, (60, *task.label_shape))
        outputs = labels + random.normal(0.1, 0.01, labels.shape)
        labels[:7] = np.nan
        if kind == "regression":
            labels[:40, 1] = np.nan  # the mean over labels is then another than that over images
        result = measure(task, labels, outputs, crop_size=(40, 40))
        found = result.numbers["metrics"]
        expected = {"error": found.get("mean", found)[ERRORS[kind]]}
    found = run_figures(result, 30)
    assert {name: draws[0] for name, draws in found.items()} == pytest.approx(expected)
    assert all(draws.shape == (31,) and np.ptp(draws) > 0 for draws in found.values())
    figures = {"base": [found], "same": [found]}
    table = compare_tables.other_table({"it": compare_task(result.task, figures, "base")})
    assert [row[0] for row in table.rows[:2]] == ["it, base", "it, same"]
    assert table.rows[1][5] == "+0.00" and table.rows[1][6] == "0.00 to 0.00"


def _around(value, spread, seed):
    draws = np.random.default_rng(seed).normal(value, spread, (2, 401))
    draws[:, 0] = value
    return draws


def test_the_recovered_share_lies_between_baseline_and_reference():
    base, best = _around(0.80, 0.002, 1), _around(0.90, 0.002, 2)
    found = recovered_share(_around(0.87, 0.002, 3), base, best)
    assert found["value"] == pytest.approx(0.7)
    low, high = found["interval"]
    assert 0.6 < low < 0.7 < high < 0.8 and not found["reason"]


def test_no_share_is_given_where_the_reference_is_no_better_for_sure():
    base, best = _around(0.80, 0.05, 1), _around(0.82, 0.05, 2)
    found = recovered_share(_around(0.81, 0.05, 3), base, best)
    assert found["value"] is None and "cannot be told apart" in found["reason"]
    same = recovered_share(base, best, best)
    assert same["value"] is None and same["interval"] is None


def test_recipes_are_compared_field_by_field_and_phases_by_their_name():
    plain = Recipe(seed=1, phases=(Phase("train", steps=10),))
    other = Recipe(
        seed=2,
        data=Data(records=("other/name/",), batch_size=32),
        phases=(Phase("first"), Phase("train", steps=20)),
    )
    assert compare_caveats.differing({"x": plain, "y": other}) == {
        "data.batch_size": {"x": 64, "y": 32},
        "phases[train].steps": {"x": 10, "y": 20},
        "phases[first].name": {"x": None, "y": "first"},
    }


def test_conditions_are_read_from_the_command_line():
    given = ["with alignment + stn=w/a,w/b", "w/c/", "out/lr=0.1", "tops, nose=w/x+w/y,w/z+w/q"]
    assert parse_conditions(given) == {
        "with alignment + stn": [["w/a"], ["w/b"]],
        "c": [["w/c/"]],
        "lr=0.1": [["out/lr=0.1"]],
        "tops, nose": [["w/x", "w/y"], ["w/z", "w/q"]],
    }


def _workdir(path, records, tasks=TASKS, seed=0, model=True, **data):
    """The workdir of a finished run with a network of one layer."""
    import keras

    path.mkdir(parents=True)
    workdir = Workdir(path)
    own = {"path": str(records.path), "name": "mtfl",
           "fingerprint": records.description["fingerprint"]}  # fmt: skip
    majority = {name: guess.tolist() for name, guess in records.majority().items()}
    places = [MTFL_ATTRIBUTES.labels.index(label) for label in tasks[0].labels]
    majority["attributes"] = [majority["attributes"][place] for place in places]
    recipe = Recipe(name="tiny", seed=seed, data=Data(crop=CROP, **data))
    metadata = {
        "tasks": [task.to_dict() for task in tasks],
        "crop": CROP.to_dict(),
        "input_shape": [CROP.height, CROP.width, 3],
        "majority": majority,
        "records": [own],
    }
    thresholds = [0.45 + 0.1 * place for place in places]
    workdir.write_json("config.json", recipe.to_dict())
    workdir.write_json("metadata.json", metadata)
    workdir.write_json(
        "calibration.json", {"attributes": {"temperature": 2.0, "thresholds": thresholds}}
    )
    if model:
        keras.utils.set_random_seed(ord(path.name[0]) + seed)
        inputs = keras.Input((CROP.height, CROP.width, 3), name="image")
        features = keras.layers.Rescaling(1 / 64, offset=-2)(inputs)
        features = keras.layers.Flatten()(keras.layers.AveragePooling2D(4)(features))
        outputs = {}
        for task in tasks:
            output = keras.layers.Dense(task.output_size)(features)
            if task.kind in ("landmarks", "transform"):
                output = keras.layers.Reshape(task.label_shape)(output)
            outputs[task.name] = output
        workdir.save_model(keras.Model(inputs, outputs))
    return workdir


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, mtfl_records):
    """Two runs, a run of two networks, and one of a network that was trained on other records."""
    folder = tmp_path_factory.mktemp("compare")
    smile, male = (
        str(_workdir(folder / f"b_{label}", mtfl_records, (task, ALIGNMENT)).path)
        for label in ("Smiling", "Male")
        for task in [MTFL_ATTRIBUTES.select([label])]
    )
    found = {
        "plain": [str(_workdir(folder / f"a{n}", mtfl_records, seed=n).path) for n in range(2)],
        "with & alignment": [[smile, male]],
    }
    other = _workdir(folder / "c0", mtfl_records)
    recipe, metadata = other.recipe(), other.metadata()
    recipe.model.transformer = "lonet"
    metadata["records"][0]["fingerprint"] = "another"
    other.write_json("config.json", recipe.to_dict())
    other.write_json("metadata.json", metadata)
    return {**found, "stn": [str(other.path)]}


@pytest.fixture(scope="module")
def compared(workdirs, mtfl_records, tmp_path_factory):
    return compare(
        workdirs,
        mtfl_records.path,
        options=Options(reference="with & alignment", bootstrap=60, batch_size=16),
        output=tmp_path_factory.mktemp("compared") / "new",
    )


def test_every_run_is_evaluated_as_the_report_does(
    compared, workdirs, mtfl_records, tmp_path, monkeypatch
):
    from faceattr_tf.reports.evaluate import evaluate

    monkeypatch.setattr("faceattr_tf.reports.page.write_report", lambda *given: None)
    monkeypatch.setattr("faceattr_tf.reports.galleries.collect_examples", lambda *given: {})

    task, figures = compared["tasks"]["attributes"], compared["tasks"]["attributes"]["attributes"]
    assert task["labels"] == list(MTFL_ATTRIBUTES.labels)
    assert task["shared"] == ["Male", "Smiling"]
    path = workdirs["plain"][1]
    found = evaluate(path, mtfl_records.path, bootstrap=0, output=tmp_path)
    second = found["mtfl-test"]["tasks"]
    rows, tuned = (
        second["attributes"][key]["labels"] for key in ("metrics", "metrics_at_thresholds")
    )
    mean = np.mean([rows[label]["accuracy"] for label in task["shared"]])
    assert task["figures"]["accuracy"]["plain"]["runs"][1] == pytest.approx(mean)
    guesses = {label: row["majority_accuracy"] for label, row in rows.items()}
    assert task["majority"]["labels"] == guesses
    assert task["majority"]["mean"] == pytest.approx((guesses["Male"] + guesses["Smiling"]) / 2)
    for label, row in rows.items():
        for name, expected in (
            ("accuracy", row["accuracy"]),
            ("balanced_accuracy", row["balanced_accuracy"]),
            (TUNED, tuned[label]["balanced_accuracy"]),
        ):
            assert figures[name][label]["plain"]["runs"][1] == pytest.approx(expected)
        own = task["decisions"][label]["plain"]["runs"][1]
        assert own == {"metrics": row, "metrics_at_thresholds": tuned[label]}
    others = compared["tasks"]
    found = others["pose"]["figures"]["accuracy"]["plain"]["runs"]
    assert found[1] == pytest.approx(second["pose"]["metrics"]["accuracy"])
    found = others["landmarks"]["figures"]["error"]["plain"]["runs"]
    assert found[1] == pytest.approx(second["landmarks"]["metrics"]["nme"])
    assert {task.name for task in TASKS} == set(others)
    assert list(others["alignment"]["figures"]["error"]) == ["plain", "stn"]
    assert list(task["recovered"]["accuracy"]) == ["stn"]
    assert figures["accuracy"]["Eyeglasses"]["with & alignment"]["value"] is None
    assert set(task["decisions"]["Eyeglasses"]) == {"plain", "stn"}


def test_a_run_of_several_networks_has_the_labels_of_each():
    labels = _labels(AB, 60)
    b, a = (measure(AB.select([name]), labels[:, [i]], labels[:, [i]] + 0.4 - i)
            for name, i in (("b", 1), ("a", 0)))  # fmt: skip
    b, a = (
        compare_runs.Part(
            None, {"attributes": of.task}, {"attributes": run_figures(of, 3)},
            {"attributes": of.numbers}, {}, {}, [], 0, {},
        )
        for of in (b, a)
    )  # fmt: skip
    run = compare_runs.Run((b, a), {"attributes": AB})
    whole = measure(AB, labels, labels + [0.4, -0.6])
    for name, draws in run_figures(whole, 3).items():
        np.testing.assert_array_equal(run.figures("attributes")[name], draws)
    for key in ("metrics", "metrics_at_thresholds"):
        expected = {label: whole.numbers[key]["labels"][label] for label in AB.labels}
        assert {label: run.rows("attributes", label)[key] for label in AB.labels} == expected


def test_mistakes_are_those_of_the_first_run_the_surest_first(compared, mtfl_records):
    names = mtfl_records.filenames("test")
    for conditions in compared["tasks"]["attributes"]["decisions"].values():
        for entry in conditions.values():
            wrong = entry["mistakes"]
            confusion = np.array(entry["runs"][0]["metrics"]["confusion"])
            assert len(wrong) == min(6, confusion.sum() - confusion.trace())
            sure = [abs(found["probability"] - 0.5) for found in wrong]
            assert sure == sorted(sure, reverse=True)
            for found in wrong:
                assert found["filename"] in names
                assert found["labelled"] == (found["probability"] < 0.5)


def test_the_page_is_complete_in_itself_and_nothing_becomes_markup(compared):
    folder = pathlib.Path(compared["folder"])
    assert sorted(file.name for file in folder.iterdir()) == [
        "compare.html", "compare.json", "compare.md"
    ]  # fmt: skip
    page = (folder / "compare.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|@import|url\(|<link", page)
    assert "with &amp; alignment" in page and "with & alignment" not in page
    for part in ("Majority guess", "Every attribute", "Other tasks", "What differs between"):
        assert part in page
    assert "Male, Smiling: what all conditions have" in page
    decisions = compared["tasks"]["attributes"]["decisions"]
    mistakes = [
        found
        for label, conditions in decisions.items()
        for condition, entry in conditions.items()
        for found in entry["mistakes"]
    ]
    assert len(mistakes) == len(re.findall('<image href="data:image/jpeg', page)) > 0
    assert all(found["filename"] in page for found in mistakes)
    text = (folder / "compare.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    assert "## attributes: Smiling" in text and "Conditions without it: with & alignment." in text
    stored = json.loads((folder / "compare.json").read_text())
    assert stored["tasks"]["pose"] == compared["tasks"]["pose"]
    assert stored["tasks"]["attributes"]["decisions"] == decisions
    assert compared["chosen"] == {"attributes": list(MTFL_ATTRIBUTES.labels)}


def test_what_stands_against_a_difference_is_said(compared):
    said = "\n".join(compared["warnings"])
    assert "One run only: with & alignment, stn." in said
    assert "not all trained on the same records" in said
    assert "share a seed" not in said and "differ beyond" not in said
    assert compared["recipes"]["model.transformer"]["stn"] == "lonet"
    parts = compared["conditions"]["with & alignment"]
    assert [part["run"] for part in parts] == [0, 0]
    assert [part["learned"] for part in parts] == [["Smiling", "alignment"], ["Male", "alignment"]]
    other = {"a": Recipe(), "b": Recipe(data=Data(batch_size=8))}
    contents = {**compared, "conditions": {}}
    assert compare_caveats.caveats({"x": [{"a": Recipe()}]}, contents) == [
        "No condition has two runs: no interval holds what another seed changes."
    ]
    assert compare_caveats.caveats(
        {"x": [{"c": Recipe(), "d": Recipe(seed=1)}, other]}, contents
    ) == [
        "The runs of x differ beyond their seed, in data.batch_size.",
        "Runs of x share a seed: they are not independent.",
    ]


def test_published_averages_stand_below_with_what_stands_against_them():
    labels = _labels(CELEBA, 600)
    figures = {name: [_figures(CELEBA, labels, 0.8, seed, 50)] for seed, name in enumerate("xy")}
    from faceattr_tf.reports.comparison.compare import _published

    majority = {"mean": 0.8, "labels": {}}
    contents = {
        "baseline": "x",
        "tasks": {"attributes": compare_task(CELEBA, figures, "x") | {"majority": majority}},
        "published": _published("celeba_small", "celeba", "test", 1003),
        "chosen": {"attributes": ["Smiling", "Straight_Hair"]},
    }
    table = compare_tables.main_table("attributes", contents)
    rows = {row[0]: row for row in table.rows}
    assert rows["FaceSTN"][2] == "91.1" and rows["Majority guess"][2] == "80.00"
    assert "published for celeba, not for celeba_small" in table.note
    assert "not for these 1,003" in table.note
    (table,) = compare_tables.chosen_tables("attributes", contents)
    rows = {row[0]: row for row in table.rows}
    assert rows["LNets+ANet"][1::3] == ("92", "73")
    assert {len(row) for row in table.rows} == {len(table.header)}
    assert _published("celeba", "none", "test", 19962) == []


def test_bars_are_coloured_where_the_interval_excludes_zero():
    found = {
        "a": {"value": 0.02, "interval": [0.01, 0.03], "clear": True},
        "b": {"value": -0.02, "interval": [-0.03, -0.01], "clear": True},
        "c": {"value": 0.01, "interval": [-0.01, 0.03], "clear": False},
        "d": {"value": 0.01, "interval": None, "clear": False},
    }
    labels = ("a", "b", "c", "d", "never known")
    picture = compare_report.attribute_differences({"x": found, "y": found}, labels)
    xml.dom.minidom.parseString(picture)
    for colour, bars in (("#0072b2", 2), ("#d55e00", 2), ("#c9ced6", 4)):
        assert len(re.findall(f"fill: {colour}", picture)) == bars
    assert len(re.findall("stroke: #30343a", picture)) == 6


def _run(monkeypatch, capsys, *arguments):
    from faceattr_tf.commands import compare as command

    monkeypatch.setattr(sys, "argv", ["faceattr-compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    return ended.value.code, capsys.readouterr()


def test_the_command_prints_the_main_tables_and_the_reports_place(
    workdirs, mtfl_records, tmp_path, monkeypatch, capsys
):
    status, printed = _run(
        monkeypatch, capsys, workdirs["plain"][0], f"stn={workdirs['stn'][0]}", "--flip",
        f"--records={mtfl_records.path}", f"--output={tmp_path}", "--bootstrap=0",
        "--baseline=stn", "--attributes=Smiling",
    )  # fmt: skip
    assert status == 0
    rows = [line.split() for line in printed.out.splitlines() if line.startswith("stn ")]
    assert rows[0][1] == "1" and "–" in rows[0]
    assert [row[1] for row in rows[1:]] == ["0.5", "0.55", "change"]
    assert "Majority guess" in printed.out and "warning: " in printed.err
    assert printed.out.endswith(f"report: {tmp_path}/compare.html\n")
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert stored["chosen"] == {"attributes": ["Smiling"]} and stored["flip"] is True
    assert list(stored["tasks"]["attributes"]["decisions"]) == ["Smiling"]


def test_wrong_input_is_one_line_and_status_1(
    workdirs, mtfl_records, tmp_path, monkeypatch, capsys
):
    first, second = workdirs["plain"]
    third, (smile, male) = workdirs["stn"][0], workdirs["with & alignment"][0]
    records = f"--records={mtfl_records.path}"
    parted = _workdir(tmp_path / "parted", mtfl_records, model=False, validation_share=0.3).path
    cases = {
        (first, records): "a0: expected at least two to compare",
        (f"x={first}", f"x={second}", records): "condition 'x' is given twice",
        (f"x={first},{first}", f"y={second}", records): "is given twice",
        (f"x={male}+{male}", f"y={second}", records): "is given twice",
        ("x=", f"y={second}", records): "names no workdir",
        (f"x={first}+", f"y={second}", records): "names no workdir",
        (f"={first}", f"y={second}", records): "has no name",
        (first, f"{tmp_path}/absent", records): "does not exist",
        (first, second, f"--records={tmp_path}/absent"): "no such folder of records",
        (first, second, records, "--split=tset"): "no split 'tset'",
        (first, parted, records, "--split=train"): "parts split 'train' of",
        (first, second, records, "--bootstrap=-1"): "expected 0 or more",
        (first, second, records, "--batch_size=0"): "expected at least 1",
        (first, second, records, "--baseline=x"): "baseline 'x' is no condition; there are: a0, a1",
        (first, second, records, "--reference=a1"): "expected a third condition",
        (first, second, third, records, "--reference=a0"): "expected a third condition",
        (first, second, records, "--attributes=Smile"): "attribute 'Smile' is in no condition",
        (f"x={first}+{male}", second, records): "of one run both learned attributes Male; expected",
        (f"x={first},{male}", second, records): "task attributes is Male, but Male, Smiling",
        (f"x={smile}", f"y={male}", records): "Male) shares no label with the baseline 'x'",
    }  # fmt: skip
    for arguments, text in cases.items():
        status, printed = _run(monkeypatch, capsys, *arguments)
        assert status == 1, arguments
        assert printed.err.startswith("faceattr-compare: error: ") and text in printed.err
        assert printed.err.count("\n") == 1 and not printed.out
