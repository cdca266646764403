"""Cases as what can be timed: fresh processes, feeds held once, neighbours that bring the process down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bench_models import case, options, write

from accelc.benchmark.inputs import feeds_for
from accelc.benchmark.lanes import CaseLane, Process
from accelc.data import Feed
from accelc.runner import RuntimeFailure


@pytest.fixture
def process() -> Iterator[Process]:
    with Process() as made:
        yield made


def feeds(path: Path) -> tuple[Feed, ...]:
    return feeds_for(case(path), options(path), lambda values: {"y": np.ones(1)}).feeds


def pid(process: Process) -> int:
    child = process.runner._child
    assert child is not None
    return child.process.pid


def test_a_lane_times_its_model_and_loads_it_in_a_fresh_process(tmp_path: Path, process: Process) -> None:
    path = write(tmp_path / "a.onnx")
    shared = feeds(path)
    one, two = (CaseLane(case(path), shared, 1, process) for _ in range(2))
    assert one.feeds == 3
    blocks = [lane.open(0) for lane in (one, two)]
    times = [block(2, 5, 1) for block in blocks]
    assert [each.shape for each in times] == [(5,), (5,)]
    assert all((each > 0).all() for each in times)
    first = pid(process)
    one.close()
    assert pid(process) == first
    two.close()
    assert not process.runner.started
    assert one.open(1)(0, 3, 0).shape == (3,)
    assert pid(process) != first


def test_a_process_that_is_kept_loads_again_and_lets_go_of_what_it_had(tmp_path: Path, process: Process) -> None:
    path = write(tmp_path / "a.onnx")
    lane = CaseLane(case(path), feeds(path), 1, process)
    lane.open(0)
    assert lane.again_s > 0
    first = pid(process)
    lane.keep_process()
    lane.close()
    assert lane.again_s == 0
    assert not process.runner._live
    assert lane.open(1)(2, 3, 0).shape == (3,)
    assert pid(process) == first


def test_a_lane_lives_on_when_its_neighbour_kills_the_process(tmp_path: Path, process: Process) -> None:
    path = write(tmp_path / "a.onnx")
    shared = feeds(path)
    one, two = (CaseLane(case(path), shared, 1, process) for _ in range(2))
    blocks = [lane.open(0) for lane in (one, two)]
    child = process.runner._child
    assert child is not None
    child.process.kill()
    with pytest.raises(RuntimeFailure, match="killed while running the model"):
        blocks[0](0, 1, 0)
    one.close()
    assert blocks[1](1, 4, 0).shape == (4,)
    two.close()
    assert not process.runner.started


def test_what_does_not_load_is_a_failure_and_the_process_ends(tmp_path: Path, process: Process) -> None:
    path = write(tmp_path / "a.onnx", "a (bfloat16[2] x) => (bfloat16[2] y) { y = Relu(x) }")
    lane = CaseLane(case(path), feeds(path), 1, process)
    with pytest.raises(RuntimeFailure, match="cannot load the model"):
        lane.open(0)
    lane.close()
    assert not process.runner.started


def test_a_lane_under_load(tmp_path: Path, process: Process) -> None:
    from accelc.benchmark.pressure import Window

    path = write(tmp_path / "a.onnx")
    lane = CaseLane(case(path), feeds(path), 1, process)
    served = lane.open_press(0)(Window(workers=2, seconds=0.05))
    assert len(served.started)
    assert not served.overloaded
    lane.close()
