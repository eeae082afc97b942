"""faceattr-verify: pairs by the protocol of LFW, as page, figures and table; and two pictures."""

import json
import subprocess
import sys

import numpy as np
import pytest
from untrained_run import make_run

from data_pipelines.errors import UserError
from data_pipelines.formats.pairs import read_pairs
from faceattr_tf.commands import verify as command
from faceattr_tf.evaluation.verification import best_threshold, cosines, verify
from faceattr_tf.features.frozen import FrozenNetwork
from faceattr_tf.prediction import comparison
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Face
from faceattr_tf.reports.verification import verify_pairs

OPTIONS = {"flip": True, "centre": True, "progress": False}


@pytest.fixture(scope="module")
def run(tmp_path_factory, lfw_records):
    folder = tmp_path_factory.mktemp("verify")
    return make_run(folder / "run", records=lfw_records, features=folder / "features")


@pytest.fixture(scope="module")
def pairs(lfw_tree):
    return read_pairs(lfw_tree / "pairs.txt")


@pytest.fixture(scope="module")
def measured(run, lfw_records, pairs):
    options = {"layers": ("pool3", "shared"), "pixels": True, **OPTIONS}
    return verify_pairs(run, lfw_records.path, pairs.path, **options)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command; its status, output and errors."""

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["faceattr-verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            command.run()
        return (ended.value.code, *capsys.readouterr())

    return called


def test_stages_and_pixels_are_measured_by_the_protocol(measured, run, lfw_records, pairs):
    frozen = FrozenNetwork.of_workdir(run, lfw_records, ("pool3", "shared"))
    features = frozen.features(flip=True, progress=False)
    rows = pairs.rows(frozen.filenames())
    assert list(measured["stages"]) == ["pool3", "shared", "pixels"]
    features["pixels"] = frozen.pixels(np.arange(40), flip=True, progress=False)
    for name, values in features.items():
        stage = measured["stages"][name]
        figures = verify(values, rows, pairs.same, pairs.folds, centre=True).figures()
        assert {key: stage[key] for key in figures} == figures
        assert stage["width"] == values.shape[1]
    mean = features["shared"][np.unique(rows)].mean(axis=0, dtype=float)
    np.testing.assert_allclose(measured["stages"]["shared"]["mean"], mean)
    assert measured["stages"]["shared"]["threshold"] == best_threshold(
        cosines(features["shared"], rows, mean), pairs.same
    )
    assert measured["pairs"]["people"] > measured["pairs"]["folds"] > 2
    assert measured["pairs"]["people_in_several_folds"] == 0


def test_figures_and_page_lie_in_the_workdir(measured, run):
    stored = run.verification()
    assert stored["stages"]["pool3"]["accuracy"] == measured["stages"]["pool3"]["accuracy"]
    page = (run.path / "verification/verification.html").read_text()
    assert page.count("data:image/svg") == 2
    for text in ("pool3", "pixels", "chance", "a picture and its mirror image", "TPR at FPR 0.1%"):
        assert text in page


def test_two_pictures_are_compared_as_the_pairs_were(measured, run, lfw_tree, pairs, call):
    names = pairs.images[1]
    pictures = [lfw_tree / f"lfw/{name}.jpg" for name in names]
    frozen = FrozenNetwork.of_workdir(run, _records(measured), ("shared",))
    features = frozen.features(flip=True, progress=False)["shared"]
    stage = measured["stages"]["shared"]
    (score,) = cosines(features, pairs.rows(frozen.filenames())[1:2], np.array(stage["mean"]))
    found = comparison.compare(run.path, pictures, layer="shared")
    assert found.score == pytest.approx(score, abs=1e-4)
    assert found.same == (found.score >= stage["threshold"])
    status, out, err = call(f"--workdir={run.path}", "--layers=shared", *pictures)
    assert status == 0 and "warning: the model was trained on faces cropped by box" in err
    assert f"cosine {found.score:.4f} at shared" in out
    assert ("one person" if found.same else "two people") + ": the threshold is" in out
    assert f"{stage['false_same']:.1%}".replace("%", " % of two people passed as one") in out
    status, _, err = call(f"--workdir={run.path}", *pictures)
    assert status == 1 and "expected --layers=STAGE, one of pool3, shared" in err


def _records(measured):
    from data_pipelines.records.record_set import RecordSet

    return RecordSet.load(measured["records"]["path"])


def test_without_a_threshold_the_score_is_told_alone(measured, run, lfw_tree, pairs, call):
    pictures = [lfw_tree / f"lfw/{name}.jpg" for name in pairs.images[0]]
    status, out, _ = call(f"--workdir={run.path}", "--layers=pool2", *pictures)
    assert status == 0 and "no threshold: pairs were not judged by pool2, but by pool3, sh" in out
    model = run.load_model()
    model.layers[-1].bias.assign_add([1.0])
    kept = (run.path / "model.keras").read_bytes()
    run.save_model(model)
    status, out, _ = call(f"--workdir={run.path}", "--layers=shared", *pictures)
    (run.path / "model.keras").write_bytes(kept)
    assert status == 0 and "no threshold: pairs were judged before the model was trained on" in out


def test_the_largest_faces_are_compared_and_a_picture_without_one_is_refused(
    run, lfw_tree, pairs, monkeypatch, capsys
):
    pictures = [lfw_tree / f"lfw/{name}.jpg" for name in pairs.images[0]]
    boxes = ((4.0, 5.0, 30.0, 32.0), (10.0, 8.0, 25.0, 24.0))
    faces = [[Face("", box, None, 1.0, {}), Face("", boxes[0], None, 0.5, {})] for box in boxes]
    monkeypatch.setattr(Analyzer, "analyze", lambda self, images, detect: faces)
    found = comparison.compare(run.path, pictures, layer="pool2", detect=True)
    analyzer = Analyzer(comparison_network(run), (), run.crop)
    features = analyzer.outputs(pictures, box=np.array(boxes))["features"]
    assert found.score == pytest.approx(cosines(features, np.array([[0, 1]]))[0])
    assert f"{pictures[0]}: 2 faces, the largest is taken" in capsys.readouterr().err
    faces[1] = []
    with pytest.raises(UserError, match=f"{pictures[1]}: no face found"):
        comparison.compare(run.path, pictures, layer="pool2", detect=True)


def comparison_network(run):
    from faceattr_tf.models.create import feature_network

    return feature_network(run.load_model(), "pool2")


def test_a_recipe_is_measured_on_development_pairs(run, lfw_records, lfw_tree, call, tmp_path):
    output = tmp_path / "page"
    status, out, err = call(
        "--config=tcdcn_mtfl",
        "--config.model.width=0.25",
        "--config.data.crop.kind=none",
        f"--config.data.bottlenecks.folder={tmp_path}",
        f"--records={lfw_records.path}",
        f"--pairs={lfw_tree}/pairsDevTest.txt",
        f"--development={lfw_tree}/pairsDevTrain.txt",
        f"--output={output}",
        "--noprogress",
    )
    assert status == 0 and "tcdcn_mtfl tells people apart, on" in out and "chance" in out
    assert "what a recipe's weights saw is not known" in err
    contents = json.loads((output / "verification.json").read_text())
    (stage,) = contents["stages"].values()
    assert stage["thresholds"] == [stage["threshold"]]  # the development pairs' for others, too
    assert stage["standard_error"] is None and contents["workdir"] is None
    assert contents["development"]["path"].endswith("pairsDevTrain.txt")


def test_mistakes_are_one_line(run, lfw_records, lfw_tree, call, tmp_path):
    def mistake(*arguments):
        status, _, err = call(*arguments)
        assert status == 1
        (line,) = err.splitlines()
        return line

    workdir, records = f"--workdir={run.path}", f"--records={lfw_records.path}"
    few = tmp_path / "pairs.txt"
    few.write_text("1\nA\t1\t2\nA\t1\tB\t1\n")
    assert "expected --workdir=RUN, or --config=RECIPE" in mistake(records)
    assert "expected either --workdir" in mistake(workdir, "--config=demo")
    assert "expected either --workdir" in mistake("--config.model.name=tcdcn")
    assert "expected --records=FOLDER and --pairs=FILE" in mistake(workdir, records)
    assert "a single fold; expected --development" in mistake(workdir, records, f"--pairs={few}")
    few.write_text("2\t1\n" + 2 * "A\t1\t2\nA\t1\tB\t1\n")
    assert "3 of 3 images, of 4 pairs, are" in mistake(workdir, records, f"--pairs={few}")
    pairs = f"--pairs={lfw_tree}/pairs.txt"
    assert "layer 'mixed' ends no stage" in mistake(workdir, records, pairs, "--layers=mixed")
    assert "--detect belongs to two pictures" in mistake(workdir, records, pairs, "--detect")
    assert "1 pictures: expected two" in mistake(workdir, "a.jpg")
    assert "--flip belongs to --pairs" in mistake(workdir, "--flip", "a.jpg", "b.jpg")
    assert "expected --workdir=RUN, and no more" in mistake("a.jpg", "b.jpg")
    assert mistake(workdir, "a.jpg", "b.jpg").endswith("error: a.jpg: no such file")
    assert "workdir none does not exist" in mistake("--workdir=none", "a.jpg", "b.jpg")


def test_features_that_are_not_finite_are_refused(run, lfw_records, pairs, monkeypatch):
    features = {"shared": np.full((40, 3), np.nan, np.float32)}
    monkeypatch.setattr(FrozenNetwork, "features", lambda self, **options: features)
    with pytest.raises(UserError, match="shared: the features of 40 images, such as .*jpg, are"):
        verify_pairs(run, lfw_records.path, pairs.path)


def test_help_and_mistakes_of_paths_need_no_tensorflow(lfw_records, tmp_path):
    code = (
        "import sys; from faceattr_tf.commands import verify\n"
        "for arguments in (['--help'], ['--config=demo', '--records=%s', '--pairs=none.txt']):\n"
        "    sys.argv = ['faceattr-verify', *arguments]\n"
        "    try: verify.run()\n"
        "    except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code % lfw_records.path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "0 False" in lines and "1 False" in lines and "--development" in done.stdout
    assert done.stderr == (
        "faceattr-verify: error: none.txt: these pairs cannot be read (No such file or directory)\n"
    )
