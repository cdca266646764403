"""Activation functions from their parts, or in parts, where the target computes them faster that way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import dtype_in, opset_at_least
from accelc.pass_base import RulePass
from accelc.passes.forms import clip, clip_limits
from accelc.pattern import AnyOf, Const, Op, Ops, Scalar, Var
from accelc.rules import Guard, Law, Match, rule, rules_of

from .padding import least

# A sixth as exporters round it: 1/6, 0.16666667 and its neighbours all lie within the literal's tolerance.
_SIXTH = 1 / 6


def _kernel(op_type: str) -> Guard:
    def guard(m: Match) -> bool | str:
        return m.ctx.allows("", op_type, m.opset, {"T": m.dtype("x")})

    return guard


# --- limits ----------------------------------------------------------------------------------------------------------


def _limit(m: Match, name: str) -> Any:
    """A limit as a number of its own type. A miss where it is NaN."""
    array = m.const(name)
    m.require(array.size == 1 and array.ndim <= len(m.dims("x")), f"{name} is not a scalar")
    number = array.reshape(())[()]
    m.require(number == number, f"{name} is not a number")
    return number


@rule(exact=False)
def min_max(op: Ops, x: Var, low: Scalar, high: Scalar) -> Law:
    """min(max(x, low), high) == max(min(x, high), low) == Clip(x, low, high)     low <= high"""

    def after(m: Match) -> Any:
        low_, high_ = _limit(m, "low"), _limit(m, "high")
        m.require(low_ <= high_, "the limits cross")
        return clip(m, m.x, low_, high_)

    return [op.Min(op.Max(x, low), high), op.Max(op.Min(x, high), low)], after, _kernel("Clip")


@rule(exact=False)
def relu_min(op: Ops, x: Var, high: Scalar) -> Law:
    """min(Relu(x), high) == Relu(min(x, high)) == Clip(x, 0, high)     high >= 0; Relu6 with 6"""

    def after(m: Match) -> Any:
        high_ = _limit(m, "high")
        m.require(high_ >= 0, "the limits cross")
        return clip(m, m.x, 0, high_)

    return [op.Min(op.Relu(x), high), op.Relu(op.Min(x, high))], after, _kernel("Clip")


@rule(exact=False)
def clip_relu(op: Ops, x: Var) -> Law:
    """Relu(Clip(x, low, high)) == Clip(Relu(x), low, high) == Clip(x, max(low, 0), high)     high >= 0"""

    def after(m: Match) -> Any:
        low, high = clip_limits(m, m.node("clip"))
        m.require(high is None or high >= 0, "the limits cross")
        m.require(low is None or low == low, "a limit is not a number")
        return clip(m, m.x, low if low is not None and low > 0 else 0, high)

    forms = [op.Relu(op.Clip(x, ..., _as="clip", _any=True)), op.Clip(op.Relu(x), ..., _as="clip", _any=True)]
    return forms, after, _kernel("Clip")


@rule(exact=False)
def max_zero(op: Ops, x: Var) -> Law:
    """max(x, 0) == Relu(x)"""
    return op.Max(x, 0.0), op.Relu(x), _kernel("Relu")


# --- leaky -----------------------------------------------------------------------------------------------------------


@rule(exact=False)
def leaky_relu(op: Ops, x: Var, a: Scalar) -> Law:
    """max(x, a x) == LeakyRelu(x, a)     0 < a < 1"""

    def after(m: Match) -> Any:
        slope = m.scalar("a")
        m.require(0 < slope < 1, f"the slope is {slope}")
        return m.op.LeakyRelu(m.x, alpha=slope)

    return op.Max(x, op.Mul(x, a)), after, _kernel("LeakyRelu")


@rule(exact=False)
def leaky_relu_where(op: Ops, x: Var, a: Scalar) -> Law:
    """where(x > 0, x, a x) == LeakyRelu(x, a)"""

    def after(m: Match) -> Any:
        return m.op.LeakyRelu(m.x, alpha=m.scalar("a"))

    positive = op.any_of(op.Greater(x, 0.0), op.GreaterOrEqual(x, 0.0))
    return op.Where(positive, x, op.Mul(x, a)), after, _kernel("LeakyRelu")


@rule(exact=False)
def leaky_relu_parts(op: Ops, x: Var, a: Scalar) -> Law:
    """Relu(x) + (-a) Relu(-x) == LeakyRelu(x, a)     PReLU as Keras exports it, for one slope"""

    def after(m: Match) -> Any:
        slope = m.scalar("a")
        return m.op.LeakyRelu(m.x, alpha=slope if m.root.op_type == "Sub" else -slope)

    scaled = op.Mul(op.Relu(op.Neg(x)), a)
    return [op.Add(op.Relu(x), scaled), op.Sub(op.Relu(x), scaled)], after, _kernel("LeakyRelu")


@rule(exact=False)
def prelu_equal(op: Ops, x: Var, slope: Const) -> Law:
    """PRelu(x, [a, a, ...]) == LeakyRelu(x, a)     all slopes are equal"""

    def after(m: Match) -> Any:
        slopes = m.const("slope").reshape(-1)
        m.require(slopes.size and (slopes == slopes[0]).all(), "the slopes differ")
        return m.op.LeakyRelu(m.x, alpha=float(slopes[0]))

    return op.PRelu(x, slope), after, _kernel("LeakyRelu")


def _on_cpu(m: Match) -> bool | str:
    return m.ctx.target.provider == "CPUExecutionProvider" or "was measured on the CPU only"


@rule(exact=False)
def prelu_max(op: Ops, x: Var, slope: Const) -> Law:
    """PRelu(x, a) == max(x, a x)     a <= 1, not 0; the CPU's kernel of PRelu takes 2 to 9 times as long"""

    def after(m: Match) -> Any:
        slopes = m.const("slope")
        finite = slopes.size and bool(np.isfinite(slopes).all())
        m.require(finite and bool((slopes <= 1).all()), "a slope is above 1")
        m.require(bool((slopes != 0).all()), "a slope is 0, and 0 times infinity is no number")
        return m.op.Max(m.x, m.op.Mul(m.x, m.slope))

    return op.PRelu(x, slope), after, opset_at_least(8), dtype_in("x", {ir.DataType.FLOAT}), _kernel("Max"), _on_cpu


