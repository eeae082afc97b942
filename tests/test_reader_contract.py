"""What every reader owes its user, whichever data set it reads."""

import os
import pathlib
import shutil

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.readers import READERS, reader_class
from data_pipelines.records.build import build
from data_pipelines.records.record_set import RecordSet
from data_pipelines.synth import layouts
from data_pipelines.tasks import UNKNOWN

OPTIONS = {"manifest": {"tasks": "attributes:multilabel:*;pose:multiclass;age:regression"}}
IMAGES = 24
WITHOUT_TABLE = {"fer2013", "utkface"}
"""Readers of labels in names of files and folders: no picture of theirs can be missing."""


@pytest.fixture(scope="module", params=READERS)
def reader(request):
    return request.param


@pytest.fixture(scope="module")
def drawn(reader, tmp_path_factory):
    return layouts.draw(reader, tmp_path_factory.mktemp("drawn") / reader, images=IMAGES, seed=2)


@pytest.fixture(scope="module")
def records(reader, drawn, tmp_path_factory):
    target = tmp_path_factory.mktemp("records") / reader
    return build(reader, drawn, target, **OPTIONS.get(reader, {}))


@pytest.fixture(scope="module")
def examples(records):
    """Split -> records, parsed from their bytes with the schema that is documented."""
    schema = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "filename": tf.io.FixedLenFeature((), tf.string),
        "box": tf.io.FixedLenFeature((4,), tf.float32),
        "landmarks": tf.io.FixedLenFeature((5, 2), tf.float32),
        "identity": tf.io.FixedLenFeature((), tf.int64),
    }
    for task in records.tasks:
        if task.kind != "landmarks":
            dtype = tf.int64 if task.label_dtype == "int8" else tf.float32
            schema[f"tasks/{task.name}"] = tf.io.FixedLenFeature(task.label_shape, dtype)
    return {
        split: [
            {key: value.numpy() for key, value in tf.io.parse_single_example(data, schema).items()}
            for data in tf.data.TFRecordDataset(shards)
        ]
        for split, shards in records.shards.items()
    }


def test_every_image_is_stored_once_or_counted_as_left_out(drawn, records, examples):
    stored = [os.fsdecode(example["filename"]) for split in examples.values() for example in split]
    assert len(set(stored)) == len(stored) == sum(records.splits.values())
    assert len(stored) + sum(records.left_out.values()) == IMAGES
    assert len(list(drawn.rglob("*.jpg"))) == IMAGES
    for split, found in examples.items():
        assert records.splits[split] == len(found) > 0
        assert records.filenames(split) == [os.fsdecode(each["filename"]) for each in found]


def test_images_are_the_original_bytes(drawn, examples):
    originals = {path.read_bytes() for path in drawn.rglob("*.jpg")}
    for example in (each for split in examples.values() for each in split):
        assert example["image"] in originals
        name = os.fsdecode(example["filename"])
        assert not pathlib.PurePosixPath(name).is_absolute()
        assert list(drawn.rglob(name)) or list(drawn.glob(f"*/{name}"))


def test_labels_are_in_range_and_counted(records, examples):
    for split, found in examples.items():
        for task in records.tasks:
            if task.kind not in ("multilabel", "multiclass"):
                continue
            labels = np.stack([example[f"tasks/{task.name}"] for example in found])
            counts = np.array(records.label_counts[split][task.name])
            if task.kind == "multilabel":
                assert set(np.unique(labels)) <= {UNKNOWN, 0, 1}
                assert counts[:, 0].tolist() == np.count_nonzero(labels == 0, axis=0).tolist()
                assert counts[:, 1].tolist() == np.count_nonzero(labels == 1, axis=0).tolist()
            else:
                assert set(np.unique(labels)) <= {UNKNOWN, *range(len(task.labels))}
                expected = [np.count_nonzero(labels == each) for each in range(len(task.labels))]
                assert counts.tolist() == expected


def test_annotated_landmarks_lie_in_the_picture(records, examples):
    annotated = any(task.kind == "landmarks" for task in records.tasks)
    for example in (each for split in examples.values() for each in split):
        assert np.isfinite(example["landmarks"]).all() == annotated
        if annotated:
            encoded = np.frombuffer(example["image"], np.uint8)
            height, width = cv2.imdecode(encoded, cv2.IMREAD_COLOR).shape[:2]
            assert (example["landmarks"] >= 0).all()
            assert (example["landmarks"] < [width, height]).all()
            left_eye, right_eye, nose, left_mouth, right_mouth = example["landmarks"]
            assert left_eye[0] < right_eye[0]
            assert left_mouth[0] < right_mouth[0]
            assert max(left_eye[1], right_eye[1]) < nose[1] < max(left_mouth[1], right_mouth[1])


def test_the_folder_is_one_of_tensorflow_datasets(records):
    builder = tfds.builder_from_directory(records.path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == (
        records.splits
    )
    example = next(iter(tfds.as_numpy(builder.as_dataset(split=next(iter(records.splits))))))
    assert example["image"].ndim == 3
    assert example["image"].dtype == np.uint8


def test_where_the_data_came_from_is_stored(reader, records):
    assert records.name == reader
    description = RecordSet.load(records.path).description
    assert f"({sum(records.splits.values())} drawn faces)" in description["title"]
    assert description["fingerprint"]
    if records.name != "manifest":
        assert description["homepage"].startswith("http")
        assert description["licence"]
        assert description["citation"]
    assert all(str(count) in records.summary() for count in records.splits.values())


def test_a_missing_file_is_named_with_where_to_get_the_data(reader, drawn, tmp_path):
    obtain = reader_class(reader).ABOUT.obtain
    assert obtain
    tables = [
        path.relative_to(drawn)
        for path in drawn.rglob("*")
        if path.suffix in (".txt", ".mat", ".csv")
    ]
    for table in tables:
        if table.name.startswith(
            ("identity", "list_landmarks", "manifest", "pairs", "readme", "drawn", "fer")
        ):
            continue
        tree = shutil.copytree(drawn, tmp_path / table.name)
        (tree / table).unlink()
        with pytest.raises(UserError) as error:
            build(reader, tree, tmp_path / "records", **OPTIONS.get(reader, {}))
        assert table.name in str(error.value)
        assert obtain in str(error.value)
    with pytest.raises(UserError, match="no such folder"):
        build(reader, tmp_path / "absent", tmp_path / "records", **OPTIONS.get(reader, {}))
    assert not (tmp_path / "records").exists()


def test_bad_images_are_named(reader, drawn, tmp_path):
    tree = shutil.copytree(drawn, tmp_path / "tree")
    pictures = sorted(tree.rglob("*.jpg"))
    picture = pictures[0]
    picture.write_bytes(picture.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{picture.name} does not decode"):
        build(reader, tree, tmp_path / "records", **OPTIONS.get(reader, {}))
    if reader in WITHOUT_TABLE:
        return
    picture.unlink()
    with pytest.raises(UserError, match=f"{picture.name} is missing"):
        build(reader, tree, tmp_path / "records", **OPTIONS.get(reader, {}))
    records = build(reader, tree, tmp_path / "records", max_bad=1, **OPTIONS.get(reader, {}))
    (name,) = records.left_out["bad images"]
    assert picture.as_posix().endswith(name)


def test_an_unknown_reader_is_named_with_those_that_exist():
    with pytest.raises(
        ValueError, match="no reader 'celebb'; there are: celeba, fairface, fer2013"
    ):
        reader_class("celebb")
