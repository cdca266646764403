"""How each operator's output shapes follow from its input shapes, over dimension symbols (see symbolic.py).

A function gets a `View` of its node and returns the dimensions of each output: numbers, None for a dimension it cannot
tell, or None for a whole shape. What it returns must hold for every run in which the operator succeeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from accelc import dimexpr as e
from accelc.dimexpr import Number
from accelc.shape_inference import OPEN_ENDS

if TYPE_CHECKING:
    from accelc.symbolic import View

Dims = tuple[Number, ...]
Rule = Callable[["View"], Sequence[Dims | None]]

Table = dict[tuple[str, str], Rule]

SHAPES: Table = {}
FAR = 2**31 - 1
"""Slice bounds from here on mean "to the end": exporters write the largest int32 or int64."""


def registrar(table: Table, ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Puts a function into a table for some operators, named with spaces between them."""

    def register(function: Rule) -> Rule:
        table.update({(domain, op): function for op in ops.split()})
        return function

    return register


def shape_of(ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function for some operators."""
    return registrar(SHAPES, ops, domain)


# --- element by element ----------------------------------------------------------------------------------------------


def broadcast(shapes: Iterable[Dims | None]) -> Dims | None:
    """The shape that shapes broadcast to."""
    result: Dims = ()
    for dims in shapes:
        if dims is None:
            return None
        if dims == result or not result:
            result = dims
            continue
        rank = max(len(result), len(dims))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(dims)) + dims
        result = tuple(broadcast_dim(a, b) for a, b in zip(left, right, strict=True))
    return result


def broadcast_dim(a: Number, b: Number) -> Number:
    """The size that two sizes broadcast to: they are equal, or one of them is 1."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for one in (a, b):
        if isinstance(one, int):
            return one
    for one, other in ((a, b), (b, a)):
        # min(one, 512) broadcasts with `one` only where they are equal, or where `one` is 1 and they are equal too
        args = e.minimum_args(other)
        if one in args and all(isinstance(arg, int) and arg > 1 for arg in args if arg != one):
            return one
    return None


@shape_of(
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitwiseNot Cast CastLike Ceil Celu Clip "
    "Cos Cosh CumSum DequantizeLinear Dropout Elu Erf Exp EyeLike Floor Gelu GroupNormalization HardSigmoid "
    "HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log "
    "LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear RMSNormalization "
    "RandomNormalLike RandomUniformLike Reciprocal Relu ReverseSequence Round ScatterElements ScatterND Selu "
    "Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu"
)
def _like_first(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if v.node.op_type == "Dropout":
        return [dims, dims]
    return [dims]


shape_of(
    "Gelu FastGelu BiasGelu QuickGelu SkipLayerNormalization SkipSimplifiedLayerNormalization QuantizeLinear "
    "DequantizeLinear",
    domain="com.microsoft",
)(lambda v: [v.dims(0)])


@shape_of(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max "
    "Mean Min Mod Mul Or Pow Sub Sum Where Xor"
)
def _broadcast(v: View) -> Sequence[Dims | None]:
    return [broadcast(v.dims(index) for index in range(len(v.node.inputs)))]


# --- shapes themselves -----------------------------------------------------------------------------------------------


def shape_range(v: View, rank: int) -> slice:
    """The part of a shape of some rank that a Shape operator gives."""
    start, end = v.attr("start", 0), v.attr("end", rank)
    start, end = (min(max(each + rank if each < 0 else each, 0), rank) for each in (start, end))
    return slice(start, max(start, end))


@shape_of("Shape")
def _shape(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    return [None if dims is None else (len(dims[shape_range(v, len(dims))]),)]


@shape_of("Size")
def _size(v: View) -> Sequence[Dims | None]:
    return [()]


@shape_of("ConstantOfShape")
def _constant_of_shape(v: View) -> Sequence[Dims | None]:
    return [v.vector(0)]


@shape_of("Expand")
def _expand(v: View) -> Sequence[Dims | None]:
    target = v.vector(1)
    return [broadcast([v.dims(0), target])]


@shape_of("Reshape")
def _reshape(v: View) -> Sequence[Dims | None]:
    target, dims = v.vector(1), v.dims(0)
    if target is None:
        return [None]
    allowzero = bool(v.attr("allowzero", 0))
    sizes = [_reshape_dim(v, size, axis, allowzero) for axis, size in enumerate(target)]
    total = None if dims is None else e.product(dims)
    if -1 in target:
        hole = target.index(-1)  # the operator fails where the others multiply to 0, unless allowzero is set
        certain = not allowzero or hole_is_certain(target, dims)
        sizes[hole] = e.floordiv(total, _others(sizes, hole)) if certain else None
    else:
        unknown = [axis for axis, size in enumerate(sizes) if size is None]
        if len(unknown) == 1 and all(e.positive(size) for size in sizes if size is not None):
            sizes[unknown[0]] = e.quotient(total, _others(sizes, unknown[0]))
        # A symbol that is 0 would copy a dimension; without elements that fits only where another symbol is 0 as well,
        # in a model run on an input that is empty in two ways.
        for axis in unknown:
            sizes[axis] = target[axis] if sizes[axis] is None and e.zero_with(target[axis], total) else sizes[axis]
    for axis, size in enumerate(target):
        if sizes[axis] is None and size != -1:
            v.unless_zero(axis, size)
    return [tuple(sizes)]


def _reshape_dim(v: View, size: Number, axis: int, allowzero: bool) -> Number:
    """The dimension that one element of a Reshape's shape gives; a 0 there copies, whenever it is 0."""
    dims = v.dims(0)
    if allowzero or size is None or size == -1 or e.positive(size):
        return size
    if dims is None:
        return None
    if axis >= len(dims):
        return size if size != 0 else None  # a 0 here is an error, so where the operator succeeds it is none
    if size == 0 or v.same_unless_zero(size, dims[axis]):
        return dims[axis]
    return size if e.zero_with(size, dims[axis]) else None


def hole_is_certain(target: Sequence[Number], dims: Dims | None) -> bool:
    """Whether the -1 of a Reshape with allowzero is what is left, also where a symbol is 0.

    The runtime leaves dimensions of 0 out on both sides then, so each symbol must be a dimension of the input, and
    what is left must not be 0.
    """
    rest = list(dims or ())
    for size in target:
        if size == -1 or e.positive(size):
            continue
        if size is None or size not in rest:
            return False
        rest.remove(size)
    return rest == list(dims or ()) or all(e.positive(size) for size in rest)


def _others(sizes: Sequence[Number], hole: int) -> Number:
    return e.product(size for axis, size in enumerate(sizes) if axis != hole)


@shape_of("Range")
def _range(v: View) -> Sequence[Dims | None]:
    start, limit, delta = (v.whole(index) for index in range(3))
    if not isinstance(delta, int) or delta == 0:
        return [(None,)]
    span = e.sub(limit, start) if delta > 0 else e.sub(start, limit)
    return [(e.maximum(e.ceildiv(span, abs(delta)), 0),)]


# --- moving elements -------------------------------------------------------------------------------------------------


@shape_of("Transpose")
def _transpose(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if dims is None:
        return [None]
    order = v.attr("perm", tuple(reversed(range(len(dims)))))
    return [tuple(dims[axis] for axis in order)]


@shape_of("Flatten")
def _flatten(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if dims is None:
        return [(None, None)]
    axis = v.attr("axis", 1)
    axis += len(dims) if axis < 0 else 0
    return [(e.product(dims[:axis]), e.product(dims[axis:]))]


@shape_of("Squeeze")
def _squeeze(v: View) -> Sequence[Dims | None]:
    dims, axes = v.dims(0), v.ints("axes", 1)
    if dims is None or axes is None:
        return [None]
    if not v.has("axes", 1):
        return [tuple(d for d in dims if d != 1) if all(isinstance(d, int) for d in dims) else None]
    gone = {axis % len(dims) for axis in axes}
    return [tuple(d for axis, d in enumerate(dims) if axis not in gone)]


@shape_of("Unsqueeze")
def _unsqueeze(v: View) -> Sequence[Dims | None]:
    dims, axes = v.dims(0), v.ints("axes", 1)
    if dims is None or axes is None:
        return [None]
    rank = len(dims) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(dims)
    return [tuple(1 if axis in new else next(rest) for axis in range(rank))]


@shape_of("Concat")
def _concat(v: View) -> Sequence[Dims | None]:
    shapes = [v.dims(index) for index in range(len(v.node.inputs))]
    known = [dims for dims in shapes if dims is not None]
    if not known:
        return [None]
    rank = len(known[0])
    axis = v.attr("axis", 1) % max(rank, 1)
    merged = [_same(column) for column in zip(*known, strict=True)]
    merged[axis] = e_sum(dims[axis] for dims in known) if len(known) == len(shapes) else None
    return [tuple(merged)]


def _same(sizes: Sequence[Number]) -> Number:
    """The one size that several dimensions share: a number where any is one."""
    return next((size for size in sizes if isinstance(size, int)), sizes[0])


def e_sum(numbers: Iterable[Number]) -> Number:
    """The sum of numbers."""
    total: Number = 0
    for number in numbers:
        total = e.add(total, number)
    return total


@shape_of("Split")
def _split(v: View) -> Sequence[Dims | None]:
    dims, count = v.dims(0), len(v.node.outputs)
    if dims is None:
        return [None] * count
    axis = v.attr("axis", 0) % len(dims)
    whole = dims[axis]
    sizes: Dims | None
    if v.has("split", 1):
        sizes = v.attr("split", None) if v.opset < 13 else v.vector(1)
    elif isinstance(whole, int) and v.opset >= 18:
        each = -(-whole // count)
        sizes = (*(each,) * (count - 1), whole - each * (count - 1))
    else:
        sizes = (e.quotient(whole, count),) * count
    if sizes is None or len(sizes) != count:
        sizes = (None,) * count
    return [(*dims[:axis], size, *dims[axis + 1 :]) for size in sizes]


def slices(v: View) -> list[tuple[int, Number, Number, Number]] | None:
    """(axis, start, end, step) of a Slice; None where the axes or the rank are unknown.

    An end that onnx and the runtime read differently is unknown.
    """
    dims = v.dims(0)
    if dims is None:
        return None
    by_input = v.opset >= 10
    axes = v.ints("" if by_input else "axes", 3)
    starts, ends = (v.vector(1), v.vector(2)) if by_input else (v.attr("starts", ()), v.attr("ends", ()))
    count = max(len(starts or ()), len(ends or ()))
    if axes is None or (starts is None and ends is None):
        return None
    axes = axes or tuple(range(count))
    unknown: Dims = (None,) * count
    steps = (v.vector(4) or unknown) if by_input and v.has("", 4) else (1,) * count
    columns = (axes, starts or unknown, ends or unknown, steps)
    if any(len(column) != count for column in columns) or any(not -len(dims) <= axis < len(dims) for axis in axes):
        return None
    return [
        (axis % len(dims), start, None if _is_disputed(end, step) else end, step)
        for axis, start, end, step in zip(*columns, strict=True)
    ]


def _is_disputed(end: Number, step: Number) -> bool:
    return isinstance(end, int) and end in OPEN_ENDS and not e.nonnegative(step)


@shape_of("Slice")
def _slice(v: View) -> Sequence[Dims | None]:
    dims, parts = v.dims(0), slices(v)
    if dims is None or parts is None:
        return [None if dims is None else (None,) * len(dims)]
    result = list(dims)
    for axis, start, end, step in parts:
        result[axis] = slice_size(result[axis], start, end, step)
    return [tuple(result)]


def slice_size(size: Number, start: Number, end: Number, step: Number) -> Number:
    """How many elements a Slice takes from a dimension."""
    if size is None or not isinstance(step, int) or step == 0:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int) and (step > 0 or start >= -size):
        return len(range(size)[slice(start, end if step > 0 or end >= -size else None, step)])
    if step < 0:
        whole = start is not None and e.at_least(start, -1) and (start == -1 or reaches(start, e.sub(size, 1)))
        return e.ceildiv(size, -step) if whole and isinstance(end, int) and end <= -FAR else None
    first, last = _bound(start, size), _bound(end, size)
    length = e.sub(last, first)
    return e.ceildiv(length if e.at_least(last, first) else e.maximum(length, 0), step)


def _bound(bound: Number, size: Number) -> Number:
    """A slice bound counted from the front and held inside 0..size; None where its sign is unknown."""
    if e.nonnegative(bound):
        return size if reaches(bound, size) else e.minimum(bound, size)
    if e.at_least(e.neg(bound), 1):
        return e.maximum(e.add(size, bound), 0)
    return None


def reaches(bound: Number, size: Number) -> bool:
    """Whether a slice bound surely lies at or behind the end of a dimension."""
    return (isinstance(bound, int) and bound >= FAR) or e.at_least(bound, size)


@shape_of("Gather")
def _gather(v: View) -> Sequence[Dims | None]:
    dims, indices = v.dims(0), v.dims(1)
    if dims is None or indices is None or not dims:
        return [None]
    axis = v.attr("axis", 0) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


@shape_of("GatherElements")
def _gather_elements(v: View) -> Sequence[Dims | None]:
    return [v.dims(1)]


@shape_of("GatherND")
def _gather_nd(v: View) -> Sequence[Dims | None]:
    dims, indices = v.dims(0), v.dims(1)
    if dims is None or indices is None or not indices or not isinstance(indices[-1], int):
        return [None]
    return [(*indices[:-1], *dims[v.attr("batch_dims", 0) + indices[-1] :])]


@shape_of("Tile")
def _tile(v: View) -> Sequence[Dims | None]:
    dims, repeats = v.dims(0), v.vector(1)
    if dims is None or v.opset < 6:
        return [None]
    if repeats is None or len(repeats) != len(dims):
        return [(None,) * len(dims)]
    return [tuple(e.mul(a, b) for a, b in zip(dims, repeats, strict=True))]


@shape_of("Pad")
def _pad(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if dims is None:
        return [None]
    pads = v.attr("pads", None) if v.opset < 11 else v.vector(1)
    if pads is None or len(pads) != 2 * len(dims) or v.has("", 3):
        return [(None,) * len(dims)]
    before, after = pads[: len(dims)], pads[len(dims) :]
    return [tuple(e_sum(parts) for parts in zip(dims, before, after, strict=True))]


@shape_of("DepthToSpace SpaceToDepth")
def _blocks(v: View) -> Sequence[Dims | None]:
    dims, size = v.dims(0), v.attr("blocksize", 0)
    if dims is None or len(dims) != 4 or size < 1:
        return [None]
    n, c, h, w = dims
    if v.node.op_type == "DepthToSpace":
        return [(n, e.quotient(c, size * size), e.mul(h, size), e.mul(w, size))]
    return [(n, e.mul(c, size * size), e.quotient(h, size), e.quotient(w, size))]


@shape_of("Resize")
def _resize(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    plain = v.attr("axes", None) is None and v.attr("keep_aspect_ratio_policy", "stretch") == "stretch"
    crops = v.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    if dims is None or v.opset < 11 or not plain or crops:
        return [None if dims is None else (None,) * len(dims)]
    sizes = v.vector(3)
    if v.has("", 3) and sizes is not None and len(sizes) == len(dims):
        return [sizes]
    scales = None if v.has("", 3) else v.whole_scales(2)
    if scales is None or len(scales) != len(dims):
        return [(None,) * len(dims)]
    return [tuple(e.mul(d, scale) for d, scale in zip(dims, scales, strict=True))]
