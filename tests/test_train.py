"""The training loop on drawn faces: what a run leaves behind, and what interruptions change."""

import csv
import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.configs import TaskConfig, create_recipe
from faceattr_tf.configs.base import Model


def tiny(records, **changes):
    """The smoke recipe at 32x32, in a few steps; dropout, averaging and augmentation stay on."""
    recipe = create_recipe("smoke")
    sets = records if isinstance(records, list) else [records]
    recipe.data.records = tuple(one.path for one in sets)
    recipe.data.crop = Crop(kind="box", height=32, width=32, margin=0.3)
    recipe.model.width = 0.25
    recipe.model.options = (("filters", (32,)), ("blocks", (1,)))
    recipe.phases = (
        dataclasses.replace(recipe.phases[0], steps=3),
        dataclasses.replace(recipe.phases[1], epochs=0.0, steps=9),
    )
    recipe.checkpoint_steps = 2
    recipe.log_steps = 2
    return dataclasses.replace(recipe, **changes)


def train(recipe, path):
    from faceattr_tf.training.loop import train_and_evaluate

    return train_and_evaluate(recipe, path, progress=False)


def train_and_keep(recipe, path, weights):
    """Trains, and writes the model's weights as they are at the end, averaged or not."""
    import faceattr_tf.training.loop as training

    states = []

    class Watched(training.TrainingState):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            states.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "TrainingState", Watched)
        train(recipe, path)
    np.savez(weights, *[weight.numpy() for weight in states[0].model.weights])


COMMAND = """
import json, sys
sys.path.insert(0, sys.argv[4])
from faceattr_tf.configs import Recipe
from test_train import train_and_keep

train_and_keep(Recipe.from_dict(json.load(open(sys.argv[1]))), sys.argv[2], sys.argv[3])
"""


def start(recipe, workdir, weights, **environment):
    """`train_and_keep` in a process of its own."""
    config = weights.with_suffix(".json")
    config.write_text(json.dumps(recipe.to_dict()))
    tests = pathlib.Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, (config, workdir, weights, tests))],
        cwd=tests.parent,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def weights_of(path):
    from faceattr_tf.workdir import Workdir

    return Workdir.open(path).load_model().get_weights()


def assert_same_run(one, other, tolerance=1e-5):
    """Both runs logged the same numbers and ended with the same best model."""
    logs = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (one, other)
    ]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]]
    for left, right in zip(*logs, strict=True):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert value == right[key] or value == pytest.approx(right[key], rel=1e-3, abs=1e-4), (
                key
            )
    for left, right in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


def assert_same_weights(one, other, tolerance=1e-5):
    """Two processes ended with the same weights, seeds and statistics included."""
    left, right = np.load(one), np.load(other)
    assert left.files == right.files
    for name in left.files:
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, mtfl_records):
    """A complete tiny run."""
    path = tmp_path_factory.mktemp("run") / "workdir"
    best = train(tiny(mtfl_records), path)
    return path, best


def test_a_run_leaves_all_that_evaluation_needs(finished, mtfl_records):
    from faceattr_tf.workdir import Workdir

    path, best = finished
    workdir = Workdir.open(path)
    assert [task.name for task in workdir.tasks] == [task.name for task in mtfl_records.tasks]
    assert workdir.crop.height == 32
    assert workdir.recipe().name == "smoke"
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    outputs = workdir.load_model()(images)
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "attributes": (2, 3),
        "pose": (2, 5),
        "landmarks": (2, 5, 2),
    }
    calibration = workdir.calibration()
    assert len(calibration["attributes"]["thresholds"]) == 3
    assert calibration["pose"]["temperature"] > 0
    kept = workdir.validation()
    assert kept.keys() == {"attributes", "pose"} and len({len(of[1]) for of in kept.values()}) == 1
    rows = [row for row in workdir.metrics_log() if "validation/loss" in row]
    assert best["validation/loss"] == min(row["validation/loss"] for row in rows)
    assert workdir.metadata()["best"] == best
    assert workdir.impossible() == {"attributes": []}  # drawn faces have what chance gives them
    assert "research" in (path / "model_card.md").read_text()
    assert list((path / "tensorboard").iterdir())
    assert not [name for name in os.listdir(path) if name.startswith(".")]


