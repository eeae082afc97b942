"""Released weights: files in the layouts in which they are found, against NumPy and Keras."""

import dataclasses
import itertools
import pathlib
import pickle
import re
import socket
import zipfile

import h5py
import keras
import numpy as np
import pytest
import scipy.io
from vgg_reference import MEAN_COLOUR, fc7, random_weights

from data_pipelines.errors import UserError
from data_pipelines.tasks import POSE
from faceattr_tf.models import BACKBONES, build_model, pretrained
from faceattr_tf.models.pretrained import load_imagenet, load_weights

FEATURES = 7
LAYERS = list(random_weights())


def network(features=FEATURES, **options):
    """VGG-Face of 13 convolutions with 2 to 16 maps; its fc6 reads 2x2x16 numbers."""
    options = {"convolutions": 13, "extra_pooling": False, "pixel_values": "rgb"} | options
    return build_model(
        "vgg_face", (POSE,), (64, 64, 3), width=1 / 32, features=32 * features, **options
    )


def released(**options) -> dict:
    return random_weights(filters=(2, 4, 8, 16, 16), features=FEATURES, **options)


def flat(name, kernel):
    """A fully-connected layer's filters as Keras stores them: rows, columns, channels in one."""
    return kernel.reshape(-1, kernel.shape[-1]) if name.startswith("fc") else kernel


def h5_layers(weights, suffixes=("/kernel:0", "/bias:0")):
    """Layer -> name of the weight -> array, layers without weights between, and the last one."""
    layers = {"input_1": {}}
    for name, arrays in weights.items():
        arrays = (flat(name, arrays[0]), arrays[1])
        layers[name] = {f"{name}{s}": x for s, x in zip(suffixes, arrays, strict=True)}
        layers[f"{name}_relu"] = {}
    ones = np.ones((7, 7), "float32")
    layers["fc8"] = dict(zip((f"fc8{s}" for s in suffixes), (ones, ones[0]), strict=True))
    layers["head_pose"] = {"head_pose/kernel:0": ones[:, :5], "head_pose/bias:0": ones[0, :5]}
    return layers


def write_legacy(path, layers, within="/"):
    """A legacy file of Keras by hand: names in attributes, one data set per weight."""
    with h5py.File(path, "w") as file:
        root = file.require_group(within)
        root.attrs["layer_names"] = [name.encode() for name in layers]
        for name, arrays in layers.items():
            group = root.create_group(name)
            group.attrs["weight_names"] = [weight.encode() for weight in arrays]
            for weight, array in arrays.items():
                group[weight] = array


def legacy_weights(path, weights):
    write_legacy(path, h5_layers(weights))


def legacy_model(path, weights):
    write_legacy(path, h5_layers(weights), within="model_weights")


def legacy_of_keras_1(path, weights):
    write_legacy(path, h5_layers(weights, ("_W:0", "_b:0")))


def legacy_long(path, weights):
    """Names in several attributes, as HDF5 limits the length of one."""
    write_legacy(path, h5_layers(weights))
    with h5py.File(path, "r+") as file:
        names = list(file.attrs["layer_names"])
        del file.attrs["layer_names"]
        for index in range(0, len(names), 3):
            file.attrs[f"layer_names{index // 3}"] = names[index : index + 3]


def legacy_automatic(path, weights):
    """Unnamed layers, the fully-connected ones stored as convolutions, in the order of their file.

    That order is of the names in the attribute; HDF5 itself would list conv2d_10 before conv2d_2.
    """
    write_legacy(
        path,
        {
            f"conv2d_{index}": {f"conv2d_{index}/kernel:0": kernel, f"conv2d_{index}/bias:0": bias}
            for index, (kernel, bias) in enumerate(weights.values(), start=7)
        },
    )


def legacy_model_within(path, weights):
    """The network as one layer of another: all its weights under that layer's name."""
    inner = {}
    for arrays in h5_layers(weights).values():
        inner |= {f"vgg/{weight}": array for weight, array in arrays.items()}
    write_legacy(path, {"input_2": {}, "vgg": inner})


def keras_model(weights, name="{}"):
    """The network again, of Keras' own layers."""
    x = inputs = keras.Input((64, 64, 3))
    names = [*weights, "pool6"]
    for layer, following in itertools.pairwise(names):
        kernel, bias = weights[layer]
        options = {"activation": "relu", "name": name.format(layer) or None}
        if layer == "fc6":
            x = keras.layers.Flatten()(x)
        if layer.startswith("fc"):
            made = keras.layers.Dense(bias.size, **options)
        else:
            made = keras.layers.Conv2D(bias.size, 3, padding="same", **options)
        x = made(x)
        made.set_weights([flat(layer, kernel), bias])
        if layer.startswith("conv") and following[:5] != layer[:5]:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dropout(0.5)(x)  # has a whole number for its state
    return keras.Model(inputs, x)


