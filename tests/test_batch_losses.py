"""Losses that see the batch and remember: their values, and that nothing but the batch matters."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from keras import ops
from test_train import assert_same_run, assert_same_weights, tiny

from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.configs.base import Model
from faceattr_tf.configs.slices import Slices
from faceattr_tf.losses import BATCH_LOSSES, create_batch_loss
from faceattr_tf.losses.batch import BatchLoss, Seen
from faceattr_tf.losses.similarity import SimilarityLoss

FEATURES = 3


def seen(classes, seed=0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(len(classes), FEATURES))
    attributes = random.integers(-1, 2, (len(classes), 3)).astype(np.int32)
    labels = {"pose": np.array(classes, np.int32), "attributes": attributes}
    outputs = {"attributes": random.normal(size=(len(classes), 3)).astype(np.float32)}
    return Seen(labels, outputs, features.astype(np.float32), np.full(len(classes), -1))


def test_centre_loss_is_that_of_the_paper():
    """Equations 2 and 4, term by term, with an unknown class among the examples."""
    loss = create_batch_loss("centre", (MTFL_ATTRIBUTES, POSE), FEATURES, rate=0.5)
    centres = np.zeros((5, FEATURES))
    for step, classes in enumerate([(0, 1, 1, -1, 4), (1, 1, 1, 2, 0)]):
        batch = seen(classes, step)
        expected = [
            0.5 * sum((x - centres[c]) ** 2) if c >= 0 else 0.0
            for c, x in zip(classes, batch.features, strict=True)
        ]
        np.testing.assert_allclose(loss.loss(batch), expected, rtol=1e-5)
        loss.update(loss.statistics(batch))
        for one in set(classes) - {-1}:
            members = [x for c, x in zip(classes, batch.features, strict=True) if c == one]
            change = sum(centres[one] - x for x in members) / (1 + len(members))
            centres[one] = centres[one] - 0.5 * change
        np.testing.assert_allclose(loss.centres, centres, rtol=1e-5, atol=1e-6)
    assert np.all(np.array(loss.centres)[3] == 0)  # a class that was never seen


@pytest.mark.parametrize("normalise", [False, True])
def test_similarity_loss_is_that_of_the_paper(normalise):
    """The double sum of section 4, pair by pair; nobody known has no partner."""
    identity = np.array([2**41, 5, -1, 5, 2**41 + 5, 5, -1, 7, 2**41])
    features = np.random.default_rng(0).normal(3.0, 1.0, (9, FEATURES)).astype(np.float32)
    loss = create_batch_loss("similarity", (POSE,), FEATURES, normalise=normalise)
    found = np.array(loss.loss(Seen({}, {}, features, identity)))
    if normalise:
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.zeros(9)
    for i in range(9):
        for j in range(9):
            if identity[i] == identity[j] >= 0:
                expected[i] += np.sum((features[i] - features[j]) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (found > 0).tolist() == [True, True, False, True, False, True, False, False, True]


def test_similarity_pulls_an_image_towards_its_partners():
    """The gradient of the double sum: four times the sum of the differences."""
    import tensorflow as tf

    identity = np.array([3, 3, 4, 3, -1])
    features = tf.Variable(np.random.default_rng(1).normal(size=(5, FEATURES)).astype(np.float32))
    with tf.GradientTape() as tape:
        total = ops.sum(SimilarityLoss((), FEATURES).loss(Seen({}, {}, features, identity)))
    f = features.numpy()
    expected = np.zeros_like(f)
    for i in (0, 1, 3):
        expected[i] = 4 * sum(f[i] - f[j] for j in (0, 1, 3))
    np.testing.assert_allclose(tape.gradient(total, features), expected, rtol=1e-4, atol=1e-5)


def test_equal_features_and_features_of_zero_have_finite_gradients():
    import tensorflow as tf

    features = tf.Variable(np.zeros((4, FEATURES), np.float32))
    for normalise in (False, True):
        loss = SimilarityLoss((), FEATURES, normalise=normalise)
        with tf.GradientTape() as tape:
            total = ops.sum(loss.loss(Seen({}, {}, features, np.array([1, 1, 1, 1]))))
        assert np.all(tape.gradient(total, features).numpy() == 0)


@pytest.mark.parametrize("name", BATCH_LOSSES)
def test_statistics_are_sums_of_the_declared_shapes(name):
    """Else micro-batches and replicas would change what a loss remembers."""
    loss = create_batch_loss(name, (MTFL_ATTRIBUTES, POSE), FEATURES)
    whole = seen((0, 1, 1, -1, 4, 2))

    def part(rows):
        labels, outputs = (
            {task: values[rows] for task, values in of.items()}
            for of in (whole.labels, whole.outputs)
        )
        return Seen(labels, outputs, whole.features[rows], whole.identity[rows])

    assert ops.shape(loss.loss(whole)) == (6,)
    sums = loss.statistics(whole)
    assert [tuple(value.shape) for value in sums] == [tuple(shape) for shape in loss.shapes]
    halves = (loss.statistics(part(slice(0, 2))), loss.statistics(part(slice(2, 6))))
    for one, *parts in zip(sums, *halves, strict=True):
        np.testing.assert_allclose(one, sum(np.array(p) for p in parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ((("center", 1.0),), "there is no loss 'center'; there are: centre"),
        ((("centre", 1.0, ("speed", 2)),), "'centre' has no option 'speed'; it has: task, rate"),
        ((("centre", 1.0, ("rate", 2.0)),), "rate 2.0 is not in"),
        ((("centre", 1.0, ("task", "attributes")),), "'attributes' is no multiclass task .* pose"),
        ((("similarity", 1.0),), "nobody is known in these records, and the loss 'similarity'"),
        ((("similarity", 1.0, ("rate", 2)),), "no option 'rate'; it has: normalise"),
        ((("centre",),), "expected .'name', weight."),
        ((("centre", "much"),), "expected .'name', weight."),
        ((("centre", 1.0), ("centre", 2.0)), "one finite weight for every name"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(tmp_path, mtfl_records, losses, message):
    from faceattr_tf.training.loop import train_and_evaluate

    with pytest.raises(UserError, match=message):
        train_and_evaluate(tiny(mtfl_records, losses=losses), tmp_path / "w", progress=False)
    assert not (tmp_path / "w").exists()


def test_a_field_of_the_recipe_adds_a_loss(tmp_path, mtfl_records):
    """By a flag, as a user would, and it is logged beside those of the tasks."""
    from faceattr_tf.commands import train
    from faceattr_tf.commands.recipe_flags import parse
    from faceattr_tf.training.loop import train_and_evaluate

    flag = "--config.losses=(('centre', 0.1, ('task', 'pose')),)"
    recipe, _ = parse(["--config=smoke", flag], train.define_flags)
    assert recipe.losses == (("centre", 0.1, ("task", "pose")),)
    recipe = tiny(mtfl_records, losses=recipe.losses)
    assert type(recipe).from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    recipe.phases = recipe.phases[1:]
    train_and_evaluate(recipe, tmp_path / "w", progress=False)
    log = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    values = [row["train/centre/loss"] for row in map(json.loads, log) if "train/loss" in row]
    assert len(values) > 3 and all(np.isfinite(values)) and min(values) > 0


class Remembering(BatchLoss):
    """Distance to a running mean of the features of known people, whom it counts."""

    def __init__(self, tasks, features, *, pull=0.5):
        super().__init__()
        self.pull, self.shapes = pull, ((features,), (), ())
        self.mean = self.add_variable((features,), "mean")
        self.people = self.add_variable((), "people")

    def loss(self, seen):
        distance = ops.mean(ops.square(seen.features - ops.convert_to_tensor(self.mean)), axis=-1)
        return distance * ops.cast(seen.identity >= 0, "float32")

    def statistics(self, seen):
        known = ops.cast(seen.identity >= 0, "float32")
        numbers = ops.cast(seen.identity, "float32")
        return [
            ops.sum(seen.features * known[:, None], axis=0),
            ops.sum(known),
            ops.sum(known * numbers),
        ]

    def update(self, sums):
        mean = sums[0] / ops.maximum(sums[1], 1.0)
        self.mean.assign(self.mean + self.pull * (mean - self.mean))
        self.people.assign(self.people + sums[2])


PROGRAM = """
import json, sys
import numpy as np, tensorflow as tf

