"""faceattr-audit end to end: the page, its numbers, and what is refused."""

import json
import sys

import numpy as np
import pytest
from tiny_workdir import make_workdir
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.commands import audit as command
from faceattr_tf.evaluation.split import measure_split, split_batches
from faceattr_tf.evaluation.subgroups import answers_of
from faceattr_tf.reports.audit import audit

BY = (
    "attributes/Male",
    "pose",
    "brightness",
    "face_size:40",
    "answers/pose",
    "attributes/Male*blur",
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mtfl_records):
    return make_run(tmp_path_factory.mktemp("audit") / "run", records=mtfl_records)


@pytest.fixture(scope="module")
def contents(workdir, mtfl_records):
    common = {"answers": workdir.path, "smallest": 4}
    return audit(workdir.path, mtfl_records.path, "validation", by=BY, **common)


def test_rates_are_those_of_the_images_of_a_slice(contents, workdir, mtfl_records):
    batches = split_batches(workdir, mtfl_records, "validation")
    results, _ = measure_split(workdir, workdir.load_model(), mtfl_records, batches)
    result = next(one for one in results if one.task.name == "attributes")
    names = result.task.labels
    male, smiling = (result.labels[:, names.index(name)] for name in ("Male", "Smiling"))
    said = answers_of(result)[:, names.index("Smiling")]
    cells = {
        (one["slicing"], one["group"], one["label"], one["rate"]): one
        for one in contents["tasks"]["attributes"]["cells"]
    }
    cell = cells["attributes/Male", "not Male", "Smiling", "false_positive_rate"]
    where = (male == 0) & (smiling == 0)
    assert cell["count"] == where.sum() > 0
    assert cell["value"] == pytest.approx(said[where].mean())
    assert not [key for key in cells if key[0].startswith("attributes/Male") and key[2] == "Male"]
    assert {key[0] for key in cells} == set(BY)


def test_another_run_says_what_the_records_do_not_know(workdir, mtfl_records, tmp_path):
    other = make_workdir(tmp_path / "other", Crop("align", 12, 10)).path
    by = ("answers/age", "answers/range*pose", "answers/attributes/Smiling")
    options = {"by": by, "answers": other, "output": tmp_path / "page"}
    found = audit(workdir.path, mtfl_records.path, "validation", **options)
    count = found["examples"]
    assert sum(found["slicings"]["answers/age"].values()) == count
    assert sum(found["slicings"]["answers/attributes/Smiling"].values()) == count


def test_every_kind_of_task_has_its_rates(contents):
    rates = {
        name: {one["rate"] for one in task["cells"]} for name, task in contents["tasks"].items()
    }
    assert rates["landmarks"] == {"error"}
    assert rates["pose"] >= {"accuracy", "false_negative_rate"}
    groups = contents["slicings"]["pose"]
    assert sum(groups.values()) == contents["examples"]
    errors = contents["tasks"]["attributes"]["balanced"]
    assert all(0 <= one["value"] <= 1 and "calibration_error" in one for one in errors)


def test_the_page_needs_no_other_file_and_says_what_chance_does(contents):
    folder = contents["folder"]
    with open(f"{folder}/audit.html") as page, open(f"{folder}/audit.json") as numbers:
        text, stored = page.read(), json.load(numbers)
    assert "By chance, 5%" in text and "attributes/Male*blur" in text
    assert "http://" not in text.replace("http://www.w3.org", "") and 'src="/' not in text
    assert stored["tasks"].keys() == contents["tasks"].keys()
    assert np.isfinite(stored["tasks"]["attributes"]["probability_of_an_alarm"])


def test_the_command_prints_alarms_and_where_the_page_lies(
    workdir, mtfl_records, tmp_path, monkeypatch, capsys
):
    flags = f"--workdir={workdir.path} --records={mtfl_records.path} --split=validation"
    flags += f" --by=pose --output={tmp_path}/page --smallest=3"
    monkeypatch.setattr(sys, "argv", ["faceattr-audit", *flags.split()])
    command.main()
    printed = capsys.readouterr().out
    assert f"report: {tmp_path}/page/audit.html" in printed and "differ. By chance" in printed
    assert (tmp_path / "page" / "audit.json").is_file()


def test_thresholds_for_the_worst_slice_are_chosen_on_validation(workdir, mtfl_records, tmp_path):
    output = tmp_path / "page"
    given = {"by": ("attributes/Male", "brightness:100"), "smallest": 2, "price": 5}
    contents = audit(workdir.path, mtfl_records.path, "test", output=output, **given)
    found = contents["mitigation"]["attributes"]
    assert found["labels"].keys() <= {"Male", "Smiling", "Eyeglasses"} and found["labels"]
    assert not any("Male" in row["slice"] for row in found["labels"].get("Male", ()))
    assert len(found["curve"]) == len(found["prices"])
    assert "Worst slice against all images" in (output / "audit.html").read_text()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"by": ("answers/pose",)}, "name the run that answers, --answers=DIR"),
        ({"by": ("hair",)}, "no such task or measure"),
        ({"smallest": 1}, "expected at least 2 images"),
        ({"split": "nosuch"}, "nosuch"),
        ({"price": 0.5}, "thresholds are chosen on its validation part and measured on another"),
    ],
)
def test_mistakes_are_named_and_leave_nothing_behind(workdir, mtfl_records, tmp_path, given, said):
    given = {"split": "validation", "output": tmp_path / "page"} | given
    with pytest.raises(UserError, match=said):
        audit(workdir.path, mtfl_records.path, **given)
    assert not (tmp_path / "page").exists()
