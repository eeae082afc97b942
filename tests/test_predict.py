import csv
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from test_encoded import huge
from tiny_workdir import FRAMING, draw_picture, encode, make_workdir
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES
from faceattr_tf.commands import predict as command
from faceattr_tf.configs.base import Model
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.annotate import annotate_faces
from faceattr_tf.prediction.face import Alignment, Attribute, Choice, Face
from faceattr_tf.prediction.localisation import Localiser
from faceattr_tf.prediction.predict import list_images, predict


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run") / "none", Crop("none", 12, 10), FRAMING).path


@pytest.fixture
def photos(tmp_path):
    """Three photos in two folders, one of them with an upper-case ending, and a text file."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for seed, name in enumerate(["b.JPG", "a.png", "deep/b.JPG"]):
        (folder / name).write_bytes(encode(draw_picture(seed), name[-4:].lower()))
    (folder / "notes.txt").write_text("no image")
    return folder


def names(found):
    return [path.as_posix() for path in found.values()]


def test_folders_are_searched_and_patterns_expanded(photos, monkeypatch):
    assert names(list_images([photos])) == ["a.png", "b.JPG", "deep/b.JPG"]
    assert names(list_images([str(photos / "*.png")])) == ["a.png"]
    assert names(list_images([str(photos / "**" / "*.JPG")])) == ["b.JPG", "b-2.JPG"]
    assert names(list_images([photos / "a.png", photos])) == ["a.png", "b.JPG", "deep/b.JPG"]
    assert names(list_images([photos], leave_out=photos / "deep")) == ["a.png", "b.JPG"]
    monkeypatch.chdir(photos)
    assert list(list_images(["deep", "b.JPG"])) == ["deep/b.JPG", "b.JPG"]
    assert names(list_images(["notes.txt"])) == ["notes.txt"]


def test_names_that_look_like_patterns_are_files(tmp_path):
    (tmp_path / "a[1].jpg").write_bytes(b"")
    assert names(list_images([tmp_path / "a[1].jpg"])) == ["a[1].jpg"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("absent.jpg", "absent.jpg: no such file"),
        ("*.tga", r"\*.tga: pattern that matches nothing"),
        ("empty", "empty: no image found; expected files that end in .jpg"),
    ],
)
def test_no_image_at_all_is_a_mistake(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        list_images([path])


def test_json_lines_are_what_the_analyzer_says(workdir, photos, tmp_path):
    summary = predict(workdir, [photos], output=tmp_path / "out", annotate=False)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()]
    faces = Analyzer.from_workdir(workdir).analyze(list(list_images([photos])))
    assert rows == [json.loads(json.dumps(face.to_dict())) for face in faces]
    assert (summary.images, summary.faces) == (3, 3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]


def test_answers_of_the_command_are_consistent_when_asked_for(workdir, photos, capsys):
    impossible = []
    for flags in ([], ["--consistent"]):
        command.main([f"--workdir={workdir}", *flags, str(photos)])
        rows = [
            json.loads(line)["tasks"]["attributes"] for line in capsys.readouterr().out.splitlines()
        ]
        yes = [{name for name, one in row.items() if one["label"]} for row in rows]
        impossible.append(sum("Male" in row and row != {"Male", "Eyeglasses"} for row in yes))
    assert impossible == [3, 0]


def test_csv_goes_to_standard_output(workdir, photos, capsys):
    predict(workdir, [photos], format="csv", batch_size=2)
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["filename"] for row in rows] == list(list_images([photos]))
    assert 0 < float(rows[0]["attributes/Male/probability"]) < 1
    assert rows[0]["left"] == "" and rows[0]["attributes/Male/label"] in ("True", "False")


def test_unreadable_images_are_named_and_the_rest_is_done(workdir, photos, tmp_path, capsys):
    (photos / "b.JPG").write_bytes((photos / "b.JPG").read_bytes()[:-300])
    arguments = [f"--workdir={workdir}", f"--output={tmp_path / 'out'}", str(photos)]
    with pytest.raises(UserError, match="1 of 3 images could not be read"):
        command.main(arguments)
    assert f"{photos / 'b.JPG'}: not an image that can be decoded" in capsys.readouterr().err
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert [json.loads(line)["filename"] for line in lines] == [
        str(photos / "a.png"),
        str(photos / "deep" / "b.JPG"),
    ]
    annotated = tmp_path / "out" / "annotated"
    assert sorted(path.relative_to(annotated).as_posix() for path in annotated.rglob("*.*")) == [
        "a.png.jpg",
        "deep/b.JPG",
    ]
    assert cv2.imread(str(annotated / "a.png.jpg")).shape[0] == 480


def test_faces_are_found_by_the_networks_that_are_named(workdir, photos, tmp_path, capsys):
    lnet = Model("lnet", width=1 / 32, options=(("features", 16), ("pooling", "max")))
    for name in "os":
        make_run(tmp_path / name, lnet, (MTFL_ATTRIBUTES,), size=67)
    named = [tmp_path / "o", tmp_path / "s"]
    (photos / "b.JPG").write_bytes((photos / "b.JPG").read_bytes()[:-300])
    arguments = [f"--workdir={workdir}", "--localise=" + ",".join(map(str, named)), "--faces=2"]
    with pytest.raises(UserError, match="1 of 3 images could not be read"):
        command.main([*arguments, str(photos)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    readable = [photos / "a.png", photos / "deep" / "b.JPG"]
    localiser = Localiser.from_workdirs(named, faces=2)
    analyzer = Analyzer.from_workdir(workdir, localiser=localiser)
    faces = [face for name in readable for face in analyzer.analyze(name, detect=True)]
    assert rows == [json.loads(json.dumps(face.to_dict())) for face in faces]
    assert rows and all(row["box"] and row["score"] > 0 for row in rows)
    for flag in ("--faces=2", "--try_rotations"):
        with pytest.raises(UserError, match="belongs to --detect or --localise"):
            command.main([f"--workdir={workdir}", flag, str(photos)])
    for wrong in ("0", "-1", "some", "1.5"):
        with pytest.raises(UserError, match=f"--faces={wrong}: expected all, largest or a number"):
            command.main([f"--workdir={workdir}", "--detect", f"--faces={wrong}", str(photos)])


def test_annotated_pictures_of_an_earlier_run_do_not_stay(workdir, photos, tmp_path):
    predict(workdir, [photos], output=tmp_path / "out")
    predict(workdir, [photos / "a.png"], output=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "annotated").iterdir()] == ["a.png.jpg"]
    predict(workdir, [photos / "a.png"], output=tmp_path / "out", annotate=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["results.jsonl"]


def test_what_is_no_image_is_one_line_each_and_what_is_passed_over_is_counted(
    workdir, photos, tmp_path, capsys
):
    (photos / "a.png").write_bytes(encode(draw_picture(0, 90, 60), ".png"))
    (photos / "huge.bmp").write_bytes(huge("BMP"))
    (photos / "text.jpe").write_text("no image")
    (photos / "c.jxl").write_bytes(b"")
    (photos / ".hidden.png").write_bytes(b"")
    with pytest.raises(UserError, match="3 of 5 images could not be read"):
        command.main([f"--workdir={workdir}", "--max_pixels=5000", str(photos)])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    for line in (
        "not read: 1 hidden or system files and folders",
        "not read: 1 files that end in .jxl",
        "a.png: 60 x 90 pixels by its header, more than --max_pixels=5000",
        "huge.bmp: more than 178,956,970 pixels by its header, which is too large",
        "text.jpe: not an image of a format that is read",
    ):
        assert line in err


def test_an_interruption_leaves_no_results(workdir, photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Analyzer, "analyze", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(workdir, [photos], output=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_detection_gives_a_row_per_face(workdir, photos, tmp_path, monkeypatch):
    analyze = Analyzer.analyze

    def two_or_none(self, pictures, detect):
        faces = analyze(self, pictures)
        return [[face, face] if face.filename.endswith(".JPG") else [] for face in faces]

    monkeypatch.setattr(Analyzer, "analyze", two_or_none)
    summary = predict(workdir, [photos], output=tmp_path / "out", detect=True)
    assert (summary.images, summary.faces) == (3, 4)
    assert summary.faceless == [str(photos / "a.png")]
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 4


def test_a_crop_that_needs_a_face_warns_in_one_line(photos, tmp_path, capsys):
    path = make_workdir(tmp_path / "run", Crop("align", 12, 10)).path
    predict(path, [photos])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and "--detect" in warnings[0] and "align" in warnings[0]


def test_a_model_of_whole_pictures_says_how_faces_are_shown_to_it_or_finds_none(
    photos, tmp_path, capsys, monkeypatch
):
    unknown = make_workdir(tmp_path / "unknown", Crop("none", 12, 10)).path
    with pytest.raises(UserError, match="the same of all faces of a picture: runs of earlier"):
        predict(unknown, [photos], detect=True)
    known = make_workdir(tmp_path / "known", Crop("none", 12, 10), FRAMING).path
    monkeypatch.setattr(Analyzer, "analyze", lambda self, pictures, detect: [[] for _ in pictures])
    predict(known, [photos], detect=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "align, margin 0.3, vertical -0.1" in lines[0]
    assert "8 of 9, landmarks by the records" in lines[0]


def test_what_detection_cannot_do_is_said_once_before_the_first_image(workdir, photos, capsys):
    with pytest.raises(UserError, match="minimum_size 5: at least 12 pixels are needed"):
        command.main([f"--workdir={workdir}", "--detect", "--minimum_size=5", str(photos)])
    assert "minimum_size" not in capsys.readouterr().err


def test_annotated_pictures_need_a_folder(workdir, photos):
    with pytest.raises(UserError, match="--output=DIR"):
        command.main([f"--workdir={workdir}", "--annotate", str(photos)])


def test_drawings_show_box_points_and_labels():
    tasks = {
        "attributes": {"Male": Attribute(0.2, False), "Smiling": Attribute(0.9, True)},
        "pose": Choice("left", {"left": 0.7, "right": 0.3}),
        "landmarks": {"nose": (30.0, 10.0)},
    }
    points = {"nose": (10.0, 30.0)}
    face = Face("a.jpg", (5, 8, 31, 41), points, 0.9, tasks)
    corners = {"left_top": (2.0, 60.0), "right_top": (22.0, 60.0), "right_bottom": (22.0, 80.0)}
    tasks["alignment"] = Alignment(12.0, 0.9, (0.0, 0.1), corners)
    picture = np.zeros((240, 50, 3), np.uint8)
    drawn = annotate_faces(picture, [face])  # shown at twice the size
    assert drawn.shape[0] == 480 and drawn.shape[1] > 300
    assert drawn[round(8.5 * 2 - 0.5), 30, 1] > 150, "upper border of the box"
    assert drawn[61, 21, 1] > 150, "given point"
    assert not drawn[21, 61].any() and drawn[21 + 5, 61].max() > 150, "ring around predicted point"
    assert drawn[120, 25, 0] > 150, "upper border of the outline"
    assert (drawn[:, 120:] > 200).any(), "text"
    assert not annotate_faces(picture, [])[:, :100].any()


@pytest.mark.parametrize("module", ["faceattr_tf.commands.predict", "export.commands.export"])
def test_help_shows_examples_without_tensorflow(module):
    code = (
        f"import sys; sys.argv = ['x', '--help']; import {module} as m\n"
        "try: m.run()\n"
        "finally: print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "examples:\n  faceattr-" in done.stdout and done.stdout.endswith("False\n")


def test_mistakes_of_paths_are_one_line_without_tensorflow(tmp_path):
    command = [sys.executable, "-m", "faceattr_tf.commands.predict", "--workdir=w", "absent.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "faceattr-predict: error: absent.jpg: no such file; expected images, " + (
        "folders or patterns\n"
    )
