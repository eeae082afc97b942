"""Evaluation: outputs in order, shared labels, intervals, overlap with training, end to end."""

import json
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics
from tiny_workdir import TASKS, build_model, make_workdir
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import ALIGNMENT, CELEBA, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.evaluation import leakage
from faceattr_tf.evaluation.bootstrap import intervals, resampled_sums
from faceattr_tf.evaluation.inference import forward_function, predict_outputs
from faceattr_tf.evaluation.results import measure
from faceattr_tf.evaluation.split import share_tasks
from faceattr_tf.reports.evaluate import evaluate
from faceattr_tf.workdir import Workdir

CROP = Crop(kind="box", height=24, width=20, margin=0.2)


def _batches(count, size, seed=0):
    """Batches of noise whose labels and names say which image it is."""
    images = np.random.default_rng(seed).uniform(0, 255, (count, 24, 20, 3)).astype(np.float32)
    for start in range(0, count, size):
        rows = range(start, min(start + size, count))
        yield {
            "image": images[start : start + size],
            "filename": np.array([f"{row}.jpg".encode() for row in rows]),
            "transform": np.full((len(rows), 2, 3), start, np.float32),
            "labels": {"pose": np.array([row % 5 for row in rows], np.int32)},
        }


def test_outputs_keep_the_order_of_all_examples_and_the_last_partial_batch():
    model = build_model(CROP)
    outputs, labels, transforms, filenames = predict_outputs(model, _batches(7, 3))
    images = np.concatenate([batch["image"] for batch in _batches(7, 3)])
    expected = model(images, training=False)
    for task in TASKS:
        np.testing.assert_allclose(outputs[task.name], expected[task.name], atol=1e-5)
    assert filenames == [f"{row}.jpg" for row in range(7)]
    assert labels["pose"].tolist() == [0, 1, 2, 3, 4, 0, 1]
    assert transforms[:, 0, 0].tolist() == [0, 0, 0, 3, 3, 3, 6]


def test_flip_averages_with_the_mirrored_image_seen_from_the_original():
    model = build_model(CROP)
    forward = forward_function(model)
    outputs, *_ = predict_outputs(forward, _batches(4, 4), flip=True, tasks=TASKS)
    images = next(_batches(4, 4))["image"]
    plain, mirrored = model(images), model(images[:, :, ::-1])
    np.testing.assert_allclose(
        outputs["attributes"], (plain["attributes"] + mirrored["attributes"]) / 2, atol=1e-5
    )
    left, right = plain["pose"][:, 0], mirrored["pose"][:, 4]
    np.testing.assert_allclose(outputs["pose"][:, 0], (left + right) / 2, atol=1e-5)
    eye, other = plain["landmarks"][:, 0], mirrored["landmarks"][:, 1] * np.array([-1.0, 1.0])
    np.testing.assert_allclose(outputs["landmarks"][:, 0], (eye + other) / 2, atol=1e-5)


def _record_set(tasks, name="other", fingerprint="f", filenames=(), path="/records"):
    description = {"title": name, "fingerprint": fingerprint}
    records = RecordSet(
        path, name, tuple(tasks), {"train": len(filenames)}, {}, {}, {}, description
    )
    object.__setattr__(records, "filenames", lambda split: list(filenames))
    return records


def test_labels_are_joined_by_name_and_the_rest_is_listed():
    colours = Task("colours", "multiclass", ("red", "blue"))
    ours = Task("colours", "multiclass", ("blue", "red"))
    shared, rest = share_tasks((CELEBA, ours, POSE), _record_set((MTFL_ATTRIBUTES, colours)))
    assert [(task.name, task.labels) for task in shared] == [
        ("attributes", ("Eyeglasses", "Male", "Smiling"))  # in the model's order
    ]
    assert len(rest["model_only"]["attributes"]) == 37
    assert rest["model_only"]["pose"] == list(POSE.labels)
    assert rest["model_only"]["colours"] == ["blue", "red"]
    assert rest["data_only"] == {"colours": ["red", "blue"]}


def test_nothing_shared_is_the_users_mistake():
    with pytest.raises(UserError, match=r"/records: no task is shared.*pose.*attributes"):
        share_tasks((POSE,), _record_set((MTFL_ATTRIBUTES,)))


