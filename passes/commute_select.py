"""Selections moved before the work whose result they select from.

Where a model keeps the first token only, all that the last layers compute of the others is thrown away: a Slice or
Gather of one axis commutes with every operator that works on that axis place by place. What is moved is a region: the
operators all of whose results are selected in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from accelc import estimate, ir
from accelc.estimate import Work
from accelc.passes.forms import (
    COMBINING,
    INF,
    POINTWISE,
    Range,
    input_of,
    int_list,
    make_slice,
    normal_axes,
    perm_of,
    slice_ranges,
    squeeze,
    sure_dims,
)
from accelc.pattern import MICROSOFT, Const, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

Place = tuple[int, int]
"""(input, its axis): where a selection of an operator's result is taken before the operator."""

_MAX_REGION = 200
_GAIN = 2e-6
"""Seconds that moving a selection must save."""
_BROADCASTING = frozenset([*COMBINING, "Pow", "Max", "Min", "Sum", "Mod"])
_LIKE_INPUT = frozenset([*POINTWISE, "Identity"])
_VENDOR_POINTWISE = frozenset(["Gelu", "FastGelu", "QuickGelu", "BiasGelu"])
_NORMS = frozenset(["LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"])
_ALONG_AXIS = {"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1} | dict.fromkeys(_NORMS, -1)


# --- how operators pass a selection on -------------------------------------------------------------------------------


def _above(m: Match, node: ir.Node, axis: int) -> list[Place] | None:
    """Which inputs of a node to select from, so that its result is selected along an axis; None where that is no use.

    Inputs that are not named do not vary along the axis.
    """
    dims = sure_dims(node.outputs[0]) or ir.dims(node.outputs[0])
    if dims is None or any(attr.is_ref() for attr in node.attributes.values()):
        return None
    kind = node.op_type
    if any(value is not None and ir.use_count(value) for value in node.outputs[1:]):
        return None
    if node.domain == MICROSOFT:
        return _above_vendor(node, axis, dims)
    if node.domain:
        return None
    if kind in _LIKE_INPUT:
        return [(0, axis)] if kind != "Gelu" or node.inputs[0] is not None else None
    if kind in _BROADCASTING:
        return _above_broadcast(node, axis, dims)
    if kind in _ALONG_AXIS:
        along = int(ir.attribute(node, "axis", 1 if m.opset < 13 and kind not in _NORMS else _ALONG_AXIS[kind])) % len(
            dims
        )
        whole = m.opset < 13 or kind in _NORMS  # from the axis to the last one
        if kind in _NORMS and any(len(ir.dims(each) or (0, 0)) > 1 for each in node.inputs[1:] if each is not None):
            return None  # a scale that may differ along the axis
        return [(0, axis)] if (axis < along or (not whole and axis != along)) else None
    if kind == "Transpose":
        return [(0, perm_of(m, node)[axis])]
    if kind == "MatMul":
        return _above_matmul(node, axis, dims)
    if kind == "Reshape":
        return [(0, axis)] if _keeps_axis(node, axis, dims) else None
    if kind == "Attention":
        return _above_attention(node, axis, dims)
    return None


def _above_broadcast(node: ir.Node, axis: int, dims: tuple[ir.Dim, ...]) -> list[Place] | None:
    places = []
    if "axis" in node.attributes or "broadcast" in node.attributes:
        return None
    for index, value in enumerate(node.inputs):
        own = sure_dims(value) if value is not None else None
        if own is None:
            return None
        at = axis - (len(dims) - len(own))
        if at < 0 or own[at] == 1:
            continue
        if not _same_dim(value, at, node.outputs[0], axis):
            return None
        places.append((index, at))
    return places or None


def _same_dim(a: ir.Value | None, at: int, b: ir.Value, axis: int) -> bool:
    """Whether two values surely have the same size on these axes."""
    left, right = sure_dims(a), ir.dims(b)
    if left is not None and right is not None and left[at] is not None and left[at] == right[axis]:
        return True
    known, other = estimate.shape(a), estimate.shape(b)
    return known is not None and other is not None and len(known) > at and known[at] == other[axis]


def _above_matmul(node: ir.Node, axis: int, dims: tuple[ir.Dim, ...]) -> list[Place] | None:
    left, right = sure_dims(node.inputs[0]), sure_dims(node.inputs[1])
    if left is None or right is None or len(left) != len(dims) or axis == len(dims) - 1:
        return None
    if axis == len(dims) - 2 or len(right) == 2:
        return [(0, axis)] if len(right) >= 2 and len(left) >= 2 else None
    return None  # a batch axis of both


def _keeps_axis(node: ir.Node, axis: int, dims: tuple[ir.Dim, ...]) -> bool:
    """Whether a Reshape leaves the axes up to this one as they are, and can say so."""
    before, target = sure_dims(node.inputs[0]), int_list(input_of(node, 1))
    if before is None or target is None or len(before) <= axis or 0 in dims or 0 in before:
        return False
    if len(target) != len(dims) or (ir.attribute(node, "allowzero", 0) and 0 in target):
        return False
    copied = [target[i] == 0 or _same_dim(node.inputs[0], i, node.outputs[0], i) for i in range(axis + 1)]
    return all(copied) and -1 not in target  # a -1 cannot be found where a selection is empty


def _above_vendor(node: ir.Node, axis: int, dims: tuple[ir.Dim, ...]) -> list[Place] | None:
    if node.op_type in _VENDOR_POINTWISE:
        return [(0, axis)] if axis < len(dims) - 1 or len(node.inputs) == 1 else None
    if node.op_type != "MultiHeadAttention" or axis != 1 or len(dims) != 3:
        return None
    query = sure_dims(node.inputs[0])
    key, bias = input_of(node, 1), input_of(node, 5)
    plain = key is not None and input_of(node, 2) is not None and not ir.attribute(node, "unidirectional", 0)
    if query is None or len(query) != 3 or not plain or any(input_of(node, index) for index in range(6, 10)):
        return None
    mask = input_of(node, 4)
    if mask is not None and len(sure_dims(mask) or (0, 0, 0)) > 2:
        return None
    return _with_mask_rows(5, bias)


def _with_mask_rows(index: int, bias: ir.Value | None) -> list[Place] | None:
    """The queries, and the rows of what is added to the scores [.., queries, keys] where they differ."""
    if bias is None:
        return [(0, 1)]
    shape = sure_dims(bias)
    if shape is None or len(shape) < 2:
        return None
    return [(0, 1)] if shape[-2] == 1 else [(0, 1), (index, len(shape) - 2)] if isinstance(shape[-2], int) else None


def _above_attention(node: ir.Node, axis: int, dims: tuple[ir.Dim, ...]) -> list[Place] | None:
    """ai.onnx Attention with 3-D inputs: [batch, queries, hidden]."""
    query = sure_dims(node.inputs[0])
    if axis != 1 or len(dims) != 3 or query is None or len(query) != 3 or ir.attribute(node, "is_causal", 0):
        return None
    if any(input_of(node, index) for index in range(4, 7)):
        return None
    return _with_mask_rows(3, input_of(node, 3))


# --- the region ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Region:
    """nodes: what is computed for the selection alone, users first, with the axis of its result and the places above.

    sources: the values that are selected from, with the axis.
    """

    nodes: Mapping[ir.Node, tuple[int, list[Place]]]
    sources: tuple[tuple[ir.Value, int], ...]


def _region(m: Match, start: ir.Value, axis: int) -> _Region:
    """All nodes before a value whose every result is needed in selected form only."""
    wanted: dict[ir.Value, set[int]] = {start: {axis}}
    nodes: dict[ir.Node, tuple[int, list[Place]]] = {}
    grows = True
    while grows and len(nodes) < _MAX_REGION:
        grows = False
        for value, axes in list(wanted.items()):
            node = value.producer()
            if node is None or node.graph is not m.root.graph or value is not node.outputs[0] or len(axes) > 1:
                continue
            at = next(iter(axes))
            places = _above(m, node, at) if _needed_only_by(m, value, nodes) else None
            if places is None:
                continue
            grows = True
            nodes[node] = at, places
            del wanted[value]
            for index, place in places:
                source = node.inputs[index]
                assert source is not None
                wanted.setdefault(source, set()).add(place)
    return _Region(nodes, tuple((value, at) for value, axes in wanted.items() for at in sorted(axes)))


def _needed_only_by(m: Match, value: ir.Value, nodes: Mapping[ir.Node, tuple[int, list[Place]]]) -> bool:
    """Whether a value is used by the root and by selected inputs of the region's nodes only."""
    if value.is_graph_output():
        return False
    for use in value.uses():
        if use.node is m.root and use.idx == 0:
            continue
        found = nodes.get(use.node)
        if found is None or all(index != use.idx for index, _ in found[1]):
            return False
    return True


def _moved(
    m: Match, region: _Region, take: Callable[[ir.Value, int], ir.Value], start: ir.Value, axis: int
) -> ir.Value:
    """The region on selected inputs."""
    made = {pair: take(*pair) for pair in region.sources}
    for node, (at, places) in reversed(list(region.nodes.items())):
        inputs: list[ir.Value | None] = list(node.inputs)
        for index, place in places:
            source = inputs[index]
            assert source is not None
            inputs[index] = made[source, place]
        if node.op_type == "Reshape":
            target = int_list(node.inputs[1]) or []
            inputs[1] = m.op.weight(np.array([0 if i == at else each for i, each in enumerate(target)], np.int64))
            result = m.op.copy(node, inputs, allowzero=None)
        else:
            result = m.op.copy(node, inputs, outputs=1)
        made[node.outputs[0], at] = result
    return made[start, axis]


def _saving(region: _Region, share: float) -> float:
    """Seconds saved where the selection keeps this share."""
    total = 0.0
    for node in region.nodes:
        work = estimate.node_work(node)
        if work is None:
            continue
        less = Work(work.flops * share, work.bytes * share, work.launches)
        total += work.seconds - less.seconds
    for value, at in region.sources:
        found = estimate.sizes(value)
        if found is not None:
            piece = tuple(size * share if i == at else size for i, size in enumerate(found))
            total -= estimate.elementwise(piece, piece).seconds  # type: ignore[arg-type]
    return total


def _kept_share(m: Match, value: ir.Value, axis: int, count: int | None) -> float:
    found = estimate.sizes(value)
    if found is None:
        m.fail("nothing is known about the sizes")
    size = found[axis]
    if size < 2 or count is None or count >= size:
        m.fail("selects everything")
    return count / size


def _apply(m: Match, axis: int, count: int | None, take: Callable[[ir.Value, int], ir.Value]) -> ir.Value:
    start = m.x
    share = _kept_share(m, start, axis, count)
    region = _region(m, start, axis)
    m.require(region.nodes, "what it selects from is computed as a whole, or needed as a whole")
    m.require(_saving(region, share) > _GAIN, "saves nothing")
    return _moved(m, region, take, start, axis)


# --- rules -----------------------------------------------------------------------------------------------------------


@rule(exact=False)
def slice_earlier(op: Ops, x: Var) -> Law:
    """Slice(f(x)) == f(Slice(x))     along one axis on which f works place by place"""

    def after(m: Match) -> ir.Value:
        ranges = slice_ranges(m, m.root)
        m.require(len(ranges) == 1, "slices several axes")
        ((axis, taken),) = ranges.items()
        m.require(taken.step > 0, "turns the axis around")
        return _apply(m, axis, _length(m, axis, taken), lambda value, at: make_slice(m, value, {at: taken}))

    return op.Slice(x, ..., _any=True), after


def _length(m: Match, axis: int, taken: Range) -> int | None:
    """How many places a slice takes at typical sizes."""
    found = estimate.sizes(m.x)
    if found is None:
        return None
    size = found[axis]
    start = taken.start + size if taken.start < 0 else taken.start
    end = min(taken.end + size if taken.end < 0 else taken.end, size)
    return max(0, -(-(end - start) // taken.step))


@rule(exact=False)
def gather_earlier(op: Ops, x: Var, i: Const) -> Law:
    """Gather(f(x), i) == f(Gather(x, i))     along one axis on which f works place by place"""

    def after(m: Match) -> ir.Value:
        indices = m.const("i")
        dims = sure_dims(m.x)
        if dims is None:
            m.fail("the rank of x is unknown")
        (axis,) = normal_axes(m, [int(m.attr("axis"))], len(dims))
        m.require(indices.ndim <= 1, "the indices have several axes")
        if indices.size != 1:
            return _apply(m, axis, indices.size, lambda value, at: m.op.Gather(value, m.i, axis=at))
        at = int(indices.reshape(()))
        size = dims[axis]
        m.require(at in (0, -1) or (isinstance(size, int) and -size <= at < size), "the index may be out of range")
        taken = Range(at, INF if at == -1 else at + 1)
        made = _apply(m, axis, 1, partial(_sliced, m, taken))
        return made if indices.ndim == 1 else squeeze(m, made, [axis])

    return op.Gather(x, i, axis=...), after


def _sliced(m: Match, taken: Range, value: ir.Value, axis: int) -> ir.Value:
    return make_slice(m, value, {axis: taken})


RULES = rules_of(globals())
