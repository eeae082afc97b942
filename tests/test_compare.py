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
from tiny_workdir import TASKS, make_workdir

from data_pipelines.geometry import Crop
from data_pipelines.tasks import CELEBA, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf import compare_caveats, compare_report, compare_tables
from faceattr_tf.commands.compare import parse_conditions
from faceattr_tf.compare import compare
from faceattr_tf.compare_numbers import chosen_attributes, compare_task
from faceattr_tf.configs.base import Data, Phase, Recipe
from faceattr_tf.paired_bootstrap import recovered_share, run_figures, seed_weights
from faceattr_tf.results import TaskResult, measure

CROP = Crop(kind="box", height=24, width=20, margin=0.2)
AB = Task("attributes", "multilabel", ("a", "b"))
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
            name: [_figures(AB, labels, rate, int(random.integers(1 << 30)), 300) for rate in group]
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


def test_without_resamples_there_are_figures_but_no_intervals():
    labels = _labels(AB, 50)
    figures = {name: [_figures(AB, labels, 0.8, seed, 0)] for seed, name in enumerate("xyz")}
    task = compare_task(AB, figures, "x", "z")
    entry = task["figures"]["accuracy"]["y"]
    assert entry["value"] > 0 and entry["interval"] is None
    assert entry["difference"]["interval"] is None and not entry["difference"]["clear"]
    assert task["recovered"]["accuracy"]["y"]["value"] is not None


@pytest.mark.parametrize("kind", ["multiclass", "landmarks", "transform"])
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
        task = LANDMARKS if kind == "landmarks" else Task("alignment", "transform", names)
        labels = random.uniform(-0.5, 0.5, (60, *task.label_shape))
        labels[:7] = np.nan
        result = measure(task, labels, labels + 0.1, crop_size=(40, 40))
        expected = {"error": np.nanmean(result.errors)}
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
        seed=2, data=Data(batch_size=32), phases=(Phase("first"), Phase("train", steps=20))
    )
    assert compare_caveats.differing({"x": plain, "y": other}) == {
        "data.batch_size": {"x": 64, "y": 32},
        "phases[train].steps": {"x": 10, "y": 20},
        "phases[first].name": {"x": None, "y": "first"},
    }


def test_conditions_are_read_from_the_command_line():
    assert parse_conditions(["with alignment=w/a,w/b", "w/c/", "out/lr=0.1"]) == {
        "with alignment": ["w/a", "w/b"],
        "c": ["w/c/"],
        "lr=0.1": ["out/lr=0.1"],
    }


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory, mtfl_records):
    """Two conditions of two runs and a third of one; their models differ in their last layer."""
    folder = tmp_path_factory.mktemp("compare")
    own = {"path": mtfl_records.path, "name": "mtfl",
           "fingerprint": mtfl_records.description["fingerprint"]}  # fmt: skip
    majority = {name: guess.tolist() for name, guess in mtfl_records.majority().items()}
    conditions = {"plain": ["a0", "a1"], "with & alignment": ["b0", "b1"], "stn": ["c0"]}
    found = {}
    for condition, names in conditions.items():
        for seed, name in enumerate(names):
            workdir = make_workdir(folder / name, CROP)
            recipe = Recipe(name="tiny", seed=seed, data=Data(crop=CROP))
            metadata = {**workdir.metadata(), "records": [own], "majority": majority}
            if condition == "stn":
                recipe.model.transformer = "lonet"
                metadata["records"] = [{**own, "fingerprint": "another"}]
            workdir.write_json("config.json", recipe.to_dict())
            workdir.write_json("metadata.json", metadata)
            model = workdir.load_model()
            random = np.random.default_rng(ord(name[0]) + seed)
            model.set_weights([w + random.normal(0, 0.02, w.shape) for w in model.get_weights()])
            workdir.save_model(model)
            found.setdefault(condition, []).append(str(workdir.path))
    return found


@pytest.fixture(scope="module")
def compared(workdirs, mtfl_records, tmp_path_factory):
    contents = compare(
        workdirs,
        mtfl_records.path,
        reference="with & alignment",
        output=tmp_path_factory.mktemp("compared") / "new",
        bootstrap=60,
        batch_size=16,
    )
    return contents


