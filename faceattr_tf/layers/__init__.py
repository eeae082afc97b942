"""Keras layers that run on any backend; importing this registers them for `.keras` files."""

from faceattr_tf.layers.batch_normalization import BatchNormalization
from faceattr_tf.layers.colour_histograms import ColourHistograms
from faceattr_tf.layers.crop_region import CropRegion
from faceattr_tf.layers.locally_shared_convolution import (
    LocallySharedConv2D,
    StrongestViews,
    strongest_window,
    window_views,
)
from faceattr_tf.layers.oriented_gradients import OrientedGradientHistograms
from faceattr_tf.layers.positional_pooling import PositionalPooling
from faceattr_tf.layers.spatial_transformer import SpatialTransformer, transform_matrix

__all__ = [
    "BatchNormalization",
    "ColourHistograms",
    "CropRegion",
    "LocallySharedConv2D",
    "OrientedGradientHistograms",
    "PositionalPooling",
    "SpatialTransformer",
    "StrongestViews",
    "strongest_window",
    "transform_matrix",
    "window_views",
]
