"""faceattr-join: one network out of runs that trained branches of the same frozen trunk.

The new workdir answers as all of the runs do, the trunk being computed once; it is evaluated,
exported and served like any other. faceattr-train --config.warm_start=RUN,RUN begins with the same
weights and trains on.
"""

import argparse
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.keras_settings import prepare_keras

EXAMPLES = """\
examples:
  faceattr-join --workdir=work/joined work/gender work/age work/emotion
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-join", __doc__, EXAMPLES)
    result.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run")
    result.add_argument("--workdir", required=True, metavar="DIR", help="the new workdir")
    return result


def main() -> None:
    """Parses flags and joins."""
    values = parser().parse_args()
    prepare_keras()
    from faceattr_tf.training.joining import join

    join(values.runs, values.workdir)
    print(f"{values.workdir} is ready for faceattr-evaluate")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-join", main))


if __name__ == "__main__":
    run()
