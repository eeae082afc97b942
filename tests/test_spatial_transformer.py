"""The spatial transformer against loops, PyTorch, OpenCV, finite differences and closed forms."""

import itertools
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from backends import on_backend

from data_pipelines.keras_settings import without_keras
from faceattr_tf.layers import SpatialTransformer, transform_matrix
from faceattr_tf.layers.spatial_transformer import IDENTITY, PARAMETERS

BOTH = (False, True)
MODES = list(itertools.product(BOTH, ("border", "zeros"), ("bilinear", "nearest")))
# Turns, shears, reaches outside, and mirrors; no position is whole, where rounding decides.
THETA = np.array([[1, 0.3, 0.1, -0.2, 0.9, 0], [1.4, -0.5, -0.3, 0.6, -1.3, 0.2], [0.3] * 6])
THETA += np.random.default_rng(3).normal(size=THETA.shape) / 50


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def run(layer, images, parameters, upstream=None, training=False):
    """Outputs, and gradients to images and parameters under upstream, as arrays."""
    images, parameters = tf.constant(images), tf.constant(parameters)
    with tf.GradientTape() as tape:
        tape.watch([images, parameters])
        outputs = layer([images, parameters], training=training)
        loss = tf.reduce_sum(outputs * (1.0 if upstream is None else upstream))
    gradients = tape.gradient(loss, [images, parameters])
    return [value.numpy() for value in (outputs, *gradients)]


def run_torch(images, parameters, upstream, size, align_corners, outside, kernel):
    """The same by PyTorch."""
    maps = torch.tensor(images).permute(0, 3, 1, 2).requires_grad_()
    theta = torch.tensor(parameters.reshape(-1, 2, 3), requires_grad=True)
    grid = torch.nn.functional.affine_grid(theta, [*maps.shape[:2], *size], align_corners)
    outputs = torch.nn.functional.grid_sample(maps, grid, kernel, outside, align_corners)
    outputs = outputs.permute(0, 2, 3, 1)
    gradients = torch.autograd.grad((outputs * torch.tensor(upstream)).sum(), [maps, theta])
    return [
        outputs.detach().numpy(),
        gradients[0].permute(0, 2, 3, 1).numpy(),
        gradients[1].reshape(parameters.shape).numpy(),
    ]


@pytest.mark.parametrize("align_corners", BOTH)
@pytest.mark.parametrize("outside", ["border", "zeros"])
def test_equals_the_sums_of_equation_2(align_corners, outside):
    height, width, out_height, out_width = 4, 5, 3, 6
    images = draw(3, height, width, 2)

    def position(normalised, length):
        if align_corners:
            pixel = (normalised + 1) / 2 * (length - 1)
        else:
            pixel = (normalised + 1) / 2 * length - 0.5
        return min(max(pixel, 0), length - 1) if outside == "border" else pixel

    def place(index, length):
        return 2 * index / (length - 1) - 1 if align_corners else (2 * index + 1) / length - 1

    expected = np.zeros((3, out_height, out_width, 2))
    for b, i, j in np.ndindex(3, out_height, out_width):
        at = np.array([place(j, out_width), place(i, out_height), 1])
        x, y = THETA[b].reshape(2, 3) @ at
        x, y = position(x, width), position(y, height)
        for n, m in np.ndindex(height, width):
            kernel = max(0, 1 - abs(x - m)) * max(0, 1 - abs(y - n))
            expected[b, i, j] += images[b, n, m] * kernel

    layer = SpatialTransformer((3, 6), align_corners=align_corners, outside=outside)
    outputs = layer([images.astype(np.float32), THETA.astype(np.float32)])
    np.testing.assert_allclose(outputs, expected, atol=2e-6)


@pytest.mark.parametrize(("align_corners", "outside", "kernel"), MODES)
@pytest.mark.parametrize(
    ("size", "training"),
    [(None, False), ((6, 11), False), ((6, 11), True)],
    ids=["same size", "sized", "compiled"],
)
def test_values_and_gradients_equal_torch(size, align_corners, outside, kernel, training):
    images, upstream = draw(3, 7, 9, 2), draw(3, *(size or (7, 9)), 2, seed=1)
    options = {"align_corners": align_corners, "outside": outside, "kernel": kernel}
    layer = SpatialTransformer(size, dtype="float64", **options)
    found = run(layer, images, THETA, upstream, training)
    expected = run_torch(images, THETA, upstream, size or (7, 9), **options)
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-12)


