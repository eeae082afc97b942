"""What each network is in particular: the papers' layer counts and map sizes, and its options."""

import keras
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.models import build_model

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS)


def shapes(model, kind) -> list[tuple]:
    """Output shapes of the layers of one class, without the batch."""
    return [layer.output.shape[1:] for layer in model.layers if isinstance(layer, kind)]


def dense_parameters(model, features: int) -> int:
    return sum((features + 1) * task.output_size for task in TASKS)


@pytest.mark.parametrize(("side", "last_map"), [(60, 3), (150, 14)])
def test_tcdcn_has_the_layers_of_the_paper(side, last_map):
    model = build_model("tcdcn", TASKS, (side, side, 3))
    assert shapes(model, keras.layers.Conv2D)[-1] == (last_map, last_map, 80)
    assert len(shapes(model, keras.layers.Conv2D)) == 4
    assert len(shapes(model, keras.layers.MaxPooling2D)) == 3
    assert model.get_layer("shared").output.shape == (None, 256)
    convolutions = 5 * 5 * 3 * 20 + 5 * 5 * 20 * 48 + 3 * 3 * 48 * 64 + 3 * 3 * 64 * 80 + 212
    shared = (last_map**2 * 80 + 1) * 256
    assert model.count_params() == convolutions + shared + dense_parameters(model, 256)


def test_cascade_cnn_has_the_layers_of_the_paper():
    model = build_model("cascade_cnn", TASKS, (150, 150, 3))
    maps = [model.get_layer(f"conv{index}").output.shape[1:] for index in (1, 2, 3, 4)]
    assert maps == [(147, 147, 128), (71, 71, 128), (33, 33, 128), (15, 15, 128)]
    pools = [model.get_layer(f"pool{index}").output.shape[1:] for index in (1, 2, 3, 4)]
    assert pools == [(73, 73, 128), (35, 35, 128), (16, 16, 128), (7, 7, 128)]
    assert model.get_layer("inception").output.shape == (None, 7, 7, 256)
    assert model.get_layer("shared").output.shape == (None, 512)


def test_resnet_small_is_small():
    assert 450_000 < build_model("resnet_small", TASKS, (80, 80, 3)).count_params() < 550_000


def test_resnet_small_stages_follow_the_options():
    model = build_model(
        "resnet_small",
        TASKS,
        (64, 48, 3),
        filters=(8, 16, 24),
        blocks=(1, 2, 1),
        stem_stride=4,
        squeeze_excitation=4,
    )
    sums = shapes(model, keras.layers.Add)
    assert sums == [(16, 12, 8), (8, 6, 16), (8, 6, 16), (4, 3, 24)]
    assert len(shapes(model, keras.layers.Multiply)) == 4


def test_resnet_small_blocks_start_as_their_shortcuts():
    model = build_model("resnet_small", (POSE,), (32, 32, 3), filters=(16,), blocks=(2,))
    stem, last = (model.get_layer(name).output for name in ("stem_relu", "stage1_block2_relu2"))
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    before, after = keras.Model(model.input, [stem, last])(images)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_depthwise_pooling_starts_as_the_average_and_knows_places():
    options = {"filters": (16, 24), "blocks": (1, 1), "pooling": "depthwise"}
    model = build_model("resnet_small", (POSE,), (32, 32, 3), **options)
    pool = model.get_layer("pool")
    maps = np.random.default_rng(0).normal(size=(2, *pool.input.shape[1:])).astype("float32")
    np.testing.assert_allclose(pool(maps), maps.mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)
    kernel = np.zeros(pool.kernel.shape, "float32")
    kernel[1, 2] = 1
    pool.kernel.assign(kernel)
    np.testing.assert_allclose(pool(maps), maps[:, 1, 2], rtol=1e-5)


@pytest.mark.parametrize("name", ["tcdcn", "cascade_cnn"])
def test_paper_networks_normalise_batches_on_request_only(name):
    kind = keras.layers.BatchNormalization
    assert not shapes(build_model(name, TASKS, (64, 64, 3), width=0.25), kind)
    model = build_model(name, TASKS, (64, 64, 3), width=0.25, batch_normalization=True)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(shapes(model, kind)) == len(convolutions)
    assert not any(layer.use_bias for layer in convolutions)


def test_landmarks_start_at_a_mean_face():
    points = Task("points", "landmarks", ("right_mouth", "nose", "ear"))
    model = build_model("tcdcn", (points,), (60, 60, 3))
    found = model(np.random.default_rng(0).uniform(0, 255, (2, 60, 60, 3)))["points"]
    expected = [[0.25, 0.4], [0.0, 0.1], [0.0, 0.0]]
    np.testing.assert_allclose(found, [expected, expected], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("vgg", (64, 64, 3), {}, "no model 'vgg'; there are: anet, cascade_cnn, face_alexnet"),
        ("tcdcn", (64, 64, 3), {"depth": 3}, "'tcdcn' has no option 'depth'; it has: features"),
        ("tcdcn", (43, 60, 3), {}, "at least 44 pixels"),
        ("cascade_cnn", (60, 38, 3), {}, "at least 39 pixels"),
        ("resnet_small", (64, 64, 1), {}, "(height, width, 3)"),
        ("resnet_small", (64, 64, 3), {"blocks": (1, 1)}, "different numbers of stages"),
        ("resnet_small", (64, 64, 3), {"pooling": "max"}, "none of average, depthwise"),
    ],
)
def test_mistakes_are_named(name, shape, options, message):
    with pytest.raises(UserError) as raised:
        build_model(name, TASKS, shape, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("name", "smallest"), [("tcdcn", 44), ("cascade_cnn", 39)])
def test_the_smallest_input_that_is_promised_works(name, smallest):
    build_model(name, TASKS, (smallest, smallest, 3), width=0.1)
