"""Residual connections on the processor: keep the runtime from joining Add and LayerNormalization.

ONNX Runtime replaces Add + LayerNormalization by SkipLayerNormalization when it loads a model, and its kernel for that
takes two to five times as long as the two operators by themselves. It does not look for Sum.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.guards import dtype_in
from accelc.pass_base import RulePass
from accelc.pattern import Ops, Var
from accelc.rule import Law, Match, rule, rules_of

_HEADS = 3
"""Query, key and value: the runtime fuses attention only where a norm feeds three products and one Add."""


def on_cpu(m: Match) -> bool | str:
    provider = m.ctx.target.provider
    return provider == "CPUExecutionProvider" or f"{provider} gains from SkipLayerNormalization"


def may_have_one_shape(m: Match) -> bool | str:
    left, right = ir.dims(m.x), ir.dims(m.y)
    if left is None or right is None:
        return True
    pairs = zip(left, right, strict=False)
    clash = len(left) != len(right) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    return not clash or f"shapes {left} and {right} differ, so the runtime does not fuse them"


def feeds_norm(m: Match) -> bool | str:
    found = any(_is_norm(use.node) and use.idx == 0 for use in m.out.uses())
    return found or "no LayerNormalization takes it"


def outside_attention(m: Match) -> bool | str:
    """The runtime's own attention fusion, which needs the Add, cannot start at either input."""
    for value in (m.x, m.y):
        node = value.producer()
        if node is not None and _is_norm(node):
            products = sum(use.node.op_type == "MatMul" and not use.node.domain for use in value.uses())
            if products >= _HEADS:
                return "the runtime may fuse attention here"
    return True


def _is_norm(node: ir.Node) -> bool:
    return node.op_type == "LayerNormalization" and not node.domain


@rule(exact=True, opset=8)
def residual_sum(op: Ops, x: Var, y: Var) -> Law:
    """Add(x, y) == Sum(x, y)          before LayerNormalization; ONNX Sum-8"""
    guards = (feeds_norm, on_cpu, dtype_in("x", {ir.DataType.FLOAT}), may_have_one_shape, outside_attention)
    return op.Add(x, y), op.Sum(x, y), *guards


RULES = rules_of(globals())


@dataclass(frozen=True)
class Residual(RulePass):
    """Write residual additions so that the runtime does not fuse them into its slower SkipLayerNormalization."""

    name = "residual"
    rules = RULES
