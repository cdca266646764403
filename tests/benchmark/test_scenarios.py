"""Scenarios on models whose service times are known, in time that only they make pass."""

import json
import time

import numpy as np
import pytest
from virtual import Clock

from accelc.benchmark.pressure import press
from accelc.benchmark.results import Figure
from accelc.benchmark.scenarios import Demand, Load, Loaded, run
from accelc.benchmark.windows import arrivals, highest, plan, share
from accelc.benchmark.words import rate
from accelc.errors import UsageError
from accelc.plain import plain
from accelc.runner import RuntimeFailure


class Model:
    """Serves queries in `seconds` each, times what a load of it draws; one at a time."""

    group, items = "", 4

    def __init__(self, seconds, spread=0.0, fails_at=None):
        self.seconds, self.spread, self.fails_at = seconds, spread, fails_at
        self.windows, self.loads, self.is_open, self.clock = [], 0, False, Clock()
        self.draws = np.random.default_rng(0)

    def open_press(self, generation):
        assert not self.is_open
        self.is_open, self.loads = True, self.loads + 1
        service = self.seconds * float(np.exp(self.spread * self.draws.standard_normal()))

        def window(asked):
            self.windows.append(asked)
            if len(self.windows) == self.fails_at:
                raise RuntimeFailure("crash", "the runtime crashed")
            return press(lambda number: self.clock.sleep(service), asked, clock=self.clock, sleep=self.clock.sleep)

        return window

    def close(self):
        self.is_open = False


def only(models, demand):
    found = run(models, demand, seed=7)
    assert all(isinstance(each, Loaded) for each in found)
    assert not any(model.is_open for model in models)
    return found


def limit(seconds, bound):
    """The highest rate at which 99 % of many queries that take `seconds` each are done within the bound."""

    def held(rate):
        times = arrivals(rate, 500.0, (9,))
        ends = np.empty(times.size)
        end = 0.0
        for at, arrived in enumerate(times):
            end = ends[at] = max(end, arrived) + seconds
        return np.mean(ends - times <= bound) >= 0.99

    low, high = 0.0, 1 / seconds
    while high - low > 0.2:
        middle = (low + high) / 2
        low, high = (middle, high) if held(middle) else (low, middle)
    return low


def test_offline_is_throughput():
    fast, slow = only([Model(0.01), Model(0.0125)], Demand("offline", seconds=5))
    assert fast.load.achieved.value == pytest.approx(100)
    assert slow.load.achieved.value == pytest.approx(80)
    assert fast.latency.throughput.value == pytest.approx(400)
    assert np.median(slow.times.blocks) / np.median(fast.times.blocks) == pytest.approx(1.25)
    assert fast.load.offered is None
    assert fast.load.within is None
    assert fast.load.valid is None
    assert fast.load.sentence == "100 queries/s by 1 thread"


def test_server_latency_counts_from_the_arrival():
    """M/D/1 at 80 % load: 2 services in the queue and one in the model, on average."""
    (found,) = only([Model(0.01)], Demand("server", seconds=300, qps=80))
    assert found.load.waiting_ms == pytest.approx(20, rel=0.15)
    assert found.latency.mean_ms == pytest.approx(found.load.waiting_ms + 10, rel=0.02)
    assert found.load.achieved.value == pytest.approx(80, rel=0.02)
    assert found.load.offered == 80
    assert found.load.overloaded == 0
    assert found.load.valid is None


