"""One network with branches against the separate ones it was joined of: time, arithmetic, disk.

    python -m benchmarks.joined_network --joined=WORKDIR [--threads=N] [--batch=N] [--rounds=N]
        [--repeats=N] RUN RUN [RUN ...]

The runs are those that `faceattr-join` joined. Competitors take turns within one process and the
medians of their rounds are compared, because absolute times mean little on a shared machine:

- separate: every network answers the same batch, one after the other;
- joined: the one network does.

Both are compiled, in float32, on a batch that lies ready; the outputs are compared first.
"""

import argparse
import statistics
import time

import numpy as np

from faceattr_tf.precision import processor_name

EQUAL = 1e-5
"""The largest difference of an output that is taken for arithmetic in another order."""


def main() -> None:
    """Prints both, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--joined", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from faceattr_tf.evaluation.inference import forward_function
    from faceattr_tf.training.cost import multiply_adds
    from faceattr_tf.workdir import MODEL, Workdir

    separate = [Workdir.open(path) for path in arguments.runs]
    places = {"separate": separate, "joined": [Workdir.open(arguments.joined)]}
    models = {name: [one.load_model() for one in of] for name, of in places.items()}
    shape = (arguments.batch, *models["joined"][0].input_shape[1:])
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, shape), tf.float32)
    forward = {name: [forward_function(model) for model in of] for name, of in models.items()}
    answers = {name: [one(images) for one in of] for name, of in forward.items()}
    print(f"{processor_name()}, {arguments.threads} threads, batches of {arguments.batch}")
    print(f"largest difference of an output: {_difference(answers, places):.1e}")
    times: dict[str, list[float]] = {name: [] for name in forward}
    for _ in range(arguments.rounds):
        for name, networks in forward.items():
            begin = time.perf_counter()
            for _ in range(arguments.repeats):
                results = [network(images) for network in networks]
            for result in results:
                np.asarray(next(iter(result.values())))  # waits for the last one
            times[name].append(time.perf_counter() - begin)
    faces = arguments.repeats * arguments.batch
    for name, of in models.items():
        milliseconds = 1000 * statistics.median(times[name]) / faces
        size = sum((one.path / MODEL).stat().st_size for one in places[name])
        count = sum(map(multiply_adds, of))
        print(
            f"{name:9} {len(of)} network{'s' * (len(of) > 1)}: {milliseconds:8.2f} ms per face, {count / 1e6:,.1f} million "
            f"multiply-adds ({2 * count / 1e9:.3f} GFLOP), "
            f"{sum(model.count_params() for model in of):,} parameters, {size / 1e6:,.1f} MB on disk"
        )
    ratios = [one / other for one, other in zip(times["separate"], times["joined"], strict=True)]
    print(
        f"separate / joined: {statistics.median(ratios):.2f} times as long "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {arguments.rounds} rounds)"
    )


def _difference(answers: dict, places: dict) -> float:
    """The largest difference between what the separate networks and the joined one say.

    Raises:
        SystemExit: it is more than arithmetic explains.
    """
    (joined,), largest = answers["joined"], 0.0
    labels = {task.name: task.labels for task in places["joined"][0].tasks}
    for workdir, outputs in zip(places["separate"], answers["separate"], strict=True):
        for task in workdir.tasks:
            found = np.asarray(joined[task.name])
            if task.labels != labels[task.name]:
                found = found[:, [labels[task.name].index(label) for label in task.labels]]
            largest = max(largest, float(np.abs(found - outputs[task.name]).max()))
    if largest > EQUAL:
        raise SystemExit(f"the joined network differs by up to {largest:.1e}")
    return largest


if __name__ == "__main__":
    main()
