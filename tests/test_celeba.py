import csv
import os
import shutil
import zipfile

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.records.build import build
from data_pipelines.synth import layouts
from data_pipelines.tasks import CELEBA_ATTRIBUTES


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return layouts.draw("celeba", tmp_path_factory.mktemp("drawn") / "celeba", images=24, seed=3)


@pytest.fixture
def tree(drawn, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(drawn, tmp_path / "celeba")


def examples(records):
    """All records by filename, read by TensorFlow Datasets itself."""
    builder = tfds.builder_from_directory(records.path)
    decoders = {"image": tfds.decode.SkipDecoding()}
    return {
        os.fsdecode(example["filename"]): example | {"split": split}
        for split in records.splits
        for example in tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    }


def rows(path, header=2):
    """The rows of an official table: name -> numbers."""
    lines = [line.split() for line in path.read_text().splitlines()[header:]]
    return {line[0]: np.array(line[1:], float) for line in lines}


def test_every_table_is_joined_by_name(tree, tmp_path):
    records = build("celeba", tree, tmp_path / "records")
    labels = rows(tree / "Anno/list_attr_celeba.txt")
    points = rows(tree / "Anno/list_landmarks_align_celeba.txt")
    people = rows(tree / "Anno/identity_CelebA.txt", header=0)
    parts = rows(tree / "Eval/list_eval_partition.txt", header=0)
    found = examples(records)
    assert set(found) == set(labels)
    for name, example in found.items():
        assert example["image"] == (tree / "img_align_celeba" / name).read_bytes()
        np.testing.assert_array_equal(example["tasks"]["attributes"], (labels[name] + 1) / 2)
        np.testing.assert_array_equal(example["landmarks"].ravel(), points[name].astype("f4"))
        assert example["identity"] == people[name][0]
        assert example["split"] == ("train", "validation", "test")[int(parts[name][0])]
        assert np.isnan(example["box"]).all()
    assert [task.name for task in records.tasks] == ["attributes", "landmarks"]
    assert records.task("attributes").labels == CELEBA_ATTRIBUTES


def flat(tree):
    for path in (*tree.glob("Anno/*"), *tree.glob("Eval/*")):
        path.rename(tree / path.name)


def in_img(tree):
    (tree / "Img").mkdir()
    (tree / "img_align_celeba").rename(tree / "Img/img_align_celeba")


def nested(tree):
    (tree / "img_align_celeba").rename(tree / "inner")
    (tree / "img_align_celeba").mkdir()
    (tree / "inner").rename(tree / "img_align_celeba/img_align_celeba")


def zipped(tree):
    with zipfile.ZipFile(tree / "img_align_celeba.zip", "w") as archive:
        for path in (tree / "img_align_celeba").iterdir():
            archive.write(path, f"img_align_celeba/{path.name}")
    shutil.rmtree(tree / "img_align_celeba")


def as_csv(tree):
    """Tables as the competition site distributes them: one header row, commas, no row count."""
    headers = {
        "list_attr_celeba": CELEBA_ATTRIBUTES,
        "list_landmarks_align_celeba": [
            f"{point}_{axis}"
            for point in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
            for axis in "xy"
        ],
        "list_eval_partition": ["partition"],
        "identity_CelebA": ["identity"],
    }
    for path in (*tree.glob("Anno/*"), *tree.glob("Eval/*")):
        first = 2 if "list_attr" in path.name or "landmarks" in path.name else 0
        lines = [line.split() for line in path.read_text().splitlines()[first:]]
        with open(tree / f"{path.stem}.csv", "w", newline="") as file:
            csv.writer(file).writerows([["image_id", *headers[path.stem]], *lines])
        path.unlink()


@pytest.mark.parametrize("change", [flat, in_img, nested, zipped, as_csv])
def test_every_layout_gives_the_same_records(drawn, tree, tmp_path, change):
    change(tree)
    changed = build("celeba", tree, tmp_path / "changed")
    official = build("celeba", drawn, tmp_path / "official")
    for split, names in official.shards.items():
        for one, other in zip(names, changed.shards[split], strict=True):
            with open(one, "rb") as first, open(other, "rb") as second:
                assert first.read() == second.read()


@pytest.mark.parametrize(
    "member", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "a\\evil.jpg", "C:/evil.jpg"]
)
def test_an_archive_with_a_crafted_name_is_refused(tree, tmp_path, member):
    zipped(tree)
    with zipfile.ZipFile(tree / "img_align_celeba.zip", "a") as archive:
        archive.writestr(member, b"x")
    with pytest.raises(UserError, match="is no plain relative path"):
        build("celeba", tree, tmp_path / "records")


def test_a_broken_archive_is_refused(tree, tmp_path):
    shutil.rmtree(tree / "img_align_celeba")
    (tree / "img_align_celeba.zip").write_bytes(b"PK not an archive")
    with pytest.raises(UserError, match="no readable ZIP archive"):
        build("celeba", tree, tmp_path / "records")


