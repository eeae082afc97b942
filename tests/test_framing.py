"""A model of whole pictures sees a face that was found as its pictures of training frame theirs."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from tiny_workdir import FRAMING, TASKS, build_model, draw_picture, encode, make_workdir

from data_pipelines.crop.framing import Framing, check_tells_faces_apart, crop_of_face
from data_pipelines.crop.geometry import TEMPLATE, Crop, crop_transform, to_crop_coordinates
from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import decode
from data_pipelines.input import framing as looking
from data_pipelines.input.batches import encoded_batches
from data_pipelines.input.framing import framing_of
from data_pipelines.input.stream import Source
from faceattr_tf.prediction.analyzer import Analyzer

WHOLE = Crop("none", 109, 89)
SIZE = (218, 178)


def points_of(side, centre, turned=0.0):
    """Landmarks of a face whose template is a square of that side, in pixels."""
    rotation = [[math.cos(turned), -math.sin(turned)], [math.sin(turned), math.cos(turned)]]
    return (np.array(TEMPLATE) - 0.5) * side @ np.array(rotation).T + centre


def framing_by(*points, pictures=None, crop=WHOLE):
    points = np.array(points, np.float32).reshape(-1, 5, 2)
    return Framing.of(crop, [SIZE] * len(points), points, pictures or len(points), "records")


def crop_for(framing, crop=WHOLE):
    return crop_of_face(crop, dataclasses.asdict(framing))


def test_the_crop_of_a_face_shows_it_where_pictures_of_training_do():
    middle = (np.array(SIZE[::-1]) - 1) / 2
    training = points_of(110, middle + [0, 12])
    crop = crop_for(framing_by(training))
    assert (crop.kind, crop.height, crop.width) == ("align", 109, 89)
    shown = to_crop_coordinates(
        training[None], crop_transform(WHOLE, [SIZE], [[np.nan] * 4], training[None]), 109, 89
    )
    for face in (training, points_of(400, [900, 500], 0.4), points_of(31, [50, 20], -0.2)):
        place = crop_transform(crop, [(1000, 1500)], [[np.nan] * 4], face[None])
        found = to_crop_coordinates(face[None], place, 109, 89)
        np.testing.assert_allclose(found, shown, atol=2e-3)


def test_margin_and_shift_are_shares_of_the_templates_square():
    middle = (np.array(SIZE[::-1]) - 1) / 2
    framing = framing_by(points_of(89, middle + [0, 8.9]))  # 178 pixels wide, twice the square
    assert framing.margin == pytest.approx(0.5, abs=1e-3)
    assert framing.vertical == pytest.approx(-0.1, abs=1e-3)


def test_medians_stand_against_faces_that_were_mistaken():
    middle = (np.array(SIZE[::-1]) - 1) / 2
    several = [points_of(89, middle)] * 9 + [points_of(12, [20, 30], 1)] * 2
    assert framing_by(*several).margin == pytest.approx(0.5, abs=1e-3)


def test_pictures_that_do_not_frame_faces_alike_give_no_crop():
    middle = (np.array(SIZE[::-1]) - 1) / 2
    one = points_of(60, middle)
    for framing, fault in (
        (framing_by(pictures=7), "a face is known in 0 of 7"),
        (framing_by(one, one, pictures=5), "a face is known in 2 of 5"),
        (framing_by(one, points_of(300, middle), one, points_of(310, middle)), "sizes that differ"),
    ):
        assert fault in framing.fault
        assert crop_for(framing) == WHOLE
        with pytest.raises(UserError, match=f"the same of all faces of a picture: .*{fault}"):
            check_tells_faces_apart(WHOLE, dataclasses.asdict(framing))
    with pytest.raises(UserError, match="runs of earlier versions"):
        check_tells_faces_apart(WHOLE, None)


def test_other_crops_stay_as_they_are():
    crop = Crop("box", 30, 20, margin=0.1)
    assert crop_of_face(crop, None) == crop
    check_tells_faces_apart(crop, None)


def test_landmarks_are_those_of_the_records_or_else_of_the_face_in_the_middle(
    celeba_records, lfwa_tree, tmp_path, monkeypatch
):
    from data_pipelines.records.build import build

    known = Source(celeba_records, "train")
    framing = framing_of(Crop(), [known, dataclasses.replace(known, weight=3.0)], pictures=8)
    assert (framing.source, framing.pictures, framing.faces) == ("records", 8, 8)
    (batch,) = encoded_batches(known, (), batch_size=6).take(1)
    points = batch["landmarks"].numpy()
    sizes = [decode(image).shape[:2] for image in batch["image"].numpy()]
    both = np.concatenate([points[:2], points])
    expected = Framing.of(Crop(), sizes[:2] + sizes, both, 8, "records")
    assert framing == expected

    class Found:
        """Of every picture but the brightest ones the same face."""

        def __call__(self, pictures):
            face = Detection(np.zeros(4), 0.9, points_of(30, [20, 18]).astype(np.float32))
            return [[face] if picture.mean() < 150 else [] for picture in pictures]

    monkeypatch.setattr("data_pipelines.detection.mtcnn.Detector", Found)
    unknown = Source(build("lfwa", lfwa_tree, tmp_path / "records"), "train")
    (batch,) = encoded_batches(unknown, (), batch_size=20).take(1)
    pictures = [decode(image) for image in batch["image"].numpy()]
    dark = [picture.shape[:2] for picture in pictures if picture.mean() < 150]
    assert np.isnan(batch["landmarks"].numpy()).all()
    points = np.array([points_of(30, [20, 18])] * len(dark), np.float32)
    monkeypatch.setattr(looking, "_DECODED", 3)
    assert framing_of(Crop(), [unknown], pictures=20) == Framing.of(
        Crop(), dark, points, 20, "MTCNN"
    )


def test_the_analyzer_sees_faces_so_and_whole_pictures_where_no_place_is_known():
    crop = Crop("none", 12, 10)
    model, picture = build_model(crop), draw_picture(3, 90, 120)
    known = Analyzer(model, TASKS, crop, framing=FRAMING)
    whole = Analyzer(model, TASKS, crop)
    cut = Analyzer(model, TASKS, Crop("align", 12, 10, margin=0.3, vertical=-0.1))
    points = np.array([points_of(30, [40, 40]), points_of(24, [80, 50], 0.2)], np.float32)
    assert known.analyze(picture).tasks == whole.analyze(picture).tasks
    assert known.analyze(picture, landmarks=points[0]) == cut.analyze(picture, landmarks=points[0])
    known._detector = lambda pictures: [
        [Detection(np.float32([20, 20, 30, 30]), 0.9, one) for one in points] for _ in pictures
    ]
    faces = known.analyze(picture, detect=True)
    expected = cut.analyze([picture] * 2, landmarks=points)
    assert [face.tasks for face in faces] == [face.tasks for face in expected]
    assert faces[0].tasks != faces[1].tasks
    with pytest.raises(UserError, match="the same of all faces"):
        whole.analyze(picture, detect=True)


def test_an_export_sees_them_so_too(tmp_path):
    from export.description import describe
    from export.saved_model import ExportOptions
    from export.signatures import create_signatures
    from faceattr_tf.prediction.detection_graph import FaceDetector

    workdir = make_workdir(tmp_path / "run", Crop("none", 12, 10), FRAMING)
    model, options = workdir.load_model(), ExportOptions()
    description = describe(workdir, model, options)
    assert description["framing"] == FRAMING
    assert Crop.from_dict(description["crop"]) == Crop("align", 12, 10, 0.3, -0.1)
    signatures, _ = create_signatures(model, TASKS, workdir.crop, description)
    analyzer = Analyzer.from_workdir(workdir.path)
    pictures = [draw_picture(3, 90, 120), draw_picture(4, 70, 60)]
    points = np.array([points_of(30, [40, 40], 0.1), np.full([5, 2], np.nan)], np.float32)
    files, nowhere = [encode(one, ".png") for one in pictures], np.full([2, 4], np.nan, np.float32)
    for name, found, faces in (
        ("crop", (files, nowhere, points), analyzer.analyze(pictures, landmarks=points)),
        ("serving_default", (files,), analyzer.analyze(pictures)),
    ):
        said = signatures[name](*found)["attributes_probability"].numpy()
        expected = [[one.probability for one in f.tasks["attributes"].values()] for f in faces]
        np.testing.assert_allclose(said, expected, atol=1e-3)
    unknown = make_workdir(tmp_path / "unknown", Crop("none", 12, 10))
    assert describe(unknown, model, options)["crop"] == unknown.crop.to_dict()
    with pytest.raises(UserError, match="the same of all faces"):
        describe(unknown, model, options, FaceDetector())


@pytest.mark.real_data
def test_faces_of_celeba_are_shown_as_their_pictures_show_them(real_data):
    """Of a photograph that holds a picture of CelebA, the crop of its face is that picture."""
    folder = real_data / "celeba_small" / "img_align_celeba"
    files = sorted(folder.iterdir())[:40]
    pictures = [cv2.imread(str(file))[..., ::-1] for file in files]
    from data_pipelines.crop.pixels import crop_pixels
    from data_pipelines.detection.mtcnn import Detector

    found = Detector()(pictures)
    seen = [index for index, faces in enumerate(found) if faces]
    crop = Crop("none", 54, 44)
    sizes = [pictures[index].shape[:2] for index in seen]
    points = np.array([found[index][0].landmarks for index in seen])
    framing = Framing.of(crop, sizes, points, len(files), "MTCNN")
    assert framing.margin == pytest.approx(0.22, abs=0.03)
    assert framing.vertical == pytest.approx(-0.056, abs=0.02)
    nowhere = np.full([1, 4], np.nan, np.float32)
    differences = []
    for index, landmarks in zip(seen, points, strict=True):
        picture = pictures[index][None]
        whole, _ = crop_pixels(picture, nowhere, landmarks[None], crop)
        face, _ = crop_pixels(picture, nowhere, landmarks[None], crop_for(framing, crop))
        differences.append(np.abs(np.asarray(face) - whole).mean())
    assert np.median(differences) < 12  # of 255: the same faces, moved by a pixel or so
