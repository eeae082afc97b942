"""The sub-commands of `faceattr-data` that make records: build, merge."""

import contextlib
import os
import shlex

from absl.flags import argparse_flags as argparse

from data_pipelines.commands.arguments import (
    add_command,
    add_max_pixels,
    add_noprogress,
    add_overwrite,
)
from data_pipelines.commands.running import require_beam
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import without_keras
from data_pipelines.readers import READERS

_BUILD_EXAMPLES = """
examples:
  faceattr-data build --dataset=mtfl --source=MTFL --records=records/mtfl
  faceattr-data build --dataset=celeba --source=CelebA --records=records/celeba
  faceattr-data build --dataset=celeba --source=CelebA --records=records/wild \\
      --option images=wild --option split=identity
  faceattr-data build --dataset=lfwa --source=LFWA --records=records/lfwa \\
      --detections=LFWA/lfw/detections.csv --max_bad=5
  faceattr-data build --dataset=manifest --source=people.csv --records=records/people \\
      --option tasks="attributes:multilabel:Male,Smiling;age:regression;race:multiclass" \\
      --option shares=train:0.8,validation:0.1,test:0.1
  faceattr-data build --dataset=manifest --source=folder_per_class --records=records/classes
  faceattr-data build --dataset=celeba --source=CelebA --records=records/celeba --part=1/7
"""

_MERGE_EXAMPLES = """
examples:
  for part in 1 2 3; do
    faceattr-data build --dataset=mtfl --source=MTFL --records=records/mtfl --part=$part/3 &
  done; wait
  faceattr-data merge --records=records/mtfl
"""


def add_build(commands):
    """The sub-command `build`."""
    parser = add_command(commands, "build", _build, "turn a data set into records", _BUILD_EXAMPLES)
    parser.add_argument("--dataset", required=True, choices=READERS, help="what the source is")
    parser.add_argument("--source", required=True, help="folder of the data set as it unpacks")
    parser.add_argument("--records", required=True, help="folder to make")
    parser.add_argument("--detections", help="table that `faceattr-data detect` wrote")
    parser.add_argument(
        "--corrections", help="table of labels to replace, as `faceattr-labels` writes it"
    )
    parser.add_argument(
        "--max_bad",
        type=int,
        default=0,
        help="how many images may be missing or broken; they are left out by name (default 0)",
    )
    add_max_pixels(parser)
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the data set's reader, may be repeated; celeba: images=aligned|wild, "
        "split=official|identity, rows=complete|subset, no=-1|0; fairface: groups=seven|five; "
        "fer2013: labels=fer2013|ferplus|ferplus_seven, public=validation|test; utkface: images=aligned|wild; manifest: tasks=NAME:KIND:COLUMN,...;... (kinds multilabel, "
        "multiclass, distribution, regression), manifest, path, images, identity, numbers, split, shares, seed, box, corners, "
        "landmarks, "
        "minus_one=no|unknown, title, licence",
    )
    parser.add_argument(
        "--part",
        type=_part,
        metavar="I/N",
        help="write this part of N, from 1, which may run side by side on machines that share the "
        "folders, and may be run again; `faceattr-data merge` makes the records of all",
    )
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="write by Apache Beam, with its options as one word, such as "
        "--beam='--runner=FlinkRunner --flink_master=HOST:8081'",
    )
    add_overwrite(parser)
    add_noprogress(parser)


def _part(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise argparse.argparse.ArgumentTypeError(f"{text!r} is no part such as 1/7 or 7/7")


def _build(parsed):
    options = {}
    for text in parsed.option:
        name, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--option {text}: expected NAME=VALUE")
        options[name] = value
    from data_pipelines.records.build import Conversion, build_records

    names = ("source", "detections", "corrections", "max_bad", "max_pixels")
    given = {name: getattr(parsed, name) for name in names}
    conversion = Conversion(parsed.dataset, **given, options=options)
    writing = {"overwrite": parsed.overwrite, "progress": parsed.progress}
    if parsed.part and parsed.beam is not None:
        raise UserError("--part and --beam both share out the work; expected one of them")
    with _quietly():
        if parsed.part:
            from data_pipelines.records.parts import build_part

            print(build_part(conversion, parsed.records, *parsed.part, **writing))
            return
        if parsed.beam is not None:
            require_beam("--beam")
            from data_pipelines.records.beam import build_by_beam

            del writing["progress"]
            built = build_by_beam(conversion, parsed.records, shlex.split(parsed.beam), **writing)
        else:
            built = build_records(conversion, parsed.records, **writing)
    print(built.summary())


@contextlib.contextmanager
def _quietly():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # bad images are reported by name instead
    with without_keras():
        yield


def add_merge(commands):
    """The sub-command `merge`."""
    parser = add_command(
        commands,
        "merge",
        _merge,
        "make the records whose parts `build --part` wrote",
        _MERGE_EXAMPLES,
    )
    parser.add_argument("--records", required=True, help="folder to make, as `build` was told")
    add_overwrite(parser)


def _merge(parsed):
    with _quietly():
        from data_pipelines.records.parts import merge

        merged = merge(parsed.records, overwrite=parsed.overwrite)
    print(merged.summary())
