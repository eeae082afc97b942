"""Keras layers that run on any backend; importing this registers them for `.keras` files."""

from faceattr_tf.layers.batch_normalization import BatchNormalization
from faceattr_tf.layers.positional_pooling import PositionalPooling
from faceattr_tf.layers.spatial_transformer import SpatialTransformer, transform_matrix

__all__ = ["BatchNormalization", "PositionalPooling", "SpatialTransformer", "transform_matrix"]
