"""The highest rate within a bound, from measured service times.

Queries that miss a bound are rare and come in crowds, so that it takes minutes of windows to see whether 99 % meet it.
The service times, and how they grow while other workers are busy, are known after a second. So the queue, which is
arithmetic, is run through for many more arrivals than can be waited for; windows then show whether it is right.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accelc.benchmark.pressure import Served

Services = list[NDArray[np.float64]]
"""Seconds of queries in order, by how many other workers were busy when they started."""

_QUERIES, _QUERIES_OF_SEVERAL = 40_000, 20_000
_STEPS = 10


def services(windows: Sequence[Served], workers: int) -> Services:
    """Of some windows; a number of busy workers that was never seen has those of the nearest that was."""
    found: list[list[NDArray[np.float64]]] = [[] for _ in range(workers)]
    for served in windows:
        ends = np.sort(served.ended)
        # Started before and not ended: the query itself is not among them, as it starts where its worker was free.
        busy = np.arange(served.started.size) - np.searchsorted(ends, served.started, side="right")
        for number in range(workers):
            found[number].append((served.ended - served.started)[np.clip(busy, 0, workers - 1) == number])
    whole = [np.concatenate(each) for each in found]
    known = [number for number, each in enumerate(whole) if each.size]
    return [whole[min(known, key=lambda other: abs(other - number))] for number in range(workers)]


def highest_rate(found: Services, bound: float, share: float, seed: int) -> float:
    """The highest rate of Poisson arrivals, in queries per second, of which a share is done within the bound; or 0."""
    random = np.random.default_rng(seed)
    gaps = random.exponential(size=_QUERIES if len(found) == 1 else _QUERIES_OF_SEVERAL)
    shifts = [int(random.integers(each.size)) for each in found]
    low, high = 0.0, len(found) / min(float(each.mean()) for each in found)
    for _ in range(_STEPS):
        rate = (low + high) / 2
        times = np.cumsum(gaps) / rate
        held = float(np.mean(_latencies(times, found, shifts) <= bound)) >= share
        low, high = (rate, high) if held else (low, rate)
    return low


def _latencies(times: NDArray[np.float64], found: Services, shifts: Sequence[int]) -> NDArray[np.float64]:
    """Of queries that arrive at `times` and are served in order; service times in the order they were measured in."""
    if len(found) == 1:
        served = np.resize(np.roll(found[0], shifts[0]), times.size)
        done = np.cumsum(served)
        # A query is done when all since the last that found nobody waiting are: max over these of arrival + services.
        ends: NDArray[np.float64] = done + np.maximum.accumulate(times - (done - served))
        return ends - times
    supply = [itertools.cycle(np.roll(each, shift).tolist()) for each, shift in zip(found, shifts, strict=True)]
    free = [0.0] * len(found)
    latencies = np.empty(times.size)
    for at, time in enumerate(times.tolist()):
        start = max(time, heapq.heappop(free))
        end = start + next(supply[sum(other > start for other in free)])
        heapq.heappush(free, end)
        latencies[at] = end - time
    return latencies
