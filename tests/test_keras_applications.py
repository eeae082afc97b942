"""Pretrained networks: what they compute against Keras' own, and what they are cut and grown to."""

import collections
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from backends import on_backend

from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE
from faceattr_tf.configs.base import Model, Recipe
from faceattr_tf.layers import BatchNormalization
from faceattr_tf.models import build_model, create
from faceattr_tf.models.auxiliary import auxiliary_name
from faceattr_tf.models.heads import BOTTLENECK, scale_pixels
from faceattr_tf.models.keras_applications import BACKBONES, PIXEL_VALUES
from faceattr_tf.models.pretrained import load_weights
from faceattr_tf.models.stages import build_top, stages_of
from faceattr_tf.training.state import warm_start

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS)
PREPROCESS = {
    "inception_v3": keras.applications.inception_v3.preprocess_input,
    "mobilenet": keras.applications.mobilenet.preprocess_input,
    "mobilenet_v3_small": keras.applications.mobilenet_v3.preprocess_input,
    "mobilenet_v3_large": keras.applications.mobilenet_v3.preprocess_input,
    "efficientnet_v2_b0": keras.applications.efficientnet_v2.preprocess_input,
    "resnet50": keras.applications.resnet.preprocess_input,
    "convnext_tiny": keras.applications.convnext.preprocess_input,
}


def size(name):
    smallest = BACKBONES[name].smallest
    return (smallest, smallest + 8, 3)


def test_how_weights_of_a_file_want_pixels_is_not_guessed_without_a_word(monkeypatch, capsys):
    monkeypatch.setattr(create, "load_weights", lambda *args, **options: None)
    create.load_pretrained(None, Model("inception_v3", weights="a.h5"))
    assert capsys.readouterr().out.startswith(
        "a.h5: taken to want pixels as ImageNet's weights do, "
    )
    said = (("pixel_values", "unit"),)
    create.load_pretrained(None, Model("inception_v3", weights="a.h5", options=said))
    create.load_pretrained(None, Model("panda", weights="a.h5", options=(("trunk", "mobilenet"),)))
    assert capsys.readouterr().out.count("'symmetric'") == 1


def test_weights_of_a_run_go_on_seeing_pixels_as_they_did(tmp_path, monkeypatch, capsys):
    said = (("pixel_values", "bgr"),)
    run = Recipe(model=Model("mobilenet", options=said))
    (tmp_path / "config.json").write_text(json.dumps(run.to_dict()))
    (tmp_path / "metadata.json").write_text("{}")
    monkeypatch.setattr(create, "load_weights", lambda *args, **options: None)
    weights = str(tmp_path / "model.keras")
    silent = Model("mobilenet", weights=weights)
    trunk = Model("panda", weights=weights, options=(("trunk", "mobilenet"),))
    wanted = r"saw pixels as 'bgr', .* as 'symmetric'; expected \('pixel_values', 'bgr'\) in model"
    for config in (silent, trunk):
        with pytest.raises(UserError, match=wanted):
            create.load_pretrained(None, config)
        create.load_pretrained(None, replace(config, options=(*config.options, *said)))
    with pytest.raises(UserError, match=wanted):
        warm_start(None, Recipe(model=Model("mobilenet"), warm_start=str(tmp_path)))
    assert capsys.readouterr().out == ""
    fused = {"network": "mobilenet", "network_options": said}
    assert create.shown_pixels(Model("fusion", options=tuple(fused.items()))) == "bgr"
    assert create.shown_pixels(Model("resnet_small")) == ""


def pictures(name, count=2):
    return np.random.default_rng(0).uniform(0, 255, (count, *size(name))).astype("float32")


def draw(model):
    """Weights under which a signal neither dies nor explodes, each of them of consequence."""
    random = np.random.default_rng(1)
    for weight in model.weights:
        shape = weight.shape
        if len(shape) > 1:
            fan_in = np.prod(shape[:2] if shape[-1] == 1 else shape[:-1])  # 1: of each map alone
            weight.assign(random.normal(0, np.sqrt(2 / fan_in), shape))
        elif weight.name in ("gamma", "moving_variance") or "layer_scale" in weight.path:
            weight.assign(random.uniform(0.8, 1.2, shape))
        else:
            weight.assign(random.normal(0, 0.1, shape))
    return model


