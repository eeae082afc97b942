"""Similarity loss: features of one person's images lie close together."""

from collections.abc import Sequence

from keras import ops

from data_pipelines.tasks import Task
from faceattr_tf.losses.batch import BatchLoss, Seen


class SimilarityLoss(BatchLoss):
    """Squared distances between the features of images of the same person.

    Source: Liu et al., "Deep Learning Face Attributes in the Wild" (ICCV 2015), section 4: the sum
    over all images i, and for each over all images j of the same person, of `|f_i - f_j|^2`. An
    example's loss is the inner sum, over its partners in the batch, so that every pair counts from
    both sides, as in the paper; like every loss it is then averaged over the batch. It grows with
    the partners that an image has, K - 1 where `Data.images_per_person` is K.

    Pairs are those of one forward pass: of a replica's share of the batch, or of its micro-batch.
    With `Data.images_per_person` the images of a person stand together, and none are parted.
    """

    needs_people = True

    def __init__(self, tasks: Sequence[Task], features: int, *, normalise: bool = False):
        """Takes the features as they are.

        Args:
            tasks: the tasks of the model.
            features: how many there are.
            normalise: divide every image's features by their length first, which the paper does
                not; distances are then in [0, 4].
        """
        super().__init__()
        self.normalise = normalise

    def loss(self, seen: Seen):
        """The sum of squared distances to the partners, `[B]`; 0 where the person is unknown."""
        features = seen.features
        if self.normalise:
            square = ops.sum(ops.square(features), axis=-1, keepdims=True)
            features = features * ops.rsqrt(ops.maximum(square, 1e-12))
        person = ops.convert_to_tensor(seen.identity)
        same = (person[:, None] == person[None, :]) & (person >= 0)[:, None]
        same = ops.cast(same, "float32")
        count = ops.sum(same, axis=1)
        # By way of the person's mean m, as the sum over j of |f_i - f_j|^2 is n |f_i - m|^2 plus
        # the sum of |f_j - m|^2: no tensor of all pairs, and nothing that cancels.
        mean = ops.matmul(same, features) / ops.maximum(count, 1.0)[:, None]
        distance = ops.sum(ops.square(features - mean), axis=-1)
        return count * distance + ops.matmul(same, distance[:, None])[:, 0]
