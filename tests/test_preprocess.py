import dataclasses
import functools
import struct
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from data_pipelines.crop.geometry import Crop, to_crop_coordinates
from data_pipelines.crop.image_headers import decode, image_sizes
from data_pipelines.crop.pixels import (
    crop_pixels,
    decode_and_crop,
    decode_and_crop_each,
    halved_window,
)
from data_pipelines.errors import UserError
from data_pipelines.input.augment import (
    Augment,
    adjustment,
    change_colours,
    mirror,
    random_numbers,
    soften,
)

RANDOM = np.random.default_rng(0)


def smooth_picture(height, width):
    """Random colours without fine detail, so that JPEG keeps them."""
    coarse = RANDOM.integers(0, 256, (height // 12 + 2, width // 12 + 2, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def png(picture):
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def jpeg(picture, quality=98):
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour]
    return cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()


def test_a_list_of_files_is_cropped_whatever_their_format():
    picture = np.full((30, 40, 3), 90, np.uint8)
    files = [jpeg(picture), png(picture)]
    nowhere = np.full((2, 4), np.nan, "f4"), np.full((2, 5, 2), np.nan, "f4")
    images, _ = decode_and_crop(files, *nowhere, Crop("none", 12, 10))
    expected, _ = decode_and_crop(tf.constant(files), *nowhere, Crop("none", 12, 10))
    np.testing.assert_array_equal(images, expected)


def crop_all(encoded, crop, box=None, landmarks=None, **options):
    count = len(encoded)
    box = np.full((count, 4), np.nan, np.float32) if box is None else np.float32(box)
    if landmarks is None:
        landmarks = np.full((count, 5, 2), np.nan, np.float32)
    images, transform = decode_and_crop(
        tf.constant(encoded), box, np.float32(landmarks), crop, **options
    )
    return images.numpy(), transform.numpy()


def interpolated(picture, transform, height, width):
    """What SciPy makes of the picture through the transform, edge pixels repeated."""
    y, x = np.mgrid[:height, :width]
    columns, rows = np.einsum("ij,jhw->ihw", transform, np.stack([x, y, np.ones_like(x)]))
    return np.stack(
        [
            ndimage.map_coordinates(picture[..., c].astype(float), [rows, columns], order=1,
                                    mode="nearest")
            for c in range(3)
        ],
        axis=-1,
    )  # fmt: skip


def rotation(degrees, scale, x, y):
    angle = np.radians(degrees)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[[a, -b, x], [b, a, y]]], np.float32)


