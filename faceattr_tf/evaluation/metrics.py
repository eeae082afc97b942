"""Metrics over a whole set, exact: from labels and a model's outputs to plain numbers.

Everything takes NumPy arrays of all examples at once and returns what JSON can hold. A number that
is not defined (the precision of a label that is never predicted, anything of a label that nobody
gave) is None, never NaN, and is left out of means.
"""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from scipy import special
from sklearn import metrics as sklearn_metrics

from data_pipelines.errors import UserError
from data_pipelines.tasks import CLASS_KINDS, Task, as_classes, most_voted
from faceattr_tf.evaluation import class_metrics, landmark_metrics, transform_metrics
from faceattr_tf.evaluation.class_metrics import false_positives, mean, ratio

EVERYWHERE = ("log", "curves", "summary")


@dataclasses.dataclass(frozen=True)
class Metric:
    """All that is said of a figure, whatever computes it.

    Attributes:
        words: how reports call it.
        lower_is_better: of two values.
        unit: in which it is shown; shares in `%`, everything else as it is.
        digits: shown after the point.
        shown: where it is shown: in the line of a validation (`log`), and among the `curves` and in
            the `summary` of a report.
        guess_of: the metric whose value without any model this is; a guess chooses no model.
        chance: so many classes out of all are what any guess gets right; 0 where that says nothing.
        tuned: thresholds are chosen for it, so that it is shown at those as well as at 0.5.
    """

    words: str
    lower_is_better: bool = False
    unit: str = "%"
    digits: int = 1
    shown: tuple[str, ...] = EVERYWHERE
    guess_of: str = ""
    chance: int = 0
    tuned: bool = False

    @property
    def sign(self) -> int:
        """What makes a lower value the better one."""
        return 1 if self.lower_is_better else -1

    @property
    def scale(self) -> int:
        """What a value is multiplied by to be shown in the unit."""
        return 100 if self.unit == "%" else 1

    @property
    def title(self) -> str:
        """The words at the head of a column or row."""
        words = f"{METRICS[self.guess_of].words}, {self.words}" if self.guess_of else self.words
        return words[0].upper() + words[1:]


def _error(words, unit, digits=2, shown=(), **more) -> Metric:
    return Metric(words, True, unit, digits, shown, **more)


METRICS = {
    "loss": _error("loss", "", 4),
    "false_positive_rate": _error("false positive rate", "%", 2, ("curves", "summary")),
    "accuracy": Metric("accuracy"),
    "majority_accuracy": Metric("majority guess", shown=("curves",), guess_of="accuracy"),
    "balanced_accuracy": Metric("balanced accuracy", chance=1, tuned=True),
    "worst_accuracy": Metric("accuracy of the worst slice"),
    "worst_balanced_accuracy": Metric("balanced accuracy of the worst slice", chance=1),
    "top5_accuracy": Metric("top-5 accuracy", chance=5),
    "accuracy_at_half": Metric("accuracy at 0.5", shown=()),
    "balanced_accuracy_at_half": Metric("balanced accuracy at 0.5", shown=()),
    "precision": Metric("precision", shown=()),
    "recall": Metric("recall", shown=()),
    "precision_no": Metric("precision, no", shown=()),
    "recall_no": Metric("recall, no", shown=()),
    "f1": Metric("F1", shown=()),
    "average_precision": Metric("average precision", shown=("curves",)),
    "roc_auc": Metric("ROC-AUC", shown=("curves",)),
    "within_one": Metric("at most one class off"),
    "majority_within_one": Metric("majority guess", shown=("curves",), guess_of="within_one"),
    "value_mae": _error("error of the expected value", "", 2, EVERYWHERE),
    "median_value_mae": _error("always the median", "", 2, ("curves",), guess_of="value_mae"),
    "votes_cross_entropy": _error("cross-entropy to the votes", "nats", 3, ("curves", "summary")),
    "votes_divergence": _error("divergence from the votes", "nats", 3, EVERYWHERE),
    "mean_error": _error("distance of the class", "places"),
    "mae": _error("mean absolute error", "", 3, EVERYWHERE),
    "median_mae": _error("always the median", "", 3, ("curves",), guess_of="mae"),
    "rmse": _error("root mean square error", "", 3, ("curves",)),
    "r2": Metric("R²", unit="", digits=3, shown=()),
    "nme": _error("mean error / eye distance", "%", 2, EVERYWHERE),
    "failure_rate": _error(
        f"images with more than {100 * landmark_metrics.FAILURE:.0f} %",
        "%",
        1,
        ("curves", "summary"),
    ),
    "corner_error": _error("corner error", "pixels", 2, EVERYWHERE),
    "corner_error_median": _error("corner error, median", "pixels"),
    "corner_error_identity": _error(
        "left as it is", "pixels", shown=("curves",), guess_of="corner_error"
    ),
    "rotation_error": _error("rotation error", "degrees"),
    "scale_error": _error("scale error", "logarithm of the ratio", 3),
    "shift_error": _error("shift error", "pixels"),
}
"""Every figure of a task that is one number -> what is said of it, in the order of reports."""


