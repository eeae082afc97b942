"""Weights of images by their slice: against loops in NumPy, from recipes, and what is refused."""

import json

import numpy as np
import pytest
import tensorflow as tf
from scipy import optimize
from test_train import tiny

from data_pipelines.errors import UserError
from faceattr_tf.configs.slices import Slices
from faceattr_tf.losses.slice_weights import SliceWeights

COUNTS = (600, 300, 90, 10)


def drawn(step, size=32):
    """Points, values and slices of a batch; some are in none."""
    random = np.random.default_rng(step)
    numbers = random.choice([0, 1, 2, 3, -1], size, p=[0.5, 0.25, 0.1, 0.05, 0.1])
    points = random.normal(size=(size, 2))
    values = points @ [1.0, -1.0] + 2 * (numbers == 2) + random.normal(size=size)
    return points.astype(np.float32), values.astype(np.float32), numbers.astype(np.int32)


def test_groupdro_is_the_loop_of_the_paper():
    """Algorithm 1, image by image: gradients by the weights before the step, q by its losses."""
    eta, adjustment, rate = 0.2, 3.0, 0.05
    slices = SliceWeights(COUNTS, step_size=eta, adjustment=adjustment)
    variable, own = tf.Variable(tf.zeros(2)), np.zeros(2)
    q, shares = np.full(4, 1 / 4), np.array(COUNTS) / 1000
    for step in range(20):
        points, values, numbers = drawn(step)
        with tf.GradientTape() as tape:
            losses = tf.square(tf.linalg.matvec(points, variable) - values)
            total = tf.reduce_mean(slices.of_images(numbers) * losses)
        slices.update(slices.statistics(numbers, losses))
        variable.assign_sub(rate * tape.gradient(total, variable))

        gradient, grown, known = np.zeros(2), q.copy(), sum(numbers >= 0)
        for point, value, g in zip(points, values, numbers, strict=True):
            error = point @ own - value
            weight = q[g] / shares[g] if g >= 0 else 1.0
            gradient += weight * 2 * error * point / len(points)
            if g >= 0:
                margin = adjustment / np.sqrt(COUNTS[g])
                grown[g] *= np.exp(eta * (error**2 + margin) / (known * shares[g]))
        q, own = grown / grown.sum(), own - rate * gradient
        np.testing.assert_allclose(variable, own, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(slices.q, q, rtol=1e-3, atol=1e-6)
    assert q.argmax() in (2, 3) and np.abs(own).max() > 0.1


def test_slices_weigh_the_same_up_to_the_limit_and_images_one_on_average():
    shares = np.array(COUNTS) / 1000
    plain = np.array(SliceWeights(COUNTS).of_slices())
    np.testing.assert_allclose(plain, 1 / (4 * shares), rtol=1e-5)
    for limit in (20.0, 5.0, 2.0, 1.2):

        def filled(scale, limit=limit):
            return np.minimum(scale * plain, limit)

        scale = optimize.brentq(lambda scale: shares @ filled(scale) - 1, 0.01, 100)
        weights = SliceWeights(COUNTS, limit=limit).of_slices()
        np.testing.assert_allclose(weights, filled(scale), rtol=1e-5)
    np.testing.assert_allclose(SliceWeights(COUNTS, limit=1).of_slices(), 1, rtol=1e-5)
    limited = SliceWeights(COUNTS, limit=3.0)
    weights, before = np.array(limited.of_slices()), np.array(limited.q)
    found = np.array(limited.of_images(np.array([3, -1, 0])))
    np.testing.assert_allclose(found, [3, 1, weights[0]], rtol=1e-5)
    limited.update(limited.statistics(np.array([0, 1]), np.array([9.0, 1.0], np.float32)))
    np.testing.assert_array_equal(limited.q, before)


def test_what_slices_learn_of_a_batch_are_sums_over_its_images():
    slices = SliceWeights(COUNTS, step_size=0.1)
    _, values, numbers = drawn(0)
    whole = slices.statistics(numbers, values)
    assert [tuple(one.shape) for one in whole] == list(slices.shapes)
    parts = [slices.statistics(numbers[rows], values[rows]) for rows in (slice(9), slice(9, 32))]
    for one, *halves in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(one, sum(np.array(half) for half in halves), rtol=1e-5)


def test_batches_know_the_slices_of_their_images(mtfl_records):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.slices import read_slices

    recipe = tiny(mtfl_records, slices=Slices(by="attributes/Male*attributes/Smiling"))
    recipe.data.records *= 2
    recipe.data.augment.flip = False
    experiment = Experiment.of(recipe)
    sliced = read_slices(experiment)
    strategy = tf.distribute.get_strategy()
    batch = next(training_stream(experiment, strategy, 0, sliced=sliced))
    assert set(batch["source"].numpy()) == {0, 1}
    names = ["Male, Smiling", "Male, not Smiling", "not Male, Smiling", "not Male, not Smiling"]
    assert (
        list(sliced.names) == names
        and sum(sliced.counts) == 2 * experiment.sources("train")[0].count
    )
    for (male, smiling, _), number in zip(
        batch["labels"]["attributes"].numpy(), batch["slice"].numpy(), strict=True
    ):
        assert number == 2 * (male == 0) + (smiling == 0)


def test_another_run_may_say_who_is_in_a_slice(mtfl_records, workdir):
    from faceattr_tf.evaluation.slices import answered_labels
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.slices import read_slices

    slices = Slices(by="answers/attributes/Smiling", answers=str(workdir.path))
    experiment = Experiment.of(tiny(mtfl_records, slices=slices))
    sliced = read_slices(experiment)
    (source,) = experiment.sources("validation")
    task, answered = answered_labels(workdir, source)["attributes"]
    assert sliced.names == ("answers/Smiling", "answers/not Smiling")
    column = answered[:, task.labels.index("Smiling")]
    np.testing.assert_array_equal(sliced.validation, 1 - column)
    assert sum(sliced.counts) == experiment.sources("train")[0].count


def test_a_run_weighs_slices_and_chooses_by_the_worst(tmp_path, mtfl_records, monkeypatch, capsys):
    from faceattr_tf.training import validation
    from faceattr_tf.training.loop import train_and_evaluate

    monkeypatch.setattr(validation, "SMALLEST", 2)
    slices = Slices(by="attributes/Male", method="groupdro", step_size=0.5)
    recipe = tiny(mtfl_records, slices=slices, best_metric="attributes/worst_accuracy")
    recipe.phases = recipe.phases[1:]
    assert type(recipe).from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    best = train_and_evaluate(recipe, tmp_path / "w", progress=False)
    shown = capsys.readouterr().out
    assert "slices by attributes/Male: Male: " in shown and "in no slice: 0 images" in shown
    log = (tmp_path / "w" / "metrics.jsonl").read_text().splitlines()
    weights = [row["slices/Male"] for row in map(json.loads, log) if "slices/Male" in row]
    assert len(set(weights)) > 3
    assert "slice, `attributes/Male`: groupdro" in (tmp_path / "w" / "model_card.md").read_text()
    assert best["validation/attributes/worst_accuracy"] <= best["validation/attributes/accuracy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": "hair"}, "slices by 'hair': no such task or measure; there are: attributes, pose"),
        ({"by": "attributes/Tall"}, "expected attributes/LABEL"),
        ({"by": "attributes/Male", "method": "dro"}, "'dro' is none of reweight, groupdro"),
        ({"by": "pose", "limit": 0.5}, "slices.limit 0.5: expected 1 or more"),
        ({"by": "pose", "step_size": -1.0}, "slices.step_size -1.0: expected a number from 0 on"),
        ({"by": "answers/age:18"}, "name the run that answers, --config.slices.answers=DIR"),
        (
            {"by": "attributes/Male*attributes/Eyeglasses*pose"},
            "training images 1 is in '.*: coarser",
        ),
    ],
)
def test_slicings_that_make_no_sense_are_named(tmp_path, mtfl_records, changes, message):
    from faceattr_tf.training.loop import train_and_evaluate

    recipe = tiny(mtfl_records, slices=Slices(**changes))
    with pytest.raises(UserError, match=message):
        train_and_evaluate(recipe, tmp_path / "w", progress=False)
    assert not (tmp_path / "w").exists()


def test_what_cannot_weigh_slices_is_refused(mtfl_records):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.validation import check_validation

    recipe = tiny(mtfl_records, slices=Slices(by="pose"))
    with pytest.raises(UserError, match="only whole runs weigh images by slices"):
        check_validation(Experiment.of(recipe))
    recipe.phases[1].mixup = 0.2
    with pytest.raises(UserError, match="which weights of slices cannot learn"):
        Experiment.of(recipe)
