"""faceattr-probe: which layer, crop and decay of a pretrained network validation prefers.

  faceattr-probe --config=inception_bottleneck_mtfl_best --records=RECORDS \\
      --layers=mixed6,mixed7,mixed8,mixed10 --crops=none,nose:150,align:0.15 --decays=0,0.01,0.1

Trains a top for every combination on bottlenecks, prints the grid and the flags of the best one.
The recipe's other fields are changed as with faceattr-train; the test part is not looked at.
"""

import sys
from collections.abc import Sequence

from absl import flags

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.files import write_text
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands.recipe_flags import asks_for_help, file_to_write, help_text, parse


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command alone."""
    flags.DEFINE_list("layers", [], "ends of stages; default: all", flag_values=values)
    flags.DEFINE_list(
        "crops",
        [],
        "none, box:MARGIN, align:MARGIN, affine:MARGIN, nose:PIXELS, window:PIXELS; default: the "
        "recipe's",
        flag_values=values,
    )
    flags.DEFINE_list("decays", ["0"], "decoupled weight decays", flag_values=values)
    flags.DEFINE_string("output", None, "JSON file for all cells", flag_values=values)


def grid_table(cells: Sequence, metric: str):
    """The grid: a row for every crop and layer, a column for every decay, the best one marked."""
    from faceattr_tf.reports.tables import Table
    from faceattr_tf.training.probe import best_cell

    decays = list(dict.fromkeys(cell.decay for cell in cells))
    places = {(cell.crop, cell.layer, cell.decay): cell for cell in cells}
    best = best_cell(cells, metric)

    def shown(cell) -> str:
        return f"{cell.values[metric]:.4f}" + (" *" if cell is best else "")

    rows = [
        (crop, layer, *(shown(places[crop, layer, decay]) for decay in decays))
        for crop, layer in dict.fromkeys((cell.crop, cell.layer) for cell in cells)
    ]
    header = ("Crop", "Layer", *(f"decay {decay:g}" for decay in decays))
    return Table(header, tuple(rows), metric, "On validation; a star marks the best.")


def main() -> None:
    """Parses flags, trains the grid, and prints it with the flags of its best cell."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(help_text(__doc__, define_flags))
        return
    recipe, values = parse(arguments, define_flags)
    try:
        decays = [float(text) for text in values.decays]
    except ValueError:
        raise UserError(f"decays {','.join(values.decays)}: expected numbers") from None
    output = file_to_write("output", values.output)
    prepare_keras()
    from faceattr_tf.evaluation.metrics import shown_in
    from faceattr_tf.training import probe

    cells = probe.probe(
        recipe, layers=values.layers, crops=values.crops, decays=decays, progress=values.progress
    )
    best = probe.best_cell(cells, recipe.best_metric)
    for metric in dict.fromkeys([recipe.best_metric, *shown_in("log", best.values)]):
        table = grid_table(cells, metric)
        print(f"\n{table.title} ({table.note})\n{table.text()}")
    if output:
        write_text(output, probe.to_json(cells))
    print(
        f"\nbest by {recipe.best_metric}: faceattr-train --config={recipe.name} "
        f"{probe.flags_of(best, recipe)}"
    )


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-probe", main))


if __name__ == "__main__":
    run()
