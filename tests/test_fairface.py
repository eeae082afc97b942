import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import tasks
from data_pipelines.errors import UserError
from data_pipelines.records.build import build

HEADER = "file,age,gender,race,service_test\n"
TRAIN = (
    "train/1.jpg,03-Sep,Male,East Asian,True\n"
    "train/2.jpg,more than 70,Female,Latino_Hispanic,False\n"
    "train/3.jpg,19-Oct,Female,Southeast Asian,FALSE\n"
)
VAL = "val/1.jpg,3-9,Male,Middle Eastern,True\n"


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "FairFace"
    for seed, name in enumerate(("train/1", "train/2", "train/3", "val/1", "val/2")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
        (folder / f"{name}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    (folder / "fairface_label_train.csv").write_text(HEADER + TRAIN)
    (folder / "fairface_label_val.csv").write_text(HEADER + VAL)
    return folder


def labels(records, split):
    builder = tfds.builder_from_directory(records.path)
    stored = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return {e["filename"].decode(): e["tasks"] for e in tfds.as_numpy(stored)}


def test_rows_become_labels_and_dates_of_spreadsheets_are_counted(tree, tmp_path):
    records = build("fairface", tree, tmp_path / "records")
    assert records.splits == {"train": 3, "test": 1}
    found = labels(records, "train") | labels(records, "test")
    ranges = {name: tasks.AGE_RANGE.labels[of["age_range"]] for name, of in found.items()}
    assert ranges == {
        "train/1.jpg": "3-9",
        "train/2.jpg": "more than 70",
        "train/3.jpg": "10-19",
        "val/1.jpg": "3-9",
    }
    assert {name: of["attributes"].tolist() for name, of in found.items()} == {
        "train/1.jpg": [1],
        "train/2.jpg": [0],
        "train/3.jpg": [0],
        "val/1.jpg": [1],
    }
    assert {name: tasks.SEVEN_GROUPS[of["ethnicity"]] for name, of in found.items()} == {
        "train/1.jpg": "East_Asian",
        "train/2.jpg": "Latino_Hispanic",
        "train/3.jpg": "Southeast_Asian",
        "val/1.jpg": "Middle_Eastern",
    }
    for of in found.values():
        assert of["ethnicities"].tolist() == (np.arange(7) == of["ethnicity"]).tolist()
    summary = records.summary()
    assert "noted: 2 ages of fairface_label_train.csv that a spreadsheet made dates" in summary
    assert "left out: 1 images without a row" in summary


def test_five_groups_are_the_task_of_utkface(tree, tmp_path):
    records = build("fairface", tree, tmp_path / "records", groups="five")
    assert records.task("ethnicity") == tasks.ethnicity_tasks(tasks.FIVE_GROUPS)[0]
    found = {
        name: tasks.FIVE_GROUPS[of["ethnicity"]] for name, of in labels(records, "train").items()
    }
    assert found == {"train/1.jpg": "Asian", "train/2.jpg": "Others", "train/3.jpg": "Asian"}


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("train/3.jpg,4-9,Male,White,True", "row 3: age is '4-9', expected one of 0-2, 3-9"),
        ("train/3.jpg,3-9,male,White,True", "row 3: gender is 'male', expected Male or Female"),
        ("train/3.jpg,3-9,Male,Asian,True", "row 3: race is 'Asian', expected one of White"),
        ("train/1.jpg,3-9,Male,White,True", "row 3: image 'train/1.jpg' occurs a second time"),
        ("../3.jpg,3-9,Male,White,True", "row 3: '../3.jpg' is no path below the folder of images"),
        ("train/3.jpg,3-9,Male", "row 3: 3 fields, expected 5"),
    ],
)
@pytest.mark.parametrize("groups", ["seven", "five"])
def test_a_wrong_row_is_named(tree, tmp_path, groups, row, complaint):
    first = TRAIN.splitlines()[0]
    (tree / "fairface_label_train.csv").write_text(f"{HEADER}{first}\n{row}\n")
    with pytest.raises(UserError) as error:
        build("fairface", tree, tmp_path / "records", groups=groups)
    assert complaint in str(error.value)
    assert not (tmp_path / "records").exists()


def test_a_table_without_its_pictures_is_one_line(tree, tmp_path):
    rows = "".join(f"train/{number}.jpg,3-9,Male,White,True\n" for number in range(1, 20))
    (tree / "fairface_label_train.csv").write_text(HEADER + rows)
    with pytest.raises(UserError, match="16 of 19 images of a table are missing, such as train/4"):
        build("fairface", tree, tmp_path / "records")


@pytest.mark.real_data
def test_the_real_files_lose_nothing(real_data, tmp_path):
    records = build("fairface", real_data / "fairface", tmp_path / "records")
    assert records.splits == {"train": 1_100, "test": 300}
    assert not any(records.left_out.values())
    assert not records.description["noted"]
