"""The order of loads and blocks, on lanes that cost what they are told to on a clock that only they move."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accelc.benchmark import rounds
from accelc.benchmark.rounds import Block, Times, loads_within, measure
from accelc.runner import RuntimeFailure


@dataclass
class Machine:
    """A clock, and what was asked of the lanes: ("open", lane), ("block", lane, feed, runs, warm), ("close", lane)."""

    now: float = 0.0
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def measure(self, *lanes: Lane, seconds: float = 2.0, **options: Any) -> list[Times | RuntimeFailure]:
        return measure(lanes, seconds, clock=lambda: self.now, **options)

    def times(self, *lanes: Lane, seconds: float = 2.0, **options: Any) -> list[Times]:
        found = self.measure(*lanes, seconds=seconds, **options)
        assert all(isinstance(each, Times) for each in found)
        return found  # type: ignore[return-value]

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == kind]


@dataclass
class Lane:
    """cost: of a run; twice that in the generation `slow`, and ten times until `disturbed_until`. load_s: of a load,
    process_s: of the process for it, until that is kept.

    fails: the kind of call and the generation that fail, `after` so many calls of the kind.
    """

    machine: Machine
    name: str
    cost: float = 0.001
    load_s: float = 0.01
    process_s: float = 0.0
    feeds: int = 1
    group: str = "all"
    slow: int | None = None
    fails: tuple[str, int] | None = None
    after: int = 0
    disturbed_until: float = 0.0
    generation: int = -1

    def open(self, generation: int) -> Block:
        self.generation = generation
        self.machine.calls.append(("open", self.name, generation))
        self.machine.now += self.load_s + self.process_s
        self._fail("open")
        return self._block

    @property
    def again_s(self) -> float:
        return self.load_s

    def keep_process(self) -> None:
        self.process_s = 0.0
        self.machine.calls.append(("keep", self.name))

    def _block(self, feed: int, runs: int, warm: int) -> NDArray[np.float64]:
        self.machine.calls.append(("block", self.name, feed, runs, warm))
        cost = (
            self.cost
            * (2 if self.generation == self.slow else 1)
            * (10 if self.machine.now < self.disturbed_until else 1)
        )
        self.machine.now += cost * (runs + warm)
        self._fail("block")
        return np.full(runs, cost)

    def close(self) -> None:
        self.machine.calls.append(("close", self.name))
        self._fail("close")

    def _fail(self, kind: str) -> None:
        if self.fails == (kind, self.generation):
            self.after -= 1
            if self.after < 0:
                raise RuntimeFailure("crash", f"{self.name} fails to {kind}")


def test_every_round_holds_every_lane_once_with_one_feed() -> None:
    machine = Machine()
    found = machine.times(
        *(Lane(machine, name, cost, feeds=2) for name, cost in (("a", 1e-3), ("b", 2e-3), ("c", 3e-3)))
    )
    count = found[0].blocks.size
    assert [each.blocks.size for each in found] == [count] * 3
    assert all(np.array_equal(each.load_of, found[0].load_of) for each in found)
    last = sum(found[0].load_of == found[0].load_of[-1])
    blocks, orders, feeds = machine.of("block")[-3 * last :], set(), []
    for part in (blocks[at : at + 3] for at in range(0, len(blocks), 3)):
        assert {call[0] for call in part} == {"a", "b", "c"}
        assert len({call[1] for call in part}) == 1
        orders.add(tuple(call[0] for call in part))
        feeds.append(part[0][1])
    assert len(orders) > 1
    assert feeds[:4] in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_times_are_those_of_the_lane() -> None:
    machine = Machine()
    first, second = machine.times(Lane(machine, "a", 0.001), Lane(machine, "b", 0.002))
    assert set(first.runs) == {0.001}
    assert set(second.blocks) == set(second.means) == {0.002}
    assert first.timed == first.runs.size == 4 * first.blocks.size
    assert second.timed == 2 * second.blocks.size


@pytest.mark.parametrize(
    ("cost", "runs", "warm"), [(1e-5, 400, 3), (1e-3, 4, 3), (2e-3, 2, 2), (0.004, 1, 1), (0.1, 1, 0)]
)
def test_size_of_blocks(cost: float, runs: int, warm: int) -> None:
    machine = Machine()
    machine.times(Lane(machine, "a", cost), seconds=4.0)
    assert machine.of("block")[-1] == ("a", 0, runs, warm)


def test_a_fast_model_beside_a_slow_one_has_longer_blocks() -> None:
    machine = Machine()
    machine.times(Lane(machine, "fast", 1e-3), Lane(machine, "slow", 0.2), seconds=4.0)
    assert set(machine.of("block")[-2:]) == {("fast", 0, 50, 0), ("slow", 0, 1, 0)}


@pytest.mark.parametrize("cost", [1.32e-3, 2.66e-3, 3.99e-3])
def test_models_of_nearly_the_same_cost_have_the_same_blocks(cost: float) -> None:
    machine = Machine()
    machine.times(Lane(machine, "a", cost), Lane(machine, "b", 1.03 * cost), seconds=4.0)
    assert len({call[1:] for call in machine.of("block")[-2:]}) == 1


def test_a_disturbed_warm_up_does_not_leave_blocks_short() -> None:
    machine = Machine()
    lane = Lane(machine, "a", 0.002, load_s=30.0)
    machine.times(lane, seconds=0.1)
    assert machine.of("block")[-1][2:] == (2, 2)
    lane.disturbed_until = 32.0
    machine.now, machine.calls = 0.0, []
    machine.times(lane, seconds=3.0)
    assert machine.of("block")[3][2:] == (1, 0)
    assert machine.of("block")[-1][2:] == (2, 2)


def test_every_load_opens_all_in_random_order_and_closes_all() -> None:
    machine = Machine()
    found = machine.times(*(Lane(machine, name) for name in "abc"))
    loads = [call for call in machine.calls if call[0] != "block"]
    orders = set()
    for at in range(0, len(loads), 6):
        generation = at // 6
        assert (
            {call[1] for call in loads[at : at + 3]} == {call[1] for call in loads[at + 3 : at + 6]} == {"a", "b", "c"}
        )
        assert {call[2] for call in loads[at : at + 3]} == {generation}
        orders.add(tuple(call[1] for call in loads[at : at + 3]))
    assert len(orders) > 1
    assert len(loads) == 6 * rounds.MOST_LOADS
    assert list(np.unique(found[0].load_of)) == list(range(rounds.MOST_LOADS))
    assert np.ptp(np.bincount(found[0].load_of)) <= 2


def test_many_feeds_do_not_make_the_warm_up_long() -> None:
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", cost=0.01, feeds=1000), seconds=5.0)
    assert machine.now < 8.0
    assert found.load_of.max() == rounds.MOST_LOADS - 1
    last = [call[1] for call in machine.of("block")[-20:]]
    assert last == list(range(last[0], last[0] + 20)), "rounds take the next feed"
    assert last[0] > 400, "also after a load"


def test_rounds_know_their_load() -> None:
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", slow=2))
    assert set(found.blocks[found.load_of == 2]) == {0.002}
    assert set(found.blocks[found.load_of != 2]) == {0.001}


def test_rounds_take_the_time_of_all_lanes() -> None:
    machine = Machine()
    lanes = [Lane(machine, "a", load_s=0.0), Lane(machine, "b", load_s=0.0)]
    machine.times(*lanes, seconds=3.0)
    assert 6.0 <= machine.now <= 7.5


@pytest.mark.parametrize(("process_s", "loads", "kept"), [(0.2, 4, 0), (0.4, 4, 1), (0.0, 16, 0)])
def test_the_process_is_kept_where_new_ones_take_too_long(process_s: float, loads: int, kept: int) -> None:
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", load_s=0.01, process_s=process_s), seconds=2.0)
    assert len(machine.of("keep")) == kept
    assert np.unique(found.load_of).size == (16 if kept else loads)


@pytest.mark.parametrize(
    ("seconds", "load_s", "round_s", "loads"),
    [
        (10, 0.01, 0.01, 16),
        (10, 0.4, 0.01, 10),
        (10, 1.2, 0.01, 4),
        (10, 2.0, 0.01, 1),
        (10, 0.01, 1.0, 10),
        (10, 0.01, 3.0, 1),
        (10, 0.01, 30.0, 1),
        (0.001, 0.0, 0.01, 1),
    ],
)
def test_number_of_loads(seconds: float, load_s: float, round_s: float, loads: int) -> None:
    assert loads_within(seconds, load_s, round_s) == loads


def test_slow_to_load_is_loaded_once() -> None:
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", load_s=30.0))
    assert machine.of("open") == [("a", 0)]
    assert set(found.load_of) == {0}


def test_slow_to_run_has_one_round() -> None:
    machine = Machine()
    found = machine.times(Lane(machine, "a", 20.0), Lane(machine, "b", 0.001), seconds=1.0)
    assert [each.blocks.size for each in found] == [1, 1]


def test_a_little_more_time_makes_more_rounds() -> None:
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", 1.0), seconds=3.0)
    assert 5 <= found.blocks.size <= 6


def test_groups_are_measured_one_after_the_other() -> None:
    machine = Machine()
    lanes = [Lane(machine, "a", group="x"), Lane(machine, "b", 0.5, group="y"), Lane(machine, "c", group="x")]
    found = machine.times(*lanes)
    first_b = next(at for at, call in enumerate(machine.calls) if call[1] == "b")
    assert {call[1] for call in machine.calls[:first_b]} == {"a", "c"}
    assert {call[1] for call in machine.calls[first_b:]} == {"b"}
    assert found[0].blocks.size == found[2].blocks.size != found[1].blocks.size


@pytest.mark.parametrize("kind", ["open", "block", "close"])
def test_a_failing_lane_is_out_and_the_others_go_on(kind: str) -> None:
    machine = Machine()
    bad = Lane(machine, "bad", fails=(kind, 3), after=2 if kind == "block" else 0)
    first, failure, last = machine.measure(Lane(machine, "a"), bad, Lane(machine, "b"))
    assert isinstance(failure, RuntimeFailure)
    assert f"bad fails to {kind}" in str(failure)
    assert isinstance(first, Times)
    assert isinstance(last, Times)
    assert np.array_equal(first.load_of, last.load_of)
    assert first.blocks.size == last.blocks.size
    assert {call[0] for call in machine.of("open") if call[1] >= 4} == {"a", "b"}
    assert sorted(call[0] for call in machine.of("open")) == sorted(call[0] for call in machine.of("close"))
    assert first.load_of.max() >= 6


def test_a_failure_in_a_later_round_keeps_whole_rounds_only() -> None:
    machine = Machine()
    found = machine.measure(Lane(machine, "a"), Lane(machine, "bad", fails=("block", 0), after=9), Lane(machine, "b"))
    first, last = found[0], found[2]
    assert isinstance(first, Times)
    assert isinstance(last, Times)
    assert first.timed == first.runs.size == 4 * first.blocks.size
    assert last.timed == 4 * last.blocks.size
    assert first.blocks.size == last.blocks.size


def test_all_lanes_fail() -> None:
    machine = Machine()
    found = machine.measure(*(Lane(machine, name, fails=("open", number)) for number, name in enumerate("ab")))
    assert all(isinstance(each, RuntimeFailure) for each in found)


def test_order_follows_the_seed() -> None:
    machines = [Machine(), Machine(), Machine()]
    for machine, seed in zip(machines, (1, 1, 2), strict=True):
        machine.times(*(Lane(machine, name) for name in "abc"), seed=seed)
    assert machines[0].calls == machines[1].calls
    assert machines[0].calls != machines[2].calls


def test_runs_are_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MOST_RUNS", 1000)
    machine = Machine()
    (found,) = machine.times(Lane(machine, "a", 7e-6))
    assert 500 <= found.runs.size <= 1000
    assert found.timed > 50_000
    assert found.timed // found.runs.size in range(60, 600)


def test_every_nth_run_is_kept_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "MOST_RUNS", 10)
    log = rounds._Log(Lane(Machine(), "a"))
    for block in np.split(np.arange(1.0, 48.0), [3, 4, 11, 12, 30, 31, 40]):
        log.add(block, 0)
    found = log.times()
    assert found.runs.tolist() == list(np.arange(1.0, 48.0)[:: int(found.runs[1] - found.runs[0])])
    assert found.timed == 47


def test_progress_tells_the_load() -> None:
    machine = Machine()
    told: list[str] = []
    machine.times(Lane(machine, "a"), progress=told.append)
    assert told[0] == "load 1"
    assert told[1:] == [f"load {number} of 16" for number in range(2, 17)]
