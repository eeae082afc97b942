"""Histograms of colours."""

import math

import keras
import numpy as np
from keras import ops

_LUMA = (0.299, 0.587, 0.114)
_BLUE_DIFFERENCE = (-0.299 / 1.772, -0.587 / 1.772, 0.5)
_RED_DIFFERENCE = (0.5, -0.587 / 1.402, -0.114 / 1.402)
_YCBCR = np.array((_LUMA, _BLUE_DIFFERENCE, _RED_DIFFERENCE), "float32").T
"""Red, green and blue to luma and two colour differences, as in JPEG (ITU-R BT.601)."""


@keras.saving.register_keras_serializable("faceattr_tf")
class ColourHistograms(keras.layers.Layer):
    """The joint histogram of luma and two colour differences of every image, of length one.

    Colours are taken in YCbCr, which apart from a plain histogram of red, green and blue spends
    few bins on brightness and many on the narrow range of hues that faces have, and unlike hue and
    saturation knows no place where a colour jumps. A pixel's vote is shared linearly between the
    two nearest bins of each of the three axes. The root of the shares makes inner products those
    of Hellinger's kernel, which suits linear classifiers (Vedaldi and Zisserman, "Efficient
    Additive Kernels", CVPR 2010), and all pixels together a vector of length one.

    It is computed in float32 under every dtype policy.

    Args:
        bins: bins of luma, of the difference to blue and of that to red.
        reach: the colour difference, of at most 0.5 to either side, at which the outer bins end;
            what lies beyond counts for them.
        epsilon: added to every share before the root, whose slope at zero has no bound.

    Inputs: images `[B, H, W, 3]` of a known size in [-1, 1]; colours outside count for the outer
    bins. Output: `[B, F]`, F the product of `bins`, luma outermost.

    Raises:
        ValueError: an argument makes no sense.

    Example:
        >>> ColourHistograms()(keras.ops.ones((2, 8, 8, 3))).shape
        TensorShape([2, 144])
    """

    def __init__(
        self,
        bins: tuple[int, int, int] = (4, 6, 6),
        reach: float = 0.3,
        epsilon: float = 1e-4,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.bins = tuple(map(int, bins))
        self.reach, self.epsilon = float(reach), float(epsilon)
        if len(self.bins) != 3 or min(self.bins) < 1:
            raise ValueError(f"bins is {bins}; expected three numbers of 1 or more")
        if not 0 < self.reach <= 0.5:
            raise ValueError(f"reach is {reach}; expected more than 0, and at most 0.5")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {epsilon}; expected more than 0")

    def build(self, input_shape):
        """Checks the shape; there are no weights."""
        if len(input_shape) != 4 or input_shape[3] != 3:
            raise ValueError(f"inputs have shape {tuple(input_shape)}; expected [B, H, W, 3]")

    def call(self, inputs):
        """The histogram of `[B, H, W, 3]`, `[B, F]`."""
        count = math.prod(inputs.shape[1:3])
        pixels = ops.reshape(ops.cast(inputs, "float32"), (-1, count, 3))
        luma, blue, red = ops.unstack(ops.matmul(pixels, _YCBCR) / 2, 3, axis=-1)
        spans = luma + 0.5, blue / (2 * self.reach) + 0.5, red / (2 * self.reach) + 0.5
        luma, blue, red = map(_votes, spans, self.bins)
        hues = ops.reshape(blue[..., None] * red[:, :, None], (-1, count, math.prod(self.bins[1:])))
        shares = ops.matmul(ops.transpose(luma, (0, 2, 1)), hues) / count
        shares = ops.reshape(shares, (-1, math.prod(self.bins)))
        return ops.cast(ops.sqrt(shares + self.epsilon), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        """`[B, F]`."""
        return (input_shape[0], math.prod(self.bins))

    def get_config(self):
        """The arguments, for saving."""
        return {
            **super().get_config(),
            "bins": self.bins,
            "reach": self.reach,
            "epsilon": self.epsilon,
        }


def _votes(position, bins: int):
    """The votes of positions in [0, 1], `[B, N]`, for the bins along one axis, `[B, N, bins]`."""
    place = ops.clip(position * bins - 0.5, 0.0, bins - 1.0)
    centres = np.arange(bins, dtype="float32")
    return ops.maximum(1 - ops.abs(place[..., None] - centres), 0.0)