def keras_weights(path, weights):
    keras_model(weights).save_weights(path)


def keras_automatic(path, weights):
    keras_model(weights, "").save_weights(path)


def keras_archive(path, weights):
    model = keras_model(weights)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(path)


def keras_legacy_model(path, weights):
    keras_model(weights).save(path)


def cells(*values):
    array = np.empty((1, len(values)), object)
    for index, value in enumerate(values):
        array[0, index] = value
    return array


def matlab_layers(weights):
    """Layers of MatConvNet: name, type, weights or none of them."""
    layers = []
    for name, (kernel, bias) in weights.items():
        layers.append((name, "conv", (kernel, bias[None])))
        layers.append((f"relu{name[4:]}", "relu", ()))
    return [
        *layers,
        ("fc8", "conv", (np.ones((1, 1, 7, 9), "float32"), np.ones((1, 9), "float32"))),
    ]


def matlab_cell(path, weights):
    """As VGG-Face was released: a cell array of structures, `weights` in cells."""
    layers = [
        {"name": name, "type": kind} | ({"weights": cells(*arrays)} if arrays else {})
        for name, kind, arrays in matlab_layers(weights)
    ]
    scipy.io.savemat(path, {"layers": cells(*layers), "meta": {"a": 1}}, do_compression=True)


def matlab_old(path, weights):
    """As older releases have it: `filters` and `biases`, the network in a variable."""
    layers = [
        {"name": name, "type": kind}
        | (dict(zip(("filters", "biases"), arrays, strict=True)) if arrays else {})
        for name, kind, arrays in matlab_layers(weights)
    ]
    scipy.io.savemat(path, {"net": {"layers": cells(*layers)}})


def matlab_structures(path, weights):
    layers = np.array(
        [[(name, cells(*arrays)) for name, _, arrays in matlab_layers(weights)]],
        [("name", object), ("weights", object)],
    )
    scipy.io.savemat(path, {"layers": layers})


class Hdf5:
    """Writes MATLAB values as version 7.3 does: sides in reverse, cells as references."""

    def __init__(self, path):
        self.file = h5py.File(path, "w", userblock_size=512)
        self.count = 0

    def put(self, value, name=None):
        self.count += 1
        name = name or f"#refs#/{self.count}"
        if isinstance(value, str):
            value, kind = np.array([[ord(letter)] for letter in value], "uint16"), "char"
        elif isinstance(value, np.ndarray):
            value, kind = value.T, "single"
        elif isinstance(value, dict):
            group = self.file.create_group(name)
            for key, member in value.items():
                self.put(member, f"{name}/{key}")
            group.attrs["MATLAB_class"] = np.bytes_("struct")
            return group.ref
        elif value:
            value, kind = self.references([self.put(member) for member in value]), "cell"
        else:
            value, kind = np.zeros(2, "uint64"), "cell"
        data = self.file.create_dataset(name, data=value)
        data.attrs["MATLAB_class"] = np.bytes_(kind)
        return data.ref

    def references(self, references):
        array = np.empty((len(references), 1), h5py.ref_dtype)
        array[:, 0] = references
        return array


def matlab_73_cell(path, weights):
    writer = Hdf5(path)
    layers = [
        {"name": name, "type": kind} | ({"weights": arrays} if arrays else {})
        for name, kind, arrays in matlab_layers(weights)
    ]
    writer.put({"layers": layers}, "net")
    writer.file.close()


def matlab_73_structures(path, weights):
    writer = Hdf5(path)
    layers = matlab_layers(weights)
    group = writer.file.create_group("layers")
    group.attrs["MATLAB_class"] = np.bytes_("struct")
    group["name"] = writer.references([writer.put(name) for name, _, _ in layers])
    group["weights"] = writer.references([writer.put(arrays) for _, _, arrays in layers])
    writer.file.close()


