"""Drawn faces show what their labels say, in the layouts that the data sets really have."""

import collections
import csv

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from data_pipelines.errors import UserError
from data_pipelines.synth import layouts, parts
from data_pipelines.synth.drawing import draw_face
from data_pipelines.tasks import CELEBA_ATTRIBUTES, POSE_CLASSES, celeba_name


def _face(seed=0, pose="frontal", size=(218, 178), **attributes):
    plain = {"No_Beard": True, "Young": True, "Male": True}
    return draw_face(np.random.default_rng(seed), {**plain, **attributes}, pose, size)


def _files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _rows(path, skip=0):
    return [line.split() for line in path.read_text().splitlines()[skip:]]


@pytest.mark.parametrize("attribute", CELEBA_ATTRIBUTES)
@pytest.mark.parametrize("others", ("none", "all", "some", "others"))
def test_every_attribute_shows_whatever_else_is_drawn(attribute, others):
    rng = np.random.default_rng(7)
    drawn = {"none": [False] * 40, "all": [True] * 40}.get(others, rng.integers(2, size=40) == 1)
    context = dict(zip(CELEBA_ATTRIBUTES, drawn, strict=True))
    if others == "others":
        context = {name: not value for name, value in context.items()}
    # As small as a network may see it, without what a square crop cuts off.
    without, with_it = (
        cv2.resize(
            draw_face(np.random.default_rng(3), {**context, attribute: value}, "left")[0][20:198],
            (64, 64),
            interpolation=cv2.INTER_AREA,
        ).astype(int)
        for value in (False, True)
    )
    assert (np.abs(without - with_it).max(-1) > 15).sum() >= 10


@pytest.mark.parametrize("pose", POSE_CLASSES)
@pytest.mark.parametrize("size", ((218, 178), (109, 89), (150, 250)))
def test_eye_landmarks_lie_in_the_middle_of_the_pupils(pose, size):
    image, landmarks, _ = _face(pose=pose, size=size)
    grey = image.min(-1).astype(float)
    for x, y in landmarks[:2]:
        radius = max(1, round(2.2 * min(size[0] / 200, size[1] / 178)))
        column, row = round(float(x)), round(float(y))
        window = grey[row - radius : row + radius + 1, column - radius : column + radius + 1]
        assert window.mean() < 100
        rows, columns = np.nonzero(window < window.min() + 40)
        assert abs(columns.mean() - radius + column - x) < 1
        assert abs(rows.mean() - radius + row - y) < 1


def test_mouth_landmarks_are_the_corners_of_the_lips():
    image, landmarks, _ = _face(Wearing_Lipstick=True, Big_Lips=True)
    red = (image[..., 0].astype(int) - image[..., 1] > 120) & (image[..., 1] < 60)
    columns = np.nonzero(red)[1]
    assert abs(columns.min() - landmarks[3, 0]) < 4
    assert abs(columns.max() - landmarks[4, 0]) < 4


def test_pose_moves_the_nose_against_the_eyes():
    offsets = []
    for pose in POSE_CLASSES:
        _, (left, right, nose, *_), _ = _face(pose=pose)
        offsets.append((nose[0] - (left[0] + right[0]) / 2) / (right[0] - left[0]))
    assert np.all(np.diff(offsets) > 0.1)
    assert abs(offsets[2]) < 0.1


def test_a_smile_lifts_the_corners_of_the_mouth():
    _, calm, _ = _face()
    _, smiling, _ = _face(Smiling=True)
    np.testing.assert_array_equal(calm[:3], smiling[:3])
    assert np.all(calm[3:, 1] - smiling[3:, 1] > 10)


def test_the_box_holds_the_landmarks_and_lies_in_the_picture():
    for pose in POSE_CLASSES:
        _, landmarks, (left, top, width, height) = _face(pose=pose)
        assert np.all(landmarks > (left, top))
        assert np.all(landmarks < (left + width, top + height))
        assert left > 0 and top > 0 and left + width < 178 and top + height < 218


def test_unknown_attributes_and_poses_are_refused():
    with pytest.raises(ValueError, match="'Tall' is none of CelebA's attributes"):
        _face(Tall=True)
    with pytest.raises(ValueError, match="'up' is none of left_profile, left"):
        _face(pose="up")


@pytest.mark.parametrize(
    ("dataset", "options"),
    (
        ("celeba", {}),
        ("celeba", {"in_the_wild": True}),
        ("lfw", {}),
        ("lfwa", {"attributes": 73}),
        ("lfwa", {"matlab": "5"}),
        ("mtfl", {}),
        ("manifest", {}),
    ),
)
def test_the_same_seed_writes_the_same_bytes(tmp_path, dataset, options):
    first, again, other = (
        _files(layouts.draw(dataset, tmp_path / name, images=10, seed=seed, **options))
        for name, seed in (("first", 5), ("again", 5), ("other", 6))
    )
    assert first == again
    assert first != other


