import io
import json
import types

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy import special
from tiny_workdir import CALIBRATION, TASKS, build_model, draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.picture import read_picture

SMALLER = (0.5, 0.0, 0.2, 0.0, 0.5, -0.1)
NOWHERE = np.full([1, 4], np.nan, np.float32), np.full([1, 5, 2], np.nan, np.float32)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("run") / "box", Crop("box", 12, 10))


@pytest.fixture(scope="module")
def analyzer(workdir):
    return Analyzer.from_workdir(workdir.path)


@pytest.fixture(scope="module")
def pointing():
    """Its landmarks are the centre of the crop, always, and `SMALLER` its transform."""
    model = build_model(Crop("box", 12, 10))
    for layer in model.layers:
        if layer.name.startswith("head_"):
            layer.set_weights([np.zeros_like(weight) for weight in layer.get_weights()])
            if layer.units == 6:
                layer.bias.assign(SMALLER)
    return Analyzer(model, TASKS, Crop("box", 12, 10))


def test_numbers_are_those_of_the_model_on_the_recorded_crop(workdir, analyzer, tmp_path):
    import tensorflow as tf

    from data_pipelines.crop.pixels import decode_and_crop

    (tmp_path / "photo.jpg").write_bytes(encode(draw_picture(1)))
    face = analyzer.analyze(tmp_path / "photo.jpg")
    content = tf.constant([encode(draw_picture(1))])
    pixels, _ = decode_and_crop(content, *NOWHERE, workdir.crop)
    raw = {name: output.numpy()[0] for name, output in workdir.load_model()(pixels).items()}

    expected = special.expit(raw["attributes"] / CALIBRATION["attributes"]["temperature"])
    attributes = face.tasks["attributes"]
    assert list(attributes) == ["Male", "Smiling", "Eyeglasses"]
    np.testing.assert_allclose([a.probability for a in attributes.values()], expected, 1e-4)
    thresholds = CALIBRATION["attributes"]["thresholds"]
    assert [a.label for a in attributes.values()] == (expected >= thresholds).tolist()
    pose = special.softmax(raw["pose"] / CALIBRATION["pose"]["temperature"])
    np.testing.assert_allclose(list(face.tasks["pose"].probabilities.values()), pose, 1e-4)
    ages = {"young": 9.0, "grown": 30.0, "old": 70.0}
    likely = face.tasks["range"].probabilities
    np.testing.assert_allclose(
        face.tasks["range"].value, sum(ages[name] * p for name, p in likely.items()), 1e-6
    )
    emotion = special.softmax(raw["emotion"])
    np.testing.assert_allclose(list(face.tasks["emotion"].probabilities.values()), emotion, 1e-4)
    assert face.tasks["pose"].label == list(face.tasks["pose"].probabilities)[pose.argmax()]
    assert face.tasks["age"]["years"] == pytest.approx(raw["age"][0], rel=1e-4)
    assert face.filename == str(tmp_path / "photo.jpg")
    assert face.box is None and face.landmarks is None and face.score is None


def test_every_kind_of_picture_gives_the_same(analyzer, tmp_path):
    pixels = draw_picture(2)
    png = encode(pixels, ".png")
    (tmp_path / "a.png").write_bytes(png)
    pictures = [str(tmp_path / "a.png"), tmp_path / "a.png", png, pixels, encode(pixels, ".tiff")]
    tasks = [analyzer.analyze(picture).to_dict()["tasks"] for picture in pictures]
    assert all(other == tasks[0] for other in tasks)


def test_lists_run_in_batches_and_keep_their_order(workdir, analyzer):
    pictures = [draw_picture(seed, 40 + 9 * seed, 50) for seed in range(5)]
    faces = Analyzer.from_workdir(workdir.path, batch_size=2).analyze(pictures)
    for face, picture in zip(faces, pictures, strict=True):
        single = analyzer.analyze(picture).to_row()
        for key, value in face.to_row().items():
            close = pytest.approx(single[key], rel=1e-3) if isinstance(value, float) else None
            assert value == (single[key] if close is None else close), key
    assert analyzer.analyze([]) == []


def test_orientation_tags_are_applied(analyzer):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    file = io.BytesIO()
    Image.fromarray(draw_picture(3)).save(file, "jpeg", exif=exif)
    upright = np.rot90(np.asarray(Image.open(io.BytesIO(file.getvalue()))), -1)
    turned = analyzer.analyze(file.getvalue()).tasks["attributes"]["Male"].probability
    expected = analyzer.analyze(np.ascontiguousarray(upright)).tasks["attributes"]["Male"]
    assert turned == pytest.approx(expected.probability, abs=1e-3)


