"""Where nodes will run, said from the kernel table; compared with the runtime's own choice where its provider loads.

ACCELC_FAKE_CUDA names a folder with libraries that let the CUDA provider be created without a GPU; it must be on the
loader's path as well (LD_LIBRARY_PATH).
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from accelc import ir
from accelc.backends.cpu import CpuBackend
from accelc.backends.cuda import CudaBackend
from accelc.infer import infer_model
from accelc.placement import Placement, not_on_processor, place

FAKE = os.environ.get("ACCELC_FAKE_CUDA", "")
needs_provider = pytest.mark.skipif(not FAKE, reason="ACCELC_FAKE_CUDA names no folder")

PLAIN = "(float[N,4] x) => (float[N,4] y) { a = Relu(x)  y = Tanh(a) }"
SHAPES = """(float[N,4] x, float[M,K] z) => (float[A,B] y)
    <int64 zero = {0}, int64[1] axis = {0}, int64[1] rest = {-1}> {
    s = Shape(x)  n = Gather(s, zero)  m = Unsqueeze(n, axis)  t = Concat<axis=0>(m, rest)  y = Reshape(z, t) }"""
COPIED = """(float[N,4] x) => (float[N,4] y) {
    s = Size(x)  f = Cast<to=1>(s)  r = Sqrt(f)  a = Relu(x)  y = Mul(a, r) }"""
BRANCHES = """(float[N,4] x, bool c) => (float[N,4] y) {
    y = If(c) <then_branch = t () => (float[N,4] a) { a = Relu(x) },
               else_branch = e () => (float[N,4] b) { b = Tanh(x) }> }"""


def placed(source: str) -> Placement:
    model = ir.parse(source)
    infer_model(model)
    return place(model, CudaBackend().target())


def test_everything_on_the_target() -> None:
    assert placed(PLAIN) == Placement("cuda", 2)
    assert str(placed(PLAIN)) == "2 of 2 nodes on cuda"


def test_shape_arithmetic_stays_on_the_processor_without_copies() -> None:
    found = placed(SHAPES)
    assert (found.nodes, found.shape_arithmetic, found.copied, found.strays) == (5, 3, (), ())
    assert "3 of shape arithmetic stay on the processor" in str(found)


def test_a_number_that_goes_back_is_a_copy() -> None:
    found = placed(COPIED)
    assert (found.shape_arithmetic, found.copied) == (2, ("r",))
    assert "copied in each run: r" in str(found)


def test_a_node_without_a_kernel_is_named_with_the_reason() -> None:
    found = placed("(string[N] x) => (string[N] y) { [odd] y = Identity(x) }")
    assert [(each.operator, each.reason) for each in found.strays] == [("Identity", "no kernel for STRING")]
    found = placed("(float[N,4,4] x) => (float[N] y) { a = Relu(x)  [odd] y = Det(a) }")
    (stray,) = found.strays
    assert (stray.operator, stray.reason) == ("Det", "no kernel at opset 20")
    assert "odd" in stray.node
    assert (found.nodes, found.copied) == (2, ("a",))
    assert str(found) == "1 of 2 nodes on cuda; 1 have no kernel there; copied in each run: a"


def test_nodes_in_branches_count() -> None:
    assert placed(BRANCHES).nodes == 3


def test_an_operator_that_the_runtime_writes_as_others_is_no_stray() -> None:
    assert placed("(float[N,4] x) => (float[N,4] y) { y = HardSwish(x) }").strays == ()


def test_operators_that_only_devices_have() -> None:
    source = """<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> m
    (float[2,4,4,8] x, float[8] g) => (float[2,4,4,8] y) { a = Relu(x)
      b = com.microsoft.GroupNorm<groups=2, activation=0>(a, g, g)  y = HardSwish(b) }"""
    model = ir.parse(source)
    assert [node.op_type for node in not_on_processor(model)] == ["GroupNorm"]


@needs_provider
@pytest.mark.parametrize("source", [PLAIN, SHAPES, COPIED, BRANCHES])
def test_the_runtime_places_nodes_alike(source: str, tmp_path: Path) -> None:
    import onnxruntime as ort

    model = ir.parse(source)
    infer_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.optimized_model_filepath = str(tmp_path / "placed.onnx")
    providers = [*CudaBackend().providers(), *CpuBackend().providers()]
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=providers[:2])
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    parts = session.get_provider_graph_assignment_info()
    on_processor = sum(len(each.get_nodes()) for each in parts if each.ep_name == "CPUExecutionProvider")
    found = placed(source)
    assert on_processor == found.shape_arithmetic + len(found.strays)
    written = onnx.load(str(tmp_path / "placed.onnx"))
    assert sum(node.op_type.startswith("Memcpy") for node in written.graph.node) == len(found.copied)
