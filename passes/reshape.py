"""Operators that change the shape and keep the order of the elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import known_equal
from accelc.pass_base import RulePass
from accelc.passes import expand
from accelc.passes.forms import (
    POINTWISE,
    REDUCE,
    VIEWS,
    dims_of,
    input_of,
    int_list,
    known_size,
    list_of,
    normal_axes,
    producer,
    rank_of,
    reshape,
    reshape_target,
    squeeze,
    sure_dims,
    unsqueeze,
    value_in,
)
from accelc.pattern import Const, Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._elements import elements

_MAX_CHAIN = 16


def _no_effect(m: Match, target: Sequence[int], dims: Sequence[ir.Dim], allowzero: bool) -> bool:
    """Whether Reshape to `target` surely gives back the shape `dims`."""
    if len(target) != len(dims):
        return False
    open_ = [index for index, each in enumerate(target) if each == -1]
    for index, (each, dim) in enumerate(zip(target, dims, strict=True)):
        copied = each == 0 and not allowzero
        if not (copied or each == dim or index in open_):
            return False
    return len(open_) <= 1 and (not open_ or all(dim != 0 for dim in dims))


# --- no effect -------------------------------------------------------------------------------------------------------


@rule(shared=True)
def reshape_to_same(op: Ops, x: Var, s: Const) -> Law:
    """Reshape(x, shape(x)) == x"""

    def same(m: Match) -> bool | str:
        target = int_list(m.s)
        dims = dims_of(m, m.x)
        return (target is not None and _no_effect(m, target, dims, bool(m.attr("allowzero")))) or "the shape may change"

    return op.Reshape(x, s, allowzero=...), x, same


@rule(shared=True)
def reshape_to_own_shape(op: Ops, x: Var) -> Law:
    """Reshape(x, Shape(x)) == Expand(x, Shape(x)) == x"""

    return [op.Reshape(x, op.Shape(x), allowzero=...), op.Expand(x, op.Shape(x))], x


@rule(shared=True)
def squeeze_nothing(op: Ops, x: Var) -> Law:
    """Squeeze(x) == x where no axis is of length 1"""

    def nothing(m: Match) -> bool | str:
        dims = dims_of(m, m.x)
        if list_of(m, m.root, "axes", 1):
            return "squeezes given axes"
        return all(isinstance(dim, int) and dim != 1 for dim in dims) or "some axis may be of length 1"

    return op.Squeeze(x, ..., axes=...), x, nothing


@rule(shared=True)
def unsqueeze_nothing(op: Ops, x: Var) -> Law:
    """Unsqueeze(x, []) == x"""

    def nothing(m: Match) -> bool | str:
        return list_of(m, m.root, "axes", 1) == [] or "adds axes"

    return op.Unsqueeze(x, ..., axes=...), x, nothing


# --- chains ----------------------------------------------------------------------------------------------------------


@rule(shared=True)
def squeeze_of_unsqueeze(op: Ops, x: Var) -> Law:
    """Squeeze(Unsqueeze(x, a), a) == x; axes that only one of them names stay"""

    def after(m: Match) -> ir.Value:
        added = list_of(m, m.node("inner"), "axes", 1)
        removed = list_of(m, m.root, "axes", 1)
        if added is None or not removed:
            m.fail("axes are not given")
        if sorted(added) == sorted(removed):
            return m.x
        rank = rank_of(m.x)
        total = None if rank is None else rank + len(added)
        added, removed = sorted(normal_axes(m, added, total)), sorted(normal_axes(m, removed, total))
        common = set(added) & set(removed)
        more, less = [a for a in added if a not in common], [a for a in removed if a not in common]
        m.require(common and not (more and less), "they do not undo each other")
        # Axes count in the shape without the common ones.
        shift = [a - sum(c < a for c in common) for a in more or less]
        if not shift:
            return m.x
        return unsqueeze(m, m.x, shift) if more else squeeze(m, m.x, shift)

    return op.Squeeze(op.Unsqueeze(x, ..., axes=..., _as="inner"), ..., axes=...), after


@rule(shared=True)
def unsqueeze_of_squeeze(op: Ops, x: Var) -> Law:
    """Unsqueeze(Squeeze(x, a), a) == x"""

    def after(m: Match) -> ir.Value:
        removed = list_of(m, m.node("inner"), "axes", 1)
        added = list_of(m, m.root, "axes", 1)
        if not removed or not added:
            m.fail("axes are not given")
        if sorted(added) != sorted(removed):
            rank = rank_of(m.x)
            m.require(rank is not None and len(added) == len(removed), "they do not undo each other")
            same = sorted(normal_axes(m, added, rank)) == sorted(normal_axes(m, removed, rank))
            m.require(same, "they do not undo each other")
        return m.x

    return op.Unsqueeze(op.Squeeze(x, ..., axes=..., _as="inner"), ..., axes=...), after


def _joined_axes(outer: Sequence[int], inner: Sequence[int]) -> list[int]:
    """Axes named in a shape, and axes named in what is left of it without those, all as axes of the first."""
    rest = [axis for axis in range(max([*outer, *inner]) + len(outer) + 1) if axis not in set(outer)]
    return sorted([*outer, *(rest[axis] for axis in inner)])


@rule(shared=True)
def unsqueeze_of_unsqueeze(op: Ops, x: Var) -> Law:
    """Unsqueeze(Unsqueeze(x, a), b) == Unsqueeze(x, b and a counted around b)"""

    def after(m: Match) -> ir.Value:
        first, second = list_of(m, m.node("inner"), "axes", 1), list_of(m, m.root, "axes", 1)
        if not first or not second:
            m.fail("axes are not given")
        rank = rank_of(m.x)
        first = normal_axes(m, first, None if rank is None else rank + len(first))
        second = normal_axes(m, second, None if rank is None else rank + len(first) + len(second))
        return unsqueeze(m, m.x, _joined_axes(second, first))

    return op.Unsqueeze(op.Unsqueeze(x, ..., axes=..., _as="inner"), ..., axes=...), after


@rule(shared=True)
def squeeze_of_squeeze(op: Ops, x: Var) -> Law:
    """Squeeze(Squeeze(x, a), b) == Squeeze(x, a and b counted around a)"""

    def after(m: Match) -> ir.Value:
        first, second = list_of(m, m.node("inner"), "axes", 1), list_of(m, m.root, "axes", 1)
        if not first or not second:
            m.fail("axes are not given")
        rank = rank_of(m.x)
        first = normal_axes(m, first, rank)
        second = normal_axes(m, second, None if rank is None else rank - len(first))
        return squeeze(m, m.x, _joined_axes(first, second))

    return op.Squeeze(op.Squeeze(x, ..., axes=..., _as="inner"), ..., axes=...), after


def _views(op: Ops, x: Any, label: str) -> list[Op]:
    """Every operator that only changes the shape."""
    return [
        op.Reshape(x, ..., allowzero=..., _as=label),
        op.Flatten(x, axis=..., _as=label),
        op.Squeeze(x, ..., axes=..., _as=label),
        op.Unsqueeze(x, ..., axes=..., _as=label),
    ]


def _wanted(m: Match, node: ir.Node, source: ir.Value) -> tuple[list[int], bool]:
    """What a Reshape of `source` needs to reach the shape of a view's output, and whether its zeros are sizes.

    source: a value with the elements of the view's input, in their order.
    """
    m.require(m.opset >= 5, "Reshape-1 has another form")
    given, dims = value_in(m, node), sure_dims(source)
    if node.op_type == "Reshape":
        target = int_list(input_of(node, 1))
        if target is None:
            m.fail("the shape is not constant")
        allowzero = bool(ir.attribute(node, "allowzero", 0))
        if allowzero or 0 not in target:
            return target, allowzero and 0 in target
        return _copied(m, target, dims_of(m, given), dims), False
    shape = dims_of(m, given)
    if node.op_type == "Flatten":
        axis = int(ir.attribute(node, "axis", 1))
        axis = axis if axis >= 0 else axis + len(shape)
        out: list[ir.Dim] = [_product(shape[:axis]), _product(shape[axis:])]
    elif node.op_type == "Squeeze":
        axes = list_of(m, node, "axes", 1)
        if not axes:
            m.fail("axes are not given")
        gone = normal_axes(m, axes, len(shape))
        out = [dim for axis, dim in enumerate(shape) if axis not in gone]
    else:
        axes = list_of(m, node, "axes", 1)
        if not axes:
            m.fail("axes are not given")
        added = normal_axes(m, axes, len(shape) + len(axes))
        rest = iter(shape)
        out = [1 if axis in added else next(rest) for axis in range(len(shape) + len(axes))]
    reached = reshape_target(out, dims)
    if reached is None:
        m.fail("the shape is not known well enough")
    return reached, False


def _product(dims: Sequence[ir.Dim]) -> ir.Dim:
    size = known_size(dims)
    if size is not None:
        return size
    rest = [dim for dim in dims if dim != 1]
    return rest[0] if len(rest) == 1 else None


def _copied(m: Match, target: Sequence[int], shape: Sequence[ir.Dim], dims: Sequence[ir.Dim] | None) -> list[int]:
    """A Reshape's target whose zeros copy from another shape: from `dims` instead of `shape`."""
    out: list[int] = []
    for index, each in enumerate(target):
        dim = shape[index] if index < len(shape) else None
        if each != 0:
            out.append(each)
        elif dims is not None and index < len(dims) and dim is not None and dims[index] == dim:
            out.append(0)
        elif isinstance(dim, int) and dim > 0:
            out.append(dim)
        else:
            m.fail("a copied axis is not known")
    return out


