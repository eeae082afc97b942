import zipfile

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from data_pipelines.errors import UserError
from data_pipelines.formats.matlab import read_matlab
from data_pipelines.records.build import build
from data_pipelines.tasks import CELEBA_ATTRIBUTES

PEOPLE = ("Zoe_Late", "Ann_Early", "Mid_Dle")
FILES = [f"{person}/{person}_{number:04d}.jpg" for person in PEOPLE for number in (1, 2, 3)]
SPELLING = [name.replace("_", " ").lower() for name in CELEBA_ATTRIBUTES]
FURTHER = ["Middle Aged", "Strong Nose-Mouth Lines", "Asian"]


def write_matlab(path, version, **variables):
    """Writes doubles and lists of texts as MATLAB does, in either of its formats."""
    if version == 5:
        cells = {
            name: np.array(value, object)[:, None] if isinstance(value, list) else value
            for name, value in variables.items()
        }
        scipy.io.savemat(path, cells)
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if not isinstance(value, list):
                file[name] = np.asarray(value, float).T
                continue
            cells = file.create_dataset(name, (1, len(value)), h5py.ref_dtype)
            for index, text in enumerate(value):
                units = np.frombuffer(text.encode("utf-16-le"), np.uint16)
                file[f"#refs#/{name}{index}"] = units[:, None]
                cells[0, index] = file[f"#refs#/{name}{index}"].ref


class Tree:
    """A folder in LFWA's layout: nine images of three people, of which the last has no labels."""

    def __init__(self, folder, version=7.3):
        self.folder, self.version = folder, version
        self.names = [name.replace("/", "\\") for name in FILES[:8]]
        self.train, self.test = [2, 8, 1, 5], [3, 4, 6, 7]
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 2, (8, 40)).astype(float)
        self.further = rng.integers(0, 2, (8, 3)).astype(float)
        self.further[[2, 4]] = 1
        for index, name in enumerate(FILES):
            (folder / "lfw" / name).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / "lfw" / name), np.full((12, 10, 3), 20 * index, np.uint8))
        self.write_indices()

    def write(self, names, values, file, texts=None):
        texts = self.names if texts is None else texts
        path = self.folder / file
        write_matlab(path, self.version, AttrName=names, label=values, name=texts)

    def write_40(self, **options):
        self.write(SPELLING, self.labels, "lfw_att_40.mat", **options)

    def write_73(self):
        values = np.hstack([self.further, self.labels])
        self.write(FURTHER + SPELLING, values, "lfw_att_73.mat")

    def write_indices(self):
        variables = {
            f"indices_img_{split}": np.array(rows, float)[:, None]
            for split, rows in (("train", self.train), ("test", self.test))
        }
        write_matlab(self.folder / "indices_train_test.mat", self.version, **variables)

    def build(self, **options):
        return build("lfwa", self.folder, self.folder / "records", **options)


@pytest.fixture(params=[7.3, 5])
def tree(request, tmp_path):
    return Tree(tmp_path, request.param)


@pytest.fixture
def hdf5_tree(tmp_path):
    return Tree(tmp_path)


def read(built, split):
    """The records of a split by filename."""
    import tensorflow_datasets as tfds

    examples = tfds.builder_from_directory(built.path).as_dataset(split=split)
    return {example["filename"].decode(): example for example in tfds.as_numpy(examples)}


