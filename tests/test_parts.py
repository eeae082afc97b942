"""Records that are built in parts: the same bytes as of one build, and what a merge refuses."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import shard_utils

from data_pipelines.commands.data import main
from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import read_examples
from data_pipelines.records.build import Conversion, build_records
from data_pipelines.records.counting import count_shard, sum_counts
from data_pipelines.records.parts import build_part, merge
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task


def contents(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    """Shards of some ten images, where usual ones are of 64 MiB at least."""
    monkeypatch.setattr(shard_utils.ShardConfig, "min_shard_size", 1 << 16)


@pytest.fixture(scope="module")
def source(mtfl_tree, tmp_path_factory):
    """A tree with an image that is cut off."""
    tree = shutil.copytree(mtfl_tree, tmp_path_factory.mktemp("source") / "mtfl")
    picture = min(tree.rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:-100])
    return tree


@pytest.fixture
def conversion(source):
    return Conversion("mtfl", source, max_bad=1)


@pytest.fixture
def whole(conversion, tmp_path):
    return contents(build_records(conversion, tmp_path / "whole").path)


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_parts_in_any_order_are_the_bytes_of_one_build(conversion, whole, tmp_path, parts):
    records = tmp_path / "records"
    for part in [*range(parts, 0, -1), 1]:  # one of them twice
        said = build_part(conversion, records, part, parts)
        assert f"part {part} of {parts}" in said
        assert not records.exists()
    merged = merge(records)
    assert contents(records) == whole
    assert sum(map(len, merged.shards.values())) > 7
    assert len(merged.left_out["bad images"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "whole"]
    assert "already built" in build_part(conversion, records, 1, parts)


def test_tensorflow_datasets_writes_the_same_examples_in_the_same_order(mtfl_tree, tmp_path):
    conversion = Conversion("mtfl", mtfl_tree)
    records = build_records(conversion, tmp_path / "records")
    builder = conversion.builder(tmp_path / "judge", progress=False)
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_dir=tmp_path / "none", download_config=config)
    for split, info in builder.info.splits.items():
        assert len(records.shards[split]) == info.num_shards
        assert [records.files[pathlib.Path(f).name]["examples"] for f in info.filepaths] == (
            info.shard_lengths
        )
        everything = range(info.num_examples)
        judged = read_examples(info.filepaths, everything)
        for (_, ours), (_, theirs) in zip(
            read_examples(records.shards[split], everything), judged, strict=True
        ):
            assert ours.keys() == theirs.keys()
            assert all(repr(ours[name]) == repr(theirs[name]) for name in ours)


def test_a_missing_part_is_named(conversion, whole, tmp_path):
    records = tmp_path / "records"
    with pytest.raises(UserError, match="records: there are no parts"):
        merge(records)
    for part in (1, 3):
        build_part(conversion, records, part, 3)
    with pytest.raises(UserError, match=r"files of records are missing.*: part 2 of 3 did not run"):
        merge(records)
    build_part(conversion, records, 2, 3)
    data = tmp_path / ".records.parts" / "data"
    shard = max(path for path in data.iterdir() if "train" in path.name)
    shard.write_bytes(shard.read_bytes()[:-1])  # as a full disk leaves it
    (data / ".killed").write_bytes(b"half")
    with pytest.raises(UserError, match=rf"1 of .* files .* missing, such as {shard.name}: part"):
        merge(records)
    for part in (1, 2, 3):
        build_part(conversion, records, part, 3)
    merge(records)
    assert contents(records) == whole


def test_a_part_of_something_else_is_named(conversion, mtfl_tree, tmp_path):
    records = tmp_path / "records"
    build_part(conversion, records, 1, 2)
    for other, parts, what in (
        (Conversion("mtfl", conversion.source, max_bad=2), 2, "max_bad"),
        (conversion, 3, "number of parts"),
        (Conversion("mtfl", mtfl_tree, max_bad=1), 2, "source, options or tables"),
    ):
        with pytest.raises(UserError, match=f"the parts that are there have another {what}; give"):
            build_part(other, records, 2, parts)


def test_too_many_bad_images_in_all_parts_together_are_refused(source, tmp_path):
    tree = shutil.copytree(source, tmp_path / "tree")
    for picture in sorted(tree.rglob("*.jpg"))[:4]:
        picture.write_bytes(b"\xff\xd8")
    conversion = Conversion("mtfl", tree, max_bad=3)
    for part in range(1, 5):
        build_part(conversion, tmp_path / "records", part, 4)
    with pytest.raises(UserError, match="4 bad images, more than --max_bad=3"):
        merge(tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_the_command_builds_parts_and_merges_them(mtfl_tree, tmp_path, capsys):
    records = tmp_path / "records"
    build = ["build", "--dataset=mtfl", f"--source={mtfl_tree}", f"--records={records}"]
    for part in ("1/2", "2/2"):
        assert main([*build, f"--part={part}"]) == 0
    assert main(["merge", f"--records={records}"]) == 0
    assert "examples" in capsys.readouterr().out
    assert RecordSet.load(records).splits == {"train": 64, "test": 16}
    for wrong in ("3/2", "0/2", "1", "x/2"):
        with pytest.raises(SystemExit):
            main([*build, f"--part={wrong}"])
        assert f"{wrong!r} is no part such as 1/7" in capsys.readouterr().err


def test_counts_of_files_add_up_to_those_of_all_examples():
    ages = np.float32([[20, np.nan], [31, np.nan], [np.nan, np.nan], [47.5, np.nan], [2, np.nan]])
    boxes = np.float32([[0, 0, 10, 20], [5, 5, 8, 4], [np.nan] * 4, [-1, 0, 3, 3], [0, 0, 20, 20]])
    records = [
        {
            "filename": b"%d.jpg" % row,
            "identity": row - 1,
            "box": box,
            "landmarks": np.full((5, 2), np.nan, np.float32),
            "tasks": {"age": age},
        }
        for row, (age, box) in enumerate(zip(ages, boxes, strict=True))
    ]
    tasks = (Task("age", "regression", ("age", "other")),)
    parts = [slice(0, 1), slice(1, 3), slice(3, 5)]
    found = sum_counts(
        [count_shard(records[p], [(20, 20)] * len(records[p]), tasks) for p in parts]
    )
    assert found["filenames"] == [f"{row}.jpg" for row in range(5)]
    assert found["identities"].tolist() == [-1, 0, 1, 2, 3]
    average, spread = found["statistics"]["age"][0]
    np.testing.assert_allclose([average, spread], [np.nanmean(ages[:, 0]), np.nanstd(ages[:, 0])])
    assert found["statistics"]["age"][1] == [0, 1]
    assert (found["boxes"]["count"], found["boxes"]["cut"], found["boxes"]["landmarks"]) == (
        4,
        1,
        0,
    )
    np.testing.assert_allclose(found["boxes"]["mean_longer"], (20 + 8 + 3 + 20) / 4)
