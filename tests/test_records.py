import json
import math
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import detections, synth
from data_pipelines.errors import UserError
from data_pipelines.records import METADATA, RecordSet, build
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
    with pytest.raises(UserError, match=r"validation_share=1\.5 is not in"):
        records.select("train", 1.5)
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


def test_a_set_is_known_without_tensorflow(celeba_records):
    code = (
        "import sys; from data_pipelines.records import RecordSet; "
        f"print(RecordSet.load({celeba_records.path!r}).splits); "
        "assert not {'tensorflow', 'tensorflow_datasets'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == str(celeba_records.splits), ran.stderr


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
    code = "import sys; from data_pipelines.records import build; build(*sys.argv[1:])"
    arguments = ["mtfl", str(mtfl_tree), str(tmp_path / "two")]
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
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
    source = synth.draw("mtfl", tmp_path / "source", images=400)
    build("mtfl", source, tmp_path / "whole")
    target = tmp_path / "records"
    command = [sys.executable, "-m", "data_pipelines.commands", "build", "--dataset=mtfl"]
    command += [f"--source={source}", f"--records={target}"]
    rng = np.random.default_rng()
    for longest in (0.1, 4, 8):
        running = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while running.poll() is None and not (tmp_path / ".records.partial").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        running.kill()
        running.wait()
        if target.exists():
            assert contents(target) == contents(tmp_path / "whole")
        else:
            with pytest.raises(UserError, match="no such folder of records"):
                RecordSet.load(target)
    subprocess.run(command, capture_output=True, check=True)
    assert contents(target) == contents(tmp_path / "whole")
    assert not (tmp_path / ".records.partial").exists()