def test_models_see_the_same_arrivals():
    models = [Model(0.01), Model(0.02), Model(0.001)]
    only(models, Demand("server", seconds=5, qps=20))
    patterns = [[w.arrivals for w in model.windows if w.arrivals is not None] for model in models]
    assert len(patterns[0]) >= 2
    for mine, other, another in zip(*patterns, strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_array_equal(mine, another)
    assert not np.array_equal(patterns[0][0][:10], patterns[0][1][:10])


@pytest.mark.parametrize(("rate", "valid"), [(40, True), (95, False)])
def test_a_server_is_valid_when_99_percent_meet_the_bound(rate, valid):
    (found,) = only([Model(0.01)], Demand("server", seconds=60, qps=rate, bound=0.05))
    assert found.load.valid is valid
    assert found.load.bound_ms == 50
    assert found.load.within.low <= found.load.within.value <= found.load.within.high <= 1
    assert ("meets" if valid else "misses") in found.load.sentence


def test_overload_is_said():
    (found,) = only([Model(0.01)], Demand("server", seconds=20, qps=150, bound=0.05))
    assert found.load.overloaded > 0.8 * len(found.load.windows)
    assert not found.load.valid
    assert found.load.achieved.value < 105
    assert "overloaded" in found.load.sentence
    (found,) = only([Model(0.01)], Demand("server", seconds=20, qps=150))
    assert found.load.overloaded > 0.8 * len(found.load.windows)


def test_the_highest_rate_is_found():
    models = [Model(0.01), Model(0.016)]
    found = only(models, Demand("server", seconds=120, bound=0.05))
    truths = [limit(model.seconds, 0.05) for model in models]
    for truth, each in zip(truths, found, strict=True):
        assert each.load.most.value == pytest.approx(truth, rel=0.1)
        assert each.load.offered == each.load.most.low
        assert each.load.valid
        assert f"at most {rate(each.load.most.value)} queries/s within 50 ms" in each.load.sentence
        assert len(each.load.tried) >= len(each.times.blocks) >= 2
    ratio = np.median(found[1].times.blocks) / np.median(found[0].times.blocks)
    assert ratio == pytest.approx(truths[0] / truths[1], rel=0.1)


def test_no_rate_meets_an_impossible_bound():
    (found,) = only([Model(0.06)], Demand("server", seconds=20, bound=0.05))
    assert found.load.most.value == 0
    assert not found.load.valid
    assert found.load.sentence == "no rate is served within 50 ms by 1 thread"


def test_where_there_is_time_for_one_load_its_windows_are_the_evidence():
    class Slow(Model):
        def open_press(self, generation):
            time.sleep(0.1)
            return super().open_press(generation)

    slow = Slow(0.001)
    (found,) = only([slow], Demand("server", seconds=0.5, bound=0.02))
    assert slow.loads == 2
    assert len(found.times.blocks) >= 4
    assert 0 < found.load.most.low < found.load.most.high < 1500


def test_loads_that_differ_widen_the_interval():
    (quiet,) = only([Model(0.01)], Demand("offline", seconds=10))
    (uneven,) = only([Model(0.01, spread=0.1)], Demand("offline", seconds=10))
    assert uneven.load.achieved.high / uneven.load.achieved.low > 1.05
    assert quiet.load.achieved.high / quiet.load.achieved.low < 1.01


def test_one_that_fails_leaves_the_others():
    failing, sound = Model(0.01, fails_at=4), Model(0.01)
    first, second = run([failing, sound], Demand("offline", seconds=5))
    assert isinstance(first, RuntimeFailure)
    assert not failing.is_open
    assert len(failing.windows) == 4
    assert isinstance(second, Loaded)
    assert sound.loads == 6
    (alone,) = run([Model(0.01, fails_at=1)], Demand("server", seconds=5, bound=0.05))
    assert isinstance(alone, RuntimeFailure)


def test_several_streams():
    (found,) = only([Model(0.01)], Demand("multi-stream", concurrency=1, seconds=5))
    assert found.load.scenario == "multi-stream"
    assert found.latency.p50_ms.value == pytest.approx(10)
    np.testing.assert_allclose(found.times.blocks, 0.01)


def test_a_server_needs_a_rate_or_a_bound():
    with pytest.raises(UsageError, match="bound"):
        Demand("server")


def test_a_load_is_plain_data():
    (found,) = only([Model(0.01)], Demand("server", seconds=5, bound=0.05))
    data = json.loads(json.dumps(plain(found.load), allow_nan=False))
    assert data["scenario"] == "server"
    assert data["windows"][0]["overloaded"] is False
    assert isinstance(found.load, Load)


def test_arrivals_are_poisson():
    times = arrivals(50, 400, (1, 2))
    gaps = np.diff(times)
    assert times.size == pytest.approx(20_000, rel=0.03)
    assert times[-1] < 400
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.03)
    counts = np.histogram(times, bins=np.arange(401))[0]
    assert counts.var() == pytest.approx(50, rel=0.2)
    np.testing.assert_allclose(arrivals(100, 200, (1, 2)), times / 2)


def test_a_plan_fits_its_budget():
    whole = plan(10, load_s=0.01, query_s=0.001, bound=None, rate=None)
    assert whole.loads == 6
    assert whole.loads * whole.windows * whole.seconds == pytest.approx(10)
    slow = plan(10, load_s=4.0, query_s=0.001, bound=None, rate=None)
    assert slow.loads == 1
    assert slow.windows * slow.seconds == pytest.approx(10)
    heavy = plan(1, load_s=0.1, query_s=2.0, bound=None, rate=None)
    assert (heavy.loads, heavy.windows) == (4, 1)
    assert heavy.seconds >= 2 * 2.0
    assert plan(5, load_s=0.01, query_s=0.001, bound=0.05, rate=100).seconds >= 1.0


def test_rates_that_were_not_found_in_every_load_have_their_range():
    assert highest([0.0, 3.0, 4.0]) == Figure(3.0, 0.0, 4.0)
    found = highest([90.0, 100.0, 110.0])
    assert found.low < 90
    assert found.value == pytest.approx(100, rel=0.01)
    assert found.high > 110


def test_a_share_has_the_interval_of_independent_queries_at_least():
    found = share([99, 99], [100, 100], [0, 1])
    assert found.value == 0.99
    assert found.low == pytest.approx(0.964, abs=0.002)
    assert found.high < 1
    assert share([50, 100], [100, 100], [0, 1]).low == 0.5
    assert share([10], [10], [0]).high == 1
