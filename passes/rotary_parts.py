"""Parts of the last dimension, and values that hold every number twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.guards import known_equal
from accelc.rules import Match

from .forms import list_of, sure_dims

_DEEPEST = 12
_BOUNDS = ("starts", "ends", "axes", "steps")
_UNARY = frozenset({"Cast", "Cos", "Identity", "Neg", "Sin"})
_BINARY = frozenset({"Add", "Div", "Mul", "Sub"})


@dataclass(frozen=True)
class Span:
    """Elements start, start + step, .. of the last axis of a source; others: (axis, from, to) along other axes."""

    source: ir.Value
    start: int
    step: int
    count: int
    others: tuple[tuple[int, int, int], ...] = ()

    def cut(self, m: Match, source: ir.Value) -> ir.Value:
        """This span of a value that has the same last dimension as its source. The step must be 1."""
        shape = ir.dims(self.source) or ()
        bounds = list(self.others)
        if (self.start, self.count) != (0, shape[-1]):
            bounds.append((len(shape) - 1, self.start, self.start + self.count))
        if not bounds:
            return source
        axes, starts, ends = zip(*bounds, strict=True)
        made: ir.Value = m.op.Slice(source, list(starts), list(ends), list(axes))
        return made


def span(m: Match, value: ir.Value) -> Span:
    """A value as a part of what Slices and Splits cut it from. A miss where its last dimension is not known."""
    start, step, count = 0, 1, _last(m, value)
    others: dict[int, tuple[int, int]] = {}
    for _ in range(_DEEPEST):
        found = _piece(m, value)
        if found is None or any(axis in others for axis in found[1] if axis != -1):
            break
        source, cuts = found
        first, stride = cuts.pop(-1, (0, 1))
        start, step = first + start * stride, step * stride
        others.update(cuts)
        value = source
    return Span(value, start, step, count, tuple(sorted((axis, *bounds) for axis, bounds in others.items())))


def _last(m: Match, value: ir.Value) -> int:
    shape = sure_dims(value)
    size = shape[-1] if shape else None
    if not isinstance(size, int):
        m.fail(f"the last dimension of {value.name} is not known")
    return size


def _piece(m: Match, value: ir.Value) -> tuple[ir.Value, dict[int, tuple[int, int]]] | None:
    """What a value is cut from, and by axis its bounds (for the last axis, -1: where it starts and its step)."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Slice", "Split"):
        return None
    source = node.inputs[0]
    shape = sure_dims(source)
    if source is None or not shape:
        return None
    if node.op_type == "Split":
        return _split_piece(m, node, value, source, shape)
    if not all(each is None or ir.is_constant(each) for each in node.inputs[1:]):
        return None
    starts, ends, axes, steps = (list_of(m, node, name, at) for at, name in enumerate(_BOUNDS, 1))
    if not starts or not ends:
        return None
    cuts: dict[int, tuple[int, int]] = {}
    given = axes or list(range(len(starts)))
    for axis, first, end, step in zip(given, starts, ends, steps or [1] * len(starts), strict=True):
        if axis in (-1, len(shape) - 1):
            size = shape[-1]
            if not isinstance(size, int) or step < 1:
                return None
            cuts[-1] = (range(size)[first:end:step].start, step)
        elif step != 1:
            return None
        else:
            cuts[axis % len(shape)] = (first, end)
    return source, cuts


def _split_piece(
    m: Match, node: ir.Node, value: ir.Value, source: ir.Value, shape: Sequence[ir.Dim]
) -> tuple[ir.Value, dict[int, tuple[int, int]]] | None:
    if m.attr("axis", 0) is None or ir.attribute(node, "axis", 0) not in (-1, len(shape) - 1):
        return None
    sizes = [(ir.dims(each) or (None,))[-1] for each in node.outputs]
    before = sizes[: value.index()]
    if not all(isinstance(each, int) for each in before):
        return None
    return source, {-1: (sum(each for each in before if isinstance(each, int)), 1)}


# --- values that hold every number twice -----------------------------------------------------------------------------


def half(m: Match, value: ir.Value, *, interleaved: bool, depth: int = 0) -> ir.Value:
    """[.., D / 2] of a value [.., D] whose halves are equal (interleaved: whose pairs are). Else a miss."""
    m.require(depth < _DEEPEST, f"{value.name} is made by too many operators")
    array = ir.const(value)
    if array is not None:
        return _half_of_array(m, value, array, interleaved)
    node = value.producer()
    if node is None or node.domain:
        m.fail(f"{value.name} is not known to hold each number twice")
    twice = _pairs(m, node) if interleaved else _twice(node)
    if twice is not None:
        return twice
    inputs: list[Any] = list(node.inputs)
    for place in _carried(m, node):
        inputs[place] = half(m, inputs[place], interleaved=interleaved, depth=depth + 1)
    made: ir.Value = m.op.copy(node, inputs)
    return made


