"""Products of integers whose scales are applied afterwards by Mul nodes, and the float products that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir

from .strip import Grid, Restorer, dequantized
from .strip_operators import given, needed

PRODUCTS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}
_LONGEST = 8
"""Multiplications after a product that are looked at."""


@dataclass(frozen=True, eq=False)
class Chain:
    """A product in integers, a Cast, and Mul nodes. end: the result that is float again. left: factors that are no
    scales of what is multiplied. sides: for both inputs the value and its zero point.
    """

    node: ir.Node
    end: ir.Value
    left: tuple[ir.Value, ...]
    sides: tuple[tuple[ir.Value, ir.Value | None], tuple[ir.Value, ir.Value | None]]


def find_chain(restorer: Restorer, node: ir.Node) -> Chain | str:
    """The chain of a MatMulInteger or ConvInteger, or why it is not one."""
    sides = tuple((needed(node, index), given(node, index + 2)) for index in (0, 1))
    wanted: list[ir.Value] = []
    for value, zero in sides:
        scale = scale_of(restorer, value, zero)
        if isinstance(scale, str):
            return scale
        wanted += [scale] if scale is not None else []
    value, factors = node.outputs[0], list[ir.Value]()
    cast = _single_user(value)
    if cast is None or cast.op_type != "Cast" or not _is_float(cast.outputs[0]):
        return "its sums are used as integers"
    value = cast.outputs[0]
    for _ in range(_LONGEST):
        left = _without(factors, wanted)
        if left is not None:
            return Chain(node, value, tuple(left), (sides[0], sides[1]))
        user = _single_user(value)
        if user is None or user.op_type != "Mul" or user.inputs[0] is user.inputs[1]:
            break
        other = needed(user, 0) if user.inputs[1] is value else needed(user, 1)
        factors += _leaves(other)
        value = user.outputs[0]
    return "its sums are not multiplied by the scales of what went in"


def scale_of(restorer: Restorer, value: ir.Value, zero: ir.Value | None) -> ir.Value | str | None:
    """The scale that an integer input was rounded with, None where it is its own integer, or why it is of no use."""
    if ir.is_constant(value):
        return None if zero is None or ir.is_constant(zero) else "a zero point is not constant"
    root = value
    while root not in restorer.sources:
        producer = root.producer()
        if producer is None or not producer.inputs or producer.inputs[0] is None:
            return None
        root = producer.inputs[0]
    grid = restorer.sources[root].grid
    same = Grid(grid.scale, zero)
    if not restorer.can(value, same):
        return "an input is not the rounded float that its zero point says"
    return grid.scale


def build_product(restorer: Restorer, chain: Chain) -> ir.Value:
    """The float product, with the factors that are left."""
    node = chain.node
    left = list(chain.left)
    a = _side(restorer, chain, 0, left)
    b = _side(restorer, chain, 1, left)
    out = restorer.node(node, PRODUCTS[node.op_type], [a, b], dict(node.attributes), like=node.outputs[0])
    user = chain.end.producer()
    assert user is not None
    for factor in left:
        out = restorer.node(user, "Mul", [out, factor], like=chain.end)
    return out


def _side(restorer: Restorer, chain: Chain, index: int, left: list[ir.Value]) -> ir.Value:
    value, zero = chain.sides[index]
    if ir.is_constant(value):
        return _weight(restorer, chain, index, left)
    scale = scale_of(restorer, value, zero)
    if isinstance(scale, ir.Value):
        return restorer.real(value, Grid(scale, zero))
    one = restorer.constant(zero if zero is not None else value, "one", np.ones((), np.float32))
    return restorer.float_of(value, Grid(one, zero), chain.node)


def _weight(restorer: Restorer, chain: Chain, index: int, left: list[ir.Value]) -> ir.Value:
    """A constant side, with the constant factors that can be put into it; these are taken from `left`."""
    value, zero = chain.sides[index]
    array = np.asarray(ir.const(value))
    axis = 0 if chain.node.op_type == "ConvInteger" else array.ndim - 1
    point = ir.const(zero)
    floats = dequantized(array, np.ones((), np.float32), None if point is None else point.reshape(-1), axis=axis)
    for factor in list(left):
        number = ir.const(factor)
        shaped = None if number is None else _as_weight(number, floats.shape, axis, index)
        if shaped is not None:
            floats = floats * shaped
            left.remove(factor)
    return restorer.constant(value, f"{value.name}_float", floats)


def _as_weight(factor: np.ndarray[Any, Any], shape: tuple[int, ...], axis: int, index: int) -> Any:
    """A factor of the product's columns or channels as a factor of the weight; None where it varies otherwise."""
    if factor.size == 1:
        return factor.reshape(())
    if index == 0 or factor.size != shape[axis]:
        return None
    channels_last = axis == len(shape) - 1
    place = factor.ndim - 1 if channels_last else factor.ndim - len(shape) + 1
    if place < 0 or factor.shape[place] != factor.size or (channels_last and factor.ndim > max(len(shape), 2)):
        return None
    return factor.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _without(factors: list[ir.Value], wanted: list[ir.Value]) -> list[ir.Value] | None:
    """Factors without the wanted ones; None where one of these is missing."""
    left = list(factors)
    for each in wanted:
        found = next((index for index, factor in enumerate(left) if _same(factor, each)), None)
        if found is None:
            return None
        del left[found]
    return left


