"""Asking an export without a server gives what the package itself says."""

import importlib.util
import json

import pytest
from tiny_workdir import draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from export import export_model
from export.commands import batch
from export.description import NO_IMAGE
from export.reload import answer, main
from export.rows import ModelOfRows
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.predict import predict


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("work") / "run", Crop("none", 12, 10))


@pytest.fixture(scope="module")
def model(workdir, tmp_path_factory):
    return str(export_model(workdir.path, tmp_path_factory.mktemp("models")))


def test_answers_equal_the_analyzer(workdir, model, tmp_path, capsys):
    files = []
    for seed in range(2):
        files.append(tmp_path / f"{seed}.jpg")
        files[-1].write_bytes(encode(draw_picture(seed)))
    rows = answer(model, [str(file) for file in files])
    faces = Analyzer.from_workdir(workdir.path).analyze(files)
    for row, face in zip(rows, faces, strict=True):
        said = {name: item.probability for name, item in face.tasks["attributes"].items()}
        assert row["attributes"] == pytest.approx(said, abs=1e-5)
        assert row["pose"] == pytest.approx(face.tasks["pose"].probabilities, abs=1e-5)
    main([model, str(files[0])])
    assert "attributes: " in capsys.readouterr().out


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match="nothing/saved_model.pb: no such file"):
        main([str(tmp_path / "nothing"), "picture.jpg"])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures, the second of which is cut off and the fourth is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(6):
        data = encode(draw_picture(seed))
        data = {1: data[: len(data) // 2], 3: b"no picture"}.get(seed, data)
        (folder / f"{seed}.jpg").write_bytes(data)
    return folder


def test_rows_do_not_depend_on_who_is_beside_them(model, pictures):
    sent = [(file.name, file.read_bytes()) for file in sorted(pictures.iterdir())]
    ask = ModelOfRows(model, batch_size=4)
    rows = ask(sent[:4]) + ask(sent[4:])
    assert [row["file"] for row in rows] == [name for name, _ in sent]
    assert rows[1] == {"file": "1.jpg", "error": NO_IMAGE}
    assert "not an image of a format that is read" in rows[3]["error"]
    assert [row for pair in sent for row in ask([pair])] == rows


def test_rows_are_those_of_predict_to_the_last_digit(workdir, model, tmp_path):
    """In calls of one size: what a row of another one is to the digit, is up to the processor."""
    files = [tmp_path / f"{seed}.jpg" for seed in range(16)]
    for seed, file in enumerate(files):
        file.write_bytes(encode(draw_picture(seed)))
    rows = ModelOfRows(model, 16)([(str(file), file.read_bytes()) for file in files])
    predict(workdir.path, files, output=tmp_path / "said", batch_size=16, annotate=False)
    lines = (tmp_path / "said" / "results.jsonl").read_text().splitlines()
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        tasks = line["tasks"]
        tasks["alignment"] = list(tasks["alignment"]["outline"].values())
        assert {"file": line["filename"], **tasks} == row


ENGINES = {"apache_beam": [], "ray": ["--ray=2"]}
HERE = {package: importlib.util.find_spec(package) is not None for package in ENGINES}


def arguments(package, model, pictures, output):
    return [*ENGINES[package], f"--model={model}", f"--output={output}", str(pictures)]


@pytest.mark.parametrize("package", [name for name in ENGINES if not HERE[name]])
def test_what_to_install_is_one_line(package, model, pictures, tmp_path):
    extra = {"apache_beam": "beam", "ray": "ray"}[package]
    with pytest.raises(UserError, match=f"needs pip install 'faceattr_tf\\[{extra}\\]'"):
        batch.main(arguments(package, model, pictures, tmp_path / "rows"))


@pytest.mark.parametrize("flags", [["--ray=0"], ["--batch_size=0"], ["--ray=2", "--beam=x"]])
def test_numbers_and_engines_are_checked(flags, capsys):
    with pytest.raises(SystemExit):
        batch.main([*flags, "--model=models/faceattr/1", "--output=rows", "photos"])
    assert "whole number from 1 on" in (said := capsys.readouterr().err) or "not allowed" in said


@pytest.mark.parametrize("package", [name for name in ENGINES if HERE[name]])
def test_engines_write_these_rows(package, model, pictures, tmp_path, capsys):
    batch.main(arguments(package, model, pictures, tmp_path / "rows"))
    assert "6 pictures" in capsys.readouterr().out
    files = (tmp_path / "rows").glob("rows*.jsonl")
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ask = ModelOfRows(model, batch_size=32)
    expected = [row for file in pictures.iterdir() for row in ask([(str(file), file.read_bytes())])]
    assert sorted(found, key=lambda row: row["file"]) == sorted(
        expected, key=lambda row: row["file"]
    )