WRITERS = {
    legacy_weights: ".h5",
    legacy_model: ".h5",
    legacy_of_keras_1: ".h5",
    legacy_long: ".h5",
    legacy_automatic: ".h5",
    legacy_model_within: ".h5",
    keras_weights: ".weights.h5",
    keras_automatic: ".weights.h5",
    keras_archive: ".keras",
    keras_legacy_model: ".h5",
    matlab_cell: ".mat",
    matlab_old: ".mat",
    matlab_structures: ".mat",
    matlab_73_cell: ".mat",
    matlab_73_structures: ".mat",
}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_released_weights_compute_what_they_did(write, tmp_path, capsys):
    weights = released()
    path = tmp_path / f"released{WRITERS[write]}"
    write(path, weights)
    model = network()
    head = model.get_layer("head_pose").get_weights()
    report = load_weights(model, path)
    assert list(report.loaded) == LAYERS
    assert report.left_out == {}
    assert not set(report.unused) - {"fc8", "head_pose"}
    image = np.random.default_rng(1).uniform(0, 255, (64, 64, 3)).astype("float32")
    expected = fc7(weights, image - MEAN_COLOUR)
    found = keras.Model(model.input, model.get_layer("fc7").output)(image[None])[0]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    for before, after in zip(head, model.get_layer("head_pose").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    assert capsys.readouterr().out == f"{report}\n"
    assert str(report).startswith(f"{path}: 15 layers loaded: conv1_1")


def test_the_report_names_what_does_not_fit(tmp_path):
    legacy_weights(tmp_path / "a.h5", released())
    model = network(features=5)
    fc6 = model.get_layer("fc6").get_weights()
    report = load_weights(model, tmp_path / "a.h5")
    assert list(report.loaded) == LAYERS[:-2]
    assert report.left_out == {
        "fc6": "fc6 has shapes 64x7 7, not 64x5 5",
        "fc7": "fc7 has shapes 7x7 7, not 5x5 5",
    }
    assert report.unused == ("fc6", "fc7", "fc8", "head_pose")
    np.testing.assert_array_equal(model.get_layer("fc6").get_weights()[0], fc6[0])
    assert "\n  not loaded: fc6: fc6 has shapes 64x7 7, not 64x5 5\n" in str(report)
    assert str(report).endswith("\n  unused in the file: fc6, fc7, fc8, head_pose")


def test_matching_in_order_ends_where_shapes_part(tmp_path):
    """Behind a layer that does not fit, one that happens to fit is another layer."""
    legacy_automatic(tmp_path / "a.h5", released())
    report = load_weights(network(convolutions=8), tmp_path / "a.h5")
    assert report.loaded == {"conv1_1": "conv2d_7"}
    assert report.left_out["conv2_1"] == "conv2d_8 has shapes 3x3x2x2 2, not 3x3x2x4 4"
    assert set(report.left_out.values()) == {
        report.left_out["conv2_1"],
        "nothing in the file matches",
    }


def test_only_the_layers_asked_for_are_loaded(tmp_path):
    weights = released()
    legacy_automatic(tmp_path / "a.h5", weights)
    model = network()
    before = model.get_layer("conv1_1").get_weights()[0]
    report = load_weights(model, tmp_path / "a.h5", layers=["conv1_2", "fc6"])
    assert report.loaded == {"conv1_2": "conv2d_8", "fc6": "conv2d_20"}
    assert report.left_out["conv1_1"] == "not asked for"
    np.testing.assert_array_equal(model.get_layer("conv1_1").get_weights()[0], before)
    np.testing.assert_array_equal(
        model.get_layer("conv1_2").get_weights()[0], weights["conv1_2"][0]
    )
    with pytest.raises(UserError, match="no layer 'conv9' to load"):
        load_weights(model, tmp_path / "a.h5", layers=["conv9"])
    with pytest.raises(UserError, match="no layer 'head_pose' to load"):
        load_weights(model, tmp_path / "a.h5", layers=["head_pose"])


def not_finite(path):
    weights = released()
    weights["fc7"][1][3] = np.nan
    legacy_weights(path, weights)


def fits_nothing(path):
    write_legacy(path, {"stem": {"stem/kernel:0": np.ones((5, 5, 3, 8), "float32")}})


def truncated(path):
    keras_weights(path.with_suffix(".weights.h5"), released())
    content = path.with_suffix(".weights.h5").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def names_without_data(path):
    legacy_weights(path, released())
    with h5py.File(path, "r+") as file:
        del file["fc7/fc7"]


def matlab_without_layers(path):
    scipy.io.savemat(path, {"label": np.ones((3, 3))})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (not_finite, "layer 'fc7' has weights that are not finite"),
        (
            fits_nothing,
            "fits no layer of the model; conv1_1: stem has shapes 5x5x3x8, not 3x3x3x2 2",
        ),
        (truncated, "no readable weights of Keras or MatConvNet"),
        (names_without_data, "no readable weights of Keras or MatConvNet"),
        (matlab_without_layers, "no readable weights of Keras or MatConvNet"),
        (
            lambda path: path.write_text("\n<html>404</html>\n" * 99),
            "no readable weights of Keras or MatConvNet (it looks like an HTML or XML page",
        ),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
            "no readable weights of Keras or MatConvNet (it looks like a pointer of Git LFS",
        ),
        (
            lambda path: path.write_bytes(b""),
            "no readable weights of Keras or MatConvNet (it is empty)",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps(Explosive())),
            "no readable weights of Keras or MatConvNet (it looks like a Python pickle",
        ),
        (lambda path: path.write_bytes(b"??" * 99), "(it begins with b'????????')"),
        (
            lambda path: zipfile.ZipFile(path, "w").close(),
            "(\"There is no item named 'model.weights.h5' in the archive\")",
        ),
        (lambda path: np.save(path.open("wb"), cells(Explosive())), "no readable weights"),
        (lambda path: h5py.File(path, "w").close(), "fits no layer of the model"),
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "there is no such file"),
    ],
)
def test_an_unusable_file_changes_nothing(write, message, tmp_path, capsys):
    path = tmp_path / "released.h5"
    write(path)
    model = network()
    before = model.get_weights()
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_weights(model, path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert capsys.readouterr().out == ""


class Explosive:
    """Fails the test if it is unpickled."""

    def __reduce__(self):
        return (pytest.exit, ("something was unpickled",))


def branches(scale=False):
    """Convolutions of equal shape side by side, each normalised, all named by Keras."""
    inputs = keras.Input((8, 8, 3))

    def convolution(x):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)(x)
        return keras.layers.Activation("relu")(keras.layers.BatchNormalization(scale=scale)(x))

    x = convolution(inputs)
    deep = convolution(convolution(x))
    x = keras.layers.Concatenate()([convolution(x), deep, convolution(convolution(deep)), x])
    return keras.Model(inputs, convolution(x))


