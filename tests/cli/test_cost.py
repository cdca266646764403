"""Counting operations: each family against the figure worked out by hand."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from accelc.cost import Cost, estimate


def count(text: str, opset: int = 17, **sizes: int) -> Cost:
    model = f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]> {text}'
    return estimate(onnx.parser.parse_model(model), Path(), sizes)


@pytest.mark.parametrize(
    ("graph", "flops"),
    [
        ("g (float[2,3] x, float[3,5] w) => (float[2,5] y) { y = MatMul(x, w) }", 2 * 2 * 3 * 5),
        ("g (float[7,2,3] x, float[3,5] w) => (y) { y = MatMul(x, w) }", 2 * 7 * 2 * 3 * 5),
        ("g (float[3,2] x, float[5,3] w) => (y) { y = Gemm<transA=1, transB=1>(x, w) }", 2 * 2 * 3 * 5),
        ("g (float[1,4,8,8] x, float[6,2,3,3] w) => (y) { y = Conv<group=2, pads=[1,1,1,1]>(x, w) }", 2 * 6 * 64 * 18),
        ("g (float[1,4,8,8] x, float[4,6,3,3] w) => (y) { y = ConvTranspose(x, w) }", 2 * 4 * 64 * 6 * 9),
        ("g (float[5,2,3] x, float[1,8,3] w, float[1,8,2] r) => (y) { y = LSTM<hidden_size=2>(x, w, r) }", 2 * 10 * 40),
        ("g (float[2,3] x, float[3,5] w) => (y) { y = Einsum<equation=\"ij,jk->ik\">(x, w) }", 2 * 2 * 3 * 5),
        ("g (float[2,3] x) => (y) { t = Transpose(x)  y = Relu(t) }", 6),
        ("g (float[1,2,8,8] x) => (y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }", 2 * 16 * 4),
        ("g (float[1,2,8,8] x) => (y) { y = GlobalAveragePool(x) }", 128),
        (
            "g (float[1,6,8] q, float[1,9,8] k) => (y) { y = com.microsoft.MultiHeadAttention<num_heads=2>(q, k, k) }",
            4 * 6 * 8 * 9,
        ),
    ],
)  # fmt: skip
def test_families(graph: str, flops: int) -> None:
    cost = count(graph)
    assert cost.flops == flops
    assert cost.uncounted == {}


def test_shape_arithmetic_is_carried_out() -> None:
    graph = """g (float[batch, sequence, 8] x, float[4, 4] w) => (y)
      <int64[1] heads = {2}, int64[1] zero = {0}, int64[1] one = {1}, int64[1] four = {4}> {
        s = Shape(x)  b = Gather(s, zero)  l = Gather(s, one)  t = Concat<axis=0>(b, l, heads, four)
        r = Reshape(x, t)  y = MatMul(r, w)
      }"""
    assert count(graph).assumed == {"batch": 1, "sequence": 128}
    assert count(graph).flops == 2 * 128 * 2 * 4 * 4
    assert count(graph, batch=3, sequence=5).flops == 2 * 3 * 5 * 2 * 4 * 4


def test_the_dearer_branch_counts() -> None:
    graph = """g (bool c, float[4] x) => (y) {
        y = If (c) <then_branch = t () => (a) { b = Relu(x)  a = Relu(b) }, else_branch = e () => (d) { d = Relu(x) }>
      }"""
    cost = count(graph)
    assert (cost.flops, cost.by_operator) == (8, {"Relu": 8})


def test_what_is_not_known_is_said() -> None:
    cost = count("g (float[4] x) => (y) { a = com.microsoft.Mystery(x)  y = Relu(a) }")
    assert cost.flops == 0
    assert cost.uncounted == {"com.microsoft.Mystery": 1, "Relu": 1}


def test_an_input_smaller_than_a_kernel_ends_nothing() -> None:
    graph = """g (float[1, 1, n] x, float[1, 1, 9] w) => (y) <int64[1] a = {0}, int64[1] b = {5}, int64[1] d = {2}>
      { c = Conv<dilations=[4]>(x, w)  y = Slice(c, a, b, d) }"""
    assert count(graph, n=8).flops == 0
