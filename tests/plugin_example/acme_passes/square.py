"""Powers as products."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import Law, Ops, RulePass, Var, ir, rule, rules_of
from accelc.guards import dtype_in


@rule(exact=True)
def pow_two(op: Ops, x: Var) -> Law:
    """x ^ 2 == x * x"""
    return op.Pow(x, 2.0), op.Mul(x, x), dtype_in("x", {ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Square(RulePass):
    """Write squares as products."""

    name = "square"
    rules = rules_of(globals())
