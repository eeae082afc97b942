"""Which examples stand at which places of an endless training stream: functions of the place alone.

So a stream can begin at any place, and each of several workers can take its own places of it.
Samplers give rows of sources and read nothing; images and features on disk follow the same ones.
"""

import functools
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.input.stream import mixing_pattern

# What random numbers are for: each use has a stream of its own.
_BLOCK, _EPOCH, COPY, _CIRCLE = range(4)


def random(seed: int, *purpose: int) -> np.random.Generator:
    """Random numbers that follow from the seed and what they are for alone."""
    return np.random.default_rng((seed, *purpose))


class Shuffled:
    """Every epoch of a source holds each of its examples once, in an order of its own."""

    def __init__(self, counts: Sequence[int], weights: Sequence[float], seed: int):
        """Sources of so many examples, mixed by their weights, see `mixing_pattern`."""
        self.counts, self.seed = counts, seed
        self.pattern = mixing_pattern(weights)
        self.shares = np.bincount(self.pattern, minlength=len(counts))
        self._sources_of = functools.lru_cache(maxsize=8)(self._draw_sources)
        self._order = functools.lru_cache(maxsize=2 * len(counts))(self._draw_order)

    def at(self, begin: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source, row and epoch, int64 `[count]` each, of the places from `begin` on."""
        block = len(self.pattern)
        first, last = begin // block, (begin + count - 1) // block
        sources = np.concatenate([self._sources_of(number) for number in range(first, last + 1)])
        skipped = begin - first * block
        passed = first * self.shares + np.bincount(sources[:skipped], minlength=len(self.counts))
        sources = sources[skipped : skipped + count]
        rows, epochs = np.empty((2, count), np.int64)
        for source in np.unique(sources):
            where = sources == source
            numbers = passed[source] + np.arange(np.count_nonzero(where))
            own, places = np.divmod(numbers, self.counts[source])
            orders = [(self._order(source, epoch), own == epoch) for epoch in np.unique(own)]
            rows[where] = np.concatenate([order[places[part]] for order, part in orders])
            epochs[where] = own
        return sources, rows, epochs

    def _draw_sources(self, block: int) -> np.ndarray:
        """The sources of the places of a block, each with its exact share."""
        return random(self.seed, _BLOCK, block).permutation(self.pattern)

    def _draw_order(self, source: int, epoch: int) -> np.ndarray:
        return random(self.seed, _EPOCH, source, epoch).permutation(self.counts[source])


class OfPeople:
    """K images of a person stand together, and every image is shown equally often.

    A round arranges the images of every person in a circle, in an order that it draws anew. In a
    round every image leads one group, in the order of `Shuffled`: itself and the K - 1 that follow
    it in its circle. So a group never shows an image twice where the person has K images or more,
    those of other people repeat, and a round shows every image K times: once as the first of a
    group, once as the second, and so on. A person leads as many groups as they have images.

    Images of unknown people are left out.
    """

    def __init__(
        self, identities: Sequence[np.ndarray], weights: Sequence[float], images: int, seed: int
    ):
        """Takes who is shown.

        Args:
            identities: per source the number of the person of every row, -1 where unknown; the same
                number is the same person in every source.
            weights: of the sources, see `mixing_pattern`.
            images: the K.
            seed: seed of all order.

        Raises:
            UserError: fewer than two images are to stand together, or a source knows nobody.
        """
        if images < 2:
            raise UserError(f"images_per_person {images}: expected 0, or at least 2")
        self.images, self.seed = images, seed
        known = [np.flatnonzero(numbers >= 0) for numbers in identities]
        counts = [len(rows) for rows in known]
        if not all(counts):
            raise UserError("a source knows nobody, so that its images cannot stand by person")
        self.begins = np.cumsum([0, *counts])
        self.sources = np.repeat(np.arange(len(known)), counts)
        self.rows = np.concatenate(known)
        numbers = np.concatenate([n[rows] for n, rows in zip(identities, known, strict=True)])
        _, self.person, self.sizes = np.unique(numbers, return_inverse=True, return_counts=True)
        self.firsts = np.cumsum(self.sizes) - self.sizes
        self.leaders = Shuffled(counts, weights, seed)
        self._circles = functools.lru_cache(maxsize=2 * len(known))(self._draw_circles)

    def at(self, begin: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source, row, and how often the row was shown before, int64 `[count]` each.

        Args:
            begin: the first place; groups begin at multiples of K.
            count: how many places.
        """
        first, end = begin // self.images, -(-(begin + count) // self.images)
        sources, rows, rounds = self.leaders.at(first, end - first)
        leaders = self.begins[sources] + rows
        steps = np.arange(self.images)
        found = np.empty((len(leaders), self.images), np.int64)
        for number in np.unique(rounds):
            where = rounds == number
            circles, places = self._circles(number)
            person = self.person[leaders[where]]
            start, size = self.firsts[person][:, None], self.sizes[person][:, None]
            own = places[leaders[where]][:, None] - start
            found[where] = circles[start + (own + steps) % size]
        skipped = begin - first * self.images
        found = found.reshape(-1)[skipped : skipped + count]
        shown = (rounds[:, None] * self.images + steps).reshape(-1)[skipped : skipped + count]
        return self.sources[found], self.rows[found], shown

    def _draw_circles(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """All images, person after person, and the place of every image among them."""
        drawn = random(self.seed, _CIRCLE, number).random(len(self.person))
        circles = np.lexsort((drawn, self.person))
        places = np.empty_like(circles)
        places[circles] = np.arange(len(circles))
        return circles, places
