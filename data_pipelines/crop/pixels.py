"""From encoded bytes to the crop that a network sees: one graph for training, prediction, export.

The pixels of a crop come from one bilinear interpolation through one affine transform, augmentation
included. Where a crop shrinks its source by two or more, the source is first averaged over blocks
of 2, 4, 8, ... pixels (for JPEG by the decoder itself, which is also faster), so that fine detail
does not alias. Where a window reaches outside of its image, it sees the image's edge pixels.

Only decoding is done image by image, and only inside the window that is needed; its results lie
one after the other in a single list of pixels, so that images of any sizes make one batch without
padding, and interpolation is a few operations on the whole batch.
"""

import dataclasses
import functools

from data_pipelines.crop.geometry import Crop, compose, crop_transform

_JPEG_RATIOS = (1, 2, 4, 8)

SIDE_BY_SIDE = 8
"""Images of strangers that are decoded at once."""


def decode_and_crop(image_bytes, box, landmarks, crop: Crop, *, adjust=None, stream=False):
    """Decodes images (JPEG, PNG, BMP, first frame of GIF) and crops them.

    Works in eager mode, in `tf.data` and in exported graphs, with any batch size.

    Args:
        image_bytes: string `[B]`, encoded images; grey ones are repeated in three channels.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.
        adjust: float32 `[B, 2, 3]`, optional: a further transform, from pixels of the crop to
            pixels of the crop as `crop` alone would give it (augmentation, mirroring).
        stream: many batches of this size follow: interpolate by XLA, which takes a second to
            compile and is then six times as fast. Not for exported graphs.

    Returns:
        float32 `[B, height, width, 3]` in 0..255, and the transform float32 `[B, 2, 3]` from crop
        pixels to source pixels.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if an image cannot be decoded.
    """
    sizes = image_sizes(image_bytes)
    make = compiled if stream else functools.partial
    place, sample = make(_place, crop), make(sample_windows, crop)
    transform, local, halvings, whole, windows = place(sizes, box, landmarks, adjust)
    read = _reader(image_bytes, halvings, whole, windows)
    pixels = _join_windows(read, windows, stream)
    return sample(pixels, windows[:, 2:], local), transform


def decode_and_crop_each(image_bytes, box, landmarks, crop: Crop, *, max_pixels: int):
    """Like `decode_and_crop`, for images of strangers: what is wrong with one spoils no other.

    JPEG and PNG are taken. Their sizes are read from the headers, and an image that is too large
    is never decoded. What is decoded of an image is no larger than twice the crop to either side
    when it is kept; at most `SIDE_BY_SIDE` images are held whole for a moment.

    Works in eager mode and in exported graphs, with any batch size.

    Args:
        image_bytes: string `[B]`, encoded images, or anything else.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.
        max_pixels: largest product of width and height that is decoded.

    Returns:
        float32 `[B, height, width, 3]` in 0..255, the transform float32 `[B, 2, 3]` from crop
        pixels to source pixels, and bool `[B]`, whether the image could be used; where not, the
        crop is black.
    """
    import tensorflow as tf

    count = tf.shape(image_bytes)[0]
    sizes = _header_sizes(image_bytes)
    usable = tf.reduce_all(sizes > 0, axis=1)
    usable &= tf.reduce_prod(tf.cast(sizes, tf.int64), axis=1) <= max_pixels
    sizes = tf.where(usable[:, None], sizes, 1)
    transform, local, halvings, whole, windows = _place(crop, sizes, box, landmarks, None)
    # Beyond it, float32 could not tell neighbouring pixels apart.
    usable &= tf.reduce_all(tf.abs(transform) < 2.0**20, axis=[1, 2])
    read = _reader(image_bytes, halvings, whole, windows)

    def read_window(index):
        pixels = read(index)
        same = tf.reduce_all(tf.shape(pixels)[:2] == windows[index, 2:])
        with tf.control_dependencies([tf.debugging.Assert(same, ["another size than stated"])]):
            return tf.reshape(pixels, [-1, 3])

    rows, pixels = _isolated(read_window, tf.where(usable)[:, 0], tf.TensorSpec([None, 3], "uint8"))
    chosen = tf.gather(windows, rows)[:, 2:], tf.gather(local, rows)
    crops = sample_windows(crop, pixels.flat_values, *chosen)
    shape = [count, crop.height, crop.width, 3]
    crops = tf.cond(
        tf.size(rows) == count,
        lambda: crops,
        lambda: tf.scatter_nd(rows[:, None], crops, tf.cast(shape, tf.int64)),
    )
    usable = tf.scatter_nd(rows[:, None], tf.ones_like(rows), tf.cast([count], tf.int64)) > 0
    return tf.ensure_shape(crops, [None, *shape[1:]]), transform, usable


