"""faceattr-sweep: trains a declared grid of recipes, and says what each combination reached.

A grid is a TOML file:

  config = "resnet_small_celeba"               # the recipe that all cells begin with
  seeds = [0, 1, 2]                            # default: that of the recipe
  fixed = {data.batch_size = 32, "phases[0].epochs" = 8}

  [axes.obrl]                                  # an axis: a name and {FIELD = VALUE, ...} a line
  off = {}
  on = {losses = [["relation", 0.0125]]}

  [axes.width]
  narrow = {model.width = 0.5}
  wide = {model.width = 1.0}

Fields are those of --config of faceattr-train; lists stand for tuples, and a text is what would
follow = there: losses = "(('relation', 0.0125),)". Names with a dot or brackets stand in quotes:
"0.1" = {...}. What cannot be combined freely is one axis with a value for each combination, such as
the subsets of trunks of a fusion.

Every combination with every seed is a cell. Its workdir, FOLDER/obrl=on/width=wide/seed=0, is
trained by faceattr-train in a process of its own, with its log in train.log there. Called again,
the sweep skips cells that are finished and goes on with those that were interrupted; one that was
begun with other settings is refused before anything is trained. A cell that fails does not stop the
others; the exit status is then 1. At the end comes a table of what was reached on validation, and
the command line of faceattr-compare that evaluates all of it, seeds together.
"""

import argparse
import shlex
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands import compare
from faceattr_tf.commands.grid_file import read_grid
from faceattr_tf.training.sweep import Cell, run_cells, share_cores, state_of
from faceattr_tf.workdir import Workdir

EXAMPLES = """\
examples:
  faceattr-sweep --grid=obrl.toml --records=records/celeba --workdir=work/obrl --dry_run
  faceattr-sweep --grid=obrl.toml --records=records/celeba --workdir=work/obrl --jobs=4
  faceattr-sweep --grid=obrl.toml --records=records/celeba --workdir=work/obrl --compare \\
    --evaluate=records/celeba
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-sweep", __doc__, EXAMPLES)
    add = result.add_argument
    add("--grid", required=True, metavar="FILE", help="the grid, as above")
    add(
        "--records",
        required=True,
        metavar="DIR[,DIR...]",
        help="records that `faceattr-data build` made, of every cell",
    )
    add("--workdir", required=True, metavar="FOLDER", help="folder of the cells' workdirs")
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="cells at a time (default: 1; leave it there on a GPU)",
    )
    add(
        "--cores_per_job",
        type=int,
        default=0,
        metavar="N",
        help="processor cores of each, which no other cell uses (default: all, shared evenly)",
    )
    add("--dry_run", action="store_true", help="list the cells and how far they are, train nothing")
    add("--compare", action="store_true", help="table and comparison alone, train nothing")
    add(
        "--evaluate",
        default="",
        metavar="DIR",
        help="records on whose test part faceattr-compare evaluates the finished cells",
    )
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def main() -> None:
    """Parses flags, trains what is missing, and prints what was reached."""
    flags = parser().parse_args()
    folder, records = local(flags.workdir), [path for path in flags.records.split(",") if path]
    if set(str(folder)) & set(",+"):
        raise UserError(
            f"workdir {folder}: expected a path without , and +, which faceattr-compare takes for "
            "the end of a path"
        )
    cells = read_grid(local(flags.grid), folder, records)
    cores = share_cores(flags.jobs, flags.cores_per_job)
    prepare_keras()
    states = {cell.name: state_of(cell) for cell in cells}
    counts = [f"{list(states.values()).count(one)} {one}" for one in ("finished", "begun", "new")]
    print(f"{folder}: {len(cells)} cells, {', '.join(counts)}", flush=True)
    if flags.dry_run:
        for cell in cells:
            print(f"\n{cell.name}: {states[cell.name]}\n  {shlex.join(cell.command)}")
        return
    failed = {}
    missing = [cell for cell in cells if states[cell.name] != "finished"]
    if missing and not flags.compare:
        failed = run_cells(missing, cores, progress=flags.progress)
        states |= {cell.name: state_of(cell) for cell in missing if cell.name not in failed}
    finished = [cell for cell in cells if states[cell.name] == "finished"]
    if left := [cell.name for cell in cells if cell not in finished]:
        print(f"not finished, and left out below: {', '.join(left)}")
    if finished:
        _report(finished, flags, records)
    if failed:
        raise UserError(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed)}")
    if not finished:
        raise UserError(f"workdir {folder}: no cell is finished, so that nothing can be compared")


def _report(finished: list[Cell], flags: argparse.Namespace, records: list[str]) -> None:
    """Prints what finished cells reached, and compares them or says how."""
    from data_pipelines.records.record_set import RecordSet
    from faceattr_tf.reports.sweep import sweep_table

    conditions: dict[str, list[Cell]] = {}
    for cell in finished:
        conditions.setdefault(cell.condition, []).append(cell)
    table = sweep_table(
        {
            name: [Workdir.open(cell.workdir).metadata()["best"] for cell in of]
            for name, of in conditions.items()
        }
    )
    print(f"\n{table.text()}\n\n{table.note}\n")
    runs = [f"{name}={','.join(str(c.workdir) for c in of)}" for name, of in conditions.items()]
    for path in [flags.evaluate] if flags.evaluate else records:
        output = local(flags.workdir) / f"comparison-{RecordSet.load(path).name}-test"
        arguments = [f"--records={path}", f"--output={output}", *runs]
        print(shlex.join(["faceattr-compare", *arguments]), flush=True)
        if flags.evaluate:
            print()
            compare.main(arguments if flags.progress else ["--noprogress", *arguments])


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-sweep", main))


if __name__ == "__main__":
    run()
