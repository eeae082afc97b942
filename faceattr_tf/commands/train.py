"""faceattr-train: train a recipe in a workdir, or continue there.

  faceattr-train --config=resnet_small_mtfl --records=RECORDS[,RECORDS…] --workdir=WORKDIR
  faceattr-train --config=… --workdir=… --config.data.batch_size=32 \\
      '--config.phases[0].learning_rate=0.01'
  faceattr-train --config=… --records=… --dry_run

Called again with the same flags it continues from the last checkpoint; with a longer last phase and
--extend it goes on beyond its end. A field of the recipe is
changed with --config.FIELD=VALUE; a tuple is written as Python writes it.

--config.strategy=mirrored uses all GPUs, multi_worker the machines that TF_CONFIG names, tpu a TPU.
A run may go on with another strategy and on more or fewer machines: its steps see the same images.
--config.data.service=grpc://HOST:PORT lets a tf.data service prepare them, in an order of its own.
"""

import sys

from absl import flags

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.commands.recipe_flags import asks_for_help, help_text, parse


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command alone."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_bool(
        "extend", False, "go on with a run whose last phase is longer now", flag_values=values
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "describe the run, then over-fit one batch; no workdir is needed or touched",
        flag_values=values,
    )


def main() -> None:
    """Parses flags and trains."""
    arguments = sys.argv[1:]
    if asks_for_help(arguments):
        print(help_text(__doc__, define_flags))
        return
    recipe, values = parse(arguments, define_flags)
    if values.dry_run:
        prepare_keras()
        from faceattr_tf.training.dry_run import dry_run

        dry_run(recipe)
        return
    if not values.workdir:
        raise UserError("--workdir is missing: the folder of the run")
    prepare_keras()
    from faceattr_tf.training.loop import train_and_evaluate

    best = train_and_evaluate(
        recipe, values.workdir, progress=values.progress, extend=values.extend
    )
    print(f"best at step {best['step']}; {values.workdir} is ready for faceattr-evaluate")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-train", main))


if __name__ == "__main__":
    run()
