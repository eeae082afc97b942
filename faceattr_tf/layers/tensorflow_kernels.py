"""TensorFlow kernels that Keras has no name for; layers use them on that backend alone."""

import functools

import tensorflow as tf


def fused_batch_normalization(inputs, *, scale, offset, mean, variance, epsilon, training):
    """Normalises maps over their last axis in one kernel.

    Args:
        inputs: `[B, H, W, C]`.
        scale: float32 `[C]`.
        offset: float32 `[C]`.
        mean: float32 `[C]`, used where `training` is false.
        variance: float32 `[C]`, used where `training` is false.
        epsilon: added to the variance.
        training: whether to take the batch's own statistics.

    Returns:
        The normalised maps, and mean and (biased) variance: of the batch in training, else as
        given.
    """
    empty = tf.zeros([0])
    outputs, batch_mean, batch_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        mean=empty if training else mean,
        variance=empty if training else variance,
        epsilon=epsilon,
        is_training=training,
    )
    if not training:
        return outputs, mean, variance
    # The kernel normalises by the biased variance but reports the unbiased one.
    count = tf.cast(tf.reduce_prod(tf.shape(inputs)[:3]), tf.float32)
    return outputs, batch_mean, batch_variance * (count - 1) / count


@functools.cache
def compile_kernel(function):
    """The function of tensors and options, compiled by XLA; not for graphs that are to be saved.

    What is returned raises `NotImplementedError` where it is differentiated: XLA has no gradient of
    loops of unknown length, and says so in words that lead nowhere.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def kernel(*tensors, **options):
        @tf.custom_gradient
        def run(*tensors):
            def grad(*upstream):
                raise NotImplementedError(f"no derivative of the compiled {function.__name__}")

            return compiled(*tensors, **options), grad

        return run(*tensors)

    return kernel
