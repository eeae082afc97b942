import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.formats import detections
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.records.build import build
from data_pipelines.records.record_set import METADATA, RecordSet
from data_pipelines.synth import layouts
from data_pipelines.tasks import MTFL_ATTRIBUTES, POSE


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def write_set(folder, splits, label_counts=None):
    """A record set without any record, which is enough to reason about."""
    folder.mkdir()
    shards = {split: [f"x-{split}.tfrecord-00000-of-00001"] for split in splits}
    for (name,) in shards.values():
        (folder / name).touch()
    fields = {
        "name": "x",
        "tasks": [MTFL_ATTRIBUTES.to_dict(), POSE.to_dict()],
        "splits": splits,
        "shards": shards,
        "label_counts": label_counts or {split: {} for split in splits},
        "left_out": {},
        "description": {},
    }
    (folder / METADATA).write_text(json.dumps(fields))
    return folder


def test_a_set_without_validation_lends_a_seeded_share(tmp_path):
    records = RecordSet.load(write_set(tmp_path / "x", {"train": 1001, "test": 7}))
    stored, validation = records.select("validation", 0.2, seed=5)
    same, train = records.select("train", 0.2, seed=5)
    assert stored == same == "train"
    assert validation.sum() == records.count("validation", 0.2, seed=5) == round(0.2 * 1001)
    assert records.count("train", 0.2, seed=5) == 1001 - 200
    np.testing.assert_array_equal(train, ~validation)
    np.testing.assert_array_equal(records.select("validation", 0.2, seed=5)[1], validation)
    assert (records.select("validation", 0.2, seed=6)[1] != validation).any()
    assert records.select("test", 0.2) == ("test", None)
    assert records.select("train") == ("train", None)


def test_a_stored_validation_split_wins_over_a_share(tmp_path):
    records = RecordSet.load(write_set(tmp_path / "x", {"train": 10, "validation": 4}))
    assert records.select("validation", 0.5) == ("validation", None)
    assert records.select("train", 0.5) == ("train", None)


def test_unknown_splits_tasks_and_shares_are_named(tmp_path):
    records = RecordSet.load(write_set(tmp_path / "x", {"train": 10, "test": 4}))
    with pytest.raises(UserError, match="no split 'tset'; there are: train, test"):
        records.select("tset")
    with pytest.raises(UserError, match="no split 'validation'.*a validation share above 0"):
        records.count("validation")
    for share in (1.5, -0.1, float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"validation_share={share} is neither in \[0, 1\)"):
            records.select("train", share)
    with pytest.raises(UserError, match="no task 'age' in these records; there are: attributes, p"):
        records.task("age")


def test_the_majority_is_the_commonest_known_answer(tmp_path):
    counts = {"train": {"attributes": [[3, 7], [5, 5], [0, 0]], "pose": [1, 2, 9, 0, 3]}}
    records = RecordSet.load(write_set(tmp_path / "x", {"train": 15}, counts))
    guesses = records.majority()
    assert guesses["attributes"].tolist() == [True, False, False]
    assert guesses["pose"].tolist() == [2]


def test_what_is_no_complete_set_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder of records"):
        RecordSet.load(tmp_path / "absent")
    with pytest.raises(UserError, match="no complete records"):
        RecordSet.load(tmp_path)
    folder = write_set(tmp_path / "x", {"train": 10})
    (folder / "x-train.tfrecord-00000-of-00001").unlink()
    with pytest.raises(UserError, match="x-train.tfrecord-00000-of-00001: this file .* is missing"):
        RecordSet.load(folder)
    (folder / METADATA).write_text('{"name": "x"')
    with pytest.raises(UserError, match="no complete records"):
        RecordSet.load(folder)


def copy_of(records, folder, older=False):
    """A record set's folder to damage; an older one has no description of its files."""
    folder = pathlib.Path(shutil.copytree(records.path, folder))
    if older:
        fields = json.loads((folder / METADATA).read_text())
        del fields["files"]
        (folder / METADATA).write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("older", [False, True])
