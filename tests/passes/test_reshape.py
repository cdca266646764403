"""Reshape, Flatten, Squeeze, Unsqueeze and Expand."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import pytest

from accelc.passes import expand as e
from accelc.passes import reshape as p
from accelc.testing import check, unchanged

F = "(float[2,3,4] x) => (float[2,3,4] y) "
N = "(float[N,3,4] x) => (float[N,3,4] y) "
OLD = '<ir_version: 8, opset_import: ["": 11]> g '


@pytest.mark.parametrize("target", ["2,3,4", "2,-1,4", "0,3,0", "0,0,-1"])
def test_reshape_to_same(target: str) -> None:
    check(
        p.reshape_to_same, F + f"<int64[3] s = {{{target}}}> {{ a = Reshape(x, s) y = Relu(a) }}", F + "{ y = Relu(x) }"
    )


def test_reshape_to_same_with_symbols() -> None:
    for target in ("0,3,4", "-1,3,4", "0,0,0"):
        check(
            p.reshape_to_same,
            N + f"<int64[3] s = {{{target}}}> {{ a = Reshape(x, s) y = Relu(a) }}",
            N + "{ y = Relu(x) }",
        )
    unchanged(p.reshape_to_same, N + "<int64[3] s = {2,3,4}> { a = Reshape(x, s) y = Relu(a) }", reason="may change")
    two = "(float[N,M] x) => (float[A,B] y) <int64[2] s = {-1,3}> { y = Reshape(x, s) }"
    unchanged(p.reshape_to_same, two, reason="may change")
    literal = N + "<int64[3] s = {0,3,4}> { a = Reshape<allowzero=1>(x, s) y = Relu(a) }"
    unchanged(p.reshape_to_same, literal, reason="may change")


def test_reshape_to_own_shape() -> None:
    for call in ("Reshape(x, s)", "Expand(x, s)", "Reshape<allowzero=1>(x, s)"):
        check(p.reshape_to_own_shape, N + f"{{ s = Shape(x) a = {call} y = Relu(a) }}", N + "{ y = Relu(x) }")
    other = "(float[3] x, float[2,3] z) => (float[2,3] y) { s = Shape(z) y = Expand(x, s) }"
    unchanged(p.reshape_to_own_shape, other, reason="two different values")


def test_expand_to_same() -> None:
    for target in ("<int64[3] s = {1,3,4}>", "<int64[1] s = {1}>", "<int64[2] s = {3,1}>"):
        check(e.expand_to_same, N + target + "{ a = Expand(x, s) y = Relu(a) }", N + "{ y = Relu(x) }")
    unchanged(e.expand_to_same, N + "<int64[3] s = {2,3,4}> { a = Expand(x, s) y = Relu(a) }", reason="widen")
    wider = "(float[3] x) => (float[1,3] y) <int64[2] s = {1,3}> { y = Expand(x, s) }"
    unchanged(e.expand_to_same, wider, reason="widen")


def test_squeeze_nothing() -> None:
    check(p.squeeze_nothing, F + "{ a = Squeeze(x) y = Relu(a) }", F + "{ y = Relu(x) }")
    unchanged(p.squeeze_nothing, N + "{ a = Squeeze(x) y = Relu(a) }", reason="may be of length 1")
    unchanged(
        p.squeeze_nothing, "(float[1] x) => (float y) <int64[1] a = {0}> { y = Squeeze(x, a) }", reason="given axes"
    )


def test_unsqueeze_nothing() -> None:
    check(p.unsqueeze_nothing, F + "<int64[0] e = {}> { a = Unsqueeze(x, e) y = Relu(a) }", F + "{ y = Relu(x) }")
    unchanged(
        p.unsqueeze_nothing, "(float[2] x) => (float[1,2] y) <int64[1] a = {0}> { y = Unsqueeze(x, a) }", reason="adds"
    )


def test_squeeze_of_unsqueeze() -> None:
    undone = N + "<int64[1] i = {-1}, int64[1] j = {3}> { a = Unsqueeze(x, i) b = Squeeze(a, j) y = Relu(b) }"
    check(p.squeeze_of_unsqueeze, undone, N + "{ y = Relu(x) }")
    before = OLD + N + "{ a = Unsqueeze<axes=[0,2]>(x) b = Squeeze<axes=[0,2]>(a) y = Relu(b) }"
    check(p.squeeze_of_unsqueeze, before, OLD + N + "{ y = Relu(x) }")
    more = "(float[2,3] x) => (float[2,1,3] y) <int64[2] i = {0,2}, int64[1] j = {0}> { a = Unsqueeze(x, i) y = Squeeze(a, j) }"
    after = "(float[2,3] x) => (float[2,1,3] y) <int64[1] i = {1}> { y = Unsqueeze(x, i) }"
    check(p.squeeze_of_unsqueeze, more, after)
    less = "(float[2,1,3] x) => (float[2,3] y) <int64[1] i = {0}, int64[2] j = {0,2}> { a = Unsqueeze(x, i) y = Squeeze(a, j) }"
    check(p.squeeze_of_unsqueeze, less, "(float[2,1,3] x) => (float[2,3] y) <int64[1] i = {1}> { y = Squeeze(x, i) }")
    apart = "(float[1,3] x) => (float[1,3] y) <int64[1] i = {0}, int64[1] j = {1}> { a = Unsqueeze(x, i) b = Squeeze(a, j) y = Relu(b) }"
    unchanged(p.squeeze_of_unsqueeze, apart, reason="undo")
    every = "(float[1,3] x) => (float[3] y) <int64[1] i = {0}> { a = Unsqueeze(x, i) y = Squeeze(a) }"
    unchanged(p.squeeze_of_unsqueeze, every, reason="not given")


def test_unsqueeze_of_squeeze() -> None:
    head = "(float[2,1,4] x) => (float[2,1,4] y) "
    before = head + "<int64[1] i = {1}, int64[1] j = {-2}> { a = Squeeze(x, i) b = Unsqueeze(a, j) y = Relu(b) }"
    check(p.unsqueeze_of_squeeze, before, head + "{ y = Relu(x) }")
    moved = "(float[2,1,4] x) => (float[1,2,4] y) <int64[1] i = {1}, int64[1] j = {0}> { a = Squeeze(x, i) y = Unsqueeze(a, j) }"
    unchanged(p.unsqueeze_of_squeeze, moved, reason="undo")


def test_joined_axes() -> None:
    before = "(float[N,M] x) => (float[1,N,1,M,1] y) <int64[1] i = {1}, int64[2] j = {0,-1}> { a = Unsqueeze(x, i) y = Unsqueeze(a, j) }"
    after = "(float[N,M] x) => (float[1,N,1,M,1] y) <int64[3] i = {0,2,4}> { y = Unsqueeze(x, i) }"
    check(p.unsqueeze_of_unsqueeze, before, after)
    before = "(float[1,N,1,1,M] x) => (float[N,M] y) <int64[2] i = {0,2}, int64[1] j = {1}> { a = Squeeze(x, i) y = Squeeze(a, j) }"
    after = "(float[1,N,1,1,M] x) => (float[N,M] y) <int64[3] i = {0,2,3}> { y = Squeeze(x, i) }"
    check(p.squeeze_of_squeeze, before, after)
    unchanged(p.squeeze_of_squeeze, "(float[1,1,3] x) => (float[3] y) <int64[1] i = {0}> { a = Squeeze(x, i) y = Squeeze(a) }",
              reason="not given")  # fmt: skip
    dynamic = (
        "(float[2] x, int64[1] j) => (float[1,2,1] y) <int64[1] i = {0}> { a = Unsqueeze(x, i) y = Unsqueeze(a, j) }"
    )
    unchanged(p.unsqueeze_of_unsqueeze, dynamic, reason="not constant")


def test_view_of_view() -> None:
    head = "(float[2,3,4] x) => (float[6,4] y) "
    before = head + "<int64[2] s = {4,6}, int64[2] t = {6,-1}> { a = Reshape(x, s) y = Reshape(a, t) }"
    check(p.view_of_view, before, head + "<int64[2] t = {6,-1}> { y = Reshape(x, t) }")
    before = head + "<int64[2] s = {6,4}, int64[2] t = {0,-1}> { a = Reshape(x, s) y = Reshape(a, t) }"
    check(p.view_of_view, before, head + "<int64[2] t = {6,-1}> { y = Reshape(x, t) }")
    head = "(float[N,3,4] x) => (float[N,12] y) "
    before = head + "<int64[4] s = {0,3,2,2}> { a = Reshape(x, s) y = Flatten(a) }"
    check(p.view_of_view, before, head + "<int64[2] t = {-1,12}> { y = Reshape(x, t) }")
    head = "(float[2,3,4] x) => (float[1,24] y) "
    before = head + "<int64[1] i = {0}> { a = Flatten<axis=0>(x) b = Squeeze(a, i) y = Unsqueeze(b, i) }"
    check(p.view_of_view, before, head + "<int64[2] t = {1,24}> { y = Reshape(x, t) }", fires=2)


def test_view_of_view_that_cannot_be_joined() -> None:
    dynamic = (
        "(float[N,4] x, int64[2] s) => (float[A,B] y) <int64[2] t = {0,-1}> { a = Reshape(x, s) y = Reshape(a, t) }"
    )
    unchanged(p.view_of_view, dynamic, reason="not known")
    dynamic = (
        "(float[N,4] x, int64[2] t) => (float[A,B] y) <int64[2] s = {2,-1}> { a = Reshape(x, s) y = Reshape(a, t) }"
    )
    unchanged(p.view_of_view, dynamic, reason="not constant")
    several = "(float[N,M,K] x) => (float[A,B] y) <int64[3] s = {0,0,-1}> { a = Reshape(x, s) y = Flatten(a) }"
    unchanged(p.view_of_view, several, reason="not known")


def test_view_around_unary() -> None:
    before = (
        F + "<int64[2] s = {6,4}, int64[3] t = {2,3,4}> { a = Reshape(x, s) b = Exp(a) c = Relu(b) y = Reshape(c, t) }"
    )
    check(p.view_around_unary, before, F + "{ a = Exp(x) y = Relu(a) }")
    head = "(float[N,3,4] x) => (float[N,12] y) "
    before = head + "<int64[4] s = {0,3,2,2}> { a = Reshape(x, s) b = Sigmoid(a) y = Flatten(b) }"
    check(p.view_around_unary, before, head + "<int64[2] s = {-1,12}> { a = Sigmoid(x) y = Reshape(a, s) }")
    softmax = F + "<int64[2] s = {6,4}, int64[3] t = {2,3,4}> { a = Reshape(x, s) b = Softmax(a) y = Reshape(b, t) }"
    unchanged(p.view_around_unary, softmax, reason="no other change")
    used = "(float[2,2] x) => (float[4] y, float[1,4] b) { a = Flatten<axis=0>(x) b = Exp(a) y = Squeeze(b) }"
    unchanged(p.view_around_unary, used, reason="no other change")


def test_squeeze_of_reduce() -> None:
    head = "(float[2,3,4] x) => (float[2,4] y) "
    before = head + "<int64[1] i = {-2}, int64[1] j = {1}> { a = ReduceMean(x, i) y = Squeeze(a, j) }"
    check(p.squeeze_of_reduce, before, head + "<int64[1] i = {-2}> { y = ReduceMean<keepdims=0>(x, i) }")
    before = OLD + head + "{ a = ReduceL2<axes=[1]>(x) y = Squeeze<axes=[1]>(a) }"
    check(p.squeeze_of_reduce, before, OLD + head + "{ y = ReduceL2<axes=[1], keepdims=0>(x) }")
    head = "(float[2,3,4] x) => (int64[2,4] y) "
    before = head + "<int64[1] i = {1}> { a = ArgMax<axis=1>(x) y = Squeeze(a, i) }"
    check(p.squeeze_of_reduce, before, head + "{ y = ArgMax<axis=1, keepdims=0>(x) }")
    other = "(float[2,1,4] x) => (float[1,4] y) <int64[1] i = {0}, int64[1] j = {1}> { a = ReduceSum(x, i) y = Squeeze(a, j) }"
    unchanged(p.squeeze_of_reduce, other, reason="different axes")
    dropped = (
        "(float[2,1,4] x) => (float[4] y) <int64[1] i = {0}> { a = ReduceSum<keepdims=0>(x, i) y = Squeeze(a, i) }"
    )
    unchanged(p.squeeze_of_reduce, dropped, reason="dropped already")


def test_unsqueeze_of_reduce() -> None:
    head = "(float[2,3,4] x) => (float[2,1,4] y) "
    before = head + "<int64[1] i = {1}> { a = ReduceMax<keepdims=0>(x, i) y = Unsqueeze(a, i) }"
    check(p.unsqueeze_of_reduce, before, head + "<int64[1] i = {1}> { y = ReduceMax(x, i) }")
    kept = "(float[2,3] x) => (float[2,1,1] y) <int64[1] i = {1}> { a = ReduceMax(x, i) y = Unsqueeze(a, i) }"
    unchanged(p.unsqueeze_of_reduce, kept, reason="kept already")


def test_squeeze_of_gather() -> None:
    head = "(float[2,3,4] x) => (float[2,4] y) "
    before = head + "<int64[1] i = {2}, int64[1] j = {1}> { a = Gather<axis=-2>(x, i) y = Squeeze(a, j) }"
    check(p.squeeze_of_gather, before, head + "<int64 i = {2}> { y = Gather<axis=-2>(x, i) }")
    other = (
        "(float[2,1,4] x) => (float[1,4] y) <int64[1] i = {0}, int64[1] j = {1}> { a = Gather(x, i) y = Squeeze(a, j) }"
    )
    unchanged(p.squeeze_of_gather, other, reason="another axis")
    two = "(float[1,3] x) => (float[2] y) <int64[2] i = {0,1}, int64[1] j = {0}> { a = Gather<axis=1>(x, i) y = Squeeze(a, j) }"
    unchanged(p.squeeze_of_gather, two, reason="one slice")


def test_expand_of_expand() -> None:
    head = "(float[3,1] x) => (float[5,3,4] y) "
    before = head + "<int64[2] s = {1,4}, int64[3] t = {5,3,1}> { a = Expand(x, s) y = Expand(a, t) }"
    check(e.expand_of_expand, before, head + "<int64[3] t = {5,3,4}> { y = Expand(x, t) }")
    dynamic = (
        "(float[3,1] x, int64[3] t) => (float[A,B,C] y) <int64[2] s = {1,4}> { a = Expand(x, s) y = Expand(a, t) }"
    )
    unchanged(e.expand_of_expand, dynamic, reason="not constant")


@pytest.mark.parametrize("call", ["Add", "Mul", "Div", "Sub"])
def test_expand_before_broadcast(call: str) -> None:
    head = "(float[3,1] x, float[2,3,4] z) => (float[2,3,4] y) "
    before = head + f"<int64[3] s = {{1,3,4}}> {{ a = Expand(x, s) y = {call}(z, a) }}"
    check(e.expand_before_broadcast, before, head + f"{{ y = {call}(z, x) }}")
    head = "(float[N,1] x, float[N,M] z) => (float[N,M] y) "
    check(
        e.expand_before_broadcast,
        head + f"{{ s = Shape(z) a = Expand(x, s) y = {call}(a, z) }}",
        head + f"{{ y = {call}(x, z) }}",
    )


def test_expand_that_widens() -> None:
    head = "(float[3,1] x, float[3,1] z) => (float[2,3,4] y) "
    wide = head + "<int64[3] s = {2,3,4}> { a = Expand(x, s) y = Add(a, z) }"
    unchanged(e.expand_before_broadcast, wide, reason="bring about")
    dynamic = "(float[3,1] x, float[3,N] z, int64[2] s) => (float[3,N] y) { a = Expand(x, s) y = Add(a, z) }"
    unchanged(e.expand_before_broadcast, dynamic, reason="bring about")
    power = "(float[3,1] x, float[3,4] z) => (float[3,4] y) <int64[2] s = {3,4}> { a = Expand(x, s) y = Pow(z, a) }"
    unchanged(e.expand_before_broadcast, power)


def test_a_view_with_ones_by_symbols() -> None:
    check(
        p.ones_of_view,
        """<ir_version: 8, opset_import: ["": 17]> g (float[b,n] x, float[b,1,1,n] like) => (float[b,1,1,n] y)
        <int64[1] all = {-1}> { f = Reshape(x, all)  s = Shape(like)  y = Reshape(f, s) }""",
        """<ir_version: 8, opset_import: ["": 17]> g (float[b,n] x, float[b,1,1,n] like) => (float[b,1,1,n] y)
        <int64[2] axes = {1, 2}> { y = Unsqueeze(x, axes) }""",
    )


def test_a_view_that_reorders_dimensions_is_no_unsqueeze() -> None:
    unchanged(
        p.ones_of_view,
        """<ir_version: 8, opset_import: ["": 17]> g (float[b,n] x, float[n,1,1,b] like) => (float[n,1,1,b] y)
        <int64[1] all = {-1}> { f = Reshape(x, all)  s = Shape(like)  y = Reshape(f, s) }""",
        reason="becomes",
    )