def test_labels_splits_and_people_are_those_of_the_files(tree):
    tree.write_40()
    built = tree.build()
    assert built.splits == {"train": 4, "test": 4}
    assert [(task.name, task.labels) for task in built.tasks] == [("attributes", CELEBA_ATTRIBUTES)]
    assert built.left_out == {"images without labels": 1, "labelled images in no split": 0}
    for split, rows in (("train", tree.train), ("test", tree.test)):
        found = read(built, split)
        assert set(found) == {FILES[row - 1] for row in rows}
        for row in rows:
            example = found[FILES[row - 1]]
            np.testing.assert_array_equal(example["tasks"]["attributes"], tree.labels[row - 1])
            assert example["image"].mean() == pytest.approx(20 * (row - 1), abs=1)
            # Sorted: Ann_Early, Mid_Dle, Zoe_Late.
            assert example["identity"] == (2, 0, 1)[(row - 1) // 3]
            assert np.isnan(example["box"]).all()
            assert np.isnan(example["landmarks"]).all()


def test_further_attributes_are_a_task_of_their_own_unknown_where_unlabelled(tree):
    tree.further[np.array(tree.train) - 1] = np.nan
    tree.further[2, 1] = -1
    tree.write_73()
    built = tree.build()
    task = built.task("lfwa_attributes")
    assert task.labels == ("Middle_Aged", "Strong_Nose-Mouth_Lines", "Asian")
    assert built.task("attributes").labels == CELEBA_ATTRIBUTES
    for example in read(built, "train").values():
        assert (example["tasks"]["lfwa_attributes"] == -1).all()
    found = read(built, "test")
    for row in tree.test:
        example = found[FILES[row - 1]]["tasks"]
        np.testing.assert_array_equal(example["lfwa_attributes"], tree.further[row - 1])
        np.testing.assert_array_equal(example["attributes"], tree.labels[row - 1])
    assert built.label_counts["train"]["lfwa_attributes"] == [[0, 0]] * 3


def test_a_split_without_one_further_yes_was_not_labelled_for_them(hdf5_tree):
    hdf5_tree.further[np.array(hdf5_tree.train) - 1] = 0
    hdf5_tree.write_73()
    built = hdf5_tree.build()
    assert built.label_counts["train"]["lfwa_attributes"] == [[0, 0]] * 3
    assert sum(map(sum, built.label_counts["test"]["lfwa_attributes"])) == 3 * 4


def test_with_both_files_shared_attributes_come_from_the_one_with_forty(hdf5_tree):
    expected = hdf5_tree.labels.copy()
    hdf5_tree.write_40()
    hdf5_tree.labels = 1 - hdf5_tree.labels
    hdf5_tree.write_73()
    built = hdf5_tree.build()
    for name, example in read(built, "test").items():
        row = FILES.index(name)
        np.testing.assert_array_equal(example["tasks"]["attributes"], expected[row])
        np.testing.assert_array_equal(example["tasks"]["lfwa_attributes"], hdf5_tree.further[row])


def test_a_file_with_some_of_celebas_attributes_keeps_their_names_and_order(hdf5_tree):
    order = ("Young", "5_o_Clock_Shadow", "Bald")
    columns = [CELEBA_ATTRIBUTES.index(name) for name in order]
    names = ["YOUNG", "5 o' Clock shadow", "Bald"]
    hdf5_tree.write(names, hdf5_tree.labels[:, columns], "lfw_att_40.mat")
    built = hdf5_tree.build()
    assert built.task("attributes").labels == ("5_o_Clock_Shadow", "Bald", "Young")
    row = FILES.index("Ann_Early/Ann_Early_0001.jpg")
    example = read(built, "test")[FILES[row]]["tasks"]["attributes"]
    np.testing.assert_array_equal(example, hdf5_tree.labels[row, np.sort(columns)])


def test_images_may_stay_in_their_archive(hdf5_tree):
    hdf5_tree.write_40()
    folder = hdf5_tree.folder / "lfw"
    with zipfile.ZipFile(hdf5_tree.folder / "lfw.zip", "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, f"lfw/{path.relative_to(folder)}")
            path.unlink()
    for person in list(folder.iterdir()):
        person.rmdir()
    folder.rmdir()
    built = hdf5_tree.build()
    assert built.splits == {"train": 4, "test": 4}
    assert set(read(built, "train")) == {FILES[row - 1] for row in hdf5_tree.train}


def test_labelled_images_that_are_absent_are_named(hdf5_tree):
    hdf5_tree.write_40()
    (hdf5_tree.folder / "lfw" / FILES[0]).unlink()
    with pytest.raises(UserError, match="Zoe_Late_0001.jpg is missing"):
        hdf5_tree.build()
    built = hdf5_tree.build(max_bad=1)
    assert built.splits == {"train": 3, "test": 4}


def test_detected_faces_are_joined(hdf5_tree):
    from data_pipelines.formats.detections import COLUMNS

    hdf5_tree.write_40()
    table = hdf5_tree.folder / "lfw" / "detections.csv"
    table.write_text(f"{','.join(COLUMNS)}\n{FILES[1]},{','.join(map(str, range(1, 16)))}\n")
    example = read(hdf5_tree.build(detections=table), "train")[FILES[1]]
    np.testing.assert_array_equal(example["box"], [1, 2, 3, 4])
    np.testing.assert_array_equal(example["landmarks"].ravel(), range(6, 16))


@pytest.mark.parametrize("value", [2, -1, np.nan])
def test_a_label_that_is_neither_0_nor_1_is_named_with_its_row(tree, value):
    tree.labels[3, CELEBA_ATTRIBUTES.index("Male")] = value
    tree.write_40()
    message = rf"lfw_att_40.mat, row 4 \(Ann_Early/.*\): Male is {value:g}, expected 0 or 1"
    with pytest.raises(UserError, match=message):
        tree.build()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([0, 1], "indices_img_train, row 1: 0 is no index from 1 to 8"),
        ([1, 9], "row 2: 9 is no index from 1 to 8"),
        ([1.5], "row 1: 1.5 is no index"),
        ([1, 1], "row 2: 1 occurs a second time"),
        ([1, 2, 5, 3], r"indices_img_test, row 1: 3 occurs a second time"),
        ([], "holds no indices"),
    ],
)
def test_wrong_indices_are_named(tree, train, message):
    tree.train = train
    tree.write_indices()
    tree.write_40()
    with pytest.raises(UserError, match=message):
        tree.build()


