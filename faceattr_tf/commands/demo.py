"""faceattr-demo: a page on this machine to try a trained model in a browser.

Drop, paste or choose a picture, or use the camera: all faces are found, with their boxes, attributes
and thresholds that move; and the page draws where an answer comes from or, of networks with a
spatial transformer, what that looks at. The page needs nothing from the network.

It listens on 127.0.0.1, which no other machine reaches, until Ctrl-C. With another --host everyone
who reaches that address can use the model, and pictures travel unencrypted.
"""

import argparse
import os
import signal
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.detection.mtcnn import MAXIMUM_SIDE, MINIMUM_SIZE
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import prepare_keras
from faceattr_tf.demo.server import MAX_BYTES, DemoServer
from faceattr_tf.demo.service import Service
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.workdir import Workdir

MAX_PIXELS = 40_000_000
"""Larger pictures are not decoded unless the command is told otherwise."""

EXAMPLES = """\
examples:
  faceattr-demo --workdir=work/celeba
  faceattr-demo --workdir=work/celeba --port=0 --faces=5 --try_rotations
  curl --data-binary @photo.jpg -H 'Content-Type: application/octet-stream' \\
      http://127.0.0.1:8000/analyze
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-demo", __doc__, EXAMPLES)
    add = result.add_argument
    add("--workdir", required=True, metavar="DIR", help="folder of a training run")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="0 picks one that is free (default: %(default)s)")
    add(
        "--names",
        type=_names,
        default=(),
        metavar="NAME[,NAME]",
        help="by which browsers may call this machine besides its addresses and localhost",
    )
    add("--faces", type=int, metavar="N", help="faces of a picture, the largest (default: all)")
    add(
        "--minimum_size",
        type=float,
        default=MINIMUM_SIZE,
        metavar="N",
        help="side in pixels of the smallest face that is looked for (default: %(default)s)",
    )
    add(
        "--maximum_side",
        type=int,
        default=MAXIMUM_SIDE,
        metavar="N",
        help="faces of a wider or higher picture are looked for in a copy of this (default: "
        "%(default)s)",
    )
    add(
        "--try_rotations",
        action="store_true",
        help="turn pictures in which no face is found by 90, 180 and 270 degrees and look again",
    )
    add(
        "--max_pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="a picture that is larger by its header is not decoded (default: %(default)s)",
    )
    add(
        "--max_bytes",
        type=int,
        default=MAX_BYTES,
        metavar="N",
        help="a larger file is not taken (default: %(default)s)",
    )
    add(
        "--consistent",
        action="store_true",
        help="no answers that the labels of training rule out together, at the run's own thresholds: "
        "the less certain one gives way",
    )
    add(
        "--sensitive",
        type=_names,
        default=(),
        metavar="TASK[,TASK...]",
        help="sensitive tasks that are answered too, such as ethnicity; else they are left out",
    )
    return result


def main(arguments: list[str]) -> None:
    """Parses flags, loads the model and serves the page until Ctrl-C.

    Raises:
        UserError: no such run, a port that is taken, or a bad value.
    """
    flags = parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    server = DemoServer(flags.host, flags.port, flags.names, flags.max_bytes)
    try:
        service = _service(flags)
    except BaseException:
        server.server_close()
        raise
    if not server.alone:
        print("warning: other machines can reach this page", file=sys.stderr)
    print(f"{flags.workdir}: {server.url} (Ctrl-C ends it)", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as containers are stopped
    try:
        server.serve(service)
    except KeyboardInterrupt:
        print("ended")


def _service(flags: argparse.Namespace) -> Service:
    if flags.max_pixels < 1:
        raise UserError(f"--max_pixels={flags.max_pixels}: expected at least 1")
    workdir = Workdir.open(flags.workdir)
    prepare_keras()
    analyzer = Analyzer.from_workdir(
        flags.workdir,
        max_pixels=flags.max_pixels,
        maximum_side=flags.maximum_side,
        minimum_size=flags.minimum_size,
        faces=flags.faces,
        try_rotations=flags.try_rotations,
        sensitive=flags.sensitive,
        consistent=flags.consistent,
    )
    return Service(analyzer, workdir)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-demo", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
