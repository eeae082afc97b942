"""What is answered only when asked for by name, and false positives first."""

import json

import numpy as np
import pytest
import tensorflow as tf
from tiny_workdir import draw_picture, encode
from untrained_run import make_run

import export
from data_pipelines.errors import UserError
from data_pipelines.records.build import build
from data_pipelines.synth import layouts
from data_pipelines.tasks import FIVE_GROUPS, MALE, ethnicity_tasks
from faceattr_tf import Analyzer
from faceattr_tf.commands.predict import main as predict
from faceattr_tf.configs.base import Recipe
from faceattr_tf.evaluation.operating_point import threshold_for
from faceattr_tf.evaluation.split import measure_split, split_batches
from faceattr_tf.prediction.sensitive import answered_tasks
from faceattr_tf.reports.evaluate import evaluate
from faceattr_tf.reports.page import headlines
from faceattr_tf.training.model_card import model_card

GROUP, GROUPS = ethnicity_tasks(FIVE_GROUPS)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "work", tasks=(GROUP, MALE, GROUPS))


def test_a_sensitive_task_is_left_out_unless_it_is_named(capsys):
    tasks = (GROUP, MALE, GROUPS)
    assert answered_tasks(tasks) == (MALE,)
    assert capsys.readouterr().err == (
        "ethnicity, ethnicities: left out, as sensitive; --sensitive=ethnicity,ethnicities asks for "
        "it\n"
    )
    assert answered_tasks(tasks, ["ethnicities"]) == (MALE, GROUPS)
    assert capsys.readouterr().err.startswith("ethnicity: left out")
    assert answered_tasks(tasks, ["ethnicities", "ethnicity"]) == tasks
    assert answered_tasks((MALE,)) == (MALE,)
    assert capsys.readouterr().err == ""
    with pytest.raises(
        UserError, match="'attributes': no sensitive task of the model; it has: eth"
    ):
        answered_tasks(tasks, ["attributes"])
    with pytest.raises(UserError, match="asks for it, and the model has no other task"):
        answered_tasks((GROUP, GROUPS))


def test_rows_of_faces_hold_it_only_when_asked(workdir, tmp_path, capsys):
    picture = tmp_path / "face.jpg"
    picture.write_bytes(encode(draw_picture(1)))
    for flags, names in (
        ([], ["attributes"]),
        (["--sensitive=ethnicity"], ["ethnicity", "attributes"]),
    ):
        predict([f"--workdir={workdir.path}", "--noprogress", *flags, str(picture)])
        printed = capsys.readouterr()
        assert list(json.loads(printed.out)["tasks"]) == names
        assert ("ethnicity, ethnicities: left out" in printed.err) == (not flags)
    with pytest.raises(UserError, match="sensitive 'age'"):
        predict([f"--workdir={workdir.path}", "--sensitive=age", str(picture)])


def test_exports_hold_neither_answer_nor_weights_unless_asked(workdir, tmp_path):
    pixels = draw_picture(1)[None]
    expected = Analyzer.from_workdir(workdir.path, sensitive=["ethnicity"]).analyze(pixels[0])
    sizes = []
    for asked in ((), ("ethnicity",)):
        options = export.ExportOptions(warmup=False, sensitive=asked)
        path = export.export_model(workdir.path, tmp_path, options=options)
        description = json.loads((path / "assets/faceattr.json").read_text())
        assert [task["name"] for task in description["tasks"]] == [*asked, "attributes"]
        assert description["sensitive"] == list(asked)
        loaded = tf.saved_model.load(path)
        answer = loaded.signatures["pixels"](pixels=tf.constant(pixels))
        assert {name.rpartition("_")[0] for name in answer} == {*asked, "attributes"}
        sizes.append(sum(int(np.prod(part.shape)) for part in loaded.parameters))
    head = workdir.load_model().get_layer("head_ethnicity").count_params()
    assert sizes[1] - sizes[0] == head
    probability = answer["ethnicity_probability"].numpy()[0]
    np.testing.assert_allclose(
        probability, list(expected.tasks["ethnicity"].probabilities.values()), rtol=1e-4
    )


