"""The same run under other names goes on, a longer one when asked to, another one is refused."""

import copy
import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from test_train import assert_same_run, tiny, train, weights_of

from data_pipelines.errors import UserError
from faceattr_tf.experiment import Experiment
from faceattr_tf.training.loop import train_and_evaluate
from faceattr_tf.training.resumption import as_begun, claim
from faceattr_tf.workdir import Workdir


def with_records(recipe, path):
    recipe = copy.deepcopy(recipe)
    recipe.data.records = (str(path),)
    return recipe


@pytest.fixture
def begun(tmp_path, mtfl_records):
    """A workdir that is claimed, and its recipe."""
    workdir, recipe = Workdir(tmp_path / "w"), tiny(mtfl_records)
    claim(workdir, Experiment.of(recipe))
    return workdir, recipe


def test_the_same_records_under_another_name_are_the_same_run(
    begun, mtfl_records, tmp_path, monkeypatch
):
    workdir, recipe = begun
    moved = shutil.copytree(mtfl_records.path, tmp_path / "moved")
    (tmp_path / "link").symlink_to(mtfl_records.path)
    monkeypatch.chdir(tmp_path)
    before = (workdir.path / "config.json").read_bytes()
    for name in (
        mtfl_records.path + "/",
        os.path.relpath(mtfl_records.path),
        "link",
        "./moved",
        moved,
    ):
        claim(workdir, Experiment.of(with_records(recipe, name)))
    assert (workdir.path / "config.json").read_bytes() == before


def test_a_config_of_before_with_relative_names_is_the_same_run(
    begun, mtfl_records, tmp_path, monkeypatch
):
    workdir, recipe = begun
    config = json.loads((workdir.path / "config.json").read_text())
    config["data"]["records"], config["model"]["weights"] = ["elsewhere/mtfl/"], "x/../w.h5"
    config["slices"]["answers"] = "y/../run"
    workdir.write_json("config.json", config)
    monkeypatch.chdir(tmp_path)
    recipe.model.weights, recipe.slices.answers = str(tmp_path / "w.h5"), str(tmp_path / "run")
    claim(workdir, Experiment.of(recipe))


def test_other_records_of_the_same_name_are_refused(begun, mtfl_records, tmp_path):
    workdir, recipe = begun
    other = pathlib.Path(shutil.copytree(mtfl_records.path, tmp_path / "other"))
    fields = json.loads((other / "metadata.json").read_text())
    fields["description"]["fingerprint"] = "another"
    (other / "metadata.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="records have been built anew since, or are others: .*oth"):
        claim(workdir, Experiment.of(with_records(recipe, other)))


def longer(recipe, steps, **changes):
    phases = (*recipe.phases[:-1], dataclasses.replace(recipe.phases[-1], steps=steps, **changes))
    return dataclasses.replace(recipe, phases=phases)


def test_a_refusal_says_how_to_go_on(begun, tmp_path):
    workdir, recipe = begun
    start = rf"--config.warm_start={workdir.path} begins"
    for other, words in (
        (longer(recipe, 12), rf"phases\[1\].steps is 9 .* and 12 here; --extend goes on .*{start}"),
        (longer(recipe, 5), f"can become longer, not shorter; .*{start}"),
        (longer(recipe, 12, learning_rate=1.0), f"choose another --workdir .*{start}"),
        (dataclasses.replace(recipe, seed=4), f"config.seed is 0 there and 4 here.*{start}"),
    ):
        with pytest.raises(UserError, match=words):
            claim(workdir, Experiment.of(other))
    with pytest.raises(UserError, match=r"phases\[0\].steps"):
        first = dataclasses.replace(recipe.phases[0], steps=7)
        claim(workdir, Experiment.of(dataclasses.replace(recipe, phases=(first, recipe.phases[1]))))
    with pytest.raises(UserError, match="holds no run that could be extended"):
        claim(Workdir(tmp_path / "new"), Experiment.of(recipe), extend=True)
    assert workdir.recipe().phases == recipe.phases


def test_a_run_is_refused_before_anything_is_computed(begun, monkeypatch):
    import faceattr_tf.training.loop as training

    workdir, recipe = begun
    monkeypatch.setattr(training, "TrainingState", None)
    monkeypatch.setattr(training, "create_strategy", None)
    with pytest.raises(UserError, match="--extend goes on"):
        train(longer(recipe, 12), workdir.path)


def test_a_longer_schedule_is_said(begun, capsys):
    workdir, recipe = begun
    recipe = longer(recipe, 18)
    claim(workdir, Experiment.of(as_begun(recipe, workdir)), extend=True)
    said = capsys.readouterr().out
    assert "goes on to step 21 instead of 12" in said
    assert "its cosine schedule now spans 18 steps: at step 12 the learning rate is" in said
    claim(workdir, Experiment.of(recipe))
    claim(workdir, Experiment.of(recipe), extend=True)
    assert not capsys.readouterr().out


def test_an_extended_run_that_is_interrupted_ends_as_one_that_was_as_long_from_the_start(
    mtfl_records, tmp_path, monkeypatch
):
    import faceattr_tf.training.loop as training

    recipe = tiny(mtfl_records)
    phase = dataclasses.replace(recipe.phases[1], schedule="constant", warmup=0.0, steps=4)
    phase.trainable = "^head_"  # the shortest step to compile
    # Validations, and with them the rows, where both runs have them.
    recipe = dataclasses.replace(recipe, phases=(phase,), evaluate_epochs=0.5)
    train(longer(recipe, 8), tmp_path / "whole")
    train(recipe, tmp_path / "grown")
    assert Workdir(tmp_path / "grown").metadata()["steps"] == 4

    fetched, fetch = [], training._Run._next

    def interrupted(run, batches):
        fetched.append(1)
        if len(fetched) == 3:
            raise KeyboardInterrupt
        return fetch(run, batches)

    with monkeypatch.context() as patch:
        patch.setattr(training._Run, "_next", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(longer(recipe, 8), tmp_path / "grown", progress=False, extend=True)
    # Unfinished: nothing stands there that only a run which has ended knows.
    assert not (tmp_path / "grown" / "calibration.json").exists()
    assert "best" not in Workdir(tmp_path / "grown").metadata()
    train(longer(recipe, 8), tmp_path / "grown")
    assert Workdir(tmp_path / "grown").metadata()["steps"] == 8
    assert (tmp_path / "grown" / "calibration.json").exists()
    assert_same_run(tmp_path / "whole", tmp_path / "grown")
    assert all(np.isfinite(weight).all() for weight in weights_of(tmp_path / "grown"))
