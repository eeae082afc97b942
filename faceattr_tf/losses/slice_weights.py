"""Weights of images by their slice, the same for ever or following the losses: GroupDRO."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


class SliceWeights:
    """How much an image weighs in training, by the slice it is in.

    Source: Sagawa et al., "Distributionally robust neural networks for group shifts" (ICLR 2020),
    algorithm 1 and equation 5 for the adjustment. There a slice is drawn first, each as often as
    the others; here batches are drawn from all images. So an image of slice g stands for 1 / p_g
    others, in the loss and in the mean loss of its slice, p_g being the slice's share. Means of
    batches are then right on average, and sums over images, so that neither replicas nor
    micro-batches change them. The weights of a step are those after the step before it, since the
    losses of a batch are known when all replicas have seen their part.

    Attributes:
        shares: float32 `[S]`, p, of the images that are in a slice.
        q: what the slices weigh, float32 `[S]`, a sum of 1; no optimizer changes it.
        shapes: of the statistics.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        step_size: float = 0.0,
        adjustment: float = 0.0,
        limit: float = np.inf,
    ):
        """Begins with the same q for every slice.

        Args:
            counts: training images of each slice, none of them 0.
            step_size: eta; 0 leaves q as it is.
            adjustment: C.
            limit: what no image weighs more than, from 1 on.
        """
        counts = np.asarray(counts, np.float32)
        self.shares = counts / counts.sum()
        self.step_size = step_size
        self.limit = min(limit, 1 / self.shares.min())  # more than that no image can weigh
        self.margin = np.float32(adjustment) / np.sqrt(counts)
        self.shapes = (counts.shape, counts.shape)
        self.q = keras.Variable(
            ops.full(counts.shape, 1 / len(counts), "float32"), trainable=False, name="q"
        )

    def of_slices(self):
        """The weight of an image of each slice, float32 `[S]`.

        It is `min(c q / p, limit)`, with the c by which the mean over all images is 1.
        """
        q, shares = ops.convert_to_tensor(self.q), ops.convert_to_tensor(self.shares)
        order = ops.argsort(-q / shares)
        # If the first k in this order are at the limit, c is what the others need to fill up the
        # mean; the mean being the least of these lines in c, the largest such c is the one.
        limited = ops.cumsum(ops.take(shares, order)) - ops.take(shares, order)
        others = ops.flip(ops.cumsum(ops.flip(ops.take(q, order))))
        scale = ops.max((1 - self.limit * limited) / ops.maximum(others, 1e-30))
        return ops.minimum(scale * q / shares, self.limit)

    def of_images(self, numbers):
        """The weights of images, float32 `[B]`; 1 in no slice.

        Args:
            numbers: int32 `[B]`, their slices; -1 for none.
        """
        weights = ops.take(self.of_slices(), ops.maximum(numbers, 0), axis=0)
        return ops.where(numbers >= 0, weights, ops.ones_like(weights))

    def statistics(self, numbers, losses) -> list:
        """What `update` needs: for every slice the sum of its images' losses, and their number.

        Args:
            numbers: as of `of_images`.
            losses: float32 `[B]`.
        """
        places = ops.arange(len(self.shares), dtype="int32")
        member = ops.cast(ops.equal(numbers[:, None], places), "float32")
        return [ops.sum(member * losses[:, None], axis=0), ops.sum(member, axis=0)]

    def update(self, sums: Sequence) -> None:
        """Moves q, once a step, by the statistics of the whole batch."""
        if not self.step_size:
            return
        losses, images = sums
        shares, margin = map(ops.convert_to_tensor, (self.shares, self.margin))
        means = (losses + margin * images) / (shares * ops.maximum(ops.sum(images), 1.0))
        exponents = self.step_size * means
        q = ops.convert_to_tensor(self.q) * ops.exp(exponents - ops.max(exponents))
        self.q.assign(q / ops.sum(q))
