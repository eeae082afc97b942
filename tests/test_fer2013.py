import shutil

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.readers.fer2013 import FERPLUS
from data_pipelines.records.build import build
from data_pipelines.synth import layouts
from data_pipelines.tasks import EMOTIONS

HEADER = f"Usage,Image name,{','.join(FERPLUS)},unknown,NF"
# neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
ROWS = (
    "Training,fer0000000.png,4,0,0,1,3,2,0,0,0,0",  # angry
    "Training,fer0000001.png,0,6,0,0,0,0,0,2,2,0",  # happy
    "Training,,0,0,0,0,0,0,0,0,0,10",  # no face
    "Training,fer0000003.png,2,0,0,0,0,0,1,1,6,0",  # unknown
    "Training,fer0000004.png,1,0,0,0,0,0,0,8,1,0",  # contempt
    "Training,fer0000005.png,9,0,0,0,0,0,0,0,0,1",  # without a picture
    "PublicTest,fer0000006.png,0,0,0,8,0,0,2,0,0,0",  # sad
)
PLACES = (
    *("Training/Angry/0", "Training/Happy/1", "Training/Fear/2", "Training/Fear/3"),
    *("Training/Neutral/4", "Training/Neutral/7", "PublicTest/Sad/6"),
)


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)
    path.write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())


def write_votes(tree, rows):
    (tree / "fer2013new.csv").write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.fixture
def tree(tmp_path):
    for seed, place in enumerate(PLACES):
        folder, number = place.rsplit("/", 1)
        write(tmp_path / "set" / folder / f"{number:0>8}.jpg", seed)
    write_votes(tmp_path / "set", ROWS)
    return tmp_path / "set"


def stored(records):
    """Split, label and bytes of every record, by the number in its name."""
    builder = tfds.builder_from_directory(records.path)
    return {
        int(example["filename"].decode().rsplit("/")[-1].split(".")[0]): (
            split,
            example["tasks"]["emotion"].tolist(),
            example["image"],
        )
        for split in records.splits
        for example in tfds.as_numpy(
            builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        )
    }


def test_folders_are_classes_and_parts_are_splits(tree, tmp_path):
    found = stored(build("fer2013", tree, tmp_path / "records"))
    labels = {number: (split, EMOTIONS[label]) for number, (split, label, _) in found.items()}
    assert labels == {
        0: ("train", "angry"),
        1: ("train", "happy"),
        2: ("train", "fear"),
        3: ("train", "fear"),
        4: ("train", "neutral"),
        7: ("train", "neutral"),
        6: ("validation", "sad"),
    }
    assert build("fer2013", tree, tmp_path / "tested", public="test").splits == {
        "train": 6,
        "test": 1,
    }
    write(tree / "PrivateTest/Sad/00000008.jpg", 20)
    with pytest.raises(UserError, match="option public=test, but there is PrivateTest"):
        build("fer2013", tree, tmp_path / "both", public="test")


def test_votes_are_shares_of_what_counts(tree, tmp_path):
    records = build("fer2013", tree, tmp_path / "records", labels="ferplus")
    found = {number: np.array(label) for number, (_, label, _) in stored(records).items()}
    assert set(found) == {0, 1, 4, 6}
    np.testing.assert_allclose(found[0], [0.4, 0, 0, 0.1, 0.3, 0.2, 0, 0])
    np.testing.assert_allclose(found[1], [0, 6 / 8, 0, 0, 0, 0, 0, 2 / 8])
    np.testing.assert_allclose(found[4], [1 / 9, 0, 0, 0, 0, 0, 0, 8 / 9], rtol=1e-6)
    assert {what: count for what, count in records.left_out.items() if count} == {
        "pictures without votes": 1,
        "pictures that most votes call unknown": 1,
        "pictures that most votes call no face": 1,
    }
    assert records.description["noted"] == {"rows of votes without a picture": 1}
    assert records.label_counts["train"]["emotion"] == [1, 1, 0, 0, 0, 0, 0, 1]


def test_votes_for_seven_emotions_share_the_task_of_the_folders(tree, tmp_path):
    records = build("fer2013", tree, tmp_path / "records", labels="ferplus_seven")
    assert records.task("emotion").labels == EMOTIONS
    found = {number: np.array(label) for number, (_, label, _) in stored(records).items()}
    assert set(found) == {0, 1, 6}
    np.testing.assert_allclose(found[0], [0.3, 0.2, 0, 0, 0.1, 0, 0.4])
    np.testing.assert_allclose(found[1], np.eye(7)[EMOTIONS.index("happy")])
    np.testing.assert_allclose(found[6], [0, 0, 0.2, 0, 0.8, 0, 0])
    assert records.left_out["pictures that most votes call contempt"] == 1


