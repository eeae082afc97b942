"""Asking an export without a server gives what the package itself says."""

import importlib.util
import json

import pytest
from tiny_workdir import draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from export import export_model
from export.commands import batch
from export.description import NO_IMAGE
from export.reload import answer, main
from export.rows import ModelOfRows
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.predict import predict

HERE = importlib.util.find_spec("apache_beam") is not None


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


def test_rows_are_those_of_predict_to_the_last_digit(workdir, model, pictures, tmp_path):
    """Of a whole call, and of a picture that is asked by itself, beside damaged ones."""
    sent = [(str(file), file.read_bytes()) for file in pictures.iterdir()]
    rows = {row.pop("file"): row for pair in sent for row in ModelOfRows(model, 16)([pair])}
    files = [str(pictures / f"{seed}.jpg") for seed in (0, 2, 4, 5, 1, 3)]
    predict(workdir.path, files, output=tmp_path, batch_size=3, annotate=False)
    lines = map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())
    said = {line["filename"]: line["tasks"] for line in lines}
    assert list(said) == files[:4]
    for name, tasks in said.items():
        tasks["alignment"] = list(tasks["alignment"]["outline"].values())
        assert tasks == rows[name]


@pytest.mark.skipif(HERE, reason="Apache Beam is installed")
def test_what_to_install_is_one_line(model, pictures, tmp_path):
    with pytest.raises(Exception, match="faceattr-batch needs pip install 'faceattr_tf\\[beam\\]'"):
        batch.main([f"--model={model}", f"--output={tmp_path / 'rows'}", str(pictures)])


@pytest.mark.skipif(not HERE, reason="Apache Beam is not installed")
def test_beam_writes_these_rows(model, pictures, tmp_path, capsys):
    batch.main([f"--model={model}", f"--output={tmp_path / 'rows'}", str(pictures)])
    assert "6 pictures" in capsys.readouterr().out
    files = (tmp_path / "rows").glob("rows-*.jsonl")
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    ask = ModelOfRows(model, batch_size=32)
    expected = [row for file in pictures.iterdir() for row in ask([(str(file), file.read_bytes())])]
    assert sorted(found, key=lambda row: row["file"]) == sorted(
        expected, key=lambda row: row["file"]
    )