def test_predicted_points_are_pixels_of_the_source(pointing):
    whole = pointing.analyze(draw_picture(4, height=60, width=48))
    for point in whole.tasks["landmarks"].values():
        assert point == pytest.approx((23.5, 29.5), abs=1e-3)
    face = pointing.analyze(draw_picture(4), box=[10, 20, 21, 25])
    assert face.box == (10, 20, 21, 25)
    assert face.tasks["landmarks"]["nose"] == pytest.approx((20, 32), abs=1e-3)


def test_outlines_are_pixels_of_the_source(pointing):
    """The crop of a box of 20x24 is the box itself; its borders lie half a pixel outside."""
    face = pointing.analyze(draw_picture(4), box=[10, 20, 20, 24])
    alignment = face.tasks["alignment"]
    assert (alignment.rotation, alignment.scale) == pytest.approx((0, 0.5))
    assert alignment.shift == pytest.approx((0.1, -0.05))
    middle = np.array([9.5 + 20 * (0.5 + 0.1), 19.5 + 24 * (0.5 - 0.05)])
    assert alignment.outline["left_top"] == pytest.approx(tuple(middle - [5, 6]), abs=1e-3)
    assert alignment.outline["right_bottom"] == pytest.approx(tuple(middle + [5, 6]), abs=1e-3)
    plain = json.loads(json.dumps(face.to_dict()))["tasks"]["alignment"]
    assert plain["outline"]["right_top"] == list(alignment.outline["right_top"])
    row = face.to_row()
    assert row["alignment/shift/x"] == alignment.shift[0]
    assert row["alignment/outline/left_bottom/y"] == alignment.outline["left_bottom"][1]
    assert "scale" in str(face) and "(+0.100, -0.050)" in str(face)


def test_landmarks_are_taken_where_there_is_no_box(pointing):
    landmarks = [[12, 10], [28, 10], [20, 18], [14, 26], [26, 26]]
    face = pointing.analyze([draw_picture(5)], landmarks=[landmarks])[0]
    assert face.landmarks["right_eye"] == (28, 10)
    assert face.tasks["landmarks"]["nose"] == pytest.approx((20, 18), abs=0.51)


def detection(left, score, width=20):
    box = np.array([left, 5, width, 24], np.float32)
    points = np.array([[5, 8], [15, 8], [10, 13], [6, 18], [14, 18]], np.float32) + box[:2]
    return types.SimpleNamespace(box=box, score=score, landmarks=points)


def test_detection_takes_all_faces_the_largest_first(workdir):
    analyzer = Analyzer.from_workdir(workdir.path, batch_size=2)
    analyzer._detector = lambda images: [
        [detection(8, 0.99), detection(12, 0.9, 25)] if image.mean() > 40 else []
        for image in images
    ]
    pictures = [draw_picture(6), np.zeros((50, 50, 3), np.uint8), draw_picture(7)]
    found = analyzer.analyze(pictures, detect=True)
    assert [[face.box[0] for face in faces] for faces in found] == [[12, 8], [], [12, 8]]
    assert [face.score for face in found[0]] == pytest.approx([0.9, 0.99])
    assert found[2][0].tasks.keys() == {task.name for task in TASKS}
    given = analyzer.analyze(pictures[2], box=found[2][1].box)
    assert given.tasks["age"]["years"] == pytest.approx(found[2][1].tasks["age"]["years"], rel=1e-3)
    analyzer.faces = 1
    largest = analyzer.analyze(pictures, detect=True)
    assert [[face.box[0] for face in faces] for faces in largest] == [[12], [], [12]]
    with pytest.raises(UserError, match="faces 0: expected at least 1"):
        Analyzer.from_workdir(workdir.path, faces=0)


