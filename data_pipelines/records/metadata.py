"""What is written beside the files of records: for `RecordSet` and for TensorFlow Datasets."""

import collections
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import tensorflow_datasets as tfds

from data_pipelines.files import naming
from data_pipelines.formats.tfrecord import FRAMING
from data_pipelines.readers.base import TURNED, FaceBuilder
from data_pipelines.records.counting import sum_counts
from data_pipelines.records.people import count_people
from data_pipelines.records.record_set import FILENAMES, FRAMES, IDENTITIES, METADATA
from data_pipelines.records.shards import Shard, read_summary
from data_pipelines.synth.layouts import DRAWN


def publish(
    builder: FaceBuilder,
    shards: Sequence[Shard],
    folder: pathlib.Path,
    stamp: str,
    target: pathlib.Path,
    fingerprint: str,
) -> None:
    """Completes the `data` of a folder, all of whose shards are written, and renames it to `target`.

    Raises:
        UserError: more images are bad than are allowed.
    """
    splits: dict[str, dict[str, dict]] = {}
    for shard in shards:
        name = shard.file(builder.name)
        splits.setdefault(shard.split, {})[name] = read_summary(folder / "data" / name, stamp)
    with naming(target):
        _write_metadata(builder, splits, folder / "data", fingerprint)
    if target.exists():
        os.replace(target, folder / "replaced")
    os.replace(folder / "data", target)


def _write_metadata(
    builder: FaceBuilder,
    splits: Mapping[str, Mapping[str, dict]],
    folder: pathlib.Path,
    fingerprint: str,
) -> None:
    """Completes a folder whose files of records are there.

    Args:
        builder: has read the tables.
        splits: split -> name of a file -> its summary, see `shards.write_shard`.
        folder: the files' own.
        fingerprint: of the builder.

    Raises:
        UserError: more images are bad than are allowed, or a given table of detections fits none.
    """
    summaries = [each for files in splits.values() for each in files.values()]
    builder.bad = dict(itertools.chain(*(each["bad"].items() for each in summaries)))
    builder.check_bad()
    builder.check_joined()
    changed = collections.Counter()
    for each in summaries:
        changed.update(each["changed"])
    counts = {split: sum_counts(list(files.values())) for split, files in splits.items()}

    def of_splits(name: str) -> dict:
        return {split: found[name] for split, found in counts.items()}

    filenames, identities = of_splits("filenames"), of_splits("identities")
    people, shared_people = count_people(identities)
    if people:
        numbers = {split: found.tolist() for split, found in identities.items()}
        (folder / IDENTITIES).write_text(json.dumps(numbers))
    left_out = dict(builder.left_out)
    if builder.bad:
        left_out["bad images"] = dict(sorted(builder.bad.items()))
    examples = {split: len(names) for split, names in filenames.items()}
    fields = {
        "name": builder.name,
        "tasks": [task.to_dict() for task in builder.tasks],
        "splits": examples,
        "shards": {split: list(files) for split, files in splits.items()},
        "files": {name: each["file"] for files in splits.values() for name, each in files.items()},
        "label_counts": of_splits("label_counts"),
        "statistics": of_splits("statistics"),
        "boxes": of_splits("boxes"),
        "people": people,
        "shared_people": shared_people,
        "left_out": left_out,
        "description": dataclasses.asdict(builder.ABOUT)
        | {"title": _title(builder, sum(examples.values()))}
        | {"options": builder.options, "detections": builder.joined}
        | {"numbering": builder.NUMBERING}
        | {"corrected": dict(builder.corrections.counts) if builder.corrections else {}}
        | {"noted": {what: count for what, count in builder.noted.items() if count}}
        | {"turned_upright": changed.pop(TURNED, 0), "reencoded": dict(sorted(changed.items()))}
        | {"passed_over": dict(builder.images.left_out), "fingerprint": fingerprint},
    }
    _write_info(builder, splits, folder)
    (folder / FILENAMES).write_text(json.dumps(filenames))
    frames = {split: [each["frames"] for each in files.values()] for split, files in splits.items()}
    (folder / FRAMES).write_text(json.dumps(frames))
    (folder / METADATA).write_text(json.dumps(fields, indent=1))


def _title(builder, count: int) -> str:
    """What the records hold, which may be less than the data set of that name, or drawn."""
    folder = builder.source if builder.source.is_dir() else builder.source.parent
    drawn = "drawn " if (folder / DRAWN).is_file() else ""
    return f"{builder.ABOUT.title} ({count:,} {drawn}faces)"


def _write_info(builder, splits: Mapping[str, Mapping[str, dict]], folder: pathlib.Path) -> None:
    """Writes what makes the folder one of TensorFlow Datasets."""

    def info(split: str, files: Sequence[dict]) -> tfds.core.SplitInfo:
        lengths = [file["examples"] for file in files]
        size = sum(file["bytes"] for file in files) - FRAMING * sum(lengths)
        return tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size)

    found = [
        info(split, [each["file"] for each in files.values()]) for split, files in splits.items()
    ]
    builder.info.set_splits(tfds.core.splits.SplitDict(found))
    builder.info.write_to_directory(folder)
