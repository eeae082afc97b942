"""Answers that are unsure: the promised share of wrong ones, in arrays, graphs, rows and exports."""

import json
import types

import numpy as np
import pytest
from scipy import special
from tiny_workdir import TASKS, draw_picture, encode, make_workdir

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES, POSE
from export.description import describe, described_tasks, named, summary
from export.examples import task_answers
from export.saved_model import ExportOptions
from export.signatures import device_function
from faceattr_tf import Analyzer
from faceattr_tf.commands import predict as command
from faceattr_tf.evaluation.conformal import (
    UNSURE,
    UNSURE_INDEX,
    Risk,
    least_probabilities,
    measure_unsure,
    possible_answers,
    unsure_answers,
)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return make_workdir(tmp_path_factory.mktemp("unsure") / "run", Crop("none", 12, 10))


def drawn(task, count, random):
    """Labels and outputs of a model whose probabilities are wrong, and rare answers."""
    latent = random.normal(size=(count, len(task.labels)))
    outputs = 3 * latent + random.normal(size=latent.shape)
    rare = np.linspace(0, 1.5, len(task.labels))
    if task.kind == "multilabel":
        noise = random.logistic(size=latent.shape)
        return (latent + noise > rare).astype(int), outputs
    return (latent + random.gumbel(size=latent.shape) - rare).argmax(axis=1), outputs


def scores_of(task, outputs):
    if task.kind == "multilabel":
        return special.expit(outputs)
    return special.softmax(outputs, axis=1)


@pytest.mark.parametrize("task", [MTFL_ATTRIBUTES, POSE])
@pytest.mark.parametrize("overall", [False, True])
def test_the_right_answer_is_ruled_out_as_often_as_the_risk_says(task, overall):
    random, risk = np.random.default_rng(0), Risk(0.1, overall)
    rates, wrong = [], []
    for _ in range(60):
        labels, outputs = drawn(task, 1200, random)
        scores = scores_of(task, outputs)
        least = least_probabilities(task, labels[:600], scores[:600], risk)
        thresholds = (0.5,) * len(task.labels)
        result = types.SimpleNamespace(
            task=task, labels=labels[600:], scores=scores[600:], thresholds=thresholds
        )
        found = measure_unsure(result, str(risk), dict(zip(task.labels, least, strict=True)))
        answers = found["answers"].values()
        rates.append([1 - row["possible"] for row in answers])
        wrong.append([row["wrong"] for row in answers])
        if overall:
            counts = [row["count"] for row in answers]
            labelled = len(task.labels) if task.kind == "multilabel" else 1
            rates[-1] = np.dot(rates[-1], counts) / (600 * labelled)
            wrong[-1] = [row["wrong"] for row in found["labels"].values()]
    np.testing.assert_allclose(np.mean(rates, axis=0), 0.1, atol=0.012)
    assert (np.mean(wrong, axis=0) <= 0.112).all()
    assert 0 < found["mean"]["labels"]["unsure"] < 1
    assert found["mean"]["labels"]["accuracy_answered"] > found["mean"]["labels"]["accuracy"]


def test_the_least_probability_is_the_one_that_a_next_image_falls_below_by_that_risk():
    labels, scores = np.array([[1]] * 19 + [[0]] * 40), np.linspace(0.01, 0.59, 59)[:, None]
    smiling = MTFL_ATTRIBUTES.select(["Smiling"])
    (no, yes), = least_probabilities(smiling, labels, scores, Risk(0.05))  # fmt: skip
    # Of 20 with the next one, 1 may be below: that with the lowest. Of 41 without it, 2.
    assert yes == pytest.approx(0.01) and no == pytest.approx(1 - 0.58)
    with pytest.raises(UserError, match="'attributes' has 19 validation images with Smiling, and"):
        least_probabilities(smiling, labels, scores, Risk(0.049))
    assert least_probabilities(smiling, labels, scores, Risk(0.02, overall=True)).shape == (1, 2)