def _isolated(function, indices, specification):
    """What a function gives for indices, without those for which it fails.

    Args:
        function: int64 index -> tensor.
        indices: int64 `[n]`.
        specification: `tf.TensorSpec` of the tensor.

    Returns:
        int64 `[m]`, the indices that went well, and their tensors, ragged where their shape is open.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    # An empty data set has no single batch, hence one element that always goes well.
    open_shape = [0 if size is None else size for size in specification.shape]
    nothing = tf.zeros([1, *open_shape], specification.dtype)
    last = tf.data.Dataset.from_tensor_slices((tf.constant([-1], tf.int64), nothing))
    elements = (
        tf.data.Dataset.from_tensor_slices(indices)
        .map(lambda index: (index, function(index)), SIDE_BY_SIDE, deterministic=True)
        .ignore_errors(log_warning=False)
        .concatenate(last)
        .ragged_batch(tf.size(indices, tf.int64) + 1)
        .with_options(options)
    )
    found, values = elements.get_single_element()
    return found[:-1], values[:-1]


def crop_pixels(pixels, box, landmarks, crop: Crop):
    """Crops images that are decoded already, as `decode_and_crop` would crop them.

    Args:
        pixels: uint8 `[B, H, W, 3]`.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.

    Returns:
        float32 `[B, height, width, 3]` in 0..255, and the transform float32 `[B, 2, 3]` from crop
        pixels to source pixels.
    """
    import tensorflow as tf

    pixels = tf.convert_to_tensor(pixels, tf.uint8)
    sizes = tf.tile(tf.shape(pixels)[None, 1:3], [tf.shape(pixels)[0], 1])
    transform, local, halvings, _, windows = _place(crop, sizes, box, landmarks, None)

    def read(index):
        return _halved_window(pixels[index], windows[index], halvings[index])

    return sample_windows(
        crop, _join_windows(read, windows, False), windows[:, 2:], local
    ), transform


def compiled(function, settings):
    """`function(settings, ...)` compiled by XLA, once in a process for equal settings.

    Args:
        function: takes a dataclass and then tensors.
        settings: the dataclass.
    """
    return _compiled(function, type(settings), dataclasses.astuple(settings))


@functools.cache
def _compiled(function, kind, fields):
    import tensorflow as tf

    return tf.function(
        functools.partial(function, kind(*fields)), jit_compile=True, autograph=False
    )


def decode(image_bytes):
    """One encoded image as uint8 `[H, W, 3]`."""
    import tensorflow as tf

    return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)


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


def _header_sizes(image_bytes):
    """Height and width of JPEG and PNG files by their headers, int32 `[B, 2]`; 0 for others."""
    import tensorflow as tf

    def by_decoder(index):
        return tf.image.extract_jpeg_shape(image_bytes[index])[:2]

    def with_unusual_ones():
        unusual = tf.where(is_jpeg(image_bytes) & (sizes[:, 0] == 0))[:, 0]
        rows, found = _isolated(by_decoder, unusual, tf.TensorSpec([2], tf.int32))
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


def _halvings(scale):
    """How often a scale can be halved and stay at 1 or more, int32."""
    import tensorflow as tf

    # The tolerance keeps a window of exactly twice the output from flickering between 0 and 1.
    return tf.cast(tf.math.log(tf.maximum(scale, 1.0)) / tf.math.log(2.0) + 1e-4, tf.int32)


def _place(crop, sizes, box, landmarks, adjust):
    """Where the crops lie, and what to decode of every image.

    Returns:
        transform: float32 `[B, 2, 3]`, from crop pixels to source pixels.
        local: float32 `[B, 2, 3]`, from crop pixels to pixels of the window.
        halvings: int32 `[B]`, how often the image is to be halved before interpolation.
        whole: bool `[B]`, whether the window is the whole image.
        windows: int32 `[B, 4]` top, left, height, width in the halved image.
    """
    import tensorflow as tf

    transform = crop_transform(crop, sizes, box, landmarks)
    if adjust is not None:
        transform = compose(transform, adjust)
    # The columns' lengths are the scales of both axes, alike unless the face is stretched; the
    # smaller one decides, so that nothing is blurred.
    halvings = _halvings(tf.reduce_min(tf.norm(transform[:, :, :2], axis=1), axis=1))
    block = tf.bitwise.left_shift(1, halvings)[:, None]
    limits = -(-sizes // block) - 1
    # Pixel i of a halved image covers source pixels from block * i - 0.5 to block * (i + 1) - 0.5.
    half = tf.constant([0.0, 0.0, 0.5])
    halved = (transform + half) / tf.cast(block, tf.float32)[:, None] - half
    right, bottom = crop.width - 1.0, crop.height - 1.0
    ends = tf.constant([[x, y, 1.0] for x in (0.0, right) for y in (0.0, bottom)])
    corners = tf.einsum("bij,nj->bni", halved, ends)
    first = tf.cast(tf.floor(tf.reduce_min(corners, axis=1)), tf.int32)[:, ::-1]
    last = tf.cast(tf.floor(tf.reduce_max(corners, axis=1)), tf.int32)[:, ::-1] + 1
    first = tf.clip_by_value(first, 0, limits)
    last = tf.clip_by_value(last, 0, limits)
    # Skipping a small part of a JPEG takes the decoder longer than decoding it.
    whole = tf.reduce_prod(last - first + 1, axis=1) * 2 > tf.reduce_prod(limits + 1, axis=1)
    first = tf.where(whole[:, None], 0, first)
    last = tf.where(whole[:, None], limits, last)
    start = tf.cast(first[:, ::-1, None], tf.float32)
    local = tf.concat([halved[:, :, :2], halved[:, :, 2:] - start], axis=2)
    return transform, local, halvings, whole, tf.concat([first, last - first + 1], axis=1)


def _reader(image_bytes, halvings, whole, windows):
    """A function of an image's index that decodes its window, uint8 `[height, width, 3]`."""
    import tensorflow as tf

    choices = tf.where(whole & (halvings == 0), 0, halvings + 1)
    choices = tf.where(is_jpeg(image_bytes) & (halvings < len(_JPEG_RATIOS)), choices, -1)

    def read(index):
        data, window, times = image_bytes[index], windows[index], halvings[index]

        def by_decoder(ratio):
            return lambda: tf.io.decode_and_crop_jpeg(data, window, channels=3, ratio=ratio)

        return tf.switch_case(
            choices[index],
            [lambda: tf.io.decode_jpeg(data, channels=3), *map(by_decoder, _JPEG_RATIOS)],
            default=lambda: _halved_window(decode(data), window, times),
        )

    return read


