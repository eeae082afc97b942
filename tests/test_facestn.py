"""FaceSTN as a whole: recipes, phases, what passes the transformer by, resuming, export."""

import csv
import dataclasses
import itertools
import json
import random
import signal
import time

import keras
import numpy as np
import pytest
from test_train import assert_same_run, assert_same_weights, start, train, train_and_keep

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.formats.detections import COLUMNS
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES
from faceattr_tf.configs import RECIPES, create_recipe
from faceattr_tf.models import build_model

DATA = ("celeba", "celeba_small", "lfwa", "mtfl")


def tiny(records, name="facestn_mtfl", steps=(3, 4, 5), **changes):
    """A recipe at 32x32, narrow and with phases of a few steps."""
    recipe = create_recipe(name)
    recipe.data.records = (records.path,)
    recipe.data.crop = dataclasses.replace(recipe.data.crop, height=32, width=32)
    recipe.data.batch_size = 16
    recipe.model.width = 0.25
    if recipe.model.name == "resnet_small":
        recipe.model.options = (("filters", (32,)), ("blocks", (1,)))
    recipe.phases = tuple(
        dataclasses.replace(phase, epochs=0.0, steps=count)
        for phase, count in zip(recipe.phases, steps, strict=True)
    )
    recipe.checkpoint_steps = recipe.log_steps = 2
    return dataclasses.replace(recipe, **changes)


@pytest.mark.parametrize("data", DATA)
def test_the_conditions_differ_in_nothing_but_alignment(data):
    system, aligned, unaligned = (
        create_recipe(f"facestn_{data}{ending}") for ending in ("", "_aligned", "_unaligned")
    )
    assert system.model.transformer == "lonet"
    assert [phase.name for phase in system.phases] == ["lonet", "clnet", "joint"]
    for other in (aligned, unaligned):
        assert not other.model.transformer
        assert [phase.steps for phase in other.phases] == [p.steps for p in system.phases[1:]]
        assert [phase.epochs for phase in other.phases] == [p.epochs for p in system.phases[1:]]
        assert other.data.augment == system.data.augment
        assert other.model.name == system.model.name
        assert other.model.options == system.model.options
    assert unaligned.data.crop == system.data.crop
    assert unaligned.data.displacement == system.data.displacement
    assert aligned.data.crop.kind == system.data.aligned.kind
    assert not aligned.data.displacement.geometric


def test_the_paper_is_kept_to():
    recipe = create_recipe("facestn_celeba")
    lonet, _, joint = recipe.phases
    assert (recipe.data.crop.height, recipe.data.crop.width) == (256, 256)
    assert (lonet.learning_rate, lonet.steps) == (0.01, 100)
    assert (joint.learning_rate, joint.steps) == (0.001, 12_000)
    assert [round(share * joint.steps) for share in joint.boundaries] == [4_000, 8_000, 10_000]
    assert [config.weight for config in recipe.tasks] == [0.9, 0.1]


def transformer_model(tasks=(MTFL_ATTRIBUTES, LANDMARKS, ALIGNMENT), **options):
    keras.utils.set_random_seed(0)
    return build_model(
        "resnet_small", tasks, (32, 40, 3), width=0.25, transformer="lonet", **options
    )


@pytest.mark.parametrize("family", ["affine", "similarity", "attention"])
def test_a_new_transformer_changes_nothing(family):
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 40, 3)).astype("float32")
    model = transformer_model(transformer_options={"family": family})
    keras.utils.set_random_seed(0)
    plain = build_model("resnet_small", (MTFL_ATTRIBUTES, LANDMARKS), (32, 40, 3), width=0.25)
    weights = {weight.path: weight for weight in model.weights}
    for weight in plain.weights:
        weight.assign(weights[weight.path])
    outputs, expected = model(images), plain(images)
    np.testing.assert_array_equal(outputs["alignment"], np.tile(np.eye(2, 3), (2, 1, 1)))
    for task in ("attributes", "landmarks"):
        np.testing.assert_allclose(outputs[task], expected[task], atol=1e-5)


