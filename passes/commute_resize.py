"""Linear maps between channels moved to the side of an upsampling that has fewer pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from accelc import dimexpr, estimate, ir
from accelc.estimate import Work
from accelc.guards import dtype_in
from accelc.passes.forms import input_of, normal_axes, producer, sure_dims, value_in
from accelc.pattern import Const, Maybe, Ops, Var
from accelc.rules import Guard, Law, Match, rule, rules_of

from ._folding import Array, require_own

_FLOAT = {ir.DataType.FLOAT}
_RESIZES = ("Resize", "Upsample")
_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners", "half_pixel_symmetric")
"""Coordinate modes that stay inside of the input, so that the weights of a pixel sum to one."""
_WORTH = 0.9
"""What a rewrite may cost of what it replaces."""


# --- what a resize does ----------------------------------------------------------------------------------------------


def _scales(m: Match, node: ir.Node) -> Array | None:
    """The scales of a resize, one for each of its axes; None where sizes are given or they are not constant."""
    attr = ir.attribute(node, "scales")
    if attr is not None:
        return np.array(attr, np.float32)
    found = ir.const(input_of(node, 1 if node.op_type == "Upsample" or m.opset < 11 else 2))
    return found.reshape(-1) if found is not None and found.size else None


def _axes(node: ir.Node, rank: int) -> list[int]:
    return [axis % rank for axis in ir.attribute(node, "axes") or range(rank)]


def not_a_mean(m: Match, node: ir.Node) -> str:
    """Why a resize may not commute with a linear map of the channels, or with adding a number to each; empty where it
    does: every pixel that it makes is a mean of pixels of its input, with weights that are the same for all channels.
    """
    coordinates = ir.attribute(node, "coordinate_transformation_mode", "half_pixel" if m.opset >= 11 else "asymmetric")
    if ir.attribute(node, "mode", "nearest") not in _MODES:
        return "interpolates with weights that were not tested"
    if coordinates not in _COORDINATES:
        return f"coordinates {coordinates} may lie outside of the image"
    if ir.attribute(node, "antialias", 0) or ir.attribute(node, "exclude_outside", 0):
        return "is antialiased or excludes what lies outside"
    return "" if ir.attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch" else "keeps the aspect ratio"


def not_space_only(m: Match, node: ir.Node, channels: int, wanted: int) -> str:
    """Why a resize may touch batch or channels, or name `channels` which shall become `wanted`; empty where not."""
    x = value_in(m, node)
    dims = sure_dims(x)
    if dims is None or len(dims) < 3:
        return "the rank of the image is unknown"
    axes = _axes(node, len(dims))
    if min(axes) >= 2:
        return ""
    scales = _scales(m, node)
    if scales is not None:
        if len(scales) != len(axes):
            return "its scales do not fit the axes"
        still = all(float(scale) == 1 for axis, scale in zip(axes, scales, strict=True) if axis < 2)
        return "" if still else "resizes batch or channels"
    sizes, shape = estimate.numbers(input_of(node, 3)), estimate.shape(x)
    if sizes is None or shape is None or len(sizes) != len(axes):
        return "the sizes are not known"
    if any(axis < 2 and size != shape[axis] for axis, size in zip(axes, sizes, strict=True)):
        return "may resize batch or channels"
    return "" if channels == wanted else f"its sizes name {channels} channels, not {wanted}"


def _pixels(m: Match, value: ir.Value) -> tuple[int, int]:
    """(batch, pixels) of an image at typical sizes."""
    found = estimate.sizes(value)
    if found is None or len(found) < 3:
        m.fail("nothing is known about the sizes")
    return found[0], prod(found[2:])


@rule(exact=False)
def resize_by_scales(op: Ops, x: Var, sizes: Var) -> Law:
    """Resize(x, sizes=k * shape(x)) == Resize(x, scales=k)     for whole numbers k"""

    def after(m: Match) -> ir.Value:
        node = m.root
        m.require(m.opset >= 11 and input_of(node, 3) is not None, "has no sizes")
        mode = m.attr("coordinate_transformation_mode")
        m.require(mode in _COORDINATES, f"coordinates {mode} depend on more than the scale")
        m.require(m.attr("keep_aspect_ratio_policy", "stretch") == "stretch", "keeps the aspect ratio")
        scales = _whole_scales(m, node)
        m.require(min(scales) >= 1, "a scale is not a whole number")
        factors = m.op.weight(np.array(scales, np.float32), f"{node.name}_scales")
        return estimate.take_over(m.op.copy(node, [m.x, input_of(node, 1), factors]), m.out)

    return op.Resize(x, ..., _any=True), after


def _whole_scales(m: Match, node: ir.Node) -> list[int]:
    """size / dimension for each axis of a resize by sizes. A miss where one is not surely a whole number."""
    x = value_in(m, node)
    dims = sure_dims(x)
    if dims is None:
        m.fail("the rank of x is unknown")
    axes = _axes(node, len(dims))
    wanted = estimate.numbers(input_of(node, 3))
    shape = estimate.shape(x)
    made = sure_dims(node.outputs[0])
    found: list[int] = []
    for index, axis in enumerate(axes):
        factor: object = None
        if wanted is not None and shape is not None and len(wanted) == len(axes):
            factor = dimexpr.quotient(wanted[index], shape[axis])
        if factor is None and made is not None:
            factor = _ratio(made[axis], dims[axis])
        if not isinstance(factor, int):
            m.fail(f"the scale of axis {axis} is not known to be a whole number")
        found.append(factor)
    return found


def _ratio(made: ir.Dim, dim: ir.Dim) -> int | None:
    if made is not None and made == dim:
        return 1
    if isinstance(made, int) and isinstance(dim, int) and dim > 0 and made % dim == 0:
        return made // dim
    return None


@rule(exact=False, shared=True)
def resize_to_same_grid(op: Ops, x: Var) -> Law:
    """Resize(x, sizes=shape(x)) == x     linear, where coordinates stay whole"""

    def after(m: Match) -> ir.Value:
        m.require(m.opset >= 11 and m.attr("mode") == "linear", "does not interpolate linearly")
        m.require(not (reason := not_a_mean(m, m.root)), reason)
        scales = _scales(m, m.root)
        factors = [float(scale) for scale in scales] if scales is not None else _whole_scales(m, m.root)
        m.require(all(factor == 1 for factor in factors), "changes the size")
        return m.x

    return op.Resize(x, ..., _any=True), after, dtype_in("x", _FLOAT)


# --- convolutions of 1x1 ---------------------------------------------------------------------------------------------


def pointwise_conv(label: str = "conv", name: str = "w") -> Guard:
    """A convolution that combines the channels of each pixel by itself."""

    def guard(m: Match) -> bool | str:
        node, weight = m.node(label), m.const(name)
        if weight.ndim < 3 or any(size != 1 for size in weight.shape[2:]):
            return "its kernel is larger than 1"
        if any(each != 1 for each in m.attr("strides", node=label) or ()):
            return "it has strides"
        if any(m.attr("pads", node=label) or ()) or ir.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return "it pads"
        return True

    return guard


@dataclass(frozen=True)
class _Cost:
    """Seconds of the graph as it is and as it would be."""

    before: float
    after: float

    def require_gain(self, m: Match) -> None:
        m.require(self.after < _WORTH * self.before, "costs as much on the other side")


def _decided(m: Match, case: str, nodes: Sequence[ir.Node], made: ir.Value) -> bool:
    """Whether the nodes built so far are to replace `nodes`. made: the value that stands for the root's."""
    if not estimate.can_be_small_model(nodes) or not estimate.can_be_small_model(m.op.nodes):
        return True

    def build() -> dict[str, onnx.ModelProto]:
        plain = estimate.small_model(nodes, m.out, m.graph)
        return {"plain": plain, "moved": estimate.small_model(m.op.nodes, made, m.graph)}

    return m.ctx.decide(m.rule.name, case, "moved", build) == "moved"


