"""Grids for weights: how large the steps are, and rounding to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .numbers import Floats

_FRACTIONS = np.linspace(1.0, 0.3, 36)
"""Shares of the range that are tried as the clipped range."""
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Grid:
    """Integers of at most `top` in magnitude, with one step for each output channel, or for the tensor, or for each
    `block` weights of a channel.
    """

    top: int
    per_channel: bool = True
    block: int = 0

    @classmethod
    def of(cls, bits: int, per_channel: bool, block: int = 0) -> Grid:
        return cls(2 ** (bits - 1) - 1, per_channel, block)

    def largest(self, columns: Floats) -> Floats:
        """The largest magnitudes that share a step: [1, N], [1, 1] or [blocks, N]."""
        return self._shared(np.abs(columns), "max")

    def percentile(self, magnitudes: Floats, percentile: float) -> Floats:
        """The percentile of magnitudes over what shares a step."""
        if not self.block:
            found = np.percentile(magnitudes, percentile, axis=0 if self.per_channel else None)
            return np.asarray(found, np.float32).reshape(1, -1)
        starts = range(0, len(magnitudes), self.block)
        parts = [np.percentile(magnitudes[start : start + self.block], percentile, axis=0) for start in starts]
        return np.asarray(parts, np.float32)

    def total(self, errors: Floats) -> Floats:
        """The sums of what shares a step."""
        return self._shared(errors, "add")

    def full(self, shared: Floats, count: int) -> Floats:
        """Values that are shared, so that they broadcast to [count, N]."""
        wide: Floats = shared.repeat(self.block, axis=0)[:count] if self.block else shared
        return wide

    def steps(self, ranges: Floats) -> Floats:
        """Steps that spread ranges over the integers; 1 where everything is as good as zero."""
        steps = np.asarray(ranges, np.float32) / np.float32(self.top)
        return np.where(steps < _TINY, np.float32(1), steps).astype(np.float32)

    def nearest(self, columns: Floats, steps: Floats) -> Floats:
        """Columns rounded to the grid; steps: shared ones."""
        wide = self.full(steps, len(columns))
        snapped: Floats = np.rint(columns / wide).clip(-self.top, self.top) * wide
        return snapped

    def plain(self, columns: Floats) -> Floats:
        """Columns rounded over their whole range."""
        return self.nearest(columns, self.steps(self.largest(columns)))

    def best_steps(self, columns: Floats, importance: Floats | None = None) -> Floats:
        """The steps with the least squared error, among those for parts of the range.

        importance: factors [K, N] on the squared errors, the mean squares of what the weights are multiplied by.
        """
        largest = self.largest(columns)
        best = self.steps(largest)
        least = np.full(largest.shape, np.inf)
        for fraction in _FRACTIONS:
            steps = self.steps(largest * np.float32(fraction))
            squares = (self.nearest(columns, steps) - columns) ** 2
            errors = self.total(squares if importance is None else squares * importance)
            better = errors < least
            least = np.where(better, errors, least)
            best = np.where(better, steps, best)
        return best

    def _shared(self, array: Floats, how: str) -> Floats:
        reduce = np.maximum if how == "max" else np.add
        if self.block:
            starts = np.arange(0, len(array), self.block)
            found: Floats = reduce.reduceat(array, starts, axis=0)
        else:
            found = reduce.reduce(array, axis=0 if self.per_channel else None)
            found = np.reshape(found, (1, -1))
        return found