def test_landmarks_are_given_in_the_crop_that_came_in():
    """A head that is sure of its points in the aligned crop gives them through the transform."""
    images = np.zeros((1, 32, 40, 3), "float32")
    model = transformer_model()
    before = np.asarray(model(images)["landmarks"])[0]
    theta = np.array([[0.5, 0.1, 0.2], [-0.1, 0.6, -0.3]])
    model.get_layer("lonet_fc2").bias.assign(theta.ravel())
    after = np.asarray(model(images)["landmarks"])[0]
    np.testing.assert_allclose(after, before @ theta[:, :2].T + theta[:, 2], atol=1e-5)


def test_any_network_takes_a_transformer():
    from faceattr_tf.models import BACKBONES, MODELS, options_of

    images = np.zeros((2, 64, 64, 3), "float32")
    tasks = (MTFL_ATTRIBUTES, ALIGNMENT)
    for name in sorted(set(MODELS) - set(BACKBONES)) + ["mobilenet_v3_small"]:
        width = {"width": 0.25} if "width" in options_of(MODELS[name]) else {}
        model = build_model(name, tasks, (64, 64, 3), transformer="lonet", **width)
        assert model(images)["alignment"].shape == (2, 2, 3)


def test_the_classifier_behind_the_transformer_shares_its_weights():
    from faceattr_tf.models.stages import classifier_of

    tasks = (MTFL_ATTRIBUTES, LANDMARKS, ALIGNMENT)
    model = transformer_model(tasks)
    classifier = classifier_of(model, tasks)
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, 32, 40, 3)).astype("float32")
    through = model((pixels + 1) * 127.5)
    outputs, _ = classifier(pixels)
    for name, output in outputs.items():
        np.testing.assert_allclose(output, through[name], atol=1e-4)
    owned = {id(weight) for weight in model.weights}
    assert {id(weight) for weight in classifier.weights} < owned


@pytest.fixture(scope="module")
def seen(tmp_path_factory, mtfl_records):
    """A complete tiny run of all phases: its folder, and path -> weights before and after each."""
    import faceattr_tf.training.loop as training

    weights, states = [], []

    def look(state):
        weights.append({weight.path: weight.numpy() for weight in state.model.weights})

    def create_step(state, *arguments, **options):
        step = create(state, *arguments, **options)
        look(state)
        states.append(state)
        return step

    create, path = training.create_train_step, tmp_path_factory.mktemp("facestn") / "workdir"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "create_train_step", create_step)
        train(tiny(mtfl_records), path)
    look(states[-1])
    return path, weights


@pytest.fixture(scope="module")
def finished(seen):
    """The folder of the run."""
    return seen[0]


def test_every_phase_trains_what_it_should(seen):
    _, weights = seen
    moved = [
        {path for path, values in after.items() if np.any(values != before[path])}
        for before, after in itertools.pairwise(weights)
    ]
    lonet, clnet, joint = moved
    located = [{path for path in of if path.startswith("lonet_")} for of in moved]
    assert lonet and lonet == located[0]
    assert clnet and not located[1]
    assert located[2] and joint - located[2]


def test_a_run_leaves_what_the_transformer_needs(finished, mtfl_records):
    from faceattr_tf.workdir import Workdir

    workdir = Workdir.open(finished)
    assert [task.name for task in workdir.tasks] == ["attributes", "alignment"]
    assert workdir.view.aligned == Crop(kind="align", height=32, width=32, margin=0.15)
    assert workdir.crop.window == pytest.approx(mtfl_records.mean_box(), abs=1e-3)
    phases = {row["phase"] for row in workdir.metrics_log()}
    assert phases == {"lonet", "clnet", "joint"}
    assert any("validation/alignment/corner_error" in row for row in workdir.metrics_log())
    learned = {
        (row["phase"], key.split("/")[1])
        for row in workdir.metrics_log()
        for key in row
        if key.startswith("train/") and key.endswith("/loss") and key != "train/loss"
    }
    assert learned == {
        ("lonet", "alignment"),
        ("clnet", "attributes"),
        ("joint", "attributes"),
        ("joint", "alignment"),
    }


def test_the_report_shows_the_transformer(finished, mtfl_records):
    from faceattr_tf.reports.evaluate import evaluate

    (contents,) = evaluate(finished, mtfl_records.path, bootstrap=10).values()
    metrics = contents["tasks"]["alignment"]["metrics"]
    assert metrics["count"] == mtfl_records.splits["test"]
    assert metrics["corner_error"] > 0
    assert metrics["corner_error_identity"] > 0
    assert "alignment" in (finished / "evaluation" / "mtfl-test" / "report.html").read_text()


