"""Who is shown: people across sources, as classes, and batches in which their images stand together.

Record sets number people. Those of one numbering, as all that hold CelebA's people, number them
alike; people of different numberings are different people.
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.samplers import OfPeople
from data_pipelines.input.stream import Source
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import IDENTITY, UNKNOWN, Task

_PEOPLE = 2**40
"""More people than any record set numbers."""


def has_people(task: Task, record_sets: Sequence[RecordSet]) -> bool:
    """Whether the classes of a task are people whom records number, and not stored as its labels."""
    stored = (known.name for records in record_sets for known in records.tasks)
    return task.name == IDENTITY and IDENTITY not in stored


def people_apart(sources: Sequence[Source]) -> np.ndarray:
    """What is added to the numbers of the people of each source, int64 `[sources]`.

    People of different numberings are different people, see `RecordSet.numbering`.
    """
    names = [source.records.numbering for source in sources]
    return np.array([names.index(name) * _PEOPLE for name in names], np.int64)


def people_of(sources: Sequence[Source]) -> list[np.ndarray]:
    """Per source the number of the person of every example, as `people_apart` has them; or -1."""
    found = []
    for source, apart in zip(sources, people_apart(sources), strict=True):
        stored, mask = source.select()
        numbers = source.records.identities(stored)
        numbers = numbers if mask is None else numbers[mask]
        found.append(np.where(numbers < 0, numbers, numbers + apart))
    return found


def class_people(sources: Sequence[Source], task: Task) -> np.ndarray:
    """Numbers of the people of a task of identities, int64 `[classes]`, as `people_apart` has them.

    They are -1 where no source has the person's numbering.
    """
    names = (source.records.numbering for source in sources)
    apart = dict(zip(names, people_apart(sources).tolist(), strict=True))
    people = (label.rpartition("/") for label in task.labels)
    return np.array(
        [apart[name] + int(number) if name in apart else UNKNOWN for name, _, number in people],
        np.int64,
    )


def identity_labels(people: np.ndarray, identity):
    """Classes of people, int32 `[B]`; -1 of those who are none.

    Args:
        people: `class_people` of the task.
        identity: int64 `[B]`, numbers of people, -1 where unknown.
    """
    import tensorflow as tf

    order = np.argsort(people)
    place = tf.minimum(tf.searchsorted(people[order], identity), len(people) - 1)
    found = (tf.gather(people[order], place) == identity) & (identity >= 0)
    return tf.where(found, tf.gather(order.astype(np.int32), place), UNKNOWN)


def check_people_fit(images: int, size: int, what: str = "batch_size") -> None:
    """Raises UserError unless so many images hold whole groups of a person's images."""
    if images and (images < 2 or size % images):
        raise UserError(
            f"images_per_person {images}: expected 0, or at least 2 by which {what} {size} can be "
            "divided"
        )


def batches_of_people(sources: Sequence[Source], seed: int, batch_size: int, start_step: int):
    """What stands in batches in which several images of a person stand together.

    Args:
        sources: where examples come from; their `images_per_person` is the same.
        seed: the seed of the order.
        batch_size: examples per step, over all workers.
        start_step: steps to leave out.

    Returns:
        That of `stream.batches_of_rows`.

    Raises:
        UserError: groups do not fit into the batch, or a source knows nobody.
    """
    import tensorflow as tf

    (images,) = {source.images_per_person for source in sources}
    check_people_fit(images, batch_size)
    sampler = OfPeople(people_of(sources), [source.weight for source in sources], images, seed)
    stored = [
        np.arange(source.count) if mask is None else np.flatnonzero(mask)
        for source in sources
        for _, mask in [source.select()]
    ]

    def rows_of(step):
        own, rows, _ = sampler.at(int(step) * batch_size, batch_size)
        for source in np.unique(own):
            rows[own == source] = stored[source][rows[own == source]]
        return rows, own

    def rows_at(step):
        places = tf.numpy_function(rows_of, [step], (tf.int64, tf.int64))
        return step, tuple(tf.ensure_shape(each, [batch_size]) for each in places)

    steps = tf.data.Dataset.range(start_step, tf.int64.max)
    return steps.map(tf.autograph.experimental.do_not_convert(rows_at))
