"""Features of networks as they are: of runs and recipes, of pictures and their mirror images."""

import dataclasses

import keras
import numpy as np
import pytest
from untrained_run import make_run

from data_pipelines.errors import UserError
from data_pipelines.input.batches import Source, evaluation_batches
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import POSE
from faceattr_tf.configs.base import Model, Recipe
from faceattr_tf.features.frozen import FrozenNetwork
from faceattr_tf.models.create import create_network, feature_network

LAYERS = ("pool3", "pool3+shared")


@pytest.fixture(scope="module")
def run(tmp_path_factory, lfw_records):
    folder = tmp_path_factory.mktemp("frozen")
    return make_run(folder / "run", records=lfw_records, features=folder / "features")


@pytest.fixture(scope="module")
def images(run, lfw_records):
    """The crops of all images."""
    batches = evaluation_batches(Source(lfw_records, "test"), (), run.view, batch_size=40)
    return np.asarray(next(iter(batches))["image"])


def features_of(model, layer, images):
    return np.asarray(feature_network(model, layer)(images, training=False)["features"])


def test_a_run_gives_its_features_of_pictures_and_mirror_images(run, lfw_records, images):
    frozen, model = FrozenNetwork.of_workdir(run, lfw_records, LAYERS), run.load_model()
    plain, mean = (frozen.features(flip=flip, progress=False) for flip in (False, True))
    assert list(plain) == list(mean) == list(LAYERS)
    for layer in LAYERS:
        expected = features_of(model, layer, images)
        np.testing.assert_allclose(plain[layer], expected, rtol=1e-4, atol=1e-5)
        expected = (expected + features_of(model, layer, images[:, :, ::-1])) / 2
        np.testing.assert_allclose(mean[layer], expected, rtol=1e-4, atol=1e-5)
        both = feature_network(model, layer, flip=True)(images, training=False)["features"]
        np.testing.assert_allclose(both, expected, rtol=1e-4, atol=1e-5)


def test_all_images_of_all_parts_are_looked_at(run, mtfl_records):
    names = FrozenNetwork.of_workdir(run, mtfl_records).filenames()
    assert names == mtfl_records.filenames("train") + mtfl_records.filenames("test")


def test_both_views_are_kept_and_found_again(run, lfw_records, capsys):
    frozen = FrozenNetwork.of_workdir(run, lfw_records, LAYERS)
    first = frozen.features(flip=True, progress=False)
    capsys.readouterr()

    def refuse(layers):
        raise AssertionError(layers)

    again = dataclasses.replace(frozen, create=refuse).features(flip=True, progress=False)
    np.testing.assert_array_equal(again["pool3"], first["pool3"])
    assert capsys.readouterr().out.count("40 of 40 images found") == 2


def test_a_recipe_without_weights_is_the_random_network_of_its_seed(run, lfw_records, images):
    recipe = Recipe(seed=3, data=run.recipe().data, model=Model("tcdcn", width=0.25, layer="pool3"))
    (found,) = FrozenNetwork.of_recipe(recipe, lfw_records).features(progress=False).values()
    keras.utils.set_random_seed(3)
    model = create_network(recipe.model, (POSE,), images.shape[1:])
    np.testing.assert_allclose(found, features_of(model, "pool3", images), rtol=1e-4, atol=1e-5)


def test_pixels_are_those_of_the_crop(run, lfw_records, images):
    frozen, rows = FrozenNetwork.of_workdir(run, lfw_records), np.array([3, 30])
    for flip in (False, True):
        expected = (images + images[:, :, ::-1]) / 2 if flip else images
        found = frozen.pixels(rows, flip=flip, progress=False)
        assert found.dtype == np.uint8
        assert np.abs(found - expected[rows].reshape(2, -1)).max() <= 0.5


def test_stages_and_weights_that_are_not_there_are_refused(run, lfw_records, tmp_path):
    records = RecordSet.load(lfw_records.path)
    with pytest.raises(UserError, match="layer 'mixed' ends no stage of this tcdcn: pool1"):
        FrozenNetwork.of_workdir(run, records, ["mixed"])
    recipe = Recipe(model=Model("tcdcn", width=0.25))
    with pytest.raises(UserError, match="layer 'mixed' ends no stage of tcdcn: pool1"):
        FrozenNetwork.of_recipe(recipe, records, ["mixed"])
    recipe.model.weights = str(tmp_path / "none.h5")
    with pytest.raises(UserError, match="none.h5: these weights cannot be read"):
        FrozenNetwork.of_recipe(recipe, records).features(progress=False)
    recipe.warm_start = "work/a"
    with pytest.raises(UserError, match="warm_start work/a: expected --workdir=work/a"):
        FrozenNetwork.of_recipe(recipe, records)
