import cv2
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.crop.geometry import TEMPLATE, Crop, crop_transform
from data_pipelines.crop.pixels import decode_and_crop
from data_pipelines.errors import UserError
from data_pipelines.input.alignment_target import alignment_labels, face_numbers, relative_theta
from data_pipelines.input.augment import Augment, adjustment
from data_pipelines.input.batches import Source, evaluation_batches, training_batches
from data_pipelines.input.view import View
from data_pipelines.tasks import ALIGNMENT, CELEBA, LANDMARKS, MTFL_ATTRIBUTES, Task

SIZE = (48, 40)
TASKS = (MTFL_ATTRIBUTES, LANDMARKS, ALIGNMENT)
INPUT = Crop("box", *SIZE, margin=0.6)
DISPLACEMENT = Augment(shift=0.15, rotate=30, scale=float(np.log(1.25)))
IDENTITY = np.eye(3)[:2]


def template_in(crop):
    """Where the template lies in an aligned crop, in normalised coordinates."""
    side = np.array([min(crop.height, crop.width) / length for length in (crop.width, crop.height)])
    return (np.array(TEMPLATE) - [0.5, 0.5 + crop.vertical]) * 2 * side / (1 + 2 * crop.margin)


def fit(template, points):
    """Theta by least squares, from template to points."""
    return np.linalg.lstsq(np.c_[template, np.ones(5)], points, rcond=None)[0].T


def through(theta, points):
    return points @ theta[:, :2].T + theta[:, 2]


def sampled(image, theta):
    """The image seen through theta, by OpenCV."""
    height, width = image.shape[:2]
    pixels = np.array([[2 / width, 0, 1 / width - 1], [0, 2 / height, 1 / height - 1], [0, 0, 1]])
    transform = (np.linalg.inv(pixels) @ np.r_[theta, [[0, 0, 1]]] @ pixels)[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, transform, (width, height), flags=flags, borderValue=(np.nan,) * 3)


def evaluation(
    records, crop=INPUT, tasks=TASKS, split="train", aligned=None, displacement=None, **options
):
    options = {"batch_size": 16} | options
    view = View(crop, aligned, displacement)
    return list(
        evaluation_batches(Source(records, split), tasks, view, **options).as_numpy_iterator()
    )


def training(
    records,
    crop=INPUT,
    tasks=TASKS,
    augment=None,
    steps=4,
    aligned=None,
    displacement=None,
    **options,
):
    options = {"batch_size": 16, "seed": 3} | options
    view = View(crop, aligned, displacement)
    batches = training_batches([Source(records)], tasks, view, augment or Augment(), **options)
    return list(batches.take(steps).as_numpy_iterator())


def joined(batches, *keys):
    for key in keys:
        batches = [batch[key] for batch in batches]
    return np.concatenate(batches)


@pytest.mark.parametrize("kind", ["none", "box", "align", "affine"])
def test_theta_of_a_crop_in_itself_is_the_identity(mtfl_records, kind):
    crop = Crop(kind, *SIZE)
    theta = joined(evaluation(mtfl_records, crop, aligned=crop), "labels", "alignment")
    np.testing.assert_allclose(theta, [IDENTITY] * len(theta), atol=1e-6)


def test_theta_of_a_crop_in_itself_stays_the_identity_in_training(mtfl_records):
    batches = training(mtfl_records, aligned=INPUT, augment=Augment(flip=True), steps=2)
    theta = joined(batches, "labels", "alignment")
    np.testing.assert_allclose(theta, [IDENTITY] * len(theta), atol=1e-5)


def test_theta_of_a_small_face_far_from_the_origin_is_exact():
    crop = Crop("box", *SIZE)
    place = crop_transform(
        crop, [[6000, 8000]], [[7000.3, 5100.7, 30, 30]], np.full((1, 5, 2), np.nan)
    )
    np.testing.assert_allclose(relative_theta(place, place, *SIZE), [IDENTITY], atol=1e-6)
    moved = place.numpy() + np.float32([[[0, 0, 30], [0, 0, -15]]])
    # 30 pixels are the window's shorter side, 15 a half of it: the whole crop is 2 wide and high.
    expected = [[1, 0, 2], [0, 1, -40 / 48]]
    np.testing.assert_allclose(relative_theta(place, moved, *SIZE)[0], expected, atol=1e-4)


