"""Keras as it is needed, whatever its settings file and the environment ask for."""

import json
import os
import subprocess
import sys

import keras
import pytest

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import (
    NEEDED,
    check_keras,
    configured,
    prepare_keras,
    without_keras,
)
from data_pipelines.tasks import MTFL_ATTRIBUTES
from faceattr_tf import Analyzer, Workdir, build_model


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes `keras.json`; the process's own settings come back afterwards."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "")

    def write(**values):
        (tmp_path / "keras.json").write_text(json.dumps(values))
        return tmp_path / "keras.json"

    yield write
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


def test_commands_say_what_they_set(settings, capsys):
    keras.config.set_image_data_format("channels_first")
    keras.config.set_floatx("float64")
    file = settings(image_data_format="channels_first", floatx="float64", backend="torch")
    prepare_keras()
    assert os.environ["KERAS_BACKEND"] == "tensorflow"
    check_keras()
    assert capsys.readouterr().err == (
        "Keras runs with tensorflow, channels_last, float32 instead of "
        f"torch of {file}, channels_first of {file}, float64 of {file}\n"
    )


def test_commands_are_silent_where_nothing_is_set(settings, capsys):
    prepare_keras()
    settings(**NEEDED)
    prepare_keras()
    assert capsys.readouterr().err == ""
    assert configured().keys() == NEEDED.keys()


def test_the_environment_counts_more_than_the_file(settings, monkeypatch):
    settings(backend="torch")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert configured()["backend"] == ("jax", "KERAS_BACKEND")


def test_python_is_told_of_channels_first(settings, tmp_path):
    keras.config.set_image_data_format("channels_first")
    words = "image_data_format is channels_first; expected channels_last"
    with pytest.raises(UserError, match=words):
        build_model("resnet_small", (MTFL_ATTRIBUTES,), (32, 32, 3))
    with pytest.raises(UserError, match=words):
        Analyzer(None, (MTFL_ATTRIBUTES,), None)
    with pytest.raises(UserError, match=words):
        Workdir(tmp_path).load_model()


def test_python_is_told_of_another_backend(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UserError, match="backend is torch; expected tensorflow"):
        Workdir(tmp_path).load_model()


@pytest.mark.slow
def test_a_command_computes_the_same_under_other_settings(tmp_path):
    program = """
import sys
from data_pipelines.keras_settings import check_keras, prepare_keras
assert not {"keras", "tensorflow"} & set(sys.modules)
prepare_keras()
check_keras()
import keras, numpy as np
layer = keras.layers.Conv2D(3, 2, kernel_initializer="ones")
print(layer(np.ones((1, 4, 5, 2), "float32")).shape, keras.backend.backend())
"""
    (tmp_path / "keras.json").write_text('{"backend": "x", "image_data_format": "channels_first"}')
    environment = os.environ | {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "(1, 3, 4, 3) tensorflow\n"
    assert "channels_last instead of torch of KERAS_BACKEND, channels_first of" in done.stderr


def test_keras_is_left_out_for_a_while(monkeypatch):
    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    with without_keras():
        assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")  # a user's own
    with without_keras():
        assert os.environ["TF_USE_LEGACY_KERAS"] == "0"
