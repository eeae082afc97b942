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
from data_pipelines.crop.image_headers import decode, header_sizes, image_sizes, is_jpeg, isolated

_JPEG_RATIOS = (1, 2, 4, 8)


def decode_and_crop(
    image_bytes, box, landmarks, crop: Crop, *, owners=None, adjust=None, stream=False
):
    """Decodes images (JPEG, PNG, BMP, first frame of GIF) and crops them.

    Works in eager mode, in `tf.data` and in exported graphs, with any batch size.

    Args:
        image_bytes: string `[N]`, encoded images; grey ones are repeated in three channels.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.
        owners: int32 `[B]`, of which image each crop is; without, one of each in order. An image
            that is decoded whole is so once, for all of its crops.
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
    import tensorflow as tf

    image_bytes = tf.convert_to_tensor(image_bytes)
    sizes = image_sizes(image_bytes)
    sizes = sizes if owners is None else tf.gather(sizes, owners)
    make = compiled if stream else functools.partial
    place, sample = make(_place, crop), make(sample_windows, crop)
    transform, local, halvings, whole, windows = place(sizes, box, landmarks, adjust)
    choices, decoders = decoders_of(image_bytes, halvings, whole, windows, owners)
    shared = None
    if owners is not None:
        *decoders, _ = decoders
        shared = functools.partial(_write_shared, image_bytes, owners, halvings, windows)
    pixels = _join_windows(choices, decoders, windows, stream, shared)
    return sample(pixels, windows[:, 2:], local), transform


def decode_and_crop_each(image_bytes, box, landmarks, crop: Crop, *, max_pixels: int):
    """Like `decode_and_crop`, for untrusted input: a damaged image spoils no other.

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
    sizes = header_sizes(image_bytes)
    usable = tf.reduce_all(sizes > 0, axis=1)
    usable &= tf.reduce_prod(tf.cast(sizes, tf.int64), axis=1) <= max_pixels
    sizes = tf.where(usable[:, None], sizes, 1)
    transform, local, halvings, whole, windows = _place(crop, sizes, box, landmarks, None)
    # Beyond it, float32 could not tell neighbouring pixels apart.
    usable &= tf.reduce_all(tf.abs(transform) < 2.0**20, axis=[1, 2])
    choices, decoders = decoders_of(image_bytes, halvings, whole, windows)

    def read_window(index):
        pixels = tf.switch_case(
            choices[index], [functools.partial(decoder, index) for decoder in decoders]
        )
        same = tf.reduce_all(tf.shape(pixels)[:2] == windows[index, 2:])
        with tf.control_dependencies([tf.debugging.Assert(same, ["another size than stated"])]):
            return tf.reshape(pixels, [-1, 3])

    rows, pixels = isolated(read_window, tf.where(usable)[:, 0], tf.TensorSpec([None, 3], "uint8"))
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


def crop_pixels(pixels, box, landmarks, crop: Crop, owners=None):
    """Crops images that are decoded already, as `decode_and_crop` would crop them.

    Args:
        pixels: uint8 `[N, H, W, 3]`.
        box: float32 `[B, 4]` left, top, width, height in pixels; NaN where unknown.
        landmarks: float32 `[B, 5, 2]` x, y in pixels; NaN where unknown.
        crop: which part is wanted.
        owners: int32 `[B]`, of which image each crop is; without, one of each in order.

    Returns:
        float32 `[B, height, width, 3]` in 0..255, and the transform float32 `[B, 2, 3]` from crop
        pixels to source pixels.
    """
    import tensorflow as tf

    pixels = tf.convert_to_tensor(pixels, tf.uint8)
    owners = tf.range(tf.shape(pixels)[0]) if owners is None else owners
    sizes = tf.tile(tf.shape(pixels)[None, 1:3], [tf.shape(owners)[0], 1])
    transform, local, halvings, _, windows = _place(crop, sizes, box, landmarks, None)

    def read(index):
        return halved_window(pixels[owners[index]], windows[index], halvings[index])

    pixels = _join_windows(tf.zeros_like(halvings), [read], windows, False)
    return sample_windows(crop, pixels, windows[:, 2:], local), transform


def compiled(function, settings):
    """`function(settings, ...)` compiled by XLA, once in a process for equal settings.

    Args:
        function: takes a dataclass and then tensors.
        settings: the dataclass.
    """
    return _graph(function, type(settings), dataclasses.astuple(settings), (), True)


def traced(function, settings, **options):
    """`function(settings, ..., **options)` as a graph, traced once in a process for equal settings.

    A graph around it takes it over as it is: tracing half a thousand operations for every data set
    anew took half a second each.
    """
    fields, options = dataclasses.astuple(settings), tuple(sorted(options.items()))
    return _graph(function, type(settings), fields, options, False)


@functools.cache
def _graph(function, kind, fields, options, jit_compile):
    import tensorflow as tf

    function = functools.partial(function, kind(*fields), **dict(options))
    return tf.function(function, jit_compile=jit_compile, autograph=False)


