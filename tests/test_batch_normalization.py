"""The fused batch normalisation against Keras' own, which composes it of single operations."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from faceattr_tf.layers import BatchNormalization


def pair(shape, **options):
    """The layer and Keras' own, with the same random weights."""
    ours, theirs = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    ours.build(shape)
    theirs.build(shape)
    random = np.random.default_rng(1)
    weights = [random.uniform(0.5, 2, weight.shape) for weight in theirs.weights]
    ours.set_weights(weights)
    theirs.set_weights(weights)
    return ours, theirs


def run(layer, inputs, upstream, training):
    """Outputs and gradients, in a graph as training runs it."""

    @tf.function
    def step(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = layer(inputs, training=training)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * upstream)
        gradients = tape.gradient(loss, [inputs, *[w.value for w in layer.weights[:-2]]])
        return outputs, gradients

    outputs, gradients = step(tf.constant(inputs))
    return [np.asarray(tf.cast(value, tf.float32)) for value in (outputs, *gradients)]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("options", [{}, {"scale": False}, {"scale": False, "center": False}])
def test_equals_keras(training, trainable, options):
    shape = (6, 5, 7, 3)
    ours, theirs = pair(shape, momentum=0.9, epsilon=1e-3, **options)
    ours.trainable = theirs.trainable = trainable
    random = np.random.default_rng(0)
    inputs = (3 * random.normal(size=shape) + 2).astype(np.float32)
    upstream = random.normal(size=shape).astype(np.float32)

    expected = run(theirs, inputs, upstream, training)
    for value, reference in zip(run(ours, inputs, upstream, training), expected, strict=True):
        np.testing.assert_allclose(value, reference, rtol=1e-3, atol=1e-4)
    for weight, reference in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(weight, reference, rtol=1e-5, atol=1e-6)


def test_mixed_precision_keeps_statistics_in_float32():
    ours, theirs = pair((4, 8, 8, 3), dtype="mixed_bfloat16")
    inputs = np.random.default_rng(0).normal(5, 2, (4, 8, 8, 3)).astype(np.float32)
    outputs = ours(inputs, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    np.testing.assert_allclose(
        tf.cast(outputs, tf.float32),
        tf.cast(theirs(inputs, training=True), tf.float32),
        atol=0.06,
    )
    for weight, reference in zip(ours.weights, theirs.weights, strict=True):
        assert weight.dtype == "float32"
        np.testing.assert_allclose(weight, reference, rtol=1e-2)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((4, 6), {}), ((2, 3, 4, 5), {"axis": 1}), ((2, 3, 4, 5), {"synchronized": True})],
)
def test_other_shapes_and_options_take_the_way_of_keras(shape, options):
    ours, theirs = pair(shape, **options)
    inputs = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(
        ours(inputs, training=True), theirs(inputs, training=True), rtol=1e-5, atol=1e-5
    )
