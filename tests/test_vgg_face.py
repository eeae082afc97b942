"""VGG-Face against a computation in NumPy and the sizes of Parkhi et al., table 3."""

import keras
import numpy as np
import pytest
from vgg_reference import MEAN_COLOUR, convolution_names, fc7, random_weights

from data_pipelines.errors import UserError
from data_pipelines.tasks import POSE, Task
from faceattr_tf.losses import task_loss
from faceattr_tf.models import build_model


def network(height, breadth=None, **options):
    return build_model("vgg_face", (POSE,), (height, breadth or height, 3), **options)


def layer_names(model, kind) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, kind)]


# Parameters of the convolutions: Simonyan and Zisserman's A and D, 9.2 and 14.7 million.
@pytest.mark.parametrize(("convolutions", "parameters"), [(8, 9_220_480), (13, 14_714_688)])
def test_layers_are_those_of_the_paper(convolutions, parameters):
    model = network(256, convolutions=convolutions, features=2)
    assert layer_names(model, keras.layers.Conv2D) == convolution_names(convolutions)
    assert layer_names(model, keras.layers.Dense) == ["fc6", "fc7", "head_pose"]
    pools = layer_names(model, keras.layers.MaxPooling2D)
    assert pools == ["pool1", "pool2", "pool3", "pool4", "pool5", "extra_pool"]
    convolution_layers = [model.get_layer(name) for name in convolution_names(convolutions)]
    assert sum(layer.count_params() for layer in convolution_layers) == parameters
    assert model.get_layer("fc6").kernel.shape == (25_088, 2)


def test_released_fc6_fits_at_both_sizes():
    for side, extra_pooling in ((256, True), (224, False)):
        model = network(side, width=1 / 64, features=640, extra_pooling=extra_pooling)
        assert model.get_layer("flatten").input.shape == (None, 7, 7, 8)
        assert model.get_layer("fc6").kernel.shape == (392, 10)


@pytest.mark.parametrize(("height", "breadth"), [(32, 32), (64, 32), (33, 70)])
def test_small_maps_stay_maps(height, breadth):
    image = np.zeros((1, height, breadth, 3), "float32")
    assert network(height, breadth, width=0.05, features=20)(image)["pose"].shape == (1, 5)


@pytest.mark.parametrize("pixel_values", ["unit", "rgb", "bgr"])
@pytest.mark.parametrize("convolutions", [8, 13])
@pytest.mark.parametrize("extra_pooling", [False, True])
def test_features_are_those_of_numpy(convolutions, pixel_values, extra_pooling):
    """Also the order of what fc6 reads: rows, columns, channels."""
    model = network(
        96,
        convolutions=convolutions,
        width=1 / 32,
        features=7 * 32,
        extra_pooling=extra_pooling,
        pixel_values=pixel_values,
    )
    side = 2 if extra_pooling else 3
    weights = random_weights(convolutions, filters=(2, 4, 8, 16, 16), side=side)
    for name, (kernel, bias) in weights.items():
        layer = model.get_layer(name)
        layer.set_weights([kernel.reshape(layer.kernel.shape), bias])
    image = np.random.default_rng(1).uniform(0, 255, (96, 96, 3)).astype("float32")
    seen = {
        "unit": (image - MEAN_COLOUR) / 127.5,
        "rgb": image - MEAN_COLOUR,
        "bgr": image[..., ::-1] - [93.5940, 104.7624, 129.1863],
    }[pixel_values]
    expected = fc7(weights, seen, extra_pooling)
    found = keras.Model(model.input, model.get_layer("fc7").output)(image[None])[0]
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_one_logit_is_the_difference_of_a_softmax_of_two():
    """Equation 6 on two values per attribute, and the loss on their difference."""
    random = np.random.default_rng(2)
    values, labels = random.normal(0, 3, (6, 4, 2)), random.integers(0, 2, (6, 4))
    softmax = np.exp(values) / np.exp(values).sum(-1, keepdims=True)
    expected = -np.log(np.take_along_axis(softmax, labels[..., None], -1))[..., 0].mean(-1)
    task = Task("attributes", "multilabel", ("a", "b", "c", "d"))
    found = task_loss(task, labels, (values[..., 1] - values[..., 0]).astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convolutions": 16}, "8 or 13 convolutions, not 16"),
        ({"pixel_values": "grey"}, "'grey' is none of unit, rgb, bgr"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        network(64, **options)
    with pytest.raises(UserError, match="at least 32 pixels"):
        network(64, 31)