def test_every_run_is_evaluated_as_the_report_does(compared, workdirs, mtfl_records, tmp_path):
    from faceattr_tf.evaluate import evaluate

    reports = [
        evaluate(path, mtfl_records.path, bootstrap=0, output=tmp_path / str(place))["mtfl-test"]
        for place, path in enumerate(workdirs["plain"])
    ]
    task = compared["tasks"]["attributes"]
    means = [report["tasks"]["attributes"]["metrics"]["mean"] for report in reports]
    tuned = [report["tasks"]["attributes"]["metrics_at_thresholds"]["mean"] for report in reports]
    for name, expected in (
        ("accuracy", [mean["accuracy"] for mean in means]),
        ("balanced_accuracy", [mean["balanced_accuracy"] for mean in means]),
        (TUNED, [mean["balanced_accuracy"] for mean in tuned]),
    ):
        assert task["figures"][name]["plain"]["runs"] == pytest.approx(expected)
    assert task["majority"]["mean"] == pytest.approx(means[0]["majority_accuracy"])
    pose = [report["tasks"]["pose"]["metrics"]["accuracy"] for report in reports]
    assert compared["tasks"]["pose"]["figures"]["accuracy"]["plain"]["runs"] == pytest.approx(pose)
    nme = [report["tasks"]["landmarks"]["metrics"]["nme"] for report in reports]
    found = compared["tasks"]["landmarks"]["figures"]["error"]["plain"]["runs"]
    assert found == pytest.approx(nme)
    assert {task.name for task in TASKS[:3]} <= set(compared["tasks"])
    assert list(task["recovered"]["accuracy"]) == ["stn"]


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
    text = (folder / "compare.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    stored = json.loads((folder / "compare.json").read_text())
    assert stored["tasks"]["pose"] == compared["tasks"]["pose"]
    assert compared["chosen"] == {"attributes": list(MTFL_ATTRIBUTES.labels)}


def test_what_stands_against_a_difference_is_said(compared):
    said = "\n".join(compared["warnings"])
    assert "One run only: stn." in said
    assert "not all trained on the same records" in said
    assert "share a seed" not in said and "differ beyond" not in said
    assert compared["recipes"]["model.transformer"]["stn"] == "lonet"
    other = {"a": Recipe(), "b": Recipe(data=Data(batch_size=8))}
    contents = {**compared, "conditions": {}}
    assert compare_caveats.caveats({"x": {"a": Recipe()}}, contents) == [
        "No condition has two runs: no interval holds what another seed changes."
    ]
    assert compare_caveats.caveats({"x": other}, contents) == [
        "The runs of x differ beyond their seed, in data.batch_size.",
        "Runs of x share a seed: they are not independent.",
    ]


def test_published_averages_stand_below_with_what_stands_against_them():
    labels = _labels(CELEBA, 600)
    figures = {name: [_figures(CELEBA, labels, 0.8, seed, 50)] for seed, name in enumerate("xy")}
    from faceattr_tf.compare import _published

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


def test_the_command_prints_the_main_table_and_the_reports_place(
    workdirs, mtfl_records, tmp_path, monkeypatch, capsys
):
    arguments = [f"{name}={','.join(paths)}" for name, paths in workdirs.items()]
    status, printed = _run(
        monkeypatch, capsys, *arguments, f"--records={mtfl_records.path}", f"--output={tmp_path}",
        "--bootstrap=20", "--flip", "--baseline=stn", "--attributes=Smiling",
    )  # fmt: skip
    assert status == 0
    (row,) = [line for line in printed.out.splitlines() if line.startswith("stn ")]
    assert row.split()[1] == "1" and "–" in row
    assert "Majority guess" in printed.out and "warning: " in printed.err
    assert printed.out.endswith(f"report: {tmp_path}/compare.html\n")
    stored = json.loads((tmp_path / "compare.json").read_text())
    assert stored["chosen"] == {"attributes": ["Smiling"]} and stored["flip"] is True


def test_wrong_input_is_one_line_and_status_1(
    workdirs, mtfl_records, tmp_path, monkeypatch, capsys
):
    first, second = workdirs["plain"]
    third = workdirs["stn"][0]
    records = f"--records={mtfl_records.path}"
    fewer = make_workdir(tmp_path / "fewer", CROP)
    tasks = [MTFL_ATTRIBUTES.select(["Male"]).to_dict()]
    fewer.write_json("metadata.json", {**fewer.metadata(), "tasks": tasks})
    cases = {
        (first, records): "a0: expected at least two to compare",
        (f"x={first}", f"x={second}", records): "condition 'x' is given twice",
        (f"x={first},{first}", f"y={second}", records): "is given twice",
        ("x=", f"y={second}", records): "names no workdir",
        (f"={first}", f"y={second}", records): "has no name",
        (first, f"{tmp_path}/absent", records): "does not exist",
        (first, second, f"--records={tmp_path}/absent"): "no such folder of records",
        (first, second, records, "--split=tset"): "no split 'tset'",
        (first, second, records, "--bootstrap=-1"): "expected 0 or more",
        (first, second, records, "--batch_size=0"): "expected at least 1",
        (first, second, records, "--baseline=x"): "baseline 'x' is no condition; there are: a0, a1",
        (first, second, records, "--reference=a1"): "expected a third condition",
        (first, second, third, records, "--reference=a0"): "expected a third condition",
        (first, second, records, "--attributes=Smile"): "'Smile' is not shared by all",
        (first, fewer.path, records): "task attributes is Male, but",
    }  # fmt: skip
    for arguments, text in cases.items():
        status, printed = _run(monkeypatch, capsys, *arguments)
        assert status == 1, arguments
        assert printed.err.startswith("faceattr-compare: error: ") and text in printed.err
        assert printed.err.count("\n") == 1 and not printed.out