def halvings_of(scale):
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
    halvings = halvings_of(tf.reduce_min(tf.norm(transform[:, :, :2], axis=1), axis=1))
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


def decoders_of(image_bytes, halvings, whole, windows, owners=None):
    """Which decoder each window takes, int32 `[B]`, and the decoders.

    Each is a function of a window's index that decodes it, uint8 `[height, width, 3]`. The last one
    decodes the whole image. `owners` is as in `decode_and_crop`.
    """
    import tensorflow as tf

    def file(index):
        return image_bytes[index if owners is None else owners[index]]

    def all_of_jpeg(index):
        return tf.io.decode_jpeg(file(index), channels=3)

    def part_of_jpeg(ratio, index):
        return tf.io.decode_and_crop_jpeg(file(index), windows[index], channels=3, ratio=ratio)

    def anything(index):
        return halved_window(decode(file(index)), windows[index], halvings[index])

    parts = [functools.partial(part_of_jpeg, ratio) for ratio in _JPEG_RATIOS]
    choices = tf.where(whole & (halvings == 0), 0, halvings + 1)
    jpeg = is_jpeg(image_bytes)
    jpeg = jpeg if owners is None else tf.gather(jpeg, owners)
    jpeg &= halvings < len(_JPEG_RATIOS)
    return tf.where(jpeg, choices, len(parts) + 1), [all_of_jpeg, *parts, anything]


def _join_windows(choices, decoders, windows, stream, shared=None):
    """The pixels of all windows, uint8 `[total, 3]`, image after image and row after row.

    Windows whose choice is behind the decoders are those of `shared`, which writes them together.

    The images of each decoder have a loop of their own: inside of one, the branches that an image
    does not take would cost time too. For a `stream` the list is up to a quarter longer, so that
    its length takes few values, for each of which the interpolation is compiled once.
    """
    import tensorflow as tf

    count = tf.shape(windows)[0]
    pixels = tf.TensorArray(tf.uint8, count + 1, infer_shape=False, element_shape=[None, 3])
    total = tf.reduce_sum(windows[:, 2] * windows[:, 3])
    unit = tf.bitwise.left_shift(1, tf.maximum(halvings_of(tf.cast(total, tf.float32)) - 2, 0))
    more = -total % unit if stream else 0
    pixels = pixels.write(count, tf.zeros([more, 3], tf.uint8))
    for choice, decoder in enumerate(decoders):
        pixels = _write_decoded(pixels, tf.where(choices == choice)[:, 0], decoder, stream)
    if shared:
        pixels = shared(pixels, tf.where(choices == len(decoders))[:, 0])
    return pixels.concat()


def _write_shared(image_bytes, owners, halvings, windows, pixels, indices):
    """The `TensorArray` with windows `indices` of images that are decoded once each."""
    import tensorflow as tf

    images, places = tf.unique(tf.gather(owners, indices))

    def step(number, pixels):
        image = decode(image_bytes[images[number]])

        def cut(index):
            return halved_window(image, windows[index], halvings[index])

        own = tf.boolean_mask(indices, places == number)
        return number + 1, _write_decoded(pixels, own, cut, False)

    # Large photographs are held whole here, hence few of them at a time.
    return tf.while_loop(
        lambda number, _: number < tf.size(images), step, (0, pixels), parallel_iterations=2
    )[1]


def _write_decoded(pixels, indices, decoder, stream):
    """The `TensorArray` with the pixels, `[n, 3]`, that a decoder gives for the indices' images."""
    import tensorflow as tf

    def step(number, pixels):
        index = tf.cast(indices[number], tf.int32)
        return number + 1, pixels.write(index, tf.reshape(decoder(index), [-1, 3]))

    # Batches of a stream are prepared side by side; within one, threads would only get in the way.
    return tf.while_loop(
        lambda number, _: number < tf.size(indices),
        step,
        (0, pixels),
        parallel_iterations=1 if stream else 10,
    )[1]


def halved_window(image, window, times):
    """A window of an image, uint8 `[H, W, 3]`, after its sides were halved so many times."""
    import tensorflow as tf

    block = tf.bitwise.left_shift(1, times)
    top, left, height, width = tf.unstack(window * block)
    part = image[top : top + height, left : left + width]

    def halved():
        # Repeated edges complete the last blocks, as in a JPEG.
        rows = tf.minimum(tf.range(height), tf.shape(part)[0] - 1)
        columns = tf.minimum(tf.range(width), tf.shape(part)[1] - 1)
        complete = tf.gather(tf.gather(part, rows), columns, axis=1)
        means = tf.raw_ops.ResizeArea(images=complete[None], size=window[2:])[0]
        return tf.cast(tf.round(means), tf.uint8)

    return tf.cond(times > 0, halved, lambda: part)


def sample_windows(crop, pixels, sizes, transform):
    """Bilinear interpolation of a batch of crops, each from a window of its own size.

    Args:
        crop: gives height and width of the result: numbers, or scalar tensors.
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
