"""Laws of arithmetic and logic that hold in every bit."""

from __future__ import annotations

import numpy as np
import pytest

from accelc.passes import algebra as p
from accelc.testing import check, unchanged

F = "(float[2,4] x) => (float[2,4] y) "
FF = "(float[2,4] x, float[2,4] z) => (float[2,4] y) "
I = "(int32[4] x) => (int32[4] y) "
II = "(int32[4] x, int32[4] z) => (int32[4] y) "
B = "(bool[2,4] x) => (bool[2,4] y) "
Bounds = tuple[int | None, int | None]
OLD = '<ir_version: 8, opset_import: ["": 10]> g '


def test_times_minus_one() -> None:
    check(p.times_minus_one, F + "<float c = {-1}> { y = Mul(c, x) }", F + "{ y = Neg(x) }")
    check(p.times_minus_one, I + "<int32 c = {-1}> { y = Mul(x, c) }", I + "{ y = Neg(x) }")
    unchanged(p.times_minus_one, F + "<float c = {1}> { y = Mul(c, x) }", reason="not -1")
    wide = "(float[4] x) => (float[2,4] y) <float[2,1] c = {-1, -1}> { y = Mul(x, c) }"
    unchanged(p.times_minus_one, wide, reason="widen")


def test_over_minus_one() -> None:
    check(p.over_minus_one, F + "<float c = {-1}> { y = Div(x, c) }", F + "{ y = Neg(x) }")
    unchanged(p.over_minus_one, F + "<float c = {-1}> { y = Div(c, x) }")
    unchanged(p.over_minus_one, I + "<int32 c = {-1}> { y = Div(x, c) }", reason="INT32")


def test_zero_minus() -> None:
    check(p.zero_minus, F + "<float c = {-0.0}> { y = Sub(c, x) }", F + "{ y = Neg(x) }")
    check(p.zero_minus, I + "<int32 c = {0}> { y = Sub(c, x) }", I + "{ y = Neg(x) }")
    unchanged(p.zero_minus, F + "<float c = {0.0}> { y = Sub(c, x) }", reason="not -0.0")


def test_negated_operands() -> None:
    check(p.add_negated, FF + "{ a = Neg(z) y = Add(a, x) }", FF + "{ y = Sub(x, z) }")
    check(p.subtract_negated, FF + "{ a = Neg(z) y = Sub(x, a) }", FF + "{ y = Add(x, z) }")
    check(p.product_of_negated, FF + "{ a = Neg(x) b = Neg(z) y = Mul(a, b) }", FF + "{ y = Mul(x, z) }")
    check(p.quotient_of_negated, FF + "{ a = Neg(x) b = Neg(z) y = Div(a, b) }", FF + "{ y = Div(x, z) }")
    check(p.abs_negated, F + "{ a = Neg(x) y = Abs(a) }", F + "{ y = Abs(x) }")


def test_negated_operands_that_stay() -> None:
    two = "(float[2] x) => (float[2] y, float[2] n) { n = Neg(x) y = "
    for rule, call in ((p.add_negated, "Add(x, n)"), (p.subtract_negated, "Sub(x, n)"), (p.abs_negated, "Abs(n)")):
        unchanged(rule, two + call + "}", reason="output of the graph")
    unchanged(p.subtract_negated, FF + "{ a = Neg(x) y = Sub(a, z) }")
    unchanged(p.product_of_negated, FF + "{ a = Neg(x) y = Mul(a, z) }")
    unchanged(p.quotient_of_negated, II + "{ a = Neg(x) b = Neg(z) y = Div(a, b) }", reason="INT32")


def test_negated_difference() -> None:
    check(p.negated_difference, II + "{ a = Sub(x, z) y = Neg(a) }", II + "{ y = Sub(z, x) }")
    unchanged(p.negated_difference, FF + "{ a = Sub(x, z) y = Neg(a) }", reason="FLOAT")


def test_sign_into_factor() -> None:
    after = F + "<float[4] d = {-1, 2, 0, -4}> { y = Mul(x, d) }"
    check(p.sign_into_factor, F + "<float[4] c = {1, -2, -0.0, 4}> { a = Mul(x, c) y = Neg(a) }", after)
    check(p.sign_into_factor, F + "<float[4] c = {1, -2, -0.0, 4}> { a = Neg(x) y = Mul(c, a) }", after)
    smallest = np.full(4, -(2**31), np.int32)
    before = I + "<int32 c = {-2147483648}> { a = Mul(x, c) y = Neg(a) }"
    check(p.sign_into_factor, before, I + "<int32 c = {-2147483648}> { y = Mul(x, c) }", x=smallest)
    two = "(float[2] x) => (float[2] y, float[2] n) <float c = {2}> { n = Mul(x, c) y = Neg(n) }"
    unchanged(p.sign_into_factor, two)
    numbers = ", ".join(str(each) for each in range(20))
    used = f"(float[20] x) => (float[20] y) <float[20] c = {{{numbers}}}> {{ a = Mul(x, c) b = Neg(a) y = Add(b, c) }}"
    unchanged(p.sign_into_factor, used, reason="second")


