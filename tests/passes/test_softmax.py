"""Softmax and LogSoftmax from their parts."""

from __future__ import annotations

import pytest
from fusion_graphs import cpu, graph

from accelc.passes import softmax
from accelc.testing import check, unchanged

AXES = "int64[1] ax = {-1}"
SHIFT = "m = ReduceMax(x, ax) s = Sub(x, m) e = Exp(s) t = ReduceSum(e, ax) "
OLD = "m = ReduceMax<axes = [1]>(x) s = Sub(x, m) e = Exp(s) t = ReduceSum<axes = [1]>(e) "
SOFTMAX = {"divided": "y = Div(e, t)", "multiplied": "r = Reciprocal(t) y = Mul(e, r)"}


@pytest.mark.parametrize("end", SOFTMAX)
def test_softmax(end: str) -> None:
    before = graph(SHIFT + SOFTMAX[end], weights=AXES)
    check(softmax.softmax, before, graph("y = Softmax<axis = -1>(x)"), ctx=cpu())


@pytest.mark.parametrize(("opset", "axis"), [(9, 1), (11, -1), (12, -1)])
def test_softmax_before_opset_13_is_over_the_last_axis_only(opset: int, axis: int) -> None:
    before = graph(OLD + SOFTMAX["divided"], opset=opset)
    check(softmax.softmax, before, graph(f"y = Softmax<axis = {axis}>(x)", opset=opset), ctx=cpu())


def test_softmax_at_opset_13() -> None:
    body = "m = ReduceMax<axes = [-1]>(x) s = Sub(x, m) e = Exp(s) t = ReduceSum(e, ax) y = Div(e, t)"
    check(softmax.softmax, graph(body, weights=AXES, opset=13), graph("y = Softmax<axis = -1>(x)", opset=13), ctx=cpu())


def test_log_softmax() -> None:
    end = "l = Log(t) y = Sub(s, l)"
    check(softmax.log_softmax, graph(SHIFT + end, weights=AXES), graph("y = LogSoftmax<axis = -1>(x)"), ctx=cpu())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SHIFT.replace("ReduceMax(x, ax)", "ReduceMax(x, first)") + "y = Div(e, t)", "last axis everywhere"),
        (SHIFT.replace("ax)", "first)") + "y = Div(e, t)", "last axis everywhere"),
        (SHIFT.replace("ReduceMax(x, ax)", "ReduceMax(x)") + "y = Div(e, t)", ""),
        ("e = Exp(x) t = ReduceSum(e, ax) y = Div(e, t)", "wants Sub"),
        (SHIFT.replace("ReduceSum(", "ReduceSum<keepdims = 0>(") + "u = Unsqueeze(t, ax) y = Div(e, u)", ""),
    ],
)
def test_other_reductions_stay(body: str, reason: str) -> None:
    weights = [text for name, text in (("ax", AXES), ("first", "int64[1] first = {0}")) if f"{name})" in body]
    unchanged(softmax.softmax, graph(body, weights=", ".join(weights)), reason=reason, ctx=cpu())


def test_a_value_used_elsewhere_stays() -> None:
    signature = "(float[2,8] x) => (float[2,8] y, float[2,8] z)"
    before = graph(SHIFT + "y = Div(e, t) z = Neg(s)", signature, AXES)
    unchanged(softmax.softmax, before, reason="has a consumer outside", ctx=cpu())
    before = graph(SHIFT + "y = Div(e, t)", "(float[2,8] x) => (float[2,8] y, float[2,8] e)", AXES)
    unchanged(softmax.softmax, before, reason="is an output", ctx=cpu())


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_types_stay(kind: str) -> None:
    before = graph(SHIFT + "y = Div(e, t)", f"({kind}[2,8] x) => ({kind}[2,8] y)", AXES)
    unchanged(softmax.softmax, before, reason="x is", ctx=cpu())


def test_log_softmax_over_another_axis_stays() -> None:
    before = graph(SHIFT.replace("ax)", "first)") + "l = Log(t) y = Sub(s, l)", weights="int64[1] first = {0}")
    unchanged(softmax.log_softmax, before, reason="last axis everywhere", ctx=cpu())
