"""A workdir and records that were written before the modules were parted stay good.

`workdir_0_1.zip` holds drawn faces, a run of 6 steps over them whose checkpoint is that of step 4,
and the report of its model.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest

from faceattr_tf.workdir import Workdir

OLD = pathlib.Path(__file__).with_name("workdir_0_1.zip")


@pytest.fixture
def old(tmp_path):
    shutil.unpack_archive(OLD, tmp_path)
    return tmp_path


def numbers(value, path=""):
    """Every number below a JSON value, by its path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in numbers(value[key], f"{path}/{key}").items()}
    if isinstance(value, list):
        return {k: v for i, one in enumerate(value) for k, v in numbers(one, f"{path}/{i}").items()}
    return {path: value} if isinstance(value, int | float) else {}


def test_it_evaluates_to_the_same_report(old):
    from faceattr_tf.reports.evaluate import evaluate

    (report,) = evaluate(old / "workdir", old / "records", bootstrap=0).values()
    expected = json.loads((old / "report.json").read_text())["tasks"]
    found = json.loads(json.dumps(report["tasks"]))
    for task in found:  # bins of equal width have given way to those of equally many images
        assert ("calibration" in found[task]) == ("reliability" in expected[task])
        found[task].pop("calibration", None)
        expected[task].pop("reliability", None)
    expected, found = numbers(expected), numbers(found)
    assert found.keys() == expected.keys() and len(found) > 100
    for path, value in expected.items():
        assert found[path] == pytest.approx(value, rel=1e-3, abs=1e-4), path


def test_it_continues_from_its_checkpoint_to_the_same_end(old, capsys):
    from faceattr_tf.training.loop import train_and_evaluate

    workdir = Workdir.open(old / "workdir")
    expected, rows = workdir.load_model().get_weights(), workdir.metrics_log()
    recipe = workdir.recipe()
    recipe.data.records = (str(old / "records"),)
    best = train_and_evaluate(recipe, workdir.path, progress=False)
    assert "continuing from step 4" in capsys.readouterr().out
    (row,) = (row for row in rows if row["step"] == 6 and "validation/loss" in row)
    assert numbers(best) == pytest.approx(numbers(row), rel=1e-3, abs=1e-4)
    for found, before in zip(workdir.load_model().get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-5)


def test_its_model_answers_and_warms_up_a_new_one(old, capsys):
    from faceattr_tf import Analyzer
    from faceattr_tf.training.loop import train_and_evaluate

    workdir = Workdir.open(old / "workdir")
    picture = np.full((60, 50, 3), 128, np.uint8)
    (face,) = Analyzer.from_workdir(workdir.path).analyze([picture])
    assert set(face.tasks) == {task.name for task in workdir.tasks}
    recipe = workdir.recipe()
    recipe.data.records = (str(old / "records"),)
    recipe.warm_start = str(workdir.path)
    train_and_evaluate(recipe, old / "new", progress=False)
    said = capsys.readouterr().out
    count = len(workdir.load_model().weights)
    assert f"warm start: {count} of {count} weights" in said
