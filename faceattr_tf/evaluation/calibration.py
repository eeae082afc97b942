"""What is chosen on validation after training: one temperature per task, one threshold per label."""

import numpy as np
from scipy import optimize, special

from data_pipelines.tasks import CLASS_KINDS, Task
from faceattr_tf.evaluation.metrics import probabilities


def calibrate(task: Task, labels, outputs) -> dict:
    """Temperature and thresholds of a task, as a workdir stores them.

    Args:
        task: what is predicted.
        labels: labels of the validation examples, shaped as `metrics.evaluate_task` takes them.
        outputs: the model's for them.

    Returns:
        `{"temperature": float, "thresholds": [float, ...]}`, ready for JSON.
    """
    temperature = fit_temperature(task, labels, outputs)
    thresholds = choose_thresholds(task, labels, outputs, temperature)
    return {"temperature": temperature, "thresholds": thresholds.tolist()}


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
        # log(1 + exp(-margin)), the margin being positive where the sign is right.
        margins = np.where(labels == 1, logits, -logits)[mask]

        def cross_entropy(temperature):
            return np.logaddexp(0, -margins / temperature).mean()
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


def choose_thresholds(task: Task, labels, logits, temperature: float = 1.0) -> np.ndarray:
    """Per label the threshold on the probability that maximises balanced accuracy.

    Candidates are 0.5 and the middles between neighbouring probabilities; of equally good ones the
    nearest to 0.5 wins. A label that is only ever yes or only ever no keeps 0.5.

    Args:
        task: what is predicted.
        labels: `[N, n]`, -1 where unknown.
        logits: `[N, n]`.
        temperature: divides the logits.

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
