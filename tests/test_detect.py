import csv
import os
import pathlib
import signal
import subprocess
import sys
import time
import weakref

import cv2
import numpy as np
import pytest
from PIL import Image

from data_pipelines.detection import folder as detect
from data_pipelines.detection.mtcnn import Detection, Detector, nearest_first
from data_pipelines.errors import UserError
from data_pipelines.formats.detections import COLUMNS, read_boxes, read_detections
from data_pipelines.synth.drawing import draw_face

MTFL = pathlib.Path(__file__).parents[2] / "shared" / "data" / "mtfl"


@pytest.fixture(scope="module")
def faceless(tmp_path_factory):
    """Drawn pictures without a face: two sizes, one too small to be searched, in sub-folders."""
    folder = tmp_path_factory.mktemp("faceless")
    (folder / "b").mkdir()
    ramp = np.linspace(0, 255, 64 * 80 * 3).reshape(64, 80, 3).astype(np.uint8)
    cv2.imwrite(str(folder / "b" / "ramp.png"), ramp)
    cv2.imwrite(str(folder / "a.jpg"), np.full((64, 64, 3), 90, np.uint8))
    cv2.imwrite(str(folder / "tiny.jpg"), np.full((8, 8, 3), 90, np.uint8))
    return folder


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def detection(left, top, side, score=0.9):
    box = np.array([left, top, side, side], np.float32)
    return Detection(box, score, np.zeros((5, 2), np.float32))


def annotated(count, folder="lfw_5590"):
    """Names and landmarks `[5, 2]` of the first rows of MTFL's training.txt in a folder."""
    lines = (MTFL / "training.txt").read_text(errors="surrogateescape").splitlines()
    rows = [line.replace("\\", "/").split() for line in lines]
    rows = [row for row in rows if row and row[0].startswith(folder)][:count]
    return {row[0]: np.array(row[1:11], float).reshape(2, 5).T for row in rows}


def mean_error(found, expected):
    """Mean distance over the distance of the eyes."""
    distance = np.linalg.norm(expected[0] - expected[1])
    return np.linalg.norm(found - expected, axis=1).mean() / distance


def test_the_nearest_face_wins_and_the_score_decides_between_equals():
    near, far = detection(40, 40, 20, 0.8), detection(0, 0, 60, 0.99)
    assert nearest_first([far, near], (50, 50)) == [near, far]
    assert nearest_first([near, far], (30, 30)) == [far, near]
    sure, unsure = detection(40, 40, 20, 0.99), detection(45, 45, 10, 0.85)
    assert nearest_first([unsure, sure], (50, 50)) == [sure, unsure]


def test_pictures_without_a_face_have_rows_with_empty_fields(faceless, tmp_path):
    output = tmp_path / "faces.csv"
    summary = detect.detect_folder(str(faceless), str(output), detect.Settings(processes=1))
    names = ["a.jpg", "b/ramp.png", "tiny.jpg"]
    assert rows_of(output) == [list(COLUMNS), *([name, *[""] * 15] for name in names)]
    assert summary["not_found"] == names
    assert (summary["images"], summary["faces"], summary["undecodable"]) == (3, 0, [])
    assert read_detections(output) == {}
    assert os.listdir(tmp_path) == ["faces.csv"]


