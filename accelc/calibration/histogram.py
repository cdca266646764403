"""Distributions that can be added up in any order: bins whose width is a power of two."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF_BITS = 14
MOST_BINS = 2 << HALF_BITS
"""The larger extreme lies within 2**HALF_BITS bins from zero."""
_LEAST_EXPONENT = -114
_BLOCK = 1 << 15
WAITING = 1 << 17
"""Elements that a Tally counts at once."""

Counts = NDArray[np.int64]


def exponent_for(low: float, high: float) -> int:
    """The exponent of the bins of a distribution between two finite extremes. It never falls as the range grows."""
    reach = max(abs(low), abs(high))
    return max(math.frexp(reach)[1] - HALF_BITS, _LEAST_EXPONENT) if reach else _LEAST_EXPONENT


@dataclass(frozen=True)
class Histogram:
    """counts[i]: elements in [(first + i) * 2**exponent, (first + i + 1) * 2**exponent).

    The bins follow from the extremes of the distribution alone, so adding up parts of it gives the same histogram in
    any order.
    """

    exponent: int
    first: int
    counts: Counts

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    @property
    def edges(self) -> NDArray[np.float64]:
        """Of all bins, one more than there are bins."""
        return np.ldexp(np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64), self.exponent)

    def coarser(self, exponent: int) -> Histogram:
        """The same with wider bins."""
        shift = exponent - self.exponent
        if shift <= 0:
            return self
        shift = min(shift, 62)
        first = self.first >> shift
        last = (self.first + len(self.counts) - 1) >> shift
        starts = np.maximum((np.arange(first, last + 1, dtype=np.int64) << shift) - self.first, 0)
        return Histogram(exponent, first, np.add.reduceat(self.counts, starts))

    def __add__(self, other: Histogram) -> Histogram:
        """The distribution of both together."""
        exponent = max(self.exponent, other.exponent)
        one, two = self.coarser(exponent), other.coarser(exponent)
        first = min(one.first, two.first)
        end = max(each.first + len(each.counts) for each in (one, two))
        counts = np.zeros(end - first, np.int64)
        for each in (one, two):
            counts[each.first - first :][: len(each.counts)] += each.counts
        return Histogram(exponent, first, counts)

    def rebinned(self, edges: NDArray[np.float64], low: float, high: float) -> Counts:
        """Whole counts between ascending edges that enclose [low, high], the extremes of the distribution.

        A bin on both sides of an edge is split in proportion; the total stays.
        """
        mine = np.clip(self.edges, low, high)
        below = np.concatenate([[0], np.cumsum(self.counts)])
        share = np.interp(edges, mine, below.astype(np.float64), left=0.0, right=float(below[-1]))
        # An edge at the lowest element leaves all of them above it, also where the first bin has no width.
        share = np.where(edges <= low, 0.0, np.where(edges >= high, float(below[-1]), share))
        share[-1] = below[-1]
        return np.diff(np.rint(share)).astype(np.int64)


class Tally:
    """A histogram that grows as elements are added."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self._exponent = _LEAST_EXPONENT
        self._counts = np.zeros(0, np.int64)  # of the bins from -MOST_BINS / 2 on, once there are elements
        self._waiting = np.zeros(0, np.int16)  # bins that are not counted yet: many at once are cheaper
        self._filled = 0

    def add(self, array: NDArray[Any], low: float, high: float) -> None:
        """Count float elements. low, high: the extremes of them, finite."""
        self._reach(low, high)
        flat = array.reshape(-1)
        single = flat.dtype.itemsize <= 4 and self._exponent <= 0  # nothing becomes zero by being scaled up
        dtype = np.float32 if single else np.float64
        scale = dtype(math.ldexp(1.0, -self._exponent))
        for begin in range(0, flat.size, _BLOCK):
            part = flat[begin : begin + _BLOCK]
            inside = _scratch(dtype, _BLOCK)[: part.size]
            np.multiply(part, scale, out=inside, dtype=dtype)
            if low < 0:
                np.floor(inside, out=inside)
                if not single:
                    inside -= (inside == 0) & (part < 0)
            if self._filled + part.size > WAITING:
                self._settle()
            np.copyto(self._waiting[self._filled : self._filled + part.size], inside, casting="unsafe")
            self._filled += part.size

    def _reach(self, low: float, high: float) -> None:
        exponent = exponent_for(min(self.low, low), max(self.high, high))
        if not self._counts.size:
            self._exponent, self._counts = exponent, np.zeros(MOST_BINS, np.int64)
            self._waiting = np.empty(WAITING, np.int16)
        elif exponent > self._exponent:
            wide = self.histogram().coarser(exponent)
            self._exponent = exponent
            self._counts[:] = 0
            self._counts[wide.first + MOST_BINS // 2 :][: len(wide.counts)] = wide.counts
        self.low, self.high = min(self.low, low), max(self.high, high)

    def _settle(self) -> None:
        """Count what waits."""
        if not self._filled:
            return
        bins, places = self._waiting[: self._filled], _scratch(np.int64, WAITING)[: self._filled]
        first, _ = self._ends()
        bins -= np.int16(first)  # which the type holds, as there are no more than MOST_BINS
        np.copyto(places, bins)
        found = np.bincount(places)
        self._counts[first + MOST_BINS // 2 :][: len(found)] += found
        self._filled = 0

    def _ends(self) -> tuple[int, int]:
        """The bins of the extremes."""
        first, last = (math.floor(math.ldexp(each, -self._exponent)) for each in (self.low, self.high))
        return first, last

    def histogram(self) -> Histogram:
        """What was counted. Only for a tally with elements."""
        self._settle()
        first, last = self._ends()
        half = MOST_BINS // 2
        return Histogram(self._exponent, first, self._counts[first + half : last + half + 1].copy())


_rooms = threading.local()


def _scratch(dtype: Any, size: int) -> NDArray[Any]:
    """Room for so many elements; a thread has one of each type, for fresh memory costs as much as the counting."""
    room: NDArray[Any] | None = getattr(_rooms, dtype.__name__, None)
    if room is None or room.size < size:
        room = np.empty(size, dtype)
        setattr(_rooms, dtype.__name__, room)
    return room


def count(array: NDArray[Any]) -> Histogram:
    """The histogram of finite float elements, at least one."""
    tally = Tally()
    tally.add(array, float(array.min()), float(array.max()))
    return tally.histogram()
