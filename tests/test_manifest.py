import collections
import json
import os
import unicodedata

import cv2
import numpy as np
import pytest
from test_encoded import KINDS, PIXELS, TURNS, huge, jpeg, png, seen_by_all

from data_pipelines.errors import UserError
from data_pipelines.formats.detections import LANDMARK_COLUMNS
from data_pipelines.records.build import build as build_records
from data_pipelines.tasks import CELEBA_ATTRIBUTES, LANDMARKS, POSE, Task


def draw(folder, names):
    """Grey pictures, each of its own brightness."""
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.full((10, 12, 3), 10 + index, np.uint8))


def manifest(folder, text, count=4, name="manifest.csv"):
    """A manifest and the pictures 0.png, 1.png, ... that it may name."""
    draw(folder, [f"{index}.png" for index in range(count)])
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def build(source, **options):
    folder = source if source.is_dir() else source.parent
    target = folder.with_name(f"{folder.name}-records")
    return build_records("manifest", source, target, overwrite=True, **options)


def read(built, split="train"):
    """The records of a split by filename."""
    import tensorflow_datasets as tfds

    examples = tfds.builder_from_directory(built.path).as_dataset(split=split)
    return {example["filename"].decode(): example for example in tfds.as_numpy(examples)}


def labels(built, task, split="train"):
    found = read(built, split)
    return [found[name]["tasks"][task].tolist() for name in sorted(found)]


@pytest.fixture
def source(tmp_path):
    return tmp_path / "data"


TABLE = """path,Male,smiles,age,race,split,identity
0.png,yes,1,31.5,White,train,ann
1.png,No,,nan,,TRAIN,bob
2.png,TRUE,0,7,Asian,val,
3.png,0.0,false,,Black,test,ann
"""
TASKS = "attributes:multilabel:male=Male,Smiling=smiles;age:regression;race:multiclass"


def test_columns_become_labels_by_their_declared_kind(source):
    built = build(manifest(source, TABLE), tasks=TASKS)
    assert built.tasks == (
        Task("attributes", "multilabel", ("Male", "Smiling")),
        Task("age", "regression", ("age",)),
        Task("race", "multiclass", ("Asian", "Black", "White")),
    )
    assert built.splits == {"test": 1, "train": 2, "validation": 1}
    assert labels(built, "attributes") == [[1, 1], [0, -1]]
    assert labels(built, "attributes", "validation") == [[1, 0]]
    assert labels(built, "attributes", "test") == [[0, 0]]
    np.testing.assert_array_equal(labels(built, "age"), [[31.5], [np.nan]])
    assert labels(built, "race") == [2, -1]
    found = read(built)
    assert [found[name]["identity"] for name in ("0.png", "1.png")] == [0, 1]
    assert read(built, "validation")["2.png"]["identity"] == -1
    assert found["1.png"]["image"].mean() == 11
    assert np.isnan(found["0.png"]["box"]).all()


def test_votes_become_shares(source):
    table = "path,sad,happy,none\n0.png,1,3,0\n1.png,,,\n2.png,0,0,2.5\n"
    declared = "emotion:distribution:sad,happy,neutral=none"
    built = build(manifest(source, table), tasks=declared)
    assert built.tasks == (Task("emotion", "distribution", ("sad", "happy", "neutral")),)
    expected = [[0.25, 0.75, 0], [np.nan] * 3, [0, 0, 1]]
    np.testing.assert_array_equal(labels(built, "emotion"), expected)
    assert built.label_counts["train"]["emotion"] == [0, 1, 1]
    for row in ("1,,1", "0,0,0", "1,-1,3"):
        with pytest.raises(UserError, match="row 2: the votes of emotion are .*, expected numbers"):
            build(manifest(source, f"path,sad,happy,none\n0.png,{row}\n"), tasks=declared)


def test_json_lines_mean_the_same(source):
    keys, *rows = (line.split(",") for line in TABLE.split())
    objects = [dict(zip(keys, row, strict=True)) for row in rows]
    objects[0] |= {"Male": True, "smiles": 1, "age": 31.5}
    objects[1] |= {"smiles": None, "age": None}
    del objects[2]["identity"]
    text = "\n".join(map(json.dumps, objects)) + "\n\n"
    built = build(manifest(source, text, name="manifest.jsonl"), tasks=TASKS)
    assert labels(built, "attributes") == [[1, 1], [0, -1]]
    np.testing.assert_array_equal(labels(built, "age"), [[31.5], [np.nan]])
    assert built.splits == {"test": 1, "train": 2, "validation": 1}


