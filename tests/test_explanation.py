"""Explanations: occlusion and gradient maps against literal computations, and as pictures."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from scipy.ndimage import map_coordinates
from tiny_workdir import draw_picture, encode
from untrained_run import make_run

from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.configs.base import Model
from faceattr_tf.evaluation.explanation import (
    GRID,
    SQUARE,
    draw_heat,
    explained_tasks,
    gradient_maps,
    logits_of,
    occlusion_maps,
)
from faceattr_tf.models import build_model
from faceattr_tf.models.create import map_stage, seen_stages
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.explain import HEIGHT, Explainer
from faceattr_tf.prediction.predict import predict

TASKS = (MTFL_ATTRIBUTES, POSE)


def tiny(theta=None):
    """A convolution, and on its flat map the heads; its map's pixels are 2 wide and 2 high."""
    keras.utils.set_random_seed(3)
    image = keras.Input((12, 10, 3), name="image")
    maps = layers.Conv2D(4, 2, strides=2, activation="relu", name="maps")(image / 255.0)
    flat = layers.Flatten()(maps)
    outputs = {task.name: layers.Dense(task.output_size)(flat) for task in TASKS}
    if theta is not None:
        spread = layers.Dense(6, kernel_initializer="zeros", bias_initializer="zeros")(flat)
        outputs[ALIGNMENT.name] = ops.reshape(spread, (-1, 2, 3)) + np.float32(theta)
    return keras.Model(image, outputs)


def pictures(count=3):
    return np.random.default_rng(0).uniform(0, 255, (count, 12, 10, 3)).astype(np.float32)


SIGNS = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], (3, 8)).astype(np.float32)


def test_attributes_and_few_classes_are_explained():
    people = Task("people", "multiclass", tuple(map(str, range(500))))
    assert explained_tasks([LANDMARKS, people, *TASKS, ALIGNMENT]) == list(TASKS)


def test_occlusion_is_the_mean_loss_of_all_squares_that_hide_a_cell():
    random = np.random.default_rng(2)
    images = random.uniform(0, 255, (2, 30, 20, 3)).astype(np.float32)
    weights = random.normal(size=(30, 20, 3, 2))

    def score(pixels):  # not linear: what is lost depends on all that is hidden
        return np.tanh(np.einsum("bhwc,hwcl->bl", pixels, weights) / 1e4)

    signs = np.array([[1, -1], [0, 1]], np.float32)
    expected = np.zeros((2, 2, GRID, GRID))
    for image in range(2):
        colour = images[image].reshape(-1, 3).mean(axis=0)
        for row in range(GRID):
            for column in range(GRID):
                losses = []
                for top in range(max(0, row - SQUARE + 1), min(row, GRID - SQUARE) + 1):
                    for left in range(max(0, column - SQUARE + 1), min(column, GRID - SQUARE) + 1):
                        hidden = images[image : image + 1].copy()
                        hidden[0, 3 * top : 3 * (top + SQUARE), 2 * left : 2 * (left + SQUARE)] = (
                            colour
                        )
                        losses.append(score(images[image : image + 1]) - score(hidden))
                expected[image, :, row, column] = signs[image] * np.mean(losses, axis=0)[0]
    found = occlusion_maps(score, images, signs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found[0]).max() > 0.01 and not found[1, 0].any()


def test_gradient_maps_are_those_of_the_definition():
    model, images = tiny(), pictures()
    maps = keras.Model(model.input, model.get_layer("maps").output)(images).numpy()
    kernels = np.concatenate([layer.kernel.numpy() for layer in model.layers[-2:]], axis=1)
    # Behind the maps all is linear: the gradient to a map's place is the weight that it has.
    gradients = kernels.reshape(*maps.shape[1:], 8)
    found = gradient_maps(model, "maps", TASKS, images, SIGNS)
    for image in range(3):
        for label in range(8):
            heat = np.zeros(maps.shape[1:3])
            for channel in range(4):
                importance = SIGNS[image, label] * gradients[..., channel, label].mean()
                heat += importance * maps[image, ..., channel]
            np.testing.assert_allclose(found[image, label], np.maximum(heat, 0), atol=1e-5)
    assert found.max() > 1e-4


def test_maps_behind_a_transformer_lie_where_it_cut_them_out():
    theta = np.array([[0.5, 0.1, 0.4], [-0.2, 0.6, 0.3]])
    images = pictures()
    plain = gradient_maps(tiny(), "maps", TASKS, images, SIGNS)
    moved = gradient_maps(tiny(theta), "maps", TASKS, images, SIGNS)
    rows, columns = np.mgrid[:6, :5]
    place = np.stack([(columns + 0.5) / 2.5 - 1, (rows + 0.5) / 3 - 1])  # x, y in [-1, 1]
    inside = np.linalg.solve(theta[:, :2], (place - theta[:, 2, None, None]).reshape(2, -1))
    index = (inside[1] + 1) * 3 - 0.5, (inside[0] + 1) * 2.5 - 0.5
    for image in range(3):
        for label in range(8):
            expected = map_coordinates(plain[image, label], index, order=1, mode="grid-constant")
            tolerance = 0.05 * plain[image, label].max()  # OpenCV rounds places to 1/32 pixel
            np.testing.assert_allclose(
                moved[image, label].ravel(), expected, atol=tolerance, rtol=0
            )
    assert not moved[:, :, 0, 0].any() and moved.any()


