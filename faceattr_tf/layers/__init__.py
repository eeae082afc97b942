"""Keras layers that run on any backend; importing this registers them for `.keras` files."""

from faceattr_tf.layers.batch_normalization import BatchNormalization

__all__ = ["BatchNormalization"]
