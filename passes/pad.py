"""Pad that adds nothing, and Pads after each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.pass_base import RulePass
from accelc.passes.forms import input_of, list_of, normal_axes, rank_of
from accelc.pattern import Ops, Var
from accelc.rules import Law, Match, rule, rules_of


def _pads(m: Match, node: ir.Node) -> tuple[list[int], list[int]]:
    """The axes of a Pad from the front, and its pads: all that stand before, then all that stand behind."""
    pads = list_of(m, node, "pads", 1)
    if pads is None:
        m.fail("the pads are not given")
    axes = list_of(m, node, "axes", 3)
    rank = rank_of(node.inputs[0])
    found = normal_axes(m, axes, rank) if axes is not None else list(range(len(pads) // 2))
    m.require(len(pads) == 2 * len(found), "pads and axes do not belong together")
    return found, pads


def _fill(m: Match, node: ir.Node) -> bytes | None:
    """The bytes of the value a Pad in constant mode adds; None for zero. A miss where it is not constant."""
    value = input_of(node, 2)
    if value is None:
        attr = float(ir.attribute(node, "value", 0.0))
        return None if attr == 0 and not np.signbit(attr) else np.float32(attr).tobytes()
    array = ir.const(value)
    if array is None:
        m.fail("the value it adds is not constant")
    data = array.tobytes()
    return data if any(data) else None


@rule(shared=True)
def pad_nothing(op: Ops, x: Var) -> Law:
    """Pad(x, [0, ..., 0]) == x"""

    def nothing(m: Match) -> bool | str:
        return not any(_pads(m, m.root)[1]) or "adds or removes something"

    return op.Pad(x, ..., pads=..., mode=..., value=...), x, nothing


@rule()
def pad_of_pad(op: Ops, x: Var) -> Law:
    """Pad(Pad(x, p), q) == Pad(x, p + q) for constant mode with one value, and for edge mode, where both only add"""

    def after(m: Match) -> ir.Value:
        inner, outer = m.node("inner"), m.root
        mode = m.attr("mode", node="inner")
        m.require(mode == m.attr("mode") and mode in ("constant", "edge"), f"modes {mode} and {m.attr('mode')}")
        m.require(mode == "edge" or _fill(m, inner) == _fill(m, outer), "they add different values")
        first, second = _pads(m, inner), _pads(m, outer)
        m.require(min(first[1] + second[1]) >= 0, "a Pad also removes")
        total: dict[int, list[int]] = {}
        for axes, pads in (first, second):
            for index, axis in enumerate(axes):
                before, behind = total.get(axis, [0, 0])
                total[axis] = [before + pads[index], behind + pads[index + len(axes)]]
        order = sorted(total)
        pads = [total[axis][0] for axis in order] + [total[axis][1] for axis in order]
        if m.opset < 11:
            return m.op.copy(outer, [m.x], pads=pads)  # type: ignore[no-any-return]
        rank = rank_of(m.x)
        every = rank == len(order) or input_of(inner, 3) is None or input_of(outer, 3) is None
        return m.op.copy(outer, [m.x, pads, input_of(outer, 2), None if every else order])  # type: ignore[no-any-return]

    inner = op.Pad(x, ..., pads=..., mode=..., value=..., _as="inner")
    return op.Pad(inner, ..., pads=..., mode=..., value=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Pad(RulePass):
    """Merge Pads and drop those that add nothing."""

    name = "pad"
    rules = RULES
