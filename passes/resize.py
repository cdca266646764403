"""Pixels rearranged or repeated by Reshape, Transpose, Expand, Tile and Slice, as the one operator that does it.

On the CPU the kernels of Resize (nearest), DepthToSpace and SpaceToDepth are 2 to 20 times as fast as what they stand
for, and a convolution behind SpaceToDepth of an image reads the image itself with a larger window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import dimexpr, estimate, ir
from accelc.context import Context
from accelc.dimexpr import Number
from accelc.guards import opset_at_least
from accelc.pass_base import PassResult, RulePass
from accelc.passes.forms import normal_axes, perm_of, producer, rank_of, slice_ranges
from accelc.pattern import AnyOf, Const, Maybe, Op, Ops, Var
from accelc.rules import Law, Match, rule, rules_of

from ._folding import require_own

_FEW_CHANNELS = 4
"""A convolution of so few channels reads the plain layout, and is fast."""
_VIEWS = ("Reshape", "Unsqueeze")
Shape = tuple[Number, ...]


def _shape(m: Match, value: ir.Value) -> Shape:
    found = estimate.shape(value)
    if found is None:
        m.fail(f"the shape of {value.name} is not known")
    return tuple(found)


def _runs(op_type: str, parameter: str = "T") -> Any:
    def guard(m: Match) -> bool | str:
        return m.ctx.allows("", op_type, m.opset, {parameter: m.dtype("x")})

    return guard


def _on_cpu(m: Match) -> bool | str:
    return m.ctx.target.provider == "CPUExecutionProvider" or "was measured on the CPU only"


def _becomes(m: Match, wanted: Sequence[Number]) -> None:
    """A miss unless the root, a Reshape, surely makes this shape of any image that has pixels.

    A 0 in its target copies a dimension; where the target is `wanted` itself that is a size of an empty image.
    """
    target = estimate.numbers(m.root.inputs[1]) if len(m.root.inputs) > 1 else None
    if target is not None and list(target) == list(wanted):
        return
    m.require(list(_shape(m, m.out)) == list(wanted), "the result has another shape")
    for given, size in zip(target or (), wanted, strict=False):
        m.require(not isinstance(given, int) or given <= 0 or given == size, "the result has another shape")


# --- nearest neighbours ----------------------------------------------------------------------------------------------


def _nearest(m: Match, x: ir.Value, scales: Sequence[int]) -> Any:
    roi = np.zeros(0, np.float32) if m.opset < 13 else None
    return m.op.Resize(
        x,
        roi,
        np.array(scales, np.float32),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@rule()
def nearest_repeat(op: Ops, x: Var) -> Law:
    """Reshape(Expand(Reshape(x, [n, c, h, 1, w, 1]), [n, c, h, r, w, s])) == Resize(x, scales=[1, 1, r, s], nearest)

    Tile and Unsqueeze likewise.
    """

    def after(m: Match) -> Any:
        view = producer(m, m.node("repeat").inputs[0], *_VIEWS)
        if view is None:
            m.fail("wants a view of x before it")
        before, inner = _shape(m, m.x), _shape(m, view.outputs[0])
        repeated = _shape(m, m.node("repeat").outputs[0])
        m.require(3 <= len(before) <= 4, "an image has three or four dimensions")
        m.require(len(inner) == len(repeated), "Expand adds dimensions")
        scales = _repeats(m, before, inner, repeated)
        m.require(scales[:2] == [1, 1], "repeats the batch or the channels")
        m.require(max(scales) > 1, "repeats nothing")
        _becomes(m, [dimexpr.mul(size, scale) for size, scale in zip(before, scales, strict=True)])
        return _nearest(m, m.x, scales)

    view = op.any_of(op.Reshape(x, ...), op.Unsqueeze(x, ..., axes=...))
    repeated = op.any_of(op.Expand(view, ..., _as="repeat"), op.Tile(view, ..., _as="repeat"))
    guards = (opset_at_least(11), _runs("Resize", "T1"), _on_cpu)
    return op.Reshape(repeated, ..., allowzero=...), after, *guards


def _repeats(m: Match, before: Shape, inner: Shape, repeated: Shape) -> list[int]:
    """How often the elements along each axis of x are repeated, each right behind itself."""
    scales: list[int] = []
    for size, made in zip(inner, repeated, strict=True):
        if len(scales) < len(before) and size == before[len(scales)] and made == size:
            scales.append(1)
            continue
        m.require(size == 1, "is no view of x with ones between its dimensions")
        if not isinstance(made, int) or made < 1:
            m.fail("how often it is repeated is not known")
        m.require(scales or made == 1, "repeats whole images")
        m.require(made == 1 or scales[-1] == 1, "repeats an axis twice")
        if made > 1:
            scales[-1] = made
    m.require(len(scales) == len(before), "is no view of x with ones between its dimensions")
    return scales


@rule()
def nearest_half_pixel(op: Ops, x: Var, roi: Maybe, scales: Const) -> Law:
    """Resize(x, half_pixel, round) == Resize(x, asymmetric, floor)     nearest, whole scales: keeps the blocked layout

    Pixel r k + j stands at k + (j + 1/2) / r - 1/2, which lies strictly within half a pixel of k.
    """

    def after(m: Match) -> Any:
        factors = m.const("scales")
        whole = factors.size and bool(((factors >= 1) & (factors == np.round(factors)) & (factors <= 64)).all())
        m.require(whole, "a scale is not a whole number")
        m.require(factors.size == rank_of(m.x), "the scales do not fit")
        m.require(m.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel", "has other coordinates")
        m.require(m.attr("nearest_mode") in ("round_prefer_floor", "round_prefer_ceil"), "rounds in another way")
        m.require(m.attr("extrapolation_value", 0.0) == 0.0 and not m.attr("axes"), "has further attributes")
        inputs = [m.x, m["roi"], m.scales]
        return m.op.copy(m.root, inputs, coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    before = op.Resize(
        x, roi, scales, mode="nearest", coordinate_transformation_mode=..., nearest_mode=..., cubic_coeff_a=...
    )
    return before, after, opset_at_least(11), _on_cpu


# --- blocks of pixels and channels -----------------------------------------------------------------------------------

_DEPTH_FIRST = [0, 3, 4, 1, 5, 2]
_COLUMN_FIRST = [0, 1, 4, 2, 5, 3]
_TO_DEPTH = [0, 3, 5, 1, 2, 4]


def _rearranged(op: Ops, x: Var) -> Op:
    moved = op.Transpose(op.Reshape(x, ..., allowzero=..., _as="view"), perm=..., _as="move")
    return op.Reshape(moved, ..., allowzero=...)


def _view(m: Match) -> tuple[Shape, Shape, list[int]]:
    """(shape of x, shape of its view with six dimensions, permutation)"""
    before, inner = _shape(m, m.x), _shape(m, m.node("view").outputs[0])
    m.require(len(before) == 4 and len(inner) == 6, "is no image taken apart into six dimensions")
    return before, inner, perm_of(m, m.node("move"))


@rule()
def depth_to_space(op: Ops, x: Var) -> Law:
    """Reshape(Transpose(Reshape(x, [n, r, r, c, h, w]))) == DepthToSpace(x, r)     pixel shuffle, mode DCR or CRD"""

    def after(m: Match) -> Any:
        (batch, depth, height, width), inner, perm = _view(m)
        if perm == _DEPTH_FIRST:
            first, second, channels = inner[1], inner[2], inner[3]
        elif perm == _COLUMN_FIRST and m.opset >= 11:
            channels, first, second = inner[1], inner[2], inner[3]
        else:
            m.fail(f"permutes {perm}")
        if not (isinstance(first, int) and isinstance(channels, int) and first > 1):
            m.fail("the size of a block is not known")
        m.require(first == second, "the blocks are not square")
        m.require(depth == channels * first * first, "the blocks do not make up the channels")
        m.require((inner[0], *inner[4:]) == (batch, height, width), "takes more apart than the channels")
        _becomes(m, [batch, channels, dimexpr.mul(height, first), dimexpr.mul(width, first)])
        mode = {"mode": "CRD"} if perm == _COLUMN_FIRST else {}
        return m.op.DepthToSpace(m.x, blocksize=first, **mode)

    return _rearranged(op, x), after, _runs("DepthToSpace")


@rule()
def space_to_depth(op: Ops, x: Var) -> Law:
    """Reshape(Transpose(Reshape(x, [n, c, h, r, w, r]), [0, 3, 5, 1, 2, 4])) == SpaceToDepth(x, r)"""

    def after(m: Match) -> Any:
        (batch, channels, height, width), inner, perm = _view(m)
        m.require(perm == _TO_DEPTH, f"permutes {perm}")
        block = inner[3]
        if not isinstance(block, int) or block < 2:
            m.fail("the size of a block is not known")
        m.require(block == inner[5], "the blocks are not square")
        m.require(inner[:2] == (batch, channels), "takes batch or channels apart")
        whole = dimexpr.mul(inner[2], block) == height and dimexpr.mul(inner[4], block) == width
        m.require(whole, "the blocks do not make up the image")
        _becomes(m, [batch, dimexpr.mul(channels, block * block), inner[2], inner[4]])
        return m.op.SpaceToDepth(m.x, blocksize=block)

    return _rearranged(op, x), after, _runs("SpaceToDepth")


# --- every other pixel -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Focus:
    """x taken apart into every `block`-th pixel, and joined along the channels. offsets: (row, column) of each part."""

    x: ir.Value
    block: int
    offsets: tuple[tuple[int, int], ...]


def _focus(m: Match, concat: ir.Node) -> _Focus:
    """A miss unless a Concat joins all pixels of an image by their place inside of blocks.

    Where it makes that many channels the image has whole blocks: else its parts would differ in size. (The runtime
    leaves out parts that are empty, as those of an image of one row are.)
    """
    parts = [producer(m, value, "Slice") for value in concat.inputs]
    slices = [part for part in parts if part is not None]
    m.require(len(slices) == len(parts) and len(parts) > 1, "joins something else than slices")
    x = slices[0].inputs[0]
    if x is None or any(part.inputs[0] is not x for part in slices):
        m.fail("takes slices of several values")
    m.require(rank_of(x) == 4, "x is no image")
    m.require(normal_axes(m, [int(ir.attribute(concat, "axis", 1))], 4) == [1], "does not join channels")
    block = round(len(slices) ** 0.5)
    offsets = []
    for part in slices:
        ranges = slice_ranges(m, part)
        m.require(set(ranges) == {2, 3}, "does not take pixels")
        dims = ir.dims(x)
        for axis, each in ranges.items():
            size = dims[axis] if dims is not None else None
            whole = each.plain and each.step == block and each.start < block
            reaches = each.end > 2**31 - 2 or (isinstance(size, int) and each.end > size - block + each.start)
            m.require(whole and reaches, "does not take every pixel of its kind")
        offsets.append((ranges[2].start, ranges[3].start))
    every = {(row, column) for row in range(block) for column in range(block)}
    m.require(set(offsets) == every and len(offsets) == len(every), "does not take every pixel once")
    return _Focus(x, block, tuple(offsets))


@rule()
def focus_space_to_depth(op: Ops, x: Var) -> Law:
    """Concat(x[::2, ::2], x[::2, 1::2], x[1::2, ::2], x[1::2, 1::2]) == SpaceToDepth(x, 2)     in this order"""

    def after(m: Match) -> Any:
        found = _focus(m, m.root)
        m.require(found.offsets == tuple(sorted(found.offsets)), "joins the parts in another order")
        places = [size for size in (ir.dims(found.x) or ())[2:] if isinstance(size, int)]
        whole = len(places) == 2 and all(size and size % found.block == 0 for size in places)
        m.require(whole, "the image may not have whole blocks")
        return m.op.SpaceToDepth(found.x, blocksize=found.block)

    first = op.Slice(x, ..., starts=..., ends=..., axes=...)
    return Op("", "Concat", (first,), {"axis": ...}, open_inputs=True), after, _runs("SpaceToDepth")


def _spread(op: Ops, x: Var) -> AnyOf:
    part = op.Slice(x, ..., starts=..., ends=..., axes=...)
    joined = Op("", "Concat", (part,), {"axis": ...}, label="join", open_inputs=True)
    return op.any_of(joined, op.SpaceToDepth(x, blocksize=..., _as="depth"))


@rule(exact=False)
def conv_of_blocks(op: Ops, x: Var, w: Const, b: Maybe) -> Law:
    """Conv(SpaceToDepth(x, r), w, pads=p, strides=s) == Conv(x, w', pads=r p, strides=r s)     of images, w' spread out

    Concat of the four slices that YOLO takes likewise. The products are the same; the image is not moved.
    """

    def after(m: Match) -> Any:
        weight = m.const("w")
        require_own(m, "w")
        if m.has("join"):
            found = _focus(m, m.node("join"))
        else:
            block = int(m.attr("blocksize", node="depth"))
            order = tuple((row, column) for row in range(block) for column in range(block))
            found = _Focus(m.x, block, order)
        channels = ir.dims(found.x)
        m.require(channels is not None and isinstance(channels[1], int), "the number of channels is not known")
        assert channels is not None
        count, block = channels[1], found.block
        assert isinstance(count, int)
        m.require(weight.ndim == 4 and weight.shape[1] == count * block * block, "the weight does not fit")
        m.require(count <= _FEW_CHANNELS, f"{count} channels are too many")
        m.require(int(m.attr("group", 1)) == 1, "is grouped")
        m.require(all(each == 1 for each in m.attr("dilations") or ()), "is dilated")
        m.require(m.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID"), "pads by auto_pad")
        pads = [block * each for each in m.attr("pads") or [0] * 4]
        m.require(min(pads) >= 0, "crops")
        large = np.zeros((weight.shape[0], count, block * weight.shape[2], block * weight.shape[3]), weight.dtype)
        for index, (row, column) in enumerate(found.offsets):
            large[:, :, row::block, column::block] = weight[:, index * count : (index + 1) * count]
        strides = [block * each for each in m.attr("strides") or [1, 1]]
        size = list(large.shape[2:])
        return m.op.copy(m.root, [found.x, large, m["b"]], pads=pads, strides=strides, kernel_shape=size, auto_pad=None)

    return op.Conv(_spread(op, x), w, b, _any=True), after, _on_cpu


RULES = rules_of(globals())


@dataclass(frozen=True)
class Resize(RulePass):
    """Write pixels that are repeated or rearranged as Resize, DepthToSpace, SpaceToDepth or a wider convolution."""

    name = "resize"
    exact = False
    rules = RULES

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        estimate.annotate(model, ctx)
        return super().run(model, ctx)
