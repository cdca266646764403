"""Expand, where its effect is none or comes about by broadcasting anyway."""

from __future__ import annotations

from collections.abc import Sequence

from accelc import ir
from accelc.passes.forms import COMBINING, broadcasts_into, dims_of, int_list, producer, sure_dims, value_in
from accelc.pattern import Const, Ops, Var
from accelc.rules import Law, Match, rule, rules_of


@rule(shared=True)
def expand_to_same(op: Ops, x: Var, s: Const) -> Law:
    """Expand(x, s) == x where s asks for nothing wider"""

    def same(m: Match) -> bool | str:
        target = int_list(m.s)
        return (target is not None and broadcasts_into(tuple(target), dims_of(m, m.x))) or "may widen the shape"

    return op.Expand(x, s), x, same


@rule(shared=True)
def expand_of_expand(op: Ops, x: Var, s: Const, t: Const) -> Law:
    """Expand(Expand(x, s), t) == Expand(x, s and t broadcast together)"""

    def after(m: Match) -> ir.Value:
        first, second = int_list(m.s) or [], int_list(m.t) or []
        m.require(min([*first, *second], default=0) >= 0, "a negative size")
        rank = max(len(first), len(second))
        pairs = zip([1] * (rank - len(first)) + first, [1] * (rank - len(second)) + second, strict=True)
        joined = [b if a == 1 else a for a, b in pairs]
        return m.op.Expand(m.x, joined)  # type: ignore[no-any-return]

    return op.Expand(op.Expand(x, s), t), after


def _is_shape_of(s: ir.Value, others: Sequence[ir.Value]) -> bool:
    node = s.producer()
    if node is None or node.op_type != "Shape" or node.domain or node.attributes:
        return False
    return any(node.inputs[0] is other for other in others)


def _wide_enough(
    expanded: tuple[ir.Dim, ...] | None, x: tuple[ir.Dim, ...] | None, others: Sequence[tuple[ir.Dim, ...] | None]
) -> bool:
    """Whether the result keeps its shape without the Expand: each axis it widens is that long in another input."""
    if expanded is None or x is None:
        return False
    for back in range(1, len(expanded) + 1):
        dim = expanded[-back]
        before = x[-back] if back <= len(x) else None
        there = [other[-back] for other in others if other is not None and back <= len(other)]
        if dim is None or not (before == dim or dim in there or (dim == 1 and there)):
            return False
    return True


@rule(shared=True, feeder="Expand")
def expand_before_broadcast(op: Ops) -> Law:
    """F(Expand(x, s), y) == F(x, y) where y asks for that shape anyway, or s is Shape(y)"""

    def after(m: Match) -> ir.Value:
        inputs = [value_in(m, m.root, index) for index in range(len(m.root.inputs))]
        m.require(all(name not in m.root.attributes for name in ("axis", "broadcast")), "an old form of broadcasting")
        for index, value in enumerate(inputs):
            node = producer(m, value, "Expand", single=False)
            if node is None:
                continue
            x, s = value_in(m, node), value_in(m, node, 1)
            others = [each for at, each in enumerate(inputs) if at != index]
            if _is_shape_of(s, others) or _wide_enough(sure_dims(value), sure_dims(x), [sure_dims(o) for o in others]):
                return m.op.copy(m.root, [*inputs[:index], x, *inputs[index + 1 :]])  # type: ignore[no-any-return]
        return m.fail("no input is an Expand whose shape the others bring about")

    return [getattr(op, name)(...) for name in COMBINING], after


RULES = rules_of(globals())