def test_intervals_are_those_of_an_independent_bootstrap():
    random = np.random.default_rng(0)
    task = Task("attributes", "multilabel", ("a", "b"))
    labels = random.integers(-1, 2, (300, 2))
    outputs = (labels == 1) * 1.0 + random.normal(0, 1, (300, 2)) - 0.5
    found = intervals(measure(task, labels, outputs), 2000)
    for index, name in enumerate(task.labels):
        mask = labels[:, index] >= 0
        truth, said = labels[mask, index], outputs[mask, index] >= 0
        for measure_name, score in (
            ("accuracy", sklearn_metrics.accuracy_score),
            ("balanced_accuracy", sklearn_metrics.balanced_accuracy_score),
        ):
            expected = stats.bootstrap(
                (truth, said), score, paired=True, vectorized=False, n_resamples=500,
                method="percentile", rng=1,
            ).confidence_interval  # fmt: skip
            np.testing.assert_allclose(found["labels"][name][measure_name], expected, atol=0.02)
    low, high = found["mean"]["accuracy"]
    narrow = found["labels"]["a"]["accuracy"]
    assert high - low < narrow[1] - narrow[0]  # the mean of two labels varies less than one


def test_resamples_keep_the_number_of_examples_and_repeat_by_seed():
    columns = np.stack([np.ones(50), np.arange(50)], axis=1)
    sums = resampled_sums(columns, 100, seed=3)
    assert (sums[:, 0] == 50).all()
    assert abs(sums[:, 1].mean() - columns[:, 1].sum()) < 60
    np.testing.assert_array_equal(sums, resampled_sums(columns, 100, seed=3))


class _Run:
    """What `training_overlap` asks of a workdir."""

    def __init__(self, path, records, share=0.0, warm_start=""):
        from faceattr_tf.configs.base import Data, Recipe

        self.path = path
        self._recipe = Recipe(data=Data(validation_share=share), warm_start=warm_start, seed=5)
        self._records = records

    def recipe(self):
        return self._recipe

    def metadata(self):
        return {"records": [{"path": path} for path in self._records]}


@pytest.fixture
def stored(monkeypatch):
    """Record sets that `RecordSet.load` finds by their path."""
    found = {}

    def load(path):
        if path not in found:
            raise UserError(f"{path}: no such folder of records")
        return found[path]

    monkeypatch.setattr(leakage.RecordSet, "load", load)
    return found


def test_images_shared_with_training_are_found_by_base_name_across_sets(stored, tmp_path):
    stored["mtfl"] = _record_set((), "mtfl", "m", ["lfw_5590/Ann_0001.jpg", "net_7876/1.jpg"])
    lfwa = _record_set((), "lfwa", "l")
    names = ["Ann/Ann_0001.jpg", "Bob/Bob_0001.jpg"]
    found = leakage.training_overlap(_Run(tmp_path, ["mtfl"]), lfwa, names)
    assert (found["count"], found["filenames"]) == (1, ["Ann/Ann_0001.jpg"])
    assert found["checked"] == ["mtfl"] and not found["unchecked"]


def test_within_one_set_whole_paths_count(stored, tmp_path):
    stored["own"] = records = _record_set((), "own", "same", ["cat/0.jpg", "dog/1.jpg"])
    found = leakage.training_overlap(_Run(tmp_path, ["own"]), records, ["dog/0.jpg", "dog/1.jpg"])
    assert found["filenames"] == ["dog/1.jpg"]


def test_the_validation_share_of_the_training_records_was_not_trained_on(stored, tmp_path):
    names = [f"{index}.jpg" for index in range(20)]
    stored["own"] = records = _record_set((), "own", "same", names)
    found = leakage.training_overlap(_Run(tmp_path, ["own"], share=0.25), records, names)
    assert found["count"] == 15


def test_records_that_were_moved_cannot_be_checked_and_that_is_said(stored, tmp_path):
    found = leakage.training_overlap(_Run(tmp_path, ["gone"]), _record_set(()), ["0.jpg"])
    assert found["count"] == 0 and not found["checked"]
    assert found["unchecked"] == ["gone: no such folder of records"]


