"""Heads kept as a dimension of their own: products and transposes of batches that were merged only for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.pattern import Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._elements import elements


def _require_merge(m: Match, name: str, label: str) -> tuple[ir.Dim, ...]:
    """The shape [b, h, m, n] of a value that the Reshape of this label makes [b h, m, n]. A miss where it does not."""
    shape, node = m.dims(name), m.node(label)
    wanted = elements(node.inputs[1]) or ir.dims(node.outputs[0]) or ()
    m.require(len(shape) == 4 and len(wanted) == 3, f"{name} is not merged from 4 to 3 dimensions")
    m.require(known_equal(shape[2:], wanted[1:]), f"{list(shape)} becomes {list(wanted)}")
    return shape


def _require_split(m: Match, wanted: tuple[ir.Dim, ...]) -> None:
    """A miss unless the root splits the batch into these dimensions again. One may be -1: it follows from the others.

    A dimension of size 0 stands for itself here: where the number of elements is 0 the shapes that are compared by
    their symbols could be read in another way, but then the original is refused by the runtime or empty as well.
    """
    found = elements(m.root.inputs[1]) or ir.dims(m.out) or ()
    m.require(len(found) == len(wanted), "the result has another rank")
    rest = [a for a, b in zip(found, wanted, strict=True) if not known_equal((a,), (b,))]
    m.require(rest in ([], [-1]), f"is split into {list(found)}, not {list(wanted)}")


def _merged(op: Ops, x: Var, s: Var, label: str) -> Op:
    return op.Reshape(x, s, _as=label, allowzero=...)


@rule()
def transpose_merged(op: Ops, x: Var, s: Var, t: Var) -> Law:
    """Reshape(Transpose(Reshape(x, [b h, m, n])), [b, h, n, m]) == Transpose(x, [0, 1, 3, 2])"""

    def after(m: Match) -> Any:
        b, h, rows, columns = _require_merge(m, "x", "merge")
        _require_split(m, (b, h, columns, rows))
        return m.op.Transpose(m.x, perm=[0, 1, 3, 2])

    turned = op.Transpose(_merged(op, x, s, "merge"), perm=[0, 2, 1])
    return op.Reshape(turned, t, allowzero=...), after


@rule()
def matmul_merged(op: Ops, x: Var, y: Var, s: Var, t: Var, u: Var) -> Law:
    """Reshape(Reshape(x, [b h, m, k]) Reshape(y, [b h, k, n]), [b, h, m, n]) == x y"""

    def after(m: Match) -> Any:
        x_shape = _require_merge(m, "x", "left")
        y_shape = _require_merge(m, "y", "right")
        m.require(known_equal(x_shape[:2], y_shape[:2]), f"batches {x_shape[:2]} and {y_shape[:2]}")
        turned = m.has("turn")
        _require_split(m, (*x_shape[:3], y_shape[2] if turned else y_shape[3]))
        return m.op.MatMul(m.x, m.op.Transpose(m.y, perm=[0, 1, 3, 2]) if turned else m.y)

    right = _merged(op, y, t, "right")
    other = op.any_of(right, op.Transpose(_merged(op, y, t, "right"), perm=[0, 2, 1], _as="turn"))
    return op.Reshape(op.MatMul(_merged(op, x, s, "left"), other), u, allowzero=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Heads(RulePass):
    """Keep batch and heads apart where they are merged only for a product or a transpose."""

    name = "heads"
    rules = RULES
