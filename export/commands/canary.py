"""faceattr-canary: may the canary become the stable version?

Asks both about the same images until it is clear, and says what to do. With --records, whose labels
are known, the canary may lose --margin points of mean balanced accuracy, and be wrong so much more
often: an unsure answer is neither right nor wrong. With pictures of your own, such as yesterday's
requests, it may change so many per cent of the labels. Exits with 0 where it may be promoted, else
with 1.
"""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from data_pipelines.commands.running import command_parser, run_command
from data_pipelines.errors import UserError

EXAMPLES = """\
examples:
  faceattr-canary --server=127.0.0.1:8500 --records=records/mtfl --split=validation
  faceattr-canary --server=127.0.0.1:8500 --margin=2 yesterday
  faceattr-canary --server=127.0.0.1:8500 --stable=1 --canary=2 --format=json yesterday

faceattr-deploy gives versions the labels stable and canary, and moves them afterwards.
"""

_WORDS = {
    "promote": "the canary may be promoted",
    "refuse": "the canary must not be promoted",
    "undecided": "the images do not decide it",
}


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    result = command_parser("faceattr-canary", __doc__, EXAMPLES)
    add = result.add_argument
    add("paths", nargs="*", metavar="PATH", help="image, folder (searched recursively) or pattern")
    add("--server", required=True, metavar="HOST:PORT", help="8500 is gRPC, 8501 REST by default")
    add("--records", default="", metavar="DIR", help="records with labels, in place of pictures")
    add("--split", default="test", help="of the records (default: test)")
    add("--protocol", choices=("grpc", "rest"), default="grpc", help="default: grpc")
    add("--model", default="faceattr", help="name of the model (default: faceattr)")
    either = "label or number of the version (default: %(default)s)"
    add("--stable", default="stable", metavar="VERSION", help=either)
    add("--canary", default="canary", metavar="VERSION", help=either)
    add(
        "--margin",
        type=float,
        default=1.0,
        metavar="P",
        help="points that it may lose, or per cent of the labels that it may change (default: 1)",
    )
    add("--risk", type=float, default=0.05, help="of a wrong verdict (default: 0.05)")
    add("--most", type=int, default=10_000, metavar="N", help="images at most (default: 10000)")
    add("--batch_size", type=int, default=8, metavar="N", help="images in a request (default: 8)")
    add("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    add("--format", choices=("text", "json"), default="text", help="default: text")
    add("--noprogress", dest="progress", action="store_false", help="show no progress bar")
    return result


def main(arguments: list[str]) -> None:
    """Parses flags, compares, and says what came of it.

    Raises:
        UserError: the canary may not be promoted, or there is nothing to compare.
    """
    flags = parser().parse_args(arguments)
    _check(flags)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its notes are not about the user's data
    import numpy as np

    from data_pipelines.progress import progress_bar
    from export.canary import PROMOTE, compare_versions, label_weights, shared_tasks, true_labels
    from export.client import Client
    from export.transports import Refused, Unavailable
    from faceattr_tf.prediction.predict import list_images

    names = flags.stable, flags.canary
    options = {"protocol": flags.protocol}
    clients = [Client(flags.server, flags.model, **options | _version(name)) for name in names]
    try:
        descriptions = [client.description() for client in clients]
    except (Refused, Unavailable) as error:
        raise UserError(f"{flags.server}: {error}") from None
    for name, description in zip(names, descriptions, strict=True):
        if description is None:
            raise UserError(f"version {name} does not describe itself: export it once more")
    tasks, weights = shared_tasks(*descriptions), None
    if flags.records:
        examples = _labelled(flags, descriptions[0])
        count = len(examples.encoded)
        weights = label_weights(true_labels(examples, tasks))
        if not weights.any():
            raise UserError(f"{flags.records}: {flags.split} knows no label of the two versions")
        rows = np.arange(count)
        starts = range(0, count, flags.batch_size)
        requests = (examples.at(rows[begin:][: flags.batch_size]) for begin in starts)
    else:
        files = list(list_images(flags.paths))
        chosen = np.random.default_rng(flags.seed).permutation(len(files))[: flags.most]
        files = [Path(files[number]) for number in chosen]
        count, requests = len(files), _pictures(files, flags.batch_size)
    try:
        with progress_bar(count, "image", show=flags.progress) as bar:
            verdict = compare_versions(
                *clients,
                tasks,
                requests,
                weights,
                margin=flags.margin / 100,
                level=1 - flags.risk,
                progress=bar.update,
            )
    except Unavailable as error:
        raise UserError(f"{flags.server}: {error}") from None
    finally:
        for client in clients:
            client.close()
    if flags.format == "json":
        print(json.dumps(dataclasses.asdict(verdict)))
    else:
        _print(verdict, flags)
    if verdict.outcome != PROMOTE:
        raise UserError(_WORDS[verdict.outcome])


def _check(flags) -> None:
    if bool(flags.records) == bool(flags.paths):
        raise UserError("expected pictures or --records, one of them")
    if not 0 < flags.risk < 1:
        raise UserError(f"--risk={flags.risk:g}: expected a number between 0 and 1")
    if not 0 < flags.margin < 100:
        raise UserError(f"--margin={flags.margin:g}: expected a number between 0 and 100")
    for name in ("most", "batch_size"):
        if getattr(flags, name) < 1:
            raise UserError(f"--{name}={getattr(flags, name)}: expected at least 1")
    if flags.stable == flags.canary:
        raise UserError(f"--stable and --canary are both {flags.stable}: expected two versions")


def _version(name: str) -> dict:
    return {"version": int(name)} if name.isdecimal() else {"label": name}


def _labelled(flags, description: dict):
    """Examples of the records in random order, with the labels that the version knows."""
    import numpy as np

    from data_pipelines.records.record_set import RecordSet
    from data_pipelines.tasks import Task
    from export.examples import examples_of

    votes = {
        task.name for task in RecordSet.load(flags.records).tasks if task.kind == "distribution"
    }
    tasks = []
    for task in description["tasks"]:
        if "label" in task["outputs"]:
            kind = "distribution" if task["name"] in votes else task["kind"]
            tasks.append(Task(task["name"], kind, tuple(task["labels"])))
    found = examples_of(flags.records, flags.split, tasks, flags.most)
    return found.at(np.random.default_rng(flags.seed).permutation(len(found.encoded)))


def _pictures(files: list[Path], size: int):
    """Requests about files, which are read when it is their turn."""
    from export.client import as_sent
    from export.examples import without_places

    for begin in range(0, len(files), size):
        yield without_places([as_sent(file.read_bytes()) for file in files[begin : begin + size]])


def _print(verdict, flags) -> None:
    what = "mean balanced accuracy" if flags.records else "labels that stay the same"
    gain, low, high = (100 * value for value in (verdict.gain, verdict.low, verdict.high))
    print(f"{verdict.images} images; without an answer: {verdict.failed[0]} of the stable version, "
          f"{verdict.failed[1]} of the canary")  # fmt: skip
    print(
        f"{what}: the canary has {gain:+.2f} points ({low:+.2f} to {high:+.2f}, holds at any time "
        f"with {100 * (1 - flags.risk):g} %); it may have {-flags.margin:+g}"
    )
    if any(verdict.unsure):
        before, after = (100 * share for share in verdict.unsure)
        print(
            f"unsure: {before:.1f} % of the stable version's labels, {after:.1f} % of the canary's"
        )
    if any(verdict.unsure) and verdict.wrong:
        more, low, high = (100 * value for value in verdict.wrong)
        print(
            f"wrong answers: the canary has {more:+.2f} points ({low:+.2f} to {high:+.2f}); "
            f"it may have {flags.margin:+g}"
        )
    times = verdict.milliseconds
    print(
        f"a request of {flags.batch_size} images took {times[0]:.0f} ms and {times[1]:.0f} ms "
        f"({times[1] / times[0]:.2f} times as long)"
    )
    if verdict.identical:
        print("all answers were the same to the last bit: are these two versions?")
    if verdict.outcome == "promote":
        print(_WORDS["promote"])


def run() -> None:
    """Entry point of the console script."""
    sys.exit(run_command("faceattr-canary", lambda: main(sys.argv[1:])))


if __name__ == "__main__":
    run()
