"""Faces pasted into other pictures: what the manifest says is what the canvases show."""

import csv
import re

import cv2
import numpy as np
import pytest

from data_pipelines.commands.data import main
from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.records.build import build
from data_pipelines.records.canvases import Pasting, paste_faces
from data_pipelines.records.record_set import RecordSet
from data_pipelines.synth.canvases import Canvas, draw_canvas

SPLITS = ("train", "train", "train", "train", "validation", "validation")
LABELS = ((1, 0, 20), (0, 1, 30), (1, "", 40), ("", "", ""), (1, 1, 25.5), (0, 0, 60))
BOXES = ((8, 4, 10, 12), (), (0, 0, 9, 9), (), (20, 20, 10, 10), ())
PLAIN = Canvas(height=80, width=100, distractors=0, textures=0, feather=0)
OPTIONS = {"tasks": "attributes:multilabel:Male,Smiling;age:regression;hair:multiclass"}


def colour(number: int) -> list[int]:
    """A red that no background has, of its own for every face; they are grey otherwise."""
    return [255, 40 * number, 0]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Records of six faces: pictures of 30x40 in a colour of their own, half of them with a box."""
    folder = tmp_path_factory.mktemp("faces")
    rows = [
        [
            "path",
            "split",
            "identity",
            "left",
            "top",
            "width",
            "height",
            "Male",
            "Smiling",
            "age",
            "hair",
        ]
    ]
    for number, (split, labels, box) in enumerate(zip(SPLITS, LABELS, BOXES, strict=True)):
        picture = np.full((40, 30, 3), colour(number)[::-1], np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        rows.append(
            [
                f"{number}.png",
                split,
                7 + number,
                *(box or [""] * 4),
                *labels,
                ("red", "none", "")[number % 3],
            ]
        )
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return build("manifest", folder, tmp_path_factory.mktemp("records") / "faces", **OPTIONS)


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory):
    """Nine grey pictures, each of a grey of its own, and a file that is none."""
    folder = tmp_path_factory.mktemp("backgrounds")
    (folder / "more").mkdir()
    for number in range(9):
        picture = np.full((50 + number, 70, 3), 40 + 20 * number, np.uint8)
        cv2.imwrite(str(folder / ("more" if number % 2 else "") / f"{number}.png"), picture)
    (folder / "notes.txt").write_text("none\n")
    return folder


def rows_of(folder):
    with open(folder / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def read(folder, path):
    return cv2.imread(str(folder / path))[..., ::-1].astype(int)


def reddish(pixels):
    """Where a canvas shows a face: bool `[H, W]`."""
    return pixels[..., 0] - pixels[..., 2] > 100


def box_of(row):
    return np.array([float(row[side]) for side in ("left", "top", "width", "height")])


@pytest.fixture(scope="module")
def pasted(faces, backgrounds, tmp_path_factory):
    folder = tmp_path_factory.mktemp("canvases") / "one"
    return paste_faces(faces, backgrounds, folder, Pasting(canvases=30, margin=0), PLAIN)


def test_every_split_has_its_share_and_every_face_is_used_before_any_is_used_again(pasted):
    assert pasted.canvases == {"train": 20, "validation": 10}
    assert (pasted.faces, pasted.boxes, pasted.empty) == (30, 15, 0)
    assert pasted.passed_over == {"files that end in .txt": 1}
    rows = rows_of(pasted.folder)
    assert {row["path"] for row in rows} == {
        f"{path.parent.name}/{path.name}" for path in pasted.folder.glob("*/*.jpg")
    }
    for split, names in (("train", "0123"), ("validation", "45")):
        used = [row["pasted"] for row in rows if row["split"] == split]
        assert {row["path"].split("/")[0] for row in rows if row["split"] == split} == {split}
        assert {name: used.count(name) for name in set(used)} == {
            f"{name}.png": len(used) // len(names) for name in names
        }


def test_boxes_are_where_faces_are_and_labels_those_of_the_faces(pasted):
    for row in rows_of(pasted.folder):
        number = int(row["pasted"][0])
        labels = [row["Male"], row["Smiling"], row["age"]]
        assert [text and float(text) for text in labels] == list(LABELS[number])
        assert row["hair"] == ("red", "none", "")[number % 3]
        assert row["identity"] == str(7 + number)
        shown = reddish(read(pasted.folder, row["path"]))
        rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
        left, top, width, height = box_of(row)
        # Without a margin all that is shown of a face is its box, or else its picture.
        np.testing.assert_allclose([left, left + width], [columns[0], columns[-1] + 1], atol=2)
        np.testing.assert_allclose([top, top + height], [rows[0], rows[-1] + 1], atol=2)
        wide, high = BOXES[number][2:] or (30, 40)
        assert width / height == pytest.approx(wide / high, rel=0.06)
        assert 0.3 * 80 - 1 <= max(width, height) <= 0.8 * 80 + 1


def test_a_margin_shows_more_than_the_box(faces, backgrounds, tmp_path):
    made = paste_faces(
        faces, backgrounds, tmp_path / "one", Pasting(canvases=12, margin=0.5), PLAIN
    )
    seen = 0
    for row in rows_of(made.folder):
        number = int(row["pasted"][0])
        if number in (0, 4):
            shown = reddish(read(made.folder, row["path"]))
            left, top, width, _ = box_of(row)
            x, y = np.flatnonzero(shown.any(axis=0))[0], np.flatnonzero(shown.any(axis=1))[0]
            box, scale = BOXES[number], width / BOXES[number][2]
            added = 0.5 * max(box[2:])
            assert left - x == pytest.approx(min(box[0], added) * scale, abs=2)
            assert top - y == pytest.approx(min(box[1], added) * scale, abs=2)
            seen += 1
    assert seen > 2


def test_no_background_is_in_two_splits(pasted):
    greys = {"train": set(), "validation": set()}
    for row in rows_of(pasted.folder):
        pixels = read(pasted.folder, row["path"])
        greys[row["split"]].add(20 * round(np.median(pixels[~reddish(pixels)]) / 20))
    assert len(greys["train"]) > 2 and greys["validation"]
    assert greys["train"].isdisjoint(greys["validation"])


def test_the_same_seed_makes_the_same_canvases(faces, backgrounds, tmp_path):
    def make(name, seed):
        pasting = Pasting(canvases=4, seed=seed)
        folder = paste_faces(faces, backgrounds, tmp_path / name, pasting, Canvas(64, 64)).folder
        return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.*"))}

    first = make("one", 3)
    assert first == make("two", 3)
    other = make("three", 4)
    assert all(first[name] != other[name] for name in first)


def test_canvases_are_read_as_a_manifest_that_keeps_tasks_and_splits(
    faces, backgrounds, tmp_path, capsys
):
    folder = tmp_path / "canvases"
    arguments = [f"--records={faces.path}", f"--backgrounds={backgrounds}", f"--folder={folder}"]
    assert main(["paste", *arguments, "--canvases=24", "--empty=0.3", "--size", "48", "64"]) == 0
    printed = capsys.readouterr().out
    empty = int(re.search(r"without a face: (\d+)", printed)[1])
    assert 2 < empty < 15 and f"; {24 - empty} faces pasted" in printed
    tasks = re.search(r"--option tasks='(.*)'", printed)[1]
    records = build("manifest", folder, tmp_path / "records", tasks=tasks)
    assert [(task.name, task.kind) for task in records.tasks] == [
        (task.name, task.kind) for task in faces.tasks
    ]
    assert records.splits == {"train": 16, "validation": 8}
    rows = {row["path"]: row for row in rows_of(folder)}
    for split, shards in records.shards.items():
        for _, example in read_examples(shards, range(records.splits[split])):
            row = rows[example["filename"][0].decode()]
            assert cv2.imread(str(folder / row["path"])).shape == (48, 64, 3)
            if not row["pasted"]:
                assert (example["tasks/attributes"] == -1).all()
                assert np.isnan(example["box"]).all() and example["identity"] == -1


def test_several_faces_have_a_row_each_and_do_not_cover_each_other(faces, backgrounds, tmp_path):
    pasting = Pasting(canvases=10, faces=3)
    made = paste_faces(faces, backgrounds, tmp_path / "many", pasting, PLAIN)
    rows = rows_of(made.folder)
    assert len(rows) == made.faces
    together = {}
    for row in rows:
        together.setdefault(row["path"], []).append(box_of(row))
    assert {len(boxes) for boxes in together.values()} == {1, 2, 3}
    for boxes in together.values():
        for index, (left, top, width, height) in enumerate(boxes):
            for x, y, across, down in boxes[:index]:
                assert (
                    left + width <= x or x + across <= left or top + height <= y or y + down <= top
                )
    RecordSet.load(build("manifest", made.folder, tmp_path / "records", tasks=made.tasks).path)


def test_soft_edges_are_those_of_faces_and_of_pieces_alike():
    settings = Canvas(height=60, width=60, smallest=0.5, largest=0.5, textures=0, feather=0.3)
    black, white = np.zeros((60, 60, 3), np.uint8), np.full((30, 30, 3), 255, np.uint8)
    for faces, pictures in (([white], [black]), ([], [black, white])):
        steps = []
        for seed in range(20):
            canvas, _ = draw_canvas(np.random.default_rng(seed), faces, pictures, settings)
            assert canvas.max() > 250
            grey = (canvas > 5) & (canvas < 250)
            steps.append(grey.mean())
        assert np.mean(steps) > 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--canvases=1"], r"1 canvases; expected at least one for each of 2 splits"),
        (["--smallest=0.9", "--largest=0.5"], r"0.9 to 0.5 of the canvas"),
        (["--faces=0"], r"0 faces on a canvas; expected 1 or more"),
        (["--empty=1"], r"1.0 of the canvases empty; expected a share below 1"),
        (["--size", "8", "64"], r"8x64 pixels; expected at least 32x32"),
        (["--feather=0.7"], r"feather 0.7; expected a share from 0 to 0.5"),
        (["--distractors=-1"], r"-1 distractors; expected 0 or more"),
        (["--margin=-1"], r"margin -1.0 around faces; expected 0 or more"),
        (["--backgrounds=/nowhere"], r"/nowhere: there is no such folder of backgrounds"),
        (["--records=/nowhere"], r"/nowhere: no such folder of records"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    flags, message, faces, backgrounds, tmp_path, capsys
):
    folder = tmp_path / "new"
    usual = [f"--records={faces.path}", f"--backgrounds={backgrounds}", f"--folder={folder}"]
    assert main(["paste", *usual, *flags]) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(rf"faceattr-data paste: error: .*{message}.*\n", error), error
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_background_is_named_and_leaves_nothing(faces, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"\d\.jpg: not an image"):
        paste_faces(faces, tmp_path, tmp_path / "new", Pasting(canvases=4), Canvas(64, 64))
    assert not list(tmp_path.glob("new*"))


def test_a_folder_that_holds_something_is_left_alone(faces, backgrounds, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UserError, match="it is not empty"):
        paste_faces(faces, backgrounds, tmp_path, Pasting(), PLAIN)
    assert (tmp_path / "mine").read_text() == "kept"