@pytest.mark.parametrize("name", ["..\\..\\secret.jpg", "/etc/secret.jpg", "C:\\a\\b.jpg", ""])
def test_paths_that_leave_the_folder_are_refused(hdf5_tree, name):
    texts = [*hdf5_tree.names[:-1], name]
    hdf5_tree.write_40(texts=texts)
    with pytest.raises(UserError, match="name, row 8: .* is (no path below|an absolute path)"):
        hdf5_tree.build()


def test_files_that_do_not_fit_are_refused(tree):
    with pytest.raises(
        UserError, match=r"no lfw_att_40.mat \(nor lfw_att_73.mat\).*LFWA is to be had from"
    ):
        tree.build()
    tree.write(["Flash"], tree.labels[:, :1], "lfw_att_40.mat")
    with pytest.raises(UserError, match="none of its attributes"):
        tree.build()
    tree.write(["Male", "MALE"], tree.labels[:, :2], "lfw_att_40.mat")
    with pytest.raises(UserError, match="attribute 'Male' occurs a second time"):
        tree.build()
    tree.write(["Male"], tree.labels, "lfw_att_40.mat")
    with pytest.raises(UserError, match="label is 8x40, expected one row for each of 8 images"):
        tree.build()
    tree.write_40(texts=[tree.names[0]] * 8)
    with pytest.raises(UserError, match="image 'Zoe_Late/.*' occurs a second time"):
        tree.build()
    tree.write_40()
    tree.names = tree.names[::-1]
    tree.write_73()
    with pytest.raises(UserError, match="its images are not those of .*lfw_att_40.mat"):
        tree.build()
    path = tree.folder / "lfw_att_40.mat"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="lfw_att_40.mat"):
        tree.build()
    path.write_text("<!DOCTYPE html><title>Sign in</title>")
    with pytest.raises(UserError, match=r"lfw_att_40.mat: no readable MATLAB file \(.* HTML"):
        tree.build()
    write_matlab(path, tree.version, label=tree.labels)
    with pytest.raises(UserError, match="no variable 'name'; it has: label"):
        tree.build()


def test_matlab_files_do_not_lead_to_other_files(tmp_path):
    write_matlab(tmp_path / "other.mat", 7.3, label=np.ones((2, 2)))
    (tmp_path / "raw").write_bytes(bytes(64))
    with h5py.File(tmp_path / "crafted.mat", "w") as file:
        file["link"] = h5py.ExternalLink("other.mat", "/label")
        file.create_dataset("raw", (8,), float, external=[(str(tmp_path / "raw"), 0, 64)])
    with pytest.raises(UserError, match="no variable 'link'"):
        read_matlab(tmp_path / "crafted.mat", "link")
    with pytest.raises(UserError, match="no matrix stored in the file itself"):
        read_matlab(tmp_path / "crafted.mat", "raw")


@pytest.mark.parametrize("version", [7.3, 5])
def test_matlab_matrices_and_texts_come_back_as_matlab_shows_them(tmp_path, version):
    matrix = np.arange(6.0).reshape(2, 3)
    texts = ["a", "Björk 😀", "c d"]
    write_matlab(tmp_path / "x.mat", version, m=matrix, t=texts)
    found = read_matlab(tmp_path / "x.mat", "m", "t")
    np.testing.assert_array_equal(found["m"], matrix)
    assert found["t"] == texts


def test_the_drawn_layout_is_read(lfwa_tree, tmp_path):
    built = build("lfwa", lfwa_tree, tmp_path / "records")
    assert sum(built.splits.values()) + built.left_out["images without labels"] == 80
