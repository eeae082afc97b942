"""Exports under other engines: TensorFlow's C API without Python, XLA, OpenVINO; and bad images."""

import json
import os
import pathlib
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from tiny_workdir import IMPOSSIBLE, TASKS, build_model, draw_picture, encode

import export
from data_pipelines.crop.geometry import Crop
from export.signatures import EMBEDDING, TPU_FUNCTION, VALID, embedding_of

SOURCE = pathlib.Path(__file__).with_name("serve.c")
PICTURES = [draw_picture(seed, 60, 48) for seed in range(3)]


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    options = export.ExportOptions(max_pixels=60 * 48, warmup=False, consistent=True)
    return export.export_model(workdir.path, folder, options=options)


@pytest.fixture(scope="module")
def loaded(exported):
    import tensorflow as tf

    return tf.saved_model.load(str(exported))


def test_layers_of_a_model_may_have_the_names_that_keras_gives_first():
    import keras

    keras.utils.clear_session()
    model = build_model(Crop(height=12, width=10))
    keras.utils.clear_session()  # as in a process that has made no layers
    embedding = embedding_of(model, TASKS)
    assert keras.Model(model.input, (model.output, embedding)).output[1].shape == (None, 80)


def answers(loaded, signature, **inputs):
    import tensorflow as tf

    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    return {name: v.numpy() for name, v in loaded.signatures[signature](**inputs).items()}


def crops(count=3):
    return np.random.default_rng(1).uniform(0, 255, (count, 12, 10, 3)).astype(np.float32)


def on_device(loaded, images):
    return {name: value.numpy() for name, value in loaded.on_device(images).items()}


@pytest.fixture(scope="session")
def serve(tmp_path_factory):
    """The C program, as `serve(model, signature, files) -> {output: array}`."""
    import tensorflow as tf

    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler")
    program = tmp_path_factory.mktemp("serve") / "serve"
    folder = pathlib.Path(tf.__file__).parent
    libraries = ("-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", "-lm")
    subprocess.run(
        [compiler, str(SOURCE), "-o", str(program), f"-I{folder / 'include'}", f"-L{folder}",
         *libraries, f"-Wl,-rpath,{folder}"],
        check=True,
    )  # fmt: skip

    def run(model, signature, files):
        command = [str(program), str(model), signature, *map(str, files)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": ""}
        )
        assert done.returncode == 0, done.stderr
        found = {}
        for line in done.stdout.splitlines():
            name, dtype, rank, *numbers = line.split()
            shape = list(map(int, numbers[: int(rank)]))
            values = np.array(numbers[int(rank) :], np.float64)
            found[name] = values.astype(dtype).reshape(shape)
        return found

    return run


def write_files(folder, suffix=".jpg"):
    files = []
    for index, picture in enumerate(PICTURES):
        files.append(folder / f"{index}{suffix}")
        if suffix == ".jpg":
            files[-1].write_bytes(encode(picture))
        else:
            assert cv2.imwrite(str(files[-1]), picture[..., ::-1])
    return files


@pytest.mark.parametrize("signature", ["serving_default", "pixels", "crop", "features"])
def test_the_c_api_gives_the_same_answers(serve, exported, loaded, tmp_path, signature):
    if signature == "pixels":
        files = write_files(tmp_path, ".ppm")
        expected = answers(loaded, signature, pixels=np.array(PICTURES))
    else:
        files = write_files(tmp_path)
        (tmp_path / "cut.jpg").write_bytes(files[0].read_bytes()[:300])
        files.insert(1, tmp_path / "cut.jpg")
        inputs = {"image_bytes": [file.read_bytes() for file in files]}
        if signature == "crop":
            inputs["box"] = np.full((4, 4), np.nan, np.float32)
            inputs["landmarks"] = np.full((4, 5, 2), np.nan, np.float32)
        expected = answers(loaded, signature, **inputs)
        assert expected[VALID].tolist() == [True, False, True, True]
    found = serve(exported, signature, files)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