def drawn(model):
    """The model with other weights than at the start; variances must be positive."""
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.1, 0.9, weight.shape) for weight in model.weights])
    return model


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
@pytest.mark.parametrize("scale", [False, True])
def test_names_that_keras_gave_do_not_matter(suffix, scale, tmp_path):
    """Another numbering, and branches in which the shape alone says nothing."""
    keras.layers.Conv2D(1, 1), keras.layers.BatchNormalization()
    model = drawn(branches(scale))
    save = model.save_weights if suffix == ".weights.h5" else model.save
    save(tmp_path / f"a{suffix}")
    again = branches(scale)
    report = load_weights(again, tmp_path / f"a{suffix}")
    assert len(report.loaded) == 14
    images = np.random.default_rng(3).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(again(images), model(images), rtol=1e-6)


def test_statistics_of_normalisation_are_found_by_their_names(tmp_path):
    values = dict(zip("gbmv", np.random.default_rng(0).uniform(0.5, 1, (4, 4)), strict=True))
    orders = {
        "moving_variance:0 beta:0 gamma:0 moving_mean:0": "vbgm",
        "n_gamma n_beta n_running_mean n_running_std": "gbmv",
        "beta moving_mean moving_variance": "bmv",
    }
    for names, order in orders.items():
        arrays = {f"n/{name}": values[key] for name, key in zip(names.split(), order, strict=True)}
        write_legacy(tmp_path / "a.h5", {"batch_normalization_5": arrays})
        inputs = keras.Input((4,))
        layer = keras.layers.BatchNormalization()
        load_weights(keras.Model(inputs, layer(inputs)), tmp_path / "a.h5")
        expected = [values[key] if key in order else np.ones(4) for key in "gbmv"]
        for found, truth in zip(layer.get_weights(), expected, strict=True):
            np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_a_scale_that_the_model_lacks_is_not_lost_silently(tmp_path):
    drawn(branches(scale=True)).save_weights(tmp_path / "a.weights.h5")
    report = load_weights(branches(scale=False), tmp_path / "a.weights.h5")
    assert len(report.loaded) == 7
    assert "has shapes 4 4 4 4, not 4 4 4" in "".join(report.left_out.values())