def test_undecodable_pictures_are_named_and_limited(faceless, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((faceless / "a.jpg").read_bytes())
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 pictures do not decode.*max_bad=1: cut.jpg, empty.png"):
        detect.detect_folder(str(tmp_path), settings=detect.Settings(processes=1, max_bad=1))
    assert not (tmp_path / "detections.csv").exists()
    summary = detect.detect_folder(str(tmp_path), settings=detect.Settings(processes=1, max_bad=2))
    assert summary["undecodable"] == ["cut.jpg", "empty.png"]
    assert [row[0] for row in rows_of(summary["output"])[1:]] == ["a.jpg", "b.jpg"]


def test_an_interrupted_run_continues_after_the_last_whole_row(faceless, tmp_path, monkeypatch):
    output = tmp_path / "faces.csv"
    real, seen = detect._detect_batch, []

    def interrupted(job):
        seen.extend(job[1])
        if len(seen) > 2:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(detect, "_detect_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        detect.detect_folder(str(faceless), str(output), detect.Settings(processes=1, batch_size=1))
    assert not output.exists()
    partial = tmp_path / "faces.csv.partial"
    with open(partial, "a") as file:
        file.write("tiny.jpg,1.5,2")  # torn by the kill

    def recorded(job):
        seen.extend(job[1])
        return real(job)

    seen.clear()
    monkeypatch.setattr(detect, "_detect_batch", recorded)
    detect.detect_folder(str(faceless), str(output), detect.Settings(processes=1, batch_size=1))
    assert seen == ["tiny.jpg"]
    assert [row[0] for row in rows_of(output)[1:]] == ["a.jpg", "b/ramp.png", "tiny.jpg"]
    assert not partial.exists()


def test_rows_of_other_settings_are_not_continued(faceless, tmp_path):
    output = tmp_path / "faces.csv"
    partial = tmp_path / "faces.csv.partial"
    partial.write_text('# {"minimum_size": 99}\na.jpg,1,1,9,9,0.9' + ",1" * 10 + "\n")
    detect.detect_folder(str(faceless), str(output), detect.Settings(processes=1))
    assert rows_of(output)[1][1] == ""


def test_an_output_that_exists_is_only_replaced_on_request(faceless, tmp_path):
    output = tmp_path / "faces.csv"
    output.write_text("mine")
    with pytest.raises(UserError, match="exists; --overwrite"):
        detect.detect_folder(str(faceless), str(output))
    assert output.read_text() == "mine"
    detect.detect_folder(str(faceless), str(output), detect.Settings(processes=1), overwrite=True)
    assert len(rows_of(output)) == 4


def test_wrong_folders_and_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        detect.detect_folder(str(tmp_path / "missing"))
    with pytest.raises(UserError, match="no pictures"):
        detect.detect_folder(str(tmp_path))
    with pytest.raises(UserError, match="at least 12 pixels"):
        Detector(minimum_size=5)
    with pytest.raises(UserError, match="maximum_side 15: expected at least minimum_size, 20"):
        Detector(maximum_side=15)


def test_boxes_are_read_from_a_csv_and_from_celebas_own_file(tmp_path):
    table, celeba = tmp_path / "boxes.csv", tmp_path / "list_bbox_celeba.txt"
    table.write_text("filename,left,top,width,height,score\na/1.jpg,1,2.5,30,40,0.9\n\n")
    celeba.write_text("1\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n")
    assert read_boxes(str(table)) == {"a/1.jpg": (1, 2.5, 30, 40)}
    assert read_boxes(str(celeba)) == {"000001.jpg": (95, 71, 226, 313)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,x\n", "row 1: 'name,x', expected filename,left,top,width,height"),
        ("filename,left,top,width,height\na.jpg,1,2,3\n", "row 2: 'a.jpg 1 2 3'"),
        ("filename,left,top,width,height\na.jpg,1,2,3,x\n", "row 2: 'a.jpg 1 2 3 x'"),
        ("filename,left,top,width,height\nelse.jpg,1,2,3,4\n", "'else.jpg', the first picture is"),
    ],
)
def test_wrong_boxes_name_the_row(faceless, tmp_path, text, message):
    table = tmp_path / "boxes.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        detect.detect_folder(str(faceless), str(tmp_path / "faces.csv"), boxes=str(table))
    with pytest.raises(UserError, match="no such file of boxes"):
        read_boxes(str(tmp_path / "missing.csv"))


@pytest.fixture(scope="module")
def large():
    """A drawn face that the networks find, 356 x 436 pixels."""
    drawn, *_ = draw_face(np.random.default_rng(23), {"Smiling": True})
    return drawn.repeat(2, axis=0).repeat(2, axis=1)


def test_boxes_of_a_large_picture_are_those_of_one_reduced_by_hand(large):
    small = np.asarray(Image.fromarray(large).reduce(2))
    (face,) = Detector(maximum_side=218)([large])[0]
    (same,) = Detector()([small])[0]
    np.testing.assert_allclose(face.box[2:], 2 * same.box[2:], atol=0.4)
    # Pixel 0 of the small picture covers pixels 0 and 1 of the large one: its centre is at 0.5.
    np.testing.assert_allclose(face.box[:2], 2 * same.box[:2] + 0.5, atol=0.4)
    np.testing.assert_allclose(face.landmarks, 2 * same.landmarks + 0.5, atol=0.4)
    assert face.score == pytest.approx(same.score, abs=0.01)


def test_only_pictures_above_the_largest_side_are_reduced(large, monkeypatch):
    seen = []
    monkeypatch.setattr(
        detect.Detector, "_faces", lambda _, images: [seen.append(i) or [] for i in images]
    )
    thin, detector = np.zeros((30, 4001, 3), np.uint8), Detector(20, 436)
    detector([large, cv2.resize(large, (358, 438)), np.zeros((200, 4001, 3), np.uint8), thin])
    # Reduced, the last one is lower than the smallest face that is looked for.
    assert [image.shape[:2] for image in seen] == [(436, 356), (436, 356), (22, 436)]
    assert seen[0] is large
    Detector()([np.zeros((1024, 4096, 3), np.uint8)])
    assert seen[-1].shape == (512, 2048, 3)


def test_a_generators_pictures_are_held_one_at_a_time(monkeypatch):
    made = []

    class Picture(np.ndarray):
        pass

    def pictures():
        for _ in range(4):
            assert not any(picture() is not None for picture in made)
            picture = np.zeros((100, 100, 3), np.uint8).view(Picture)
            made.append(weakref.ref(picture))
            yield picture
            del picture

    monkeypatch.setattr(detect.Detector, "_faces", lambda _, images: [[] for _ in images])
    assert Detector(20, 50)(pictures()) == [[]] * 4


def test_faces_found_in_another_reduction_are_not_continued(faceless, tmp_path, monkeypatch):
    output, partial = tmp_path / "faces.csv", tmp_path / "faces.csv.partial"

    def interrupted(output, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(detect, "_write", interrupted)
    for side, continues in ((100, False), (100, True), (101, False)):
        before = partial.read_text() if partial.exists() else ""
        with pytest.raises(KeyboardInterrupt):
            detect.detect_folder(
                str(faceless), str(output), detect.Settings(processes=1, maximum_side=side)
            )
        assert (partial.read_text() == before) is continues


class TestRealPictures:
    pytestmark = pytest.mark.real_data

    def test_landmarks_lie_where_people_put_them(self):
        rows = annotated(8)
        images = [cv2.imread(str(MTFL / name))[:, :, ::-1] for name in rows]
        alone = [Detector()([image])[0][0] for image in images[:2]]
        together = [faces[0] for faces in Detector()(images)]
        errors = [
            mean_error(face.landmarks, points)
            for face, points in zip(together, rows.values(), strict=True)
        ]
        assert np.median(errors) < 0.06
        assert max(errors) < 0.15
        for face, points in zip(together, rows.values(), strict=True):
            inside = (points >= face.box[:2]) & (points <= face.box[:2] + face.box[2:])
            assert inside.all()
            assert 0.8 < face.score <= 1
        for face, same in zip(alone, together, strict=False):
            np.testing.assert_allclose(face.landmarks, same.landmarks, atol=0.05)

    def test_faces_are_found_when_small_ones_are_not_looked_for(self):
        (name, points), *_ = annotated(1).items()
        image = cv2.imread(str(MTFL / name))[:, :, ::-1]
        assert mean_error(Detector(60)([image])[0][0].landmarks, points) < 0.1

    def test_an_annotated_box_decides_between_two_faces_side_by_side(self, tmp_path):
        (first, left), (second, right) = annotated(2).items()
        pair = np.hstack([cv2.imread(str(MTFL / name)) for name in (first, second)])
        width = pair.shape[1] // 2
        cv2.imwrite(str(tmp_path / "pair.png"), pair)
        for index, points in enumerate((left, right + [width, 0])):
            (x, y), (far_x, far_y) = points.min(0), points.max(0)
            boxes = {"pair.png": (x, y, far_x - x, far_y - y)}
            output = tmp_path / f"{index}.csv"
            detect.detect_folder(
                str(tmp_path), str(output), detect.Settings(processes=1), boxes=boxes
            )
            assert mean_error(read_detections(output)["pair.png"][1], points) < 0.15

    @pytest.mark.thorough  # each worker process loads TensorFlow, before and after the kill
    def test_killed_worker_processes_and_all_it_ends_as_an_uninterrupted_run(self, tmp_path):
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        for number, name in enumerate(annotated(24)):
            (pictures / f"{number:02d}.jpg").symlink_to(MTFL / name)
        program = (
            "import sys; from data_pipelines.detection.folder import Settings, detect_folder\n"
            "if __name__ == '__main__':\n"
            "    detect_folder(sys.argv[1], sys.argv[2], Settings(processes=2, batch_size=4))\n"
        )
        (tmp_path / "program.py").write_text(program)
        output = tmp_path / "killed.csv"
        command = [sys.executable, str(tmp_path / "program.py"), str(pictures), str(output)]
        environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        partial = tmp_path / "killed.csv.partial"
        while process.poll() is None and not (
            partial.exists() and partial.read_text().count("\n") > 4
        ):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not output.exists()
        subprocess.run(command, env=environment, check=True)
        detect.detect_folder(
            str(pictures), str(tmp_path / "whole.csv"), detect.Settings(processes=1)
        )
        killed, whole = rows_of(output), rows_of(tmp_path / "whole.csv")
        assert [row[0] for row in killed] == [row[0] for row in whole]
        found = np.array([row[1:] for row in killed[1:]], float)
        np.testing.assert_allclose(
            found, np.array([row[1:] for row in whole[1:]], float), atol=0.05
        )
