"""Contents of small tensors through arithmetic, rounding, comparison and choice (see symbolic_contents.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from accelc import dimexpr as e
from accelc import ir
from accelc.dimexpr import Number
from accelc.symbolic_contents import (
    FLOATS,
    INTS,
    MAX_ELEMENTS,
    Array,
    Element,
    Ratio,
    Rule,
    Table,
    objects,
    ratio,
    registrar,
)

if TYPE_CHECKING:
    from accelc.symbolic import View

ARITHMETIC: Table = {}


def contents_of(*ops: str) -> Callable[[Rule], Rule]:
    """Register a function for some operators."""
    return registrar(ARITHMETIC, *ops)


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
    return ratio(total, a.bottom * b.bottom) if _exact(a, b) else None


def _ratio_mul(a: Ratio, b: Ratio) -> Element:
    return ratio(e.mul(a.top, b.top), a.bottom * b.bottom) if _exact(a, b) else None


def _ratio_neg(a: Ratio) -> Element:
    return ratio(e.neg(a.top), a.bottom, a.rounded)


def _ratio_div(a: Ratio, b: Ratio) -> Element:
    if not _exact(a, b) or not isinstance(b.top, int) or b.top <= 0:
        return None
    bottom = a.bottom * b.top
    if b.top & (b.top - 1) == 0:
        return ratio(e.mul(a.top, b.bottom), bottom)
    # the nearest float to a quotient of integers lies on the same side of every integer as the quotient itself
    whole = a.bottom == 1 and b.bottom == 1 and b.top < 2**12
    return ratio(a.top, bottom, rounded=True) if whole else None


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
        return ratio(e.ceildiv(a.top, a.bottom) if up else e.floordiv(a.top, a.bottom))

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
            return item if isinstance(item, Ratio) else ratio(int(item) if isinstance(item, int) else item)
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
