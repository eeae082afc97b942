"""Faces of videos: what is said of them, whether they keep their numbers, and what --blur leaves.

    python -m benchmarks.video --workdir=RUN [--data=FOLDER] [--frames=N] [--lengths=100,1000]

The videos are made of test pictures of MTFL upon pictures without faces, so that it is known who is
where in every frame:

- `pan`: the camera moves along a wall of faces in two rows, shakes, turns and zooms a little;
- `passing`: faces move the other way in front of others, so that they cover each other;
- `cuts`: every second the camera is elsewhere, and other faces stand where some were.

The light flickers and the sensor has noise; the files are MPEG-4 as OpenCV writes it. Printed is

- how often labels change, smoothed and frame by frame, over the same tracks, and how many are right;
- tracks under whose number two persons were seen, and how many tracks a person has;
- faces that the `mtcnn` package finds before and after --blur, at its own thresholds and at 0.5, and
  how many pixels outside of the boxes are other ones than in the source (both as decoded);
- the largest memory of the command by the length of a video, with --annotate and --blur.
"""

import argparse
import collections
import csv
import itertools
import os
import pathlib
import subprocess
import sys
import tempfile

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
SIZE = 640, 400  # width, height of a frame
CELL = 200  # pixels of the wall for each face
SIDES = 90, 130  # pixels of a picture with a face
RATE = 25.0
NEAR = 0.5  # of a face's size, from a found face's centre to the true one
JUDGES = {"its own thresholds": (0.6, 0.7, 0.8), "thresholds of 0.5": (0.5, 0.5, 0.5)}


def pictures(data: pathlib.Path, count: int, seed: int) -> list[tuple]:
    """Test pictures of MTFL, the landmarks `[5, 2]` of their person, and its labels."""
    rows = [line.split() for line in (data / "mtfl" / "testing.txt").read_text().splitlines()]
    random = np.random.default_rng(seed)
    found = []
    for index in random.permutation(len(rows))[:count]:
        name, *values = rows[index][:11]
        yes = [number == "1" for number in rows[index][11:14]]
        labels = dict(zip(("Male", "Smiling", "Eyeglasses"), yes, strict=True))
        picture, side = cv2.imread(str(data / "mtfl" / name)), int(random.integers(*SIDES))
        points = np.array(values, float).reshape(2, 5).T * np.divide(side, picture.shape[1::-1])
        found.append(
            (cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), points, labels)
        )
    return found


def on_cells(data: pathlib.Path, faces: list, seed: int) -> list[tuple]:
    """The same, each in a picture of `CELL` pixels without a face."""
    names = sorted((data / "nonface").rglob("*.jpg"))
    random = np.random.default_rng(seed)
    found = []
    for picture, points, labels in faces:
        cell = cv2.imread(str(names[random.integers(len(names))]))
        cell = cv2.resize(cell, (CELL, CELL), interpolation=cv2.INTER_AREA)
        left, top = random.integers(0, CELL - len(picture), 2)
        cell[top : top + len(picture), left : left + len(picture)] = picture
        found.append((cell, points + [left, top], labels))
    return found


