"""Exports with MTCNN in the graph answer for photographs as `Analyzer` does with `detect`."""

import json
import pathlib

import cv2
import numpy as np
import pytest
import test_signatures
from export_answers import ask, assert_answers, assert_described, export_for_photographs
from serving_double import start, start_rest
from tiny_workdir import FRAMING, encode

from data_pipelines.crop.framing import crop_of_face
from data_pipelines.crop.geometry import Crop
from data_pipelines.detection import mtcnn
from data_pipelines.errors import UserError
from data_pipelines.synth.drawing import draw_face
from export import standalone
from export.check import differences, refuse_if_different
from export.client import Client
from export.commands import export as commands
from export.description import named, read_description, summary
from export.examples import Examples, expected_answers
from export.photo_signatures import photo_signatures
from export.reload import main as reload
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.detection_graph import FaceDetector, _reduced

OPENCV = mtcnn._reduce
FACES = 2
SIDE = 500  # above which pictures are reduced here
DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"
serve = test_signatures.serve
PLACES = ("face_box", "face_landmarks", "landmarks_points", "alignment_outline")


def drawn(seed):
    """A face that the networks take for one."""
    return draw_face(np.random.default_rng(seed), {"Smiling": True})[0]


CROWD = np.tile(drawn(8), (3, 3, 1))
FLAT = np.full((70, 90, 3), 90, np.uint8)
PICTURES = [
    drawn(7), cv2.resize(CROWD, (294, 360)), drawn(8)[:121], FLAT, FLAT[:4], FLAT[:1, :1], CROWD,
]  # fmt: skip
FILES = [encode(picture, ".png") for picture in PICTURES]


@pytest.fixture(scope="module")
def detector():
    return FaceDetector(FACES, maximum_side=SIDE)


@pytest.fixture(scope="module")
def exported(workdir, detector, tmp_path_factory):
    folder, options = tmp_path_factory.mktemp("models"), {"max_pixels": 2 * 10**6, "warmup": False}
    return export_for_photographs(workdir, folder, detector, **options)


@pytest.fixture(scope="module")
def loaded(exported):
    import tensorflow as tf

    return tf.saved_model.load(str(exported))


@pytest.fixture(scope="module")
def signatures(loaded):
    return loaded.signatures


