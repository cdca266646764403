"""Gaussian error linear units in the forms that exporters write, as one operator that the target has a kernel for.

SiLU (x * sigmoid x) stays: the runtime fuses it by itself while loading, and the vendor operator takes more bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelc.guards import kernel
from accelc.pass_base import RulePass
from accelc.pattern import Op, Ops, Scalar, Term, Var
from accelc.rules import Guard, Law, Match, rule, rules_of

_ROOT = math.sqrt(2)
_TANH = math.sqrt(2 / math.pi)
_CUBIC = 0.044715


def _gated(op: Ops, x: Var, gate: Callable[[], list[Term]], half_gate: Callable[[], list[Term]]) -> list[Op]:
    """Every way to write x * 0.5 * gate. half_gate: further terms for half of the gate."""
    halves = [term for each in gate() for term in (op.Mul(each, 0.5), op.Div(each, 2.0))] + half_gate()
    halved = op.any_of(op.Mul(x, 0.5), op.Div(x, 2.0))
    return [
        *(form for each in gate() for form in (op.Mul(op.Mul(x, each), 0.5), op.Div(op.Mul(x, each), 2.0))),
        op.Mul(x, op.any_of(*halves)),
        *(op.Mul(halved, each) for each in gate()),
    ]


def _erf_forms(op: Ops, x: Var) -> list[Op]:
    def erf() -> Op:
        return op.Erf(op.any_of(op.Div(x, _ROOT), op.Mul(x, 1 / _ROOT)))

    def minus_erf() -> Op:
        back = op.Neg(x)
        return op.Erf(op.any_of(op.Div(back, _ROOT), op.Mul(back, 1 / _ROOT), op.Mul(x, -1 / _ROOT), op.Div(x, -_ROOT)))

    return _gated(
        op, x, lambda: [op.Add(erf(), 1.0), op.Sub(1.0, minus_erf())], lambda: [op.Add(op.Mul(erf(), 0.5), 0.5)]
    )


def _tanh_forms(op: Ops, x: Var) -> list[Op]:
    square = op.any_of(op.Mul(x, x), op.Pow(x, 2.0))
    cubic = op.any_of(
        op.Mul(op.any_of(op.Pow(x, 3.0), op.Mul(x, square)), _CUBIC),
        op.Mul(op.Mul(op.Mul(x, _CUBIC), x), x),
        op.Mul(op.Mul(x, _CUBIC), square),
        op.Mul(op.Mul(square, _CUBIC), x),
    )
    factor = op.Add(op.any_of(op.Mul(square, _CUBIC), op.Mul(op.Mul(x, _CUBIC), x)), 1.0)
    argument = op.any_of(
        op.Mul(op.any_of(op.Add(x, cubic), op.Mul(x, factor)), _TANH), op.Mul(op.Mul(x, _TANH), factor)
    )

    def tanh() -> Op:
        return op.Tanh(argument)

    return _gated(op, x, lambda: [op.Add(tanh(), 1.0)], lambda: [op.Add(op.Mul(tanh(), 0.5), 0.5)])


def _standard_opset(m: Match) -> bool:
    """Whether Gelu of ai.onnx can stand here as the model is."""
    return m.opset >= 20 and m.ctx.allows("", "Gelu", m.opset, {"T": m.dtype("x")}) is True


def _either(vendor: str) -> Guard:
    """The target has a kernel for Gelu: of ai.onnx at the model's opset, or the vendor's."""

    def guard(m: Match) -> bool | str:
        return _standard_opset(m) or m.ctx.allows("com.microsoft", vendor, m.opset, {"T": m.dtype("x")})

    return guard


def _raised(m: Match) -> bool | str:
    return m.ctx.allows("", "Gelu", max(m.opset, 20), {"T": m.dtype("x")})


@rule(exact=False)
def gelu_erf(op: Ops, x: Var) -> Law:
    """x/2 * (1 + erf(x / sqrt 2)) == Gelu(x)     Hendrycks & Gimpel 2016; ai.onnx Gelu-20 or com.microsoft"""

    def after(m: Match) -> Any:
        return m.op.Gelu(m.x) if _standard_opset(m) else m.op.ms.Gelu(m.x)

    return _erf_forms(op, x), after, _either("Gelu")


@rule(exact=False, opset=20)
def gelu_erf_20(op: Ops, x: Var) -> Law:
    """x/2 * (1 + erf(x / sqrt 2)) == Gelu(x)     ai.onnx Gelu-20, raising the opset"""
    return _erf_forms(op, x), op.Gelu(x), _raised


@rule(exact=False)
def gelu_tanh(op: Ops, x: Var) -> Law:
    """x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) == Gelu(x, approximate=tanh)     or com.microsoft FastGelu"""

    def after(m: Match) -> Any:
        return m.op.Gelu(m.x, approximate="tanh") if _standard_opset(m) else m.op.ms.FastGelu(m.x)

    return _tanh_forms(op, x), after, _either("FastGelu")


@rule(exact=False, opset=20)
def gelu_tanh_20(op: Ops, x: Var) -> Law:
    """x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) == Gelu(x, approximate=tanh)     raising the opset"""
    return _tanh_forms(op, x), op.Gelu(x, approximate="tanh"), _raised


@rule(exact=False)
def quick_gelu(op: Ops, x: Var, a: Scalar) -> Law:
    """x * sigmoid(a x) == QuickGelu(x, alpha=a)     CLIP's form of GELU with a = 1.702; com.microsoft"""

    def after(m: Match) -> Any:
        alpha = m.scalar("a")
        m.require(math.isfinite(alpha), "a is not finite")
        return m.op.ms.QuickGelu(m.x, alpha=alpha)

    return op.Mul(x, op.Sigmoid(op.Mul(x, a))), after, kernel("QuickGelu", T="x")


RULES = rules_of(globals())


@dataclass(frozen=True)
class Gelu(RulePass):
    """Fuse GELU (erf, tanh, quick) into one operator."""

    name = "gelu"
    exact = False
    rules = RULES