def test_sign_into_quotient() -> None:
    check(
        p.sign_into_divisor,
        F + "<float c = {3}> { a = Div(x, c) y = Neg(a) }",
        F + "<float c = {-3}> { y = Div(x, c) }",
    )
    check(
        p.sign_into_divisor,
        F + "<float c = {3}> { a = Neg(x) y = Div(a, c) }",
        F + "<float c = {-3}> { y = Div(x, c) }",
    )
    check(
        p.sign_into_dividend,
        F + "<float c = {3}> { a = Div(c, x) y = Neg(a) }",
        F + "<float c = {-3}> { y = Div(c, x) }",
    )
    unchanged(p.sign_into_divisor, I + "<int32 c = {3}> { a = Div(x, c) y = Neg(a) }", reason="INT32")
    unchanged(p.sign_into_dividend, I + "<int32 c = {3}> { a = Div(c, x) y = Neg(a) }", reason="INT32")


@pytest.mark.parametrize(
    ("first", "second", "total"), [("Add", "Add", 12), ("Add", "Sub", -2), ("Sub", "Add", 2), ("Sub", "Sub", -12)]
)
def test_integer_sum(first: str, second: str, total: int) -> None:
    before = I + f"<int32 c = {{5}}, int32 d = {{7}}> {{ a = {first}(x, c) y = {second}(a, d) }}"
    check(p.integer_sum, before, I + f"<int32 c = {{{total}}}> {{ y = Add(x, c) }}")


def test_integer_sum_wraps_around() -> None:
    before = I + "<int32 c = {2147483647}, int32[4] d = {1, 2, 3, 4}> { a = Add(x, c) y = Add(d, a) }"
    after = I + "<int32[4] c = {-2147483648, -2147483647, -2147483646, -2147483645}> { y = Add(x, c) }"
    check(p.integer_sum, before, after, x=np.array([-1, 0, 1, 2**31 - 1], np.int32))
    unchanged(p.integer_sum, F + "<float c = {1}, float d = {2}> { a = Add(x, c) y = Add(a, d) }", reason="FLOAT")
    unchanged(p.integer_sum, I + "<int32 c = {1}, int32 d = {2}> { a = Add(x, c) y = Sub(d, a) }")
    head = "(int32[8,8] x) => (int32[8,8] y)"
    eight, column = "{1,2,3,4,5,6,7,8}", "{1,2,3,4,5,6,7,8}"
    wide = f"{head} <int32[8] c = {eight}, int32[8,1] d = {column}> {{ a = Add(x, c) y = Add(a, d) }}"
    unchanged(p.integer_sum, wide, reason="larger")


def test_integer_product() -> None:
    before = I + "<int32 c = {65536}, int32 d = {65537}> { a = Mul(x, c) y = Mul(a, d) }"
    check(p.integer_product, before, I + "<int32 c = {65536}> { y = Mul(x, c) }")
    unchanged(p.integer_product, F + "<float c = {3}, float d = {2}> { a = Mul(x, c) y = Mul(a, d) }", reason="FLOAT")


def test_not_compared() -> None:
    head = "(int64[4] x, int64[4] z) => (bool[4] y) "
    for name, opposite in (("Less", "GreaterOrEqual"), ("GreaterOrEqual", "Less"), ("Greater", "LessOrEqual")):
        check(p.not_compared, f"{head} {{ a = {name}(x, z) y = Not(a) }}", f"{head} {{ y = {opposite}(x, z) }}")
    unchanged(p.not_compared, "(float[4] x, float[4] z) => (bool[4] y) { a = Less(x, z) y = Not(a) }", reason="FLOAT")
    unchanged(p.not_compared, OLD + head + "{ a = Less(x, z) y = Not(a) }", reason="opset 12")


def test_where_not() -> None:
    head = "(bool[2,4] c, int64[2,4] x, int64[4] z) => (int64[2,4] y) "
    check(p.where_not, head + "{ n = Not(c) y = Where(n, x, z) }", head + "{ y = Where(c, z, x) }")
    unchanged(p.where_not, head + "{ y = Where(c, x, z) }", reason="wants Not")
    unchanged(p.where_not, head.replace("int64", "float") + "{ n = Not(c) y = Where(n, x, z) }", reason="FLOAT")


def test_logic_negation() -> None:
    check(p.logic_negation, B + "<bool c = {1}> { y = Xor(c, x) }", B + "{ y = Not(x) }")
    check(p.logic_negation, B + "<bool c = {0}> { y = Equal(x, c) }", B + "{ y = Not(x) }")
    unchanged(p.logic_negation, B + "<bool c = {0}> { y = Xor(c, x) }", reason="everywhere")
    unchanged(p.logic_negation, "(int32[2] x) => (bool[2] y) <int32 c = {0}> { y = Equal(x, c) }", reason="INT32")


