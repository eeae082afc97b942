"""Where parts of a face are looked for, against where crops put a face's landmarks."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.crop.geometry import TEMPLATE, Crop, crop_transform, to_crop_coordinates
from data_pipelines.errors import UserError
from faceattr_tf.configs import create_recipe
from faceattr_tf.experiment import Experiment
from faceattr_tf.models.create import create_model, create_network
from faceattr_tf.models.face_parts import MOUTH, NOSE, choose, locate

AROUND = {
    "between_eyes": (-1, -1, 1, 1),
    "left_eye": (-0.6, -0.1, -0.4, 0.1),
    "nose": (-0.1, NOSE - 0.1, 0.1, NOSE + 0.1),
    "mouth": (-1, MOUTH - 1, 1, MOUTH + 1),
}


def middle(box, size):
    """The middle of a box in normalised coordinates of the crop."""
    left, top, right, bottom = box
    return np.array([left + right, top + bottom]) - 1


@pytest.mark.parametrize("kind", ["align", "affine"])
@pytest.mark.parametrize(
    ("height", "width", "margin", "vertical"),
    [(64, 64, 0.0, 0.0), (96, 80, 0.3, 0.1), (50, 110, -0.1, -0.2)],
)
def test_parts_lie_where_the_crop_puts_the_landmarks(kind, height, width, margin, vertical):
    crop = Crop(kind, height, width, margin, vertical)
    angle, scale = 0.3, 70.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (np.array(TEMPLATE) @ turn.T * scale + (40, 25)).astype("float32")[None]
    transform = crop_transform(crop, [[200, 180]], np.full((1, 4), np.nan), landmarks).numpy()
    (points,) = to_crop_coordinates(landmarks, transform, height, width)
    found = {name: middle(box, crop) for name, box in locate(AROUND, (height, width), crop).items()}
    np.testing.assert_allclose(found["between_eyes"], points[:2].mean(0), atol=1e-4)
    np.testing.assert_allclose(found["left_eye"], points[0], atol=1e-4)
    np.testing.assert_allclose(found["nose"], points[2], atol=1e-4)
    np.testing.assert_allclose(found["mouth"], points[3:].mean(0), atol=1e-4)


def test_boxes_are_square_on_crops_that_are_not():
    (left, top, right, bottom) = locate(AROUND, (50, 110), Crop("align", 50, 110))["mouth"]
    assert (right - left) * 110 == pytest.approx((bottom - top) * 50)


def test_eyes_that_are_named_are_where_the_aligned_crop_has_them():
    aligned = Crop("align", 64, 48, margin=0.2, vertical=0.1)
    expected = locate(AROUND, (64, 48), aligned)
    x, y = (middle(expected["left_eye"], aligned) + 1) / 2
    found = locate(AROUND, (64, 48), Crop("none", 64, 48), (x, 1 - x, y))
    for name, box in expected.items():
        assert found[name] == pytest.approx(box)


def test_without_a_crop_the_face_is_taken_as_aligned():
    assert locate(AROUND, (64, 48), None) == locate(AROUND, (64, 48), Crop("align", 64, 48))


@pytest.mark.parametrize("kind", ["none", "box", "nose", "window"])
def test_crops_without_known_places_want_to_know_the_eyes(kind):
    with pytest.raises(UserError, match=rf"'{kind}' .* say where the eyes lie"):
        locate(AROUND, (64, 48), Crop(kind, 64, 48))


@pytest.mark.parametrize("eyes", [(0.4, 0.6), (0.6, 0.4, 0.5)])
def test_eyes_that_are_none_are_refused(eyes):
    with pytest.raises(UserError, match="expected x of the left eye"):
        locate(AROUND, (64, 48), Crop(), eyes)


def test_parts_are_chosen_by_name():
    assert list(choose(AROUND, ("nose", "left_eye"))) == ["left_eye", "nose"]
    assert choose(AROUND, ()) == AROUND
    with pytest.raises(UserError, match="no part 'ear' of a face; there are: between_eyes, left"):
        choose(AROUND, ("nose", "ear"))
    with pytest.raises(UserError, match="one of them comes twice"):
        choose(AROUND, ("nose", "nose"))


def experiment_of(records, crop, **model):
    recipe = create_recipe("smoke")
    recipe.data.records, recipe.data.crop = (records.path,), crop
    recipe.model = dataclasses.replace(recipe.model, name="facetracer", width=1.0, **model)
    return Experiment.of(recipe)


def test_networks_look_where_the_crop_of_their_recipe_puts_the_parts(mtfl_records):
    crop = Crop("align", 64, 56, margin=0.2, vertical=0.1)
    options = (("regions", ("mouth",)),)
    model = create_model(experiment_of(mtfl_records, crop, options=options), "float32")
    ((_, expected),) = locate(
        {"mouth": (-0.75, MOUTH - 0.4, 0.75, MOUTH + 0.4)}, (64, 56), crop
    ).items()
    assert model.get_layer("mouth_pixels").box == pytest.approx(expected)


def with_landmarks(experiment, count):
    """The experiment as if so many of its training images had landmarks."""
    (records,) = experiment.record_sets
    boxes = {"train": {**records.boxes["train"], "landmarks": count}}
    return dataclasses.replace(experiment, record_sets=(dataclasses.replace(records, boxes=boxes),))


def test_without_any_landmarks_there_are_no_places(mtfl_records, capsys):
    regions, eyes = ("regions", ("mouth",)), ("eyes", (0.4, 0.6, 0.5))
    aligned = experiment_of(mtfl_records, Crop("align", 64, 56), options=(regions,))
    with pytest.raises(UserError, match="no training image has landmarks"):
        create_model(with_landmarks(aligned, 0), "float32")
    capsys.readouterr()
    named = experiment_of(mtfl_records, Crop("none", 64, 56), options=(regions, eyes))
    create_model(with_landmarks(named, 0), "float32")
    assert "no landmarks" not in capsys.readouterr().out


def test_faces_without_landmarks_are_counted(mtfl_records, capsys):
    crop = Crop("align", 64, 56)
    experiment = experiment_of(mtfl_records, crop, options=(("regions", ("mouth",)),))
    count = experiment.record_sets[0].splits["train"]
    create_model(with_landmarks(experiment, count - 2), "float32")
    assert f"2 of {count} training images have no landmarks" in capsys.readouterr().out


def test_a_network_rebuilt_for_an_export_looks_at_the_same_places(mtfl_records):
    crop = Crop("align", 64, 56, margin=0.2)
    experiment = experiment_of(mtfl_records, crop, options=(("regions", ("mouth",)),))
    whole = create_model(experiment, "float32")
    half = create_network(
        experiment.recipe.model, experiment.tasks, (64, 56, 3), "mixed_bfloat16", crop=crop
    )
    assert half.get_layer("mouth_pixels").box == whole.get_layer("mouth_pixels").box
