"""A workdir with a tiny untrained model of every kind of task, made in a second."""

import cv2
import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task

AGE = Task("age", "regression", ("years",))
RANGE = Task("range", "multiclass", ("young", "grown", "old"), values=(9.0, 30.0, 70.0))
EMOTION = Task("emotion", "distribution", ("happy", "sad"))
TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS, AGE, ALIGNMENT, RANGE, EMOTION)
CALIBRATION = {
    "attributes": {"temperature": 2.0, "thresholds": [0.1, 0.5, 0.9]},
    "pose": {"temperature": 0.5, "thresholds": []},
}
IMPOSSIBLE = [
    {"answers": {"Male": True, "Eyeglasses": False}, "observed": 0, "expected": 20.0},
    {"answers": {"Male": True, "Smiling": True}, "observed": 1, "expected": 40.0},
]
"""Pairs of answers of which the model gives one for nearly every picture."""


def build_model(crop: Crop):
    """A small network with batch normalisation, its weights drawn once for all."""
    import keras

    from faceattr_tf.models.heads import HEAD_PREFIX

    keras.utils.set_random_seed(7)
    inputs = keras.Input((crop.height, crop.width, 3), name="image")
    features = keras.layers.Rescaling(1 / 128, offset=-1)(inputs)
    features = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(features)
    features = keras.layers.BatchNormalization()(features)
    features = keras.layers.Dropout(0.5)(keras.layers.Flatten()(features))
    outputs = {}
    for task in TASKS:
        output = keras.layers.Dense(task.output_size, name=HEAD_PREFIX + task.name)(features)
        if task.kind in ("landmarks", "transform"):
            output = keras.layers.Reshape(task.label_shape)(output)
        outputs[task.name] = output
    return keras.Model(inputs, outputs)


FRAMING = {
    "margin": 0.3, "vertical": -0.1, "pictures": 9, "faces": 8, "spread": 1.2, "source": "records",
}  # fmt: skip
"""Of a run on whole pictures that knows how these frame a face."""


def make_workdir(path, crop: Crop, framing: dict | None = None):
    """The workdir `path` of a finished run."""
    from faceattr_tf.configs.base import Data, Recipe
    from faceattr_tf.workdir import Workdir

    path.mkdir(parents=True)
    workdir = Workdir(path)
    metadata = {
        "tasks": [task.to_dict() for task in TASKS],
        "crop": crop.to_dict(),
        "input_shape": [crop.height, crop.width, 3],
        "majority": {},
        "impossible": {"attributes": IMPOSSIBLE},
        "framing": framing,
        "records": [{"path": "/secret/place", "name": "drawn", "licence": "none"}],
    }
    workdir.write_json("config.json", Recipe(name="tiny", data=Data(crop=crop)).to_dict())
    workdir.write_json("metadata.json", metadata)
    workdir.write_json("calibration.json", CALIBRATION)
    workdir.write_validation({task.name: _answered(task) for task in (*TASKS[:2], *TASKS[5:])})
    workdir.save_model(build_model(crop))
    return workdir


def _answered(task: Task, count: int = 60):
    """Labels and outputs of a model that is worth something."""
    random = np.random.default_rng(3)
    outputs = random.normal(size=(count, len(task.labels)))
    noisy = outputs + random.normal(size=outputs.shape)
    if task.kind == "multilabel":
        return (noisy > 0).astype(int), outputs
    labels = noisy.argmax(axis=1)
    return np.eye(len(task.labels))[labels] if task.kind == "distribution" else labels, outputs


def draw_picture(seed: int, height: int = 60, width: int = 48) -> np.ndarray:
    """Smooth uint8 RGB noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(pixels: np.ndarray, ending: str = ".jpg") -> bytes:
    """The bytes of an image file."""
    return cv2.imencode(ending, pixels[..., ::-1])[1].tobytes()