@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
@pytest.mark.parametrize("outside", ["border", "zeros"])
@pytest.mark.parametrize("shift", [0, 1, -1, 3, -8])
def test_the_difference_to_the_right_is_taken_at_whole_positions(shift, outside, training):
    # Sides are powers of two, so that whole pixels are exact in PyTorch's coordinates too.
    images, upstream = draw(1, 8, 4, 3), draw(1, 8, 4, 3, seed=1)
    theta = np.array([[1, 0, shift * 2 / 4, 0, 1, shift * 2 / 8]])
    layer = SpatialTransformer(outside=outside, dtype="float64")
    found = run(layer, images, theta, upstream, training)
    expected = run_torch(images, theta, upstream, (8, 4), False, outside, "bilinear")
    for value, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-12)
    constant = run(SpatialTransformer(dtype="float64"), np.ones_like(images), theta, upstream)
    np.testing.assert_array_equal(constant[2], 0)


@pytest.mark.parametrize("align_corners", BOTH)
def test_gradients_equal_finite_differences(align_corners):
    images, upstream = draw(3, 5, 6, 2), draw(3, 4, 7, 2, seed=1)
    layer = SpatialTransformer(
        (4, 7), outside="zeros", align_corners=align_corners, dtype="float64"
    )
    _, *gradients = run(layer, images, THETA, upstream)
    arguments = [images, THETA]

    @tf.function
    def loss(images, theta):
        return tf.reduce_sum(layer([images, theta]) * upstream)

    for which, gradient in enumerate(gradients):
        assert gradient.dtype == np.float64
        for place in np.ndindex(*gradient.shape):
            losses = []
            for step in (1e-6, -1e-6):
                moved = [value.copy() for value in arguments]
                moved[which][place] += step
                losses.append(loss(*map(tf.constant, moved)).numpy())
            slope = (losses[0] - losses[1]) / 2e-6
            assert gradient[place] == pytest.approx(slope, abs=1e-6), (which, place)


@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
@pytest.mark.parametrize(("align_corners", "outside", "kernel"), MODES)
def test_identity_returns_the_input_bit_for_bit(align_corners, outside, kernel, training):
    for shape in ((2, 251, 255, 1), (1, 1, 1, 2))[: 1 if training else 2]:
        images = draw(*shape).astype(np.float32)
        layer = SpatialTransformer(None, "affine", align_corners, outside, kernel)
        theta = np.tile(np.float32(IDENTITY["affine"]), (len(images), 1))
        outputs = np.asarray(layer([images, theta], training=training))
        np.testing.assert_array_equal(outputs, images)


@pytest.mark.parametrize("family", PARAMETERS)
def test_identity_of_every_family(family):
    assert len(IDENTITY[family]) == PARAMETERS[family]
    images = draw(2, 31, 18, 2).astype(np.float32)
    layer = SpatialTransformer(family=family)
    outputs = layer([images, np.tile(np.float32(IDENTITY[family]), (2, 1))])
    np.testing.assert_array_equal(outputs, images)


