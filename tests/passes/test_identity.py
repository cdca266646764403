"""Operators that return their input."""

from __future__ import annotations

import numpy as np
import pytest

from accelc.passes import identity as p
from accelc.rules import Rule
from accelc.testing import check, unchanged

RELU = "(float[2,4] x) => (float[2,4] y) { y = Relu(x) }"
KEEP = "(float[2,4] x) => (float[2,4] y) "
OLD = '<ir_version: 8, opset_import: ["": {}]> g '


def test_identity() -> None:
    check(p.identity, KEEP + "{ a = Identity(x) y = Relu(a) }", RELU)
    check(p.identity, KEEP + "{ a = Relu(x) y = Identity(a) }", RELU)
    check(p.identity, KEEP + "<float[2,4] w = {1,2,3,4,5,6,7,8}> { a = Identity(w) y = Add(x, a) }",
          KEEP + "<float[2,4] w = {1,2,3,4,5,6,7,8}> { y = Add(x, w) }")  # fmt: skip


def test_identity_stays_where_it_gives_a_value_its_second_name() -> None:
    unchanged(p.identity, KEEP + "{ y = Identity(x) }", reason="share its value")
    unchanged(p.identity, "(float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }")
    unchanged(p.identity, "(float[2] x) => (float[2] y) <float[2] w = {1, 2}> { y = Identity(w) }")


@pytest.mark.parametrize(
    ("call", "weights"),
    [
        ("(x)", ""),
        ("(x, r)", "<float r = {0.3}>"),
        ("(x, r, t)", "<float r = {0.3}, bool t = {0}>"),
        ("(x, r, t)", "<float r = {0}, bool t = {1}>"),
    ],
)
def test_dropout(call: str, weights: str) -> None:
    check(p.dropout_inference, f"{KEEP}{weights} {{ a = Dropout{call} y = Relu(a) }}", RELU)


def test_dropout_of_old_opsets() -> None:
    check(
        p.dropout_inference, OLD.format(7) + KEEP + "{ a, m = Dropout<ratio=0.3>(x) y = Relu(a) }", OLD.format(7) + RELU
    )
    check(p.dropout_inference, OLD.format(10) + KEEP + "{ a = Dropout(x) y = Relu(a) }", OLD.format(10) + RELU)


def test_dropout_in_training() -> None:
    unchanged(
        p.dropout_inference, KEEP + "<float r = {0.3}, bool on = {1}> { y = Dropout(x, r, on) }", reason="training"
    )
    unchanged(p.dropout_inference, "(float[2] x, bool t) => (float[2] y) { y = Dropout(x, , t) }", reason="training")
    unchanged(
        p.dropout_inference,
        "(float[2] x) => (float[2] y, bool[2] m) { a, m = Dropout(x) y = Relu(a) }",
        reason="output 1",
    )
    unchanged(p.dropout_inference, OLD.format(6) + KEEP + "{ y = Dropout(x) }", reason="training")


def test_variadic_of_one() -> None:
    for name in ("Sum", "Max", "Min", "Mean"):
        check(p.variadic_of_one, KEEP + f"{{ a = {name}(x) y = Relu(a) }}", RELU)
    unchanged(p.variadic_of_one, KEEP + "{ a = Relu(x) y = Sum(a, x) }", reason="2 inputs")


def test_tile_once() -> None:
    check(p.tile_once, KEEP + "<int64[2] r = {1, 1}> { a = Tile(x, r) y = Relu(a) }", RELU)
    unchanged(p.tile_once, "(float[2] x) => (float[4] y) <int64[1] r = {2}> { y = Tile(x, r) }", reason="not 1")


def test_resize_to_same_size() -> None:
    shape = "(float[1,1,4,4] x) => (float[1,1,4,4] y)"
    after = shape + "{ y = Relu(x) }"
    one, sizes = "<float[4] s = {1,1,1,1}>", "<int64[4] s = {1,1,4,4}>"
    check(p.resize_to_same_size, shape + one + "{ a = Resize(x, , s) y = Relu(a) }", after)
    check(p.resize_to_same_size, shape + sizes + "{ a = Resize(x, , , s) y = Relu(a) }", after)
    old = OLD.format(9)
    check(p.resize_to_same_size, old + shape + one + "{ a = Upsample(x, s) y = Relu(a) }", old + after)
    unchanged(p.resize_to_same_size, shape + one + '{ y = Resize<mode="linear">(x, , s) }', reason="interpolates")
    moved = '{ y = Resize<coordinate_transformation_mode="tf_crop_and_resize">(x, r, s) }'
    crop = "<float[4] s = {1,1,1,1}, float[8] r = {0,0,0,0,1,1,0.5,0.5}>"
    unchanged(p.resize_to_same_size, shape + crop + moved, reason="moves the grid")
    wider = "(float[1,1,4,4] x) => (float[1,1,4,8] y) <float[4] s = {1,1,1,2}> { y = Resize(x, , s) }"
    unchanged(p.resize_to_same_size, wider, reason="not 1")