def shown_in(place: str, keys: Iterable[str]) -> list[str]:
    """Those of `keys`, such as `pose/accuracy`, whose metric is shown in a place (`Metric.shown`)."""
    metrics = {key: METRICS.get(key.rpartition("/")[2]) for key in keys}
    return [key for key, metric in metrics.items() if metric and place in metric.shown]


def choosing() -> list[str]:
    """The metrics by which models may be chosen: all but the guesses, the same for every model."""
    return [name for name, metric in METRICS.items() if not metric.guess_of]


def score_of(values: dict[str, float], metric: str) -> float:
    """A metric of validation, turned so that less is better; infinite where it is undefined.

    Args:
        values: what `validation.validate` measured.
        metric: `loss`, or a task's name, a slash and one of `choosing`.

    Raises:
        UserError: it is no metric by which a model can be chosen.
    """
    name = metric.rpartition("/")[2]
    if name not in choosing():
        raise UserError(
            f"best_metric {metric!r}: {name!r} chooses no model; there are: {', '.join(choosing())}"
        )
    value = values.get(metric, math.nan)
    if math.isnan(value):
        return math.inf
    return METRICS[name].sign * value


def probabilities(task: Task, outputs, temperature=1.0) -> np.ndarray:
    """Sigmoid (multilabel) or softmax (classes) of `outputs / temperature`, in float64.

    Multilabel tasks may have one temperature per label.

    Outputs of other kinds come back unchanged.
    """
    outputs = np.asarray(outputs)
    if task.kind == "multilabel":
        return special.expit(outputs.astype(np.float64) / temperature)
    if task.kind in CLASS_KINDS:
        return special.softmax(outputs.astype(np.float64) / temperature, axis=-1)
    return outputs


def average_mirrored(task: Task, outputs, mirrored_outputs) -> np.ndarray:
    """The mean of the outputs for images and for their mirror images, seen from the former.

    Args:
        task: what is predicted; its `mirror` says which labels swap.
        outputs: what the model gives for the images, `[N, n]`, `[N, n, 2]` or `[N, 2, 3]`.
        mirrored_outputs: what it gives for the same images mirrored left to right.

    Returns:
        Array of the shape of `outputs`.
    """
    mirrored = np.asarray(mirrored_outputs)
    if task.mirror:
        mirrored = mirrored[:, list(task.mirror)]
    if task.kind == "landmarks":
        mirrored = mirrored * np.array([-1, 1], mirrored.dtype)
    if task.kind == "transform":
        # F theta F, where F mirrors both crops.
        mirrored = mirrored * np.array([[1, -1, -1], [-1, 1, 1]], mirrored.dtype)
    return (np.asarray(outputs) + mirrored) / 2


def evaluate_task(
    task: Task,
    labels,
    outputs,
    *,
    thresholds=None,
    temperature=1.0,
    majority=None,
    transforms=None,
    crop_size=None,
) -> dict:
    """All metrics of one task.

    Args:
        task: what is predicted.
        labels: `[N, n]` (multilabel, regression, distribution), `[N]` (multiclass), `[N, n, 2]`
            (landmarks, normalised to the crop) or `[N, 2, 3]` (transform); -1 or NaN where unknown.
        outputs: the model's, `[N, n]`, for landmarks `[N, n, 2]`, for a transform `[N, 2, 3]`.
        thresholds: per label (multilabel), on the probability; a label is yes from there on.
            Default 0.5.
        temperature: divides logits; of multilabel tasks also one per label.
        majority: the most frequent answer in training: per label (multilabel) or one class index.
        transforms: `[N, 2, 3]`, pixels of the crop to pixels of the source image (landmarks).
            Default: errors are measured in the crop.
        crop_size: `(height, width)` of the crop in pixels (landmarks, transform). Default: 2x2,
            that is, a square in normalised units.

    Returns:
        A dict with `kind`, `count` (examples with any known label), of sensitive tasks
        false_positive_rate (of each label, of multiclass the mean over the classes), and
        multilabel: `labels` (name -> count, positives, threshold, accuracy, majority_accuracy,
        balanced_accuracy, the same two `_at_half`, precision, recall, precision_no, recall_no, f1,
        average_precision, roc_auc, confusion `[[tn, fp], [fn, tp]]`) and `mean` over the labels;
        multiclass: accuracy, majority_accuracy, balanced_accuracy (over classes that occur),
        mean_error (of the class index, where classes have an order), confusion (rows: true) and
        `classes` (name -> count, precision, recall, f1); of many classes top5_accuracy instead of
        the last three; where classes stand for numbers (`Task.values`) also within_one, the share
        that is at most one class off, value_mae, the mean absolute difference of the expected value
        from that of the true class, and what the majority and the median of these labels reach;
        distribution: the same of the most voted class, and the mean votes_cross_entropy, of which
        votes_divergence (Kullback-Leibler) is what the votes' own entropy does not explain;
        regression: `labels` (name -> count, mae, median_mae, what the median of these labels has,
        rmse, r2) and `mean`;
        landmarks: what `landmark_metrics.evaluate` gives;
        transform: what `transform_metrics.evaluate` gives.
    """
    labels, outputs = np.asarray(labels), np.asarray(outputs)
    if task.kind == "distribution":
        classes, common = as_classes(task), {"temperature": temperature, "majority": majority}
        result = evaluate_task(classes, most_voted(labels), outputs, **common)
        return result | class_metrics.evaluate_votes(labels, outputs, temperature)
    if task.kind == "multilabel":
        result = _evaluate_multilabel(task, labels, outputs, thresholds, temperature, majority)
    elif task.kind == "multiclass":
        result = class_metrics.evaluate(task, labels, outputs, temperature, majority)
    elif task.kind == "regression":
        result = _evaluate_regression(task, labels, outputs)
    elif task.kind == "transform":
        result = transform_metrics.evaluate(task, labels, outputs, crop_size)
    else:
        result = landmark_metrics.evaluate(task, labels, outputs, transforms, crop_size)
    return {"kind": task.kind, **result}


