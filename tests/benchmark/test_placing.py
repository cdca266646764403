"""Where nodes are, from what the runtime says: recorded assignments here, the CUDA provider itself where it loads.

ACCELC_FAKE_CUDA names a folder with libraries that let the CUDA provider be created without a GPU; it must be on the
loader's path as well (LD_LIBRARY_PATH).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bench_models import HEAD, case, write

from accelc.backend_base import Backend
from accelc.backends.cuda import CudaBackend
from accelc.benchmark.placing import place, wants_graphs, without_graphs
from accelc.benchmark.plan import Case
from accelc.benchmark.results import Fallen, Placed
from accelc.runner import CPU, Assigned, Provider, Runner, RuntimeFailure, Session
from accelc.target import Target

FAKE = os.environ.get("ACCELC_FAKE_CUDA", "")
needs_provider = pytest.mark.skipif(not FAKE, reason="ACCELC_FAKE_CUDA names no folder")

CUDA, HOST = "CUDAExecutionProvider", "CPUExecutionProvider"
PLAIN = "m (float[N,4] x) => (float[N,4] y) { [one] a = Relu(x)  [two] y = Tanh(a) }"
DET = "m (float[N,4,4] x) => (float[N] y) { [one] a = Relu(x)  [odd] d = Det(a)  [two] y = Tanh(d) }"
COPIED = """m (float[N,4] x) => (float[N,4] y)
    { s = Size(x)  f = Cast<to=1>(s)  r = Sqrt(f)  a = Relu(x)  y = Mul(a, r) }"""
SHAPES = """m (float[N,4] x, float[M,K] z) => (float[A,B] y)
    <int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {-1}> {
    s = Shape(x)  [pick] n = Gather(s, zero)  m = Unsqueeze(n, axis)
    t = Concat<axis=0>(m, rest)  y = Reshape(z, t) }"""
BRANCHES = """m (float[N,4] x, bool c) => (float[N,4] y) {
    y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
               else_branch = e () => (float[N,4] b) { b = Tanh(x) }> }"""
NO_GRAPH = "as all compute graph nodes have not been partitioned"


@dataclass(frozen=True)
class Recorded(Backend):
    """The kernels of CUDA; models are loaded on the processor, and what the provider said is played back."""

    name = "recorded"
    summary = "plays back"
    option_names = ("enable_cuda_graph",)

    runs: str = ""  # the graph that the provider runs, as text
    refusal: str = ""  # what it says to a CUDA graph
    unwritten: str = ""  # why it does not write that graph

    def target(self) -> Target:
        return CudaBackend().target()

    def providers(self) -> list[Provider]:
        return [(CUDA, {}), *CPU]

    def load(self, runner: Runner, model: bytes | Path, **more: Any) -> Session:
        if wants_graphs(self) and self.refusal:
            raise RuntimeFailure("load", self.refusal)
        dump = more.pop("optimized", None)
        if dump is not None and self.unwritten:
            raise RuntimeFailure("load", self.unwritten)
        if dump is not None and self.runs:
            onnx.save(onnx.parser.parse_model(f"{HEAD}\n{self.runs}"), dump)
        return runner.load(model, **more)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as made:
        yield made


@pytest.fixture
def played(tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Placed]:
    def play(text: str, assigned: list[Assigned], **more: str) -> Placed:
        monkeypatch.setattr(Runner, "assignment", lambda *_: assigned)
        backend = Recorded(**more)  # type: ignore[arg-type]
        found, notes = place(runner, replace(case(write(tmp_path / "m.onnx", text)), backend=backend))
        assert found is not None
        assert notes == ()
        return found

    return play


def test_all_on_the_provider(played: Callable[..., Placed]) -> None:
    found = played(PLAIN, [(CUDA, "", "Relu", "one"), (CUDA, "", "Tanh", "two")])
    assert found == Placed({CUDA: 2}, graph="captured")


def test_a_node_without_a_kernel_has_fallen(played: Callable[..., Placed]) -> None:
    runs = """m (float[N,4,4] x) => (float[N] y) { [one] a = Relu(x)  b = MemcpyToHost(a)  [odd] d = Det(b)
        e = MemcpyFromHost(d)  [two] y = Tanh(e) }"""
    assigned = [(HOST, "", "Det", "odd"), (CUDA, "", "Relu", "one"), (CUDA, "", "Tanh", "two")]
    found = played(DET, assigned, runs=runs, refusal=NO_GRAPH)
    assert list(found.nodes.items()) == [(CUDA, 2), (HOST, 1)]
    assert found.fallen == (Fallen("odd", "Det", HOST, "no kernel at opset 20", copied=2),)
    assert (found.copies, found.by_choice) == (2, 0)
    assert found.graph == "refused: 2 copies between devices in each run; not on the provider: Det 'odd'"


def test_shape_arithmetic_is_no_fall(played: Callable[..., Placed]) -> None:
    kept = [(HOST, "", "Gather", "pick"), (HOST, "", "Unsqueeze", ""), (HOST, "", "Concat", "")]
    found = played(SHAPES, [(CUDA, "", "Shape", ""), *kept, (CUDA, "", "Reshape", "")])
    assert (found.by_choice, found.fallen, found.copies) == (3, (), 0)


def test_nodes_that_the_runtime_made_are_found_in_the_graph_that_runs(played: Callable[..., Placed]) -> None:
    runs = """m (float[N,4] x) => (int64 n) <int64 zero = {0}> { s = Shape(x)  [made] n = Gather(s, zero) }"""
    found = played(PLAIN, [(CUDA, "", "Shape", ""), (HOST, "", "Gather", "made")], runs=runs)
    assert (found.by_choice, found.fallen) == (1, ())


def test_what_the_provider_could_run_and_does_not_has_fallen(played: Callable[..., Placed]) -> None:
    found = played(PLAIN, [(CUDA, "", "Relu", "one"), (HOST, "", "Tanh", "two")])
    assert [(each.node, each.reason) for each in found.fallen] == [
        ("two", "there is a kernel, which the provider does not take")
    ]
    (unknown,) = played(PLAIN, [(HOST, "", "Sin", "nowhere")]).fallen
    assert unknown.reason == "the provider does not take it"


def test_a_graph_that_is_refused_for_another_reason(played: Callable[..., Placed]) -> None:
    assigned = [(CUDA, "", "Relu", "one"), (CUDA, "", "Tanh", "two")]
    refusal = "the model has control flow nodes which can't be supported"
    assert played(PLAIN, assigned, refusal=refusal).graph == "refused: the model has control flow"
    assert played(PLAIN, assigned, refusal="no driver").graph == "refused: no driver"


def test_the_processor_has_neither_copies_nor_graphs(tmp_path: Path, runner: Runner) -> None:
    found, notes = place(runner, case(write(tmp_path / "m.onnx", PLAIN)), [{"x": np.ones((2, 4), np.float32)}])
    assert (found, notes) == (Placed({HOST: 2}), ())


def test_a_provider_that_compiles_parts_of_the_graph(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runner, "assignment", lambda *_: [(CUDA, "", "Tanh", "two")])
    backend = Recorded(unwritten="Unable to serialize model as it contains compiled nodes")
    one = replace(case(write(tmp_path / "m.onnx", PLAIN)), backend=backend)
    found, notes = place(runner, one)
    assert found is not None
    assert (found.nodes, found.copies) == ({CUDA: 1}, None)
    assert "copies between devices cannot be counted" in notes[0]
    with pytest.raises(RuntimeFailure, match="no space"):
        place(runner, replace(one, backend=Recorded(unwritten="no space left")))


def test_an_old_runtime_tells_it_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: Runner) -> None:
    monkeypatch.setattr(Runner, "assignment", lambda *_: None)
    one = case(write(tmp_path / "m.onnx", PLAIN))
    found, notes = place(runner, one)
    assert found is None
    assert "only in a run" in notes[0]
    found, notes = place(runner, one, [{"x": np.ones((2, 4), np.float32)}])
    assert (found, notes) == (Placed({HOST: 2}), ())


def test_graphs_as_an_option() -> None:
    asked = CudaBackend((("device_id", "1"), ("enable_cuda_graph", "True")))
    assert wants_graphs(asked)
    assert without_graphs(asked) == CudaBackend((("device_id", "1"),))
    assert asked.memories() == ("device",)
    assert CudaBackend().memories() == ("host", "device")
    assert asked.device() == "cuda:1"


def on_cuda(path: Path, text: str) -> Case:
    return replace(case(write(path / "m.onnx", text)), backend=CudaBackend())


@needs_provider
@pytest.mark.parametrize(
    ("text", "placed"),
    [
        (PLAIN, Placed({CUDA: 2}, graph="captured")),
        (SHAPES, Placed({CUDA: 2, HOST: 3}, by_choice=3, graph="captured")),
        (
            COPIED,
            Placed({CUDA: 3, HOST: 2}, by_choice=2, copies=1, graph="refused: 1 copy between devices in each run"),
        ),
        (BRANCHES, Placed({CUDA: 3}, graph="refused: the model has control flow")),
        (
            DET,
            Placed(
                {CUDA: 2, HOST: 1},
                fallen=(Fallen("odd", "Det", HOST, "no kernel at opset 20", 2),),
                copies=2,
                graph="refused: 2 copies between devices in each run; not on the provider: Det 'odd'",
            ),
        ),
    ],
    ids=["plain", "shapes", "copied", "branches", "det"],
)
def test_the_provider_itself(tmp_path: Path, runner: Runner, text: str, placed: Placed) -> None:
    found, notes = place(runner, on_cuda(tmp_path, text))
    assert (found, notes) == (placed, ())
