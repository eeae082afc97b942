"""faceattr-doctor: what a run would find on this machine, on one page.

Versions; devices, and why a GPU is not used; the processor's features and the precision that
follows from them; Keras' backend and data format and where they were set; free disk and memory;
extras that are missing and how to install them.
"""

import os
import sys

from data_pipelines.commands.running import command_parser, run_command


def main(arguments: list[str]) -> None:
    """Prints the page."""
    command_parser("faceattr-doctor", __doc__).parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it would say stands on the page
    from faceattr_tf.doctor import report

    for what, found in report():
        print(f"{what:24}{found}", flush=True)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-doctor", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
