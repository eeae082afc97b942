"""Histograms of oriented gradients."""

import math

import keras
import numpy as np
from keras import ops

_FLAT = 1e-12
"""Squared length of a gradient below which it points nowhere."""


@keras.saving.register_keras_serializable("faceattr_tf")
class OrientedGradientHistograms(keras.layers.Layer):
    """Histograms of oriented gradients (HOG) in normalised, overlapping blocks of cells.

    Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection" (CVPR 2005),
    with the choices that they found best: differences of the two neighbours without smoothing, of
    several colours the one that changes most; orientations from 0 to 180 degrees; a vote of the
    gradient's length, shared linearly between the two nearest orientations and the nearest cells
    of the block in both directions, weighted by a Gaussian over the block of half its side; blocks
    one cell apart, normalised by L2-Hys: to length one, cut off at `clip`, to length one again.
    Their square root of the colours is left to whoever prepares the input. On the image's border
    there is no difference across it. Pixels that fill no cell, on the right and below, only serve
    as neighbours.

    It is computed in float32 under every dtype policy, the histograms as products of matrices.

    Args:
        cell: side of a cell, in pixels.
        block: cells along the side of a block.
        orientations: bins of 0 to 180 degrees; the first is centred on half a bin.
        clip: the largest share of a block's length that one bin may have, before it is normalised
            for the second time.
        epsilon: length that is added to every block's, as the root of the sum of squares, so that
            flat blocks stay near zero; in units of the input.

    Inputs: images `[B, H, W, C]` of a known size. Output: `[B, rows, columns, block² ·
    orientations]` with `rows = H // cell - block + 1` and likewise columns; a block's cells row by
    row, each with its orientations.

    Raises:
        ValueError: an argument makes no sense, or the input is smaller than a block.

    Example:
        >>> OrientedGradientHistograms()(keras.ops.ones((2, 32, 24, 3))).shape
        TensorShape([2, 3, 2, 36])
    """

    def __init__(
        self,
        cell: int = 8,
        block: int = 2,
        orientations: int = 9,
        clip: float = 0.2,
        epsilon: float = 1.0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        for name, value, least in (
            ("cell", cell, 1),
            ("block", block, 1),
            ("orientations", orientations, 2),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        for name, value in (("clip", clip), ("epsilon", epsilon)):
            if not value > 0:
                raise ValueError(f"{name} is {value}; expected more than 0")
        self.cell, self.block, self.orientations = int(cell), int(block), int(orientations)
        self.clip, self.epsilon = float(clip), float(epsilon)

    def build(self, input_shape):
        """Checks the size; there are no weights."""
        side = self.cell * self.block
        if min(input_shape[1:3]) < side:
            raise ValueError(f"inputs have shape {tuple(input_shape)}; a block has {side} pixels")

    def call(self, inputs):
        """The blocks of `[B, H, W, C]`, `[B, rows, columns, block² · orientations]`."""
        votes = self._votes(ops.cast(inputs, "float32"))
        height, width = inputs.shape[1:3]
        down, across = self._windows(height), self._windows(width)
        cells = ops.matmul(down, ops.reshape(votes, (-1, height, width * self.orientations)))
        cells = ops.reshape(cells, (-1, len(down), width, self.orientations))
        cells = ops.matmul(across, cells)
        _, rows, columns, bins = self.compute_output_shape(inputs.shape)
        block = self.block
        cells = ops.reshape(cells, (-1, rows, block, columns, block, self.orientations))
        blocks = ops.reshape(ops.transpose(cells, (0, 1, 3, 2, 4, 5)), (-1, rows, columns, bins))
        blocks = self._normalise(ops.minimum(self._normalise(blocks), self.clip))
        return ops.cast(blocks, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """`[B, rows, columns, block² · orientations]`."""
        batch, height, width, _ = input_shape
        rows, columns = (length // self.cell - self.block + 1 for length in (height, width))
        return (batch, rows, columns, self.block**2 * self.orientations)

    def get_config(self):
        """The arguments, for saving."""
        return {
            **super().get_config(),
            "cell": self.cell,
            "block": self.block,
            "orientations": self.orientations,
            "clip": self.clip,
            "epsilon": self.epsilon,
        }

    def _votes(self, images):
        """The length of every pixel's gradient, shared between orientations: `[B, H, W, bins]`."""
        right = ops.pad(images[:, :, 2:] - images[:, :, :-2], ((0, 0), (0, 0), (1, 1), (0, 0)))
        down = ops.pad(images[:, 2:] - images[:, :-2], ((0, 0), (1, 1), (0, 0), (0, 0)))
        squares = right * right + down * down
        x, y, square = right[..., 0], down[..., 0], squares[..., 0]
        for channel in range(1, images.shape[3]):
            steeper = squares[..., channel] > square
            x = ops.where(steeper, right[..., channel], x)
            y = ops.where(steeper, down[..., channel], y)
            square = ops.where(steeper, squares[..., channel], square)
        # Neither the root nor the angle of nothing has a gradient.
        flat = square < _FLAT
        length = ops.where(flat, 0.0, ops.sqrt(ops.where(flat, 1.0, square)))
        angle = ops.arctan2(ops.where(flat, 0.0, y), ops.where(flat, 1.0, x))
        place = angle * (self.orientations / math.pi) - 0.5  # two half turns, from -bins on
        bins = np.arange(self.orientations, dtype="float32")
        apart = ops.abs(place[..., None] - bins)
        apart = ops.abs(apart - self.orientations * ops.round(apart / self.orientations))
        return length[..., None] * ops.maximum(1 - apart, 0.0)

    def _windows(self, length: int) -> np.ndarray:
        """How much every pixel along an axis adds to each block's cells, `[blocks · block, length]`."""
        side = self.block * self.cell
        within = np.arange(side) + 0.5
        centres = (np.arange(self.block) + 0.5) * self.cell
        shares = np.maximum(0, 1 - np.abs(centres[:, None] - within) / self.cell)
        shares *= np.exp(-2 * (within / side - 0.5) ** 2)
        blocks = length // self.cell - self.block + 1
        windows = np.zeros((blocks, self.block, length), "float32")
        for index in range(blocks):
            windows[index, :, index * self.cell : index * self.cell + side] = shares
        return windows.reshape(-1, length)

    def _normalise(self, blocks):
        squares = ops.sum(blocks * blocks, axis=-1, keepdims=True)
        return blocks * ops.rsqrt(squares + self.epsilon**2)