@rule(shared=True)
def view_of_view(op: Ops, x: Var) -> Law:
    """V(W(x)) == Reshape(x, shape of the result) for V and W among Reshape, Flatten, Squeeze, Unsqueeze"""

    def after(m: Match) -> ir.Value:
        target, allowzero = _wanted(m, m.root, m.x)
        return reshape(m, m.x, target, allowzero)

    return _views(op, op.any_of(*_views(op, x, "inner")), "outer"), after


@rule()
def view_around_unary(op: Ops, x: Var) -> Law:
    """V(F(W(x))) == Reshape(F(x)) for operators F that take one element at a time"""

    def after(m: Match) -> ir.Value:
        chain: list[ir.Node] = []
        value = m.x
        top = None
        while len(chain) < _MAX_CHAIN and top is None:
            node = producer(m, value, *POINTWISE, *VIEWS)
            if node is None or (node.op_type in VIEWS and not chain):
                m.fail("no other change of shape above, through operators that take one element at a time")
            if node.op_type in VIEWS:
                top = node
            else:
                chain.append(node)
            value = value_in(m, node)
        m.require(top is not None, "the chain is too long")
        target, allowzero = _wanted(m, m.root, value)
        source = dims_of(m, value) if rank_of(value) is not None else None
        for node in reversed(chain):
            value = m.op.copy(node, [value, *node.inputs[1:]])
        if source is not None and _no_effect(m, target, source, allowzero):
            return value
        return reshape(m, value, target, allowzero)

    return _views(op, x, "outer"), after


