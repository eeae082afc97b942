"""An exported model under load: throughput against the bare network, and minutes of rough traffic.

    python -m benchmarks.serving_load MODELS [--name=NAME] [--version=N] [--minutes=N] [--clients=N]

First, competitors take turns within one process, and the medians of their rounds are compared:

- bare: the network's part of the graph on crops that lie ready, and after it decoding and cropping;
- served: the signature `serving_default`, which does both and isolates bad images.

Then a server process (the test double over TensorFlow Serving's official gRPC services, one process
and TensorFlow's Python runtime) is asked by several clients at a time: faces of all sizes, cut-off
files, empty strings, pictures of one pixel, and pictures above the limit, mixed at random. Every
answer is compared with that to the same image alone.
"""

import argparse
import itertools
import os
import pathlib
import random
import statistics
import subprocess
import sys
import threading
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]

SERVER = """
import sys
sys.path.insert(0, "tests")
from serving_double import start
server, port, _ = start(sys.argv[1], sys.argv[2], {"stable": int(sys.argv[3])})
print(port, flush=True)
server.wait_for_termination()
"""


def pool_of_images(limit: int) -> dict[str, list[bytes]]:
    """Files of every kind; `limit` is the number of pixels that the model decodes."""
    from data_pipelines.synth.drawing import draw_face

    rng = np.random.default_rng(0)

    def face(height, width, ending=".jpg"):
        picture, _, _ = draw_face(rng, {}, size=(218, 178))
        picture = cv2.resize(picture, (width, height))
        return cv2.imencode(ending, picture[..., ::-1])[1].tobytes()

    sizes = rng.integers(60, 900, (24, 2)).tolist()
    faces = [face(h, w, ending) for (h, w), ending in zip(sizes, itertools.cycle((".jpg", ".png")))]
    high = face(4000, 6000)
    assert limit < 4000 * 6000
    return {
        "face": faces,
        "photograph": [face(3000, 4000)],
        "cut off": [data[: len(data) // 2] for data in faces[:6]],
        "empty": [b""],
        "one pixel": [face(1, 1), face(1, 1, ".png")],
        "too large": [high, face(4000, 6000, ".png")],
    }


def throughput(folder: pathlib.Path, rounds: int, size: int) -> None:
    """Prints images/s of the bare parts and of the signature."""
    import tensorflow as tf

    from data_pipelines.crop.geometry import Crop
    from data_pipelines.crop.pixels import decode_and_crop
    from export.description import read_description
    from export.drawn_requests import draw_requests

    model = tf.saved_model.load(str(folder))
    crop = Crop.from_dict(read_description(folder)["crop"])
    encoded = tf.constant(draw_requests(size).encoded)
    nowhere = tf.fill([size, 4], np.nan), tf.fill([size, 5, 2], np.nan)
    decode = tf.function(lambda data: decode_and_crop(data, *nowhere, crop)[0])
    crops = decode(encoded)
    served = model.signatures["serving_default"]

    def bare():
        for value in model.on_device(crops).values():
            value.numpy()
        decode(encoded).numpy()

    def signature():
        for value in served(image_bytes=encoded).values():
            value.numpy()

    competitors = {"bare": bare, "served": signature}
    seconds = {name: [] for name in competitors}
    for number in range(rounds + 1):
        for name, run in competitors.items():
            begin = time.perf_counter()
            run()
            if number:  # The first round compiles.
                seconds[name].append(time.perf_counter() - begin)
    rates = {name: size / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:8}{rate:10,.1f} images/s")
    print(f"served / bare at batch {size}: {rates['served'] / rates['bare']:.3f}")


def resident(process: int, field: str) -> float:
    """MiB of memory of a process: `VmRSS` now, `VmHWM` at most."""
    for line in pathlib.Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def load(models: pathlib.Path, name: str, version: int, minutes: float, clients: int) -> None:
    """Asks a server process for some minutes and prints what came of it."""
    from export.client import Client
    from export.description import read_description
    from export.transports import Refused, Unavailable

    description = read_description(models / name / str(version))
    pool = pool_of_images(description["max_pixels"])
    command = [sys.executable, "-c", SERVER, str(models.resolve()), name, str(version)]
    server = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        expected = {}
        with Client(address, name) as client:
            for images in pool.values():
                for data in images:
                    found = client.call("serving_default", {"image_bytes": [data]})
                    expected[data] = {key: values[0] for key, values in found.items()}
        for kind, images in pool.items():
            valid = {bool(expected[data]["valid"]) for data in images}
            print(f"{kind}: {'answered' if True in valid else 'refused'}")
        before = resident(server.pid, "VmRSS")
        latencies, failures, wrong, images = [], [], [], 0
        lock, end = threading.Lock(), time.monotonic() + 60 * minutes

        def ask(seed):
            nonlocal images
            rng = random.Random(seed)
            with Client(address, name, deadline=60, retries=0) as client:
                while time.monotonic() < end:
                    kinds = rng.choices(list(pool), [20, 1, 2, 1, 1, 1], k=rng.randint(1, 16))
                    given = [rng.choice(pool[kind]) for kind in kinds]
                    begin = time.perf_counter()
                    try:
                        found = client.call("serving_default", {"image_bytes": given})
                    except (Refused, Unavailable) as error:
                        with lock:
                            failures.append(repr(error))
                        continue
                    taken = time.perf_counter() - begin
                    bad = [
                        kind
                        for row, (kind, data) in enumerate(zip(kinds, given, strict=True))
                        if not all(
                            np.allclose(found[key][row], value, rtol=0, atol=1e-3, equal_nan=True)
                            for key, value in expected[data].items()
                        )
                    ]
                    with lock:
                        latencies.append(taken)
                        wrong.extend(bad)
                        images += len(given)

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(
            f"{clients} clients, {minutes:g} minutes: {len(latencies):,} requests, {images:,} images "
            f"({images / minutes / 60:,.0f} a second), {len(failures)} failed, {len(wrong)} answers "
            "differ from those to the image alone"
        )
        p50, p99 = np.percentile(latencies, [50, 99])
        print(f"latency p50 {1000 * p50:,.0f} ms, p99 {1000 * p99:,.0f} ms")
        print(
            f"memory of the server: {before:,.0f} MiB before, {resident(server.pid, 'VmRSS'):,.0f} "
            f"after, {resident(server.pid, 'VmHWM'):,.0f} at most"
        )
        for text in sorted(set(failures))[:5]:
            print(text)
        assert server.poll() is None, "the server is gone"
    finally:
        server.kill()
        server.wait()


def main() -> None:
    """Parses flags and runs both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("--name", default="faceattr")
    parser.add_argument("--version", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    throughput(flags.models / flags.name / str(flags.version), flags.rounds, flags.batch)
    load(flags.models, flags.name, flags.version, flags.minutes, flags.clients)


if __name__ == "__main__":
    main()
