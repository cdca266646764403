"""Paired timing: interleaved blocks in one process, and what they say about the ratio of two models.

Shared machines drift by tens of percent, so two separate timings are never compared: every round times all models
with the same inputs, and the evidence is the ratio inside each round.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from accelc.runner import Runner, Session

T = TypeVar("T")
Verdict = Literal["faster", "slower", "same"]
Block = Callable[[int, int, int, int], float]
"""(model, feed, runs, uncounted runs before) -> seconds per run."""

TOLERANCE = 0.02
MIN_ROUNDS = 8
_PRECISION = 0.03
_RESAMPLES = 2000
STRONG = 0.99
"""The level of the interval that a verdict needs."""
_MOST_RUNS = 10_000
_WARM_SHARE = 0.25
_STEADY = 0.05
_SHORTEST_S = 1e-7
# Below this many rounds the extremes of a sample do not enclose its median with 95 % confidence.
FEW = 6
_FEW_ROUNDS_LIMIT = 0.8
# Quantiles of Student's distribution, two-sided, by degrees of freedom from 1.
_STUDENT = {
    0.95: (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    0.99: (63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947),
}
NOISE_FLOOR = 0.02


@dataclass(frozen=True)
class Comparison:
    """A variant against the original.

    ratio: median of original time / variant time over the rounds; above 1 the variant is faster. low, high: its
    95 % interval. verdict: faster or slower only when the evidence is strong (see compare_times). original_ms,
    variant_ms: median time per run; the p90 are 90th percentiles. spread: how far the original's own times scatter,
    as half the distance between their 10th and 90th percentile over the median.
    """

    ratio: float
    low: float
    high: float
    verdict: Verdict
    original_ms: float
    variant_ms: float
    original_p90_ms: float
    variant_p90_ms: float
    rounds: int
    spread: float

    @property
    def note(self) -> str:
        """What a reader must know about the noise, or an empty text."""
        if self.rounds < FEW:
            return f"only {self.rounds} round(s) fitted into the time budget"
        if self.high - self.low > 4 * _PRECISION * self.ratio or self.spread > 0.25:
            return f"a busy machine: single timings scatter by {100 * self.spread:.0f} %"
        return ""


def never_slower(comparison: Comparison) -> bool:
    """The gate: false only when the evidence says slower.

    Where only a few rounds were possible, single runs take so long that a fifth cannot be noise.
    """
    if comparison.rounds < FEW and comparison.ratio < _FEW_ROUNDS_LIMIT:
        return False
    return comparison.verdict != "slower"


def compare_times(
    original: Sequence[float], variant: Sequence[float], *, tolerance: float = TOLERANCE, seed: int = 0
) -> Comparison:
    """Compare seconds per run of two models, round by round (same length, at least one round).

    The verdict is faster or slower when the 99 % interval of the median ratio and the ratio of the undisturbed runs
    (the lower quartiles) both lie beyond the tolerance on that side; else same.
    """
    a, b = np.asarray(original, np.float64), np.asarray(variant, np.float64)
    if a.shape != b.shape or a.size == 0:
        raise ValueError("both models need the same number of rounds, at least one")
    logs = np.log(a) - np.log(b)
    resampled = _resample(logs, seed)
    low, high = _bounds(logs, resampled, 0.95)
    p10, median, p90 = np.percentile(a, [10, 50, 90])
    return Comparison(
        ratio=float(np.exp(np.median(logs))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        verdict=verdict(_bounds(logs, resampled, STRONG), quiet(a, b), tolerance),
        original_ms=float(median) * 1e3,
        variant_ms=float(np.median(b)) * 1e3,
        original_p90_ms=float(p90) * 1e3,
        variant_p90_ms=float(np.percentile(b, 90)) * 1e3,
        rounds=int(a.size),
        spread=float((p90 - p10) / (2 * median)),
    )


def verdict(strong: tuple[float, float], undisturbed: float, tolerance: float = TOLERANCE) -> Verdict:
    """What evidence on log(original time / variant time) says: its STRONG interval, and the ratio when undisturbed."""
    low, high = strong
    if min(low, undisturbed) > math.log1p(tolerance):
        return "faster"
    return "slower" if max(high, undisturbed) < math.log1p(-tolerance) else "same"


def quiet(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Logarithm of the ratio of the undisturbed times: the lower quartiles."""
    return math.log(float(np.percentile(a, 25)) / float(np.percentile(b, 25)))


def student(values: NDArray[np.float64], level: float, *, trim: int = 0, floor: float = 0.0) -> tuple[float, float]:
    """The mean without the `trim` lowest and highest values, and half the width of Student's interval of it.

    With trim it is the interval of Tukey and McLaughlin (1963), from the winsorized deviation. One value says nothing:
    inf. values: 1 to 16, more than 2 * trim. level: 0.95 or 0.99. floor: the least deviation, as a few values may agree
    by chance.
    """
    count, ordered = values.size, np.sort(values)
    kept = ordered[trim : count - trim]
    middle = float(kept.mean())
    if kept.size == 1:
        return middle, math.inf
    deviation = max(float(np.std(np.clip(ordered, kept[0], kept[-1]), ddof=1)), floor)
    return middle, _STUDENT[level][kept.size - 2] * deviation * math.sqrt(count) / kept.size


