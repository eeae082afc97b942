"""The three networks of MTCNN as TensorFlow functions, with the weights of the `mtcnn` package."""

import dataclasses
import functools
import importlib.util
import pathlib

import numpy as np
import tensorflow as tf

FIELD = 12  # pixels that the proposal network sees of a face, across
STRIDE = 2  # pixels between its fields of view
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
        canvas: `float32 [B, H, W, 4]`, H and W even: pixels scaled to -1 to 1, and a fourth channel
            that is 1 outside of the pictures, 0 inside. Each picture begins at an even row and an
            even column; after an odd number of rows or columns, one is left outside.
        weights: `Weights.pnet`.

    Returns:
        `logits [B, h, w, 2]` of no face and of a face, and `offsets [B, h, w, 4]` (left, top, right
        and bottom in sides of the field of view). The field of view of y, x begins at row 2y and
        column 2x; what is said of one that reaches out of its picture means nothing.
    """
    kernel, bias, slopes = weights[0], weights[1], weights[2].ravel()
    # In the package a PReLU goes before the pooling, whose last window ends with the picture. Here
    # pooling goes first, over a quarter of the values for what follows. That is the same for a
    # PReLU that rises; one that falls below zero is max(x, slope * x), pooled in two parts.
    rising, falling = np.flatnonzero(slopes >= 0), np.flatnonzero(slopes < 0)
    order = np.concatenate([rising, falling])
    kernel = np.concatenate([kernel[..., order], kernel[..., falling] * slopes[falling]], axis=-1)
    bias = np.concatenate([bias[order], bias[falling] * slopes[falling]])
    outside = np.zeros([3, 3, 1, len(bias)], np.float32)
    outside[2, 2] = _OUTSIDE  # no window's maximum is found beyond a picture's border
    values = _convolve(canvas, np.concatenate([kernel, outside], axis=2), bias)
    values = tf.nn.max_pool2d(values, 2, 2, "VALID")
    first, second, third = tf.split(values, [len(rising), len(falling), len(falling)], axis=-1)
    values = tf.concat([_prelu(first, slopes[rising]), tf.maximum(second, third)], axis=-1)
    values = _prelu(_convolve(values, weights[3][:, :, order], weights[4]), weights[5])
    values = _prelu(_convolve(values, *weights[6:8]), weights[8])
    kernel = np.concatenate([weights[11], weights[9]], axis=-1)
    outputs = _convolve(values, kernel, np.concatenate([weights[12], weights[10]]))
    return outputs[..., :2], outputs[..., 2:]


def refine(crops: tf.Tensor, weights: tuple[np.ndarray, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """R-Net over crops of proposals.

    Args:
        crops: `float32 [N, 24, 24, 3]`, scaled to -1 to 1.
        weights: `Weights.rnet`.

    Returns:
        `scores [N]`, probabilities of a face, and `offsets [N, 4]` in sides of the crop.
    """
    values = _prelu(_convolve(crops, *weights[0:2]), weights[2])
    values = tf.nn.max_pool2d(values, 3, 2, "SAME")
    values = _prelu(_convolve(values, *weights[3:5]), weights[5])
    values = tf.nn.max_pool2d(values, 3, 2, "VALID")
    values = _prelu(_convolve(values, *weights[6:8]), weights[8])
    values = _prelu(_dense(_flatten(values), *weights[9:11]), weights[11])
    return _scores(values, *weights[14:16]), _dense(values, *weights[12:14])


def output(
    crops: tf.Tensor, weights: tuple[np.ndarray, ...]
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """O-Net over crops of what R-Net left.

    Args:
        crops: `float32 [N, 48, 48, 3]`, scaled to -1 to 1.
        weights: `Weights.onet`.

    Returns:
        `scores [N]`, probabilities of a face, `offsets [N, 4]` in sides of the crop, and
        `landmarks [N, 5, 2]` (x, y), 0 to 1 within the crop.
    """
    values = _prelu(_convolve(crops, *weights[0:2]), weights[2])
    values = tf.nn.max_pool2d(values, 3, 2, "SAME")
    values = _prelu(_convolve(values, *weights[3:5]), weights[5])
    values = tf.nn.max_pool2d(values, 3, 2, "VALID")
    values = _prelu(_convolve(values, *weights[6:8]), weights[8])
    values = tf.nn.max_pool2d(values, 2, 2, "SAME")
    values = _prelu(_convolve(values, *weights[9:11]), weights[11])
    values = _prelu(_dense(_flatten(values), *weights[12:14]), weights[14])
    landmarks = tf.stack(tf.split(_dense(values, *weights[17:19]), 2, axis=1), axis=2)
    return _scores(values, *weights[19:21]), _dense(values, *weights[15:17]), landmarks


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