def test_theta_is_the_change_of_normalised_coordinates():
    random = np.random.default_rng(0)
    inner, aligned = np.float32(random.normal(size=(2, 20, 2, 3)) * [5, 5, 90] + 3 * np.eye(2, 3))
    theta = relative_theta(inner, aligned, *SIZE).numpy()
    points = random.uniform(-1, 1, (7, 2))
    for index in range(20):
        column_row = ((points + 1) * SIZE[::-1] - 1) / 2
        source = through(aligned[index].astype(float), column_row)
        back = np.linalg.solve(inner[index, :, :2].astype(float), (source - inner[index, :, 2]).T).T
        expected = (2 * back + 1) / SIZE[::-1] - 1
        np.testing.assert_allclose(through(theta[index], points), expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("aligned", "augment"),
    [
        (Crop("affine", vertical=0.1), None),
        (Crop("affine", margin=0.2), Augment(flip=True, rotate=20, shift=0.1, scale=0.2)),
    ],
)
def test_an_affine_theta_is_the_least_squares_fit_to_the_landmarks_in_the_crop(
    mtfl_records, aligned, augment
):
    batches = training(
        mtfl_records, augment=augment, aligned=aligned, displacement=DISPLACEMENT, steps=2
    )
    template = template_in(
        Crop(height=48, width=40, margin=aligned.margin, vertical=aligned.vertical)
    )
    for batch in batches:
        for theta, points in zip(
            batch["labels"]["alignment"], batch["labels"]["landmarks"], strict=True
        ):
            np.testing.assert_allclose(theta, fit(template, points), atol=2e-5)
            assert np.linalg.det(theta[:, :2]) > 0


def test_mirrored_crops_have_thetas_without_reflection(mtfl_records):
    aligned = Crop("align", margin=0.3)
    plain = joined(evaluation(mtfl_records, aligned=aligned), "labels", "alignment")
    mirrored = joined(evaluation(mtfl_records, aligned=aligned, flip=True), "labels", "alignment")
    assert (np.linalg.det(mirrored[:, :, :2]) > 0).all()
    # A mirror on both sides: what concerns x alone, or y alone, stays.
    np.testing.assert_allclose(mirrored, plain * [[1, -1, -1], [-1, 1, 1]], atol=1e-5)


@pytest.mark.parametrize(("kind", "displacement"), [("align", None), ("affine", DISPLACEMENT)])
def test_the_crop_seen_through_theta_is_the_aligned_crop(mtfl_records, kind, displacement):
    crop, aligned = Crop("box", 120, 104, margin=1.5), Crop(kind, 120, 104, margin=-0.1)
    expected = joined(evaluation(mtfl_records, aligned), "image")
    batches = evaluation(mtfl_records, crop, aligned=aligned, displacement=displacement)
    differences, unmoved = [], []
    for image, theta, wanted in zip(
        joined(batches, "image"), joined(batches, "labels", "alignment"), expected, strict=True
    ):
        seen = sampled(image, theta)
        inside = np.isfinite(seen)
        assert inside.mean() > 0.7
        differences.append(np.abs(seen - wanted)[inside].mean())
        unmoved.append(np.abs(image - wanted)[inside].mean())
    # The crop holds less detail than the picture that the aligned one is made of.
    assert np.mean(differences) < 0.1 * np.mean(unmoved)
    assert np.max(differences) < 20


