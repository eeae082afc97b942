"""What a network costs: multiply-adds and memory."""

import keras
import numpy as np
import tensorflow as tf


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one image's forward pass, from TensorFlow's own count of its graph."""
    image = tf.TensorSpec([1, *model.input_shape[1:]], tf.float32)
    network = tf.function(lambda image: model(image, training=False), [image], autograph=False)
    concrete = network.get_concrete_function()
    tf.get_logger().setLevel("ERROR")  # The profiler warns of its own age.
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = tf.compat.v1.profiler.profile(concrete.graph, cmd="graph", options=options)
    return counted.total_float_ops // 2


def memory(model: keras.Model, optimizer, batch_size: int) -> int:
    """Bytes of weights, gradients, optimizer and the activations kept for the backward pass."""
    weights = sum(np.prod(weight.shape) for weight in model.weights) * 4
    gradients = sum(np.prod(weight.shape) for weight in model.trainable_weights) * 4
    slots = sum(np.prod(variable.shape) for variable in optimizer.variables) * 4
    activations = sum(
        np.prod(output.shape[1:]) * 4
        for layer in model.layers
        for output in keras.tree.flatten(layer.output)
    )
    return int(weights + gradients + slots + activations * batch_size)
