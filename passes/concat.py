"""Concat: flattened, emptied of empty parts, and undone where it puts together what was just taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from accelc import ir
from accelc.guards import FLOATS, INTEGERS
from accelc.pass_base import RulePass
from accelc.passes.forms import (
    ALL,
    INF,
    Range,
    make_slice,
    normal_axes,
    once,
    producer,
    rank_of,
    slice_ranges,
    sure_dims,
    value_in,
)
from accelc.pattern import Ops, Var
from accelc.rules import Law, Match, rule, rules_of

_PLAIN = FLOATS | INTEGERS | {ir.DataType.BOOL}


def _values(m: Match) -> list[ir.Value]:
    return [value_in(m, m.root, index) for index in range(len(m.root.inputs))]


def _rank(node: ir.Node) -> int | None:
    ranks = (rank_of(value) for value in [*node.outputs, *node.inputs])
    return next((rank for rank in ranks if rank is not None), None)


def _axis(m: Match, node: ir.Node) -> int:
    """The axis of a Concat, counted from the front."""
    return normal_axes(m, [int(ir.attribute(node, "axis", 1))], _rank(node))[0]


def _joins_along(node: ir.Node, axis: int) -> bool:
    """Whether a node surely is a Concat along this axis, counted from the front."""
    if node.domain or node.op_type != "Concat" or any(attr.is_ref() for attr in node.attributes.values()):
        return False
    given, rank = int(ir.attribute(node, "axis", 1)), _rank(node)
    return given == axis or (rank is not None and given + rank == axis)


def _flat(root: ir.Node, axis: int) -> list[ir.Value]:
    """The inputs of a Concat, in place of each Concat along the same axis that only it uses the inputs of that one."""
    parts: list[ir.Value] = []
    stack = [value for value in reversed(root.inputs) if value is not None]
    while stack:
        value = stack.pop()
        inner = value.producer()
        if inner is not None and inner.graph is root.graph and once(value) and _joins_along(inner, axis):
            stack += [each for each in reversed(inner.inputs) if each is not None]
        else:
            parts.append(value)
    return parts


def _flows_on(root: ir.Node, axis: int) -> bool:
    """Whether a Concat along the same axis will take the parts of this one."""
    out = root.outputs[0]
    user = ir.only_user(out) if once(out) else None
    return user is not None and user.graph is root.graph and _joins_along(user, axis)


def _concat(m: Match, parts: Sequence[ir.Value], axis: int) -> ir.Value:
    made: ir.Value = parts[0] if len(parts) == 1 else m.op.Concat(*parts, axis=axis)
    return made


@rule(shared=True)
def concat_of_one(op: Ops, x: Var) -> Law:
    """Concat(x) == x"""
    return op.Concat(x, axis=...), x


@rule()
def concat_of_concat(op: Ops) -> Law:
    """Concat(x, Concat(y, z), w) == Concat(x, y, z, w) along one axis, however deep"""

    def after(m: Match) -> ir.Value:
        axis = _axis(m, m.root)
        m.require(not _flows_on(m.root, axis), "the Concat that uses it takes its parts as well")
        parts = _flat(m.root, axis)
        m.require(parts != list(m.root.inputs), "no input is a Concat along the same axis that only this one uses")
        return _concat(m, parts, axis)

    return op.Concat(..., axis=...), after


@rule(shared=True)
def concat_of_empty(op: Ops) -> Law:
    """Concat(x, empty, y) == Concat(x, y) where `empty` is of length 0 along the axis"""

    def after(m: Match) -> ir.Value:
        values, axis = _values(m), _axis(m, m.root)
        shapes = [sure_dims(value) for value in values]
        rank = max((len(shape) for shape in shapes if shape is not None), default=0)
        empty = [shape is not None and len(shape) == rank and shape[axis] == 0 for shape in shapes]
        m.require(any(empty), "no part is empty")
        kept = [value for value, gone in zip(values, empty, strict=True) if not gone] or values[:1]
        m.require(len(kept) < len(values), "the only part")
        return _concat(m, kept, axis)

    return op.Concat(..., axis=...), after


@rule(shared=True)
def concat_of_split(op: Ops) -> Law:
    """Concat(Split(x, axis=a), axis=a) == x where all parts come back in order"""

    def after(m: Match) -> ir.Value:
        values, axis = _values(m), _axis(m, m.root)
        split = producer(m, values[0], "Split", single=False)
        if split is None:
            m.fail("the parts are no parts of a Split")
        m.require(list(split.outputs) == values, "not all parts of the Split, in order")
        x = value_in(m, split)
        (cut,) = normal_axes(m, [int(ir.attribute(split, "axis", 0))], rank_of(x))
        m.require(cut == axis, "split along another axis")
        return x

    return op.Concat(..., axis=...), after


@dataclass(frozen=True)
class _Part:
    """What one input of a Concat is: a value, or a range of one along the joined axis. single: nobody else uses it."""

    value: ir.Value
    source: ir.Value | None = None
    taken: Range = ALL
    single: bool = False
    joined: bool = False


def _part(m: Match, value: ir.Value, axis: int) -> _Part:
    node = producer(m, value, "Slice", single=False)
    if node is None or rank_of(node.inputs[0]) is None:
        return _Part(value)
    if any(each is not None and not ir.is_constant(each) for each in node.inputs[1:]):
        return _Part(value)
    ranges = slice_ranges(m, node)
    if list(ranges) != [axis] or ranges[axis].step != 1:
        return _Part(value)
    return _Part(value, value_in(m, node), ranges[axis], once(value))


def _joined(left: _Part, right: _Part) -> _Part | None:
    """One range for two that follow each other, whatever the length of the axis."""
    if left.source is None or left.source is not right.source or left.taken.end != right.taken.start:
        return None
    taken = Range(left.taken.start, right.taken.end)
    ordered = left.taken.plain and right.taken.plain and left.taken.start <= left.taken.end <= right.taken.end
    if not ordered and (taken.start, taken.end) != (0, INF):
        return None
    return _Part(left.value, left.source, taken, left.single and right.single, joined=True)


@rule(shared=True)
def concat_of_slices(op: Ops) -> Law:
    """Concat(x[a:b], x[b:c]) == x[a:c], and x itself where that is everything"""

    def after(m: Match) -> ir.Value:
        axis = _axis(m, m.root)
        parts: list[_Part] = []
        for value in _values(m):
            part = _part(m, value, axis)
            joined = _joined(parts[-1], part) if parts else None
            if joined is None:
                parts.append(part)
            else:
                parts[-1] = joined
        m.require(len(parts) < len(m.root.inputs), "no two slices follow each other")
        joined_parts = [part for part in parts if part.joined]
        m.require(len(parts) == 1 or all(part.single for part in joined_parts), "a slice is used elsewhere")
        made = [
            make_slice(m, part.source, {axis: part.taken}) if part.joined and part.source is not None else part.value
            for part in parts
        ]
        return _concat(m, made, axis)

    return op.Concat(..., axis=...), after


@rule(shared=True)
def concat_of_constants(op: Ops) -> Law:
    """Concat(x, c, d) == Concat(x, cd) for constants that only this operator uses"""

    def own(value: ir.Value) -> bool:
        return once(value) and value.dtype in _PLAIN and ir.is_constant(value)

    def after(m: Match) -> ir.Value:
        axis, values = _axis(m, m.root), _values(m)
        groups = [list(group) for _, group in groupby(values, key=own)]
        made: list[ir.Value] = []
        for group in groups:
            arrays = [array for value in group if own(value) and (array := ir.const(value)) is not None]
            if len(arrays) < 2:
                made += group
                continue
            m.require(len({array.ndim for array in arrays}) == 1, "the constants differ in rank")
            made.append(m.op.weight(np.concatenate(arrays, axis)))
        m.require(len(made) < len(values), "no two constants of its own stand side by side")
        m.require(len(made) > 1, "it is all constant and will be folded")
        return _concat(m, made, axis)

    return op.Concat(..., axis=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Concat(RulePass):
    """Flatten and shorten Concat, and undo it after Split and Slice."""

    name = "concat"
    rules = RULES
