import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.records.build import build

NAMES = (
    "26_0_2_20170116174525125.jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "53__0_20170116184028385.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "116_1_4_20170116220224658.jpg.chip.jpg",
)


def write(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())


@pytest.fixture
def tree(tmp_path):
    for seed, name in enumerate(NAMES):
        write(tmp_path / "set/UTKFace" / name, seed)
    return tmp_path / "set"


def stored(records):
    """Split and labels of every record, by filename."""
    builder = tfds.builder_from_directory(records.path)
    return {
        example["filename"].decode(): (split, example["tasks"])
        for split in records.splits
        for example in tfds.as_numpy(
            builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        )
    }


def test_labels_are_those_of_the_names_and_what_a_name_lacks_is_unknown(tree, tmp_path):
    records = build("utkface", tree, tmp_path / "records")
    found = {name: labels for name, (_, labels) in stored(records).items()}
    assert set(found) == set(NAMES)
    rows = [
        (
            found[name]["age"].item(),
            tasks.AGE_BINS.labels[found[name]["age_bins"]],
            tasks.AGE_RANGE.labels[found[name]["age_range"]],
            found[name]["attributes"].tolist(),
            found[name]["ethnicity"],
            found[name]["ethnicities"].tolist(),
        )
        for name in NAMES
    ]
    unknown = [-1] * 5
    assert rows == [
        (26, "25-32", "20-29", [1], 2, [0, 0, 1, 0, 0]),
        (61, "60+", "60-69", [0], -1, unknown),
        (53, "48-53", "50-59", [-1], 0, [1, 0, 0, 0, 0]),
        (55, "54-59", "50-59", [1], 0, [1, 0, 0, 0, 0]),
        (24, "21-24", "20-29", [1], 1, [0, 1, 0, 0, 0]),
        (116, "60+", "more than 70", [0], 4, [0, 0, 0, 0, 1]),
    ]
    summary = records.summary()
    assert f"noted: 1 names without a group, such as '{NAMES[1]}'" in summary
    assert f"noted: 1 names without a gender, such as '{NAMES[2]}'" in summary
    assert "noted: 2 names that end oddly, such as" in summary


def test_content_decides_the_split_so_that_copies_are_together(tree, tmp_path):
    for index in range(40):
        write(tree / f"UTKFace/{index}_0_0_{10**16 + index}.jpg", 100 + index)
        write(tree / f"UTKFace/{index}_1_0_{2 * 10**16 + index}.jpg", 100 + index)
    same = f"UTKFace/0_0_0_{3 * 10**16}.jpg"
    shutil.copy(tree / f"UTKFace/0_0_0_{10**16}.jpg", tree / same)
    records = build("utkface", tree, tmp_path / "records")
    found = stored(records)
    assert set(records.splits) == {"train", "validation", "test"}
    for index in range(40):
        names = (f"{index}_0_0_{10**16 + index}.jpg", f"{index}_1_0_{2 * 10**16 + index}.jpg")
        assert found[names[0]][0] == found[names[1]][0]
    assert "noted: 81 copies of a picture under other labels" in records.summary()
    # Another name, other neighbours: the same split.
    (tree / "UTKFace" / NAMES[0]).unlink()
    (tree / "UTKFace" / NAMES[3]).rename(tree / "UTKFace/9_0_0_1.jpg")
    again = stored(build("utkface", tree, tmp_path / "again"))
    assert again.pop("9_0_0_1.jpg")[0] == found[NAMES[3]][0]
    assert all(found[name][0] == split for name, (split, _) in again.items())


def test_a_few_names_that_say_nothing_are_left_out_and_many_are_a_wrong_folder(tree, tmp_path):
    for index in range(5):
        write(tree / f"UTKFace/holiday{index}.jpg", index)
    write(tree / "UTKFace/121_0_0_20170116174525125.jpg", 9)
    with pytest.raises(UserError, match="6 of 12 pictures are not named AGE_GENDER_RACE_DATE") as e:
        build("utkface", tree, tmp_path / "records")
    assert "'121_0_0_20170116174525125.jpg'" in str(e.value)
    assert not (tmp_path / "records").exists()
    (tree / "UTKFace/holiday0.jpg").unlink()
    records = build("utkface", tree, tmp_path / "records")
    assert "left out: 5 pictures whose names cannot be read" in records.summary()
    # The folder of pictures itself is as good as the one above it.
    assert build("utkface", tree / "UTKFace", tmp_path / "same").splits == records.splits


def test_photographs_are_those_of_the_parts(tree, tmp_path):
    for part in (1, 2, 3):
        write(tree / f"part{part}/{part}_0_0_2017.jpg", part)
    records = build("utkface", tree, tmp_path / "records", images="wild")
    assert set(stored(records)) == {f"part{part}/{part}_0_0_2017.jpg" for part in (1, 2, 3)}
    assert records.left_out["pictures outside of the parts"] == len(NAMES)


@pytest.mark.real_data
def test_the_real_files_lose_nothing(real_data, tmp_path):
    records = build("utkface", real_data / "utkface", tmp_path / "records")
    assert sum(records.splits.values()) == 3_600
    assert not any(records.left_out.values())
    assert not records.description["noted"]
    shares = [records.splits[split] / 3_600 for split in ("train", "validation", "test")]
    np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)
