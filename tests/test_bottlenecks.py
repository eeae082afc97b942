"""Features of a frozen network: what is kept and found again, and the batches made of it."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from data_pipelines.augment import Augment
from data_pipelines.errors import UserError
from data_pipelines.geometry import Crop
from faceattr_tf.configs import TaskConfig, create_recipe

ROOT = pathlib.Path(__file__).parents[1]
LAST = "activation_17"  # of mobilenet_v3_small
EARLIER = "expanded_conv_5_add"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Several shards of several batches in a few dozen images."""
    from faceattr_tf import bottleneck_cache, bottlenecks

    monkeypatch.setattr(bottleneck_cache, "SHARD", 16)
    monkeypatch.setattr(bottlenecks, "BATCH", 8)


def recipe_for(folder, *record_sets):
    recipe = create_recipe("smoke")
    recipe.model.name = "mobilenet_v3_small"
    recipe.data.records = tuple(records.path for records in record_sets)
    recipe.data.crop = Crop(kind="box", height=32, width=32, margin=0.3)
    recipe.data.augment = Augment(flip=True, rotate=15, brightness=0.2)
    recipe.data.bottlenecks.folder = str(folder)
    recipe.tasks = ()
    return recipe


class Network:
    """Stands in for the network: of each image its mean colour and two pixels, for every layer."""

    def __init__(self, fails_after=None):
        self.asked, self.images = [], 0

    def __call__(self, layers):
        self.asked.append(sorted(layers))

        def features(images):
            self.images += len(images)
            return {layer: len(layer) * described(images) for layer in layers}

        return features


def described(images):
    images = np.asarray(images)
    return np.concatenate([images.mean((1, 2)), images[:, 3, 5], images[:, 20, 9]], axis=1)


def extract(recipe, split="train", layers=None, create=None):
    from faceattr_tf.bottlenecks import extract
    from faceattr_tf.experiment import Experiment

    experiment = Experiment.of(recipe)
    return extract(experiment, split, layers, progress=False, create=create)


def images_of(recipe, split="train", index=0, **options):
    """The examples as the network would see them, in one batch."""
    import tensorflow as tf

    from data_pipelines.input import evaluation_batches
    from faceattr_tf.experiment import Experiment

    experiment = Experiment.of(recipe)
    source = experiment.sources(split)[index]
    batches = evaluation_batches(
        source, experiment.tasks, experiment.crop, batch_size=16, **options
    )
    return tf.nest.map_structure(
        lambda *parts: np.concatenate(parts), *batches.as_numpy_iterator()
    )


def assert_same(one, other):
    np.testing.assert_array_equal(one.features, other.features)
    np.testing.assert_array_equal(one.filenames, other.filenames)
    np.testing.assert_array_equal(one.transforms, other.transforms)
    assert one.labels.keys() == other.labels.keys()
    for name, values in one.labels.items():
        np.testing.assert_array_equal(values, other.labels[name])


def never(layers):
    raise AssertionError(f"{layers} should have been found")


def test_features_are_those_of_the_images_in_stored_order(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    network = Network()
    (part,) = extract(recipe, create=network)[""]
    images = images_of(recipe)
    assert part.features.dtype == np.float32
    np.testing.assert_allclose(
        part.features[:, 0], len(LAST) * described(images["image"]), rtol=1e-5
    )
    assert part.features.shape[1] == 1
    np.testing.assert_array_equal(part.filenames, images["filename"])
    np.testing.assert_allclose(part.transforms[:, 0], images["transform"], atol=1e-5)
    assert part.labels.keys() == images["labels"].keys() == {"attributes", "pose", "landmarks"}
    for name, values in images["labels"].items():
        assert part.labels[name].dtype == values.dtype
        np.testing.assert_allclose(part.labels[name][:, 0], values, atol=1e-5)
    assert network.images == mtfl_records.splits["train"]


def test_layers_are_computed_in_one_pass_and_found_again(tmp_path, mtfl_records, capsys):
    recipe = recipe_for(tmp_path, mtfl_records)
    network = Network()
    first = extract(recipe, layers=("", EARLIER), create=network)
    assert network.asked == [sorted([LAST, EARLIER])]
    assert network.images == mtfl_records.splits["train"]
    ratio = first[EARLIER][0].features / first[""][0].features
    np.testing.assert_allclose(ratio, len(EARLIER) / len(LAST), rtol=1e-5)
    recipe.model.layer = EARLIER
    again = extract(recipe, create=never)
    assert_same(again[EARLIER][0], first[EARLIER][0])
    count = mtfl_records.splits["train"]
    said = capsys.readouterr().out.splitlines()
    assert f"0 of {count} images found" in said[0] and f"; {count} are computed" in said[0]
    assert said[1] == f"bottlenecks ({EARLIER}): {count} of {count} images found in {tmp_path}"
    keys = [json.loads(file.read_text()) for file in tmp_path.glob("*/key.json")]
    assert sorted(key["layer"] for key in keys) == sorted([LAST, EARLIER])
    assert {key["network"] for key in keys} == {"mobilenet_v3_small"}


def weights_file(folder, content=b"some weights"):
    (folder / "some.weights.h5").write_bytes(content)
    return str(folder / "some.weights.h5")


def changes(folder):
    """Name -> change of a recipe after which its features are others."""

    def change(path, value):
        def apply(recipe):
            *parents, name = path.split(".")
            target = recipe
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, name, value)

        return apply

    crop = Crop(kind="box", height=32, width=32, margin=0.3)
    return {
        "kind": change("data.crop", Crop("nose", height=32, width=32)),
        "margin": change("data.crop", dataclasses.replace(crop, margin=0.4)),
        "size": change("data.crop", dataclasses.replace(crop, height=40)),
        "disturb": change("data.disturb", Augment(shift=0.1)),
        "layer": change("model.layer", EARLIER),
        "network": change("model.name", "resnet50"),
        "pixel_values": change("model.options", (("pixel_values", "unit"),)),
        "precision": change("precision", "mixed_bfloat16"),
        "no file": change("model.weights", ""),
        "imagenet": change("model.weights", "imagenet"),
        "content": lambda recipe: weights_file(folder, b"same size..."),
    }


@pytest.mark.parametrize("name", changes(None))
def test_what_changes_the_features_changes_the_key(tmp_path, mtfl_records, name):
    from faceattr_tf.bottleneck_cache import Cache, weights_digest
    from faceattr_tf.experiment import Experiment

    def folder():
        layer, weights = recipe.model.layer or LAST, weights_digest(recipe)
        experiment = Experiment.of(recipe)
        source = experiment.sources("train")[0]
        return [Cache.of(experiment, source, layer, copy, weights).folder for copy in (0, 1)]

    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.model.weights = weights_file(tmp_path)
    before = folder()
    assert folder() == before and len(set(before)) == 2
    changes(tmp_path)[name](recipe)
    assert not set(before) & set(folder())