def _half_of_array(m: Match, value: ir.Value, array: np.ndarray[Any, Any], interleaved: bool) -> ir.Value:
    size = array.shape[-1] if array.ndim else 1
    m.require(size % 2 == 0 and size > 0, f"{value.name} has no halves")
    first, second = (
        (array[..., ::2], array[..., 1::2]) if interleaved else (array[..., : size // 2], array[..., size // 2 :])
    )
    m.require(np.array_equal(first, second), f"{value.name} does not hold each number twice")
    return m.op.weight(np.ascontiguousarray(first), dtype=value.dtype)


def _twice(node: ir.Node) -> ir.Value | None:
    """x of Concat(x, x) or Tile(x) along the last axis."""
    source, shape = node.inputs[0], ir.dims(node.outputs[0])
    if node.op_type == "Concat" and shape is not None and len(node.inputs) == 2:
        last = ir.attribute(node, "axis") in (-1, len(shape) - 1)
        return source if last and node.inputs[1] is source else None
    if node.op_type == "Tile":
        repeats = ir.const(node.inputs[1])
        return source if repeats is not None and repeats.tolist() == [1] * (repeats.size - 1) + [2] else None
    return None


def _pairs(m: Match, node: ir.Node) -> ir.Value | None:
    """x of Reshape(y, [.., 2 n]) for y [.., n, 2] that holds x [.., n] twice along a new last axis."""
    joined = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] is not None else None
    first = joined.inputs[0] if joined is not None and not joined.domain and joined.inputs else None
    inner = first.producer() if first is not None else None
    if joined is None or inner is None or inner.domain or inner.op_type != "Unsqueeze":
        return None
    source, one = inner.inputs[0], sure_dims(first)
    made, out = sure_dims(joined.outputs[0]), sure_dims(node.outputs[0])
    axes = list_of(m, inner, "axes", 1)
    if source is None or not one or not made or not out or not axes:
        return None
    added = sorted(axis % len(one) for axis in axes)
    if added[-1] != len(one) - 1 or not _doubles(joined, one, made):
        return None
    shape = one[:-1]
    if not shape or not isinstance(shape[-1], int) or out[-1] != 2 * shape[-1]:
        return None
    if added[:-1]:
        m.require(m.opset >= 13, "the axes of Unsqueeze are attributes before opset 13")
        source = m.op.Unsqueeze(source, added[:-1])
    if known_equal(out[:-1], shape[:-1]):
        return source
    if sum(each != 1 for each in out[:-1]) > 1:
        return None
    places = [1 if each == 1 else -1 for each in out[:-1]]
    reshaped: ir.Value = m.op.Reshape(source, [*places, shape[-1]])
    return reshaped


def _doubles(node: ir.Node, one: Sequence[ir.Dim], made: Sequence[ir.Dim]) -> bool:
    """Whether an operator makes [.., 2] of [.., 1] and leaves the other axes as they are."""
    last = len(one) - 1
    if node.op_type == "Concat":
        same = len(node.inputs) == 2 and node.inputs[1] is node.inputs[0]
        return same and ir.attribute(node, "axis") in (-1, last)
    if node.op_type == "Tile":
        repeats = ir.const(node.inputs[1])
        return repeats is not None and repeats.tolist() == [1] * last + [2]
    return node.op_type == "Expand" and made[-1] == 2 and known_equal(tuple(made[:-1]), tuple(one[:-1]))


def _carried(m: Match, node: ir.Node) -> list[int]:
    """The inputs whose last axis is that of the result, where each element makes one. A miss where that is not sure."""
    out = ir.dims(node.outputs[0])
    if out is None or len(node.outputs) != 1:
        m.fail(f"the rank of {node.outputs[0].name} is unknown")
    rank, kind = len(out), node.op_type
    if kind in _UNARY:
        return [0]
    if kind in _BINARY:
        sizes = [(sure_dims(each) or (1,))[-1] if sure_dims(each) is not None else None for each in node.inputs]
        m.require(all(size in (1, out[-1]) for size in sizes), f"the shapes that {node.name} combines are not known")
        return [place for place, size in enumerate(sizes) if size != 1]
    if kind in ("Unsqueeze", "Squeeze"):
        axes = list_of(m, node, "axes", 1)
        total = rank if kind == "Unsqueeze" else rank + len(axes or ())
        if axes and all(axis % total < total - 1 for axis in axes):
            return [0]
    if kind == "Gather":
        table = len(ir.dims(node.inputs[0]) or ())
        if table and ir.attribute(node, "axis", 0) % table < table - 1:
            return [0]
    if kind == "Slice":
        axes = list_of(m, node, "axes", 3)
        if axes and all(axis % rank < rank - 1 for axis in axes):
            return [0]
    return m.fail(f"{kind} {node.name} is not known to keep what holds each number twice")
