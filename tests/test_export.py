import functools
import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from export_answers import expected_of
from tiny_workdir import CALIBRATION, TASKS, draw_picture, encode, make_workdir

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.keras_settings import without_keras
from data_pipelines.tasks import Task
from export import saved_model, versions
from export.commands import export as commands
from export.description import output_names
from faceattr_tf.prediction.analyzer import Analyzer

PICTURES = [draw_picture(seed, 60, 48) for seed in range(3)]
BOX = np.array([[4, 6, 30, 40], [np.nan] * 4, [10, 10, 20, 20]], np.float32)
POINTS = np.full([3, 5, 2], np.nan, np.float32)
POINTS[1] = [[12, 10], [28, 11], [20, 18], [14, 26], [26, 26]]

# What a client has: TensorFlow alone. It prints the outputs of all signatures as JSON.
CLIENT = """
    import json, sys
    import numpy as np
    import tensorflow as tf
    folder, inputs = sys.argv[1:]
    data = np.load(inputs)
    contents = [bytes(data[f"jpeg{i}"]) for i in range(3)]
    model = tf.saved_model.load(folder)
    calls = {
        "serving_default": {"image_bytes": contents},
        "pixels": {"pixels": data["pixels"]},
        "crop": {"image_bytes": contents, "box": data["box"], "landmarks": data["points"]},
        "features": {"image_bytes": contents},
    }
    assert set(model.signatures) == set(calls) | {"description"}
    result = {}
    for name, arguments in calls.items():
        arguments = {key: tf.constant(value) for key, value in arguments.items()}
        outputs = model.signatures[name](**arguments)
        result[name] = {key: value.numpy().tolist() for key, value in outputs.items()}
        result[name + "_types"] = {key: value.dtype.name for key, value in outputs.items()}
    packages = {"faceattr_tf", "data_pipelines", "export", "keras"}
    assert not {name.split(".")[0] for name in sys.modules} & packages
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    return export.export_model(workdir.path, tmp_path_factory.mktemp("models") / "new", "faces")


@pytest.fixture
def saved_already(exported, monkeypatch):
    """The SavedModel is copied instead of traced anew: what lies beside it is what is tested."""
    extras = shutil.ignore_patterns("assets.extra")
    monkeypatch.setattr(
        saved_model, "_save", lambda *args: shutil.copytree(exported, args[-1], ignore=extras)
    )


@pytest.fixture(scope="module")
def served(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    jpegs = {
        f"jpeg{i}": np.frombuffer(encode(picture), np.uint8) for i, picture in enumerate(PICTURES)
    }
    np.savez(folder / "inputs.npz", pixels=PICTURES, box=BOX, points=POINTS, **jpegs)
    (folder / "client.py").write_text(textwrap.dedent(CLIENT))
    command = [sys.executable, "client.py", str(exported), "inputs.npz"]
    with without_keras():
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("signature", ["serving_default", "pixels", "crop"])
def test_a_fresh_process_gives_the_numbers_of_the_keras_model(workdir, served, signature):
    analyzer = Analyzer.from_workdir(workdir.path)
    contents = PICTURES if signature == "pixels" else [encode(picture) for picture in PICTURES]
    places = {"box": BOX, "landmarks": POINTS} if signature == "crop" else {}
    expected = expected_of(analyzer.analyze(contents, **places))
    if signature != "pixels":
        expected["valid"] = [True] * 3
    assert served[signature].keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(served[signature][name], values, rtol=1e-4, atol=1e-4)
    types = served[f"{signature}_types"]
    assert {name for name, kind in types.items() if kind == "int32"} == {
        *("attributes_label", "pose_label", "range_label", "emotion_label")
    }
    assert set(types.values()) == {"float32", "int32"} | ({"bool"} if "valid" in types else set())


def test_places_of_faces_matter(served):
    without = np.array(served["serving_default"]["attributes_probability"])
    with_places = np.array(served["crop"]["attributes_probability"])
    assert np.abs(without - with_places).max(axis=1).min() > 1e-3


def test_the_description_stands_inside(exported, workdir):
    description = json.loads((exported / "assets" / "faceattr.json").read_text())
    tasks = {fields["name"]: fields for fields in description["tasks"]}
    assert tasks["attributes"] == {
        "name": "attributes",
        "kind": "multilabel",
        "labels": ["Male", "Smiling", "Eyeglasses"],
        **CALIBRATION["attributes"],
        "outputs": {"probability": "attributes_probability", "label": "attributes_label"},
    }
    assert tasks["pose"]["temperature"] == 0.5
    assert tasks["landmarks"]["outputs"] == {"points": "landmarks_points"}
    assert tasks["alignment"]["outputs"] == {"outline": "alignment_outline"}
    assert description["crop"] == workdir.crop.to_dict()
    assert description["input_shape"] == [12, 10, 3]
    assert description["recipe"] == "tiny"
    assert description["packages"].keys() >= {"tensorflow", "keras"}
    assert "/secret/place" not in json.dumps(description)


def test_nothing_but_the_version_is_left(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["1"]
    assert (exported.stat().st_mode & 0o777) == (exported / "assets").stat().st_mode & 0o777


def test_versions_count_upwards_and_are_never_replaced(workdir, tmp_path, monkeypatch):
    def save(model, workdir, description, localiser, target):
        (target / "assets").mkdir(parents=True)

    monkeypatch.setattr(saved_model, "_save", save)
    monkeypatch.setattr(saved_model, "_check", lambda *_: None)
    (tmp_path / "m" / "9").mkdir(parents=True)
    (tmp_path / "m" / "notes").mkdir()
    assert export.export_model(workdir.path, tmp_path, "m").name == "10"
    assert export.export_model(workdir.path, tmp_path, "m", 3).name == "3"
    assert export.export_model(workdir.path, tmp_path, "m").name == "11"
    with pytest.raises(UserError, match="9 exists already"):
        export.export_model(workdir.path, tmp_path, "m", 9)


def test_two_exports_at_once_get_a_version_each(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "assets").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    targets = [versions.publish(tmp_path / n, tmp_path / "models", None) for n in ("a", "b")]
    assert [target.name for target in targets] == ["1", "2"]


def test_a_failed_export_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(saved_model, "_check", fail)
    monkeypatch.setattr(saved_model, "_save", lambda *args: args[-1].mkdir())
    with pytest.raises(OSError, match="disk full"):
        export.export_model(workdir.path, tmp_path / "new" / "models")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name=a/b"], "name 'a/b': expected letters"),
        (["--version=0"], "version 0: expected a positive"),
        (["--max_pixels=0"], "max_pixels 0: expected a positive"),
        (["--precision=int8"], "precision 'int8' is none of float32, bfloat16, float16"),
        (["--batch_sizes=8,1"], r"batch_sizes \(8, 1\): expected whole numbers"),
        (["--workdir=absent"], "workdir absent does not exist"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        commands.main([f"--workdir={workdir.path}", "--output=models", *arguments])
    assert not (tmp_path / "models").exists()


def test_warm_up_requests_replay(workdir, saved_already, tmp_path):
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    options = export.ExportOptions(batch_sizes=(1, 3))
    folder = export.export_model(workdir.path, tmp_path, "faces", options=options)
    model = tf.saved_model.load(str(folder))
    file = str(folder / "assets.extra" / "tf_serving_warmup_requests")
    seen = []
    for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        assert request.model_spec.name == "faces"
        signature = model.signatures[request.model_spec.signature_name]
        inputs = {key: tf.constant(tf.make_ndarray(v)) for key, v in request.inputs.items()}
        outputs = signature(**inputs)
        (size,) = {len(value) for value in outputs.values()}
        assert all(outputs.get("valid", [True]))
        seen.append((request.model_spec.signature_name, size))
    warmed = sorted(set(model.signatures) - {"description"})
    assert sorted(seen) == [(name, size) for name in warmed for size in (1, 3)]
    converter = (folder / "assets.extra" / "tpu_converter_options.pbtxt").read_text()
    assert 'function_alias: "tpu_func"' in converter
    assert converter.count("allowed_batch_sizes") == 2 and "max_batch_size: 3\n" in converter


def test_without_servings_messages_the_export_says_what_is_missing(
    workdir, saved_already, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.predict_pb2", None)
    folder = export.export_model(workdir.path, tmp_path)
    assert "pip install 'faceattr_tf[serving]'" in capsys.readouterr().err
    assert not (folder / "assets.extra" / "tf_serving_warmup_requests").exists()
    assert (folder / "saved_model.pb").exists()


@pytest.fixture(scope="module")
def answers_in(tmp_path_factory):
    """Function: precision -> what the export of one network answers in it; float32 but once."""
    import tensorflow as tf

    from faceattr_tf.configs.base import Model
    from faceattr_tf.models.create import create_network

    folder = tmp_path_factory.mktemp("precisions")
    workdir = make_workdir(folder / "run", Crop("none", 32, 32))
    recipe = workdir.recipe()
    recipe.model = Model("resnet_small", width=0.25)
    tasks = [task for task in workdir.tasks if task.kind != "transform"]
    metadata = workdir.metadata() | {"tasks": [task.to_dict() for task in tasks]}
    workdir.write_json("config.json", recipe.to_dict())
    workdir.write_json("metadata.json", metadata)
    workdir.save_model(create_network(recipe.model, tasks, (32, 32, 3)))
    pixels = tf.constant(np.stack([draw_picture(seed, 40, 40) for seed in range(4)]))

    @functools.cache
    def answers(kind):
        options = export.ExportOptions(precision=kind, warmup=False)
        target = export.export_model(workdir.path, folder / kind, options=options)
        loaded = tf.saved_model.load(str(target))
        graph = loaded.on_device.concrete_functions[0].graph.as_graph_def()
        nodes = [n for f in graph.library.function for n in f.node_def] + list(graph.node)
        assert any(n.attr["T"].type == tf.dtypes.as_dtype(kind).as_datatype_enum
                   for n in nodes if n.op == "Conv2D")  # fmt: skip
        assert json.loads((target / "assets" / "faceattr.json").read_text())["precision"] == kind
        return loaded.signatures["pixels"](pixels=pixels)

    return answers


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_that_of_the_network_alone(answers_in, precision):
    import tensorflow as tf

    found = answers_in(precision)
    for name, values in answers_in("float32").items():
        other = found[name]
        assert other.dtype == values.dtype
        if values.dtype == tf.float32 and "points" not in name:
            assert 0 < np.abs(other - values).max() < 0.1


def test_a_network_of_another_recipe_has_one_precision(workdir, tmp_path):
    options = export.ExportOptions(precision="bfloat16")
    with pytest.raises(UserError, match="a network that its recipe does not build|transformer"):
        export.export_model(workdir.path, tmp_path, options=options)


def test_output_names_suit_every_server():
    task = Task("Age group (years)", "multiclass", ("young", "old"))
    assert output_names(task)["label"] == "Age_group__years__label"
    assert len({name for task in TASKS for name in output_names(task).values()}) == 12