def _mean_of_labels(rows: dict, left_out=()) -> dict:
    first = next(iter(rows.values()))
    return {
        key: mean(row[key] for row in rows.values())
        for key, value in first.items()
        if key not in left_out and not isinstance(value, list)
    }


def _balanced(recall, recall_no):
    return None if recall is None or recall_no is None else (recall + recall_no) / 2


def _confusion(truth, predicted):
    """`[[tn, fp], [fn, tp]]` of booleans `[N]`."""
    return np.bincount(2 * truth + predicted, minlength=4).reshape(2, 2)


def _accuracies(confusion):
    (tn, fp), (fn, tp) = confusion
    balanced = _balanced(ratio(tp, tp + fn), ratio(tn, tn + fp))
    return ratio(tp + tn, confusion.sum()), balanced


def _evaluate_multilabel(task, labels, outputs, thresholds, temperature, majority):
    scores = probabilities(task, outputs, temperature)
    thresholds = np.full(len(task.labels), 0.5) if thresholds is None else np.asarray(thresholds)
    rows = {}
    for index, name in enumerate(task.labels):
        mask = labels[:, index] >= 0
        truth, score = labels[mask, index].astype(int), scores[mask, index]
        confusion = _confusion(truth, score >= thresholds[index])
        (tn, fp), (fn, tp) = confusion
        accuracy, balanced = _accuracies(confusion)
        accuracy_at_half, balanced_at_half = _accuracies(_confusion(truth, score >= 0.5))
        count, positives = len(truth), int(truth.sum())
        usual = None if majority is None else int(np.asarray(majority)[index])
        ranks = 0 < positives < count
        rows[name] = {
            "count": count,
            **false_positives(task, ratio(fp, tn + fp)),
            "positives": positives,
            "threshold": float(thresholds[index]),
            "accuracy": accuracy,
            "majority_accuracy": None if usual is None else ratio((truth == usual).sum(), count),
            "balanced_accuracy": balanced,
            "accuracy_at_half": accuracy_at_half,
            "balanced_accuracy_at_half": balanced_at_half,
            "precision": ratio(tp, tp + fp),
            "recall": ratio(tp, tp + fn),
            "precision_no": ratio(tn, tn + fn),
            "recall_no": ratio(tn, tn + fp),
            "f1": ratio(2 * tp, 2 * tp + fp + fn),
            "average_precision": float(sklearn_metrics.average_precision_score(truth, score))
            if ranks
            else None,
            "roc_auc": float(sklearn_metrics.roc_auc_score(truth, score)) if ranks else None,
            "confusion": confusion.tolist(),
        }
    return {
        "count": int((labels >= 0).any(axis=1).sum()),
        "labels": rows,
        "mean": _mean_of_labels(rows, left_out=("count", "positives", "threshold")),
    }


def _evaluate_regression(task, labels, outputs):
    rows = {}
    for index, name in enumerate(task.labels):
        mask = ~np.isnan(labels[:, index])
        truth = labels[mask, index].astype(np.float64)
        difference = outputs[mask, index] - truth
        count, spread = len(truth), np.square(truth - truth.mean()).sum() if len(truth) else 0
        mean_square = ratio(np.square(difference).sum(), count)
        unexplained = ratio(np.square(difference).sum(), spread)
        rows[name] = {
            "count": count,
            "mae": ratio(np.abs(difference).sum(), count),
            "median_mae": ratio(np.abs(truth - np.median(truth)).sum(), count) if count else None,
            "rmse": None if mean_square is None else math.sqrt(mean_square),
            "r2": None if unexplained is None else 1 - unexplained,
        }
    return {
        "count": int((~np.isnan(labels)).any(axis=1).sum()),
        "labels": rows,
        "mean": _mean_of_labels(rows, left_out=("count",)),
    }
