"""faceattr-verify: whether pictures show the same person, by the features of any stage of a network.

On pairs, by the protocol of LFW (10 folds, a threshold chosen on nine of them; Flickr, 4.2):

  faceattr-verify --workdir=RUN --records=RECORDS --pairs=pairs.txt --layers=STAGE,STAGE+STAGE
  faceattr-verify --config=off_the_shelf --config.model.weights=FILE --records=RECORDS \\
      --pairs=pairsDevTest.txt --development=pairsDevTrain.txt --flip --centre --pixels

The second form measures the network of a recipe, whose fields are changed as with faceattr-train;
without weights it is a random one. A table has a row for every stage; of a run, the page and all
figures go to RUN/verification, where they replace an earlier verification, unless --output names
another folder. What is chosen by looking at these figures, such as a stage, belongs to the
development pairs.

Two pictures:

  faceattr-verify --workdir=RUN A.jpg B.jpg

compares them as the run's verification compared pairs, and says how often its threshold errs.
"""

import sys

from absl import flags

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.files import local
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands.recipe_flags import asks_for_help, help_text, parse_all
from faceattr_tf.configs import Recipe
from faceattr_tf.workdir import Workdir

OF_PAIRS = ("records", "pairs", "development", "flip", "centre", "pixels", "output")
"""Flags that two pictures do not take."""


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command alone."""

    def text(name, words):
        flags.DEFINE_string(name, "", words, flag_values=values)

    def switch(name, words):
        flags.DEFINE_bool(name, False, words, flag_values=values)

    text("workdir", "folder of a training run, in place of --config")
    text("pairs", "file in the format of LFW's pairs.txt or pairsDevTest.txt")
    text("development", "file of other pairs, by which thresholds and means are chosen")
    stages = "stages, several joined by + as one; default: what the heads stand on"
    flags.DEFINE_list("layers", [], stages, flag_values=values)
    switch("flip", "take the mean of the features of a picture and of its mirror image")
    switch("centre", "subtract the mean of the features, that of the folds that are not tested")
    switch("pixels", "measure the pixels of the crops, too")
    text("output", "folder for page and figures; default: RUN/verification, none of a recipe")
    switch("detect", "of two pictures: find the faces first, and take the main ones")


def main() -> None:
    """Parses flags; judges pairs and prints the table, or compares two pictures."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(help_text(__doc__, define_flags))
        return
    recipe, values, pictures = parse_all(arguments, define_flags)
    configured = any(argument.lstrip("-").startswith("config") for argument in arguments)
    if configured and (values.workdir or not recipe.name):
        raise UserError("expected either --workdir=RUN or --config=RECIPE with its fields")
    if pictures:
        _compare(values, pictures)
    else:
        _verify(recipe, values)


def _verify(recipe: Recipe, values: flags.FlagValues) -> None:
    if not values.workdir and not recipe.name:
        raise UserError("expected --workdir=RUN, or --config=RECIPE")
    if len(values.records) != 1 or not values.pairs:
        raise UserError("expected --records=FOLDER and --pairs=FILE, or two pictures")
    if values.detect:
        raise UserError("--detect belongs to two pictures; records are built with --detections")
    network = Workdir.open(values.workdir) if values.workdir else recipe
    prepare_keras()
    from faceattr_tf.reports import verification

    contents = verification.verify_pairs(
        network,
        values.records[0],
        values.pairs,
        development=values.development,
        layers=values.layers,
        flip=values.flip,
        centre=values.centre,
        pixels=values.pixels,
        output=values.output,
        progress=values.progress,
    )
    table = verification.table(contents)
    print(f"\n{verification.title(contents)}\n\n{table.text()}\n\n{table.note}")
    print(f"{verification.about(contents)}.")
    for text in verification.warnings(contents):
        print(f"warning: {text}", file=sys.stderr)
    if contents["folder"]:
        print(f"report: {contents['folder']}/verification.html")


def _compare(values: flags.FlagValues, pictures: list[str]) -> None:
    if len(pictures) != 2:
        raise UserError(f"{len(pictures)} pictures: expected two, or --pairs=FILE")
    if given := [name for name in OF_PAIRS if values[name].present]:
        raise UserError(f"--{given[0]} belongs to --pairs; two pictures are compared as pairs were")
    if not values.workdir or len(values.layers) > 1:
        raise UserError("expected --workdir=RUN, and no more than one stage in --layers")
    Workdir.open(values.workdir)
    for picture in pictures:
        if not local(picture).is_file():
            raise UserError(f"{picture}: no such file")
    prepare_keras()
    from faceattr_tf.prediction.comparison import compare
    from faceattr_tf.reports.tables import percent
    from faceattr_tf.reports.verification import with_error

    found = compare(
        values.workdir, tuple(pictures), layer="".join(values.layers), detect=values.detect
    )
    print(f"{pictures[0]} and {pictures[1]}: cosine {found.score:.4f} at {found.layer}")
    if found.stage is None:
        print(f"no threshold: {found.pairs}; faceattr-verify with --pairs measures one")
        return
    print(
        f"{'one person' if found.same else 'two people'}: the threshold is "
        f"{found.stage['threshold']:.4f}; of {found.pairs}, {with_error(found.stage)} % were "
        f"judged right, {percent(found.stage['false_same'])} % of two people passed as one and "
        f"{percent(found.stage['false_different'])} % of one person as two"
    )


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-verify", main))


if __name__ == "__main__":
    run()