sys.path.insert(0, sys.argv[1])
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import faceattr_tf.training.loop as training
from faceattr_tf.configs import Recipe
from faceattr_tf.configs.base import Model
from faceattr_tf.configs.slices import Slices
from faceattr_tf.losses import BATCH_LOSSES
from test_batch_losses import Remembering

BATCH_LOSSES["remembering"] = Remembering
fetch, create, states = training._Run._next, training.TrainingState, []


def remember(*arguments, **options):
    states.append(create(*arguments, **options))
    return states[-1]


def train(folder, replicas):
    devices = ["CPU:0", "CPU:1"][:replicas]
    training.create_strategy = lambda name: tf.distribute.MirroredStrategy(devices)
    recipe = Recipe.from_dict(json.load(open("config.json")))
    training.train_and_evaluate(recipe, folder, progress=False)
    state = states[-1]
    weights = [*state.model.weights, state.slices.q, *state.losses["remembering"].variables]
    np.savez(folder + ".npz", *[weight.numpy() for weight in weights])


class Killed(BaseException):
    pass


def killed_soon(run, batches, rest=[5]):
    rest[0] -= 1
    if not rest[0]:
        raise Killed
    return fetch(run, batches)


training.TrainingState, training._Run._next = remember, killed_soon
try:
    train("killed", 2)
