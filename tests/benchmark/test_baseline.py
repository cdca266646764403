"""Conditions hold only where the intervals support them, and what cannot be compared is never passed over."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_results import ENVIRONMENT, failed, latency, result, row, versus

from accelc.benchmark.baseline import Condition, Limit, check, exit_code, prepare, quotient, read
from accelc.benchmark.results import BenchResult, Error, Figure
from accelc.benchmark.rounds import Times
from accelc.benchmark.statistics import latency as measured
from accelc.errors import UsageError


def one(condition: str, now: BenchResult, before: BenchResult | None = None) -> Condition:
    (found,) = check([condition], now, before)
    return found


@pytest.mark.parametrize(
    ("text", "metric", "above", "value", "relative"),
    [
        ("p50>+5%", "p50", True, 1.05, True),
        (" p99 < -2.5 % ", "p99", False, 0.975, True),
        ("throughput<-10%", "throughput", False, 0.9, True),
        ("mean>20ms", "mean", True, 20.0, False),
        ("load>1.5s", "load", True, 1500.0, False),
        ("first-run>900us", "first-run", True, 0.9, False),
        ("memory>300MB", "memory", True, 300e6, False),
        ("size>1MiB", "size", True, 2.0**20, False),
        ("throughput<100/s", "throughput", False, 100.0, False),
        ("ratio<0.95", "ratio", False, 0.95, False),
        ("error>1e-3", "error", True, 1e-3, False),
        ("error>0.1%", "error", True, 1e-3, False),
    ],
)
def test_conditions_are_read(text: str, metric: str, above: bool, value: float, relative: bool) -> None:
    found = Limit.parse(text)
    assert (found.metric, found.above, found.relative) == (metric, above, relative)
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p50", "is no condition"),
        ("p50>=5ms", "is no condition"),
        ("p50>", "is no condition"),
        ("p95>5ms", "there is no figure 'p95'; it is one of p50"),
        ("p50>5%", "needs a sign; write p50>+5% or p50<-5%"),
        ("p50>+5ms", "a sign goes with a percentage"),
        ("p50>20", "the unit of p50 is ms, s or us"),
        ("memory>300", "the unit of memory is kB"),
        ("memory>300ms", "the unit of memory is kB, MB, GB or MiB"),
        ("ratio<-5%", "ratio has no baseline"),
        ("p50<-100%", "nothing is 100 % less"),
    ],
)
def test_what_is_no_condition_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Limit.parse(text)
    assert said in str(caught.value)
    assert repr(text) in str(caught.value) or "is no size" in said


@pytest.mark.parametrize(
    ("p50", "condition", "holds"),
    [
        (2.30, "p50>+5%", "yes"),
        (2.00, "p50>+5%", "no"),
        (2.10, "p50>+5%", "undecided"),
        (2.30, "p50<-5%", "no"),
        (1.70, "p50<-5%", "yes"),
        (2.30, "throughput<-5%", "yes"),
        (2.00, "throughput<-5%", "no"),
        (2.30, "mean>+5%", "yes"),
        (2.30, "p50>2.2ms", "yes"),
        (2.30, "p50>2.3ms", "undecided"),
        (2.30, "p50<2.2ms", "no"),
    ],
)
def test_latency_needs_the_whole_interval(p50: float, condition: str, holds: str) -> None:
    found = one(condition, result(row("model", p50)), result(row("model", 2.0)))
    assert found.holds == holds
    assert found.row == "model on cpu"
    assert found.text == condition


def test_a_wide_interval_decides_nothing() -> None:
    wide = latency(2.3, between=0.2)
    assert one("p50>+5%", result(row(timed=wide)), result(row("model", 2.0))).holds == "undecided"
    assert one("p50>+5%", result(row("model", 2.3)), result(row(timed=latency(2.0, between=0.2)))).holds == "undecided"
    unknown = replace(latency(2.3), p50_ms=Figure(2.3, 0.0, math.inf))
    assert one("p50>+5%", result(row(timed=unknown)), result(row("model", 2.0))).holds == "undecided"


def test_one_load_leaves_room_for_the_others() -> None:
    once = replace(latency(2.2), loads=1)
    assert one("p50>+5%", result(row(timed=once)), result(row("model", 2.0))).holds == "undecided"
    assert (
        one("p50>+5%", result(row("model", 2.2)), result(row(timed=replace(latency(2.0), loads=1)))).holds
        == "undecided"
    )
    assert one("p50>+5%", result(row("model", 2.2)), result(row("model", 2.0))).holds == "yes"
    assert one("p50>+50%", result(row(timed=replace(latency(4.0), loads=1))), result(row("model", 2.0))).holds == "yes"


def test_one_load_leaves_room_in_ratios_too() -> None:
    base, slow = row("base"), row("slow", versus=(versus(0, 0.94, 0.001),))
    assert one("ratio<0.95", result(base, slow)).holds == "yes"
    slow.latency = replace(latency(2.0), loads=1)
    assert one("ratio<0.95", result(base, slow)).holds == "undecided"


def test_ratio_is_against_the_first_model_only() -> None:
    found = check(["ratio<0.95"], result(failed("base"), row("one"), row("two", versus=(versus(1, 0.5),))), None)
    assert [each.holds for each in found] == ["not compared", "not compared"]


@pytest.mark.parametrize("name", ["qps", "concurrency", "bound", "inputs"])
def test_another_demand_is_not_compared(name: str) -> None:
    found = one("p50>+5%", result(row("a"), options={name: 2}), result(row("a"), options={name: 1}))
    assert found.holds == "not compared"
    assert name in found.detail


def test_figures_without_an_interval_compare_plainly() -> None:
    before = result(row(bytes=1000, load_ms=10.0, peak_bytes=100))
    now = result(row(bytes=1001, load_ms=10.4, peak_bytes=120))
    assert one("size>+0%", now, before).holds == "yes"
    assert one("size>+0%", before, before).holds == "no"
    assert one("load>+5%", now, before).holds == "no"
    assert one("memory>+5%", now, before).holds == "yes"
    assert one("memory>120B", now).holds == "no"
    assert one("memory>119B", now).holds == "yes"
    unknown = one("memory>119B", result(row(peak_bytes=None)))
    assert (unknown.holds, unknown.detail) == ("not compared", "memory is not known")


def test_ratio_and_error_concern_all_models_but_the_first() -> None:
    now = result(
        row("base"),
        row("fast", versus=(versus(0, 1.3),), error=Error(0, 0.99, 1e-4, 1.0)),
        row("slow", versus=(versus(0, 0.8),), error=Error(0, 0.9, 1e-2, 1.0)),
        row("equal", versus=(versus(0, 0.951),), error=Error(0, text="other outputs")),
    )
    ratios = check(["ratio<0.95"], now, None)
    assert [(each.row, each.holds) for each in ratios] == [
        ("fast on cpu", "no"),
        ("slow on cpu", "yes"),
        ("equal on cpu", "undecided"),
    ]
    errors = check(["error>0.1%"], now, None)
    assert [each.holds for each in errors] == ["no", "yes", "not compared"]
    assert errors[-1].detail == "other outputs"


def test_a_first_model_without_figures_is_not_passed_over() -> None:
    now = result(failed("base"), row("fast"))
    found = one("ratio<0.95", now)
    assert (found.holds, found.row) == ("not compared", "fast on cpu")
    assert one("ratio<0.95", result(row("base"))).holds == "not compared"


def test_hidden_percentiles_say_how_many_runs_they_take() -> None:
    found = one("p90>+5%", result(row()), result(row()))
    assert found.holds == "not compared"
    assert found.detail == "p90 needs 23,886 runs, there are 250"
    many = latency(2.0, runs=30_000)
    assert one("p90>+5%", result(row(timed=many)), result(row(timed=many))).holds == "no"
    assert one("p90>+5%", result(row(timed=many)), result(row())).detail.startswith("in the baseline p90 needs")


@pytest.mark.parametrize(
    ("name", "value"), [("processor", "Other CPU"), ("cores", 4), ("onnxruntime", "1.30.0"), ("onnxruntime", None)]
)
def test_another_machine_is_not_compared(name: str, value: object) -> None:
    before = result(row("model", 1.0), environment={**ENVIRONMENT, name: value})
    now = result(row("model", 2.0))
    found = one("p50>+5%", now, before)
    assert found.holds == "not compared"
    assert name in found.detail
    assert exit_code([found]) == 2
    assert one("p50>1ms", now, before).holds == "yes"
    elsewhere = result(row("model", 1.0), environment={**ENVIRONMENT, "date": "yesterday", "accelc": "0.0.9"})
    assert one("p50>+5%", now, elsewhere).holds == "yes"


def test_another_gpu_is_not_compared() -> None:
    before, now = (
        result(row("model", 2.0, provider="cuda"), environment=ENVIRONMENT | {"providers": {"cuda": {"GPU 0": name}}})
        for name in ("Old GPU, 500", "New GPU, 600")
    )
    assert one("p50>+5%", now, before).detail == "the baseline was measured on Old GPU, 500, here there is New GPU, 600"
    assert one("p50>+5%", now, now).holds == "no"


def test_another_scenario_is_not_compared() -> None:
    found = one("p50>+5%", result(row()), result(row(), scenario="offline"))
    assert found.holds == "not compared"
    assert "scenario" in found.detail


def test_rows_are_matched_by_model_and_setting() -> None:
    before = result(row("a", 1.0), row("a", 4.0, shape="batch=8"), row("b", 9.0))
    now = result(row("a", 1.0), row("a", 2.0, shape="batch=8"), row("c", 9.0), row("a", 1.0, threads=2))
    found = check(["p50>+5%"], now, before)
    assert [each.holds for each in found] == ["no", "no", "not compared", "not compared"]
    assert found[2].detail.startswith("the baseline has no such row; it has ")
    assert one("p50>+5%", result(row("a")), result(failed("a"))).detail == "the baseline has no figures for this row"
    assert one("p50>+5%", result(failed("a")), result(row("a"))).holds == "not compared"


def test_one_model_is_compared_with_one_whatever_they_are_called() -> None:
    found = one("p50>+5%", result(row("new", 3.0)), result(row("old", 2.0)))
    assert found.holds == "yes"
    assert found.detail.endswith("against 2.000 ms of old")


def test_codes_for_scripts() -> None:
    yes, no, unsure, unknown = (
        Condition("p50>1ms", "", each, "") for each in ("yes", "no", "undecided", "not compared")
    )
    assert exit_code([]) == exit_code([no, unsure]) == 0
    assert exit_code([no, unknown]) == 2
    assert exit_code([unknown, yes, no]) == 7


def test_the_interval_of_a_quotient_covers() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        a, b = random.normal(np.log([3.0, 2.0]), [0.02, 0.01])
        here, there = (Figure(*np.exp([x, x - 1.96 * s, x + 1.96 * s])) for x, s in ((a, 0.02), (b, 0.01)))
        found = quotient(here, there)
        covered += found.low <= 1.5 <= found.high
    assert 0.935 < covered / 2000 < 0.965


def test_the_interval_of_a_percentile_covers() -> None:
    random = np.random.default_rng(0)
    truth = math.exp(0.2 * 1.2815515655)
    covered = 0
    for _ in range(200):
        loads = random.normal(0, 0.01, 8)
        runs = 1e-3 * np.exp(np.repeat(loads, 3000) + random.normal(0, 0.2, 24_000))
        blocks = np.median(runs.reshape(160, 150), axis=1)
        found = measured(Times(runs, blocks, np.repeat(np.arange(8), 20)))
        low, high = found.percentiles["p90"].low, found.percentiles["p90"].high
        covered += low <= truth <= high
    assert "p99" not in found.percentiles
    assert high - low < 0.06 * truth
    assert covered >= 186


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_written_result_is_a_baseline(tmp_path: Path) -> None:
    before = result(row("a", 2.0, error=Error(0, 1.0, 0.0, 1.0)), failed("b"))
    data = before.to_dict()
    data["rows"][0]["of a later version"] = 1
    data["rows"][0]["latency"]["of a later version"] = 1
    path = tmp_path / "base.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    found = read(path)
    here, there = before.rows[0].latency, found.rows[0].latency
    assert here is not None
    assert there is not None
    assert (there.p50_ms, there.throughput) == (here.p50_ms, here.throughput)
    assert found.rows[0].setting == before.rows[0].setting
    assert found.rows[1].failure == before.rows[1].failure
    assert found.environment == before.environment
    assert check(["p50>+5%"], result(row("a", 4.0)), path)[0].holds == "yes"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not JSON", "is no JSON file"),
        ("[]", "is no result of accelc bench"),
        ('{"schema": "accelc.report/1"}', "its schema is accelc.report/1"),
        ('{"schema": "accelc.bench/1"}', "is a damaged result of accelc bench"),
        ('{"schema": "accelc.bench/1", "rows": [{}]}', "is a damaged result of accelc bench"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "base.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        read(path)


def test_what_cannot_be_checked_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs a baseline; give --baseline"):
        prepare(["p50>+5%"], None, models=1)
    with pytest.raises(UsageError, match="compares models, and there is one"):
        prepare(["ratio<1"], None, models=1)
    with pytest.raises(UsageError, match=r"none\.json: the baseline cannot be read"):
        prepare([], tmp_path / "none.json", models=1)
    assert prepare(["ratio<1", "p50>5ms"], None, models=2) is None
    base = tmp_path / "base.json"
    base.write_text(result(row("a")).to_json(), encoding="utf-8")
    with pytest.raises(UsageError, match="a baseline is for conditions against it"):
        prepare(["p50>5ms"], base, models=1)
