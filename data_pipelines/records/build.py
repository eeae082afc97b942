"""Record sets: folders of TFRecords that a reader built, and what is known about them.

A record is a flat `tf.train.Example`: `image` (encoded bytes), `filename`, `box` `[4]` (left, top,
width, height), `landmarks` `[5, 2]`, `identity`, and `tasks/NAME` per task. Coordinates are pixels
whose centre is the integer, unknown ones are NaN. The folder is also an ordinary TensorFlow
Datasets folder: `tfds.builder_from_directory(path)` reads it.
"""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Mapping

from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.formats.encoded import MAX_PIXELS
from data_pipelines.readers import READERS, reader_class
from data_pipelines.records.record_set import METADATA, RecordSet


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What is turned into records, and how: what decides their bytes.

    Attributes:
        reader: one of `READERS`.
        source: the folder (or file) of the data set.
        detections: table written by `faceattr-data detect`, joined in by filename.
        corrections: table of labels that are replaced, such as `faceattr-labels` writes.
        max_bad: how many images may be missing or undecodable; they are left out by name.
        max_pixels: an image that is larger by its header counts as undecodable.
        options: of the reader.
    """

    reader: str
    source: str | os.PathLike
    detections: str | os.PathLike | None = None
    corrections: str | os.PathLike | None = None
    max_bad: int = 0
    max_pixels: int = MAX_PIXELS
    options: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Makes the paths absolute, as other processes need them."""
        if self.reader not in READERS:
            raise UserError(f"no reader {self.reader!r}; there are: {', '.join(READERS)}")
        for name in ("source", "detections", "corrections"):
            if path := getattr(self, name):
                object.__setattr__(self, name, os.fspath(local(path).absolute()))

    def builder(self, folder: pathlib.Path, progress: bool):
        """The reader, a `FaceBuilder`.

        Args:
            folder: one of its own, where nothing is written yet.
            progress: show bars, on a terminal.
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        options = fields.pop("options")
        create = reader_class(fields.pop("reader"))
        return create(data_dir=folder, progress=progress, **fields, **options)


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
    """Turns a data set's folder into a folder of records: `build_records` of a `Conversion`."""
    conversion = Conversion(
        reader_name, source, detections, corrections, max_bad, max_pixels, options
    )
    return build_records(conversion, records, overwrite=overwrite, progress=progress)


def build_records(
    conversion: Conversion,
    records: str | os.PathLike,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> RecordSet:
    """Turns a data set's folder into a folder of records.

    Nothing appears under the final name before everything is written: an interrupted build leaves
    only a hidden folder beside it, which the next one clears. The same conversion gives the same
    bytes; where such records exist already they are reused.

    Args:
        conversion: what is built from what.
        records: the folder to make.
        overwrite: replaces records that were built from something else.
        progress: show bars, on a terminal.

    Raises:
        UserError: the source lacks something, holds something wrong, more images than `max_bad`
            are bad, or the target holds something else.
    """
    from data_pipelines.records.metadata import publish
    from data_pipelines.records.shards import plan_shards, write_shards

    target = local(records).absolute()
    partial = target.with_name(f".{target.name}.partial")
    builder = conversion.builder(partial, progress)
    fingerprint = builder.fingerprint()
    if target.exists() and not replaceable(target, fingerprint, overwrite):
        print(f"{records}: already built from this source, reused", file=sys.stderr)
        return RecordSet.load(target)
    with exclusive(partial):
        for entry in partial.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        try:
            shards = plan_shards(builder)
            write_shards(builder, shards, partial, fingerprint)
            publish(builder, shards, partial, fingerprint, target, fingerprint)
        finally:
            shutil.rmtree(partial)
    return RecordSet.load(target)


def replaceable(target: pathlib.Path, fingerprint: str, overwrite: bool) -> bool:
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
def exclusive(folder: pathlib.Path) -> Iterator[None]:
    """A folder that no other process completes at the same time."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another build is writing to it") from None
        yield
    finally:
        os.close(handle)