@pytest.fixture(scope="module")
def analyzer(workdir):
    """One that reduces pictures as the graph does, by a mean that is rounded to even numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mtcnn, "_reduce", lambda image, side: _reduced(image[None], side)[0].numpy())
        yield Analyzer.from_workdir(workdir.path, maximum_side=SIDE)


@pytest.fixture(scope="module")
def judged(analyzer):
    """All faces of each picture, the largest first."""
    return analyzer.analyze(FILES, detect=True)


def compare(found, faces, pixels=0.01, values=1e-3):
    """The answers for one photograph, and all its faces, the largest first."""
    assert found["faces_left_out"] == max(0, len(faces) - FACES)
    assert found["candidates_left_out"] == 0
    faces = faces[:FACES]
    points = [list(face.landmarks.values()) for face in faces]
    places = dict.fromkeys(PLACES, pixels)
    assert_answers(found, faces, FACES, values, places, face_landmarks=points)


def test_photographs_of_any_size_get_the_answers_of_the_analyzer_and_bad_files_none(
    signatures, judged
):
    counts = [len(faces) for faces in judged]
    assert max(counts) > FACES and 0 < min(filter(None, counts)) < FACES and 0 in counts
    bad = [FILES[0][:200], b"no image", encode(np.zeros((1501, 1500, 3), np.uint8))]
    found = ask(signatures, "photos", image_bytes=[bad[0], *FILES, *bad[1:]])
    valid = [one["valid"] for one in found]
    assert valid == [False, *[True] * len(FILES), False, False]
    for one, faces in zip(found, [[], *judged, [], []], strict=True):
        compare(one, faces)


def test_pixels_get_the_same_answers(signatures, judged):
    for index in (0, 3, 6):
        pixels = np.stack([PICTURES[index]] * 2)
        for found in ask(signatures, "photo_pixels", pixels=pixels):
            assert "valid" not in found
            compare(found, judged[index])


def test_frames_that_are_searched_together_get_the_answers_of_each_alone(signatures, analyzer):
    size = PICTURES[0].shape
    frames = [PICTURES[0], np.zeros(size, np.uint8), np.ascontiguousarray(PICTURES[0][:, ::-1]),
              CROWD[60 : 60 + size[0], 40 : 40 + size[1]]]  # fmt: skip
    found = ask(signatures, "photo_pixels", pixels=np.stack(frames))
    expected = analyzer.analyze(frames, detect=True)
    assert min(map(len, expected)) == 0 and len(expected[0]) > 0
    for one, faces in zip(found, expected, strict=True):
        compare(one, faces)


def test_jpeg_files_are_seen_as_the_analyzer_sees_them(signatures, analyzer):
    files = [encode(PICTURES[0], ".jpg"), encode(PICTURES[6], ".jpg")]
    found = ask(signatures, "photos", image_bytes=files)
    for one, faces in zip(found, analyzer.analyze(files, detect=True), strict=True):
        assert len(faces) > 0
        compare(one, faces)


def test_faces_of_reduced_photographs_are_those_of_opencv_to_a_pixel(signatures, judged):
    reduced = OPENCV(PICTURES[6], SIDE)
    assert max(reduced.shape) == SIDE
    (faces,) = mtcnn.Detector(maximum_side=SIDE)([reduced])
    factor = np.array(PICTURES[6].shape[1::-1]) / reduced.shape[1::-1]
    faces = sorted(
        (mtcnn.enlarged(face, factor) for face in faces), key=lambda f: -f.box[2:].prod()
    )
    assert len(faces) == len(judged[6])
    (found,) = ask(signatures, "photos", image_bytes=FILES[6:])
    for row, face in enumerate(faces[:FACES]):
        np.testing.assert_allclose(found["face_box"][row], face.box, atol=1)
        np.testing.assert_allclose(found["face_landmarks"][row], face.landmarks, atol=1)


@pytest.mark.parametrize(
    "crop", [Crop("box", 12, 10, margin=0.3), crop_of_face(Crop("none", 12, 10), FRAMING)]
)
def test_other_crops_are_the_models_own_too(detector, judged, crop):
    from data_pipelines.crop.pixels import decode_and_crop

    seen = photo_signatures(detector, lambda crops, _: {"crops": crops}, crop, 10**6)["photos"]
    found = seen(FILES[:2])["crops"].numpy()
    for index in (0, 1):
        faces = judged[index][:FACES]
        box = np.array([face.box for face in faces], np.float32)
        points = np.array([list(face.landmarks.values()) for face in faces], np.float32)
        expected, _ = decode_and_crop([FILES[index]] * len(faces), box, points, crop)
        np.testing.assert_allclose(found[index, : len(faces)], expected, atol=0.1)


def test_no_photograph_is_no_answer(signatures):
    import tensorflow as tf

    found = signatures["photos"](image_bytes=tf.constant([], tf.string))
    assert {len(values) for values in found.values()} == {0}


@pytest.mark.parametrize("factor", [2, 4, 1.37])
def test_the_mean_over_areas_differs_from_that_of_opencv_by_one_at_most(factor):
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    side = round(400 / factor)
    expected = cv2.resize(picture, (side, round(300 * side / 400)), interpolation=cv2.INTER_AREA)
    found = _reduced(picture[None], side)[0].numpy()
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < (0.13 if factor == 2 else 0.01)


def test_candidates_beyond_the_maximum_are_counted(detector):
    import tensorflow as tf

    from faceattr_tf.prediction.detection_graph import locate_in_pixels

    few = FaceDetector(FACES, maximum_side=SIDE, maximum_candidates=10)
    located = locate_in_pixels(few, tf.constant(np.stack([CROWD, np.zeros_like(CROWD)])))
    counts = located.candidates_left_out.numpy().tolist()
    assert counts[0] > 10 and counts[1] == 0


def test_the_metadata_describes_what_is_served(exported, signatures, detector):
    description = read_description(exported)
    assert description["localiser"] == []
    assert description["detector"] == json.loads(json.dumps(detector.describe()))
    assert_described(exported, signatures)


def test_the_check_compares_them(exported, signatures, workdir, detector):
    """With what stands for the process of its own, and sees what lies elsewhere."""
    description, names = read_description(exported), ("photos", "photo_pixels")
    files = [FILES[0], FILES[3], FILES[6]]
    nowhere = np.full((3, 4), np.nan, "f4"), np.full((3, 5, 2), np.nan, "f4")
    examples = Examples(files, *nowhere)
    expected = expected_answers(workdir.load_model(), workdir, description, examples, detector)
    expected = {name: expected[name] for name in names}
    found = {
        f"answer/{name}/{key}": values
        for name in names
        for key, values in standalone.ask(signatures[name], name, files, *nowhere).items()
    }
    results = differences(found, expected, description)
    for result in results:
        assert (result.images, result.unreadable, result.changed, result.moved) == (3, 0, 0, 0)
        assert result.labels > 0
    refuse_if_different(results, 1e-4, 0.0)
    found["answer/photos/face_landmarks"][0, 0] += 1
    with pytest.raises(UserError, match="face_landmarks of signature photos differs"):
        refuse_if_different(differences(found, expected, description), 1e-4, 0.0)


def test_answers_have_names_for_every_face(signatures, exported):
    (found,) = ask(signatures, "photos", image_bytes=FILES[1:2])
    answer = named(found, read_description(exported))
    assert len(answer["faces"]) == found["faces"] == FACES
    assert answer["faces_left_out"] == found["faces_left_out"]
    for row, face in enumerate(answer["faces"]):
        assert face["face_landmarks"] == found["face_landmarks"][row].tolist()
        smiling = face["attributes"]["Smiling"]["probability"]
        assert smiling == pytest.approx(found["attributes_probability"][row, 1])
    assert summary(answer).startswith("2 faces")


def test_the_c_api_gives_the_same_answers(serve, exported, judged, tmp_path):
    chosen = (0, 6, 3)
    files = [tmp_path / f"{index}.png" for index in chosen]
    for file, index in zip(files, chosen, strict=True):
        file.write_bytes(FILES[index])
    found = serve(exported, "photos", files)
    assert found.pop("valid").all()
    for row, index in enumerate(chosen):
        compare({name: values[row] for name, values in found.items()}, judged[index])


@pytest.fixture(scope="module")
def servers(exported):
    server, port, prediction = start(exported.parents[1], "faceattr", {"stable": 1})
    rest, rest_port = start_rest(prediction.versions)
    yield {"grpc": f"127.0.0.1:{port}", "rest": f"127.0.0.1:{rest_port}"}
    server.stop(None)
    rest.shutdown()
    rest.server_close()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_client_reads_them(servers, judged, protocol):
    files = [FILES[0], FILES[0][:200], FILES[6], FILES[3]]
    with Client(servers[protocol], protocol=protocol) as client:
        found = list(client.predict(files, signature="photos"))
    assert [bool(answer.error) for answer in found] == [False, True, False, False]
    for answer, index in zip([found[0], *found[2:]], (0, 6, 3), strict=True):
        compare(answer.outputs, judged[index])


def test_a_program_with_tensorflow_alone_asks_for_faces(
    exported, loaded, judged, tmp_path, monkeypatch, capsys
):
    import tensorflow as tf

    monkeypatch.setattr(tf.saved_model, "load", lambda path: loaded)
    (tmp_path / "a.png").write_bytes(FILES[0])
    (tmp_path / "b.png").write_bytes(FILES[3])
    reload(["--photos", str(exported), str(tmp_path / "a.png"), str(tmp_path / "b.png")])
    lines = capsys.readouterr().out.splitlines()
    left, top, width, height = judged[0][0].box
    place = f"a.png face {width:.0f} x {height:.0f} at ({left:.0f}, {top:.0f}): attributes: "
    assert place in lines[0]
    assert not any("b.png" in line for line in lines)


def test_every_format_is_known_to_the_command():
    from export.runtimes.writing import FORMATS

    assert (commands.SAVED_MODEL, *FORMATS) == commands.KNOWN


def test_flags_that_do_not_fit_together_are_refused(workdir, tmp_path):
    target = [f"--workdir={workdir.path}", f"--output={tmp_path}"]
    for flags, message in (
        (["--detect", "--localiser=a"], "--detect and --localiser both find the faces"),
        (["--detect", "--faces=0"], "faces 0: expected 1 or more"),
        (["--faces=2"], "--faces belongs to --localiser or --detect"),
        (["--minimum_size=30"], "--minimum_size belongs to --detect"),
        (["--detect", "--minimum_size=5"], "minimum_size 5: at least 12 pixels are needed"),
        (["--detect", "--maximum_side=15"], "maximum_side 15: expected at least minimum_size, 20"),
        (["--detect", "--maximum_candidates=0"], "maximum_candidates 0: expected 1 or more"),
        (["--format=foo"], "--format=foo: expected one or more of saved_model, litert, onnx"),
        (["--format=onnx", "--maximum_side=900"], "--maximum_side belongs to --format=saved_model"),
        (["--detect", "--format=onnx"], "--detect belongs to --format=saved_model"),
    ):
        with pytest.raises(UserError, match=message):
            commands.main([*target, *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.real_data
@pytest.mark.parametrize("pattern", ["mtfl/AFLW/*.jpg", "wider_face/WIDER_val/images/*/*.jpg"])
def test_real_photographs_get_the_answers_of_the_analyzer(signatures, analyzer, pattern):
    names = sorted(DATA.glob(pattern))
    files = [name.read_bytes() for name in names[:: len(names) // 4]]
    found = ask(signatures, "photos", image_bytes=files)
    for one, faces in zip(found, analyzer.analyze(files, detect=True), strict=True):
        compare(one, faces)
