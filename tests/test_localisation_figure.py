"""The figure of localisation: whose faces count, what is found of them, where responses are drawn."""

import dataclasses
import types

import cv2
import keras
import numpy as np
import pytest
from untrained_run import make_run

from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.records.build import build
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Model
from faceattr_tf.models.lnet import ReceptiveField
from faceattr_tf.reports.analysis import localisation as figure
from faceattr_tf.reports.analysis import time_per_stage as times
from faceattr_tf.reports.analysis.page import analyze
from faceattr_tf.reports.analysis.subject import Settings, Subject

SETTINGS = Settings(bootstrap=50, localisers=(), progress=False)
FACES = {
    "a.png": [(5, 6, 20, 24), (40, 30, 20, 24)],
    "b.png": [(30, 10, 20, 24)],
    "c.png": [()],
    "d.png": [(8, 30, 30, 36)],
}
"""The face of c has no box."""


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("localisation")
    rows = ["path,left,top,width,height,Male"]
    for number, (name, boxes) in enumerate(FACES.items()):
        picture = np.random.default_rng(number).integers(0, 255, (72, 80, 3), np.uint8)
        cv2.imwrite(str(folder / name), picture)
        rows += [f"{name},{','.join(map(str, box or [''] * 4))},1" for box in boxes]
    (folder / "manifest.csv").write_text("\n".join(rows))
    tasks = "attributes:multilabel:Male"
    build("manifest", folder, folder / "records", tasks=tasks, progress=False)
    records = RecordSet.load(folder / "records")
    config = Model("lnet", width=1 / 32, options=(("features", 16), ("pooling", "max")))
    run = make_run(folder / "run", config, (Task("attributes", "multilabel", ("Male",)),), size=67)
    return Subject(run, records, "train", SETTINGS)


def found_at(*boxes, scores=None):
    scores = scores or [1.0] * len(boxes)
    return [
        Detection(np.float32(box), score, None) for box, score in zip(boxes, scores, strict=True)
    ]


def test_pictures_count_once_with_all_their_faces_if_they_have_a_box(subject):
    pictures = figure.annotated_pictures(subject)
    assert pictures.names == ["a.png", "b.png", "d.png"] and pictures.left_out == 1
    for name, boxes in zip(pictures.names, pictures.boxes, strict=True):
        np.testing.assert_array_equal(boxes, FACES[name])
    settings = dataclasses.replace(SETTINGS, images=3)
    few = figure.annotated_pictures(dataclasses.replace(subject, settings=settings))
    assert len(few.names) + few.left_out == 3 and set(few.names) <= set(pictures.names)
    np.testing.assert_array_equal(few.boxes[1], FACES[few.names[1]])


def test_records_without_boxes_are_refused(subject, mtfl_records):
    without = Subject(subject.workdir, RecordSet.load(mtfl_records.path), "test", SETTINGS)
    with pytest.raises(UserError, match="no picture of 'test' with the box of a face"):
        figure.annotated_pictures(without)


def test_recall_counts_the_strongest_windows_and_frames_them(subject, monkeypatch):
    faces = [np.float64(FACES[name]) for name in ("a.png", "b.png", "d.png")]

    def exact(images):
        return [found_at(*boxes) for boxes in faces]

    def too_many(images):  # the third window is the second face, but there are two faces only
        return [found_at(faces[0][0], (0, 0, 3, 3), faces[0][1]), [], found_at(faces[2][0])]

    def tight(images):  # the inner half of every face
        return [found_at(*np.column_stack([b[:, :2] + b[:, 2:] / 4, b[:, 2:] / 2])) for b in faces]

    given = {"exact": exact, "too many": too_many, "tight": tight}
    monkeypatch.setattr(figure, "localisers_of", lambda *_: given)
    finding = figure.localisation(subject)
    own = finding.numbers["localisers"]
    assert (finding.numbers["faces"], finding.numbers["pictures"]) == (4, 3)
    assert [own[name]["recall"][0] for name in given] == [1, 0.5, 0]
    assert [own[name]["recall_framed"][0] for name in given] == [1, 0.5, 1]
    assert own["too many"]["difference_framed"][0] == -0.5
    assert own["tight"]["curve"][[25, 26]].tolist() == [1, 0]  # a quarter of the area
    (table,) = finding.section.tables
    assert table.rows[0][3] == "–" and table.rows[1][3].startswith("-50.0 (")
    assert (
        not finding.section.galleries
        and "1 more have a face without a box" in finding.section.about
    )


def test_mtcnn_gives_what_it_is_surest_of_first(monkeypatch):
    faces = found_at((0, 0, 1, 1), (1, 1, 1, 1), (2, 2, 1, 1), scores=[0.8, 0.9, 0.7])
    monkeypatch.setattr("data_pipelines.detection.mtcnn.Detector", lambda: lambda images: [faces])
    assert [face.score for face in figure.mtcnn()([None])[0]] == [0.9, 0.8, 0.7]


def test_responses_are_drawn_where_their_cells_lie():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[8:16, 40:56] = 255
    pool = keras.layers.AveragePooling2D(4)
    stage = types.SimpleNamespace(
        network=lambda image, training: pool(image)[..., 0],
        field=ReceptiveField(4, 4, 1.5),
        side=160,  # the picture is seen at twice its size
        least=4,
    )
    heat = figure._heat(stage, picture, 3.0, (240, 120))
    y, x = np.nonzero(heat > heat.max() / 2)
    np.testing.assert_allclose([y.min(), y.max() + 1], [24, 48], atol=1.5)
    np.testing.assert_allclose([x.min(), x.max() + 1], [120, 168], atol=1.5)


def test_the_page_shows_maps_and_curves_of_a_run_alone_and_in_two_stages(subject, tmp_path):
    run = str(subject.workdir.path)
    settings = Settings(bootstrap=9, localisers=(f"{run}+{run}",), progress=False)
    contents = analyze(
        run,
        subject.records.path,
        "train",
        figures=["localisation"],
        output=tmp_path,
        settings=settings,
    )
    assert list(contents["figures"]["localisation"]["localisers"]) == ["run", "run+run"]
    page = (tmp_path / "analysis.html").read_text()
    assert "Recall against overlap ratio" in page and "At random: run+run" in page


def test_times_are_of_each_stage_beside_the_attributes_of_a_face(subject, monkeypatch):
    clock = [0.0]

    def takes(milliseconds, first=0):
        left = [first]  # what compiles at its first call

        def run(picture):
            assert picture.shape == (300, 300, 3)
            clock[0] += (left.pop() if left else milliseconds) / 1000

        return run

    graphs = {"o": [(1, takes(8, first=900))], "o+s": [(1, takes(8)), (2, takes(13))]}
    monkeypatch.setattr(times, "localisers_of", lambda *_, faces: {name: name for name in graphs})
    monkeypatch.setattr(times, "_graphs", graphs.get)
    monkeypatch.setattr(times, "_classify", lambda workdir: takes(2))
    monkeypatch.setattr(times.time, "perf_counter", lambda: clock[0])
    settings = Settings(classifier=str(subject.workdir.path))
    finding = times.time_per_stage(Subject(subject.workdir, subject.records, "train", settings))
    (table,) = finding.section.tables
    assert table.rows == (("o", "8.0", "–", "2.0", "10.0"), ("o+s", "8.0", "5.0", "2.0", "15.0"))
    with pytest.raises(UserError, match="--classifier"):
        times.time_per_stage(subject)
