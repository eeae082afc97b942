"""Whole images brought to one length of their longer side: what a fully convolutional network sees.

The pixels come about as those of crops do, see `data_pipelines.crop.pixels`.
"""

import functools
from typing import Any, NamedTuple

from data_pipelines.crop.image_headers import header_sizes, image_sizes, isolated
from data_pipelines.crop.pixels import decoders_of, halved_window, halvings_of, sample_windows


class ScaledImages(NamedTuple):
    """Some images, not decoded yet; all are tensors but `read`.

    Attributes:
        read: index -> its pixels after scaling, float32 `[h, w, 3]` in 0..255.
        scaled: int32 `[B, 2]`, height and width after scaling.
        sizes: int32 `[B, 2]`, height and width of the images.
        transform: float32 `[B, 2, 3]`, from scaled pixels to pixels of the images.
    """

    read: Any
    scaled: Any
    sizes: Any
    transform: Any


def scaled_images(image_bytes, side: int, least: int = 1) -> ScaledImages:
    """Images (JPEG, PNG, BMP, first frame of GIF) whose longer side is brought to `side` pixels.

    Args:
        image_bytes: string `[B]`, encoded images; one that cannot be decoded fails.
        side: of the scaled images; smaller ones are enlarged.
        least: a side that would be shorter is completed to this on both ends, by edge pixels.
    """
    import tensorflow as tf

    image_bytes = tf.convert_to_tensor(image_bytes)
    return _scaled(decoders_of, image_bytes, image_sizes(image_bytes), side, least)


def scaled_pixels(pixels, side: int, least: int = 1) -> ScaledImages:
    """The same of images that are decoded already, uint8 `[B, H, W, 3]`."""
    import tensorflow as tf

    def decoders(pixels, halvings, whole, windows):
        def part(index):
            return halved_window(pixels[index], windows[index], halvings[index])

        return tf.zeros_like(halvings), [part]

    pixels = tf.convert_to_tensor(pixels, tf.uint8)
    sizes = tf.tile(tf.shape(pixels)[None, 1:3], [tf.shape(pixels)[0], 1])
    return _scaled(decoders, pixels, sizes, side, least)


def scaled_images_each(image_bytes, side: int, least: int = 1, *, max_pixels: int):
    """Like `scaled_images`, for untrusted input: a damaged image spoils no other.

    JPEG and PNG are taken. An image that is too large by its header is never decoded.

    Returns:
        int64 `[m]`, the indices of the images that could be read; and of these alone the
        `ScaledImages`, where `read` takes their place among the m.
    """
    import tensorflow as tf

    image_bytes = tf.convert_to_tensor(image_bytes)
    sizes = header_sizes(image_bytes)
    usable = tf.reduce_all(sizes > 0, axis=1)
    usable &= tf.reduce_prod(tf.cast(sizes, tf.int64), axis=1) <= max_pixels
    sizes = tf.where(usable[:, None], sizes, 1)
    images = _scaled(decoders_of, image_bytes, sizes, side, least)

    def flat(index):
        return tf.reshape(images.read(index), [-1, 3])

    rows, pixels = isolated(flat, tf.where(usable)[:, 0], tf.TensorSpec([None, 3], tf.float32))
    scaled = tf.gather(images.scaled, rows)

    def read(index):
        return tf.reshape(pixels[index], [scaled[index, 0], scaled[index, 1], 3])

    sizes, transform = tf.gather(sizes, rows), tf.gather(images.transform, rows)
    return rows, ScaledImages(read, scaled, sizes, transform)


class _Size(NamedTuple):
    height: Any
    width: Any


def _scaled(decoders, images, sizes, side, least) -> ScaledImages:
    import tensorflow as tf

    step = tf.cast(tf.reduce_max(sizes, axis=1), tf.float32) / side
    scaled = tf.round(tf.cast(sizes, tf.float32) / step[:, None])
    scaled = tf.maximum(tf.cast(scaled, tf.int32), least)
    halvings = halvings_of(step)
    block = tf.bitwise.left_shift(1, halvings)
    halved = -(-sizes // block[:, None])
    windows = tf.concat([tf.zeros_like(halved), halved], axis=1)
    choices, decoders = decoders(images, halvings, tf.ones_like(halvings, tf.bool), windows)

    def transform(block):
        """From scaled pixels to pixels after division by `block`, the centres at one place."""
        scale = step / block
        middle = (tf.cast(sizes, tf.float32) / block[:, None] - 1.0) / 2.0
        start = middle - scale[:, None] * (tf.cast(scaled, tf.float32) - 1.0) / 2.0
        zero = tf.zeros_like(scale)
        rows = [scale, zero, start[:, 1], zero, scale, start[:, 0]]
        return tf.reshape(tf.stack(rows, axis=1), [-1, 2, 3])

    local = transform(tf.cast(block, tf.float32))

    def read(index):
        pixels = tf.switch_case(
            choices[index], [functools.partial(decoder, index) for decoder in decoders]
        )
        same = tf.reduce_all(tf.shape(pixels)[:2] == halved[index])
        with tf.control_dependencies([tf.debugging.Assert(same, ["another size than stated"])]):
            pixels = tf.reshape(pixels, [-1, 3])
        size = _Size(scaled[index, 0], scaled[index, 1])
        return sample_windows(size, pixels, halved[index][None], local[index][None])[0]

    return ScaledImages(read, scaled, sizes, transform(tf.ones_like(step)))
