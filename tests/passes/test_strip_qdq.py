"""strip-qdq: the float that a quantized model stands for, and what of a model is recognized as quantized."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import accelc
from accelc import ir
from accelc.context import Context, Fuel, Settings
from accelc.infer import infer_model
from accelc.pass_base import PassResult, make_pass, run_pass
from accelc.passes.quantization.layers import find_layers
from accelc.passes.quantization.recognize import recognize
from accelc.passes.quantization.strip_ranges import never_negative
from accelc.passes.quantization.weights import BlockScheme, quantize_weights
from accelc.passes.strip_qdq import StripQdq
from accelc.structure import check as check_structure
from accelc.target import Target
from accelc.testing import run

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
_QUANTIZED = ("Quant", "quantize", "Integer")
CORPUS = {
    "constant_folding_qdq_node_unit.graph_output.qdq16_contrib": 0,
    "dynamic_quantize_matmul_bias": 1,
    "matmul_integer_to_float": 1,
    "qdq_with_multi_consumer_dq_nodes.fixed.qdq_contrib": 0,
    "quant_model": 0,
    "transpose_optimizer_cancel_squeeze_per_axis_dq": 1,
}
"""Quantized models of the corpus, with how many DequantizeLinear must stay because their integers come from outside."""


def model_of(graph: str, weights: Mapping[str, Array] | None = None, opset: int = 21) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]> main '
    proto = onnx.parser.parse_model(head + graph)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in (weights or {}).items())
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in [tensor for tensor in proto.graph.initializer if tensor.name not in used]:
        proto.graph.initializer.remove(tensor)
    for index, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{index}"
    model = ir.from_proto(proto)
    infer_model(model)
    return model


def stripped(model: ir.Model, fuel: Fuel | None = None, **options: Any) -> PassResult:
    ctx = Context(Target.cpu(), Settings(), fuel=fuel)
    result = run_pass(make_pass(StripQdq, options), model, ctx)
    check_structure(model)
    return result


def operators(model: ir.Model) -> dict[str, int]:
    return dict(Counter(node.op_type for node in ir.walk(model)))


def values(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    return [np.asarray(each) for each in run(ir.to_proto(model).SerializeToString(), feeds)]


def assert_close(
    graph: str, weights: Mapping[str, Array], feeds: Mapping[str, Array], error: float, **options: Any
) -> ir.Model:
    """The stripped model computes what the quantized one does, but for `error` times the largest element."""
    wanted = values(model_of(graph, weights), feeds)
    model = model_of(graph, weights)
    assert stripped(model, **options).changes
    for one, two in zip(wanted, values(model, feeds), strict=True):
        np.testing.assert_allclose(two, one, atol=error * float(np.abs(one).max()))
    return model


def floats(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


CONV = """(float[1,2,6,6] x) => (float[1,3,6,6] y)
  <float xs = {0.02}, uint8 xz = {128}, float[3] ws = {0.01, 0.02, 0.005}, int8[3] wz = {0, 0, 0},
   float ys = {0.05}, uint8 yz = {100}, float[3] bs = {0.0002, 0.0004, 0.0001}, int32[3] b = {100, -50, 30}> {
  xq = QuantizeLinear(x, xs, xz)  xd = DequantizeLinear(xq, xs, xz)
  wd = DequantizeLinear<axis: int = 0>(w, ws, wz)  bd = DequantizeLinear<axis: int = 0>(b, bs)
  c = Conv<pads: ints = [1,1,1,1]>(xd, wd, bd)
  cq = QuantizeLinear(c, ys, yz)  y = DequantizeLinear(cq, ys, yz) }"""


def small_weight(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).integers(-127, 128, shape).astype(np.int8)


def test_pairs_and_weights() -> None:
    model = assert_close(CONV, {"w": small_weight(3, 2, 3, 3)}, {"x": 0.3 * floats(1, 2, 6, 6)}, 0.05)
    assert operators(model) == {"Conv": 1}
    assert {str(v.const_value.dtype) for v in model.graph.initializers.values() if v.const_value is not None} == {
        "FLOAT"
    }


def test_clamp_always_keeps_every_range() -> None:
    feeds = {"x": 5 * floats(1, 2, 6, 6)}
    model = assert_close(CONV, {"w": small_weight(3, 2, 3, 3)}, feeds, 0.01, clamp="always")
    assert operators(model) == {"Clip": 2, "Conv": 1}


def activation(scale: float, zero: int, inner: str = "a = Add(x, x)") -> str:
    return f"""(float[2,8] x) => (float[2,8] y) <float s = {{{scale}}}, uint8 z = {{{zero}}}> {{
      {inner}  q = QuantizeLinear(a, s, z)  d = DequantizeLinear(q, s, z)  y = Neg(d) }}"""


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (activation(0.1, 0), {"Add": 1, "Relu": 1, "Neg": 1}),
        (activation(6 / 255, 0), {"Add": 1, "Clip": 1, "Neg": 1}),
        (activation(0.1, 3), {"Add": 1, "Neg": 1}),
        (activation(0.1, 0, "a = Sigmoid(x)"), {"Sigmoid": 1, "Neg": 1}),
        (activation(0.1, 0, "a = Identity(x)"), {"Identity": 1, "Neg": 1}),
    ],
)
def test_ranges_that_stand_for_an_activation_stay(graph: str, expected: dict[str, int]) -> None:
    model = assert_close(graph, {}, {"x": 0.5 + 0.1 * floats(2, 8)}, 0.1)
    assert operators(model) == expected
    never = model_of(graph)
    stripped(never, clamp="never")
    assert "Relu" not in operators(never)
    assert "Clip" not in operators(never)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Mul(x, x)", True),
        ("t = Erf(x)  a = Add(t, one)", True),
        ("t = Relu(x)  a = Pad(t, pads)", True),
        ("t = Relu(x)  a = Pad(t, pads, minus)", False),
        ("t = Abs(x)  u = Exp(x)  a = Div(t, u)", True),
        ("t = Exp(x)  a = Sub(t, one)", False),
    ],
)
def test_never_negative(body: str, expected: bool) -> None:
    constants = "<float one = {1}, float minus = {-1}, int64[4] pads = {0, 1, 0, 1}>"
    model = model_of(f"(float[2,8] x) => (float a) {constants} {{ {body} }}")
    assert never_negative(model.graph.outputs[0]) is expected


def test_what_moves_integers_moves_floats() -> None:
    graph = """(float[1,2,4,4] x) => (float[1,5,3,2] y)
      <float s = {0.05}, uint8 z = {100}, uint8 fill = {120}, int64[8] pads = {0,1,0,0, 0,0,0,0},
       int64[2] parts = {1,2}, uint8[1,2,3,2] c = {1,2,3,4,5,6,7,8,9,10,11,12}> {
      q = QuantizeLinear(x, s, z)
      p = Pad(q, pads, fill)
      m = MaxPool<kernel_shape: ints = [2,3]>(p)
      a, b = Split<axis: int = 1>(m, parts)
      j = Concat<axis: int = 1>(b, a, c)
      y = DequantizeLinear(j, s, z) }"""
    model = assert_close(graph, {}, {"x": floats(1, 2, 4, 4)}, 0.02)
    assert operators(model) == {"Pad": 1, "MaxPool": 1, "Split": 1, "Concat": 1}


def test_integers_at_the_border_stay() -> None:
    graph = """(uint8[2,4] x) => (uint8[2,4] y, int64[2] n) <float s = {0.05}, uint8 z = {100}> {
      d = DequantizeLinear(x, s, z)  r = Tanh(d)  q = QuantizeLinear(r, s, z)  e = DequantizeLinear(q, s, z)
      t = Neg(e)  y = QuantizeLinear(t, s, z)  n = Shape(q) }"""
    model = model_of(graph)
    result = stripped(model)
    assert operators(model) == {"DequantizeLinear": 1, "Tanh": 1, "Neg": 1, "QuantizeLinear": 1, "Shape": 1}
    assert "1 operator(s) stay quantized" in result.notes[0]
    assert result.details["kept"][0]["reason"].startswith("its integers come from outside")


# --- operators on integers -------------------------------------------------------------------------------------------

PRE = "q = QuantizeLinear(x, s, z)"
POST = "y = DequantizeLinear(o, t, z)"
SCALES = "float s = {0.02}, float t = {0.05}, uint8 z = {128}, float u = {0.01}, int8 wz = {0}"


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        ("o = QLinearMatMul(q, s, z, w, u, wz, t, z)", {"w": small_weight(8, 4)}, {"MatMul": 1}),
        (
            "o = com.microsoft.QGemm<transB: int = 1, alpha: float = 0.5>(q, s, z, w, u, wz, b, t, z)",
            {"w": small_weight(4, 8), "b": np.array([900, -700, 20, 0], np.int32)},
            {"Gemm": 1},
        ),
        ("o = com.microsoft.QLinearAdd(q, s, z, q, s, z, t, z)", {}, {"Add": 1}),
        ("o = com.microsoft.QLinearMul(q, s, z, q, s, z, t, z)", {}, {"Mul": 1}),
        ("o = com.microsoft.QLinearSigmoid(q, s, z, t, z)", {}, {"Sigmoid": 1}),
        ("o = com.microsoft.QLinearLeakyRelu<alpha: float = 0.2>(q, s, z, t, z)", {}, {"LeakyRelu": 1}),
        ("o = com.microsoft.QLinearSoftmax<axis: int = -1, opset: int = 13>(q, s, z, t, z)", {}, {"Softmax": 1}),
        ("o = com.microsoft.QLinearConcat<axis: int = 0>(t, z, q, s, z, q, s, z)", {}, {"Concat": 1}),
        ("o = com.microsoft.QLinearWhere(c, q, s, z, q, s, z, t, z)", {"c": np.array([[True], [False]])}, {"Where": 1}),
    ],
)
def test_static_operators(body: str, weights: dict[str, Array], expected: dict[str, int]) -> None:
    graph = f"(float[2,8] x) => (float y) <{SCALES}> {{ {PRE}  {body}  {POST} }}"
    model = assert_close(graph, weights, {"x": 0.5 * floats(2, 8)}, 0.2)
    assert operators(model) == expected


IMAGE = "(float[1,2,6,6] x) => (float y)"


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        (
            "o = QLinearConv(q, s, z, w, u, wz, t, z, b)",
            {"w": small_weight(3, 2, 3, 3), "b": np.array([9000, -7000, 20], np.int32)},
            {"Conv": 1},
        ),
        (
            "o = com.microsoft.QLinearGlobalAveragePool<channels_last: int = 0>(q, s, z, t, z)",
            {},
            {"GlobalAveragePool": 1},
        ),
        ("o = com.microsoft.QLinearAveragePool<kernel_shape: ints = [2,2]>(q, s, z, t, z)", {}, {"AveragePool": 1}),
    ],
)
def test_static_image_operators(body: str, weights: dict[str, Array], expected: dict[str, int]) -> None:
    model = assert_close(
        f"{IMAGE} <{SCALES}> {{ {PRE}  {body}  {POST} }}", weights, {"x": 0.5 + 0.3 * floats(1, 2, 6, 6)}, 0.3
    )
    assert operators(model) == expected


def test_a_chain_of_integers_is_joined_and_its_borders_stay() -> None:
    graph = f"""(float[2,8] x) => (float y, uint8 o) <{SCALES}> {{ {PRE}
      p = QLinearMatMul(q, s, z, w, u, wz, t, z)  o = com.microsoft.QLinearAdd(p, t, z, p, t, z, t, z)  {POST} }}"""
    model = assert_close(graph, {"w": small_weight(8, 4)}, {"x": 0.3 * floats(2, 8)}, 0.1)
    assert operators(model) == {"MatMul": 1, "Add": 1, "QuantizeLinear": 1}


DYNAMIC = """(float[3,8] x) => (float[3,4] y) <float[4] ws = {0.01, 0.02, 0.03, 0.01}, int8 wz = {0}> {
  a, s, z = DynamicQuantizeLinear(x)  m = MatMulInteger(a, w, z, wz)  f = Cast<to: int = 1>(m)
  k = Mul(s, ws)  y = Mul(f, k) }"""


def test_dynamic_products_as_the_runtime_writes_them() -> None:
    model = assert_close(DYNAMIC, {"w": small_weight(8, 4)}, {"x": floats(3, 8)}, 0.02)
    assert operators(model) == {"MatMul": 1}


def test_dynamic_convolution_and_two_dynamic_sides() -> None:
    graph = """(float[1,2,6,6] x) => (float y, float g) <float ws = {0.01}> {
      a, s, z = DynamicQuantizeLinear(x)  m = ConvInteger(a, w, z)  f = Cast<to: int = 1>(m)
      k = Mul(s, ws)  y = Mul(f, k)
      n = MatMulInteger(a, a, z, z)  h = Cast<to: int = 1>(n)  l = Mul(h, s)  g = Mul(l, s) }"""
    model = assert_close(graph, {"w": small_weight(3, 2, 3, 3)}, {"x": floats(1, 2, 6, 6)}, 0.03)
    assert operators(model) == {"Conv": 1, "MatMul": 1}


def test_sums_that_stay_integers_are_left_alone() -> None:
    graph = """(float[3,8] x) => (int32[3,4] m) <int8 wz = {0}> {
      a, s, z = DynamicQuantizeLinear(x)  m = MatMulInteger(a, w, z, wz) }"""
    model = model_of(graph, {"w": small_weight(8, 4)})
    result = stripped(model)
    assert "its sums are used as integers" in result.skipped
    assert operators(model) == {"DynamicQuantizeLinear": 1, "MatMulInteger": 1}


def test_fused_dynamic_products() -> None:
    graph = """(float[3,8] x) => (float[3,4] y, float[3,4] v)
      <float[4] ws = {0.01, 0.02, 0.03, 0.01}, int8[4] wz = {0, 0, 0, 0}, float[4] b = {1, 2, 3, 4}> {
      y = com.microsoft.DynamicQuantizeMatMul(x, w, ws, wz, b)
      a, s, z = DynamicQuantizeLinear(x)
      v = com.microsoft.MatMulIntegerToFloat(a, w, s, ws, z, wz) }"""
    model = assert_close(graph, {"w": small_weight(8, 4)}, {"x": floats(3, 8)}, 0.02)
    assert operators(model) == {"MatMul": 2, "Add": 1}


def test_recurrent_layer() -> None:
    graph = """(float[5,1,4] x) => (float y) <float[1] ws = {0.01}, int8[1] wz = {0}> {
      y = com.microsoft.DynamicQuantizeLSTM<hidden_size: int = 3>(x, w, r, , , , , , ws, wz, ws, wz) }"""
    weights = {"w": small_weight(1, 4, 12), "r": small_weight(1, 3, 12)}
    model = assert_close(graph, weights, {"x": floats(5, 1, 4)}, 0.05)
    assert operators(model) == {"LSTM": 1}


def test_attention() -> None:
    graph = """(float[1,5,8] x) => (float[1,5,8] y) <float ws = {0.01}, int8 wz = {0}> {
      a, s, z = DynamicQuantizeLinear(x)
      y = com.microsoft.QAttention<num_heads: int = 2>(a, w, b, s, ws, , z, wz) }"""
    weights = {"w": small_weight(8, 24), "b": floats(24)}
    model = assert_close(graph, weights, {"x": floats(1, 5, 8)}, 0.05)
    assert operators(model) == {"Attention": 1}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zero", [False, True])
def test_weights_in_blocks(bits: int, zero: bool) -> None:
    k, n, block = 40, 6, 16
    given = {"w": RNG.integers(0, 256, (n, 3, block * bits // 8)).astype(np.uint8), "s": 0.1 + np.abs(floats(n, 3))}
    if zero:
        given["z"] = RNG.integers(0, 256, (n, -(-3 * bits // 8))).astype(np.uint8)
    attrs = f"K: int = {k}, N: int = {n}, bits: int = {bits}, block_size: int = {block}"
    graph = f"(float[2,{k}] x) => (float[2,{n}] y) {{ y = com.microsoft.MatMulNBits<{attrs}>(x, w, s{', z' * zero}) }}"
    model = assert_close(graph, given, {"x": floats(2, k)}, 1e-4)
    assert operators(model) == {"MatMul": 1}


@pytest.mark.parametrize("zero", [False, True])
def test_table_in_blocks(zero: bool) -> None:
    given = {"w": RNG.integers(0, 256, (7, 16)).astype(np.uint8), "s": np.abs(floats(7, 2))}
    if zero:
        given["z"] = RNG.integers(0, 256, (7, 1)).astype(np.uint8)
    attrs = "bits: int = 4, block_size: int = 16, gather_axis: int = 0, quantize_axis: int = 1"
    names = f"w, i, s{', z' * zero}"
    graph = f"(int64[3] i) => (float[3,32] y) {{ y = com.microsoft.GatherBlockQuantized<{attrs}>({names}) }}"
    model = assert_close(graph, given, {"i": np.array([6, 0, 3])}, 1e-6)
    assert operators(model) == {"Gather": 1}


def test_tables() -> None:
    graph = """(int64[3] i) => (float y, float v) <float s = {0.1}, int8 z = {2}> {
      g = Gather(w, i)  f = Cast<to: int = 1>(g)  k = Gather(t, i)  y = Mul(f, k)
      h = Gather(w, i)  v = DequantizeLinear(h, s, z) }"""
    given = {"w": small_weight(9, 4), "t": np.abs(floats(9, 1))}
    model = assert_close(graph, given, {"i": np.array([8, 0, 8])}, 1e-6)
    assert operators(model) == {"Gather": 2}


@pytest.mark.parametrize("kind", ["int4", "uint4", "int16", "float8e4m3fn"])
def test_other_widths(kind: str) -> None:
    number = onnx.TensorProto.DataType.Value(kind.upper())
    tensor = onnx.helper.make_tensor("w", number, [8, 4], RNG.integers(0, 7, 32).tolist())
    block = "" if "8" in kind else ", block_size: int = 4"
    graph = f"""(float[2,8] x) => (float[2,4] y) <float[2,4] s = {{1,2,3,4,5,6,7,8}}> {{
      d = DequantizeLinear<axis: int = 0{block}>(w, s)  y = MatMul(x, d) }}"""
    if "8" in kind:
        graph = graph.replace("float[2,4] s = {1,2,3,4,5,6,7,8}", "float s = {2}")
    proto = ir.to_proto(model_of(graph.replace("(w, s)", "(x, s)")))
    proto.graph.node[0].input[0] = "w"
    del proto.graph.value_info[:]
    proto.graph.initializer.append(tensor)
    feeds = {"x": floats(2, 8)}
    (wanted,) = run(proto.SerializeToString(), feeds)
    model = ir.from_proto(proto)
    infer_model(model)
    stripped(model)
    assert operators(model) == {"MatMul": 1}
    np.testing.assert_allclose(values(model, feeds)[0], wanted, rtol=1e-5)


def test_simulated_quantization() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13, "onnx.brevitas": 1]> g (float[2] x) => (float[2] y) '
        "<float s = {0.1}, float z = {0}, float b = {8}> { t = onnx.brevitas.Quant(x, s, z, b)  y = Relu(t) }"
    )
    model = ir.from_proto(proto)
    stripped(model)
    assert operators(model) == {"Relu": 1}


# --- the pass as such ------------------------------------------------------------------------------------------------


def test_fuel_stops_anywhere_and_the_numbers_hold() -> None:
    weights, feeds = {"w": small_weight(3, 2, 3, 3)}, {"x": 0.3 * floats(1, 2, 6, 6)}
    (wanted,) = values(model_of(CONV, weights), feeds)
    for limit in range(5):
        model = model_of(CONV, weights)
        assert stripped(model, Fuel(limit)).changes == min(limit, 4)
        np.testing.assert_allclose(values(model, feeds)[0], wanted, atol=0.05 * float(np.abs(wanted).max()))


def test_nothing_quantized() -> None:
    result = stripped(model_of("(float[2] x) => (float[2] y) { y = Relu(x) }"))
    assert result.skipped == "nothing in the model is quantized"


def test_the_model_without_quantization_suits_a_gpu(tmp_path: Path) -> None:
    onnx.save(ir.to_proto(model_of(CONV, {"w": small_weight(3, 2, 3, 3)})), tmp_path / "q.onnx")
    done = accelc.optimize(
        tmp_path / "q.onnx", passes="strip-qdq", target="cuda", output=tmp_path / "f.onnx", measure=False
    )
    assert done.report.placement is not None
    assert not done.report.placement.strays
    assert done.report.verdict is not None
    assert done.report.verdict.status in ("reported", "skipped")


@pytest.mark.skipif("ACCELC_CORPUS" not in os.environ, reason="ACCELC_CORPUS names no folder of models")
@pytest.mark.parametrize("name", CORPUS)
def test_corpus(name: str) -> None:
    model = ir.from_proto(onnx.load(Path(os.environ["ACCELC_CORPUS"]) / f"{name}.onnx"))
    infer_model(model)
    assert recognize(model)
    assert stripped(model).changes
    left = [node.op_type for node in ir.walk(model) if any(part in node.op_type for part in _QUANTIZED)]
    assert left == ["DequantizeLinear"] * CORPUS[name]


@pytest.mark.parametrize("scheme", ["dynamic", "weights"])
def test_quantizing_again_gives_the_same_integers(scheme: str, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 21]> g (float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(floats(64, 64), "w"))
    onnx.save(proto, tmp_path / "0.onnx")
    quantize = f"quantize{{scheme={scheme}, measure=false}}"
    found = []
    for index, passes in enumerate((quantize, "strip-qdq", quantize)):
        here, there = tmp_path / f"{index}.onnx", tmp_path / f"{index + 1}.onnx"
        assert accelc.optimize(here, passes=passes, output=there, measure=False).report.patches
        weights = [onnx.numpy_helper.to_array(each) for each in onnx.load(there).graph.initializer]
        found.append(sorted(weight.tobytes() for weight in weights if weight.dtype.kind in "iu" and weight.size > 1))
    assert found[0] == found[2] != found[1]


# --- recognizing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "weights", "sentence"),
    [
        (CONV, {"w": small_weight(3, 2, 3, 3)}, "already quantized: 1 QDQ Conv"),
        (DYNAMIC, {"w": small_weight(8, 4)}, "already quantized: 1 dynamic MatMulInteger"),
        (
            "(float[2,8] x) => (float y) <float s = {0.1}> { d = DequantizeLinear(w, s)  y = MatMul(x, d) }",
            {"w": small_weight(8, 4)},
            "already quantized: 1 weight-only QDQ MatMul",
        ),
        (
            "(int64[3] i) => (int8 y) { y = Gather(w, i) }",
            {"w": small_weight(8, 4)},
            "already quantized: 1 table Gather",
        ),
        ("(float[2] x) => (float[2] y) { y = Relu(x) }", {}, ""),
    ],
)
def test_recognized(graph: str, weights: dict[str, Array], sentence: str) -> None:
    model = model_of(graph, weights)
    found = recognize(model)
    assert str(found) == sentence
    assert bool(found) is bool(sentence)
    assert found.nodes <= set(ir.walk(model))


def test_who_quantized_it() -> None:
    model = model_of(DYNAMIC, {"w": small_weight(8, 4)})
    model.metadata_props["accelc.quantize"] = '{"scheme": "dynamic u8 x s8"}'
    assert str(recognize(model)).startswith("already quantized by accelc (dynamic u8 x s8): ")


def test_a_table_in_the_blocks_of_a_product_becomes_float() -> None:
    table = RNG.standard_normal((2000, 64)).astype(np.float32)
    graph = "(int64[3] i) => (float[3,2000] y) { h = Gather(v, i)  t = Transpose(v)  y = MatMul(h, t) }"
    model = model_of(graph, {"v": table})
    layers = find_layers(model, embeddings=True, portable=False).layers
    quantize_weights(model, layers, BlockScheme(8, 32), lambda _rule, _node: True)
    kinds = {node.op_type for node in model.graph}
    assert kinds == {"GatherBlockQuantized", "MatMulNBits", "Reshape"}
    assert not stripped(model).details["kept"]
    ids = np.array([5, -1, 0])
    (got,) = run(ir.to_proto(model).SerializeToString(), {"i": ids})
    np.testing.assert_allclose(got, table[ids] @ table.T, atol=0.4)
    assert {node.op_type for node in model.graph} == {"Gather", "MatMul", "Reshape"}
