"""Faces of photographs: `Detector` beside the `mtcnn` package, in speed and in what is found.

    python -m benchmarks.detection [--data=FOLDER] [--threads=1,2] [--rounds=N] [--pictures=N]

Pictures of MTFL (150 to 400 pixels), photographs of WIDER FACE (about 1024x700), and the same
enlarged to 12 megapixels, which `Detector` reduces to its largest side first, here ahead of time
for both.

- Speed: the two take turns over the same batches in one process for each number of threads;
  pictures of equal size are one batch for the package, which would pad others. The medians of their
  rounds are compared, the first of which, with its preparations, does not count.
- What is found: over more pictures, the share of annotated faces with a box of IoU 0.5 or more, and
  the differences of boxes. The package sorts candidates by a sort that is not stable; of equal
  scores, which are common near 1, another one comes first on another processor. Therefore the
  package with a stable sort is a third competitor.
- A profile with one thread: where the time of one photograph goes, and what convolutions of these
  sizes take without anything else.
"""

import argparse
import collections
import os
import pathlib
import statistics
import subprocess
import sys
import time

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
MEGAPIXELS = 12
SAME = 1.0  # pixels within which boxes are those of the same candidate


def annotated(data: pathlib.Path) -> dict[str, np.ndarray]:
    """WIDER's boxes `[N, 4]` (left, top, right, bottom) by the path of each photograph."""
    found = {}
    for split in ("train", "val"):
        text = (data / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").read_text()
        lines = iter(text.splitlines())
        for name in lines:
            count = int(next(lines))
            rows = [next(lines).split()[:4] for _ in range(max(1, count))][:count]
            boxes = np.array(rows, float).reshape(-1, 4)
            path = data / f"WIDER_{split}" / "images" / name
            if path.exists():
                found[str(path)] = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return found


def enlarged(picture: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A photograph in 12 megapixels, reduced as `Detector` does it, and its boxes in that size."""
    from data_pipelines.detection.mtcnn import MAXIMUM_SIDE

    height, width = picture.shape[:2]
    factor = (MEGAPIXELS * 1e6 / (height * width)) ** 0.5
    full = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    factor = MAXIMUM_SIDE / max(full.shape[:2])
    size = tuple(round(side * factor) for side in full.shape[1::-1])
    reduced = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    return reduced, boxes * np.tile(np.divide(size, (width, height)), 2)


def load(data: pathlib.Path, count: int) -> dict[str, list]:
    """Pictures with their boxes (None of MTFL's, which has none) by what they are."""
    names = [sorted((data / "mtfl" / part).glob("*.jpg")) for part in ("AFLW", "lfw_5590")]
    names = [name for part in names for name in part[:: max(1, 2 * len(part) // count)]]
    wider = sorted(annotated(data / "wider_face").items())
    wider = [(cv2.imread(name)[:, :, ::-1], boxes) for name, boxes in wider][:count]
    return {
        "MTFL": [(cv2.imread(str(name))[:, :, ::-1], None) for name in names[:count]],
        "WIDER FACE": wider,
        "12 megapixels": [enlarged(*one) for one in wider[: max(4, count // 8)]],
    }


def package(pictures: list[np.ndarray], stable: bool = False) -> list[np.ndarray]:
    """The package's boxes `[N, 4]` (left, top, right, bottom) of each picture."""
    import mtcnn_package

    found, by_size = [None] * len(pictures), collections.defaultdict(list)
    for index, picture in enumerate(pictures):
        by_size[picture.shape].append(index)
    for indices in by_size.values():
        rows = mtcnn_package.rows([pictures[index] for index in indices], stable=stable)
        for place, index in enumerate(indices):
            found[index] = rows[rows[:, 0] == place, 1:5]
    return found


def ours(detector):
    """The same by a `Detector`."""

    def detect(pictures):
        boxes = [np.array([face.box for face in faces]) for faces in detector(pictures)]
        boxes = [found.reshape(-1, 4) for found in boxes]
        return [np.hstack([found[:, :2], found[:, :2] + found[:, 2:]]) for found in boxes]

    return detect


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `[A, 4]` and `[B, 4]`: `[A, B]`."""
    begin = np.maximum(first[:, None, :2], second[None, :, :2])
    end = np.minimum(first[:, None, 2:], second[None, :, 2:])
    common = np.clip(end - begin, 0, None).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return common / (areas[0][:, None] + areas[1] - common)


def recall(found: list[np.ndarray], boxes: list[np.ndarray]) -> float:
    """Share of annotated faces with a box of IoU 0.5 or more."""
    hits = [
        iou(truth, own).max(1, initial=0) >= 0.5 for own, truth in zip(found, boxes, strict=True)
    ]
    return float(np.concatenate(hits).mean())


def compare(found: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """Pictures with other faces, and the largest difference of boxes in all others."""
    counts, moved, largest = 0, 0, 0.0
    for own, other in zip(found, expected, strict=True):
        if len(own) != len(other):
            counts += 1
        elif len(own):
            distance = np.abs(own[:, None] - other).max(-1).min(1).max()
            moved += distance > SAME
            largest = max(largest, distance if distance <= SAME else 0.0)
    return (
        f"{counts} pictures with another number of faces, {moved} with another candidate for a "
        f"face, all other boxes within {largest:.3f} px"
    )


def accuracy(data: pathlib.Path, count: int) -> None:
    """Prints what is found of all pictures by both."""
    from data_pipelines.detection.mtcnn import Detector

    detector = Detector()
    for name, rows in load(data, count).items():
        pictures, boxes = zip(*rows, strict=True)
        found = ours(detector)(pictures)
        plain, stable = package(pictures), package(pictures, stable=True)
        print(f"{name}: {len(pictures)} pictures, {sum(map(len, plain))} faces by the package")
        if boxes[0] is not None:
            count = sum(map(len, boxes))
            print(
                f"  of {count} annotated faces: {recall(found, boxes):.4f} found, "
                f"by the package {recall(plain, boxes):.4f}"
            )
        print(f"  against the package: {compare(found, plain)}")
        print(f"  its sort being stable: {compare(found, stable)}")
        print(f"  the package's two sorts: {compare(plain, stable)}", flush=True)


def speed(data: pathlib.Path, count: int, rounds: int) -> None:
    """Prints pictures/s of both."""
    from data_pipelines.detection.mtcnn import Detector

    competitors = {"ours": ours(Detector()), "package": package}
    for name, rows in load(data, count).items():
        pictures = [picture for picture, _ in rows]
        for batch in (1, len(pictures)):
            parts = [pictures[i : i + batch] for i in range(0, len(pictures), batch)]
            seconds = {who: [0.0] * (rounds + 1) for who in competitors}
            for turn in range(rounds + 1):
                for part in parts:
                    for who, run in competitors.items():
                        begin = time.perf_counter()
                        run(part)
                        seconds[who][turn] += time.perf_counter() - begin
            rates = {
                who: len(pictures) / statistics.median(times[1:]) for who, times in seconds.items()
            }
            print(
                f"  {name:14} batch {batch:2}: {rates['ours']:6.1f} pictures/s, the package "
                f"{rates['package']:5.2f}, ratio {rates['ours'] / rates['package']:5.1f}",
                flush=True,
            )


def profile(data: pathlib.Path, rounds: int) -> None:
    """Prints where the time goes for one photograph, and what its convolutions alone would take."""
    import tensorflow as tf

    from data_pipelines.detection import mtcnn_networks as networks
    from data_pipelines.detection import mtcnn_pyramid as pyramid
    from data_pipelines.detection.mtcnn_graph import ALL, FaceFinder

    finder, weights = FaceFinder(), networks.load_weights()
    picture = tf.constant(load(data, 16)["WIDER FACE"][-1][0][None])
    size, minimum = tf.constant([picture.shape[1:3]]), tf.constant(20.0, tf.float64)
    _, levels = pyramid.level_scales(size[0], minimum)
    draw = tf.function(lambda: pyramid.draw_pyramids(picture, levels))
    canvas = draw()
    proposals = tf.function(lambda: finder._proposals(picture, size, minimum, ALL))
    boxes, owners, _ = proposals()
    refined = tf.function(lambda: finder._refined(picture, size, boxes, owners))
    best, best_owners = refined()
    last = tf.function(lambda: finder._output(picture, size, best, best_owners))
    steps = {
        "all": lambda: finder(picture, size, minimum, ALL),
        "pyramid": draw,
        "P-Net": tf.function(lambda: networks.propose(canvas, weights.pnet)),
        "pyramid, P-Net, suppression": proposals,
        f"R-Net, {len(boxes)} crops": refined,
        f"O-Net, {len(best)} crops": last,
        "convolutions of P-Net alone": _bare(canvas, weights.pnet[::3][:3], (1, 0, 0)),
        "convolutions of R-Net alone": _bare(
            tf.zeros([len(boxes), 24, 24, 3]), weights.rnet[::3][:3], (1, 1, 0)
        ),
    }
    seconds = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, run in steps.items():
            begin = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    print(f"one photograph of {picture.shape[2]}x{picture.shape[1]}, one thread")
    for name, times in seconds.items():
        print(f"  {1000 * statistics.median(times):7.1f} ms {name}", flush=True)


def _bare(values, kernels, pooled):
    """A network's convolutions and nothing else; `pooled` ones are followed by a smaller map."""
    import tensorflow as tf

    inputs, shape = [], values.shape
    for kernel, halved in zip(kernels, pooled, strict=True):
        inputs.append(tf.random.normal([*shape[:3], kernel.shape[2]]))
        sides = [side - kernel.shape[0] + 1 for side in shape[1:3]]
        shape = [shape[0], *((side + 1) // 2 if halved else side for side in sides)]
    return tf.function(
        lambda: [
            tf.nn.conv2d(one, kernel, 1, "VALID")
            for one, kernel in zip(inputs, kernels, strict=True)
        ]
    )


def main() -> None:
    """Parses flags and runs both parts, each number of threads in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--threads", default="1,2", help="empty: only what is found")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=16, help="of each kind, and in a batch")
    parser.add_argument("--compared", type=int, default=80, help="pictures for what is found")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT / "tests"))  # the package as the reference
    if flags.worker is None:
        for threads in map(int, filter(None, flags.threads.split(","))):
            print(f"{threads} threads", flush=True)
            command = [sys.executable, "-m", "benchmarks.detection", *sys.argv[1:]]
            subprocess.run([*command, f"--worker={threads}"], cwd=ROOT, check=True)
        accuracy(flags.data, flags.compared)
        return
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(flags.worker)
    tf.config.threading.set_inter_op_parallelism_threads(flags.worker)
    cv2.setNumThreads(flags.worker)
    speed(flags.data, flags.pictures, flags.rounds)
    if flags.worker == 1:
        profile(flags.data, 5 * flags.rounds)


if __name__ == "__main__":
    main()
