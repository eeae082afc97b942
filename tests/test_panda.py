"""PANDA: networks on parts of a face, alone and side by side."""

import keras
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.tasks import POSE
from faceattr_tf.configs.base import Model
from faceattr_tf.layers import CropRegion
from faceattr_tf.models import build_model
from faceattr_tf.models.create import create_network, load_pretrained
from faceattr_tf.models.face_parts import locate
from faceattr_tf.models.panda import PARTS
from faceattr_tf.models.stages import features_at

SIZE = (64, 56)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype("float32")
TRUNK = {"trunk": "mobilenet_v3_small", "size": 32, "parts": ("left_eye", "mouth", "nose")}


def model_of(**options):
    keras.utils.set_random_seed(0)
    return build_model("panda", (POSE,), (*SIZE, 3), **options)


def features(model, stage, images=IMAGES):
    return np.asarray(keras.Model(model.input, features_at(model, stage))(images))


def test_the_networks_are_those_of_the_authors():
    model = model_of(parts=("mouth",))
    shapes = {name: tuple(output.shape[1:]) for name, output in model.stages.items()}
    assert shapes == {
        "pool1": (28, 28, 64),
        "pool2": (12, 12, 64),
        "pool3": (6, 6, 64),
        "pool4": (3, 3, 64),
        "parts": (576,),
    }
    assert model.get_layer("mouth_2_conv").kernel.shape == (5, 5, 64, 64)


def test_a_part_is_seen_by_its_own_network_alone():
    model = model_of(width=0.25, parts=("left_eye", "mouth", "nose"))
    before = features(model, "parts").reshape(2, 3, 144)
    bottom = locate(PARTS, SIZE, None)["mouth"][3]
    changed = IMAGES.copy()
    changed[:, round(bottom * 64) - 2 : round(bottom * 64), 26:30] = 0  # below the nose's box
    moved = np.abs(features(model, "parts", changed).reshape(2, 3, 144) - before).max(axis=(0, 2))
    np.testing.assert_array_equal(moved > 1e-6, [False, False, True])
    alone = model_of(width=0.25, parts=("mouth",))
    for layer in alone.layers:
        if layer.weights and not layer.name.startswith("head_"):
            layer.set_weights(model.get_layer(layer.name).get_weights())
    np.testing.assert_allclose(features(alone, "parts"), before[:, 2], atol=1e-5)


def test_parts_share_a_trunk():
    model = model_of(**TRUNK)
    single = build_model("mobilenet_v3_small", (POSE,), (32, 32, 3))
    for layer in single.layers:
        if layer.weights and not layer.name.startswith("head_"):
            layer.set_weights(model.get_layer(layer.name).get_weights())
    places = locate(PARTS, SIZE, None)
    for stage in ("expanded_conv_2_add", "activation_17"):
        expected = [
            features(single, stage, CropRegion(places[name], (32, 32))(IMAGES))
            for name in PARTS
            if name in TRUNK["parts"]
        ]
        found = features(model, f"parts_{stage}")
        np.testing.assert_allclose(found, np.hstack(expected), rtol=1e-3, atol=1e-5)


def test_stages_of_the_trunk_carry_heads():
    model = model_of(**TRUNK, layer="parts_expanded_conv_5_add")
    assert list(model.stages)[-1] == "parts_expanded_conv_5_add"
    assert "activation_17" not in {layer.name for layer in model.layers}
    assert model(IMAGES)["pose"].shape == (2, 5)


def test_weights_of_the_trunk_are_loaded_as_for_the_network_alone(tmp_path):
    source = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, input_shape=(32, 32, 3), include_preprocessing=False
    )
    source.save_weights(tmp_path / "trunk.weights.h5")
    config = Model(
        "panda", weights=str(tmp_path / "trunk.weights.h5"), options=tuple(TRUNK.items())
    )
    model = create_network(config, (POSE,), (*SIZE, 3))
    load_pretrained(model, config)
    np.testing.assert_array_equal(model.get_layer("conv").kernel, source.get_layer("conv").kernel)
    other = Model("panda", weights=config.weights, options=(("trunk", "mobilenet"), ("size", 32)))
    with pytest.raises(UserError, match="the first layer that differs is"):
        load_pretrained(create_network(other, (POSE,), (*SIZE, 3)), other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunk": "resnet"}, "no trunk 'resnet'; there are: inception_v3, mobilenet"),
        ({"trunk": "mobilenet", "width": 0.5}, "width"),
        ({"pixel_values": "bgr"}, "pixel_values"),
        ({"parts": ("ear",)}, "no part 'ear'"),
        ({"size": 8}, "at least 9 pixels"),
        ({"trunk": "mobilenet", "size": 31}, "at least 32 pixels"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        model_of(**options)
