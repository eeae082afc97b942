"""The grid of branches over stages and tasks, and the depths that it prefers."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe
from faceattr_tf.evaluation.branch_depth import Cell, choose_depth, compare_depths
from faceattr_tf.training.branch_grid import Grid, Group

STAGES = ("stem_relu", "pool")


def small(records, folder) -> Recipe:
    data = Data(
        records=(records.path,),
        crop=Crop(kind="box", height=32, width=32, margin=0.3),
        batch_size=16,
        validation_share=0.2,
        bottlenecks=Bottlenecks(folder=str(folder)),
    )
    model = Model("resnet_small", width=0.25, options=(("filters", (32,)), ("blocks", (1,))))
    return Recipe("small", data=data, model=model, phases=(Phase(steps=2, learning_rate=0.05),))


GROUPS = (Group("smile", "attributes", ("Smiling",)), Group("pose", "pose"))


@pytest.fixture(scope="module")
def grid(tmp_path_factory, mtfl_records):
    """A grid, its file and its cells."""
    folder = tmp_path_factory.mktemp("grid")
    grid = Grid(small(mtfl_records, folder), STAGES, GROUPS)
    return (
        grid,
        folder / "grid.json",
        grid.run(("new",), (0,), folder / "grid.json", progress=False),
    )


def test_every_stage_and_group_is_one_cell(grid):
    _, _, cells = grid
    assert [(cell.group, cell.stage) for cell in cells] == [
        (group, stage) for group in ("smile", "pose") for stage in STAGES
    ]
    assert len({cell.key for cell in cells}) == 4
    for cell in cells:
        task = "attributes" if cell.group == "smile" else "pose"
        assert cell.draws[0] == pytest.approx(cell.values[f"{task}/balanced_accuracy"], abs=1e-5)
        assert cell.guess == pytest.approx(0.5 if cell.group == "smile" else 1 / 4, abs=0.15)


def test_a_grid_goes_on_from_the_cells_that_its_file_has(grid, monkeypatch, capsys):
    from faceattr_tf.training import branch_grid

    one, file, cells = grid
    trained = []
    monkeypatch.setattr(branch_grid, "train_top", lambda *given: trained.append(given) or 1 / 0)
    assert one.run(("new",), (0,), file) == cells and not trained
    content = json.loads(file.read_text())
    shorter = file.with_name("shorter.json")
    shorter.write_text(json.dumps({"cells": content["cells"][:3]}))
    with pytest.raises(ZeroDivisionError):
        one.run(("new",), (0,), shorter)
    assert len(trained) == 1
    other = dataclasses.replace(one.recipe, phases=(Phase(steps=3),))
    with pytest.raises(ZeroDivisionError):  # nothing of another recipe is found
        Grid(other, STAGES, GROUPS).run(("new",), (0,), file)
    assert "0 of 4 cells found" in capsys.readouterr().out
    shorter.write_text("[]")
    with pytest.raises(UserError, match="holds no cells of faceattr-branch"):
        one.run(("new",), (0,), shorter)


def test_a_cell_is_the_run_of_its_recipe(grid, tmp_path):
    from faceattr_tf.training.loop import train_and_evaluate

    one, _, cells = grid
    recipe = one.recipe_of(GROUPS[0], "stem_relu", "new", 0)
    recipe.evaluate_steps = cells[0].step
    recipe.phases[0].steps = cells[0].step
    best = train_and_evaluate(recipe, tmp_path / "w", progress=False)
    recipe.phases[0].steps = 2
    expected = cells[0].values["attributes/loss"]
    assert best["validation/attributes/loss"] == pytest.approx(expected, rel=1e-3)


def test_a_group_learns_from_the_records_that_know_it(tmp_path, mtfl_records, celeba_records):
    recipe = small(mtfl_records, tmp_path)
    recipe.data.records = (mtfl_records.path, celeba_records.path)
    recipe.data.weights = (0.3, 0.7)
    bald, gender = Group.parse("bald=attributes/Bald"), Group.parse("attributes/Male")
    grid = Grid(recipe, STAGES, (GROUPS[1], bald, gender))
    given = {group: experiment.recipe.data for group, experiment in grid.experiments.items()}
    assert given[GROUPS[1]].records == (mtfl_records.path,) and given[GROUPS[1]].weights == (0.3,)
    assert given[bald].records == (celeba_records.path,) and given[bald].weights == (0.7,)
    assert given[gender].records == recipe.data.records
    tasks = [one.tasks[0].labels for one in grid.experiments.values()]
    assert tasks[1:] == [("Bald",), ("Male",)]


def test_groups_are_read_from_flags():
    assert Group.parse("age") == Group("age", "age")
    assert Group.parse("attributes/Male") == Group("attributes/Male", "attributes", ("Male",))
    assert Group.parse("gender=attributes/Male").whats == ("attributes/Male",)
    two = Group.parse("mouth=attributes/Smiling+attributes/Big_Lips")
    assert two.labels == ("Smiling", "Big_Lips") and two.name == "mouth"
    for text in ("", "=age", "a=age+pose", "a=attributes/Male+attributes", "a=/x"):
        with pytest.raises(UserError, match="expected TASK, NAME=TASK"):
            Group.parse(text)


def cell(stage, truth, answers, seed=0, weights="new"):
    """A cell of 0/1 truths and answers: balanced accuracy over the same draws of images."""
    random = np.random.default_rng(7)
    draws = []
    for index in range(401):
        rows = np.arange(len(truth)) if not index else random.integers(len(truth), size=len(truth))
        right = (truth == answers)[rows]
        draws.append(np.mean([right[truth[rows] == value].mean() for value in (0, 1)]))
    return Cell("", "group", stage, weights, seed, 1, {}, [float(one) for one in draws], 0.5)


def answers(truth, wrong, seed=0):
    """The truth, but for a share that is wrong."""
    flipped = np.random.default_rng(seed).random(len(truth)) < wrong
    return np.where(flipped, 1 - truth, truth)


def test_the_latest_stage_that_is_not_worse_beyond_chance_is_chosen():
    truth = np.random.default_rng(1).integers(0, 2, 400)
    cells = [
        cell("early", truth, answers(truth, 0.10)),
        cell("middle", truth, answers(truth, 0.11, seed=2)),
        cell("late", truth, answers(truth, 0.30)),
    ]
    depths = compare_depths(cells, "balanced_accuracy")
    assert [depth.worse for depth in depths] == [False, False, True]
    stages = ("early", "middle", "late")
    assert choose_depth(depths, stages, "balanced_accuracy").stage == "middle"
    for depth in depths:
        assert depth.interval[0] < depth.value < depth.interval[1]
    # Where less is better, the one with most errors has the best value.
    assert choose_depth(compare_depths(cells, "mae"), stages, "mae").stage == "late"


def test_seeds_that_differ_widen_what_chance_explains():
    truth = np.random.default_rng(1).integers(0, 2, 2000)
    given = {"early": (0.10, 0.25, 0.10), "late": (0.16, 0.17, 0.20)}
    cells = [
        cell(stage, truth, answers(truth, wrong, seed), seed)
        for stage, of in given.items()
        for seed, wrong in enumerate(of)
    ]
    assert not any(depth.worse for depth in compare_depths(cells, "balanced_accuracy"))
    one_seed = [one for one in cells if one.seed == 0]
    assert compare_depths(one_seed, "balanced_accuracy")[1].worse


def test_the_command_prints_the_grid_and_draws_it(grid, monkeypatch, capsys, tmp_path):
    from faceattr_tf.commands import branch as command
    from faceattr_tf.commands import join as joining
    from faceattr_tf.training import branch_grid
    from faceattr_tf.workdir import Workdir

    one, file, _ = grid
    monkeypatch.setattr(
        command, "parse", lambda given, define: (one.recipe, _Flags(file, tmp_path))
    )
    monkeypatch.setattr(branch_grid, "train_top", lambda *given: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["faceattr-branch"])
    command.main()
    printed = capsys.readouterr().out
    assert "smile (balanced accuracy)" in printed and "guess without images" in printed
    assert printed.count(" *\n") + printed.count(" *  ") >= 2
    assert "--config.model.branches=\"(('" in printed and "GFLOP" in printed
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    runs = [str(tmp_path / "runs" / name) for name in ("smile", "pose")]
    arguments = ["faceattr-join", f"--workdir={tmp_path / 'joined'}", *runs]
    monkeypatch.setattr(sys, "argv", arguments)
    joining.main()
    assert [task.name for task in Workdir.open(tmp_path / "joined").tasks] == ["attributes", "pose"]


class _Flags:
    """The flags of a grid that is there already."""

    def __init__(self, file, folder):
        self.tasks, self.stages = ["smile=attributes/Smiling", "pose"], list(STAGES)
        self.branch_weights, self.seeds, self.progress = ["new"], ["0"], False
        self.output, self.figure = str(file), str(folder / "grid.png")
        self.workdirs = str(folder / "runs")


def test_mistakes_are_one_line(mtfl_records, tmp_path, monkeypatch, capsys):
    from faceattr_tf.commands import branch as command

    def run(*flags):
        arguments = ["--config=smoke", f"--records={mtfl_records.path}", "--noprogress"]
        monkeypatch.setattr(sys, "argv", ["faceattr-branch", *arguments, *flags])
        with pytest.raises(SystemExit) as stopped:
            command.run()
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "--tasks is missing" in run()
    assert "seeds a: expected whole numbers" in run("--tasks=pose", "--seeds=a")
    assert "branch_weights 'old' is none of new, trunk" in run(
        "--tasks=pose", "--branch_weights=old"
    )
    assert "expected a name that ends in .png" in run("--tasks=pose", "--figure=grid")
    assert "its folder does not exist" in run("--tasks=pose", f"--output={tmp_path}/no/grid.json")
    assert "'fc' ends no stage of resnet_small: stem_relu" in run("--tasks=pose", "--stages=fc")
    assert "'pose' names more than one column" in run("--tasks=pose,pose")
    assert "no records hold attributes/Bald" in run("--tasks=bald=attributes/Bald")
    assert "names no --config.model.weights" in run("--tasks=pose", "--branch_weights=trunk")