def test_a_strict_load_takes_files_with_and_without_a_top(tmp_path):
    model = branches()
    x = keras.layers.GlobalAveragePooling2D()(model.output)
    whole = drawn(keras.Model(model.input, keras.layers.Dense(9, name="predictions")(x)))
    whole.save(tmp_path / "a.h5")
    ours = branches()
    features = keras.layers.Conv2D(4, 1, name="aux_conv1")(ours.output)
    features = keras.layers.Flatten()(features)
    ours = keras.Model(ours.input, keras.layers.Dense(9, name="head_pose")(features))
    new = [ours.get_layer(name).get_weights()[0] for name in ("aux_conv1", "head_pose")]
    report = load_weights(ours, tmp_path / "a.h5", strict=True)
    assert len(report.loaded) == 14
    assert report.unused == ("predictions",)
    assert report.left_out == {}
    for before, name in zip(new, ("aux_conv1", "head_pose"), strict=True):
        np.testing.assert_array_equal(ours.get_layer(name).get_weights()[0], before)


def test_a_strict_load_asks_no_more_than_the_layers_named(tmp_path):
    legacy_weights(tmp_path / "a.h5", released())
    report = load_weights(network(features=5), tmp_path / "a.h5", layers=["conv1_1"], strict=True)
    assert report.loaded == {"conv1_1": "conv1_1"}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda layers: layers.pop("conv2_1"), "'conv2_1' of shapes 3x3x2x4 4: nothing in the fil"),
        (
            lambda layers: layers["conv2_1"].update(
                {"conv2_1/kernel:0": np.ones((5, 5, 2, 4), "float32")}
            ),
            "'conv2_1' of shapes 3x3x2x4 4: conv2_1 has shapes 5x5x2x4 4, not 3x3x2x4 4",
        ),
    ],
)
def test_a_strict_load_names_the_first_layer_that_differs(broken, message, tmp_path, capsys):
    layers = h5_layers(released())
    broken(layers)
    layers["fc6"]["fc6/kernel:0"] = np.ones((2, 2), "float32")
    write_legacy(tmp_path / "a.h5", layers)
    refused(network(), tmp_path / "a.h5", message, capsys)
    assert "fc6" in load_weights(network(), tmp_path / "a.h5").left_out


def refused(model, path, message, capsys):
    before = model.get_weights()
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_weights(model, path, strict=True)
    assert str(error.value).startswith(f"{path}: holds no weights of this network")
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_first_is_by_number_where_names_are_numbers(tmp_path, capsys):
    """In a network with branches, what Keras made first need not come first in the graph."""
    keras.utils.clear_session()
    model = branches()
    order = [layer.name for layer in model.layers if layer.name.startswith("conv2d")]
    assert order.index("conv2d_4") < order.index("conv2d_3")
    layers = {}
    for i in range(1, 8):
        kernel = (1, 1, 4, 4) if i == 4 else (3, 3, 3 if i == 1 else 4, 4)
        layers[f"conv2d_{i}"] = {"kernel": np.ones(kernel, "float32")}
        names = ("beta", "moving_mean", "moving_variance")
        layers[f"batch_normalization_{i}"] = {name: np.ones(4, "float32") for name in names}
    write_legacy(tmp_path / "a.h5", layers)
    message = "'conv2d_3' of shapes 3x3x4x4: conv2d_4 has shapes 1x1x4x4, not 3x3x4x4"
    refused(model, tmp_path / "a.h5", message, capsys)


