"""The grid of layers, crops and decays on drawn faces."""

import json
import sys

import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.commands.probe import grid_table
from faceattr_tf.configs import create_recipe
from faceattr_tf.configs.base import Model
from faceattr_tf.training.probe import Cell, best_cell, flags_of, parse_crop, probe

LAYERS = ("conv2_block3_out", "conv3_block4_out")


def tiny(records, folder):
    recipe = create_recipe("inception_bottleneck_mtfl")
    recipe.model = Model("resnet50")
    recipe.data.records = (records.path,)
    recipe.data.crop = Crop(height=48, width=48)
    recipe.data.batch_size = 16
    recipe.data.validation_share = 0.2
    recipe.data.bottlenecks.folder = str(folder)
    recipe.phases[0].steps = 12
    recipe.phases[0].learning_rate = 0.05
    return recipe


@pytest.fixture(scope="module")
def cells(tmp_path_factory, mtfl_records):
    recipe = tiny(mtfl_records, tmp_path_factory.mktemp("kept"))
    return probe(
        recipe, layers=LAYERS, crops=("none", "box:0.3"), decays=(0.0, 1.0), progress=False
    )


def test_every_combination_is_one_cell(cells):
    assert [(cell.crop, cell.layer, cell.decay) for cell in cells] == [
        (crop, layer, decay)
        for crop in ("none", "box:0.3")
        for layer in LAYERS
        for decay in (0.0, 1.0)
    ]
    losses = {cell.values["attributes/loss"] for cell in cells}
    assert len(losses) == len(cells)


def test_a_cell_is_the_run_of_its_flags(cells, tmp_path, mtfl_records):
    from faceattr_tf.training.loop import train_and_evaluate

    cell = cells[2]
    recipe = tiny(mtfl_records, tmp_path / "kept")
    recipe.model.layer = cell.layer
    recipe.evaluate_steps = cell.step
    recipe.phases[0].steps = cell.step
    best = train_and_evaluate(recipe, tmp_path / "w", progress=False)
    assert best["validation/attributes/loss"] == pytest.approx(
        cell.values["attributes/loss"], rel=1e-3
    )


def test_the_table_marks_the_best(cells):
    metric = "attributes/accuracy"
    best = best_cell(cells, metric)
    assert best.values[metric] == max(cell.values[metric] for cell in cells)
    text = grid_table(cells, metric).text()
    assert text.count("*") == 1 and "decay 1" in text and "conv2_block3_out" in text
    assert best_cell(cells, "attributes/loss").values["attributes/loss"] == min(
        cell.values["attributes/loss"] for cell in cells
    )


def test_the_flags_say_what_differs_from_the_recipe(mtfl_records, tmp_path):
    recipe = tiny(mtfl_records, tmp_path)
    flags = flags_of(Cell("box:0.3", "activation_17", 0.5, 1, {}), recipe)
    assert flags == (
        "--config.model.layer=activation_17 --config.data.crop.kind=box "
        "--config.data.crop.margin=0.3 '--config.phases[0].weight_decay=0.5'"
    )


def test_crops_in_words():
    given = Crop(height=48, width=40)
    assert parse_crop("nose", given) == Crop(kind="nose", height=48, width=40, window=150.0)
    assert parse_crop("align:0.2", given) == Crop(kind="align", height=48, width=40, margin=0.2)
    for text in ("face", "box:wide", "none:3", ""):
        with pytest.raises(UserError, match=f"crop '{text}': expected none, box:MARGIN"):
            parse_crop(text, given)


def test_mistakes_are_one_line(mtfl_records, tmp_path, monkeypatch, capsys):
    from faceattr_tf.commands import probe as command

    def run(*flags):
        recipe = "--config=inception_bottleneck_mtfl"
        arguments = [recipe, f"--records={mtfl_records.path}", "--noprogress"]
        monkeypatch.setattr(sys, "argv", ["faceattr-probe", *arguments, *flags])
        with pytest.raises(SystemExit) as stopped:
            command.run()
        assert stopped.value.code == 1
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "decays a: expected numbers" in run("--decays=a")
    assert "layer 'mixed99' ends no stage of inception_v3: mixed0" in run("--layers=mixed99")
    assert "does not train on bottlenecks" in run("--config.data.bottlenecks.use=False")
    assert "its folder does not exist" in run(f"--output={tmp_path}/no/file.json")


def test_the_command_prints_grid_and_flags(cells, monkeypatch, capsys, tmp_path):
    from faceattr_tf.commands import probe as command
    from faceattr_tf.training import probe as module

    monkeypatch.setattr(module, "probe", lambda recipe, **given: cells)
    output = tmp_path / "grid.json"
    arguments = ["--config=inception_bottleneck_mtfl", "--records=r", f"--output={output}"]
    monkeypatch.setattr(sys, "argv", ["faceattr-probe", *arguments])
    command.main()
    printed = capsys.readouterr().out
    assert "attributes/balanced_accuracy" in printed
    assert "faceattr-train --config=inception_bottleneck_mtfl --config.model.layer=" in printed
    assert len(json.loads(output.read_text())) == len(cells)
    monkeypatch.setattr(sys, "argv", ["faceattr-probe", "--help"])
    command.main()
    assert "--layers" in capsys.readouterr().out
