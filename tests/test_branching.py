"""Branches of networks: what stands where, training on stored activations, and joining."""

import dataclasses
import functools
import json
import shutil

import keras
import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES, POSE
from faceattr_tf.configs import TaskConfig
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe
from faceattr_tf.models import build_model
from faceattr_tf.workdir import Workdir

SMILE = ("stage2_block1_relu2", "attributes/Smiling")
LOOK = ("stage1_block1_relu2", "pose")
OPTIONS = (("filters", (8, 12, 16)), ("blocks", (1, 1, 1)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """What a run of the small network without branches leaves behind."""
    keras.utils.set_random_seed(3)
    model = build_model("resnet_small", (POSE,), (32, 32, 3), **dict(OPTIONS))
    for layer in model.layers:
        if "norm" in layer.name:  # as after training: no scale of zero, statistics of its own
            layer.set_weights([np.random.uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    path = tmp_path_factory.mktemp("weights") / "model.keras"
    model.save(path)
    return str(path)


def recipe_for(records, weights, folder, branches, tasks, **phase) -> Recipe:
    """All training images at once, so that their order does not matter."""
    data = Data(
        records=(records.path,),
        crop=Crop(kind="box", height=32, width=32, margin=0.3),
        batch_size=records.count("train", 0.2, 0),
        validation_share=0.2,
        bottlenecks=Bottlenecks(True, folder=str(folder), map_type="float32"),
    )
    phase = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1, "steps": 3, **phase}
    model = Model("resnet_small", options=OPTIONS, weights=weights, branches=branches)
    model.branch_weights = "trunk"
    phases = (Phase(trainable="^(head|branch)_", **phase),)
    return Recipe("small", data=data, tasks=tasks, model=model, phases=phases, evaluate_steps=3)


def train(recipe, path):
    from faceattr_tf.training.loop import train_and_evaluate

    train_and_evaluate(recipe, path, progress=False)
    return Workdir.open(path).load_model()


def arrays(model):
    return {weight.path: np.asarray(weight) for weight in model.weights}


@pytest.fixture(scope="module", autouse=True)
def heads_that_begin_alike():
    """The same in every network, whatever else it has."""
    drawn = functools.partial(keras.initializers.RandomNormal, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers, "RandomNormal", drawn)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory, mtfl_records, weights):
    """Two runs on stored activations of one trunk: their recipes, by folder."""
    folder = tmp_path_factory.mktemp("runs")
    smiling = (TaskConfig("attributes", labels=("Smiling",)),)
    given = {"smile": ((SMILE,), smiling), "look": ((LOOK,), (TaskConfig("pose"),))}
    found = {}
    for name, (branches, tasks) in given.items():
        found[folder / name] = recipe_for(mtfl_records, weights, folder, branches, tasks)
        train(found[folder / name], folder / name)
    return found


def test_stored_activations_teach_what_images_teach(runs, tmp_path):
    """Both branches at once, on images: what is frozen below them parts their gradients."""
    smile, look = runs.values()
    data = dataclasses.replace(smile.data, bottlenecks=Bottlenecks())
    model = dataclasses.replace(smile.model, branches=(SMILE, LOOK))
    both = dataclasses.replace(smile, data=data, model=model, tasks=smile.tasks + look.tasks)
    before = arrays(small_network(both))
    expected = arrays(train(both, tmp_path / "w"))
    found = {}
    for path in runs:
        found |= arrays(Workdir.open(path).load_model())
    assert found.keys() == expected.keys()
    for path, values in expected.items():
        np.testing.assert_allclose(found[path], values, rtol=1e-3, atol=1e-5, err_msg=path)
        learned = path.startswith(("branch", "head"))
        assert np.array_equal(values, before[path]) != learned, path


def small_network(recipe):
    """The recipe's network before training."""
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.models.create import pretrained_model

    return pretrained_model(Experiment.of(recipe), "float32")


def test_branches_begin_anew_or_with_the_weights_of_the_trunk(runs, weights):
    recipe = next(iter(runs.values()))
    plain = keras.saving.load_model(weights)
    for choice in ("new", "trunk"):
        recipe.model.branch_weights = choice
        model = small_network(recipe)
        trunk = model.get_layer("stage2_block1_conv1").get_weights()[0]
        np.testing.assert_array_equal(
            trunk, plain.get_layer("stage2_block1_conv1").get_weights()[0]
        )
        assert len(model.copies) > 5 and "stage3_block1_conv1" not in {x.name for x in model.layers}
        for copy, of in model.copies.items():
            pairs = zip(model.get_layer(copy).weights, plain.get_layer(of).weights, strict=True)
            for ours, theirs in pairs:
                assert np.array_equal(ours, theirs) == (choice == "trunk"), copy


def pictures():
    return np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype("float32")


def test_joined_runs_answer_as_each_of_them(runs, tmp_path):
    from faceattr_tf.training.joining import join

    join([str(path) for path in runs], str(tmp_path / "joined"))
    joined = Workdir.open(tmp_path / "joined")
    outputs = joined.load_model()(pictures())
    assert [task.name for task in joined.tasks] == ["attributes", "pose"]
    assert joined.recipe().model.branches == (SMILE, LOOK)
    assert joined.impossible().keys() == {"attributes"}  # of labels of all runs, counted anew
    for path in runs:
        run = Workdir.open(path)
        for name, expected in run.load_model()(pictures()).items():
            np.testing.assert_allclose(outputs[name], expected, atol=1e-5)
            chosen, given = joined.calibration()[name], run.calibration()[name]
            assert chosen["temperature"] == pytest.approx(given["temperature"])
            assert chosen["thresholds"] == pytest.approx(given["thresholds"])
            assert joined.metadata()["majority"][name] == run.metadata()["majority"][name]
    with pytest.raises(UserError, match="holds a run already"):
        join([str(path) for path in runs], str(tmp_path / "joined"))


def test_a_warm_start_joins_runs_and_trains_on(runs):
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.state import TrainingState, warm_start

    smile, look = runs.values()
    model = dataclasses.replace(smile.model, branches=(SMILE, LOOK), weights="")
    both = dataclasses.replace(
        smile, model=model, tasks=smile.tasks + look.tasks, warm_start=",".join(map(str, runs))
    )
    state = TrainingState(Experiment.of(both), tf.distribute.get_strategy())
    warm_start(state, both)
    outputs = state.model(pictures())
    for path in runs:
        for name, expected in Workdir.open(path).load_model()(pictures()).items():
            np.testing.assert_allclose(outputs[name], expected, atol=1e-5)


def test_runs_that_do_not_share_a_trunk_are_not_joined(runs, tmp_path):
    from faceattr_tf.training.joining import join

    smile, look = map(str, runs)
    other = Workdir(shutil.copytree(look, tmp_path / "other"))
    model = other.load_model()
    for layer, what in (
        ("stem", "it belongs to the trunk"),
        ("branch_pose_stage3_block1_conv1", ""),
    ):
        if what:
            changed = model.get_layer(layer)
            changed.set_weights([weight + 1e-3 for weight in changed.get_weights()])
            other.save_model(model)
            with pytest.raises(UserError, match=f"differ in layer '{layer}': {what}"):
                join([smile, str(other.path)], str(tmp_path / "joined"))
    with pytest.raises(UserError, match="pose is predicted by .*look and .*other"):
        join([look, str(other.path)], str(tmp_path / "joined"))
    config = json.loads((other.path / "config.json").read_text())
    config["model"]["options"][0] = ["filters", [8, 12, 20]]
    (other.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"cannot be joined .*options\[0\]\[1\]\[2\] is 16"):
        join([smile, str(other.path)], str(tmp_path / "joined"))
    assert not (tmp_path / "joined").exists()


def test_attributes_of_several_runs_keep_their_probabilities_and_decisions():
    from faceattr_tf.training.joining import _calibration

    class Run:
        def __init__(self, labels, temperature, thresholds):
            self.tasks = (MTFL_ATTRIBUTES.select(labels),)
            self.own = {"temperature": temperature, "thresholds": thresholds}

        def calibration(self):
            return {"attributes": self.own}

    parts = [Run(("Male", "Smiling"), 2.0, [0.3, 0.5]), Run(("Eyeglasses",), 0.5, [0.9])]
    found = _calibration(parts, (MTFL_ATTRIBUTES,))["attributes"]
    assert found == {"temperature": [2.0, 2.0, 0.5], "thresholds": [0.3, 0.5, 0.9]}


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (("stem", "pose"), "'stem' is none; expected"),
        ((("pool",),), "is none; expected"),
        ((("fc", "pose"),), "'fc' ends no stage of resnet_small: stem_relu, pool"),
        ((("pool", "age"),), "there is no task 'age'; there are: attributes, pose"),
        ((("pool", "attributes/Bald"),), "'Bald' is no attribute .*: Male, Smiling, Eyeglasses"),
        ((("pool", "pose/left"),), r"'left' is no attribute of the task 'pose' \(multiclass\)"),
        (
            (("pool", "attributes/Male"), ("stem_relu", "attributes")),
            "attributes/Male stands on the branch 'attributes/Male' already",
        ),
    ],
)
def test_branches_that_cannot_be_are_named(branches, message):
    from faceattr_tf.models.branching import Plan

    with pytest.raises(UserError, match=message):
        Plan.of(branches, (MTFL_ATTRIBUTES, POSE), ("stem_relu", "pool"), "resnet_small")


