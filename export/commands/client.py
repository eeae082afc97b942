"""faceattr-client: asks a TensorFlow Serving server about image files.

Prints a table, or one JSON object per image; files that get no answer are listed as errors.
"""

import argparse
import contextlib
import json
import os
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError

EXAMPLES = """\
examples:
  faceattr-client --server=127.0.0.1:8500 --description=models/faceattr/1 photos
  faceattr-client --server=127.0.0.1:8500 --detect holiday
  faceattr-client --server=127.0.0.1:8501 --protocol=rest --label=canary --format=jsonl a.jpg b.jpg
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-client", __doc__, EXAMPLES)
    add = result.add_argument
    add("paths", nargs="+", metavar="PATH", help="image, folder (searched recursively) or pattern")
    add("--server", required=True, metavar="HOST:PORT", help="8500 is gRPC, 8501 REST by default")
    add(
        "--detect",
        action="store_true",
        help="find the faces here first, and ask about each of them (signature crop)",
    )
    add("--protocol", choices=("grpc", "rest"), default="grpc", help="default: grpc")
    add("--model", default="faceattr", help="name of the model (default: faceattr)")
    add("--version", type=int, metavar="N", help="of the model (default: the server's choice)")
    add("--label", default="", help="of the version, as stable or canary")
    add("--signature", default="", help="serving_default (default), features, photos")
    add(
        "--description",
        metavar="FILE",
        help="the model's assets/faceattr.json or the folder of its version: names of labels "
        "(default: what the version that answers says of itself)",
    )
    add("--format", choices=("table", "jsonl"), default="table", help="default: table")
    add("--batch_size", type=int, default=8, metavar="N", help="images in a request (default: 8)")
    add("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    add("--deadline", type=float, default=30.0, metavar="S", help="of a request (default: 30 s)")
    add(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="further attempts where the server is unavailable (default: 3)",
    )
    add("--tls", action="store_true", help="encrypt the connection")
    add("--certificate", default="", metavar="FILE", help="authority of the server, PEM; with TLS")
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags, asks, prints, and says what got no answer.

    Raises:
        UserError: nothing to do, or some images got no answer (the rest is printed).
    """
    flags = parser().parse_args(arguments)
    if flags.detect and flags.signature not in ("", "crop"):
        raise UserError(
            f"--detect asks the signature crop about faces; expected no --signature={flags.signature}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    from data_pipelines.crop.framing import check_tells_faces_apart
    from data_pipelines.crop.geometry import Crop
    from data_pipelines.progress import progress_bar
    from export.client import Client
    from export.description import check_description, named, read_description, summary
    from export.transports import Refused, Unavailable
    from faceattr_tf.prediction.predict import list_images

    description = read_description(flags.description) if flags.description else None
    files = list(list_images(flags.paths))
    detector = None
    if flags.detect:
        from data_pipelines.detection.mtcnn import Detector

        detector = Detector()
    signature = flags.signature or ("crop" if flags.detect else "serving_default")
    client = Client(
        flags.server,
        flags.model,
        protocol=flags.protocol,
        version=flags.version,
        label=flags.label,
        batch_size=flags.batch_size,
        concurrency=flags.concurrency,
        deadline=flags.deadline,
        retries=flags.retries,
        tls=flags.tls,
        certificate=flags.certificate,
    )
    width = max(map(len, files))
    served = None
    with contextlib.suppress(Unavailable, Refused):  # every image will say so
        served = client.description()
    if served and description:
        check_description(description, served, flags.description)
    description = served or description
    if flags.detect and description:
        # An export of an earlier version says nothing of the framing.
        check_tells_faces_apart(Crop.from_dict(description["crop"]), description.get("framing"))
    with client, progress_bar(len(files), "image", show=flags.progress and len(files) > 1) as bar:
        seen, failed = set(), set()
        asked = {"signature": signature, "detector": detector}
        most = (description or {}).get("max_pixels")
        for answer in client.predict(files, **asked, max_pixels=most):
            bar.update(answer.name not in seen)
            seen.add(answer.name)
            if answer.error:
                failed.add(answer.name)
                bar.write(f"{answer.name}: {answer.error}", file=sys.stderr)
                continue
            values = named(answer.outputs, description)
            if flags.format == "jsonl":
                box = {"box": answer.box} if answer.box else {}
                line = json.dumps({"file": answer.name, **box, **values})
            else:
                place = (
                    "at ({:.0f}, {:.0f}) {:.0f} x {:.0f}: ".format(*answer.box)
                    if answer.box
                    else ""
                )
                line = f"{answer.name:<{width}}  {place}{summary(values) or _figures(values)}"
            bar.write(line, file=sys.stdout)
    if failed:
        raise UserError(f"{len(failed)} of {len(files)} images got no answer")


def _figures(values: dict) -> str:
    """Outputs without names of labels, cut short."""
    shown = (json.dumps(value) for value in values.values())
    return "  ".join(
        f"{name} {text if len(text) < 40 else text[:36] + ' ...'}"
        for name, text in zip(values, shown, strict=True)
    )


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-client", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
