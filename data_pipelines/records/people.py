"""Which people are in which part of a record set, where a data set says who is who."""

import hashlib
import itertools
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import UserError


def read_groups(shards: list[str]) -> list[str]:
    """What belongs together of the examples of a split: the person, or the same bytes of an image.

    Returns:
        In stored order a text that those share who are of one person and, where it is unknown who
        somebody is, those whose images are copies of each other.
    """
    import tensorflow as tf

    spec = {
        "identity": tf.io.FixedLenFeature((), tf.int64),
        "image": tf.io.FixedLenFeature((), tf.string),
    }
    groups = []
    for data in tf.data.TFRecordDataset(shards).batch(256):
        fields = tf.io.parse_example(data, spec)
        for person, image in zip(*(fields[name].numpy() for name in spec), strict=True):
            groups.append(hashlib.sha256(image).hexdigest() if person < 0 else f"person {person}")
    return groups


def count_people(identities: Mapping[str, np.ndarray]) -> tuple[dict[str, int], dict[str, int]]:
    """How many people are known in each split, and how many of them in two splits.

    Returns:
        Split -> people; `"SPLIT and SPLIT"` -> people who are in both, without the pairs that share
        none. Both are empty where nobody is known.
    """
    people = {split: np.unique(found[found >= 0]) for split, found in identities.items()}
    if not any(map(len, people.values())):
        return {}, {}
    shared = {
        f"{one} and {other}": len(np.intersect1d(people[one], people[other]))
        for one, other in itertools.combinations(people, 2)
    }
    counts = {split: len(found) for split, found in people.items()}
    return counts, {pair: count for pair, count in shared.items() if count}


def check_share(share: float, by_person: bool) -> None:
    """Makes sure that a validation share is one: see `RecordSet.select`.

    Raises:
        UserError: it is not.
    """
    if not (0 <= share < 1 or (share >= 1 and float(share).is_integer())):
        raise UserError(
            f"validation_share={share} is neither in [0, 1) nor a whole number of images of every "
            "person"
        )
    if share >= 1 and by_person:
        raise UserError(
            f"validation_share={share} takes as many images of every person, so that everybody is in "
            "training and validation; expected --config.data.validation_by_person=False with it"
        )


def choose_people(identities: np.ndarray, share: float, seed: int) -> np.ndarray:
    """A seeded choice of people whose images are about a share of all.

    Args:
        identities: person of every image, `[N]`; an image of nobody known stands for itself.
        share: the share of the images, above 0.
        seed: seed of the choice.

    Returns:
        Booleans `[N]`: all images of the chosen people. At least one person is chosen, and one left.

    Raises:
        UserError: all images are of one person.
    """
    unknown = identities < 0
    alone = np.where(unknown, -1 - np.arange(len(identities)), identities)
    _, person, images = np.unique(alone, return_inverse=True, return_counts=True)
    if len(images) < 2:
        raise UserError(
            "all training images are of one person, so that validation cannot be other people; "
            "--config.data.validation_by_person=False takes images"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    before = np.cumsum(images[order]) - images[order] / 2
    wanted = np.searchsorted(before, share * len(identities))
    return np.isin(person, order[: min(max(wanted, 1), len(images) - 1)])


def choose_images(identities: np.ndarray, count: int, seed: int) -> np.ndarray:
    """A seeded choice of as many images of every person who has more.

    Args:
        identities: person of every image, `[N]`; images of nobody known are not chosen.
        count: images of a person, from 1.
        seed: seed of the choice.

    Returns:
        Booleans `[N]`.

    Raises:
        UserError: nobody has more images.
    """
    order = np.random.default_rng(seed).permutation(len(identities))
    order = order[np.argsort(identities[order], kind="stable")]  # person after person
    _, begin, person, images = np.unique(
        identities[order], return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.arange(len(order)) - begin[person]
    chosen = np.zeros(len(identities), bool)
    chosen[order] = (identities[order] >= 0) & (rank < count) & (images[person] > count)
    if not chosen.any():
        raise UserError(
            f"validation_share={count} takes as many images of every person who has more, and nobody "
            "has; expected fewer, or a share below 1"
        )
    return chosen