def interval(values: NDArray[np.float64], *, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval of the median; for fewer than six values Student's interval with a floor for the noise.

    level: 0.95 or 0.99. One value says nothing: (-inf, inf). The same values and seed give the same interval.
    """
    return _bounds(values, _resample(values, seed), level)


def _resample(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Medians of resamples of the values; nothing for fewer than six."""
    count = values.size
    if count < FEW:
        return np.empty(0)
    draws = np.random.default_rng(seed).integers(0, count, (_RESAMPLES, count))
    medians: NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians


def _bounds(values: NDArray[np.float64], resampled: NDArray[np.float64], level: float) -> tuple[float, float]:
    count = values.size
    if count < FEW:
        _, half = student(values, level, floor=NOISE_FLOOR)
        middle = float(np.median(values))
        return middle - half, middle + half
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def compare(
    runner: Runner,
    original: Session,
    variants: Sequence[Session],
    feeds: Sequence[Mapping[str, Any]],
    budget_s: float,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Comparison]:
    """Time the variants against the original, and stop early once every verdict is certain and precise.

    Takes budget_s seconds at most, a few blocks more where one run is already slower than that. progress: called
    with the number of rounds made. Raises RuntimeFailure.
    """
    check_at = MIN_ROUNDS

    def seen(times: list[list[float]]) -> bool:
        nonlocal check_at
        rounds = len(times[0])
        if progress is not None:
            progress(rounds)
        if rounds < check_at:
            return False
        # Few looks at growing distances: each look is one more chance to stop on luck.
        check_at = math.ceil(check_at * 1.5)
        return all(is_settled(times[0], other, tolerance=tolerance, seed=seed) for other in times[1:])

    sessions = [original, *variants]
    times = runner.time(sessions, feeds, budget_s=budget_s, min_rounds=MIN_ROUNDS, seed=seed, progress=seen)
    return [compare_times(times[0], other, tolerance=tolerance, seed=seed) for other in times[1:]]


def is_settled(original: Sequence[float], variant: Sequence[float], *, tolerance: float, seed: int = 0) -> bool:
    """More rounds would change neither the verdict nor the figure: the 99 % interval is narrow and on one side."""
    a, b = np.asarray(original, np.float64), np.asarray(variant, np.float64)
    if a.size < FEW:
        return False
    low, high = strong = interval(np.log(a) - np.log(b), level=STRONG, seed=seed)
    same = low > math.log1p(-tolerance) and high < math.log1p(tolerance)
    return high - low < 2 * _PRECISION and (same or verdict(strong, quiet(a, b), tolerance) != "same")


def schedule(
    block: Block,
    models: int,
    feeds: int,
    *,
    budget_s: float,
    min_rounds: int,
    block_s: float,
    seed: int = 0,
    progress: Callable[[list[list[float]]], bool] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[float]]:
    """Drive `block` over warm-up and rounds; seconds per run for every model and round (see Runner.time)."""
    start = clock()
    share_s = _WARM_SHARE * budget_s / models
    estimates = [warm_up(partial(block, model), feeds, block_s, share_s, clock) for model in range(models)]
    runs = [runs_within(block_s, estimate) for estimate in estimates]
    # The first run after another model finds cold caches. Models too slow to repeat inside a block pay it alike.
    warm = [1 if min(runs) > 1 else 0] * models
    order = random.Random(seed)
    times: list[list[float]] = [[] for _ in range(models)]
    for number in range(10**9):
        for model, seconds in turn(block, runs, warm, number % feeds, order):
            times[model].append(seconds)
        done, spent = number + 1, clock() - start
        if progress is not None and progress(times):
            break
        next_end = spent + (spent / done if done < 3 else 0)
        if next_end >= (budget_s if done >= min_rounds else 2 * budget_s):
            break
    return times


def turn(
    block: Callable[[int, int, int, int], T], runs: Sequence[int], warm: Sequence[int], feed: int, order: random.Random
) -> Iterator[tuple[int, T]]:
    """One round: every model runs one block, in random order; (model, what `block` returned)."""
    for model in order.sample(range(len(runs)), len(runs)):
        yield model, block(model, feed, runs[model], warm[model])


def runs_within(seconds: float, run_s: float) -> int:
    """How many runs make a block."""
    return max(1, min(_MOST_RUNS, round(seconds / max(run_s, _SHORTEST_S))))


def warm_up(
    block: Callable[[int, int, int], float], feeds: int, block_s: float, share_s: float, clock: Callable[[], float]
) -> float:
    """Run every feed once, then blocks until two in a row agree, while the share lasts; seconds per run."""
    start = clock()
    best = block(0, 1, 0)
    for feed in range(1, feeds):
        if clock() - start >= share_s:
            break
        best = min(best, block(feed, 1, 0))
    last = math.inf
    while clock() - start < share_s:
        now = block(0, runs_within(block_s, best), 0)
        best = min(best, now)
        if abs(now - last) <= _STEADY * last:
            break
        last = now
    return max(best, _SHORTEST_S)