@rule(exact=False)
def power(op: Ops, x: Var, e: Scalar) -> Law:
    """x ^ e == sqrt(x), x sqrt(x), 1 / sqrt(x), 1 / x, 1 / (x x) or (x x) (x x)     e = 1/2, 3/2, -1/2, -1, -2 or 4

    The CPU's kernel of Pow multiplies for 2 and 3, and calls pow for each element otherwise: 12 ns where a root takes
    half of one. Roots only of what is never negative: the power of -infinity is infinite, its root no number.
    """

    def after(m: Match) -> Any:
        exponent, low = m.scalar("e"), least(m.x)
        m.require(exponent in (0.5, 1.5, -0.5, -1.0, -2.0, 4.0), f"the exponent is {exponent:g}")
        m.require(exponent not in (0.5, 1.5) or low >= 0, "x may be negative")
        m.require(exponent != -0.5 or low > 0, "x may be zero or negative")
        if exponent == -1:
            return m.op.Reciprocal(m.x)
        if exponent in (-2, 4):
            square = m.op.Mul(m.x, m.x)
            return m.op.Reciprocal(square) if exponent == -2 else m.op.Mul(square, square)
        root = m.op.Sqrt(m.x)
        return root if exponent == 0.5 else m.op.Mul(m.x, root) if exponent == 1.5 else m.op.Reciprocal(root)

    return op.Pow(x, e), after, opset_at_least(7), dtype_in("x", {ir.DataType.FLOAT}), _kernel("Sqrt"), _on_cpu


_FAR = 20.0
"""tanh(softplus(20)) is 1 in float32, and the square of exp(20) is still far from infinite."""


@rule(exact=False)
def mish(op: Ops, x: Var) -> Law:
    """x tanh(softplus x) == x n / (n + 2)     n = e (e + 2), e = exp(x); Misra 2019

    The CPU's kernel of Softplus takes one element at a time: 50 ns each where all of this takes 3.
    """

    def after(m: Match) -> Any:
        power = m.op.Exp(m.op.Min(m.x, _FAR))
        part = m.op.Mul(power, m.op.Add(power, 2.0))
        return m.op.Mul(m.x, m.op.Div(part, m.op.Add(part, 2.0)))

    soft = op.any_of(op.Softplus(x), op.Log(op.Add(op.Exp(x), 1.0)))
    before = [op.Mul(x, op.Tanh(soft)), op.Mish(x)]
    return before, after, opset_at_least(8), dtype_in("x", {ir.DataType.FLOAT}), _kernel("Exp"), _on_cpu