def _same(a: ir.Value, b: ir.Value) -> bool:
    one, two = ir.const(a), ir.const(b)
    return a is b or (one is not None and two is not None and one.size == two.size == 1 and one.item() == two.item())


def _leaves(value: ir.Value, depth: int = 0) -> Iterator[ir.Value]:
    """The factors of a product of small factors."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or node.domain or depth > _LONGEST:
        yield value
        return
    for each in node.inputs:
        if each is not None:
            yield from _leaves(each, depth + 1)


def _single_user(value: ir.Value) -> ir.Node | None:
    """The node that uses a value, when it is the only one, of the standard's domain, in the same graph."""
    producer, user = value.producer(), ir.only_user(value)
    if user is None or producer is None or value.is_graph_output():
        return None
    return user if not user.domain and user.graph is producer.graph else None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """Cast(Gather(rows, i)) * Gather(scales, i), one scale for each row."""

    gather: ir.Node
    end: ir.Value
    rows: ir.Value
    scales: ir.Value


def find_table(node: ir.Node) -> Table | None:
    """The table at a Gather from integers."""
    rows = given(node, 0)
    cast = _single_user(node.outputs[0])
    if node.op_type != "Gather" or cast is None or cast.op_type != "Cast" or not _is_float(cast.outputs[0]):
        return None
    mul = _single_user(cast.outputs[0])
    if mul is None or mul.op_type != "Mul" or rows is None:
        return None
    steps = next((v.producer() for v in mul.inputs if v is not None and v is not cast.outputs[0]), None)
    if steps is None or steps.op_type != "Gather" or steps.domain or steps.inputs[1] is not node.inputs[1]:
        return None
    integers, scales = ir.const(rows), ir.const(steps.inputs[0])
    if integers is None or scales is None or integers.dtype.kind not in "iu" or integers.ndim != scales.ndim:
        return None
    first = all(ir.attribute(each, "axis", 0) in (0, -integers.ndim) for each in (node, steps))
    fits = scales.shape[0] == integers.shape[0] and scales.size == scales.shape[0]
    return Table(node, mul.outputs[0], rows, needed(steps, 0)) if first and fits else None


def build_table(restorer: Restorer, table: Table) -> ir.Value:
    """One Gather from floats."""
    integers, scales = ir.const(table.rows), ir.const(table.scales)
    assert integers is not None
    assert scales is not None
    floats = restorer.constant(table.rows, f"{table.rows.name}_float", integers.astype(np.float32) * scales)
    inputs = [floats, *table.gather.inputs[1:]]
    return restorer.node(table.gather, "Gather", inputs, dict(table.gather.attributes), like=table.end)
