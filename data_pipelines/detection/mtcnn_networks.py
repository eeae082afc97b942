"""The three networks of MTCNN as TensorFlow functions, with the weights of the `mtcnn` package."""

import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np
import tensorflow as tf

FIELD = 12  # pixels that the proposal network sees of a face, across
STRIDE = 2  # pixels between its fields of view
GREY = 127.5  # what the networks take for nothing
_RANGE = 128.0
_OUTSIDE = -1e30


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays of the three networks: of each layer its kernel, its bias and its PReLU's slopes.

    The output layers, which have no PReLU, stand at the end as pairs of kernel and bias.
    """

    pnet: tuple[np.ndarray, ...]
    rnet: tuple[np.ndarray, ...]
    onet: tuple[np.ndarray, ...]


@functools.cache
def load_weights() -> Weights:
    """Reads the weights that the installed `mtcnn` package brings along.

    The package itself is not imported. Its own loader prefers, and unpickles, a file of that name
    in the current folder.
    """
    import joblib

    (place,) = importlib.util.find_spec("mtcnn").submodule_search_locations
    folder = pathlib.Path(place) / "assets" / "weights"
    names = ("pnet", "rnet", "onet")
    return Weights(*(tuple(joblib.load(folder / f"{name}.lz4")) for name in names))


def propose(canvas: tf.Tensor, weights: tuple[np.ndarray, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """P-Net over a canvas on which pictures stand side by side.

    Args:
        canvas: `float32 [B, H, W, 4]`, H and W even: pixels from 0 to 255, and a fourth channel
            that is 1 outside of the pictures, 0 inside. Each picture begins at an even row and an
            even column; after an odd number of rows or columns, one is left outside.
        weights: `Weights.pnet`.

    Returns:
        `logits [B, h, w, 2]` of no face and of a face, and `offsets [B, h, w, 4]` (left, top, right
        and bottom in sides of the field of view). The field of view of y, x begins at row 2y and
        column 2x; what is said of one that reaches out of its picture means nothing.
    """
    first = (*_for_pixels(*weights[:2]), weights[2])
    values, order = _pooled(canvas, first, (2, 2, "VALID"))
    values = _prelu(_convolve(values, weights[3][:, :, order], weights[4]), weights[5])
    values = _prelu(_convolve(values, *weights[6:8]), weights[8])
    kernel = np.concatenate([weights[11], weights[9]], axis=-1)
    outputs = _convolve(values, kernel, np.concatenate([weights[12], weights[10]]))
    return outputs[..., :2], outputs[..., 2:]


def refine(crops: tf.Tensor, weights: tuple[np.ndarray, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """R-Net over crops of proposals.

    Args:
        crops: `float32 [N, 24, 24, 3]`, 0 to 255.
        weights: `Weights.rnet`.

    Returns:
        `scores [N]`, probabilities of a face, and `offsets [N, 4]` in sides of the crop.
    """
    values = _convolutions(crops, weights)
    values = _prelu(_dense(_flatten(values), *weights[9:11]), weights[11])
    return _scores(values, *weights[14:16]), _dense(values, *weights[12:14])


def output(
    crops: tf.Tensor, weights: tuple[np.ndarray, ...]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """O-Net over crops of what R-Net left.

    Args:
        crops: `float32 [N, 48, 48, 3]`, 0 to 255.
        weights: `Weights.onet`.

    Returns:
        `scores [N]`, probabilities of a face, `offsets [N, 4]` in sides of the crop, and
        `landmarks [N, 5, 2]` (x, y), 0 to 1 within the crop.
    """
    values = tf.nn.max_pool2d(_convolutions(crops, weights), 2, 2, "SAME")
    values = _prelu(_convolve(values, *weights[9:11]), weights[11])
    values = _prelu(_dense(_flatten(values), *weights[12:14]), weights[14])
    landmarks = tf.stack(tf.split(_dense(values, *weights[17:19]), 2, axis=1), axis=2)
    return _scores(values, *weights[19:21]), _dense(values, *weights[15:17]), landmarks


def _convolutions(crops, weights):
    """The three convolutions with which R-Net and O-Net begin."""
    first = (*_for_pixels(*weights[:2]), weights[2])
    values, order = _pooled(crops, first, (3, 2, "SAME"))
    values = _prelu(_convolve(values, weights[3][:, :, order], weights[4]), weights[5])
    values = tf.nn.max_pool2d(values, 3, 2, "VALID")
    return _prelu(_convolve(values, *weights[6:8]), weights[8])


def _for_pixels(kernel, bias):
    """The first layer of a network for pixels from 0 to 255; the package scales these before it."""
    kernel = kernel.astype(np.float64) / _RANGE
    return kernel.astype(np.float32), (bias - GREY * kernel.sum((0, 1, 2))).astype(np.float32)


def _pooled(values, layer, pooling):
    """A convolution, its PReLU and pooling: values, and in which order their channels stand.

    In the package, pooling goes last. In a first layer, of few channels and many values, it is
    faster before the PReLU, which then has a quarter of the values to see. That is the same for a
    slope that rises; one that falls below zero makes a PReLU max(x, slope * x), of which both parts
    are convolved and pooled. Where the values have a channel more than the layer, it says what is
    outside, and no maximum is found there.
    """
    kernel, bias, slopes = layer[0], layer[1], layer[2].ravel()
    rising = np.flatnonzero(slopes >= 0)
    falling = np.flatnonzero(slopes < 0)
    order = np.concatenate([rising, falling])
    kernel = np.concatenate([kernel[..., order], kernel[..., falling] * slopes[falling]], axis=-1)
    bias = np.concatenate([bias[order], bias[falling] * slopes[falling]])
    if values.shape[-1] > kernel.shape[2]:
        outside = np.zeros([*kernel.shape[:2], 1, len(bias)], np.float32)
        outside[-1, -1] = _OUTSIDE
        kernel = np.concatenate([kernel, outside], axis=2)
    values = tf.nn.max_pool2d(_convolve(values, kernel, bias), *pooling)
    first, second, third = tf.split(values, [len(rising), len(falling), len(falling)], axis=-1)
    return tf.concat([_prelu(first, slopes[rising]), tf.maximum(second, third)], axis=-1), order


def _convolve(values, kernel, bias):
    return tf.nn.bias_add(tf.nn.conv2d(values, kernel, 1, "VALID"), bias)


def _dense(values, kernel, bias):
    return tf.nn.bias_add(tf.matmul(values, kernel), bias)


def _scores(values, kernel, bias):
    return tf.nn.softmax(_dense(values, kernel, bias))[:, 1]


def _flatten(values):
    # The weights come from a framework that goes through columns first.
    values = tf.transpose(values, [0, 2, 1, 3])
    return tf.reshape(values, [-1, np.prod(values.shape[1:])])


def _prelu(values, slopes):
    if np.max(slopes) <= 1:
        return tf.maximum(values, slopes * values)
    return tf.maximum(values, 0.0) + slopes * tf.minimum(values, 0.0)
