"""One case in a process of its own, and every way in which it can fail."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bench_models import HEAD, case, write
from test_placing import CUDA, DET, HOST, NO_GRAPH, PLAIN, Recorded

from accelc.backend_base import Availability
from accelc.backends.cpu import CpuBackend
from accelc.backends.cuda import CudaBackend
from accelc.benchmark.probe import NodesElsewhere, _files, probe
from accelc.benchmark.results import Setting
from accelc.data import Feed
from accelc.errors import AccelcError, BackendError
from accelc.runner import Runner, RuntimeFailure
from accelc.source import Source

LINUX = sys.platform == "linux"
GROW = "m (int64[1] n) => (float[N] y) { a = ConstantOfShape<value = float[1] {1}>(n)  y = Relu(a) }"
DIVIDE = "m (int64[N] a, int64[N] b) => (int64[N] y) { y = Div(a, b) }"
ONES = {"x": np.ones((2, 4), np.float32)}


def feeds(*values: dict[str, Any]) -> tuple[Feed, ...]:
    return tuple(Feed(each, "made") for each in values)


def failure(call: Any) -> AccelcError:
    with pytest.raises(AccelcError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return caught.value


@dataclass(frozen=True)
class Present(Recorded):
    """A provider that works."""

    def probe(self, runner: Runner | None = None, *, dry: bool = False) -> Availability:
        return Availability(True)


@dataclass(frozen=True)
class Holding(CpuBackend):
    """The processor as if it were a device that tells what it holds."""

    def device_bytes(self) -> int | None:
        return 7


def test_what_a_case_is_like(tmp_path: Path) -> None:
    found = probe(case(write(tmp_path / "m.onnx", PLAIN)), feeds(ONES, {"x": -ONES["x"]}))
    assert found.load_ms > 0
    assert found.first_run_ms is not None
    assert found.first_run_ms > 0
    assert (found.peak_bytes is not None) == (sys.platform == "linux")
    assert found.device_bytes is None
    assert found.placed is not None
    assert found.placed.nodes == {HOST: 2}
    assert [set(each) for each in found.outputs] == [{"y"}, {"y"}]
    np.testing.assert_allclose(found.outputs[0]["y"], np.tanh(ONES["x"]), rtol=1e-6)
    np.testing.assert_array_equal(found.outputs[1]["y"], 0 * ONES["x"])


@pytest.mark.skipif(not LINUX, reason="only Linux tells")
def test_peak_memory_is_that_of_the_model(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", GROW))
    small, large = (probe(one, feeds({"n": np.array([count])})).peak_bytes for count in (4, 2**25))
    assert small is not None
    assert large is not None
    assert small < 2**26
    assert large > 2**27


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", DIVIDE))
    found = probe(one, feeds({"a": np.array([-(2**63)]), "b": np.array([-1])}), dry_run=True)
    assert (found.first_run_ms, found.outputs) == (None, ())
    # Older releases of the runtime tell the placement in runs only.
    assert (found.placed.nodes == {HOST: 1}) if found.placed is not None else found.notes


def test_on_the_device_outputs_are_bound(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", PLAIN))
    bound = replace(one, backend=Holding(), setting=Setting("cpu", memory="device"))
    found = probe(bound, feeds(ONES, {"x": 2 * ONES["x"]}))
    assert found.device_bytes == 0
    np.testing.assert_allclose(found.outputs[1]["y"], np.tanh(2 * ONES["x"]), rtol=1e-6)


def test_threads_reach_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    load = Runner.load

    def noted(self: Runner, model: Any, **more: Any) -> Any:
        seen.append(more.get("threads"))
        return load(self, model, **more)

    monkeypatch.setattr(Runner, "load", noted)
    probe(case(write(tmp_path / "m.onnx", PLAIN), threads=1), feeds(ONES))
    assert set(seen[1:]) == {1}  # the first is the small model that tells whether the provider works


def test_external_files_are_read_before_the_load(tmp_path: Path) -> None:
    text = "m (float[2] x) => (float[2] y) <float[2] w = {3, 4}> { y = Mul(x, w) }"
    proto = onnx.parser.parse_model(f"{HEAD}\n{text}")
    weight = proto.graph.initializer[0]
    weight.CopyFrom(onnx.numpy_helper.from_array(np.array([3, 4], np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    one = case(tmp_path / "m.onnx")
    assert _files(one) == {tmp_path / "m.onnx", tmp_path / "w.bin"}
    found = probe(one, feeds({"x": np.ones(2, np.float32)}))
    np.testing.assert_array_equal(found.outputs[0]["y"], [3, 4])


# --- failures


def test_nodes_on_another_provider_are_an_error_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "assignment", lambda *_: [(HOST, "", "Det", "odd"), (CUDA, "", "Relu", "one")])
    one = replace(case(write(tmp_path / "m.onnx", DET)), backend=Present(refusal=NO_GRAPH))
    found = failure(lambda: probe(one, (), dry_run=True))
    assert isinstance(found, NodesElsewhere)
    assert found.exit_code == 2
    assert "1 node would run on CPUExecutionProvider: Det 'odd' (no kernel at opset 20)" in str(found)
    assert "--fallback" in str(found)
    assert found.placed.nodes == {CUDA: 1, HOST: 1}
    allowed = probe(one, feeds({"x": np.ones((2, 4, 4), np.float32)}), fallback=True)
    assert allowed.placed == found.placed
    assert allowed.first_run_ms is not None


def test_many_nodes_are_counted_and_the_first_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["odd", *(f"made{number}" for number in range(4))]
    monkeypatch.setattr(Runner, "assignment", lambda *_: [(HOST, "", "Det", name) for name in names])
    one = replace(case(write(tmp_path / "m.onnx", DET)), backend=Present())
    text = str(failure(lambda: probe(one, (), dry_run=True)))
    assert "5 nodes would run" in text
    assert "made1" in text
    assert "made2" not in text
    assert "and 2 more" in text


def test_a_graph_that_is_asked_for_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "assignment", lambda *_: [(CUDA, "", "Relu", "one"), (CUDA, "", "Tanh", "two")])
    runs = "m (float[N,4] x) => (float[N,4] y) { [one] a = Relu(x)  b = MemcpyFromHost(a)  [two] y = Tanh(b) }"
    backend = Present((("enable_cuda_graph", "1"),), runs=runs, refusal=NO_GRAPH)
    one = replace(case(write(tmp_path / "m.onnx", PLAIN)), backend=backend)
    found = failure(lambda: probe(one, feeds(ONES)))
    assert isinstance(found, BackendError)
    assert "captures no CUDA graph: 1 copy between devices" in str(found)
    granted = replace(one, backend=replace(backend, refusal="", runs=""))
    assert "fixed places" in probe(granted, (), dry_run=True).notes[0]


@pytest.mark.skipif(not CudaBackend().missing(), reason="the CUDA provider may work here")
@pytest.mark.parametrize("dry", [False, True])
def test_a_provider_that_is_missing_is_said_in_one_line(tmp_path: Path, dry: bool) -> None:
    one = replace(case(write(tmp_path / "m.onnx", PLAIN)), backend=CudaBackend())
    found = failure(lambda: probe(one, feeds(ONES), dry_run=dry))
    assert isinstance(found, BackendError)
    assert found.exit_code == 2
    assert "backend cuda is not usable here" in str(found)


def test_a_model_that_does_not_load(tmp_path: Path) -> None:
    text = "m (bfloat16[batch, 4] x) => (bfloat16[batch, 4] y) { y = Relu(x) }"
    found = failure(lambda: probe(case(write(tmp_path / "m.onnx", text)), ()))
    assert isinstance(found, RuntimeFailure)
    assert found.kind == "load"


def test_a_shape_that_does_not_fit(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", PLAIN))
    text = str(failure(lambda: probe(one, feeds({"x": np.ones((2, 3), np.float32)}))))
    assert "x" in text
    assert "Got: 3 Expected: 4" in text


@pytest.mark.skipif(not LINUX, reason="only x86 and Linux trap this division")
def test_a_crash_in_a_run(tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("only x86 traps this division")
    one = case(write(tmp_path / "m.onnx", DIVIDE))
    found = failure(lambda: probe(one, feeds({"a": np.array([-(2**63)]), "b": np.array([-1])})))
    assert isinstance(found, RuntimeFailure)
    assert found.kind == "crash"
    assert "SIGFPE" in str(found)


@pytest.mark.skipif(not LINUX, reason="the limit needs a system that tells")
def test_memory_beyond_the_limit(tmp_path: Path) -> None:
    one = case(write(tmp_path / "m.onnx", GROW))
    found = failure(lambda: probe(one, feeds({"n": np.array([2**28])}), memory_limit=2**29))
    assert isinstance(found, RuntimeFailure)
    assert found.kind == "memory"
    assert "0.5 GiB" in str(found)


def test_cases_of_models_in_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("m.onnx"), PLAIN)
    one = replace(case(Path("m.onnx")), source=Source.of("m.onnx"))
    assert probe(one, feeds(ONES)).outputs[0]["y"].shape == (2, 4)
