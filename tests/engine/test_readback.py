"""What the runtime makes of quantized models: integer kernels, and what falls back to float."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from accelc.backends.cpu import CpuBackend
from accelc.int8 import profile_of
from accelc.readback import Readback, read, read_back
from accelc.runner import Runner
from accelc.target import Target, detect_isa, isa_of

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as one:
        yield one


def model(graph: str, **weights: Array) -> bytes:
    head = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]> main '
    proto = onnx.parser.parse_model(head + graph)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{index}"
    data: bytes = proto.SerializeToString()
    return data


ROUNDED = "yq = QuantizeLinear(c, s, oz)  y = DequantizeLinear(yq, s, oz)"


def conv(kind: str, out: str = "", after: str = ROUNDED) -> bytes:
    graph = f"""(float[1,8,6,6] x) => (float y)
      <float s = {{0.05}}, {kind} z = {{3}}, {out or kind} oz = {{3}}, float[4] ws = {{1, 2, 3, 4}}> {{
      q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  wd = DequantizeLinear<axis: int = 0>(w, ws)
      c = Conv(d, wd)  {after} }}"""
    return model(graph, w=RNG.integers(-9, 9, (4, 8, 3, 3)).astype(np.int8))


def reasons(found: Readback) -> list[tuple[str, str]]:
    return [(each.operator, each.reason) for each in found.fallen]


def test_integer_kernels(runner: Runner) -> None:
    found = read_back(runner, CpuBackend(), conv("uint8"))
    assert found.integer == {"QLinearConv": 1}
    assert not found.fallen
    assert str(found) == "integer kernels: QLinearConv 1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (conv("uint8", "int8"), "its input is u8 and its output s8"),
        (conv("uint16"), "there is no integer kernel for u16"),
        (conv("uint8", after="y = Neg(c)"), "its result is not quantized"),
    ],
    ids=["types", "width", "result"],
)
def test_why_a_convolution_falls_back(data: bytes, reason: str) -> None:
    found = read(onnx.load_from_string(data))
    assert found.integer == {}
    assert reasons(found) == [("Conv", reason)]
    assert str(found) == f"integer kernels: none; fell back to float: 1 Conv ({reason})"


def test_a_convolution_that_the_runtime_leaves_in_float(runner: Runner) -> None:
    found = read_back(runner, None, conv("uint16"))
    assert reasons(found) == [("Conv", "there is no integer kernel for u16")]
    assert found.conversions


def test_products_tables_and_weights_alone(runner: Runner) -> None:
    graph = """(float[2,32] x, int64[3] i) => (float y, float v, float u) <float s = {0.1}> {
      a, b, z = DynamicQuantizeLinear(x)  y = com.microsoft.MatMulIntegerToFloat(a, w, b, s, z)
      g = Gather(w, i)  v = DequantizeLinear(g, s)
      u = com.microsoft.MatMulNBits<K: int = 32, N: int = 4, bits: int = 4, block_size: int = 32>(x, p, q) }"""
    weights = {"w": RNG.integers(-9, 9, (32, 4)).astype(np.int8), "p": np.zeros((4, 1, 16), np.uint8)}
    found = read_back(runner, CpuBackend(), model(graph, **weights, q=np.ones(4, np.float32)))
    assert sum(found.integer.values()) == 3
    assert {"Gather", "MatMulNBits"} < set(found.integer)


def test_a_float_product_with_an_integer_weight() -> None:
    graph = """(float[2,8] x) => (float y) <float s = {0.1}> { d = DequantizeLinear(w, s)  y = MatMul(x, d) }"""
    found = read(onnx.load_from_string(model(graph, w=RNG.integers(-9, 9, (8, 4)).astype(np.int8))))
    assert reasons(found) == [("MatMul", "only its weight is quantized")]


def test_operators_without_an_integer_kernel_are_counted_apart() -> None:
    data = conv("uint8", after="t = Tanh(c)  yq = QuantizeLinear(t, s, oz)  y = DequantizeLinear(yq, s, oz)")
    proto = onnx.load_from_string(data)
    proto.graph.node[4].input[0] = proto.graph.node[1].output[0]
    assert read(proto).floats == {"Tanh": 1}


def test_a_float_model(runner: Runner) -> None:
    found = read_back(runner, CpuBackend(), model("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    assert found == Readback()


def test_large_weights_and_external_data(runner: Runner, tmp_path: Path) -> None:
    graph = """(float[2,64] x) => (float y) <float s = {0.1}, int8 z = {0}> {
      y = com.microsoft.DynamicQuantizeMatMul(x, w, s, z) }"""
    proto = onnx.load_from_string(model(graph, w=RNG.integers(-9, 9, (64, 64)).astype(np.int8)))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = sorted(tmp_path.iterdir())
    assert read_back(runner, CpuBackend(), tmp_path / "m.onnx").integer == {"DynamicQuantizeMatMul": 1}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("isa", "name"),
    [("amx", "amx"), ("vnni", "avx512_vnni"), ("avx2", "avx2"), ("avx2+avx_vnni", "avx_vnni"), ("i8mm", "neon_i8mm")],
)
def test_profiles_agree_with_the_target(isa: str, name: str) -> None:
    profile = profile_of(isa_of(isa))
    assert profile.name == name
    assert profile.exact is Target.cpu(isa=isa_of(isa)).int8_dot_exact
    assert ("exact" in profile.lines()[0]) is profile.exact


def test_profile_of_an_unknown_processor() -> None:
    assert not profile_of(()).exact
    assert "not measured" in profile_of(()).lines()[1]
    assert profile_of(detect_isa()).lines()