def test_the_source_may_be_the_table_and_its_images_in_a_sub_folder(source):
    draw(source / "pictures", ["a/ü.png"])
    table = source / "table.csv"
    table.write_text("\ufeffpath,happy\r\na\\ü.png,yes\r\n", encoding="utf-8")
    built = build(table, tasks="mood:multilabel:happy", images="pictures")
    assert built.splits == {"train": 1}
    assert list(read(built)) == ["a/ü.png"]
    same = build(source, tasks="mood:multilabel:happy", images="pictures", manifest="table.csv")
    assert same.label_counts == built.label_counts


def test_a_star_takes_all_of_celebas_attributes(source):
    text = "path,note,5 o clock shadow,YOUNG\n0.png,?,0,1\n"
    built = build(manifest(source, text, 1), tasks="attributes:multilabel:*")
    assert built.task("attributes").labels == ("5_o_Clock_Shadow", "Young")
    assert labels(built, "attributes") == [[0, 1]]


def test_classes_can_be_given_and_poses_know_their_mirror_image(source):
    text = "path,race,pose,years\n0.png,b,right,10\n1.png,a,left,9\n"
    tasks = "race:multiclass:race:c,b,a;pose:multiclass;years:multiclass"
    built = build(manifest(source, text, 2), tasks=tasks)
    assert built.task("race").labels == ("c", "b", "a")
    assert built.task("pose") == POSE
    assert built.task("years").labels == ("9", "10")
    assert labels(built, "race") == [1, 2]
    assert labels(built, "pose") == [3, 1]


def test_boxes_and_landmarks_are_read_from_the_usual_or_the_given_columns(source):
    points = ",".join(LANDMARK_COLUMNS)
    text = (
        f"path,ok,left,top,width,height,{points}\n"
        f"0.png,1,1,2,3.5,4,{','.join(map(str, range(10)))}\n"
        f"1.png,1,,,,,{',' * 9}\n"
    )
    built = build(manifest(source, text, 2), tasks="ok:multilabel")
    found = read(built)
    assert LANDMARKS in built.tasks
    np.testing.assert_array_equal(found["0.png"]["box"], [1, 2, 3.5, 4])
    np.testing.assert_array_equal(found["0.png"]["landmarks"], np.arange(10).reshape(5, 2))
    assert np.isnan(found["1.png"]["box"]).all()
    assert np.isnan(found["1.png"]["landmarks"]).all()
    text = "path,ok,x,y,w,h\n0.png,1,1,2,3,4\n"
    built = build(manifest(source, text), tasks="ok:multilabel", box="x,y,w,h")
    np.testing.assert_array_equal(read(built)["0.png"]["box"], [1, 2, 3, 4])


def test_what_minus_one_means_has_to_be_said(source):
    manifest(source, "path,ok\n0.png,-1\n1.png,1\n", 2)
    with pytest.raises(UserError, match="row 2: ok is '-1', expected .*minus_one"):
        build(source, tasks="ok:multilabel")
    assert labels(build(source, tasks="ok:multilabel", minus_one="no"), "ok") == [[0], [1]]
    assert labels(build(source, tasks="ok:multilabel", minus_one="unknown"), "ok") == [[-1], [1]]


def test_shares_are_exact_seeded_and_keep_people_together(source):
    rows = [f"{index}.png,1,person{index % 10}" for index in range(40)]
    manifest(source, "\n".join(["path,ok,identity", *rows]), 40)
    shares = "train:0.7,val:0.1,test:0.2"
    built = build(source, tasks="ok:multilabel", shares=shares)
    assert built.splits == {"test": 8, "train": 28, "validation": 4}
    people = {
        split: {int(example["identity"]) for example in read(built, split).values()}
        for split in built.splits
    }
    assert {split: len(found) for split, found in people.items()} == {
        "test": 2,
        "train": 7,
        "validation": 1,
    }
    assert len(set.union(*people.values())) == 10
    names = set(built.filenames("test"))
    assert set(build(source, tasks="ok:multilabel", shares=shares).filenames("test")) == names
    other = build(source, tasks="ok:multilabel", shares=shares, seed="1")
    assert set(other.filenames("test")) != names


@pytest.mark.parametrize("prefixes", [("",), ("train/", "Val/", "test/")])
def test_folders_of_classes_need_no_table(source, prefixes):
    names = [f"{p}{c}/{i}.png" for p in prefixes for c in ("cat", "Dog") for i in (1, 2)]
    draw(source, [*names, f"{prefixes[0]}stray.png"])
    (source / "note.png").write_bytes((source / names[0]).read_bytes())
    built = build(source)
    assert built.tasks == (Task("class", "multiclass", ("Dog", "cat")),)
    split_names = ("train", "validation", "test")[: len(prefixes)]
    assert built.splits == dict.fromkeys(sorted(split_names), 4)
    for name, example in read(built).items():
        assert example["tasks"]["class"] == ("cat" in name)
    assert built.left_out == {"images in no folder of a class": 2}