def test_the_records_of_a_warm_start_count_too(stored, tmp_path, monkeypatch):
    stored["first"] = _record_set((), "first", "1", ["0.jpg"])
    stored["second"] = _record_set((), "second", "2", ["1.jpg"])
    before = _Run(tmp_path / "before", ["first"])
    monkeypatch.setattr(Workdir, "open", lambda path: before)
    run = _Run(tmp_path / "run", ["second"], warm_start=str(tmp_path / "before"))
    found = leakage.training_overlap(run, _record_set((), "x", "3"), ["0.jpg", "1.jpg", "2.jpg"])
    assert found["filenames"] == ["0.jpg", "1.jpg"]


def test_the_records_of_all_runs_that_were_joined_count(stored, tmp_path, monkeypatch):
    for index, name in enumerate(("first", "second", "third")):
        stored[name] = _record_set((), name, str(index), [f"{index}.jpg"])
    runs = {str(tmp_path / name): _Run(tmp_path / name, [name]) for name in ("first", "second")}
    monkeypatch.setattr(Workdir, "open", runs.__getitem__)
    joined = _Run(tmp_path / "joined", ["third"], warm_start=",".join(runs))
    names = [f"{index}.jpg" for index in range(4)]
    found = leakage.training_overlap(joined, _record_set((), "x", "9"), names)
    assert found["filenames"] == names[:3]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, mtfl_records):
    """A tiny workdir, trained on the train split of `mtfl_records`, and its report on test."""
    path = tmp_path_factory.mktemp("evaluate") / "run"
    workdir = make_workdir(path, CROP)
    own = {"path": mtfl_records.path, "name": "mtfl",
           "fingerprint": mtfl_records.description["fingerprint"]}  # fmt: skip
    majority = {name: guess.tolist() for name, guess in mtfl_records.majority().items()}
    metadata = {**workdir.metadata(), "records": [own], "majority": majority}
    workdir.write_json("metadata.json", metadata)
    workdir.append_metrics({"step": 1, "phase": "a", "train/loss": 2.0})
    workdir.append_metrics({"step": 2, "phase": "b", "train/loss": 1.0, "validation/loss": 1.5})
    options = {"bootstrap": 50, "batch_size": 5, "unsure": "0.2,overall"}
    return workdir, evaluate(path, [mtfl_records.path], **options)["mtfl-test"]


def test_a_report_holds_figures_that_an_independent_computation_confirms(evaluated, mtfl_records):
    from data_pipelines.input.batches import Source, evaluation_batches
    from data_pipelines.input.view import View

    workdir, contents = evaluated
    assert contents["data"]["examples"] == mtfl_records.splits["test"]
    batches = list(
        evaluation_batches(Source(mtfl_records, "test"), TASKS[:3], View(CROP), batch_size=64)
    )
    model = workdir.load_model()
    logits = np.concatenate([model(batch["image"])["attributes"] for batch in batches])
    truth = np.concatenate([batch["labels"]["attributes"] for batch in batches])
    numbers = contents["tasks"]["attributes"]
    for index, label in enumerate(MTFL_ATTRIBUTES.labels):
        row = numbers["metrics"]["labels"][label]
        said = logits[:, index] >= 0
        assert row["accuracy"] == pytest.approx(np.mean(said == truth[:, index]))
        expected = sklearn_metrics.balanced_accuracy_score(truth[:, index], said)
        assert row["balanced_accuracy"] == pytest.approx(expected)
        said = 1 / (1 + np.exp(-logits[:, index] / 2.0)) >= (0.1, 0.5, 0.9)[index]
        tuned = numbers["metrics_at_thresholds"]["labels"][label]
        assert tuned["accuracy"] == pytest.approx(np.mean(said == truth[:, index]))
        guess = mtfl_records.majority()["attributes"][index]
        assert row["majority_accuracy"] == pytest.approx(np.mean(truth[:, index] == guess))
        low, high = numbers["intervals"]["labels"][label]["accuracy"]
        assert low <= row["accuracy"] <= high
    assert contents["tasks"]["pose"]["metrics"]["count"] == len(truth)
    assert contents["tasks"]["landmarks"]["metrics"]["nme"] > 0
    low, high = contents["tasks"]["landmarks"]["intervals"]["nme"]
    assert low <= contents["tasks"]["landmarks"]["metrics"]["nme"] <= high