def test_the_same_command_on_a_finished_run_changes_nothing(finished, mtfl_records):
    path, best = finished
    before = (path / "metrics.jsonl").read_bytes()
    metadata = json.loads((path / "metadata.json").read_text())
    # But for what earlier versions did not count.
    later = ("impossible", "framing")
    old = {name: value for name, value in metadata.items() if name not in later}
    (path / "metadata.json").write_text(json.dumps(old))
    assert train(tiny(mtfl_records), path) == best
    assert (path / "metrics.jsonl").read_bytes() == before
    assert json.loads((path / "metadata.json").read_text()) == metadata


def test_a_frozen_phase_moves_nothing_but_its_layers(tmp_path, mtfl_records):
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    experiment = Experiment.of(tiny(mtfl_records))
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy)
    before = {weight.path: weight.numpy() for weight in state.model.weights}
    step = create_train_step(state, experiment, 0)
    step(next(training_stream(experiment, strategy, 0)))
    moved = {w.path for w in state.model.weights if not np.array_equal(w.numpy(), before[w.path])}
    assert moved and all(path.startswith("head_") for path in moved)


def test_the_average_follows_its_definition(mtfl_records):
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    experiment = Experiment.of(tiny(mtfl_records, ema_decay=0.15))
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy)
    index = next(i for i, w in enumerate(state.model.weights) if w.path == "stem/kernel")
    expected = state.model.weights[index].numpy()
    step = create_train_step(state, experiment, 1)
    batches = training_stream(experiment, strategy, 0)
    for number in range(1, 4):
        step(next(batches))
        decay = min(0.15, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * state.model.weights[index].numpy()
    np.testing.assert_allclose(state.averages[index].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_two_record_sets_share_the_tasks_that_they_name(tmp_path, mtfl_records, celeba_records):
    recipe = tiny(
        [mtfl_records, celeba_records], tasks=(TaskConfig("attributes"), TaskConfig("pose"))
    )
    recipe.data.weights = (0.5, 0.5)
    recipe.phases = (dataclasses.replace(recipe.phases[1], steps=2),)
    best = train(recipe, tmp_path / "w")
    assert np.isfinite(best["validation/pose/loss"])
    metadata = json.loads((tmp_path / "w" / "metadata.json").read_text())
    assert [records["name"] for records in metadata["records"]] == ["mtfl", "celeba"]


def test_what_an_epoch_of_two_record_sets_shows_is_said(mtfl_records, celeba_records):
    from faceattr_tf.experiment import Experiment

    recipe = tiny([mtfl_records, celeba_records])
    recipe.data.weights, size = (3.0, 1.0), recipe.data.batch_size
    experiment = Experiment.of(recipe)
    counts = [source.count for source in experiment.sources("train")]
    steps = round(sum(counts) / size)
    times = [
        share * steps * size / count for share, count in zip((0.75, 0.25), counts, strict=True)
    ]
    said = experiment.describe_epoch()
    assert f"an epoch is {steps} steps" in said
    assert f"{mtfl_records.path} {times[0]:.3g} times, {celeba_records.path} {times[1]:.3g}" in said


def test_a_service_that_would_part_people_is_refused(mtfl_records):
    from faceattr_tf.experiment import Experiment

    recipe = tiny(mtfl_records)
    recipe.data.service, recipe.data.bottlenecks.use = "grpc://localhost:1", True
    with pytest.raises(UserError, match="data.service prepares images in any order, and here feat"):
        Experiment.of(recipe)


def test_a_regression_starts_at_its_mean_and_weighs_like_the_rest(tmp_path):
    from data_pipelines.records.build import build
    from data_pipelines.synth.layouts import draw
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.models.create import create_model
    from faceattr_tf.training.validation import validate

    draw("manifest", tmp_path / "drawn", images=60, seed=0)
    records = build(
        "manifest", tmp_path / "drawn" / "manifest.csv", tmp_path / "r", tasks="age:regression"
    )
    with open(tmp_path / "drawn" / "manifest.csv") as file:
        rows = list(csv.DictReader(file))
    ages = [float(row["age"]) for row in rows if row["split"] == "train" and row["age"]]
    mean, deviation = records.statistics["train"]["age"][0]
    assert mean == pytest.approx(np.mean(ages)) and deviation == pytest.approx(np.std(ages))
    experiment = Experiment.of(tiny(records))
    values = validate(create_model(experiment, "float32"), experiment)
    assert values["age/loss"] < 3
    assert values["age/mae"] < 2 * deviation


def test_a_warm_start_takes_what_fits(tmp_path, finished, mtfl_records, capsys):
    path, _ = finished
    recipe = tiny(mtfl_records, warm_start=str(path), warm_start_layers="^(stem|stage|head_)")
    recipe.tasks = (TaskConfig("attributes", labels=("Smiling",)),)
    recipe.phases = (dataclasses.replace(recipe.phases[1], steps=1, learning_rate=0.0),)
    train(recipe, tmp_path / "w")
    assert "weights from" in capsys.readouterr().out
    given, taken = weights_of(path)[0], weights_of(tmp_path / "w")[0]
    np.testing.assert_allclose(taken, given, rtol=1e-6)


def test_a_warm_start_takes_the_layers_that_are_asked_for(finished, mtfl_records):
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.state import TrainingState, warm_start

    recipe = tiny(mtfl_records, seed=9, warm_start=str(finished[0]), warm_start_layers="^stem")
    state = TrainingState(Experiment.of(recipe), tf.distribute.get_strategy())
    before = {weight.path: weight.numpy() for weight in state.model.weights}
    warm_start(state, recipe)
    changed = {
        weight.path.split("/")[0]
        for weight in state.model.weights
        if np.any(weight.numpy() != before[weight.path])
    }
    assert changed == {"stem", "stem_norm"}
    with pytest.raises(UserError, match="no weight of .* fits"):
        warm_start(state, dataclasses.replace(recipe, warm_start_layers="^conv"))


def test_few_validation_images_are_decoded_once(mtfl_records, monkeypatch):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training import validation

    experiment = Experiment.of(tiny(mtfl_records))
    (batches,) = validation.validation_batches(experiment)
    first, kept = list(batches), list(batches)
    assert all(one["image"] is other["image"] for one, other in zip(first, kept, strict=True))
    monkeypatch.setattr(validation, "KEPT", 1000)
    (batches,) = validation.validation_batches(experiment)
    for one, other in zip(first, batches, strict=True):
        assert one["image"] is not other["image"]
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_leaves_a_float32_model(tmp_path, mtfl_records, precision):
    import keras

    recipe = tiny(mtfl_records, precision=precision)
    recipe.phases = recipe.phases[1:]
    best = train(recipe, tmp_path / "w")
    assert np.isfinite(best["validation/loss"])
    model = keras.saving.load_model(tmp_path / "w" / "model.keras")
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_mirroring_over_one_device_changes_nothing(tmp_path, finished, mtfl_records, monkeypatch):
    import faceattr_tf.training.loop as training

    # Nor does a stream of its own for every phase: that of `finished` goes on from phase to phase.
    monkeypatch.setattr(training, "see_the_same", lambda *_: False)
    train(tiny(mtfl_records, strategy="mirrored"), tmp_path / "w")
    assert_same_run(finished[0], tmp_path / "w")


def test_a_workdir_of_another_recipe_is_refused(finished, mtfl_records):
    path, _ = finished
    with pytest.raises(UserError, match=r"config.data.batch_size is 16 there and 8 here"):
        other = tiny(mtfl_records)
        other.data.batch_size = 8
        train(other, path)


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(tmp_path, mtfl_records):
    recipe = tiny(mtfl_records)
    recipe.phases = (
        dataclasses.replace(recipe.phases[1], steps=2, learning_rate=1e-3, schedule="constant"),
        dataclasses.replace(
            recipe.phases[1], optimizer="sgd", steps=9, learning_rate=1e30, schedule="constant"
        ),
    )
    with pytest.raises(
        UserError, match=r"loss (of|at) step \d+ is not finite; last good .*ckpt-\d$"
    ):
        train(recipe, tmp_path / "w")


def test_a_damaged_checkpoint_is_named(tmp_path, finished, mtfl_records):
    shutil.copytree(finished[0], tmp_path / "w")
    for file in (tmp_path / "w" / "checkpoints").glob("*.data-*"):
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=r"checkpoint .*ckpt-12 cannot be restored"):
        train(tiny(mtfl_records), tmp_path / "w")


def test_a_workdir_that_cannot_be_written_is_named(tmp_path, mtfl_records):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/w cannot be written: Not a directory"):
        train(tiny(mtfl_records), tmp_path / "file" / "w")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": (TaskConfig("age"),)}, "no records hold the task 'age'; they hold: attributes"),
        ({"tasks": (TaskConfig("attributes", labels=("Bald",)),)}, "no label 'Bald'; it has: Male"),
        ({"phases": ()}, "has no phases"),
        ({"strategy": "many"}, "'many' is none of default"),
        ({"best_metric": "attributes/luck"}, "'attributes/luck' is not measured"),
        ({"best_metric": "attributes/majority_accuracy"}, "is not measured"),
        ({"tasks": (TaskConfig("landmarks", label_smoothing=0.1),)}, "'wing' smooths no labels"),
        ({"model": Model(dropout=0.1, options=(("dropout", 0.2),))}, "gives 'dropout' as 0.2, but"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, mtfl_records, change, words):
    with pytest.raises(UserError, match=words) as error:
        train(tiny(mtfl_records, **change), tmp_path / "w")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "w").exists()


