"""LFWA's 73 attributes, which are two tasks: from the files to answers."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.formats.matlab import read_matlab, write_matlab
from data_pipelines.records.build import build
from data_pipelines.synth import layouts
from data_pipelines.tasks import CELEBA_ATTRIBUTES
from faceattr_tf import Analyzer
from faceattr_tf.configs import create_recipe
from faceattr_tf.configs.base import Model, Phase
from faceattr_tf.evaluation.split import measure_split, split_batches
from faceattr_tf.training.loop import train_and_evaluate
from faceattr_tf.workdir import Workdir

FURTHER = {name.replace(" ", "_") for name in layouts.LFWA_FURTHER_ATTRIBUTES}


def recipe_of(records):
    recipe = create_recipe("smoke")
    recipe.data.records = (records.path,)
    recipe.data.crop = Crop("none", height=44, width=44)
    recipe.data.batch_size = 8
    recipe.model = Model("tcdcn", width=0.25)
    return dataclasses.replace(recipe, phases=(Phase(steps=2),), precision="float32")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lfwa_plus") / "tree"
    return layouts.draw("lfwa", folder, images=30, size=(32, 32), attributes=73)


@pytest.fixture(scope="module")
def records_without(tree):
    """As LFWA+ is: no training image has a label of the 33 further attributes."""
    return build("lfwa", tree, tree.parent / "without")


def test_all_73_are_learned_measured_and_predicted_where_training_images_know_them(tree, tmp_path):
    whole = tmp_path / "tree"
    whole.mkdir()
    for path in tree.iterdir():
        (whole / path.name).symlink_to(path)
    table = whole / "lfw_att_73.mat"
    found = read_matlab(table, "name", "AttrName", "label")
    labels = found.pop("label")
    unknown = np.isnan(labels)
    assert unknown.any()
    labels[unknown] = np.random.default_rng(0).integers(0, 2, unknown.sum())
    table.unlink()
    write_matlab(table, {"label": labels}, found, "7.3")
    records = build("lfwa", whole, tmp_path / "records")
    train_and_evaluate(recipe_of(records), tmp_path / "run", progress=False)
    workdir = Workdir.open(tmp_path / "run")
    batches = split_batches(workdir, records)
    results, _ = measure_split(workdir, workdir.load_model(), records, batches)
    measured = {result.task.name: set(result.numbers["labels"]) for result in results}
    assert measured == {"attributes": set(CELEBA_ATTRIBUTES), "lfwa_attributes": FURTHER}
    picture = next((whole / "lfw").rglob("*.jpg"))
    face = Analyzer.from_workdir(workdir.path).analyze(picture)
    answered = {name: set(attributes) for name, attributes in face.tasks.items()}
    assert answered == measured


def test_training_on_attributes_that_no_training_image_has_is_refused(records_without, tmp_path):
    message = "'lfwa_attributes': every label of the .* validation examples is unknown"
    with pytest.raises(UserError, match=message):
        train_and_evaluate(recipe_of(records_without), tmp_path / "run", progress=False)