@pytest.mark.parametrize("name", ["layer_normalization_3", "small_head_layernorm"])
def test_the_last_normalisation_of_convnext_has_two_names(name, tmp_path):
    def normalisations(last):
        x = inputs = keras.Input((4,))
        for index in range(3):
            x = keras.layers.LayerNormalization(name=f"small_block_{index}_layernorm")(x)
        return keras.Model(inputs, keras.layers.LayerNormalization(name=last)(x))

    stored = drawn(normalisations(name))
    stored.save_weights(tmp_path / "a.weights.h5")
    model = normalisations("layer_normalization")
    report = load_weights(model, tmp_path / "a.weights.h5", strict=True)
    assert report.loaded["layer_normalization"] == name
    for ours, theirs in zip(model.get_weights(), stored.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def small_backbone(monkeypatch):
    """Lets the smallest network have the weights of ImageNet that `create` gives it."""

    def replace(create):
        backbone = dataclasses.replace(BACKBONES["mobilenet_v3_small"], create=create)
        monkeypatch.setitem(BACKBONES, "mobilenet_v3_small", backbone)

    return replace


def test_weights_of_imagenet_are_those_of_keras(small_backbone, capsys):
    model = build_model("mobilenet_v3_small", (POSE,), (32, 32, 3), layer="expanded_conv_7_add")
    made = []

    def create(weights, include_top, **_):
        assert (weights, include_top) == ("imagenet", False)
        made.append(drawn(keras.applications.MobileNetV3Small((32, 32, 3), weights=None)))
        return made[0]

    small_backbone(create)
    head = model.get_layer("head_pose").get_weights()[0]
    report = load_imagenet(model, "mobilenet_v3_small")
    assert capsys.readouterr().out == f"{report}\n"
    assert str(report).startswith("mobilenet_v3_small of ImageNet: 60 layers loaded: conv, conv_bn")
    assert report.left_out == {"head_pose": "new"}
    assert {"expanded_conv_8_expand", "conv_1", "logits"} <= set(report.unused)
    np.testing.assert_array_equal(model.get_layer("head_pose").get_weights()[0], head)
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    layer = "expanded_conv_7_add"
    found, expected = (
        keras.Model(network.input, network.get_layer(layer).output)(pixels)
        for network, pixels in ((model, images), (made[0], images))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_only_backbones_have_weights_of_imagenet():
    with pytest.raises(UserError, match="no ImageNet weights for model 'vgg_face'; there are for:"):
        load_imagenet(network(), "vgg_face")


@pytest.mark.parametrize("answers", [False, True])
def test_without_a_connection_the_way_out_is_named(answers, small_backbone, monkeypatch, tmp_path):
    """Nobody listens, or somebody who never answers; Keras' own download runs into it."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pretrained, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()

        def create(**_):
            keras.utils.get_file("a.h5", f"http://127.0.0.1:{port}/a.h5", cache_dir=tmp_path)

        small_backbone(create)
        before = socket.getdefaulttimeout()
        with pytest.raises(UserError) as error:
            load_imagenet(network(), "mobilenet_v3_small")
    text = str(error.value)
    assert text.startswith("imagenet: the weights of mobilenet_v3_small cannot be downloaded (")
    assert ("timed out" if answers else "refused") in text
    assert text.endswith("give a file of weights with --config.model.weights=FILE")
    assert "\n" not in text
    assert socket.getdefaulttimeout() == before


def test_a_file_of_resnet_is_no_inception(tmp_path, capsys):
    """The first layers of ResNet50 as Keras names and stores them."""
    sides = {"gamma": 64, "beta": 64, "moving_mean": 64, "moving_variance": 64}
    write_legacy(
        tmp_path / "resnet50.h5",
        {
            "conv1_conv": {
                "conv1_conv/kernel:0": np.ones((7, 7, 3, 64), "float32"),
                "conv1_conv/bias:0": np.ones(64, "float32"),
            },
            "conv1_bn": {f"conv1_bn/{k}:0": np.ones(n, "float32") for k, n in sides.items()},
        },
    )
    refused(
        build_model("inception_v3", (POSE,), (75, 75, 3)),
        tmp_path / "resnet50.h5",
        "differs is 'conv2d' of shapes 3x3x3x32: conv1_conv has shapes 7x7x3x64 64, not 3x3x3x32",
        capsys,
    )


@pytest.mark.real_data
def test_a_real_inception_file_loads_as_keras_loads_it(real_data: pathlib.Path):
    path = real_data.parent / "weights" / "inception_v3_notop.weights.h5"
    if not path.exists():
        pytest.skip(f"{path.name} is absent")
    keras.layers.Conv2D(1, 1)
    theirs = keras.applications.InceptionV3(
        weights=None, include_top=False, input_shape=(75, 75, 3)
    )
    model = build_model("inception_v3", (POSE,), (75, 75, 3), layer="mixed8", auxiliary=True)
    report = load_weights(model, path, strict=True)
    assert len(report.loaded) == 2 * 76
    assert report.left_out == {}
    assert len(report.unused) == 2 * 18
    report = load_weights(theirs, path, strict=True)
    assert len(report.loaded) == 188
    assert report.unused == ()
    found = theirs.get_weights()
    theirs.load_weights(path)
    for ours, expected in zip(found, theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    images = np.random.default_rng(0).uniform(0, 255, (2, 75, 75, 3)).astype("float32")
    maps = keras.Model(theirs.input, theirs.get_layer("mixed8").output)(images / 127.5 - 1)
    pooled = keras.Model(model.input, model.get_layer("bottleneck").output)(images)
    np.testing.assert_allclose(pooled, np.mean(maps, axis=(1, 2)), rtol=1e-4, atol=1e-5)
