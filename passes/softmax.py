"""Softmax from its parts.

A sum of exponentials without the maximum taken off overflows where Softmax does not, so that form stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.pass_base import RulePass
from accelc.pattern import AnyOf, Const, Op, Ops, Term, Var
from accelc.rules import Guard, Law, Match, rule, rules_of

from ._folding import is_inner


def _reduce(op: Ops, kind: str, x: Term, axes: Const, label: str) -> AnyOf:
    make = getattr(op, kind)
    return op.any_of(make(x, axes=..., _as=label), make(x, axes, _as=label))


def _axis(m: Match, *labels: str) -> int:
    """The one axis that all reductions go over, which must be the last: there the kernel needs no transpose."""
    rank = len(m.dims("x"))
    found = set()
    for label in labels:
        node = m.node(label)
        axes = ir.attribute(node, "axes")
        if axes is None and len(node.inputs) > 1:
            array = ir.const(node.inputs[1])
            axes = None if array is None else array.reshape(-1).tolist()
        m.require(axes is not None and len(axes) == 1, "does not reduce one axis")
        found.add(int(axes[0]) % rank)
    m.require(found == {rank - 1}, "does not reduce the last axis everywhere")
    return rank - 1 if m.opset < 11 else -1


def _kernel(op_type: str) -> Guard:
    def guard(m: Match) -> bool | str:
        if m.dtype("x") != ir.DataType.FLOAT:  # the double kernel loses NaN and gains no time
            return f"x is {m.dtype('x')}"
        return m.ctx.allows("", op_type, m.opset, {"T": m.dtype("x")})

    return guard


def _shifted(op: Ops, x: Var, a: Const) -> Op:
    return op.Sub(x, _reduce(op, "ReduceMax", x, a, "max"))


@rule(exact=False, shared=True)
def softmax(op: Ops, x: Var, a: Const, b: Const) -> Law:
    """exp(x - max x) / sum exp(x - max x) == Softmax(x)     over the last axis"""

    def after(m: Match) -> Any:
        return m.op.Softmax(m.x, axis=_axis(m, "max", "sum"))

    power = op.Exp(_shifted(op, x, a))
    total = _reduce(op, "ReduceSum", power, b, "sum")
    return [op.Div(power, total), op.Mul(power, op.Reciprocal(total))], after, _kernel("Softmax"), is_inner


@rule(exact=False, shared=True)
def log_softmax(op: Ops, x: Var, a: Const, b: Const) -> Law:
    """(x - max x) - log sum exp(x - max x) == LogSoftmax(x)     over the last axis"""

    def after(m: Match) -> Any:
        return m.op.LogSoftmax(m.x, axis=_axis(m, "max", "sum"))

    shifted = _shifted(op, x, a)
    logarithm = op.any_of(
        op.Log(_reduce(op, "ReduceSum", op.Exp(shifted), b, "sum")), _reduce(op, "ReduceLogSumExp", shifted, b, "sum")
    )
    return op.Sub(shifted, logarithm), after, _kernel("LogSoftmax"), is_inner


RULES = rules_of(globals())


@dataclass(frozen=True)
class Softmax(RulePass):
    """Fuse Softmax and LogSoftmax from their parts."""

    name = "softmax"
    exact = False
    rules = RULES
