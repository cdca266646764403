"""Transposes through regions."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import numpy as np
import pytest

from accelc.passes.layout import Layout
from accelc.testing import check, context, unchanged

TO_FIRST, TO_LAST = "Transpose<perm=[0,3,1,2]>", "Transpose<perm=[0,2,3,1]>"


def weights(*shape: int) -> str:
    """A weight of a shape as text, with elements of either sign."""
    array = np.sin(np.arange(np.prod(shape)) * 1.7)
    return f"float[{','.join(map(str, shape))}] {{}} = {{{{" + ",".join(f"{each:.3f}" for each in array) + "}}"


W = weights(4, 4, 3, 3)


def island(body: str, shape: str = "1,9,8,4", out: str = "1,9,8,4", consts: str = "", dtype: str = "float") -> str:
    """A graph as tf2onnx writes it: a convolution with Transposes around it, a body in NHWC, another convolution."""
    named = ", ".join([W.format("w"), W.format("v"), *([consts] if consts else [])])
    return (
        f"(float[{shape}] x) => ({dtype}[{out}] y) <{named}> {{ a = {TO_FIRST}(x) b = Conv<pads=[1,1,1,1]>(a, w) "
        f"t = {TO_LAST}(b) {body} u = {TO_FIRST}(q) d = Conv<pads=[1,1,1,1]>(u, v) y = {TO_LAST}(d) }}"
    )


ENDS = ["Transpose", "Conv", "Conv", "Transpose"]
BODIES = {
    "bias and clip": ("c = Add(t, k) q = Clip(c, lo, hi)", "float[4] k = {1,2,3,4}, float lo = {0}, float hi = {6}", ["Add", "Clip"]),
    "scale of rank 4": ("q = Mul(t, k)", "float[1,1,1,4] k = {1,2,3,4}", ["Mul"]),
    "scale of rank 2": ("q = Mul(k, t)", "float[8,4] k = {" + ",".join("1234567890" * 3 + "12") + "}", None),
    "pad": ("q = Pad(t, p)", "int64[8] p = {0,1,2,0,0,1,0,0}", ["Pad"]),
    "pad with axes": ("q = Pad(t, p, , e)", "int64[4] p = {1,2,1,0}, int64[2] e = {1,-2}", ["Pad"]),
    "slice": ("q = Slice(t, s, e, k)", "int64[2] s = {1,1}, int64[2] e = {8,7}, int64[2] k = {1,2}", ["Slice"]),
    "slice without axes": ("q = Slice(t, s, e)", "int64[3] s = {0,1,1}, int64[3] e = {1,8,7}", ["Slice"]),
    "split and concat": ("m, n = Split<axis=3, num_outputs=2>(t) r = Neg(n) q = Concat<axis=-1>(m, r)", "", ["Split", "Neg", "Concat"]),
    "concat with a constant": ("m, n = Split<axis=1,num_outputs=2>(t) q = Concat<axis=2>(m, k)", "float[1,5,1,4] k = {" + ",".join("12345678901234567890") + "}", ["Split", "Concat"]),
    "squeeze and excite": ("m = ReduceMean(t, e) s = Sigmoid(m) q = Mul(t, s)", "int64[2] e = {1,2}", ["ReduceMean", "Sigmoid", "Mul"]),
    "softmax": ("q = Softmax<axis=2>(t)", "", ["Softmax"]),
    "prelu": ("q = PRelu(t, k)", "float[1,1,4] k = {1,2,3,4}", ["PRelu"]),
    "where": ("c = Greater(t, k) q = Where(c, t, k)", "float k = {0}", ["Greater", "Where"]),
    "quantized": ("m = QuantizeLinear<axis=3>(t, k, z) q = DequantizeLinear<axis=-1>(m, k, z)", "float[4] k = {0.1,0.2,0.3,0.4}, uint8[4] z = {128,127,126,125}", ["QuantizeLinear", "DequantizeLinear"]),
    "squeeze": ("m = Squeeze(t, e) r = Relu(m) q = Unsqueeze(r, e)", "int64[1] e = {0}", ["Squeeze", "Relu", "Unsqueeze"]),
    "pick": ("q = Gather<axis=3>(t, i)", "int64[4] i = {3,1,0,0}", ["Gather"]),
    "merge and split": ("m = Reshape(t, s) r = Relu(m) q = Reshape(r, k)", "int64[3] s = {1,72,4}, int64[4] k = {0,9,8,4}", ["Reshape", "Relu", "Reshape"]),
    "reduce and put back": ("m = ReduceMax<keepdims=0>(t, e) r = Unsqueeze(m, e) q = Sub(t, r)", "int64[1] e = {3}", ["ReduceMax", "Unsqueeze", "Sub"]),
    "arg": ("m = ArgMax<axis=3>(t) r = Cast<to=1>(m) q = Add(t, r)", "", ["ArgMax", "Cast", "Add"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_islands(name: str) -> None:
    body, consts, left = BODIES[name]
    if left is None:  # the weight has two axes to move, and is used by no other
        left = ["Mul"]
    out = {"pad": "1,11,10,4", "pad with axes": "1,11,10,4", "slice": "1,7,6,4", "slice without axes": "1,7,6,4"}
    out |= {"concat with a constant": "1,5,9,4"}
    check(Layout(), island(body, out=out.get(name, "1,9,8,4"), consts=consts), [*ENDS, *left])


def test_a_residual_in_the_other_order_goes_along() -> None:
    graph = island("c = Add(t, k) r = Relu(c) q = Add(r, x)", consts="float[4] k = {1,2,3,4}")
    check(Layout(), graph, [*ENDS, "Add", "Relu", "Add"])


def test_pooling_over_all_places_becomes_a_reduction() -> None:
    head = f"(float[1,4,9,8] x) => (float[1,9,8,4] y, float[1,4,1,1] z) <{weights(4).format('k')}, {weights(4).format('b')}>"
    body = f"{{ a = {TO_LAST}(x) n = LayerNormalization<axis=-1>(a, k, b) y = Relu(n) m = {TO_FIRST}(n) z = GlobalAveragePool(m) }}"
    check(Layout(), head + body, ["Transpose", "LayerNormalization", "Relu", "ReduceMean", "Transpose"])


def test_a_product_becomes_a_convolution_and_back() -> None:
    depthwise = "Conv<group=16,pads=[1,1,1,1]>"
    named = ", ".join([weights(4, 16).format("u"), weights(16, 1, 3, 3).format("w"), weights(16, 4).format("v")])
    body = (
        f"{{ a = MatMul(x, u) b = {TO_FIRST}(a) c = {depthwise}(b, w) d = {TO_LAST}(c) e = Relu(d) y = MatMul(e, v) }}"
    )
    graph = f"(float[1,30,30,4] x) => (float[1,30,30,4] y) <{named}> {body}"
    check(Layout(), graph, ["Transpose", "Conv", "Conv", "Relu", "Conv", "Transpose"], fires=2)
    named = ", ".join([weights(16, 16, 1, 1).format("u"), weights(16).format("b"), weights(16).format("k")])
    body = f"{{ a = LayerNormalization(x, k, b) c = {TO_FIRST}(a) d = Conv(c, u, b) e = {TO_LAST}(d) y = LayerNormalization(e, k, b) }}"
    graph = f"(float[1,30,30,16] x) => (float[1,30,30,16] y) <{named}> {body}"
    check(Layout(), graph, ["LayerNormalization", "MatMul", "Add", "LayerNormalization"])
    strided = graph.replace("Conv(c", "Conv<strides=[2,2]>(c").replace("[1,30,30,16] y", "[1,15,15,16] y")
    unchanged(Layout(), strided)
    shared = graph.replace("(e, k, b) }", "(e, k, b) g = Relu(u) }").replace(" y) <", " y, float[16,16,1,1] g) <")
    unchanged(Layout(), shared)


def test_sequence_first() -> None:
    named = ", ".join([weights(6, 6).format("u"), weights(6).format("k"), weights(6).format("b")])
    swap = "Transpose<perm=[1,0,2]>"
    body = f"{{ a = {swap}(x) c = MatMul(a, u) n = LayerNormalization(c, k, b) d = Add(n, a) y = {swap}(d) }}"
    after = "{ c = MatMul(x, u) n = LayerNormalization(c, k, b) y = Add(n, x) }"
    head = f"(float[3,5,6] x) => (float[3,5,6] y) <{named}> "
    check(Layout(), head + body, head + after)


def test_views_with_symbols() -> None:
    head = "(float[N,4,9,8] x) => (float[N,9,8,4] y) "
    consts = "<int64[3] s = {0,4,-1}, int64[4] k = {0,9,8,4}, float[4] b = {1,2,3,4}>"
    body = "{ a = Reshape(x, s) c = Transpose<perm=[0,2,1]>(a) d = Add(c, b) e = Reshape(d, k) y = Relu(e) }"
    unchanged(Layout(), head + consts + body)
    body = f"{{ a = Reshape(x, s) c = Transpose<perm=[0,2,1]>(a) d = Add(c, b) e = Reshape(d, k) f = {TO_FIRST}(e) y = Relu(f) }}"
    head = "(float[N,4,9,8] x) => (float[N,4,9,8] y) "
    check(Layout(), head + consts + body, ["Reshape", "Add", "Reshape", "Relu"])


def test_sizes_that_only_the_model_knows() -> None:
    head = "(float[N,H,W,4] x) => (float[N,4,H,W] y) "
    body = f"{{ s = Shape(x) a = Reshape(x, k) r = Relu(a) e = Reshape(r, s) y = {TO_FIRST}(e) }}"
    unchanged(Layout(), head + "<int64[3] k = {0,-1,4}>" + body)
    body = f"{{ s = Shape(x) a = Reshape(x, k) r = Relu(a) e = Reshape(r, s) f = {TO_FIRST}(e) g = Neg(f) y = {TO_LAST}(g) }}"
    head = "(float[N,H,W,4] x) => (float[N,H,W,4] y) "
    check(Layout(), head + "<int64[3] k = {0,-1,4}>" + body, ["Shape", "Reshape", "Relu", "Reshape", "Neg"])


def test_the_smaller_tensor_is_transposed() -> None:
    head = "(float[1,9,8,4] x) => (float[1,4,1,1] y) <int64[2] e = {2,3}> "
    body = f"{{ a = {TO_FIRST}(x) b = Exp(a) y = ReduceSum(b, e) }}"
    check(Layout(), head + body, ["Exp", "ReduceSum", "Transpose"])


def test_what_is_bound_to_its_order_stays() -> None:
    head, named = "(float[1,9,8,4] x) => (float[1,9,8,4] y) ", f"<{W.format('w')}> "
    same = f"{{ a = {TO_FIRST}(x) b = Conv<pads=[1,1,1,1]>(a, w) y = {TO_LAST}(b) }}"
    unchanged(Layout(), head + named + same)
    normal = f"{{ a = {TO_LAST}(x) b = LayerNormalization(a, k, k) y = {TO_FIRST}(b) }}"
    unchanged(Layout(), f"(float[1,9,8,4] x) => (float[1,9,8,4] y) <{weights(8).format('k')}>" + normal.replace("perm=[0,3,1,2]", "perm=[0,1,3,2]").replace("perm=[0,2,3,1]", "perm=[0,1,3,2]").replace("k, k", "g, g").replace("k =", "g ="))  # fmt: skip


def test_a_shared_weight_is_not_stored_in_both_orders() -> None:
    big = weights(1, 30, 30, 4).format("k")
    head = f"(float[1,4,30,30] x, float[1,30,30,4] z) => (float[1,4,30,30] y, float[1,30,30,4] u) <{big}> "
    body = f"{{ a = {TO_LAST}(x) b = Mul(a, k) y = {TO_FIRST}(b) u = Add(z, k) }}"
    unchanged(Layout(), head + body)
    check(Layout(), (head + body).replace("u = Add(z, k)", "u = Neg(z)"), ["Mul", "Neg"])


def test_graph_outputs_keep_their_order() -> None:
    head = "(float[1,9,8,4] x) => (float[1,9,8,4] y, float[1,4,9,8] r) "
    body = f"{{ a = {TO_FIRST}(x) r = Relu(a) y = {TO_LAST}(r) }}"
    check(Layout(), head + body, ["Relu", "Transpose"])


def test_an_old_softmax_takes_all_axes_behind() -> None:
    old = '<ir_version: 8, opset_import: ["": 11]> g '
    body = f"(float[1,9,8,4] x) => (float[1,9,8,4] y) {{ a = {TO_FIRST}(x) b = Softmax<axis=1>(a) y = {TO_LAST}(b) }}"
    unchanged(Layout(), old + body)


def test_subgraphs() -> None:
    inner = f"{{ a = {TO_FIRST}(x) b = Relu(a) r = {TO_LAST}(b) }}"
    head = "(float[1,9,8,4] x, bool c) => (float[1,9,8,4] y) "
    graph = (
        head
        + f"{{ y = If(c) <then_branch = t () => (float[1,9,8,4] r) {inner}, else_branch = e () => (float[1,9,8,4] s) {{ s = Neg(x) }}> }}"
    )
    model = check(Layout(), graph, ["If"])
    assert "Transpose" not in str(model)


def test_it_can_be_switched_off() -> None:
    unchanged(Layout(), island("q = Relu(t)"), ctx=context(disabled=("transposes_of_region",)))
