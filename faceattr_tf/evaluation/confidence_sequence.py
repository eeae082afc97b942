"""A mean of bounded values and an interval that holds however often one looks and whenever one stops."""

import math
from collections.abc import Iterable

import numpy as np

CELLS = 4000
"""Of the range, in which the interval is looked for: it is wider by one at most."""

_LARGEST_BET = 0.9
"""Share of the capital that one value may cost: at 1 a single value could end a game for good."""


class ConfidenceSequence:
    """The interval of Waudby-Smith and Ramdas (JRSS B, 2024, section 4.4: hedged capital).

    For every mean that is possible, one gambles that it is another: half of the capital on values
    above it, half on values below. Where it is the mean, nobody gets rich: the chance that the
    capital is ever multiplied by `1 / (1 - level)` is `1 - level` at most. So all means against
    which it has been are left out. Values have to come in random order, and nothing else is assumed
    of them but their range.
    """

    def __init__(self, low: float, high: float, level: float = 0.95):
        """Knows nothing yet.

        Args:
            low, high: between which all values lie.
            level: chance that the interval holds the mean at all times.
        """
        self.low, self.high, self.level = low, high, level
        self.count = 0
        self._means = np.linspace(0.0, 1.0, CELLS + 1)
        self._above, self._below = np.zeros(CELLS + 1), np.zeros(CELLS + 1)  # log of the capitals
        self._sum, self._squares = 0.0, 0.0

    def add(self, values: Iterable[float]) -> None:
        """Goes on with further values.

        Raises:
            ValueError: one is outside of the range.
        """
        for value in values:
            scaled = (value - self.low) / (self.high - self.low)
            if not -1e-9 <= scaled <= 1 + 1e-9:
                raise ValueError(f"{value} is not within {self.low} to {self.high}")
            scaled = min(max(scaled, 0.0), 1.0)
            # The bet is made before the value is seen, from those before it and one guess of 1/4.
            number = self.count + 1
            variance = (0.25 + self._squares) / number
            bet = math.sqrt(2 * math.log(2 / (1 - self.level)) / variance)
            bet /= math.sqrt(number * math.log(1 + number))
            with np.errstate(divide="ignore"):
                above = np.minimum(bet, _LARGEST_BET / self._means)
                below = np.minimum(bet, _LARGEST_BET / (1 - self._means))
            self._above += np.log1p(above * (scaled - self._means))
            self._below += np.log1p(-below * (scaled - self._means))
            self.count = number
            self._sum += scaled
            self._squares += (scaled - (0.5 + self._sum) / (1 + number)) ** 2

    @property
    def mean(self) -> float:
        """Of the values so far; NaN before the first one."""
        return self._unscaled(self._sum / self.count) if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        most = math.log(2 / (1 - self.level))  # either half has its share of the capital
        capital = np.maximum(self._above, self._below)
        (left,) = np.nonzero(capital < max(most, capital.min() + 1e-9))  # it may lie between cells
        first, last = max(left[0] - 1, 0), min(left[-1] + 1, CELLS)
        return self._unscaled(self._means[first]), self._unscaled(self._means[last])

    def _unscaled(self, value: float) -> float:
        return float(self.low + value * (self.high - self.low))