def test_folders_of_more_people_than_a_byte_can_count(source):
    draw(source, [f"{person:03d}/face.png" for person in range(150)])
    built = build(source, tasks="identity:multiclass:class", identity="class")
    found = read(built)
    for person in (0, 127, 128, 149):
        example = found[f"{person:03d}/face.png"]
        assert example["tasks"]["identity"] == example["identity"] == person


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no rows"),
        ("path,ok\n", "it has no rows"),
        ("file,ok\n0.png,1\n", "no column 'path'; it has: file, ok"),
        ("path,ok\n0.png\n", "row 2: 1 fields, expected 2"),
        ("path,ok,ok\n0.png,1,1\n", "row 1: column 'ok' occurs twice"),
        ("path,ok,\n0.png,1,1\n", "row 1: a column has no name"),
        ("path,ok\n0.png,1\n\n1.png,maybe\n", "row 4: ok is 'maybe', expected 1, yes, true"),
        ("path,ok\n0.png,1\n0.png,0\n", "row 3: image '0.png' is already in row 2; several faces"),
        ("path,ok\n../0.png,1\n", r"row 2: '../0.png' is no path below"),
        ("path,ok\na/../0.png,1\n", r"row 2: 'a/../0.png' is no path below"),
        ("path,ok\nC:\\0.png,1\n", "row 2: 'C:.*0.png' is an absolute path"),
        ("path;ok\n0.png;1\n", "row 1: one column 'path;ok'; .* parted by ';', expected commas"),
        ("path\tok\n0.png\t1\n", r"row 1: one column 'path.tok'; .* parted by '.t'"),
        ("path,ok,x1,y1,x2,y2\n0.png,1,1,1,2,2\n", "x1,y1,x2,y2 seem to be corners of boxes"),
        ("path,ok,left,top,width,height\n0.png,1,1,1,2,2\n0.png,1,1,1,2,2\n", "already in row 2"),
        ("path,ok,left,top,width,height\n0.png,1,1,1,2,2\n0.png,1,,,,\n", "already in row 2"),
        ("path,ok\n/etc/0.png,1\n", "row 2: '/etc/0.png' is an absolute path, and not below"),
        ("path,ok\n9.png,1\n", "9.png is missing"),
        ("path,ok,split\n0.png,1,\n", "row 2: split is '', expected a split"),
        ("path,ok,split\n0.png,1,all\n", "row 2: split is 'all'"),
        ("path,ok,left,top,width,height\n0.png,1,1,1,0,5\n", "row 2: expected a box"),
        ("path,ok,left,top,width,height\n0.png,1,1,,2,5\n", "row 2: expected a box"),
        ("path,ok,left,top,width,height\n0.png,1,1,x,2,5\n", "row 2: top is 'x', expected a fin"),
    ],
)
def test_wrong_tables_are_refused_with_their_row(source, text, message):
    with pytest.raises(UserError, match=message):
        build(manifest(source, text), tasks="ok:multilabel")


