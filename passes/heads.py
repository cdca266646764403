"""Heads kept as a dimension of their own: products and transposes of batches that were merged only for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.pattern import Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._elements import elements
from .forms import sure_dims


def _merge(m: Match, value: ir.Value, node: ir.Node) -> tuple[ir.Dim, ...]:
    """The shape [b, h, m, n] of a value that a Reshape makes [b h, m, n]. A miss where it does not."""
    shape, name = sure_dims(value) or (), value.name
    wanted = elements(node.inputs[1]) or sure_dims(node.outputs[0]) or ()
    m.require(len(shape) == 4 and len(wanted) == 3, f"{name} is not merged from 4 to 3 dimensions")
    m.require(known_equal(shape[2:], wanted[1:]), f"{list(shape)} becomes {list(wanted)}")
    m.require(0 not in shape, f"{name} is empty")
    return shape


def _require_split(m: Match, wanted: tuple[ir.Dim, ...]) -> None:
    """A miss unless the root splits the batch into these dimensions again. One may be -1: it follows from the others.

    A dimension of size 0 stands for itself here: where the number of elements is 0 the shapes that are compared by
    their symbols could be read in another way, but then the original is refused by the runtime or empty as well.
    """
    found = elements(m.root.inputs[1]) or sure_dims(m.out) or ()
    m.require(len(found) == len(wanted), "the result has another rank")
    rest = [a for a, b in zip(found, wanted, strict=True) if not known_equal((a,), (b,))]
    m.require(rest in ([], [-1]), f"is split into {list(found)}, not {list(wanted)}")


def _merged(op: Ops, x: Var, s: Var, label: str) -> Op:
    return op.Reshape(x, s, _as=label, allowzero=...)


@rule()
def transpose_merged(op: Ops, x: Var, s: Var, t: Var) -> Law:
    """Reshape(Transpose(Reshape(x, [b h, m, n])), [b, h, n, m]) == Transpose(x, [0, 1, 3, 2])"""

    def after(m: Match) -> Any:
        b, h, rows, columns = _merge(m, m.x, m.node("merge"))
        _require_split(m, (b, h, columns, rows))
        return m.op.Transpose(m.x, perm=[0, 1, 3, 2])

    turned = op.Transpose(_merged(op, x, s, "merge"), perm=[0, 2, 1])
    return op.Reshape(turned, t, allowzero=...), after


def _apart(m: Match, value: ir.Value | None) -> tuple[Callable[[], ir.Value], tuple[ir.Dim, ...]]:
    """A value [b h, m, n] as [b, h, m, n], made when called, and that shape. A miss where it was not merged from it.

    Between the merge and the value may stand a transpose and factors of one element that nothing else uses.
    """
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or node.op_type not in ("Reshape", "Transpose", "Mul", "Div"):
        m.fail(f"{value.name if value is not None else 'a factor'} is not merged from 4 dimensions")
    first = node.inputs[0]
    if node.op_type == "Reshape" and first is not None:
        return lambda: first, _merge(m, first, node)
    alone = not value.is_graph_output() and len({use.node for use in value.uses()}) == 1
    m.require(alone, f"{value.name} is used elsewhere")
    inner, shape = _apart(m, first)
    if node.op_type == "Transpose":
        m.require(tuple(ir.attribute(node, "perm") or ()) == (0, 2, 1), f"{value.name} is transposed in another way")
        turned = (*shape[:2], shape[3], shape[2])
        return lambda: m.op.Transpose(inner(), perm=[0, 1, 3, 2]), turned
    m.require(_one_element(node.inputs[1]), f"{value.name} is not scaled by a constant of one element")
    return lambda: m.op.copy(node, [inner(), node.inputs[1]]), shape


def _one_element(value: ir.Value | None) -> bool:
    array = ir.const(value)
    return array is not None and array.size == 1 and array.ndim <= 3


def _product(m: Match, value: ir.Value | None) -> tuple[Callable[[], ir.Value], tuple[ir.Dim, ...]]:
    """The same of a product of two values that were merged, and of such a product with a factor."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or node.op_type not in ("MatMul", "Mul", "Div"):
        m.fail("no summand is a product of values that were merged from 4 dimensions")
    alone = not value.is_graph_output() and len({use.node for use in value.uses()}) == 1
    m.require(alone, f"{value.name} is used elsewhere")
    if node.op_type != "MatMul":
        m.require(_one_element(node.inputs[1]), f"{value.name} is not scaled by a constant of one element")
        inner, shape = _product(m, node.inputs[0])
        return lambda: m.op.copy(node, [inner(), node.inputs[1]]), shape
    (left, x_shape), (right, y_shape) = _apart(m, node.inputs[0]), _apart(m, node.inputs[1])
    m.require(known_equal(x_shape[:2], y_shape[:2]), f"batches {x_shape[:2]} and {y_shape[:2]}")
    return lambda: m.op.MatMul(left(), right()), (*x_shape[:3], y_shape[3])


@rule(shared=True)
def matmul_merged(op: Ops, x: Var, y: Var, u: Var) -> Law:
    """Reshape(Reshape(x, [b h, m, k]) Reshape(y, [b h, k, n]), [b, h, m, n]) == x y     also transposed, scaled"""

    def after(m: Match) -> Any:
        made, shape = _product(m, m.node("product").outputs[0])
        _require_split(m, shape)
        return made()

    return op.Reshape(op.MatMul(x, y, _as="product"), u, allowzero=...), after


@rule(shared=True)
def sum_merged(op: Ops, x: Var, y: Var, u: Var) -> Law:
    """Reshape(Reshape(x, [b h, m, k]) Reshape(y, [b h, k, n]) + z, [b, h, m, n]) == x y + Reshape(z, [b, h, m, n])"""

    def after(m: Match) -> Any:
        found = sure_dims(m.node("sum").outputs[0])
        alone = {use.node for use in m.node("sum").outputs[0].uses()} == {m.root}
        m.require(alone and not m.node("sum").outputs[0].is_graph_output(), "the sum is used elsewhere")
        made, shape = _product(m, m.x)
        _require_split(m, shape)
        added, scores = m.dims("y"), m.dims("x")
        m.require(len(added) == len(scores) == 3 and found is not None, "the sum is not of rank 3")
        m.require(known_equal(added[:1], scores[:1]), f"{m.y.name} is not of batch size {scores[0]}")
        m.require(known_equal(added[2:], scores[2:]), f"{m.y.name} varies along other columns")
        target: Any = m.u
        if not known_equal(added[1:2], scores[1:2]):
            m.require(added[1] == 1, f"{m.y.name} varies along other rows")
            one = m.op.weight(np.ones(1, np.int64))
            target = m.op.Concat(m.op.Slice(m.u, [0], [2], [0]), one, m.op.Slice(m.u, [3], [4], [0]), axis=0)
            m.require(m.opset >= 10, "Slice has no inputs for its bounds before opset 10")
        return m.op.Add(made(), m.op.Reshape(m.y, target, allowzero=ir.attribute(m.root, "allowzero")))

    return op.Reshape(op.Add(x, y, _as="sum"), u, allowzero=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Heads(RulePass):
    """Keep batch and heads apart where they are merged only for a product or a transpose."""

    name = "heads"
    rules = RULES
