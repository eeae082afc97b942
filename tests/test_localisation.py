"""Faces of photographs, found by networks whose maps are known.

`test_photo_signatures.py` compares graph and Keras on photographs of many sizes.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
from tiny_workdir import TASKS, build_model, draw_picture, encode
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.detection.response_windows import WindowSettings
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES
from faceattr_tf.configs.base import Model
from faceattr_tf.models.lnet import ReceptiveField
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.localisation import Localiser, Stage, crop_of_window

LNET = Model("lnet", width=1 / 32, options=(("features", 16), ("pooling", "max")))
EXACT = WindowSettings(scale=1.0, aspect=1.0, fraction=0.5)


def seeing(channel, side, cell=4):
    """A stage whose map is the mean of a colour over cells of so many pixels."""
    image = keras.Input((None, None, 3))
    mean = keras.layers.AveragePooling2D(cell)(image)[..., channel]
    field = ReceptiveField(cell, cell, (cell - 1) / 2)
    return Stage(keras.Model(image, mean), field, side, EXACT)


def photograph(height, width, *squares):
    """Black, with squares (left, top, side, channel)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    for left, top, side, channel in squares:
        pixels[top : top + side, left : left + side, channel] = 200
    return pixels


def boxes(localiser, *pictures):
    files = [encode(pixels, ".png") for pixels in pictures]
    return [[face.box.tolist() for face in faces] for faces in localiser(files)]


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lnets")
    for name, size in (("o", 99), ("s", 67)):
        make_run(folder / name, LNET, (MTFL_ATTRIBUTES,), size=size)
    (folder / "o" / "localisation.json").write_text(json.dumps({"count": 3, "threshold": 0}))
    (folder / "s" / "localisation.json").write_text(json.dumps({"margin": 0.1}))
    return folder / "o", folder / "s"


@pytest.mark.parametrize("size", [(80, 120), (240, 160), (40, 48)])
def test_a_window_is_in_pixels_of_the_photograph_whatever_its_size(size):
    """Of 120, 240 or 48 pixels, the network sees 96 in 24 cells."""
    unit = max(size) // 24  # pixels of the photograph in a cell
    left, top, side = 6 * unit, 4 * unit, 6 * unit
    (found,) = boxes(Localiser([seeing(0, 96)]), photograph(*size, (left, top, side, 0)))
    np.testing.assert_allclose(found, [[left, top, side, side]], atol=0.2)


def test_the_second_network_looks_in_the_windows_of_the_first():
    """A red square with a green one in it, and a brighter green one elsewhere."""
    picture = photograph(96, 96, (32, 32, 48, 0), (44, 56, 16, 1), (0, 0, 24, 1))
    stages = seeing(0, 96), seeing(1, 48)
    assert boxes(Localiser(stages[:1]), picture) == [[[32, 32, 48, 48]]]
    np.testing.assert_allclose(boxes(Localiser(stages), picture), [[[44, 56, 16, 16]]], atol=0.01)
    assert boxes(Localiser(stages), photograph(96, 96)) == [[]]


def test_windows_in_which_the_second_network_sees_nothing_are_left_out():
    picture = photograph(96, 144, (8, 8, 40, 0), (88, 48, 40, 0), (96, 56, 16, 1))
    picture[8:48, 8:48, 0] += 20  # the stronger one, which has nothing green
    localiser = Localiser([seeing(0, 144), seeing(1, 40)], faces=4)
    np.testing.assert_allclose(boxes(localiser, picture), [[[96, 56, 16, 16]]], atol=0.01)
    assert [len(found) for found in boxes(Localiser(localiser.stages[:1], 4), picture)] == [2]


def test_nothing_is_found_in_an_even_picture_and_windows_end_at_the_border():
    wide = dataclasses.replace(seeing(0, 96), settings=dataclasses.replace(EXACT, scale=3.0))
    even, corner = photograph(60, 96), photograph(96, 96, (0, 80, 16, 0))
    assert boxes(Localiser([wide]), even, corner) == [[], [[0, 64, 32, 32]]]


def test_several_faces_are_the_strongest_ones_and_scores_are_above_the_median():
    picture = photograph(96, 144, (8, 8, 24, 0), (96, 48, 24, 0), (48, 64, 24, 0))
    picture[48:72, 96:120, 0] += 40
    picture += 10
    localiser = Localiser([seeing(0, 144)], faces=2)
    (faces,) = localiser([encode(picture, ".png")])
    assert [face.score for face in faces] == [240, 200]
    assert faces[0].box.tolist() == [96, 48, 24, 24]
    assert np.isnan(faces[0].landmarks).all()


