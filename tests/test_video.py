import csv
import json
import os
import signal
import struct
import time

import cv2
import numpy as np
import pytest
from drawn_video import SquareDetector, draw, read_video, write_video
from tiny_workdir import draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.formats.video import LOSSLESS, VideoFrames, VideoWriter, is_video
from faceattr_tf.commands import predict as command
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Face
from faceattr_tf.prediction.predict_video import split_videos
from faceattr_tf.prediction.video import COLUMNS, VideoAnalyzer

ALL = 10**9


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run") / "box", Crop("box", 12, 10)).path


@pytest.fixture
def squares(monkeypatch):
    """Squares stand for faces."""
    for module in ("analyzer", "predict_video", "blur_folder"):
        monkeypatch.setattr(f"faceattr_tf.prediction.{module}.Detector", SquareDetector)


def moving(count, gap=()):
    """Frames with two squares, of which the first one is not there in some."""
    for frame in range(count):
        first = None if frame in gap else (10 + 2 * frame, 20)
        yield draw([first, (110 - 2 * frame, 60)])


def test_videos_are_told_by_their_endings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.MP4", "b.jpg", "c.mkv", "[1].avi"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    assert split_videos(["a.MP4", "b.jpg", "folder.mp4"]) == (["b.jpg", "folder.mp4"], ["a.MP4"])
    assert split_videos(["*.mkv", "*", 0, "a.MP4"]) == (["*"], ["c.mkv", "[1].avi", "a.MP4", 0])
    assert split_videos(["absent.mp4", "[1].avi"]) == (["absent.mp4"], ["[1].avi"])
    assert not is_video("mp4") and is_video("x.WebM")


@pytest.mark.parametrize("size", [(96, 160), (95, 161)])
def test_the_lossless_codec_gives_back_every_pixel(tmp_path, size):
    frames = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i in range(5)]
    with VideoWriter(tmp_path / "a.mkv", LOSSLESS[1], 12.5) as write:
        for frame in frames:
            write(frame)
    found = read_video(tmp_path / "a.mkv")
    np.testing.assert_array_equal(found[:, : size[0], : size[1]], np.stack(frames))
    video = VideoFrames(tmp_path / "a.mkv", ALL)
    times = [time for time, _ in video]
    np.testing.assert_allclose(times, np.arange(5) / 12.5, atol=2e-3)
    assert (video.rate, video.read, video.missing, video.uneven) == (12.5, 5, 0, False)


