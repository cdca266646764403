"""Casts that change nothing, and chains of casts whose middle type holds every value of the first."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.pass_base import RulePass
from accelc.pattern import Ops, Var
from accelc.rules import Law, Match, rule, rules_of

T = ir.DataType
_INTS = {
    T.INT8: (True, 8),
    T.INT16: (True, 16),
    T.INT32: (True, 32),
    T.INT64: (True, 64),
    T.UINT8: (False, 8),
    T.UINT16: (False, 16),
    T.UINT32: (False, 32),
    T.UINT64: (False, 64),
}
_SIGNIFICANT = {T.FLOAT16: 11, T.BFLOAT16: 8, T.FLOAT: 24, T.DOUBLE: 53}
"""Bits of the significand: every integer of up to so many bits is held exactly."""
_WIDER_FLOATS = {
    T.FLOAT16: {T.FLOAT, T.DOUBLE},
    T.BFLOAT16: {T.FLOAT, T.DOUBLE},
    T.FLOAT: {T.DOUBLE},
    T.DOUBLE: set(),
}


def lossless(source: ir.DataType, to: ir.DataType) -> bool:
    """Whether every value of one type is a value of the other."""
    if source == to:
        return True
    if source == T.BOOL:
        return to in _INTS or to in _SIGNIFICANT
    if source in _INTS:
        signed, bits = _INTS[source]
        if to in _SIGNIFICANT:
            return bits - signed <= _SIGNIFICANT[to]
        if to not in _INTS:
            return False
        to_signed, to_bits = _INTS[to]
        return to_bits >= bits if to_signed == signed else to_signed and to_bits > bits
    return to in _WIDER_FLOATS.get(source, set())


def skippable(source: ir.DataType, middle: ir.DataType, to: ir.DataType) -> bool:
    """Whether Cast(Cast(x, middle), to) is Cast(x, to) for every x of type source."""
    if source in _INTS and middle in _INTS and to in _INTS and _INTS[to][1] <= _INTS[middle][1]:
        return True  # the low bits stay the same
    if not lossless(source, middle):
        return False
    if to == T.BOOL:
        return True
    if to in _INTS:
        return (source == T.BOOL or source in _INTS) and (middle in _INTS or lossless(source, to))
    if to in (T.FLOAT, T.DOUBLE):
        return True
    return to in (T.FLOAT16, T.BFLOAT16) and (lossless(source, to) or source in _SIGNIFICANT)


def _target(m: Match, node: ir.Node) -> ir.DataType:
    """The type a Cast makes; a miss in opset 1 to 5, where it is a text."""
    to = ir.attribute(node, "to")
    if not isinstance(to, int):
        m.fail("the type is a text")
    return T(to)


@rule(shared=True)
def cast_to_own_type(op: Ops, x: Var) -> Law:
    """Cast(x, to=T) == x where x is of type T"""

    def same(m: Match) -> bool | str:
        return _target(m, m.root) == m.dtype("x") or "changes the type"

    return op.Cast(x, _any=True), x, same


@rule(shared=True)
def cast_like(op: Ops, x: Var, y: Var) -> Law:
    """CastLike(x, y) == Cast(x, to=type of y)"""

    def after(m: Match) -> ir.Value:
        to = m.dtype("y")
        if m.dtype("x") == to:
            return m.x
        kept = {name: attr for name, attr in m.root.attributes.items() if name in ("saturate", "round_mode")}
        return m.op.Cast(m.x, to=int(to), **kept)  # type: ignore[no-any-return]

    return op.CastLike(x, y, _any=True), after


@rule(shared=True)
def cast_of_cast(op: Ops, x: Var) -> Law:
    """Cast(Cast(x, A -> B), B -> C) == Cast(x, A -> C), x where C is A, if B loses nothing that C keeps"""

    def after(m: Match) -> ir.Value:
        source, middle, to = m.dtype("x"), _target(m, m.node("inner")), _target(m, m.root)
        m.require(skippable(source, middle, to), f"{source} -> {middle} -> {to} is not {source} -> {to}")
        return m.x if source == to else m.op.Cast(m.x, to=int(to))

    return op.Cast(op.Cast(x, to=..., _as="inner"), to=...), after


_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather")


@rule()
def cast_around_move(op: Ops, x: Var) -> Law:
    """Cast(Move(Cast(x, A -> B)), B -> A) == Move(x) where B holds every A and Move only moves elements"""

    def after(m: Match) -> ir.Value:
        source, move = m.dtype("x"), m.node("move")
        m.require(_target(m, m.root) == source, "does not return to the type it came from")
        m.require(lossless(source, _target(m, m.node("inner"))), "the type between loses something")
        return m.op.copy(move, [m.x, *move.inputs[1:]])  # type: ignore[no-any-return]

    moves = [getattr(op, name)(op.Cast(x, to=..., _as="inner"), ..., _as="move", _any=True) for name in _MOVES]
    return op.Cast(op.any_of(*moves), to=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Cast(RulePass):
    """Remove casts that change nothing and the middle of cast chains."""

    name = "cast"
    rules = RULES