def test_reduce_nothing() -> None:
    check(p.reduce_nothing, KEEP + "{ a = ReduceSum<noop_with_empty_axes=1>(x) y = Relu(a) }", RELU)
    check(
        p.reduce_nothing, KEEP + "<int64[0] e = {}> { a = ReduceMax<noop_with_empty_axes=1>(x, e) y = Relu(a) }", RELU
    )
    some = "(float[2,4] x) => (float[2,1] y) <int64[1] e = {1}> { y = ReduceSum<noop_with_empty_axes=1>(x, e) }"
    unchanged(p.reduce_nothing, some, reason="reduces some")
    unchanged(p.reduce_nothing, "(float[2,4] x) => (float[1,1] y) { y = ReduceSum(x) }", reason="noop_with_empty_axes")


def test_where_constant() -> None:
    both = "(float[2,4] x, float[4] b) => (float[2,4] y)"
    check(
        p.where_constant, both + "<bool[2,1] c = {0, 0}> { a = Where(c, b, x) y = Relu(a) }", both + "{ y = Relu(x) }"
    )
    unchanged(p.where_constant, both + "<bool c = {0}> { y = Where(c, x, b) }", reason="widen")
    unchanged(p.where_constant, both + "<bool c = {1}> { y = Where(c, x, b) }", reason="-0.0")
    both = "(int64[2,4] x, int64[4] b) => (int64[2,4] y)"
    check(p.where_constant, both + "<bool c = {1}> { a = Where(c, x, b) y = Abs(a) }", both + "{ y = Abs(x) }")
    unchanged(p.where_constant, both + "<bool[2,1] c = {0, 1}> { y = Where(c, x, b) }", reason="neither")


def test_where_same() -> None:
    head = "(int64[2,4] x, bool[4] c) => (int64[2,4] y)"
    check(p.where_same, head + "{ a = Where(c, x, x) y = Abs(a) }", head + "{ y = Abs(x) }")
    unchanged(p.where_same, "(int64[4] x, bool[2,4] c) => (int64[2,4] y) { y = Where(c, x, x) }", reason="widen")
    unchanged(p.where_same, "(float[4] x, bool[4] c) => (float[4] y) { y = Where(c, x, x) }", reason="FLOAT")


def test_both_same() -> None:
    check(p.both_same, KEEP + "{ a = Max(x, x) y = Relu(a) }", RELU)
    check(
        p.both_same,
        "(bool[4] x) => (bool[4] y) { a = And(x, x) y = Not(a) }",
        "(bool[4] x) => (bool[4] y) { y = Not(x) }",
    )
    unchanged(p.both_same, "(float[4] x, float[4] z) => (float[4] y) { y = Max(x, z) }", reason="two different values")


@pytest.mark.parametrize(
    ("rule", "call", "weight"),
    [
        (p.times_one, "Mul(x, c)", "float c = {1}"),
        (p.times_one, "Mul(c, x)", "float[4] c = {1, 1, 1, 1}"),
        (p.times_one, "Div(x, c)", "float[1,1] c = {1}"),
        (p.plus_zero, "Add(x, c)", "float c = {-0.0}"),
        (p.minus_zero, "Sub(x, c)", "float c = {0.0}"),
        (p.power_one, "Pow(x, c)", "float c = {1}"),
    ],
)
def test_neutral_elements(rule: Rule, call: str, weight: str) -> None:
    check(rule, f"{KEEP}<{weight}> {{ a = {call} y = Relu(a) }}", RELU)


def test_neutral_integers() -> None:
    head = "(int32[2,4] x) => (int32[2,4] y)"
    check(p.plus_zero, head + "<int32 c = {0}> { a = Add(c, x) y = Abs(a) }", head + "{ y = Abs(x) }")
    check(p.minus_zero, head + "<int32 c = {0}> { a = Sub(x, c) y = Abs(a) }", head + "{ y = Abs(x) }")


def test_no_neutral_element() -> None:
    unchanged(p.plus_zero, KEEP + "<float c = {0.0}> { y = Add(x, c) }", reason="not -0.0")
    unchanged(p.minus_zero, KEEP + "<float c = {-0.0}> { y = Sub(x, c) }", reason="not 0.0")
    unchanged(p.minus_zero, KEEP + "<float c = {0.0}> { y = Sub(c, x) }")
    unchanged(p.times_one, KEEP + "<float c = {1.0000001}> { y = Mul(x, c) }", reason="not 1")
    unchanged(p.times_one, KEEP + "<float c = {1}> { y = Div(c, x) }")
    unchanged(p.times_one, "(float[4] x) => (float[2,4] y) <float[2,1] c = {1, 1}> { y = Mul(x, c) }", reason="widen")
    unchanged(p.power_one, "(int64[4] x) => (int64[4] y) <int64 c = {1}> { y = Pow(x, c) }", reason="INT64")


