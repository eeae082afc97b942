"""faceattr-audit: for whom a model is worse, by slices of the images, with what chance would do.

Compares accuracy, false positives and negatives, calibration or error of every slice with those
of all images. Chance raises an alarm in 5 % of audits at most, however many slices and labels
there are; intervals hold for all of them at once. Writes audit.html (one file) and audit.json
(every number) to WORKDIR/audit/NAME-SPLIT and prints the alarms.

Slices (--by) are separated by commas, and parts of one joined by *:

  attributes/Male          images with and without a label of the records
  pose                     classes of the records
  age:18:40:60             numbers of the records between bounds; without bounds by quarters
  face_size, brightness, blur
                           measured in the pictures: longer side of the face in pixels, mean of the
                           crop, minus the logarithm of the variance of its Laplacian
  answers/age:18:40        what the run of --answers says, where the records do not know
  attributes/Male*age:40   crossed

What is sensitive (groups of people) is sliced by only where it is named. Few images in a slice say
little: what has less than --smallest is shown, not judged. That no alarm was raised does not mean
that there is no difference. What may help the worst slice: --price here, and in training
`faceattr-train --config.slices.by=SLICES --config.slices.method=reweight` or `groupdro`.
"""

import argparse
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras

EXAMPLES = """\
examples:
  faceattr-audit --workdir=work/mtfl --records=records/mtfl --by=pose,face_size:40:80
  faceattr-audit --workdir=work/celeba --records=records/celeba \\
      --by=attributes/Male*attributes/Young
  faceattr-audit --workdir=work/mtfl --records=records/mtfl --answers=work/joint --by=answers/age:40
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-audit", __doc__, EXAMPLES)
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of a training run")
    add("--records", required=True, metavar="DIR", help="records that `faceattr-data build` made")
    add("--split", default="test", metavar="NAME", help="part of the records (default: test)")
    add(
        "--by",
        type=lambda text: tuple(part for part in text.split(",") if part),
        default=(),
        metavar="SLICES",
        help="what images are sliced by (default: what is measured in the pictures, classes and "
        "numbers of the records, Male and Young)",
    )
    add("--answers", metavar="DIR", help="folder of another run, for slices by its answers")
    add("--output", metavar="DIR", help="folder for the page (default: WORKDIR/audit/NAME-SPLIT)")
    add("--flip", action="store_true", help="average with the outputs for the mirrored image")
    add(
        "--smallest",
        type=int,
        default=30,
        metavar="N",
        help="images below which a slice is not judged (default: 30)",
    )
    add(
        "--price",
        type=float,
        metavar="POINTS",
        help="also choose thresholds on validation, the same for everybody, by which the worst slice "
        "gains and all images together lose no more than this balanced accuracy there, such as 0.5",
    )
    add(
        "--adopt",
        action="store_true",
        help="write the thresholds of --price into WORKDIR/calibration.json: those by which "
        "faceattr-predict, -evaluate and -export answer from then on",
    )
    return result


def main() -> None:
    """Parses flags, audits, and prints the alarms and where the page lies."""
    flags = vars(parser().parse_args())
    adopt = flags.pop("adopt")
    if adopt and flags["price"] is None:
        raise UserError("--adopt: of which price? expected --price=POINTS")
    prepare_keras()
    from faceattr_tf.reports.audit import alarm_table, audit
    from faceattr_tf.reports.mitigation import adopt_thresholds, mitigation_table
    from faceattr_tf.workdir import Workdir

    contents = audit(**flags)
    for name, task in contents["tasks"].items():
        table = alarm_table(task["cells"], task["kind"], most=20)
        print(f"{name}: {contents['examples']:,} images, {len(contents['slicings'])} slicings")
        print(f"\n{table.text()}\n" if table.rows else "")
        print(f"{table.note}\n")
    for name, numbers in contents.get("mitigation", {}).items():
        table = mitigation_table(numbers)
        print(f"{name}: {table.title}\n\n{table.text()}\n")
    if adopt:
        adopt_thresholds(Workdir.open(flags["workdir"]), contents["mitigation"])
        print(f"thresholds: {flags['workdir']}/calibration.json")
    print(f"report: {contents['folder']}/audit.html")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-audit", main))


if __name__ == "__main__":
    run()
