"""Algebra that holds for every value a type has: infinities, NaN, both zeros, and integers that wrap around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, INTEGERS, dtype_in
from accelc.pass_base import RulePass
from accelc.passes.forms import all_equal, clip, clip_limits, fits, once
from accelc.pattern import Const, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

Array = np.ndarray[Any, Any]

_SIGNED = FLOATS | {ir.DataType.INT32, ir.DataType.INT64}
"""The types that the runtime multiplies as well as negates."""
_COMPARED = {ir.DataType.INT32, ir.DataType.INT64}
_SMALL = 64
"""Constants of up to this many bytes may be written anew although others use the old one as well."""


# --- signs -----------------------------------------------------------------------------------------------------------


@rule(shared=True)
def times_minus_one(op: Ops, x: Var, c: Const) -> Law:
    """x * -1 == Neg(x)"""
    return op.Mul(x, c), op.Neg(x), all_equal("c", -1), fits("c", into="x"), dtype_in("x", _SIGNED)


@rule(shared=True)
def over_minus_one(op: Ops, x: Var, c: Const) -> Law:
    """x / -1 == Neg(x) for floats"""
    guards = dtype_in("x", FLOATS), all_equal("c", -1), fits("c", into="x")
    return op.Div(x, c), op.Neg(x), *guards


@rule(shared=True)
def zero_minus(op: Ops, x: Var, c: Const) -> Law:
    """0 - x == Neg(x) for integers; (-0.0) - x == Neg(x) for floats (0.0 - 0.0 is 0.0, not -0.0)"""

    def zero(m: Match) -> bool | str:
        return all_equal("c", -0.0 if m.dtype("x") in FLOATS else 0)(m)

    guards = dtype_in("x", _SIGNED), zero, fits("c", into="x")
    return op.Sub(c, x), op.Neg(x), *guards


@rule()
def add_negated(op: Ops, x: Var, y: Var) -> Law:
    """x + Neg(y) == x - y"""
    return op.Add(x, op.Neg(y)), op.Sub(x, y)


@rule()
def subtract_negated(op: Ops, x: Var, y: Var) -> Law:
    """x - Neg(y) == x + y"""
    return op.Sub(x, op.Neg(y)), op.Add(x, y)


@rule()
def product_of_negated(op: Ops, x: Var, y: Var) -> Law:
    """Neg(x) * Neg(y) == x * y"""
    return op.Mul(op.Neg(x), op.Neg(y)), op.Mul(x, y)


@rule()
def quotient_of_negated(op: Ops, x: Var, y: Var) -> Law:
    """Neg(x) / Neg(y) == x / y for floats"""
    return op.Div(op.Neg(x), op.Neg(y)), op.Div(x, y), dtype_in("x", FLOATS)


@rule()
def negated_difference(op: Ops, x: Var, y: Var) -> Law:
    """Neg(x - y) == y - x for integers (for floats x - x is 0.0 and its negative -0.0)"""
    return op.Neg(op.Sub(x, y)), op.Sub(y, x), dtype_in("x", INTEGERS)


@rule()
def abs_negated(op: Ops, x: Var) -> Law:
    """Abs(Neg(x)) == Abs(x)"""
    return op.Abs(op.Neg(x)), op.Abs(x)


def _negative(m: Match) -> Array:
    """The constant c with its sign turned; a miss where a second, large constant would arise."""
    array = m.const("c")
    m.require(once(m.c) or array.nbytes <= _SMALL, "c is used elsewhere, so its negative would be a second constant")
    with np.errstate(over="ignore"):
        return np.asarray(np.negative(array), array.dtype).reshape(array.shape)


@rule()
def sign_into_factor(op: Ops, x: Var, c: Const) -> Law:
    """Neg(x * c) == Neg(x) * c == x * -c"""

    def after(m: Match) -> ir.Value:
        return m.op.Mul(m.x, _negative(m))  # type: ignore[no-any-return]

    return [op.Neg(op.Mul(x, c)), op.Mul(op.Neg(x), c)], after, dtype_in("x", _SIGNED)


@rule()
def sign_into_divisor(op: Ops, x: Var, c: Const) -> Law:
    """Neg(x / c) == Neg(x) / c == x / -c for floats"""

    def after(m: Match) -> ir.Value:
        return m.op.Div(m.x, _negative(m))  # type: ignore[no-any-return]

    return [op.Neg(op.Div(x, c)), op.Div(op.Neg(x), c)], after, dtype_in("x", FLOATS)


@rule()
def sign_into_dividend(op: Ops, x: Var, c: Const) -> Law:
    """Neg(c / x) == c / Neg(x) == -c / x for floats"""

    def after(m: Match) -> ir.Value:
        return m.op.Div(_negative(m), m.x)  # type: ignore[no-any-return]

    return [op.Neg(op.Div(c, x)), op.Div(c, op.Neg(x))], after, dtype_in("x", FLOATS)


# --- integers --------------------------------------------------------------------------------------------------------


def _joined(m: Match, result: Array) -> Array:
    """A constant made of c and d; a miss where it needs more room than they did."""
    array = np.asarray(result, m.const("c").dtype)
    freed = sum(m.const(name).nbytes for name in ("c", "d") if once(getattr(m, name)))
    m.require(array.nbytes <= max(freed, _SMALL), "the joined constant would be larger")
    return array


@rule()
def integer_sum(op: Ops, x: Var, c: Const, d: Const) -> Law:
    """(x + c) + d == x + (c + d), likewise with minus, for integers: they wrap around"""

    def after(m: Match) -> ir.Value:
        inner, outer = m.node("inner").op_type, m.root.op_type
        with np.errstate(over="ignore"):
            first = m.const("c") if inner == "Add" else np.negative(m.const("c"))
            total = first + m.const("d") if outer == "Add" else first - m.const("d")
        return m.op.Add(m.x, _joined(m, total))  # type: ignore[no-any-return]

    inner = op.any_of(op.Add(x, c, _as="inner"), op.Sub(x, c, _as="inner"))
    return [op.Add(inner, d), op.Sub(inner, d)], after, dtype_in("x", INTEGERS)


@rule()
def integer_product(op: Ops, x: Var, c: Const, d: Const) -> Law:
    """(x * c) * d == x * (c * d) for integers: they wrap around"""

    def after(m: Match) -> ir.Value:
        with np.errstate(over="ignore"):
            return m.op.Mul(m.x, _joined(m, m.const("c") * m.const("d")))  # type: ignore[no-any-return]

    return op.Mul(op.Mul(x, c), d), after, dtype_in("x", INTEGERS)


_OPPOSITE = {
    "Less": "GreaterOrEqual",
    "Greater": "LessOrEqual",
    "LessOrEqual": "Greater",
    "GreaterOrEqual": "Less",
}


@rule()
def not_compared(op: Ops, x: Var, y: Var) -> Law:
    """Not(x < y) == (x >= y), and so on, for integers (NaN is neither)"""

    def after(m: Match) -> ir.Value:
        opposite = _OPPOSITE[m.node("inner").op_type]
        m.require(m.opset >= 12 or not opposite.endswith("OrEqual"), f"{opposite} needs opset 12")
        return getattr(m.op, opposite)(m.x, m.y)  # type: ignore[no-any-return]

    compared = op.any_of(*(getattr(op, name)(x, y, _as="inner") for name in _OPPOSITE))
    return op.Not(compared), after, dtype_in("x", _COMPARED)


# --- truth -----------------------------------------------------------------------------------------------------------


@rule()
def where_not(op: Ops, c: Var, x: Var, y: Var) -> Law:
    """Where(Not(c), x, y) == Where(c, y, x) for integers (floats: the kernel makes 0.0 of -0.0 in its first choice)"""
    return op.Where(op.Not(c), x, y), op.Where(c, y, x), dtype_in("x", INTEGERS)


@rule(shared=True)
def logic_negation(op: Ops, x: Var, c: Const) -> Law:
    """x xor true == (x == false) == Not(x)"""

    def value(m: Match) -> bool | str:
        return all_equal("c", m.root.op_type == "Xor")(m)

    return [op.Xor(x, c), op.Equal(x, c)], op.Not(x), dtype_in("x", {ir.DataType.BOOL}), value, fits("c", into="x")


# --- sums, bounds ----------------------------------------------------------------------------------------------------


@rule(shared=True)
def sum_of_two(op: Ops, x: Var, y: Var) -> Law:
    """Sum(x, y) == x + y"""
    return op.Sum(x, y), op.Add(x, y)


def _bounds(m: Match, node: ir.Node) -> tuple[Array | None, Array | None]:
    """The lower and upper bound of a Clip, None where absent. A miss where one is variable, not finite or -0.0."""
    limits = clip_limits(m, node)
    for array, name in zip(limits, ("min", "max"), strict=True):
        if array is not None and array.dtype.kind not in "iu":
            m.require(np.isfinite(array), f"{name} is not finite")
            m.require(array != 0 or not np.signbit(array), f"{name} is -0.0")
    return limits


def _largest(low: Array | None, high: Array | None) -> Array | None:
    if low is None or high is None:
        return high if low is None else low
    return np.maximum(low, high)


@rule()
def relu_of_clip(op: Ops, x: Var) -> Law:
    """Relu(Clip(x, low, high)) == Clip(x, low, high) where 0 <= low and 0 <= high"""

    def after(m: Match) -> ir.Value | None:
        low, high = _bounds(m, m.node("clip"))
        m.require(low is not None and low >= 0 and (high is None or high >= 0), "the bounds may be below 0")
        return m.root.inputs[0]

    return op.Relu(op.Clip(x, ..., _as="clip", _any=True)), after


@rule()
def clip_of_relu(op: Ops, x: Var) -> Law:
    """Clip(Relu(x), low, high) == Clip(x, max(low, 0), high)"""

    def after(m: Match) -> ir.Value:
        low, high = _bounds(m, m.root)
        m.require(m.opset >= 12 or m.dtype("x") in FLOATS, "an old Clip takes floats only")
        zero = np.zeros((), np.float32 if m.opset < 11 else m.dtype("x").numpy())
        return clip(m, m.x, _largest(low, zero), high)

    return op.Clip(op.Relu(x), ..., _any=True), after


def _smallest(first: Array | None, second: Array | None) -> Array | None:
    if first is None or second is None:
        return second if first is None else first
    return np.minimum(first, second)


@rule()
def clip_of_clip(op: Ops, x: Var) -> Law:
    """Clip(Clip(x, a, b), c, d) == Clip(x, max(a, c), min(b, d)) where the ranges overlap"""

    def after(m: Match) -> ir.Value:
        (a, b), (c, d) = _bounds(m, m.node("inner")), _bounds(m, m.root)
        m.require((a is None) == (c is None) and (b is None) == (d is None), "one is bounded where the other is not")
        low, high = _largest(a, c), _smallest(b, d)
        m.require(low is None or high is None or low <= high, "the ranges do not overlap")
        return clip(m, m.x, low, high)

    return op.Clip(op.Clip(x, ..., _as="inner", _any=True), ..., _any=True), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Algebra(RulePass):
    """Simplify arithmetic and logic by laws that hold in every bit."""

    name = "algebra"
    rules = RULES
