"""faceattr-export: a trained model as a SavedModel for TensorFlow Serving, and for other runtimes.

Writes DIR/NAME/VERSION with signatures for encoded images (serving_default), for pixels (pixels),
for faces with a known place (crop) and for what the heads see (features); with --detect or
--localiser also for photographs of any size in which it finds the faces (photos, photo_pixels).
assets/faceattr.json in it describes them and holds the label names.

--format=litert,onnx,openvino writes DIR/NAME/VERSION-runtimes/ instead, with a folder for each, and
--format=saved_model,litert both. --format=page is a folder with a page that runs the network in the
browser itself, for any server of files: `python3 -m http.server --bind=127.0.0.1` in it is one.
These networks take the crops that face_crop.py, which lies beside
them, cuts out of pictures. They are compared with Keras on --records or --images first.
"""

import argparse
import functools
import os
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.detection.mtcnn import MAXIMUM_SIDE, MINIMUM_SIZE
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras

SAVED_MODEL = "saved_model"
KNOWN = (SAVED_MODEL, "litert", "onnx", "openvino", "page")
"""Formats; `export.runtimes.writing.FORMATS` has what writes the others."""

OF_DETECTION = ("minimum_size", "maximum_side", "maximum_candidates")
"""Flags that belong to --detect: fields of `detection_graph.FaceDetector`."""