def whole(name, **options):
    return build_model(name, TASKS, options.pop("shape", size(name)), **options)


def take_weights(model, source):
    """By the names of the layers, as far as the source has them; heads may have other inputs."""
    given = {layer.name: layer for layer in source.layers}
    for layer in model.layers:
        if layer.weights and layer.name in given and not layer.name.startswith("head_"):
            layer.set_weights(given[layer.name].get_weights())
    return model


def features(model, images, **options):
    return keras.Model(model.input, model.get_layer(BOTTLENECK).output)(images, **options)


# Their construction is shared; inception_v3 is of another kind than the rest.
OFTEN = ("inception_v3", "mobilenet_v3_small")
NETWORKS = [
    name if name in OFTEN else pytest.param(name, marks=pytest.mark.thorough) for name in BACKBONES
]


@pytest.fixture(scope="module", params=NETWORKS)
def pair(request, tmp_path_factory):
    """A network of Keras as users get it, and ours with its weights, by way of a file."""
    keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization(), keras.layers.Activation("relu")
    name = request.param
    theirs = draw(BACKBONES[name].create(weights=None, include_top=False, input_shape=size(name)))
    ours = whole(name)
    path = tmp_path_factory.mktemp("weights") / "a.weights.h5"
    theirs.save_weights(path)
    load_weights(ours, path, strict=True)
    path.unlink()
    return name, theirs, ours


def only(*names):
    return pytest.mark.parametrize("pair", names, indirect=True)


def test_features_are_those_of_keras(pair):
    name, theirs, ours = pair
    images = pictures(name)
    maps = theirs(PREPROCESS[name](images.copy()))
    expected = np.mean(maps, axis=(1, 2))
    grey = features(ours, np.full_like(images, 127.5))
    scale = np.abs(expected - grey).max()
    assert scale > 1e-3
    np.testing.assert_allclose(features(ours, images), expected, rtol=1e-3, atol=1e-3 * scale)


def test_the_graph_is_flat_and_of_our_normalisation(pair):
    _, theirs, ours = pair
    assert not [layer for layer in ours.layers if isinstance(layer, keras.Model)]
    assert {type(x) for x in ours.layers if isinstance(x, keras.layers.BatchNormalization)} <= {
        BatchNormalization
    }
    heads = sum(x.count_params() for x in ours.layers if x.name.startswith("head_"))
    assert ours.count_params() - heads == theirs.count_params()


def test_stages_are_in_order(pair):
    """They are numbered from the pixels on, without gaps, and heads come last."""
    name, _, ours = pair
    stages = stages_of(ours)
    assert set(stages) == {layer.name for layer in ours.layers if layer.weights}
    count = len(BACKBONES[name].stages)
    body = [stages[layer.name] for layer in ours.layers if layer.name in stages]
    assert body == sorted(body)
    assert set(body) in ({*range(count + 1)}, {*range(count + 1)} - {0})
    assert {stages[f"head_{task.name}"] for task in TASKS} == {count}


@pytest.mark.parametrize(
    ("name", "mode"), [("symmetric", "tf"), ("bgr", "caffe"), ("imagenet", "torch")]
)
def test_pixel_values_are_those_of_keras(name, mode):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype("float32")
    expected = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
    found = PIXEL_VALUES[name](scale_pixels(pixels))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("name", "largest"), [("unit", 1), ("rgb", 255)])
def test_pixel_values_are_ranges(name, largest):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 5, 7, 3)).astype("float32")
    found = PIXEL_VALUES[name](scale_pixels(pixels))
    np.testing.assert_allclose(found, pixels / 255 * largest, rtol=1e-5, atol=1e-5 * largest)


@only("inception_v3", "mobilenet_v3_small")
def test_names_are_those_of_a_fresh_process(pair):
    name, _, ours = pair
    keras.utils.clear_session()
    theirs = BACKBONES[name].create(weights=None, include_top=False, input_shape=size(name))

    def shapes(model):
        return {
            layer.name: [weight.shape for weight in layer.weights]
            for layer in model.layers
            if layer.weights and not layer.name.startswith("head_")
        }

    assert shapes(ours) == shapes(theirs)


