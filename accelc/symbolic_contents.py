"""How the elements of small tensors that do shape arithmetic follow from those of the inputs (see symbolic.py).

Contents are object arrays. An element is a number of dimexpr (int64, int32), a bool, a `Ratio` (float, double), or None
where it is unknown. Numbers are mathematical: no dimension is assumed so large that the original's own int32, int64 or
floating-point shape arithmetic overflows or rounds (a float holds integers up to 2**24).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from accelc import dimexpr as e
from accelc import ir
from accelc.dimexpr import Number, Poly
from accelc.symbolic_shapes import shape_range, slices

if TYPE_CHECKING:
    from accelc.symbolic import View

MAX_ELEMENTS = 64
_MAX_BITS = 2**24

INTS = frozenset({ir.DataType.INT64, ir.DataType.INT32})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
KINDS = INTS | FLOATS | {ir.DataType.BOOL}


@dataclass(frozen=True)
class Ratio:
    """top / bottom, exactly. rounded: the float holds the nearest value, which only rounding to integers may read."""

    top: int | Poly
    bottom: int = 1
    rounded: bool = False


Element = Number | bool | Ratio
Array = np.ndarray[Any, Any]
Rule = Callable[["View"], Sequence[Array | None]]

CONTENTS: dict[tuple[str, str], Rule] = {}


def contents_of(*ops: str) -> Callable[[Rule], Rule]:
    """Register a function for some operators."""

    def register(function: Rule) -> Rule:
        CONTENTS.update({("", op): function for op in ops})
        return function

    return register


def from_constant(tensor: ir.TensorProtocol) -> Array | None:
    """The contents of a small constant."""
    if tensor.dtype not in KINDS or tensor.size > MAX_ELEMENTS:
        return None
    array = tensor.numpy()
    elements = array.reshape(-1).tolist()
    if tensor.dtype in FLOATS:
        elements = [_ratio_of(number) for number in elements]
    return objects(elements, array.shape)


def objects(elements: Sequence[Element], shape: Sequence[int]) -> Array:
    """An object array of some shape."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(tuple(shape))


def _ratio_of(number: float) -> Ratio | None:
    return _ratio(*number.as_integer_ratio()) if math.isfinite(number) else None