@pytest.mark.parametrize("align_corners", BOTH)
def test_similarity_is_what_opencv_turns_and_scales(align_corners):
    height, width = 60, 90
    noise = np.random.default_rng(0).uniform(size=(height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    angle, scale, shift = 0.4, 1.2, np.array([3.0, -5.0])
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    spans = np.array([width, height]) - align_corners
    parameters = np.float32([[cosine, sine, *(shift / (spans / 2))]])

    turn = np.array([[cosine, -sine], [sine, cosine]])
    centre = (np.array([width, height]) - 1) / 2
    matrix = np.hstack([turn, (centre + shift - turn @ centre)[:, None]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    expected = cv2.warpAffine(image, matrix, (width, height), flags=flags)

    x, y = np.meshgrid(np.arange(width), np.arange(height))
    at = np.einsum("kl,lij->kij", matrix, np.stack([x, y, np.ones_like(x)]))
    inside = (at >= 1).all(0) & (at[0] <= width - 2) & (at[1] <= height - 2)
    assert inside.mean() > 0.5
    layer = SpatialTransformer(family="similarity", align_corners=align_corners)
    outputs = layer([image[None], parameters]).numpy()[0]
    # OpenCV rounds positions to a 32nd of a pixel.
    assert np.abs(outputs - expected)[inside].max() < 2e-3
    assert np.abs(image - expected)[inside].max() > 0.05


def test_families_are_what_they_say():
    theta = transform_matrix(THETA, "affine")
    np.testing.assert_array_equal(theta, THETA.reshape(3, 2, 3))
    np.testing.assert_array_equal(transform_matrix(theta, "affine"), theta)
    np.testing.assert_allclose(
        transform_matrix(np.float32([[0.5, 0.1, -0.2]]), "attention"),
        [[[0.5, 0, 0.1], [0, 0.5, -0.2]]],
    )
    theta = transform_matrix(np.float32([[0.8, 0.3, 0.1, -0.2]]), "similarity", aspect=1.5)
    np.testing.assert_allclose(theta, [[[0.8, -0.2, 0.1], [0.45, 0.8, -0.2]]], rtol=1e-6)
    assert keras.backend.standardize_dtype(theta.dtype) == "float32"
    with pytest.raises(ValueError, match="'bent'; expected one of affine, similarity, attention"):
        transform_matrix(THETA, "bent")


@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
@pytest.mark.parametrize(("align_corners", "outside", "kernel"), MODES[:4])
def test_degenerate_parameters_behave_as_documented(align_corners, outside, kernel, training):
    images = draw(6, 5, 7, 2).astype(np.float32)
    theta = np.float32(
        [
            [0] * 6,
            [1, 0, np.nan, 0, 1, 0],
            [1, 0, 1e6, 0, 1, 0],
            [1, 0, 0, 0, 1, -1e38],
            [1, 0, np.inf, 0, 1, 0],
            [np.nan] * 6,
        ]
    )
    layer = SpatialTransformer(None, "affine", align_corners, outside, kernel)
    outputs, to_images, to_theta = run(layer, images, theta, training=training)
    np.testing.assert_array_equal(outputs[0], np.broadcast_to(images[0, 2, 3], (5, 7, 2)))
    assert np.isnan(outputs[[1, 5]]).all()
    if outside == "zeros":
        np.testing.assert_array_equal(outputs[2:5], 0)
        np.testing.assert_array_equal(to_images[2:5], 0)
    else:
        np.testing.assert_array_equal(outputs[2], np.repeat(images[2][:, -1:], 7, 1))
        np.testing.assert_array_equal(outputs[3], np.repeat(images[3][:1], 5, 0))
        np.testing.assert_array_equal(outputs[4], np.repeat(images[4][:, -1:], 7, 1))
    # The axis that left the image moves nothing more.
    np.testing.assert_array_equal(to_theta[2, :3], 0)
    np.testing.assert_array_equal(to_theta[3, 3:], 0)
    if kernel == "nearest":
        np.testing.assert_array_equal(to_theta[2:5], 0)


def test_translation_moves_a_blob_to_the_centre():
    y, x = np.mgrid[:33, :41]
    blob = np.exp(-((x - 25) ** 2 + (y - 13) ** 2) / 25)[None, :, :, None]
    template = np.exp(-((x - 20) ** 2 + (y - 16) ** 2) / 25)[None, :, :, None]
    layer = SpatialTransformer(family="attention", outside="zeros")
    images, target = tf.constant(blob, tf.float32), tf.constant(template, tf.float32)

    @tf.function
    def gradient(shift):
        with tf.GradientTape() as tape:
            tape.watch(shift)
            parameters = tf.concat([tf.ones([1, 1]), shift], 1)
            loss = tf.reduce_mean(tf.square(layer([images, parameters]) - target))
        return tape.gradient(loss, shift)

    shift = tf.zeros([1, 2])
    for _ in range(300):
        shift -= 2 * gradient(shift)
    np.testing.assert_allclose(shift[0] * [41 / 2, 33 / 2], [5, -3], atol=0.05)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
def test_positions_stay_float32_under_mixed_precision(policy, training):
    theta = np.float32([[1, 0, 2 * 100.5 / 300, 0, 1, 0.001]])
    upstream = draw(1, 300, 300, 1, seed=1).astype(np.float32)
    layer = SpatialTransformer(dtype=policy)
    images = tf.cast(draw(1, 300, 300, 1), layer.compute_dtype)
    parameters = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch([images, parameters])
        outputs = layer([images, parameters], training=training)
        loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
    to_images, to_theta = tape.gradient(loss, [images, parameters])
    assert outputs.dtype == to_images.dtype == layer.compute_dtype
    assert to_theta.dtype == tf.float32
    exact = run(SpatialTransformer(), tf.cast(images, tf.float32).numpy(), theta, upstream)
    for value, reference in zip((outputs, to_images), exact[:2], strict=True):
        np.testing.assert_allclose(tf.cast(value, tf.float32), reference, rtol=0.01, atol=0.06)
    np.testing.assert_allclose(to_theta, exact[2], atol=0.01 * np.abs(exact[2]).max())


def test_float32_positions_are_within_a_thousandth_of_a_pixel():
    ramp = np.tile(np.arange(256, dtype=np.float32)[:, None], (3, 256, 1, 1))
    outputs = SpatialTransformer()([ramp, THETA.astype(np.float32)])
    exact = SpatialTransformer(dtype="float64")([ramp, THETA])
    np.testing.assert_allclose(outputs, exact, atol=1e-4)


@pytest.mark.parametrize("size", [None, (4, 3)], ids=["same", "sized"])
def test_batch_and_image_size_may_be_dynamic(size):
    images, parameters = keras.Input((None, None, 2)), keras.Input((6,))
    outputs = SpatialTransformer(size)([images, parameters])
    assert outputs.shape == (None, *(size or (None, None)), 2)
    model = keras.Model([images, parameters], outputs)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 2]), tf.TensorSpec([None, 6])])
    def step(images, theta):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([images, theta])
            outputs = model([images, theta], training=True)
            loss = tf.reduce_sum(outputs**2)
        # A second use of a persistent tape gives the same once more.
        return outputs, tape.gradient(loss, [images, theta]), tape.gradient(loss, [images, theta])

    for batch, transforms, height, width in ((3, 3, 5, 6), (1, 1, 9, 4), (3, 1, 5, 6)):
        images = draw(batch, height, width, 2).astype(np.float32)
        theta = THETA[:transforms].astype(np.float32)
        outputs, first, second = step(images, theta)
        values = SpatialTransformer(size)([images, theta])
        found = run(SpatialTransformer(size), images, theta, 2 * values)
        for value, again, reference in zip(first, second, found[1:], strict=True):
            np.testing.assert_array_equal(value, again)
            np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(outputs, values, atol=1e-5)


