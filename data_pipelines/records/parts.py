"""Records that several processes build, each a part of the files: any array job, on any machines.

All parts write into one hidden folder beside the records, which they see under the same path:

    .NAME.parts/
        parts.json              what is built from what, the same for all parts
        data/                   whole files of records
        FILE.json               what is known of each, see `shards.write_shard`

Every part finds out by itself which files there will be, and writes each `parts`-th of them. A part
that is run again writes what is not there yet. `merge` opens no image.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import sys

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from data_pipelines.records.build import Conversion, exclusive, replaceable
from data_pipelines.records.metadata import publish
from data_pipelines.records.record_set import RecordSet
from data_pipelines.records.shards import plan_shards, read_summary, write_shards

_PLAN = "parts.json"
_VERSIONS = ("tensorflow", "tensorflow-datasets", "numpy", "Pillow")
"""Packages that decide bytes."""


def build_part(
    conversion: Conversion,
    records: str | os.PathLike,
    part: int,
    parts: int,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Writes a part of the files of a record set.

    Args:
        conversion: what is built from what.
        records: the folder that `merge` will make.
        part: which part, from 1.
        parts: how many there are.
        overwrite: replace records of something else.
        progress: show a bar, on a terminal.

    Returns:
        What was written, as a sentence.

    Raises:
        UserError: the source is wrong, or other parts are built from something else.
    """
    target = local(records).absolute()
    folder = folder_of(target)
    builder = conversion.builder(folder, progress)
    fingerprint = builder.fingerprint()
    if target.exists() and not replaceable(target, fingerprint, overwrite):
        return f"{records}: already built from this source"
    stamp = agree(folder, conversion, fingerprint, parts)
    shards = plan_shards(builder)
    own = shards[part - 1 :: parts]
    write_shards(builder, own, folder, stamp)
    return f"{records}: part {part} of {parts} holds {len(own)} of {len(shards)} files"


def folder_of(target: pathlib.Path) -> pathlib.Path:
    """Where the parts of records lie until they are merged."""
    return target.with_name(f".{target.name}.parts")


def _plan(conversion: Conversion, fingerprint: str, parts: int) -> dict:
    """What all parts have to have in common, and where the source lies."""
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {
        "conversion": dataclasses.asdict(conversion),
        "source, options or tables": fingerprint,
        "max_bad": conversion.max_bad,
        "max_pixels": conversion.max_pixels,
        "number of parts": parts,
        "versions": versions,
    }


def _check(folder: pathlib.Path, plan: dict) -> None:
    """Raises UserError where the parts that are there are of something else."""
    there = json.loads((folder / _PLAN).read_text())
    others = [name for name in plan if name != "conversion" and plan[name] != there.get(name)]
    if others:
        raise UserError(
            f"{folder}: the parts that are there have another {', '.join(others)}; give the same "
            "for all, or remove that folder to begin anew"
        )


def _stamp(plan: dict) -> str:
    """A hash of what all parts have in common; where the source lies does not count."""
    common = {name: value for name, value in plan.items() if name != "conversion"}
    return hashlib.sha256(json.dumps(common).encode()).hexdigest()


def agree(folder: pathlib.Path, conversion: Conversion, fingerprint: str, parts: int) -> str:
    """Makes the folder of parts, and sure that all are of the same.

    Args:
        folder: see `folder_of`.
        conversion: what is built from what.
        fingerprint: of its reader.
        parts: how many there are.

    Returns:
        A hash of what is the same, the stamp of every file.

    Raises:
        UserError: the parts that are there are of something else.
    """
    plan = _plan(conversion, fingerprint, parts)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if not (folder / _PLAN).exists():
        write_text(folder / _PLAN, json.dumps(plan, indent=1))
    _check(folder, plan)
    return _stamp(plan)


def merge(records: str | os.PathLike, *, overwrite: bool = False) -> RecordSet:
    """Makes the records of parts that are all there: checks them, and adds what is known of all.

    Args:
        records: the folder to make, which the parts named.
        overwrite: replace records of something else.

    Raises:
        UserError: a part is missing or of something else, or too many images are bad.
    """
    target = local(records).absolute()
    folder = folder_of(target)
    if not (folder / _PLAN).exists():
        raise UserError(f"{records}: there are no parts; `faceattr-data build --part` makes them")
    plan = json.loads((folder / _PLAN).read_text())
    conversion = Conversion(**plan["conversion"])
    builder = conversion.builder(folder, progress=False)
    fingerprint = builder.fingerprint()
    _check(folder, _plan(conversion, fingerprint, plan["number of parts"]))
    if target.exists() and not replaceable(target, fingerprint, overwrite):
        print(f"{records}: already built from this source, reused", file=sys.stderr)
        shutil.rmtree(folder)
        return RecordSet.load(target)
    with exclusive(folder):
        stamp, shards = _stamp(plan), plan_shards(builder)
        names = [shard.file(builder.name) for shard in shards]
        _check_parts(folder / "data", names, stamp, plan["number of parts"])
        for entry in (folder / "data").iterdir():
            if entry.name not in names:
                entry.unlink()  # what a killed part left half written
        publish(builder, shards, folder, stamp, target, fingerprint)
        shutil.rmtree(folder)
    return RecordSet.load(target)


def _check_parts(data: pathlib.Path, names: list[str], stamp: str, parts: int) -> None:
    """Raises UserError where files are not there, or are not whole or of something else."""
    missing = [place for place, name in enumerate(names) if not read_summary(data / name, stamp)]
    if missing:
        numbers = ", ".join(map(str, sorted({place % parts + 1 for place in missing})))
        raise UserError(
            f"{data.parent}: {len(missing)} of {len(names)} files of records are missing, such as "
            f"{names[missing[0]]}: part {numbers} of {parts} did not run to its end; run it again"
        )
