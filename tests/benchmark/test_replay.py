"""The rate that a bound allows, from service times: against theory, and against queues that are really served."""

import math

import numpy as np
import pytest
from virtual import SharedClock

from accelc.benchmark.pressure import Served, Window, press
from accelc.benchmark.replay import highest_rate, services
from accelc.benchmark.windows import arrivals


def served(started, ended):
    count = len(started)
    zeros = np.zeros(count, np.int64)
    return Served(np.arange(count), np.array(started), np.array(ended), zeros, zeros.astype(bool), False)


def test_one_worker_as_theory_says():
    """M/M/1: latency is exponential with rate 1/service - arrivals, so 99 % meet b where that is ln(100) / b."""
    times = np.random.default_rng(1).exponential(0.01, size=50_000)
    found = np.mean([highest_rate([times], 0.1, 0.99, seed) for seed in range(6)])
    assert found == pytest.approx(100 - math.log(100) / 0.1, rel=0.05)


def test_two_workers_as_they_serve():
    """At the rate that is found, 99 % of the queries that two workers serve meet the bound; at more, fewer."""
    rate = np.mean([highest_rate([np.full(9, 0.01)] * 2, 0.03, 0.99, seed) for seed in range(4)])
    assert 100 < rate < 200

    def share(rate):
        clock, times = SharedClock(), arrivals(rate, 30, (3,))
        window = Window(2, arrivals=times, warm=0)
        found = press(lambda number: clock.sleep(0.01), window, clock=clock, sleep=clock.sleep)
        return np.mean(found.ended - times[found.query] <= 0.03)

    assert share(rate) == pytest.approx(0.99, abs=0.01)
    assert share(1.15 * rate) < 0.97


def test_no_rate_where_a_query_alone_takes_too_long():
    assert highest_rate([np.full(5, 0.06)], 0.05, 0.99, 0) == 0
    assert highest_rate([np.full(5, 0.06)] * 2, 0.05, 0.99, 0) == 0


def test_service_times_are_told_apart_by_busy_workers():
    alone, beside = services([served([0.0, 1.0, 5.0], [2.0, 4.0, 6.0])], 2)
    assert alone.tolist() == [2.0, 1.0]
    assert beside.tolist() == [3.0]


def test_what_was_never_seen_is_as_the_nearest():
    found = services([served([0.0, 1.0], [3.0, 5.0])], 4)
    assert [each.tolist() for each in found] == [[3.0], [4.0], [4.0], [4.0]]


def test_workers_in_each_others_way_allow_a_lower_rate():
    free, slowed = [np.full(9, 0.01)] * 2, [np.full(9, 0.01), np.full(9, 0.016)]
    assert highest_rate(slowed, 0.05, 0.99, 0) < 0.8 * highest_rate(free, 0.05, 0.99, 0)
