"""What the child process holds and tells: feeds at fixed places, profiles, placement, memory, queries at once."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from test_runner import LOOP, RELU, failure, identity, model

from accelc.benchmark.pressure import Window
from accelc.runner import Runner, RuntimeFailure
from accelc.sessions import Sessions


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


# --- on a device, which the processor is as well


def test_runs_with_inputs_and_outputs_at_fixed_places(runner: Runner) -> None:
    session = runner.load(model("g (float[N] x, bool[1] b) => (float[N] y, bool[1] c) { y = Neg(x) c = Not(b) }"))
    feeds = [{"x": np.arange(n, dtype=np.float32), "b": np.array([n == 2])} for n in (2, 5)]
    with runner.hold(feeds, device="cpu:0") as held:
        for number in (0, 1, 0):
            assert runner.block(session, held[number], 3, 1).shape == (3,)
            found = runner.fetch(session, held[number])
            np.testing.assert_array_equal(found["y"], -feeds[number]["x"])
            np.testing.assert_array_equal(found["c"], ~feeds[number]["b"])


def test_other_session_and_another_load_bind_anew(runner: Runner) -> None:
    x = np.array([1, -2], np.float32)
    first = runner.load(model(RELU))
    with runner.hold([{"x": x}], device="cpu") as (held,):
        np.testing.assert_array_equal(runner.fetch(first, held)["y"], [1, 0])
        second = runner.load(model(RELU.replace("Relu", "Neg")))
        np.testing.assert_array_equal(runner.fetch(second, held)["y"], [-1, 2])
        runner.close(first)
        np.testing.assert_array_equal(runner.fetch(first, held)["y"], [1, 0])
        np.testing.assert_array_equal(runner.fetch(second, held)["y"], [-1, 2])


def test_outputs_whose_shape_depends_on_the_values(runner: Runner) -> None:
    session = runner.load(model("g (float[N] x) => (int64[1, K] y) { y = NonZero(x) }"))
    with runner.hold([{"x": np.array(x, np.float32)} for x in ([1, 1, 1], [0, 2, 0])], device="cpu") as held:
        for number, wanted in ((0, [[0, 1, 2]]), (1, [[1]]), (0, [[0, 1, 2]])):
            runner.block(session, held[number], 2)
            np.testing.assert_array_equal(runner.fetch(session, held[number])["y"], wanted)


@pytest.mark.parametrize("device", [None, "cpu"])
def test_fetch_of_a_type_numpy_lacks(runner: Runner, device: str | None) -> None:
    session = runner.load(model("g (bfloat16[N] x) => (bfloat16[N] y) { y = Identity(x) }"))
    x = np.array([1.5, -2], ml_dtypes.bfloat16)
    with runner.hold([{"x": x}], device=device) as (held,):
        assert runner.block(session, held, 2).shape == (2,)
        assert runner.fetch(session, held)["y"].tobytes() == x.tobytes()


def test_fetch_of_text(runner: Runner) -> None:
    session = runner.load(identity(onnx.TensorProto.STRING))
    feeds = {"x": np.array(["a", "bc"], object)}
    with runner.hold([feeds]) as (held,):
        assert runner.fetch(session, held)["y"].tolist() == ["a", "bc"]
    with pytest.raises(RuntimeFailure, match="cannot lie on a device"), runner.hold([feeds], device="cpu"):
        pass


@pytest.mark.parametrize("device", [None, "cpu"])
def test_held_feeds_that_do_not_fit(runner: Runner, device: str | None) -> None:
    session = runner.load(model(RELU))
    for feeds in ({}, {"q": np.ones(2, np.float32)}, {"x": np.ones(2, np.int64)}, {"x": np.ones((2, 2), np.float32)}):
        with runner.hold([feeds], device=device) as (held,):
            found = failure(lambda held=held: runner.block(session, held, 1))
            assert (found.kind, bool(found.why)) == ("run", True)


def test_a_captured_graph_is_not_used_by_runs_without_fixed_places() -> None:
    class Options:
        def __init__(self) -> None:
            self.entries: dict[str, str] = {}

        def add_run_config_entry(self, name: str, value: str) -> None:
            self.entries[name] = value

    class Session:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return list

    runtime = SimpleNamespace(
        RunOptions=Options,
        SessionOptions=lambda: SimpleNamespace(add_session_config_entry=lambda name, value: None),
        GraphOptimizationLevel=SimpleNamespace(ORT_ENABLE_ALL=99),
        InferenceSession=Session,
    )
    sessions = Sessions(runtime)
    rest = dict.fromkeys(("optimized", "profile", "threads"))
    for key, flag in enumerate(("0", "1", "True")):
        providers = [("CUDAExecutionProvider", {"enable_cuda_graph": flag}), ("CPUExecutionProvider", {})]
        options = {**rest, "providers": providers, "optimize": True, "config": {}, "external": {}}
        sessions.load(key, "m.onnx", {**options, "memory_pattern": True})
    assert [sessions.options[key].entries for key in range(3)] == [{}, {"gpu_graph_id": "-1"}, {"gpu_graph_id": "-1"}]
    assert sessions.assignment(0) == []
    assert Sessions(None).observed(1) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("sent", "kind"), [("SIGSEGV", "crash"), ("SIGKILL", "memory")])
@pytest.mark.parametrize("device", [None, "cpu"])
def test_child_killed_amid_timed_runs(runner: Runner, sent: str, kind: str, device: str | None) -> None:
    session, child = runner.load(model(LOOP)), runner._child
    assert child is not None
    with runner.hold([{"n": np.array(2**62)}], device=device) as (held,):
        killing = threading.Timer(0.2, os.kill, (child.process.pid, signal.Signals[sent]))
        killing.start()
        found = failure(lambda: runner.block(session, held, 1))
        killing.join()
    assert found.kind == kind
    assert "while running the model" in str(found)
    assert "\n" not in str(found)
    assert runner.run(session, {"n": np.array(3)})["y"] == 0


# --- what the runtime tells of itself


def test_assignment(runner: Runner) -> None:
    session = runner.load(model("g (float[N] x) => (float[N] y) { [one] a = Relu(x) [two] y = Sin(a) }"), record=True)
    found = runner.assignment(session)
    if found is None:
        pytest.skip("this release of the runtime does not tell")
    provider = "CPUExecutionProvider"
    assert sorted(found) == [(provider, "", "Relu", "one"), (provider, "", "Sin", "two")]
    assert failure(lambda: runner.assignment(runner.load(model(RELU)))).kind == "run"


def test_a_runtime_that_cannot_tell_the_assignment() -> None:
    sessions = Sessions(None)
    sessions.sessions[1] = object()
    assert sessions.assignment(1) is None


def test_profile(runner: Runner, tmp_path: Path) -> None:
    session = runner.load(model("g (float[N] x) => (float[N] y) { [one] y = Relu(x) }"), profile=tmp_path / "run")
    runner.run(session, {"x": np.ones(2, np.float32)})
    found = runner.end_profile(session)
    assert found.parent == tmp_path
    assert found.name.startswith("run")
    names = {event["name"] for event in json.loads(found.read_text()) if event["cat"] == "Node"}
    assert "one_kernel_time" in names


def test_load_time(runner: Runner) -> None:
    begin = time.perf_counter()
    session = runner.load(model(RELU))
    assert 0 < session.load_s < time.perf_counter() - begin


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells both")
def test_memory_of_the_child() -> None:
    text = "g (int64[1] n) => (float[1] y) { a = ConstantOfShape<value = float[1] {1}>(n) y = ReduceSum(a) }"
    with Runner() as runner:
        session = runner.load(model(text), optimize=False)
        now, most = runner.memory(reset=True)
        assert now is not None
        assert most is not None
        assert most >= now > 2**20
        runner.run(session, {"n": np.array([2**26])})
        _, peak = runner.memory()
        assert peak is not None
        assert peak - now > 2**27
        runner.close(session)
        after, reset = runner.memory(reset=True)
        assert after is not None
        assert reset is not None
        assert after <= reset <= peak


# --- queries at the same time


def test_press_takes_the_feeds_in_turn(runner: Runner) -> None:
    session = runner.load(model(RELU))
    with runner.hold([{"x": np.ones(n, np.float32)} for n in (2, 3)]) as held:
        served = runner.press(session, held, Window(workers=2, arrivals=np.zeros(6)))
        assert served.ended.size == 6
    with runner.hold([{"x": np.ones(2, np.float32)}], device="cpu") as held:
        assert "fixed places" in str(failure(lambda: runner.press(session, held, Window(2, seconds=0.01))))