# --- hard and soft sigmoids ------------------------------------------------------------------------------------------


def _six(op: Ops, x: Var) -> AnyOf:
    """Clip(x + 3, 0, 6) as it is written before and after opset 11, or by Relu."""
    shifted = op.Add(x, 3.0)
    return op.any_of(
        op.Clip(shifted, 0.0, 6.0),
        op.Clip(shifted, min=0.0, max=6.0),
        op.Min(op.Relu(shifted), 6.0),
        op.Min(op.Max(shifted, 0.0), 6.0),
    )


@rule(exact=False)
def hard_sigmoid(op: Ops, x: Var) -> Law:
    """Clip(x + 3, 0, 6) / 6 == HardSigmoid(x, alpha=1/6, beta=1/2)"""
    six = _six(op, x)
    before = [op.Div(six, 6.0), op.Mul(six, _SIXTH)]
    return before, op.HardSigmoid(x, alpha=_SIXTH, beta=0.5), _kernel("HardSigmoid")


@rule(exact=False)
def hard_sigmoid_clip(op: Ops, x: Var, a: Scalar, b: Scalar) -> Law:
    """Clip(a x + b, 0, 1) == HardSigmoid(x, alpha=a, beta=b)     Keras writes a = 0.2, b = 0.5"""

    def after(m: Match) -> Any:
        return m.op.HardSigmoid(m.x, alpha=m.scalar("a"), beta=m.scalar("b"))

    line = op.Add(op.Mul(x, a), b)
    before = [op.Clip(line, 0.0, 1.0), op.Clip(line, min=0.0, max=1.0), op.Min(op.Relu(line), 1.0)]
    return before, after, _kernel("HardSigmoid")


def _hard_swish_runs(m: Match) -> bool | str:
    """HardSwish is a function of HardSigmoid and Mul: its cost is theirs."""
    kind = {"T": m.dtype("x")}
    own = m.ctx.allows("", "HardSwish", m.opset, kind)
    return own is True or m.ctx.allows("", "HardSigmoid", m.opset, kind)


def _swish_forms(op: Ops, x: Var) -> list[Op]:
    product = op.Mul(x, _six(op, x))
    return [
        op.Div(product, 6.0),
        op.Mul(product, _SIXTH),
        op.Mul(op.any_of(op.Div(x, 6.0), op.Mul(x, _SIXTH)), _six(op, x)),
    ]


@rule(exact=False)
def hard_swish_parts(op: Ops, x: Var) -> Law:
    """x Clip(x + 3, 0, 6) / 6 == x HardSigmoid(x, alpha=1/6, beta=1/2)     Howard et al. 2019"""

    def after(m: Match) -> Any:
        return m.op.Mul(m.x, m.op.HardSigmoid(m.x, alpha=_SIXTH, beta=0.5))

    return _swish_forms(op, x), after, _kernel("HardSigmoid")


@rule(exact=False)
def hard_swish(op: Ops, x: Var) -> Law:
    """x HardSigmoid(x, alpha=1/6, beta=1/2) == HardSwish(x)     ai.onnx 14"""
    before = op.Mul(x, op.any_of(op.HardSigmoid(x, alpha=_SIXTH, beta=0.5), op.HardSigmoid(x, alpha=_SIXTH)))
    return before, op.HardSwish(x), opset_at_least(14), _hard_swish_runs


@rule(exact=False)
def sigmoid(op: Ops, x: Var) -> Law:
    """1 / (1 + exp(-x)) == Sigmoid(x)     float32, whose kernel is vectorized"""

    def no_logarithm(m: Match) -> bool | str:
        # The kernel's result stays above 1e-8, which only a logarithm makes visible.
        return all(use.node.op_type != "Log" for use in m.out.uses()) or "its logarithm is taken"

    powers = op.Add(op.Exp(op.Neg(x)), 1.0)
    return (
        [op.Div(1.0, powers), op.Reciprocal(powers)],
        op.Sigmoid(x),
        dtype_in("x", {ir.DataType.FLOAT}),
        _kernel("Sigmoid"),
        no_logarithm,
    )


RULES = rules_of(globals())


@dataclass(frozen=True)
class Activation(RulePass):
    """Fuse HardSwish, HardSigmoid, Clip, LeakyRelu and Sigmoid from their parts; Pow, PRelu, Mish by faster kernels."""

    name = "activation"
    exact = False
    rules = RULES
