"""Looking at records: what is printed, what is drawn, and that no TensorFlow is needed for it."""

import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import parse_example, read_examples
from data_pipelines.records import inspection


def test_examples_are_parsed_as_tensorflow_parses_them():
    import tensorflow as tf

    features = {
        "texts": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"", b"ab" * 200])),
        "floats": tf.train.Feature(float_list=tf.train.FloatList(value=[1.5, -2e30, np.nan])),
        "whole": tf.train.Feature(int64_list=tf.train.Int64List(value=[-1, 0, 127, 128, 2**62])),
        "nothing": tf.train.Feature(),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    parsed = parse_example(example.SerializeToString())
    assert parsed.keys() == features.keys()
    assert parsed["texts"] == [b"", b"ab" * 200]
    np.testing.assert_array_equal(parsed["floats"], np.array([1.5, -2e30, np.nan], np.float32))
    np.testing.assert_array_equal(parsed["whole"], [-1, 0, 127, 128, 2**62])
    assert len(parsed["nothing"]) == 0


def test_examples_are_found_at_their_positions_through_all_shards(tmp_path):
    import tensorflow as tf

    shards = [str(tmp_path / name) for name in ("a", "b", "c")]
    for shard, values in zip(shards, ([0, 1, 2], [], [3, 4]), strict=True):
        with tf.io.TFRecordWriter(shard) as writer:
            for value in values:
                feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                features = tf.train.Features(feature={"n": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
    found = [(place, example["n"].tolist()) for place, example in read_examples(shards, [4, 1, 3])]
    assert found == [(1, [1]), (3, [3]), (4, [4])]


def test_records_are_read_as_they_were_labelled(mtfl_records, mtfl_tree):
    names = mtfl_records.filenames("test")
    rows = (mtfl_tree / "testing.txt").read_text().split("\n")
    labels = {row.split()[0]: row.split()[1:] for row in rows if row.strip()}
    examples = list(read_examples(mtfl_records.shards["test"], range(len(names))))
    assert [example["filename"] for _, example in examples] == [[name.encode()] for name in names]
    for _, example in examples:
        *points, male, smiling, glasses, pose = labels[example["filename"][0].decode()]
        assert example["tasks/attributes"].tolist() == [
            value == "1" for value in (male, smiling, glasses)
        ]
        expected = [
            name
            for name, value in zip(
                ("Male", "Smiling", "Eyeglasses"), (male, smiling, glasses), strict=True
            )
            if value == "1"
        ] or ["(none of 3 attributes)"]
        expected.append("pose: " + tasks.POSE_CLASSES[int(pose) - 1].replace("_", " "))
        assert inspection.label_lines(example, mtfl_records.tasks) == expected
        assert example["landmarks"].reshape(5, 2).T.ravel() == pytest.approx(
            np.array(points, float), abs=1e-4
        )


def test_unknown_labels_are_said_to_be_unknown():
    labelled = (
        tasks.MTFL_ATTRIBUTES,
        tasks.POSE,
        tasks.Task("age", "regression", ("age", "height")),
        tasks.LANDMARKS,
        tasks.Task("emotion", "distribution", ("sad", "happy", "neutral")),
        tasks.Task("mood", "distribution", ("sad", "happy")),
    )
    example = {
        "tasks/emotion": np.array([0.25, 0.75, 0.0]),
        "tasks/mood": np.array([np.nan, np.nan]),
        "tasks/attributes": np.array([1, -1, 0]),
        "tasks/pose": np.array([-1]),
        "tasks/age": np.array([31.0, np.nan]),
    }
    assert inspection.label_lines(example, labelled) == [
        "Male",
        "(1 of 3 attributes unknown)",
        "pose: unknown",
        "age: 31",
        "height: unknown",
        "emotion: happy 75%, sad 25%",
        "mood: unknown",
    ]


def test_a_sheet_shows_the_faces(tmp_path, capsys, celeba_records, mtfl_records):
    for records in (celeba_records, mtfl_records):
        path = tmp_path / "sheets" / f"{records.name}.png"
        inspection.inspect_records(records, path, count=5)
        printed = capsys.readouterr().out
        assert "64" in printed and "Eyeglasses" in printed
        sheet = cv2.imread(str(path))
        assert sheet is not None and min(sheet.shape[:2]) > 150
        # Colours of landmarks stand in the sheet: they were drawn.
        yellow = np.abs(sheet.astype(int) - (0, 234, 255)).max(-1) < 8
        assert yellow.sum() > 5 * 10
        assert list(path.parent.glob(".*")) + list(path.parent.glob("tmp*")) == []


def test_the_same_seed_draws_the_same_faces(tmp_path, mtfl_records):
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        inspection.inspect_records(mtfl_records, tmp_path / name, split="test", count=2, seed=seed)
        sheets.append(cv2.imread(str(tmp_path / name)))
    assert np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])


def test_mistakes_are_refused_in_one_line(tmp_path, mtfl_records):
    with pytest.raises(UserError, match="no split 'holdout'; there are: train, test"):
        inspection.inspect_records(mtfl_records, tmp_path / "a.png", split="holdout")
    with pytest.raises(UserError, match="0 faces cannot be drawn"):
        inspection.inspect_records(mtfl_records, tmp_path / "a.png", count=0)
    with pytest.raises(UserError, match="nowhere: no such folder of records"):
        inspection.inspect_records(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_nothing_of_it_imports_tensorflow(tmp_path, mtfl_records):
    program = (
        "import sys; from data_pipelines.records.inspection import inspect_records; "
        f"inspect_records({mtfl_records.path!r}, {str(tmp_path / 'a.png')!r}, count=2); "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