# --- reductions and picks that keep or drop their axis ---------------------------------------------------------------


def _reductions(op: Ops, x: Var) -> list[Op]:
    reduce = [getattr(op, name)(x, ..., axes=..., keepdims=..., _as="inner") for name in REDUCE]
    return [*reduce, op.ArgMax(x, _any=True, _as="inner"), op.ArgMin(x, _any=True, _as="inner")]


def _require_same_axes(m: Match, rank: int | None) -> None:
    """A miss unless the root's axes are those that the inner node reduces."""
    node = m.node("inner")
    reduced = [int(m.attr("axis", node="inner"))] if node.op_type.startswith("Arg") else list_of(m, node, "axes", 1)
    named = list_of(m, m.root, "axes", 1)
    m.require(reduced and named, "axes are not given")
    if sorted(reduced or []) != sorted(named or []):
        same = sorted(normal_axes(m, reduced or [], rank)) == sorted(normal_axes(m, named or [], rank))
        m.require(same, "they name different axes")


@rule(shared=True)
def ones_of_view(op: Ops, x: Var, t: Var, s: Var) -> Law:
    """Reshape(Reshape(x, t), [b, 1, 1, n]) == Unsqueeze(x, [1, 2]) where x is [b, n]     whatever t, by symbols"""

    def after(m: Match) -> Any:
        wanted, dims = elements(m.s), m.dims("x")
        m.require(wanted is not None, "the shape is not put together from dimensions")
        assert wanted is not None
        axes = [axis for axis, dim in enumerate(wanted) if dim == 1]
        m.require(1 not in dims and known_equal(tuple(d for d in wanted if d != 1), dims), f"{dims} becomes {wanted}")
        m.require(0 not in dims and -1 not in wanted and axes, f"{dims} becomes {wanted}")
        return unsqueeze(m, m.x, axes)

    return op.Reshape(op.Reshape(x, t, allowzero=...), s, allowzero=...), after


