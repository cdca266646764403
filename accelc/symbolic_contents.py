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

Table = dict[tuple[str, str], Rule]

CONTENTS: Table = {}


def registrar(table: Table, *ops: str) -> Callable[[Rule], Rule]:
    """Puts a function into a table for some operators."""

    def register(function: Rule) -> Rule:
        table.update({("", op): function for op in ops})
        return function

    return register


def contents_of(*ops: str) -> Callable[[Rule], Rule]:
    """Register a function for some operators."""
    return registrar(CONTENTS, *ops)


def from_constant(tensor: ir.TensorProtocol) -> Array | None:
    """The contents of a small constant."""
    if tensor.dtype not in KINDS or tensor.size > MAX_ELEMENTS:
        return None
    array = tensor.numpy()
    elements = array.reshape(-1).tolist()
    if tensor.dtype in FLOATS:
        elements = [ratio_of(number) for number in elements]
    return objects(elements, array.shape)


def objects(elements: Sequence[Element], shape: Sequence[int]) -> Array:
    """An object array of some shape."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array.reshape(tuple(shape))


def ratio_of(number: float) -> Ratio | None:
    return ratio(*number.as_integer_ratio()) if math.isfinite(number) else None


def ratio(top: Number, bottom: int = 1, rounded: bool = False) -> Ratio | None:
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
