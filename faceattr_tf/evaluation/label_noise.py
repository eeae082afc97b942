"""Which labels are likely wrong, one attribute at a time, by what the images of other people say.

A ridge regression on the features of a network is fitted to the labels of some people and scores
the images of the others. A logistic function that does not fall below the share of the no that are
labelled yes, nor rise above one minus the share of the yes that are labelled no (Copas, "Binary
regression models for contaminated data", 1988), turns a score and the label into the probability
that the label is wrong. Both shares are counted where the scores leave least doubt, as confident
learning does (Northcutt, Jiang and Chuang, "Confident learning", JAIR 2021).

What the features cannot tell counts as noise, so that the shares are rather too high; and a network
that has learned these very labels repeats their mistakes.
"""

import dataclasses

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

FOLDS = 5
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Of the squared weights, per image; of standardised features."""

SUREST = 0.25
"""Share of the yes, and of the no, among whose clearest scores wrong labels are counted. The fewer,
the less counts that is merely hard to tell, and the more chance; where labels of hard pictures are
wrong more often than others, which is no difference to the scores, more find more."""

FEWEST = 10
"""Labels of yes, and of no, from which on an attribute is judged."""

_MOST = 0.45
"""No share of wrong labels is estimated higher: beyond a half, yes would mean no."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is known of the labels of one attribute.

    Attributes:
        given: int `[N]`, the labels: 1 yes, 0 no, -1 unknown.
        wrong: float `[N]`, probability that the label is wrong; NaN where it is unknown.
        yes: float `[N]`, probability of yes by the image alone.
        no_as_yes: estimated share of the no that are labelled yes.
        yes_as_no: estimated share of the yes that are labelled no.
        learned: balanced accuracy that the scores have by their own probabilities.
    """

    given: np.ndarray
    wrong: np.ndarray
    yes: np.ndarray
    no_as_yes: float
    yes_as_no: float
    learned: float

    @property
    def ceiling(self) -> float:
        """Estimated accuracy that perfect answers have on these labels."""
        labels = self.given[self.given >= 0]
        share = _true_share((labels == 1).mean(), self.no_as_yes, self.yes_as_no)
        return float(1 - (1 - share) * self.no_as_yes - share * self.yes_as_no)


def out_of_fold_scores(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """How much every image looks like a yes, by the labels of other groups.

    Ridge regressions to all labels at once; the penalty of each is the one whose scores correlate
    most with the labels. Images whose label is unknown count as neither yes nor no.

    Args:
        features: float `[N, F]`.
        labels: int `[N, L]`, 1 yes, 0 no, -1 unknown.
        groups: `[N]`, what is kept together: the person, or an image with its copies.
        folds: parts of the groups.
        seed: of the parts.

    Returns:
        float `[N, L]`.
    """
    features = np.asarray(features, np.float32)
    features = features - features.mean(axis=0)
    features /= np.maximum(features.std(axis=0), 1e-6)
    names, group = np.unique(groups, return_inverse=True)
    fold = (np.random.default_rng(seed).permutation(len(names)) % folds)[group]
    known = labels >= 0
    scores = np.zeros((len(PENALTIES), *labels.shape), np.float32)
    for held in (fold == number for number in range(folds)):
        taught = features[~held]
        share = _mean(labels[~held], known[~held])
        target = np.where(known[~held], labels[~held] - share, 0).astype(np.float32)
        values, vectors = np.linalg.eigh((taught.T @ taught).astype(np.float64))
        target = vectors.T @ (taught.T @ target)
        shown = features[held] @ vectors
        for place, penalty in enumerate(PENALTIES):
            weights = target / (values + penalty * len(taught))[:, None]
            scores[place, held] = shown @ weights
    signs = np.where(known, labels - _mean(labels, known), 0)
    of_known = np.where(known, scores, 0)
    centred = np.where(known, scores - of_known.sum(axis=1, keepdims=True) / known.sum(axis=0), 0)
    length = np.sqrt((centred**2).sum(axis=1))
    agreement = (centred * signs).sum(axis=1) / np.maximum(length, 1e-12)
    return np.take_along_axis(scores, agreement.argmax(axis=0)[None, None], axis=0)[0]


def _mean(labels: np.ndarray, known: np.ndarray) -> np.ndarray:
    return np.where(known, labels, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def judge_labels(scores: np.ndarray, given: np.ndarray, surest: float = SUREST) -> Judgement | None:
    """How likely every label of one attribute is wrong.

    Args:
        scores: float `[N]`, the higher the more like a yes, by other images' labels.
        given: int `[N]`, 1 yes, 0 no, -1 unknown.
        surest: see `SUREST`.

    Returns:
        None where fewer than `FEWEST` labels say yes, or no.
    """
    known = given >= 0
    labels = given[known]
    if min(np.count_nonzero(labels == 1), np.count_nonzero(labels == 0)) < FEWEST:
        return None
    deviation = max(float(scores[known].std()), 1e-12)
    scores = (scores.astype(np.float64) - scores[known].mean()) / deviation
    rates = wrong_shares(scores[known], labels, surest)
    slope, offset = _fit(scores[known], labels, *rates)
    yes = expit(slope * scores + offset)
    wrong = np.where(known, wrong_label(yes, given, *rates), np.nan)
    return Judgement(given, wrong, yes, *rates, _learned(yes[known]))


def wrong_shares(
    scores: np.ndarray, labels: np.ndarray, surest: float = SUREST
) -> tuple[float, float]:
    """Shares of the no that are labelled yes, and of the yes that are labelled no.

    How many are truly yes follows from the shares, and who the surest of them are from how many
    there are, so that they are counted again until nothing changes.

    Args:
        scores: float `[N]`.
        labels: int `[N]`, 1 yes, 0 no.
        surest: see `SUREST`.
    """
    ordered = labels[np.argsort(scores, kind="stable")]
    count, before, rates = len(labels), np.concatenate([[0], np.cumsum(ordered)]), (0.0, 0.0)
    for _ in range(50):
        yes = _true_share(labels.mean(), *rates) * count
        low, high = (max(1, round(surest * part)) for part in (count - yes, yes))
        # Half a label more on either side: no count is so clean that nothing else is possible.
        found = before[low], high - (before[-1] - before[count - high])
        pairs = zip(found, (low, high), strict=True)
        renewed = tuple(float(min(_MOST, (n + 0.5) / (of + 1))) for n, of in pairs)
        if renewed == rates:
            break
        rates = renewed
    return rates


def _true_share(labelled: float, no_as_yes: float, yes_as_no: float) -> float:
    """Share of the yes among all, from the share that is labelled yes."""
    return float(np.clip((labelled - no_as_yes) / (1 - no_as_yes - yes_as_no), 0.0, 1.0))


def _fit(scores, labels, no_as_yes, yes_as_no) -> tuple[float, float]:
    """Slope and offset of the logistic function between the shares of wrong labels."""
    room = 1 - no_as_yes - yes_as_no

    def loss(values):
        yes = expit(values[0] * scores + values[1])
        labelled = np.clip(no_as_yes + room * yes, 1e-9, 1 - 1e-9)
        slope = (1 - labels) / (1 - labelled) - labels / labelled
        slope *= room * yes * (1 - yes)
        value = -np.where(labels == 1, np.log(labelled), np.log(1 - labelled)).mean()
        return value, np.array([(slope * scores).mean(), slope.mean()])

    share = _true_share(labels.mean(), no_as_yes, yes_as_no)
    share = np.clip(share, 1 / len(labels), 1 - 1 / len(labels))
    start = (2.0, np.log(share / (1 - share)))
    bounds = ((0.0, 100.0), (-100.0, 100.0))  # images without any doubt have no finite slope
    return tuple(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x)


def wrong_label(yes, given, no_as_yes: float, yes_as_no: float) -> np.ndarray:
    """Probability that a label is wrong, by Bayes' rule.

    Args:
        yes: float `[N]`, probability of yes by the image alone.
        given: int `[N]`, 1 yes, else no.
        no_as_yes, yes_as_no: shares of the no that are labelled yes, and the reverse.
    """
    no = 1 - yes
    of_yes = no * no_as_yes / np.maximum(no * no_as_yes + yes * (1 - yes_as_no), 1e-12)
    of_no = yes * yes_as_no / np.maximum(yes * yes_as_no + no * (1 - no_as_yes), 1e-12)
    return np.where(given == 1, of_yes, of_no)


def _learned(yes: np.ndarray) -> float:
    """Balanced accuracy if every probability of yes is right, cut at the share of yes."""
    said, no = yes >= yes.mean(), 1 - yes
    return float((yes[said].sum() / yes.sum() + no[~said].sum() / no.sum()) / 2)