@rule(exact=False)
def conv_of_resize(op: Ops, x: Var, w: Const, b: Maybe) -> Law:
    """Conv(Resize(x), w, b) == Resize(Conv(x, w, b))     for kernels of 1, where x has fewer pixels"""

    def after(m: Match) -> ir.Value:
        resize, weight = m.node("resize"), m.const("w")
        inputs, outputs = weight.shape[1] * int(m.attr("group", 1)), weight.shape[0]
        reason = not_a_mean(m, resize) or not_space_only(m, resize, inputs, outputs)
        m.require(not reason, reason)
        (batch, small), (_, large) = _pixels(m, m.x), _pixels(m, resize.outputs[0])
        _Cost(
            estimate.seconds([_resized(batch, inputs, small, large), _convolved(batch * large, weight)]),
            estimate.seconds([_convolved(batch * small, weight), _resized(batch, outputs, small, large)]),
        ).require_gain(m)
        mapped = estimate.take_over(m.op.copy(m.root, [m.x, m.w, m["b"]]), m.x, {1: outputs})
        made = estimate.take_over(m.op.copy(resize, [mapped, *resize.inputs[1:]]), m.out)
        case = f"batch {batch}, {inputs} to {outputs} channels, {small} to {large} pixels"
        m.require(_decided(m, case, [resize, m.root], made), "measured to be slower")
        return made

    resized = op.any_of(op.Resize(x, ..., _as="resize", _any=True), op.Upsample(x, ..., _as="resize", _any=True))
    return op.Conv(resized, w, b, _as="conv", _any=True), after, pointwise_conv(), dtype_in("x", _FLOAT)


def _resized(batch: int, channels: int, small: int, large: int) -> Work:
    return estimate.elementwise((batch, channels, large), (batch, channels, small), kind="Resize")


def _convolved(places: int, weight: Array) -> Work:
    return estimate.product(places, weight.shape[1], weight.shape[0])


@dataclass(frozen=True)
class _Part:
    """A part of a concatenation: its place among the channels, and the resize that makes it, where it has one."""

    value: ir.Value
    start: int
    channels: int
    resize: ir.Node | None
    pixels: int


