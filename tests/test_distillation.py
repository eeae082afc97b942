"""Soft labels: what they say, that a pupil follows them, and what no teacher can teach."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from test_train import tiny
from untrained_run import make_run

from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARKS, MTFL_ATTRIBUTES, POSE, Task, join_labels
from faceattr_tf.configs.base import Distillation, Model, TaskConfig
from faceattr_tf.losses.batch import Seen
from faceattr_tf.losses.distillation import DistillationLoss, soft_labels

RANDOM = np.random.default_rng(0)
VALUES = Task("ages", "regression", ("years", "months"))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def logits(width, batch=4):
    return RANDOM.normal(0.0, 2.0, (batch, width)).astype(np.float32)


def test_attributes_are_averaged_over_the_teachers_who_know_them():
    known = [
        Task("attributes", "multilabel", ("Eyeglasses", "Hat", "Male")),
        Task("attributes", "multilabel", ("Male", "Beard")),
    ]
    task = Task("attributes", "multilabel", ("Male", "Smiling", "Eyeglasses", "Beard"))
    answers = [logits(3), logits(2)]
    places = [join_labels(one, task) for one in known]
    found = np.array(soft_labels(task, answers, places, temperature=2.0))
    one, other = (sigmoid(answer / 2.0) for answer in answers)
    expected = [(one[:, 2] + other[:, 0]) / 2, np.full(4, -1.0), one[:, 0], other[:, 1]]
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-5)


def test_classes_values_and_points_are_averaged():
    answers = [logits(5), logits(5), logits(5)]
    found = soft_labels(POSE, answers, [range(5)] * 3, temperature=3.0)
    expected = np.mean([softmax(answer / 3.0) for answer in answers], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = np.array(soft_labels(VALUES, answers, [[0, -1], [4, -1], [2, -1]]))
    expected = (answers[0][:, 0] + answers[1][:, 4] + answers[2][:, 2]) / 3
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)
    assert np.isnan(found[:, 1]).all()
    points = RANDOM.normal(size=(2, 4, 5, 2)).astype(np.float32)
    found = soft_labels(LANDMARKS, list(points), [range(5)] * 2)
    np.testing.assert_allclose(found, points.mean(axis=0), rtol=1e-5)


def test_the_loss_is_the_cross_entropy_at_a_temperature_times_its_square():
    taught = {"attributes": sigmoid(logits(3)), "pose": softmax(logits(5))}
    taught["attributes"][0, 1] = -1.0
    outputs = {"attributes": logits(3), "pose": logits(5), "landmarks": np.zeros((4, 5, 2))}
    loss = DistillationLoss(
        (MTFL_ATTRIBUTES, POSE, LANDMARKS), weights=(2.0, 0.5, 1.0), losses={}, temperature=4.0
    )
    p, q = taught["attributes"], sigmoid(outputs["attributes"] / 4)
    single = np.where(p >= 0, -(p * np.log(q) + (1 - p) * np.log(1 - q)), 0.0)
    attributes = single.sum(axis=1) / (p >= 0).sum(axis=1)
    pose = -(taught["pose"] * np.log(softmax(outputs["pose"] / 4))).sum(axis=1)
    found = loss.loss(Seen({}, outputs, None, None, taught))
    np.testing.assert_allclose(found, 16 * (2 * attributes + 0.5 * pose), rtol=1e-4)


def test_values_and_points_are_learned_by_the_tasks_own_loss():
    outputs, taught = logits(2), logits(2)
    own = {"ages": lambda labels, outputs: keras.ops.sum(abs(labels - outputs), axis=-1)}
    loss = DistillationLoss((VALUES,), weights=(3.0,), losses=own, temperature=2.0)
    found = loss.loss(Seen({}, {"ages": outputs}, None, None, {"ages": taught}))
    np.testing.assert_allclose(found, 3 * np.abs(outputs - taught).sum(axis=1), rtol=1e-5)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, mtfl_records):
    """Two runs of networks that were never trained: all three tasks, and pose alone."""
    folder = tmp_path_factory.mktemp("teachers")
    workdir = make_run(folder / "all", records=mtfl_records)
    model = workdir.load_model()
    model.get_layer("head_pose").bias.assign([0.0, 0.0, 0.0, 6.0, 0.0])  # sure of something
    workdir.save_model(model)
    make_run(folder / "pose", Model("tcdcn", width=0.5), tasks=(POSE,), records=mtfl_records)
    return folder


def pupil(teachers, records, names=("all",), **changes):
    from faceattr_tf.workdir import Workdir

    recipe = tiny(records, distillation=Distillation(",".join(str(teachers / n) for n in names)))
    recipe.data.crop = Workdir.open(teachers / "all").crop
    recipe.model = Model("tcdcn", width=0.25)
    recipe.phases = (dataclasses.replace(recipe.phases[1], epochs=0.0, steps=6),)
    return dataclasses.replace(recipe, **changes)


def losses_of_steps(recipe, steps):
    """The losses of single steps on one batch, `[steps, losses]`, and their names."""
    import tensorflow as tf

    from data_pipelines.input.augment import Augment
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    recipe.data.augment = Augment()
    recipe.phases[0].schedule = "constant"
    experiment = Experiment.of(recipe)
    state = TrainingState(experiment, tf.distribute.get_strategy())
    batch = next(training_stream(experiment, state.strategy, 0))
    step, rows = create_train_step(state, experiment, 0), []
    for _ in range(steps):
        state.logged.assign(tf.zeros_like(state.logged))
        step(batch)
        rows.append(state.logged.numpy()[0])
    return np.array(rows), [*(task.name for task in experiment.tasks), *state.losses]


def test_a_pupil_comes_to_answer_as_its_teacher_does(teachers, mtfl_records):
    """By soft labels alone: the labels that somebody gave weigh nothing beside them."""
    recipe = pupil(teachers, mtfl_records)
    recipe.distillation.weight = 1000.0
    recipe.phases[0].clip_norm = 1.0
    rows, names = losses_of_steps(recipe, 25)
    soft = rows[:, names.index("distillation")]
    assert soft[-1] < 0.6 * soft[0], soft


def test_micro_batches_see_the_same_soft_labels(teachers, mtfl_records):
    whole = pupil(teachers, mtfl_records, ("all", "pose"))
    parts = pupil(teachers, mtfl_records, ("all", "pose"))
    parts.data.micro_batch = parts.data.batch_size // 4
    one, other = (losses_of_steps(recipe, 2)[0] for recipe in (whole, parts))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_tasks_may_weigh_less_by_soft_labels(teachers, mtfl_records):
    whole, half = pupil(teachers, mtfl_records), pupil(teachers, mtfl_records)
    half.distillation.task_weights = (("pose", 0.5), ("landmarks", 0.0))
    alone = pupil(teachers, mtfl_records)
    alone.distillation.task_weights = (("pose", 0.0), ("landmarks", 0.0))
    only = pupil(teachers, mtfl_records)
    only.distillation.task_weights = (("attributes", 0.0), ("landmarks", 0.0))
    runs = [losses_of_steps(recipe, 1)[0][0, -1] for recipe in (whole, half, alone, only)]
    assert runs[0] > runs[1] > runs[2] and runs[3] > 0
    assert runs[1] == pytest.approx(runs[2] + 0.5 * runs[3], rel=1e-4)


def test_a_run_logs_its_teaching_and_names_its_teachers(teachers, mtfl_records, tmp_path, capsys):
    from faceattr_tf.evaluation.leakage import _training_records
    from faceattr_tf.training.loop import train_and_evaluate
    from faceattr_tf.workdir import Workdir

    recipe = pupil(teachers, mtfl_records, ("all", "pose"))
    train_and_evaluate(recipe, tmp_path / "w", progress=False)
    printed = capsys.readouterr().out
    assert f"teacher {teachers / 'all'}: attributes (3 of 3 labels), pose (5 of 5" in printed
    assert f"teacher {teachers / 'pose'}: pose (5 of 5 labels)\n" in printed
    rows = map(json.loads, (tmp_path / "w" / "metrics.jsonl").read_text().splitlines())
    values = [row["train/distillation/loss"] for row in rows if "train/loss" in row]
    assert len(values) >= 3 and np.isfinite(values).all() and min(values) > 0
    card = (tmp_path / "w" / "model_card.md").read_text()
    assert f"Soft labels came from `{teachers / 'pose'}`; its licence applies too." in card
    # The runs behind the soft labels are asked which images they saw.
    behind = list(_training_records(Workdir.open(tmp_path / "w"), []))
    assert len(behind) == 3


def other_crop(recipe):
    recipe.data.crop = dataclasses.replace(recipe.data.crop, margin=0.5)


def no_shared_task(recipe):
    recipe.tasks = (TaskConfig("attributes"),)
    recipe.distillation.teachers = recipe.distillation.teachers.replace("all", "pose")


def missing(recipe):
    recipe.distillation.teachers += "er"


def other_task(recipe):
    recipe.distillation.task_weights = (("age", 1.0),)


def frozen_phase(recipe):
    recipe.phases[0].bottlenecks = True


def cold(recipe):
    recipe.distillation.temperature = 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_crop, "teacher .*all was shown kind box, .*margin 0.2.* expected the crop .*0.5"),
        (no_shared_task, "teacher .*pose knows none of the tasks attributes.*; it knows: pose"),
        (missing, "workdir .*aller does not exist"),
        (frozen_phase, "see the crops that are trained on, and bottlenecks are features"),
        (cold, "temperature 0.0 is not above 0"),
        (other_task, "distillation: task_weights names the task 'age'; there are: attributes, "),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(
    teachers, mtfl_records, tmp_path, change, message
):
    from faceattr_tf.training.loop import train_and_evaluate

    recipe = pupil(teachers, mtfl_records)
    change(recipe)
    with pytest.raises(UserError, match=message):
        train_and_evaluate(recipe, tmp_path / "w", progress=False)
    assert not (tmp_path / "w").exists()
