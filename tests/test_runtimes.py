"""Files for LiteRT, ONNX Runtime and OpenVINO: they answer as Keras does, or are not there."""

import importlib.util
import json
import re
import sys

import numpy as np
import pytest
from tiny_workdir import draw_picture, encode

import export
from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, LANDMARKS
from export.check import Check
from export.commands.export import main
from export.deployment import find_models
from export.runtimes import litert, onnx, openvino, verification, writing
from export.runtimes.face_crop import crop_file, points_in_image
from export.runtimes.network import Converted, Network
from faceattr_tf.models import build_model

PACKAGES = {"litert": (), "onnx": ("onnx", "onnxruntime", "tf2onnx"), "openvino": ("openvino",)}
MODULES = {"litert": litert, "onnx": onnx, "openvino": openvino}
FILES = {"litert": "model_float32.tflite", "onnx": "model.onnx", "openvino": "model.xml"}
HERE = [f for f, names in PACKAGES.items() if all(map(importlib.util.find_spec, names))]
LITERT = export.RuntimeOptions(("litert",), ("float32",))

pytestmark = pytest.mark.usefixtures("untimed")


def of_runtime(form):
    """The format, skipped where its packages are not installed."""
    absent = form not in HERE
    return pytest.param(form, marks=pytest.mark.skipif(absent, reason=f"no extra {form} here"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encode(draw_picture(seed), ".png"))
    return folder


@pytest.fixture(scope="module")
def exported(workdir, photos, tmp_path_factory):
    """All formats that can be written here, compared on pictures."""
    options = export.RuntimeOptions(tuple(HERE), check=Check(images=str(photos)))
    return export.export_runtimes(workdir.path, tmp_path_factory.mktemp("models"), options=options)


@pytest.fixture(scope="module")
def saved(workdir, tmp_path_factory):
    import tensorflow as tf

    options = export.ExportOptions(warmup=False)
    folder = export.export_model(workdir.path, tmp_path_factory.mktemp("saved"), options=options)
    return tf.saved_model.load(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("form", [of_runtime(form) for form in FILES])
def test_a_picture_gets_the_answer_of_the_saved_model(exported, saved, form):
    description = json.loads((exported / form / "faceattr.json").read_text())
    data = encode(draw_picture(7), ".png")
    points = [[12, 10], [28, 11], [20, 18], [14, 26], [26, 26]]
    box = np.full([1, 4], np.nan, "f4")
    expected = saved.signatures["crop"](
        image_bytes=[data], box=box, landmarks=np.array([points], "f4")
    )
    crops, transform = crop_file(data, description["crop"], landmarks=points)
    found = MODULES[form].loaded(exported / form / FILES[form])(crops)
    assert found.keys() == description["outputs"].keys()
    assert expected.keys() - found.keys() == {"valid"}
    for name, values in found.items():
        stated = description["outputs"][name]
        assert values.dtype == stated["dtype"] and [*values.shape[1:]] == stated["shape"][1:]
        if name.endswith(("_points", "_outline")):
            values = points_in_image(values, transform, description["crop"])
        if name != "embedding":
            np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("form", [of_runtime(form) for form in ("onnx", "openvino")])
def test_these_take_any_number_of_crops(exported, form):
    ask = MODULES[form].loaded(exported / form / FILES[form])
    crops = np.random.default_rng(0).uniform(0, 255, (5, 12, 10, 3)).astype("f4")
    together = ask(crops)
    for name, values in ask(crops[3:4]).items():
        np.testing.assert_allclose(values[0], together[name][3], rtol=1e-4, atol=1e-4)


def test_a_folder_says_what_it_holds(exported):
    for form in HERE:
        folder = exported / form
        description = json.loads((folder / "faceattr.json").read_text())
        assert (folder / "face_crop.py").exists()
        assert {*description["files"]} <= {path.name for path in folder.iterdir()}
        assert description["licence"]["data"] == {"drawn": "none"}
        assert "secret" not in json.dumps(description)
        (task,) = (t for t in description["tasks"] if t["name"] == "attributes")
        assert task["labels"] == ["Male", "Smiling", "Eyeglasses"]
        assert task["thresholds"] == [0.1, 0.5, 0.9]
        meaning = description["outputs"]["landmarks_points"]["meaning"]
        assert "from -1 to 1" in meaning and "valid" not in json.dumps(description["outputs"])
    description = json.loads((exported / "litert" / "faceattr.json").read_text())
    assert [facts["precision"] for facts in description["files"].values()] == [*litert.TYPES]
    assert description["inputs"]["crops"]["shape"] == [1, 12, 10, 3]
    facts = description["files"]["model_float32.tflite"]
    assert facts["pictures"] == 3 and facts["probability_differs_by"] < 1e-3
    assert facts["bytes"] == (exported / "litert" / "model_float32.tflite").stat().st_size


@pytest.mark.parametrize("form", [of_runtime("onnx")])
def test_triton_is_told_the_tensors_that_the_network_has(exported, form):
    import onnxruntime

    text = (exported / form / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in text and "max_batch_size: 32" in text
    session = onnxruntime.InferenceSession(str(exported / form / FILES[form]))
    types = {"tensor(float)": "TYPE_FP32", "tensor(int32)": "TYPE_INT32"}
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        stated = {
            name: (dtype, [int(size) for size in dims.split(",")], bool(reshape))
            for name, dtype, dims, reshape in re.findall(
                kind + r' \{\n  name: "(\w+)"\n  data_type: (\w+)\n  dims: \[ ([\d, ]+) \]\n'
                r"(  reshape \{ shape: \[ \] \}\n)?\}",
                text,
            )
        }
        assert stated == {
            one.name: (types[one.type], one.shape[1:] or [1], not one.shape[1:]) for one in tensors
        }


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_int8_takes_and_gives_float32(exported):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(exported / "litert" / "model_int8.tflite"))
    tensors = interpreter.get_tensor_details()
    assert any(tensor["dtype"] == np.int8 and tensor["shape"].size == 4 for tensor in tensors)
    (given,) = interpreter.get_input_details()
    kinds = {tensor["dtype"] for tensor in interpreter.get_output_details()}
    assert given["dtype"] == np.float32 and kinds == {np.float32, np.int32}


@pytest.mark.slow
def test_int8_maps_points_through_a_transformer_right(tmp_path):
    """The default delegate multiplies matrices of int8 wrongly, so they stay in float."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    tasks = LANDMARKS, ALIGNMENT
    model = build_model("resnet_small", tasks, (64, 64, 3), transformer="lonet", width=0.25)
    crops = np.random.default_rng(0).uniform(0, 255, (4, 64, 64, 3)).astype("f4")
    one = tf.TensorSpec([1, 64, 64, 3], tf.float32, "crops")

    @tf.function(input_signature=[one], autograph=False)
    def answer(crops):
        return model(crops)

    module = tf.Module()
    module.parameters = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(tmp_path / "one"), {"serving_default": answer})
    network = Network(None, tmp_path, tmp_path / "one", (64, 64, 3), crops, ("int8",))
    (converted,) = litert.convert(network, tmp_path)
    expected = model(crops)["landmarks"]
    np.testing.assert_allclose(converted.ask(crops)["landmarks"], expected, rtol=0, atol=0.05)


@pytest.mark.slow
def test_both_take_one_number_and_a_server_sees_the_saved_model_alone(workdir, tmp_path, capsys):
    arguments = [f"--workdir={workdir.path}", f"--output={tmp_path}", "--no_warmup"]
    main([*arguments[:2], "--format=litert", "--litert_types=float32,int8"])
    said = capsys.readouterr().out
    assert "random pixels" in said and "int8: not written" in said
    main([*arguments, "--format=saved_model,litert", "--litert_types=float32"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [f"{tmp_path}/faceattr/2", f"{tmp_path}/faceattr/2-runtimes"]
    names = sorted(path.name for path in (tmp_path / "faceattr").iterdir())
    assert names == ["1-runtimes", "2", "2-runtimes"]
    (model,) = find_models(tmp_path, {}, {})
    assert model.versions == (2,)
    with pytest.raises(UserError, match="1-runtimes exists already"):
        export.export_model(workdir.path, tmp_path, version=1)


def test_balanced_accuracy_of_known_labels_is_told(workdir, mtfl_records, tmp_path, capsys):
    check = Check(records=mtfl_records.path, margin=100.0)
    options = export.RuntimeOptions(("litert",), ("float32", "int8"), check)
    folder = export.export_runtimes(workdir.path, tmp_path, options=options)
    facts = json.loads((folder / "litert" / "faceattr.json").read_text())["files"]
    assert [0 <= of["balanced_accuracy"] <= 1 for of in facts.values()] == [True, True]
    assert facts["model_float32.tflite"]["pictures"] == mtfl_records.splits["test"]
    assert "balanced accuracy" in capsys.readouterr().out


def results(precision, largest, accuracies=(None, None), values=0.0, embedding=0.0):
    of_all = ((precision, accuracy) for accuracy in accuracies)
    return [
        verification.Verified(
            Converted("X", kind, (), None),
            *(largest, largest, "a", embedding, values, 1, 0, accuracy, 1.0),
        )
        for kind, accuracy in of_all
    ]


@pytest.mark.parametrize(
    ("precision", "largest", "accuracies"),
    [
        ("float32", 1.1e-3, (None, None)),
        ("float32", np.inf, (None, None)),
        ("float16", 0.03, (None, None)),
        ("int8", 0.3, (0.8, 0.79)),
    ],
)
def test_what_answers_otherwise_is_refused(precision, largest, accuracies):
    with pytest.raises(UserError, match="^not published: "):
        verification.refuse_unlike(results(precision, largest, accuracies), 0.5)


@pytest.mark.parametrize(
    ("precision", "largest", "accuracies"),
    [("float32", 9e-4, (None, None)), ("float16", 0.01, (0.8, 0.8)), ("int8", 0.3, (0.8, 0.797))],
)
def test_what_is_near_enough_is_published(precision, largest, accuracies):
    verification.refuse_unlike(results(precision, largest, accuracies), 0.5)


@pytest.mark.parametrize("values", [0.06, np.nan])
def test_int8_whose_points_are_elsewhere_is_refused(values):
    with pytest.raises(UserError, match="points or values .* --litert_types=float32,float16"):
        verification.refuse_unlike(results("int8", 0.1, values=values), 0.5)
    verification.refuse_unlike(results("int8", 0.1, values=0.04), 0.5)


@pytest.mark.parametrize(
    ("precision", "near", "far"), [("float32", 9e-4, 2e-3), ("float16", 0.04, 0.06)]
)
def test_of_an_embedding_half_precision_may_be_farther_off_than_of_answers(precision, near, far):
    verification.refuse_unlike(results(precision, 0.0, embedding=near), 0.5)
    with pytest.raises(UserError, match="embedding of X .* differs from Keras' by"):
        verification.refuse_unlike(results(precision, 0.0, embedding=far), 0.5)
    verification.refuse_unlike(results("int8", 0.1, embedding=0.5), 0.5)


@pytest.mark.slow
def test_int8_keeps_a_network_that_sees_colours_as_bgr(tmp_path):
    """What is done to pixels stays in float: reversing their channels lost what a picture shows."""
    import tensorflow as tf

    weights = np.random.default_rng(0).normal(0, 0.3, (3, 3, 3, 8)).astype("f4")

    @tf.function(input_signature=[tf.TensorSpec([1, 16, 16, 3], tf.float32, "crops")])
    def see(crops):
        values = tf.reverse(crops / 127.5 - 1.0, [-1]) * 127.5 + [23.0, 11.0, 3.0]
        seen = tf.nn.relu6(tf.nn.conv2d(values, weights / 60.0, 2, "SAME"))
        return {"answer": tf.reduce_mean(seen, axis=[1, 2])}

    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"), {"serving_default": see})
    crops = np.stack([draw_picture(seed, 16, 16) for seed in range(20)]).astype("f4")
    network = Network(see, tmp_path, tmp_path / "saved", (16, 16, 3), crops, ("int8",))
    (converted,) = litert.convert(network, tmp_path)
    found = converted.ask(crops)["answer"]
    expected = np.concatenate([see(crop[None])["answer"] for crop in crops])
    assert np.abs(found - expected).max() < 0.05 * expected.max()


def test_nothing_is_left_of_what_was_refused(workdir, tmp_path, monkeypatch):
    def wrong(file):
        ask = litert_loaded(file)
        return lambda crops: {name: values + 1 for name, values in ask(crops).items()}

    litert_loaded = litert.loaded
    monkeypatch.setattr(litert, "loaded", wrong)
    written = []
    with pytest.raises(UserError, match="not published"):
        export.export_runtimes(
            workdir.path, tmp_path / "new", options=LITERT, saved_model=written.append
        )
    assert not written and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_missing_package_is_one_line(workdir, tmp_path, form, monkeypatch):
    for package in PACKAGES[form]:
        monkeypatch.setitem(sys.modules, package, None)
    options = export.RuntimeOptions((form,))
    with pytest.raises(UserError, match=rf"pip install 'faceattr_tf\[{form}\]'"):
        export.export_runtimes(workdir.path, tmp_path, options=options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--format=tflite"],
            "--format=tflite: expected one or more of saved_model, litert, .*page",
        ),
        (["--format="], "--format"),
        (["--format=litert", "--litert_types=int4"], "'int4' is none of"),
        (["--format=litert", "--litert_types=int8"], "int8 is calibrated on pictures"),
        (["--litert_types=int8"], "--litert_types belongs to"),
        (["--format=litert", "--precision=bfloat16"], "--precision belongs to"),
        (["--format=litert", "--check"], "--check belongs to"),
        (["--format=litert", "--records=nowhere"], "nowhere"),
        (["--images=nowhere"], "--check"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, arguments, message):
    with pytest.raises(UserError, match=message):
        main([f"--workdir={workdir.path}", f"--output={tmp_path}", *arguments])
    assert not [*tmp_path.iterdir()]


def test_impossible_answers_give_way_there_too(workdir, photos, tmp_path):
    check = Check(images=str(photos))
    options = export.RuntimeOptions(("litert",), ("float32",), check, consistent=True)
    folder = export.export_runtimes(workdir.path, tmp_path, options=options)
    description = json.loads((folder / "litert" / "faceattr.json").read_text())
    assert description["consistent"] and description["tasks"][0]["impossible"]


def test_the_formats_are_those_of_the_table():
    assert {*writing.FORMATS} == {*PACKAGES, "page"}  # test_page_export.py
