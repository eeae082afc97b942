"""Branches of networks: what stands where, training on stored activations, and joining."""

import dataclasses
import functools

import keras
import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import POSE
from faceattr_tf.configs import TaskConfig
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe
from faceattr_tf.models import build_model
from faceattr_tf.workdir import Workdir

SMILE = ("stage2_block1_relu2", "attributes/Smiling")
LOOK = ("stage1_block1_relu2", "pose")
OPTIONS = (("filters", (8, 12, 16)), ("blocks", (1, 1, 1)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of the small network whose branches these are."""
    keras.utils.set_random_seed(3)
    model = build_model("resnet_small", (POSE,), (32, 32, 3), **dict(OPTIONS))
    for layer in model.layers:
        if "norm" in layer.name:  # as after training: no scale of zero, statistics of its own
            layer.set_weights([np.random.uniform(0.5, 1, w.shape) for w in layer.get_weights()])
    path = tmp_path_factory.mktemp("weights") / "trunk.weights.h5"
    model.save_weights(path)
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
    plain = build_model("resnet_small", (POSE,), (32, 32, 3), **dict(OPTIONS))
    plain.load_weights(weights)
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
