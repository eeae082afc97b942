"""A run whose machines come and go: two, one of them killed, then one, then three.

    python -m benchmarks.elastic_restart [--records=RECORDS] [--steps=N] [--folder=FOLDER]

The machines are processes of this one, joined by `TF_CONFIG`. What is compared with a run by one
process that nothing interrupted: which images every step saw, together over the processes, the
last losses, and the last weights. It also says how many bytes of records each process read.
Without `--records` faces are drawn in CelebA's layout.
"""

import argparse
import collections
import itertools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

RECIPE = {"precision": "float32", "evaluate_epochs": 1000.0, "checkpoint_steps": 5, "log_steps": 5}


def work(records: str, workdir: str, log: str, strategy: str, steps: int) -> None:
    """One process of a run, which notes what it makes of every step and how much it reads."""
    import dataclasses

    import tensorflow as tf

    from data_pipelines.crop.geometry import Crop
    from data_pipelines.formats.tfrecord import RecordFiles
    from faceattr_tf.configs import create_recipe
    from faceattr_tf.training import batches, loop

    made, read = batches.training_batches, RecordFiles.read

    def note(**values):
        with open(log, "a") as file:
            file.write(json.dumps(values) + "\n")

    def noting(sources, *arguments, start_step, **options):
        def images(step, batch):
            names = [name.decode() for name in batch.tolist()]
            note(step=int(step), images=names)
            return step

        def noted(step, batch):
            step = tf.numpy_function(images, [step, batch["filename"]], tf.int64)
            with tf.control_dependencies([step]):
                return {name: tf.nest.map_structure(tf.identity, batch[name]) for name in batch}

        stream = made(sources, *arguments, start_step=start_step, **options)
        return stream.enumerate(start_step).map(noted)

    def counting(files, rows):
        examples = read(files, rows)
        note(bytes=sum(map(len, examples)))
        return examples

    batches.training_batches, RecordFiles.read = noting, counting
    recipe = create_recipe("smoke")
    recipe.data.records, recipe.data.batch_size = (records,), 64
    recipe.data.crop, recipe.data.cache = Crop("none", height=32, width=32), False
    recipe.model.width, recipe.model.dropout = 0.25, 0.0
    recipe.model.options = (("filters", (32,)), ("blocks", (1,)))
    recipe.phases = (dataclasses.replace(recipe.phases[-1], epochs=0.0, steps=steps),)
    recipe = dataclasses.replace(recipe, strategy=strategy, **RECIPE)
    loop.train_and_evaluate(recipe, workdir, progress=False)


class Run:
    """So many processes on one workdir, from its last checkpoint on."""

    def __init__(self, options, workdir: pathlib.Path, count: int):
        """Starts them."""
        self.begin = time.perf_counter()
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        places = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
        for one in sockets:
            one.close()
        self.logs, self.processes = [], []
        for index in range(count):
            environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL="3")
            task = {"cluster": {"worker": places}, "task": {"type": "worker", "index": index}}
            if count > 1:
                environment["TF_CONFIG"] = json.dumps(task)
            self.logs.append(workdir.with_name(f"{workdir.name}-{time.time_ns()}.jsonl"))
            self.logs[-1].touch()
            strategy = "multi_worker" if count > 1 else "default"
            call = [options.records, str(workdir), str(self.logs[-1]), strategy, options.steps]
            program = f"from benchmarks.elastic_restart import work; work(*{call!r})"
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    env=environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def kill_last_after(self, step: int, workdir: pathlib.Path) -> list[str]:
        """Kills the last process when that step is logged; what the others said as they ended."""
        metrics = workdir / "metrics.jsonl"
        while not metrics.exists() or f'"step": {step},' not in metrics.read_text():
            if any(process.poll() is not None for process in self.processes):
                raise RuntimeError("\n".join(one.communicate()[1] for one in self.processes))
            time.sleep(0.02)
        self.processes[-1].send_signal(signal.SIGKILL)
        begin, said = time.perf_counter(), []
        for process in self.processes:
            error = process.communicate()[1].strip().splitlines()
            if process is not self.processes[-1]:
                said.append(f"after {time.perf_counter() - begin:.0f} s: {error[-1]}")
        return said

    def wait(self) -> None:
        """Until all have ended well."""
        for process in self.processes:
            error = process.communicate()[1]
            if process.returncode:
                raise RuntimeError(error)

    def seen(self) -> dict[int, collections.Counter]:
        """Images of every step that all processes have made their share of."""
        steps = collections.defaultdict(list)
        for log in self.logs:
            for row in map(json.loads, log.read_text().splitlines()):
                if "step" in row:
                    steps[row["step"]].append(row["images"])
        whole = {step: lists for step, lists in steps.items() if len(lists) == len(self.logs)}
        return {step: collections.Counter(itertools.chain(*lists)) for step, lists in whole.items()}

    def bytes_read(self) -> list[int]:
        """Of every process, for training."""
        rows = [map(json.loads, log.read_text().splitlines()) for log in self.logs]
        return [sum(row.get("bytes", 0) for row in of) for of in rows]


def compare(options) -> None:
    """Runs both and prints what is the same."""
    folder = pathlib.Path(options.folder)
    alone, shared = folder / "alone", folder / "shared"
    one = Run(options, alone, 1)
    one.wait()
    expected = one.seen()
    print(f"one process, {options.steps} steps: {one.bytes_read()[0]:,} bytes read")
    third = options.steps // 15 * 5
    for count, kill in ((2, third), (1, 2 * third), (3, 0)):
        run = Run(options, shared, count)
        for line in run.kill_last_after(kill, shared) if kill else [run.wait()]:
            print(line or "the run ended")
        seen = run.seen()
        same = sum(found == expected.get(step) for step, found in seen.items())
        known = sum(step in expected for step in seen)
        each = ", ".join(f"{count:,}" for count in run.bytes_read())
        print(
            f"{count} processes: steps {min(seen)} to {max(seen)}; the same images in {same} of "
            f"{known} steps that both runs made; bytes read {each}"
        )
    _compare_ends(alone, shared)


def _compare_ends(one: pathlib.Path, other: pathlib.Path) -> None:
    rows = [
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (one, other)
    ]
    print(f"steps logged: {[row['step'] for row in rows[0]] == [row['step'] for row in rows[1]]}")
    pairs = [
        (left["train/loss"], right["train/loss"])
        for left, right in zip(*rows, strict=True)
        if "train/loss" in left
    ]
    print(
        f"losses of {len(pairs)} rows differ by at most "
        f"{max(abs(left / right - 1) for left, right in pairs):.1e} of themselves; the last are "
        f"{pairs[-1][0]:.5f} and {pairs[-1][1]:.5f}"
    )


def main() -> None:
    """Reads the options, draws faces where no records are given, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", help="folder of records; drawn where it is not given")
    parser.add_argument("--steps", type=int, default=45)
    parser.add_argument("--folder", help="where the runs are kept; else they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = options.folder or folder
        if not options.records:
            from data_pipelines.records.build import build
            from data_pipelines.synth import layouts

            drawn = layouts.draw("celeba", f"{folder}/drawn", images=400, size=(64, 64))
            options.records = f"{folder}/records"
            build("celeba", drawn, options.records, progress=False)
        compare(options)


if __name__ == "__main__":
    main()
