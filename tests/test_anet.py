"""ANet: its shape after DeepID2's, and the interweaved operation on pictures larger than its own."""

import keras
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.tasks import CELEBA
from faceattr_tf.models import build_model

WINDOW = (24, 16)


def anet(size, **options):
    return build_model("anet", (CELEBA,), (*size, 3), width=0.5, **options)


def features_of(model):
    return keras.Model(model.input, model.get_layer("head_attributes").input)


def with_weights_of(model, other):
    for layer in model.layers:
        if layer.weights and not layer.name.startswith("head_"):
            layer.set_weights(other.get_layer(layer.name).get_weights())
    return model


def test_channels_and_cells_are_those_of_deepid2():
    model = build_model("anet", (CELEBA,), (56, 48, 3))
    shapes = {f"conv{index}": model.get_layer(f"conv{index}").kernel.shape for index in range(1, 5)}
    assert shapes == {
        "conv1": (4, 4, 3, 20),
        "conv2": (3, 3, 20, 40),
        "conv3": (7 * 6, 3, 3, 40, 60),  # cells of 2x2 neurons on a map of 14x12
        "conv4": (7 * 6, 2, 2, 60, 80),  # cells of one neuron on a map of 7x6
    }
    assert model.get_layer("dense").kernel.shape == (7 * 6 * 80, 160)


@pytest.mark.parametrize("views", [1, 5, 9])
def test_a_picture_of_the_windows_size_has_the_plain_features_in_every_view(views):
    plain = anet(WINDOW)
    woven = with_weights_of(anet(WINDOW, window=WINDOW, views=views), plain)
    images = np.random.default_rng(0).uniform(0, 255, (3, *WINDOW, 3)).astype("float32")
    expected = np.tile(features_of(plain)(images), views)
    np.testing.assert_allclose(features_of(woven)(images), expected, rtol=1e-5, atol=1e-6)


def test_a_shifted_face_is_found_and_has_the_features_of_the_framed_one():
    plain = anet(WINDOW)
    for layer in plain.layers:
        if layer.name.startswith("conv"):  # what is brighter than grey responds, everywhere alike
            layer.set_weights([np.full_like(w, 0.05 * (w.ndim > 2)) for w in layer.get_weights()])
    woven = with_weights_of(anet((40, 36), window=WINDOW), plain)
    random = np.random.default_rng(1)
    for row, column in ((0, 0), (4, 12), (8, 8), (16, 20)):
        face = random.uniform(150, 255, (1, *WINDOW, 3)).astype("float32")
        picture = np.full((1, 40, 36, 3), 127.5, "float32")
        picture[:, row : row + WINDOW[0], column : column + WINDOW[1]] = face
        np.testing.assert_allclose(
            features_of(woven)(picture), features_of(plain)(face), rtol=1e-4, atol=1e-4
        )


def test_views_are_the_features_around_the_strongest_place():
    one, five = anet((32, 24), window=WINDOW), anet((32, 24), window=WINDOW, views=5)
    with_weights_of(five, one)
    picture = np.random.default_rng(2).uniform(0, 255, (2, 32, 24, 3)).astype("float32")
    single, several = features_of(one)(picture).numpy(), features_of(five)(picture).numpy()
    assert several.shape == (2, 5 * single.shape[1])
    np.testing.assert_allclose(several[:, : single.shape[1]], single, rtol=1e-5)
    assert np.abs(several.reshape(2, 5, -1) - single[:, None]).max() > 0


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((30, 24), {}, r"anet sees \(30, 24\): expected a height and width that are multiples"),
        ((32, 24), {"views": 2}, "views 2: expected one of 1, 5, 9"),
        ((32, 24), {"window": (40, 24)}, r"looks for \(40, 24\) in pictures of \(32, 24\)"),
        ((34, 24), {"window": (24, 16)}, "expected multiples of 4"),
        ((32, 24), {"window": (24,)}, "expected a height and width"),
    ],
)
def test_sizes_that_cannot_be_are_refused(size, options, message):
    with pytest.raises(UserError, match=message):
        anet(size, **options)