@pytest.mark.parametrize(("call", "value"), [("And", 1), ("Or", 0), ("Xor", 0), ("Equal", 1)])
def test_logic_neutral(call: str, value: int) -> None:
    head = "(bool[2,4] x) => (bool[2,4] y)"
    check(p.logic_neutral, f"{head} <bool c = {{{value}}}> {{ a = {call}(x, c) y = Not(a) }}", head + "{ y = Not(x) }")
    unchanged(p.logic_neutral, f"{head} <bool c = {{{1 - value}}}> {{ y = {call}(x, c) }}", reason="everywhere")


@pytest.mark.parametrize(("call", "value"), [("BitwiseAnd(x, c)", -1), ("BitwiseOr(c, x)", 0), ("BitwiseXor(c, x)", 0)])
def test_bitwise_neutral(call: str, value: int) -> None:
    head = "(int32[2,4] x) => (int32[2,4] y)"
    after = head + "{ y = BitwiseNot(x) }"
    check(p.bitwise_neutral, f"{head} <int32 c = {{{value}}}> {{ a = {call} y = BitwiseNot(a) }}", after)
    unchanged(p.bitwise_neutral, f"{head} <int32 c = {{1}}> {{ y = {call} }}", reason="changes bits")


def test_involution() -> None:
    check(p.involution, KEEP + "{ a = Neg(x) b = Neg(a) y = Relu(b) }", RELU)
    check(p.involution, "(bool[4] x) => (bool[4] y, bool[4] n) { n = Not(x) b = Not(n) y = And(b, n) }",
          "(bool[4] x) => (bool[4] y, bool[4] n) { n = Not(x) y = And(x, n) }")  # fmt: skip
    unchanged(p.involution, KEEP + "{ a = Neg(x) b = Abs(a) y = Neg(b) }", reason="wants Neg")


def test_idempotent() -> None:
    for name in ("Abs", "Relu", "Sign"):
        check(p.idempotent, KEEP + f"{{ a = {name}(x) y = {name}(a) }}", KEEP + f"{{ y = {name}(x) }}")
    unchanged(p.idempotent, KEEP + "{ a = Abs(x) y = Sign(a) }", reason="Abs")


def test_round_twice() -> None:
    check(p.round_twice, KEEP + "{ a = Floor(x) y = Ceil(a) }", KEEP + "{ y = Floor(x) }")
    check(p.round_twice, KEEP + "{ a = Ceil(x) b = Round(a) y = Floor(b) }", KEEP + "{ y = Ceil(x) }", fires=2)
    unchanged(p.round_twice, KEEP + "{ a = Sqrt(x) y = Floor(a) }", reason="Sqrt")


def test_abs_unsigned() -> None:
    head = "(uint8[4] x) => (uint8[4] y)"
    check(p.abs_unsigned, head + "{ a = Abs(x) y = Max(a, a) }", head + "{ y = Max(x, x) }")
    unchanged(p.abs_unsigned, "(int8[4] x) => (int8[4] y) { y = Abs(x) }", reason="INT8")


def test_clip_unbounded() -> None:
    head = "(int32[4] x) => (int32[4] y)"
    check(p.clip_unbounded, head + "{ a = Clip(x) y = Abs(a) }", head + "{ y = Abs(x) }")
    unchanged(p.clip_unbounded, "(float[4] x) => (float[4] y) { y = Clip(x) }", reason="FLOAT")
    unchanged(p.clip_unbounded, head + "<int32 h = {3}> { y = Clip(x, , h) }", reason="inputs")


def test_flatten_matrix() -> None:
    check(p.flatten_matrix, KEEP + "{ a = Flatten(x) y = Relu(a) }", RELU)
    check(p.flatten_matrix, "(float[N,M] x) => (float[N,M] y) { a = Flatten<axis=-1>(x) y = Relu(a) }",
          "(float[N,M] x) => (float[N,M] y) { y = Relu(x) }")  # fmt: skip
    unchanged(p.flatten_matrix, "(float[2,4] x) => (float[1,8] y) { y = Flatten<axis=0>(x) }", reason="shape")
    unchanged(p.flatten_matrix, "(float[2,4,3] x) => (float[2,12] y) { y = Flatten(x) }", reason="shape")


def test_edge_values() -> None:
    values = np.array([-0.0, 0.0, np.nan, np.inf, -np.inf, 1e-42], np.float32)
    head = "(float[6] x) => (float[6] y)"
    for call, weight in (
        ("Add(x, c)", "-0.0"),
        ("Sub(x, c)", "0"),
        ("Mul(x, c)", "1"),
        ("Div(x, c)", "1"),
        ("Pow(x, c)", "1"),
    ):
        rule = {"A": p.plus_zero, "S": p.minus_zero, "P": p.power_one}.get(call[0], p.times_one)
        check(rule, f"{head} <float c = {{{weight}}}> {{ a = {call} y = Neg(a) }}", head + "{ y = Neg(x) }", x=values)