def test_theta_brings_displaced_faces_back(mtfl_records):
    whole = Crop("none", *SIZE)
    straight = joined(evaluation(mtfl_records, whole), "labels", "landmarks")
    batches = evaluation(mtfl_records, whole, aligned=whole, displacement=DISPLACEMENT)
    displaced = joined(batches, "labels", "landmarks")
    thetas = joined(batches, "labels", "alignment")
    assert np.abs(displaced - straight).mean() > 0.05
    for theta, points, expected in zip(thetas, straight, displaced, strict=True):
        np.testing.assert_allclose(through(theta, points), expected, atol=1e-4)


def test_landmarks_of_aligned_faces_lie_on_the_template(mtfl_records):
    aligned = Crop("align", margin=0.2)
    batches = evaluation(mtfl_records, aligned=aligned, displacement=DISPLACEMENT)
    template = template_in(Crop(height=48, width=40, margin=0.2))
    errors = []
    for theta, points in zip(
        joined(batches, "labels", "alignment"), joined(batches, "labels", "landmarks"), strict=True
    ):
        back = np.linalg.solve(theta[:, :2], (points - theta[:, 2]).T).T
        errors.append(np.linalg.norm(back - template, axis=1).mean())
    assert np.mean(errors) < 0.08


def test_a_displacement_belongs_to_the_face(mtfl_records):
    crop = Crop("none", *SIZE)
    options = {"aligned": crop, "displacement": DISPLACEMENT}

    def thetas(batches):
        found = {}
        for batch in batches:
            for name, theta in zip(batch["filename"], batch["labels"]["alignment"], strict=True):
                np.testing.assert_allclose(found.setdefault(name, theta), theta, atol=1e-5)
        return found

    whole = thetas(evaluation(mtfl_records, crop, **options))
    assert len(np.unique(np.round(list(whole.values()), 4), axis=0)) == len(whole)
    for batches in (
        evaluation(mtfl_records, crop, batch_size=50, **options),
        training(mtfl_records, crop, steps=5, **options),  # an epoch and a quarter
        training(mtfl_records, crop, steps=1, seed=4, start_step=5, worker=(1, 2), **options),
    ):
        for name, theta in thetas(batches).items():
            np.testing.assert_allclose(theta, whole[name], atol=1e-5)


def test_the_later_and_the_divided_stream_agree_with_the_whole_one(mtfl_records):
    options = {
        "aligned": Crop("align"),
        "displacement": DISPLACEMENT,
        "augment": Augment(flip=True, rotate=9),
    }
    whole = training(mtfl_records, steps=3, **options)
    later = training(mtfl_records, steps=1, start_step=2, **options)
    second_half = training(mtfl_records, steps=1, worker=(1, 2), **options)
    for key in (("image",), ("transform",), ("labels", "alignment"), ("labels", "landmarks")):
        np.testing.assert_array_equal(joined(later, *key), joined(whole[2:], *key))
        expected = joined(whole[:1], *key)[8:]
        np.testing.assert_allclose(joined(second_half, *key), expected, atol=0.01)


def test_displacements_fill_their_ranges_evenly():
    names = tf.constant([f"folder/{index:06}.jpg" for index in range(20_000)])
    transform, flipped = adjustment(DISPLACEMENT, face_numbers(names), 60, 80)
    assert not flipped.numpy().any()
    transform = transform.numpy().astype(float)
    centre = np.array([39.5, 29.5])
    shift = (through_all(transform, centre) - centre) / [80, 60]
    values = {
        "angle": (np.degrees(np.arctan2(transform[:, 1, 0], transform[:, 0, 0])), 30),
        "scale": (np.log(np.hypot(transform[:, 0, 0], transform[:, 1, 0])), np.log(1.25)),
        "x": (shift[:, 0], 0.15),
        "y": (shift[:, 1], 0.15),
    }
    for name, (found, greatest) in values.items():
        assert np.abs(found).max() <= greatest * 1.00001, name
        counts, _ = np.histogram(found, 10, (-greatest * 1.00001, greatest * 1.00001))
        # The standard deviation of a tenth of 20,000 draws is 42.
        assert np.abs(counts - 2000).max() < 180, name
    table = np.stack([found for found, _ in values.values()])
    assert np.abs(np.corrcoef(table) - np.eye(4)).max() < 0.03


