"""faceattr-evaluate: a report of a trained model on any records that share a task with it.

Writes report.json (every figure), report.md and report.html (one file, with plots and pictures)
to WORKDIR/evaluation/NAME-SPLIT, and prints the main figures. Where test images were also trained
on, the report warns.
"""

import argparse
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.keras_settings import prepare_keras

EXAMPLES = """\
examples:
  faceattr-evaluate --workdir=work/celeba --records=records/celeba
  faceattr-evaluate --workdir=work/mtfl --records=records/mtfl,records/celeba --flip
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-evaluate", __doc__, EXAMPLES)
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of a training run")
    add(
        "--records",
        required=True,
        metavar="DIR[,DIR...]",
        help="records that `faceattr-data build` made",
    )
    add("--split", default="test", metavar="NAME", help="part of the records (default: test)")
    add("--output", metavar="DIR", help="folder for the reports (default: WORKDIR/evaluation)")
    views = result.add_mutually_exclusive_group()
    views.add_argument(
        "--flip", action="store_true", help="average with the outputs for the mirrored image"
    )
    views.add_argument(
        "--ten_crop",
        action="store_true",
        help="average over centre and corners, mirrored and not, of the size in training",
    )
    add(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="resamples for the 95%% intervals; 0: no intervals (default: 1000)",
    )
    add(
        "--false_positive_rate",
        type=float,
        metavar="RATE",
        help="also measure yes/no labels at thresholds that no larger share of the run's validation "
        "images without the label reaches, such as 0.01",
    )
    add(
        "--consistent",
        action="store_true",
        help="also measure answers without pairs that the labels of training rule out, such as Bald "
        "and Bangs: the less certain one gives way",
    )
    add(
        "--unsure",
        metavar="RISK[,overall][,TASK...]",
        help="also measure answers that are `unsure` where more than this share of them, such as "
        "0.05, would be wrong, as the run's validation images have it: of the images with a label "
        "and of those without it, or, with `,overall`, of all",
    )
    add("--batch_size", type=int, default=128, metavar="N", help="images at a time (default: 128)")
    return result


def main() -> None:
    """Parses flags, evaluates and prints the main figures and where the reports lie."""
    flags = parser().parse_args()
    prepare_keras()
    from faceattr_tf.reports.evaluate import evaluate

    reports = evaluate(
        flags.workdir,
        [path for path in flags.records.split(",") if path],
        flags.split,
        output=flags.output,
        flip=flags.flip,
        ten_crop=flags.ten_crop,
        bootstrap=flags.bootstrap,
        batch_size=flags.batch_size,
        false_positive_rate=flags.false_positive_rate,
        consistent=flags.consistent,
        unsure=flags.unsure,
    )
    from faceattr_tf.reports.page import title, warnings
    from faceattr_tf.reports.summary import summary_table

    for contents in reports.values():
        count = contents["data"]["examples"]
        print(f"{title(contents)}: {count:,} images\n\n{summary_table(contents).text()}\n")
        for text in warnings(contents):
            print(f"warning: {text}", file=sys.stderr)
        print(f"report: {contents['folder']}/report.html")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-evaluate", main))


if __name__ == "__main__":
    run()
