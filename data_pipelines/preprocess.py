"""From encoded bytes to the crop that a network sees: one graph for training, prediction, export.

The pixels of a crop come from one bilinear interpolation through one affine transform, augmentation
included. Where a crop shrinks its source by two or more, the source is first averaged over blocks
of 2, 4, 8, ... pixels (for JPEG by the decoder itself, which is also faster), so that fine detail
does not alias.
"""

from data_pipelines.geometry import Crop, compose, crop_transform

_JPEG_RATIOS = (1, 2, 4, 8)


def decode_and_crop(image_bytes, box, landmarks, crop: Crop, *, adjust=None):
    """Decodes images (JPEG, PNG, BMP, first frame of GIF) and crops them.

    Works in eager mode, in `tf.data` and in exported graphs, with any batch size.

    Args:
        image_bytes: string `[B]`, encoded images; grey ones are repeated in three channels.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.
        adjust: float32 `[B, 2, 3]`, optional: a further transform, from pixels of the crop to
            pixels of the crop as `crop` alone would give it (augmentation, mirroring).

    Returns:
        float32 `[B, height, width, 3]` in 0..255, and the transform float32 `[B, 2, 3]` from crop
        pixels to source pixels.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if an image cannot be decoded.
    """
    import tensorflow as tf

    sizes = tf.map_fn(image_size, image_bytes, fn_output_signature=tf.TensorSpec([2], tf.int32))
    transform = crop_transform(crop, sizes, box, landmarks)
    if adjust is not None:
        transform = compose(transform, adjust)
    images = tf.map_fn(
        lambda one: _crop_one(*one, crop.height, crop.width),
        (image_bytes, transform),
        fn_output_signature=tf.TensorSpec([crop.height, crop.width, 3], tf.float32),
    )
    return images, transform


def crop_pixels(pixels, box, landmarks, crop: Crop):
    """As `decode_and_crop`, for images that are decoded already.

    Args:
        pixels: uint8 RGB `[B, H, W, 3]`.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.

    Returns:
        float32 `[B, height, width, 3]` in 0..255, and the transform float32 `[B, 2, 3]`.
    """
    import tensorflow as tf

    shape = tf.shape(pixels)
    transform = crop_transform(crop, tf.tile(shape[None, 1:3], [shape[0], 1]), box, landmarks)
    images = tf.map_fn(
        lambda one: _sample(*one, 0, crop.height, crop.width),
        (pixels, transform),
        fn_output_signature=tf.TensorSpec([crop.height, crop.width, 3], tf.float32),
    )
    return images, transform


def image_size(image_bytes):
    """Height and width, int32 `[2]`, of one encoded image."""
    import tensorflow as tf

    return tf.cond(
        _is_jpeg(image_bytes),
        lambda: tf.image.extract_jpeg_shape(image_bytes)[:2],
        lambda: tf.shape(decode(image_bytes))[:2],
    )


def _is_jpeg(image_bytes):
    import tensorflow as tf

    return tf.strings.substr(image_bytes, 0, 3) == b"\xff\xd8\xff"


def decode(image_bytes):
    """One encoded image as uint8 `[H, W, 3]`."""
    import tensorflow as tf

    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


def _crop_one(image_bytes, transform, height, width):
    """Crop float32 `[height, width, 3]` of one encoded image through one transform `[2, 3]`."""
    import tensorflow as tf

    halvings = _halvings(transform)

    def jpeg(ratio):
        return lambda: tf.io.decode_jpeg(image_bytes, channels=3, ratio=ratio)

    def decode_jpeg():
        done = tf.minimum(halvings, len(_JPEG_RATIOS) - 1)
        return tf.switch_case(done, [jpeg(ratio) for ratio in _JPEG_RATIOS]), done

    image, done = tf.cond(
        _is_jpeg(image_bytes), decode_jpeg, lambda: (decode(image_bytes), tf.constant(0))
    )
    return _sample(image, transform, done, height, width)


def _halvings(transform):
    """How often the source is halved before a crop through `transform` samples it."""
    import tensorflow as tf

    # A similarity, mirrored or not: the square root of its determinant is its scale.
    linear = transform[:, :2]
    scale = tf.sqrt(tf.abs(linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0]))
    # The tolerance keeps a window of exactly twice the output on one side of the limit.
    return tf.cast(tf.math.log(tf.maximum(scale, 1.0)) / tf.math.log(2.0) + 1e-4, tf.int32)


def _sample(image, transform, done, height, width):
    """The crop of an image that its decoder halved `done` times."""
    import tensorflow as tf

    image, step = _shrink(image, 2 ** (_halvings(transform) - done))
    step = step * tf.cast(2**done, tf.float32)
    # Pixel i of the shrunk image covers source pixels from step * i - 0.5 to step * (i + 1) - 0.5.
    rows = (transform + [[0.0, 0.0, 0.5]]) / step[:, None] - [[0.0, 0.0, 0.5]]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(image, tf.float32)[None],
        transforms=tf.concat([tf.reshape(rows, [1, 6]), [[0.0, 0.0]]], axis=1),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]


def _shrink(image, factor):
    """Averages blocks of about `factor` pixels; returns the image and the exact steps (x, y)."""
    import tensorflow as tf

    def area():
        size = tf.shape(image)[:2]
        smaller = -(-size // factor)
        averaged = tf.raw_ops.ResizeArea(images=image[None], size=smaller)[0]
        return averaged, tf.cast(size / smaller, tf.float32)[::-1]

    return tf.cond(factor > 1, area, lambda: (tf.cast(image, tf.float32), tf.ones([2])))
