"""What has to hold before an export gets its place."""

import contextlib
import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
from typing import ClassVar

import numpy as np
import pytest
from tiny_workdir import draw_picture, encode

import export
from data_pipelines.errors import UserError
from export import check, saved_model, scores
from export.check import Check
from export.commands.export import main
from export.examples import Examples
from export.standalone import main as main_of_program
from faceattr_tf.evaluation.slices import Slicing


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The answers that the program gave: a folder, where they are named by what was asked."""
    return tmp_path_factory.mktemp("answered")


@pytest.fixture
def one_process(monkeypatch, answered):
    """The program runs here, where TensorFlow is loaded already, and asks no model anything twice."""

    def run(command, **options):
        model, questions, answers = map(pathlib.Path, command[3:])
        asked = hashlib.sha256()
        for file in sorted(
            [*model.rglob("saved_model.pb"), *model.rglob("variables.*"), questions]
        ):
            asked.update(file.read_bytes())
        kept = answered / f"{asked.hexdigest()}.npz"
        if not kept.exists():
            main_of_program(*map(str, (model, questions, answers)))
            shutil.copy(answers, kept)
        shutil.copy(kept, answers)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(check.subprocess, "run", run)


OPTIONS = export.ExportOptions(batch_sizes=(1, 2), warmup=False)


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    """What an export of `workdir` writes, made once."""
    return export.export_model(workdir.path, tmp_path_factory.mktemp("exported"), options=OPTIONS)


@pytest.fixture
def saved_already(exported, monkeypatch):
    """The SavedModel is copied instead of traced anew: the check is what is tested."""
    extras = shutil.ignore_patterns("assets.extra")
    monkeypatch.setattr(
        saved_model, "_save", lambda *args: shutil.copytree(exported, args[-1], ignore=extras)
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        picture = draw_picture(seed, 50 + 9 * seed, 48)
        (folder / f"{seed}.jpg").write_bytes(encode(picture))
    (folder / "cut.jpg").write_bytes((folder / "0.jpg").read_bytes()[:300])
    return folder


def test_an_export_that_agrees_is_published_with_its_figures(workdir, photos, tmp_path, capsys):
    main(
        [f"--workdir={workdir.path}", f"--output={tmp_path}", "--check", f"--images={photos}",
         "--batch_sizes=1,2", "--no_warmup", "--consistent", "--unsure=0.2,overall"]
    )  # fmt: skip
    output = capsys.readouterr()
    assert output.err == f"{photos / 'cut.jpg'}: left out, it cannot be decoded\n"
    lines = output.out.splitlines()
    assert lines[0].split() == [
        *("Signature", "images", "not", "valid", "largest", "difference", "labels", "changed")
    ]
    for line, name in zip(
        lines[1:5], ("serving_default", "pixels", "crop", "features"), strict=True
    ):
        found, images, invalid, largest, changed, *_ = line.split()
        assert (found, images, invalid, changed) == (name, "3", "0", "0")
        assert float(largest) < 1e-5
    assert lines[5].split() == ["Milliseconds", "batch", "1", "batch", "2"]
    assert all(float(figure) > 0 for line in lines[6:10] for figure in line.split()[1:])
    assert (tmp_path / "faceattr" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda answers: answers + 0.01, "signature crop differs from the workdir's by 0.01"),
        (lambda answers: answers * np.nan, "signature crop differs from the workdir's by inf"),
    ],
)
def test_an_export_that_differs_is_not_published(
    one_process, saved_already, workdir, photos, tmp_path, monkeypatch, change, message
):
    def wrong(*args):
        found = real(*args)
        key = "answer/crop/attributes_probability"
        return found | {key: change(found[key]).astype(np.float32)}

    real = check.ask
    monkeypatch.setattr(check, "ask", wrong)
    with pytest.raises(UserError, match=message):
        export.export_model(
            workdir.path, tmp_path / "new", options=OPTIONS, check=Check(str(photos))
        )
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_leaves_impossible_answers_is_not_published_as_consistent(
    one_process, saved_already, workdir, photos, tmp_path
):
    options = dataclasses.replace(OPTIONS, consistent=True)
    with pytest.raises(UserError, match="signature serving_default changes 3 of 18 labels"):
        export.export_model(workdir.path, tmp_path, options=options, check=Check(str(photos)))
    assert list(tmp_path.iterdir()) == []


def test_changed_labels_are_counted_but_not_at_the_threshold():
    description = {
        "tasks": [{"outputs": {"probability": "p_probability", "label": "p_label"},
                   "thresholds": [0.5, 0.5]}]
    }  # fmt: skip
    expected = {
        "crop": {
            "p_probability": np.array([[0.2, 0.500001], [0.9, 0.1]]),
            "p_label": np.array([[0, 1], [1, 0]]),
        }
    }
    answers = {
        "answer/crop/p_probability": expected["crop"]["p_probability"],
        "answer/crop/p_label": np.array([[0, 0], [1, 0]]),
        "answer/crop/valid": np.array([True, True]),
    }
    (result,) = check.differences(answers, expected, description)
    assert (result.labels, result.changed) == (4, 0)
    answers["answer/crop/p_label"] = np.array([[1, 0], [1, 0]])
    (result,) = check.differences(answers, expected, description)
    assert result.changed == 1
    with pytest.raises(UserError, match="changes 1 of 4 labels"):
        check.refuse_if_different([result], 1e-4, 0.0)
    check.refuse_if_different([result], 1e-4, 0.3)


def test_a_worse_version_does_not_replace_a_better_one(
    one_process, saved_already, workdir, mtfl_records, tmp_path, monkeypatch, capsys
):
    asked = Check(records=mtfl_records.path, margin=1.0)
    first = export.export_model(workdir.path, tmp_path, options=OPTIONS, check=asked)
    said = capsys.readouterr().out
    assert "mean balanced accuracy" in said and "replace" not in said

    def better_before(answers, examples, description):
        nonlocal calls
        calls += 1
        return {"Male": 0.9 if calls == 2 else 0.8}

    calls = 0
    monkeypatch.setattr(check, "scores", better_before)
    with pytest.raises(UserError, match=r"is 80.00 %, .* replace 90.00 % \(margin 1 points\)"):
        export.export_model(workdir.path, tmp_path, options=OPTIONS, check=asked)
    assert "version 1, which it would replace" in capsys.readouterr().out
    assert [path.name for path in first.parent.iterdir()] == ["1"]
    check.refuse_if_worse({"Male": 0.895}, {"Male": 0.9}, 1.0, "records")


def test_scores_are_balanced_accuracies_of_known_labels():
    description = {
        "tasks": [
            {"name": "attributes", "kind": "multilabel", "labels": ["a", "b"],
             "outputs": {"label": "attributes_label"}},
            {"name": "pose", "kind": "multiclass", "labels": ["x", "y"],
             "outputs": {"label": "pose_label"}},
        ]
    }  # fmt: skip
    labels = {
        "attributes": np.array([[1, -1], [1, -1], [0, -1], [-1, -1]]),
        "pose": np.array([0, 1, 1, 1]),
    }
    examples = check.Examples([b""] * 4, None, None, labels)
    answers = {
        "answer/crop/attributes_label": np.array([[1, 0], [0, 0], [0, 0], [0, 0]]),
        "answer/crop/pose_label": np.array([0, 1, 1, 0]),
    }
    found = check.scores(answers, examples, description)
    assert found == pytest.approx({"a": 0.75, "pose": (1 + 2 / 3) / 2})
    # Unsure is not right, and not wrong either.
    answers["answer/crop/pose_label"] = np.array([0, 1, -2, 0])
    description["tasks"][1]["least"] = [0.9, 0.9]
    versions = [(answers, description)]
    (right, rightly), (not_wrong, forgiven) = scores.measures(versions, examples).items()
    assert check.scores(*rightly[0][:1], examples, description)["pose"] == pytest.approx(2 / 3)
    assert check.scores(*forgiven[0][:1], examples, description)["pose"] == pytest.approx(5 / 6)
    said = scores.said_of(answers, examples, description)
    assert said.endswith("; unsure 8.33 %, right where it answers 77.27 %")
    with pytest.raises(UserError, match="not published: mean balanced share of answers that are"):
        scores.refuse_if_worse({"a": 0.8}, {"a": 0.9}, 1.0, "records", not_wrong)
    assert right == scores.RIGHT


def test_a_version_whose_worst_slice_is_worse_is_refused():
    description = {
        "tasks": [
            {"name": "attributes", "kind": "multilabel", "labels": ["Male", "Smiling"],
             "outputs": {"label": "attributes_label"}},
        ]
    }  # fmt: skip
    truth = np.array([[male, smile] for male in (0, 1) for smile in (0, 1)] * 50)
    examples = Examples([b""] * 200, None, None, {"attributes": truth})
    male = truth[:, 0] == 1
    slicings = {
        "attributes/Male": Slicing(
            {"Male": male, "not Male": ~male}, frozenset({"attributes/Male"})
        ),
        "few": Slicing({"these": np.arange(200) < 20}),
    }

    def by_slice(wrong):
        said = np.where(wrong[:, None], 1 - truth, truth)
        given = {"answer/crop/attributes_label": said}
        return scores.slice_scores(given, examples, description, slicings)

    random = np.random.default_rng(0).random(200)
    good, bad = by_slice(random < 0.1), by_slice(np.where(male, random < 0.2, random < 0.01))
    right = [np.mean(random[male & (truth[:, 1] == value)] >= 0.2) for value in (0, 1)]
    assert bad["attributes/Male: Male"] == pytest.approx({"Smiling": np.mean(right)})
    assert bad.keys() == {"attributes/Male: Male", "attributes/Male: not Male"}
    with pytest.raises(UserError, match="worst slice of records is that of attributes/Male: Male"):
        scores.refuse_if_worst_is_worse(bad, good, 2.0, "records")
    scores.refuse_if_worst_is_worse(good, bad, 2.0, "records")
    with pytest.raises(UserError, match="no slice has 30 images"):
        scores.refuse_if_worst_is_worse({}, good, 2.0, "records")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images=photos"], "belong to --check"),
        (["--check", "--images=."], "holds no pictures"),
        (["--check", "--records=nowhere"], "nowhere"),
        (["--slices=pose"], "belongs to --check"),
        (["--check", "--slices=pose"], "those of --records"),
    ],
)
def test_mistakes_are_one_line(workdir, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main(
            [
                f"--workdir={workdir.path}",
                "--output=models",
                "--batch_sizes=1",
                "--no_warmup",
                *flags,
            ]
        )
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("precision", "difference", "changed", "message"),
    [
        ("float32", 0.9e-4, 0, ""),
        ("float32", 1.1e-4, 0, "differs from the workdir's"),
        ("float32", 0.0, 1, "changes 1 of 200 labels"),
        ("bfloat16", 0.09, 2, ""),
        ("bfloat16", 0.11, 0, "differs from the workdir's"),
        ("bfloat16", 0.0, 3, "changes 3 of 200 labels"),
        ("float16", 0.019, 2, ""),
        ("float16", 0.021, 0, "differs from the workdir's"),
    ],
)
def test_a_precision_may_differ_so_much(
    workdir, tmp_path, monkeypatch, precision, difference, changed, message
):
    expected = np.zeros((200, 1), "f4")
    labels = np.zeros((200, 1), "i4")
    labels[:changed] = 1
    given = {"p_probability": expected + difference, "p_label": labels}
    monkeypatch.setattr(check, "page_of_faces", lambda folder: None)
    monkeypatch.setattr(
        check, "ask", lambda *_: {f"answer/crop/{name}": value for name, value in given.items()}
    )
    answers = {"crop": {"p_probability": expected, "p_label": np.zeros_like(labels)}}
    monkeypatch.setattr(check, "expected_answers", lambda *_: answers)
    outputs = {"probability": "p_probability", "label": "p_label"}
    description = {
        "precision": precision,
        "signatures": {"crop": {}},
        "batch_sizes": [1],
        "tasks": [{"kind": "multilabel", "thresholds": [0.5], "outputs": outputs}],
    }
    refused = pytest.raises(UserError, match=message) if message else contextlib.nullcontext()
    with refused:
        check.pass_check(Check(), tmp_path, None, None, workdir, description)


@pytest.mark.parametrize(
    ("precision", "allowed"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.02)]
)
def test_every_export_is_compared_by_the_limit_of_its_precision(
    workdir, tmp_path, monkeypatch, precision, allowed
):
    """Without `--check`, too; the network that answers is replaced by its expected answers."""
    import tensorflow as tf

    class Loaded:
        signatures: ClassVar = {"pixels": lambda pixels: {"p_value": np.full((2, 1), found)}}

    monkeypatch.setattr(saved_model, "_save", lambda *args: args[-1].mkdir())
    monkeypatch.setattr(saved_model, "with_precision", lambda model, *_: model)
    monkeypatch.setattr(saved_model, "task_answers", lambda *_: {"p_value": np.zeros((2, 1))})
    monkeypatch.setattr(tf.saved_model, "load", lambda folder: Loaded)
    options = dataclasses.replace(OPTIONS, precision=precision, warmup=False)
    found = 1.1 * allowed
    with pytest.raises(RuntimeError, match="differs from the Keras model's"):
        export.export_model(workdir.path, tmp_path, options=options)
    found = 0.9 * allowed
    assert export.export_model(workdir.path, tmp_path, options=options).is_dir()
