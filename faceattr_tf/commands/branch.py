"""faceattr-branch: from which stage on every task should have layers of its own.

  faceattr-branch --config=RECIPE --records=RECORDS[,RECORDS…] --config.model.weights=FILE \\
      --stages=conv17,conv19,conv_bn320 --tasks=gender=attributes/Male,age,emotion \\
      --branch_weights=new,trunk --seeds=0,1,2 --output=grid.json --figure=grid.png

Trains, on stored activations of the frozen network, a branch from every stage for every task or
group of attributes, prints and draws the grid, and names the latest stage that is not worse than
the best. A grid that was interrupted goes on from its --output. The recipe's other fields are
changed as with faceattr-train; the test part is not looked at.

With --workdirs=FOLDER, the chosen branches become runs of their own there, for faceattr-join.
"""

import sys

from absl import flags

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.files import local, replacing
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands.recipe_flags import asks_for_help, file_to_write, help_text, parse
from faceattr_tf.configs.base import BRANCH_WEIGHTS


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command alone."""
    flags.DEFINE_list("stages", [], "stages to branch from; default: all", flag_values=values)
    flags.DEFINE_list(
        "tasks",
        [],
        "columns of the grid: TASK, NAME=TASK or NAME=TASK/LABEL+TASK/LABEL",
        flag_values=values,
    )
    flags.DEFINE_list(
        "branch_weights",
        ["new"],
        "what branches begin with: new, trunk, or both",
        flag_values=values,
    )
    flags.DEFINE_list("seeds", ["0"], "seeds of new weights and of order", flag_values=values)
    flags.DEFINE_string(
        "output", None, "JSON file of all cells, from which a grid goes on", flag_values=values
    )
    flags.DEFINE_string(
        "figure", None, "picture of the grid, .png, .svg or .pdf", flag_values=values
    )
    flags.DEFINE_string(
        "workdirs", None, "folder for a run of every chosen branch", flag_values=values
    )


def main() -> None:
    """Parses flags, trains the grid, and prints it with the depths that it prefers."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(help_text(__doc__, define_flags))
        return
    recipe, values = parse(arguments, define_flags)
    if not values.tasks:
        raise UserError("--tasks is missing, such as --tasks=gender=attributes/Male,age")
    try:
        seeds = [int(text) for text in values.seeds]
    except ValueError:
        raise UserError(f"seeds {','.join(values.seeds)}: expected whole numbers") from None
    for begun in values.branch_weights:
        if begun not in BRANCH_WEIGHTS:
            raise UserError(f"branch_weights {begun!r} is none of {', '.join(BRANCH_WEIGHTS)}")
    output = file_to_write("output", values.output)
    figure = file_to_write("figure", values.figure)
    if figure and figure.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"figure {figure}: expected a name that ends in .png, .svg or .pdf")
    prepare_keras()
    from faceattr_tf.reports.branch_depth import depth_table, draw_depths
    from faceattr_tf.training.branch_choice import choose, describe_costs, train_chosen
    from faceattr_tf.training.branch_grid import Grid, Group

    groups = [Group.parse(text) for text in values.tasks]
    grid = Grid(recipe, values.stages, groups)
    cells = grid.run(values.branch_weights, seeds, output, progress=values.progress)
    found = choose(grid, cells)
    table = depth_table(found.depths, found.chosen, found.metrics, found.guesses)
    print(f"\n{table.text()}\n{table.note}\n")
    if figure:
        with replacing(figure) as temporary:
            draw_depths(found.depths, found.chosen, found.metrics, temporary)
    print(describe_costs(grid, found))
    if values.workdirs:
        train_chosen(grid, found, local(values.workdirs), progress=values.progress)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-branch", main))


if __name__ == "__main__":
    run()