def test_the_export_answers_as_the_model(finished, mtfl_tree, tmp_path):
    """`export_model` itself compares pixels; here, the file's bytes against the analyzer."""
    import tensorflow as tf

    from export import export_model
    from faceattr_tf import Analyzer

    folder = export_model(finished, tmp_path)
    image = next(mtfl_tree.rglob("*.jpg"))
    served = tf.saved_model.load(str(folder)).signatures["serving_default"](
        image_bytes=tf.constant([image.read_bytes()])
    )
    face = Analyzer.from_workdir(finished).analyze(image)
    expected = [attribute.probability for attribute in face.tasks["attributes"].values()]
    np.testing.assert_allclose(served["attributes_probability"][0], expected, atol=1e-4)
    assert served["alignment_outline"].shape == (1, 4, 2)


@pytest.mark.thorough  # three processes, each of which compiles the phases it passes
def test_kills_in_every_phase_change_nothing(tmp_path, mtfl_records):
    recipe = tiny(mtfl_records, steps=(20, 20, 20))
    train_and_keep(recipe, tmp_path / "whole", tmp_path / "whole.npz")
    log, chance = tmp_path / "killed" / "metrics.jsonl", random.Random(0)
    for phase in range(3):
        run = start(recipe, tmp_path / "killed", tmp_path / "killed.npz")
        wanted = 20 * phase + chance.randrange(4, 18)
        while run.poll() is None:
            rows = log.read_text().splitlines() if log.exists() else []
            if rows and json.loads(rows[-1])["step"] >= wanted:
                break
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
    train_and_keep(recipe, tmp_path / "killed", tmp_path / "killed.npz")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert_same_weights(tmp_path / "whole.npz", tmp_path / "killed.npz")


@pytest.mark.thorough  # phases are those of `finished`; that detections are joined is test_lfwa.py's
def test_lfwa_in_its_official_layout_goes_through_all_phases(tmp_path, lfwa_tree):
    """LFWA has no landmarks of its own: a table of detections brings them."""
    from data_pipelines.records.build import build

    table = tmp_path / "detections.csv"
    names = sorted(p.relative_to(lfwa_tree / "lfw").as_posix() for p in lfwa_tree.rglob("*.jpg"))
    points = [90, 100, 160, 105, 125, 140, 95, 175, 155, 180]
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index, name in enumerate(names):
            shifted = [value + index % 7 for value in points]
            writer.writerow([name, 70 + index % 5, 70, 110, 140, 0.99, *shifted])
    records = build("lfwa", lfwa_tree, tmp_path / "records", detections=table)
    recipe = tiny(records, "facestn_lfwa", (2, 2, 2))
    recipe.model.width = 0.05
    best = train(recipe, tmp_path / "run")
    assert best["validation/alignment/corner_error"] >= 0
    assert "validation/attributes/accuracy" in best


def test_faces_without_landmarks_cannot_teach_an_alignment(tmp_path, lfwa_tree):
    from data_pipelines.records.build import build

    records = build("lfwa", lfwa_tree, tmp_path / "records")
    recipe = tiny(records, "facestn_lfwa", (2, 2, 2))
    recipe.data.crop = Crop(kind="none", height=32, width=32)
    with pytest.raises(UserError, match="no training image has landmarks.*--detections"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: setattr(r.model, "transformer", "nothing"), "no transformer 'nothing'"),
        (lambda r: setattr(r.model, "transformer", ""), "only a model with a transformer"),
        (
            lambda r: setattr(r.phases[0], "task_weights", (("pose", 1.0),)),
            "task_weights names the task 'pose'",
        ),
        (lambda r: setattr(r.phases[1], "classifier_input", "all"), "is none of transformed"),
        (lambda r: setattr(r.phases[0], "augment", (("tilt", 1.0),)), "no field 'tilt'"),
        (lambda r: setattr(r, "tasks", r.tasks[:1]), "'alignment' is listed"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, mtfl_records, change, words):
    recipe = tiny(mtfl_records)
    change(recipe)
    with pytest.raises(UserError, match=words) as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_help_lists_the_recipes():
    assert {
        f"facestn_{data}{end}" for data in DATA for end in ("", "_aligned", "_unaligned")
    } < set(RECIPES)