def test_the_answer_that_is_given_anyway_is_never_ruled_out():
    least, likely = [0.9, 0.2, 0.9, 0.9, 0.9], np.array([[0.1, 0.1, 0.6, 0.1, 0.1]])
    assert not unsure_answers(POSE, likely, np.array([2]), least)
    assert unsure_answers(POSE, likely, np.array([2]), [0.9, 0.1, 0.9, 0.9, 0.9])
    label = MTFL_ATTRIBUTES.select(["Male"])
    value = np.array([[0.4]])
    assert [of.item() for of in possible_answers(label, value, [[0.5, 0.3]])] == [True, True]
    assert unsure_answers(label, value, value > 0.5, [[0.5, 0.3]])
    assert not unsure_answers(label, value, value > 0.5, [[0.9, 0.9]])
    assert not unsure_answers(label, value, value > 0.5, [[0.5, 0.41]])


def test_a_graph_says_unsure_where_arrays_do(workdir):
    crops = np.random.default_rng(1).uniform(0, 255, (40, 12, 10, 3)).astype("f4")
    model, unsure = workdir.load_model(), []
    for consistent in (False, True):
        options = ExportOptions(consistent=consistent, unsure="0.2,overall")
        description = describe(workdir, model, options)
        tasks = described_tasks(workdir, description)
        found = device_function(model, tasks, workdir.crop, description["tasks"])(crops)
        nowhere = np.zeros([40, 2, 3], "f4")
        expected = task_answers(model(crops, training=False), nowhere, workdir, description)
        for name in (name for name in expected if name.endswith("_label")):
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
            unsure.append((expected[name] == UNSURE_INDEX).mean())
    assert 0 < np.mean(unsure) < 1
    meaning = description["signatures"]["serving_default"]["outputs"]["pose_label"]["meaning"]
    assert meaning == "index of the class, -2 unsure; -1 where not valid"


def test_rows_say_unsure_and_a_client_the_same(workdir, tmp_path, capsys):
    photos = [tmp_path / f"{seed}.png" for seed in range(6)]
    for seed, photo in enumerate(photos):
        photo.write_bytes(encode(draw_picture(seed), ".png"))
    command.main([f"--workdir={workdir.path}", "--unsure=0.2,overall", *map(str, photos)])
    rows = [json.loads(line)["tasks"] for line in capsys.readouterr().out.splitlines()]
    analyzer = Analyzer.from_workdir(workdir.path, unsure="0.2,overall")
    faces = analyzer.analyze(photos)
    assert rows == [json.loads(json.dumps(face.to_dict()))["tasks"] for face in faces]
    said = {one["label"] for row in rows for one in row["attributes"].values()}
    assert UNSURE in said and said & {True, False}
    assert UNSURE in {row["pose"]["label"] for row in rows}
    description = describe(workdir, analyzer.model, ExportOptions(unsure="0.2,overall"))
    raw = {name: values[:1] for name, values in analyzer.outputs(photos).items()}
    answer = task_answers(raw, np.zeros([1, 2, 3], "f4"), workdir, description)
    answer = named({name: values[0] for name, values in answer.items()}, description)
    labels = {name: one["label"] for name, one in answer["attributes"].items()}
    assert labels == {name: one["label"] for name, one in rows[0]["attributes"].items()}
    assert answer["pose"]["label"] == rows[0]["pose"]["label"]
    assert ("?" in summary(answer)) == (UNSURE in labels.values())
    assert UNSURE in "".join(map(str, faces))


@pytest.mark.parametrize("value", ["1.5", "0", "half"])
def test_a_risk_that_is_none_is_one_line(workdir, value):
    with pytest.raises(UserError, match="expected the share of answers that may be wrong"):
        Analyzer.from_workdir(workdir.path, unsure=value)


def test_a_workdir_without_validation_images_says_so(workdir, tmp_path):
    with pytest.raises(UserError, match="no such task hair .* there are: attributes, pose, range"):
        Analyzer.from_workdir(workdir.path, unsure="0.2,hair")
    one = Analyzer.from_workdir(workdir.path, unsure="0.2,overall,pose").calibration
    assert "least" in one["pose"] and "least" not in one["attributes"]
    with pytest.raises(UserError, match=r"task .* has \d+ validation images"):
        Analyzer.from_workdir(workdir.path, unsure=0.02)
    (workdir.path / "validation.npz").rename(tmp_path / "aside.npz")
    try:
        with pytest.raises(
            UserError, match="chosen on the run's validation images, and its records hold"
        ):
            Analyzer.from_workdir(workdir.path, unsure=0.2)
    finally:
        (tmp_path / "aside.npz").rename(workdir.path / "validation.npz")
    assert {task.name for task in TASKS[:2]} <= workdir.validation().keys()
