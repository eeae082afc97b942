"""Wrong labels: planted ones are found and counted, and nobody is judged by their own pictures."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import Ridge

from faceattr_tf.evaluation.label_noise import (
    FEWEST,
    PENALTIES,
    judge_labels,
    out_of_fold_scores,
    wrong_label,
    wrong_shares,
)

RANDOM = np.random.default_rng(3)
PEOPLE = np.repeat(np.arange(3000), 2)
FEATURES = RANDOM.normal(size=(6000, 12)) * np.linspace(1, 20, 12)
TRUTH = (FEATURES[:, 0] - FEATURES[:, 2] / 3 + RANDOM.normal(size=6000) / 8 > 0.4).astype(int)


@pytest.mark.parametrize("no_as_yes, yes_as_no", [(0.1, 0.1), (0.05, 0.0), (0.0, 0.2)])
def test_planted_mistakes_are_found_and_counted(no_as_yes, yes_as_no):
    rate = np.where(TRUTH == 1, yes_as_no, no_as_yes)
    wrong = np.random.default_rng(0).random(len(TRUTH)) < rate
    given = np.where(wrong, 1 - TRUTH, TRUTH)
    scores = out_of_fold_scores(FEATURES, given[:, None], PEOPLE)[:, 0]
    judgement = judge_labels(scores, given)
    found = judgement.wrong >= 0.5
    assert (found & wrong).sum() >= 0.8 * wrong.sum()
    assert (found & wrong).sum() >= 0.8 * found.sum()
    assert judgement.wrong[found].sum() == pytest.approx((found & wrong).sum(), rel=0.2)
    shares = judgement.no_as_yes, judgement.yes_as_no
    assert shares == pytest.approx((no_as_yes, yes_as_no), abs=0.03)
    assert judgement.ceiling == pytest.approx(1 - wrong.mean(), abs=0.02)
    assert judgement.learned > 0.9


CONFIDENT_JOINT = 0.0665, 0.2510
"""Shares of the no that are labelled yes, and of the yes that are labelled no, which cleanlab 2.9.0
estimates by `estimate_latent(compute_confident_joint(given, probabilities), given)` on these labels."""

FIND_LABEL_ISSUES = 232, 505
"""Wrong labels among those that its `find_label_issues` names, and how many these are."""


def test_mistakes_are_counted_nearer_to_the_truth_than_by_the_confident_joint():
    random = np.random.default_rng(11)
    truth = random.random(4000) < 0.3
    scores = np.where(truth, 1.2, -1.0) + random.normal(size=4000)
    wrong = random.random(4000) < np.where(truth, 0.15, 0.04)
    given = np.where(wrong, ~truth, truth).astype(int)
    judgement = judge_labels(scores, given)  # cleanlab was given expit(2 * scores - 0.5)
    ours = judgement.no_as_yes, judgement.yes_as_no
    for counted, theirs, share in zip(
        ours, CONFIDENT_JOINT, (wrong[~truth].mean(), wrong[truth].mean()), strict=True
    ):
        assert abs(counted - share) < abs(theirs - share) / 4
    # As many as cleanlab found are found with fewer false alarms.
    surest = np.argsort(-judgement.wrong)
    needed = 1 + np.flatnonzero(np.cumsum(wrong[surest]) == FIND_LABEL_ISSUES[0])[0]
    assert needed < FIND_LABEL_ISSUES[1]


def test_clean_labels_raise_hardly_a_suspicion():
    scores = out_of_fold_scores(FEATURES, TRUTH[:, None], PEOPLE)[:, 0]
    judgement = judge_labels(scores, TRUTH)
    assert judgement.ceiling > 0.99 and (judgement.wrong >= 0.5).mean() < 0.005


def test_what_cannot_be_told_is_not_learned():
    given = np.random.default_rng(1).integers(0, 2, len(PEOPLE))
    scores = out_of_fold_scores(FEATURES, given[:, None], PEOPLE)[:, 0]
    assert judge_labels(scores, given).learned < 0.75


def test_the_probability_is_that_of_bayes():
    random = np.random.default_rng(2)
    yes = expit(random.normal(0, 3, 400_000))
    truth = random.random(len(yes)) < yes
    wrong = random.random(len(yes)) < np.where(truth, 0.3, 0.1)
    given = np.where(wrong, ~truth, truth).astype(int)
    said = wrong_label(yes, given, 0.1, 0.3)
    for low in np.arange(0, 1, 0.2):
        near = (said >= low) & (said < low + 0.2)
        assert wrong[near].mean() == pytest.approx(said[near].mean(), abs=0.01)
    scores = np.log(yes / (1 - yes))
    assert wrong_shares(scores, given) == pytest.approx((0.1, 0.3), abs=0.05)


def test_scores_are_those_of_ridge_regressions_to_other_people():
    labels = np.stack([TRUTH, 1 - TRUTH, TRUTH], axis=1)
    labels[::3, 2] = -1
    scores = out_of_fold_scores(FEATURES, labels, PEOPLE, folds=2)
    assert np.array_equal(scores[:, 0], -scores[:, 1])
    standard = (FEATURES - FEATURES.mean(0)) / FEATURES.std(0)
    fold = (np.random.default_rng(0).permutation(3000) % 2)[PEOPLE]
    taught = fold == 1
    near = [
        np.abs(
            Ridge(penalty * taught.sum(), fit_intercept=False)
            .fit(standard[taught], TRUTH[taught] - TRUTH[taught].mean())
            .predict(standard[~taught])
            - scores[~taught, 0]
        ).max()
        for penalty in PENALTIES
    ]
    assert min(near) < 1e-5
    # Whoever's label changes, their own scores stay.
    changed = labels.copy()
    changed[:2] = 1 - changed[:2]
    again = out_of_fold_scores(FEATURES, changed, PEOPLE, folds=2)
    np.testing.assert_allclose(again[:2, 0], scores[:2, 0], atol=1e-6)
    assert np.corrcoef(scores[:, 2], scores[:, 0])[0, 1] > 0.98


def test_too_few_labels_of_a_kind_are_not_judged_and_unknown_ones_not_wrong():
    given = np.where(np.arange(6000) < FEWEST - 1, 1, 0)
    assert judge_labels(FEATURES[:, 0], given) is None
    given = TRUTH.copy()
    given[:50] = -1
    judgement = judge_labels(FEATURES[:, 0], given)
    assert np.isnan(judgement.wrong[:50]).all() and np.isfinite(judgement.wrong[50:]).all()
    assert np.isfinite(judgement.yes).all()


def test_scores_without_any_doubt_are_judged():
    judgement = judge_labels(TRUTH.astype(float), TRUTH)
    assert not (judgement.wrong >= 0.5).any() and judgement.ceiling > 0.99
