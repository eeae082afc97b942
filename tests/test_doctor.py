"""The page of the doctor: what it says of this machine, and what it would say of others."""

import pytest

from faceattr_tf import doctor
from faceattr_tf.commands import doctor as command
from faceattr_tf.precision import resolve


def test_the_page_names_what_decides_a_run(capsys):
    command.main([])
    page = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert page["tensorflow"].startswith("2.") and page["keras"].startswith("3.")
    assert page["precision=auto"] == "{}, since {}".format(*resolve("auto"))
    assert page["processor"] and page["GPU"]
    assert {"Keras", "free,", "extra"} <= page.keys()


@pytest.mark.parametrize(
    ("built", "environment", "driver", "words"),
    [
        (False, {}, True, "built without support for GPUs"),
        (True, {"CUDA_VISIBLE_DEVICES": "-1"}, True, "CUDA_VISIBLE_DEVICES=-1 hides them"),
        (True, {"CUDA_VISIBLE_DEVICES": ""}, True, "hides them"),
        (True, {"CUDA_VISIBLE_DEVICES": "0"}, False, "no driver of NVIDIA is loaded"),
        (True, {}, True, r"tensorflow\[and-cuda\]"),
    ],
)
def test_why_a_gpu_is_not_used(tmp_path, built, environment, driver, words):
    if driver:
        (tmp_path / "version").write_text("NVRM")
    import re

    assert re.search(words, doctor.why_no_gpu(built, environment, str(tmp_path / "version")))


def test_extras_are_those_of_the_packages_own_metadata():
    requirements = [
        "numpy<3,>=2",
        'pytest>=9; extra == "test"',
        "no-such-package>=1; extra == 'rare'",
        'absl-py; extra == "rare"',
    ]
    found = dict(doctor.extras(requirements))
    assert found == {
        "extra test": "complete",
        "extra rare": "missing no-such-package: pip install 'faceattr_tf[rare]'",
    }
    assert {"extra serving", "extra test"} <= dict(doctor.extras()).keys()


def test_where_keras_was_told_its_data_format(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    (tmp_path / "keras.json").write_text('{"image_data_format": "channels_last"}')
    found = dict(doctor._keras())
    assert found["Keras backend"] == "tensorflow (KERAS_BACKEND)"
    assert found["image data format"] == f"channels_last ({tmp_path / 'keras.json'})"
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "none"))
    found = dict(doctor._keras())
    assert found["Keras backend"] == "torch (KERAS_BACKEND); commands take tensorflow instead"
    assert found["image data format"] == "channels_last (default)"