@pytest.mark.parametrize("line", ["[1]", '{"path": ["0.png"]}', '{"path": "0.png"', "0.png"])
def test_wrong_json_lines_are_refused_with_their_row(source, line):
    manifest(source, f'{{"path": "1.png", "ok": 1}}\n{line}\n', name="manifest.jsonl")
    with pytest.raises(UserError, match="manifest.jsonl, row 2: expected one JSON object"):
        build(source, tasks="ok:multilabel")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "option tasks says what the columns are.*columns: path, ok, n"),
        ({"tasks": "ok"}, "cannot read 'ok'; expected NAME:KIND:COLUMN"),
        ({"tasks": "ok:yesno"}, "'yesno' in 'ok:yesno' is no kind of task"),
        ({"tasks": "a b:multilabel:ok"}, "'a b' in .* is no name for a task"),
        ({"tasks": "landmarks:regression:n"}, "'landmarks' in .* is no name"),
        ({"tasks": "ok:multilabel:ok:n"}, "cannot read 'ok:multilabel:ok:n'"),
        ({"tasks": "ok:multilabel:ok,ok"}, "a label is empty or occurs twice"),
        ({"tasks": "ok:multilabel;ok:regression:n"}, "task 'ok' occurs twice"),
        ({"tasks": "ok:multilabel:*"}, "no column is called like one of CelebA's"),
        ({"tasks": "ok:multilabel:gone"}, "no column 'gone'; it has: path, ok, n"),
        ({"tasks": "n:multiclass:n,ok"}, "expected one column"),
        ({"tasks": "n:multiclass:n:1,2,1"}, "no class twice"),
        ({"tasks": "n:multiclass:n:1,2"}, "row 4: n is '3', expected one of 1, 2 or nothing"),
        ({"tasks": "e:multiclass"}, "column 'e' is empty"),
        ({"tasks": "ok:multilabel", "identity": "who"}, "no column 'who'"),
        ({"tasks": "ok:multilabel", "box": "n,n"}, "option box: 2 columns, expected 4"),
        ({"tasks": "ok:multilabel", "shares": "train:0.5"}, "option shares: 'train:0.5'"),
        ({"tasks": "ok:multilabel", "shares": "train:0.9,test:0.1"}, "test gets none of 3"),
        ({"tasks": "ok:multilabel", "shares": "train:1", "seed": "x"}, "option seed: 'x'"),
        ({"tasks": "ok:multilabel", "images": "../x"}, "option images: '../x' is no path"),
        ({"tasks": "ok:multilabel", "manifest": "gone.csv"}, "there is no gone.csv"),
        ({"tasks": "ok:multilabel", "minus_one": "what"}, "minus_one='what' is none of refuse"),
    ],
)
def test_wrong_options_are_refused(source, options, message):
    manifest(source, "path,ok,n,e\n0.png,1,1,\n1.png,0,2,\n2.png,1,3,\n", 3)
    with pytest.raises(UserError, match=message):
        build(source, **options)


def test_a_split_column_and_shares_exclude_each_other(source):
    manifest(source, "path,ok,split\n0.png,1,train\n")
    with pytest.raises(UserError, match="it has a column of splits, so shares are not used"):
        build(source, tasks="ok:multilabel", shares="train:1")


def test_a_folder_without_a_table_or_classes_is_refused(source):
    draw(source, ["0.png"])
    with pytest.raises(UserError, match="neither manifest.csv nor manifest.jsonl nor folders"):
        build(source)


def test_the_drawn_manifest_is_read(tmp_path):
    from data_pipelines.synth import layouts

    source = layouts.draw("manifest", tmp_path / "data", images=20, seed=3)
    built = build(source, tasks="attributes:multilabel:*;age:regression;pose:multiclass")
    assert built.task("attributes").labels == CELEBA_ATTRIBUTES
    assert built.task("pose") == POSE
    assert collections.Counter(built.splits) == {"train": 16, "validation": 2, "test": 2}


def test_records_hold_what_every_decoder_sees_alike(tmp_path):
    folder = tmp_path / "faces" / "someone"
    folder.mkdir(parents=True)
    files = {"turned.png": png(6), "turned.jpg": jpeg(8), "plain.jpg": jpeg(1)}
    files |= {"palette.bmp": KINDS["BMP with a palette"], "a.tif": KINDS["TIFF"]}
    files |= {"huge.gif": huge("GIF"), "notes.txt": b"", "._a.jpg": b""}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    built = build(tmp_path / "faces", max_bad=1)
    images = {name.split("/")[1]: example["image"] for name, example in read(built).items()}
    assert images.keys() == {"turned.png", "turned.jpg", "plain.jpg", "palette.bmp", "a.tif"}
    np.testing.assert_array_equal(images["turned.png"], TURNS[6](PIXELS))
    np.testing.assert_array_equal(images["a.tif"], PIXELS)
    np.testing.assert_array_equal(
        images["palette.bmp"], seen_by_all(KINDS["PNG with a palette"])[0]
    )
    summary = built.summary()
    for line in (
        "manifest: faces of a manifest (5 faces)",
        "turned upright by their orientation tag: 2 images",
        "stored as PNG (BMP): 1 images",
        "stored as PNG (TIFF): 1 images",
        "not read: 1 hidden or system files and folders",
        "not read: 1 files that end in .txt",
    ):
        assert line in summary
    assert "pixels by its header" in built.left_out["bad images"]["someone/huge.gif"]


def test_paths_are_found_however_they_are_written(source):
    draw(source, ["img/a.png", "img/b.png", "12:30.png", "d.png"])
    draw(source, [unicodedata.normalize("NFD", "é.png")])
    written = ["./img/a.png", "img//b.png", "12:30.png", f"{source}/d.png", "é.png"]
    text = "file,ok\n" + "".join(f"{path},1\n" for path in written)
    built = build(manifest(source, text, 0), tasks="ok:multilabel", path="file")
    names = ["12:30.png", "d.png", unicodedata.normalize("NFD", "é.png"), "img/a.png", "img/b.png"]
    assert sorted(built.filenames("train")) == names
    with pytest.raises(UserError, match="no column 'path'; it has: file, ok; --option path=COLUMN"):
        build(source, tasks="ok:multilabel")


