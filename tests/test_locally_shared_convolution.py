"""Locally shared filters and their interweaved operation, against loops and cut-out maps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from faceattr_tf.layers import (
    LocallySharedConv2D,
    StrongestViews,
    strongest_window,
    window_views,
)

RANDOM = np.random.default_rng(0)


def make(grid, padding="valid", kernel_size=(3, 2), filters=4, channels=3, **options):
    """A layer with random filters and biases."""
    layer = LocallySharedConv2D(filters, kernel_size, grid, padding, **options)
    layer.build((None, None, None, channels))
    layer.set_weights([RANDOM.normal(size=weight.shape) for weight in layer.weights])
    return layer


def maps_of(height, width, batch=2, channels=3):
    return RANDOM.normal(size=(batch, height, width, channels)).astype("float32")


def by_loops(layer, maps):
    """Equation 4 with a loop for everything: the filters of each position's cell, on the map."""
    kernel, bias = (weight.numpy() for weight in layer.weights)
    tall, wide = layer.kernel_size
    if layer.padding == "same":
        borders = [((length - 1) // 2, length // 2) for length in (tall, wide)]
        maps = np.pad(maps, [(0, 0), *borders, (0, 0)])
    height, width = maps.shape[1] - tall + 1, maps.shape[2] - wide + 1
    rows, columns = layer.grid
    outputs = np.zeros((len(maps), height, width, layer.filters))
    for image, row, column in np.ndindex(len(maps), height, width):
        cell = row * rows // height * columns + column * columns // width
        for number in range(layer.filters):
            read = maps[image, row : row + tall, column : column + wide]
            response = (read * kernel[cell, :, :, :, number]).sum() + bias[cell, number]
            outputs[image, row, column, number] = max(response, 0)
    return outputs


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


CASES = [
    ("valid", (3, 2), (2, 3), (8, 7)),
    ("valid", (3, 3), (5, 4), (12, 10)),  # the third convolution of DeepID2
    ("valid", (2, 2), (4, 3), (5, 4)),  # and its fourth, in which every position is a cell
    ("same", (3, 3), (2, 2), (6, 4)),
    ("same", (4, 2), (3, 1), (6, 5)),
    ("same", (5, 3), (4, 1), (4, 3)),  # filters that read beyond their neighbours
]
every_case = pytest.mark.parametrize(("padding", "kernel_size", "grid", "size"), CASES)


@every_case
def test_equals_a_literal_loop(padding, kernel_size, grid, size):
    layer = make(grid, padding, kernel_size, activation="relu")
    maps = maps_of(*size)
    assert_close(layer(maps), by_loops(layer, maps))


@every_case
def test_gradients_are_those_of_a_convolution_for_every_cell(padding, kernel_size, grid, size):
    layer = make(grid, padding, kernel_size)
    maps = tf.constant(maps_of(*size))
    kernel, bias = (weight.value for weight in layer.weights)
    outputs = layer(maps)
    upstream = RANDOM.normal(size=outputs.shape).astype("float32")
    height, width = (
        length // parts for length, parts in zip(outputs.shape[1:3], grid, strict=True)
    )
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        found = layer(maps)
        expected = tf.zeros(())
        for cell, (row, column) in enumerate(np.ndindex(grid)):
            plain = tf.nn.conv2d(maps, kernel[cell], 1, padding.upper()) + bias[cell]
            rows = slice(row * height, (row + 1) * height)
            columns = slice(column * width, (column + 1) * width)
            place = (slice(None), rows, columns)
            expected += tf.reduce_sum(plain[place] * upstream[place])
    sources = [maps, kernel, bias]
    for gradient, reference in zip(
        tape.gradient(found, sources, upstream), tape.gradient(expected, sources), strict=True
    ):
        assert_close(gradient, reference)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_single_cell_is_a_plain_convolution(padding):
    layer = make((1, 1), padding, kernel_size=(4, 3))
    plain = keras.layers.Conv2D(4, (4, 3), padding=padding)
    maps = maps_of(7, 6)
    plain.build(maps.shape)
    plain.set_weights([weight[0] for weight in layer.get_weights()])
    assert_close(layer(maps), plain(maps))


def test_filters_begin_as_those_of_a_convolution_do():
    layer = LocallySharedConv2D(32, (3, 3), (4, 5), kernel_initializer="he_normal")
    layer.build((None, 8, 10, 16))
    kernel, bias = layer.get_weights()
    assert kernel.shape == (20, 3, 3, 16, 32)
    np.testing.assert_allclose(kernel.std((1, 2, 3, 4)), np.sqrt(2 / (9 * 16)), rtol=0.1)
    assert len(np.unique(kernel[:, 0, 0, 0, 0])) == 20  # each cell has its own
    assert bias.shape == (20, 32)
    fixed = LocallySharedConv2D(
        2, (3, 3), (4, 5), kernel_initializer=keras.initializers.Constant(3)
    )
    fixed.build((None, 8, 10, 16))
    assert np.all(fixed.get_weights()[0] == 3)


@every_case
def test_on_an_exactly_framed_map_the_interweaved_operation_is_the_layer(
    padding, kernel_size, grid, size
):
    layer = make(grid, padding, kernel_size, activation="relu")
    maps = maps_of(*size)
    templates = layer(maps, window=size)
    assert templates.shape == (2, 1, 1, *layer(maps).shape[1:])
    assert_close(templates[:, 0, 0], layer(maps))


@pytest.mark.parametrize("unknown", [False, True])
def test_every_place_is_the_layer_on_the_map_cut_to_its_window(unknown):
    layer = make((2, 3), activation="relu")
    maps = maps_of(10, 12)
    signature = tf.TensorSpec([None, None, None, 3]) if unknown else tf.TensorSpec(maps.shape)
    call = tf.function(lambda maps: layer(maps, window=(6, 7)), input_signature=[signature])
    templates = call(maps)
    assert templates.shape == (2, 5, 6, 4, 6, 4)
    for row, column in np.ndindex(5, 6):
        cut = maps[:, row : row + 6, column : column + 7]
        assert_close(templates[:, row, column], layer(cut))


def test_with_a_border_of_zeros_the_inner_responses_are_those_of_the_window():
    layer = make((2, 2), "same", kernel_size=(3, 3))
    maps = maps_of(9, 8)
    templates = layer(maps, window=(6, 4))
    for row, column in np.ndindex(4, 5):
        cut = layer(maps[:, row : row + 6, column : column + 4])
        assert_close(templates[:, row, column, 1:-1, 1:-1], cut[:, 1:-1, 1:-1])


def test_two_layers_and_a_pooling_see_every_window_as_the_plain_network_does(tmp_path):
    first, second = make((5, 4), kernel_size=(3, 3)), make((4, 3), kernel_size=(2, 2), channels=4)
    pooling = keras.layers.MaxPooling2D(2)
    inputs = keras.Input((15, 12, 3))
    templates = first(inputs, window=(12, 10))
    places = keras.ops.reshape(templates, (-1, *templates.shape[3:]))
    responses = keras.ops.reshape(second(pooling(places)), (-1, 4, 3, 4, 3, 4))
    views = StrongestViews(((0, 0), (1, 0)))(responses)
    keras.Model(inputs, [responses, views]).save(tmp_path / "interweaved.keras")
    model = keras.saving.load_model(tmp_path / "interweaved.keras")

    maps = maps_of(15, 12)
    responses, views = model(maps)
    for row, column in np.ndindex(4, 3):
        cut = maps[:, row : row + 12, column : column + 10]
        assert_close(responses[:, row, column], second(pooling(first(cut))))
    for image, (row, column) in enumerate(strongest_window(responses).numpy()):
        assert_close(views[image, 0], responses[image, row, column])
        assert_close(views[image, 1], responses[image, min(row + 1, 3), column])


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_shifted_pattern_is_found(padding):
    pattern = np.maximum(maps_of(8, 6, batch=1, channels=2)[0], 0)
    layer = LocallySharedConv2D(1, (3, 3), (2, 2), padding, activation="relu")
    layer.build((None, 8, 6, 2))
    # Every cell looks for what the pattern shows in the middle of this cell.
    middles = [pattern[row : row + 3, column : column + 3] for row in (1, 4) for column in (0, 3)]
    layer.set_weights([np.stack(middles)[..., None], np.zeros((4, 1))])
    maps = np.zeros((4, 15, 11, 2), "float32")
    shifts = [(0, 0), (7, 5), (3, 1), (2, 4)]
    for picture, (row, column) in zip(maps, shifts, strict=True):
        picture[row : row + 8, column : column + 6] = pattern
    templates = layer(maps, window=(8, 6))
    np.testing.assert_array_equal(strongest_window(templates), shifts)
    found = window_views(templates, strongest_window(templates), [(0, 0)])
    plain = layer(np.stack([pattern] * 4))
    assert_close(found[:, 0], plain)


def test_the_strength_of_a_window_is_the_mean_or_the_maximum_of_its_response_map():
    templates = RANDOM.normal(size=(3, 4, 5, 2, 3, 6)).astype("float32")
    maps = templates.mean(-1)
    for strength in ("mean", "max"):
        strengths = getattr(maps, strength)((3, 4)).reshape(3, -1)
        expected = np.stack(np.unravel_index(strengths.argmax(1), (4, 5)), axis=-1)
        np.testing.assert_array_equal(strongest_window(templates, strength), expected)
    with pytest.raises(ValueError, match="strength is 'sum'; expected one of mean, max"):
        strongest_window(templates, "sum")
    with pytest.raises(ValueError, match="strength is 'sum'; expected one of mean, max"):
        StrongestViews(strength="sum")


def test_views_lie_around_the_window_and_never_beyond_the_map():
    templates = RANDOM.normal(size=(2, 4, 3, 2, 1, 5)).astype("float32")
    offsets = [(0, 0), (-1, 0), (1, 1)]
    views = window_views(templates, np.array([[2, 1], [0, 2]], "int32"), offsets)
    assert views.shape == (2, 3, 2, 1, 5)
    places = [[(2, 1), (1, 1), (3, 2)], [(0, 2), (0, 2), (1, 2)]]
    for image, view in np.ndindex(2, 3):
        np.testing.assert_array_equal(views[image, view], templates[image][places[image][view]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "causal"}, "padding is 'causal'; expected one of same, valid"),
        ({"grid": (0, 2)}, r"grid is \(0, 2\); expected whole numbers from 1 on"),
        ({"filters": 0}, "filters is .*; expected whole numbers from 1 on"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LocallySharedConv2D(**{"filters": 4, "kernel_size": (3, 3), "grid": (2, 2), **options})


@pytest.mark.parametrize(
    ("shape", "window", "message"),
    [
        ((9, 8, 3), None, "a grid of 2x3 cells does not divide an output of 7x7"),
        ((2, 8, 3), None, "a grid of 2x3 cells does not divide an output of 0x7"),
        ((8, 7, 3), (9, 7), "does not divide an output of 7x6"),
        ((8, 7, 3), (8, 10), r"the window \(8, 10\) is larger than the maps \(8, 7\)"),
        ((None, None, 3), None, "expected a known height and width"),
    ],
)
def test_maps_that_do_not_suit_the_grid_are_refused(shape, window, message):
    with pytest.raises(ValueError, match=message):
        make((2, 3))(keras.Input(shape), window=window)