@pytest.mark.parametrize("name", ["resnet_small", "tcdcn", "anet"])
def test_every_network_has_maps_of_which_gradients_are_known(name):
    model = build_model(name, TASKS, (48, 48, 3), width=0.25)
    stage = map_stage(model, Model(name))
    images = np.random.default_rng(0).uniform(0, 255, (1, 48, 48, 3)).astype(np.float32)
    maps = gradient_maps(model, stage, TASKS[:1], images, np.ones((1, 3), np.float32))
    assert maps.shape == (1, 3, *model.get_layer(stage).output.shape[1:3])
    assert np.isfinite(maps).all()


def test_the_last_stage_is_taken_whose_maps_show_parts_of_a_face():
    model, config = build_model("tcdcn", TASKS, (60, 60, 3), width=0.25), Model("tcdcn")
    sides = {name: output.shape[1] for name, output in seen_stages(model, config).items()}
    assert (sides["pool2"], sides["pool3"]) == (12, 5)
    assert map_stage(model, config) == "pool2"
    assert map_stage(model, config, "relu4") == "relu4"
    coarse = build_model("resnet_small", TASKS, (16, 16, 3), width=0.25)
    sides = {
        name: output.shape[1]
        for name, output in seen_stages(coarse, Model("resnet_small")).items()
        if len(output.shape) == 4
    }
    most = max(sides.values())
    expected = [name for name, side in sides.items() if side >= min(most, 6)][-1]
    assert map_stage(coarse, Model("resnet_small")) == expected


def test_a_stage_that_gives_no_maps_is_refused():
    model = build_model("tcdcn", TASKS, (48, 48, 3))
    with pytest.raises(UserError, match="layer 'shared' gives no maps in this tcdcn: "):
        map_stage(model, Model("tcdcn"), "shared")


def test_logits_are_those_of_all_tasks_in_order():
    outputs = tiny()(pictures())
    found = logits_of(TASKS, outputs)
    expected = tf.concat([outputs["attributes"], outputs["pose"]], axis=1)
    np.testing.assert_array_equal(found, expected)


def test_heat_is_drawn_where_it_is():
    heat = np.zeros((2, 2))
    heat[0, 1] = 3
    drawn = draw_heat(np.full((40, 60, 3), 100.0), heat)
    assert drawn.shape == (40, 60, 3) and drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[-1, 0], [100] * 3)  # grey where nothing is
    assert drawn[0, -1].tolist() != [100] * 3
    np.testing.assert_array_equal(draw_heat(np.full((4, 4, 3), 9.0), -heat), np.full((4, 4, 3), 9))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "tcdcn")


def test_predictions_are_explained_picture_by_picture(workdir, tmp_path):
    for seed, name in enumerate(("a.png", "b.jpg")):
        (tmp_path / name).write_bytes(encode(draw_picture(seed), name[1:]))
    paths, out = [tmp_path / "a.png", tmp_path / "b.jpg"], tmp_path / "out"
    predict(workdir.path, paths, output=out, explain=["Smiling", "pose/frontal"], progress=False)
    drawn = sorted(path.relative_to(out).as_posix() for path in (out / "explained").glob("*/*"))
    assert drawn == [
        f"explained/{name}/{label}.jpg"
        for name in ("a.png", "b.jpg")
        for label in ("Smiling", "pose-frontal")
    ]
    picture = cv2.imread(str(out / "explained" / "a.png" / "Smiling.jpg"))
    assert picture.shape == (HEIGHT + 28, 3 * HEIGHT, 3)
    predict(workdir.path, paths, output=out, progress=False)
    assert (out / "annotated").is_dir()


def test_the_crop_that_is_explained_is_the_one_that_was_judged(workdir, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encode(draw_picture(0, 90, 70), ".png"))
    analyzer = Analyzer.from_workdir(workdir.path)
    explainer = Explainer(analyzer, workdir, ["Smiling"])
    face = analyzer.analyze(file, box=[10, 20, 30, 40], landmarks=np.full((5, 2), np.nan))
    logit = analyzer.model(explainer._crop(face))["attributes"][0, 1]
    probability = 1 / (1 + np.exp(-float(logit)))
    assert face.tasks["attributes"]["Smiling"].probability == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_face_that_was_judged_turned_is_explained_turned(workdir, quarters):
    analyzer = Analyzer.from_workdir(workdir.path, try_rotations=True)
    upright, marked = draw_picture(6, 70, 50), (255, 0, 255)
    upright[0, 0] = marked
    face = Detection(np.array([8, 20, 30, 36]), 0.9, np.full((5, 2), np.nan))
    analyzer._detector = lambda pictures: [
        [face] if (one[0, 0] == marked).all() else [] for one in pictures
    ]
    explainer = Explainer(analyzer, workdir, ["Smiling"])
    lying = np.ascontiguousarray(np.rot90(upright, quarters))
    ((found,), (expected,)) = analyzer.analyze([lying, upright], detect=True)
    assert found.turned == 90 * quarters
    np.testing.assert_array_equal(explainer._crop(found, lying), explainer._crop(expected, upright))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("Smile", "explain 'Smile': the model has no such label; it can explain attributes/Male, "),
        ("left_eye", "the model has no such label"),
    ],
)
def test_what_cannot_be_explained_is_named_with_what_can(workdir, tmp_path, asked, message):
    (tmp_path / "a.png").write_bytes(encode(draw_picture(0), ".png"))
    with pytest.raises(UserError, match=message):
        predict(workdir.path, [tmp_path / "a.png"], output=tmp_path / "out", explain=[asked])
    with pytest.raises(UserError, match="give --output=DIR"):
        predict(workdir.path, [tmp_path / "a.png"], explain=["Smiling"])
