"""Images/s of extracting bottlenecks, and examples/s of training a top on them.

    python -m benchmarks.bottlenecks [--config=RECIPE] [--records=RECORDS] [--weights=FILE]
                                     [--images=N] [--examples=N] [--rounds=N] [--steps=N]

Competitors take turns within one process and the medians of their rounds are compared, because
absolute times mean little on a shared machine:

- forward: the bare network, up to its pooled features, on a batch of images that lies ready;
- extraction: records are read, decoded and cropped, the same compiled network runs on them, and
  shards are written into an empty cache; timed from the first batch to the last array, since
  starting takes time that whole data sets do not notice;
- top step: the compiled step of a training run on bottlenecks, on a batch that lies ready;
- top: the same step on the run's stream of batches.
"""

import argparse
import dataclasses
import itertools
import pathlib
import statistics
import tempfile
import time

import numpy as np

from faceattr_tf.configs import create_recipe


def extraction_competitors(experiment, folder: str, images: int) -> dict:
    """`forward` and `extraction`: functions that return their images and when they began."""
    from data_pipelines.input.batches import evaluation_batches
    from faceattr_tf.features.extract import BATCH, extract, feature_function, network_stages

    (source,) = experiment.sources("train")
    layer = experiment.recipe.model.layer
    stage = layer or network_stages(experiment)[-1]
    network = feature_function(experiment, [stage])
    batches = evaluation_batches(source, experiment.tasks, experiment.view, batch_size=BATCH)
    ready = next(batch["image"] for batch in batches.take(1))
    network(ready)  # compiles
    numbers = itertools.count()

    def forward():
        begin = clocks()
        for _ in range(images // BATCH):
            np.asarray(network(ready)[stage])
        return images // BATCH * BATCH, begin

    def extraction():
        recipe = experiment.recipe
        kept = dataclasses.replace(
            recipe.data.bottlenecks, folder=f"{folder}/{next(numbers)}", copies=0
        )
        data = dataclasses.replace(recipe.data, bottlenecks=kept)
        fresh = dataclasses.replace(experiment, recipe=dataclasses.replace(recipe, data=data))
        begun = []

        def noticed(batch):
            begun.append(clocks())
            return network(batch)

        found = extract(fresh, "train", progress=False, create=lambda _: noticed)
        return len(found[layer][0]), begun[0]

    return {"forward": forward, "extraction": extraction}


def top_competitors(experiment, folder: str, examples: int, width: int, steps: int) -> dict:
    """`top step` and `top`: functions that return their examples and when they began."""
    import tensorflow as tf

    from faceattr_tf.features.batches import Features, Stored
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    rng = np.random.default_rng(0)

    def labels(task):
        shape = (examples, 1, *task.label_shape)
        if task.label_dtype == "float32":
            return rng.uniform(-1, 1, shape).astype(np.float32)
        return rng.integers(0, 2, shape, dtype=np.int32)

    kept = pathlib.Path(folder) / "drawn.npy"
    np.save(kept, rng.standard_normal((examples, width), np.float32))
    part = Features(
        Stored(((kept,),), np.arange(examples)),
        {task.name: labels(task) for task in experiment.tasks},
        np.array([f"{index:06}.jpg".encode() for index in range(examples)]),
        np.full(examples, -1),
        np.zeros((examples, 1, 2, 3), np.float32),
    )
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy, features=width)
    step = create_train_step(state, experiment, 0, top=True)
    stream = training_stream(experiment, strategy, 0, [part])
    ready = next(stream)
    step(ready)  # compiles

    def run(batches):
        begin = clocks()
        for batch in batches:
            step(batch)
        state.logged.numpy()  # Waits for the last step.
        return steps * experiment.recipe.data.batch_size, begin

    return {
        "top step": lambda: run(itertools.repeat(ready, steps)),
        "top": lambda: run(itertools.islice(stream, steps)),
    }


def clocks() -> np.ndarray:
    """Seconds, and those of processors that this process used."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(competitors: dict, rounds: int) -> None:
    """Prints the medians of interleaved rounds, and the ratio of the second to the first.

    By the clock, and by the seconds of processors that this process used: where others work on the
    machine too, the second tells more.
    """
    rates = {name: [] for name in competitors}
    for _ in range(rounds):
        for name, run in competitors.items():
            passed, begin = run()
            rates[name].append(passed / (clocks() - begin))
    for column, clock in enumerate(("second", "second of a processor")):
        found = {name: [rate[column] for rate in measured] for name, measured in rates.items()}
        for name, values in found.items():
            spread = f"{min(values):,.1f} to {max(values):,.1f}"
            print(f"{name:12}{statistics.median(values):12,.1f} per {clock} ({spread})")
        first, second = map(statistics.median, found.values())
        print(f"{' / '.join(reversed(rates))}: {second / first:.3f}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", default="inception_bottleneck_mtfl", help="default: %(default)s"
    )
    parser.add_argument("--records", help="default: faces drawn for the occasion")
    parser.add_argument("--weights", default="", help="default: random ones, which are as fast")
    parser.add_argument("--images", type=int, default=512, help="per round, a multiple of 512")
    parser.add_argument("--examples", type=int, default=16_000, help="that the top learns from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="of the top, per round")
    options = parser.parse_args()

    from data_pipelines.records.build import build
    from data_pipelines.synth.layouts import draw
    from faceattr_tf.experiment import Experiment

    recipe = create_recipe(options.config)
    recipe.model.weights = options.weights
    recipe.data.validation_share = 0.0
    with tempfile.TemporaryDirectory() as folder:
        if not options.records:
            draw("mtfl", f"{folder}/drawn", images=options.images * 5 // 4, seed=0)
            options.records = build("mtfl", f"{folder}/drawn", f"{folder}/records").path
        recipe.data.records = (options.records,)
        experiment = Experiment.of(recipe)
        (records,) = experiment.record_sets
        part = dataclasses.replace(records, splits={"train": options.images})
        experiment = dataclasses.replace(experiment, record_sets=(part,))
        crop = experiment.crop
        print(f"{recipe.model.name}, {crop.kind} {crop.height}x{crop.width}, {recipe.precision}")
        measure(extraction_competitors(experiment, folder, options.images), options.rounds)
        top = top_competitors(experiment, folder, options.examples, 2048, options.steps)
        measure(top, 2 * options.rounds)
        del top  # its stream reads ahead in the folder


if __name__ == "__main__":
    main()