def test_votes_of_other_rows_are_refused(tree, tmp_path):
    shifted = ["Training,,9,0,0,0,0,0,0,0,0,0", *ROWS[:-2], ROWS[-1]]
    write_votes(tree, shifted)
    message = r"fer2013new.csv: of 6 pictures \d have hardly a vote for the emotion of their folder"
    with pytest.raises(UserError, match=message):
        build("fer2013", tree, tmp_path / "records", labels="ferplus")
    write_votes(tree, [*ROWS[:5], ROWS[-1], ROWS[-1]])
    with pytest.raises(UserError, match="row 7: Usage is 'PublicTest', but 'Training/.*' is numb"):
        (tree / "Training/Neutral/00000005.jpg").write_bytes(b"")
        build("fer2013", tree, tmp_path / "records", labels="ferplus")
    write_votes(tree, [ROWS[0].replace(",4,", ",-4,")])
    with pytest.raises(UserError, match="row 2: neutral is '-4', expected a number of votes"):
        build("fer2013", tree, tmp_path / "records", labels="ferplus")
    (tree / "fer2013new.csv").unlink()
    with pytest.raises(UserError, match="there is no fer2013new.csv.*FERPlus"):
        build("fer2013", tree, tmp_path / "records", labels="ferplus")
    assert not (tmp_path / "records").exists()


def test_copies_in_several_parts_and_under_other_emotions_are_counted(tree, tmp_path):
    for place in ("PublicTest/Sad/00000009.jpg", "Training/Fear/00000010.jpg"):
        shutil.copy(tree / "Training/Angry/00000000.jpg", tree / place)
    records = build("fer2013", tree, tmp_path / "records")
    assert records.description["noted"] == {
        "copies of a picture in several parts": 3,
        "copies of a picture under other emotions": 3,
    }


def test_the_table_of_pixels_is_stored_without_loss(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48), np.uint8)
    rows = [
        f"{emotion},{' '.join(map(str, picture.ravel()))},{part}"
        for emotion, picture, part in zip(
            (0, 6, 4), pixels, ("Training", "Training", "PrivateTest"), strict=True
        )
    ]
    table = tmp_path / "fer2013.csv"
    table.write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    found = stored(build("fer2013", tmp_path, tmp_path / "records"))
    assert [found[row][:2] for row in range(3)] == [("train", 0), ("train", 6), ("test", 4)]
    for row in range(3):
        picture = cv2.imdecode(np.frombuffer(found[row][2], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(picture, pixels[row])
    for row, message in (
        ("7" + rows[0][1:], "row 2: emotion is '7', expected one of 0 to 6"),
        (rows[0].replace("Training", "Train"), "row 2: Usage is 'Train', expected Training"),
        (rows[0].replace(",", ",1 ", 1), r"row 2: pixels is '1 .*'\.\.\., expected 2304 numbers"),
        ("0,256" + rows[0][rows[0].index(" ") :], "row 2: pixels is '256 .*, expected 2304"),
    ):
        table.write_text(f"emotion,pixels,Usage\n{row}\n")
        with pytest.raises(UserError, match=message):
            build("fer2013", tmp_path, tmp_path / "again")


def test_a_wrong_folder_is_one_line(tree, tmp_path):
    (tree / "Training/Angry").rename(tree / "Training/Furious")
    with pytest.raises(UserError, match="folder 'Furious' is none of the emotions angry, disgust"):
        build("fer2013", tree, tmp_path / "records")
    shutil.rmtree(tree / "Training")
    with pytest.raises(UserError, match="no picture of an emotion in Training"):
        build("fer2013", tree, tmp_path / "records")


def test_drawn_votes_are_for_what_is_drawn(tmp_path):
    drawn = layouts.draw("fer2013", tmp_path / "drawn", images=20)
    votes = build("fer2013", drawn, tmp_path / "votes", labels="ferplus_seven")
    hard = stored(build("fer2013", drawn, tmp_path / "records"))
    for number, (split, shares, _) in stored(votes).items():
        assert (split, int(np.argmax(shares))) == hard[number][:2]
    assert sum(votes.splits.values()) == 20


@pytest.mark.real_data
def test_the_real_files_lose_only_what_votes_exclude(real_data, tmp_path):
    source = real_data / "fer2013"
    records = build("fer2013", source, tmp_path / "records")
    assert records.splits == {"train": 3_000, "validation": 500}
    assert not any(records.left_out.values())
    assert not records.description["noted"]
    votes = build("fer2013", source, tmp_path / "votes", labels="ferplus", public="test")
    assert sum(votes.splits.values()) + sum(votes.left_out.values()) == 3_500
    assert votes.splits["train"] > 2_900
