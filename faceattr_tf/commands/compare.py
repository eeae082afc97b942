"""faceattr-compare: which of several conditions is better on the same images, and which is noise.

Each NAME is a condition, such as "with alignment"; its runs differ in their seed. A run is one
workdir, or several joined by + that learned other attributes of the same faces. A condition may
have fewer attributes than others.

Writes compare.json (every figure), compare.md and compare.html (one file, with plots), and prints
the main figures. Where attributes are few, or named, they also show accuracy, precision and recall
of both classes, confusion matrices and the surest mistakes of each, at 0.5 and at the thresholds
that were chosen on validation. Intervals are those of a bootstrap that draws the same images again
in every run; where a condition has two or more runs, they also hold what another seed would change.
"""

import argparse
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.reports.published import TEST_EXAMPLES

EXAMPLES = """\
examples:
  faceattr-compare --records=records/mtfl plain=work/plain0,work/plain1 aligned=work/aligned0
  faceattr-compare --records=records/celeba --reference="with alignment" --attributes=Smiling \\
    "without alignment=work/a0,work/a1,work/a2" "with alignment=work/b0,work/b1,work/b2" \\
    "without alignment + stn=work/c0,work/c1,work/c2"
  faceattr-compare --records=records/mtfl "bottlenecks, original=work/gender+work/smile" \\
    "bottlenecks, cropped=work/gender_cropped+work/smile_cropped"
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-compare", __doc__, EXAMPLES)
    add = result.add_argument
    add(
        "conditions",
        nargs="+",
        metavar="[NAME=]WORKDIR[+WORKDIR...][,...]",
        help="a condition and its runs, each a workdir or several joined by +; without NAME it is "
        "called as its first folder",
    )
    add("--records", required=True, metavar="DIR", help="records that `faceattr-data build` made")
    add("--split", default="test", metavar="NAME", help="part of the records (default: test)")
    add(
        "--output",
        metavar="DIR",
        help="folder for the report (default: comparison-RECORDS-SPLIT beside the first workdir)",
    )
    add("--baseline", default="", metavar="NAME", help="compared with (default: the first)")
    add(
        "--reference",
        default="",
        metavar="NAME",
        help="the condition that others would reach at best, such as the aligned one: says which "
        "share of its distance from the baseline they recover",
    )
    add(
        "--attributes",
        default="",
        metavar="A[,B...]",
        help="shown side by side and one by one (default: largest clear gain and loss and Smiling; "
        "one by one all of a task with few)",
    )
    add(
        "--published",
        default="",
        choices=("none", *TEST_EXAMPLES),
        help="data set whose published figures stand beside (default: that of the records)",
    )
    add("--flip", action="store_true", help="average with the outputs for the mirrored image")
    add(
        "--bootstrap",
        type=int,
        default=2000,
        metavar="N",
        help="resamples for the 95%% intervals; 0: no intervals (default: 2000)",
    )
    add("--batch_size", type=int, default=128, metavar="N", help="images at a time (default: 128)")
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def parse_conditions(texts: list[str]) -> dict[str, list[list[str]]]:
    """Name -> runs -> workdirs: `["a=x,y+z", "work/z"]` as `{"a": [["x"], ["y", "z"]], ...}`.

    What stands before `=` is no name but a part of the path where it holds a slash.

    Raises:
        UserError: a name occurs twice, or a name or workdir is missing.
    """
    found = {}
    for text in texts:
        name, equals, paths = text.partition("=")
        if not equals or "/" in name:
            name, paths = None, text
        runs = [run.split("+") for run in paths.split(",") if run]
        if not runs or not all(path for run in runs for path in run):
            raise UserError(
                f"condition {text!r} names no workdir: expected NAME=WORKDIR[+WORKDIR...]"
            )
        if name is None:
            name = runs[0][0].rstrip("/").rpartition("/")[2]
        name = name.strip()
        if not name:
            raise UserError(f"condition {text!r} has no name: expected NAME=WORKDIR")
        if name in found:
            raise UserError(f"condition {name!r} is given twice; its runs belong together: A=X,Y")
        found[name] = runs
    return found


def main(arguments: list[str] | None = None) -> None:
    """Parses flags, compares and prints the main figures and where the report lies.

    Args:
        arguments: what follows the command's name; default: those of this process.
    """
    flags = parser().parse_args(arguments)
    conditions = parse_conditions(flags.conditions)
    prepare_keras()
    from faceattr_tf.reports.comparison.compare import Options, compare

    options = Options(
        baseline=flags.baseline,
        reference=flags.reference,
        attributes=[name for name in flags.attributes.split(",") if name],
        published=flags.published,
        flip=flags.flip,
        bootstrap=flags.bootstrap,
        batch_size=flags.batch_size,
    )
    contents = compare(
        conditions,
        flags.records,
        flags.split,
        options,
        output=flags.output,
        progress=flags.progress,
    )
    from faceattr_tf.reports.comparison.page import printed, title

    print(f"{title(contents)}: {contents['data']['examples']:,} images\n")
    for table in printed(contents):
        print(f"{table.title}\n{table.text()}\n" if table.title else f"{table.text()}\n")
    for text in contents["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"report: {contents['folder']}/compare.html")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-compare", main))


if __name__ == "__main__":
    run()
