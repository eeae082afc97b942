"""Online Batch Relation Loss against the paper's sums, term by term."""

import dataclasses

import numpy as np
import pytest
from keras import ops
from test_train import tiny

from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf.losses import create_batch_loss
from faceattr_tf.losses.batch import Seen

TASK = Task("attributes", "multilabel", tuple("ABCDE"))
RANDOM = np.random.default_rng(0)


def related(count, unknown=0.0):
    """Labels of which B follows A, C opposes it, D is alone and E always no; some unknown."""
    a = RANDOM.integers(0, 2, count)
    b, c = (np.where(RANDOM.uniform(size=count) < 0.05, 1 - x, x) for x in (a, 1 - a))
    labels = np.stack([a, b, c, RANDOM.integers(0, 2, count), np.zeros(count, int)], axis=1)
    return np.where(RANDOM.uniform(size=labels.shape) < unknown, -1, labels).astype(np.int32)


def seen(labels, outputs=None):
    if outputs is None:
        outputs = RANDOM.normal(0.0, 2.0, labels.shape).astype(np.float32)
    return Seen({"attributes": labels}, {"attributes": outputs}, None, None)


def correlation(labels):
    """Of every pair, over the rows that know both; NaN where one of them is constant."""
    count = labels.shape[1]
    result = np.full((count, count), np.nan)
    for i in range(count):
        for j in range(count):
            rows = labels[(labels[:, i] >= 0) & (labels[:, j] >= 0)]
            if rows[:, i].std() > 0 and rows[:, j].std() > 0:
                result[i, j] = np.corrcoef(rows[:, i], rows[:, j])[0, 1]
    return result


@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_the_relation_is_the_weighted_mean_over_batches(decay, unknown):
    """The closed form of equation 1: the sum of lambda^(N - k) R_k over that of lambda^(N - k)."""
    loss = create_batch_loss("relation", (TASK, POSE), 3, decay=decay)
    batches = [related(20, unknown) for _ in range(6)]
    for labels in batches:
        loss.update(loss.statistics(seen(labels)))
    found = np.array([correlation(labels) for labels in batches])
    weights = decay ** np.arange(5, -1, -1.0)[:, None, None] * ~np.isnan(found)
    assert not np.isnan(found[:, :4, :4]).any()
    expected = np.nansum(weights * found, axis=0)[:4, :4] / weights.sum(axis=0)[:4, :4]
    np.testing.assert_allclose(loss.relation[:4, :4], expected, atol=2e-6)
    assert np.isnan(loss.relation[4]).all() and np.isnan(loss.relation[:, 4]).all()


def test_a_pair_that_a_batch_does_not_show_keeps_its_average():
    loss = create_batch_loss("relation", (TASK,), 3)
    loss.update(loss.statistics(seen(related(30))))
    before = loss.relation
    labels = related(30)
    labels[:, 1] = 1
    labels[:, 3] = -1
    loss.update(loss.statistics(seen(labels)))
    same = np.ones((5, 5), bool)
    same[np.ix_([0, 2], [0, 2])] = False
    np.testing.assert_array_equal(loss.relation[same], before[same])
    assert (loss.relation[[0, 2], [2, 0]] != before[[0, 2], [2, 0]]).all()


@pytest.mark.parametrize("reading", ["literal", "rescaled"])
def test_the_loss_is_the_double_sum_of_the_paper(reading):
    loss = create_batch_loss("relation", (TASK,), 3, reading=reading, negative=0.3, positive=0.7)
    first = seen(related(200))
    np.testing.assert_array_equal(loss.loss(first), np.zeros(200))  # nothing is known yet
    loss.update(loss.statistics(first))
    batch = seen(related(7))
    p = 1 / (1 + np.exp(-batch.outputs["attributes"].astype(float)))
    together = apart = 0
    expected = np.zeros(7)
    for k in range(7):
        for i in range(5):
            for j in range(5):
                r = loss.relation[i, j]
                r = (r + 1) / 2 if reading == "rescaled" else r
                d = (p[k, i] - p[k, j]) ** 2
                if r >= 0.7:
                    expected[k] += d
                    together += i != j
                if r <= 0.3:
                    expected[k] += (1 - d) ** 2
                    apart += 1
    # A and B are pulled together, A and C pushed apart; literally, D is pushed from all.
    assert together == 7 * 2 and apart == 7 * (4 if reading == "rescaled" else 10)
    np.testing.assert_allclose(loss.loss(batch), expected / (2 * 25), rtol=1e-5)


def test_the_gradient_is_that_of_the_loss():
    import tensorflow as tf

    loss = create_batch_loss("relation", (TASK,), 3)
    loss.update(loss.statistics(seen(related(200))))
    labels, outputs = related(4), RANDOM.normal(size=(4, 5))

    def value(outputs):
        return ops.sum(loss.loss(seen(labels, outputs)))

    variable = tf.Variable(outputs, dtype=tf.float32)
    with tf.GradientTape() as tape:
        total = value(variable)
    found = tape.gradient(total, variable).numpy()
    for place in np.ndindex(outputs.shape):
        moved = np.zeros_like(outputs)
        moved[place] = 0.01
        slope = (float(value(outputs + moved)) - float(value(outputs - moved))) / 0.02
        assert found[place] == pytest.approx(slope, abs=2e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "pose"}, "task 'pose' is no multilabel task of the model; there are: attributes"),
        ({"decay": 0.0}, "decay 0.0 is not in"),
        ({"positive": 0.1}, "negative 0.2 is not below positive 0.1"),
        ({"reading": "liberal"}, "reading 'liberal' is none of literal, rescaled"),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(UserError, match=message):
        create_batch_loss("relation", (MTFL_ATTRIBUTES, POSE), 3, **options)


def test_a_run_learns_with_it_and_goes_on_as_if_never_killed(tmp_path, celeba_records):
    """The matrix is part of the checkpoint: a run in two halves is the run in one."""
    import json

    from faceattr_tf.training import loop

    recipe = tiny(celeba_records, losses=(("relation", 0.5),))
    recipe.phases = (dataclasses.replace(recipe.phases[1], epochs=0.0, steps=6),)
    recipe.checkpoint_steps = 3

    class Killed(Exception):
        pass

    def until(steps):
        fetch, left = loop._Run._next, [steps]

        def killed_soon(run, batches):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return fetch(run, batches)

        return killed_soon

    loop.train_and_evaluate(recipe, tmp_path / "whole", progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Run, "_next", until(4))
        with pytest.raises(Killed):
            loop.train_and_evaluate(recipe, tmp_path / "parts", progress=False)
    loop.train_and_evaluate(recipe, tmp_path / "parts", progress=False)
    logs = []
    for run in ("whole", "parts"):
        rows = map(json.loads, (tmp_path / run / "metrics.jsonl").read_text().splitlines())
        logs.append([row["train/relation/loss"] for row in rows if "train/loss" in row])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4) and min(logs[0]) > 0
