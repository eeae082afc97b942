"""What every layer of `faceattr_tf.layers` keeps; a new layer joins by a row of `LAYERS`."""

import inspect
import json
import re
import types
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from backends import on_backend

from faceattr_tf import layers


class Case(NamedTuple):
    """A way to use a layer.

    Attributes:
        layer: its class.
        shapes: the shapes of one example of each of its inputs.
        options: its arguments.
        call: arguments of its call beside the inputs.
    """

    layer: type
    shapes: tuple[tuple[int, ...], ...]
    options: dict
    call: Mapping = types.MappingProxyType({})


MAPS = (6, 7, 3)
LAYERS = {
    "batch_normalization": Case(layers.BatchNormalization, (MAPS,), {"momentum": 0.7}),
    "of_vectors": Case(layers.BatchNormalization, ((8,),), {"epsilon": 0.01}),
    "locally_shared": Case(
        layers.LocallySharedConv2D,
        (MAPS,),
        {"filters": 4, "kernel_size": (2, 3), "grid": (2, 7), "activation": "relu"},
    ),
    "interweaved": Case(
        layers.LocallySharedConv2D,
        (MAPS,),
        {"filters": 4, "kernel_size": (3, 2), "grid": (1, 2), "padding": "valid"},
        {"window": (4, 5)},
    ),
    "views": Case(
        layers.StrongestViews, ((3, 2, 2, 4, 5),), {"offsets": ((0, 0), (1, -1)), "strength": "max"}
    ),
    "colour_histograms": Case(layers.ColourHistograms, (MAPS,), {"bins": (2, 3, 4), "reach": 0.4}),
    "crop_region": Case(layers.CropRegion, (MAPS,), {"box": (0.1, -0.2, 0.7, 0.9), "size": (4, 3)}),
    "oriented_gradients": Case(
        layers.OrientedGradientHistograms, (MAPS,), {"cell": 2, "orientations": 5, "clip": 0.3}
    ),
    "positional_pooling": Case(layers.PositionalPooling, (MAPS,), {}),
    "transformer": Case(layers.SpatialTransformer, (MAPS, (6,)), {"size": (4, 9)}),
    "similarity": Case(
        layers.SpatialTransformer,
        ((3, 6, 7), (4,)),
        {"family": "similarity", "outside": "zeros", "data_format": "channels_first"},
    ),
    "attention": Case(
        layers.SpatialTransformer,
        (MAPS, (3,)),
        {"family": "attention", "kernel": "nearest", "align_corners": True},
    ),
}
every_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=list(LAYERS))


def make(case, dtype="float32"):
    """The layer, built, with weights that are no trivial ones."""
    layer = case.layer(**case.options, dtype=dtype)
    shapes = [(None, *shape) for shape in case.shapes]
    layer.build(shapes if len(shapes) > 1 else shapes[0])
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.weights])
    return layer


def draw(case, batch=4):
    """Inputs of the layer, in the form that it is called with."""
    random = np.random.default_rng(0)
    return joined(
        [tf.constant(random.normal(size=(batch, *shape)), tf.float32) for shape in case.shapes]
    )


def joined(values):
    """Several inputs are a list, one stands alone."""
    return values if len(values) > 1 else values[0]


def model_of(case, layer):
    """The layer as a model of its own."""
    inputs = joined([keras.Input(shape) for shape in case.shapes])
    return keras.Model(inputs, layer(inputs, **case.call))


def arguments(case):
    """The names of the layer's own arguments."""
    parameters = inspect.signature(case.layer).parameters.values()
    return {value.name for value in parameters if value.kind is value.POSITIONAL_OR_KEYWORD}


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_table_names_every_layer():
    public = [getattr(layers, name) for name in layers.__all__]
    classes = {value for value in public if inspect.isclass(value)}
    assert {case.layer for case in LAYERS.values()} == classes


@every_layer
@pytest.mark.parametrize("batch", [4, None])
def test_shapes_are_inferred(case, batch):
    layer = make(case)
    shapes = joined([(batch, *shape) for shape in case.shapes])
    shape = layer.compute_output_shape(shapes, **case.call)
    inputs = joined([keras.Input(shape, batch_size=batch) for shape in case.shapes])
    assert shape == layer(inputs, **case.call).shape
    assert shape == (batch, *layer(draw(case), **case.call).shape[1:])


@every_layer
def test_config_holds_every_argument(case):
    layer = case.layer(**case.options, name="named", dtype="mixed_bfloat16")
    config = layer.get_config()
    restored = case.layer.from_config(config)
    assert restored.get_config() == config
    assert {**case.options, "name": "named"}.items() <= config.items()
    assert restored.compute_dtype == "bfloat16"
    assert arguments(case) <= set(config)