WHOLE = Crop("box", height=40, width=50)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "adjust",
    [
        None,
        rotation(0, 0.7, 8, 5),
        rotation(25, 1.1, 4, -6),
        rotation(-160, 0.9, 30, 20),
        rotation(10, 1.3, -70, 90),
    ],
    ids=["plain", "enlarged", "turned", "upside_down", "mostly_outside"],
)
def test_crops_are_bilinear_with_edge_pixels_of_their_own_image(adjust, stream):
    # Two images of different size: the edges must be those of the image, not of a common canvas.
    pictures = [smooth_picture(55, 70), smooth_picture(81, 64)]
    boxes = [[3, 4, 60, 48], [-10, 20, 62, 50]]
    adjust = None if adjust is None else np.repeat(adjust, 2, axis=0)
    images, transforms = crop_all(
        [png(picture) for picture in pictures], WHOLE, boxes, adjust=adjust, stream=stream
    )
    for image, picture, transform in zip(images, pictures, transforms, strict=True):
        np.testing.assert_allclose(image, interpolated(picture, transform, 40, 50), atol=0.02)
        by_opencv = cv2.warpAffine(
            picture.astype(np.float32),
            transform,
            (50, 40),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        # OpenCV rounds positions to 1/32 pixel.
        assert np.abs(image - by_opencv).max() < 6
        assert np.abs(image - by_opencv).mean() < 0.5


@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("shrink", [1.0, 1.9, 2.0, 3.1, 4.0, 7.9, 8.0, 17.0, 40.0])
def test_shrinking_averages_and_stays_in_place(encode, shrink):
    # A ramp: whatever is averaged, every pixel must keep the value of its place.
    height, width = round(12 * shrink) + 5, round(16 * shrink) + 3
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x + 99], -1)
    ramp = ramp.round().astype(np.uint8)
    images, transforms = crop_all([encode(ramp)], Crop("none", height=12, width=16))
    expected = interpolated(ramp, transforms[0], 12, 16)
    # Near the border, an average over a block that ends outside is off by a part of the step; the
    # decoder's quick transform is off by a few levels.
    inner = (slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(images[0][inner], expected[inner], atol=6 if encode is jpeg else 1.5)
    np.testing.assert_allclose(images[0], expected, atol=10)


@pytest.mark.parametrize("encode", [png, jpeg])
@pytest.mark.parametrize("shrink", [2, 4, 8, 16])
def test_fine_detail_does_not_alias(encode, shrink):
    board = (np.indices((16 * shrink, 16 * shrink)).sum(0) % 2 * 200).astype(np.uint8)
    images, _ = crop_all([encode(np.stack([board] * 3, -1))], Crop("none", height=16, width=16))
    np.testing.assert_allclose(images, 100, atol=4)


@pytest.mark.parametrize("side", [30, 100, 170, 330])
def test_a_small_window_of_a_large_jpeg_equals_that_of_the_decoded_picture(side):
    encoded = jpeg(smooth_picture(400, 420))
    decoded = tf.io.decode_jpeg(encoded, channels=3).numpy()
    crop = Crop("box", height=32, width=32)
    boxes = [[200, 170, side, side]]
    from_jpeg, _ = crop_all([encoded], crop, boxes)
    from_png, _ = crop_all([png(decoded)], crop, boxes)
    # The decoder reduces by leaving out frequencies, which is not quite the mean over a block.
    np.testing.assert_allclose(from_jpeg, from_png, atol=0.02 if side < 64 else 12)
    assert np.abs(from_jpeg - from_png).mean() < 2


def test_stream_and_single_calls_agree():
    pictures = [smooth_picture(h, w) for h, w in ((90, 80), (300, 200), (64, 333))]
    encoded = [jpeg(pictures[0]), jpeg(pictures[1]), png(pictures[2])]
    boxes = [[10, 10, 60, 60], [-30, 50, 200, 150], [np.nan] * 4]
    crop = Crop("box", height=48, width=40, margin=0.2)
    together, transforms = crop_all(encoded, crop, boxes, stream=True)
    for index, one in enumerate(encoded):
        image, transform = crop_all([one], crop, boxes[index : index + 1])
        np.testing.assert_allclose(together[index], image[0], atol=0.02)
        np.testing.assert_allclose(transforms[index], transform[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [20, 100, 400])
def test_decoded_pixels_are_cropped_like_encoded_ones(side):
    pictures = np.stack([smooth_picture(210, 190) for _ in range(2)])
    boxes = np.float32([[40, 50, side, side], [np.nan] * 4])
    nowhere = np.full((2, 5, 2), np.nan, np.float32)
    crop = Crop("box", height=24, width=20)
    from_pixels, transform = crop_pixels(pictures, boxes, nowhere, crop)
    from_bytes, expected = crop_all([png(picture) for picture in pictures], crop, boxes)
    np.testing.assert_allclose(from_pixels, from_bytes, atol=1e-3)
    np.testing.assert_allclose(transform, expected, atol=1e-5)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_window_of_what_is_halved_is_the_mean_over_its_blocks(times):
    picture, block = RANDOM.integers(0, 256, (45, 70, 3), np.uint8), 2**times
    edges = [(0, -length % block) for length in picture.shape[:2]]
    complete = np.pad(picture, [*edges, (0, 0)], mode="edge").astype(np.float32)
    means = np.round(complete.reshape(-(-45 // block), block, -1, block, 3).mean(axis=(1, 3)))
    for top, left, height, width in ((0, 0, *means.shape[:2]), (1, 2, 3, 4), (4, 7, 2, 2)):
        found = halved_window(tf.constant(picture), tf.constant([top, left, height, width]), times)
        np.testing.assert_array_equal(found, means[top : top + height, left : left + width])


@pytest.mark.parametrize("times", [1, 2, 4, 8, 20])
def test_crops_of_one_picture_are_decoded_together_and_to_the_bit_as_alone(times, monkeypatch):
    pictures = [smooth_picture(400, 300), smooth_picture(310, 420)]
    files, owners = [jpeg(pictures[0]), png(pictures[1])], [1, 0, 1, 1, 0]
    boxes = np.float32(RANDOM.uniform(0, 100, (5, 4)) + [0, 0, 8 * times, 8 * times])
    crop, nowhere = Crop("box", height=9, width=8), np.full((5, 5, 2), np.nan, np.float32)
    alone, expected = decode_and_crop([files[i] for i in owners], boxes, nowhere, crop)
    whole = []
    monkeypatch.setattr(
        "data_pipelines.crop.pixels.decode", lambda data: whole.append(data) or decode(data)
    )
    found, transform = decode_and_crop(files, boxes, nowhere, crop, owners=tf.constant(owners))
    np.testing.assert_array_equal(found, alone)
    np.testing.assert_array_equal(transform, expected)
    assert len(whole) == (1 if times < 16 else 2)  # beyond 8 JPEG's decoder does not reduce


def test_formats_and_grey_pictures():
    picture = smooth_picture(60, 60)
    grey = picture.mean(axis=2).astype(np.uint8)
    alpha = np.dstack([picture[..., ::-1], np.full((60, 60), 7, np.uint8)])
    encoded = [
        jpeg(picture),
        png(picture),
        cv2.imencode(".bmp", picture[..., ::-1])[1].tobytes(),
        cv2.imencode(".png", alpha)[1].tobytes(),
        cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes(),
        cv2.imencode(".png", grey)[1].tobytes(),
        cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    ]
    images, _ = crop_all(encoded, Crop("none", height=60, width=60))
    for index in (0, 1, 2, 3):
        np.testing.assert_allclose(images[index], picture, atol=13)
    for index in (4, 5):
        np.testing.assert_allclose(images[index], np.stack([grey] * 3, -1), atol=13)
    assert np.abs(images[6] - picture).mean() < 8


def test_sizes_come_from_headers_of_every_kind():
    picture = smooth_picture(37, 81)
    progressive = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    # A long application segment, as cameras write, moves the frame header back.
    camera = jpeg(picture)
    camera = camera[:2] + b"\xff\xe1\xff\x00" + b"\xff\xc0" * (0xFEFE // 2) + camera[2:]
    jpegs = tf.constant([jpeg(picture), progressive, camera])
    np.testing.assert_array_equal(image_sizes(jpegs), [[37, 81]] * 3)
    mixed = tf.constant([jpeg(picture), png(picture[:, :20])])
    np.testing.assert_array_equal(image_sizes(mixed), [[37, 81], [37, 20]])


@pytest.mark.parametrize(
    "damaged", [b"", b"\xff\xd8\xff", b"no image", jpeg(smooth_picture(90, 90))[:300]]
)
def test_damaged_images_are_an_error(damaged):
    good = jpeg(smooth_picture(40, 40))
    with pytest.raises(tf.errors.InvalidArgumentError):
        crop_all([good, damaged], Crop("none"))


def crop_each(encoded, crop, box=None, max_pixels=20_000):
    count = len(encoded)
    box = np.full((count, 4), np.nan, np.float32) if box is None else np.float32(box)
    landmarks = np.full((count, 5, 2), np.nan, np.float32)
    decode = cropping_each(dataclasses.astuple(crop), max_pixels)
    results = decode(tf.constant(encoded, tf.string, [count]), box, landmarks)
    return [values.numpy() for values in results]


@functools.cache
def cropping_each(crop, max_pixels):
    """`decode_and_crop_each` as a graph for any number of images, traced once."""
    return tf.function(
        lambda *args: decode_and_crop_each(*args, Crop(*crop), max_pixels=max_pixels),
        [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 4]), tf.TensorSpec([None, 5, 2])],
        autograph=False,
    )


def with_stated_size(encoded: bytes, width: int, height: int) -> bytes:
    """A PNG whose header states another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + encoded[24:29]
    return encoded[:12] + header + struct.pack(">I", zlib.crc32(header)) + encoded[33:]


BAD = {
    "empty": b"",
    "text": b"no image",
    "JPEG without frame": b"\xff\xd8\xff\xe0",
    "JPEG, header only": jpeg(smooth_picture(90, 90))[:300],
    "JPEG, first half": jpeg(smooth_picture(90, 90))[:2000],
    "PNG, header only": png(smooth_picture(90, 90))[:33],
    "PNG, first half": png(smooth_picture(90, 90))[:4000],
    "PNG of no size": with_stated_size(png(smooth_picture(9, 9)), 0, 9),
    "PNG of another size": with_stated_size(png(smooth_picture(9, 9)), 30, 30),
    "PNG beyond all sizes": with_stated_size(png(smooth_picture(9, 9)), 2**31 + 5, 2**31 + 5),
    "too large JPEG": jpeg(smooth_picture(101, 200)),
    "too large PNG": png(smooth_picture(101, 200)),
    "BMP": cv2.imencode(".bmp", smooth_picture(9, 9))[1].tobytes(),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_spoils_no_other(name):
    picture = smooth_picture(60, 48)
    good = [jpeg(picture), png(picture[:30]), png(picture[..., 0]), jpeg(smooth_picture(100, 200))]
    crop = Crop("none", height=24, width=20)
    expected, transforms = crop_all(good, crop)
    images, found, usable = crop_each([BAD[name], *good[:2], BAD[name], *good[2:]], crop)
    assert usable.tolist() == [False, True, True, False, True, True]
    np.testing.assert_allclose(images[usable], expected, atol=1e-3)
    np.testing.assert_allclose(found[usable], transforms, atol=1e-3)
    assert not images[~usable].any() and np.isfinite(found).all()
    images, _, usable = crop_each([BAD[name]] * 2, crop)
    assert images.shape == (2, 24, 20, 3) and not usable.any()


def test_too_large_images_are_not_decoded():
    """The decoder would fail: the picture is cut off behind its header."""
    crop = Crop("none", height=24, width=20)
    huge = with_stated_size(png(smooth_picture(9, 9)), 200_000, 200_000)
    _, _, usable = crop_each([huge, png(smooth_picture(30, 30))], crop)
    assert usable.tolist() == [False, True]


def test_unusual_headers_are_read_by_the_decoder():
    picture = smooth_picture(40, 48)
    filled = jpeg(picture)
    filled = filled[:2] + b"\xff" * 5 + filled[2:]  # fill bytes ahead of a marker
    crop = Crop("none", height=24, width=20)
    images, _, usable = crop_each([filled, jpeg(picture)], crop)
    assert usable.all()
    np.testing.assert_array_equal(images[0], images[1])


def test_no_image_is_no_batch():
    images, transform, usable = crop_each([], Crop("none", height=24, width=20))
    assert (images.shape, transform.shape, usable.shape) == ((0, 24, 20, 3), (0, 2, 3), (0,))


def test_a_senseless_box_spoils_no_other():
    picture = png(smooth_picture(60, 60))
    boxes = [[10, 10, 30, 30], [np.inf] * 4, [5, 5, 3e38, 3e38], [-5e9, -5e9, 9, 9], [9, 9, 0, -4]]
    crop = Crop("box", height=24, width=20)
    images, _, usable = crop_each([picture] * 5, crop, boxes)
    expected, _ = crop_all([picture], crop, boxes[:1])
    assert usable[0] and usable[1]  # one that is not finite is as good as none
    assert usable[2:4].tolist() == [False, False]
    np.testing.assert_allclose(images[:1], expected, atol=1e-3)
    assert np.isfinite(images).all()


@pytest.mark.parametrize("kind", ["align", "affine", "window"])
def test_the_graph_can_be_saved_and_takes_any_number_of_images(tmp_path, kind):
    crop = Crop(kind, height=32, width=24, margin=0.1, window=40)

    class Module(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string),
                tf.TensorSpec([None, 4], tf.float32),
                tf.TensorSpec([None, 5, 2], tf.float32),
            ]
        )
        def serve(self, image_bytes, box, landmarks):
            images, transform = decode_and_crop(image_bytes, box, landmarks, crop)
            return {"images": images, "transform": transform}

    tf.saved_model.save(Module(), str(tmp_path / "saved"))
    loaded = tf.saved_model.load(str(tmp_path / "saved"))
    operations = {
        node.op
        for function in loaded.serve.concrete_functions[0].graph.as_graph_def().library.function
        for node in function.node_def
    }
    assert not any("PyFunc" in name or "Xla" in name for name in operations)
    face = np.array([[30, 30], [60, 28], [45, 45], [34, 62], [58, 60]], np.float32)
    for count in (0, 1, 3):
        encoded = [jpeg(smooth_picture(90, 100 + i)) for i in range(count)]
        landmarks = np.repeat(face[None], count, axis=0)
        box = np.full((count, 4), np.nan, np.float32)
        got = loaded.serve(tf.constant(encoded, tf.string, [count]), box, landmarks)
        assert got["images"].shape == (count, 32, 24, 3)
        if count:
            expected, _ = crop_all(encoded, crop, box, landmarks)
            np.testing.assert_allclose(got["images"], expected, atol=0.01)


def test_landmarks_stay_on_what_they_marked():
    strong = Augment(flip=True, shift=0.1, rotate=40, scale=0.2)
    crop = Crop("align", height=96, width=96, margin=0.3)
    face = np.array([[80, 80], [120, 76], [104, 102], [88, 124], [118, 120]], np.float32)
    picture = np.zeros((200, 200, 3), np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]])
    for point, colour in zip(face, colours, strict=True):
        cv2.circle(picture, point.astype(int).tolist(), 3, colour.tolist(), -1)
    count = 32
    numbers = random_numbers(3, tf.range(count, dtype=tf.int64))
    adjust, flipped = adjustment(strong, numbers, 96, 96)
    assert 5 < flipped.numpy().sum() < 27
    landmarks = np.repeat(face[None], count, axis=0)
    images, transforms = crop_all([png(picture)] * count, crop, None, landmarks, adjust=adjust)
    points = (to_crop_coordinates(landmarks, transforms, 96, 96) + 1) * 48 - 0.5
    for image, spots in zip(images, points, strict=True):
        for (x, y), colour in zip(spots, colours, strict=True):
            if 1 < x < 94 and 1 < y < 94:
                assert np.abs(image[round(float(y)), round(float(x))] - colour).max() < 90


def test_mirror_reverses_the_columns():
    encoded = [jpeg(smooth_picture(70, 90))]
    crop = Crop("none", height=33, width=47)
    plain, _ = crop_all(encoded, crop)
    mirrored, _ = crop_all(encoded, crop, adjust=mirror(1, 47))
    np.testing.assert_allclose(mirrored, plain[:, :, ::-1], atol=0.02)


def test_adjustment_rotates_scales_and_shifts_about_the_centre():
    numbers = {name: tf.constant([1.0]) for name in random_numbers(0, tf.constant([0], tf.int64))}
    augment = Augment(shift=0.1, rotate=90, scale=float(np.log(2)))
    transform, flipped = adjustment(augment, numbers, height=41, width=21)
    # The crop's centre looks at a place 0.1 of the sides further; one pixel to the right in the
    # crop is two pixels down in the unchanged one.
    matrix = transform.numpy()[0]
    np.testing.assert_allclose(matrix @ [10, 20, 1], [10 + 2.1, 20 + 4.1], atol=1e-4)
    np.testing.assert_allclose(matrix @ [11, 20, 1], [10 + 2.1, 20 + 4.1 + 2], atol=1e-4)
    assert not flipped.numpy()[0]


def test_ten_crop_shows_the_centre_or_a_corner_mirrored_or_not():
    numbers = random_numbers(5, tf.range(500, dtype=tf.int64))
    transforms, flipped = adjustment(Augment(ten_crop=0.75), numbers, height=40, width=80)
    # Where the borders of a patch of 30 x 60 pixels lie in the whole crop, from the first pixel on.
    corners = np.array([[-0.5, -0.5, 1], [79.5, 39.5, 1]])
    seen = np.sort(np.einsum("bij,nj->bni", transforms, corners), axis=1)
    cases, counts = np.unique(
        np.round(np.column_stack([seen.reshape(-1, 4), flipped]), 3), axis=0, return_counts=True
    )
    starts = [(9.5, 4.5), (-0.5, -0.5), (19.5, -0.5), (-0.5, 9.5), (19.5, 9.5)]
    expected = [(x, y, x + 60, y + 30, mirrored) for x, y in starts for mirrored in (0, 1)]
    np.testing.assert_allclose(cases, sorted(expected), atol=1e-3)
    assert counts.min() > 30
    x_to_x = transforms[:, 0, 0].numpy()
    np.testing.assert_allclose(x_to_x, np.where(flipped, -0.75, 0.75), atol=1e-6)


def test_nothing_changes_when_nothing_is_asked_for():
    augment = Augment()
    numbers = random_numbers(0, tf.range(4, dtype=tf.int64))
    transform, flipped = adjustment(augment, numbers, 30, 20)
    np.testing.assert_allclose(transform, [[[1, 0, 0], [0, 1, 0]]] * 4, atol=1e-6)
    assert not flipped.numpy().any()
    images = RANDOM.uniform(0, 255, (4, 30, 20, 3)).astype(np.float32)
    np.testing.assert_array_equal(change_colours(augment, numbers, images), images)
    assert not augment.geometric and not augment.colourful


def splitmix(seed, position, draw):
    """One random number by Python's integers."""

    def mix(bits):
        bits = ((bits ^ bits >> 30) * 0xBF58476D1CE4E5B9) % 2**64
        bits = ((bits ^ bits >> 27) * 0x94D049BB133111EB) % 2**64
        return bits ^ bits >> 31

    bits = position * 0xD1342543DE82EF95 + seed * 0x2545F4914F6CDD1D + 0x9E3779B97F4A7C15
    bits = mix((mix(bits % 2**64) + (draw + 1) * 0x9E3779B97F4A7C15) % 2**64)
    return (bits >> 40) / 2**24


def test_random_numbers_are_the_documented_hash():
    positions = [0, 1, 2**31, 2**40 + 5]
    numbers = random_numbers(12345, tf.constant(positions, tf.int64))
    for draw, values in enumerate(numbers.values()):
        expected = [splitmix(12345, position, draw) for position in positions]
        np.testing.assert_array_equal(values, np.float32(expected))


def test_random_numbers_are_uniform_and_independent():
    numbers = random_numbers(7, tf.range(20_000, dtype=tf.int64))
    table = np.stack(list(numbers.values()))
    assert table.min() >= 0 and table.max() < 1
    np.testing.assert_allclose(table.mean(axis=1), 0.5, atol=0.01)
    np.testing.assert_allclose(table.std(axis=1), 12**-0.5, atol=0.01)
    following = np.corrcoef(np.concatenate([table[:, :-1], table[:, 1:]]))
    assert np.abs(following - np.eye(len(following))).max() < 0.04
    other = np.stack(list(random_numbers(8, tf.range(20_000, dtype=tf.int64)).values()))
    assert abs(np.corrcoef(table.ravel(), other.ravel())[0, 1]) < 0.01


def numbers_with(**chosen):
    numbers = random_numbers(0, tf.range(2, dtype=tf.int64))
    return numbers | {name: tf.constant([value, 0.5]) for name, value in chosen.items()}


def test_colour_changes_against_numpy():
    images = RANDOM.uniform(0, 255, (2, 20, 30, 3)).astype(np.float32)
    grey = (images * [0.299, 0.587, 0.114]).sum(-1, keepdims=True)[0]

    def changed(augment, **chosen):
        return change_colours(augment, numbers_with(**chosen), images).numpy()[0]

    def clipped(values):
        return np.clip(values, 0, 255)

    got = changed(Augment(brightness=0.2), brightness=0.75)
    np.testing.assert_allclose(got, clipped(images[0] + 0.1 * 255), atol=0.01)
    got = changed(Augment(contrast=0.4), contrast=0.0)
    np.testing.assert_allclose(got, clipped(0.6 * images[0] + 0.4 * 127.5), atol=0.01)
    got = changed(Augment(saturation=0.5), saturation=1.0)
    np.testing.assert_allclose(got, clipped(grey + 1.5 * (images[0] - grey)), atol=0.01)
    got = changed(Augment(grey=0.3), grey=0.2)
    np.testing.assert_allclose(got, np.repeat(grey, 3, -1), atol=0.01)
    got = soften(Augment(blur=1.0), numbers_with(blur=1.0), images).numpy()[0]
    expected = ndimage.uniform_filter(images[0], (3, 3, 1), mode="nearest")
    np.testing.assert_allclose(got, expected, atol=0.01)


def test_cutout_hides_a_square_inside_the_crop():
    images = np.zeros((2, 40, 20, 3), np.float32)
    for x, y in ((0.0, 0.0), (0.3, 0.9), (0.999, 0.999)):
        numbers = numbers_with(cutout=0.1, cutout_x=x, cutout_y=y)
        got = change_colours(Augment(cutout=0.25), numbers, images).numpy()
        rows, columns = np.nonzero(got[0, :, :, 0])
        assert len(rows) == 50 and np.ptp(rows) == 9 and np.ptp(columns) == 4
        assert set(np.unique(got[0])) == {0.0, 127.5}
        assert not got[1].any()  # drawn 0.5: not below the probability of 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shift": -0.1}, "shift -0.1 must be 0 or more"),
        ({"grey": 1.5}, "grey 1.5 must be between"),
    ],
)
def test_a_senseless_augmentation_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Augment(**fields).check()
