"""faceattr-batch: what an exported model says about any number of pictures, by Beam or Ray Data.

Writes rows as JSON lines, DIR/rows*.jsonl, in no order. A picture that cannot be answered is a row
with the reason. The model takes whole pictures, as its signature serving_default does: of
photographs, cut out the faces first, or use faceattr-predict --detect.

--beam holds options of Apache Beam as one word: which runner, with how many workers. --ray asks by
Ray Data, on the cluster of RAY_ADDRESS or on this machine. On other machines the package has to be
installed, and pictures, model and output have to lie under the same paths.
"""

import argparse
import os
import shlex
import sys

from data_pipelines.commands.running import command_parser, require_beam, require_ray, run_command

EXAMPLES = """\
examples:
  faceattr-batch --model=models/faceattr/1 --output=rows photos
  faceattr-batch --model=models/faceattr/1 --output=rows photos \\
      --beam='--runner=FnApiRunner --direct_num_workers=8 --direct_running_mode=multi_processing'
  faceattr-batch --model=models/faceattr/1 --output=rows photos \\
      --beam='--runner=FlinkRunner --flink_master=HOST:8081'
  RAY_ADDRESS=HOST:6379 faceattr-batch --model=models/faceattr/1 --output=rows photos --ray=16
"""

QUIET = {"RAY_DATA_LOG_LEVEL": "CRITICAL", "RAY_USAGE_STATS_ENABLED": "0"}
"""What Ray says besides the errors that it raises, and that it would tell its makers of its use."""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-batch", __doc__, EXAMPLES)
    add = result.add_argument
    add("paths", nargs="+", metavar="PATH", help="image, folder (searched recursively) or pattern")
    add("--model", required=True, metavar="DIR", help="folder of a version that was exported")
    add("--output", required=True, metavar="DIR", help="folder to make")
    engine = result.add_mutually_exclusive_group()
    engine.add_argument("--beam", default="", metavar="OPTIONS", help="options of Apache Beam")
    engine.add_argument(
        "--ray", type=_count, metavar="N", help="ask by Ray Data, with so many actors at a time"
    )
    add(
        "--batch_size",
        type=_count,
        default=32,
        metavar="N",
        help="pictures in a call of the model; multiples of 16 give the last digits of "
        "faceattr-predict (default: 32)",
    )
    return result


def _count(text: str) -> int:
    if text.isdecimal() and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")


def main(arguments: list[str]) -> None:
    """Parses flags, asks, and says where the rows are.

    Raises:
        UserError: nothing to do, or the engine is not installed.
    """
    flags = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    if flags.ray:
        require_ray("--ray")
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        from export.ray_prediction import predict

        engine = flags.ray
    else:
        require_beam("faceattr-batch")
        from export.beam_prediction import predict

        engine = shlex.split(flags.beam)
    from faceattr_tf.prediction.predict import list_images

    files = list(list_images(flags.paths, leave_out=flags.output))
    rows = predict(flags.model, files, flags.output, engine, batch_size=flags.batch_size)
    print(f"{len(files):,} pictures: {len(rows)} files of rows in {flags.output}")


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-batch", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