def _ratio(top: Number, bottom: int = 1, rounded: bool = False) -> Ratio | None:
    """A float value, or None where a float cannot hold it exactly."""
    if top is None:
        return None
    numbers = [top] if isinstance(top, int) else [coefficient for _, coefficient in top.terms]
    common = math.gcd(bottom, *numbers)
    reduced = e.quotient(top, common)
    assert reduced is not None
    bottom //= common
    if bottom > _MAX_BITS or any(abs(number) // common > _MAX_BITS for number in numbers):
        return None
    return Ratio(reduced, bottom, rounded)


# --- where the numbers come from -------------------------------------------------------------------------------------


@contents_of("Shape")
def _shape(v: View) -> Sequence[Array | None]:
    dims = v.dims(0)
    if dims is None:
        return [None]
    part = dims[shape_range(v, len(dims))]
    return [objects(part, (len(part),))]


@contents_of("Size")
def _size(v: View) -> Sequence[Array | None]:
    dims = v.dims(0)
    return [None if dims is None else objects([e.product(dims)], ())]


@contents_of("ConstantOfShape")
def _constant_of_shape(v: View) -> Sequence[Array | None]:
    shape, tensor = v.ints("", 0), v.attr("value", None)
    if shape is None or math.prod(shape) > MAX_ELEMENTS:
        return [None]
    fill: Element = Ratio(0) if tensor is None else None
    if tensor is not None and (known := from_constant(tensor)) is not None:
        fill = known.reshape(-1)[0]
    return [objects([fill] * math.prod(shape), shape)]


@contents_of("Range")
def _range(v: View) -> Sequence[Array | None]:
    bounds = [v.scalar(index) for index in range(3)]
    if not all(isinstance(bound, int) for bound in bounds) or bounds[2] == 0 or v.dtype() not in INTS:
        return [None]
    numbers = range(*(bound for bound in bounds if isinstance(bound, int)))
    return [objects(list(numbers), (len(numbers),)) if len(numbers) <= MAX_ELEMENTS else None]


@contents_of("NonZero")
def _non_zero(v: View) -> Sequence[Array | None]:
    array = v.content(0)
    if array is None or not all(isinstance(element, int) for element in array.flat):
        return [None]
    found = np.array(np.nonzero(array.astype(bool)))
    return [objects(found.reshape(-1).tolist(), found.shape)] if array.ndim else [None]


# --- moving elements -------------------------------------------------------------------------------------------------


@contents_of("Identity")
def _identity(v: View) -> Sequence[Array | None]:
    return [v.content(0)]


@contents_of("Squeeze", "Unsqueeze", "Reshape", "Flatten")
def _reshaped(v: View) -> Sequence[Array | None]:
    array, shape = v.content(0), v.result_shape()
    return [None if array is None or shape is None else array.reshape(shape)]


@contents_of("Transpose")
def _transpose(v: View) -> Sequence[Array | None]:
    array = v.content(0)
    return [None if array is None else array.transpose(v.attr("perm", None))]


@contents_of("Gather")
def _gather(v: View) -> Sequence[Array | None]:
    array, indices = v.content(0), v.int_array(1)
    if array is None or indices is None or array.ndim == 0:
        return [None]
    taken = np.take(array, indices, axis=v.attr("axis", 0))
    return [taken if isinstance(taken, np.ndarray) else objects([taken], ())]


@contents_of("GatherElements")
def _gather_elements(v: View) -> Sequence[Array | None]:
    array, indices = v.content(0), v.int_array(1)
    if array is None or indices is None:
        return [None]
    return [np.take_along_axis(array, indices, axis=v.attr("axis", 0))]


@contents_of("Slice")
def _slice(v: View) -> Sequence[Array | None]:
    array, parts = v.content(0), slices(v)
    if array is None or parts is None:
        return [None]
    index = [slice(None)] * array.ndim
    for axis, start, end, step in parts:
        if not (isinstance(start, int) and isinstance(end, int) and isinstance(step, int)) or step == 0:
            return [None]
        size = array.shape[axis]
        if step < 0 and start < -size:
            return [None]
        index[axis] = slice(start, end if step > 0 or end >= -size else None, step)
    return [array[tuple(index)]]


@contents_of("Concat")
def _concat(v: View) -> Sequence[Array | None]:
    parts = [v.content(index) for index in range(len(v.node.inputs))]
    for index, part in enumerate(parts):
        shape = v.int_dims(index)
        if part is None and shape is not None and math.prod(shape) <= MAX_ELEMENTS:
            parts[index] = objects([None] * math.prod(shape), shape)
    known = [part for part in parts if part is not None]
    return [np.concatenate(known, axis=v.attr("axis", 0)) if len(known) == len(parts) else None]


@contents_of("Split")
def _split(v: View) -> Sequence[Array | None]:
    array, count = v.content(0), len(v.node.outputs)
    axis = v.attr("axis", 0)
    sizes = [None if (shape := v.result_shape(index)) is None else shape[axis] for index in range(count)]
    if array is None or None in sizes:
        return [None] * count
    return list(np.split(array, np.cumsum([size for size in sizes if size is not None])[:-1], axis=axis))


@contents_of("Expand")
def _expand(v: View) -> Sequence[Array | None]:
    array, shape = v.content(0), v.result_shape()
    return [None if array is None or shape is None else np.broadcast_to(array, shape)]


@contents_of("Tile")
def _tile(v: View) -> Sequence[Array | None]:
    array, repeats = v.content(0), v.ints("", 1)
    return [None if array is None or repeats is None else np.tile(array, repeats)]


@contents_of("ScatterElements")
def _scatter_elements(v: View) -> Sequence[Array | None]:
    array, indices, updates = v.content(0), v.int_array(1), v.content(2)
    if array is None or indices is None or updates is None or v.attr("reduction", "none") != "none":
        return [None]
    result = array.copy()
    np.put_along_axis(result, indices, updates, axis=v.attr("axis", 0))
    return [result]


@contents_of("ScatterND")
def _scatter_nd(v: View) -> Sequence[Array | None]:
    array, indices, updates = v.content(0), v.int_array(1), v.content(2)
    if array is None or indices is None or updates is None or v.attr("reduction", "none") != "none":
        return [None]
    result = array.copy()
    for place in np.ndindex(indices.shape[:-1]):
        result[tuple(indices[place])] = updates[place]
    return [result]


# --- arithmetic ------------------------------------------------------------------------------------------------------


def _each(v: View, function: Callable[..., Element]) -> Sequence[Array | None]:
    """A function of the elements, broadcast; an unknown element makes the result unknown."""
    arrays = [v.content(index) for index in range(len(v.node.inputs))]
    known = [array for array in arrays if array is not None]
    if len(known) != len(arrays):
        return [None]
    spread = np.broadcast_arrays(*known)
    if spread[0].size > MAX_ELEMENTS:
        return [None]
    elements = [
        None if any(item is None for item in items) else function(*items)
        for items in zip(*(array.reshape(-1).tolist() for array in spread), strict=True)
    ]
    return [objects(elements, spread[0].shape)]


def _exact(*numbers: Ratio) -> bool:
    return not any(number.rounded for number in numbers)


def _float_or(ints: Callable[..., Number], floats: Callable[..., Element]) -> Callable[..., Element]:
    def apply(*items: Any) -> Element:
        return floats(*items) if isinstance(items[0], Ratio) else ints(*items)

    return apply


def _ratio_add(a: Ratio, b: Ratio) -> Element:
    total = e.add(e.mul(a.top, b.bottom), e.mul(b.top, a.bottom))
    return _ratio(total, a.bottom * b.bottom) if _exact(a, b) else None


def _ratio_mul(a: Ratio, b: Ratio) -> Element:
    return _ratio(e.mul(a.top, b.top), a.bottom * b.bottom) if _exact(a, b) else None


def _ratio_neg(a: Ratio) -> Element:
    return _ratio(e.neg(a.top), a.bottom, a.rounded)


def _ratio_div(a: Ratio, b: Ratio) -> Element:
    if not _exact(a, b) or not isinstance(b.top, int) or b.top <= 0:
        return None
    bottom = a.bottom * b.top
    if b.top & (b.top - 1) == 0:
        return _ratio(e.mul(a.top, b.bottom), bottom)
    # the nearest float to a quotient of integers lies on the same side of every integer as the quotient itself
    whole = a.bottom == 1 and b.bottom == 1 and b.top < 2**12
    return _ratio(a.top, bottom, rounded=True) if whole else None


def _int_div(a: Number, b: Number) -> Number:
    if isinstance(a, int) and isinstance(b, int):
        return None if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    exact = e.quotient(a, b)
    if exact is not None:
        return exact
    return e.floordiv(a, b) if e.nonnegative(a) and e.nonnegative(b) else None


@contents_of("Add")
def _add(v: View) -> Sequence[Array | None]:
    return _each(v, _float_or(e.add, _ratio_add))


@contents_of("Sub")
def _sub(v: View) -> Sequence[Array | None]:
    def floats(a: Ratio, b: Ratio) -> Element:
        negated = _ratio_neg(b)
        return _ratio_add(a, negated) if isinstance(negated, Ratio) else None

    return _each(v, _float_or(e.sub, floats))


@contents_of("Mul")
def _mul(v: View) -> Sequence[Array | None]:
    return _each(v, _float_or(e.mul, _ratio_mul))


@contents_of("Div")
def _div(v: View) -> Sequence[Array | None]:
    return _each(v, _float_or(_int_div, _ratio_div))


@contents_of("Neg")
def _neg(v: View) -> Sequence[Array | None]:
    return _each(v, _float_or(e.neg, _ratio_neg))


@contents_of("Mod")
def _mod(v: View) -> Sequence[Array | None]:
    fmod = bool(v.attr("fmod", 0))

    def ints(a: Number, b: Number) -> Number:
        return e.mod(a, b) if not fmod or (e.nonnegative(a) and e.nonnegative(b)) else None

    return _each(v, _float_or(ints, lambda *_: None))


@contents_of("Min", "Max")
def _extreme(v: View) -> Sequence[Array | None]:
    return _each(v, _float_or(e.minimum if v.node.op_type == "Min" else e.maximum, lambda *_: None))


@contents_of("Abs", "Relu")
def _magnitude(v: View) -> Sequence[Array | None]:
    negative: Callable[[Number], Number] = e.neg if v.node.op_type == "Abs" else lambda _: 0

    def ints(a: Number) -> Number:
        return a if e.nonnegative(a) else negative(a) if e.nonnegative(e.neg(a)) else None

    return _each(v, _float_or(ints, lambda *_: None))


@contents_of("Floor", "Ceil")
def _rounding(v: View) -> Sequence[Array | None]:
    up = v.node.op_type == "Ceil"

    def floats(a: Ratio) -> Element:
        return _ratio(e.ceildiv(a.top, a.bottom) if up else e.floordiv(a.top, a.bottom))

    return _each(v, _float_or(lambda *_: None, floats))


@contents_of("Cast")
def _cast(v: View) -> Sequence[Array | None]:
    to = v.dtype()

    def one(item: Any) -> Element:
        if to in INTS:
            if isinstance(item, Ratio):
                return _truncate(item)
            return int(item) if isinstance(item, int) else item
        if to in FLOATS:
            return item if isinstance(item, Ratio) else _ratio(int(item) if isinstance(item, int) else item)
        top = item.top if isinstance(item, Ratio) else item
        return top != 0 if isinstance(top, int) else True if e.positive(top) else None

    if v.input_dtype(0) == ir.DataType.DOUBLE and to == ir.DataType.FLOAT:
        return [None]
    return _each(v, one)


def _truncate(item: Ratio) -> Number:
    if e.nonnegative(item.top):
        return e.floordiv(item.top, item.bottom)
    if e.nonnegative(e.neg(item.top)):
        return e.neg(e.floordiv(e.neg(item.top), item.bottom))
    return item.top if item.bottom == 1 else None


_FOLDS: dict[str, Callable[..., Number]] = {
    "ReduceProd": e.mul,
    "ReduceSum": e.add,
    "ReduceMin": e.minimum,
    "ReduceMax": e.maximum,
}


@contents_of("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")
def _reduce(v: View) -> Sequence[Array | None]:
    array, axes, keep = v.content(0), v.ints("axes", 1), v.attr("keepdims", 1)
    fold = _FOLDS[v.node.op_type]
    if array is None or array.ndim != 1 or axes is None or v.dtype() not in INTS:
        return [None]
    if not axes and v.attr("noop_with_empty_axes", 0):
        return [array]
    if array.size == 0 and v.node.op_type in ("ReduceMin", "ReduceMax"):
        return [None]
    elements = array.tolist()
    start: Number = {"ReduceProd": 1, "ReduceSum": 0}.get(v.node.op_type, elements[0] if elements else None)
    for element in elements:
        start = fold(start, element)
    return [objects([start], (1,) if keep else ())]


@contents_of("CumSum")
def _cumsum(v: View) -> Sequence[Array | None]:
    array = v.content(0)
    if array is None or array.ndim != 1 or v.dtype() not in INTS or v.scalar(1) not in (0, -1):
        return [None]
    total: Number = 0
    sums: list[Element] = []
    elements = array.tolist()
    for element in reversed(elements) if v.attr("reverse", 0) else elements:
        before, total = total, e.add(total, element)
        sums.append(before if v.attr("exclusive", 0) else total)
    return [objects(sums[::-1] if v.attr("reverse", 0) else sums, array.shape)]


# --- truth -----------------------------------------------------------------------------------------------------------


def _top(a: Any, b: Any) -> tuple[Number, Number] | None:
    """Two elements as numbers that compare alike."""
    if isinstance(a, Ratio) and isinstance(b, Ratio):
        return (e.mul(a.top, b.bottom), e.mul(b.top, a.bottom)) if _exact(a, b) else None
    return None if isinstance(a, Ratio) or isinstance(b, Ratio) else (a, b)


@contents_of("Equal")
def _equal(v: View) -> Sequence[Array | None]:
    def one(a: Any, b: Any) -> Element:
        pair = _top(a, b)
        return None if pair is None else e.equal(*pair)

    return _each(v, one)


@contents_of("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
def _order(v: View) -> Sequence[Array | None]:
    swap, strict = v.node.op_type.startswith("Greater"), not v.node.op_type.endswith("OrEqual")

    def one(a: Any, b: Any) -> Element:
        pair = _top(b, a) if swap else _top(a, b)
        if pair is None:
            return None
        low, high = pair
        if e.at_least(high, e.add(low, int(strict))):
            return True
        return False if e.at_least(low, e.add(high, int(not strict))) else None

    return _each(v, one)


@contents_of("Not")
def _not(v: View) -> Sequence[Array | None]:
    return _each(v, lambda a: not a)


@contents_of("And", "Or")
def _logic(v: View) -> Sequence[Array | None]:
    wins = v.node.op_type == "Or"
    return _each(v, lambda a, b: wins if wins in (a, b) else not wins)


@contents_of("Where")
def _where(v: View) -> Sequence[Array | None]:
    choice, left, right, shape = v.content(0), v.content(1), v.content(2), v.int_dims(0)
    if choice is None and shape is not None:
        choice = np.full(shape, None, object)
    if choice is None or left is None or right is None:
        return [None]
    condition, yes, no = np.broadcast_arrays(choice, left, right)
    if condition.size > MAX_ELEMENTS:
        return [None]
    chosen = [
        a if c is True or a == b else b if c is False else None
        for c, a, b in zip(condition.reshape(-1), yes.reshape(-1), no.reshape(-1), strict=True)
    ]
    return [objects(chosen, condition.shape)]