def test_bad_images_get_no_answer_and_their_neighbours_theirs(loaded):
    good = [encode(picture) for picture in PICTURES]
    expected = answers(loaded, "serving_default", image_bytes=good)
    assert expected[VALID].all()
    too_large = encode(draw_picture(9, 61, 48))
    given = [b"", good[0], good[1][:300], too_large, *good[1:], b"\xff\xd8\xff"]
    found = answers(loaded, "serving_default", image_bytes=given)
    places = [1, 4, 5]
    assert np.flatnonzero(found[VALID]).tolist() == places
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][places], values, rtol=1e-5, atol=1e-5)
        others = np.delete(found[name], places, axis=0)
        if values.dtype == np.float32:
            assert np.isnan(others).all()
        elif name != VALID:
            assert (others == -1).all()


@pytest.fixture(scope="module")
def session(exported):
    """Feeds any shape to a signature, as the C++ server does."""
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

    served = tf.compat.v1.Session(graph=tf.Graph())
    with served.graph.as_default():
        graph = tf.compat.v1.saved_model.load(served, ["serve"], str(exported))

    def run(signature, **inputs):
        info = graph.signature_def[signature]
        call = CallableOptions(
            feed=[info.inputs[name].name for name in inputs],
            fetch=[tensor.name for tensor in info.outputs.values()],
        )
        return served._make_callable_from_options(call)(*inputs.values())

    return run


def of_faces(rows=2, box=(2, 4), landmarks=(2, 5, 2)):
    files = np.array([encode(picture) for picture in PICTURES[:rows]], object)
    return {
        "image_bytes": files,
        "box": np.full(box, np.nan, "f4"),
        "landmarks": np.full(landmarks, np.nan, "f4"),
    }


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("pixels", {"pixels": np.zeros((2, 60, 48, 4), "u1")}),
        ("pixels", {"pixels": np.zeros((2, 60, 48, 6), "u1")}),
        ("pixels", {"pixels": np.zeros((2, 60, 48, 1), "u1")}),
        ("pixels", {"pixels": np.zeros((2, 3, 60, 48), "u1")}),
        ("pixels", {"pixels": np.zeros((60, 48, 3), "u1")}),
        ("crop", of_faces(box=(2, 3))),
        ("crop", of_faces(landmarks=(2, 68, 2))),
        ("crop", of_faces(landmarks=(2, 5, 3))),
        ("crop", of_faces(box=(1, 4))),
        ("crop", of_faces(landmarks=(3, 5, 2))),
        ("serving_default", {"image_bytes": np.array([[b"a", b"b"]], object)}),
        ("features", {"image_bytes": np.array(b"a", object)}),
    ],
)
def test_a_server_refuses_inputs_of_another_shape(session, signature, inputs):
    import tensorflow as tf

    with pytest.raises(tf.errors.InvalidArgumentError, match="expected shape"):
        session(signature, **inputs)


