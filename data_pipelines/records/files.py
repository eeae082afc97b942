"""Whether the files of a record set are those that were built: sizes and ends, not contents.

A file that was cut at a record's border, emptied, or taken from another build would be read without
an error, so what belongs there is written down when records are built.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

from data_pipelines.errors import UserError
from data_pipelines.formats.tfrecord import FRAMING


def describe_file(file: pathlib.Path, examples: int) -> dict:
    """What is kept of a file: `examples`, `bytes`, and its `end`, the last record's checksum."""
    with open(file, "rb") as opened:
        size = opened.seek(0, 2)
        opened.seek(max(0, size - 4))
        return {"examples": examples, "bytes": size, "end": opened.read().hex()}


def check_files(
    folder: pathlib.Path,
    shards: Mapping[str, Sequence[str]],
    splits: Mapping[str, int],
    files: Mapping[str, dict],
) -> None:
    """Compares the files of a record set with what was written down when they were built.

    Args:
        folder: the folder of the records.
        shards: split -> names of its files.
        splits: split -> number of its examples.
        files: name of a file -> `describe_file` of it. Of older records, which have none, the sizes
            of whole splits are compared with what TensorFlow Datasets wrote down.

    Raises:
        UserError: a file is missing, not whole, or of another build.
    """
    for split, names in shards.items():
        for name in names:
            if not (folder / name).exists():
                raise UserError(
                    f"{folder / name}: this file of the records is missing; build them again"
                )
            known = files.get(name)
            if known and (found := describe_file(folder / name, known["examples"])) != known:
                what = f"{found['bytes']:,} bytes where {known['bytes']:,} were built"
                if found["bytes"] == known["bytes"]:
                    what = "another last record than was built"
                raise _other(folder / name, what)
        if files and sum(files[name]["examples"] for name in names) != splits[split]:
            raise _other(folder, f"files of {split!r} that do not hold its {splits[split]:,}")
    if not files:
        _check_splits(folder, shards, splits)


def _check_splits(folder, shards, splits) -> None:
    try:
        written = json.loads((folder / "dataset_info.json").read_text())["splits"]
        known = {one["name"]: one for one in written}
        examples = {name: sum(map(int, one["shardLengths"])) for name, one in known.items()}
        sizes = {name: int(one["numBytes"]) for name, one in known.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return  # Without the file nothing is known; reading counts the examples.
    for split, names in shards.items():
        if split not in known:
            raise _other(folder, f"no split {split!r} in dataset_info.json")
        if examples[split] != splits[split]:
            raise _other(folder, f"{examples[split]:,} examples of {split!r} in dataset_info.json")
        size = sum((folder / name).stat().st_size for name in names)
        expected = sizes[split] + FRAMING * examples[split]
        if size != expected:
            where = folder / names[0] if len(names) == 1 else folder
            raise _other(where, f"{size:,} bytes of {split!r} where {expected:,} were built")


def _other(path, what: str) -> UserError:
    return UserError(f"{path}: {what}: not whole, or of another build; build the records again")
