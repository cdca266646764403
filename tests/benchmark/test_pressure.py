"""Queries from several threads: who runs what when, and what a window says."""

import heapq

import numpy as np
import pytest
from virtual import Clock, SharedClock

from accelc.benchmark.pressure import Window, press
from accelc.benchmark.windows import arrivals, followed, queued


def serve(services, window, clock):
    """Queries that take services[number] seconds each."""
    return press(lambda number: clock.sleep(services[number]), window, clock=clock, sleep=clock.sleep)


def first_come(times, services, workers):
    """Starts of queries that wait for the first free worker, in order."""
    free, starts = [0.0] * workers, []
    for arrived, service in zip(times, services, strict=True):
        starts.append(max(arrived, heapq.heappop(free)))
        heapq.heappush(free, starts[-1] + service)
    return np.array(starts)


def waiting(load, services, count=60_000):
    """The mean time in the queue of one worker that is busy for the share `load` of the time."""
    times = arrivals(load, count / load, (1,))
    served = serve(services(times.size), Window(1, arrivals=times, warm=0), Clock())
    reading = queued(served, 0, times=times, seconds=count / load, bound=None)
    assert reading.latencies.size == pytest.approx(0.9 * count, rel=0.02)
    assert reading.seen.achieved == pytest.approx(load, rel=0.02)
    return float(np.mean(reading.latencies)) - 1.0


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_equal_services_wait_as_theory_says(load):
    """M/D/1: the mean wait is load / (2 (1 - load)) services (Pollaczek and Khinchine)."""
    assert waiting(load, np.ones) == pytest.approx(load / (2 * (1 - load)), rel=0.06)


def test_random_services_wait_as_theory_says():
    """M/M/1: the mean wait is load / (1 - load) services."""
    random = np.random.default_rng(2)
    assert waiting(0.5, lambda count: random.exponential(size=count)) == pytest.approx(1.0, rel=0.06)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_serve_in_order_of_arrival(workers):
    times = arrivals(0.8 * workers, 60, (3,))
    services = np.random.default_rng(4).exponential(size=times.size)
    served = serve(services, Window(workers, arrivals=times, warm=0), SharedClock())
    assert sorted(served.query) == list(range(times.size))
    np.testing.assert_allclose(served.started[np.argsort(served.query)], first_come(times, services, workers))
    np.testing.assert_allclose(served.ended - served.started, services[served.query])
    assert set(served.worker) == set(range(workers))


def test_queries_that_follow_each_other_leave_no_gap():
    served = serve(np.full(100, 0.5), Window(1, seconds=10.0, warm=0), Clock())
    np.testing.assert_allclose(served.started, np.arange(20) * 0.5)
    np.testing.assert_allclose(served.ended, served.started + 0.5)


def test_streams_run_side_by_side():
    served = serve(np.full(200, 0.5), Window(3, seconds=5.0, warm=0), SharedClock())
    assert np.bincount(served.worker).tolist() == [10, 10, 10]
    reading = followed(served, 0)
    assert reading.seen.achieved == pytest.approx(6.0)
    np.testing.assert_allclose(reading.latencies, 0.5)


def test_the_end_of_a_window_is_no_part_of_the_rate():
    """One stream ends at 1.0, the other, inside its second query, at 1.8: 1 and 2/1.8 queries per second."""
    durations = iter([1.0, 0.9, 0.9])
    clock = SharedClock()
    each = {0: next(durations), 1: next(durations), 2: next(durations)}
    served = serve(each, Window(2, seconds=0.95, warm=0), clock)
    assert followed(served, 0).seen.achieved == pytest.approx(1 + 2 / 1.8)


def test_overload_ends_a_window():
    """Two queries a second for a worker that can do one: the wait passes 5 s when about ten have been served."""
    times = arrivals(2.0, 100.0, (5,))
    served = serve(np.ones(times.size), Window(1, arrivals=times, patience=5.0, warm=0), Clock())
    assert served.overloaded
    assert served.ended.size < 30
    assert served.ended.max() < 30
    reading = queued(served, 0, times=times, seconds=100.0, bound=2.0)
    end = served.ended.max()
    assert reading.seen.overloaded
    assert reading.seen.queries == np.sum(times < end)
    assert reading.seen.within < 0.5
    assert reading.seen.achieved == pytest.approx(1.0, rel=0.2)
    assert reading.seen.offered == pytest.approx(2.0, rel=0.1)
    assert reading.latencies.max() > 5


def test_a_start_that_is_late_still_serves_a_query():
    late = iter([0.0, 9.0, 9.0, 10.0, 10.0, 11.0])
    served = press(lambda number: None, Window(1, 1.0, warm=0), clock=lambda: next(late))
    assert served.query.size == 1
    late = iter([0.0, 9.0, 9.0, 10.0, 10.0, 10.0])
    times = np.array([0.0, 1.0])
    served = press(lambda number: None, Window(1, 20.0, times, patience=5.0, warm=0), clock=lambda: next(late))
    assert served.query.tolist() == [0]
    assert served.overloaded


def test_a_window_whose_only_query_comes_early_counts_it():
    times = np.array([0.1])
    served = serve(np.ones(1), Window(1, arrivals=times, warm=0), Clock())
    reading = queued(served, 0, times=times, seconds=10.0, bound=2.0)
    assert (reading.seen.queries, reading.seen.within) == (1, 1.0)


def test_warm_queries_are_not_counted():
    asked = []
    served = press(asked.append, Window(2, seconds=0.0, arrivals=np.array([0.0, 0.001]), warm=3))
    assert served.query.tolist() == [0, 1]
    assert len(asked) == 2 * 3 + 2


def test_a_failure_ends_the_window():
    def fail(number):
        if number == 3:
            raise RuntimeError("query 3")

    with pytest.raises(RuntimeError, match="query 3"):
        press(fail, Window(2, seconds=60.0, warm=0))
    with pytest.raises(RuntimeError, match="query 3"):
        press(fail, Window(4, seconds=60.0, warm=1))
