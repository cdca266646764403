"""Transposes."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import pytest

from accelc.passes import transpose as p
from accelc.testing import check, unchanged

CUBE = "(float[2,3,4] x) => (float[2,3,4] y) "


def test_transpose_still() -> None:
    check(p.transpose_still, CUBE + "{ a = Transpose<perm=[0,1,2]>(x) y = Relu(a) }", CUBE + "{ y = Relu(x) }")
    check(p.transpose_still, "(float[3] x) => (float[3] y) { a = Transpose(x) y = Relu(a) }",
          "(float[3] x) => (float[3] y) { y = Relu(x) }")  # fmt: skip
    unchanged(p.transpose_still, "(float[3,3] x) => (float[3,3] y) { y = Transpose(x) }", reason="moves axes")


def test_transpose_of_transpose() -> None:
    before = CUBE + "{ a = Transpose<perm=[2,0,1]>(x) b = Transpose<perm=[1,2,0]>(a) y = Relu(b) }"
    check(p.transpose_of_transpose, before, CUBE + "{ y = Relu(x) }")
    head = "(float[2,3,4] x) => (float[3,4,2] y) "
    before = head + "{ a = Transpose<perm=[2,0,1]>(x) y = Transpose<perm=[2,0,1]>(a) }"
    check(p.transpose_of_transpose, before, head + "{ y = Transpose<perm=[1,2,0]>(x) }")
    head = "(float[2,3] x) => (float[2,3] y, float[3,2] a) "
    check(p.transpose_of_transpose, head + "{ a = Transpose(x) b = Transpose(a) y = Relu(b) }",
          head + "{ a = Transpose(x) y = Relu(x) }")  # fmt: skip
    unchanged(p.transpose_of_transpose, CUBE + "{ a = Relu(x) b = Transpose(a) y = Relu(x) }", reason="Relu")


def test_transpose_of_ones() -> None:
    head = "(float[2,1,4,3] x) => (float[2,4,3,1] y) "
    after = head + "<int64[4] s = {2,4,3,1}> { y = Reshape(x, s) }"
    check(p.transpose_of_ones, head + "{ y = Transpose<perm=[0,2,3,1]>(x) }", after)
    head = "(float[N,1,M] x) => (float[N,M,1] y) "
    unchanged(p.transpose_of_ones, head + "{ y = Transpose<perm=[0,2,1]>(x) }", reason="not known well enough")
    head = "(float[N,1,4] x) => (float[N,4,1] y) "
    after = head + "<int64[3] s = {-1,4,1}> { y = Reshape(x, s) }"
    check(p.transpose_of_ones, head + "{ y = Transpose<perm=[0,2,1]>(x) }", after)
    unchanged(p.transpose_of_ones, "(float[2,1,3] x) => (float[3,1,2] y) { y = Transpose(x) }", reason="longer than 1")
    empty = "(float[0,1,4] x) => (float[0,4,1] y) { y = Transpose<perm=[0,2,1]>(x) }"
    unchanged(p.transpose_of_ones, empty, reason="not known well enough")


@pytest.mark.parametrize("body", ["Relu(a)", "Clip(a, l)", "Cast<to=11>(a)", "Mul(l, a)", "LeakyRelu<alpha=0.3>(a)"])
def test_transpose_around_pointwise(body: str) -> None:
    head = f"(float[2,3,4] x) => ({'double' if 'Cast' in body else 'float'}[2,3,4] y) "
    head += "<float l = {0.5}> " if "l" in body.partition("(")[2] else ""
    before = head + f"{{ a = Transpose<perm=[0,2,1]>(x) b = {body} y = Transpose<perm=[0,2,1]>(b) }}"
    check(p.transpose_around_pointwise, before, head + f"{{ y = {body.replace('a)', 'x)').replace('(a', '(x')} }}")


def test_transpose_around_several() -> None:
    head = "(float[2,3,4] x) => (float[4,2,3] y) <float[1] c = {2}>"
    before = head + "{ a = Transpose<perm=[0,2,1]>(x) b = Relu(a) d = Add(b, c) y = Transpose<perm=[1,0,2]>(d) }"
    check(p.transpose_around_pointwise, before, head + "{ b = Relu(x) d = Add(b, c) y = Transpose<perm=[2,0,1]>(d) }")


def test_transpose_around_what_cannot_move() -> None:
    fits = "(float[2,3,4] x) => (float[2,3,4] y) <float[3] c = {1,2,3}>"
    graph = "{{ a = Transpose<perm=[0,2,1]>(x) b = {} y = Transpose<perm=[0,2,1]>(b) }}"
    unchanged(p.transpose_around_pointwise, fits + graph.format("Mul(a, c)"), reason="no other Transpose")
    unchanged(p.transpose_around_pointwise, CUBE + graph.format("Softmax(a)"), reason="no other Transpose")
    unchanged(p.transpose_around_pointwise, CUBE + graph.format("Log(a)"), reason="no other Transpose")
    used = "(float[2,2] x) => (float[2,2] y, float[2,2] b) { a = Transpose(x) b = Relu(a) y = Transpose(b) }"
    unchanged(p.transpose_around_pointwise, used, reason="no other Transpose")
    unchanged(p.transpose_around_pointwise, CUBE + "{ a = Relu(x) y = Transpose<perm=[0,1,2]>(a) }")


def test_transposes_below() -> None:
    head = "(float[2,3] x, float[2,3] z) => (float[3,2] y) "
    check(p.transposes_below, head + "{ a = Transpose(x) b = Transpose<perm=[1,0]>(z) y = Sub(a, b) }",
          head + "{ a = Sub(x, z) y = Transpose<perm=[1,0]>(a) }")  # fmt: skip
    unchanged(p.transposes_below, head + "{ a = Transpose(x) b = Relu(z) c = Transpose(b) y = Pow(a, c) }")
    square = "(float[3,3] x, float[3,3] z) => (float[3,3] y) "
    unchanged(p.transposes_below, square + "{ a = Transpose(x) y = Add(a, z) }", reason="not every input")
    unchanged(p.transposes_below, square + "{ a = Transpose(x) y = Add(a, a) }", reason="one Transpose")
    outer = "(float[1,3] x, float[2,1] z) => (float[3,2] y) { a = Transpose(x) b = Transpose(z) y = Add(a, b) }"
    unchanged(p.transposes_below, outer, reason="larger")
    cubes = "(float[2,2,2] x, float[2,2,2] z) => (float[2,2,2] y) "
    other = cubes + "{ a = Transpose<perm=[1,0,2]>(x) b = Transpose<perm=[0,2,1]>(z) y = Add(a, b) }"
    unchanged(p.transposes_below, other, reason="differently")
    shown = "(float[2,2] x, float[2,2] z) => (float[2,2] y, float[2,2] a) { a = Transpose(x) b = Transpose(z) y = Add(a, b) }"
    unchanged(p.transposes_below, shown, reason="used elsewhere")


def test_concat_of_transposes() -> None:
    head = "(float[2,3,4] x, float[2,5,4] z) => (float[2,4,8] y) "
    before = head + "{ a = Transpose<perm=[0,2,1]>(x) b = Transpose<perm=[0,2,1]>(z) y = Concat<axis=-1>(a, b) }"
    after = head + "{ a = Concat<axis=1>(x, z) y = Transpose<perm=[0,2,1]>(a) }"
    check(p.concat_of_transposes, before, after)
    mixed = "(float[2,2] x, float[2,2] z) => (float[4,2] y) { a = Transpose(x) y = Concat<axis=0>(a, z) }"
    unchanged(p.concat_of_transposes, mixed, reason="not every input")


def test_reduce_of_transpose() -> None:
    head = "(int32[2,3,4] x) => (int32[2,1,4] y) "
    before = head + "<int64[1] e = {-1}> { a = Transpose<perm=[0,2,1]>(x) y = ReduceSum<keepdims=0>(a, e) }"
    before = before.replace("[2,1,4] y", "[2,4] y")
    after = "(int32[2,3,4] x) => (int32[2,4] y) <int64[1] e = {1}> { y = ReduceSum<keepdims=0>(x, e) }"
    check(p.reduce_of_transpose, before, after)
    head = "(int32[2,3,4] x) => (int32[4,1,3] y) "
    before = head + "<int64[1] e = {1}> { a = Transpose<perm=[2,0,1]>(x) y = ReduceMax(a, e) }"
    after = head + "<int64[1] e = {0}> { a = ReduceMax(x, e) y = Transpose<perm=[2,0,1]>(a) }"
    check(p.reduce_of_transpose, before, after)
    old = '<ir_version: 8, opset_import: ["": 11]> g '
    before = old + head + "{ a = Transpose<perm=[2,0,1]>(x) y = ReduceSum<axes=[1]>(a) }"
    check(p.reduce_of_transpose, before, old + head + "{ a = ReduceSum<axes=[0]>(x) y = Transpose<perm=[2,0,1]>(a) }")
    floats = "(float[2,3] x) => (float[3,1] y) <int64[1] e = {1}> { a = Transpose(x) y = ReduceSum(a, e) }"
    unchanged(p.reduce_of_transpose, floats, reason="FLOAT")
    every = "(int32[2,3] x) => (int32[1,1] y) { a = Transpose(x) y = ReduceSum(a) }"
    unchanged(p.reduce_of_transpose, every, reason="everything")
    empty = "(int32[0,3] x) => (int32[3,1] y) <int64[1] e = {1}> { a = Transpose(x) y = ReduceSum(a, e) }"
    unchanged(p.reduce_of_transpose, empty, reason="without elements")
