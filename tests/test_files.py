"""Paths as users write them: `~` is expanded everywhere, addresses are refused before any writing."""

import pathlib

import pytest

from data_pipelines.detection.folder import detect_folder
from data_pipelines.errors import UserError
from data_pipelines.files import local, replacing
from data_pipelines.records.build import build
from data_pipelines.records.inspection import inspect_records
from data_pipelines.synth import layouts


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, and beside it an empty current one, which the test is in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder_and_other_names_stay(home):
    assert local("~/x") == home / "x" and local(pathlib.Path("~/x")) == home / "x"
    for text in ("x/~", "/a/b", "a:b/c", "12:30.jpg", "./gs:/x"):
        assert local(text) == pathlib.Path(text)


@pytest.mark.parametrize("text", ["gs://b/x", "s3://b", "file:///x", "hdfs://h/x", "https://h/x"])
def test_an_address_is_no_path(text):
    for path in (text, pathlib.Path(text)):
        with pytest.raises(UserError, match=f"{text[:2]}.*: is not read or written here; expected"):
            local(path)


def recipe(path="unused"):
    from faceattr_tf.configs import create_recipe

    smoke = create_recipe("smoke")
    smoke.data.records = (path,)
    return smoke


def train(place, records_set):
    from faceattr_tf.training.loop import train_and_evaluate

    train_and_evaluate(recipe(records_set.path), place, progress=False)


def evaluate(place, records_set):
    from faceattr_tf.reports.evaluate import evaluate

    evaluate(place, records_set.path)


def compare(place, records_set):
    from faceattr_tf.reports.comparison.compare import compare

    compare({"a": [place], "b": ["other"]}, records_set.path)


def predict(place, records_set):
    from faceattr_tf.prediction.predict import predict

    predict("workdir", ["~/picture.jpg"], output=place)


def export(place, records_set):
    from export.saved_model import export_model

    export_model("workdir", place)


def deploy(place, records_set):
    from export.deployment import write_deployment

    write_deployment("models", place)


def describe(place, records_set):
    from export.description import read_description

    read_description(place)


def client(place, records_set):
    from export.client import Client

    Client("127.0.0.1:1", certificate=place)


def weights(place, records_set):
    from faceattr_tf.experiment import Experiment

    changed = recipe(records_set.path)
    changed.model.weights = place
    Experiment.of(changed)


def warm_start(place, records_set):
    from faceattr_tf.experiment import Experiment

    changed = recipe(records_set.path)
    changed.warm_start = place
    Experiment.of(changed)


def bottlenecks(place, records_set):
    from faceattr_tf.experiment import Experiment

    changed = recipe(records_set.path)
    changed.data.bottlenecks.folder = place
    Experiment.of(changed)


@pytest.mark.parametrize(
    "enter",
    [
        lambda place, one: build("mtfl", place, "target"),
        lambda place, one: build("mtfl", ".", place),
        lambda place, one: build("mtfl", ".", "target", detections=place),
        lambda place, one: layouts.draw("mtfl", place),
        lambda place, one: detect_folder(place),
        lambda place, one: detect_folder(".", place),
        lambda place, one: inspect_records(place),
        lambda place, one: inspect_records(one, place),
        lambda place, one: replacing(place).__enter__(),
        *(train, evaluate, compare, predict, export, deploy, describe, client),
        *(weights, warm_start, bottlenecks),
    ],
)
def test_no_entry_writes_to_an_address(home, mtfl_records, enter):
    with pytest.raises(UserError, match="gs://bucket/x: gs: is not read or written here"):
        enter("gs://bucket/x", mtfl_records)
    assert not any(pathlib.Path().iterdir()) and not any(home.iterdir())


def test_what_is_written_below_a_tilde_lies_in_the_home_folder(home, mtfl_records):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.workdir import Workdir

    layouts.draw("mtfl", "~/drawn", images=12, size=(40, 40))
    built = build("mtfl", "~/drawn", "~/records")
    inspect_records("~/records", "~/sheet.png", count=2)
    assert {path.name for path in home.iterdir()} == {"drawn", "records", "sheet.png"}
    assert built.path == str(home / "records") and Workdir("~/w").path == home / "w"
    begun = recipe("~/records")
    begun.model.weights, begun.warm_start = "~/weights.h5", "before"
    found = Experiment.of(begun).recipe
    assert found.data.records == (built.path,)
    assert found.model.weights == str(home / "weights.h5")
    assert found.warm_start == str(pathlib.Path("before").absolute())
    begun.warm_start = begun.distillation.teachers = "before,~/after"
    expected = str(pathlib.Path("before").absolute()), str(pathlib.Path("~/after").expanduser())
    resolved = Experiment.of(begun).recipe
    assert resolved.warm_starts == resolved.teachers == expected
    assert not any(pathlib.Path().iterdir())
