"""Mixup: shares from the right distribution, and the losses of both images by their shares."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from test_distillation import losses_of_steps
from test_train import tiny

from data_pipelines.errors import UserError
from faceattr_tf.losses.batch import Seen
from faceattr_tf.training.mixup import mix, mixed_losses, mixing_share


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_are_a_function_of_seed_and_step_and_beta_distributed(alpha):
    share = tf.function(lambda step: mixing_share(alpha, 3, step))
    steps = tf.range(2000, dtype=tf.int64)
    found = np.array([share(step).numpy() for step in steps])
    assert np.isfinite(found).all() and share(steps[7]) == found[7]
    assert mixing_share(alpha, 4, steps[7]) != found[7]
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_an_image_is_mixed_with_the_one_opposite_and_learned_as_both():
    images = np.random.default_rng(0).uniform(size=(4, 2, 2, 3)).astype(np.float32)
    found = mix(tf.constant(images), tf.constant(0.75))
    np.testing.assert_allclose(found, 0.75 * images + 0.25 * images[::-1], rtol=1e-6)
    labels = np.array([0.0, 1.0, 2.0, -1.0], np.float32)

    def objective(seen):
        """The sum of known labels, weighted by place, so that order matters; and twice that."""
        values = seen.labels["a"] * [1.0, 10.0, 100.0, 1000.0] * (seen.labels["a"] >= 0)
        return [values.sum(), 2 * values.sum()]

    seen = Seen({"a": labels}, {}, None, np.arange(4))
    plain, total = mixed_losses(objective, seen, 0.75)
    assert plain == 0.75 * 210 + 0.25 * (20 + 100) and total == 2 * plain
    assert mixed_losses(objective, seen, None) == [210, 420]
    assert mix(images, None) is images


def test_a_mixed_batch_has_the_losses_of_its_images_and_labels(mtfl_records):
    """The first step of a run, forward by hand: nothing else of the step is changed."""
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.objective import Objective, seen_of
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import forward_of

    recipe = tiny(mtfl_records)
    recipe.model.dropout = 0.0
    recipe.phases = (dataclasses.replace(recipe.phases[1], epochs=0.0, steps=6, mixup=0.4),)
    rows, _ = losses_of_steps(recipe, 1)
    experiment = Experiment.of(recipe)
    state = TrainingState(experiment, tf.distribute.get_strategy())
    batch = next(training_stream(experiment, state.strategy, 0))
    share = mixing_share(0.4, recipe.seed, tf.constant(0, tf.int64)).numpy()
    assert 0.01 < share < 0.99
    mixed = share * batch["image"] + (1 - share) * batch["image"][::-1]
    outputs = forward_of(state.model, experiment, recipe.phases[0])(mixed)
    objective = Objective(experiment, recipe.phases[0], {})
    turned = batch | {"labels": {k: v[::-1] for k, v in batch["labels"].items()}}
    one, other = (objective(seen_of(b, *outputs, {}))[0] for b in (batch, turned))
    np.testing.assert_allclose(rows[0], share * one + (1 - share) * other, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "losses", "message"),
    [
        ({"mixup": -0.1}, (), "mixup -0.1 must be 0 or more"),
        ({"mixup": float("nan")}, (), "mixup nan must be"),
        ({"mixup": 0.2}, (("centre", 0.1),), "which losses of whole batches cannot learn"),
        ({"mixup": 0.2, "optimizer": "linear_svm"}, (), "which a linear_svm cannot learn"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mtfl_records, changes, losses, message):
    from faceattr_tf.experiment import Experiment

    recipe = tiny(mtfl_records, losses=losses)
    recipe.phases = (dataclasses.replace(recipe.phases[1], **changes),)
    with pytest.raises(UserError, match=message):
        Experiment.of(recipe)
