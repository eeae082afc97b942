"""LoNet: the paper's layers, the identity at the start, and that it finds where something is."""

import cv2
import keras
import numpy as np
import pytest

from data_pipelines.errors import UserError
from faceattr_tf.layers.spatial_transformer import IDENTITY
from faceattr_tf.models.heads import image_input
from faceattr_tf.models.lonet import build


def network(height=32, width=32, multiplier=1.0, **options):
    keras.utils.set_random_seed(0)
    image, pixels = image_input((height, width, 3))
    return keras.Model(image, build(pixels, width=multiplier, **options))


def faces(count, height=32, width=32):
    random = np.random.default_rng(0)
    return random.uniform(0, 255, (count, height, width, 3)).astype("float32")


def test_layers_are_those_of_the_paper():
    model = network(256, 256)
    sides = {
        "conv1_1": 256,
        "conv1_2": 128,
        "pool1": 64,
        "conv2": 64,
        "pool2": 32,
        "conv3": 32,
        "pool3": 11,
    }
    for name, side in sides.items():
        assert model.get_layer(f"lonet_{name}").output.shape[1:3] == (side, side), name
    convolutions = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [layer.kernel_size for layer in convolutions] == [(3, 3)] * 4
    assert [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dense)] == [
        "lonet_fc1",
        "lonet_fc2",
    ]
    assert model.get_layer("lonet_dropout").rate == 0.8
    assert all(layer.name.startswith("lonet_") for layer in model.layers if layer.weights)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 57), (80, 64)])
@pytest.mark.parametrize("family", IDENTITY)
def test_at_first_nothing_is_transformed(family, height, width):
    """Whatever the image shows, and with dropout too."""
    model = network(height, width, family=family)
    for training in (False, True):
        found = np.asarray(model(faces(3, height, width), training=training))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.tile(np.float32(IDENTITY[family]), (3, 1)))


def test_parameters_stay_float32_under_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("lonet_conv2").compute_dtype == "bfloat16"
    last = model.get_layer("lonet_fc2")
    last.bias.assign([1.001, 0, 0.002, 0, 1, 0])  # bfloat16 would round 1.001 to 1
    found = np.asarray(model(faces(2)))
    np.testing.assert_array_equal(found[:, 0], np.float32([1.001, 1.001]))


def test_shrinking_is_an_average_of_pixels():
    shrunk, plain = network(128, 96, shrink=2), network(64, 48)
    random = np.random.default_rng(1)
    weights = [random.normal(0, 0.1, w.shape) for w in plain.weights]
    for model in (shrunk, plain):
        model.set_weights(weights)
    images = faces(2, 128, 96)
    halves = np.stack([cv2.resize(x, (48, 64), interpolation=cv2.INTER_AREA) for x in images])
    np.testing.assert_allclose(shrunk(images), plain(halves), rtol=1e-4, atol=1e-4)


def test_it_learns_where_a_blob_is():
    """The translation that centres a blob, of blobs that it has not seen, to about a pixel."""
    model = network(multiplier=0.5, family="attention", dropout=0.0)
    random = np.random.default_rng(2)
    centres = random.uniform(-0.6, 0.6, (1088, 2)).astype("float32")
    grid = (2 * np.arange(32) + 1) / 32 - 1
    squared = (grid[None, None] - centres[:, :1, None]) ** 2
    squared = squared + (grid[None, :, None] - centres[:, 1:, None]) ** 2
    images = 255 * np.exp(-squared / 0.08)[..., None].repeat(3, -1).astype("float32")
    truth = np.concatenate([np.ones((1088, 1), "float32"), centres], axis=1)
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(images[:1024], truth[:1024], batch_size=32, epochs=6, verbose=0)
    error = np.abs(model.predict(images[1024:], verbose=0) - truth[1024:]).mean()
    assert error < 0.07  # 0.2 where it stands still; a pixel is 0.0625


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "projective"}, "'projective' is none of affine, similarity, attention"),
        ({"shrink": 0}, "not by 0"),
        ({"height": 31}, "at least 32 pixels"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        network(**options)
