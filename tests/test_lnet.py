"""LNet: its maps on images of any size, and where their cells lie."""

import keras
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.models import build_model
from faceattr_tf.models.heads import image_input
from faceattr_tf.models.lnet import ReceptiveField, build, receptive_field, response_model
from faceattr_tf.models.stages import fully_convolutional

TASK = Task("attributes", "multilabel", ("Male", "Smiling"))


def small(side=67, **options):
    keras.utils.set_random_seed(0)
    options = {"width": 1 / 32, "features": 64, **options}
    return build_model("lnet", (TASK,), (side, side, 3), **options)


def noise(height, width, seed=0):
    shape = (1, height, width, 3)
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def test_maps_have_the_sizes_and_channels_of_the_paper():
    stages = build(image_input((227, 227, 3))[1], features=8)
    assert {name: tuple(stage.shape[1:]) for name, stage in stages.items()} == {
        "conv1": (55, 55, 96),
        "pool1": (27, 27, 96),
        "conv2": (27, 27, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "fc6": (8,),
        "fc7": (8,),
    }


def test_the_smallest_image_gives_one_cell_and_a_smaller_one_is_refused():
    assert build(image_input((35, 35, 3))[1], width=0.1)["conv5"].shape[1:3] == (1, 1)
    with pytest.raises(UserError, match="at least 35 pixels"):
        build(image_input((34, 35, 3))[1])


def test_an_unknown_pooling_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match="'sum' is none of flat, average, max"):
        small(pooling="sum")


@pytest.mark.parametrize("pooling", ["average", "max"])
def test_pooled_maps_forget_where_something_was_seen(pooling):
    model = small(pooling=pooling)
    given, seen = (
        keras.Model(model.input, model.get_layer(name).output)(noise(67, 67))
        for name in ("conv5", pooling)
    )
    expected = (np.mean if pooling == "average" else np.max)(given, axis=(1, 2))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)


def test_responses_are_means_of_channels_by_the_same_variables():
    model = small()
    response = response_model(model)
    image = noise(67, 67)
    maps = keras.Model(model.input, model.get_layer("conv5").output)
    np.testing.assert_allclose(response(image), np.mean(maps(image), axis=-1), rtol=1e-5)
    kernel = model.get_layer("conv5").kernel
    kernel.assign(2 * kernel)
    np.testing.assert_allclose(response(image), np.mean(maps(image), axis=-1), rtol=1e-5)
    assert {weight.path for weight in response.weights} == {weight.path for weight in maps.weights}


@pytest.mark.parametrize("size", [(67, 131), (227, 90), (300, 300)])
def test_images_of_any_size_have_maps_in_which_content_moves_by_whole_cells(size):
    response = response_model(small())
    image = noise(*size)
    full = response(image)[0]
    assert full.shape == tuple((((side - 11) // 4 + 1 - 3) // 2 + 1 - 3) // 2 + 1 for side in size)
    # Away from the borders, which zeros surround, 16 pixels are one cell.
    if min(size) == 300:
        moved = response(image[:, 16:, 16:])[0]
        np.testing.assert_allclose(moved[4:-5, 4:-5], full[5:-5, 5:-5], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stride", [4, 2])
@pytest.mark.parametrize("stage", ["conv1", "pool1", "conv2", "conv5"])
def test_receptive_field_is_where_a_dot_is_seen(stage, stride):
    """With weights and pixels of one sign whatever a cell can see changes it."""
    model = small(stride=stride)
    for weight in model.weights:
        weight.assign(abs(weight.numpy()))
    field = receptive_field(model, stage)
    maps = fully_convolutional(model, stage)
    height, width = 219, 251
    cells = [
        np.arange(side) * field.stride + field.offset
        for side in maps(noise(height, width)).shape[1:3]
    ]
    for dot in [(0, 0), (100, 37), (101, 118), (height - 30, width - 1)]:
        image = np.full((1, height, width, 3), 127.5, "float32")
        image[0, dot[0], dot[1]] = 255
        changed = np.array(maps(image))[0].max(axis=-1) > 1e-9
        near = [
            abs(centres - at) <= (field.size - 1) / 2
            for centres, at in zip(cells, dot, strict=True)
        ]
        np.testing.assert_array_equal(changed, np.outer(*near))


def test_receptive_field_of_the_paper():
    assert receptive_field(small(), "conv1") == ReceptiveField(11, 4, 5.0)
    assert receptive_field(small(), "conv5") == ReceptiveField(163, 16, 17.0)


def test_a_response_model_is_saved_whole(tmp_path):
    response = response_model(small())
    response.save(tmp_path / "response.keras")
    again = keras.saving.load_model(tmp_path / "response.keras")
    image = noise(90, 120)
    np.testing.assert_allclose(again(image), response(image), rtol=1e-5)