@pytest.mark.parametrize("quarters", (1, 2, 3))
def test_a_picture_that_lies_is_turned_and_its_places_are_those_of_the_picture(workdir, quarters):
    upright, marked = draw_picture(6), (255, 0, 255)
    upright[0, 0] = marked

    def detector(images):
        seen = [(image[0, 0] == marked).all() for image in images]
        return [[detection(8, 0.9), detection(11, 0.8)] if one else [] for one in seen]

    lying = np.ascontiguousarray(np.rot90(upright, quarters))
    analyzer = Analyzer.from_workdir(workdir.path)
    analyzer._detector = detector
    assert analyzer.analyze([lying, upright], detect=True)[0] == []
    expected = analyzer.analyze(upright, detect=True)
    analyzer.try_rotations = True
    found, same, nothing = analyzer.analyze([lying, upright, np.zeros_like(lying)], detect=True)
    assert same == expected and nothing == []
    assert [face.turned for face in found] == [90 * quarters] * 2 and "turned by" in str(found[0])
    height, width = upright.shape[:2]

    def turn(x, y):
        places = {1: (y, width - 1 - x), 2: (width - 1 - x, height - 1 - y), 3: (height - 1 - y, x)}
        return places[quarters]

    for one, other in zip(found, expected, strict=True):
        left, top, wide, high = map(round, one.box)
        part = lying[top : top + high, left : left + wide]
        left, top, wide, high = map(round, other.box)
        np.testing.assert_array_equal(
            np.rot90(part, -quarters), upright[top : top + high, left : left + wide]
        )
        for name, point in other.landmarks.items():
            assert one.landmarks[name] == pytest.approx(turn(*point))
        for name, attribute in other.tasks["attributes"].items():
            assert one.tasks["attributes"][name].probability == pytest.approx(attribute.probability)
        for name, point in other.tasks["landmarks"].items():
            assert one.tasks["landmarks"][name] == pytest.approx(turn(*point), abs=1e-3)


def test_plain_data_is_ready_for_json_and_tables(analyzer):
    box, points = [3, 4, 30, 40], [[5, 5], [9, 5], [7, 7], [5, 9], [9, 9]]
    face = analyzer.analyze(draw_picture(8), box=box, landmarks=points)
    plain = json.loads(json.dumps(face.to_dict(), allow_nan=False))
    assert plain["box"] == box and plain["landmarks"]["nose"] == [7, 7]
    smiling = face.tasks["attributes"]["Smiling"]
    assert plain["tasks"]["attributes"]["Smiling"] == {
        "probability": smiling.probability,
        "label": smiling.label,
    }
    some = analyzer.analyze(draw_picture(8), landmarks=[[np.nan, 5], *points[1:]])
    assert "left_eye" not in some.landmarks and some.to_row()["nose_y"] == 7
    row = face.to_row()
    assert (row["left"], row["height"], row["nose_x"]) == (3, 40, 7)
    assert row["attributes/Smiling/probability"] == smiling.probability
    assert row["pose/label"] == face.tasks["pose"].label
    assert row["range/value"] == face.tasks["range"].value
    assert list(row) == list(analyzer.analyze(draw_picture(9)).to_row())


def test_it_prints_as_an_aligned_table(analyzer):
    lines = str(analyzer.analyze(draw_picture(8), box=[3, 4, 30, 40])).splitlines()
    assert lines[0] == "picture  face 30 x 40 at (3, 4)"
    shown = [line for line in lines if line.endswith("%")]
    assert len(shown) == 3 + 5 + 3 + 2
    assert len({len(line) for line in shown}) == 1
    assert any(line.split()[:2] in (["Male", "yes"], ["Male", "no"]) for line in lines)
    assert sum(line.split()[:1] == ["expected"] for line in lines) == 1


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("absent.jpg", {}, "absent.jpg: no such file or directory"),
        (b"no image", {}, "picture: not an image"),
        (b"", {}, "picture: not an image"),
        (encode(draw_picture(1))[:300], {}, "picture: not an image"),
        (np.zeros((5, 5, 3)), {}, r"\[5, 5, 3\] and type float64: expected uint8 RGB"),
        (np.zeros((5, 5), np.float32), {}, r"shape \[5, 5\] and type float32: expected uint8"),
        (np.zeros((5, 5, 4), np.uint8), {}, r"shape \[5, 5, 4\] and type uint8: expected uint8"),
        (np.zeros((0, 5, 3), np.uint8), {}, r"shape \[0, 5, 3\] and type uint8"),
        (None, {}, "type NoneType: expected a file name"),
        (["a.jpg", 7][1:], {}, "type int: expected a file name"),
        ("a\0.jpg", {}, r"a\\0.jpg: embedded null byte"),
        (io.StringIO("text"), {}, "opened for reading text"),
        (Image.new("F", (9, 9)), {}, "mode F has no range"),
        (draw_picture(1), {"box": [1, 2]}, r"box of shape \[2\]: expected \[1, 4\]"),
        (draw_picture(1), {"box": [1, 2, 3, 4], "detect": True}, "leave box and landmarks out"),
    ],
)
def test_mistakes_are_named(analyzer, images, options, message):
    with pytest.raises(UserError, match=message):
        analyzer.analyze(images, **options)


