"""Networks and layers in TensorFlow Lite: all of them convert, and answer the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE
from faceattr_tf.layers import LocallySharedConv2D, PositionalPooling
from faceattr_tf.models import BACKBONES, MODELS, build_model, options_of
from faceattr_tf.models.pretrained import load_weights

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS)
FEW = {
    "facetracer": {"regions": ("face", "eyes")},
    "panda": {"parts": ("face", "mouth")},
    "fusion": {"trunks": ("a", "b")},
}
"""Networks of many parts, of which the others are of the same operations."""


def by_tflite(model, images):
    """What the converted model answers, in the order of the Keras model's outputs."""
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    return runner(**{name: images})


def networks():
    """Each with its options; of the pretrained ones, which are large, one unless asked for."""
    yield pytest.param("resnet_small", {"pooling": "depthwise", "width": 0.25}, id="depthwise")
    yield pytest.param("resnet_small", {"transformer": "lonet", "width": 0.25}, id="lonet")
    for name in MODELS:
        options = {"width": 0.25} if "width" in options_of(MODELS[name]) else {}
        if name in FEW:
            options |= FEW[name]
        often = name not in BACKBONES or name == "mobilenet_v3_small"
        yield pytest.param(name, options, id=name, marks=[] if often else pytest.mark.thorough)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(("name", "options"), networks())
def test_every_network_converts_and_answers_the_same(name, options):
    keras.utils.set_random_seed(0)
    side = BACKBONES[name].smallest if name in BACKBONES else 64
    tasks = (*TASKS, ALIGNMENT) if "transformer" in options else TASKS
    model = build_model(name, tasks, (side, side, 3), **options)
    images = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype("float32")
    found = by_tflite(model, images)
    expected = model(images)
    assert found.keys() == expected.keys()
    for task, values in expected.items():
        np.testing.assert_allclose(found[task], values, rtol=1e-3, atol=1e-3, err_msg=task)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize("window", [None, (6, 7)])
def test_locally_shared_filters_convert_and_answer_the_same(window):
    inputs = keras.Input((6, 7, 3) if window is None else (9, 8, 3))
    layer = LocallySharedConv2D(4, (3, 2), (2, 7), activation="relu")
    model = keras.Model(inputs, {"maps": layer(inputs, window=window)})
    maps = np.random.default_rng(0).normal(size=(1, *inputs.shape[1:])).astype("float32")
    found = by_tflite(model, maps)
    np.testing.assert_allclose(found["maps"], model(maps)["maps"], rtol=1e-4, atol=1e-5)


def test_pooling_by_place_is_the_sum_of_weighted_places(tmp_path):
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    layer = PositionalPooling()
    np.testing.assert_allclose(layer(maps), maps.mean((1, 2)), rtol=1e-5, atol=1e-6)
    layer.kernel.assign(np.random.default_rng(1).normal(size=(3, 4, 5)))
    expected = np.einsum("bhwc,hwc->bc", maps, layer.kernel.numpy())
    np.testing.assert_allclose(layer(maps), expected, rtol=1e-5, atol=1e-5)


def test_networks_that_were_saved_with_another_pooling_layer_load_and_answer_the_same(tmp_path):
    """Such files hold a dense layer over places; its weights are of the same name and shape."""
    inputs = keras.Input((3, 4, 5))
    before = keras.layers.EinsumDense("bhwc,hwc->bc", output_shape=5, name="pool")
    old = keras.Model(inputs, before(inputs))
    old.save(tmp_path / "old.keras")
    old.save_weights(tmp_path / "old.weights.h5")
    inputs = keras.Input((3, 4, 5))
    new = keras.Model(inputs, PositionalPooling(name="pool")(inputs))
    assert [w.path for w in new.weights] == [w.path for w in old.weights]
    load_weights(new, tmp_path / "old.weights.h5", strict=True)
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    np.testing.assert_allclose(new(maps), old(maps), rtol=1e-5, atol=1e-5)
    loaded = keras.saving.load_model(tmp_path / "old.keras")
    np.testing.assert_allclose(loaded(maps), old(maps), rtol=1e-6)
