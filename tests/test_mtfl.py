import os
import struct

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.errors import UserError
from data_pipelines.records.build import build

POINTS = "10.25 30.5 20 12 28 11 11.5 22.75 31 30"


@pytest.fixture
def tree(tmp_path):
    """Four images in MTFL's layout, with the traps of the real files."""
    folder = tmp_path / "MTFL"
    for name in ("lfw_5590/Ana_0001.jpg", "net_7876/1 a.jpg", "net_7876/2_ñ.jpg", "AFLW/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(len(name)).integers(0, 256, (40, 44, 3), np.uint8)
        # cv2.imwrite takes no non-ASCII names on every system.
        (folder / name).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
    grey = cv2.imencode(".jpg", np.full((50, 30), 128, np.uint8))[1].tobytes()
    (folder / "net_7876/1 a.jpg").write_bytes(grey)
    write_training(
        folder,
        rf"lfw_5590\Ana_0001.jpg {POINTS} 1 2 2 1",
        rf" net_7876\1 a.jpg {POINTS} 2 1 1 5",
        rf" net_7876\2_ñ.jpg {POINTS} 1 1 2 3",
    )
    (folder / "testing.txt").write_bytes(f"AFLW/3.jpg {POINTS} 2 2 2 4\r\n \r\n".encode())
    return folder


def write_training(folder, *rows):
    (folder / "training.txt").write_bytes("".join(f"{row}\r\n" for row in rows).encode())


def examples(records, split):
    """The records of a split by filename, read by TensorFlow Datasets itself."""
    builder = tfds.builder_from_directory(records.path)
    stored = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    return {os.fsdecode(example["filename"]): example for example in tfds.as_numpy(stored)}


def test_rows_of_the_real_format_become_records(tree, tmp_path):
    records = build("mtfl", tree, tmp_path / "records")
    train, test = examples(records, "train"), examples(records, "test")
    assert set(train) == {"lfw_5590/Ana_0001.jpg", "net_7876/1 a.jpg", "net_7876/2_ñ.jpg"}
    assert set(test) == {"AFLW/3.jpg"}
    first, grey = train["lfw_5590/Ana_0001.jpg"], train["net_7876/1 a.jpg"]
    assert first["image"] == (tree / "lfw_5590/Ana_0001.jpg").read_bytes()
    np.testing.assert_array_equal(
        first["landmarks"], [[10.25, 11], [30.5, 11.5], [20, 22.75], [12, 31], [28, 30]]
    )
    # Male, Smiling, Eyeglasses: the file's 1 is yes for all three, its gender 2 is female.
    assert first["tasks"]["attributes"].tolist() == [1, 0, 0]
    assert grey["tasks"]["attributes"].tolist() == [0, 1, 1]
    assert (first["tasks"]["pose"], grey["tasks"]["pose"]) == (0, 4)
    assert np.isnan(first["box"]).all()
    assert first["identity"] == -1
    assert records.label_counts["train"]["attributes"] == [[1, 2], [1, 2], [2, 1]]
    assert records.label_counts["train"]["pose"] == [1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (rf" net_7876\1 a.jpg {POINTS} 2 1 1", "row 2: could not convert string to float: 'a.jpg'"),
        (r"net_7876\1.jpg 5 6 7", "row 2: 4 fields, expected 15"),
        (rf"net_7876\1.jpg {POINTS} 2 1 1 6", "row 2: pose is 6, expected one of 1, 2, 3, 4, 5"),
        (rf"net_7876\1.jpg {POINTS} 2 0 1 3", "row 2: smile is 0, expected one of 1, 2"),
        (rf"lfw_5590/Ana_0001.jpg {POINTS} 2 1 1 3", "row 2: image 'lfw_5590/Ana_0001.jpg' occurs"),
        (rf"AFLW/3.jpg {POINTS} 2 1 1 3", "testing.txt: 'AFLW/3.jpg' is also in training.txt"),
    ],
)
def test_a_wrong_row_is_named(tree, tmp_path, row, complaint):
    write_training(tree, rf"lfw_5590\Ana_0001.jpg {POINTS} 1 2 2 1", row)
    with pytest.raises(UserError) as error:
        build("mtfl", tree, tmp_path / "records")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "records").exists()


def test_bad_images_are_counted_by_name_up_to_the_limit(tree, tmp_path, capsys):
    whole = (tree / "lfw_5590/Ana_0001.jpg").read_bytes()
    (tree / "lfw_5590/Ana_0001.jpg").write_bytes(whole[: len(whole) // 2])
    (tree / "net_7876/1 a.jpg").unlink()
    for limit in (0, 1):
        with pytest.raises(UserError, match=f"2 bad images, more than --max_bad={limit}") as error:
            build("mtfl", tree, tmp_path / "records", max_bad=limit)
        assert "lfw_5590/Ana_0001.jpg does not decode" in str(error.value)
        assert "net_7876/1 a.jpg is missing" in str(error.value)
        assert not (tmp_path / "records").exists()
    records = build("mtfl", tree, tmp_path / "records", max_bad=2)
    assert records.splits == {"train": 1, "test": 1}
    assert records.left_out["bad images"] == {
        "lfw_5590/Ana_0001.jpg": "does not decode",
        "net_7876/1 a.jpg": "is missing",
    }
    assert "image net_7876/1 a.jpg is missing" in capsys.readouterr().err


def test_a_jpeg_that_lacks_its_last_bytes_is_bad(tree, tmp_path):
    whole = (tree / "AFLW/3.jpg").read_bytes()
    (tree / "AFLW/3.jpg").write_bytes(whole[:-2])
    with pytest.raises(UserError, match="AFLW/3.jpg does not decode"):
        build("mtfl", tree, tmp_path / "records")


@pytest.mark.parametrize("value", range(1, 9))
def test_orientation_tags_are_applied(tree, tmp_path, value):
    path = tree / "AFLW/3.jpg"
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = 255  # a bright corner tells all eight orientations apart with the shape
    pixels[:8, 8:16] = 100
    plain = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, value, 0, 0)
    path.write_bytes(plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:])
    records = build("mtfl", tree, tmp_path / "records")
    image = examples(records, "test")["AFLW/3.jpg"]["image"]
    transposed = pixels.transpose(1, 0, 2)
    expected = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: transposed,
        6: transposed[:, ::-1],
        7: transposed[::-1, ::-1],
        8: transposed[::-1],
    }[value]
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
    np.testing.assert_allclose(stored, expected, atol=3)
    assert (image == path.read_bytes()) == (value == 1)
    assert records.description["turned_upright"] == (value != 1)


@pytest.mark.real_data
def test_the_real_files_lose_nothing(real_data, tmp_path):
    records = build("mtfl", real_data / "mtfl", tmp_path / "records")
    assert records.splits == {"train": 10_000, "test": 1_997}
    counts = records.label_counts["train"]["attributes"]
    assert counts == [[4_193, 5_807], [4_384, 5_616], [8_592, 1_408]]
    assert not any(records.left_out.values())
    assert records.description["turned_upright"] == 0
