import itertools

import cv2
import numpy as np
import pytest
import tensorflow as tf

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input import stream
from data_pipelines.input.augment import Augment, RandomCopy
from data_pipelines.input.batches import (
    Source,
    evaluation_batches,
    named_failures,
    training_batches,
)
from data_pipelines.input.view import View
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import LANDMARKS, POSE, Task

ATTRIBUTES = Task("attributes", "multilabel", ("Male", "Smiling", "Young"))
AGE = Task("age", "regression", ("years",))
CROP = Crop("none", height=8, width=8)
FACE = np.array([[6, 6], [13, 6], [10, 10], [7, 14], [12, 14]], np.float32)


def feature(values):
    values = np.ravel(values)
    if values.dtype.kind == "i":
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def text(value):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_records(folder, name, count, tasks, labels, image=None, landmarks=None, shards=2):
    """A record set of `count` pictures named NAME-000, ..., whose red is their number."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = tuple(str(folder / f"train.tfrecord-{shard}") for shard in range(shards))
    bounds = np.linspace(0, count, shards + 1).astype(int)
    for path, (start, end) in zip(paths, itertools.pairwise(bounds), strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for index in range(start, end):
                picture = np.zeros((20, 20, 3), np.uint8)
                picture[..., 2] = index
                encoded = cv2.imencode(".png", picture)[1].tobytes()
                fields = {
                    "image": text(image(index) if image else encoded),
                    "filename": text(f"{name}-{index:03}".encode()),
                    "box": feature(np.full(4, np.nan)),
                    "landmarks": feature(
                        np.full((5, 2), np.nan) if landmarks is None else landmarks
                    ),
                    "identity": feature(np.array([-1])),
                }
                for task, values in labels(index).items():
                    fields[f"tasks/{task}"] = feature(np.array(values))
                example = tf.train.Example(features=tf.train.Features(feature=fields))
                writer.write(example.SerializeToString())
    return RecordSet(str(folder), name, tasks, {"train": count}, {"train": paths}, {}, {}, {})


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    def labels(index):
        return {"attributes": [index % 2, index % 3 - 1, 1], "pose": index % 6 - 1}

    folder = tmp_path_factory.mktemp("first")
    tasks = (ATTRIBUTES, POSE, LANDMARKS)
    return write_records(folder, "first", 37, tasks, labels, landmarks=FACE)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    reordered = Task("attributes", "multilabel", ("Young", "Bald", "Male", "Wearing_Hat"))

    def labels(index):
        return {"attributes": [0, 1, index % 2, -1], "age": [index + 0.5]}

    folder = tmp_path_factory.mktemp("second")
    return write_records(folder, "second", 11, (reordered, AGE), labels, shards=1)


def training(sources, tasks=(ATTRIBUTES,), augment=None, crop=CROP, **options):
    options = {"batch_size": 8, "seed": 5} | options
    return training_batches(sources, tasks, View(crop), augment or Augment(), **options)


def take(batches, count):
    return list(batches.take(count).as_numpy_iterator())


def names(batches):
    return [name.decode() for batch in batches for name in batch["filename"]]


def assert_equal(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


STRONG = Augment(
    flip=True, shift=0.1, rotate=20, scale=0.2, brightness=0.2, contrast=0.2, saturation=0.3,
    grey=0.2, blur=0.5, cutout=0.3,
)  # fmt: skip


def test_every_epoch_holds_each_example_once_in_another_order(first):
    seen = names(take(training([Source(first)]), 14))  # 112 examples, three epochs of 37
    epochs = [seen[:37], seen[37:74], seen[74:111]]
    for epoch in epochs:
        assert sorted(epoch) == first_names(37)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != first_names(37)


def first_names(count):
    return [f"first-{index:03}" for index in range(count)]


def test_the_order_is_that_of_runs_that_were_begun_by_earlier_versions(first, second):
    def rows(sources):
        _, (found, own) = next(iter(stream.batches_of_rows(sources, 5, 8, 0)))
        return found.numpy().tolist(), own.numpy().tolist()

    assert rows([Source(first)]) == ([31, 12, 10, 19, 15, 26, 20, 23], [0] * 8)
    part = Source(first, validation_share=0.25, seed=3)
    assert rows([part])[0] == [33, 15, 14, 34, 23, 7, 27, 4]
    mixed = [Source(first, weight=0.7), Source(second, weight=0.3)]
    assert rows(mixed) == ([10, 31, 12, 10, 19, 15, 26, 20], [1] + [0] * 7)


def test_the_seed_decides_the_order_and_nothing_else_does(first):
    tf.random.set_seed(1)
    one = names(take(training([Source(first)]), 6))
    tf.random.set_seed(2)
    assert names(take(training([Source(first)]), 6)) == one
    assert names(take(training([Source(first)], seed=6), 6)) != one


@pytest.mark.parametrize(("start", "cache"), [(1, False), (9, False), (130, True)])
def test_a_later_start_gives_the_same_batches_to_the_bit(first, second, start, cache):
    sources = [Source(first, weight=0.7), Source(second, weight=0.3)]
    tasks = (ATTRIBUTES, POSE, LANDMARKS, AGE)
    whole = take(training(sources, tasks, STRONG), start + 3)
    for source in sources:
        source.cache = cache
    later = take(training(sources, tasks, STRONG, start_step=start), 3)
    assert_equal(later, whole[start:])


def test_a_later_start_of_a_single_source(first):
    whole = take(training([Source(first)], augment=STRONG), 12)
    assert_equal(take(training([Source(first)], augment=STRONG, start_step=9), 3), whole[9:])


def test_workers_take_contiguous_shares_of_the_global_batches(first, second):
    workers = 3  # of 8 examples these have 2, 3 and 3
    sources = [Source(first), Source(second)]
    whole = take(training(sources, augment=STRONG, start_step=2), 3)
    parts = [
        take(training(sources, augment=STRONG, start_step=2, worker=(index, workers)), 3)
        for index in range(workers)
    ]
    for step, batch in enumerate(whole):
        for key in ("filename", "source"):
            joined = np.concatenate([part[step][key] for part in parts])
            np.testing.assert_array_equal(joined, batch[key])
        transforms = np.concatenate([part[step]["transform"] for part in parts])
        np.testing.assert_allclose(transforms, batch["transform"], atol=1e-5)
        images = np.concatenate([part[step]["image"] for part in parts])
        np.testing.assert_allclose(images, batch["image"], atol=0.01)


def test_sources_are_mixed_exactly_by_weight_and_never_lose_examples(first, second):
    sources = [Source(first, weight=3), Source(second, weight=1), Source(second, weight=0)]
    batches = take(training(sources, batch_size=50), 40)
    index = np.concatenate([batch["source"] for batch in batches])
    for block in (index[:1000], index[1000:]):
        np.testing.assert_array_equal(np.bincount(block, minlength=3), [750, 250, 0])
    assert len(set(index[:8])) == 2  # mixed, not one after the other
    seen = np.array(names(batches))
    assert sorted(seen[index == 0][:37]) == first_names(37)
    assert len(set(seen[index == 1][:11])) == 11


def test_validation_share_parts_do_not_overlap(first):
    train = Source(first, "train", validation_share=0.25, seed=3)
    held_out = Source(first, "validation", validation_share=0.25, seed=3)
    assert (train.count, held_out.count) == (28, 9)
    evaluated = names(evaluation_batches(held_out, (ATTRIBUTES,), View(CROP), batch_size=4)
                      .as_numpy_iterator())  # fmt: skip
    trained = names(take(training([train], batch_size=7), 8))
    assert sorted(trained[:28]) == sorted(trained[28:])
    assert sorted(trained[:28] + evaluated) == first_names(37)
    assert evaluated == sorted(evaluated)  # stored order


def test_evaluation_is_in_stored_order_and_complete(first):
    batches = list(
        evaluation_batches(Source(first), (ATTRIBUTES, POSE), View(CROP), batch_size=10)
        .as_numpy_iterator()
    )  # fmt: skip
    assert [len(batch["image"]) for batch in batches] == [10, 10, 10, 7]
    assert names(batches) == first_names(37)
    red = np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches])
    np.testing.assert_allclose(red, np.arange(37), atol=1e-3)
    pose = np.concatenate([batch["labels"]["pose"] for batch in batches])
    np.testing.assert_array_equal(pose, np.arange(37) % 6 - 1)


def test_images_and_labels_belong_together(first):
    for batch in take(training([Source(first)], (ATTRIBUTES, POSE)), 6):
        index = np.array([int(name.decode()[-3:]) for name in batch["filename"]])
        np.testing.assert_allclose(batch["image"], np.ones((8, 8, 8, 3)) * index[:, None, None, None]
                                   * [1, 0, 0], atol=1e-3)  # fmt: skip
        attributes = np.stack([index % 2, index % 3 - 1, index * 0 + 1], axis=1)
        np.testing.assert_array_equal(batch["labels"]["attributes"], attributes)
        np.testing.assert_array_equal(batch["labels"]["pose"], index % 6 - 1)
        assert batch["labels"]["attributes"].dtype == batch["labels"]["pose"].dtype == np.int32


def test_points_that_are_no_task_of_the_records_are_no_labels(tmp_path):
    def labels(_):
        return {"attributes": [0, 1, 1]}

    detected = write_records(tmp_path, "found", 4, (ATTRIBUTES,), labels, landmarks=FACE)
    crop = Crop("align", height=8, width=8)
    batches = evaluation_batches(
        Source(detected), (ATTRIBUTES, LANDMARKS), View(crop), batch_size=4
    )
    batch = take(batches, 1)[0]
    assert np.isnan(batch["labels"]["landmarks"]).all()
    assert abs(np.hypot(*batch["transform"][0, :, 0]) - 20 / 8) > 0.1  # yet they place the crop


def test_labels_of_several_sources_are_joined_by_name_and_the_rest_is_unknown(first, second):
    sources = [Source(first), Source(second)]
    tasks = (ATTRIBUTES, POSE, LANDMARKS, AGE)
    batches = take(training(sources, tasks), 8)
    from_first = from_second = 0
    for batch in batches:
        labels = batch["labels"]
        for row, (name, source) in enumerate(zip(batch["filename"], batch["source"], strict=True)):
            index = int(name.decode()[-3:])
            if source == 0:
                from_first += 1
                assert labels["attributes"][row].tolist() == [index % 2, index % 3 - 1, 1]
                assert labels["pose"][row] == index % 6 - 1
                np.testing.assert_allclose(
                    labels["landmarks"][row], (2 * FACE + 1) / 20 - 1, atol=1e-5
                )
                assert np.isnan(labels["age"][row]).all()
            else:
                from_second += 1
                assert name.startswith(b"second")
                assert labels["attributes"][row].tolist() == [index % 2, -1, 0]
                assert labels["pose"][row] == -1
                assert np.isnan(labels["landmarks"][row]).all()
                assert labels["age"][row] == index + 0.5
    assert from_first > 20 and from_second > 20


def test_a_model_may_have_some_of_the_labels_in_its_own_order(first):
    task = Task("attributes", "multilabel", ("Young", "Male"))
    batch = take(evaluation_batches(Source(first), (task,), View(CROP), batch_size=37), 1)[0]
    index = np.arange(37)
    np.testing.assert_array_equal(
        batch["labels"]["attributes"], np.stack([index * 0 + 1, index % 2], axis=1)
    )


def test_flipped_evaluation_mirrors_image_landmarks_and_pose(first, tmp_path):
    gradient = cv2.imencode(
        ".png", np.tile(np.arange(20, dtype=np.uint8)[:, None] * 12, (20, 1, 3))
    )
    records = write_records(
        tmp_path, "first", 6, first.tasks, lambda index: {"attributes": [0, 1, 1], "pose": index - 1},
        image=lambda _: gradient[1].tobytes(), landmarks=FACE,
    )  # fmt: skip
    tasks = (POSE, LANDMARKS)
    plain, flipped = (
        take(evaluation_batches(Source(records), tasks, View(CROP), batch_size=6, flip=flip), 1)[0]
        for flip in (False, True)
    )
    np.testing.assert_allclose(flipped["image"], plain["image"][:, :, ::-1], atol=1e-3)
    assert plain["labels"]["pose"].tolist() == [-1, 0, 1, 2, 3, 4]
    assert flipped["labels"]["pose"].tolist() == [-1, 4, 3, 2, 1, 0]
    mirrored = plain["labels"]["landmarks"][:, [1, 0, 2, 4, 3]] * [-1, 1]
    np.testing.assert_allclose(flipped["labels"]["landmarks"], mirrored, atol=1e-5)


def copy_of(source, copy=1, seed=4, start=0, batch_size=10, augment=None):
    augment = augment or Augment(flip=True, rotate=20, shift=0.1, brightness=0.2)
    batches = evaluation_batches(
        source, (POSE, LANDMARKS), View(CROP), batch_size=batch_size, start=start,
        copy=RandomCopy(augment, seed, copy)
    )  # fmt: skip
    batches = list(batches.as_numpy_iterator())
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches)


def test_a_changed_copy_follows_from_seed_copy_and_place_in_the_stored_split(first):
    whole = copy_of(Source(first))
    later = copy_of(Source(first), start=21, batch_size=7)
    lent = Source(first, "validation", validation_share=0.25, seed=3)
    lent = copy_of(lent)
    places = [int(name[-3:]) for name in lent["filename"]]
    assert 0 < len(places) < 37
    for part, rows in ((later, range(21, 37)), (lent, places)):
        expected = tf.nest.map_structure(lambda values: values[list(rows)], whole)  # noqa: B023
        np.testing.assert_array_equal(part["filename"], expected["filename"])
        np.testing.assert_allclose(part["image"], expected["image"], atol=0.01)
        np.testing.assert_allclose(part["transform"], expected["transform"], atol=1e-5)
        np.testing.assert_array_equal(part["labels"]["pose"], expected["labels"]["pose"])
    for other in (copy_of(Source(first), copy=2), copy_of(Source(first), seed=5)):
        assert names([other]) == names([whole])
        assert (np.abs(other["transform"] - whole["transform"]).max(axis=(1, 2)) > 1e-3).all()


def test_labels_of_a_changed_copy_follow_its_crop(first):
    copy = copy_of(Source(first), augment=Augment(flip=True, rotate=20))
    flipped = np.linalg.det(copy["transform"][:, :, :2]) < 0
    assert 5 < flipped.sum() < 32
    pose = np.arange(37) % 6 - 1
    expected = np.where(flipped & (pose >= 0), 4 - pose, pose)
    np.testing.assert_array_equal(copy["labels"]["pose"], expected)
    # Back through the transform, the points are where they were drawn.
    points = copy["labels"]["landmarks"]
    points = np.where(flipped[:, None, None], points[:, [1, 0, 2, 4, 3]], points)
    pixels = (points + 1) / 2 * 8 - 0.5
    ones = np.ones((37, 5, 1))
    drawn = np.einsum("nij,npj->npi", copy["transform"], np.concatenate([pixels, ones], axis=2))
    np.testing.assert_allclose(drawn, np.broadcast_to(FACE, drawn.shape), atol=1e-3)


def test_a_copy_without_changes_is_the_image(first):
    plain = evaluation_batches(Source(first), (POSE, LANDMARKS), View(CROP), batch_size=37)
    assert_equal(list(plain.as_numpy_iterator()),
                 [copy_of(Source(first), augment=Augment(), batch_size=37)])  # fmt: skip


def test_random_flips_take_their_labels_along(first):
    for batch in take(training([Source(first)], (POSE, LANDMARKS), Augment(flip=True)), 5):
        flipped = batch["transform"][:, 0, 0] < 0
        index = np.array([int(name.decode()[-3:]) for name in batch["filename"]])
        pose = index % 6 - 1
        expected = np.where(flipped & (pose >= 0), 4 - pose, pose)
        np.testing.assert_array_equal(batch["labels"]["pose"], expected)
        # The left eye stays the one on the left of the picture.
        eyes = batch["labels"]["landmarks"][:, :2, 0]
        assert (eyes[:, 0] < eyes[:, 1]).all()


def test_augmentation_differs_between_epochs(first):
    batches = take(training([Source(first)], augment=Augment(rotate=30)), 10)
    angles = {}
    for batch in batches:
        for name, transform in zip(batch["filename"], batch["transform"], strict=True):
            angles.setdefault(name, []).append(transform[1, 0])
    assert all(len(set(found)) == len(found) for found in angles.values())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda s: training([s], batch_size=3, worker=(0, 4)), "batch_size 3 is less .* of 4"),
        (lambda s: training([s], (AGE,)), "none of its tasks .attributes, pose, landmarks."),
        (
            lambda s: training([s], (Task("pose", "multiclass", ("a", "b")),)),
            "labels left_profile.* are not a, b",
        ),
        (lambda s: training([s, Source(s.records, weight=-1)]), "weights .* positive"),
        (lambda s: training([Source(s.records, "validation", 0.001)]), "holds no examples"),
        (lambda s: training([Source(s.records, "test")]), "no split 'test'; there are: train"),
        (lambda s: training([s], crop=Crop("face")), "kind 'face'"),
        (lambda s: training([s], augment=Augment(grey=2)), "grey 2"),
    ],
)
def test_mistakes_are_named(first, build, message):
    with pytest.raises(UserError, match=message):
        build(Source(first))


def test_a_damaged_image_is_named(tmp_path):
    good = cv2.imencode(".jpg", np.full((30, 30, 3), 90, np.uint8))[1].tobytes()
    records = write_records(
        tmp_path, "faces", 9, (ATTRIBUTES,), lambda _: {"attributes": [0, 1, 1]},
        image=lambda index: good[:300] if index == 6 else good,
    )  # fmt: skip
    source = Source(records)
    batches = evaluation_batches(source, (ATTRIBUTES,), View(CROP), batch_size=4)
    with pytest.raises(UserError, match="image faces-006 cannot be decoded"):
        list(named_failures(batches, [source]))
    with pytest.raises(UserError, match="image faces-006 cannot be decoded"):
        list(named_failures(training([source], batch_size=3), [source]))


def test_a_damaged_file_of_records_is_named(tmp_path):
    records = write_records(
        tmp_path, "faces", 9, (ATTRIBUTES,), lambda _: {"attributes": [0, 1, 1]}
    )
    damaged = tmp_path / "train.tfrecord-1"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    batches = evaluation_batches(Source(records), (ATTRIBUTES,), View(CROP), batch_size=4)
    with pytest.raises(UserError, match=r"train.tfrecord-1: not a whole file of records"):
        list(named_failures(batches, [Source(records)]))


def test_a_set_larger_than_the_shuffle_window_is_still_read_whole(first, monkeypatch):
    monkeypatch.setattr(stream, "SHUFFLED", 10)
    seen = names(take(training([Source(first)]), 5))[:37]
    assert sorted(seen) == first_names(37)
    assert seen != first_names(37)


@pytest.mark.parametrize("cache", [False, True])
def test_files_that_hold_fewer_examples_end_in_an_error_and_not_in_waiting(tmp_path, cache):
    records = write_records(tmp_path, "a", 8, (), lambda index: {}, shards=1)
    for file in records.shards["train"]:
        open(file, "wb").close()
    source = Source(records, cache=cache)
    words = "0 examples of 'train' where 8 were built"
    # First what would end by itself, or a defect would keep this test waiting.
    batches = evaluation_batches(source, (), View(Crop(height=20, width=20)), batch_size=4)
    with pytest.raises(UserError, match=words):
        list(named_failures(batches, [source]))
    with pytest.raises(UserError, match=words):
        training_batches(
            [source], (), View(Crop(height=20, width=20)), Augment(), batch_size=4, seed=0
        )


VOTES = Task("emotion", "distribution", ("happy", "sad", "neutral"), mirror=(1, 0, 2))


def test_votes_and_single_classes_train_together(tmp_path):
    """Of one source all classes have shares, of another one class is right, a third knows nothing."""
    classes = Task("emotion", "multiclass", VOTES.labels)

    def votes(index):
        return {"emotion": [np.nan] * 3 if index == 2 else [0.5, 0.25, 0.25]}

    def single(index):
        return {"emotion": index % 4 - 1}

    def other(index):
        return {"emotion": [0.5]}

    kinds = Task("emotion", "regression", ("strength",))
    of_votes = write_records(tmp_path / "v", "v", 6, (VOTES,), votes)
    of_classes = write_records(tmp_path / "c", "c", 8, (classes,), single)
    unlabelled = write_records(
        tmp_path / "n", "n", 3, (ATTRIBUTES,), lambda _: {"attributes": [1] * 3}
    )
    sources = [Source(records, "train") for records in (of_votes, of_classes, unlabelled)]
    seen = set()
    for batch in take(training(sources, (VOTES, ATTRIBUTES)), 8):
        for name, label in zip(batch["filename"], batch["labels"]["emotion"], strict=True):
            source, index = name.decode().split("-")
            if (
                source == "n"
                or (source, int(index)) == ("v", 2)
                or (source == "c" and int(index) % 4 == 0)
            ):
                expected = [np.nan] * 3
            elif source == "v":
                expected = [0.5, 0.25, 0.25]
            else:
                expected = np.eye(3)[int(index) % 4 - 1]
            np.testing.assert_array_equal(label, expected)
            seen.add(source)
    assert seen == {"v", "c", "n"}
    # Shares follow their classes into the mirror; single classes are read alone, too.
    for source, expected in ((sources[0], [0.25, 0.5, 0.25]), (sources[1], [0, 1, 0])):
        batches = evaluation_batches(source, (VOTES,), View(CROP), batch_size=8, flip=True)
        np.testing.assert_array_equal(take(batches, 1)[0]["labels"]["emotion"][1], expected)
    wrong = Source(write_records(tmp_path / "w", "w", 3, (kinds,), other), "train")
    with pytest.raises(UserError, match="'emotion' .regression. is not task 'emotion' .distrib"):
        training([wrong], (VOTES,))