def test_a_report_lists_what_is_not_shared_and_checks_the_training_images(evaluated):
    workdir, contents = evaluated
    assert contents["not_shared"]["model_only"] == {
        "age": ["years"],
        "range": ["young", "grown", "old"],
        "emotion": ["happy", "sad"],
    }
    assert contents["overlap"]["count"] == 0
    assert contents["overlap"]["checked"] == [contents["data"]["path"]]
    folder = workdir.path / "evaluation" / "mtfl-test"
    assert contents["folder"] == str(folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "report.html", "report.json", "report.md"
    ]  # fmt: skip
    stored = json.loads((folder / "report.json").read_text())
    assert stored["tasks"]["attributes"]["metrics"] == contents["tasks"]["attributes"]["metrics"]


@pytest.fixture
def without_plots(monkeypatch):
    """Reports without plots, which take longest."""
    from faceattr_tf.reports import page

    monkeypatch.setattr(page, "task_plots", lambda result: [])


def test_a_report_says_how_far_probabilities_and_unsure_answers_are_to_be_trusted(evaluated):
    workdir, contents = evaluated
    for name in ("attributes", "pose", "range"):
        if numbers := contents["tasks"].get(name):
            found = numbers["unsure"]
            assert found["risk"] == "0.2,overall" and 0 < found["mean"]["labels"]["unsure"] <= 1
            assert numbers["intervals_of_calibration"]["after"].keys() == {"labels", "error"}
    page = (workdir.path / "evaluation" / "mtfl-test" / "report.html").read_text()
    assert "Unsure at a risk of 0.2,overall" in page and "Expected calibration error" in page


def test_training_images_are_recognised_and_flip_and_output_are_honoured(
    evaluated, mtfl_records, tmp_path, without_plots
):
    workdir, _ = evaluated
    reports = evaluate(
        workdir.path,
        mtfl_records.path,
        "train",
        output=tmp_path / "out",
        flip=True,
        bootstrap=0,
        consistent=True,
    )
    contents = reports["mtfl-train-flip"]
    found = contents["tasks"]["attributes"]["impossible"]["at_thresholds"]
    assert found["images"] > 0 == found["consistent"]["images"] < found["consistent"]["changed"]
    tuned = contents["tasks"]["attributes"]["metrics_at_thresholds"]["mean"]
    assert found["plain"]["accuracy"] == pytest.approx(tuned["accuracy"])
    assert contents["overlap"]["count"] == mtfl_records.splits["train"]
    assert "intervals" not in contents["tasks"]["attributes"]
    page = (tmp_path / "out" / "mtfl-train-flip" / "report.html").read_text()
    assert "mean accuracy at validation thresholds, consistent" in page
    assert found["worst"][0]["pair"] in page
    without = evaluated[1]["tasks"]["attributes"]["impossible"]
    assert "consistent" not in without["at_half"]
    assert "carry the name of an image that the model was trained on" in page


def test_ten_crops_are_ten_answers_averaged(evaluated, mtfl_records, tmp_path, monkeypatch):
    from data_pipelines.crop.pixels import decode_and_crop
    from data_pipelines.input.batches import Source, encoded_batches
    from faceattr_tf.reports import galleries, page

    with pytest.raises(UserError, match="run: the run was not trained on ten crops"):
        evaluate(evaluated[0].path, mtfl_records.path, ten_crop=True)
    found = {}
    monkeypatch.setattr(
        galleries,
        "collect_examples",
        lambda results, *_: found.update({result.task.name: result.outputs for result in results}),
    )
    monkeypatch.setattr(page, "write_report", lambda *_: None)
    tasks = (MTFL_ATTRIBUTES, POSE)
    run = make_run(tmp_path / "run", tasks=tasks, records=mtfl_records)
    recipe = run.recipe()
    recipe.data.augment.ten_crop = 0.75
    run.write_json("config.json", recipe.to_dict())
    (contents,) = evaluate(
        run.path, mtfl_records.path, ten_crop=True, bootstrap=0, batch_size=9
    ).values()
    assert contents["folder"].endswith("mtfl-test-ten_crop") and contents["ten_crop"] == 0.75

    (batch,) = encoded_batches(Source(mtfl_records, "test"), tasks, batch_size=64)
    size, adjustments = run.crop.width, []
    starts = (size / 8, size / 8), (0, 0), (size / 4, 0), (0, size / 4), (size / 4, size / 4)
    for left, top in starts:
        # Pixels are squares: their centres lie half a pixel inside.
        x, y = left - 0.5 + 0.75 / 2, top - 0.5 + 0.75 / 2
        for across in ([0.75, 0, x], [-0.75, 0, x + 0.75 * (size - 1)]):
            adjustments.append([across, [0, 0.75, y]])
    count = len(batch["filename"])
    place = (np.repeat(batch[name], 10, axis=0) for name in ("image", "box", "landmarks"))
    adjust = np.float32(adjustments * count)
    images, _ = decode_and_crop(*place, run.crop, adjust=adjust)
    for name, answers in run.load_model()(images).items():
        answers = answers.numpy().reshape(count, 5, 2, -1)
        if name == "pose":
            answers[:, :, 1] = answers[:, :, 1, ::-1]
        expected = answers.mean(axis=(1, 2))
        np.testing.assert_allclose(found[name], expected, atol=1e-4)
        assert np.abs(answers[:, 0, 0] - expected).max() > 1e-3