@only("convnext_tiny")
def test_a_saved_network_gives_the_same_numbers(pair, tmp_path):
    """It has layers that are no public ones of Keras, and came in models inside of the network."""
    name, _, model = pair
    model.save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras")
    images = pictures(name)
    expected, found = model(images), again(images)
    for task in expected:
        np.testing.assert_allclose(found[task], expected[task], rtol=1e-5, atol=1e-5)
    assert [layer.name for layer in again.layers] == [layer.name for layer in model.layers]


@only("mobilenet_v3_small")
def test_the_range_belongs_to_the_weights(pair):
    """The same weights for pixels in 0..255 see what they see by default, scaled by hand."""
    _, _, mobilenet = pair
    images = pictures("mobilenet_v3_small")
    other = take_weights(whole("mobilenet_v3_small", pixel_values="unit"), mobilenet)
    expected = features(mobilenet, (images / 255 + 1) * 127.5)
    np.testing.assert_allclose(features(other, images), expected, rtol=1e-3, atol=1e-4)


@only("inception_v3")
def test_nothing_behind_the_chosen_layer_is_built(pair):
    _, _, inception = pair
    cut = take_weights(whole("inception_v3", layer="mixed8"), inception)
    names = {layer.name for layer in cut.layers}
    assert {"mixed8", "conv2d_75"} <= names
    assert not {"mixed9", "conv2d_76", "batch_normalization_76"} & names
    assert not names - {layer.name for layer in inception.layers}
    images = pictures("inception_v3")
    maps = keras.Model(inception.input, inception.get_layer("mixed8").output)(images)
    assert cut.get_layer(BOTTLENECK).output.shape == (None, 1280)
    np.testing.assert_allclose(
        features(cut, images), np.mean(maps, axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    stages = stages_of(cut)
    assert stages["conv2d_75"] == 8
    assert stages["head_pose"] == 9


@only("inception_v3")
def test_stages_of_inception(pair):
    """How many convolutions a module has is in table 1 and the figures of its paper."""
    _, _, inception = pair
    kinds = {layer.name: type(layer) for layer in inception.layers}
    counts = collections.Counter(
        stage for name, stage in stages_of(inception).items() if kinds[name] is keras.layers.Conv2D
    )
    assert [counts[stage] for stage in range(11)] == [5 + 7, 7, 7, 4, 10, 10, 10, 10, 6, 9, 9]


def test_auxiliary_classifier():
    """At 299x299 as in TF-Slim, and its landmarks follow a transformer as those of the heads do."""
    model = build_model(
        "inception_v3",
        (*TASKS, ALIGNMENT),
        (299, 299, 3),
        transformer="lonet",
        auxiliary=True,
        layer="mixed7",
    )
    shapes = {layer.name: layer.output.shape[1:] for layer in model.layers}
    assert shapes["mixed7"] == (17, 17, 768)
    assert shapes["aux_pool"] == (5, 5, 768)
    assert shapes["aux_conv1"] == (5, 5, 128)
    assert shapes["aux_conv2"] == (1, 1, 768)
    assert shapes["aux_head_attributes"] == (3,)
    assert model.get_layer("aux_conv1").kernel.shape == (1, 1, 768, 128)
    assert model.get_layer("aux_conv2").kernel.shape == (5, 5, 128, 768)
    assert auxiliary_name("pose") == "pose/auxiliary"
    assert {name: output.shape[1:] for name, output in model.output.items()} == {
        "attributes": (3,),
        "pose": (5,),
        "landmarks": (5, 2),
        "attributes/auxiliary": (3,),
        "pose/auxiliary": (5,),
        "landmarks/auxiliary": (5, 2),
        "alignment": (2, 3),
    }
    stages = stages_of(model)
    new = {layer for layer in stages if layer.startswith(("aux_", "head_", "lonet_"))}
    assert {stages[layer] for layer in new} == {8}
    assert max(stages[layer] for layer in set(stages) - new) == 7
    assert stages["conv2d"] == 0

    last = [layer for layer in model.layers if layer.name.startswith("lonet_") and layer.weights]
    last[-1].bias.assign([0.5, 0, 0.1, 0, 0.5, -0.2])
    outputs = model(np.zeros((1, 299, 299, 3), "float32"))
    np.testing.assert_allclose(outputs["landmarks"][0, 2], (0.1, 0.05 - 0.2), atol=1e-6)
    np.testing.assert_allclose(outputs["landmarks/auxiliary"], outputs["landmarks"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("inception_v3", {"layer": "mixed11"}, "layer 'mixed11' ends no stage of inception_v3: mi"),
        ("inception_v3", {"pixel_values": "0..1"}, "pixel_values '0..1' is none of symmetric, un"),
        ("inception_v3", {"auxiliary": True, "layer": "mixed6"}, "up to mixed6: only inception_v3"),
        ("resnet50", {"auxiliary": True}, "up to conv5_block3_out: only inception_v3"),
        ("inception_v3", {"shape": (74, 80, 3)}, "at least 75 pixels"),
        ("convnext_tiny", {"shape": (64, 31, 3)}, "at least 32 pixels"),
        (
            "resnet50",
            {"width": 0.5},
            "model 'resnet50' has no option 'width'; it has: pixel_values",
        ),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(UserError) as error:
        whole(name, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@only("mobilenet_v3_small")
def test_the_top_alone_is_the_end_of_the_whole(pair):
    _, _, mobilenet = pair
    top = build_top(576, TASKS, dropout=0.5)
    for task in TASKS:
        head = f"head_{task.name}"
        top.get_layer(head).set_weights(mobilenet.get_layer(head).get_weights())
    images = pictures("mobilenet_v3_small")
    expected = mobilenet(images)
    found = top(features(mobilenet, images))
    assert list(found) == list(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    assert top.input.name == "image"
    assert top.input.shape == (None, 576)
    whole_names = {x.name for x in whole("mobilenet_v3_small", dropout=0.5).layers}
    assert {layer.name for layer in top.layers} <= whole_names


@only("mobilenet_v3_small")
def test_half_precision_is_for_the_network_only(pair):
    _, _, mobilenet = pair
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = take_weights(whole("mobilenet_v3_small", dropout=0.1), mobilenet)
        top = build_top(576, TASKS, dropout=0.1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("conv").compute_dtype == "bfloat16"
    assert {layer.compute_dtype for layer in top.layers[1:]} == {"float32"}
    images = pictures("mobilenet_v3_small")
    exact, half = features(mobilenet, images), features(model, images)
    assert half.dtype == "float32"
    assert all(output.dtype == "float32" for output in model(images, training=True).values())
    np.testing.assert_allclose(half, exact, atol=0.1 * np.abs(exact).max())


@only("inception_v3", "mobilenet_v3_small")
def test_statistics_move_as_those_of_keras_and_not_when_frozen(pair):
    name, theirs, ours = pair
    images = pictures(name, count=6)

    def statistics(model):
        return [np.array(w) for w in model.weights if w.name in ("moving_mean", "moving_variance")]

    before = statistics(ours)
    ours.trainable = False
    frozen = features(ours, images, training=True)
    np.testing.assert_allclose(frozen, features(ours, images), rtol=1e-4, atol=1e-5)
    for old, new in zip(before, statistics(ours), strict=True):
        np.testing.assert_array_equal(new, old)
    ours.trainable = True
    expected = np.mean(theirs(PREPROCESS[name](images.copy()), training=True), axis=(1, 2))
    found = features(ours, images, training=True)
    assert np.abs(found - frozen).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-2 * np.abs(expected).max())
    for mine, other, old in zip(statistics(ours), statistics(theirs), before, strict=True):
        assert np.abs(mine - old).max() > 1e-4
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-3)


PROGRAM = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from data_pipelines.tasks import POSE
from faceattr_tf.models import build_model
from faceattr_tf.models.keras_applications import BACKBONES

for name in sys.argv[1:]:
    size = (BACKBONES[name].smallest,) * 2 + (3,)
    outputs = build_model(name, (POSE,), size).predict(np.zeros((2, *size)), verbose=0)
    assert outputs["pose"].shape == (2, 5), name
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "names"),
    # JAX compiles the initialisation of every shape of weights.
    [("torch", list(BACKBONES)), ("jax", ["mobilenet_v3_small"])],
)
def test_networks_run_without_tensorflow(backend, names):
    done = on_backend(backend, PROGRAM, *names)
    assert done.stdout.strip() == "done", done.stderr
