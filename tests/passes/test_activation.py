"""Activation functions from their parts."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_graphs import cpu, graph

from accelc.passes import activation
from accelc.testing import check, unchanged

LIMITS = "float low = {0}, float high = {6}"
CLIP6 = "y = Clip(x, low, high)"
SIX = {
    "clip": "a = Add(x, three) b = Clip(a, zero, six)",
    "relu": "a = Add(three, x) r = Relu(a) b = Min(r, six)",
    "max": "a = Add(x, three) r = Max(a, zero) b = Min(r, six)",
}
HARD_SIGMOID = "HardSigmoid<alpha = 0.16666667, beta = 0.5>(x)"


def signature(kind: str) -> str:
    return f"({kind}[2,8] x) => ({kind}[2,8] y)"


# --- limits


@pytest.mark.parametrize("kind", ["float", "double", "int32", "int64", "uint8"])
@pytest.mark.parametrize("body", ["a = Max(x, zero) y = Min(a, six)", "a = Min(six, x) y = Max(zero, a)"])
def test_min_max(body: str, kind: str) -> None:
    after = graph(CLIP6, signature(kind), LIMITS.replace("float", kind))
    check(activation.min_max, graph(body, signature(kind), kind=kind), after, ctx=cpu())


def test_min_max_before_opset_11() -> None:
    after = graph("y = Clip<min = 0.0, max = 6.0>(x)", opset=9)
    check(activation.min_max, graph("a = Max(x, zero) y = Min(a, six)", opset=9), after, ctx=cpu())


@pytest.mark.parametrize(
    ("body", "reason"),
    [("a = Max(x, six) y = Min(a, zero)", "the limits cross"), ("a = Max(x, x) y = Min(a, zero)", "not constant")],
)
def test_min_max_stays(body: str, reason: str) -> None:
    unchanged(activation.min_max, graph(body), reason=reason, ctx=cpu())


def test_min_max_without_a_kernel_stays() -> None:
    before = graph("a = Max(x, zero) y = Min(a, six)", signature("int16"), kind="int16", opset=13)
    unchanged(activation.min_max, before, reason="no kernel", ctx=cpu())
    before = graph("a = Max(x, zero) y = Min(a, six)", signature("double"), kind="double", opset=11)
    unchanged(activation.min_max, before, reason="no kernel", ctx=cpu())


@pytest.mark.parametrize(
    "body", ["a = Relu(x) y = Min(a, six)", "a = Relu(x) y = Min(six, a)", "a = Min(x, six) y = Relu(a)"]
)
def test_relu6(body: str) -> None:
    check(activation.relu_min, graph(body), graph(CLIP6, weights=LIMITS), ctx=cpu())


def test_relu_under_a_negative_limit_stays() -> None:
    unchanged(activation.relu_min, graph("a = Relu(x) y = Min(a, minus_half)"), reason="the limits cross", ctx=cpu())


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("a = Relu(x) y = Clip(a, minus_half, six)", 0, 6),
        ("a = Relu(x) y = Clip(a, half, six)", 0.5, 6),
        ("a = Clip(x, minus_half, six) y = Relu(a)", 0, 6),
        ("a = Clip(x, half, six) y = Relu(a)", 0.5, 6),
        ("a = Clip(x, , six) y = Relu(a)", 0, 6),
    ],
)
def test_relu_and_clip(body: str, low: float, high: float) -> None:
    after = graph(CLIP6, weights=f"float low = {{{low}}}, float high = {{{high}}}")
    check(activation.clip_relu, graph(body), after, ctx=cpu())


def test_relu_and_clip_without_an_upper_limit() -> None:
    after = graph("y = Clip(x, low)", weights="float low = {0.5}")
    check(activation.clip_relu, graph("a = Relu(x) y = Clip(a, half)"), after, ctx=cpu())


def test_relu_and_clip_before_opset_11() -> None:
    before = graph("a = Relu(x) y = Clip<min = -1.0, max = 6.0>(a)", opset=10)
    check(activation.clip_relu, before, graph("y = Clip<min = 0.0, max = 6.0>(x)", opset=10), ctx=cpu())


def test_relu_and_clip_stay() -> None:
    crossed = graph("a = Clip(x, , minus_half) y = Relu(a)")
    unchanged(activation.clip_relu, crossed, reason="the limits cross", ctx=cpu())
    computed = graph("a = Relu(x) y = Clip(a, l)", "(float[2,8] x, float l) => (float[2,8] y)")
    unchanged(activation.clip_relu, computed, reason="min is not a constant", ctx=cpu())


def test_max_with_zero() -> None:
    check(activation.max_zero, graph("y = Max(x, zero)"), graph("y = Relu(x)"), ctx=cpu())
    unchanged(activation.max_zero, graph("y = Max(x, half)"), reason="wants the constant 0", ctx=cpu())
    unchanged(
        activation.max_zero, graph("y = Max(x, zero)", signature("int64"), kind="int64"), reason="no kernel", ctx=cpu()
    )
    wide = graph("y = Max(x, w)", "(float[2,8] x) => (float[1,2,8] y)", "float[1,1,1] w = {0}")
    unchanged(activation.max_zero, wide, reason="widen", ctx=cpu())


# --- leaky


LEAKY = {
    "leaky_relu": "a = Mul(x, half) y = Max(x, a)",
    "leaky_relu_where": "c = Greater(x, zero) a = Mul(half, x) y = Where(c, x, a)",
    "leaky_relu_parts": "p = Relu(x) n = Neg(x) q = Relu(n) a = Mul(q, half) y = Sub(p, a)",
}


@pytest.mark.parametrize("name", LEAKY)
def test_leaky_relu(name: str) -> None:
    check(getattr(activation, name), graph(LEAKY[name]), graph("y = LeakyRelu<alpha = 0.5>(x)"), ctx=cpu())


def test_leaky_relu_as_a_sum() -> None:
    body = "p = Relu(x) n = Neg(x) q = Relu(n) a = Mul(minus_half, q) y = Add(a, p)"
    check(activation.leaky_relu_parts, graph(body), graph("y = LeakyRelu<alpha = 0.5>(x)"), ctx=cpu())


def test_leaky_relu_where_not_negative() -> None:
    body = "c = GreaterOrEqual(x, zero) a = Mul(x, half) y = Where(c, x, a)"
    check(activation.leaky_relu_where, graph(body), graph("y = LeakyRelu<alpha = 0.5>(x)"), ctx=cpu())


@pytest.mark.parametrize("slope", ["two", "minus_half", "one", "zero"])
def test_a_maximum_with_another_slope_stays(slope: str) -> None:
    unchanged(activation.leaky_relu, graph(f"a = Mul(x, {slope}) y = Max(x, a)"), reason="the slope is", ctx=cpu())


def test_other_conditions_stay() -> None:
    body = LEAKY["leaky_relu_where"].replace("zero", "half")
    unchanged(activation.leaky_relu_where, graph(body), reason="wants the constant 0", ctx=cpu())
    body = LEAKY["leaky_relu_where"].replace("Where(c, x, a)", "Where(c, a, x)")
    unchanged(activation.leaky_relu_where, graph(body), ctx=cpu())


def test_leaky_relu_needs_a_kernel() -> None:
    for name, body in LEAKY.items():
        unchanged(
            getattr(activation, name), graph(body, signature("double"), kind="double"), reason="no kernel", ctx=cpu()
        )


def test_prelu_with_equal_slopes() -> None:
    for shape, values in (("", "0.25"), ("[1]", "0.25"), ("[8]", ",".join(["0.25"] * 8)), ("[2,1]", "0.25, 0.25")):
        before = graph("y = PRelu(x, s)", weights=f"float{shape} s = {{{values}}}")
        check(activation.prelu_equal, before, graph("y = LeakyRelu<alpha = 0.25>(x)"), ctx=cpu())


def test_prelu_with_other_slopes_stays() -> None:
    before = graph("y = PRelu(x, s)", weights="float[2,1] s = {0.25, 0.5}")
    unchanged(activation.prelu_equal, before, reason="the slopes differ", ctx=cpu())
    before = graph("y = PRelu(x, s)", "(float[2,8] x, float[1] s) => (float[2,8] y)")
    unchanged(activation.prelu_equal, before, reason="s", ctx=cpu())


# --- hard and soft sigmoids


@pytest.mark.parametrize("six", SIX)
@pytest.mark.parametrize("end", ["y = Div(b, six)", "y = Mul(b, sixth)"])
def test_hard_sigmoid(six: str, end: str) -> None:
    check(activation.hard_sigmoid, graph(f"{SIX[six]} {end}"), graph(f"y = {HARD_SIGMOID}"), ctx=cpu())


def test_hard_sigmoid_before_opset_11() -> None:
    before = graph("a = Add(x, three) b = Clip<min = 0.0, max = 6.0>(a) y = Div(b, six)", opset=9)
    check(activation.hard_sigmoid, before, graph(f"y = {HARD_SIGMOID}", opset=9), ctx=cpu())


@pytest.mark.parametrize("change", [("three", "two"), ("zero", "half"), ("Clip(a, zero, six)", "Clip(a, zero, two)")])
def test_other_hard_sigmoids_stay(change: tuple[str, str]) -> None:
    unchanged(activation.hard_sigmoid, graph(f"{SIX['clip'].replace(*change)} y = Div(b, six)"), ctx=cpu())


@pytest.mark.parametrize("end", ["y = Clip(b, zero, one)", "r = Relu(b) y = Min(r, one)"])
def test_hard_sigmoid_of_keras(end: str) -> None:
    before = graph(f"a = Mul(x, fifth) b = Add(a, half) {end}")
    check(activation.hard_sigmoid_clip, before, graph("y = HardSigmoid<alpha = 0.2, beta = 0.5>(x)"), ctx=cpu())


def test_hard_sigmoid_of_keras_with_other_limits_stays() -> None:
    before = graph("a = Mul(x, fifth) b = Add(a, half) y = Clip(b, zero, two)")
    unchanged(activation.hard_sigmoid_clip, before, reason="wants the constant 1", ctx=cpu())
    before = graph("a = Mul(x, fifth) b = Add(a, half) y = Clip(b, zero, one)", signature("double"), kind="double")
    unchanged(activation.hard_sigmoid_clip, before, reason="no kernel", ctx=cpu())


@pytest.mark.parametrize("six", SIX)
@pytest.mark.parametrize(
    "end",
    [
        "p = Mul(x, b) y = Div(p, six)",
        "p = Mul(b, x) y = Mul(p, sixth)",
        "p = Div(b, six) y = Mul(x, p)",
        "p = Mul(sixth, b) y = Mul(p, x)",
        "p = Mul(x, sixth) y = Mul(p, b)",
        "p = Div(x, six) y = Mul(b, p)",
    ],
)
def test_hard_swish(six: str, end: str) -> None:
    check(activation.Activation(), graph(f"{SIX[six]} {end}"), graph("y = HardSwish(x)"), fires=None, ctx=cpu())


def test_hard_swish_before_opset_14_is_its_parts() -> None:
    body = f"{SIX['relu']} p = Mul(x, b) y = Div(p, six)"
    after = "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h)"
    check(activation.Activation(), graph(body, opset=11), graph(after, opset=11), fires=None, ctx=cpu())


def test_other_hard_swishes_stay() -> None:
    other = graph("b = HardSigmoid<alpha = 0.2, beta = 0.5>(x) y = Mul(x, b)")
    unchanged(activation.hard_swish, other, reason="alpha", ctx=cpu())
    twice = graph(f"{SIX['clip']} p = Mul(a, b) y = Div(p, six)")
    unchanged(activation.hard_swish_parts, twice, ctx=cpu())
    double = graph(f"{SIX['clip']} p = Mul(x, b) y = Div(p, six)", signature("double"), kind="double")
    unchanged(activation.Activation(), double.replace("Clip", "Clip"), ctx=cpu())


@pytest.mark.parametrize("end", ["y = Div(one, c)", "y = Reciprocal(c)"])
def test_sigmoid(end: str) -> None:
    before = graph(f"n = Neg(x) e = Exp(n) c = Add(one, e) {end}")
    check(activation.sigmoid, before, graph("y = Sigmoid(x)"), ctx=cpu())


def test_other_sigmoids_stay() -> None:
    unchanged(activation.sigmoid, graph("n = Neg(x) e = Exp(n) c = Add(two, e) y = Reciprocal(c)"), ctx=cpu())
    double = graph("n = Neg(x) e = Exp(n) c = Add(one, e) y = Reciprocal(c)", signature("double"), kind="double")
    unchanged(activation.sigmoid, double, reason="x is", ctx=cpu())
    logarithm = graph("n = Neg(x) e = Exp(n) c = Add(one, e) s = Reciprocal(c) y = Log(s)")
    unchanged(activation.sigmoid, logarithm, reason="its logarithm is taken", ctx=cpu())


def test_hard_swish_of_its_parts() -> None:
    parts = "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) y = Mul(x, h)"
    check(activation.hard_swish, graph(parts), graph("y = HardSwish(x)"), ctx=cpu())
    before = graph(f"{SIX['clip']} p = Mul(x, b) y = Div(p, six)")
    check(activation.hard_swish_parts, before, graph(parts), ctx=cpu())


# --- by faster kernels


SLOPES = "float[8] a = {0.5, 1, -1, 0.25, 0.1, -0.3, 0.9, 2e-3}"


@pytest.mark.parametrize("opset", [9, 13, 20])
def test_prelu_max(opset: int) -> None:
    after = graph("p = Mul(x, a) y = Max(x, p)", weights=SLOPES, opset=opset)
    check(activation.prelu_max, graph("y = PRelu(x, a)", weights=SLOPES, opset=opset), after, ctx=cpu())


@pytest.mark.parametrize(
    ("weights", "kind", "reason"),
    [
        (SLOPES.replace("0.5", "1.5"), "float", "above 1"),
        (SLOPES.replace("0.5", "0"), "float", "a slope is 0"),
        (SLOPES.replace("float", "double"), "double", "DOUBLE"),
    ],
)
def test_other_prelus_stay(weights: str, kind: str, reason: str) -> None:
    before = graph("y = PRelu(x, a)", signature(kind), weights, kind=kind)
    unchanged(activation.prelu_max, before, reason=reason, ctx=cpu())


def test_a_computed_slope_stays() -> None:
    before = graph("y = PRelu(x, a)", "(float[2,8] x, float[8] a) => (float[2,8] y)")
    unchanged(activation.prelu_max, before, reason="slope is not constant", ctx=cpu())


@pytest.mark.parametrize(
    ("body", "opset"),
    [
        ("s = Softplus(x) t = Tanh(s) y = Mul(x, t)", 9),
        ("s = Softplus(x) t = Tanh(s) y = Mul(t, x)", 20),
        ("e = Exp(x) o = Add(e, one) s = Log(o) t = Tanh(s) y = Mul(x, t)", 13),
        ("y = Mish(x)", 18),
    ],
)
def test_mish(body: str, opset: int) -> None:
    left = ["Min", "Exp", "Add", "Mul", "Add", "Div", "Mul"]
    x = np.concatenate([np.linspace(-120, 120, 12), [0.0, -0.0, 1e-3, -20]]).astype(np.float32).reshape(2, 8)
    if "Log" in body:
        x = np.clip(x, -10, 80)
    check(activation.mish, graph(body, opset=opset), left, ctx=cpu(), x=x)


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("s = Softplus(x) t = Tanh(s) y = Mul(s, t)", "float", ""),
        ("s = Softplus(x) t = Sigmoid(s) y = Mul(x, t)", "float", "wants Tanh"),
        ("y = Mish(x)", "double", "DOUBLE"),
    ],
)
def test_other_products_stay(body: str, kind: str, reason: str) -> None:
    unchanged(activation.mish, graph(body, signature(kind), kind=kind), reason=reason, ctx=cpu())


@pytest.mark.parametrize(
    ("start", "exponent", "left"),
    [
        ("p = Relu(x)", 0.5, ["Sqrt"]),
        ("p = Mul(x, x)", 0.5, ["Sqrt"]),
        ("p = Abs(x)", 1.5, ["Sqrt", "Mul"]),
        ("a = Mul(x, x) b = ReduceMean<axes = [1]>(a) p = Add(b, eps)", -0.5, ["Sqrt", "Reciprocal"]),
        ("p = Tanh(x)", -1, ["Reciprocal"]),
        ("p = Tanh(x)", -2, ["Mul", "Reciprocal"]),
        ("p = Tanh(x)", 4, ["Mul", "Mul"]),
    ],
)
@pytest.mark.parametrize("opset", [9, 13])
def test_power(start: str, exponent: float, left: list[str], opset: int) -> None:
    shape = "(float[2,8] x) => (float[a,b] y)"
    before = graph(f"{start} y = Pow(p, e)", shape, f"float e = {{{exponent}}}", opset=opset)
    kept = [word for word in start.replace("<", "(").split() if "(" in word]
    names = [word.partition("(")[0] for word in kept if word[0].isupper()]
    check(activation.power, before, names + left, ctx=cpu())


@pytest.mark.parametrize(
    ("start", "exponent", "kind", "reason"),
    [
        ("p = Relu(x)", 2.5, "float", "exponent is 2.5"),
        ("p = Relu(x)", 2, "float", "exponent is 2"),
        ("p = Tanh(x)", 0.5, "float", "may be negative"),
        ("p = Tanh(x)", 1.5, "float", "may be negative"),
        ("p = Relu(x)", -0.5, "float", "may be zero"),
        ("p = Relu(x)", 4, "double", "DOUBLE"),
    ],
)
def test_other_powers_stay(start: str, exponent: float, kind: str, reason: str) -> None:
    before = graph(f"{start} y = Pow(p, e)", signature(kind), f"{kind} e = {{{exponent}}}")
    unchanged(activation.power, before, reason=reason, ctx=cpu())