def through_all(transforms, point):
    return np.einsum("bij,j->bi", transforms[:, :, :2], point) + transforms[:, :, 2]


def test_unknown_landmarks_leave_theta_unknown():
    points = np.float32([[[20, 20], [40, 20], [30, 30], [22, 40], [38, 40]]]).repeat(3, axis=0)
    points[1, 4, 0] = points[2] = np.nan
    box = np.float32([[10, 10, 40, 40]] * 3)
    inner = crop_transform(INPUT, [[64, 64]] * 3, box, points)
    for kind, known in (("align", [1, 0, 0]), ("affine", [1, 0, 0]), ("box", [1, 1, 1])):
        theta = alignment_labels(Crop(kind, *SIZE), [[64, 64]] * 3, box, points, inner, None)
        np.testing.assert_array_equal(np.isfinite(theta).all(axis=(1, 2)), known)
        np.testing.assert_array_equal(np.isnan(theta).all(axis=(1, 2)), np.logical_not(known))


def test_without_an_aligned_crop_theta_is_unknown(mtfl_records):
    for batch in (
        *evaluation(mtfl_records),
        *training(mtfl_records, displacement=DISPLACEMENT, steps=1),
    ):
        theta = batch["labels"]["alignment"]
        assert theta.shape == (len(batch["image"]), 2, 3) and theta.dtype == np.float32
        assert np.isnan(theta).all()


def test_transforms_alone_are_tasks_enough_but_do_not_stand_for_missing_ones(celeba_records):
    crop = Crop("none", *SIZE)
    (batch, *_) = evaluation(
        celeba_records, crop, (ALIGNMENT,), aligned=crop, displacement=DISPLACEMENT
    )
    assert list(batch["labels"]) == ["alignment"]
    assert np.isfinite(batch["labels"]["alignment"]).all()
    assert evaluation(celeba_records, crop, (CELEBA, ALIGNMENT))
    other = Task("age", "regression", ("years",))
    with pytest.raises(UserError, match="none of its tasks .* has labels of the model's .age."):
        evaluation(celeba_records, crop, (other, ALIGNMENT))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"displacement": Augment(flip=True)},
            "displacement: flip True does not move a face; it has: shift",
        ),
        ({"displacement": Augment(blur=0.1)}, r"displacement: blur 0\.1"),
        ({"displacement": Augment(cutout_probability=0.1)}, "displacement: cutout_probability"),
        ({"displacement": Augment(rotate=-1)}, "displacement: rotate -1 must be 0 or more"),
        ({"aligned": Crop("face")}, "kind 'face'"),
        ({"aligned": Crop("window", window=0)}, "window 0 stands for the mean box"),
        ({"crop": Crop("window", window=0)}, "window 0 stands for the mean box"),
    ],
)
def test_mistakes_are_named(mtfl_records, options, message):
    for read in (training, evaluation):
        with pytest.raises(UserError, match=message):
            read(mtfl_records, **options)


def test_a_stretched_face_is_not_blurred():
    # Stripes of two pixels along the axis that is not reduced, seen by a fit that is four times as
    # wide as it is high.
    rows = np.arange(200) // 2 % 2 * 200
    picture = np.repeat(rows[:, None, None], 200, axis=1).repeat(3, axis=2).astype(np.uint8)
    encoded = cv2.imencode(".png", picture)[1].tobytes()
    points = (np.array(TEMPLATE) * 32 - 0.5) * [4, 1] + [30, 100]
    crop = Crop("affine", 32, 32)
    place = (tf.constant([encoded]), np.full((1, 4), np.nan, np.float32), np.float32([points]))
    image, transform = decode_and_crop(*place, crop)
    np.testing.assert_allclose(transform[0], [[4, 0, 30], [0, 1, 100]], atol=1e-3)
    assert np.ptp(image.numpy(), axis=1).min() > 150