@every_layer
def test_saved_layers_load_as_they_were(case, tmp_path):
    name = keras.saving.get_registered_name(case.layer)
    assert name == f"faceattr_tf>{case.layer.__name__}"
    model = model_of(case, make(case))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.layers[-1]) is case.layer
    np.testing.assert_array_equal(loaded(draw(case)), model(draw(case)))


@every_layer
def test_bfloat16_is_close_to_float32(case):
    layer = make(case, "mixed_bfloat16")
    outputs = layer(draw(case), **case.call)
    assert outputs.dtype == tf.bfloat16
    assert {weight.dtype for weight in layer.weights} <= {"float32"}
    exact = make(case)(draw(case), **case.call).numpy()
    error = np.abs(tf.cast(outputs, tf.float32) - exact).max()
    assert error < 0.02 * np.abs(exact).max()


@every_layer
@pytest.mark.parametrize("training", [False, True])
def test_gradients_reach_inputs_and_weights(case, training):
    layer, inputs = make(case), draw(case)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=training, **case.call)
        loss = tf.reduce_sum(outputs * np.random.default_rng(2).normal(size=outputs.shape))
    weights = [weight.value for weight in layer.trainable_weights]
    to_inputs, to_weights = tape.gradient(loss, [tf.nest.flatten(inputs), weights])
    for gradient in (*to_inputs, *to_weights):
        assert np.isfinite(gradient).all()
    assert all(np.any(gradient) for gradient in (to_inputs[0], *to_weights))


@every_layer
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("graph", ["static", "dynamic", "XLA"])
def test_graphs_give_the_same(case, training, graph):
    batch = 4 if graph == "static" else None
    signature = [joined([tf.TensorSpec([batch, *shape]) for shape in case.shapes])]
    layer = make(case)

    @tf.function(input_signature=signature, jit_compile=graph == "XLA")
    def call(inputs):
        return layer(inputs, training=training, **case.call)

    assert_close(call(draw(case)), make(case)(draw(case), training=training, **case.call))


@every_layer
def test_inference_is_deterministic(case):
    layer = make(case)
    before, inputs = layer.get_weights(), draw(case)
    outputs = layer(inputs, training=False, **case.call)
    np.testing.assert_array_equal(layer(inputs, training=False, **case.call), outputs)
    np.testing.assert_array_equal(layer(inputs, **case.call), outputs)
    # An example's answer is its own, whatever else is in the batch.
    first = tf.nest.map_structure(lambda value: value[:1], inputs)
    alone = layer(first, training=False, **case.call)
    assert_close(alone, outputs[:1])
    for weight, value in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@every_layer
def test_frozen_layers_learn_nothing(case):
    layer = make(case)
    before = layer.get_weights()
    layer.trainable = False
    assert layer.trainable_weights == []
    layer(draw(case), training=True, **case.call)
    for weight, value in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


BACKEND_PROGRAM = """
import json
import pathlib
import sys
import keras
import numpy as np
import faceattr_tf.layers
folder = pathlib.Path(sys.argv[1])
errors = {}
for file in sorted(folder.glob("*.npz")):
    stored = dict(np.load(file))
    expected = {name: stored.pop(name) for name in ("inference", "training")}
    inputs = [keras.ops.convert_to_tensor(value) for _, value in sorted(stored.items())]
    model = keras.saving.load_model(file.with_suffix(".keras"))
    for name, reference in expected.items():
        outputs = model(inputs if len(inputs) > 1 else inputs[0], training=name == "training")
        error = np.abs(keras.ops.convert_to_numpy(outputs) - reference).max()
        errors[f"{file.stem}, {name}"] = float(error)
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with every layer as a `.keras` file, and its inputs and outputs."""
    folder = tmp_path_factory.mktemp("layers")
    for name, case in LAYERS.items():
        model, inputs = model_of(case, make(case)), draw(case)
        model.save(folder / f"{name}.keras")
        arrays = {f"input_{place}": value for place, value in enumerate(tf.nest.flatten(inputs))}
        inference = model(inputs, training=False)
        training = model(inputs, training=True)
        np.savez(folder / f"{name}.npz", inference=inference, training=training, **arrays)
    return folder


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_fresh_processes_on_other_backends_give_the_same(stored, backend):
    done = on_backend(backend, BACKEND_PROGRAM, str(stored))
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 2 * len(LAYERS)
    assert {name: error for name, error in errors.items() if not error < 2e-5} == {}


@every_layer
def test_docstrings_tell_arguments_and_shapes(case):
    text = inspect.getdoc(case.layer)
    assert "[B, " in text
    assert "Example:" in text
    if "__init__" in vars(case.layer):
        described = text.split("Args:\n")[1]
        for name in arguments(case):
            assert re.search(rf"^    {name}: ", described, re.MULTILINE), name
