"""Task-wise early stopping of related tasks.

Zhang et al., "Facial Landmark Detection by Deep Multi-task Learning", ECCV 2014, section 3.3: a
related task that has begun to over-fit would harm the main one, so its loss is switched off.
"""

from collections.abc import Sequence

import numpy as np


def should_stop(
    training: Sequence[float],
    validation: Sequence[float],
    window: int,
    threshold: float,
    scale: float,
) -> bool:
    """Whether a task has reached the point beyond which it would only over-fit.

    The criterion is the product of two terms over the epochs so far: the tendency of the training
    error over the last `k` epochs, `k * median / (sum - k * median)`, which is small while the error
    falls fast, and the generalisation error, `(E_val - min E_tr) / (scale * min E_tr)`.
    The paper leaves a denominator near zero open (an error that stands still, or falls in a
    straight line): here its magnitude is taken as at least 1 % of `k * median`, so that the first
    term never exceeds 100.

    Args:
        training: training error per epoch, oldest first.
        validation: validation error per epoch.
        window: `k`, epochs over which the tendency is measured.
        threshold: `epsilon`; the task stops when the product exceeds it.
        scale: `lambda`.
    """
    if window <= 0 or len(training) < window:
        return False
    recent = np.asarray(training[-window:], np.float64)
    best = max(float(np.min(training)), 1e-12)
    generalisation = (validation[-1] - best) / (scale * best)
    if generalisation <= 0:
        return False
    median = window * max(float(np.median(recent)), 1e-12)
    tendency = median / max(abs(float(recent.sum()) - median), 0.01 * median)
    return tendency * generalisation > threshold