def test_no_more_than_the_rate_reach_a_threshold_and_none_lower_would_do():
    random = np.random.default_rng(0)
    for scores in (random.random(300), np.round(random.random(300), 1)):  # with many equal ones
        for rate in (0.001, 0.01, 0.25):
            found = threshold_for(scores, rate)
            assert found.false_positive_rate == (scores >= found.value).mean() <= rate
            below = scores[scores < found.value].max()
            assert (scores >= below).mean() > rate
            assert found.negatives == 300


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run on drawn faces and its report at a false positive rate."""
    folder = tmp_path_factory.mktemp("evaluated")
    drawn = layouts.draw("utkface", folder / "drawn", images=60)
    records = build("utkface", drawn, folder / "records")
    workdir = make_run(folder / "run", tasks=(GROUP, MALE, GROUPS), records=records)
    reports = evaluate(workdir.path, records.path, "train", bootstrap=0, false_positive_rate=0.3)
    return workdir, records, reports["utkface-train"]


def test_thresholds_come_from_validation_and_are_measured_elsewhere(evaluated):
    workdir, records, contents = evaluated
    results = {}
    for split in ("validation", "train"):
        batches = split_batches(workdir, records, split)
        found, _ = measure_split(workdir, workdir.load_model(), records, batches)
        (results[split],) = [result for result in found if result.task == GROUPS]
    chosen, measured = results["validation"], results["train"]
    point = contents["tasks"]["ethnicities"]["operating_point"]
    thresholds = []
    for index, label in enumerate(FIVE_GROUPS):
        own = chosen.scores[chosen.labels[:, index] == 0, index]
        limits = np.append(np.nextafter(own, 2), 0.0)
        fitting = [limit for limit in limits if (own >= limit).mean() <= 0.3]
        thresholds.append(min(fitting))
        row = point["labels"][label]
        assert row["threshold"] == thresholds[-1]
        wrong = measured.labels[:, index] == 0
        said = measured.scores[:, index] >= thresholds[-1]
        assert row["false_positive_rate"] == pytest.approx(said[wrong].mean())
    said = measured.scores >= thresholds
    known = measured.labels >= 0
    assert point["together"]["false_positives"] == (said & (measured.labels == 0)).sum()
    assert point["together"]["true_positive_rate"] == pytest.approx(
        (said & (measured.labels == 1)).sum() / (known & (measured.labels == 1)).sum()
    )
    assert point["without_label"] == pytest.approx((~said.any(axis=1)).mean())


def test_false_positives_come_first(evaluated):
    workdir, _, contents = evaluated
    text = (workdir.path / "evaluation/utkface-train/report.md").read_text()
    section = text[text.index("## ethnicities") :]
    assert section.index("At a false positive rate of 30.00 % on validation") < section.index(
        "False positives at 0.5"
    )
    assert section.index("False positives at 0.5") < section.index("Balanced at 0.5")
    assert "not how they describe themselves" in section
    one = text[text.index("## ethnicity\n") : text.index("## attributes")]
    header = next(line for line in one.splitlines() if line.startswith("| Class"))
    assert header.startswith("| Class | Images | False positive rate |")
    assert headlines(contents)[0][1] == "false positive rate, ethnicity"
    summary = text[text.index("## Summary") : text.index("## ethnicity\n")]
    rows = [line for line in summary.splitlines() if line.startswith("| ethnicities")]
    assert "false positive rate, 30.00 % on validation" in rows[0]
    assert "no label" in rows[0]
    assert "mean false positive rate" in rows[1]
    of_classes = contents["tasks"]["ethnicity"]["metrics"]
    confusion = np.array(of_classes["confusion"])
    wrongly = (confusion.sum(0) - confusion.diagonal()) / (confusion.sum() - confusion.sum(1))
    assert of_classes["false_positive_rate"] == pytest.approx(wrongly.mean())
    assert "false_positive_rate" not in contents["tasks"]["attributes"]["metrics"]["mean"]


def test_a_rate_that_cannot_be_had_is_refused_before_anything_is_computed(evaluated, tmp_path):
    workdir, records, _ = evaluated
    with pytest.raises(
        UserError, match="false positive rate 1.0: expected a share between 0 and 1"
    ):
        evaluate(workdir.path, records.path, false_positive_rate=1.0)
    one = make_run(tmp_path / "one", tasks=(GROUP,), records=records)
    with pytest.raises(UserError, match="is one of yes/no labels, and the model has none"):
        evaluate(one.path, records.path, "train", false_positive_rate=0.1)
    none = make_run(tmp_path / "none", tasks=(MALE,))
    with pytest.raises(UserError, match="chosen on the run's validation images, and its records"):
        evaluate(none.path, records.path, "train", false_positive_rate=0.1)


def test_the_model_card_says_what_such_labels_are():
    metadata = {"best": {"step": 1}, "steps": 1, "crop": {}, "records": []}
    for tasks, said in (((MALE,), False), ((MALE, GROUPS), True)):
        described = metadata | {"tasks": [task.to_dict() for task in tasks]}
        card = model_card(Recipe(name="small"), described, 1)
        assert ("- `ethnicities`: what others took the people on pictures for" in card) == said