def test_sum_of_two() -> None:
    check(p.sum_of_two, FF + "{ y = Sum(x, z) }", FF + "{ y = Add(x, z) }")
    unchanged(p.sum_of_two, FF + "{ y = Sum(x, z, z) }", reason="3 inputs")


def test_relu_of_clip() -> None:
    low, high, both = "<float l = {0}>", "<float h = {6}>", "<float l = {0}, float h = {6}>"
    check(p.relu_of_clip, F + both + "{ a = Clip(x, l, h) y = Relu(a) }", F + both + "{ y = Clip(x, l, h) }")
    check(p.relu_of_clip, F + low + "{ a = Clip(x, l) y = Relu(a) }", F + low + "{ y = Clip(x, l) }")
    old = OLD + F + "{ a = Clip<min=0.0, max=6.0>(x) y = Relu(a) }"
    check(p.relu_of_clip, old, OLD + F + "{ y = Clip<min=0.0, max=6.0>(x) }")
    unchanged(p.relu_of_clip, F + "<float l = {-1}> { a = Clip(x, l) y = Relu(a) }", reason="below 0")
    unchanged(p.relu_of_clip, F + high + "{ a = Clip(x, , h) y = Relu(a) }", reason="below 0")
    variable = "(float[2] x, float h) => (float[2] y) <float l = {0}> { a = Clip(x, l, h) y = Relu(a) }"
    unchanged(p.relu_of_clip, variable, reason="not a constant")


def test_clip_of_relu() -> None:
    high = "<float h = {6}>"
    after = F + "<float zero = {0}, float h = {6}> { y = Clip(x, zero, h) }"
    check(p.clip_of_relu, F + "<float l = {-1}, float h = {6}> { a = Relu(x) y = Clip(a, l, h) }", after)
    check(p.clip_of_relu, F + high + "{ a = Relu(x) y = Clip(a, , h) }", after)
    check(
        p.clip_of_relu, F + "<float l = {2}> { a = Relu(x) y = Clip(a, l) }", F + "<float l = {2}> { y = Clip(x, l) }"
    )
    after = OLD + F + "{ y = Clip<min=0.0, max=6.0>(x) }"
    check(p.clip_of_relu, OLD + F + "{ a = Relu(x) y = Clip<min=0.0, max=6.0>(a) }", after)
    unchanged(p.clip_of_relu, F + "<float l = {-0.0}> { a = Relu(x) y = Clip(a, l) }", reason="-0.0")
    unchanged(p.clip_of_relu, "(float[2] x) => (float[2] y, float[2] a) { a = Relu(x) y = Clip(a) }", reason="output")


@pytest.mark.parametrize(
    ("inner", "outer", "joined"),
    [
        ((-1, 4), (1, 9), (1, 4)),
        ((1, 9), (-1, 1), (1, 1)),
        ((-3, 0), (0, 5), (0, 0)),
        ((-1, None), (1, None), (1, None)),
        ((None, 5), (None, 2), (None, 2)),
    ],
)
def test_clip_of_clip(inner: Bounds, outer: Bounds, joined: Bounds) -> None:
    def graph(*steps: Bounds) -> str:
        numbers = sorted({each for step in steps for each in step if each is not None})
        weights = ", ".join(f"float c{index} = {{{each}}}" for index, each in enumerate(numbers))
        calls = [", ".join("" if each is None else f"c{numbers.index(each)}" for each in step) for step in steps]
        if len(steps) == 1:
            return f"{F} <{weights}> {{ y = Clip(x, {calls[0]}) }}".replace(", )", ")")
        return f"{F} <{weights}> {{ t = Clip(x, {calls[0]}) y = Clip(t, {calls[1]}) }}".replace(", )", ")")

    check(p.clip_of_clip, graph(inner, outer), graph(joined))


def test_clips_of_different_sides() -> None:
    weights = "<float a = {-1}, float d = {9}>"
    unchanged(p.clip_of_clip, F + weights + "{ t = Clip(x, a) y = Clip(t, , d) }", reason="one is bounded")


def test_clips_to_ranges_that_do_not_overlap() -> None:
    weights = "<float a = {-5}, float b = {-1}, float c = {0}, float d = {5}>"
    unchanged(p.clip_of_clip, F + weights + "{ t = Clip(x, a, b) y = Clip(t, c, d) }", reason="overlap")
    weights = "<float a = {-5}, float b = {5}, float c = {1}, float d = {0}>"
    unchanged(p.clip_of_clip, F + weights + "{ t = Clip(x, a, b) y = Clip(t, c, d) }", reason="overlap")
