"""Pad folded into the convolution or pooling that reads it, and moved there when something stands between.

The runtime's pooling refuses an empty image, a Pad before it would fill one: so pooling needs sizes that are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.passes.forms import input_of, list_of, normal_axes, perm_of, rank_of
from accelc.pattern import Maybe, Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

_MAX_DEPTH = 6


def padded(op: Ops, x: Var) -> Op:
    """Pad in constant mode, with attributes or inputs."""
    return op.Pad(x, ..., pads=..., value=..., _as="pad")


@dataclass(frozen=True)
class Padding:
    """What a Pad adds: how much before and behind each dimension, and the value."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    value: float

    @property
    def spatial(self) -> list[int]:
        """Begins, then ends, without batch and channel."""
        return [*self.begins[2:], *self.ends[2:]]


def padding(m: Match, rank: int | None) -> Padding:
    """The padding of the matched Pad. A miss where it is not constant."""
    node = m.node("pad")
    pads, axes = list_of(m, node, "pads", 1), list_of(m, node, "axes", 3)
    if pads is None:
        m.fail("Pad has no pads")
    size = rank if rank is not None else rank_of(m.x)
    size = len(pads) // 2 if size is None and axes is None else size
    if size is None:
        m.fail("the rank of the padded value is unknown")
    chosen = normal_axes(m, axes, size) if axes is not None else list(range(size))
    m.require(len(pads) == 2 * len(chosen) and len(set(chosen)) == len(chosen), "the pads do not fit the axes")
    begins, ends = [0] * size, [0] * size
    for index, axis in enumerate(chosen):
        begins[axis], ends[axis] = pads[index], pads[index + len(chosen)]
    return Padding(tuple(begins), tuple(ends), _fill(m, node))


def _fill(m: Match, node: ir.Node) -> float:
    value = input_of(node, 2)
    if value is None:
        return float(ir.attribute(node, "value", 0.0))
    array = ir.const(value)
    if array is None or array.size != 1:
        m.fail("the value that Pad adds is not constant")
    return float(array.reshape(())[()])


def _around(m: Match, rank: int) -> Padding:
    """Padding of spatial dimensions only, that nowhere crops."""
    found = padding(m, rank)
    m.require(min(found.begins + found.ends, default=0) >= 0, "Pad crops")
    m.require(not any(found.begins[:2] + found.ends[:2]), "pads the batch or the channels")
    return found