def test_a_file_that_is_not_whole_is_named_when_records_are_opened(mtfl_records, tmp_path, older):
    folder = copy_of(mtfl_records, tmp_path / "x", older)
    assert RecordSet.load(folder).splits == mtfl_records.splits
    file = folder / "mtfl-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()
    first = 16 + int.from_bytes(whole[:8], "little")
    for damaged in (b"", whole[:first], whole[:-5], whole + whole[:first]):
        file.write_bytes(damaged)
        with pytest.raises(
            UserError, match="train.*bytes.*where.*build the records again"
        ) as error:
            RecordSet.load(folder)
        assert str(file) in str(error.value)
    file.write_bytes(whole)
    (folder / "mtfl-test.tfrecord-00000-of-00001").unlink()
    with pytest.raises(UserError, match="mtfl-test.*is missing"):
        RecordSet.load(folder)


def test_a_file_of_the_same_size_from_another_build_is_named(mtfl_records, tmp_path):
    folder = copy_of(mtfl_records, tmp_path / "x")
    file = folder / "mtfl-train.tfrecord-00000-of-00001"
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match="another last record than was built"):
        RecordSet.load(folder)


def test_a_build_leaves_nothing_in_the_temporary_folder(mtfl_tree, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    build("mtfl", mtfl_tree, tmp_path / "records")
    assert not list(folder.iterdir())


def test_damaged_records_are_built_again_when_asked(mtfl_tree, mtfl_records, tmp_path):
    folder = copy_of(mtfl_records, tmp_path / "x")
    (folder / "mtfl-train.tfrecord-00000-of-00001").write_bytes(b"")
    with pytest.raises(UserError, match="0 bytes where .* with --overwrite"):
        build("mtfl", mtfl_tree, folder)
    assert build("mtfl", mtfl_tree, folder, overwrite=True).splits == mtfl_records.splits


def test_a_set_is_known_without_tensorflow(celeba_records):
    code = (
        "import sys; from data_pipelines.records.build import RecordSet; "
        f"print(RecordSet.load({celeba_records.path!r}).splits); "
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == str(celeba_records.splits), ran.stderr


def boxes_of(records, split):
    """`[n, 4]` boxes, or the landmarks' bounding squares, and `[n, 2]` sizes, face by face."""
    boxes, sizes = [], []
    for _, example in read_examples(records.shards[split], range(records.splits[split])):
        box, points = example["box"], np.reshape(example["landmarks"], (5, 2))
        if np.isnan(box).any():
            if np.isnan(points).any():
                continue
            side = np.ptp(points, axis=0).max()
            box = [*((points.min(0) + points.max(0)) / 2 - (side - 1) / 2), side, side]
        boxes.append(box)
        image = cv2.imdecode(np.frombuffer(example["image"][0], np.uint8), cv2.IMREAD_COLOR)
        sizes.append(image.shape[:2])
    return np.array(boxes, float), np.array(sizes, float)


@pytest.mark.parametrize("drawn", ["mtfl", "wild"])
def test_boxes_are_measured_when_records_are_built(mtfl_records, tmp_path, drawn):
    records = mtfl_records
    if drawn == "wild":
        source = layouts.draw("celeba", tmp_path / "drawn", images=80, seed=1, in_the_wild=True)
        table = source / "Anno/list_bbox_celeba.txt"
        count, columns, first, second, third, *rest = table.read_text().splitlines()
        # One face beyond the border by a pixel, one that just touches it, one without a box.
        first, second, third = (line.split()[0] for line in (first, second, third))
        changed = [f"{first} -1 0 50 60", f"{second} 0 0 50 60", f"{third} 0 0 0 0"]
        table.write_text("\n".join([count, columns, *changed, *rest]) + "\n")
        records = build("celeba", source, tmp_path / "records", images="wild")
    for split in records.splits:
        boxes, sizes = boxes_of(records, split)
        measured = records.boxes[split]
        assert measured["count"] == len(boxes)
        np.testing.assert_allclose(measured["mean_width"], boxes[:, 2].mean(), rtol=1e-5)
        np.testing.assert_allclose(measured["mean_height"], boxes[:, 3].mean(), rtol=1e-5)
        longer = [max(width, height) for _, _, width, height in boxes]
        np.testing.assert_allclose(records.mean_box(split), np.mean(longer), rtol=1e-5)
        ends = boxes[:, :2] + boxes[:, 2:]
        cut = (boxes[:, :2] < 0).any(1) | (ends > sizes[:, ::-1]).any(1)
        assert measured["cut"] == cut.sum()
        assert measured["landmarks"] == records.splits[split]
    if drawn == "wild":
        assert 1 <= sum(measured["cut"] for measured in records.boxes.values()) < 40
    measured = records.boxes["train"]
    means = f"{measured['mean_width']:.1f} x {measured['mean_height']:.1f}"
    share = f"{measured['cut']} ({measured['cut'] / measured['count']:.1%})"
    assert re.search(rf"mean box in pixels +{re.escape(means)} ", records.summary())
    assert re.search(rf"boxes cut by the border +{re.escape(share)} ", records.summary())


def test_records_without_any_face_have_no_mean_box(celeba_tree, tmp_path):
    bare = shutil.copytree(celeba_tree, tmp_path / "bare")
    (bare / "Anno/list_landmarks_align_celeba.txt").unlink()
    records = build("celeba", bare, tmp_path / "records")
    assert records.boxes["train"]["count"] == 0
    assert "mean box" not in records.summary()
    with pytest.raises(UserError, match="no image of 'train' has a box or landmarks"):
        records.mean_box()


def test_older_records_are_built_again_for_their_mean_box(mtfl_tree, mtfl_records, tmp_path):
    target = shutil.copytree(mtfl_records.path, tmp_path / "records")
    fields = json.loads((target / METADATA).read_text())
    del fields["boxes"]
    (target / METADATA).write_text(json.dumps(fields))
    older = RecordSet.load(target)
    assert "mean box" not in older.summary()
    with pytest.raises(UserError, match="no mean box in these records; build them again"):
        older.mean_box()
    assert build("mtfl", mtfl_tree, target).mean_box() == mtfl_records.mean_box()
    with pytest.raises(UserError, match="no split 'tset'"):
        mtfl_records.mean_box("tset")


def test_filenames_stand_in_stored_order(mtfl_records):
    builder = tfds.builder_from_directory(mtfl_records.path)
    stored = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    names = [os.fsdecode(example["filename"]) for example in tfds.as_numpy(stored)]
    assert mtfl_records.filenames("train") == names


def test_the_same_source_is_reused_and_another_one_refused(mtfl_tree, tmp_path, capsys):
    source = shutil.copytree(mtfl_tree, tmp_path / "source")
    target = tmp_path / "records"
    first = build("mtfl", source, target)
    before = contents(target)
    times = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    assert build("mtfl", source, target) == first
    assert "reused" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == times

    training = source / "training.txt"
    training.write_bytes(training.read_bytes().split(b"\r\n", 1)[1])
    with pytest.raises(UserError, match="built from another source or with other options"):
        build("mtfl", source, target)
    assert contents(target) == before
    second = build("mtfl", source, target, overwrite=True)
    assert second.splits["train"] == first.splits["train"] - 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_two_processes_write_the_same_bytes(mtfl_tree, tmp_path):
    build("mtfl", mtfl_tree, tmp_path / "one")
    # In a process of its own: hash seeds and protobuf's order of fields differ there.
    command = [sys.executable, "-m", "data_pipelines.commands.data", "build", "--dataset=mtfl"]
    command += [f"--source={mtfl_tree}", f"--records={tmp_path / 'two'}"]
    subprocess.run(command, capture_output=True, check=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_what_is_no_record_set_is_never_overwritten(mtfl_tree, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something else than complete records"):
        build("mtfl", mtfl_tree, precious, overwrite=True)
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_detections_fill_what_is_not_annotated(mtfl_tree, celeba_tree, tmp_path):
    def table(name, key, face):
        path = tmp_path / name
        path.write_text(f"{','.join(detections.COLUMNS)}\n{key},{face}\nno_face.jpg{',' * 15}\n")
        return path

    face = "1,2,30,40,0.9,5,6,7,8,9,10,11,12,13,14"
    # Landmarks are annotated in both sets, boxes in neither.
    name = min(path.name for path in (celeba_tree / "img_align_celeba").iterdir())
    plain = build("celeba", celeba_tree, tmp_path / "plain")
    joined = build(
        "celeba", celeba_tree, tmp_path / "joined", detections=table("a.csv", name, face)
    )
    assert joined.tasks == plain.tasks
    for records, box in ((plain, [math.nan] * 4), (joined, [1, 2, 30, 40])):
        found = example(records, name)
        np.testing.assert_array_equal(found["box"], np.float32(box))
        np.testing.assert_array_equal(found["landmarks"], example(plain, name)["landmarks"])

    bare = shutil.copytree(celeba_tree, tmp_path / "bare")
    (bare / "Anno/list_landmarks_align_celeba.txt").unlink()
    records = build("celeba", bare, tmp_path / "detected", detections=tmp_path / "a.csv")
    np.testing.assert_array_equal(example(records, name)["landmarks"].ravel(), np.arange(5, 15))
    assert [task.name for task in records.tasks] == ["attributes"]

    with pytest.raises(UserError, match="none of its files, such as 'elsewhere.jpg', is an image"):
        build("mtfl", mtfl_tree, tmp_path / "x", detections=table("b.csv", "elsewhere.jpg", face))


def example(records, name):
    builder = tfds.builder_from_directory(records.path)
    for split in records.splits:
        decoders = {"image": tfds.decode.SkipDecoding()}
        for found in tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders)):
            if os.fsdecode(found["filename"]) == name:
                return found
    raise AssertionError(name)


def test_a_wrong_table_of_detections_is_named(mtfl_tree, tmp_path):
    path = tmp_path / "faces.csv"
    for text, complaint in (
        ("a,b\n", "row 1: expected the columns filename,left"),
        (",".join(detections.COLUMNS) + "\nx.jpg,1,2\n", "row 2: 3 fields, expected 16"),
        (",".join(detections.COLUMNS) + "\nx.jpg" + ",1" * 14 + ",?\n", "row 2: a field is not a"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=complaint):
            build("mtfl", mtfl_tree, tmp_path / "records", detections=path)
    with pytest.raises(UserError, match="no such detections file"):
        build("mtfl", mtfl_tree, tmp_path / "records", detections=tmp_path / "absent.csv")


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_counts_as_complete(tmp_path):
    source = layouts.draw("mtfl", tmp_path / "source", images=400)
    build("mtfl", source, tmp_path / "whole")
    target = tmp_path / "records"
    command = [sys.executable, "-m", "data_pipelines.commands.data", "build", "--dataset=mtfl"]
    command += [f"--source={source}", f"--records={target}"]
    rng = np.random.default_rng()
    for longest in (0.1, 4, 8):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while running.poll() is None and not (tmp_path / ".records.partial").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        running.kill()
        running.wait()
        if target.exists():  # It was done before it was killed: the next one has to begin anew.
            assert contents(target) == contents(tmp_path / "whole")
            shutil.rmtree(target)
        else:
            with pytest.raises(UserError, match="no such folder of records"):
                RecordSet.load(target)
    command[1:1] = ["-X", "importtime"]
    imported = subprocess.run(command, capture_output=True, check=True).stderr
    assert contents(target) == contents(tmp_path / "whole")
    assert not (tmp_path / ".records.partial").exists()
    # It computes with TensorFlow, and without Keras, which takes two seconds to load.
    assert re.search(rb"\| +tensorflow\n", imported) and not re.search(rb"\| +keras\n", imported)
