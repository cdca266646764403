"""Slice, Split and Gather that take everything, take after each other, or take apart what was just put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.pass_base import RulePass
from accelc.passes.forms import (
    INF,
    Range,
    dims_of,
    make_slice,
    normal_axes,
    producer,
    rank_of,
    slice_ranges,
    split_sizes,
    sure_dims,
    value_in,
)
from accelc.pattern import Const, Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

_MANY = 32
"""Gather with fewer constant indices is left alone: the bounds of a Slice would take more room than they do."""


def _any_slice(op: Ops, x: Var | Op, label: str) -> Op:
    return op.Slice(x, ..., starts=..., ends=..., axes=..., _as=label)


@rule(shared=True)
def slice_all(op: Ops, x: Var) -> Law:
    """x[0:n] == x for every axis of length n"""

    def everything(m: Match) -> bool | str:
        dims = sure_dims(m.x)
        ranges = slice_ranges(m, m.root)
        whole = all(each.covers(dims[axis] if dims is not None else None) for axis, each in ranges.items())
        return whole or "takes a part"

    return _any_slice(op, x, "root"), x, everything


@rule(shared=True)
def slice_of_slice(op: Ops, x: Var) -> Law:
    """x[a:b:s][c:d:t] == x[a + s*c : min(b, a + s*d) : s*t] for bounds that count from the front"""

    def after(m: Match) -> ir.Value:
        inner, outer = slice_ranges(m, m.node("inner")), slice_ranges(m, m.root)
        joined = dict(inner)
        for axis, each in outer.items():
            joined[axis] = _joined(m, inner[axis], each) if axis in inner else each
        return make_slice(m, m.x, joined)

    return _any_slice(op, _any_slice(op, x, "inner"), "root"), after


def _joined(m: Match, inner: Range, outer: Range) -> Range:
    m.require(inner.plain and outer.plain, "bounds count from the back")
    start = inner.start + inner.step * outer.start
    end = inner.end if outer.end == INF else min(inner.end, inner.start + inner.step * outer.end)
    return Range(min(start, INF), min(end, INF), inner.step * outer.step)


def _parts(m: Match, concat: ir.Node) -> tuple[int, list[tuple[ir.Value, int]]]:
    """The axis of a Concat and its inputs with their lengths along it."""
    rank = next((rank for value in concat.inputs if (rank := rank_of(value)) is not None), None)
    (axis,) = normal_axes(m, [int(ir.attribute(concat, "axis", 1))], rank)
    parts = []
    for index in range(len(concat.inputs)):
        value = value_in(m, concat, index)
        dims = dims_of(m, value)
        m.require(len(dims) == rank, "the parts differ in rank")
        dim = dims[axis]
        if not isinstance(dim, int):
            break
        parts.append((value, dim))
    return axis, parts


@rule(shared=True)
def slice_of_concat(op: Ops, x: Var) -> Law:
    """Concat(x, y, z)[a:b] == y[a - len(x) : b - len(x)] where that lies inside y"""

    def after(m: Match) -> ir.Value:
        concat = producer(m, m.x, "Concat", single=False)
        if concat is None:
            m.fail("wants Concat before it")
        axis, parts = _parts(m, concat)
        ranges = slice_ranges(m, m.root)
        wanted = ranges.get(axis)
        if wanted is None or not wanted.plain or wanted.end == INF or wanted.end < wanted.start:
            m.fail("the bounds along the joined axis are not known")
        at = 0
        for value, length in parts:
            if at <= wanted.start and wanted.end <= at + length and wanted.start < at + length:
                inside = Range(wanted.start - at, wanted.end - at, wanted.step)
                return make_slice(m, value, {**ranges, axis: inside})
            at += length
        return m.fail("it takes from several parts")

    return _any_slice(op, x, "root"), after


@rule(shared=True)
def split_of_concat(op: Ops, x: Var) -> Law:
    """Split(Concat(x, y, z)) == x, y, z where it cuts at the seams"""

    def after(m: Match) -> tuple[ir.Value, ...]:
        concat = producer(m, m.x, "Concat", single=False)
        if concat is None:
            m.fail("wants Concat before it")
        axis, parts = _parts(m, concat)
        (cut,) = normal_axes(m, [int(m.attr("axis", 0))], rank_of(m.x))
        m.require(axis == cut and len(parts) == len(concat.inputs), "cuts along another axis or unknown parts")
        m.require(len({value for value, _ in parts}) == len(parts), "a part occurs twice")
        m.require(split_sizes(m, m.root) == [length for _, length in parts], "cuts beside the seams")
        return tuple(value for value, _ in parts)

    return op.Split(x, ..., axis=..., split=..., num_outputs=...), after


@rule(shared=True)
def split_into_one(op: Ops, x: Var) -> Law:
    """Split(x) == x where it makes one part"""

    def one(m: Match) -> bool | str:
        return len(m.root.outputs) == 1 or "makes several parts"

    return op.Split(x, ..., axis=..., split=..., num_outputs=...), x, one


@rule(shared=True)
def split_for_one_part(op: Ops, x: Var) -> Law:
    """Split(x)[i] == x[start_i : end_i] where no other part is used"""

    def after(m: Match) -> list[ir.Value | None]:
        used = [index for index, part in enumerate(m.root.outputs) if part.uses() or part.is_graph_output()]
        m.require(len(used) == 1 and len(m.root.outputs) > 1, "several parts are used")
        sizes = split_sizes(m, m.root)
        (axis,) = normal_axes(m, [int(m.attr("axis", 0))], rank_of(m.x))
        start = sum(sizes[: used[0]])
        made = make_slice(m, m.x, {axis: Range(start, start + sizes[used[0]])})
        return [made if index == used[0] else None for index in range(len(m.root.outputs))]

    return op.Split(x, ..., axis=..., split=..., num_outputs=...), after


@rule(shared=True)
def gather_run(op: Ops, x: Var, i: Const) -> Law:
    """Gather(x, [a, a + s, a + 2s, ...]) == x[a : b : s], and x itself where that is everything"""

    def after(m: Match) -> ir.Value:
        dims, indices = dims_of(m, m.x), m.const("i")
        m.require(indices.ndim == 1 and indices.size > 0, "the indices are no list")
        (axis,) = normal_axes(m, [int(m.attr("axis"))], len(dims))
        dim = dims[axis]
        if not isinstance(dim, int):
            m.fail("the length of the axis is unknown")
        at = np.where(indices < 0, indices.astype(np.int64) + dim, indices.astype(np.int64))
        m.require(bool(((at >= 0) & (at < dim)).all()), "an index is out of range")
        step = int(at[1] - at[0]) if at.size > 1 else 1
        m.require(step > 0 and bool((np.diff(at) == step).all()), "the indices do not run evenly")
        whole = at.size == dim and step == 1
        m.require(whole or at.size >= _MANY, "the bounds would take more room than the indices")
        m.require(step == 1 or m.opset >= 10, "an old Slice has no steps")
        return m.x if whole else make_slice(m, m.x, {axis: Range(int(at[0]), int(at[-1]) + 1, step)})

    return op.Gather(x, i, axis=...), after


@rule(shared=True)
def gather_of_slice(op: Ops, x: Var, i: Const) -> Law:
    """Gather(x[a:b:s], i) == Gather(x, a + s * i) along one axis of known length"""

    def after(m: Match) -> ir.Value:
        inner, dims = m.node("inner"), dims_of(m, m.x)
        ranges, indices = slice_ranges(m, inner), m.const("i")
        (axis,) = normal_axes(m, [int(m.attr("axis"))], len(dims))
        m.require(list(ranges) == [axis], "slices another axis")
        taken = ranges[axis]
        m.require(taken.plain and isinstance(dims[axis], int), "the length of the axis is unknown")
        length = taken.length()
        at = np.where(indices < 0, indices.astype(np.int64) + length, indices.astype(np.int64))
        m.require(bool(((at >= 0) & (at < length)).all()), "an index is out of range")
        m.require(indices.nbytes <= _MANY * 8, "the indices are many")
        moved = np.asarray(taken.start + taken.step * at, indices.dtype)
        return m.op.Gather(m.x, moved, axis=axis)  # type: ignore[no-any-return]

    return op.Gather(_any_slice(op, x, "inner"), i, axis=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Slice(RulePass):
    """Merge and drop Slice, Split and Gather with constant bounds."""

    name = "slice"
    rules = RULES
