"""The command `faceattr-data`: build, merge, inspect, detect, synth, paste."""

import dataclasses
import os
import shlex
import sys

from absl.flags import argparse_flags as argparse

from data_pipelines.commands.arguments import add_command, add_max_pixels, add_noprogress
from data_pipelines.commands.build import add_build, add_merge
from data_pipelines.commands.running import run_command
from data_pipelines.detection.mtcnn import MAXIMUM_SIDE
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras
from data_pipelines.readers import READERS

_DETECT_EXAMPLES = """
examples:
  faceattr-data detect --source=LFWA/lfw
  faceattr-data detect --source=CelebA/Img/img_celeba --boxes=CelebA/Anno/list_bbox_celeba.txt \\
      --output=wild.csv
"""

_SYNTH_EXAMPLES = """
examples:
  faceattr-data synth --dataset=celeba --folder=drawn/celeba --images=200
  faceattr-data synth --dataset=lfwa --folder=drawn/lfwa --attributes=73 --matlab=5
"""
_INSPECT_EXAMPLES = """
examples:
  faceattr-data inspect --records=records/mtfl
  faceattr-data inspect --records=records/mtfl --picture=mtfl.png --split=test --count=40
"""

_PASTE_EXAMPLES = """
examples:
  faceattr-data paste --records=records/celeba --backgrounds=pictures --folder=canvases
  faceattr-data paste --records=records/mtfl --backgrounds=pictures --folder=groups \\
      --canvases=200 --faces=4 --largest=0.4 --empty=0.1
"""


