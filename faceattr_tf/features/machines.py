"""A linear support vector machine for one label: scikit-learn's, its cost chosen on validation.

Imports no Keras, so that processes which fit machines side by side start at once.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.svm import LinearSVC

Machine = tuple[np.ndarray, float, float | None]
"""Weights float64 `[F]`, bias and cost; no cost where there was nothing to fit."""

_SMALL = 1e-2
"""Up to this cost descent in the dual takes a third of the time or less; from there on it may end
before it converges."""


def fit_machine(
    features: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
    held_labels: np.ndarray,
    costs: Sequence[float],
) -> Machine:
    """The machine whose accuracy and balanced accuracy on validation have the greatest sum.

    Args:
        features: standardised, `[N, F]`.
        labels: `[N]`, 1 yes, 0 no, -1 unknown.
        held: the features of validation, `[M, F]`.
        held_labels: their labels, `[M]`.
        costs: the values of C to choose from; of equally good ones the smaller is taken, and their
            median where validation does not have both answers.

    Returns:
        Weights float64 `[F]`, bias and cost. Labels of one sign alone, which no machine can be
        fitted to, give no weights, that sign as the bias (0 where all are unknown) and no cost.
    """
    known, held_known = labels >= 0, held_labels >= 0
    present = np.unique(labels[known])
    if len(present) < 2:
        sign = 2.0 * present[0] - 1.0 if len(present) else 0.0
        return np.zeros(features.shape[1]), sign, None
    comparable = len(np.unique(held_labels[held_known])) == 2
    best, best_score = None, -np.inf
    for cost in sorted(costs if comparable else [np.median(costs)]):
        # The penalty is on the intercept too, which of a rare label would come out too small.
        machine = LinearSVC(C=cost, dual=cost <= _SMALL, intercept_scaling=10.0, random_state=0)
        machine.fit(features[known], labels[known])
        score = 0.0
        if comparable:
            truth, said = held_labels[held_known], machine.predict(held[held_known])
            score = accuracy_score(truth, said) + balanced_accuracy_score(truth, said)
        if score > best_score:
            best = machine.coef_[0].astype(float), float(machine.intercept_[0]), cost
            best_score = score
    return best
