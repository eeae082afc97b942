"""Losses against scikit-learn and closed forms, and what unknown labels must not do."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special
from sklearn.metrics import log_loss

from data_pipelines.errors import UserError
from data_pipelines.tasks import ALIGNMENT, LANDMARKS, MTFL_ATTRIBUTES, POSE, Task
from faceattr_tf import losses
from faceattr_tf.losses import LOSSES, label_weights, task_loss

AGE = Task("age", "regression", ("years", "months"))
VOTES = Task("emotion", "distribution", ("happy", "sad", "neutral"))
RANGES = Task("range", "multiclass", ("0-2", "3-6", "7+"), values=(1.0, 4.0, 9.0))
BY_KIND = {task.kind: task for task in (MTFL_ATTRIBUTES, POSE, VOTES, LANDMARKS, AGE, ALIGNMENT)}


def random_outputs(task, count, scale=2.0):
    spatial = task.kind in ("landmarks", "transform")
    shape = (count, *task.label_shape) if spatial else (count, len(task.labels))
    return np.random.default_rng(0).normal(size=shape, scale=scale).astype(np.float32)


def random_labels(task, count):
    random = np.random.default_rng(1)
    if task.kind == "multilabel":
        return random.integers(0, 2, (count, len(task.labels))).astype(np.int32)
    if task.kind == "multiclass":
        return random.integers(0, len(task.labels), count).astype(np.int32)
    if task.kind == "distribution":
        return random.dirichlet(np.ones(len(task.labels)), count).astype(np.float32)
    return random.uniform(-1, 1, (count, *task.label_shape)).astype(np.float32)


def test_every_kind_has_a_loss():
    assert {loss.kind for loss in LOSSES.values()} == set(BY_KIND)


def test_sigmoid_cross_entropy():
    labels, logits = random_labels(MTFL_ATTRIBUTES, 20), random_outputs(MTFL_ATTRIBUTES, 20)
    found = task_loss(MTFL_ATTRIBUTES, labels, logits)
    expected = [
        np.mean([log_loss([y], [p], labels=[0, 1]) for y, p in zip(*row, strict=True)])
        for row in zip(labels, special.expit(logits.astype(float)), strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_softmax_cross_entropy():
    labels, logits = random_labels(POSE, 20), random_outputs(POSE, 20)
    scores = special.softmax(logits.astype(float), axis=1)
    expected = [log_loss([y], [p], labels=range(5)) for y, p in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(task_loss(POSE, labels, logits), expected, rtol=1e-5)


def test_votes_cross_entropy_is_that_of_every_voter():
    """Ten voters, each of whom gives one class, lose on average what the distribution does."""
    votes = np.array([[7, 2, 1], [0, 10, 0]])
    logits = random_outputs(VOTES, 2)
    classes = Task("emotion", "multiclass", VOTES.labels)
    for row in range(2):
        voters = np.repeat(np.arange(3), votes[row])
        single = task_loss(classes, voters, np.repeat(logits[row : row + 1], 10, axis=0))
        found = task_loss(VOTES, votes[row : row + 1] / 10, logits[row : row + 1])
        np.testing.assert_allclose(found, [np.mean(single)], rtol=1e-5)
    smooth = task_loss(VOTES, votes / 10, logits, label_smoothing=0.3)
    mixed = 0.7 * votes / 10 + 0.1
    np.testing.assert_allclose(smooth, task_loss(VOTES, mixed, logits), rtol=1e-5)


def test_neighbours_share_in_the_target_by_their_distance():
    """Values 1, 4, 9 are 4 apart on average: the deviation is 2, and 3 apart is 1.5 of it."""
    logits = random_outputs(RANGES, 1)
    weights = np.exp([0.0, -(1.5**2) / 2, -(4.0**2) / 2])
    expected = -(weights / weights.sum()) @ special.log_softmax(logits[0].astype(float))
    found = task_loss(RANGES, np.array([0]), logits, loss="gaussian_cross_entropy")
    np.testing.assert_allclose(found, [expected], rtol=1e-5)
    with pytest.raises(UserError, match="'gaussian_cross_entropy' is one of classes that stand"):
        task_loss(POSE, np.array([0]), random_outputs(POSE, 1), loss="gaussian_cross_entropy")


def test_label_smoothing_mixes_the_answers():
    """With a share s the loss is that of the label and of all answers in the ratio 1-s to s."""
    labels, logits = np.array([2]), random_outputs(POSE, 1)
    single = [float(task_loss(POSE, np.array([k]), logits)[0]) for k in range(5)]
    found = task_loss(POSE, labels, logits, label_smoothing=0.2)
    np.testing.assert_allclose(found, [0.8 * single[2] + 0.2 * np.mean(single)], rtol=1e-5)

    task = MTFL_ATTRIBUTES.select(["Male"])
    logit = np.array([[1.7]], np.float32)
    no, yes = (float(task_loss(task, np.array([[k]]), logit)[0]) for k in (0, 1))
    found = task_loss(task, np.array([[1]]), logit, label_smoothing=0.2)
    np.testing.assert_allclose(found, [0.9 * yes + 0.1 * no], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("squared", [(0.25 + 4) / 2]),
        ("huber", [(0.125 + 1.5) / 2]),
    ],
)
def test_regression_losses(name, expected):
    found = task_loss(AGE, np.array([[1.0, 3.0]]), np.array([[1.5, 1.0]]), loss=name)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_landmark_losses():
    labels = random_labels(LANDMARKS, 6)
    outputs = random_outputs(LANDMARKS, 6, scale=0.3)
    offsets = np.linalg.norm(outputs - labels, axis=-1)
    for name, expected in (("distance", offsets), ("euclidean", offsets**2 / 2)):
        found = task_loss(LANDMARKS, labels, outputs, loss=name)
        np.testing.assert_allclose(found, expected.mean(axis=1), rtol=1e-5)


def test_wing_loss_in_pixels_is_the_papers():
    """On a crop of 64 pixels, scaled to pixels: w = 10, epsilon = 2 (Feng et al., CVPR 2018)."""
    for pixels in (0.0, 0.5, 3.0, 9.99, 10.01, 25.0):
        constant = 10 - 10 * np.log(1 + 10 / 2)
        expected = 10 * np.log(1 + pixels / 2) if pixels < 10 else pixels - constant
        outputs = np.zeros((1, 5, 2), np.float32)
        outputs[:, :, 0] = pixels / 32
        found = task_loss(LANDMARKS, np.zeros((1, 5, 2)), outputs, loss="wing") * 32
        np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-6)


def test_transform_losses():
    """The corners of the square are moved by each transform; the parameters are six numbers."""
    labels, outputs = random_labels(ALIGNMENT, 6), random_outputs(ALIGNMENT, 6)
    offsets = [
        [(b - a) @ (x, y, 1) for x in (-1, 1) for y in (-1, 1)]
        for a, b in zip(labels, outputs, strict=True)
    ]
    distances = np.linalg.norm(offsets, axis=-1)
    np.testing.assert_allclose(
        task_loss(ALIGNMENT, labels, outputs, loss="corners"), distances.mean(axis=1), rtol=1e-5
    )
    found = task_loss(ALIGNMENT, labels, outputs)
    np.testing.assert_allclose(found, np.square(outputs - labels).mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(6 * found, np.square(distances).mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_unknown_labels_give_no_loss_and_no_gradient(name):
    task = RANGES if LOSSES[name].ordered else BY_KIND[LOSSES[name].kind]
    labels, values = random_labels(task, 4), random_outputs(task, 4)
    unknown = task.unknown()
    labels[0] = unknown
    separate = task.kind not in ("multiclass", "distribution", "transform")
    if separate:
        labels[1, 0] = unknown[0]
    outputs = tf.Variable(values)
    with tf.GradientTape() as tape:
        loss = task_loss(task, labels, outputs, loss=name)
    gradient = np.asarray(tape.gradient(loss, outputs))

    assert loss.dtype == tf.float32
    assert loss.shape == (4,)
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient).all()
    assert loss[0] == 0
    assert (gradient[0] == 0).all()
    assert (gradient[2:] != 0).all()
    if separate:
        assert (gradient[1, 0] == 0).all()
        assert (gradient[1, 1:] != 0).all()
        # The mean is over the known labels: the same example without the unknown one.
        whole = Task("rest", task.kind, task.labels[1:])
        rest = task_loss(whole, labels[1:2, 1:], values[1:2, 1:], loss=name)
        np.testing.assert_allclose(loss[1], rest[0], rtol=1e-5)


def test_a_landmark_with_one_known_coordinate_is_unknown():
    labels = np.zeros((1, 5, 2), np.float32)
    labels[0, 3, 1] = np.nan
    known = losses.known(LANDMARKS, labels)
    np.testing.assert_array_equal(known, [[True, True, True, False, True]])


def test_a_transform_with_one_unknown_number_is_unknown():
    labels = np.zeros((2, 2, 3), np.float32)
    labels[1, 0, 2] = np.nan
    np.testing.assert_array_equal(losses.known(ALIGNMENT, labels), [True, False])
    assert task_loss(ALIGNMENT, labels, np.ones((2, 2, 3)))[1] == 0


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_and_exact_outputs_stay_finite(name):
    task = RANGES if LOSSES[name].ordered else BY_KIND[LOSSES[name].kind]
    labels = random_labels(task, 2)
    exact = labels if task.label_dtype == "float32" else np.zeros_like(random_outputs(task, 2))
    for values in (random_outputs(task, 2, scale=1e4), exact.astype(np.float32)):
        outputs = tf.Variable(values)
        with tf.GradientTape() as tape:
            loss = task_loss(task, labels, outputs, loss=name)
        assert np.isfinite(loss).all()
        assert np.isfinite(tape.gradient(loss, outputs)).all()


def test_label_weights_multiply_single_losses():
    weights = np.array([[1, 2], [3, 4], [5, 6]], np.float32)
    labels, logits = np.array([[1, 0, -1]]), random_outputs(MTFL_ATTRIBUTES, 1)
    male, smiling = losses.sigmoid_cross_entropy(labels, logits)[0, :2]
    found = task_loss(MTFL_ATTRIBUTES, labels, logits, label_weights=weights)
    np.testing.assert_allclose(found, [(2 * male + 3 * smiling) / 2], rtol=1e-6)

    labels, logits = np.array([3, -1]), random_outputs(POSE, 2)
    plain = task_loss(POSE, labels, logits)
    found = task_loss(POSE, labels, logits, label_weights=np.arange(5, dtype=np.float32))
    np.testing.assert_allclose(found, 3 * plain, rtol=1e-6)

    labels, outputs = random_labels(LANDMARKS, 2), random_outputs(LANDMARKS, 2)
    nose = np.array([0, 0, 5, 0, 0], np.float32)
    found = task_loss(LANDMARKS, labels, outputs, loss="distance", label_weights=nose)
    np.testing.assert_allclose(found, np.linalg.norm(outputs - labels, axis=-1)[:, 2], rtol=1e-5)


def test_label_weights_balance_the_answers():
    counts = [[10, 30], [40, 40], [0, 7]]
    weights = label_weights(MTFL_ATTRIBUTES, counts)
    totals = weights * counts
    np.testing.assert_allclose(totals[:2, 0], totals[:2, 1])
    np.testing.assert_allclose(totals[:2].sum(axis=1), [40, 80])
    np.testing.assert_allclose(weights[2], [10, 0.5])
    np.testing.assert_allclose(label_weights(POSE, [1, 2, 3, 4, 5], strength=0), np.ones(5))
    weights = label_weights(POSE, [1, 2, 3, 4, 5])
    np.testing.assert_allclose(weights * [1, 2, 3, 4, 5], np.full(5, 3.0), rtol=1e-6)
    with pytest.raises(UserError, match="no classes to weight"):
        label_weights(LANDMARKS, [])


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no loss 'wing' for multiclass tasks; there are: softmax"):
        task_loss(POSE, np.array([0]), np.zeros((1, 5)), loss="wing")
