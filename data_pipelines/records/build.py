"""Record sets: folders of TFRecords that a reader built, and what is known about them.

A record is a flat `tf.train.Example`: `image` (encoded bytes), `filename`, `box` `[4]` (left, top,
width, height), `landmarks` `[5, 2]`, `identity`, and `tasks/NAME` per task. Coordinates are pixels
whose centre is the integer, unknown ones are NaN. The folder is also an ordinary TensorFlow
Datasets folder: `tfds.builder_from_directory(path)` reads it.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import MAX_PIXELS
from data_pipelines.readers import READERS, reader_class
from data_pipelines.readers.base import TURNED
from data_pipelines.records.counting import count_labels, measure_boxes
from data_pipelines.records.files import describe_file
from data_pipelines.records.people import count_people, read_identities
from data_pipelines.records.record_set import FILENAMES, IDENTITIES, METADATA, RecordSet


def build(
    reader_name: str,
    source: str | os.PathLike,
    records: str | os.PathLike,
    *,
    detections: str | os.PathLike | None = None,
    corrections: str | os.PathLike | None = None,
    max_bad: int = 0,
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    progress: bool = True,
    **options,
) -> RecordSet:
    """Turns a data set's folder into a folder of records.

    Nothing appears under the final name before everything is written: an interrupted build leaves
    only a hidden folder beside it, which the next one clears. The same source, options and
    detections give the same bytes; where such records exist already they are reused.

    Args:
        reader_name: one of `READERS`.
        source: the folder (or file) of the data set.
        records: the folder to make.
        detections: table written by `faceattr-data detect`, joined in by filename.
        corrections: table of labels that are replaced, such as `faceattr-labels` writes.
        max_bad: how many images may be missing or undecodable; they are left out by name.
        max_pixels: an image that is larger by its header counts as undecodable.
        overwrite: replaces records that were built from something else.
        progress: show a bar, on a terminal.
        **options: of the reader.

    Raises:
        UserError: the source lacks something, holds something wrong, more images than `max_bad`
            are bad, or the target holds something else.
    """
    if reader_name not in READERS:
        raise UserError(f"no reader {reader_name!r}; there are: {', '.join(READERS)}")
    target, source = local(records).absolute(), local(source)
    detections = local(detections) if detections else None
    partial = target.with_name(f".{target.name}.partial")
    builder = reader_class(reader_name)(
        source=source,
        data_dir=partial / "data",
        detections=detections,
        corrections=corrections,
        max_bad=max_bad,
        max_pixels=max_pixels,
        progress=progress,
        **options,
    )
    fingerprint = builder.fingerprint()
    if target.exists() and not _replaceable(target, fingerprint, overwrite):
        print(f"{records}: already built from this source, reused", file=sys.stderr)
        return RecordSet.load(target)
    with _exclusive(partial):
        _prepare(builder)
        builder.check_bad()
        builder.check_joined()
        if builder.corrections:
            builder.corrections.check_applied()
        folder = pathlib.Path(builder.data_path)
        _write_metadata(builder, folder, fingerprint)
        if target.exists():
            os.replace(target, partial / "replaced")
        os.replace(folder, target)
    return RecordSet.load(target)


def _replaceable(target: pathlib.Path, fingerprint: str, overwrite: bool) -> bool:
    """Whether to build into a target that exists; False where it already holds the same."""
    if target.is_dir() and not any(target.iterdir()):
        return True
    try:
        existing = RecordSet.load(target)
    except UserError as error:
        # What is no record set may be somebody's only copy of something else.
        if target.is_dir() and (target / METADATA).exists():
            if overwrite:
                return True
            raise UserError(f"{error}, with --overwrite") from None
        raise UserError(
            f"{target}: there is something else than complete records; give another folder"
        ) from None
    if existing.description["fingerprint"] == fingerprint:
        # Without sizes of boxes they are of an earlier version, and say less.
        return not existing.boxes
    if not overwrite:
        raise UserError(
            f"{target}: holds records of {existing.name} built from another source or with other "
            "options; give another folder, or --overwrite to replace them"
        )
    return True


@contextlib.contextmanager
def _exclusive(folder: pathlib.Path) -> Iterator[None]:
    """An empty folder that no other build uses at the same time, removed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another build is writing to it") from None
        for entry in folder.iterdir():
            shutil.rmtree(entry)
        try:
            yield
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(handle)


def _prepare(builder) -> None:
    """Runs the builder under its own progress bars, without the network."""
    import tensorflow  # noqa: F401  (what it says when it is loaded must not cut a progress bar)
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download that there is not
        builder.download_and_prepare(
            download_dir=pathlib.Path(builder.data_path).parents[2] / "downloads",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )


def _title(builder, count: int) -> str:
    """What the records hold, which may be less than the data set of that name, or drawn."""
    from data_pipelines.synth.layouts import DRAWN

    folder = builder.source if builder.source.is_dir() else builder.source.parent
    drawn = "drawn " if (folder / DRAWN).is_file() else ""
    return f"{builder.ABOUT.title} ({count:,} {drawn}faces)"


def _write_metadata(builder, folder: pathlib.Path, fingerprint: str) -> None:
    """Writes what `RecordSet` knows, counted from the records themselves."""
    splits = builder.info.splits
    shards = {
        name: [os.path.basename(f) for f in split.filepaths] for name, split in splits.items()
    }
    files = {
        name: describe_file(folder / name, length)
        for split in shards
        for name, length in zip(shards[split], splits[split].shard_lengths, strict=True)
    }
    filenames, counts, statistics, boxes, identities = {}, {}, {}, {}, {}
    for split, names in shards.items():
        paths = [str(folder / name) for name in names]
        filenames[split], counts[split], statistics[split] = count_labels(paths, builder.tasks)
        boxes[split] = measure_boxes(paths)
        identities[split] = read_identities(paths)
    people, shared_people = count_people(identities)
    if people:
        numbers = {split: found.tolist() for split, found in identities.items()}
        (folder / IDENTITIES).write_text(json.dumps(numbers))
    left_out = dict(builder.left_out)
    changed = {what: count for what, count in sorted(builder.changed.items()) if what}
    if builder.bad:
        left_out["bad images"] = dict(sorted(builder.bad.items()))
    splits = {split: len(names) for split, names in filenames.items()}
    fields = {
        "name": builder.name,
        "tasks": [task.to_dict() for task in builder.tasks],
        "splits": splits,
        "shards": shards,
        "files": files,
        "label_counts": counts,
        "statistics": statistics,
        "boxes": boxes,
        "people": people,
        "shared_people": shared_people,
        "left_out": left_out,
        "description": dataclasses.asdict(builder.ABOUT)
        | {"title": _title(builder, sum(splits.values()))}
        | {"options": builder.options, "detections": builder.joined}
        | {"numbering": builder.NUMBERING}
        | {"corrected": dict(builder.corrections.counts) if builder.corrections else {}}
        | {"noted": {what: count for what, count in builder.noted.items() if count}}
        | {"turned_upright": changed.pop(TURNED, 0), "reencoded": changed}
        | {"passed_over": dict(builder.images.left_out), "fingerprint": fingerprint},
    }
    (folder / FILENAMES).write_text(json.dumps(filenames))
    (folder / METADATA).write_text(json.dumps(fields, indent=1))