@rule()
def squeeze_of_reduce(op: Ops, x: Var) -> Law:
    """Squeeze(Reduce(x, a, keepdims=1), a) == Reduce(x, a, keepdims=0)"""

    def after(m: Match) -> ir.Value:
        m.require(m.attr("keepdims", node="inner") == 1, "the axes are dropped already")
        _require_same_axes(m, rank_of(m.x))
        node = m.node("inner")
        return m.op.copy(node, node.inputs, keepdims=0)  # type: ignore[no-any-return]

    return op.Squeeze(op.any_of(*_reductions(op, x)), ..., axes=...), after


@rule()
def unsqueeze_of_reduce(op: Ops, x: Var) -> Law:
    """Unsqueeze(Reduce(x, a, keepdims=0), a) == Reduce(x, a, keepdims=1)"""

    def after(m: Match) -> ir.Value:
        m.require(m.attr("keepdims", node="inner") == 0, "the axes are kept already")
        _require_same_axes(m, rank_of(m.x))
        node = m.node("inner")
        return m.op.copy(node, node.inputs, keepdims=None)  # type: ignore[no-any-return]

    return op.Unsqueeze(op.any_of(*_reductions(op, x)), ..., axes=...), after


@rule()
def squeeze_of_gather(op: Ops, x: Var, i: Const) -> Law:
    """Squeeze(Gather(x, [i], axis=a), a) == Gather(x, i, axis=a)"""

    def after(m: Match) -> ir.Value:
        index, rank = m.const("i"), rank_of(m.x)
        m.require(index.shape == (1,), "gathers something else than one slice")
        named = list_of(m, m.root, "axes", 1) or []
        axis = int(m.attr("axis", node="inner"))
        same = named == [axis] or normal_axes(m, named, rank) == normal_axes(m, [axis], rank)
        m.require(same, "squeezes another axis")
        return m.op.Gather(m.x, np.asarray(index.reshape(())), axis=axis)  # type: ignore[no-any-return]

    return op.Squeeze(op.Gather(x, i, axis=..., _as="inner"), ..., axes=...), after


RULES = rules_of(globals())


@dataclass(frozen=True)
class Reshape(RulePass):
    """Merge and drop Reshape, Flatten, Squeeze, Unsqueeze and Expand."""

    name = "reshape"
    rules = RULES + expand.RULES
