"""Whether two images show one person: scores of pairs, and the protocol of LFW on them.

Sources: Huang et al. 2007 (Labeled Faces in the Wild, view 2: ten folds, a threshold chosen on nine
of them; training data of one's own is "unrestricted"); Flickr, section 4.2, for the cosine of
features.
"""

import dataclasses
import math

import numpy as np
from sklearn import metrics as sklearn_metrics

from data_pipelines.errors import UserError

FALSE_RATES = (1e-1, 1e-2, 1e-3)
"""Shares of pairs of two people called one, at which the share of found same pairs is told."""

_CHUNK = 128  # pairs whose features are held in double precision at a time


@dataclasses.dataclass(frozen=True)
class Verification:
    """Pairs that were each judged by what others taught.

    Attributes:
        scores: float64 `[P]`, the cosine of each pair.
        same: bool `[P]`, whether it shows one person.
        folds: int `[P]`, counted from 0.
        thresholds: `[K]`, from which on a pair of the fold is called the same.
    """

    scores: np.ndarray
    same: np.ndarray
    folds: np.ndarray
    thresholds: np.ndarray

    @property
    def said(self) -> np.ndarray:
        """Bool `[P]`: which pairs are called the same."""
        return self.scores >= self.thresholds[self.folds]

    @property
    def accuracies(self) -> np.ndarray:
        """Share of the pairs that are right in each fold, `[K]`."""
        right = self.said == self.same
        return np.bincount(self.folds, right) / np.bincount(self.folds)

    def roc(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positive rates over all thresholds, from 0 to 1; equal scores together."""
        false, true, _ = sklearn_metrics.roc_curve(self.same, self.scores, drop_intermediate=False)
        return false, true

    def true_rates(self, rates) -> np.ndarray:
        """The largest true positive rates at no more than some false positive rates."""
        false, true = self.roc()
        return true[np.searchsorted(false, rates, side="right") - 1]

    def figures(self) -> dict:
        """All figures, ready for JSON.

        Returns:
            `accuracy`, the mean over folds, with its `standard_error` (None of a single fold);
            `accuracies` and `thresholds` of the folds; at these, `false_same` of the different
            pairs and `false_different` of the same ones; and over all thresholds `area` under the
            ROC curve, `equal_error`, where both kinds of error are as frequent, and `true_rates`:
            false positive rate, as text -> the largest true positive rate at no more than it,
            None where there are too few different pairs to measure it.
        """
        accuracies, said = self.accuracies, self.said
        false, true = self.roc()
        rates = zip(FALSE_RATES, self.true_rates(FALSE_RATES).tolist(), strict=True)
        different = int((~self.same).sum())
        return {
            "accuracy": float(accuracies.mean()),
            "standard_error": float(accuracies.std(ddof=1) / math.sqrt(len(accuracies)))
            if len(accuracies) > 1
            else None,
            "accuracies": accuracies.tolist(),
            "thresholds": self.thresholds.tolist(),
            "false_same": float(said[~self.same].mean()),
            "false_different": float((~said[self.same]).mean()),
            "area": float(sklearn_metrics.auc(false, true)),
            "equal_error": float(np.interp(0, false + true - 1, false)),
            "true_rates": {
                f"{rate:g}": found if different >= 1 / rate else None for rate, found in rates
            },
        }


def verify(
    features: np.ndarray,
    rows: np.ndarray,
    same: np.ndarray,
    folds: np.ndarray,
    *,
    centre: bool = False,
    development: tuple[np.ndarray, np.ndarray] | None = None,
) -> Verification:
    """The protocol of LFW: every fold is judged by what the other folds taught.

    Args:
        features: `[N, F]` of the images.
        rows: int `[P, 2]`, the images of each pair.
        same: bool `[P]`, whether it shows one person.
        folds: int `[P]`, counted from 0; without `development` at least two.
        centre: subtract the mean of the features before the cosine: that of the images by which
            the threshold is chosen, never of one that is in the tested fold.
        development: rows and same of other pairs, by which thresholds and means are chosen in
            place of the other folds.

    Raises:
        UserError: every image that could make up the mean is in the tested fold.
    """
    thresholds, scores = [], np.empty(len(rows))
    for fold in range(folds.max() + 1):
        tested = folds == fold
        taught, truth = development or (rows[~tested], same[~tested])
        mean = mean_features(features, taught, without=rows[tested]) if centre else None
        thresholds.append(best_threshold(cosines(features, taught, mean), truth))
        scores[tested] = cosines(features, rows[tested], mean)
    return Verification(scores, same, folds, np.array(thresholds))


def cosines(features: np.ndarray, rows: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """The cosine of the features of each pair: float64 `[P]`; 0 where one of both is zero.

    Args:
        features: `[N, F]`.
        rows: int `[P, 2]`.
        mean: `[F]`, subtracted before.
    """
    found = np.empty(len(rows))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        one, other = features[rows[part].T].astype(np.float64) - (0 if mean is None else mean)
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        found[part] = (one * other).sum(axis=1) / np.where(norms > 0, norms, 1)
    return found


def mean_features(features: np.ndarray, rows: np.ndarray, without=()) -> np.ndarray:
    """The mean over the images of pairs, each counted once, float64 `[F]`.

    Args:
        features: `[N, F]`.
        rows: int `[P, 2]`, the pairs.
        without: images that are left out.

    Raises:
        UserError: no image is left.
    """
    images = np.setdiff1d(rows, without)
    if not len(images):
        raise UserError("every image by which the mean would be chosen is in the tested fold")
    return features[images].mean(axis=0, dtype=np.float64)


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    """The threshold that judges most pairs right, those at or above it being called the same.

    It lies halfway between two scores; of several that are as good it is the lowest.
    """
    values = np.unique(scores)
    middles = (values[:-1] + values[1:]) / 2
    # Between neighbours in double precision there is no number: the upper one parts them, too.
    middles = np.where(middles > values[:-1], middles, values[1:])
    cuts = np.concatenate([values[:1], middles, [np.nextafter(values[-1], np.inf)]])
    below = [np.searchsorted(np.sort(scores[same == kind]), cuts) for kind in (False, True)]
    return float(cuts[np.argmax(below[0] - below[1])])