def test_frames_come_upright(tmp_path):
    file = tmp_path / "a.mp4"
    write_video(file, [draw([(10, 20)])] * 3, "mp4v")
    stored = read_video(file)
    content = bytearray(file.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(
        ">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30
    )  # to be turned by a quarter
    file.write_bytes(content)
    video = VideoFrames(file, ALL)
    frames = [pixels for _, pixels in video]
    np.testing.assert_array_equal(np.stack(frames), np.rot90(stored, -1, axes=(1, 2)))


@pytest.mark.parametrize("content", [b"", b"no video" * 100, bytes(range(256)) * 20])
def test_what_is_no_video_is_one_line(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match="a.mp4: not a video that can be read"):
        VideoFrames(tmp_path / "a.mp4", ALL)


def test_videos_that_are_too_large_or_absent_are_refused(tmp_path):
    write_video(tmp_path / "a.mkv", [draw([])] * 2)
    with pytest.raises(UserError, match="frames of 160 x 96 pixels, more than --max_pixels=9"):
        VideoFrames(tmp_path / "a.mkv", 9)
    with pytest.raises(UserError, match="b.mkv: no such file or directory"):
        VideoFrames(tmp_path / "b.mkv", ALL)
    with pytest.raises(UserError, match="camera 987: there is no such camera"):
        VideoFrames(987, ALL)


def test_times_are_those_of_the_file_where_they_make_sense(monkeypatch):
    class Capture:
        """Three properties and frames at given times."""

        def __init__(self, *_):
            self._times = iter(self.times)

        def read(self):
            self._now = next(self._times, None)
            return self._now is not None, np.zeros((10, 20, 3), np.uint8)

        def get(self, name):
            sides = {cv2.CAP_PROP_FRAME_WIDTH: 20, cv2.CAP_PROP_FRAME_HEIGHT: 10}
            known = sides | {cv2.CAP_PROP_FPS: 10, cv2.CAP_PROP_FRAME_COUNT: -9e18}
            return 1000 * self._now if name == cv2.CAP_PROP_POS_MSEC else known[name]

        def set(self, *_):
            return True

        def isOpened(self):
            return True

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    for times, expected, uneven in (
        ([5.0, 5.1, 5.2, 5.3], [0, 0.1, 0.2, 0.3], False),
        ([0, 0.1, 0.5, 0.6], [0, 0.1, 0.5, 0.6], True),
        ([0, 0, 0, 0], [0, 0.1, 0.2, 0.3], False),
        ([0, 0.1, 0.05, 0.4], [0, 0.1, 0.2, 0.4], False),
    ):
        Capture.times = times
        video = VideoFrames(0, ALL)
        assert [time for time, _ in video] == pytest.approx(expected)
        assert video.uneven == uneven and video.count is None and video.missing == 0


def test_names_that_opencv_cannot_open_are_refused(tmp_path):
    write_video(tmp_path / "a.mkv", [draw([])] * 2)
    name = os.fsencode(tmp_path) + b"/\xff.mkv"
    os.rename(tmp_path / "a.mkv", name)
    with pytest.raises(UserError, match="a name that is not UTF-8"):
        VideoFrames(os.fsdecode(name), ALL)
    with (
        pytest.raises(UserError, match="a name that is not UTF-8"),
        VideoWriter(os.fsdecode(name), LOSSLESS[1], 10) as write,
    ):
        write(draw([]))


def test_a_video_that_is_not_written_is_said(tmp_path):
    with (
        pytest.raises(UserError, match="does not write none videos"),
        VideoWriter(tmp_path / "a.mkv", "none", 10) as write,
    ):
        write(draw([]))
    with (
        pytest.raises(UserError, match="a frame of 20 x 10 pixels in a video of 160 x 96"),
        VideoWriter(tmp_path / "a.mkv", LOSSLESS[1], 10) as write,
    ):
        write(draw([]))
        write(np.zeros((10, 20, 3), np.uint8))


def test_frames_are_judged_as_pictures_are(workdir):
    analyzer = Analyzer.from_workdir(workdir)
    frames = np.stack(list(moving(3)))
    found = SquareDetector()(frames)
    assert [len(faces) for faces in found] == [2, 2, 2]
    for frame, faces, said in zip(frames, found, analyzer.judge(frames, found), strict=True):
        for face, tasks in zip(faces, said, strict=True):
            expected = analyzer.analyze(frame, box=face.box, landmarks=face.landmarks).tasks
            rows = [Face("", None, None, None, one).to_row() for one in (tasks, expected)]
            for name, value in rows[1].items():
                number = isinstance(value, float)
                assert rows[0][name] == (pytest.approx(value, rel=1e-4) if number else value)
    assert analyzer.judge(frames, [[], [], []]) == [[], [], []]


def test_a_row_per_track_and_second(workdir, squares, tmp_path):
    video = write_video(tmp_path / "a.mkv", moving(25, gap=(7, 8, 9)), rate=10)
    out = tmp_path / "out"
    command.main([f"--workdir={workdir}", f"--output={out}", "--format=csv", video])
    rows = list(csv.DictReader((out / "results.csv").open()))
    assert tuple(rows[0])[:4] == ("filename", *COLUMNS)
    counts = [tuple(int(row[name]) for name in ("second", "track", "frames")) for row in rows]
    assert counts == [(0, 1, 7), (0, 2, 10), (1, 1, 10), (1, 2, 10), (2, 1, 5), (2, 2, 5)]
    assert {row["filename"] for row in rows} == {video}
    assert float(rows[0]["left"]) == 10 + 2 * 6, "of the last frame of the second"
    assert 0 < float(rows[0]["attributes/Male/probability"]) < 1
    drawn = read_video(out / "annotated" / "a.mkv.webm")
    assert len(drawn) == 25 and drawn.shape[1] == 480
    left, scale = 10 + 2 * 8, 5
    green = drawn[8][(20 * scale + 40), left * scale - 4 : left * scale + 5].astype(int)
    assert (green[:, 1] - green[:, 0]).max() > 40, "a box where it is interpolated"


def test_one_table_holds_pictures_and_videos(workdir, squares, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(encode(draw_picture(0), ".png"))
    video = write_video(tmp_path / "b.mkv", moving(4), rate=10)
    paths = [str(tmp_path / "a.png"), video]
    command.main([f"--workdir={workdir}", "--format=csv", *paths])
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["filename"] for row in rows] == [paths[0], video, video]
    assert rows[0]["track"] == "" and [row["track"] for row in rows[1:]] == ["1", "2"]
    command.main([f"--workdir={workdir}", *paths])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "track" not in rows[0] and [row["track"] for row in rows[1:]] == [1, 2]


def test_answers_are_smoothed_unless_told_otherwise(workdir, squares, tmp_path, capsys):
    video = write_video(tmp_path / "a.mkv", moving(20), rate=10)
    found = []
    for smooth in ("1", "0"):
        command.main([f"--workdir={workdir}", f"--smooth={smooth}", video])
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found.append(rows[-1]["tasks"]["attributes"]["Male"]["probability"])
    analyzer = Analyzer.from_workdir(workdir)
    frame = list(moving(20))[-1]
    faces = sorted(SquareDetector()([frame])[0], key=lambda face: face.box[0])
    single = [analyzer.judge(frame[None], [[face]])[0][0] for face in faces]
    singles = [tasks["attributes"]["Male"].probability for tasks in single]
    assert min(abs(found[1] - one) for one in singles) < 1e-6
    assert min(abs(found[0] - one) for one in singles) > 1e-6


def test_damaged_videos_are_named_and_the_rest_is_done(workdir, squares, tmp_path, capsys):
    good = write_video(tmp_path / "good.mkv", moving(10))
    noise = np.random.default_rng(0).integers(0, 256, (30, 96, 160, 3), np.uint8)
    cut = write_video(tmp_path / "cut.avi", noise, "MJPG")
    content = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    arguments = [f"--workdir={workdir}", f"--output={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="2 of 3 files could not be read"):
        command.main([*arguments, cut, str(tmp_path / "junk.mp4"), good])
    error = capsys.readouterr().err
    assert "junk.mp4: not a video that can be read" in error
    assert "cut.avi: only 1" in error and "of 30 frames could be read" in error
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()]
    assert [row["filename"] for row in rows] == [good, good]


def test_what_is_for_pictures_is_refused(workdir, tmp_path):
    video = write_video(tmp_path / "a.mkv", moving(2))
    for flag in ("--try_rotations", "--consistent", "--unsure=0.1"):
        with pytest.raises(UserError, match=f"{flag.partition('=')[0]} is for pictures"):
            command.main([f"--workdir={workdir}", flag, video])
    with pytest.raises(UserError, match="--smooth=-1.0: expected seconds, from 0 on"):
        command.main([f"--workdir={workdir}", "--smooth=-1", video])
    with pytest.raises(UserError, match="--workdir is missing"):
        command.main([video])


def covered(table, name):
    """Frame -> mask of what was covered, by the table of a folder of `--blur`."""
    masks = {}
    for row in csv.DictReader(table.open()):
        if row["filename"] == str(name):
            left, top, width, height = (int(row[key]) for key in ("left", "top", "width", "height"))
            mask = masks.setdefault(row["frame"], np.zeros((96, 160), bool))
            mask[top : top + height, left : left + width] = True
    return masks


def test_blurred_videos_show_no_face_and_are_untouched_elsewhere(squares, tmp_path, capsys):
    frames = list(moving(30, gap=(0, 1, 10, 11, 12, 28, 29)))
    video = write_video(tmp_path / "a.mkv", frames, rate=10)
    command.main([f"--blur={tmp_path / 'blur'}", video])
    assert capsys.readouterr().out == (
        f"0 images and 1 videos, faces covered: {tmp_path / 'blur'}\n"
    )
    found = read_video(tmp_path / "blur" / "a.mkv")
    assert len(found) == 30 and VideoFrames(tmp_path / "blur" / "a.mkv", ALL).rate == 10
    assert SquareDetector()(found) == [[]] * 30
    masks = covered(tmp_path / "blur" / "boxes.csv", video)
    for index, (before, after) in enumerate(zip(frames, found, strict=True)):
        mask = masks[str(index)]
        np.testing.assert_array_equal(after[~mask], before[~mask])
        place = slice(20, 50), slice(10 + 2 * index, 40 + 2 * index)
        assert mask[place].all(), "also where the face is not found"


def test_blurred_pictures_are_png_and_hold_nothing_else(squares, tmp_path, capsys):
    pixels = draw([(10, 20), (100, 40)])
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    (tmp_path / "photos" / "a.png").write_bytes(encode(pixels, ".png"))
    content = encode(draw([]))
    place = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0) + b"secret place"
    tag = b"\xff\xe1" + struct.pack(">H", len(place) + 8) + b"Exif\0\0" + place
    (tmp_path / "photos" / "deep" / "b.jpg").write_bytes(content[:2] + tag + content[2:])
    command.main([f"--blur={tmp_path / 'blur'}", str(tmp_path / "photos")])
    out, error = capsys.readouterr()
    assert (
        out.startswith("2 images and 0 videos, faces covered") and "b.jpg: no face found" in error
    )
    found = cv2.imread(str(tmp_path / "blur" / "a.png"))[..., ::-1]
    (mask,) = covered(tmp_path / "blur" / "boxes.csv", tmp_path / "photos" / "a.png").values()
    np.testing.assert_array_equal(found[~mask], pixels[~mask])
    assert SquareDetector()([found]) == [[]]
    other = (tmp_path / "blur" / "deep" / "b.jpg.png").read_bytes()
    assert b"secret place" not in other
    assert cv2.imdecode(np.frombuffer(other, np.uint8), -1).shape == (160, 96, 3), "upright"


