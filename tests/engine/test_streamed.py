"""Segment-wise execution gives what direct execution gives, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper

from accelc.compare import compare_outputs
from accelc.errors import ModelError, UsageError
from accelc.runner import Runner
from accelc.streamed import run_streamed, split, tensor_bytes, weight_bytes


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as shared:
        yield shared


def external_chain(folder: Path, layers: int, width: int) -> Path:
    """A chain of MatMuls with a residual that skips every second layer, all weights in one file beside the model."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    with (folder / "weights.bin").open("wb") as file:
        for layer in range(layers):
            values = rng.standard_normal((width, width), dtype=np.float32) / np.float32(np.sqrt(width))
            tensor = T(name=f"w{layer}", data_type=T.FLOAT, dims=[width, width], data_location=T.EXTERNAL)
            place = {"location": "weights.bin", "offset": str(file.tell()), "length": str(values.nbytes)}
            for key, value in place.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
            weights.append(tensor)
            file.write(values.tobytes())
            nodes.append(helper.make_node("MatMul", [last, f"w{layer}"], [f"h{layer}"]))
            nodes.append(helper.make_node("Tanh", [f"h{layer}"], [f"t{layer}"]))
            skipped = f"a{layer - 2}" if layer >= 2 else "x"
            nodes.append(helper.make_node("Add", [f"t{layer}", skipped], [f"a{layer}"]))
            last = f"a{layer}"
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", T.FLOAT, ["n", width])],
        [helper.make_tensor_value_info(last, T.FLOAT, ["n", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def test_streamed_is_direct(tmp_path: Path, runner: Runner) -> None:
    path = external_chain(tmp_path, 9, 64)
    proto = onnx.load(path, load_external_data=False)
    budget = 2 * 64 * 64 * 4
    segments = split(proto, budget)
    assert len(segments) == 5
    assert all(segment.weight_bytes <= budget for segment in segments)
    feeds = {"x": np.random.default_rng(1).standard_normal((3, 64), dtype=np.float32)}
    direct = runner.evaluate(path, feeds)
    streamed = run_streamed(runner, path, tmp_path, feeds, weight_budget=budget)
    assert not compare_outputs(direct, streamed)
    assert not compare_outputs(direct, run_streamed(runner, proto, tmp_path, feeds, weight_budget=1))
    wrong = {"x": feeds["x"] + 1}
    assert compare_outputs(direct, run_streamed(runner, path, tmp_path, wrong, weight_budget=budget))


MIXED = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[n, 4] x, bool flag, float[4] over) => (float[n, 4] y, float[4] kept, float[n, 4] x2, int64 length)
<float[4] over = {1, 1, 1, 1}, float[4] kept = {5, 6, 7, 8}, float[4] a = {1, 2, 3, 4}, float[4] b = {4, 3, 2, 1}> {
  y = Add(d, over)
  c = local.twice (x)
  d = If (flag) <
    then_branch = t () => (float[n, 4] o) { o = Add(c, a) },
    else_branch = e () => (float[n, 4] o) { o = Mul(c, b) }
  >
  items = SequenceConstruct (c, d)
  nothing = SequenceEmpty ()
  more = SequenceInsert (nothing, x)
  length = SequenceLength (items)
  second = SequenceAt (more, zero)
  zero = Constant <value = int64 {0}> ()
  x2 = Identity (second)
  unused = Neg (x)
}
<domain: "local", opset_import: ["": 17]>
twice (v) => (w) { w = Add(v, v) }
"""


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("override", [True, False])
def test_subgraphs_functions_sequences_and_odd_outputs(runner: Runner, flag: bool, override: bool) -> None:
    """Unsorted nodes, captured weights, a function, an empty sequence, an overridden and a directly returned weight."""
    proto = onnx.parser.parse_model(MIXED)
    feeds: dict[str, Any] = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "flag": np.array(flag)}
    if override:
        feeds["over"] = np.full(4, 10, np.float32)
    doubled = feeds["x"] * 2
    branch = doubled + np.array([1, 2, 3, 4]) if flag else doubled * np.array([4, 3, 2, 1])
    expected = {
        "y": (branch + (10 if override else 1)).astype(np.float32),
        "kept": np.array([5, 6, 7, 8], np.float32),
        "x2": feeds["x"],
        "length": np.array(2),
    }
    for budget in (0, 16, 1 << 20):
        found = run_streamed(runner, proto, Path(), feeds, weight_budget=budget)
        assert list(found) == ["y", "kept", "x2", "length"]
        assert not compare_outputs(expected, found)
    assert len(split(proto, 0, given=frozenset(feeds))) > 3


def test_weights_are_counted_once_in_a_segment_and_again_in_the_next() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (float[4] y)
        <float[4] a = {1, 2, 3, 4}, float[4] b = {1, 2, 3, 4}> {
          h = Add(x, a) i = Add(h, a) j = Add(i, b) y = Add(j, a) }"""
    )
    assert [segment.weight_bytes for segment in split(proto, 16)] == [16, 16, 16]
    assert [segment.inputs for segment in split(proto, 16)] == [("x",), ("i",), ("j",)]
    assert [segment.weight_bytes for segment in split(proto, 32)] == [32]
    assert weight_bytes(proto) == 32


def test_an_output_that_a_later_segment_reads_is_kept(runner: Runner) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] h, float[2] y, float[2] x)
        <float[2] a = {1, 2}, float[2] b = {3, 4}> { h = Add(x, a) y = Add(h, b) }"""
    )
    feeds = {"x": np.zeros(2, np.float32)}
    found = run_streamed(runner, proto, Path(), feeds, weight_budget=0)
    expected = {"h": np.array([1, 2], np.float32), "y": np.array([4, 6], np.float32), **feeds}
    assert not compare_outputs(expected, found)


def test_sizes_of_packed_and_text_tensors() -> None:
    assert tensor_bytes(helper.make_tensor("t", T.INT4, [5], [1, 2, 3, 4, 5])) == 3
    assert tensor_bytes(T(data_type=T.STRING, dims=[2], string_data=[b"abc", b"d"])) == 4
    assert tensor_bytes(T(data_type=T.DOUBLE, dims=[3, 0])) == 0


def test_an_empty_sequence_crosses_a_boundary(runner: Runner) -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (int64 n, float[2] y) <float[2] w = {1, 2}> {
          s = SequenceEmpty <dtype: int = 1> () y = Add(x, w) n = SequenceLength(s) }"""
    )
    found = run_streamed(runner, proto, Path(), {"x": np.zeros(2, np.float32)}, weight_budget=0)
    assert int(found["n"]) == 0


