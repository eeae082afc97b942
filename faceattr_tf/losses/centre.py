"""Centre loss: features of a class lie close to the centre of the class."""

from collections.abc import Sequence

from keras import ops

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from faceattr_tf.losses.batch import BatchLoss, Seen, find_task


class CentreLoss(BatchLoss):
    """Half the squared distance of the features to the centre of their class.

    Source: Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition" (ECCV
    2016), equation 2 for the loss, 4 for the centres, which move by `rate` of their mean distance
    to the features of a batch, the mean taken over one more than there are.
    """

    def __init__(self, tasks: Sequence[Task], features: int, *, task: str = "", rate: float = 0.5):
        """Makes the centres, at zero.

        Args:
            tasks: the tasks of the model.
            features: how many there are.
            task: the multiclass task that names the classes; empty for the only one.
            rate: the paper's alpha, in (0, 1].

        Raises:
            UserError: there is no such task, or the rate is none.
        """
        super().__init__()
        self.task = find_task("centre", tasks, "multiclass", task)
        if not 0 < rate <= 1:
            raise UserError(f"loss 'centre': rate {rate} is not in (0, 1]")
        self.rate = rate
        self.shapes = ((self.task.output_size, features), (self.task.output_size,))
        self.centres = self.add_variable(self.shapes[0], "centres")

    def loss(self, seen: Seen):
        """Half the squared distances, `[B]`; 0 where the class is unknown."""
        known, classes = self._classes(seen)
        distance = seen.features - ops.take(self.centres, classes, axis=0)
        half = 0.5 * ops.sum(ops.square(distance), axis=-1)
        return ops.where(known, half, ops.zeros_like(half))

    def statistics(self, seen: Seen) -> list:
        """Per class the sum of the features of its examples, and how many they are."""
        known, classes = self._classes(seen)
        members = ops.one_hot(classes, self.task.output_size, dtype="float32")
        members = ops.transpose(members * ops.cast(known, "float32")[:, None])
        return [ops.matmul(members, seen.features), ops.sum(members, axis=1)]

    def update(self, sums: list) -> None:
        """Moves the centres of the classes that were there."""
        total, count = sums[0], sums[1][:, None]
        moved = (count * self.centres - total) / (1 + count)
        self.centres.assign(self.centres - self.rate * moved)

    def _classes(self, seen: Seen):
        labels = ops.cast(seen.labels[self.task.name], "int32")
        return labels >= 0, ops.maximum(labels, 0)
