"""faceattr-analyze: what a trained network has learnt, as a page of figures after LNets+ANet.

Writes analysis.html (one file) and analysis.json (every number) to WORKDIR/analysis/NAME-SPLIT.

  regions   which part of the face every attribute is read off: by occlusion, and by gradient maps
            (Grad-CAM), averaged over images
  neurons   mean faces of the images with high, medium and low responses of single features, and
            the features that respond most to single images
  grouping  which attributes the heads answer alike: k-means over their weights
  stages    linear SVMs on the features of several stages, by attribute
  training_size
            linear SVMs fitted to shares of the training images, by person where people are known
  unseen    linear SVMs for attributes of the records that the network was not trained on, at the
            threshold that says yes as often as the training labels do; where no training image
            knows them, as LFWA+'s further ones (--split=test), on half of the split's people for
            the other half
  localisation
            of an LNet: recall of faces against overlap with the true boxes, of several networks and
            MTCNN, and response maps with windows
  time_per_stage
            of an LNet: milliseconds of the stages of localisation and of the attributes of a face

The figures of linear SVMs need records with a training part, and keep the features of all its images beside
the records, as training on bottlenecks does. A figure that a model or records do not allow is left
out, and the page says why; a figure that is named must succeed.
"""

import argparse
import sys
from collections.abc import Callable

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.keras_settings import prepare_keras

EXAMPLES = """\
examples:
  faceattr-analyze --workdir=work/celeba --records=records/celeba
  faceattr-analyze --workdir=work/mtfl --records=records/mtfl --figures=regions --images=500
  faceattr-analyze --workdir=work/lnet_o --records=records/canvases --figures=localisation \\
      --localisers=work/lnet_o_scratch,work/lnet_o+work/lnet_s,mtcnn
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-analyze", __doc__, EXAMPLES)
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of a training run")
    add("--records", required=True, metavar="DIR", help="records that `faceattr-data build` made")
    add(
        "--split",
        default="validation",
        metavar="NAME",
        help="part of the records (default: validation)",
    )
    add("--figures", default="", metavar="NAME[,NAME...]", help="default: all that can be made")
    add(
        "--output", metavar="DIR", help="folder for the page (default: WORKDIR/analysis/NAME-SPLIT)"
    )
    add(
        "--images",
        type=int,
        default=200,
        metavar="N",
        help="regions, localisation: images, chosen at random, that are averaged, or in which faces are "
        "looked for (default: 200)",
    )
    add(
        "--map_layer",
        default="",
        metavar="STAGE",
        help="regions: stage of the gradient maps (default: the last with maps of 6 by 6 or more)",
    )
    add(
        "--layer",
        default="",
        metavar="STAGE",
        help="neurons, training_size, unseen: stage of the features, several joined by + (default: "
        "what the heads stand on)",
    )
    add(
        "--neurons",
        type=_numbers_of(int),
        default=(),
        metavar="N[,N...]",
        help="neurons: numbers of the features, from 0 (default: those that vary most)",
    )
    add("--groups", type=int, default=6, metavar="K", help="grouping: groups (default: 6)")
    add(
        "--stages",
        type=_texts,
        default=(),
        metavar="STAGE[,STAGE...]",
        help="stages: those to compare, several joined by + as one (default: the last three)",
    )
    add(
        "--shares",
        type=_numbers_of(float),
        default=(0.05, 0.1, 0.25, 0.5, 1.0),
        metavar="S[,S...]",
        help="training_size: shares of the training images (default: 0.05,0.1,0.25,0.5,1)",
    )
    add(
        "--localisers",
        type=_texts,
        default=("mtcnn",),
        metavar="DIR[+DIR][,...]",
        help="localisation, time_per_stage: beside the workdir's network, mtcnn and workdirs of other LNets, that of "
        "LNet_o and that of LNet_s joined by + (default: mtcnn)",
    )
    add(
        "--classifier",
        default="",
        metavar="DIR",
        help="time_per_stage: folder of a training run on attributes of faces",
    )
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the 95%% intervals (default: 1000)",
    )
    add("--seed", type=int, default=0, metavar="N", help="seed of every choice (default: 0)")
    add("--batch_size", type=int, default=64, metavar="N", help="images at a time (default: 64)")
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def _texts(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _numbers_of(kind: type) -> Callable[[str], tuple]:
    """What reads numbers that are separated by commas."""

    def read(text):
        try:
            return tuple(kind(part) for part in text.split(",") if part)
        except ValueError:
            expected = {int: "whole numbers", float: "numbers"}[kind]
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected {expected}, separated by commas"
            ) from None

    return read


def main() -> None:
    """Parses flags, makes the figures and prints where the page lies."""
    flags = vars(parser().parse_args())
    where = {name: flags.pop(name) for name in ("workdir", "records", "split", "output")}
    figures = [name for name in flags.pop("figures").split(",") if name]
    prepare_keras()
    from faceattr_tf.reports.analysis.page import analyze
    from faceattr_tf.reports.analysis.subject import Settings

    contents = analyze(**where, figures=figures, settings=Settings(**flags))
    for name, reason in contents["left_out"].items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    print(f"{', '.join(contents['figures'])}: {contents['folder']}/analysis.html")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-analyze", main))


if __name__ == "__main__":
    run()