class Untyped:
    """A runner whose every output is an empty sequence."""

    def load(self, model: bytes, **options: Any) -> onnx.ModelProto:
        return onnx.load_from_string(model)

    def run(self, session: Any, feeds: Any, outputs: Any, timeout: float) -> dict[str, Any]:
        return {name: [] for name in outputs}

    def close(self, session: Any) -> None:
        pass


def test_a_type_that_cannot_be_known_is_an_error() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "custom": 1]> g (float[2] x) => (float[2] y)
        <float[2] a = {1, 2}, float[2] b = {1, 2}> { s = custom.One(x, a) y = custom.Two(s, b) }"""
    )
    with pytest.raises(ModelError, match="the type of value s cannot be known"):
        run_streamed(Untyped(), proto, Path(), {"x": np.zeros(2, np.float32)}, weight_budget=0)


def test_broken_graphs_and_wrong_feeds_are_refused(runner: Runner) -> None:
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[2] x) => (float[2] y) '
    cycle = onnx.parser.parse_model(head + "{ y = Add(x, z) z = Neg(y) }")
    dangling = onnx.parser.parse_model(head + "{ y = Add(x, z) }")
    good = onnx.parser.parse_model(head + "{ y = Neg(x) }")
    feeds = {"x": np.zeros(2, np.float32)}
    with pytest.raises(ModelError, match="cycle"):
        run_streamed(runner, cycle, Path(), feeds)
    with pytest.raises(ModelError, match="value z is used and nothing produces it"):
        run_streamed(runner, dangling, Path(), feeds)
    with pytest.raises(UsageError, match="no value for input x"):
        run_streamed(runner, good, Path(), {})
    with pytest.raises(UsageError, match="q is not an input"):
        run_streamed(runner, good, Path(), {**feeds, "q": feeds["x"]})


_MEASURE = """
import sys
from pathlib import Path
import numpy as np
from accelc.runner import Runner
from accelc.streamed import run_streamed

def peak(process):
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024

with Runner() as runner:
    path = Path(sys.argv[1])
    x = np.ones((2, 1024), np.float32)
    run_streamed(runner, path, path.parent, {"x": x}, weight_budget=int(sys.argv[2]))
    print(peak("self"), peak(runner._child.process.pid))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads peak memory from /proc")
def test_memory_of_both_processes_stays_far_below_the_weights(tmp_path: Path) -> None:
    """VmHWM counts what a process holds; ru_maxrss begins with what the process that started it held."""
    path = external_chain(tmp_path, 100, 1024)
    total = (tmp_path / "weights.bin").stat().st_size

    def measure(budget: int) -> tuple[int, int]:
        command = [sys.executable, "-c", _MEASURE, str(path), str(budget)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        own, child = map(int, done.stdout.split())
        return own, child

    small, whole = measure(16 << 20), measure(total)
    assert whole[1] - small[1] > 0.6 * total, "the measure sees the weights"
    assert small[1] < total // 2
    assert small[0] < total // 2
