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
from accelc.rules import Law, Match, rule, rules_of

_HEADS = 3
"""Query, key and value: the runtime fuses attention only where a norm feeds three products and one Add."""
_STEPS_TO_SOFTMAX = 7
"""From the Add back: bias, output projection, Reshape, Transpose, product with the values, and one to spare."""


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
    """The runtime's own attention fusion, which needs the Add, cannot start here.

    It looks for a norm that feeds query, key, value and the Add, and for a plain Softmax behind the Add's other input.
    """
    for norm, other in ((m.x, m.y), (m.y, m.x)):
        node = norm.producer()
        if node is None or not _is_norm(node):
            continue
        products = sum(use.node.op_type == "MatMul" and not use.node.domain for use in norm.uses())
        if products >= _HEADS and _comes_from_softmax(other):
            return "the runtime may fuse attention here"
    return True


def _comes_from_softmax(value: ir.Value | None) -> bool:
    """Whether a value is computed from a Softmax by the operators that follow it in attention."""
    for _ in range(_STEPS_TO_SOFTMAX):
        node = value.producer() if value is not None else None
        if node is None:
            return False
        if node.op_type == "Softmax":
            return True
        if node.op_type not in ("Add", "MatMul", "Gemm", "Reshape", "Transpose"):
            return False
        value = next((each for each in node.inputs if not ir.is_constant(each)), None)
    return False


def outside_embedding(m: Match) -> bool | str:
    """The sum is not one of embeddings, which the runtime fuses into one operator with the norm."""
    both = all(_is_embedding(each) for each in (m.x, m.y))
    return not both or "the runtime may fuse embeddings here"


def _is_embedding(value: ir.Value) -> bool:
    """Whether a value is made of rows of constant tables and nothing else."""
    node = value.producer()
    if node is None or node.domain:
        return False
    if node.op_type == "Gather":
        return ir.is_constant(node.inputs[0])
    return node.op_type == "Add" and all(each is not None and _is_embedding(each) for each in node.inputs)


def _is_norm(node: ir.Node) -> bool:
    return node.op_type == "LayerNormalization" and not node.domain


@rule(exact=True, opset=8)
def residual_sum(op: Ops, x: Var, y: Var) -> Law:
    """Add(x, y) == Sum(x, y)          before LayerNormalization; ONNX Sum-8"""
    guards = (
        feeds_norm,
        on_cpu,
        dtype_in("x", {ir.DataType.FLOAT}),
        may_have_one_shape,
        outside_attention,
        outside_embedding,
    )
    return op.Add(x, y), op.Sum(x, y), *guards


RULES = rules_of(globals())


@dataclass(frozen=True)
class Residual(RulePass):
    """Write residual additions so that the runtime does not fuse them into its slower SkipLayerNormalization."""

    name = "residual"
    rules = RULES