@pytest.mark.parametrize("training", BOTH)
def test_xla_compiles_it_with_its_gradients(training):
    images, theta, upstream = draw(3, 5, 6, 2), THETA, draw(3, 5, 6, 2, seed=1)
    layer = SpatialTransformer(dtype="float64")

    @tf.function(jit_compile=True)
    def step(images, theta):
        with tf.GradientTape() as tape:
            tape.watch([images, theta])
            outputs = layer([images, theta], training=training)
            loss = tf.reduce_sum(outputs * upstream)
        return outputs, *tape.gradient(loss, [images, theta])

    expected = run(layer, images, theta, upstream)
    for value, reference in zip(step(images, theta), expected, strict=True):
        np.testing.assert_allclose(value, reference, atol=1e-12)


def second_derivative(training):
    """A function of first derivatives, and its own gradient."""
    images, theta = draw(1, 4, 5, 2), THETA[:1]
    weights = [draw(*images.shape, seed=1), draw(*theta.shape, seed=2)]
    layer = SpatialTransformer(dtype="float64")

    @tf.function
    def slope(images, theta):
        with tf.GradientTape() as tape:
            tape.watch([images, theta])
            loss = tf.reduce_sum(layer([images, theta], training=training) ** 2)
        gradients = tape.gradient(loss, [images, theta])
        return sum(tf.reduce_sum(g * w) for g, w in zip(gradients, weights, strict=True))

    arguments = [tf.constant(images), tf.constant(theta)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = slope(*arguments)
    return slope, arguments, tape.gradient(value, arguments)


def test_second_derivatives_equal_finite_differences():
    slope, arguments, gradients = second_derivative(training=False)
    for which, gradient in enumerate(gradients):
        for place in list(np.ndindex(*gradient.shape))[:6]:
            values = []
            for step in (1e-6, -1e-6):
                moved = [value.numpy() for value in arguments]
                moved[which][place] += step
                values.append(slope(*map(tf.constant, moved)).numpy())
            expected = (values[0] - values[1]) / 2e-6
            assert gradient.numpy()[place] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_compiled_kernels_refuse_second_derivatives():
    with pytest.raises(NotImplementedError, match="no derivative of the compiled"):
        second_derivative(training=True)


OTHER_BACKEND = """
import sys
import keras
import numpy as np
from faceattr_tf.layers import SpatialTransformer
stored = dict(np.load(sys.argv[1]))
images, theta, upstream = (stored[name] for name in ("images", "theta", "upstream"))
for name in (name for name in stored if name.startswith("{")):
    layer = SpatialTransformer(**eval(name))
    layer.build([images.shape, theta.shape])
    if keras.backend.backend() == "jax":
        import jax
        def loss(images, theta):
            outputs = layer([images, theta], training=True)
            return (outputs * upstream).sum(), outputs
        arguments = jax.numpy.array(images), jax.numpy.array(theta)
        gradients, outputs = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*arguments)
    else:
        import torch
        arguments = [torch.tensor(value, requires_grad=True) for value in (images, theta)]
        outputs = layer(arguments, training=True)
        gradients = torch.autograd.grad((outputs * torch.tensor(upstream)).sum(), arguments)
    for value, reference in zip((outputs, *gradients), np.split(stored[name], [240, 450])):
        value = keras.ops.convert_to_numpy(value).ravel()
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-4)
    identity = np.float32([[1, 0, 0, 0, 1, 0]])  # one for all images
    layer = SpatialTransformer(**{**eval(name), "size": None})
    assert np.array_equal(keras.ops.convert_to_numpy(layer([images, identity])), images)
layer = SpatialTransformer((5, 8), data_format="channels_first")
maps, one = keras.ops.convert_to_tensor(images.transpose(0, 3, 1, 2)), theta[:1]
if keras.backend.backend() == "jax":
    gradient = jax.grad(lambda one: (layer([maps, one], training=True) ** 2).sum())(one)
else:
    one = torch.tensor(one, requires_grad=True)
    gradient = torch.autograd.grad((layer([maps, one], training=True) ** 2).sum(), one)[0]
gradient = keras.ops.convert_to_numpy(gradient)
np.testing.assert_allclose(gradient, stored["gradient of one"], rtol=1e-4, atol=1e-4)
print("done")
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_give_the_same(tmp_path, backend):
    images = draw(3, 7, 5, 2).astype(np.float32)
    theta, upstream = THETA.astype(np.float32), draw(3, 5, 8, 2, seed=1).astype(np.float32)
    stored = {"images": images, "theta": theta, "upstream": upstream}
    for align_corners, outside, kernel in MODES[::2] + MODES[5:6]:
        options = {"align_corners": align_corners, "outside": outside, "kernel": kernel}
        options["size"] = (5, 8)
        found = run(SpatialTransformer(**options), images, theta, upstream)
        stored[repr(options)] = np.concatenate([value.ravel() for value in found])
    layer = SpatialTransformer((5, 8))
    outputs = layer([images, theta[:1]])
    stored["gradient of one"] = run(layer, images, theta[:1], 2 * outputs)[2]
    np.savez(tmp_path / "stored.npz", **stored)
    done = on_backend(backend, OTHER_BACKEND, str(tmp_path / "stored.npz"))
    assert done.stdout.strip() == "done", done.stderr


TENSORFLOW_PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1] + "/saved").signatures["serving_default"]
stored = np.load(sys.argv[1] + "/stored.npz")
outputs, = served(images=tf.constant(stored["images"]), theta=tf.constant(stored["theta"])).values()
np.testing.assert_array_equal(outputs, stored["outputs"])
assert not {"faceattr_tf", "keras"} & set(sys.modules)
print("done")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a model in several formats, its inputs and outputs; the model itself."""
    folder = tmp_path_factory.mktemp("saved")
    images, parameters = keras.Input((6, 7, 2), name="images"), keras.Input((6,), name="theta")
    layer = SpatialTransformer((4, 9), align_corners=True, outside="zeros")
    model = keras.Model([images, parameters], layer([images, parameters]))
    inputs = [draw(3, 6, 7, 2).astype(np.float32), THETA.astype(np.float32)]
    # A model that was trained before, so that compiled kernels exist.
    model.compile("sgd", "mse")
    model.fit(inputs, np.zeros((3, 4, 9, 2)), verbose=0)
    outputs = model(inputs).numpy()
    np.savez(folder / "stored.npz", images=inputs[0], theta=inputs[1], outputs=outputs)
    model.export(folder / "exported", verbose=False)
    signature = [tf.TensorSpec([None, 6, 7, 2]), tf.TensorSpec([None, 6])]
    serve = tf.function(lambda images, theta: model([images, theta]), input_signature=signature)
    tf.saved_model.save(model, str(folder / "saved"), serve)
    return folder, model, inputs, outputs


def test_saved_model_holds_plain_operations_that_tensorflow_alone_runs(saved):
    for name in ("saved", "exported"):
        graph = (saved[0] / name / "saved_model.pb").read_bytes()
        assert b"GatherV2" in graph
        # As an attribute that is false, TensorFlow writes it for every function.
        assert b"_XlaMustCompile" not in graph.replace(b"_XlaMustCompile\x12\x02(\x00", b"")
    command = [sys.executable, "-c", TENSORFLOW_PROGRAM, str(saved[0])]
    with without_keras():
        done = subprocess.run(command, cwd=saved[0], capture_output=True, check=False, text=True)
    assert done.stdout.strip() == "done", done.stderr


def test_tflite_gives_the_same(saved):
    _, model, inputs, outputs = saved
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    by_rank = {value.ndim: value for value in inputs}
    for details in interpreter.get_input_details():
        shape = by_rank[len(details["shape"])].shape
        interpreter.resize_tensor_input(details["index"], shape)
    interpreter.allocate_tensors()
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], by_rank[len(details["shape"])])
    interpreter.invoke()
    converted = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(converted, outputs, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (3,)}, "size is"),
        ({"size": (0, 4)}, "size is"),
        ({"size": 48}, "size is 48; expected a height and a width"),
        ({"size": (None, 48)}, r"size is \(None, 48\); expected"),
        ({"size": (48.5, 48)}, r"size is \(48.5, 48\); expected"),
        ({"size": "48"}, "size is '48'; expected"),
        ({"align_corners": "no"}, "'no'; expected one of False, True"),
        ({"data_format": "first"}, "'first'; expected one of channels_last, channels_first"),
        ({"family": "bent"}, "'bent'; expected one of affine, similarity, attention"),
        ({"outside": "wrap"}, "'wrap'; expected one of border, zeros"),
        ({"kernel": "cubic"}, "'cubic'; expected one of bilinear, nearest"),
    ],
)
def test_unknown_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SpatialTransformer(**options)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="'attention' takes 3"):
        SpatialTransformer(family="attention")([np.ones((1, 4, 4, 1)), np.ones((1, 6))])
    with pytest.raises(ValueError, match=r"expected \[B, H, W, C\]"):
        SpatialTransformer()([np.ones((1, 4, 4)), np.ones((1, 6))])
    with pytest.raises(ValueError, match=r"expected \[images, parameters\]"):
        SpatialTransformer()(np.ones((1, 4, 4, 1)))
    for images, transforms in ((3, 2), (1, 3)):
        with pytest.raises(ValueError, match=f"{transforms} transforms for {images} images"):
            SpatialTransformer()([np.ones((images, 4, 4, 1)), np.ones((transforms, 6))])


