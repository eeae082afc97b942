"""Files of pairs in the formats of LFW."""

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.formats.pairs import read_pairs

ROWS = (
    *("2\t2", "A_B\t1\t4", "A_B\t2\t3", "A_B\t1\tC\t1", "C\t10\tD_E\t1"),
    *("F\t1\t2", "G\t1\t2", "F\t1\tG\t12345", "G\t2\tF\t1"),
)


@pytest.fixture
def write(tmp_path):
    def written(*rows, end="\n"):
        path = tmp_path / "pairs.txt"
        path.write_bytes(end.join([*rows, ""]).encode())
        return path

    return written


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_folds_are_same_pairs_and_then_different_ones(write, end):
    pairs = read_pairs(write(*ROWS, end=end))
    assert pairs.same.tolist() == [True, True, False, False] * 2
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4
    assert pairs.images[[0, 3, 6]].tolist() == [
        ["A_B/A_B_0001", "A_B/A_B_0004"],
        ["C/C_0010", "D_E/D_E_0001"],
        ["F/F_0001", "G/G_12345"],
    ]


def test_a_header_of_one_number_is_one_fold(write):
    pairs = read_pairs(write("1", "A\t1\t2", "A\t1\tB\t1"))
    assert pairs.same.tolist() == [True, False] and pairs.folds.tolist() == [0, 0]


def changed(row, text):
    return (*ROWS[: row - 1], text, *ROWS[row:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), "row 1: '', expected the number of folds"),
        (changed(1, "2\t0"), "row 1: '2 0', expected the number of folds"),
        (changed(1, "name\timagenum1"), "row 1: 'name imagenum1', expected the number of folds"),
        (changed(1, "2\t3"), "8 rows of pairs, expected 12: 2 x 3 of the same person and as many"),
        (ROWS[:-1], "7 rows of pairs, expected 8"),
        (changed(3, "A_B\t2\tC\t3"), "row 3: 'A_B 2 C 3', expected NAME I J, two images of one"),
        (changed(4, "A_B\t2\t3"), "row 4: 'A_B 2 3', expected NAME I OTHER J, of two people"),
        (changed(2, "A_B\tone\t4"), "row 2: 'one' is no number of an image, expected NAME I J"),
        (changed(5, "C\t1\tD_E\t0"), "row 5: '0' is no number of an image"),
        (changed(2, "A_B\t4\t04"), "row 2: 'A_B 4 04', expected NAME I J, two images"),
        (changed(5, "C\t1\tC\t2"), "row 5: 'C 1 C 2', expected NAME I OTHER J, of two people"),
    ],
)
def test_mistakes_name_file_row_and_value(write, rows, message):
    path = write(*rows)
    with pytest.raises(UserError) as error:
        read_pairs(path)
    assert str(error.value).startswith(f"{path}")
    assert message in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.txt: these pairs cannot be read \(No such file"):
        read_pairs(tmp_path / "none.txt")


def test_pairs_find_their_files_whatever_folder_and_ending(write):
    pairs = read_pairs(write("1", "A\t1\t2", "A\t1\tB\t1"))
    files = ["lfw/B/B_0001.png", "lfw/A/A_0003.jpg", "lfw/A/A_0002.jpg", "lfw/A/A_0001.jpg"]
    np.testing.assert_array_equal(pairs.rows(files), [[3, 2], [3, 0]])
    with pytest.raises(UserError, match="image B/B_0001 is 'B/B_0001.jpg' and another file"):
        pairs.rows([*files, "B/B_0001.jpg"])


def test_all_images_that_are_missing_are_counted(write):
    path = write(*ROWS)
    files = ["A_B/A_B_0001.jpg", "F/F_0001.jpg", "F/F_0002.jpg"]
    message = "9 of 12 images, of 7 pairs, are not among the records: A_B/A_B_0002, .*, ...$"
    with pytest.raises(UserError, match=message):
        read_pairs(path).rows(files)
