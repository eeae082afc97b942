"""The base network of Flickr: its arithmetic, parameters and layers, as the paper gives them."""

import keras
import pytest

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.models import build_model, stage_names
from faceattr_tf.models.flickr import build
from faceattr_tf.models.heads import image_input
from faceattr_tf.training.cost import multiply_adds


@pytest.fixture(scope="module")
def base():
    people = Task("identity", "multiclass", tuple(map(str, range(10_000))))
    return build_model("flickr", (people,), (224, 224, 3))


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


def test_about_a_gigaflop_and_nine_million_parameters(base):
    assert multiply_adds(base) == pytest.approx(0.9e9, rel=0.1)
    assert 9e6 < base.count_params() < 10e6


def test_there_are_24_convolutions_without_those_of_shortcuts(base):
    names = [layer.name for layer in convolutions(base)]
    assert len([name for name in names if "shortcut" not in name]) == 24
    assert len(names) == 24 + 4
    assert {layer.filters for layer in convolutions(base)[1:] if layer.kernel_size == (1, 1)} == {
        *(32, 64, 128, 256, 320),  # 1x1 convolutions that reduce, and the bottleneck
        512,  # the shortcut of (e)
    }


def test_the_stages_of_the_text_have_its_sizes(base):
    shapes = {name: tuple(stage.shape[1:]) for name, stage in base.stages.items()}
    assert shapes["conv1"] == (56, 56, 32)
    assert shapes["conv17"] == (14, 14, 256)
    assert shapes["conv19"] == shapes["conv21"] == shapes["conv23"] == (7, 7, 512)
    assert shapes["conv22"] == (7, 7, 256)
    assert shapes["conv_bn320"] == (320,)
    assert list(shapes)[-5:] == ["conv19", "conv21", "conv22", "conv23", "conv_bn320"]


def test_a_head_of_two_classes_has_the_642_parameters_of_the_paper():
    gender = Task("gender", "multiclass", ("female", "male"))
    model = build_model("flickr", (gender,), (32, 32, 3))
    assert model.get_layer("head_gender").count_params() == 642


def test_convolutions_start_as_asked_and_shortcuts_keep_the_maps_of_a_stage():
    model = build_model("flickr", (Task("a", "multilabel", ("x",)),), (32, 32, 3), stddev=0.2)
    kernel = model.get_layer("conv9_filters").kernel.numpy()
    assert kernel.std() == pytest.approx(0.2, rel=0.02)
    assert abs(kernel.mean()) < 2e-3
    assert model.get_layer("conv9").input[0] is model.stages["conv7"]


def test_the_smallest_picture_and_narrow_networks():
    assert build(image_input((32, 32, 3))[1], width=0.1)["conv_bn320"].shape == (None, 32)
    assert "conv_bn320" in stage_names("flickr", (32, 32, 3))
    with pytest.raises(UserError, match="at least 32 pixels"):
        build(image_input((31, 40, 3))[1])