def test_every_attribute_is_near_one_half_in_every_part(celeba_tree):
    table = _rows(celeba_tree / "Anno/list_attr_celeba.txt", 2)
    labels = np.array([[int(value) for value in row[1:]] for row in table])
    parts = np.array([int(part) for _, part in _rows(celeba_tree / "Eval/list_eval_partition.txt")])
    assert collections.Counter(parts) == {0: 64, 1: 8, 2: 8}
    for part in range(3):
        share = (labels[parts == part] == 1).mean(0)
        np.testing.assert_allclose(share, 0.5, atol=0.07)
    # Independently of each other.
    correlation = np.corrcoef(labels.T) - np.eye(40)
    assert np.abs(correlation).mean() < 0.15


def test_celeba_files_are_as_the_official_ones(celeba_tree):
    lines = (celeba_tree / "Anno/list_attr_celeba.txt").read_text().splitlines()
    assert lines[0] == "80"
    assert lines[1] == " ".join(CELEBA_ATTRIBUTES) + " "
    name, values = lines[2].split(" ", 1)
    assert name == "000001.jpg"
    assert len(values) == 40 * 3 - 1 and set(values.split()) == {"1", "-1"}
    image = cv2.imread(str(celeba_tree / "img_align_celeba/000080.jpg"))
    assert image.shape == (218, 178, 3)
    landmarks = _rows(celeba_tree / "Anno/list_landmarks_align_celeba.txt")
    assert landmarks[0] == ["80"]
    assert landmarks[1][:4] == ["lefteye_x", "lefteye_y", "righteye_x", "righteye_y"]
    assert len(landmarks) == 82 and all(len(row) == 11 for row in landmarks[2:])


def test_nobody_is_in_two_parts_of_celeba(celeba_tree):
    identities = [int(row[1]) for row in _rows(celeba_tree / "Anno/identity_CelebA.txt")]
    parts = [row[1] for row in _rows(celeba_tree / "Eval/list_eval_partition.txt")]
    pairs = set(zip(identities, parts, strict=True))
    assert len(pairs) == len(set(identities))
    assert 2 <= len(identities) / len(set(identities)) <= 4
    assert min(identities) >= 1 and max(identities) <= 10_177


def test_celeba_in_the_wild_has_boxes_and_its_own_landmarks(tmp_path):
    folder = layouts.draw("celeba", tmp_path / "wild", images=10, in_the_wild=True)
    boxes = _rows(folder / "Anno/list_bbox_celeba.txt")
    assert boxes[1] == ["image_id", "x_1", "y_1", "width", "height"]
    points = _rows(folder / "Anno/list_landmarks_celeba.txt", 2)
    for (name, *box), (_, *row) in zip(boxes[2:], points, strict=True):
        left, top, width, height = map(int, box)
        x, y = np.array(row, int).reshape(5, 2).T
        assert np.all((x >= left) & (x <= left + width) & (y >= top) & (y <= top + height))
        assert cv2.imread(str(folder / "img_celeba" / name)).shape[1] > left + width


def _hdf5_texts(file, key):
    return [
        file[reference][:].astype(np.uint16).tobytes().decode("utf-16-le")
        for reference in file[key][:].ravel()
    ]


def test_lfwa_is_hdf5_as_matlab_writes_it(lfwa_tree):
    assert (lfwa_tree / "lfw_att_40.mat").read_bytes()[:19] == b"MATLAB 7.3 MAT-file"
    with h5py.File(lfwa_tree / "lfw_att_40.mat") as file:
        names = _hdf5_texts(file, "name")
        attributes = _hdf5_texts(file, "AttrName")
        labels = file["label"][:]
    assert attributes[0] == "5 o Clock Shadow"
    assert tuple(map(celeba_name, attributes)) == CELEBA_ATTRIBUTES
    assert labels.shape == (40, len(names)) and set(np.unique(labels)) == {0.0, 1.0}
    assert all((lfwa_tree / "lfw" / name.replace("\\", "/")).is_file() for name in names)
    assert names == sorted(names) and all(name.count("\\") == 1 for name in names)
    assert len(list((lfwa_tree / "lfw").rglob("*.jpg"))) == len(names) + 1
    with h5py.File(lfwa_tree / "indices_train_test.mat") as file:
        train, test = (file[f"indices_img_{split}"][:].ravel() for split in ("train", "test"))
        people = [set(file[f"indices_identity_{split}"][:].ravel()) for split in ("train", "test")]
    assert sorted([*train, *test]) == list(range(1, len(names) + 1))
    person = [name.split("\\")[0] for name in names]
    found = [{person[int(index) - 1] for index in indices} for indices in (train, test)]
    assert not found[0] & found[1] and not people[0] & people[1]
    assert [len(group) for group in people] == [len(group) for group in found]