def test_row_numbers_of_a_data_frame_are_left_out_and_unread_columns_named(source, capsys):
    text = ",path,ok,note,score\n0,0.png,1,x,3\n1,1.png,0,y,4\n"
    built = build(manifest(source, text, 2), tasks="ok:multilabel")
    assert labels(built, "ok") == [[1], [0]]
    assert "its first column, without a name, holds row numbers" in capsys.readouterr().err
    assert "not read: 2 columns: note, score" in built.summary()
    with pytest.raises(UserError, match="row 1: a column has no name"):
        build(manifest(source, text.replace("1,1.png", "7,1.png")), tasks="ok:multilabel")


def test_two_faces_of_a_picture_are_two_rows_with_a_box_each(source):
    text = "path,ok,left,top,width,height\n0.png,1,0,0,4,4\n0.png,0,6,0,4,4\n1.png,0,,,,\n"
    built = build(manifest(source, text, 2), tasks="ok:multilabel")
    assert sorted(built.filenames("train")) == ["0.png", "0.png", "1.png"]
    import tensorflow_datasets as tfds

    found = tfds.as_numpy(tfds.builder_from_directory(built.path).as_dataset(split="train"))
    faces = {tuple(e["box"].tolist()): e["tasks"]["ok"][0] for e in found if e["box"][2] > 0}
    assert faces == {(0, 0, 4, 4): 1, (6, 0, 4, 4): 0}


def test_corners_are_boxes_when_said(source):
    manifest(source, "path,ok,x1,y1,x2,y2\n0.png,1,1,2,5,9\n", 1)
    built = build(source, tasks="ok:multilabel", corners="x1,y1,x2,y2")
    np.testing.assert_array_equal(read(built)["0.png"]["box"], [1, 2, 4, 7])
    with pytest.raises(UserError, match="options box and corners: expected one"):
        build(source, tasks="ok:multilabel", corners="x1,y1,x2,y2", box="x1,y1,x2,y2")


def test_nan_is_unknown_in_every_column(source):
    text = "path,race,identity\n0.png,White,ann\n1.png,nan,NaN\n2.png,Asian,\n"
    built = build(manifest(source, text, 3), tasks="race:multiclass")
    assert built.task("race").labels == ("Asian", "White")
    assert labels(built, "race") == [1, -1, 0]
    assert [e["identity"] for _, e in sorted(read(built).items())] == [0, -1, -1]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_text_that_is_not_utf8_is_refused_with_its_row(source, encoding):
    manifest(source, "", 2)
    (source / "manifest.csv").write_bytes("path,race\n0.png,a\n1.png,Café\n".encode(encoding))
    row = {"cp1252": "row 3", "utf-16": "row 1"}[encoding]
    with pytest.raises(UserError, match=f"{row}: .* is not UTF-8; save the table as UTF-8"):
        build(source, tasks="race:multiclass")


def test_a_class_whose_name_is_not_utf8_is_refused(source):
    draw(source, ["a/0.png", "b/1.png"])
    os.rename(source / "b", os.fsencode(source) + b"/\xe9")
    with pytest.raises(UserError, match="is not UTF-8; rename the folder"):
        build(source)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a/0.png", "b/1.tga"],
            r"b: this class holds no picture that is read \(1 files that end in",
        ),
        (["a/0.png", "b/"], r"b: this class holds no picture that is read \(it is empty\)"),
        (["train/a/0.png", "val/a/1.png", "val/b/"], "val/b: this class holds no picture"),
        (
            ["train/a/0.png", "val/a/1.png", "more/b/2.png"],
            "train, val look like splits, more like",
        ),
    ],
)
def test_folders_that_can_be_read_in_two_ways_or_not_at_all_are_refused(source, files, message):
    draw(source, [name for name in files if name.endswith(".png")])
    for name in files:
        place = source / name
        if name.endswith("/"):
            place.mkdir(parents=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"")
    with pytest.raises(UserError, match=message):
        build(source)


def test_what_the_system_adds_to_folders_is_no_class(source):
    draw(source, ["0/a.png", "1/b.png", ".ipynb_checkpoints/a.png", "__MACOSX/0/a.png"])
    (source / "0" / "._a.png").write_bytes(b"Mac")
    built = build(source)
    assert built.tasks == (Task("class", "multiclass", ("0", "1")),)
    assert "not read: 3 hidden or system files and folders" in built.summary()
