"""What `faceattr_tf.prediction.localisation` does, as part of a TensorFlow graph.

All is static but the sizes of the images: so many faces at most, NaN in the place of those missing.
"""

import functools
import math
from typing import Any, NamedTuple

import tensorflow as tf

from data_pipelines.crop.pixels import crop_pixels, decode_and_crop_each
from data_pipelines.crop.scaling import ScaledImages, scaled_images_each, scaled_pixels
from data_pipelines.detection.response_windows import WindowSettings
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.prediction.localisation import Localiser, Stage


def find_windows(response, settings: WindowSettings):
    """`data_pipelines.detection.response_windows.find_windows` of one map, in float64.

    All pairs of positions are compared: a map has few, and half of them at most are above the
    median.

    Args:
        response: `[h, w]`, finite.
        settings: how windows are found.

    Returns:
        Windows float64 `[count, 4]`: y0, x0, y1, x1 in cells, and responses float64 `[count]`.
    """
    response = tf.cast(response, tf.float64)
    ordered, size = tf.sort(tf.reshape(response, [-1])), tf.size(response)
    median = (ordered[(size - 1) // 2] + ordered[size // 2]) / 2.0
    above = tf.maximum(response - median, 0.0)
    nothing = tf.fill([settings.count, 5], tf.constant(math.nan, tf.float64))
    found = tf.cond(tf.reduce_max(above) > 0, lambda: _windows(above, settings), lambda: nothing)
    return found[:, :4], found[:, 4]


def _windows(above, settings: WindowSettings):
    """Windows and responses, `[count, 5]`, of a map that is above 0 somewhere."""
    places, parent, sigma = _nearest_higher(above, settings.threshold)
    flat = tf.reshape(above, [-1])
    rho = tf.gather(flat, places)
    longest = tf.where(sigma[0] > 0, sigma[0], 1.0)
    d = tf.sqrt(tf.square(rho / rho[0]) + tf.square(sigma / longest))

    apart = (sigma >= settings.separation) | (tf.range(tf.size(rho)) == 0)
    ranked = tf.argsort(tf.where(apart, -d, 1.0), stable=True)
    peaks = ranked[: tf.minimum(settings.count, tf.math.count_nonzero(apart, dtype=tf.int32))]

    end = tf.tensor_scatter_nd_update(parent, peaks[:, None], peaks)
    (end,) = tf.while_loop(
        lambda end: tf.reduce_any(end != tf.gather(end, end)),
        lambda end: (tf.gather(end, end),),
        (end,),
    )
    cluster = tf.tensor_scatter_nd_update(tf.fill(tf.shape(flat), -1), places[:, None], end)
    rho = tf.gather(rho, peaks)
    region = _connected(
        (tf.reshape(cluster, tf.shape(above)) == peaks[:, None, None])
        & (above >= settings.fraction * rho[:, None, None]),
        tf.gather(places, peaks),
    )
    found = tf.concat([_rectangles(tf.where(region, above, 0.0), settings), rho[:, None]], 1)
    missing = settings.count - tf.shape(found)[0]
    return tf.ensure_shape(
        tf.pad(found, [[0, missing], [0, 0]], constant_values=math.nan), [settings.count, 5]
    )


def _nearest_higher(above, threshold: float):
    """The positions that take part, the highest first, and of each the nearest higher one.

    Returns:
        Place in the map int32 `[n]`, index of the nearest higher position int32 `[n]`, and its
        distance float64 `[n]`; of the highest 0 and the largest distance to any.
    """
    flat = tf.reshape(above, [-1])
    count = tf.math.count_nonzero(flat > threshold * tf.reduce_max(flat), dtype=tf.int32)
    places = tf.argsort(-flat, stable=True)[:count]
    width = tf.shape(above)[1]
    y, x = places // width, places % width
    squared = tf.cast(tf.square(y[:, None] - y) + tf.square(x[:, None] - x), tf.int64)
    # One number for both: the nearest, and of equally near ones the highest.
    index = tf.range(tf.cast(count, tf.int64))
    key = squared * tf.cast(count, tf.int64) + index
    key = tf.reduce_min(tf.where(index < index[:, None], key, tf.int64.max), axis=1)
    highest = index == 0
    parent = tf.where(highest, index, key % tf.cast(count, tf.int64))
    distance = tf.where(highest, tf.reduce_max(squared[0]), key // tf.cast(count, tf.int64))
    return places, tf.cast(parent, tf.int32), tf.sqrt(tf.cast(distance, tf.float64))


def _connected(masks, places):
    """The part of each mask `[k, h, w]` that is connected, by sides or corners, with its place."""
    size = tf.shape(masks)[1:]
    grid = tf.reshape(tf.range(size[0] * size[1]), size)

    def grown(region):
        wider = tf.nn.max_pool2d(tf.cast(region, tf.float32)[..., None], 3, 1, "SAME")[..., 0]
        return (wider > 0) & masks

    def step(region, _):
        wider = grown(region)
        return wider, tf.reduce_any(wider != region)

    start = grid == places[:, None, None]
    return tf.while_loop(lambda _, grows: grows, step, (start, tf.constant(True)))[0]


def _rectangles(weights, settings: WindowSettings):
    """Windows around regions, y0, x0, y1, x1, from the responses of these alone `[k, h, w]`."""
    centres, area = [], 1.0
    total = tf.reduce_sum(weights, axis=[1, 2])
    for axis, other in ((1, 2), (2, 1)):
        line = tf.reduce_sum(weights, axis=other)
        cells = tf.cast(tf.range(tf.shape(weights)[axis]), tf.float64) + 0.5
        centres.append(tf.linalg.matvec(line, cells) / total)
        off = tf.square(cells - centres[-1][:, None])
        area *= tf.sqrt(12.0 * tf.reduce_sum(line * off, axis=1) / total + 1.0)
    centre = tf.stack(centres, axis=1)
    side = settings.scale * tf.sqrt(area)[:, None]
    half = side * [settings.aspect**0.5, settings.aspect**-0.5] / 2.0
    return tf.concat([centre - half, centre + half], axis=1)


class Located(NamedTuple):
    """The faces of N pictures, K at most in each.

    Attributes:
        box: float32 `[N, K, 4]` left, top, width, height in pixels, those that were found first;
            NaN where there is none.
        response: float32 `[N, K]`, what the peak of LNet_o has above its map's median, or NaN.
        usable: bool `[N]`, whether the picture could be read.
        landmarks: float32 `[N, K, 5, 2]` x, y in pixels, NaN where there is no face; None of
            networks that do not find any, and so are the following.
        faces_left_out: int32 `[N]`, faces that were found beyond K.
        candidates_left_out: int32 `[N]`, places beyond a maximum that were not looked at closely.
    """

    box: Any
    response: Any
    usable: Any
    landmarks: Any = None
    faces_left_out: Any = None
    candidates_left_out: Any = None


def locate_in_files(localiser: Localiser, image_bytes, max_pixels: int) -> Located:
    """The faces in encoded images `[N]`, JPEG or PNG; one that is damaged spoils no other."""
    first = localiser.stages[0]
    rows, images = scaled_images_each(image_bytes, first.side, first.least, max_pixels=max_pixels)

    cut = cutter_of_files(image_bytes, max_pixels)
    found = _located(localiser, images, lambda of, *window: cut(tf.gather(rows, of), *window))
    count = tf.shape(image_bytes)
    usable = tf.scatter_nd(rows[:, None], tf.ones_like(rows), tf.cast(count, tf.int64)) > 0
    spread = tf.fill([count[0], *found.shape[1:]], math.nan)
    spread = tf.tensor_scatter_nd_update(spread, rows[:, None], found)
    return Located(spread[..., :4], spread[..., 4], usable)


def locate_in_pixels(localiser: Localiser, pixels) -> Located:
    """The faces in images of one size, uint8 `[N, H, W, 3]`."""
    first = localiser.stages[0]
    images = scaled_pixels(pixels, first.side, first.least)
    found = _located(localiser, images, cutter_of_pixels(pixels))
    return Located(found[..., :4], found[..., 4], tf.ones(tf.shape(pixels)[:1], tf.bool))


def cutter_of_files(image_bytes, max_pixels: int):
    """What cuts windows out of encoded images `[N]`, JPEG or PNG.

    Returns:
        A function: indices of images `[M]`, boxes in them `[M, 4]`, crop, and, where they are
        known, landmarks `[M, 5, 2]` -> float32 crops `[M, height, width, 3]`, transforms
        `[M, 2, 3]`.
    """

    def cut(of, box, crop, landmarks=None):
        files, points = tf.gather(image_bytes, of), _known(landmarks, box)
        return decode_and_crop_each(files, box, points, crop, max_pixels=max_pixels)[:2]

    return cut


def cutter_of_pixels(pixels):
    """The same for images of one size, uint8 `[N, H, W, 3]`."""

    def cut(of, box, crop, landmarks=None):
        return crop_pixels(pixels, box, _known(landmarks, box), crop, owners=of)

    return cut


def _known(landmarks, box):
    """Landmarks of faces with boxes `[M, 4]`; those that are not known are NaN."""
    if landmarks is not None:
        return landmarks
    return tf.fill([tf.shape(box)[0], len(LANDMARK_NAMES), 2], math.nan)


def _located(localiser: Localiser, images: ScaledImages, cut):
    """Box and response of the faces of images, `[m, K, 5]`.

    Args:
        localiser: finds them.
        images: the images.
        cut: cuts windows out of them, see `cutter_of_files`.
    """
    first, *rest = localiser.stages
    found = _find(first, images.read, images.transform, images.sizes)
    for stage in rest:
        windows = tf.where(tf.math.is_finite(found[..., 4]))
        of = windows[:, 0]
        crops, transform = cut(of, tf.gather_nd(found, windows)[:, :4], stage.crop)
        inner = _find(
            stage, functools.partial(tf.gather, crops), transform, tf.gather(images.sizes, of)
        )
        # The response stays the window's, unless nothing was found in it.
        score = tf.where(
            tf.math.is_nan(inner[:, 0, 4]), math.nan, tf.gather_nd(found, windows)[:, 4]
        )
        inner = tf.concat([inner[:, 0, :4], score[:, None]], axis=1)
        found = tf.tensor_scatter_nd_update(found, windows, inner)
        missing = tf.cast(tf.math.is_nan(found[..., 4]), tf.int32)
        found = tf.gather(found, tf.argsort(missing, axis=1, stable=True), batch_dims=1)
    return found


def _find(stage: Stage, read, transform, sizes):
    """Boxes and responses `[m, count, 5]` that a stage finds in what `read` gives for m indices.

    Args:
        stage: finds them.
        read: index -> what the network sees, float32 `[h, w, 3]`.
        transform: float32 `[m, 2, 3]`, from its pixels to pixels of the picture.
        sizes: int32 `[m, 2]`, height and width of the pictures.
    """
    stride, offset = stage.field.stride, stage.field.offset

    def one(index):
        response = stage.network(read(index)[None], training=False)[0]
        windows, responses = find_windows(response, stage.settings)
        place = tf.cast(transform[index], tf.float64)
        size = tf.cast(sizes[index], tf.float64)
        # Cells end half a stride from their centres, and pixels half a pixel.
        ends = tf.reshape(offset + stride * (windows - 0.5), [-1, 2, 2])[..., ::-1]
        ends = tf.clip_by_value(place[0, 0] * ends + place[:, 2], -0.5, size[::-1] - 0.5)
        low, high = tf.unstack(ends, axis=1)
        found = tf.concat([low + 0.5, high - low, responses[:, None]], axis=1)
        # What clipping makes of NaN is left to its kernel.
        found = tf.where(
            tf.math.is_nan(responses)[:, None], tf.constant(math.nan, tf.float64), found
        )
        return tf.cast(found, tf.float32)

    spec = tf.TensorSpec([stage.settings.count, 5], tf.float32)
    return tf.map_fn(one, tf.range(tf.shape(transform)[0]), fn_output_signature=spec)
