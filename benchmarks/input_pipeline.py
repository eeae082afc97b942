"""Images/s of the input pipeline, beside bare decoding of the same bytes and beside PyTorch.

    python -m benchmarks.input_pipeline [--records=RECORDS] [--crop=KIND] [--height=N] [--width=N]
                                        [--batch_size=N] [--rounds=N]

Competitors take turns and the medians of their rounds are compared, because absolute times mean
little on a shared machine. Each round is one pass over the training split, timed from the first
batch to the last:

- bare: `tf.data` that decodes every image with `decode_jpeg` and does nothing else with it;
- pipeline: records are read, shuffled, parsed, decoded, cropped, and labels joined;
- augmented: the same with every augmentation on;
- torch (where torch is installed): a `DataLoader` with as many workers as there are cores (two at
  least), which decodes and resizes with OpenCV, without a crop, from bytes held in memory.

Without `--records` a data set is drawn in CelebA's layout and size.
"""

import argparse
import os
import statistics
import tempfile
import time

CORES = max(2, len(os.sched_getaffinity(0)))


def encoded_images(source) -> list[bytes]:
    """The bytes of all images of a source."""
    import tensorflow as tf

    from data_pipelines.input.stream import stored_stream

    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    records = stored_stream(source).map(lambda record, _: record).batch(256)
    images = records.map(lambda batch: tf.io.parse_example(batch, spec)["image"])
    return [image for batch in images.as_numpy_iterator() for image in batch]


def bare_decoding(images, batch_size):
    """Passes of decoding alone; of every image one number is kept, so that any sizes can batch."""
    import tensorflow as tf

    def decode(data):
        return tf.shape(tf.io.decode_jpeg(data, channels=3))[0]

    dataset = tf.data.Dataset.from_tensor_slices(images).map(decode, tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return lambda: map(len, dataset)


def pipeline(source, crop, augment, batch_size):
    """Passes of this project's training stream."""
    from data_pipelines.input.batches import training_batches
    from data_pipelines.input.view import View

    batches = training_batches(
        [source], source.records.tasks, View(crop), augment, batch_size=batch_size, seed=0
    )
    batches = batches.take(source.count // batch_size)
    return lambda: (len(batch["image"]) for batch in batches)


class OpenCVImages:
    """A PyTorch map-style data set: decoded by OpenCV and resized to the crop's size."""

    def __init__(self, images, height, width):
        """Keeps the encoded images and the size to resize to."""
        self.images, self.size = images, (width, height)

    def __len__(self):
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index):
        """One image, float32 `[height, width, 3]`, and its index for a label."""
        import cv2
        import numpy as np

        cv2.setNumThreads(0)
        image = cv2.imdecode(np.frombuffer(self.images[index], np.uint8), cv2.IMREAD_COLOR_RGB)
        return cv2.resize(image, self.size, interpolation=cv2.INTER_LINEAR), index


def torch_loader(images, crop, batch_size):
    """Passes of PyTorch's loader; the batch becomes float32 in the main process."""
    import torch

    loader = torch.utils.data.DataLoader(
        OpenCVImages(images, crop.height, crop.width),
        batch_size,
        shuffle=True,
        num_workers=CORES,
        drop_last=True,
        persistent_workers=True,
        # The workers of a process that runs TensorFlow must not inherit its threads.
        multiprocessing_context="spawn",
    )
    return lambda: (len(batch.float()) for batch, _ in loader)


def compare(records, crop, batch_size: int, rounds: int) -> None:
    """Runs all competitors in turn and prints images/s and ratios."""
    from data_pipelines.input.augment import Augment
    from data_pipelines.input.batches import Source

    source = Source(records)
    images = encoded_images(source)
    strong = Augment(
        flip=True, shift=0.05, rotate=10, scale=0.1, brightness=0.1, contrast=0.2, saturation=0.2,
        grey=0.1, blur=0.3, cutout=0.2,
    )  # fmt: skip
    competitors = {
        "bare": bare_decoding(images, batch_size),
        "pipeline": pipeline(source, crop, Augment(), batch_size),
        "augmented": pipeline(source, crop, strong, batch_size),
    }
    try:
        competitors["torch"] = torch_loader(images, crop, batch_size)
    except ImportError:
        print("torch is not installed: compared with bare decoding only")
    rates = {name: [] for name in competitors}
    for count in range(rounds + 1):
        for name, run in competitors.items():
            batches = iter(run())
            next(batches)  # Starting takes time that a long training does not notice.
            begin = time.perf_counter()
            passed = sum(batches)
            if count:  # the first round starts workers and compiles
                rates[name].append(passed / (time.perf_counter() - begin))
    print(
        f"{records.name}: {len(images):,} images to {crop.kind} {crop.height}x{crop.width}, "
        f"batch {batch_size}, {CORES} cores, medians of {rounds} rounds"
    )
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, median in medians.items():
        ratios = "  ".join(
            f"{median / medians[peer]:5.2f} of {peer}"
            for peer in ("bare", "torch")
            if peer in medians
        )
        spread = f"{min(rates[name]):,.0f} to {max(rates[name]):,.0f}"
        print(f"{name:10} {median:8,.0f} images/s ({spread})  {ratios}")


def main() -> None:
    """Reads the options, draws a data set where none is given, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", help="folder of records; drawn where it is not given")
    parser.add_argument("--crop", default="none", help="none, box, nose or align")
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    from data_pipelines.crop.geometry import Crop
    from data_pipelines.records.build import build
    from data_pipelines.records.record_set import RecordSet

    crop = Crop(options.crop, height=options.height, width=options.width)
    crop.check()
    with tempfile.TemporaryDirectory() as folder:
        if options.records:
            records = RecordSet.load(options.records)
        else:
            from data_pipelines.synth import layouts

            drawn = layouts.draw("celeba", f"{folder}/drawn", images=2000)
            records = build("celeba", drawn, f"{folder}/records")
        compare(records, crop, options.batch_size, options.rounds)


if __name__ == "__main__":
    main()