def test_several_records_get_a_report_each_even_under_one_name(
    evaluated, celeba_records, tmp_path, without_plots
):
    workdir, _ = evaluated
    paths = [celeba_records.path] * 2
    reports = evaluate(workdir.path, paths, output=tmp_path, bootstrap=0)
    assert list(reports) == ["celeba-test", "celeba-test-2"]
    assert all((tmp_path / name / "report.html").exists() for name in reports)
    # Labels that only one side has are left out of the figures and listed.
    contents = reports["celeba-test"]
    rows = contents["tasks"]["attributes"]["metrics"]["labels"]
    assert list(rows) == list(MTFL_ATTRIBUTES.labels)
    assert "Young" in contents["not_shared"]["data_only"]["attributes"]
    assert contents["not_shared"]["model_only"]["pose"] == list(POSE.labels)
    assert set(contents["tasks"]) == {"attributes", LANDMARKS.name, ALIGNMENT.name}


def _run(monkeypatch, capsys, *arguments):
    from faceattr_tf.commands import evaluate as command

    monkeypatch.setattr(sys, "argv", ["faceattr-evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run()
    return ended.value.code, capsys.readouterr()


def test_the_command_prints_the_main_figures_and_the_reports_place(
    evaluated, mtfl_records, tmp_path, monkeypatch, capsys, without_plots
):
    workdir, _ = evaluated
    arguments = (f"--workdir={workdir.path}", f"--records={mtfl_records.path}")
    status, printed = _run(
        monkeypatch, capsys, *arguments, f"--output={tmp_path}", "--bootstrap=20"
    )
    assert status == 0
    assert "mean balanced accuracy at validation thresholds" in printed.out
    assert printed.out.endswith(f"report: {tmp_path}/mtfl-test/report.html\n")


def test_wrong_input_is_one_line_and_status_1(
    evaluated, mtfl_records, tmp_path, monkeypatch, capsys
):
    workdir, _ = evaluated
    good = f"--workdir={workdir.path}", f"--records={mtfl_records.path}"
    colours = Task("colours", "multiclass", ("red", "blue")).to_dict()
    stranger = make_workdir(tmp_path / "stranger", CROP)
    stranger.write_json("metadata.json", {**stranger.metadata(), "tasks": [colours]})
    broken = make_workdir(tmp_path / "broken", CROP)
    (broken.path / "model.keras").write_bytes(b"no model")
    cases = {
        (f"--workdir={tmp_path}/absent", good[1]): "does not exist",
        (good[0], f"--records={tmp_path}/absent"): "no such folder of records",
        (*good, "--split=tset"): "no split 'tset'; there are: train, test",
        (*good, "--bootstrap=-1"): "expected 0 or more",
        (f"--workdir={stranger.path}", good[1]): "no task is shared with the model",
        (f"--workdir={broken.path}", good[1]): "model.keras is no readable Keras model",
    }
    for arguments, text in cases.items():
        status, printed = _run(monkeypatch, capsys, *arguments)
        assert status == 1, arguments
        assert printed.err.startswith("faceattr-evaluate: error: ") and text in printed.err
        assert printed.err.count("\n") == 1 and not printed.out
