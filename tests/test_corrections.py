"""Corrected labels: what `faceattr-data build --corrections` changes, and what it refuses."""

import csv

import numpy as np
import pytest

from data_pipelines.commands.data import main
from data_pipelines.errors import UserError
from data_pipelines.formats.corrections import COLUMNS, Corrections
from data_pipelines.records.counting import read_labels
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import MTFL_ATTRIBUTES, Task

SMILING = "attributes/Smiling"


def write(path, *rows, columns=COLUMNS):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def labels_of(records):
    tasks = [records.task("attributes")]
    return {split: read_labels(records.shards[split], tasks) for split in records.splits}


def test_records_hold_the_corrected_labels_and_count_them(
    celeba_tree, celeba_records, tmp_path, capsys
):
    names, labels = labels_of(celeba_records)["train"]
    place = celeba_records.task("attributes").labels.index("Smiling")
    said = ["no", "yes"]
    rows = [
        (name, SMILING, said[labels["attributes"][row, place]], likely, 0.9)
        for row, (name, likely) in enumerate(zip(names[:2], ("unknown", "yes"), strict=True))
    ]
    table = write(tmp_path / "c.csv", *rows, columns=(*COLUMNS, "probability"))
    arguments = ["build", "--dataset=celeba", f"--source={celeba_tree}", "--noprogress"]
    status = main([*arguments, f"--records={tmp_path / 'records'}", f"--corrections={table}"])
    assert status == 0 and f"corrected: 2 labels of {SMILING}" in capsys.readouterr().out
    corrected = RecordSet.load(tmp_path / "records")
    expected = labels["attributes"].copy()
    expected[:2, place] = -1, 1
    found = labels_of(corrected)["train"]
    np.testing.assert_array_equal(found[1]["attributes"], expected)
    assert found[0] == names
    assert corrected.description["fingerprint"] != celeba_records.description["fingerprint"]
    known = np.array(corrected.label_counts["train"]["attributes"])[place].sum()
    assert known == len(names) - 1


@pytest.mark.parametrize(
    "row, message",
    [
        ((None, "attributes/Smile", "no", "yes"), "row 2: no attribute 'attributes/Smile'; there"),
        (("none.jpg", SMILING, "no", "yes"), "row 2: the records have no picture 'none.jpg'"),
        ((None, SMILING, "unknown", "yes"), "here, not unknown; the table is of other labels"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(
    celeba_tree, celeba_records, tmp_path, capsys, row, message
):
    table = write(tmp_path / "c.csv", (row[0] or celeba_records.filenames("train")[0], *row[1:]))
    arguments = ["build", "--dataset=celeba", f"--source={celeba_tree}", "--noprogress"]
    status = main([*arguments, f"--records={tmp_path / 'records'}", f"--corrections={table}"])
    error = capsys.readouterr().err
    assert status == 1 and message in error and str(table) in error
    assert [path.name for path in tmp_path.iterdir()] == ["c.csv"]


@pytest.mark.parametrize(
    "rows, columns, message",
    [
        ([("a.jpg", SMILING, "no")], COLUMNS[:3], "there is no column 'likely'"),
        ([("a.jpg", SMILING, "no", "maybe")], COLUMNS, "row 2: likely is 'maybe', expected yes"),
        ([("a.jpg", SMILING, "no", "yes")] * 2, COLUMNS, "row 3: attributes/Smiling of a.jpg is"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, rows, columns, message):
    with pytest.raises(UserError, match=message):
        Corrections(write(tmp_path / "c.csv", *rows, columns=columns))


def test_classes_are_named(tmp_path):
    table = Corrections(
        write(
            tmp_path / "c.csv",
            ("a.jpg", "pose", "left", "right"),
            ("b.jpg", "pose", "left", "unknown"),
        )
    )
    task = Task("pose", "multiclass", ("left", "right"))
    table.check_tasks([task])
    for picture, expected in (("a.jpg", 1), ("b.jpg", -1), ("c.jpg", 0)):
        assert table.apply(picture, {"pose": np.int8(0)}, [task])["pose"] == expected
    with pytest.raises(UserError, match="pose of a.jpg is right here, not left"):
        table.apply("a.jpg", {"pose": np.int8(1)}, [task])
    with pytest.raises(UserError, match="row 2: given is 'left', expected unknown, up or down"):
        table.check_tasks([Task("pose", "multiclass", ("up", "down"))])


def test_other_tasks_and_pictures_stay(tmp_path):
    table = Corrections(write(tmp_path / "c.csv", ("a.jpg", SMILING, "no", "yes")))
    tasks = (MTFL_ATTRIBUTES, Task("age", "regression", ("age",)))
    labels = {
        "attributes": np.zeros(len(MTFL_ATTRIBUTES.labels), np.int8),
        "age": np.float32([20]),
    }
    assert table.apply("b.jpg", labels, tasks) == labels
    changed = table.apply("a.jpg", labels, tasks)
    assert changed["age"] == 20 and not labels["attributes"].any()
    assert changed["attributes"].sum() == 1
    with pytest.raises(UserError, match="shows several faces"):
        table.check_pictures(["a.jpg", "b.jpg", "a.jpg"])
    table.check_pictures(["a.jpg", "b.jpg"])
