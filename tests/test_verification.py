"""Pairs of images, their scores, and the protocol of LFW, against scikit-learn and plain loops."""

import itertools
import json

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn import metrics as sklearn_metrics

from data_pipelines.errors import UserError
from faceattr_tf.evaluation.verification import (
    Verification,
    best_threshold,
    cosines,
    mean_features,
    verify,
)


def drawn(seed, people=12, folds=3, width=5, noise=0.7):
    """Features of three images a person, far from the origin, and pairs in folds of own people."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(people, width)), 3, axis=0)
    features = (3 + centres + noise * rng.normal(size=centres.shape)).astype(np.float32)
    rows, same, fold = [], [], []
    for person in range(people):
        own, other = 3 * person, 3 * ((person + folds) % people)
        for pair, alike in (((own, own + 1), 1), ((own, own + 2), 1), ((own, other), 0)):
            rows.append(pair)
            same.append(bool(alike))
            fold.append(person % folds)
    return features, np.array(rows), np.array(same), np.array(fold)


def cosine(one, other):
    return float(one @ other) / np.sqrt(float(one @ one) * float(other @ other))


def test_cosines_are_those_of_the_centred_features():
    features, rows, _, _ = drawn(0, people=100)  # more pairs than are taken at a time
    features = features.astype(np.float64)
    for mean in (None, features.mean(axis=0)):
        moved = features if mean is None else features - mean
        expected = [cosine(moved[one], moved[other]) for one, other in rows]
        np.testing.assert_allclose(cosines(features, rows, mean), expected, rtol=1e-12)
    pixels = np.array([[250, 1], [1, 250], [0, 0]], np.uint8)
    np.testing.assert_allclose(cosines(pixels, np.array([[0, 1], [0, 2]])), [500 / 62501, 0])


def right(scores, same, threshold):
    return sum((score >= threshold) == alike for score, alike in zip(scores, same, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_no_threshold_does_better_and_none_as_good_is_lower(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 5, rng.integers(1, 12)) / 4  # most scores occur several times
    same = rng.random(len(scores)) < 0.5
    found = best_threshold(scores, same)
    values = sorted(set(scores))
    cuts = [values[0], *map(np.mean, itertools.pairwise(values)), values[-1] + 1e-9]
    best = max(right(scores, same, cut) for cut in cuts)
    assert right(scores, same, found) == best
    lowest = next(cut for cut in cuts if right(scores, same, cut) == best)
    assert found == pytest.approx(lowest, abs=1e-8)


def test_a_threshold_parts_scores_between_which_there_is_no_number():
    low = 0.5
    scores = np.array([low, np.nextafter(low, 1)])
    assert right(scores, [False, True], best_threshold(scores, np.array([False, True]))) == 2
    assert right(scores, [False, False], best_threshold(scores, np.array([False, False]))) == 2


@pytest.mark.parametrize("centre", [False, True])
def test_every_fold_is_judged_by_the_others(centre):
    features, rows, same, folds = drawn(1)
    found = verify(features, rows, same, folds, centre=centre)
    means = []
    for fold in range(3):
        others = folds != fold
        images = sorted(set(rows[others].ravel()) - set(rows[~others].ravel()))
        mean = np.mean([features[image].astype(float) for image in images], axis=0) * centre
        scores = [cosine(features[a] - mean, features[b] - mean) for a, b in rows]
        threshold = best_threshold(np.array(scores)[others], same[others])
        assert found.thresholds[fold] == pytest.approx(threshold, abs=1e-9)
        tested = np.flatnonzero(~others)
        np.testing.assert_allclose(found.scores[tested], np.array(scores)[tested], atol=1e-9)
        means.append(np.mean([(scores[i] >= threshold) == same[i] for i in tested]))
    figures = found.figures()
    assert figures["accuracies"] == pytest.approx(means)
    assert figures["accuracy"] == pytest.approx(np.mean(means))
    deviation = np.sqrt(sum((mean - np.mean(means)) ** 2 for mean in means) / 2)
    assert figures["standard_error"] == pytest.approx(deviation / np.sqrt(3))
    json.dumps(figures, allow_nan=False)


def test_what_is_tested_has_no_part_in_mean_and_threshold():
    features, rows, same, folds = drawn(2)
    before = verify(features, rows, same, folds, centre=True)
    tested = rows[folds == 0].ravel()
    features[tested] = np.random.default_rng(0).normal(size=features[tested].shape)
    after = verify(features, rows, same, folds, centre=True)
    assert after.thresholds[0] == before.thresholds[0]
    assert after.thresholds[1] != before.thresholds[1]
    # An image that others show too is left out of their mean.
    again = np.concatenate([rows, [[tested[0], rows[folds == 1][0, 0]]]])
    shown = verify(features, again, np.append(same, False), np.append(folds, 1), centre=True)
    images = np.setdiff1d(again[np.append(folds, 1) != 0], tested)
    np.testing.assert_allclose(
        shown.scores[:2], cosines(features, rows[:2], features[images].mean(0, float)), rtol=1e-9
    )


def test_development_pairs_take_the_place_of_the_other_folds():
    features, rows, same, folds = drawn(3)
    taught = folds == 0
    chosen = best_threshold(cosines(features, rows[taught]), same[taught])
    one = np.zeros((~taught).sum(), int)
    given = {"development": (rows[taught], same[taught])}
    found = verify(features, rows[~taught], same[~taught], one, **given)
    assert found.thresholds.tolist() == [chosen]
    assert found.figures()["standard_error"] is None
    with pytest.raises(UserError, match="every image by which the mean would be chosen"):
        mean_features(features, rows[:2], without=rows[:3])


@pytest.mark.parametrize("ties", [False, True])
def test_rates_are_those_of_scikit_learn_and_of_counting(ties):
    rng = np.random.default_rng(4)
    same = np.arange(2400) < 1200
    scores = rng.normal(size=2400) + 1.5 * same
    scores = np.round(scores, 1) if ties else scores
    folds = np.arange(2400) % 4
    figures = Verification(scores, same, folds, np.full(4, 0.7)).figures()
    assert figures["area"] == pytest.approx(sklearn_metrics.roc_auc_score(same, scores))
    assert figures["false_same"] == (scores[1200:] >= 0.7).mean()
    assert figures["false_different"] == (scores[:1200] < 0.7).mean()
    for rate in (0.1, 0.01, 0.001):
        cuts = np.append(np.unique(scores), np.inf)
        allowed = [cut for cut in cuts if (scores[1200:] >= cut).sum() <= 1200 * rate]
        expected = max((scores[:1200] >= cut).sum() for cut in allowed) / 1200
        assert figures["true_rates"][f"{rate:g}"] == expected
    false, true, _ = sklearn_metrics.roc_curve(same, scores)
    expected = brentq(lambda x: 1 - x - np.interp(x, false, true), 0, 1)
    assert figures["equal_error"] == pytest.approx(expected, abs=1e-6)


def test_a_rate_of_which_there_are_too_few_pairs_is_not_told():
    scores, same = np.arange(200) / 200, np.arange(200) % 2 == 0
    found = Verification(scores, same, np.zeros(200, int), np.array([0.5])).figures()
    assert found["true_rates"]["0.001"] is None
    assert found["true_rates"]["0.01"] is not None
