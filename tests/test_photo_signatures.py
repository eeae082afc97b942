"""Exports that find the faces of photographs answer as Keras networks and the NumPy localiser do."""

import json

import numpy as np
import pytest
from export_answers import ask, assert_answers, assert_described, export_for_photographs
from tiny_workdir import draw_picture, encode, make_workdir
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES
from export import standalone
from export.check import differences, refuse_if_different
from export.commands import export as commands
from export.description import named, read_description, summary
from export.drawn_requests import draw_requests
from export.examples import Examples, expected_answers
from export.reload import main as reload
from faceattr_tf.configs.base import Model
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.localisation import Localiser

FACES = 3
PICTURES = [
    draw_picture(0, 99, 99), draw_picture(1, 400, 250), draw_picture(2, 64, 200),
    draw_picture(3, 4, 90), draw_picture(4, 1, 1), np.zeros((70, 90, 3), np.uint8),
    draw_picture(5, 700, 900),
]  # fmt: skip
FILES = [encode(picture, ".png" if i % 2 else ".jpg") for i, picture in enumerate(PICTURES)]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of a model that was trained on whole pictures."""
    return make_workdir(tmp_path_factory.mktemp("run") / "none", Crop("none", 12, 10))


@pytest.fixture(scope="module")
def localiser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lnets")
    lnet = Model("lnet", width=1 / 32, options=(("features", 16), ("pooling", "max")))
    for name, size in (("o", 99), ("s", 67)):
        make_run(folder / name, lnet, (MTFL_ATTRIBUTES,), size=size)
    (folder / "o" / "localisation.json").write_text('{"threshold": 0}')
    return Localiser.from_workdirs([folder / "o", folder / "s"], faces=FACES)


@pytest.fixture(scope="module")
def exported(workdir, localiser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return export_for_photographs(workdir, folder, localiser, max_pixels=10**6)


@pytest.fixture(scope="module")
def loaded(exported):
    import tensorflow as tf

    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def judged(workdir, localiser):
    """The faces of each picture, by the Analyzer."""
    return Analyzer.from_workdir(workdir.path, localiser=localiser).analyze(FILES, detect=True)


def compare(found, faces):
    """The answers for one photograph, and its faces."""
    assert_answers(found, faces, FACES, 2e-3)


def test_photographs_of_any_size_get_the_answers_of_keras_and_bad_files_none(signatures, judged):
    counts = [len(faces) for faces in judged]
    assert max(counts) == FACES and len(set(counts)) > 1
    bad = [FILES[0][:200], b"no image", encode(draw_picture(6, 1001, 1000))]
    found = ask(signatures, "photos", image_bytes=[bad[0], *FILES, *bad[1:]])
    assert [one["valid"] for one in found] == [False, *[True] * len(FILES), False, False]
    for one, faces in zip(found, [[], *judged, [], []], strict=True):
        compare(one, faces)


def test_windows_lie_in_the_photograph(judged):
    for picture, faces in zip(PICTURES, judged, strict=True):
        for left, top, width, height in (face.box for face in faces):
            assert min(left, top) >= 0 < min(width, height)
            assert left + width <= picture.shape[1] + 1e-3
            assert top + height <= picture.shape[0] + 1e-3


def test_pixels_get_the_same_answers(signatures, judged):
    for index in (1, 3):  # PNG files: the same pixels
        (found,) = ask(signatures, "photo_pixels", pixels=PICTURES[index][None])
        compare(found, judged[index])


def test_no_photograph_is_no_answer(signatures):
    import tensorflow as tf

    found = signatures["photos"](image_bytes=tf.constant([], tf.string))
    assert {len(values) for values in found.values()} == {0}


def test_the_metadata_describes_what_is_served(exported, signatures, localiser):
    description = read_description(exported)
    assert description["localiser"] == json.loads(json.dumps(localiser.describe()))
    assert_described(exported, signatures)


def test_the_check_compares_them(exported, signatures, workdir, localiser):
    """With what stands for the process of its own, and sees what lies elsewhere."""
    description = read_description(exported)
    files = FILES[:3]
    nowhere = np.full((3, 4), np.nan, "f4"), np.full((3, 5, 2), np.nan, "f4")
    examples = Examples(files, *nowhere)
    expected = expected_answers(workdir.load_model(), workdir, description, examples, localiser)
    found = {
        f"answer/{name}/{key}": values
        for name in ("photos", "photo_pixels")
        for key, values in standalone.ask(signatures[name], name, files, *nowhere).items()
    }
    expected = {name: expected[name] for name in ("photos", "photo_pixels")}
    for result in differences(found, expected, description):
        assert (result.images, result.unreadable, result.changed, result.moved) == (3, 0, 0, 0)
        assert result.labels == 3 * FACES * (3 + 3)  # three attributes, three classes
        assert result.largest < 1e-3
    found["answer/photos/face_box"][0, 0] += 1
    results = differences(found, expected, description)
    assert [(result.signature, result.moved) for result in results] == [
        ("photos", 1),
        ("photo_pixels", 0),
    ]
    refuse_if_different(results, 1e-3, 0.0)
    found["answer/photos/face_box"][1, 0] = np.nan
    with pytest.raises(UserError, match="photos finds faces elsewhere in 2 of 3 images"):
        refuse_if_different(differences(found, expected, description), 1e-3, 0.0)


def test_answers_have_names_for_every_face(signatures, exported):
    (found,) = ask(signatures, "photos", image_bytes=FILES[:1])
    answer = named(found, read_description(exported))
    assert len(answer["faces"]) == found["faces"] > 0
    for row, face in enumerate(answer["faces"]):
        assert face["face_box"] == found["face_box"][row].tolist()
        smiling = face["attributes"]["Smiling"]["probability"]
        assert smiling == pytest.approx(found["attributes_probability"][row, 1])
    assert summary(answer).startswith(f"{found['faces']} face")
    assert summary(named(found | {"faces": 0}, read_description(exported))) == "0 faces"


def test_a_program_with_tensorflow_alone_asks_for_faces(
    exported, loaded, judged, tmp_path, monkeypatch, capsys
):
    import tensorflow as tf

    monkeypatch.setattr(tf.saved_model, "load", lambda path: loaded)
    (tmp_path / "a.jpg").write_bytes(FILES[0])
    (tmp_path / "b.png").write_bytes(FILES[5])
    reload(["--photos", str(exported), str(tmp_path / "a.jpg"), str(tmp_path / "b.png")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 * (len(judged[0]) + len(judged[5]))
    left, top, width, height = judged[0][0].box
    place = f"a.jpg face {width:.0f} x {height:.0f} at ({left:.0f}, {top:.0f}): attributes: "
    assert place in lines[0]


def test_requests_warm_every_signature_up(exported):
    import tensorflow as tf

    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    file = str(exported / "assets.extra" / "tf_serving_warmup_requests")
    records = [data.numpy() for data in tf.data.TFRecordDataset(file)]
    asked = [log.PredictionLog.FromString(data).predict_log.request for data in records]
    assert {"photos", "photo_pixels"} < {request.model_spec.signature_name for request in asked}
    faces = draw_requests(1)
    assert faces.inputs("photos").keys() == {"image_bytes"}
    assert faces.inputs("photo_pixels").keys() == {"pixels"}


def test_the_number_of_faces_needs_a_localiser(workdir, tmp_path):
    with pytest.raises(UserError, match="--faces belongs to --localiser"):
        commands.main([f"--workdir={workdir.path}", f"--output={tmp_path}", "--faces=2"])
