"""faceattr-predict: what a trained model says about image files, videos and what a camera sees.

One row per face: as JSON lines or CSV, on standard output or, with --output, in
DIR/results.jsonl or DIR/results.csv with annotated pictures in DIR/annotated.

Of a video and of --camera=N, which Ctrl-C ends, faces are found by MTCNN and followed: one row per
face (track) and second, with answers smoothed over the track. Folders are searched for pictures
alone; videos are named, or meant by a pattern. DIR/annotated holds them as WebM, without sound.

--blur=FOLDER writes copies without faces: pictures as PNG, videos as Matroska with the lossless FFV1,
upright, without sound and without what else the files say (place, device, dates, previews). Only
the parts in FOLDER/boxes.csv are changed. It errs on the side of too much, but no detector finds
every face: look before you publish. It needs no --workdir; with one, there are rows as well.

With --explain, DIR/explained holds a folder for every image, named as the image, and in it a
LABEL.jpg (with several faces N-LABEL.jpg) for every label: what the network saw, and over it where
its answer comes from, by occlusion (what the answer loses when a place is hidden) and by gradients
(Grad-CAM). A yes shows what speaks for it, a no what speaks against; neither is a proof of cause.
"""

import argparse
import os
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.detection.mtcnn import MAXIMUM_SIDE, MINIMUM_SIZE
from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import MAX_PIXELS
from data_pipelines.formats.video import is_video
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.prediction.smoothing import SECONDS

EXAMPLES = """\
examples:
  faceattr-predict --workdir=work/celeba photo.jpg
  faceattr-predict --workdir=work/celeba --detect --output=results holiday/
  faceattr-predict --workdir=work/celeba --localise=work/lnet_o,work/lnet_s --faces=5 photo.jpg
  faceattr-predict --workdir=work/celeba --output=results --explain=Smiling,Eyeglasses photo.jpg
  faceattr-predict --workdir=work/celeba --output=results --format=csv --noannotate 'shots/*.png'
  faceattr-predict --workdir=work/mtfl --output=results video.mp4
  faceattr-predict --blur=public holiday/ video.mp4
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-predict", __doc__, EXAMPLES)
    add = result.add_argument
    add("paths", nargs="*", metavar="PATH", help="image, video, folder of images, or pattern")
    add("--workdir", metavar="DIR", help="folder of a training run; with --blur it may be left out")
    add("--camera", type=int, metavar="N", help="number of a camera to look through, such as 0")
    add("--detect", action="store_true", help="find the faces by MTCNN, and judge each of them")
    add(
        "--localise",
        default="",
        metavar="DIR[,DIR]",
        help="find them by runs of LNet_o and, within its windows, LNet_s in place of MTCNN",
    )
    add(
        "--faces",
        metavar="all|largest|N",
        help="faces that are judged in an image, the largest first; with --localise N of the "
        "strongest (default: all, or what the first run of --localise has)",
    )
    add("--output", metavar="DIR", help="folder for the results; default: rows on standard output")
    add("--format", choices=("jsonl", "csv"), default="jsonl", help="of the rows (default: jsonl)")
    add("--batch_size", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    add(
        "--max_pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="an image that is larger by its header is not decoded (default: %(default)s)",
    )
    add(
        "--maximum_side",
        type=int,
        default=MAXIMUM_SIDE,
        metavar="N",
        help="with --detect, faces of an image that is wider or higher in pixels are looked for in "
        "a copy reduced to this; boxes are in the image's own pixels (default: %(default)s)",
    )
    add(
        "--minimum_size",
        type=float,
        default=MINIMUM_SIZE,
        metavar="N",
        help="with --detect, side in pixels of the smallest face that is looked for, at least 12 "
        "(default: %(default)s)",
    )
    add(
        "--try_rotations",
        action="store_true",
        help="turn images in which no face is found by 90, 180 and 270 degrees and look again; with "
        "--blur, all of them",
    )
    annotated = {"dest": "annotate", "default": None}
    add("--annotate", action="store_true", **annotated, help="annotated pictures (with --output)")
    add("--noannotate", action="store_false", **annotated, help="no annotated pictures")
    add(
        "--explain",
        default="",
        metavar="LABEL[,LABEL...]",
        help="attributes or classes of which heat maps are drawn (with --output)",
    )
    add(
        "--consistent",
        action="store_true",
        help="no answers that the labels of training rule out together, such as Bald and Bangs: the "
        "less certain one gives way, and its probability moves just across the threshold",
    )
    add(
        "--unsure",
        metavar="RISK[,overall][,TASK...]",
        help="say `unsure` where more than this share of the answers, such as 0.05, would be wrong, "
        "as validation has it: of the faces with a label and of those without it, or, with "
        "`,overall`, of all",
    )
    add(
        "--sensitive",
        default="",
        metavar="TASK[,TASK...]",
        help="sensitive tasks that are answered too, such as ethnicity; else they are left out",
    )
    add(
        "--smooth",
        type=float,
        default=SECONDS,
        metavar="SECONDS",
        help="of videos, after how long what was said of a face counts half in its averaged answers; "
        "0 judges every frame alone (default: %(default)s)",
    )
    add("--blur", metavar="FOLDER", help="folder for copies in which faces are covered")
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags, predicts, and says what could not be read.

    Raises:
        UserError: nothing to do, or some files could not be read (the rest is done).
    """
    known = parser()
    flags = known.parse_args(arguments)
    if not _paths(flags):
        known.error("the following arguments are required: PATH")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    if flags.workdir is None and flags.blur is None:
        raise UserError("--workdir is missing: the folder of a training run")
    if None not in (flags.workdir, flags.blur, flags.camera):
        raise UserError("--camera gives its pictures once: leave out --blur or --workdir")
    if not flags.smooth >= 0:
        raise UserError(f"--smooth={flags.smooth}: expected seconds, from 0 on")
    prepare_keras()
    tried = failed = 0
    for work, folder in ((_predict, flags.workdir), (_blur, flags.blur)):
        if folder is not None:
            summary = work(flags)
            tried, failed = tried + summary.tried, failed + len(summary.unreadable)
    if failed:
        kind = "files" if _of_videos(flags) else "images"
        raise UserError(f"{failed} of {tried} {kind} could not be read")