def stored(records, folder, give, **changes):
    """What is kept of `stem-map` for the test images, where the network gives `give(images)`."""
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.extract import extract

    recipe = recipe_for(records, "", folder, (), (TaskConfig("pose"),))
    recipe.data.bottlenecks.map_type = "float16"
    found = extract(
        Experiment.of(recipe),
        "test",
        ("stem-map",),
        progress=False,
        create=lambda layers: lambda images: {layer: give(images) for layer in layers},
    )
    return found["stem-map"][0]


def test_maps_are_kept_in_half_precision(tmp_path, mtfl_records, capsys):
    part = stored(
        mtfl_records, tmp_path, lambda images: np.asarray(images)[:, ::8].reshape(-1, 384)
    )
    (file,) = tmp_path.glob("*stem-map*/features.npy")
    kept = np.load(file)
    assert kept.dtype == np.float16 and kept.shape == (len(part), 384)
    rows = part.features.read(np.arange(4), np.zeros(4, int))
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, kept[:4])
    key = json.loads((file.parent / "key.json").read_text())
    assert key["layer"] == "stem-map" and key["type"] == "float16"
    assert "0 MiB of features" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((4, 3), 1e5), "gives 1e.05, more than float16 holds"),
        (np.ones((8, 3)), "gives 8 rows for 4 images"),
    ],
)
def test_what_cannot_be_kept_is_refused(given, message):
    import tensorflow as tf

    from faceattr_tf.features.extract import _Part

    class Kept:
        dtype = np.dtype("float16")

    part = _Part(None, 0, False, {"stem-map": Kept()}, {})
    fields = ("transform", "identity", "filename")
    batch = {"labels": {}, **{name: tf.zeros(4) for name in fields}}
    with pytest.raises(UserError, match=message):
        part._arrays(batch, {"stem-map": given})


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path, mtfl_records, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(UserError, match="features take 5 MiB and 1 MiB are free; name another"):
        stored(mtfl_records, tmp_path, lambda images: np.ones((len(images), 160_000)))
    assert not list(tmp_path.glob("*/features.npy"))
