"""Gathers that fetch everything in order: the index arithmetic with which exporters look padding masks up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.pattern import Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._elements import elements
from .attention_block import always_true
from .forms import list_of


def _range(m: Match, value: ir.Value, axis: int, rank: int) -> ir.Value:
    """The Range from 0 by 1 that a value [1, .., n, .., 1] holds along one axis. A miss where it is something else."""
    shape = ir.dims(value)
    node = value.producer()
    m.require(node is not None and node.op_type == "Unsqueeze" and not node.domain, f"{value.name} is no Unsqueeze")
    assert node is not None
    source = node.inputs[0]
    counter = source.producer() if source is not None else None
    m.require(counter is not None and counter.op_type == "Range" and not counter.domain, f"{value.name} is no Range")
    assert counter is not None
    assert source is not None
    start, step = ir.const(counter.inputs[0]), ir.const(counter.inputs[2])
    from_0_by_1 = start is not None and step is not None and (float(start), float(step)) == (0.0, 1.0)
    m.require(from_0_by_1, f"{value.name} does not count from 0 by 1")
    others = shape is not None and len(shape) == rank and all(d == 1 for i, d in enumerate(shape) if i != axis)
    m.require(others, f"{value.name} varies along another axis than {axis}")
    return source


def _fetched(m: Match, counters: Sequence[ir.Value]) -> ir.Value:
    """x [n0, n1], or as much of it as the two counters reach: reaching further, the runtime refuses the gather."""
    sizes = [(ir.dims(each) or (None,))[0] for each in counters]
    shape = m.dims("x")
    cut = [axis for axis in (0, 1) if sizes[axis] is None or sizes[axis] != shape[axis]]
    value = m.x
    for axis in cut:
        value = m.op.Gather(value, counters[axis], axis=axis)
    return value


def _is_width(m: Match, name: str) -> None:
    """A miss unless a variable of one element is the last dimension of x, by symbol or number."""
    found, width = elements(getattr(m, name)), m.dims("x")[1]
    m.require(width is not None and found == (width,), f"the step is {found} where x has {width} columns")
    m.require(len(m.dims(name)) <= 4, f"{name} has more than four dimensions")


@rule(shared=True)
def gather_flat(op: Ops, x: Var, s: Var, b: Var, c: Var, t: Var) -> Law:
    """Gather(Flatten(x), [b c + s for all b, s]) == Unsqueeze(x)     x [b, c], looked up as [b, 1, 1, c]"""

    def after(m: Match) -> Any:
        m.require(len(m.dims("x")) == 2, "x is not a matrix")
        flat = m.node("flat")
        as_column = flat.op_type == "Flatten"
        if as_column:
            m.require(ir.attribute(flat, "axis") == 2, "is flattened to another shape")
        else:
            m.require(ir.dims(m.t) == (1,), "is flattened to another shape")
        m.require(m.attr("axis", 0) in (0, -2 if as_column else -1), "gathers along another axis")
        _is_width(m, "c")
        rows, columns = _range(m, m.b, 0, 4), _range(m, m.s, 3, 4)
        m.require(known_equal(ir.dims(columns) or (), m.dims("x")[1:]), "reads past the end of a row")
        value = _fetched(m, (rows, columns))
        axes = [1, 2, 4] if as_column else [1, 2]
        return m.op.Unsqueeze(value, axes=axes) if m.opset < 13 else m.op.Unsqueeze(value, axes)

    flat = op.any_of(op.Flatten(x, axis=..., _as="flat"), op.Reshape(x, t, _as="flat", allowzero=...))
    return op.Gather(flat, op.Add(s, op.Mul(b, c)), axis=...), after


@rule(shared=True)
def gather_grid(op: Ops, x: Var, s: Var, b: Var, t: Var, u: Var, v: Var, w: Var) -> Law:
    """GatherND(x, [(b, s) for all b, s]) == Unsqueeze(x)     x [b, s], looked up as [b, 1, 1, s]"""

    def after(m: Match) -> Any:
        m.require(len(m.dims("x")) == 2, "x is not a matrix")
        m.require(m.attr("axis", node="pairs") in (-1, 4), "the index is not made of pairs")
        rows, columns = _range(m, m.b, 0, 4), _range(m, m.s, 3, 4)
        grid = (*(ir.dims(rows) or (None,)), 1, 1, *(ir.dims(columns) or (None,)))
        for label in ("first", "second"):
            counters = m.node(label).inputs[0]
            assert counters is not None
            m.require(list_of(m, m.node(label), "axes", 1) in ([-1], [4]), "the index is not made of pairs")
            m.require(known_equal(ir.dims(counters) or (), grid), f"{counters.name} is not expanded to {list(grid)}")
        value = _fetched(m, (rows, columns))
        return m.op.Unsqueeze(value, [1, 2])

    first = op.Unsqueeze(op.Expand(b, t), v, _as="first")
    second = op.Unsqueeze(op.Expand(s, u), w, _as="second")
    return op.GatherND(x, op.Concat(first, second, axis=..., _as="pairs")), after


@rule()
def and_true(op: Ops, x: Var, y: Var) -> Law:
    """And(x, y) == Expand(y, Shape(x))     where x is true everywhere, as Range(0, n, 1) >= 0 is"""

    def after(m: Match) -> Any:
        m.require(always_true(m.x), f"{m.x.name} may be false")
        return m.op.Expand(m.y, m.op.Shape(m.x))

    return op.And(x, y), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Gather(RulePass):
    """Replace gathers that fetch everything in order, and conditions that always hold."""

    name = "gather"
    rules = RULES