class Scene:
    """A video whose persons are known: `(who, centre, size, labels)` of each frame, the front ones first."""

    def __init__(self, data: pathlib.Path, name: str, frames: int, seed: int = 1):
        """Draws nothing yet."""
        self.name, self.frames = name, frames
        self._jump = 3 * CELL if name == "cuts" else 0  # pixels, every second
        width = SIZE[0] + 3 * frames + 2 * CELL + self._jump * int(frames / RATE)
        self._columns = -(-width // CELL)
        self._wall = on_cells(data, pictures(data, 2 * self._columns, seed), seed)
        self._front = pictures(data, self._columns, seed + 1) if name == "passing" else []
        self._random = np.random.default_rng(seed)

    def __iter__(self):
        """BGR frames and who is in them."""
        rows = [self._wall[: self._columns], self._wall[self._columns :]]
        wall = np.vstack([np.hstack([picture for picture, *_ in row]) for row in rows])
        known = [
            (f"wall {row}.{column}", points + [column * CELL, row * CELL], labels)
            for row, line in enumerate(rows)
            for column, (_, points, labels) in enumerate(line)
        ]
        for index in range(self.frames):
            camera = self._camera(index)
            frame = cv2.warpAffine(wall, camera, SIZE, borderMode=cv2.BORDER_REFLECT)
            persons = self._draw_front(frame, index)
            persons += [(who, p @ camera[:, :2].T + camera[:, 2], said) for who, p, said in known]
            yield self._noisy(frame), [(who, *_place(p), said) for who, p, said in persons]

    def _camera(self, index: int) -> np.ndarray:
        """The transform `[2, 3]` from pixels of the wall to those of the frame."""
        angle, zoom = 3 * np.sin(index / 19), 1 + 0.06 * np.sin(index / 31)
        shake = self._random.normal(0, 0.7, 2)
        centre = (CELL + SIZE[0] / 2 + 3 * index + self._jump * int(index / RATE), CELL)
        camera = cv2.getRotationMatrix2D(centre, angle, zoom)
        camera[:, 2] += np.array([SIZE[0] / 2, SIZE[1] / 2]) - centre + shake
        return camera

    def _draw_front(self, frame: np.ndarray, index: int) -> list:
        persons = []
        for number, (picture, points, labels) in enumerate(self._front):
            side = len(picture)
            left = SIZE[0] + int(0.9 * CELL * number) - 4 * index
            top = (40, 240, 140)[number % 3]
            if -side < left < SIZE[0]:
                begin, end = max(0, left), min(SIZE[0], left + side)
                frame[top : top + side, begin:end] = picture[:, begin - left : end - left]
                persons.append((f"front {number}", points + [left, top], labels))
        return persons

    def _noisy(self, frame: np.ndarray) -> np.ndarray:
        light = 1 + 0.06 * self._random.normal()
        noise = cv2.randn(np.empty(frame.shape, np.float32), 0, 5)
        return (frame * light + noise).clip(0, 255).astype(np.uint8)


def _place(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre, and the width of a face of these landmarks."""
    return points.mean(axis=0), 2.2 * float(np.ptp(points, axis=0).max())


def write(scene: Scene, file: str) -> list:
    """Writes a scene; who is in each frame."""
    letters = cv2.VideoWriter_fourcc(*"mp4v")
    video, truth = cv2.VideoWriter(file, cv2.CAP_FFMPEG, letters, RATE, SIZE), []
    for frame, persons in scene:
        video.write(frame)
        truth.append(persons)
    video.release()
    return truth


def frames_of(file: str):
    """The RGB frames of a video, or a picture."""
    if not file.endswith((".mp4", ".mkv")):
        yield np.ascontiguousarray(cv2.imread(file)[..., ::-1])
        return
    video = cv2.VideoCapture(file, cv2.CAP_FFMPEG)
    while (one := video.read())[0]:
        yield np.ascontiguousarray(one[1][..., ::-1])


def follow(file: str, workdir: str) -> list:
    """The frames of a video with what the model says of each alone."""
    from data_pipelines.detection.mtcnn import Detector
    from data_pipelines.formats.video import VideoFrames
    from faceattr_tf.prediction.analyzer import Analyzer
    from faceattr_tf.prediction.video import THRESHOLDS, VideoAnalyzer

    analyzer = Analyzer.from_workdir(workdir)
    following = VideoAnalyzer(file, Detector(thresholds=THRESHOLDS), analyzer, seconds=0)
    return analyzer, list(following(VideoFrames(file, 10**9)))


def owner(face, persons: list) -> tuple:
    """Who a found face is, and the labels of the person; None and none where it is nobody."""
    centre = np.array(face.box[:2]) + np.array(face.box[2:]) / 2
    for who, place, size, labels in persons:
        if np.hypot(*(place - centre)) < NEAR * size / 2:
            return who, labels
    return None, {}


def labels_of(analyzer, frames: list, truth: list, seconds: float) -> float:
    """Prints how often labels of a track change from frame to frame, and how many are right."""
    from faceattr_tf.prediction.smoothing import Smoother

    smoothers, last, changed, steps, right = {}, {}, 0, 0, []
    for frame, persons in zip(frames, truth, strict=True):
        for face in frame.faces:
            if face.score is None:  # between two frames in which it was found
                continue
            smoother = smoothers.setdefault(
                face.track, Smoother(analyzer.tasks, analyzer.calibration, seconds)
            )
            labels = dict(_labels(smoother(frame.time, face.tasks)))
            if face.track in last:
                changed += sum(labels[name] != last[face.track][name] for name in labels)
                steps += 1
            last[face.track] = labels
            right += [labels[name] == yes for name, yes in owner(face, persons)[1].items()]
    rate = 100 * changed / max(1, steps)
    print(
        f"  --smooth={seconds:g}: {rate:.2f} changed labels per 100 frames of a face; "
        f"{np.mean(right):.1%} of {len(right)} labels right"
    )
    return rate


def _labels(said):
    for task, result in said.items():
        if hasattr(result, "label"):
            yield task, result.label
        elif isinstance(result, dict):
            yield from ((name, one.label) for name, one in result.items() if hasattr(one, "label"))


def identities(frames: list, truth: list) -> None:
    """Prints under how many numbers two persons were seen, and how many numbers a person has."""
    seen, found, shown = collections.defaultdict(set), 0, 0
    for frame, persons in zip(frames, truth, strict=True):
        for face in frame.faces:
            if face.score is None:
                continue
            who, _ = owner(face, persons)
            shown += 1
            if who is not None:
                seen[face.track].add(who)
                found += 1
    mixed = {track: who for track, who in seen.items() if len(who) > 1}
    persons = collections.Counter(who for names in seen.values() for who in names)
    print(
        f"  identities: {len(seen)} tracks of {len(persons)} persons ({found} of {shown} found faces "
        f"are theirs), {len(mixed)} tracks with two persons {dict(mixed) or ''}"
    )


def judge(files: list[str], thresholds: tuple, step: int = 1) -> tuple[int, int, int, list]:
    """Frames that were looked at, those in which the package finds a face, faces, some of them."""
    names = ("threshold_pnet", "threshold_rnet", "threshold_onet")
    named = dict(zip(names, thresholds, strict=True))
    network, looked, bad, count, places = _package(), 0, 0, 0, []
    frames = (frame for file in files for frame in frames_of(file))
    chosen = itertools.islice(enumerate(frames), 0, None, step)
    together = 10 if len(files) == 1 else 1  # of one size
    while part := list(itertools.islice(chosen, together)):
        found = network.detect_faces([frame for _, frame in part], **named)
        for (index, _), faces in zip(part, found, strict=True):
            looked, bad, count = looked + 1, bad + bool(faces), count + len(faces)
            places += [(index, face["box"], round(face["confidence"], 3)) for face in faces]
    return looked, bad, count, places[:5]


def _package():
    import mtcnn

    return mtcnn.MTCNN()


def blurred(files: list[str], folder: str) -> None:
    """Covers the faces of videos or pictures; prints what is left of them and of the rest."""
    from faceattr_tf.prediction.blur_folder import anonymise

    anonymise(files, folder)
    boxes = collections.defaultdict(list)
    with open(pathlib.Path(folder, "boxes.csv"), newline="") as table:
        for row in csv.DictReader(table):
            sides = (int(row[name]) for name in ("left", "top", "width", "height"))
            boxes[row["filename"], int(row["frame"] or 0)].append(tuple(sides))
    other = outside = total = count = 0
    copies = [str(pathlib.Path(folder, pathlib.Path(file).name)) for file in files]
    copies = [copy + (".mkv" if copy.endswith(".mp4") else ".png") for copy in copies]
    for file, copy in zip(files, copies, strict=True):
        pairs = zip(frames_of(file), frames_of(copy), strict=True)
        for index, (before, after) in enumerate(pairs):
            mask = np.ones(before.shape[:2], bool)
            for left, top, width, height in boxes[file, index]:
                mask[top : top + height, left : left + width] = False
            other += int((before != after).any(axis=2)[mask].sum())
            outside, total, count = outside + int(mask.sum()), total + mask.size, count + 1
    print(
        f"  --blur: {count} frames, {other} of {outside:,} pixels outside of the boxes changed "
        f"({1 - outside / total:.0%} of all are inside)"
    )
    step = 10 if len(files) == 1 else 1
    for name, thresholds in JUDGES.items():
        before, after = judge(files, thresholds, step), judge(copies, thresholds)
        print(
            f"  the package at {name}: before {before[2]} faces in {before[1]} of {before[0]} frames, "
            f"after --blur {after[2]} in {after[1]} of {after[0]} {after[3] or ''}",
            flush=True,
        )


def memory(data: pathlib.Path, workdir: str, lengths: list[int], folder: str) -> None:
    """Prints the largest memory of the command for videos of several lengths."""
    for length in lengths:
        file = f"{folder}/long{length}.mp4"
        write(Scene(data, "pan", length), file)
        program = (
            "import resource, subprocess, sys\n"
            "subprocess.run(sys.argv[1:], check=True)\n"
            "usage = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
            "print(usage.ru_maxrss // 1024, round(usage.ru_utime + usage.ru_stime))\n"
        )
        flags = [f"--workdir={workdir}", f"--output={folder}/out", f"--blur={folder}/blur", file]
        command = [sys.executable, "-m", "faceattr_tf.commands.predict", *flags]
        done = subprocess.run(
            [sys.executable, "-c", program, *command],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        mebibytes, seconds = done.stdout.splitlines()[-1].split()
        print(
            f"memory: {length} frames of {SIZE[0]} x {SIZE[1]}, annotated and blurred: at most "
            f"{mebibytes} MiB, {seconds} s of processor time",
            flush=True,
        )


def main() -> None:
    """Parses flags and runs everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, help="a run of aligned or boxed faces")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--frames", type=int, default=250, help="of a scene")
    parser.add_argument("--scenes", default="pan,passing,cuts")
    parser.add_argument("--photographs", action="store_true", help="those of WIDER FACE, too")
    parser.add_argument("--lengths", default="100,1000", help="frames for the memory; or empty")
    parser.add_argument("--seed", type=int, default=1, help="which pictures")
    parser.add_argument("--noblur", action="store_true", help="leave out what takes longest")
    flags = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    workdir = os.path.abspath(flags.workdir)
    with tempfile.TemporaryDirectory() as folder:
        for name in filter(None, flags.scenes.split(",")):
            scene = Scene(flags.data, name, flags.frames, flags.seed)
            file = f"{folder}/{name}.mp4"
            truth = write(scene, file)
            print(f"{name}: {flags.frames} frames of {SIZE[0]} x {SIZE[1]}", flush=True)
            analyzer, frames = follow(file, workdir)
            rates = [labels_of(analyzer, frames, truth, seconds) for seconds in (0.0, 1.0)]
            print(f"  smoothed by frame by frame: {rates[1] / max(rates[0], 1e-9):.3f}")
            identities(frames, truth)
            if not flags.noblur:
                blurred([file], f"{folder}/{name}-blur")
        if flags.photographs:
            files = sorted(map(str, (flags.data / "wider_face").rglob("*.jpg")))
            print(f"{len(files)} photographs of WIDER FACE", flush=True)
            blurred(files, f"{folder}/photographs-blur")
        memory(flags.data, workdir, [int(n) for n in flags.lengths.split(",") if n], folder)


if __name__ == "__main__":
    main()
