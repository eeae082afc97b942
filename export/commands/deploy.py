"""faceattr-deploy: configuration of TensorFlow Serving for exported models.

Writes the server's configuration with labels for versions, a docker-compose file that listens on
this machine alone, and Kubernetes manifests.
"""

import argparse
import sys

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError
from export.deployment import IMAGE, write_deployment

EXAMPLES = """\
examples:
  faceattr-deploy --models=models --output=deployment
  faceattr-deploy --models=models --output=deployment --canary=faceattr=2 --overwrite
  faceattr-deploy --models=models --output=deployment --stable=faceattr=2 --overwrite

A running server reads the second and the third as they are written; give it the time to load
between them (half a minute, then see http://127.0.0.1:8501/v1/models/faceattr). Requests that name
neither label nor version are answered by the highest version that is loaded.
"""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-deploy", __doc__, EXAMPLES)
    add = result.add_argument
    add("--models", required=True, metavar="DIR", help="folder that faceattr-export wrote to")
    add("--output", required=True, metavar="DIR", help="folder to make")
    label = {"action": "append", "default": [], "metavar": "NAME=VERSION"}
    add("--stable", **label, help="version with this label (default: as before, or the highest)")
    add("--canary", **label, help="version with this label (default: none)")
    add(
        "--address",
        default="127.0.0.1",
        metavar="IP",
        help="of this machine, to listen at (default: 127.0.0.1, which nobody else can reach)",
    )
    add("--image", default=IMAGE, help=f"of the server (default: {IMAGE})")
    add("--overwrite", action="store_true", help="replace files in an output folder that exists")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags, writes the files and says what will be served."""
    flags = parser().parse_args(arguments)
    served = write_deployment(
        flags.models,
        flags.output,
        stable=_versions("--stable", flags.stable),
        canary=_versions("--canary", flags.canary),
        address=flags.address,
        image=flags.image,
        overwrite=flags.overwrite,
    )
    for model in served:
        labels = ", ".join(f"{label} is version {v}" for label, v in model.labels.items())
        print(f"{model.name}: {labels}; batches of up to {model.batch_sizes[-1]}")
    print(flags.output)


def _versions(flag: str, pairs: list[str]) -> dict[str, int]:
    versions = {}
    for pair in pairs:
        name, _, version = pair.rpartition("=")
        if not name or not version.isdecimal():
            raise UserError(f"{flag}={pair}: expected NAME=VERSION, as in faceattr=2")
        versions[name] = int(version)
    return versions


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-deploy", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