def test_every_form_of_a_picture_gives_the_same_answer(analyzer, tmp_path):
    import tensorflow as tf

    pixels = draw_picture(4)
    content = encode(pixels, ".png")
    (tmp_path / "a.png").write_bytes(content)
    expected = analyzer.analyze(pixels).tasks
    with open(tmp_path / "a.png", "rb") as file:
        forms = [content, bytearray(content), memoryview(content), io.BytesIO(content), file]
        forms += [Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")]
        forms += [tf.constant(pixels), str(tmp_path / "a.png"), tmp_path / "a.png"]
        faces = analyzer.analyze(forms)
    assert [face.tasks for face in faces[1:]] == [faces[0].tasks] * (len(forms) - 1)
    for face in [*faces[:1], *analyzer.analyze(tf.constant(pixels)[None])]:
        ages = face.tasks["age"]["years"], expected["age"]["years"]
        assert ages[0] == pytest.approx(ages[1], rel=1e-4)
    assert {face.filename for face in faces} == {"", str(tmp_path / "a.png")}
    grey = pixels[..., 0]
    answers = [grey, grey[..., None], Image.fromarray(grey), np.stack([grey] * 3, axis=-1)]
    assert len({str(face.tasks) for face in analyzer.analyze(answers)}) == 1


def test_pillows_images_may_be_too_large_as_well():
    with pytest.raises(UserError, match="picture: 30 x 20 pixels, more than --max_pixels=599"):
        read_picture(Image.new("L", (30, 20)), 599)


def test_pillows_images_are_turned_upright(analyzer):
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(draw_picture(4))))
    turned.getexif()[0x0112] = 6
    assert analyzer.analyze(turned).tasks == analyzer.analyze(draw_picture(4)).tasks


def test_tensors_of_torch_are_taken_from_the_processor_only(analyzer):
    torch = pytest.importorskip("torch")
    pixels = draw_picture(4)
    same = analyzer.analyze(torch.from_numpy(pixels))
    assert same.tasks == analyzer.analyze(pixels).tasks
    with pytest.raises(UserError, match="picture of type Tensor"):
        analyzer.analyze(torch.empty(5, 5, 3, device="meta"))


def test_one_picture_gives_its_faces_and_several_a_list_of_them(workdir, tmp_path):
    analyzer = Analyzer.from_workdir(workdir.path)
    analyzer._detector = lambda images: [[detection(8, 0.9), detection(25, 0.9)] for _ in images]
    (tmp_path / "a.png").write_bytes(encode(draw_picture(6), ".png"))
    faces = analyzer.analyze(str(tmp_path / "a.png"), detect=True)
    assert [face.box[0] for face in faces] == [8, 25]
    assert analyzer.analyze([tmp_path / "a.png"], detect=True) == [faces]


def test_the_bad_picture_of_a_batch_is_named(analyzer, tmp_path):
    content = encode(draw_picture(1))
    for name, data in {"a.jpg": content, "cut.jpg": content[:-200], "c.jpg": content}.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="cut.jpg: not an image"):
        analyzer.analyze(sorted(tmp_path.iterdir()))


@pytest.mark.real_data
def test_faces_of_photographs_are_found(analyzer, real_data):
    row = (real_data / "mtfl" / "testing.txt").read_text().split("\n")[0].split()
    photo = real_data / "mtfl" / row[0].replace("\\", "/")
    points = np.array(row[1:11], float).reshape(2, 5).T
    (face,) = analyzer.analyze(photo, detect=True)
    assert face.score > 0.7
    size = cv2.imread(str(photo)).shape[0]
    np.testing.assert_allclose(list(face.landmarks.values()), points, atol=0.1 * size)


def test_numbers_are_those_of_evaluation(mtfl_tree, mtfl_records):
    from data_pipelines.crop.geometry import from_crop_coordinates
    from data_pipelines.input.batches import Source, evaluation_batches
    from data_pipelines.input.view import View
    from faceattr_tf.evaluation.inference import predict_outputs

    crop = Crop("align", 12, 10)
    model = build_model(crop)
    batches = evaluation_batches(Source(mtfl_records, "test"), TASKS, View(crop), batch_size=5)
    outputs, labels, transforms, filenames = predict_outputs(model, batches)
    points = from_crop_coordinates(labels["landmarks"], transforms, crop.height, crop.width)
    files = [mtfl_tree / name for name in filenames]
    faces = Analyzer(model, TASKS, crop).analyze(files, landmarks=points)
    probabilities = [[a.probability for a in face.tasks["attributes"].values()] for face in faces]
    np.testing.assert_allclose(probabilities, special.expit(outputs["attributes"]), atol=2e-4)
    predicted = [list(face.tasks["landmarks"].values()) for face in faces]
    expected = from_crop_coordinates(outputs["landmarks"], transforms, crop.height, crop.width)
    np.testing.assert_allclose(predicted, expected, atol=0.05)
