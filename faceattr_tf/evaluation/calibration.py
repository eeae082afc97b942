"""What is chosen on validation after training: temperatures, and one threshold per label.

A task of yes/no labels has one temperature, or one per label where that is better on images that
it was not fitted on. Heads that were trained together by cross-entropy share one: a temperature
each fits noise. Machines that were fitted one by one do not. An offset per label besides (Platt's
scaling) was no better on held-out images in either case, see README.
"""

import numpy as np
from scipy import optimize, special

from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.metrics import probabilities

FOLDS = 5


def calibrate(task: Task, labels, outputs) -> dict:
    """Temperature and thresholds of a task, as a workdir stores them.

    Args:
        task: what is predicted.
        labels: labels of the validation examples, shaped as `metrics.evaluate_task` takes them.
        outputs: the model's for them.

    Returns:
        `{"temperature": float or [float, ...], "thresholds": [float, ...]}`, ready for JSON.
    """
    temperature = choose_temperature(task, labels, outputs)
    thresholds = choose_thresholds(task, labels, outputs, temperature)
    return {"temperature": temperature, "thresholds": thresholds.tolist()}


def choose_temperature(task: Task, labels, logits) -> float | list[float]:
    """One temperature for a task, or of yes/no labels one for each, if that is better.

    Both are fitted on four fifths of the images and judged on the last, five times. Those per label
    are taken where the mean cross-entropy of the images is lower by more than the standard error of
    the difference.

    Args:
        task: what is predicted.
        labels, logits: as of `fit_temperature`.
    """
    one = fit_temperature(task, labels, logits)
    if task.kind != "multilabel" or len(task.labels) < 2:
        return one
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    gain = np.full(labels.shape, np.nan)
    for held_out in range(FOLDS):
        rest, own = fold != held_out, fold == held_out
        common = fit_temperature(task, labels[rest], logits[rest])
        single = _per_label(task, labels[rest], logits[rest])
        gain[own] = _cross_entropies(labels[own], logits[own] / common)
        gain[own] -= _cross_entropies(labels[own], logits[own] / single)
    known = ~np.isnan(gain)
    some = known.any(axis=1)
    gains = np.where(known, gain, 0)[some].sum(axis=1) / known[some].sum(axis=1)
    if len(gains) < FOLDS or gains.mean() <= gains.std(ddof=1) / np.sqrt(len(gains)):
        return one
    return _per_label(task, labels, logits).tolist()


def _per_label(task: Task, labels, logits) -> np.ndarray:
    return np.array(
        [
            fit_temperature(task.select([label]), labels[:, [index]], logits[:, [index]])
            for index, label in enumerate(task.labels)
        ]
    )


def _cross_entropies(labels, logits) -> np.ndarray:
    """Of every yes/no label, NaN where it is unknown."""
    # log(1 + exp(-margin)), the margin being positive where the sign is right.
    values = np.logaddexp(0, -np.where(labels == 1, logits, -logits))
    return np.where(labels >= 0, values, np.nan)


def fit_temperature(task: Task, labels, logits) -> float:
    """The temperature that minimises the cross-entropy (Guo et al., ICML 2017).

    Args:
        task: what is predicted.
        labels: `[N, n]` or `[N]`, -1 where unknown, or of a distribution NaN.
        logits: `[N, n]`; probabilities are the sigmoid or softmax of `logits / temperature`.

    Returns:
        A temperature in [0.05, 20]; 1 for kinds without probabilities and where nothing is known.
    """
    labels, logits = np.asarray(labels), np.asarray(logits, np.float64)
    mask = labels >= 0
    if task.kind not in ("multilabel", *CLASS_KINDS) or not mask.any():
        return 1.0
    if task.kind == "multilabel":
        labels, logits = labels[mask], logits[mask]

        def cross_entropy(temperature):
            return _cross_entropies(labels, logits / temperature).mean()
    elif task.kind == "distribution":
        shares, logits = labels[mask.all(axis=1)], logits[mask.all(axis=1)]

        def cross_entropy(temperature):
            return -(shares * special.log_softmax(logits / temperature, axis=1)).sum(axis=1).mean()
    else:
        logits, classes = logits[mask], labels[mask].astype(int)[:, None]

        def cross_entropy(temperature):
            logs = special.log_softmax(logits / temperature, axis=1)
            return -np.take_along_axis(logs, classes, axis=1).mean()

    found = optimize.minimize_scalar(
        lambda log: cross_entropy(np.exp(log)), bounds=np.log([0.05, 20]), method="bounded"
    )
    return float(np.exp(found.x))


def choose_thresholds(task: Task, labels, logits, temperature=1.0) -> np.ndarray:
    """Per label the threshold on the probability that maximises balanced accuracy.

    Candidates are 0.5 and the middles between neighbouring probabilities; of equally good ones the
    nearest to 0.5 wins. A label that is only ever yes or only ever no keeps 0.5.

    Args:
        task: what is predicted.
        labels: `[N, n]`, -1 where unknown.
        logits: `[N, n]`.
        temperature: divides the logits, one for all or one per label.

    Returns:
        float64 `[n]`; empty for tasks that are not multilabel.
    """
    if task.kind != "multilabel":
        return np.empty(0)
    labels = np.asarray(labels)
    scores = probabilities(task, np.asarray(logits, np.float64), temperature)
    return np.array([_best_threshold(labels[:, i], scores[:, i]) for i in range(len(task.labels))])


def _best_threshold(labels, scores) -> float:
    yes, no = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if not len(yes) or not len(no):
        return 0.5
    values = np.unique(np.concatenate([yes, no]))
    candidates = np.append((values[:-1] + values[1:]) / 2, 0.5)
    true_yes = len(yes) - np.searchsorted(yes, candidates)
    true_no = np.searchsorted(no, candidates)
    # Balanced accuracy times 2 |yes| |no|, in whole numbers so that ties are exact.
    quality = true_yes * len(no) + true_no * len(yes)
    best = candidates[quality == quality.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])
