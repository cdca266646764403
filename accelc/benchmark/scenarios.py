"""Models under load: several streams at once, all queries at once (offline), queries that arrive at random (server).

A query is one run of the model. What is compared is measured in windows, interleaved in random order, over several
loads. In the server scenario every model sees the same arrivals, and latency counts from the arrival that was
scheduled: a query that waits for a busy model is not forgiven.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from accelc.benchmark.pressure import Served, Window
from accelc.benchmark.replay import highest_rate, services
from accelc.benchmark.results import Figure, Latency
from accelc.benchmark.rounds import Times
from accelc.benchmark.statistics import figure, latency
from accelc.benchmark.windows import (
    SHARE,
    Plan,
    Reading,
    Seen,
    arrivals,
    followed,
    highest,
    plan,
    queued,
    share,
)
from accelc.benchmark.words import rate
from accelc.errors import UsageError
from accelc.runner import RuntimeFailure

Scenario = Literal["multi-stream", "offline", "server"]
Press = Callable[[Window], Served]
"""Run one window on the model as it is loaded now. Raises RuntimeFailure."""

_PILOT_S = 0.1
_PATIENCE = 10
_FEWEST = 5
_SEARCH_SHARE = 0.5
_FIRST = 0.7
_LIGHT = 0.1
_NONE = 0.1


class Pressed(Protocol):
    """A model that can be loaded again and again, and asked by several threads at once.

    group: those of one group are interleaved and see the same arrivals. items: of one query.
    """

    group: str
    items: int

    def open_press(self, generation: int) -> Press:
        """Load anew and return what runs a window. Raises RuntimeFailure."""

    def close(self) -> None:
        """Free what `open_press` made; also after it failed. Raises RuntimeFailure."""


@dataclass(frozen=True)
class Load:
    """What a row did under load; latencies of its queries, and items per second, are in the row's Latency.

    scenario: "multi-stream" (each of `concurrency` streams sends a query when its last one ended), "offline" (all
    queries are there at the start) or "server" (queries arrive at random, Poisson, whether or not others are done).
    concurrency: threads that ask the model. queries: counted ones. window_s: seconds of a window. achieved: completed
    queries per second. Latency of a query: server, from its scheduled arrival to its end; else from its start.

    Server only, else None: offered, queries per second that arrived; waiting_ms, the mean time before the start; and
    where there is a bound: bound_ms; within, the share of queries within it, 0 to 1; valid, whether that is at least
    99 %; most, where the rate was searched: the highest rate in queries per second that is valid (0 where none is).
    After a search (accelc.benchmark.replay) the other figures are those at `offered`, the low end of the interval of
    `most`, and valid says whether they agree that this rate is: 99 % lies in or below the interval of `within`.

    overloaded: windows in which queries came faster than they were served, see Seen. resolution_ms: what the harness
    itself adds to a query or is late by; no time below it means anything. windows: those that the figures come from;
    tried: those of the search.
    """

    scenario: Scenario
    concurrency: int
    queries: int
    window_s: float
    achieved: Figure
    resolution_ms: float
    offered: float | None = None
    waiting_ms: float | None = None
    bound_ms: float | None = None
    within: Figure | None = None
    valid: bool | None = None
    most: Figure | None = None
    overloaded: int = 0
    windows: tuple[Seen, ...] = ()
    tried: tuple[Seen, ...] = ()

    @property
    def sentence(self) -> str:
        """The result in words, without the latencies."""
        threads = f"{self.concurrency} thread{'s' if self.concurrency > 1 else ''}"
        if self.most is not None and not self.most.value:
            return f"no rate is served within {self.bound_ms:g} ms by {threads}"
        if self.most is not None:
            text = f"at most {rate(self.most.value)} queries/s within {self.bound_ms:g} ms"
            known = math.isfinite(self.most.high)
            text += f" ({rate(self.most.low)} to {rate(self.most.high)})" if known else " (interval not known)"
            text += f", {threads}"
            return text if self.valid else f"{text}; {rate(self.offered or 0.0)} queries/s were not"
        if self.offered is None:
            return f"{rate(self.achieved.value)} queries/s by {threads}"
        text = f"{rate(self.achieved.value)} of {rate(self.offered)} queries/s served by {threads}"
        if self.within is not None:
            verdict = "meets" if self.valid else "misses"
            text += f", {100 * self.within.value:.4g} % within {self.bound_ms:g} ms: {verdict} the bound"
        return f"{text}; overloaded" if self.overloaded else text


@dataclass(frozen=True)
class Loaded:
    """load and latency for the row. times: what rows are compared by (statistics.versus).

    times.blocks: offline, seconds for one item, window by window; multi-stream and server, the median latency in
    seconds; where the rate was searched, seconds for one query at the highest rate, load by load (with one load, window
    by window), where none was valid those of a tenth of the best.
    """

    load: Load
    latency: Latency
    times: Times


@dataclass(frozen=True)
class Demand:
    """What is asked of every model. seconds: of windows, for each model. qps: None searches it. bound: seconds."""

    scenario: Scenario
    concurrency: int = 1
    seconds: float = 5.0
    qps: float | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        if self.scenario == "server" and self.qps is None and self.bound is None:
            raise UsageError(
                "a server needs a rate, or a bound to search the rate for", hint="give --qps 100 or --bound 50ms"
            )


def run(
    pressed: Sequence[Pressed], demand: Demand, *, seed: int = 0, progress: Callable[[str], None] | None = None
) -> list[Loaded | RuntimeFailure]:
    """Press every model for about demand.seconds, longer where that is too short for its windows.

    A model that fails has its failure; the others go on.
    """
    benches = [_Bench(each) for each in pressed]
    for group in dict.fromkeys(each.group for each in pressed):
        _Group([bench for bench in benches if bench.pressed.group == group], demand, seed, progress).measure()
    return [bench.failure or bench.result(demand) for bench in benches]


@dataclass
class _Bench:
    """One model while it is measured. rate: queries per second that it is given or can do."""

    pressed: Pressed
    press: Press | None = None
    failure: RuntimeFailure | None = None
    rate: float = 0.0
    load_s: float = 0.0
    query_s: float = 0.0
    readings: list[Reading] = field(default_factory=list)
    tried: list[Seen] = field(default_factory=list)
    found: list[float] = field(default_factory=list)
    window_s: float = 0.0

    @property
    def most(self) -> Figure | None:
        return highest(self.found) if self.found else None

    def result(self, demand: Demand) -> Loaded:
        """The figures of all windows together."""
        seen = [reading.seen for reading in self.readings]
        load_of = np.array([each.load for each in seen], np.int64)
        latencies = np.concatenate([reading.latencies for reading in self.readings])
        means = np.array([reading.latencies.mean() for reading in self.readings])
        times = Times(latencies, np.array([each.p50_ms for each in seen]) / 1e3, load_of, means)
        achieved = figure(np.array([each.achieved for each in seen]), load_of)
        items = self.pressed.items
        speed = Figure(items * achieved.value, items * achieved.low, items * achieved.high)
        found = dataclasses.replace(latency(times, items), throughput=speed)
        return Loaded(self._load(demand, seen, achieved), found, self._compared(demand, times))

    def _load(self, demand: Demand, seen: Sequence[Seen], achieved: Figure) -> Load:
        server, within = demand.scenario == "server", None
        if demand.bound is not None:
            hits = [(each.within or 0.0) * each.queries for each in seen]
            within = share(hits, [each.queries for each in seen], [each.load for each in seen])
        added = np.concatenate([reading.added for reading in self.readings])
        waits = np.concatenate([reading.waits for reading in self.readings])
        return Load(
            scenario=demand.scenario,
            concurrency=demand.concurrency,
            queries=sum(each.queries for each in seen),
            window_s=self.window_s,
            achieved=achieved,
            resolution_ms=1e3 * float(np.percentile(added, 90)) if added.size else 0.0,
            offered=self.rate if server else None,
            waiting_ms=1e3 * float(waits.mean()) if server else None,
            bound_ms=None if demand.bound is None else 1e3 * demand.bound,
            within=within,
            valid=None if within is None else (within.high if self.found else within.value) >= SHARE,
            most=self.most,
            overloaded=sum(each.overloaded for each in seen),
            windows=tuple(seen),
            tried=tuple(self.tried),
        )

    def _compared(self, demand: Demand, times: Times) -> Times:
        """What rows are compared by, see Loaded."""
        if self.found:
            apart = 1 / np.maximum(self.found, _NONE * max(self.found) or 1.0)
            return Times(apart, apart, np.arange(apart.size))
        if demand.scenario == "offline":
            blocks = np.array([1 / (self.pressed.items * reading.seen.achieved) for reading in self.readings])
            return Times(blocks, blocks, times.load_of)
        return times


class _Group:
    """Models that are pressed in turn."""

    def __init__(
        self, benches: Sequence[_Bench], demand: Demand, seed: int, progress: Callable[[str], None] | None
    ) -> None:
        self.benches, self.demand, self.seed = benches, demand, seed
        self.order = random.Random(seed)
        self.progress = progress or (lambda text: None)
        self.loads, self.used = 0, False

    def measure(self) -> None:
        """Fill every bench, or give it its failure."""
        seconds, qps = self.demand.seconds, self.demand.qps
        self._load()
        if self.demand.scenario == "server" and qps is None:
            self._search(seconds * _SEARCH_SHARE)
            seconds *= 1 - _SEARCH_SHARE
            for bench in self._alive():
                most = bench.most
                bench.rate = most.low if most is not None and most.low else bench.rate * _LIGHT
            qps = min((bench.rate for bench in self._alive()), default=None)
        elif qps is not None:
            for bench in self._alive():
                bench.rate = qps
        self._windows(self._plan(seconds, qps))
        self._close(self._alive())

    def _alive(self) -> list[_Bench]:
        return [bench for bench in self.benches if bench.failure is None]

    def _each(self, benches: Sequence[_Bench], step: Callable[[_Bench], None]) -> None:
        """One step for each, in random order; a failure ends only its own."""
        for bench in self.order.sample(benches, len(benches)):
            try:
                step(bench)
            except RuntimeFailure as failure:
                bench.failure = failure
                self._close([bench])

    def _close(self, benches: Sequence[_Bench]) -> None:
        for bench in benches:
            try:
                bench.pressed.close()
            except RuntimeFailure as failure:
                bench.failure = bench.failure or failure

    def _load(self) -> None:
        """Load every model anew and press it a little, uncounted, which says how fast it is."""
        if self.loads:
            self._close(self._alive())

        def load(bench: _Bench) -> None:
            begin = time.perf_counter()
            bench.press = bench.pressed.open_press(self.loads)
            bench.load_s = time.perf_counter() - begin
            seen = followed(bench.press(Window(self.demand.concurrency, _PILOT_S)), self.loads).seen
            bench.query_s = 1e-3 * seen.p50_ms
            bench.rate = bench.rate or seen.achieved

        self._each(self._alive(), load)
        self.loads += 1
        self.used = False

    def _fresh(self) -> None:
        """Load anew unless that was just done."""
        if self.used:
            self._load()
        self.used = True

    def _plan(self, seconds: float, rate: float | None) -> Plan:
        alive = self._alive()
        return plan(
            seconds,
            load_s=max((bench.load_s for bench in alive), default=0.0),
            query_s=max((bench.query_s for bench in alive), default=0.0),
            bound=self.demand.bound,
            rate=rate,
        )

    def _windows(self, divided: Plan, after: Callable[[_Bench], None] | None = None) -> None:
        """Windows of every model at its rate.

        after: called for each model when the windows of a load are done; with one load only, after every window.
        """
        total = divided.loads * divided.windows
        for load in range(divided.loads):
            self._fresh()
            for number in range(divided.windows):
                self.progress(f"window {load * divided.windows + number + 1} of {total}")

                def window(bench: _Bench, load: int = load, number: int = number) -> None:
                    bench.window_s = divided.seconds
                    bench.readings.append(self._press(bench, load, number))

                self._each(self._alive(), window)
                if after is not None and (divided.loads == 1 or number + 1 == divided.windows):
                    for bench in self._alive():
                        after(bench)

    def _search(self, seconds: float) -> None:
        """The highest rate of each model that is valid, found anew with every load from windows near it."""
        bound, workers = self.demand.bound, self.demand.concurrency
        assert bound is not None
        for bench in self._alive():
            bench.rate *= _FIRST

        def search(bench: _Bench) -> None:
            measured = services([reading.served for reading in bench.readings], workers)
            bench.found.append(highest_rate(measured, bound, SHARE, self.seed + len(bench.found)))
            bench.rate = highest(bench.found).value or bench.rate
            bench.tried += [reading.seen for reading in bench.readings]
            bench.readings.clear()

        self._windows(self._plan(seconds, None), search)

    def _press(self, bench: _Bench, load: int, number: int) -> Reading:
        """One window. In those of one number after one loading, queries arrive alike but for the rate."""
        assert bench.press is not None
        workers, bound, seconds = self.demand.concurrency, self.demand.bound, bench.window_s
        if self.demand.scenario != "server":
            return followed(bench.press(Window(workers, seconds)), load)
        times = arrivals(bench.rate, seconds, (self.seed, self.loads, number))
        patience = max(_PATIENCE * bound if bound else seconds / _PATIENCE, _FEWEST * bench.query_s)
        served = bench.press(Window(workers, seconds, times, patience))
        return queued(served, load, times=times, seconds=seconds, bound=bound)