def _predict(flags: argparse.Namespace):
    """Rows and pictures of what the model says."""
    from faceattr_tf.prediction.predict import predict

    faces, localiser = _faces(flags), None
    if flags.localise:
        from faceattr_tf.prediction.localisation import Localiser

        localiser = Localiser.from_workdirs(flags.localise.split(","), faces)
    summary = predict(
        flags.workdir,
        _paths(flags),
        output=flags.output,
        format=flags.format,
        detect=flags.detect or localiser is not None,
        localiser=localiser,
        batch_size=flags.batch_size,
        annotate=flags.annotate,
        explain=[label for label in flags.explain.split(",") if label],
        max_pixels=flags.max_pixels,
        maximum_side=flags.maximum_side,
        minimum_size=flags.minimum_size,
        faces=faces,
        try_rotations=flags.try_rotations,
        progress=flags.progress,
        consistent=flags.consistent,
        unsure=flags.unsure,
        sensitive=[name for name in flags.sensitive.split(",") if name],
        seconds=flags.smooth,
    )
    _say(summary)
    if flags.output is not None:
        print(f"{summary}: {flags.output}")
    return summary


def _blur(flags: argparse.Namespace):
    """Copies without faces."""
    from faceattr_tf.prediction.blur_folder import anonymise

    summary = anonymise(
        _paths(flags),
        flags.blur,
        max_pixels=flags.max_pixels,
        progress=flags.progress,
        minimum_size=flags.minimum_size,
        maximum_side=flags.maximum_side,
        try_rotations=flags.try_rotations,
    )
    _say(summary)
    print(f"{summary.images} images and {summary.videos} videos, faces covered: {flags.blur}")
    return summary


def _paths(flags: argparse.Namespace) -> list[str | int]:
    return [*flags.paths, *([] if flags.camera is None else [flags.camera])]


def _of_videos(flags: argparse.Namespace) -> bool:
    return flags.camera is not None or any(map(is_video, flags.paths))


def _say(summary) -> None:
    """Says what could not be read."""
    for what, count in summary.passed_over.items():
        print(f"not read: {count:,} {what}", file=sys.stderr)
    for name in summary.faceless:
        print(f"{name}: no face found", file=sys.stderr)
    for reason in summary.unreadable.values():
        print(reason, file=sys.stderr)


def _faces(flags: argparse.Namespace) -> int | None:
    """How many faces of an image are judged at most; None for all, or what a localiser has."""
    if not (flags.detect or flags.localise or _of_videos(flags)):
        for name in ("faces", "try_rotations"):
            if getattr(flags, name):
                raise UserError(f"--{name} belongs to --detect or --localise, and none is given")
    if flags.faces in (None, "all"):
        return None
    if flags.faces == "largest":
        return 1
    if not flags.faces.isdecimal() or not int(flags.faces):
        raise UserError(f"--faces={flags.faces}: expected all, largest or a number from 1 on")
    return int(flags.faces)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-predict", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
