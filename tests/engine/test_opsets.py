# ruff: noqa: E501
"""Raising opsets: same numbers before and after through ONNX Runtime, or a reason why not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir
import pytest

from accelc import ir, opsets
from accelc.backends.cpu import CpuBackend
from accelc.pattern import Ops, Var
from accelc.rewrite import Driver
from accelc.rules import Law, rule
from accelc.structure import check as check_structure
from accelc.testing import context, inputs, same_numbers

TARGET = CpuBackend().target()
X = "(float[2,3,4,4] x) => (float[a,b,c,d] y)"
M = "(float[3,6] x) => (float[a,b] y)"


def model(opset: int, graph: str, ir_version: int = 8) -> ir.Model:
    return ir.parse(f'<ir_version: {ir_version}, opset_import: ["": {opset}, "com.microsoft": 1]> main {graph}')


def raised(made: ir.Model, to: int) -> ir.Model:
    """The model at a higher opset."""
    assert opsets.blocker(made.graph, to, TARGET) == ""
    opsets.raise_to(made.graph, to, ir.names(made))
    opsets.settle_ir_version(made)
    return made


# opset -> graphs whose operators exist there; each is raised to every one of LEVELS above it.
LEVELS = (9, 11, 13, 17, 20, 23)
GRAPHS: dict[str, tuple[int, str]] = {
    "arithmetic": (7, M + "{ a = Add(x, x) b = Mul(a, x) c = Sub(b, a) e = Exp(x) s = Div(c, e) y = Max(s, x) }"),
    "unary": (
        9,
        M + "{ a = Abs(x) b = Sqrt(a) c = Erf(b) d = Floor(x) e = Add(c, d) f = Neg(e) g = Sign(f) y = Add(f, g) }",
    ),
    "activations": (
        7,
        M + "{ a = Relu(x) b = Sigmoid(a) c = Tanh(b) d = Elu(c) e = Selu(d) f = HardSigmoid(e) y = LeakyRelu(f) }",
    ),
    "softplus": (7, M + "{ a = Softplus(x) b = Softsign(a) y = Clip<min = -0.5, max = 0.25>(b) }"),
    "clip-default": (7, M + "{ y = Clip(x) }"),
    "clip-one-sided": (7, M + "{ y = Clip<min = 0.0>(x) }"),
    "clip-inputs": (11, M + "<float z = {0}> { y = Clip(x, , z) }"),
    "pow": (7, M + "<float two = {2}> { a = Abs(x) y = Pow(a, two) }"),
    "matmul": (7, "(float[2,3] x, float[3,4] w) => (float[a,b] y) { y = MatMul(x, w) }"),
    "gemm": (
        7,
        "(float[2,3] x, float[4,3] w, float[4] b) => (float[a,b] y) { y = Gemm<alpha = 0.5, transB = 1>(x, w, b) }",
    ),
    "conv": (
        7,
        "(float[1,2,6,6] x, float[4,1,3,3] w) => (float[a,b,c,d] y) { y = Conv<group = 2, pads = [1,1,0,1]>(x, w) }",
    ),
    "conv-same": (
        7,
        '(float[1,2,6,6] x, float[4,2,3,3] w) => (float[a,b,c,d] y) { y = Conv<auto_pad = "SAME_UPPER", strides = [2,2]>(x, w) }',
    ),
    "conv-transpose": (
        7,
        "(float[1,2,5,5] x, float[2,4,3,3] w) => (float[a,b,c,d] y) { y = ConvTranspose<strides = [2,2]>(x, w) }",
    ),
    "pools": (
        7,
        X
        + "{ a = MaxPool<kernel_shape = [2,2]>(x) b = AveragePool<kernel_shape = [2,2], pads = [1,1,1,1]>(a) y = GlobalAveragePool(b) }",
    ),
    "average-pool": (
        7,
        X + "{ y = AveragePool<kernel_shape = [3,2], pads = [1,0,1,1], count_include_pad = 1, strides = [2,1]>(x) }",
    ),
    "max-pool-ceil": (10, X + "{ y = MaxPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 0>(x) }"),
    "lp-pool": (7, X + "{ y = LpPool<kernel_shape = [2,2], p = 2>(x) }"),
    "batch-norm": (
        7,
        X
        + "<float[3] s = {1,2,3}, float[3] v = {1,4,9}> { y = BatchNormalization<epsilon = 0.001, momentum = 0.8>(x, s, s, s, v) }",
    ),
    "batch-norm-spatial": (
        7,
        X + "<float[3] s = {1,2,3}, float[3] v = {1,4,9}> { y = BatchNormalization<spatial = 1>(x, s, s, s, v) }",
    ),
    "instance-norm": (7, X + "<float[3] s = {1,2,3}> { y = InstanceNormalization(x, s, s) }"),
    "lrn": (7, X + "{ y = LRN<size = 3>(x) }"),
    "dropout-7": (7, M + "{ y = Dropout<ratio = 0.7>(x) }"),
    "dropout-10": (10, M + "{ y, mask = Dropout(x) }"),
    "softmax-last": (7, M + "{ y = Softmax(x) }"),
    "softmax-last-of-four": (7, X + "{ y = Softmax<axis = 3>(x) }"),
    "softmax-negative": (11, X + "{ y = LogSoftmax<axis = -1>(x) }"),
    "hardmax": (7, M + "{ y = Hardmax<axis = 1>(x) }"),
    "reduce-axes": (
        7,
        X
        + "{ a = ReduceMean<axes = [2, 3]>(x) b = ReduceMax<axes = [1], keepdims = 1>(a) y = ReduceSum<axes = [0]>(b) }",
    ),
    "reduce-negative": (
        11,
        X + "{ a = ReduceL2<axes = [-1]>(x) b = ReduceProd<axes = [-2]>(a) y = ReduceLogSumExp<axes = [1]>(b) }",
    ),
    "reduce-all": (7, "(float[3,6] x) => (float y) { y = ReduceSum<keepdims = 0>(x) }"),
    "reduce-drop": (
        7,
        "(float[3,4,6] x) => (float[a] y) { a = ReduceMin<axes = [1], keepdims = 0>(x) y = ReduceSumSquare<axes = [1], keepdims = 0>(a) }",
    ),
    "argmax": (7, "(float[3,6] x) => (int64[a,b] y) { y = ArgMax<axis = 1>(x) }"),
    "argmin-last": (12, "(float[3,6] x) => (int64[a,b] y) { y = ArgMin<axis = 1, select_last_index = 1>(x) }"),
    "squeeze": (7, "(float[3,1,6,1] x) => (float[a,b] y) { y = Squeeze<axes = [1, 3]>(x) }"),
    "squeeze-all": (7, "(float[3,1,6,1] x) => (float[a,b] y) { y = Squeeze(x) }"),
    "unsqueeze": (7, "(float[3,6] x) => (float[a,b,c,d] y) { y = Unsqueeze<axes = [0, 3]>(x) }"),
    "split": (7, "(float[3,6] x) => (float[3,2] y, float[3,4] z) { y, z = Split<axis = 1, split = [2, 4]>(x) }"),
    "split-even": (7, "(float[3,6] x) => (float[3,3] y, float[3,3] z) { y, z = Split<axis = 1>(x) }"),
    "split-13": (
        13,
        "(float[3,6] x) => (float[3,2] y, float[3,4] z) <int64[2] s = {2,4}> { y, z = Split<axis = 1>(x, s) }",
    ),
    "pad": (7, X + "{ y = Pad<pads = [0,0,1,2,0,0,0,1]>(x) }"),
    "pad-value": (7, X + "{ y = Pad<pads = [0,0,1,2,0,0,0,1], value = 1.5>(x) }"),
    "pad-reflect": (7, X + '{ y = Pad<pads = [0,0,1,2,0,0,0,1], mode = "reflect">(x) }'),
    "slice": (7, M + "{ y = Slice<starts = [1, -3], ends = [3, 1000], axes = [0, 1]>(x) }"),
    "slice-no-axes": (7, M + "{ y = Slice<starts = [1], ends = [2]>(x) }"),
    "topk": (7, "(float[3,6] x) => (float[a,b] y, int64[a,b] i) { y, i = TopK<k = 2, axis = 1>(x) }"),
    "shapes": (
        7,
        "(float[3,6] x) => (float[a,b,c] y) <int64[3] s = {3,2,3}> { a = Reshape(x, s) b = Transpose<perm = [1,0,2]>(a) y = Tile(b, s) }",
    ),
    "concat": (7, M + "{ a = Concat<axis = 1>(x, x) b = Flatten(a) c = Identity(b) y = Cast<to = 1>(c) }"),
    "shape-of": (7, "(float[3,6] x) => (int64[a] y) { y = Shape(x) }"),
    "gather": (7, M + "<int64[2] i = {2,0}> { y = Gather<axis = 1>(x, i) }"),
    "constant": (
        9,
        M
        + "{ c = Constant<value = float[2] {1.0, 2.0}>() k = Constant<value = float {3.0}>() y = Mul(x, k) z = Add(c, c) }",
    ),
    "expand": (8, "(float[3,1] x) => (float[a,b] y) <int64[2] s = {3,4}> { y = Expand(x, s) }"),
    "where": (9, M + "<float z = {0}> { c = Greater(x, z) n = Not(c) m = And(c, c) o = Or(m, n) y = Where(o, x, z) }"),
    "one-hot": (11, "(int64[3] i) => (float[a,b] y) <int64 d = {5}, float[2] v = {0, 1}> { y = OneHot(i, d, v) }"),
    "scatter": (11, M + "<int64[1,2] i = {1,0}, float[1,2] u = {5,6}> { y = ScatterElements<axis = 1>(x, i, u) }"),
    "nd": (12, M + "<int64[2,1] i = {2,0}> { g = GatherND(x, i) y = ScatterND(x, i, g) }"),
    "depth-to-space": (7, "(float[1,8,2,2] x) => (float[a,b,c,d] y) { y = DepthToSpace<blocksize = 2>(x) }"),
    "cumsum": (11, M + "<int64 i = {1}> { y = CumSum(x, i) }"),
    "rounding": (11, M + "{ a = Round(x) b = Mod<fmod = 1>(x, a) c = IsNaN(b) f = Cast<to = 1>(c) y = Add(a, f) }"),
    "quantize": (
        10,
        M + "<float s = {0.1}, uint8 z = {128}> { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    ),
    "quantize-axis": (
        13,
        M
        + "<float[6] s = {0.1,0.2,0.3,0.4,0.5,0.6}, int8[6] z = {0,1,2,3,4,5}> { q = QuantizeLinear<axis = 1>(x, s, z) y = DequantizeLinear<axis = 1>(q, s, z) }",
    ),
    "resize-11": (11, X + '<float[0] r = {}, float[4] s = {1,1,2,2}> { y = Resize<mode = "linear">(x, r, s) }'),
    "layer-norm": (17, M + "<float[6] s = {1,2,3,4,5,6}> { y = LayerNormalization(x, s) }"),
    "if": (
        11,
        M
        + "<bool c = {1}> { y = If(c) <then_branch = t () => (float[3,6] p) { s = Unsqueeze<axes = [0]>(x) p = Squeeze<axes = [0]>(s) }, else_branch = e () => (float[3,6] q) { q = Neg(x) }> }",
    ),
    "loop": (
        11,
        "(float[3] x) => (float[3] y) <int64 n = {3}, bool c = {1}> { y = Loop(n, c, x) <body = b (int64 i, bool k, float[3] v) => (bool k2, float[3] w) { k2 = Identity(k) u = Unsqueeze<axes = [0]>(v) w = ReduceSum<axes = [0], keepdims = 0>(u) }> }",
    ),
    "vendor": (13, M + "{ y = com.microsoft.Gelu(x) }"),
}
CASES = [
    pytest.param(name, to, id=f"{name}-{to}")
    for name, (opset, _) in GRAPHS.items()
    for to in LEVELS
    if to > opset and not (name.startswith("resize") and to > 17) and not (name == "one-hot" and to == 11)
]


@pytest.mark.parametrize(("name", "to"), CASES)
def test_same_numbers_at_a_higher_opset(name: str, to: int) -> None:
    opset, graph = GRAPHS[name]
    made = model(opset, graph)
    before = ir.to_proto(made).SerializeToString()
    raised(made, to)
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version >= opsets.ir_version_for(to)
    feeds = list(inputs(model(opset, graph)))
    for values in feeds if name not in ("topk", "softplus") else feeds[:1]:
        same_numbers(before, proto.SerializeToString(), values, exact=name != "average-pool")


@pytest.mark.parametrize(
    ("opset", "to", "graph", "reason"),
    [
        (11, 13, X + "{ y = Softmax<axis = 1>(x) }", "no longer flattens from axis 1"),
        (11, 13, "(float x) => (float y) { y = Softmax(x) }", "no longer flattens"),
        (12, 13, "(float[n,m,k] x) => (float[a,b,c] y) { y = Hardmax(x) }", "no longer flattens"),
        (6, 13, M + "{ y = Add(x, x) }", "older than 7"),
        (9, 11, X + "<float[4] s = {1,1,2,2}> { y = Upsample(x, s) }", "removed it"),
        (10, 11, X + "<float[4] s = {1,1,2,2}> { y = Resize(x, s) }", "maps coordinates"),
        (13, 18, X + "<float[4] s = {1,1,2,2}> { y = Resize(x, , s) }", "rounds sizes"),
        (18, 21, X + "<float[3] s = {1,2,3}> { y = GroupNormalization<num_groups = 3>(x, s, s) }", "scales channels"),
        (11, 19, X + "{ y = AveragePool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(x) }", "divides windows"),
        (12, 22, X + "{ y = MaxPool<kernel_shape = [3,3], strides = [2,2], ceil_mode = 1>(x) }", "drops windows"),
        (
            9,
            11,
            "(int64[3] i) => (float[a,b] y) <int64 d = {5}, float[2] v = {0, 1}> { y = OneHot(i, d, v) }",
            "negative",
        ),
        (7, 9, X + "<float[3] s = {1,2,3}> { y = BatchNormalization<spatial = 0>(x, s, s, s, s) }", "per element"),
        (10, 12, "(float[3,6] x) => (float[3,6] y, bool[3,6] m) { y, m = Dropout(x) }", "changed the mask"),
        (
            7,
            11,
            '(float[1,2,5,5] x, float[2,4,3,3] w) => (float[a,b,c,d] y) { y = ConvTranspose<auto_pad = "SAME_UPPER", strides = [2,2]>(x, w) }',
            "SAME",
        ),
        (
            8,
            9,
            "(float[1,3] x) => (float[1,3] y) { y = Scan<body = b (float a) => (float c) { c = Neg(a) }, num_scan_inputs = 1>( , x) }",
            "Scan",
        ),
        (13, 20, "(float[3,6] x) => (float[a,b] y) { y = some.where.Thing(x) }", "may be a function"),
        (13, 2000, M + "{ y = Neg(x) }", "does not know opset"),
        (
            11,
            13,
            "(float[2,1,4,4] x, int64[2,4] m) => (float[a,b,c,d] y) <float one = {1}> { u = Unsqueeze<axes = [1]>(m) v = Unsqueeze<axes = [2]>(u) f = Cast<to = 1>(v) n = Sub(one, f) s = Add(x, n) y = Softmax<axis = 3>(s) }",
            "fusing attention",
        ),
        (20, 23, "() => (float[2] y) { y = RandomUniform<shape = [2]>() }", "has no kernel at opset 23"),
        (10, 12, "(float16[3,6] x) => (float16[3,6] y) { y = Dropout(x) }", "has no kernel at opset 12"),
    ],
)
def test_blocked_with_a_reason(opset: int, to: int, graph: str, reason: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "some.where": 1]> main {graph}')
    made = ir.from_proto(proto)
    assert reason in opsets.blocker(made.graph, to, TARGET)
    assert made.graph.opset_imports[""] == opset


def test_ranks_are_found_behind_computed_shapes() -> None:
    graph = (
        "(float[n,6] x, int64[4] s) => (float[a,b,c,d] y) { r = Reshape(x, s) t = Transpose<perm = [0,2,1,3]>(r) "
        "p = MatMul(t, r) q = Add(p, r) y = Softmax<axis = 3>(q) }"
    )
    made = model(11, graph)
    for node in made.graph:
        node.outputs[0].shape = None
    assert opsets.blocker(made.graph, 13) == ""


def test_nothing_to_raise() -> None:
    assert opsets.blocker(model(17, M + "{ y = Neg(x) }").graph, 17) == ""
    assert opsets.blocker(model(17, M + "{ y = Neg(x) }").graph, 13) == ""


def test_runtime_limits_block() -> None:
    graph = model(13, M + "{ y = Neg(x) }").graph
    assert "opset 14 at most" in opsets.blocker(graph, 15, _limited(opset=14))
    assert "IR version 8 at most" in opsets.blocker(graph, 20, _limited(opset=30, ir_version=8))


def _limited(opset: int, ir_version: int = 10):
    from dataclasses import replace

    return replace(TARGET, opsets=(("", opset),), ir_version=ir_version)


def test_blocking_in_a_subgraph() -> None:
    graph = "(float[2,3,4] x) => (float[2,3,4] y) <bool c = {1}> { y = If(c) <then_branch = t () => (float[2,3,4] p) { p = Softmax(x) }, else_branch = e () => (float[2,3,4] q) { q = Neg(x) }> }"
    assert "Softmax" in opsets.blocker(model(11, graph).graph, 13)


def test_a_removed_blocker_blocks_no_more() -> None:
    made = model(11, "(float[2,3,4] x) => (float[2,3,4] y) { s = Softmax(x) y = Neg(x) }")
    assert opsets.blocker(made.graph, 13)
    assert opsets.blocker(made.graph, 13)
    made.graph.remove(made.graph[0], safe=True)
    assert opsets.blocker(made.graph, 13) == ""


def test_constants_are_shared_and_names_are_fresh() -> None:
    graph = "(float[2,3] axes) => (float[a,b] y) { u = Unsqueeze<axes = [0]>(axes) v = Squeeze<axes = [0]>(u) w = Unsqueeze<axes = [0]>(v) y = Squeeze<axes = [0]>(w) }"
    made = raised(model(11, graph), 13)
    assert len(made.graph.initializers) == 1
    assert "axes" not in made.graph.initializers
    check_structure(made)


@rule(exact=False, opset=20)
def _to_gelu(op: Ops, x: Var) -> Law:
    """Neg(Softmax) == Gelu     nonsense that needs opset 20"""
    return op.Neg(op.Softmax(x, axis=...)), op.Gelu(x)


def test_the_driver_raises_opset_and_ir_version_and_says_so() -> None:
    made = model(
        11,
        "(float[2,3] x) => (float[a,b] y) { u = Unsqueeze<axes = [0]>(x) v = Squeeze<axes = [0]>(u) s = Softmax(v) y = Neg(s) }",
        6,
    )
    ctx = context(target=TARGET)
    assert Driver([_to_gelu]).run(made, ctx) == 1
    check_structure(made)
    assert (made.graph.opset_imports[""], made.ir_version) == (20, 9)
    assert any("opset raised from 11 to 20" in note for note in ctx.notes)
    onnx.checker.check_model(ir.to_proto(made), full_check=True)


def test_the_driver_leaves_a_blocked_model_alone() -> None:
    made = model(11, "(float[2,3,4] x) => (float[a,b,c] y) { r = Softmax<axis = 0>(x) s = Softmax(r) y = Neg(s) }", 6)
    assert Driver([_to_gelu]).run(made, context(target=TARGET)) == 0
    assert (made.graph.opset_imports[""], made.ir_version) == (11, 6)


def test_blocker_cost_is_linear() -> None:
    """A second question about a blocked model looks at the blocking node only."""
    made = model(11, "(float[2,3,4] x) => (float[a,b,c] y) { r = Softmax<axis = 0>(x) y = Neg(r) }")
    assert opsets.blocker(made.graph, 13)
    seen: list[onnx_ir.Node] = []
    original = opsets._node_blocker
    try:
        opsets._node_blocker = lambda node, *rest: seen.append(node) or original(node, *rest)  # type: ignore[func-returns-value]
        assert opsets.blocker(made.graph, 13)
    finally:
        opsets._node_blocker = original
    assert len(seen) == 1


def test_axes_become_numpy_int64() -> None:
    made = raised(model(11, "(float[1,3] x) => (float[3] y) { y = Squeeze<axes = [0]>(x) }"), 13)
    (value,) = made.graph.initializers.values()
    np.testing.assert_array_equal(ir.const(value), np.array([0], np.int64))
