"""faceattr-export: a trained model as a SavedModel for TensorFlow Serving.

Writes DIR/NAME/VERSION with signatures for encoded images (serving_default), for pixels (pixels),
for faces with a known place (crop) and for what the heads see (features); with --localiser also for
photographs of any size in which it finds the faces (photos, photo_pixels). assets/faceattr.json in
it describes them and holds the label names.
"""

import argparse
import os
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras

EXAMPLES = """\
examples:
  faceattr-export --workdir=work/celeba --output=models
  faceattr-export --workdir=work/celeba --output=models --name=attributes --version=3
  faceattr-export --workdir=work/celeba --output=models --check --images=photos \
      --records=records/celeba
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
        "--localiser",
        default="",
        metavar="DIR[,DIR]",
        help="runs of LNet_o and, within its windows, LNet_s: the export then finds the faces of "
        "photographs",
    )
    add(
        "--faces",
        type=int,
        metavar="N",
        help="the largest number of faces in a photograph (default: what the first localiser has)",
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
    add("--images", metavar="DIR", default="", help="pictures to compare on (default: drawn faces)")
    add(
        "--records",
        metavar="DIR",
        default="",
        help="also compare it there with the version that it would replace",
    )
    add("--split", default="test", help="of these records (default: test)")
    add(
        "--margin",
        type=float,
        default=0.5,
        metavar="POINTS",
        help="of mean balanced accuracy that it may lose there (default: 0.5)",
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
    add("--no_warmup", action="store_true", help="write no requests for a server to replay")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags and exports."""
    flags = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    prepare_keras()
    from export.check import Check
    from export.saved_model import ExportOptions, export_model

    options = ExportOptions(
        flags.max_pixels,
        flags.precision,
        flags.batch_sizes,
        not flags.no_warmup,
        flags.sensitive,
        flags.consistent,
    )
    check = None
    if flags.check:
        check = Check(flags.images, flags.records, flags.split, flags.margin)
    elif flags.images or flags.records:
        raise UserError("--images and --records belong to --check, which is not given")
    localiser = None
    if flags.localiser:
        from faceattr_tf.prediction.localisation import Localiser

        localiser = Localiser.from_workdirs(flags.localiser.split(","), flags.faces)
    elif flags.faces is not None:
        raise UserError("--faces belongs to --localiser, which is not given")
    target = flags.output, flags.name, flags.version
    print(export_model(flags.workdir, *target, options, check, localiser))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-export", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
