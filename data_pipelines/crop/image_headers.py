"""Formats and sizes of encoded images from their headers, and decoding, in TensorFlow graphs."""

SIDE_BY_SIDE = 8
"""Images of strangers that are decoded at once."""


def isolated(function, indices, specification, side_by_side=SIDE_BY_SIDE):
    """What a function gives for indices, without those for which it fails.

    Args:
        function: int64 index -> tensor, or a structure of tensors.
        indices: int64 `[n]`.
        specification: `tf.TensorSpec` of the tensor, or a structure of these.
        side_by_side: for how many indices it works at once.

    Returns:
        int64 `[m]`, the indices that went well, and their tensors, ragged where their shape is open.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False

    # An empty data set has no single batch, hence one element that always goes well.
    def empty(spec):
        return tf.zeros([1, *(size or 0 for size in spec.shape)], spec.dtype)

    nothing = tf.nest.map_structure(empty, specification)
    last = tf.data.Dataset.from_tensor_slices((tf.constant([-1], tf.int64), nothing))
    elements = (
        tf.data.Dataset.from_tensor_slices(indices)
        .map(lambda index: (index, function(index)), side_by_side, deterministic=True)
        .ignore_errors(log_warning=False)
        .concatenate(last)
        .ragged_batch(tf.size(indices, tf.int64) + 1)
        .with_options(options)
    )
    found, values = elements.get_single_element()
    return found[:-1], tf.nest.map_structure(lambda tensor: tensor[:-1], values)


def decode(image_bytes):
    """One encoded image as uint8 `[H, W, 3]`."""
    import tensorflow as tf

    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


def decode_exactly(image_bytes):
    """One encoded image, JPEG or PNG, as uint8 `[H, W, 3]`, to the bit as OpenCV decodes it."""
    import tensorflow as tf

    def jpeg():
        return tf.io.decode_jpeg(image_bytes, channels=3, dct_method="INTEGER_ACCURATE")

    return tf.cond(is_jpeg(image_bytes), jpeg, lambda: decode(image_bytes))


def image_sizes(image_bytes):
    """Height and width of encoded images `[B]`, int32 `[B, 2]`; of JPEG only headers are read."""
    import tensorflow as tf

    def by_decoder(data):
        return tf.cond(
            is_jpeg(data), lambda: tf.image.extract_jpeg_shape(data), lambda: tf.shape(decode(data))
        )[:2]

    def one_by_one():
        one = tf.TensorSpec([2], tf.int32)
        return tf.map_fn(by_decoder, image_bytes, fn_output_signature=one)

    sizes = _jpeg_sizes(image_bytes)
    return tf.cond(tf.reduce_all(sizes > 0), lambda: sizes, one_by_one)


def is_jpeg(image_bytes):
    """Whether encoded images are JPEG, by their first bytes."""
    import tensorflow as tf

    return tf.strings.substr(image_bytes, 0, 3) == b"\xff\xd8\xff"


def header_sizes(image_bytes):
    """Height and width of JPEG and PNG files by their headers, int32 `[B, 2]`; 0 for others."""
    import tensorflow as tf

    def by_decoder(index):
        return tf.image.extract_jpeg_shape(image_bytes[index])[:2]

    def with_unusual_ones():
        unusual = tf.where(is_jpeg(image_bytes) & (sizes[:, 0] == 0))[:, 0]
        rows, found = isolated(by_decoder, unusual, tf.TensorSpec([2], tf.int32))
        return tf.tensor_scatter_nd_update(sizes, rows[:, None], found)

    sizes = _jpeg_sizes(image_bytes) + _png_sizes(image_bytes)
    return tf.cond(tf.reduce_all(sizes > 0), lambda: sizes, with_unusual_ones)


def _png_sizes(image_bytes):
    """Sizes of PNG files by their first segment, int32 `[B, 2]`; 0 where a file is anything else."""
    import tensorflow as tf

    head = tf.strings.substr(image_bytes, 0, 24)
    png = tf.strings.substr(head, 0, 16) == b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
    png &= tf.strings.length(head) == 24
    head = tf.io.decode_raw(tf.where(png, head, b"\0" * 24), tf.uint8, fixed_length=24)
    width_height = tf.reshape(tf.cast(head[:, 16:], tf.int64), [-1, 2, 4])
    sizes = tf.linalg.matvec(width_height, tf.constant([2**24, 2**16, 2**8, 1], tf.int64))
    return tf.cast(tf.minimum(sizes[:, ::-1], 2**31 - 1), tf.int32)


def _jpeg_sizes(image_bytes):
    """Sizes of ordinary JPEG files, int32 `[B, 2]`; 0 where a file is anything else.

    Walks over the segments of all headers together, where the decoder's own function would have
    to be called, and paid for, image by image.
    """
    import tensorflow as tf

    last = tf.strings.length(image_bytes) - 9
    done, end, nine = last + 1, tf.maximum(last, 0), tf.fill(tf.shape(last), 9)

    def unfinished(place, _):
        return tf.reduce_any(place <= last)

    def step(place, sizes):
        head = tf.strings.substr(image_bytes, tf.clip_by_value(place, 0, end), nine)
        head = tf.cast(tf.io.decode_raw(head, tf.uint8, fixed_length=9), tf.int32)
        marker, length = head[:, 1], 256 * head[:, 2] + head[:, 3]
        segment = (place <= last) & (head[:, 0] == 0xFF)
        # Start of frame: C0 to CF without the tables C4, CC and the reserved C8.
        frame = (marker >= 0xC0) & (marker <= 0xCF) & (marker % 4 != 0) | (marker == 0xC0)
        frame = segment & frame
        size = 256 * head[:, 5:9:2] + head[:, 6:9:2]
        place = tf.where(segment & ~frame, place + 2 + length, done)
        return place, tf.where(frame[:, None], size, sizes)

    start = tf.where(is_jpeg(image_bytes), 2, done)
    nothing = tf.zeros([tf.shape(image_bytes)[0], 2], tf.int32)
    return tf.while_loop(unfinished, step, (start, nothing))[1]
