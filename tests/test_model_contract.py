"""What every network of `MODELS` keeps to; a new one is tested by being listed there.

Of the pretrained networks, which share their construction, the smallest stands for all here; what
they have of their own is in `test_keras_applications.py`.
"""

import functools
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.batches import evaluation_batches
from data_pipelines.tasks import LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from export.signatures import embedding_of
from faceattr_tf.configs import create_recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.extract import extract
from faceattr_tf.losses import task_loss
from faceattr_tf.models import (
    BACKBONES,
    MODELS,
    build_model,
    options_of,
    stage_names,
    synchronize,
)
from faceattr_tf.models.branching import take_weights
from faceattr_tf.models.create import pretrained_model
from faceattr_tf.models.heads import HEAD_PREFIX, head_layers
from faceattr_tf.models.stages import features_at, stages_of
from faceattr_tf.training.cost import multiply_adds

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS, Task("age", "regression", ("years",)))
SHAPES = {"attributes": (3,), "pose": (5,), "landmarks": (5, 2), "age": (1,)}
SIZE = (64, 56, 3)

OWN = sorted(set(MODELS) - set(BACKBONES))
SMALL = {name: {"width": 0.25} for name in OWN if "width" in options_of(MODELS[name])}
SMALL["facetracer"] = {"regions": ("face", "eyes")}
SMALL["panda"] = {"width": 0.25, "parts": ("face", "mouth")}
SMALL["face_alexnet"] = {"width": 0.25, "features": 256}
SMALL["fusion"] = {"width": 0.25, "trunks": ("a", "b"), "network_options": (("width", 0.1),)}

pytestmark = pytest.mark.parametrize("name", [*OWN, "mobilenet_v3_small"])


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 255, (4, *SIZE)).astype("float32")


def small(name, tasks=TASKS, **options):
    keras.utils.set_random_seed(0)
    return build_model(name, tasks, SIZE, **{**SMALL.get(name, {}), **options})


@functools.cache
def whole(name):
    """`small(name)`, built once: for tests that change nothing of it."""
    return small(name)


def test_input_and_outputs(name, images):
    model = whole(name)
    assert model.name == name
    assert model.input.name == "image"
    assert model.input.shape == (None, *SIZE)
    for count in (1, 4):
        outputs = model(images[:count])
        assert {task: output.shape for task, output in outputs.items()} == {
            task: (count, *shape) for task, shape in SHAPES.items()
        }
        assert all(output.dtype == "float32" for output in outputs.values())
        assert all(np.isfinite(output).all() for output in outputs.values())


def test_one_head_per_task(name, images):
    model = whole(name)
    heads = [layer.name for layer in model.layers if layer.name.startswith(HEAD_PREFIX)]
    assert sorted(heads) == sorted(HEAD_PREFIX + task.name for task in TASKS)
    assert set(small(name, tasks=(POSE,))(images)) == {"pose"}


def test_pixels_are_normalised_inside(name, images):
    """An untrained network is close to indifferent, yet not to what it sees."""
    if name in BACKBONES:
        pytest.skip(
            "its signal vanishes before anything is trained; see test_keras_applications.py"
        )
    model = whole(name)
    logits, grey = model(images)["pose"], model(np.full_like(images, 127.5))["pose"]
    assert np.abs(logits).max() < 1
    assert np.abs(logits - grey).max() > 1e-4


def test_saved_model_gives_the_same_numbers(name, images, tmp_path):
    model = whole(name)
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras")
    expected, found = model(images), reloaded(images)
    for task in expected:
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-6, atol=1e-6)


def test_names_of_weights_do_not_depend_on_what_was_built_before(name):
    first, second = whole(name), small(name)
    assert [w.path for w in first.weights] == [w.path for w in second.weights]


def test_every_variable_learns(name, images):
    """A few steps on one batch lower the loss, and change every trainable variable."""
    model = small(name)
    random = np.random.default_rng(1)
    labels = {
        "attributes": random.integers(0, 2, (4, 3)),
        "pose": random.integers(0, 5, 4),
        "landmarks": random.uniform(-1, 1, (4, 5, 2)),
        "age": random.normal(size=(4, 1)),
    }
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(model.trainable_variables)
    before = [np.array(variable) for variable in model.trainable_variables]

    def step():
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = sum(
                tf.reduce_mean(task_loss(task, labels[task.name], outputs[task.name]))
                for task in TASKS
            )
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    losses = [float(step())]
    while losses[-1] >= 0.8 * losses[0] and len(losses) < 15:
        losses.append(float(step()))
    assert losses[-1] < 0.8 * losses[0]
    for variable, start in zip(model.trainable_variables, before, strict=True):
        assert np.isfinite(variable).all(), variable.path
        assert np.any(np.array(variable) != start), variable.path


def test_outputs_are_float32_under_mixed_precision(name, images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small(name)
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(output.dtype == "float32" for output in model(images).values())
    full = whole(name)(images)
    for task, output in model(images).items():
        np.testing.assert_allclose(output, full[task], atol=0.02)


def test_dropout_acts_in_training_only(name, images):
    model, without = small(name, dropout=0.5), whole(name)
    own = model.get_weights()[len(without.weights) :]
    model.set_weights([*without.get_weights(), *own])
    first, second = model(images)["pose"], model(images)["pose"]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, without(images)["pose"], atol=1e-6)
    dropped, again = model(images, training=True)["pose"], model(images, training=True)["pose"]
    assert np.any(dropped != again)


def test_width_scales_the_network(name):
    if "width" not in options_of(MODELS[name]):
        pytest.skip("comes in one width")
    narrow, wide = whole(name), small(name, width=0.5)
    assert 1.5 < wide.count_params() / narrow.count_params() < 4.5


