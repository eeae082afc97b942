"""faceattr-labels end to end: table, page, numbers, and records that are built with the table."""

import csv
import json
import sys

import numpy as np
import pytest
from untrained_run import make_run

from data_pipelines.records.build import build
from data_pipelines.records.counting import read_labels
from data_pipelines.records.people import read_groups
from faceattr_tf.commands import labels as command


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command; its status, output and errors."""

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["faceattr-labels", "--noprogress", *arguments])
        with pytest.raises(SystemExit) as ended:
            command.run()
        return (ended.value.code, *capsys.readouterr())

    return called


@pytest.fixture(scope="module")
def run(tmp_path_factory, celeba_records):
    folder = tmp_path_factory.mktemp("labels")
    tasks = celeba_records.tasks[:1]
    return make_run(
        folder / "run", tasks=tasks, records=celeba_records, features=folder / "features"
    )


def test_the_table_corrects_records(run, celeba_tree, celeba_records, tmp_path, call):
    output = tmp_path / "found"
    status, out, err = call(
        *(f"--workdir={run.path}", f"--records={celeba_records.path}", f"--output={output}"),
        *("--attributes=Male,attributes/Bald", "--least=0.02", "--learned=0.5"),
    )
    assert status == 0, err
    assert "Ceiling" in out and f"report: {output}/labels.html" in out
    assert "warning: " in err and "pictures with such labels, whose mistakes it repeats" in err
    with open(output / "suspicious.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = json.loads((output / "labels.json").read_text())
    judged = numbers["attributes"]
    assert {*judged, *numbers["left_out"]} == {"attributes/Bald", "attributes/Male"}
    assert rows and len(rows) == sum(one["suspicious"] for one in judged.values())
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    probabilities = [float(row["probability"]) for row in rows]
    assert probabilities == sorted(probabilities, reverse=True) and min(probabilities) >= 0.02
    page = (output / "labels.html").read_text()
    assert page.count("data:image/jpeg") == min(100, len(rows)) and rows[0]["picture"] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    corrected = build(
        *("celeba", celeba_tree, tmp_path / "records"), corrections=output / "suspicious.csv"
    )
    assert sum(corrected.description["corrected"].values()) == len(rows)


def test_classes_are_judged_one_by_one_and_corrected(mtfl_tree, mtfl_records, tmp_path, call):
    tasks = [task for task in mtfl_records.tasks if task.name == "pose"]
    run = make_run(tmp_path / "run", tasks=tasks, records=mtfl_records, features=tmp_path / "f")
    status, _, err = call(
        *(f"--workdir={run.path}", f"--records={mtfl_records.path}", f"--output={tmp_path / 'x'}"),
        *("--attributes=pose", "--least=0.02", "--learned=0.5"),
    )
    assert status == 0, err
    with open(tmp_path / "x" / "suspicious.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    classes = set(tasks[0].labels)
    assert rows and {row["attribute"] for row in rows} == {"pose"}
    assert all({row["given"], row["likely"]} < classes for row in rows)
    assert len({row["picture"] for row in rows}) == len(rows)
    corrected = build(
        *("mtfl", mtfl_tree, tmp_path / "records"), corrections=tmp_path / "x" / "suspicious.csv"
    )
    assert corrected.description["corrected"] == {"pose": len(rows)}
    before, after = (dict(zip(*poses(one), strict=True)) for one in (mtfl_records, corrected))
    for row in rows:
        numbers = [tasks[0].labels.index(row[name]) for name in ("given", "likely")]
        assert [before.pop(row["picture"]), after.pop(row["picture"])] == numbers
    assert before == after


def poses(records):
    names, labels = [], []
    for split in records.splits:
        found = read_labels(records.shards[split], [records.task("pose")])
        names, labels = names + found[0], labels + found[1]["pose"].tolist()
    return names, labels


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--attributes=Beard"], "no attribute 'Beard'; there are: attributes/5_o_Clock_Shadow"),
        (["--least=1.5"], "least 1.5, surest 0.25: expected numbers"),
        (["--config=smoke"], "expected either --workdir=RUN or --config=RECIPE"),
    ],
)
def test_mistakes_are_one_line(run, celeba_records, tmp_path, call, arguments, message):
    common = [f"--records={celeba_records.path}", f"--output={tmp_path / 'x'}"]
    status, _, err = call(f"--workdir={run.path}", *common, *arguments)
    assert status == 1 and message in err and not (tmp_path / "x").exists()


def test_people_belong_together_and_so_do_copies(celeba_records, mtfl_records):
    shards, people = celeba_records.shards["train"], celeba_records.identities("train")
    groups = read_groups(shards)
    same = np.equal.outer(people, people)
    assert np.array_equal(np.equal.outer(np.array(groups), np.array(groups)), same)
    of_nobody = read_groups(mtfl_records.shards["train"])
    assert len(set(of_nobody)) == len(of_nobody) == mtfl_records.splits["train"]
