"""LFW: who is who by the folders, and the pairs that say which images have to be there."""

import shutil
import zipfile

import cv2
import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.formats.pairs import read_pairs
from data_pipelines.records.build import build
from data_pipelines.synth import layouts

FILES = [f"{person}/{person}_{n:04d}.jpg" for person in ("Zoe_Ä", "Ann_E", "Mid_D") for n in (1, 2)]


@pytest.fixture
def tree(tmp_path):
    """Six images of three people in LFW's layout."""
    for index, name in enumerate(FILES):
        (tmp_path / "data/lfw" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "data/lfw" / name), np.full((8, 8, 3), 20 * index, np.uint8))
    return tmp_path / "data"


def people(records):
    """Name of an image -> number of the person."""
    return dict(zip(records.filenames("test"), records.identities("test").tolist(), strict=True))


def test_people_are_numbered_by_their_folders_and_all_images_are_test(tree, tmp_path):
    records = build("lfw", tree, tmp_path / "records")
    assert records.splits == {"test": 6} and records.people == {"test": 3}
    assert people(records) == dict(zip(FILES, (2, 2, 0, 0, 1, 1), strict=True))
    assert "examples" in records.summary() and records.tasks == ()


def test_the_tree_may_be_the_source_nested_packed_or_named_as_the_aligned_ones(tree, tmp_path):
    expected = people(build("lfw", tree, tmp_path / "records"))
    with zipfile.ZipFile(tmp_path / "lfw.zip", "w") as archive:
        for name in FILES:
            archive.write(tree / "lfw" / name, f"lfw/{name}")
    shutil.copytree(tree / "lfw", tmp_path / "nested/lfw-deepfunneled/lfw-deepfunneled")
    for index, source in enumerate(("data/lfw", "nested", "lfw.zip")):
        assert people(build("lfw", tmp_path / source, tmp_path / f"again{index}")) == expected


def test_images_that_pairs_name_and_that_are_not_there_are_missing(tree, tmp_path):
    (tree / "pairsDevTrain.txt").write_text("1\nAnn_E\t1\t2\nAnn_E\t1\tNo_Body\t7\n")
    with pytest.raises(UserError, match="1 bad images.*No_Body/No_Body_0007.jpg is missing"):
        build("lfw", tree, tmp_path / "records")
    records = build("lfw", tree, tmp_path / "records", max_bad=1)
    assert list(records.left_out["bad images"]) == ["No_Body/No_Body_0007.jpg"]
    assert records.splits == {"test": 6}


def test_other_images_are_counted_and_a_tree_without_people_is_refused(tree, tmp_path):
    shutil.copy(tree / "lfw" / FILES[0], tree / "lfw/montage.jpg")
    shutil.copy(tree / "lfw" / FILES[0], tree / "lfw/Ann_E/Zoe_Ä_0001.jpg")
    records = build("lfw", tree, tmp_path / "records")
    assert records.splits == {"test": 6}
    assert records.left_out == {"images that are not PERSON/PERSON_0001.jpg": 2}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no image PERSON/PERSON_0001.jpg. LFW is to be had from"):
        build("lfw", tmp_path / "empty", tmp_path / "none")


def test_drawn_pairs_are_of_drawn_images_and_folds_share_nobody(tmp_path):
    for images in (10, 40, 80):
        folder = layouts.draw("lfw", tmp_path / f"{images}", images=images, seed=3, size=(32, 32))
        names = [str(path.relative_to(folder / "lfw")) for path in folder.rglob("*.jpg")]
        for file in ("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"):
            read_pairs(folder / file).rows(names)
        pairs = read_pairs(folder / "pairs.txt")
        shown = [
            {name.partition("/")[0] for name in pairs.images[pairs.folds == fold].flat}
            for fold in range(pairs.folds[-1] + 1)
        ]
        assert len(shown) == {10: len(shown), 40: len(shown), 80: 10}[images]
        assert sum(map(len, shown)) == len(set().union(*shown))
