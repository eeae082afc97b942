"""Online Batch Relation Loss: attributes that go together are predicted together."""

from collections.abc import Sequence

import numpy as np
from keras import ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.losses.batch import BatchLoss, Seen, find_task

READINGS = ("literal", "rescaled")
"""How correlation coefficients meet the thresholds: as they are, or as (r + 1) / 2."""


class RelationLoss(BatchLoss):
    """Probabilities of correlated attributes are pulled together, of uncorrelated ones apart.

    Source: Fusion+OBRL, section II.C: equation 1 for the correlation of the labels, a moving
    average over batches; 2 and 3 for the loss. What a batch is compared with is the average before
    it, since that of a batch is known when all replicas have seen their part; of the first one the
    loss is 0.

    The paper thresholds correlation coefficients, of which those near 0, that is of attributes that
    have nothing to do with each other, lie below 0.2, and repels such pairs. That is the reading
    `literal`. Under `rescaled` coefficients become (r + 1) / 2 first, so that 0.2 stands for a
    correlation of -0.6, and only opposites repel each other.

    The paper's cross-entropy is a sum over the M attributes, `faceattr_tf.losses.task_loss` a mean:
    its weight of 0.5 beside the sum is one of 0.5 / M beside the mean.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        features: int,
        *,
        task: str = "",
        decay: float = 0.99,
        positive: float = 0.8,
        negative: float = 0.2,
        reading: str = "literal",
    ):
        """Makes the relation matrix, of which nothing is known yet.

        Args:
            tasks: the tasks of the model.
            features: unused.
            task: the multilabel task; empty for the only one.
            decay: lambda of equation 1, in (0, 1].
            positive: r_p, from which correlation on a pair is pulled together.
            negative: r_n, up to which it is pushed apart.
            reading: one of `READINGS`.

        Raises:
            UserError: there is no such task, or an option makes no sense.
        """
        super().__init__()
        self.task = find_task("relation", tasks, "multilabel", task)
        if not 0 < decay <= 1:
            raise UserError(f"loss 'relation': decay {decay} is not in (0, 1]")
        if not negative < positive:
            raise UserError(
                f"loss 'relation': negative {negative} is not below positive {positive}"
            )
        if reading not in READINGS:
            raise UserError(
                f"loss 'relation': reading {reading!r} is none of {', '.join(READINGS)}"
            )
        self.decay, self.reading = decay, reading
        self.positive, self.negative = positive, negative
        square = (self.task.output_size,) * 2
        self.shapes = (square, square, square)
        self.total = self.add_variable(square, "total")
        self.share = self.add_variable(square, "share")

    def loss(self, seen: Seen):
        """Equation 2 of every example, `[B]`, whether its labels are known or not."""
        known, relation = self._relation()
        if self.reading == "rescaled":
            relation = (relation + 1) / 2
        together = ops.cast(ops.logical_and(known, relation >= self.positive), "float32")
        apart = ops.cast(ops.logical_and(known, relation <= self.negative), "float32")
        outputs = ops.cast(seen.outputs[self.task.name], "float32")
        probability = ops.sigmoid(outputs)
        distance = ops.square(probability[:, :, None] - probability[:, None, :])
        single = together * distance + apart * ops.square(1 - distance)
        return ops.sum(single, axis=(1, 2)) / (2 * self.task.output_size**2)

    def statistics(self, seen: Seen) -> list:
        """Per pair of attributes, over the examples that know both: their number, for how many the
        first one is yes, and for how many both are.
        """
        labels = ops.cast(seen.labels[self.task.name], "float32")
        known = ops.cast(labels >= 0, "float32")
        yes = known * ops.cast(labels > 0.5, "float32")
        examples = ops.transpose(known)
        return [
            ops.matmul(examples, known),
            ops.matmul(ops.transpose(yes), known),
            ops.matmul(ops.transpose(yes), yes),
        ]

    def update(self, sums: list) -> None:
        """Moves the average of the pairs whose correlation in the batch is defined; the others stay.

        A constant attribute correlates with none.
        """
        number, yes, both = sums
        other = ops.transpose(yes)
        covariance = number * both - yes * other
        variance = yes * (number - yes) * other * (number - other)
        defined = ops.cast(variance > 0, "float32")
        batch = covariance / ops.sqrt(ops.maximum(variance, 1e-12))
        decay = 1 - defined * (1 - self.decay)
        self.total.assign(decay * self.total + defined * batch)
        self.share.assign(decay * self.share + defined)

    @property
    def relation(self) -> np.ndarray:
        """The correlations as known by now, R_g of equation 1, float32 `[M, M]`; unknown is NaN."""
        known, relation = map(ops.convert_to_numpy, self._relation())
        return np.where(known, relation, np.nan)

    def _relation(self):
        total, share = ops.convert_to_tensor(self.total), ops.convert_to_tensor(self.share)
        known = share > 0
        return known, total / ops.where(known, share, ops.ones_like(share))