def test_statistics_can_be_synchronised(name):
    options = {}
    if "batch_normalization" in inspect.signature(MODELS[name]).parameters:
        options["batch_normalization"] = True
    model = small(name, **options)
    synchronize(model)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        pytest.skip("it normalises no batches")
    assert all(layer.synchronized for layer in norms)


def test_stages_are_layers_from_the_pixels_to_the_heads(name, images):
    model = whole(name)
    assert (
        tuple(model.stages) == stage_names(name, SIZE, **SMALL.get(name, {}))
        and len(model.stages) > 3
    )
    to_stages = keras.Model(model.input, list(model.stages.values()))
    order = [layer.name for layer in to_stages.layers]
    places = [order.index(stage) for stage in model.stages]
    assert places == sorted(places)
    stages = stages_of(model)
    assert set(stages) == {layer.name for layer in model.layers if layer.weights}
    assert {stages[HEAD_PREFIX + task.name] for task in TASKS} == {len(model.stages)}
    along = [stages[layer] for layer in order if layer in stages]
    if along:  # it learns something before its heads
        assert along[0] == 0 and len(set(along)) > (2 if name == "fusion" else 3)
    if name in OWN:  # without branches that skip a stage
        assert along == sorted(along)


def test_heads_stand_on_any_stage_and_nothing_is_built_behind_it(name, images):
    full = whole(name)
    for index, stage in enumerate(full.stages):
        model = small(name, layer=stage)
        assert tuple(model.stages) == tuple(full.stages)[: index + 1]
        assert {w.path for w in model.weights if not w.path.startswith(HEAD_PREFIX)} == {
            weight.path
            for layer in keras.Model(full.input, full.stages[stage]).layers
            for weight in layer.weights
        }
        places = model.get_layer(stage).output, features_at(model, stage)
        places += embedding_of(model, TASKS), model.output
        given, seen, embedding, outputs = keras.Model(model.input, places)(images)
        means = given if len(given.shape) == 2 else np.mean(given, axis=(1, 2))
        np.testing.assert_allclose(seen, means, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(embedding, seen, rtol=1e-5, atol=1e-6)
        assert {task: out.shape[1:] for task, out in outputs.items()} == SHAPES


def test_an_unknown_stage_is_refused_with_those_that_exist(name):
    with pytest.raises(UserError, match=rf"'mixed99' ends no stage of {name}: .*, \w+"):
        small(name, layer="mixed99")


def test_branches_give_what_the_network_gives_and_cost_themselves_alone(name, images, tmp_path):
    """Of three stages, one of them the last; their layers with the weights that they copy."""
    plain = whole(name)
    stages = list(plain.stages)
    first, middle, last = stages[0], stages[len(stages) // 2], stages[-1]
    entries = (
        (first, "attributes/Smiling", "age"),
        (middle, "landmarks"),
        (last, "attributes/Male"),
    )
    entries = entries if name in OWN else entries[1:]  # which takes long to build
    model = small(name, branches=entries, branch_weights="trunk")
    take_weights(model, plain, copies=True)
    kernel, bias = plain.get_layer("head_attributes").get_weights()
    labels = {"Smiling": [1], "Male": [0], "head": [2] if name in OWN else [1, 2]}
    for head in head_layers(model, MTFL_ATTRIBUTES):
        own = labels[head.name.removeprefix("branch_").removeprefix("attributes_").split("_")[0]]
        head.set_weights([kernel[:, own], bias[own]])
    for head in ("head_pose", "head_landmarks", "head_age"):
        model.get_layer(head).set_weights(plain.get_layer(head).get_weights())
    expected = plain(images)
    model.save(tmp_path / "model.keras")
    for outputs in (model(images), keras.saving.load_model(tmp_path / "model.keras")(images)):
        for task in TASKS:
            np.testing.assert_allclose(outputs[task.name], expected[task.name], atol=1e-5)
    depths, copied = stages_of(plain), stages_of(model)
    assert all(copied[one] == depths[of] for one, of in model.copies.items() if of in depths)
    top = small(name, branches=entries, top=True)
    trunk = keras.Model(model.input, list(model.taps.values()))
    assert multiply_adds(model) == multiply_adds(trunk) + multiply_adds(top)


def aligned(records):
    recipe = create_recipe("smoke")
    recipe.data.records = (records.path,)
    recipe.data.crop = Crop(kind="align", height=SIZE[0], width=SIZE[1])
    return recipe


@pytest.fixture(scope="module")
def faces(mtfl_records):
    """The aligned faces of the test split in one batch, which every network sees."""
    experiment = Experiment.of(aligned(mtfl_records))
    (source,) = experiment.sources("test")
    (batch,) = evaluation_batches(source, experiment.tasks, experiment.view, batch_size=16)
    return batch["image"]


def test_features_of_every_stage_are_kept_on_disk(name, tmp_path, mtfl_records, faces):
    recipe = aligned(mtfl_records)
    options = dict(SMALL.get(name, {}))
    recipe.model.name, recipe.model.width = name, options.pop("width", 1.0)
    recipe.model.options = tuple(options.items())
    recipe.data.bottlenecks.folder = str(tmp_path)
    experiment = Experiment.of(recipe)
    names = tuple(whole(name).stages)
    found = extract(experiment, "test", names, progress=False)
    model = pretrained_model(experiment, "float32")
    places = {stage: features_at(model, stage) for stage in found}
    expected = keras.Model(model.input, places)(faces)
    for stage, (part,) in found.items():
        rows = np.arange(len(part))
        given = part.features.read(rows, np.zeros_like(rows))
        np.testing.assert_allclose(given, expected[stage], rtol=1e-3, atol=1e-4)
    again = extract(experiment, "test", names, create=lambda layers: 1 / 0)
    assert again.keys() == found.keys()