def test_a_validation_part_that_knows_no_label_of_a_task_is_refused(tmp_path):
    from data_pipelines.records.build import build
    from data_pipelines.synth.layouts import draw

    draw("manifest", tmp_path / "drawn", images=60, seed=0)
    table = tmp_path / "drawn" / "manifest.csv"
    with open(table) as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["age"] = "" if row["split"] == "validation" else row["age"]
    with open(table, "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    records = build("manifest", table, tmp_path / "r", tasks="age:regression")
    with pytest.raises(UserError, match=r"task 'age': every label of the \d+ validation examples"):
        train(tiny(records), tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_dry_run_learns_its_batch_and_writes_nothing(tmp_path, mtfl_records, monkeypatch, capsys):
    from faceattr_tf.training.dry_run import dry_run

    monkeypatch.chdir(tmp_path)
    recipe = tiny(mtfl_records)
    recipe.model.options = ()
    result = dry_run(recipe)
    assert result["losses"][-1] < 0.7 * result["losses"][0]
    assert result["parameters"] > 1000 and result["multiply_adds"] > 10_000
    assert "landmarks (landmarks)" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_kills_change_nothing(tmp_path, mtfl_records, kills):
    recipe = tiny(mtfl_records)
    recipe.phases = (recipe.phases[0], dataclasses.replace(recipe.phases[1], steps=36))
    recipe.evaluate_epochs = 4.0
    train_and_keep(recipe, tmp_path / "whole", tmp_path / "whole.npz")

    log, chance = tmp_path / "killed" / "metrics.jsonl", random.Random(0)
    rows = len((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    for target in sorted(chance.sample(range(1, rows // 2), kills)):
        run = start(recipe, tmp_path / "killed", tmp_path / "killed.npz")
        while run.poll() is None and (not log.exists() or log.read_text().count("\n") < target):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        assert run.poll() is None, run.stderr.read()
        run.send_signal(signal.SIGKILL)
        run.wait()
    train_and_keep(recipe, tmp_path / "killed", tmp_path / "killed.npz")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert_same_weights(tmp_path / "whole.npz", tmp_path / "killed.npz")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_workers_equal_one_process(tmp_path, mtfl_records):
    recipe = tiny(mtfl_records)
    recipe.model.dropout = 0.0
    recipe.data.batch_size = 15  # which two share as 7 and 8
    # Synchronised batch statistics are sums over both workers; clipping sees the whole gradient.
    recipe.phases = (
        dataclasses.replace(
            recipe.phases[1], steps=8, optimizer="sgd", learning_rate=0.05, clip_norm=1.0
        ),
    )
    train_and_keep(recipe, tmp_path / "alone", tmp_path / "alone.npz")
    recipe.strategy = "multi_worker"
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    runs = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        weights = tmp_path / f"worker{index}.npz"
        own = {"TF_CONFIG": json.dumps(task), "TMPDIR": str(temporary)}
        runs.append(start(recipe, tmp_path / "both", weights, **own))
    for run in runs:
        assert run.wait(timeout=600) == 0, run.stderr.read()
    assert not list(temporary.iterdir())
    assert_same_run(tmp_path / "alone", tmp_path / "both", tolerance=1e-4)
    assert_same_weights(tmp_path / "worker0.npz", tmp_path / "worker1.npz", tolerance=0)
    assert_same_weights(tmp_path / "alone.npz", tmp_path / "worker0.npz", tolerance=1e-4)