def test_photographs_have_their_own_landmarks_and_boxes(tmp_path):
    tree = layouts.draw("celeba", tmp_path / "wild", images=12, in_the_wild=True)
    boxes = rows(tree / "Anno/list_bbox_celeba.txt")
    points = rows(tree / "Anno/list_landmarks_celeba.txt")
    records = build("celeba", tree, tmp_path / "records", images="wild")
    for name, example in examples(records).items():
        np.testing.assert_array_equal(example["box"], boxes[name].astype("f4"))
        np.testing.assert_array_equal(example["landmarks"].ravel(), points[name].astype("f4"))


def test_tables_of_photographs_are_never_joined_to_aligned_images(tree, tmp_path):
    aligned = tree / "Anno/list_landmarks_align_celeba.txt"
    aligned.rename(tree / "Anno/list_landmarks_celeba.txt")
    names = rows(tree / "Anno/list_attr_celeba.txt")
    boxes = "".join(f"{name} 1 2 30 40\n" for name in names)
    header = f"{len(names)}\nimage_id x_1 y_1 width height\n"
    (tree / "Anno/list_bbox_celeba.txt").write_text(header + boxes)
    records = build("celeba", tree, tmp_path / "records")
    assert [task.name for task in records.tasks] == ["attributes"]
    for example in examples(records).values():
        assert np.isnan(example["landmarks"]).all()
        assert np.isnan(example["box"]).all()


def test_the_identity_protocol_splits_by_person(tree, tmp_path):
    names = sorted(rows(tree / "Anno/list_attr_celeba.txt"))
    people = dict(zip(names, np.linspace(1, 10_177, len(names)).astype(int), strict=True))
    people[names[0]], people[names[1]], people[names[2]] = 8000, 8001, 10_001
    text = "".join(f"{name} {person}\n" for name, person in people.items())
    (tree / "Anno/identity_CelebA.txt").write_text(text)
    shutil.rmtree(tree / "Eval")
    records = build("celeba", tree, tmp_path / "records", split="identity")
    expected = {
        name: "train" if person <= 8000 else "validation" if person <= 9000 else "test"
        for name, person in people.items()
        if person <= 10_000
    }
    assert {name: example["split"] for name, example in examples(records).items()} == expected
    left_out = len(names) - len(expected)
    assert records.left_out["images of identities beyond the protocol"] == left_out > 0
    machines = build("celeba", tree, tmp_path / "machines", split="identity_svm")
    renamed = {"validation": "train", "test": "test"}
    assert {name: example["split"] for name, example in examples(machines).items()} == {
        name: renamed[split] for name, split in expected.items() if split != "train"
    }


def test_optional_files_may_be_absent(tree, tmp_path):
    (tree / "Anno/identity_CelebA.txt").unlink()
    (tree / "Anno/list_landmarks_align_celeba.txt").unlink()
    records = build("celeba", tree, tmp_path / "records")
    assert {example["identity"] for example in examples(records).values()} == {-1}
    with pytest.raises(UserError, match=r"no Anno/identity_CelebA\.txt"):
        build("celeba", tree, tmp_path / "other", split="identity")


def replace_row(path, row, text):
    lines = path.read_text().splitlines()
    lines[row - 1] = text
    path.write_text("\n".join(lines) + "\n")


ATTRIBUTES, PARTITION = "Anno/list_attr_celeba.txt", "Eval/list_eval_partition.txt"