def _own(m: Match, kernel: Sequence[int], added: Sequence[int]) -> list[int]:
    """The pads of the root itself: begins, then ends. added: what the Pad before it adds."""
    mode, count = m.attr("auto_pad", "NOTSET"), len(kernel)
    if mode == "VALID":
        return [0] * (2 * count)
    if mode == "NOTSET":
        own = [int(each) for each in m.attr("pads") or [0] * (2 * count)]
        m.require(len(own) == 2 * count, "the pads are not of the same rank")
        m.require(min(own, default=0) >= 0, "the root crops")
        return own
    m.require(mode in ("SAME_UPPER", "SAME_LOWER"), f"pads by auto_pad={mode}")
    m.require(all(each == 1 for each in m.attr("dilations") or ()), "auto_pad of a dilated window")
    begins, ends = [], []
    for axis, (size, window, step) in enumerate(
        zip(_sizes(m, count), kernel, m.attr("strides") or [1] * count, strict=True)
    ):
        whole = size + added[axis] + added[axis + count]
        needed = (-(-whole // step) - 1) * step + window - whole
        m.require(needed >= 0, "auto_pad would crop")
        begins.append((needed + 1) // 2 if mode == "SAME_LOWER" else needed // 2)
        ends.append(needed - begins[-1])
    return begins + ends


def _sizes(m: Match, count: int) -> list[int]:
    """The sizes of the spatial dimensions before the Pad."""
    sizes = [size for size in m.dims("x")[2:] if isinstance(size, int)]
    m.require(len(sizes) == count, "a spatial size is not known, or the pads of auto_pad depend on it")
    return sizes


# --- convolutions ----------------------------------------------------------------------------------------------------


def _window(m: Match, weight: str) -> list[int]:
    given = m.attr("kernel_shape")
    if given is not None:
        return [int(each) for each in given]
    sizes = [size for size in m.dims(weight)[2:] if isinstance(size, int)]
    m.require(len(sizes) == len(m.dims(weight)) - 2, "the window is not known")
    return sizes


def _folded(m: Match, weight: str, zero_point: str | None = None) -> list[int]:
    """The joined pads of a convolution. zero_point: the variable whose value stands for nothing, if not zero."""
    window = _window(m, weight)
    found = _around(m, len(window) + 2)
    nothing = 0.0 if zero_point is None or m[zero_point] is None else m.scalar(zero_point)
    m.require(found.value == nothing, f"pads with {found.value:g}, the convolution with {nothing:g}")
    return [a + b for a, b in zip(found.spatial, _own(m, window, found.spatial), strict=True)]


@rule(exact=False, shared=True)
def pad_conv(op: Ops, x: Var, w: Var, b: Maybe) -> Law:
    """Conv(Pad(x, p), w, b, pads=q) == Conv(x, w, b, pads=p + q)     zeros around spatial dimensions only"""

    def after(m: Match) -> Any:
        return m.op.copy(m.root, [m.x, m.w, m["b"]], pads=_folded(m, "w"), auto_pad=None)

    return op.Conv(padded(op, x), w, b, _any=True), after


@rule(exact=False, shared=True)
def pad_conv_integer(op: Ops, x: Var, w: Var, z: Maybe, v: Maybe) -> Law:
    """ConvInteger(Pad(x, p, z), w, z, pads=q) == ConvInteger(x, w, z, pads=p + q)     z: the zero point of x"""

    def after(m: Match) -> Any:
        return m.op.copy(m.root, [m.x, m.w, m["z"], m["v"]], pads=_folded(m, "w", "z"), auto_pad=None)

    return op.ConvInteger(padded(op, x), w, z, v, _any=True), after


@rule(exact=False, shared=True)
def pad_qlinear_conv(op: Ops, x: Var, s: Var, z: Var, w: Var) -> Law:
    """QLinearConv(Pad(x, p, z), s, z, w, pads=q) == QLinearConv(x, s, z, w, pads=p + q)     z: the zero point of x"""

    def after(m: Match) -> Any:
        rest = m.root.inputs[1:]
        return m.op.copy(m.root, [m.x, *rest], pads=_folded(m, "w", "z"), auto_pad=None)

    return op.QLinearConv(padded(op, x), s, z, w, ..., _any=True), after


# --- pooling ---------------------------------------------------------------------------------------------------------


def _pooled(m: Match) -> tuple[list[int], Padding, list[int]]:
    """(joined pads, what the Pad adds, the root's own pads) where each window still sees an element of x."""
    window = [int(each) for each in m.attr("kernel_shape")]
    count = len(window)
    m.require(all(each == 1 for each in m.attr("dilations") or ()), "is dilated")
    found, sizes = _around(m, count + 2), _sizes(m, count)
    m.require(all(sizes), "a spatial dimension is empty")
    own = _own(m, window, found.spatial)
    pads = [a + b for a, b in zip(found.spatial, own, strict=True)]
    m.require(all(pad < size for pad, size in zip(pads, [*window, *window], strict=True)), "pads a whole window")
    if m.attr("ceil_mode", 0):
        steps = m.attr("strides") or [1] * count
        whole = [size + pads[axis] + pads[axis + count] for axis, size in enumerate(sizes)]
        even = all((size - k) % step == 0 for size, k, step in zip(whole, window, steps, strict=True))
        m.require(even, "rounds the size up")
    return pads, found, own


@rule(exact=False, shared=True)
def pad_average_pool(op: Ops, x: Var) -> Law:
    """AveragePool(Pad(x, p)) == AveragePool(x, pads=p, count_include_pad=1)     zeros around spatial dimensions only"""

    def after(m: Match) -> Any:
        pads, found, own = _pooled(m)
        m.require(found.value == 0, f"pads with {found.value:g}, not zeros")
        m.require(m.attr("count_include_pad") or not any(own), "does not count its own padding")
        return m.op.copy(m.root, [m.x], pads=pads, count_include_pad=1, auto_pad=None, ceil_mode=None)

    def counts_padding(m: Match) -> bool | str:
        return m.opset >= 7 or "cannot count its padding before opset 7"

    return op.AveragePool(padded(op, x), _any=True), after, counts_padding


@rule(exact=False, shared=True)
def pad_max_pool(op: Ops, x: Var) -> Law:
    """MaxPool(Pad(x, p, v)) == MaxPool(x, pads=p)     v is the least number, or x nowhere less: as zero after Relu"""

    def after(m: Match) -> Any:
        m.require(not any(ir.use_count(v) or v.is_graph_output() for v in m.root.outputs[1:]), "the places are used")
        pads, found, _ = _pooled(m)
        dtype = m.dtype("x").numpy()
        lowest = float(np.iinfo(dtype).min if np.issubdtype(dtype, np.integer) else np.finfo(dtype).min)
        m.require(found.value <= max(lowest, least(m.x)), f"x may be less than {found.value:g}, which Pad adds")
        return m.op.copy(m.root, [m.x], outputs=1, pads=pads, auto_pad=None, ceil_mode=None)

    return op.MaxPool(padded(op, x), _any=True), after


_NEVER_NEGATIVE = frozenset(("Relu", "Sigmoid", "Softmax", "HardSigmoid", "Exp", "Sqrt", "Softplus", "ReduceL2"))
# fmt: off
_SELECTS = frozenset((
    "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity", "MaxPool",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))
# fmt: on
"""Operators whose results are elements of their first input, or lie between them."""


def _least_of_clip(node: ir.Node, depth: int) -> float:
    """The lower bound of a Clip, or its upper bound where that is less: then every element becomes that."""
    low, high = ir.attribute(node, "min"), ir.attribute(node, "max")
    lowest = least(input_of(node, 1), depth - 1) if low is None else float(low)
    if high is None and input_of(node, 2) is not None:
        high = least(input_of(node, 2), 1)
    return lowest if high is None else min(lowest, float(high))


def least(value: ir.Value | None, depth: int = _MAX_DEPTH) -> float:
    """A number that no element of a value is less than; -inf where none is known. NaN is not a number."""
    if value is None or value.dtype is None:
        return -math.inf
    if value.dtype.name.startswith("UINT"):
        return 0.0
    array = ir.const(value)
    if array is not None and array.size == 1:
        return float(array.reshape(())[()])
    node = value.producer()
    if node is None or node.domain or not depth:
        return -math.inf
    if node.op_type in _NEVER_NEGATIVE:
        return 0.0
    if node.op_type == "Abs" and value.dtype.is_floating_point():
        return 0.0
    if node.op_type == "Clip":
        return _least_of_clip(node, depth)
    if node.op_type in _SELECTS:
        return least(node.inputs[0], depth - 1)
    if node.op_type == "Mul" and node.inputs[0] is node.inputs[1] and value.dtype.is_floating_point():
        return 0.0
    if node.op_type in ("ReduceMean", "ReduceSum"):
        return 0.0 if least(node.inputs[0], depth - 1) >= 0 else -math.inf
    if node.op_type == "Add":
        parts = [least(each, depth - 1) for each in node.inputs]
        return max(parts) if min(parts) >= 0 else -math.inf
    if node.op_type in ("Concat", "Min"):
        return min((least(each, depth - 1) for each in node.inputs), default=-math.inf)
    if node.op_type == "Max":
        return max((least(each, depth - 1) for each in node.inputs), default=-math.inf)
    return -math.inf


# --- what stands between ---------------------------------------------------------------------------------------------

_TAKES_PADS = frozenset(("Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool"))


def _goes_into_windows(m: Match) -> bool | str:
    """Every consumer of the root may take the padding over, so that the Pad is moved only to vanish."""
    if m.out.is_graph_output():
        return "the result is an output of the graph"
    users = list(m.out.uses())
    good = all(not use.node.domain and use.node.op_type in _TAKES_PADS and use.idx == 0 for use in users)
    return (good and bool(users)) or "a consumer is neither a convolution nor pooling"


def _pad_again(m: Match, x: ir.Value, found: Padding) -> Any:
    """Pad with other pads, of every axis."""
    pads = [*found.begins, *found.ends]
    if m.opset < 11:
        return m.op.copy(m.node("pad"), [x], pads=pads)
    return m.op.copy(m.node("pad"), [x, pads, input_of(m.node("pad"), 2)])


@rule(exact=False)
def pad_transpose(op: Ops, x: Var) -> Law:
    """Transpose(Pad(x, p)) == Pad(Transpose(x), p moved along)     before convolutions and pooling only"""

    def after(m: Match) -> Any:
        perm = perm_of(m, m.root)
        found = padding(m, len(perm))
        m.require(min(found.begins + found.ends) >= 0, "Pad crops")
        moved = Padding(
            tuple(found.begins[axis] for axis in perm), tuple(found.ends[axis] for axis in perm), found.value
        )
        m.require(not any(moved.begins[:2] + moved.ends[:2]), "pads the batch or the channels")
        return _pad_again(m, m.op.Transpose(m.x, perm=perm), moved)

    return op.Transpose(padded(op, x), perm=...), after, _goes_into_windows


@rule(exact=False)
def pad_activation(op: Ops, x: Var) -> Law:
    """f(Pad(x, p)) == Pad(f(x), p)     where f(0) = 0, before convolutions and pooling only"""

    def after(m: Match) -> Any:
        found = padding(m, None)
        m.require(found.value == 0, f"pads with {found.value:g}, not zeros")
        m.require(min(found.begins + found.ends) >= 0, "Pad crops")
        m.require(not any(found.begins[:2] + found.ends[:2]), "pads the batch or the channels")
        return _pad_again(m, m.op.copy(m.root, [m.x, *m.root.inputs[1:]]), found)

    def keeps_zero(m: Match) -> bool | str:
        if m.root.op_type != "Clip":
            return True
        low, high = ([ir.attribute(m.root, name)] for name in ("min", "max"))
        for at, held in ((1, low), (2, high)):
            value = input_of(m.root, at)
            if value is not None:
                held[0] = ir.const(value)
                if held[0] is None:
                    return "a limit is not constant"
        below = low[0] is None or bool(np.all(np.asarray(low[0]) <= 0))
        above = high[0] is None or bool(np.all(np.asarray(high[0]) >= 0))
        return (below and above) or "zero lies outside of the limits"

    names = ("Relu", "LeakyRelu", "Clip", "HardSwish", "Tanh", "Elu", "Selu", "Abs", "Neg", "Softsign")
    before = [Op("", name, (padded(op, x),), open_inputs=name == "Clip", open_attrs=True) for name in names]
    return before, after, keeps_zero, _goes_into_windows


RULES = rules_of(globals())
