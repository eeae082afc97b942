"""What each of several workers reads of an epoch, and what a run that goes on reads of the past.

    python -m benchmarks.shared_reading --records=RECORDS [--batch_size=N] [--height=N]

Bytes are those of all read calls of the process (`/proc/self/io`), and CPU seconds those of all of
its threads, so that other work on the machine does not count.
"""

import argparse
import collections
import itertools
import os
import time


def measure(batches) -> tuple[list, int, float]:
    """The elements of a dataset, and bytes read and CPU seconds taken until the last of them."""

    def read() -> int:
        with open("/proc/self/io") as file:
            return int(file.readline().split()[1])

    begin, seconds = read(), time.process_time()
    found = list(batches.as_numpy_iterator())
    return found, read() - begin, time.process_time() - seconds


def compare(options) -> None:
    """Reads an epoch with 1, 2 and 4 workers, the rest of one, and decodes one."""
    from data_pipelines.crop.geometry import Crop
    from data_pipelines.input.augment import Augment
    from data_pipelines.input.batches import training_batches
    from data_pipelines.input.reading import read_share, share_of
    from data_pipelines.input.stream import Source, batches_of_rows
    from data_pipelines.input.view import View
    from data_pipelines.records.record_set import RecordSet

    source, size = Source(RecordSet.load(options.records)), options.batch_size
    steps = source.count // size
    stored = sum(os.path.getsize(shard) for shard in source.records.shards[source.split])
    print(f"{source.count:,} images in {stored:,} bytes, {steps} steps of {size}")

    def share(index, workers, start=0):
        rows = batches_of_rows([source], 0, size, start)
        batches = read_share(rows, [source], share_of(size, index, workers))
        found, read, seconds = measure(batches.take(steps - start))
        return [examples.tolist() for _, (examples, _) in found], read, seconds

    whole, *_ = share(0, 1)
    for workers in (1, 2, 4):
        parts, read, _ = zip(*(share(index, workers) for index in range(workers)), strict=True)
        same = all(
            collections.Counter(itertools.chain(*together)) == collections.Counter(step)
            for step, *together in zip(whole, *parts, strict=True)
        )
        print(
            f"{workers} workers: bytes read {', '.join(f'{each:,}' for each in read)}; the same "
            f"examples in every step: {same}"
        )
    _, read, seconds = share(0, 1, steps - 2)
    print(f"begun two steps before the end of the epoch: {read:,} bytes, {seconds:.2f} CPU s")
    view = View(Crop("none", height=options.height, width=options.height))
    augment = Augment(flip=True, shift=0.05, rotate=10, scale=0.1, brightness=0.1, contrast=0.2)
    batches = training_batches(
        [source], source.records.tasks, view, augment, batch_size=size, seed=0
    )
    iterator = iter(batches)
    for _ in range(20):  # Compiling takes time that a long training does not notice.
        next(iterator)
    seconds = time.process_time()
    for _ in range(steps):
        next(iterator)
    seconds = time.process_time() - seconds
    print(
        f"decoded, cropped to {options.height}x{options.height} and changed at random: "
        f"{1e6 * seconds / steps / size:.0f} CPU us per image"
    )


def main() -> None:
    """Reads the options and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", required=True, help="folder of records")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--height", type=int, default=208, help="and width of the crop")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