def test_a_server_takes_inputs_as_declared_and_no_other_type(session):
    import tensorflow as tf

    assert session("crop", **of_faces())
    assert session("pixels", pixels=np.zeros((2, 60, 48, 3), "u1"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="uint8"):
        session("pixels", pixels=np.zeros((2, 60, 48, 3), "f4"))


def test_a_consistent_export_answers_as_the_analyzer(loaded, exported, workdir):
    from faceattr_tf import Analyzer

    files = [encode(draw_picture(seed, 60, 48), ".png") for seed in range(12)]
    found = answers(loaded, "serving_default", image_bytes=files)
    labels = found["attributes_label"]
    for consistent in (False, True):
        faces = Analyzer.from_workdir(workdir.path, consistent=consistent).analyze(files)
        said = [list(face.tasks["attributes"].values()) for face in faces]
        expected = np.array([[one.label for one in row] for row in said])
        male, smiling, glasses = expected.T
        assert (male & (smiling | ~glasses)).any() != consistent
    np.testing.assert_array_equal(labels, expected)
    values = [[one.probability for one in row] for row in said]
    np.testing.assert_allclose(found["attributes_probability"], values, atol=1e-5)
    (task, *_) = json.loads((exported / "assets" / "faceattr.json").read_text())["tasks"]
    assert task["impossible"] == IMPOSSIBLE
    # A client that compares probabilities with the thresholds itself finds the same labels.
    np.testing.assert_array_equal(found["attributes_probability"] >= task["thresholds"], labels)


def test_no_image_is_no_answer(loaded):
    import tensorflow as tf

    found = loaded.signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    assert {len(value) for value in found.values()} == {0}


def test_every_output_has_as_many_rows_as_images(loaded, exported):
    """Servers that join requests to batches cut them apart along the first dimension."""
    described = json.loads((exported / "assets" / "faceattr.json").read_text())["signatures"]
    assert set(described) == set(loaded.signatures) - {"description"}
    for name, fields in described.items():
        function = loaded.signatures[name]
        for given, specs in (
            (fields["inputs"], function.structured_input_signature[1]),
            (fields["outputs"], function.structured_outputs),
        ):
            assert given.keys() == specs.keys()
            for key, tensor in given.items():
                assert tensor["shape"][0] == "N" and specs[key].shape[0] is None
                assert specs[key].dtype.name == tensor["dtype"]
                known = [size for size in tensor["shape"] if isinstance(size, int)]
                assert [size for size in specs[key].shape if size is not None] == known


def test_a_version_says_what_it_is(loaded, exported):
    import tensorflow as tf

    found = loaded.signatures["description"](question=tf.constant(["", "what?"]))["description"]
    stored = json.loads((exported / "assets" / "faceattr.json").read_text())
    assert [json.loads(text) for text in found.numpy()] == [stored, stored]


def test_features_are_what_the_heads_see(loaded, workdir):
    import keras

    from data_pipelines.crop.pixels import decode_and_crop

    encoded = [encode(picture) for picture in PICTURES]
    found = answers(loaded, "features", image_bytes=encoded)
    nowhere = np.full((3, 4), np.nan, np.float32), np.full((3, 5, 2), np.nan, np.float32)
    images, _ = decode_and_crop(encoded, *nowhere, workdir.crop)
    model = workdir.load_model()
    before = keras.Model(model.input, model.get_layer("head_pose").input)
    np.testing.assert_allclose(found[EMBEDDING], before(images), rtol=1e-4, atol=1e-4)


def test_the_device_function_is_named_for_the_converter(exported):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    aliases = graph.meta_info_def.function_aliases
    assert set(aliases.values()) == {TPU_FUNCTION}
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    (alias,) = aliases
    operations = {node.op for node in functions[alias].node_def}
    assert not {name for name in operations if "Decode" in name or "Dataset" in name}
    # Whatever answers calls it, the accelerator's part is found in every signature.
    callers = [
        f
        for f in functions.values()
        if any(
            node.op in ("StatefulPartitionedCall", "PartitionedCall")
            and node.attr["f"].func.name == alias
            for node in f.node_def
        )
    ]
    assert len(callers) >= 4


def test_xla_compiles_the_device_function(loaded):
    import tensorflow as tf

    images = crops()
    compiled = tf.function(loaded.on_device, jit_compile=True)(tf.constant(images))
    for name, values in on_device(loaded, images).items():
        np.testing.assert_allclose(compiled[name], values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_another_engine_gives_the_same_numbers(loaded, tmp_path):
    """OpenVINO has no decoders: the device function is saved alone."""
    import tensorflow as tf

    openvino = pytest.importorskip("openvino")
    tf.saved_model.save(loaded, str(tmp_path), {"serving_default": loaded.on_device})
    core = openvino.Core()
    # Unless told otherwise, it computes in bfloat16 where the processor can.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(tmp_path), "CPU", exact)
    images = crops()
    result = compiled([images])
    expected = on_device(loaded, images)
    assert len(TASKS) < len(compiled.outputs) == len(expected)
    for name, values in expected.items():
        (port,) = [port for port in compiled.outputs if name in port.get_names()]
        np.testing.assert_allclose(result[port], values, rtol=1e-4, atol=1e-4, err_msg=name)
