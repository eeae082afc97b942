"""Training images/s of the loop, beside its own bare step and beside PyTorch.

    python -m benchmarks.train_loop [--records=RECORDS] [--config=RECIPE] [--rounds=N] [--steps=N]
        [--seconds=S] [--precision=P]

Competitors take turns within one process and the medians of their rounds are compared, because
absolute times mean little on a shared machine:

- loop: records are read, decoded, cropped, augmented, and the recipe's step runs on them;
- step: the same compiled step on one batch that lies ready;
- torch loop (where torch is installed, for `resnet_small`): the same network in float32, fed by a
  `DataLoader` with two workers that decodes and resizes with OpenCV, without augmentation;
- torch step: that network on one batch that lies ready.

The float32 rows of both compare like with like; the rows of `--precision` are what a user gets.
"""

import argparse
import dataclasses
import importlib.util
import statistics
import tempfile
import time

import numpy as np

from faceattr_tf.configs import create_recipe
from faceattr_tf.precision import processor_name, resolve


def keras_competitors(recipe, precision: str) -> dict:
    """`loop` and `step`: functions that run so many steps and return the images seen."""
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    experiment = Experiment.of(dataclasses.replace(recipe, precision=precision))
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy)
    step = create_train_step(state, experiment, len(recipe.phases) - 1)
    stream = training_stream(experiment, strategy, 0)
    ready = next(stream)

    def run(batches, steps):
        for _ in range(steps):
            step(next(batches) if batches else ready)
        state.logged.numpy()  # Waits for the last step.
        return steps * recipe.data.batch_size

    return {
        f"loop, {precision}": lambda steps: run(stream, steps),
        f"step, {precision}": lambda steps: run(None, steps),
    }, state.model