except Killed:
    assert '"step": 10' not in open("killed/metrics.jsonl").read()
    training._Run._next = fetch
    for folder, replicas in (("killed", 2), ("whole", 2), ("alone", 1)):
        train(folder, replicas)
    print("done")
"""


def test_state_survives_replicas_a_kill_and_a_resume(tmp_path, celeba_records):
    slices = Slices(by="attributes/Male", method="groupdro", step_size=0.5)
    recipe = tiny(celeba_records, losses=(("remembering", 0.5),), slices=slices)
    recipe.model = Model("tcdcn", width=0.25, dropout=0.0)  # every replica drops other values
    recipe.data.crop = dataclasses.replace(recipe.data.crop, height=44, width=44)
    recipe.phases = (dataclasses.replace(recipe.phases[1], steps=10),)
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_dict()))
    tests = pathlib.Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tests)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tests.parent), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert_same_weights(tmp_path / "whole.npz", tmp_path / "killed.npz")
    # Sums in another order: the weights of ten steps are a little apart.
    assert_same_weights(tmp_path / "whole.npz", tmp_path / "alone.npz", tolerance=2e-3)
    *_, q, mean, people = np.load(tmp_path / "whole.npz").values()
    assert np.abs(mean).max() > 0.01 and people > 100 and abs(q[0] - q[1]) > 0.01


def test_micro_batches_change_nothing_that_is_remembered(mtfl_records):
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    found = []
    for size in (0, 4):
        recipe = tiny(mtfl_records, losses=(("centre", 0.1),))
        recipe.data.micro_batch = size
        recipe.model = dataclasses.replace(recipe.model, name="tcdcn", options=(), dropout=0.0)
        recipe.data.crop = dataclasses.replace(recipe.data.crop, height=48, width=48)
        experiment, strategy = Experiment.of(recipe), tf.distribute.get_strategy()
        state = TrainingState(experiment, strategy)
        step = create_train_step(state, experiment, 1)
        batches = training_stream(experiment, strategy, 3, progress=False)
        for _ in range(2):
            step(next(batches))
        found.append([np.array(state.losses["centre"].centres), state.logged.numpy()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert np.abs(found[0][0]).max() > 0


def test_people_of_another_numbering_are_others(celeba_records):
    from data_pipelines.crop.geometry import Crop
    from data_pipelines.input.augment import Augment
    from data_pipelines.input.batches import Source, evaluation_batches, training_batches
    from data_pipelines.input.view import View

    crop = Crop("none", height=8, width=8)
    source = Source(celeba_records, "train")
    (batch,) = evaluation_batches(source, (), View(crop), batch_size=100)
    people = set(batch["identity"].numpy().tolist())
    assert len(people) > 3 and min(people) >= 0
    description = {**celeba_records.description, "numbering": "elsewhere"}
    other = Source(dataclasses.replace(celeba_records, description=description), "train")
    batches = training_batches([source, other], (), View(crop), Augment(), batch_size=64, seed=0)
    batch = next(iter(batches))
    first = batch["source"].numpy() == 0
    identity = batch["identity"].numpy()
    assert set(identity[first]) <= people and not set(identity[~first]) & people


def test_a_class_task_is_found_where_there_is_only_one():
    age = Task("age", "multiclass", ("young", "old"))
    assert create_batch_loss("centre", (age,), 2).task == age
    with pytest.raises(UserError, match="task '' is no multiclass task of the model; there are: a"):
        create_batch_loss("centre", (age, POSE), 2)
