"""Pooling by a learned average per place and channel."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("faceattr_tf")
class PositionalPooling(keras.layers.Layer):
    """Sums maps `[B, H, W, C]` to `[B, C]` by one learned weight for each place and channel.

    Source: the global depthwise convolution of MobileFaceNets (Chen et al., 2018, section 3.1),
    which unlike a plain average still knows where in the face something was seen. It begins as the
    average. The weights have the shape of the maps, and it is written in operations that every
    converter knows.

    Example:
        >>> PositionalPooling()(keras.ops.ones((2, 5, 4, 8))).shape
        TensorShape([2, 8])
    """

    def build(self, input_shape):
        """Creates `kernel` `[H, W, C]`, which takes sizes that are known."""
        height, width, _ = shape = tuple(input_shape[1:])
        average = keras.initializers.Constant(1 / (height * width))
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=average)

    def call(self, inputs):
        """The weighted sum; in float32, since half precision would lose the small terms of it."""
        products = ops.cast(inputs, "float32") * ops.cast(self.kernel, "float32")
        return ops.cast(ops.sum(products, axis=(1, 2)), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """`[B, C]`."""
        return (input_shape[0], input_shape[-1])