def test_a_copy_never_replaces_what_it_is_of(squares, tmp_path):
    video = write_video(tmp_path / "a.mkv", moving(3))
    before = (tmp_path / "a.mkv").read_bytes()
    with pytest.raises(UserError, match="1 of 1 files could not be read"):
        command.main([f"--blur={tmp_path}", video])
    assert (tmp_path / "a.mkv").read_bytes() == before
    (tmp_path / "b.png").write_bytes(encode(draw([(10, 20)]), ".png"))
    before = (tmp_path / "b.png").read_bytes()
    with pytest.raises(UserError, match="b.png: no image found"):
        command.main([f"--blur={tmp_path}", str(tmp_path / "b.png")])
    assert (tmp_path / "b.png").read_bytes() == before


def test_an_interruption_leaves_no_half_of_a_video(squares, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    video = write_video(tmp_path / "a.mkv", moving(40))
    monkeypatch.setattr("faceattr_tf.prediction.blur_folder.BlurFolder._note", stop)
    with pytest.raises(KeyboardInterrupt):
        command.main([f"--blur={tmp_path / 'blur'}", video])
    assert list((tmp_path / "blur").iterdir()) == []


def test_a_camera_ends_when_it_is_interrupted(workdir, squares, tmp_path, monkeypatch, capsys):
    video = write_video(tmp_path / "a.mkv", moving(20), rate=10)
    capture = cv2.VideoCapture

    class Camera:
        """Begins the video again and again."""

        def __init__(self, *source):
            self._shown = capture(video, cv2.CAP_FFMPEG)
            self._frames = 0

        def read(self):
            self._frames += 1
            if self._frames == 9:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.05)
            return self._shown.read()

        def __getattr__(self, name):
            return getattr(self._shown, name)

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    command.main([f"--workdir={workdir}", "--camera=0"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["filename"], row["track"], row["frames"]) for row in rows] == [
        ("camera 0", 1, 8),
        ("camera 0", 2, 8),
    ]
    with pytest.raises(UserError, match="--camera gives its pictures once"):
        command.main([f"--workdir={workdir}", "--blur=x", "--camera=0"])


def test_nothing_is_kept_of_frames_that_left():
    frames = ((index / 10, draw([(10, 20)])) for index in range(200))
    analyzer = VideoAnalyzer("a", SquareDetector(), keep_pixels=False)
    found = list(analyzer(frames))
    assert [frame.index for frame in found] == list(range(200))
    assert all(frame.pixels is None for frame in found)
    assert {face.track for frame in found for face in frame.faces} == {1}