def torch_network(outputs: dict):
    """`resnet_small` with its default sizes, in PyTorch."""
    import torch
    from torch import nn

    def convolution(inputs, maps, kernel, stride=1):
        return nn.Sequential(
            nn.Conv2d(inputs, maps, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(maps, eps=1e-5, momentum=0.05),
        )

    class Block(nn.Module):
        def __init__(self, inputs, maps, stride):
            super().__init__()
            shortcut = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
            shortcut += [convolution(inputs, maps, 1)] if inputs != maps else []
            self.shortcut = nn.Sequential(*shortcut)
            self.body = nn.Sequential(
                convolution(inputs, maps, 3, stride), nn.ReLU(), convolution(maps, maps, 3)
            )

        def forward(self, x):
            return torch.relu(self.shortcut(x) + self.body(x))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            filters = (32, 64, 96, 128)
            layers = [convolution(3, filters[0], 3, 2), nn.ReLU()]
            inputs = filters[0]
            for stage, maps in enumerate(filters):
                layers.append(Block(inputs, maps, 2 if stage else 1))
                inputs = maps
            self.body = nn.Sequential(*layers)
            self.heads = nn.ModuleDict({n: nn.Linear(inputs, size) for n, size in outputs.items()})

        def forward(self, image):
            features = self.body(image / 127.5 - 1).mean((2, 3))
            return {name: head(features) for name, head in self.heads.items()}

    return Network()


class EncodedFaces:
    """The training images as PyTorch would read them: OpenCV decodes and resizes."""

    def __init__(self, images: list, targets: np.ndarray, height: int, width: int):
        self.images, self.targets, self.height, self.width = images, targets, height, width

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        import cv2

        image = cv2.imdecode(np.frombuffer(self.images[index], np.uint8), cv2.IMREAD_COLOR)
        image = cv2.resize(image[..., ::-1], (self.width, self.height))
        return image.transpose(2, 0, 1).astype(np.float32), self.targets[index]


def torch_competitors(recipe, keras_model) -> dict:
    """The same as `keras_competitors`, in PyTorch and float32."""
    import tensorflow as tf
    import torch

    from faceattr_tf.experiment import Experiment

    experiment = Experiment.of(recipe)
    sizes = {task.name: task.output_size for task in experiment.tasks}
    network = torch_network(sizes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    expected = sum(int(np.prod(weight.shape)) for weight in keras_model.trainable_weights)
    if parameters != expected:
        raise RuntimeError(f"not the same network: {parameters} parameters against {expected}")
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    shards = [shard for records in experiment.record_sets for shard in records.shards["train"]]
    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    images = [
        tf.io.parse_single_example(record, spec)["image"].numpy()
        for record in tf.data.TFRecordDataset(shards)
    ]
    targets = np.random.default_rng(0).integers(0, 2, (len(images), sum(sizes.values())))
    crop = recipe.data.crop
    loader = torch.utils.data.DataLoader(
        EncodedFaces(images, targets.astype(np.float32), crop.height, crop.width),
        batch_size=recipe.data.batch_size,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )

    def endless():
        while True:
            yield from loader

    stream = endless()
    ready = next(stream)

    def run(batches, steps):
        for _ in range(steps):
            image, target = next(batches) if batches else ready
            optimizer.zero_grad()
            outputs = torch.cat(
                list(network(image.contiguous(memory_format=torch.channels_last)).values()), 1
            )
            torch.nn.functional.binary_cross_entropy_with_logits(outputs, target).backward()
            optimizer.step()
        return steps * recipe.data.batch_size

    return {
        "torch loop, float32": lambda steps: run(stream, steps),
        "torch step, float32": lambda steps: run(None, steps),
    }


def measure(competitors: dict, rounds: int, steps: int, seconds: float) -> dict:
    """Median images/s of each competitor over interleaved rounds, each printed as it is measured.

    One that needs more than its share of `seconds` for its first steps is left out, and no round
    begins after that time.
    """
    begun = time.perf_counter()
    rates = {}
    for name, run in competitors.items():
        first = time.perf_counter()
        run(3)
        first = time.perf_counter() - first
        if first > seconds / len(competitors):
            print(f"{name}: left out, its first three steps took {first:.0f} s", flush=True)
        else:
            rates[name] = []
    for index in range(rounds):
        for name, values in rates.items():
            if values and time.perf_counter() - begun > seconds:
                continue
            begin = time.perf_counter()
            images = competitors[name](steps)
            values.append(images / (time.perf_counter() - begin))
            print(f"round {index + 1}  {name:24}{values[-1]:10,.0f} images/s", flush=True)
    return {name: statistics.median(values) for name, values in rates.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", help="default: faces drawn for the occasion")
    parser.add_argument(
        "--config", default="resnet_small_mtfl", help="recipe (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="per round")
    parser.add_argument(
        "--seconds", type=float, default=240, help="no round begins later (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        default="auto",
        help="measured beside float32; default: bfloat16 where this machine computes in it",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        records = options.records
        if not records:
            from data_pipelines.records.build import build
            from data_pipelines.synth.layouts import draw

            draw("mtfl", f"{folder}/drawn", images=600, seed=0)
            records = build("mtfl", f"{folder}/drawn", f"{folder}/records").path
        recipe = create_recipe(options.config)
        recipe.data.records = (records,)
        recipe.precision, reason = resolve(options.precision)
        print(f"{processor_name()}; {recipe.precision}{reason and f', since {reason}'}", flush=True)
        competitors, model = keras_competitors(recipe, "float32")
        if recipe.precision != "float32":
            competitors |= keras_competitors(recipe, recipe.precision)[0]
        if importlib.util.find_spec("torch") is None:
            print("torch is not installed: its rows are left out")
        else:
            if recipe.model.name == "resnet_small" and not recipe.model.options:
                competitors |= torch_competitors(recipe, model)
        rates = measure(competitors, options.rounds, options.steps, options.seconds)
    for name, rate in rates.items():
        print(f"{name:24}{rate:10,.0f} images/s")
    pairs = [("loop, float32", "step, float32")]
    if recipe.precision != "float32":
        pairs.append((f"loop, {recipe.precision}", f"step, {recipe.precision}"))
    pairs += [(f"{ours}, float32", f"torch {ours}, float32") for ours in ("loop", "step")]
    for ours, peer in pairs:
        if ours in rates and peer in rates:
            print(f"{ours} / {peer}: {rates[ours] / rates[peer]:.2f}")


if __name__ == "__main__":
    main()
