"""An exported model under load: throughput against the bare network, and minutes of rough traffic.

    python -m benchmarks.serving_load MODELS [--name=NAME] [--version=N] [--minutes=N] [--clients=N]
        [--other=N --switch=S] [--slow=N] [--pause=S]

First, competitors take turns within one process, and the medians of their rounds are compared:

- bare: the network's part of the graph on crops that lie ready, and after it decoding and cropping;
- served: the signature `serving_default`, which does both and isolates bad images.

Then a server process (the test double over TensorFlow Serving's official gRPC services, one process
and TensorFlow's Python runtime) is asked by several clients at a time: faces of all sizes, cut-off
files, empty strings, pictures of one pixel, and pictures above the limit, mixed at random. Every
answer is compared with that to the same image alone. With `--switch=60 --other=2`, the label that
they ask for moves to the other version and back every minute, by the requests that
`faceattr-deploy`'s configuration makes of a server; every answer has to be one of these versions'.
`--slow=4` holds four connections open besides that send a byte a second and never a request.
Memory is read every ten seconds, and its slope is that after the first ten minutes. Under glibc the
server's heap is shown besides: a leak shows in what is in use at the least, an allocator that does
not give back what is free in the resident memory alone.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import random
import socket
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
from benchmarks.heap import heap
from serving_double import start
labels = {"stable": int(sys.argv[3]), "canary": int(sys.argv[4])}
server, port, _ = start(sys.argv[1], sys.argv[2], labels)
print(port, flush=True)
for _ in sys.stdin:
    print(*heap(), flush=True)
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


def memory_of(server: subprocess.Popen) -> tuple[float, float, float]:
    """MiB of the server: resident, and of its heap in use and free but kept."""
    server.stdin.write("\n")
    server.stdin.flush()
    in_use, kept = (float(word) for word in server.stdout.readline().split())
    return resident(server.pid, "VmRSS"), in_use, kept


class Traffic:
    """Clients that ask at random until they are told to stop, and what they saw.

    Attributes:
        latencies: seconds of every request that was answered.
        failures: what was said of every one that was not.
        wrong: kinds of images whose answer is of none of the versions.
        images: how many were answered.
    """

    def __init__(self, address: str, name: str, pool: dict, expected: list[dict], pause: float):
        """Asks nothing yet; `expected` has for each version file -> output -> value."""
        self.address, self.name, self.pool = address, name, pool
        self.expected, self.pause = expected, pause
        self.latencies, self.failures, self.wrong, self.images = [], [], [], 0
        self.lock, self.stop = threading.Lock(), threading.Event()

    def ask(self, seed: int) -> None:
        """One client."""
        from export.client import Client
        from export.transports import Refused, Unavailable

        rng = random.Random(seed)
        with Client(self.address, self.name, label="stable", deadline=60, retries=0) as client:
            while not self.stop.wait(rng.uniform(0, 2 * self.pause)):
                kinds = rng.choices(list(self.pool), [20, 1, 2, 1, 1, 1], k=rng.randint(1, 16))
                given = [rng.choice(self.pool[kind]) for kind in kinds]
                begin = time.perf_counter()
                try:
                    found = client.call("serving_default", {"image_bytes": given})
                except (Refused, Unavailable) as error:
                    with self.lock:
                        self.failures.append(repr(error))
                    continue
                taken = time.perf_counter() - begin
                versions = [self._is_of(expected, found, given) for expected in self.expected]
                best = max(versions, key=sum)  # a request is answered by one version
                bad = [kind for kind, right in zip(kinds, best, strict=True) if not right]
                with self.lock:
                    self.latencies.append(taken)
                    self.wrong.extend(bad)
                    self.images += len(given)

    @staticmethod
    def _is_of(expected: dict, found: dict, given: list[bytes]) -> list[bool]:
        return [
            all(
                np.allclose(found[key][row], value, rtol=0, atol=1e-3, equal_nan=True)
                for key, value in expected[data].items()
            )
            for row, data in enumerate(given)
        ]

    def dawdle(self) -> None:
        """A connection that sends a byte a second of what would be a request."""
        host, port = self.address.split(":")
        message = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000)
        while not self.stop.is_set():
            with socket.create_connection((host, int(port))) as connection:
                for byte in message:
                    if self.stop.wait(1):
                        return
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:  # the server has had enough of it
                        break


def switch(address: str, name: str, versions: list[int], seconds: float, stop) -> int:
    """Moves the label `stable` from version to version, each loaded as `canary` before.

    Returns:
        How often it moved.
    """
    import grpc
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    def configure(stub, labels):
        request = ReloadConfigRequest()
        model = request.config.model_config_list.config.add(name=name, model_platform="tensorflow")
        model.model_version_policy.specific.versions.extend(sorted(set(labels.values())))
        for label, version in labels.items():
            model.version_labels[label] = version
        stub.HandleReloadConfigRequest(request)

    count = 0
    with grpc.insecure_channel(address) as channel:
        stub = ModelServiceStub(channel)
        configure(stub, {"stable": versions[0]})
        while not stop.wait(seconds):
            old, new = versions[count % 2], versions[(count + 1) % 2]
            configure(stub, {"stable": old, "canary": new})
            configure(stub, {"stable": new})
            count += 1
    return count


def answers_alone(address: str, name: str, label: str, pool: dict) -> dict[bytes, dict]:
    """What a version says of every image of the pool in a request of its own."""
    from export.client import Client

    expected = {}
    with Client(address, name, label=label) as client:
        for data in itertools.chain.from_iterable(pool.values()):
            found = client.call("serving_default", {"image_bytes": [data]})
            expected[data] = {key: values[0] for key, values in found.items()}
    return expected


def load(flags) -> None:
    """Asks a server process for some minutes and prints what came of it."""
    from export.description import read_description

    versions = [flags.version, flags.other or flags.version]
    description = read_description(flags.models / flags.name / str(flags.version))
    pool = pool_of_images(description["max_pixels"])
    command = [sys.executable, "-c", SERVER, str(flags.models.resolve()), flags.name]
    server = subprocess.Popen(
        command + [str(version) for version in versions],
        cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        address = f"127.0.0.1:{int(server.stdout.readline())}"
        expected = [
            answers_alone(address, flags.name, label, pool) for label in ("stable", "canary")
        ]
        for kind, images in pool.items():
            valid = any(expected[0][data]["valid"] for data in images)
            print(f"{kind}: {'answered' if valid else 'refused'}")
        traffic = Traffic(address, flags.name, pool, expected, flags.pause)
        workers = [(traffic.ask, seed) for seed in range(flags.clients)]
        workers += [(traffic.dawdle,)] * flags.slow
        with concurrent.futures.ThreadPoolExecutor(len(workers) + 1) as threads:
            running = [threads.submit(*worker) for worker in workers]
            if flags.switch:
                asked = address, flags.name, versions, flags.switch, traffic.stop
                running.append(threads.submit(switch, *asked))
            memory, begin = [], time.monotonic()
            try:
                while time.monotonic() < begin + 60 * flags.minutes and server.poll() is None:
                    memory.append((time.monotonic() - begin, *memory_of(server)))
                    time.sleep(10)
            finally:
                traffic.stop.set()
        switches = running[-1].result() if flags.switch else 0
        assert server.poll() is None, "the server is gone"
        memory.append((time.monotonic() - begin, *memory_of(server)))
        report(traffic, np.array(memory), resident(server.pid, "VmHWM"), switches)
    finally:
        server.kill()
        server.wait()


def report(traffic: Traffic, memory: np.ndarray, most: float, switches: int) -> None:
    """Prints what came of the traffic; `memory` `[N, 4]` is in seconds and MiB."""
    minutes = memory[-1, 0] / 60
    print(
        f"{minutes:.1f} minutes, {switches} switches of the version: {len(traffic.latencies):,} "
        f"requests, {traffic.images:,} images ({traffic.images / minutes / 60:,.0f} a second), "
        f"{len(traffic.failures)} failed, {len(traffic.wrong)} answers differ from those to the "
        "image alone"
    )
    p50, p99 = np.percentile(traffic.latencies, [50, 99])
    print(f"latency p50 {1000 * p50:,.0f} ms, p99 {1000 * p99:,.0f} ms")
    print(
        f"memory of the server: {memory[0, 1]:,.0f} MiB before, {memory[-1, 1]:,.0f} after, "
        f"{most:,.0f} at most; its heap in use {memory[0, 2]:,.0f} and {memory[-1, 2]:,.0f} MiB"
    )
    late = memory[memory[:, 0] > 600]
    if len(late) > 30:
        slope = 3600 * np.polyfit(late[:, 0], late[:, 1], 1)[0]
        print(f"slope of the memory after ten minutes: {slope:.2f} MiB an hour")
        for part in np.array_split(late, 6):
            _, whole, _, kept = np.median(part, axis=0)
            print(
                f"  to minute {part[-1, 0] / 60:.0f}: {whole:,.1f} MiB; of the heap at least "
                f"{part[:, 2].min():,.1f} in use, {kept:,.1f} free but kept"
            )
    for text in sorted(set(traffic.failures))[:5]:
        print(text)


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
    parser.add_argument("--other", type=int, default=0, help="version to switch to")
    parser.add_argument("--switch", type=float, default=0.0, help="seconds between switches")
    parser.add_argument("--slow", type=int, default=0, help="connections that dawdle")
    parser.add_argument("--pause", type=float, default=0.0, help="mean seconds before a request")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if flags.rounds:
        throughput(flags.models / flags.name / str(flags.version), flags.rounds, flags.batch)
    load(flags)


if __name__ == "__main__":
    main()
