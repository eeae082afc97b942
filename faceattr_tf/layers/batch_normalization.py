"""Batch normalisation that uses TensorFlow's fused kernel on the TensorFlow backend."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("faceattr_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, faster on TensorFlow and otherwise the same.

    Keras 3 composes the normalisation of single operations, and their gradients pass over the
    maps about a dozen times; on a processor that costs more than the convolutions of a small
    network. TensorFlow's fused kernel needs three passes, and at inference the graph optimizer
    folds it into the convolution before. It is used for maps `[B, H, W, C]` normalised over the
    last axis, unless statistics are synchronised over replicas; everything else, and every other
    backend, takes the way of Keras. Arguments, weights, statistics and results are those of Keras.

    Example:
        >>> layer = BatchNormalization(synchronized=False)
        >>> layer(keras.ops.ones((2, 8, 8, 4)), training=True).shape
        TensorShape([2, 8, 8, 4])
    """

    def call(self, inputs, training=None, mask=None):
        """Normalises `[B, ..., C]`; in training by the batch's statistics, which it remembers."""
        if mask is not None or not self._can_fuse(inputs):
            return super().call(inputs, training=training, mask=mask)
        from faceattr_tf.layers.tensorflow_kernels import fused_batch_normalization

        learns = bool(training) and self.trainable
        channels = inputs.shape[-1:]
        outputs, mean, variance = fused_batch_normalization(
            inputs,
            scale=ops.convert_to_tensor(self.gamma) if self.scale else ops.ones(channels),
            offset=ops.convert_to_tensor(self.beta) if self.center else ops.zeros(channels),
            mean=ops.convert_to_tensor(self.moving_mean),
            variance=ops.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            training=learns,
        )
        if learns:
            kept = self.momentum
            self.moving_mean.assign(self.moving_mean * kept + mean * (1 - kept))
            self.moving_variance.assign(self.moving_variance * kept + variance * (1 - kept))
        return outputs

    def _can_fuse(self, inputs) -> bool:
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and not self.synchronized
            and not self.renorm
            and keras.backend.standardize_dtype(inputs.dtype) in ("float32", "float16", "bfloat16")
        )