@pytest.mark.parametrize(
    ("file", "row", "text", "complaint"),
    [
        (ATTRIBUTES, 1, "99", "row 1: says '99' rows, but 24 follow"),
        (ATTRIBUTES, 2, " ".join(CELEBA_ATTRIBUTES[:39]), "row 2: 39 column names, expected 40"),
        (
            ATTRIBUTES,
            2,
            " ".join(CELEBA_ATTRIBUTES).replace("Bald", "Hairless"),
            "row 2: column 5 is 'Hairless', expected 'Bald'",
        ),
        (ATTRIBUTES, 5, "000003.jpg 1 -1", "row 5: 3 fields, expected 41"),
        (ATTRIBUTES, 5, "000003.jpg " + "1 " * 39 + "x", "row 5: could not convert string"),
        (ATTRIBUTES, 5, "000003.jpg 2" + " 1" * 39, "row 5: 5_o_Clock_Shadow is 2, expected"),
        (ATTRIBUTES, 5, "000002.jpg" + " 1" * 40, "row 5: image '000002.jpg' occurs a second"),
        (PARTITION, 5, "000005.jpg 3", "row 5: partition is 3, expected one of 0, 1, 2"),
        (PARTITION, 5, "555555.jpg 1", "there is no row of image '000005.jpg'"),
    ],
)
def test_a_wrong_row_is_named(tree, tmp_path, file, row, text, complaint):
    replace_row(tree / file, row, text)
    with pytest.raises(UserError) as error:
        build("celeba", tree, tmp_path / "records")
    assert complaint in str(error.value)
    assert os.path.basename(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_options_are_refused(tree, tmp_path):
    with pytest.raises(UserError, match="images='tame' is none of aligned, wild"):
        build("celeba", tree, tmp_path / "records", images="tame")
    with pytest.raises(UserError, match="no option 'colour'; it has: images, split"):
        build("celeba", tree, tmp_path / "records", colour="red")


@pytest.mark.real_data
def test_the_real_files_lose_nothing(real_data, tmp_path):
    source = real_data / "celeba_small"
    records = build("celeba", source, tmp_path / "records")
    assert records.splits == {"train": 5_889, "validation": 990, "test": 1_003}
    assert not any(records.left_out.values())
    labels, parts = rows(source / ATTRIBUTES), rows(source / PARTITION, header=0)
    for part, split in enumerate(records.splits):
        table = np.array([labels[name] for name in labels if parts[name][0] == part])
        expected = np.stack([(table == -1).sum(0), (table == 1).sum(0)], axis=1)
        assert records.label_counts[split]["attributes"] == expected.tolist()
    majority = records.majority()["attributes"]
    test = np.array([labels[name] for name in labels if parts[name][0] == 2])
    assert round(100 * np.mean((test == 1) == majority), 1) == 80.3


def edit(path, change):
    path.write_text("\n".join(change(path.read_text().split("\n"))))


def test_a_subset_of_the_rows_is_built_when_asked_for(tree, tmp_path):
    attributes = tree / "Anno/list_attr_celeba.txt"
    edit(attributes, lambda lines: ["202599", *lines[1:12]])
    with pytest.raises(UserError, match=r"row 1: says '202599' rows, but 10 .* rows=subset"):
        build("celeba", tree, tmp_path / "records")
    kept = list(rows(attributes))
    (tree / "img_align_celeba" / kept[0]).unlink()
    records = build("celeba", tree, tmp_path / "records", rows="subset")
    assert set(examples(records)) == set(kept[1:])
    assert records.left_out["rows without an image"] == 1
    assert records.left_out["images without a row"] == 14
    labels = rows(attributes)
    for name, example in examples(records).items():
        np.testing.assert_array_equal(example["tasks"]["attributes"], (labels[name] + 1) / 2)


def test_the_first_images_with_the_whole_tables(tree, tmp_path, capsys):
    parts = rows(tree / "Eval/list_eval_partition.txt", header=0)
    there = [name for name, part in parts.items() if part[0] == 0][:5]
    for path in (tree / "img_align_celeba").iterdir():
        if path.name not in there:
            path.unlink()
    with pytest.raises(UserError, match=r"19 of 24 images .* are missing, such as .* rows=subset"):
        build("celeba", tree, tmp_path / "records")
    assert "is missing" not in capsys.readouterr().err
    records = build("celeba", tree, tmp_path / "records", rows="subset")
    assert records.splits == {"train": 5}
    assert "left out: 19 rows without an image" in records.summary()


def test_zeros_for_no_are_read_when_said(tree, drawn, tmp_path):
    path = tree / "Anno/list_attr_celeba.txt"
    path.write_text(path.read_text().replace("-1", "0"))
    with pytest.raises(UserError, match=r"is 0, expected one of -1, 1; .*--option no=0"):
        build("celeba", tree, tmp_path / "records")
    records = build("celeba", tree, tmp_path / "records", no="0")
    assert records.label_counts == build("celeba", drawn, tmp_path / "official").label_counts
    with pytest.raises(UserError, match="is -1, expected one of 0, 1$"):
        build("celeba", drawn, tmp_path / "other", no="0")


def test_a_missing_count_of_rows_is_named(tree, tmp_path):
    edit(tree / "Anno/list_attr_celeba.txt", lambda lines: lines[1:])
    with pytest.raises(
        UserError, match="list_attr_celeba.txt, row 1: .* number of rows is missing"
    ):
        build("celeba", tree, tmp_path / "records")


def test_quoted_fields_are_those_of_a_csv(tree, drawn, tmp_path):
    as_csv(tree)
    for path in tree.glob("*.csv"):
        with open(path, newline="") as file:
            lines = list(csv.reader(file))
        with open(path, "w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows(lines)
    records = build("celeba", tree, tmp_path / "records")
    assert records.label_counts == build("celeba", drawn, tmp_path / "official").label_counts


def test_losslessly_stored_images_are_found_by_their_ending(tree, tmp_path):
    (tree / "img_align_celeba").rename(tree / "img_align_celeba_png")
    for path in (tree / "img_align_celeba_png").iterdir():
        cv2.imwrite(str(path.with_suffix(".png")), cv2.imread(str(path)))
        path.unlink()
    records = build("celeba", tree, tmp_path / "records")
    assert sum(records.splits.values()) == 24
    assert all(name.endswith(".png") for name in records.filenames("train"))


def test_options_that_came_later_leave_the_fingerprint_of_what_was_built_before(drawn, tmp_path):
    from data_pipelines.readers.celeba import Celeba

    def fingerprint(**options):
        return Celeba(source=drawn, data_dir=tmp_path, **options).fingerprint()

    assert fingerprint() == fingerprint(rows="complete", no="-1")
    assert len({fingerprint(), fingerprint(rows="subset"), fingerprint(no="0")}) == 3
