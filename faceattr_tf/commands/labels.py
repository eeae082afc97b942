"""faceattr-labels: which labels of a record set are likely wrong.

  faceattr-labels --config=off_the_shelf --config.model.weights=FILE --records=RECORDS --output=FOLDER
  faceattr-labels --workdir=RUN --records=RECORDS --attributes=Male,Smiling --output=FOLDER

A classifier on the features of a frozen network judges every picture by the labels of other people
(of other pictures, where it is not known who is who), one attribute or class at a time. The network must not
have learned these very labels: one that has repeats their mistakes. Writes to FOLDER

  suspicious.csv  every label that is wrong with --least probability or more, the worst first
  labels.html     the hundred worst as pictures, and per attribute how many labels are wrong, of yes
                  and of no, and the accuracy that perfect answers would have
  labels.json     all numbers

Yes/no attributes and classes (ranges of age, poses) are judged. Look, delete the rows that are right
after all, write `yes`, `no`, a class or `unknown` into the column `likely` of others, and build records
again with

  faceattr-data build ... --corrections=FOLDER/suspicious.csv

Nobody looks? --least=0.5 leaves in the table what is likelier wrong than right. Mistakes that were made
at random are found at --surest=0.25; where hard pictures are labelled worse than others, as by a program
or in haste, --surest=1 finds more, and more that are none.

Of attributes that the features hardly tell (--learned) nothing is suspected. A rare look is no
mistake: who differs from most is suspected first.
"""

import sys

from absl import flags

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands.recipe_flags import asks_for_help, help_text, parse_all
from faceattr_tf.workdir import Workdir


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command alone."""
    flags.DEFINE_string("workdir", "", "folder of a run, in place of --config", flag_values=values)
    names = "LABEL or TASK/LABEL, of classes TASK; default: all"
    flags.DEFINE_list("attributes", [], names, flag_values=values)
    stages = "stages, several joined by +; default: what the heads stand on"
    flags.DEFINE_string("layer", "", stages, flag_values=values)
    mirrored = "take the mean of the features of a picture and of its mirror image"
    flags.DEFINE_bool("flip", False, mirrored, flag_values=values)
    probability = "probability of being wrong from which on a label is suspicious"
    flags.DEFINE_float("least", 0.35, probability, flag_values=values)
    balanced = "estimated balanced accuracy of an attribute below which none of its labels is"
    flags.DEFINE_float("learned", 0.9, balanced, flag_values=values)
    clearest = "share of yes and no, those told most clearly, among which mistakes are counted"
    flags.DEFINE_float("surest", 0.25, clearest, flag_values=values)
    flags.DEFINE_string("output", "", "folder for table, page and numbers", flag_values=values)


def main() -> None:
    """Parses flags, judges the labels, and prints the table and where the files lie."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(help_text(__doc__, define_flags))
        return
    recipe, values, rest = parse_all(arguments, define_flags)
    if rest:
        raise UserError(f"argument {rest[0]!r} is no flag; --help shows the flags")
    if bool(values.workdir) == bool(recipe.name):
        raise UserError("expected either --workdir=RUN or --config=RECIPE with its fields")
    if len(values.records) != 1 or not values.output:
        raise UserError("expected --records=FOLDER and --output=FOLDER")
    network = Workdir.open(values.workdir) if values.workdir else recipe
    prepare_keras()
    from faceattr_tf.reports.labels import find_suspicious, noise_table

    contents = find_suspicious(
        network,
        values.records[0],
        values.output,
        attributes=values.attributes,
        layer=values.layer,
        flip=values.flip,
        least=values.least,
        learned=values.learned,
        surest=values.surest,
        progress=values.progress,
    )
    table = noise_table(contents)
    print(f"\n{table.text()}\n\n{table.note}")
    if contents["left_out"]:
        print(f"left out, too few labels of one kind: {', '.join(contents['left_out'])}")
    for text in contents["warnings"]:
        print(f"warning: {text}", file=sys.stderr)
    print(f"report: {contents['folder']}/labels.html, and suspicious.csv beside it")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-labels", main))


if __name__ == "__main__":
    run()