def test_both_kinds_of_matlab_files_say_the_same(tmp_path):
    new = layouts.draw("lfwa", tmp_path / "new", images=12, attributes=73)
    old = layouts.draw("lfwa", tmp_path / "old", images=12, attributes=73, matlab="5")
    content = scipy.io.loadmat(old / "lfw_att_73.mat")
    with h5py.File(new / "lfw_att_73.mat") as file:
        np.testing.assert_array_equal(file["label"][:].T, content["label"])
        names = _hdf5_texts(file, "AttrName")
        assert names == [str(cell[0][0]) for cell in content["AttrName"]]
    further = [celeba_name(name) is None for name in names]
    assert sum(further) == 33
    # The further attributes are known in the test half only.
    train = scipy.io.loadmat(old / "indices_train_test.mat")["indices_img_train"].ravel() - 1
    unknown = np.isnan(content["label"])
    assert unknown[train.astype(int)][:, further].all()
    assert unknown.sum() == len(train) * 33


def test_mtfl_holds_the_traps_of_the_real_files(mtfl_tree):
    training = (mtfl_tree / "training.txt").read_bytes().decode()
    testing = (mtfl_tree / "testing.txt").read_bytes().decode()
    rows = training.split("\r\n")
    assert "/" not in training and "\\" not in testing
    assert not rows[0].startswith(" ") and all(row.startswith(" ") for row in rows[1:])
    assert rows[-1] == " " and testing.endswith("\r\n")
    folders, shapes, classes = set(), [], collections.Counter()
    for row in [*rows[:-1], *testing.split("\r\n")[:-1]]:
        name, *fields = row.split()
        folders.add(name.replace("\\", "/").split("/")[0])
        encoded = (mtfl_tree / name.replace("\\", "/")).read_bytes()
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
        shapes.append(image.shape)
        points = np.array(fields[:10], float)
        assert len(fields) == 14 and points.max() < max(image.shape)
        assert set(fields[10:13]) <= {"1", "2"}
        classes[int(fields[13])] += 1
    assert folders == {"lfw_5590", "net_7876", "AFLW"}
    assert any(len(shape) == 2 for shape in shapes)
    assert any(shape[0] != shape[1] for shape in shapes)
    assert any(shape[0] == shape[1] for shape in shapes)
    assert min(min(shape[:2]) for shape in shapes) >= 150
    assert max(max(shape) for shape in shapes) <= 250
    assert set(classes) == {1, 2, 3, 4, 5} and min(classes.values()) >= 15
    assert any(not name.isascii() for name in rows)


def test_manifest_has_ages_splits_and_unknown_labels(tmp_path):
    folder = layouts.draw("manifest", tmp_path / "people", images=40, size=(48, 40))
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert collections.Counter(row["split"] for row in rows) == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    for row in rows:
        assert cv2.imread(str(folder / row["path"])).shape == (48, 40, 3)
        assert row["pose"] in POSE_CLASSES
        if row["Young"]:
            assert (float(row["age"]) < 42) == (row["Young"] == "1")
    cells = [row[name] for row in rows for name in CELEBA_ATTRIBUTES]
    assert set(cells) == {"0", "1", ""}
    parts = {(row["identity"], row["split"]) for row in rows}
    assert len(parts) == len({row["identity"] for row in rows})


def test_mistakes_are_refused_in_one_line(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/something").touch()
    with pytest.raises(UserError, match="full: it is not empty, expected a new folder"):
        layouts.draw("celeba", tmp_path / "full")
    with pytest.raises(UserError, match="3 images are too few for every split"):
        layouts.draw("celeba", tmp_path / "new", images=3)
    with pytest.raises(UserError, match="size 8x8 is too small"):
        layouts.draw("celeba", tmp_path / "new", size=(8, 8))
    with pytest.raises(ValueError, match="no data set 'imdb' to draw; there are: celeba, fairface"):
        layouts.draw("imdb", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    calls = iter(range(5))
    monkeypatch.setattr(parts, "draw_face", lambda *args: [draw_face(*args), next(calls)][0])
    with pytest.raises(RuntimeError):
        layouts.draw("celeba", tmp_path / "tree", images=10)
    assert list(tmp_path.iterdir()) == []