@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
def test_one_transform_serves_all_images(training):
    images, upstream = draw(3, 5, 6, 2), draw(3, 4, 7, 2, seed=1)
    layer = SpatialTransformer((4, 7), dtype="float64")
    outputs, *gradients = run(layer, images, THETA[:1], upstream, training)
    repeated = run(layer, images, np.repeat(THETA[:1], 3, axis=0), upstream, training)
    np.testing.assert_array_equal(outputs, repeated[0])
    np.testing.assert_allclose(gradients[0], repeated[1], atol=1e-12)
    np.testing.assert_allclose(gradients[1], repeated[2].sum(axis=0, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("training", BOTH, ids=["plain", "compiled"])
def test_channels_first_is_the_same_with_axes_moved(training):
    images, upstream = draw(3, 5, 6, 2), draw(3, 4, 7, 2, seed=1)
    expected = run(SpatialTransformer((4, 7), dtype="float64"), images, THETA, upstream, training)
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layer = SpatialTransformer((4, 7), dtype="float64")
    finally:
        keras.config.set_image_data_format(before)
    assert layer.get_config()["data_format"] == "channels_first"
    assert layer.compute_output_shape([(None, 2, 5, 6), (None, 6)]) == (None, 2, 4, 7)
    moved = run(
        layer, images.transpose(0, 3, 1, 2), THETA, upstream.transpose(0, 3, 1, 2), training
    )
    for value, reference in zip(moved[:2], expected[:2], strict=True):
        np.testing.assert_allclose(value, reference.transpose(0, 3, 1, 2), atol=1e-12)
    np.testing.assert_allclose(moved[2], expected[2], atol=1e-12)
