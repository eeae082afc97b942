"""Asking an export without this package gives what the package itself says."""

import pytest
from tiny_workdir import draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from export import export_model
from export.reload import answer, main
from faceattr_tf.prediction.analyzer import Analyzer


def test_answers_equal_the_analyzer(tmp_path, capsys):
    workdir = make_workdir(tmp_path / "run", Crop("none", 12, 10))
    model = str(export_model(workdir.path, tmp_path / "models"))
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
