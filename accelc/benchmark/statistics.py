"""What times say: percentiles that their number supports, and intervals that hold what differs from load to load.

The same file loaded twice can differ for as long as it is loaded, so many rounds of one load are no better evidence
than the load is. The units of evidence are therefore the medians of the loads, and the interval is Student's over them
(Kalibera & Jones, Rigorous benchmarking in reasonable time, 2013, with one level above the rounds). On a busy machine
a load may be slow as a whole, so the outermost sixth of them is trimmed where they are eight or more. Where there was
time for one load only, its rounds are cut into a few pieces instead, as neighbouring rounds are alike (batch means);
what differs from load to load is then unknown, and only a large difference on which all of it agrees is a verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from accelc.benchmark.results import Figure, Kind, Latency, Versus
from accelc.benchmark.rounds import Times
from accelc.measure import FEW, NOISE_FLOOR, STRONG, Verdict, quiet, student, verdict

MOST_LOADS = 16
"""More loads than this in one estimate are put together, neighbour to neighbour."""
SHOWN_BLOCKS = 400
"""As many rounds are listed one by one; of more, the medians of neighbours in one load."""
_LEAST_PIECES, _MOST_PIECES, _PIECE = 4, 6, 5
_LEAST_TRIMMED, _TRIM = 8, 6
ONE_LOAD_TOLERANCE = 0.2
"""Of a verdict from one load: more than loads of one file usually differ by."""
_PERCENTILES = {"p90": 0.90, "p99": 0.99}
_CONFIDENCE = 0.99
_MARGIN = 1 / 20


def runs_needed(percentile: float) -> int:
    """How many runs support a percentile (0.9: the 90th): MLPerf's rule.

    That many, independent of one another, place it with 99 % confidence within a twentieth of what lies beyond it.
    """
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    return math.ceil((z / (_MARGIN * (1 - percentile))) ** 2 * percentile * (1 - percentile))


@dataclass(frozen=True)
class Estimate:
    """Of a logarithm: its value, and half the width of its 95 % and of its strong interval; inf from one round."""

    value: float
    half: float
    strong: float

    def around(self, value: float) -> Figure:
        """The 95 % interval around a value whose logarithm was estimated."""
        return Figure(value, value * math.exp(-self.half), value * math.exp(self.half))


def estimate(logs: NDArray[np.float64], load_of: NDArray[np.int64]) -> Estimate:
    """The typical of some logarithms, one for each round, in order [rounds]; load_of: which load each was made in."""
    return estimate_of_units([float(np.median(logs[unit])) for unit in _units(load_of)], logs.size)


def figure(values: NDArray[np.float64], load_of: NDArray[np.int64]) -> Figure:
    """The typical of positive values, one for each round, with its interval."""
    found = estimate(np.log(values), load_of)
    return found.around(math.exp(found.value))


def estimate_of_units(units: Sequence[float], rounds: int) -> Estimate:
    """The same from the logarithms of units that are independent of one another. rounds: made in all of them."""
    values, floor = np.array(units), NOISE_FLOOR if rounds < FEW else 0.0
    trim = len(units) // _TRIM if len(units) >= _LEAST_TRIMMED else 0
    middle, half = student(values, 0.95, trim=trim, floor=floor)
    return Estimate(middle, half, student(values, STRONG, trim=trim, floor=floor)[1])


def _units(load_of: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Which rounds make each unit of evidence."""
    starts = np.flatnonzero(np.diff(load_of)) + 1
    loads = np.split(np.arange(load_of.size), starts)
    if len(loads) == 1:
        pieces = min(max(load_of.size // _PIECE, _LEAST_PIECES), _MOST_PIECES, load_of.size)
        return np.array_split(loads[0], pieces)
    if len(loads) <= MOST_LOADS:
        return loads
    joined = np.array_split(np.arange(len(loads)), MOST_LOADS)
    return [np.concatenate([loads[each] for each in some]) for some in joined]


def latency(times: Times, items: int = 1) -> Latency:
    """The latency of one model. items: of one run, for the throughput."""
    runs, blocks, means = times.runs, times.blocks, times.means
    p10, middle, p90 = (float(each) for each in np.percentile(blocks, [10, 50, 90]))
    needed = {name: runs_needed(share) for name, share in _PERCENTILES.items()}
    middling = estimate(np.log(blocks), times.load_of)
    percentiles = {
        name: _percentile(1e3 * runs, share, middling.half)
        for name, share in _PERCENTILES.items()
        if runs.size >= needed[name]
    }
    shown = {name: found.value for name, found in percentiles.items()}
    mean = float(means.mean())
    rate = estimate_of_units([math.log(float(means[unit].mean())) for unit in _units(times.load_of)], blocks.size)
    shown_blocks, shown_loads = _thinned(blocks, times.load_of)
    return Latency(
        runs=times.timed,
        rounds=int(blocks.size),
        loads=int(np.unique(times.load_of).size),
        p50_ms=middling.around(1e3 * float(np.median(runs))),
        mean_ms=1e3 * mean,
        least_ms=1e3 * float(runs.min()),
        p90_ms=shown.get("p90"),
        p99_ms=shown.get("p99"),
        needed=needed,
        throughput=Figure(items / mean, items / (mean * math.exp(rate.half)), items * math.exp(rate.half) / mean),
        items=items,
        spread=(p90 - p10) / (2 * middle),
        blocks_ms=tuple((1e3 * shown_blocks).tolist()),
        load_of=tuple(shown_loads.tolist()),
        percentiles=percentiles,
    )


def _percentile(runs: NDArray[np.float64], share: float, half: float) -> Figure:
    """With its interval: where the rule places it among the runs, and half of what differs from load to load."""
    margin = _MARGIN * (1 - share)
    low, value, high = (float(each) for each in np.quantile(runs, [share - margin, share, share + margin]))
    below, above = math.hypot(math.log(value / low), half), math.hypot(math.log(high / value), half)
    return Figure(value, value * math.exp(-below), value * math.exp(above))


def versus(mine: Times, other: Times, against: int, kind: Kind) -> Versus:
    """One model against another that was timed in the same rounds. against, kind: see Versus.

    Faster or slower when the strong interval of the ratio and the ratio of the undisturbed rounds both lie beyond the
    tolerance (accelc.measure). From one load each of its pieces must say so as well, the median of all runs too, and
    beyond ONE_LOAD_TOLERANCE; a few rounds of it decide nothing. Raises ValueError for times of different rounds.
    """
    if not np.array_equal(mine.load_of, other.load_of):
        raise ValueError("both models need the same rounds")
    found = estimate(np.log(other.blocks) - np.log(mine.blocks), mine.load_of)
    undisturbed = [quiet(other.blocks[unit], mine.blocks[unit]) for unit in _units(mine.load_of)]
    low, high = found.value - found.strong, found.value + found.strong
    decided: Verdict = "same"
    if np.unique(mine.load_of).size > 1:
        decided = verdict((low, high), float(np.median(undisturbed)))
    elif mine.blocks.size >= FEW:
        said = [*undisturbed, math.log(float(np.median(other.runs)) / float(np.median(mine.runs)))]
        decided = verdict((min(low, *said), max(high, *said)), float(np.median(undisturbed)), ONE_LOAD_TOLERANCE)
    ratio = found.around(math.exp(found.value))
    return Versus(against, kind, ratio.value, ratio.low, ratio.high, decided)


def _thinned(blocks: NDArray[np.float64], load_of: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """About SHOWN_BLOCKS values at most, and the load of each."""
    size = math.ceil(blocks.size / SHOWN_BLOCKS)
    if size == 1:
        return blocks, load_of
    parts = [
        part
        for load in np.unique(load_of)
        for part in np.array_split(np.flatnonzero(load_of == load), math.ceil(np.count_nonzero(load_of == load) / size))
    ]
    return np.array([np.median(blocks[part]) for part in parts]), np.array([load_of[part[0]] for part in parts])