EXAMPLES = """\
examples:
  faceattr-export --workdir=work/celeba --output=models
  faceattr-export --workdir=work/celeba --output=models --name=attributes --version=3
  faceattr-export --workdir=work/celeba --output=models --check --images=photos \
      --records=records/celeba
  faceattr-export --workdir=work/celeba --output=models --format=litert,onnx \
      --records=records/celeba
  faceattr-export --workdir=work/celeba --output=models --format=page --records=records/celeba
  faceattr-export --workdir=work/celeba --output=models --detect --faces=20 --check
  faceattr-export --workdir=work/celeba --output=models --localiser=work/lnet_o,work/lnet_s --faces=5
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-export", __doc__, EXAMPLES)
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of a training run")
    add("--output", required=True, metavar="DIR", help="folder that holds exported models")
    add("--name", default="faceattr", help="of the model, for its clients (default: faceattr)")
    add("--version", type=int, metavar="N", help="default: the one after the highest")
    add(
        "--format",
        type=_names,
        default=("saved_model",),
        metavar="NAME[,NAME]",
        help="saved_model (default), litert, onnx, openvino, page",
    )
    add(
        "--onnxruntime_web",
        metavar="DIR",
        help="the unpacked npm package onnxruntime-web, for the page (default: npm fetches it)",
    )
    add(
        "--litert_types",
        type=_names,
        metavar="TYPE[,TYPE]",
        help="of weights in LiteRT: float32, float16, int8 (default: all; int8 if there are pictures)",
    )
    add(
        "--detect",
        action="store_true",
        help="MTCNN goes into the export, too, which then finds the faces of photographs",
    )
    add(
        "--localiser",
        default="",
        metavar="DIR[,DIR]",
        help="runs of LNet_o and, within its windows, LNet_s, in place of MTCNN",
    )
    add(
        "--faces",
        type=int,
        metavar="N",
        help="the largest number of faces in a photograph (default: 10, or what the first localiser "
        "has)",
    )
    add(
        "--minimum_size",
        type=float,
        metavar="N",
        help="with --detect, side in pixels of the smallest face that is looked for, at least 12 "
        f"(default: {MINIMUM_SIZE})",
    )
    add(
        "--maximum_side",
        type=int,
        metavar="N",
        help="with --detect, faces of a photograph that is wider or higher in pixels are looked for "
        f"in a copy reduced to this (default: {MAXIMUM_SIDE})",
    )
    add(
        "--maximum_candidates",
        type=int,
        metavar="N",
        help="with --detect, places of a photograph that are looked at closely, the likeliest, "
        "which bounds time and memory (default: 20000)",
    )
    add(
        "--precision",
        default="float32",
        metavar="TYPE",
        help="of the network: float32 (default), bfloat16 or float16",
    )
    add(
        "--max_pixels",
        type=int,
        default=16_000_000,
        metavar="N",
        help="width times height of the largest image that is decoded (default: 16 million)",
    )
    add(
        "--batch_sizes",
        type=_sizes,
        default=(1, 8, 32),
        metavar="N,...",
        help="to which a server joins requests, and which are warmed up (default: 1,8,32)",
    )
    add(
        "--check",
        action="store_true",
        help="first compare the export, in a process of its own, with the workdir: differences, "
        "changed labels, latency; publish it only if it agrees",
    )
    add(
        "--images",
        metavar="DIR",
        default="",
        help="pictures to compare on (default: drawn faces; for other runtimes random pixels)",
    )
    add(
        "--records",
        metavar="DIR",
        default="",
        help="also compare it there with the version that it would replace; other runtimes are "
        "compared with Keras, and int8 is calibrated, on these",
    )
    add("--split", default="test", help="of these records (default: test)")
    add(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="of mean balanced accuracy that it, or int8, may lose there, and that it may be wrong "
        "more often, unsure answers being neither right nor wrong (default: 0.5)",
    )
    add(
        "--slices",
        type=_names,
        default=(),
        metavar="SLICES",
        help="of --records by their labels, as of faceattr-audit, such as attributes/Male: the worst "
        "slice may not lose more than the margin either",
    )
    add(
        "--sensitive",
        type=_names,
        default=(),
        metavar="TASK[,TASK...]",
        help="sensitive tasks that are exported too, such as ethnicity; else they are left out",
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
        help="labels are -2, unsure, where more than this share of the answers, such as 0.05, would "
        "be wrong, as validation has it: of the images with a label and of those without it, or, "
        "with `,overall`, of all; probabilities stay",
    )
    add("--no_warmup", action="store_true", help="write no requests for a server to replay")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags and exports."""
    flags = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    prepare_keras()
    from export.check import Check
    from export.saved_model import ExportOptions, export_model
    from export.versions import RUNTIMES

    runtimes = tuple(name for name in flags.format if name != SAVED_MODEL)
    given = Check(flags.images, flags.records, flags.split, flags.margin, flags.slices)
    unknown = [name for name in flags.format if name not in KNOWN]
    if unknown or not flags.format:
        raise UserError(
            f"--format={','.join(flags.format)}: expected one or more of {', '.join(KNOWN)}"
        )
    if not (flags.check or runtimes) and (flags.images or flags.records):
        raise UserError("--images and --records belong to --check, which is not given")
    if flags.slices and not flags.check:
        raise UserError("--slices belongs to --check, which is not given")
    saved = None
    if SAVED_MODEL in flags.format:
        options = ExportOptions(
            flags.max_pixels,
            flags.precision,
            flags.batch_sizes,
            not flags.no_warmup,
            flags.sensitive,
            flags.consistent,
            flags.unsure,
        )
        options.check()
        target = flags.output, flags.name, flags.version
        check = given if flags.check else None
        # Files of other runtimes are refused before anything is done for the SavedModel.
        localiser = _localiser(flags)
        saved = functools.partial(export_model, flags.workdir, *target, options, check, localiser)
    else:
        _refuse_flags_of_saved_models(flags)
    if not runtimes:
        for name, form in (("litert_types", "litert"), ("onnxruntime_web", "page")):
            if getattr(flags, name) is not None:
                raise UserError(f"--{name} belongs to --format={form}, which is not given")
        print(saved())
        return
    from export.runtimes.writing import RuntimeOptions, export_runtimes

    types = {} if flags.litert_types is None else {"litert_types": flags.litert_types}
    options = RuntimeOptions(
        runtimes,
        check=given,
        sensitive=flags.sensitive,
        consistent=flags.consistent,
        unsure=flags.unsure,
        onnxruntime_web=flags.onnxruntime_web,
        **types,
    )
    target = flags.output, flags.name, flags.version
    folder = export_runtimes(flags.workdir, *target, options, saved)
    if saved:
        print(folder.with_name(folder.name.removesuffix(RUNTIMES)))
    print(folder)


def _localiser(flags):
    """What finds faces for the SavedModel; None where none is asked for."""
    if flags.detect and flags.localiser:
        raise UserError("--detect and --localiser both find the faces: expected one of them")
    given = {name: getattr(flags, name) for name in ("faces", *OF_DETECTION)}
    given = {name: value for name, value in given.items() if value is not None}
    if flags.detect:
        from faceattr_tf.prediction.detection_graph import FaceDetector

        return FaceDetector(**given)
    for name in OF_DETECTION:
        if name in given:
            raise UserError(f"--{name} belongs to --detect, which is not given")
    if flags.localiser:
        from faceattr_tf.prediction.localisation import Localiser

        return Localiser.from_workdirs(flags.localiser.split(","), flags.faces)
    if flags.faces is not None:
        raise UserError("--faces belongs to --localiser or --detect, and none is given")
    return None


def _refuse_flags_of_saved_models(flags) -> None:
    """Raises UserError where a flag was given that has no meaning without a SavedModel."""
    names = "detect", "localiser", "faces", "precision", "max_pixels", "batch_sizes", "check"
    for name in names + OF_DETECTION:
        if getattr(flags, name) != parser().get_default(name):
            raise UserError(f"--{name} belongs to --format=saved_model, which is not given")


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-export", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