def _join_windows(read, windows, stream):
    """The pixels of all windows, uint8 `[total, 3]`, image after image and row after row.

    For a `stream` the list is up to a quarter longer, so that its length takes few values, for
    each of which the interpolation is compiled once.
    """
    import tensorflow as tf

    count = tf.shape(windows)[0]
    pixels = tf.TensorArray(tf.uint8, count + 1, infer_shape=False, element_shape=[None, 3])
    total = tf.reduce_sum(windows[:, 2] * windows[:, 3])
    unit = tf.bitwise.left_shift(1, tf.maximum(_halvings(tf.cast(total, tf.float32)) - 2, 0))
    more = -total % unit if stream else 0
    pixels = pixels.write(count, tf.zeros([more, 3], tf.uint8))
    # Batches of a stream are prepared side by side; within one, threads would only get in the way.
    _, pixels = tf.while_loop(
        lambda index, _: index < count,
        lambda index, pixels: (index + 1, pixels.write(index, tf.reshape(read(index), [-1, 3]))),
        (0, pixels),
        parallel_iterations=1 if stream else 10,
    )
    return pixels.concat()


def _halved_window(image, window, times):
    """A window of an image, uint8 `[H, W, 3]`, after its sides were halved so many times."""
    import tensorflow as tf

    def halved():
        block = tf.bitwise.left_shift(1, times)
        size = tf.shape(image)[:2]
        # Repeated edges complete the last blocks, as in a JPEG.
        rows = tf.minimum(tf.range(-(-size[0] // block) * block), size[0] - 1)
        columns = tf.minimum(tf.range(-(-size[1] // block) * block), size[1] - 1)
        complete = tf.gather(tf.gather(image, rows), columns, axis=1)
        smaller = tf.shape(complete)[:2] // block
        means = tf.raw_ops.ResizeArea(images=complete[None], size=smaller)[0]
        return tf.cast(tf.round(means), tf.uint8)

    image = tf.cond(times > 0, halved, lambda: image)
    top, left, height, width = tf.unstack(window)
    return image[top : top + height, left : left + width]


def sample_windows(crop, pixels, sizes, transform):
    """Bilinear interpolation of a batch of crops, each from a window of its own size.

    Args:
        crop: gives height and width of the result.
        pixels: uint8 `[total, 3]`, the windows' pixels one after the other; more may follow.
        sizes: int32 `[B, 2]`, height and width of the windows.
        transform: float32 `[B, 2, 3]`, from pixels of the crop to pixels of the window; what lies
            outside of the window is its nearest edge pixel.

    Returns:
        float32 `[B, height, width, 3]`.
    """
    import tensorflow as tf

    start = tf.cumsum(sizes[:, 0] * sizes[:, 1], exclusive=True)[:, None, None]
    column = tf.range(crop.width, dtype=tf.float32)
    row = tf.range(crop.height, dtype=tf.float32)[:, None]

    def neighbours(axis, last):
        a, b, c = (transform[:, axis, i, None, None] for i in range(3))
        position = a * column + b * row + c
        below = tf.floor(position)
        index = tf.cast(below, tf.int32)
        return (
            tf.clip_by_value(index, 0, last),
            tf.clip_by_value(index + 1, 0, last),
            (position - below)[..., None],
        )

    left, right, to_right = neighbours(0, sizes[:, 1, None, None] - 1)
    top, bottom, to_bottom = neighbours(1, sizes[:, 0, None, None] - 1)
    top, bottom = (start + index * sizes[:, 1, None, None] for index in (top, bottom))

    def between(line):
        first = tf.cast(tf.gather(pixels, line + left), tf.float32)
        second = tf.cast(tf.gather(pixels, line + right), tf.float32)
        return first + (second - first) * to_right

    upper = between(top)
    return upper + (between(bottom) - upper) * to_bottom
