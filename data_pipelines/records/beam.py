"""Records that Apache Beam builds: the files of `parts`, one element each, on any of its runners.

What travels is the number of a file, never an image. A worker reads the tables once, and writes
into the folder that all share under the same path; as a file appears there when it is whole, a
bundle that is tried again, or twice at a time, changes nothing.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from data_pipelines.records.build import Conversion, replaceable
from data_pipelines.records.parts import agree, folder_of, merge
from data_pipelines.records.record_set import RecordSet
from data_pipelines.records.shards import plan_shards, write_shard

_FAULTS = "faults"


class WriteShard(beam.DoFn):
    """Writes files of records by their numbers.

    Args:
        conversion: what is built from what.
        folder: see `parts`.
        stamp: what all files have in common.
    """

    def __init__(self, conversion: Conversion, folder: str, stamp: str):
        """Reads nothing yet."""
        self._conversion, self._folder, self._stamp = conversion, pathlib.Path(folder), stamp
        self._shared = Shared()

    def setup(self):
        """Reads the tables, once in a process."""
        self._planned = self._shared.acquire(lambda: _Planned(self._conversion, self._folder))

    def process(self, number: int):
        """Writes a file; a mistake of the user is no reason to try again, and is written down."""
        try:
            write_shard(
                self._planned.builder, self._planned.shards[number], self._folder, self._stamp
            )
        except UserError as error:
            write_text(self._folder / _FAULTS / str(number), str(error))


def create_pipeline(options: Sequence[str]) -> beam.Pipeline:
    """A pipeline with the options that a user gave.

    Raises:
        UserError: they make no sense to Beam.
    """
    try:
        return beam.Pipeline(options=PipelineOptions(list(options)))
    except ValueError as error:
        raise UserError(f"--beam={' '.join(options)}: {error}") from None


class _Planned:
    """A reader and the files that there will be."""

    def __init__(self, conversion: Conversion, folder: pathlib.Path):
        self.builder = conversion.builder(folder, progress=False)
        self.shards = plan_shards(self.builder)


def build_by_beam(
    conversion: Conversion,
    records: str | os.PathLike,
    options: Sequence[str],
    *,
    overwrite: bool = False,
) -> RecordSet:
    """Turns a data set's folder into a folder of records, the bytes of `build_records`.

    Files that an earlier run wrote before it ended are kept.

    Args:
        conversion: what is built from what.
        records: the folder to make.
        options: of Beam, such as `--runner=FlinkRunner`.
        overwrite: replaces records that were built from something else.

    Raises:
        UserError: as of `build_records`.
    """
    target = local(records).absolute()
    folder = folder_of(target)
    planned = _Planned(conversion, folder)
    fingerprint = planned.builder.fingerprint()
    if target.exists() and not replaceable(target, fingerprint, overwrite):
        return RecordSet.load(target)
    stamp = agree(folder, conversion, fingerprint, len(planned.shards))
    faults = folder / _FAULTS
    shutil.rmtree(faults, ignore_errors=True)
    faults.mkdir()
    with create_pipeline(options) as pipeline:
        _ = (
            pipeline
            | "Numbers" >> beam.Create(range(len(planned.shards)))
            | "Share" >> beam.Reshuffle()
            | "Write" >> beam.ParDo(WriteShard(conversion, os.fspath(folder), stamp))
        )
    for fault in sorted(faults.iterdir(), key=lambda path: int(path.name)):
        raise UserError(fault.read_text())
    return merge(records, overwrite=overwrite)
