"""Windows of load: when queries arrive, how long a window must be, what one says, where to look next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accelc.benchmark.pressure import Served
from accelc.benchmark.results import Figure
from accelc.benchmark.statistics import figure

SHARE = 0.99
LEAD = 0.1
LEAST_LOADS, MOST_LOADS, _MOST_WINDOWS = 4, 6, 24
_LEAST_QUERIES = 100
_LEAST_S = 0.2
_BOUNDS = 10
_LEFT = 0.1
_Z = 1.96


def arrivals(rate: float, seconds: float, seed: Sequence[int]) -> NDArray[np.float64]:
    """Times of a Poisson process, in seconds from 0 to `seconds`, ascending [queries]; at least one.

    The same seed gives the same pattern, stretched by the rate.
    """
    expected = rate * seconds
    count = math.ceil(expected + 10 * math.sqrt(expected) + 20)
    times: NDArray[np.float64] = np.cumsum(np.random.default_rng(list(seed)).exponential(size=count)) / rate
    return times[: max(1, int(np.searchsorted(times, seconds)))]


@dataclass(frozen=True)
class Plan:
    """How a measurement is divided: windows of some seconds within each load of the model."""

    loads: int
    windows: int
    seconds: float


def plan(budget: float, *, load_s: float, query_s: float, bound: float | None, rate: float | None) -> Plan:
    """Divide a budget in seconds for one model; it is exceeded where the fewest windows take longer.

    load_s: what a load takes; loads may take as long as the windows, and where too few loads fit, there is one.
    query_s: of one query. A window holds some queries, many of them at a rate, and is long against a bound, as a queue
    needs time to build up.
    """
    least = max(_LEAST_S, 2 * query_s, _BOUNDS * (bound or 0.0), _LEAST_QUERIES / rate if rate else 0.0)
    count = max(LEAST_LOADS, int(budget / least))
    loads = min(MOST_LOADS, count, int(budget / max(load_s, 1e-3)))
    if loads < LEAST_LOADS:
        loads = 1
    windows = min(_MOST_WINDOWS // loads, count // loads)
    return Plan(loads, windows, max(least, budget / (loads * windows)))


@dataclass(frozen=True)
class Seen:
    """One window. load: the number of the load. queries: counted ones.

    offered, achieved: queries per second; offered is None where each query follows another. p50_ms: median latency.
    within: share of the queries within the bound, 0 to 1; None without a bound. overloaded: queries came faster than
    they were served, so that the window was ended early, or more of them were left at its end than chance leaves.
    """

    load: int
    queries: int
    offered: float | None
    achieved: float
    p50_ms: float
    within: float | None
    overloaded: bool


@dataclass(frozen=True)
class Reading:
    """What one window says. served: all its queries. latencies, waits: seconds of each counted query [queries]. added:
    seconds that come from the harness.
    """

    seen: Seen
    served: Served
    latencies: NDArray[np.float64]
    waits: NDArray[np.float64]
    added: NDArray[np.float64]


def followed(served: Served, load: int) -> Reading:
    """A window in which each query followed another."""
    latencies = served.ended - served.started
    crew = [served.worker == worker for worker in np.unique(served.worker)]
    # Each worker over its own time: the end, where some are done and others are not, is no part of the rate.
    rate = sum(int(mine.sum()) / float(served.ended[mine].max()) for mine in crew)
    gaps = [served.started[mine][1:] - served.ended[mine][:-1] for mine in crew]
    seen = Seen(load, latencies.size, None, rate, 1e3 * float(np.median(latencies)), None, served.overloaded)
    return Reading(seen, served, latencies, np.zeros_like(latencies), np.concatenate(gaps))


def queued(served: Served, load: int, *, times: NDArray[np.float64], seconds: float, bound: float | None) -> Reading:
    """A window with arrivals. times: all of them [queries]; those of its first tenth only fill the queue,
    unless there are no others.

    Latency counts from the arrival. A query that still waited when an overloaded window ended counts with the time it
    had waited, and as outside the bound.
    """
    lead = 0.0 if served.overloaded else LEAD * seconds
    end = float(served.ended.max())
    counted = times[served.query] >= lead
    if not counted.any():
        counted[:] = True
    arrived, started, ended = times[served.query][counted], served.started[counted], served.ended[counted]
    left = np.setdiff1d(np.arange(times.size), served.query)
    waited = end - times[left[times[left] < end]]
    late = times.size - int(np.sum(served.ended <= seconds))
    grew = served.overloaded or late > max(_LEFT * times.size, 3 * math.sqrt(times.size))
    latencies, waits = np.concatenate([ended - arrived, waited]), np.concatenate([started - arrived, waited])
    seen = Seen(
        load=load,
        queries=latencies.size,
        offered=float(np.sum(times >= LEAD * seconds)) / ((1 - LEAD) * seconds),
        achieved=arrived.size / (end - lead if served.overloaded else max(end, seconds) - lead),
        p50_ms=1e3 * float(np.median(latencies)),
        within=None if bound is None else float(np.sum(ended - arrived <= bound)) / latencies.size,
        overloaded=grew,
    )
    return Reading(seen, served, latencies, waits, (served.started - times[served.query])[served.idle])


def highest(found: Sequence[float]) -> Figure:
    """Of highest rates, one for each load. Where none was found in some, the interval is their range."""
    rates = np.asarray(found, np.float64)
    if rates.min() <= 0:
        return Figure(float(np.median(rates)), float(rates.min()), float(rates.max()))
    return figure(rates, np.arange(rates.size))


def share(hits: Sequence[float], counts: Sequence[float], loads: Sequence[int]) -> Figure:
    """hits of counts, window by window; the interval is the wider of Wilson's at 95 % and the range of the loads."""
    good, number, load_of = np.asarray(hits, np.float64), np.asarray(counts, np.float64), np.asarray(loads)
    total = float(number.sum())
    value = float(good.sum()) / total
    middle = (value + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
    half = _Z * math.sqrt(value * (1 - value) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
    each = [float(good[load_of == load].sum() / number[load_of == load].sum()) for load in np.unique(load_of)]
    return Figure(value, max(0.0, min(middle - half, *each)), min(1.0, max(middle + half, *each)))
