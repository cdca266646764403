"""Interleaved rounds over lanes: what is compared is timed in turn, in random order, over several loads.

Blocks are short: where others use the machine, two short blocks next to each other see the same machine, and among
many pairs the few that did not have little weight.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import operator
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accelc.measure import MIN_ROUNDS, runs_within, turn, warm_up
from accelc.runner import RuntimeFailure

Block = Callable[[int, int, int], NDArray[np.float64]]
"""(feed, runs, uncounted runs before) -> seconds of each run [runs]"""

Clock = Callable[[], float]

BLOCK_S = 0.004
_LONGEST_BLOCK_S = 0.05
# After another model the first runs find cold caches and sleeping threads.
_UNCOUNTED, _UNCOUNTED_S, _LONGEST_UNCOUNTED_S = 3, 0.004, 0.02
MOST_LOADS, LEAST_LOADS = 16, 4
_LOADING_SHARE, _MOST_LOADING_SHARE = 0.4, 0.5
_WARM_SHARE, _LONGEST_WARM_S = 0.02, 0.5
MOST_RUNS = 2**20
"""As many single runs are kept; when more are timed, every second one, then every fourth."""


class Lane(Protocol):
    """Something to time: a model that can be loaded again and again.

    feeds: how many input sets there are. group: lanes of one group are interleaved and compared.
    """

    feeds: int
    group: str

    @property
    def again_s(self) -> float:
        """While open: seconds that another load takes without a new process."""

    def open(self, generation: int) -> Block:
        """Load anew and return what times a block. Raises RuntimeFailure."""

    def keep_process(self) -> None:
        """Load in the same process from now on."""

    def close(self) -> None:
        """Free what `open` made; also after `open` failed. Raises RuntimeFailure."""


@dataclass(frozen=True)
class Times:
    """Of one lane, or of a load scenario.

    runs: seconds of single runs, in order; timed: how many there were, where not all are kept. blocks: the median of
    each round; load_of: its generation, ascending; means: the mean of each round.
    """

    runs: NDArray[np.float64]
    blocks: NDArray[np.float64]
    load_of: NDArray[np.int64]
    means: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    timed: int = 0

    def __post_init__(self) -> None:
        if not self.means.size:
            object.__setattr__(self, "means", self.blocks)
        object.__setattr__(self, "timed", max(self.timed, self.runs.size))


def measure(
    lanes: Sequence[Lane],
    seconds: float,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Times | RuntimeFailure]:
    """Time every lane in rounds that take about `seconds` for each lane; loading and warming up come on top.

    Groups are measured one after the other, the lanes of a group in the same rounds and with the same feeds, in turn.
    The rounds are divided into 4 to 16 loads, each in a new process where there is time for that; into one where four
    would take more than half as long as the rounds, or fewer than four rounds fit. One round is always made. A lane
    that fails has its failure, the others go on with a new load.
    """
    tell = progress or (lambda text: None)
    logs = [_Log(lane) for lane in lanes]
    for number, group in enumerate(dict.fromkeys(lane.group for lane in lanes)):
        _Group([log for log in logs if log.lane.group == group], seconds, seed + number, tell, clock).run()
    return [log.failure or log.times() for log in logs]


class _Log:
    """A lane, and what became of it: a failure of `open`, `block` or `close` is kept and ends the load for all."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self.failure: RuntimeFailure | None = None
        self._block: Block | None = None
        self._kept: list[NDArray[np.float64]] = []
        self._size, self._step, self._timed = 0, 1, 0
        self._rounds: list[tuple[float, float, int]] = []

    def open(self, generation: int) -> None:
        """Load anew. Raises RuntimeFailure."""
        with self._failing():
            self._block = self.lane.open(generation)

    def block(self, feed: int, runs: int, warm: int) -> NDArray[np.float64]:
        """Seconds of single runs. Raises RuntimeFailure."""
        assert self._block is not None
        with self._failing():
            return self._block(feed, runs, warm)

    def median(self, feed: int, runs: int, warm: int) -> float:
        """Of a block, not kept. Raises RuntimeFailure."""
        return float(np.median(self.block(feed, runs, warm)))

    def close(self) -> None:
        """Free what was loaded. Raises RuntimeFailure."""
        self._block = None
        with self._failing():
            self.lane.close()

    def add(self, runs: NDArray[np.float64], generation: int) -> None:
        """Keep a block of a whole round."""
        kept = runs[-self._timed % self._step :: self._step]
        self._kept.append(kept)
        self._size, self._timed = self._size + kept.size, self._timed + runs.size
        self._rounds.append((float(np.median(runs)), float(runs.mean()), generation))
        if self._size > MOST_RUNS:
            self._kept, self._step = [np.concatenate(self._kept)[::2].copy()], 2 * self._step
            self._size = self._kept[0].size

    def times(self) -> Times:
        """All rounds."""
        medians, means, loads = (np.array(each) for each in zip(*self._rounds, strict=True))
        return Times(np.concatenate(self._kept), medians, loads, means, self._timed)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except RuntimeFailure as failure:
            self.failure = self.failure or failure
            raise