def run() -> None:
    """Console entry point."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: list[str]) -> int:
    """Runs `faceattr-data` with these arguments and returns the exit status."""
    parsed = _parser().parse_args(arguments)
    return run_command(f"faceattr-data {parsed.command}", lambda: parsed.run(parsed))


def _parser():
    parser = argparse.ArgumentParser(
        prog="faceattr-data",
        description="From the official folders of face data sets to TFRecords.",
        epilog="`faceattr-data COMMAND --help` shows a command's options and examples.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (add_build, add_merge, _add_inspect, _add_detect, _add_synth, _add_paste):
        add(commands)
    return parser


def _add_inspect(commands):
    parser = add_command(
        commands,
        "inspect",
        _inspect,
        "print counts and label balance, and draw a grid of labelled faces",
        _INSPECT_EXAMPLES,
    )
    parser.add_argument("--records", required=True, help="folder that `build` made")
    parser.add_argument("--picture", help="PNG file to write: faces with boxes, landmarks, labels")
    parser.add_argument("--split", default="", help="the picture's faces (default: the first)")
    parser.add_argument("--count", type=int, default=24, help="how many faces (default 24)")


def _inspect(parsed):
    from data_pipelines.records.inspection import inspect_records

    inspect_records(parsed.records, parsed.picture, split=parsed.split, count=parsed.count)


def _add_detect(commands):
    parser = add_command(
        commands, "detect", _detect, "find the faces of all pictures in a folder", _DETECT_EXAMPLES
    )
    parser.add_argument("--source", required=True, help="folder of pictures, with its sub-folders")
    parser.add_argument("--output", help="table to write (default detections.csv in the folder)")
    parser.add_argument(
        "--boxes", help="table of annotated boxes; of several faces the nearest to its box is kept"
    )
    parser.add_argument("--processes", type=int, default=0, help="default: one per processor")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures at once (default 32)")
    parser.add_argument(
        "--minimum_size", type=float, help="side in pixels of the smallest face looked for"
    )
    parser.add_argument(
        "--maximum_side",
        type=int,
        default=MAXIMUM_SIDE,
        help="faces of a picture that is wider or higher in pixels are looked for in a copy reduced "
        "to this, where --minimum_size counts; boxes are in the picture's own pixels "
        "(default %(default)s)",
    )
    parser.add_argument("--max_bad", type=int, default=0, help="pictures that may fail to decode")
    add_max_pixels(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a table that exists")
    add_noprogress(parser)


def _detect(parsed):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    prepare_keras()
    from data_pipelines.detection.folder import Settings, detect_folder

    names = ("processes", "batch_size", "maximum_side", "max_bad", "max_pixels", "minimum_size")
    given = {name: getattr(parsed, name) for name in names}
    found = detect_folder(
        parsed.source,
        parsed.output,
        Settings(**{name: value for name, value in given.items() if value is not None}),
        boxes=parsed.boxes,
        overwrite=parsed.overwrite,
        progress=parsed.progress,
    )
    print(f"{found['output']}: {found['faces']:,} faces in {found['images']:,} pictures")
    for what, count in found["passed_over"].items():
        print(f"not read: {count:,} {what}")
    for reason in ("not_found", "undecodable"):
        for name in found[reason]:
            print(f"{reason.replace('_', ' ')}: {name}")


def _add_synth(commands):
    parser = add_command(
        commands,
        "synth",
        _synth,
        "draw a small data set of cartoon faces in an official layout",
        _SYNTH_EXAMPLES,
    )
    parser.add_argument("--dataset", required=True, choices=READERS, help="whose layout")
    parser.add_argument("--folder", required=True, help="folder to make")
    parser.add_argument("--images", type=int, default=64, help="how many (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same faces")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of each picture (default: the data set's own)",
    )
    parser.add_argument(
        "--in_the_wild", action="store_true", default=None, help="celeba: photographs with boxes"
    )
    parser.add_argument("--attributes", type=int, choices=(40, 73), help="lfwa: default 40")
    parser.add_argument("--matlab", choices=("7.3", "5"), help="lfwa: file format (default 7.3)")


def _synth(parsed):
    options = {}
    for name, dataset in (("in_the_wild", "celeba"), ("attributes", "lfwa"), ("matlab", "lfwa")):
        value = getattr(parsed, name)
        if value is not None:
            if parsed.dataset != dataset:
                raise UserError(f"--{name} belongs to --dataset={dataset}, not {parsed.dataset}")
            options[name] = value
    from data_pipelines.synth import layouts

    size = tuple(parsed.size) if parsed.size else None
    folder = layouts.draw(
        parsed.dataset, parsed.folder, images=parsed.images, seed=parsed.seed, size=size, **options
    )
    print(f"{folder}: {parsed.images} drawn faces in the layout of {parsed.dataset}")


def _add_paste(commands):
    parser = add_command(
        commands,
        "paste",
        _paste,
        "paste labelled faces into other pictures, at random places and sizes",
        _PASTE_EXAMPLES,
    )
    parser.add_argument("--records", required=True, help="folder that `build` made: the faces")
    parser.add_argument(
        "--backgrounds", required=True, help="folder of pictures without faces, with sub-folders"
    )
    parser.add_argument("--folder", required=True, help="folder to make: canvases and manifest.csv")
    parser.add_argument("--canvases", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument(
        "--faces", type=int, default=1, help="greatest number of faces on a canvas (default 1)"
    )
    parser.add_argument(
        "--empty", type=float, default=0.0, help="share of canvases without a face (default 0)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.3,
        help="what is shown around faces whose box is known, as a share of its longer side; of "
        "others the whole picture is (default 0.3)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(227, 227),
        metavar=("HEIGHT", "WIDTH"),
        help="of the canvases (default 227 227)",
    )
    for name, default, what in (
        (
            "smallest",
            0.3,
            "longer side of the smallest picture pasted, of the canvas's shorter one",
        ),
        ("largest", 0.8, "the same of the largest"),
        ("textures", 0.2, "share of backgrounds that are drawn textures"),
        ("feather", 0.2, "greatest width of soft edges, of the shorter side of what is pasted"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=default, help=f"{what} (default {default})"
        )
    parser.add_argument(
        "--distractors",
        type=int,
        default=2,
        help="greatest number of pieces of backgrounds that are pasted as faces are (default 2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same canvases")
    add_noprogress(parser)


def _paste(parsed):
    from data_pipelines.records.canvases import Pasting, paste_faces
    from data_pipelines.records.record_set import RecordSet
    from data_pipelines.synth.canvases import Canvas

    def settings(kind, **given):
        names = [field.name for field in dataclasses.fields(kind) if field.name not in given]
        return kind(**given, **{name: getattr(parsed, name) for name in names})

    height, width = parsed.size
    made = paste_faces(
        RecordSet.load(parsed.records),
        parsed.backgrounds,
        parsed.folder,
        settings(Pasting),
        settings(Canvas, height=height, width=width),
        progress=parsed.progress,
    )
    counts = ", ".join(f"{count:,} {split}" for split, count in made.canvases.items())
    print(f"{made.folder}: {counts}; {made.faces:,} faces pasted, {made.boxes:,} by their box")
    print(f"canvases without a face: {made.empty:,}")
    for what, count in made.passed_over.items():
        print(f"not read: {count:,} {what}")
    print(
        f"faceattr-data build --dataset=manifest --source={made.folder} --records=RECORDS "
        f"--option tasks={shlex.quote(made.tasks)}"
    )


if __name__ == "__main__":
    run()
