"""Evaluation through the exported graph gives what evaluation in Keras gives, for every network.

The pictures are the awkward ones: turned by a tag, grey, with an alpha channel, wide, large; and
real faces where these are at hand.
"""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_workdir import draw_picture

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.input.batches import encoded_batches, evaluation_batches
from data_pipelines.input.stream import Source
from data_pipelines.input.view import View
from data_pipelines.records.build import build
from data_pipelines.tasks import LANDMARKS, MTFL_ATTRIBUTES, POSE
from export import saved_model
from faceattr_tf.configs.base import Model, Recipe
from faceattr_tf.evaluation.inference import predict_outputs
from faceattr_tf.evaluation.metrics import probabilities
from faceattr_tf.models import MODELS, build_model, options_of
from faceattr_tf.models.heads import HEAD_PREFIX
from faceattr_tf.workdir import Workdir

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS)
CROP = Crop("align", 80, 76, margin=0.2)
CALIBRATION = {
    "attributes": {"temperature": 1.3, "thresholds": [0.3, 0.5, 0.6]},
    "pose": {"temperature": 0.7},
}


def awkward_pictures(folder):
    """A manifest of pictures of every kind that the reader takes."""
    folder.mkdir()
    picture = draw_picture(0, 90, 120)[..., ::-1]
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    alpha = np.dstack([picture, np.full(picture.shape[:2], 90, np.uint8)])
    files = {
        "plain.jpg": jpeg,
        "turned.jpg": jpeg[:2] + segment + jpeg[2:],
        "grey.jpg": cv2.imencode(".jpg", picture[..., 0])[1].tobytes(),
        "grey.png": cv2.imencode(".png", picture[..., 0])[1].tobytes(),
        "alpha.png": cv2.imencode(".png", alpha)[1].tobytes(),
        "wide.jpg": cv2.imencode(".jpg", draw_picture(1, 70, 400))[1].tobytes(),
        "large.jpg": cv2.imencode(".jpg", draw_picture(2, 900, 700))[1].tobytes(),
        "large.png": cv2.imencode(".png", draw_picture(3, 900, 700))[1].tobytes(),
        "tiny.png": cv2.imencode(".png", draw_picture(4, 5, 3))[1].tobytes(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    rows = [f"{name},{'test' if i else 'train'},1" for i, name in enumerate(["plain.jpg", *files])]
    rows[0] = "extra.jpg,train,1"
    (folder / "extra.jpg").write_bytes(jpeg)
    (folder / "manifest.csv").write_text("\n".join(["path,split,Smiling", *rows]) + "\n")
    return folder


def real_faces(source, folder, count=24):
    """The first real test faces, among them one without colour, in the official layout."""
    folder.mkdir()
    rows = (source / "testing.txt").read_text("latin1").splitlines()
    names = {row: row.split()[0].replace("\\", "/") for row in rows if len(row.split()) > 10}
    grey = next(
        row for row, name in names.items()
        if cv2.imread(str(source / name), cv2.IMREAD_UNCHANGED).ndim == 2
    )  # fmt: skip
    *chosen, last = [*[row for row in list(names)[:count] if row != grey], grey, list(names)[-1]]
    for row in (*chosen, last):
        target = folder / names[row]
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((source / names[row]).read_bytes())
    (folder / "testing.txt").write_text("\n".join(chosen) + "\n", "latin1")
    (folder / "training.txt").write_text(last + "\n", "latin1")
    return folder


@pytest.fixture(scope="module")
def record_sets(tmp_path_factory, real_data):
    folder = tmp_path_factory.mktemp("skew")
    options = {"tasks": "attributes:multilabel:Smiling"}
    drawn = awkward_pictures(folder / "drawn")
    sets = [build("manifest", drawn, folder / "drawn-records", **options)]
    if real_data.is_dir():
        faces = real_faces(real_data / "mtfl", folder / "real")
        sets.append(build("mtfl", faces, folder / "real-records"))
    return sets


def settle(model, images):
    """Gives an untrained network the statistics of images, and its heads outputs near one."""
    normalisations = [layer for layer in model.layers if hasattr(layer, "moving_mean")]
    for layer in normalisations:
        layer.momentum = 0.0
    model(images, training=True)
    for task, values in model(images, training=False).items():
        if task != LANDMARKS.name:
            head = model.get_layer(HEAD_PREFIX + task)
            scale = 2 / np.std(values)
            head.kernel.assign(head.kernel * scale)
            head.bias.assign((head.bias - np.mean(values, axis=0)) * scale)


def workdir_of(name, path, images):
    """The workdir of a network that was never trained but distinguishes images."""
    path.mkdir()
    workdir = Workdir(path)
    keras.utils.set_random_seed(1)
    shape = (CROP.height, CROP.width, 3)
    options = {"width": 0.5} if "width" in options_of(MODELS[name]) else {}
    config = Model(name, **options)
    model = build_model(name, TASKS, shape, **options)
    settle(model, images)
    metadata = {"tasks": [task.to_dict() for task in TASKS], "crop": CROP.to_dict(),
                "input_shape": list(shape), "majority": {}, "records": []}  # fmt: skip
    workdir.write_json("config.json", Recipe(name="skew", model=config).to_dict())
    workdir.write_json("metadata.json", metadata)
    workdir.write_json("calibration.json", CALIBRATION)
    workdir.save_model(model)
    return workdir


def networks():
    """All, of which one is enough unless asked for: the graph around them is the same."""
    for name in MODELS:
        often = name == "resnet_small"
        yield pytest.param(name, marks=pytest.mark.slow if often else pytest.mark.thorough)


@pytest.mark.parametrize("name", networks())
def test_export_and_keras_agree_on_records(name, record_sets, tmp_path, monkeypatch):
    # That comparison loads the export once more, and here is a better one.
    monkeypatch.setattr(saved_model, "_check", lambda *_: None)
    images = next(
        iter(evaluation_batches(Source(record_sets[0], "test"), TASKS, View(CROP), batch_size=9))
    )
    workdir = workdir_of(name, tmp_path / "run", images["image"])
    options = export.ExportOptions(warmup=False)
    folder = export.export_model(workdir.path, tmp_path / "models", options=options)
    serve = tf.saved_model.load(str(folder)).signatures["crop"]
    model = workdir.load_model()
    for records in record_sets:
        source = Source(records, "test")
        batches = evaluation_batches(source, TASKS, View(CROP), batch_size=8)
        outputs, _, _, names = predict_outputs(model, batches)
        rows = list(encoded_batches(source, TASKS, batch_size=8))
        assert [n.decode() for row in rows for n in row["filename"].numpy()] == names
        answers = [
            serve(image_bytes=row["image"], box=row["box"], landmarks=row["landmarks"])
            for row in rows
        ]
        served = {key: np.concatenate([a[key] for a in answers]) for key in answers[0]}
        assert served["valid"].all() and len(names) >= 9
        attributes = probabilities(MTFL_ATTRIBUTES, outputs["attributes"], 1.3)
        poses = probabilities(POSE, outputs["pose"], 0.7)
        np.testing.assert_allclose(served["attributes_probability"], attributes, atol=1e-5)
        np.testing.assert_allclose(served["pose_probability"], poses, atol=1e-5)
        thresholds = np.array(CALIBRATION["attributes"]["thresholds"])
        same = served["attributes_label"] == (attributes >= thresholds)
        assert (same | (np.abs(attributes - thresholds) < 1e-5)).all()
        assert (served["pose_label"] == poses.argmax(axis=1)).all()
        assert attributes.std(axis=0).max() > 0.05  # or nothing would have been compared