def _parts(m: Match, concat: ir.Node, large: int) -> Iterator[_Part]:
    start, outputs = 0, m.const("w").shape[0]
    for value in concat.inputs:
        dims = sure_dims(value)
        if value is None or dims is None or not isinstance(dims[1], int):
            m.fail("the channels of a part are unknown")
        resize = producer(m, value, *_RESIZES)
        if resize is None or not_a_mean(m, resize) or not_space_only(m, resize, dims[1], outputs):
            yield _Part(value, start, dims[1], None, large)
        else:
            source = value_in(m, resize)
            pixels = _pixels(m, source)[1]
            grows = pixels < large
            yield _Part(
                source if grows else value, start, dims[1], resize if grows else None, pixels if grows else large
            )
        start += dims[1]


@rule(exact=False)
def conv_of_concat(op: Ops, w: Const, b: Maybe) -> Law:
    """Conv(Concat(Resize(x), y), [v, w], b) == Resize(Conv(x, v)) + Conv(y, w, b)     for kernels of 1, x smaller"""

    def after(m: Match) -> ir.Value:
        concat, weight = m.node("concat"), m.const("w")
        dims = sure_dims(concat.outputs[0])
        m.require(dims is not None and normal_axes(m, [int(m.attr("axis", node="concat"))], len(dims)) == [1], "joins")
        m.require(m.attr("group", 1) == 1, "convolves in groups")
        require_own(m, "w")
        batch, large = _pixels(m, concat.outputs[0])
        parts = list(_parts(m, concat, large))
        moved, kept = [part for part in parts if part.resize], [part for part in parts if not part.resize]
        m.require(moved, "no part is resized from fewer pixels")
        m.require(sum(part.channels for part in parts) == weight.shape[1], "the parts do not fit the weight")
        _concat_cost(batch, large, parts, weight).require_gain(m)
        made = _sum_of_parts(m, concat, moved, kept)
        case = f"batch {batch}, {weight.shape[0]} channels of {large} pixels from " + ", ".join(
            f"{part.channels} of {part.pixels}" for part in parts
        )
        old = [*(part.resize for part in moved if part.resize), concat, m.root]
        m.require(_decided(m, case, old, made), "measured to be slower")
        return made

    joined = op.Concat(..., axis=..., _as="concat")
    return op.Conv(joined, w, b, _as="conv", _any=True), after, pointwise_conv(), dtype_in("w", _FLOAT)


def _concat_cost(batch: int, large: int, parts: Sequence[_Part], weight: Array) -> _Cost:
    outputs, inputs = weight.shape[:2]
    moved = [part for part in parts if part.resize]
    rest = sum(part.channels for part in parts if not part.resize)
    result = (batch, outputs, large)
    joined = estimate.elementwise((batch, inputs, large), (batch, inputs, large))
    before = [joined, estimate.product(batch * large, inputs, outputs)]
    before += [_resized(batch, part.channels, part.pixels, large) for part in moved]
    after = [estimate.product(batch * part.pixels, part.channels, outputs) for part in moved]
    after += [_resized(batch, outputs, part.pixels, large) for part in moved]
    after += [estimate.elementwise(result, result, result)] * (len(moved) - (0 if rest else 1))
    if rest:
        after.append(estimate.product(batch * large, rest, outputs))
        if sum(part.resize is None for part in parts) > 1:
            after.append(estimate.elementwise((batch, rest, large), (batch, rest, large)))
    return _Cost(estimate.seconds(before), estimate.seconds(after))


def _sum_of_parts(m: Match, concat: ir.Node, moved: Sequence[_Part], kept: Sequence[_Part]) -> ir.Value:
    """The convolutions of the parts, added up: the smallest first, the bias in the last."""
    weight = m.const("w")
    total: ir.Value | None = None
    ordered = sorted(moved, key=lambda part: part.pixels)
    for part in ordered:
        assert part.resize is not None
        bias = m["b"] if part is ordered[-1] and not kept else None
        mapped = m.op.copy(m.root, [part.value, _columns(m, weight, [part]), bias])
        estimate.take_over(mapped, part.value, {1: weight.shape[0]})
        grown: ir.Value = m.op.copy(part.resize, [mapped, *part.resize.inputs[1:]])
        estimate.take_over(grown, m.out)
        total = grown if total is None else m.op.Add(total, grown)
    if kept:
        joined = kept[0].value if len(kept) == 1 else m.op.copy(concat, [part.value for part in kept])
        rest = m.op.copy(m.root, [joined, _columns(m, weight, kept), m["b"]])
        total = m.op.Add(rest, total)
    assert total is not None
    return estimate.take_over(total, m.out)


def _columns(m: Match, weight: Array, parts: Sequence[_Part]) -> ir.Value:
    """The weight of some parts."""
    pieces = [weight[:, part.start : part.start + part.channels] for part in parts]
    return m.op.weight(np.concatenate(pieces, axis=1), str(m.w.name))


RULES = rules_of(globals())