def test_a_workdir_keeps_its_settings(workdirs):
    localiser = Localiser.from_workdirs(workdirs)
    assert localiser.faces == 3
    assert localiser.describe() == [
        {"recipe": "small", "side": side, "margin": margin, **dataclasses.asdict(settings)}
        for settings, side, margin in (
            (WindowSettings(count=3, threshold=0), 139, 0.4),  # photographs are enlarged
            (WindowSettings(), 67, 0.1),
        )
    ]
    assert [Stage.of(workdirs[1]).side, localiser.stages[1].crop.margin] == [94, 0.1]
    assert Localiser.from_workdirs(workdirs, faces=7).faces == 7
    assert [stage.least for stage in localiser.stages] == [35, 35]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sides": 99}, "sides 99: expected numbers of side, margin, count"),
        ({"margin": -0.1}, "margin -0.1: expected a share from 0 to 2"),
        ({"scale": "2"}, "scale '2': expected numbers"),
        ({"count": 1.5}, "count 1.5: expected a whole number"),
        ([99], "localisation.json: expected names with values"),
        ({"scale": -1}, "scale -1: expected above 0"),
        ({"side": 34}, "side 34: expected 35 to 1024 pixels"),
        ({"side": 99.5}, "side 99.5: expected 35 to 1024 pixels"),
    ],
)
def test_settings_that_make_no_sense_are_named(workdirs, settings, message):
    file = workdirs[1] / "localisation.json"
    before = file.read_text()
    file.write_text(json.dumps(settings))
    try:
        with pytest.raises(UserError, match=message):
            Stage.of(workdirs[1])
    finally:
        file.write_text(before)


def test_other_mistakes_are_named(workdirs, tmp_path):
    make_run(tmp_path / "tcdcn")
    with pytest.raises(UserError, match="tcdcn holds a network tcdcn: only lnet finds faces"):
        Stage.of(tmp_path / "tcdcn")
    stage = Stage.of(workdirs[0])
    with pytest.raises(UserError, match="3 networks to find faces"):
        Localiser([stage] * 3)
    with pytest.raises(UserError, match="faces 0: expected 1 or more"):
        Localiser([stage], faces=0)


def test_what_is_judged_of_a_face_is_its_window():
    """By a model of whole pictures as if the window were one."""
    model = build_model(Crop("none", 12, 10))
    settings = dataclasses.replace(EXACT, aspect=1.2)
    localiser = Localiser([dataclasses.replace(seeing(0, 192), settings=settings)])
    picture = np.zeros((128, 192, 3), np.uint8)
    face = draw_picture(8, 48, 40)
    face[..., 0] = 255  # as a whole it is what responds
    picture[32:80, 64:104] = face
    finding = Analyzer(model, TASKS, Crop("none", 12, 10), localiser=localiser)
    found = finding.analyze(picture, detect=True)
    assert [one.box for one in found] == [(64, 32, 40, 48)]
    alone = Analyzer(model, TASKS, Crop("none", 12, 10)).analyze(face)
    for name, attribute in found[0].tasks["attributes"].items():
        expected = alone.tasks["attributes"][name].probability
        assert attribute.probability == pytest.approx(expected, abs=1e-5)
    for name, point in found[0].tasks["landmarks"].items():
        place = np.array(point) - [64, 32]
        np.testing.assert_allclose(place, alone.tasks["landmarks"][name], atol=1e-3)


def test_a_model_of_whole_pictures_sees_the_whole_window():
    assert crop_of_window(Crop("none", 20, 30, margin=0.5)) == Crop("box", 20, 30)
    assert crop_of_window(Crop("align", 20, 30, margin=0.5)) == Crop("align", 20, 30, margin=0.5)


def test_a_graph_leaves_out_windows_in_which_nothing_is_seen():
    from faceattr_tf.prediction.localisation_graph import locate_in_pixels

    picture = photograph(96, 144, (8, 8, 40, 0), (88, 48, 40, 0), (96, 56, 16, 1))
    picture[8:48, 8:48, 0] += 20
    localiser = Localiser([seeing(0, 144, cell=8), seeing(1, 40, cell=8)], faces=4)
    even = np.zeros_like(picture)
    located = locate_in_pixels(localiser, np.stack([even, picture]))
    box, response = located.box.numpy(), located.response.numpy()
    np.testing.assert_allclose(box[1, 0], [96, 56, 16, 16], atol=0.01)
    np.testing.assert_allclose(response[1, 0], 200)
    assert np.isnan(box[1, 1:]).all() and np.isnan(box[0]).all()
