"""Intervals hold the truth as often as they say: synthetic times of machines with every trouble. Nothing is timed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from accelc.benchmark import statistics
from accelc.benchmark.rounds import Times
from accelc.benchmark.statistics import estimate, estimate_of_units, figure, latency, runs_needed, versus

Array = NDArray[np.float64]
ROUNDS = ("quiet", "drift", "outliers", "bimodal", "mostly one mode")
LOADS = ("loads differ", "loads that go wrong", "two kinds of loads", "neighbours alike")


def made(kind: str, count: int, loads: int, rounds: int, seed: int = 0) -> Array:
    """Logarithms of block times of two equal models [count, 2, loads, rounds] on a machine with the named trouble."""
    random = np.random.default_rng([seed, loads, rounds])
    shape = (count, 2, loads, rounds)
    logs = 0.03 * random.standard_normal(shape)
    if kind == "drift":
        line = np.linspace(0, 0.6, loads * rounds) + 0.2 * np.sin(np.arange(loads * rounds) / 5)
        logs += line.reshape(loads, rounds)
    if kind == "outliers":
        logs += np.where(random.random(shape) < 0.05, np.log(random.uniform(2, 10, shape)), 0)
    if kind == "bimodal":
        logs += np.where(random.random(shape) < 0.5, 0.1, 0)
    if kind == "mostly one mode":
        logs += np.where(random.random(shape) < 0.2, 0.3, 0)
    if kind == "loads differ":
        logs += 0.03 * random.standard_normal((count, 2, loads, 1))
    if kind == "loads that go wrong":
        logs += np.where(random.random((count, 2, loads, 1)) < 0.05, random.uniform(0.2, 2, (count, 2, loads, 1)), 0)
    if kind == "two kinds of loads":
        logs += np.where(random.random((count, 2, loads, 1)) < 0.5, 0.05, 0)
    if kind == "neighbours alike":
        for at in range(1, rounds):
            logs[..., at] += 0.6 * logs[..., at - 1]
    return logs


def load_of(loads: int, rounds: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(loads), rounds)


def times(logs: Array, factor: float = 1.0) -> Times:
    """One model. logs: [loads, rounds]. Every round has two runs of its time."""
    blocks = 0.001 * factor * np.exp(logs.reshape(-1))
    return Times(np.repeat(blocks, 2), blocks, load_of(*logs.shape))


def coverage(logs: Array, truth: float = 0.0) -> float:
    """How often, in %, the interval holds the truth. logs: [count, loads, rounds]."""
    loads, rounds = logs.shape[1:]
    if loads == 1:
        found = [estimate(each[0], load_of(1, rounds)) for each in logs]
    else:
        found = [estimate_of_units(each, loads * rounds) for each in np.median(logs, axis=2).tolist()]
    return 100 * float(np.mean([abs(each.value - truth) <= each.half for each in found]))


def test_loads_are_the_units() -> None:
    logs = made("loads differ", 1, 9, 15)[0, 0]
    assert estimate(logs.reshape(-1), load_of(9, 15)) == estimate_of_units(np.median(logs, axis=1).tolist(), 9 * 15)


@pytest.mark.parametrize(
    ("kind", "loads"), [*((kind, 8) for kind in ROUNDS + LOADS), *((kind, 12) for kind in LOADS[:3])]
)
def test_interval_of_a_ratio_holds_the_truth(kind: str, loads: int) -> None:
    logs = made(kind, 1000, loads, 20)
    assert 93 <= coverage(logs[:, 0] - logs[:, 1] + math.log(1.05), math.log(1.05)) <= 97


@pytest.mark.parametrize(("kind", "rounds"), [("outliers", 20), *((kind, 60) for kind in ROUNDS)])
def test_interval_from_one_load_holds_the_truth(kind: str, rounds: int) -> None:
    logs = made(kind, 1000, 1, rounds)
    assert 93 <= coverage(logs[:, 0] - logs[:, 1]) <= 97


@pytest.mark.parametrize(("loads", "rounds"), [(1, 3), (1, 5), (1, 8), (4, 1), (2, 10), (3, 4)])
@pytest.mark.parametrize("kind", ["quiet", "outliers"])
def test_interval_from_few_rounds_is_rather_too_wide(kind: str, loads: int, rounds: int) -> None:
    logs = made(kind, 400, loads, rounds)
    assert coverage(logs[:, 0] - logs[:, 1]) >= 93


@pytest.mark.parametrize("kind", ["quiet", "outliers", "loads differ"])
def test_interval_of_a_latency_holds_the_truth(kind: str) -> None:
    logs = made(kind, 300, 8, 20)[:, 0]
    found = [latency(times(each)).p50_ms for each in logs]
    truth = float(np.exp(np.median(made(kind, 2000, 8, 20, seed=1)[:, 0])))
    assert 90 <= 100 * np.mean([each.low <= truth <= each.high for each in found]) <= 98


def test_more_evidence_makes_it_narrower() -> None:
    def width(kind: str, loads: int, rounds: int) -> float:
        logs = made(kind, 50, loads, rounds)
        of = load_of(loads, rounds)
        return float(np.median([estimate(each.reshape(-1), of).half for each in logs[:, 0] - logs[:, 1]]))

    assert width("quiet", 8, 80) < 0.6 * width("quiet", 8, 20)
    assert width("loads differ", 12, 20) < 0.7 * width("loads differ", 4, 60)
    assert width("loads that go wrong", 12, 20) < 2 * width("quiet", 12, 20)
    assert width("loads differ", 6, 80) > 0.8 * width("loads differ", 6, 20), "rounds do not tell how loads differ"


@pytest.mark.parametrize("kind", ROUNDS + LOADS)
def test_equal_models_are_the_same(kind: str) -> None:
    pairs = made(kind, 60, 8, 40)
    assert [versus(times(a), times(b), 0, "model").verdict for a, b in pairs].count("same") >= 59


@pytest.mark.parametrize("kind", ["quiet", "drift", "outliers", "mostly one mode", "neighbours alike"])
@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "slower"), (1 / 1.05, "faster")])
def test_five_percent_are_seen(kind: str, factor: float, verdict: str) -> None:
    pairs = made(kind, 50, 12, 150)
    assert sum(versus(times(a, factor), times(b), 0, "model").verdict == verdict for a, b in pairs) >= 47


@pytest.mark.parametrize("kind", [*ROUNDS, "loads differ", "two kinds of loads", "neighbours alike"])
@pytest.mark.parametrize("rounds", [4, 6, 20])
def test_one_load_claims_no_difference_between_equal_models(kind: str, rounds: int) -> None:
    pairs = made(kind, 200, 1, rounds)
    assert {versus(times(a), times(b), 0, "model").verdict for a, b in pairs} == {"same"}


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "faster"), (2.0, "slower"), (1.05, "same"), (0.9, "same")])
def test_one_load_tells_large_differences_only(factor: float, verdict: str) -> None:
    pairs = made("drift", 50, 1, 60)
    assert {versus(times(a, factor), times(b), 0, "model").verdict for a, b in pairs} == {verdict}


def test_one_load_whose_single_runs_disagree_with_its_rounds_decides_nothing() -> None:
    # Rounds of one run each were disturbed on one side; the long ones, with most of the runs, are equal.
    steady, blocks = np.ones(16), np.array([3.2] * 12 + [1.0] * 4)
    runs = np.concatenate([blocks[:12], np.ones(400)])
    found = versus(
        Times(np.ones(412), steady, load_of(1, 16)), Times(runs, np.full(16, 3.2), load_of(1, 16)), 0, "model"
    )
    assert found.ratio == pytest.approx(3.2)
    assert found.verdict == "same"


def test_what_loads_hide_is_not_claimed() -> None:
    pairs = made("loads differ", 100, 4, 200)
    verdicts = [versus(times(a, 1.02), times(b), 0, "model").verdict for a, b in pairs]
    assert verdicts.count("same") >= 97


def test_ratio_is_how_much_faster_it_is() -> None:
    logs = made("quiet", 1, 8, 20)[0]
    found = versus(times(logs[0], 0.5), times(logs[0]), 3, "provider")
    assert (found.against, found.kind, found.verdict) == (3, "provider", "faster")
    assert found.ratio == found.low == found.high == pytest.approx(2)


def test_one_round_says_nothing() -> None:
    one = Times(np.array([0.001]), np.array([0.001]), np.array([0]))
    other = Times(np.array([0.1]), np.array([0.1]), np.array([0]))
    found = versus(one, other, 0, "model")
    assert (found.low, found.high, found.verdict) == (0, math.inf, "same")
    assert found.ratio == pytest.approx(100)
    assert (latency(one).p50_ms.low, latency(one).p50_ms.high) == (0, math.inf)


def test_disturbed_rounds_alone_decide_nothing() -> None:
    # Seven rounds of ten were disturbed on one side only; the undisturbed ones are equal.
    steady, disturbed = np.zeros((8, 30)), np.tile(np.log([2.0] * 7 + [1.0] * 3), (8, 3))
    found = versus(times(disturbed), times(steady), 0, "model")
    assert found.ratio == pytest.approx(0.5)
    assert found.verdict == "same"


def test_rounds_must_be_the_same() -> None:
    logs = np.zeros((2, 3))
    with pytest.raises(ValueError, match="same rounds"):
        versus(times(logs), times(logs[:, :2]), 0, "model")


def test_more_loads_than_the_table_knows_are_put_together() -> None:
    logs = made("loads differ", 300, 50, 4)
    found = [estimate(each.reshape(-1), load_of(50, 4)) for each in logs[:, 0] - logs[:, 1]]
    assert 92 <= 100 * np.mean([abs(each.value) <= each.half for each in found]) <= 98


def test_figures() -> None:
    runs = np.array([1.0, 1.0, 2.0, 5.0, 1.0, 3.0]) / 1000
    found = latency(Times(runs, runs[::2], np.array([0, 0, 1]), np.array([0.002, 0.002, 0.002])), items=8)
    assert (found.runs, found.rounds, found.loads, found.items) == (6, 3, 2, 8)
    assert (found.p50_ms.value, found.least_ms, found.mean_ms) == pytest.approx((1.5, 1.0, 2.0))
    assert found.p50_ms.low < 1.5 < found.p50_ms.high
    assert found.throughput.value == pytest.approx(4000)
    assert found.throughput.low <= 4000 <= found.throughput.high
    assert found.blocks_ms == pytest.approx((1.0, 2.0, 1.0))
    assert found.load_of == (0, 0, 1)


def test_spread_is_half_of_what_the_middle_rounds_cover() -> None:
    blocks = np.linspace(0.9, 1.1, 101)
    assert latency(Times(blocks, blocks, np.zeros(101, np.int64))).spread == pytest.approx(0.08)


def test_percentiles_need_the_runs_that_support_them() -> None:
    assert (runs_needed(0.90), runs_needed(0.99)) == (23_886, 262_742)  # the table of MLPerf Inference
    blocks = np.full(10, 1.0)

    def shown(runs: int) -> list[int | None]:
        found = latency(Times(np.linspace(0, 1, runs), blocks, np.zeros(10, np.int64)))
        return [each if each is None else round(each) for each in (found.p90_ms, found.p99_ms)]

    assert shown(23_885) == [None, None]
    assert shown(23_886) == [900, None]
    assert shown(262_742) == [900, 990]


def test_many_rounds_are_listed_in_short() -> None:
    logs = made("quiet", 1, 7, 3000)[0, 0]
    found = latency(times(logs))
    assert statistics.SHOWN_BLOCKS / 2 <= len(found.blocks_ms) == len(found.load_of) <= statistics.SHOWN_BLOCKS + 7
    assert set(found.load_of) == set(range(7))
    assert list(found.load_of) == sorted(found.load_of)
    assert found.rounds == 21_000


def test_figure_of_values_for_each_round() -> None:
    found = figure(np.array([1.0, 4.0, 1.0, 4.0]), np.arange(4))
    assert found.value == pytest.approx(2)
    assert found.low < 2 < found.high