class _Group:
    """Lanes in the same rounds. left: seconds of rounds still to be made; loads: how many more loads they go into."""

    def __init__(self, logs: Sequence[_Log], seconds: float, seed: int, tell: Callable[[str], None], clock: Clock):
        self.logs, self.order, self.tell, self.clock = logs, random.Random(seed), tell, clock
        self.rounds, self.left, self.loads = 0, seconds * len(logs), 0
        self.warm_s = min(_WARM_SHARE * seconds, _LONGEST_WARM_S)
        self.feeds = min(log.lane.feeds for log in logs)

    def run(self) -> None:
        """Load and time, again and again, until the time is used or no lane is left."""
        for generation in itertools.count():
            live = [log for log in self.logs if log.failure is None]
            if not live or (self.rounds and not self.loads):
                return
            self.tell(f"load {generation + 1}" + (f" of {generation + self.loads}" if self.loads else ""))
            with contextlib.suppress(RuntimeFailure):  # the lane keeps it
                self._generation(live, generation)
            self.left *= sum(log.failure is None for log in live) / len(live)

    def _generation(self, live: Sequence[_Log], generation: int) -> None:
        start = self.clock()
        with contextlib.ExitStack() as opened:
            for log in self.order.sample(live, len(live)):
                opened.callback(log.close)
                log.open(generation)
            loaded = self.clock()
            estimates = [warm_up(log.median, self.feeds, BLOCK_S, self.warm_s, self.clock) for log in live]
            if not self.loads:
                self._divide(live, estimates, loaded - start, self.clock() - loaded)
            self._time(live, estimates, generation)

    def _divide(self, live: Sequence[_Log], estimates: Sequence[float], load_s: float, warm_s: float) -> None:
        """Decide how many loads there will be, and whether in new processes."""
        round_s = sum(map(operator.mul, estimates, blocks_of(estimates)[0]))
        self.loads = loads_within(self.left, load_s + warm_s, round_s)
        again = loads_within(self.left, sum(log.lane.again_s for log in live) + warm_s, round_s)
        if self.loads == 1 < again:
            self.loads = again
            for log in live:
                log.lane.keep_process()

    def _time(self, live: Sequence[_Log], estimates: Sequence[float], generation: int) -> None:
        """Rounds with one load."""
        runs, warm = blocks_of(estimates)
        share = self.left / self.loads
        start, spent, done = self.clock(), 0.0, 0

        def block(lane: int, feed: int, runs: int, warm: int) -> NDArray[np.float64]:
            return live[lane].block(feed, runs, warm)

        while not done or spent + spent / done / 2 < (share if self.rounds >= MIN_ROUNDS else 2 * share):
            found = dict(turn(block, runs, warm, self.rounds % self.feeds, self.order))
            for lane, each in found.items():
                live[lane].add(each, generation)
            # A warm-up that was disturbed makes runs look long, and blocks too short.
            estimates = [min(old, float(np.median(found[lane]))) for lane, old in enumerate(estimates)]
            runs, warm = blocks_of(estimates)
            before, spent = spent, self.clock() - start
            self.rounds, done, self.left = self.rounds + 1, done + 1, self.left - (spent - before)
        self.loads -= 1


def blocks_of(estimates: Sequence[float]) -> tuple[list[int], list[int]]:
    """For lanes by the seconds of a run: the runs of a block, and the uncounted ones before it.

    Lanes of nearly the same cost have the same of both: the median of two runs is disturbed more often than one run.
    """
    slowest = max(estimates)
    base = runs_within(BLOCK_S, slowest)
    runs = [min(base * max(1, round(slowest / each)), runs_within(_LONGEST_BLOCK_S, each)) for each in estimates]
    typical = math.sqrt(min(estimates) * slowest)
    warm = int(min(_UNCOUNTED, _UNCOUNTED_S / typical, _LONGEST_UNCOUNTED_S / slowest))
    return runs, [warm] * len(runs)


def loads_within(seconds: float, load_s: float, round_s: float) -> int:
    """How many loads rounds of `seconds` are divided into: one, or enough of them to say how much loads differ."""
    loads = int(min(_LOADING_SHARE * seconds / max(load_s, 1e-9), seconds / round_s, MOST_LOADS))
    if loads >= LEAST_LOADS:
        return loads
    enough = LEAST_LOADS * load_s <= _MOST_LOADING_SHARE * seconds and LEAST_LOADS * round_s <= seconds
    return LEAST_LOADS if enough else 1
