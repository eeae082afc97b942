"""A fixed box of every image, resampled to a fixed size."""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("faceattr_tf")
class CropRegion(keras.layers.Layer):
    """Cuts the same box out of every image or map and resizes it, smoothed where it shrinks.

    Bilinear interpolation, whose triangle is as wide as a pixel of the larger of both sides, as in
    Pillow: thus shrinking averages, and a box of the output's size in whole pixels is copied. What
    of the box lies outside repeats the pixels of the border. It is computed in float32 as two
    products of matrices, which every converter knows.

    Args:
        box: left, top, right and bottom border, as shares of the input's width and height; the
            whole input is (0, 0, 1, 1).
        size: height and width of the output, in pixels.

    Inputs: images or maps `[B, H, W, C]` of a known size. Output: `[B, size[0], size[1], C]`.

    Raises:
        ValueError: the box is empty or not finite, or a size is below 1.

    Example:
        >>> CropRegion((0.25, 0.0, 0.75, 0.5), (4, 4))(keras.ops.ones((2, 16, 16, 3))).shape
        TensorShape([2, 4, 4, 3])
    """

    def __init__(self, box, size, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.box, self.size = tuple(map(float, box)), tuple(map(int, size))
        left, top, right, bottom = self.box
        if not (all(map(math.isfinite, self.box)) and left < right and top < bottom):
            raise ValueError(f"box is {self.box}; expected left < right and top < bottom")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size is {self.size}; expected a height and a width of 1 or more")

    def call(self, inputs):
        """The box of `[B, H, W, C]`, `[B, h, w, C]`."""
        height, width, channels = inputs.shape[1:]
        left, top, right, bottom = self.box
        first_row, rows = _resampling(height, top, bottom, self.size[0])
        first_column, columns = _resampling(width, left, right, self.size[1])
        seen = inputs[:, first_row : first_row + rows.shape[1]]
        seen = seen[:, :, first_column : first_column + columns.shape[1]]
        seen = ops.reshape(
            ops.cast(seen, "float32"), (-1, rows.shape[1], columns.shape[1] * channels)
        )
        seen = ops.reshape(ops.matmul(rows, seen), (-1, rows.shape[0], columns.shape[1], channels))
        return ops.cast(ops.matmul(columns, seen), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """`[B, h, w, C]`."""
        return (input_shape[0], *self.size, input_shape[3])

    def get_config(self):
        """The arguments, for saving."""
        return {**super().get_config(), "box": self.box, "size": self.size}


def _resampling(length: int, start: float, stop: float, size: int) -> tuple[int, np.ndarray]:
    """Along one axis: the first pixel that is read, and the weights `[size, pixels]` from it on."""
    scale = (stop - start) * length / size
    reach = max(scale, 1.0)
    centres = start * length + (np.arange(size) + 0.5) * scale - 0.5
    pixels = np.arange(math.floor(centres[0] - reach), math.ceil(centres[-1] + reach) + 1)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - pixels) / reach)
    weights /= weights.sum(axis=1, keepdims=True)
    inside = np.zeros((length, size))
    np.add.at(inside, np.clip(pixels, 0, length - 1), weights.T)
    (used,) = np.nonzero(inside.any(axis=1))
    return int(used[0]), inside[used[0] : used[-1] + 1].T.astype("float32")
