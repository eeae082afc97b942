"""The part of a recipe that says for whom a model is not to be worse."""

import dataclasses


@dataclasses.dataclass
class Slices:
    """Images weigh in the losses of the tasks by the slice they are in.

    Their mean weight is 1. Images in no slice, since a label is unknown, weigh 1; how many these
    are is said when training begins. An image that is shown mirrored stays in its slice.

    Attributes:
        by: one slicing, as `faceattr-audit --by` takes it, of labels or another run's answers, such
            as `attributes/Male*pose`, `age:18:40`, `answers/age:18`; numbers without bounds by the
            quarters of the images of training and validation. Empty for none.
        method: `reweight`: every slice weighs as much as any other; `groupdro` (Sagawa et al., ICLR
            2020): they begin so, and those of large losses grow
            (`faceattr_tf.losses.slice_weights`).
        limit: no image weighs more than this, lest the few of a rare slice decide everything; with
            1 all weigh the same.
        step_size: the eta of `groupdro`: after a step the weight of a slice is multiplied by exp(eta
            * mean loss of its images), before all are scaled to the same sum.
        adjustment: the C of `groupdro`: C / sqrt(images of the slice) is added to this mean.
        answers: workdir of the run that `answers/` in `by` asks, about every image and at every
            start.
    """

    by: str = ""
    method: str = "reweight"
    limit: float = 10.0
    step_size: float = 0.01
    adjustment: float = 0.0
    answers: str = ""
