"""Statistics on synthetic timings, and the order of blocks on a synthetic clock. No real timing is asserted."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from accelc.measure import Comparison, compare, compare_times, interval, is_settled, never_slower, schedule


def noisy(rng: np.random.Generator, rounds: int, factors: Sequence[float], kind: str) -> list[list[float]]:
    """Times of models whose true cost is `factors`, on a machine with the named trouble."""
    base = 0.01 * np.ones((len(factors), rounds)) * np.asarray(factors)[:, None]
    base *= np.exp(0.01 * rng.standard_normal(base.shape))
    if kind == "drift":
        base *= np.linspace(1, 1.6, rounds) * (1 + 0.2 * np.sin(np.arange(rounds) / 5))
    if kind == "outliers":
        base *= np.where(rng.random(base.shape) < 0.15, rng.uniform(1.5, 6, base.shape), 1)
    if kind == "contention":  # half of all blocks share the machine with somebody else
        base *= np.where(rng.random(base.shape) < 0.5, rng.uniform(1.2, 2.5, base.shape), 1)
    rows: list[list[float]] = base.tolist()
    return rows


KINDS = ["quiet", "drift", "outliers", "contention"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [3, 8, 40])
def test_identical_models_are_nearly_always_the_same(kind: str, rounds: int) -> None:
    rng = np.random.default_rng(1)
    verdicts = [compare_times(*noisy(rng, rounds, (1, 1), kind)).verdict for _ in range(120)]
    assert sum(verdict != "same" for verdict in verdicts) <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("cost", "verdict"), [(1 / 1.3, "faster"), (1.3, "slower")])
def test_real_differences_are_seen(kind: str, cost: float, verdict: str) -> None:
    rng = np.random.default_rng(2)
    found = [compare_times(*noisy(rng, 60, (1, cost), kind)) for _ in range(50)]
    assert sum(c.verdict == verdict for c in found) >= (30 if kind == "contention" else 49)
    assert all(c.verdict in (verdict, "same") for c in found)


@pytest.mark.parametrize("kind", ["quiet", "drift", "outliers"])
def test_interval_holds_the_truth(kind: str) -> None:
    rng = np.random.default_rng(3)
    found = [compare_times(*noisy(rng, 40, (1.4, 1), kind)) for _ in range(100)]
    assert sum(c.low <= 1.4 <= c.high for c in found) >= 89
    assert all(c.low <= c.ratio <= c.high for c in found)


def test_difference_inside_the_tolerance_is_the_same() -> None:
    times = noisy(np.random.default_rng(4), 200, (1, 1.01), "quiet")
    assert compare_times(*times, tolerance=0.03).verdict == "same"
    assert compare_times(*times, tolerance=0.001).verdict == "slower"


def test_figures() -> None:
    found = compare_times([0.002, 0.004, 0.006] * 4, [0.001, 0.002, 0.003] * 4)
    assert found.ratio == pytest.approx(2)
    assert [found.original_ms, found.variant_ms] == pytest.approx([4, 2])
    assert [found.original_p90_ms, found.variant_p90_ms] == pytest.approx([6, 3])
    assert found.rounds == 12
    assert found.verdict == "faster"
    assert "scatter" in found.note


def test_same_times_give_the_same_result() -> None:
    times = noisy(np.random.default_rng(5), 30, (1, 1.2), "outliers")
    assert compare_times(*times) == compare_times(*times)


def test_one_round_says_nothing() -> None:
    found = compare_times([0.001], [0.1])
    assert (found.low, found.high, found.verdict) == (0, math.inf, "same")
    assert not never_slower(found), "a hundredfold is no noise, even once"
    assert never_slower(compare_times([0.001], [0.0012]))
    assert "1 round" in found.note


def test_few_rounds_need_a_large_difference() -> None:
    assert compare_times([1, 1.0, 1.0], [1.1, 1.1, 1.1]).verdict == "same"
    assert compare_times([1, 1.0, 1.0], [3, 3, 3.1]).verdict == "slower"


@pytest.mark.parametrize("swapped", [False, True])
def test_disturbed_rounds_alone_decide_nothing(swapped: bool) -> None:
    # Seven rounds of ten were disturbed on one side only; the undisturbed ones are equal.
    pair = [([2.0] * 7 + [1.0] * 3) * 15, [1.0] * 150]
    found = compare_times(*(reversed(pair) if swapped else pair))
    assert found.verdict == "same"
    assert found.ratio == pytest.approx(0.5 if swapped else 2)


def test_gate() -> None:
    rng = np.random.default_rng(6)
    assert never_slower(compare_times(*noisy(rng, 40, (1, 1), "quiet")))
    assert never_slower(compare_times(*noisy(rng, 40, (1, 0.5), "quiet")))
    assert not never_slower(compare_times(*noisy(rng, 40, (1, 1.2), "quiet")))


@pytest.mark.parametrize("pair", [([], []), ([1.0], [1.0, 2.0])])
def test_bad_lengths(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        compare_times(*pair)


def test_interval_grows_with_the_level() -> None:
    values = np.random.default_rng(7).standard_normal(30)
    low, high = interval(values)
    wider_low, wider_high = interval(values, level=0.99)
    assert wider_low <= low < high <= wider_high
    for few in (2, 3, 4, 5):
        assert np.subtract(*interval(values[:few], level=0.99)) < np.subtract(*interval(values[:few]))


def test_settled() -> None:
    rng = np.random.default_rng(8)

    def settled(rounds: int, cost: float, kind: str) -> bool:
        return is_settled(*noisy(rng, rounds, (1, cost), kind), tolerance=0.02)

    assert settled(40, 1, "quiet")
    assert settled(40, 0.5, "quiet")
    assert settled(40, 1.5, "drift")
    assert not settled(4, 0.5, "quiet")
    assert not settled(12, 1, "contention")


# --- the order of the blocks


class Machine:
    """Models with known costs on a clock that only blocks move."""

    def __init__(self, costs: Sequence[float], seed: int = 0, noise: float = 0.0) -> None:
        self.costs, self.noise, self.now, self.random = costs, noise, 0.0, random.Random(seed)
        self.calls: list[tuple[int, int, int, int]] = []

    def block(self, model: int, feed: int, runs: int, warm: int) -> float:
        self.calls.append((model, feed, runs, warm))
        cost = self.costs[model] * math.exp(self.noise * self.random.gauss(0, 1))
        self.now += cost * (runs + warm)
        return cost

    def run(self, feeds: int = 1, **options: Any) -> list[list[float]]:
        settings = {"budget_s": 2.0, "min_rounds": 8, "block_s": 0.02, **options}
        return schedule(self.block, len(self.costs), feeds, clock=lambda: self.now, **settings)


def test_rounds_hold_every_model_once_with_one_feed() -> None:
    machine = Machine([0.001, 0.002, 0.003])
    times = machine.run(feeds=2)
    rounds = len(times[0])
    assert [len(row) for row in times] == [rounds] * 3
    measured = machine.calls[-3 * rounds :]
    orders = set()
    for number in range(rounds):
        part = measured[3 * number : 3 * number + 3]
        assert sorted(call[0] for call in part) == [0, 1, 2]
        assert {call[1] for call in part} == {number % 2}
        orders.add(tuple(call[0] for call in part))
    assert len(orders) > 1
    assert {call[:1] + call[2:] for call in measured} == {(0, 20, 1), (1, 10, 1), (2, 7, 1)}


def test_order_follows_the_seed() -> None:
    first, again, other = Machine([1e-3] * 3), Machine([1e-3] * 3), Machine([1e-3] * 3)
    first.run(seed=1)
    again.run(seed=1)
    other.run(seed=2)
    assert first.calls == again.calls
    assert first.calls != other.calls


def test_slow_models_are_not_warmed_at_the_cost_of_the_budget() -> None:
    machine = Machine([5.0, 5.0])
    times = machine.run(budget_s=10.0)
    assert {call[3] for call in machine.calls} == {0}
    assert len(times[0]) >= 1
    assert machine.now <= 3 * 10.0


def test_budget_is_kept() -> None:
    machine = Machine([0.001, 0.001])
    machine.run(budget_s=3.0)
    assert 2.5 <= machine.now <= 3.3


def test_progress_stops() -> None:
    assert len(Machine([0.001]).run(progress=lambda times: len(times[0]) == 5)[0]) == 5


class FakeRunner:
    """A runner whose sessions are the numbers of a Machine's models."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def time(self, sessions: Sequence[int], feeds: Sequence[Any], **options: Any) -> list[list[float]]:
        assert list(sessions) == list(range(len(self.machine.costs)))
        return self.machine.run(feeds=len(feeds), **options)


def compared(costs: Sequence[float], noise: float, budget_s: float) -> tuple[list[Comparison], Machine]:
    machine = Machine(costs, noise=noise)
    runner: Any = FakeRunner(machine)
    models: list[Any] = list(range(len(costs)))
    return compare(runner, models[0], models[1:], [{}], budget_s), machine


def test_compare_stops_early_when_certain() -> None:
    found, machine = compared([0.001, 0.0005, 0.001], 0.005, 60)
    assert [c.verdict for c in found] == ["faster", "same"]
    assert machine.now < 10


def test_compare_takes_longer_when_it_is_not() -> None:
    found, machine = compared([0.001, 0.00098], 0.2, 5)
    assert 4.5 < machine.now < 5.5
    assert found[0].verdict == "same"


def test_compare_tells_its_rounds() -> None:
    machine = Machine([0.001, 0.001])
    runner: Any = FakeRunner(machine)
    models: list[Any] = [0, 1]
    seen: list[int] = []
    found = compare(runner, models[0], models[1:], [{}], 5, progress=seen.append)
    assert seen == list(range(1, found[0].rounds + 1))
