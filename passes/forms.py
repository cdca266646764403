"""What the exact passes share: operators whose axes, bounds or sizes moved from attributes to inputs, read and written
in one way for every opset, and the few facts about shapes that may be relied on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from accelc import ir
from accelc.pattern import shared_reason
from accelc.rules import Guard, Match

Array = np.ndarray[Any, Any]

INF = 2**63 - 1
"""The end of a slice that reaches the end of the axis, however long it is."""
_INT_MAX = 2**31 - 1
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
# fmt: off
REDUCE = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd",
    "ReduceSum", "ReduceSumSquare",
)
# fmt: on
# fmt: off
POINTWISE = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Clip", "Cos",
    "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Tan", "Tanh", "ThresholdedRelu",
)
# fmt: on
"""Operators that go through the elements of their first input one by one, in the order in which they are stored."""
# fmt: off
COMBINING = (
    "Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Div", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Mul", "Or", "Sub", "Where", "Xor",
)
# fmt: on
"""Operators that combine elements of several inputs one by one, broadcasting, and round like the exact result."""


# --- shapes ----------------------------------------------------------------------------------------------------------


def sure_dims(value: ir.Value | None) -> tuple[ir.Dim, ...] | None:
    """The shape of a value as far as it can be relied on: what a model merely declares of an output is not."""
    found = ir.dims(value)
    if value is None or found is None or not value.is_graph_output():
        return found
    return (None,) * len(found)


def dims_of(m: Match, value: ir.Value) -> tuple[ir.Dim, ...]:
    """`sure_dims`; a miss where the rank is unknown."""
    found = sure_dims(value)
    if found is None:
        m.fail(f"the rank of {value.name} is unknown")
    return found


def broadcasts_into(other: tuple[ir.Dim, ...] | None, target: tuple[ir.Dim, ...] | None) -> bool:
    """Whether combining a value of shape `other` with one of shape `target` surely gives the shape `target`."""
    if other == ():
        return True
    if other is None or target is None or len(other) > len(target):
        return False
    return all(a == 1 or (a is not None and a == b) for a, b in zip(reversed(other), reversed(target), strict=False))


def fits(*others: str, into: str) -> Guard:
    """Combining these variables with `into` by broadcasting keeps its shape."""

    def guard(m: Match) -> bool | str:
        target = sure_dims(m[into])
        for name in others:
            if not broadcasts_into(sure_dims(m[name]), target):
                return f"the shape of {name} may widen that of {into}"
        return True

    return guard


def all_equal(name: str, wanted: float | bool) -> Guard:
    """Every element of a constant is this value; zeros of floats must have its sign."""

    def guard(m: Match) -> bool | str:
        array = m.const(name)
        return holds_only(array, wanted) or f"{name} is not {wanted} everywhere"

    return guard


def holds_only(array: np.ndarray[Any, Any], wanted: float | bool) -> bool:
    """Whether every element is this value, the sign of zeros of floats included."""
    if array.dtype.kind not in "biufV":
        return False
    if array.size and not bool(array.reshape(-1)[0] == wanted):
        return False
    if not bool(np.all(array == wanted)):
        return False
    return wanted != 0 or array.dtype.kind in "biu" or bool(np.all(np.signbit(array) == np.signbit(float(wanted))))


# --- constants, axes -------------------------------------------------------------------------------------------------


def int_list(value: ir.Value | None) -> list[int] | None:
    """The elements of a constant of integers; None for anything else."""
    array = ir.const(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return [int(each) for each in array.reshape(-1)]


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node; None where it is absent."""
    return node.inputs[index] if index < len(node.inputs) else None


def list_of(m: Match, node: ir.Node, name: str, at: int) -> list[int] | None:
    """Integers that are an attribute in old opsets and an input in new ones; None where absent, a miss if variable."""
    attr = ir.attribute(node, name)
    if attr is not None:
        return list(attr)
    value = input_of(node, at)
    if value is None:
        return None
    found = int_list(value)
    if found is None:
        m.fail(f"{name} of {node.op_type} is not constant")
    return found


def normal_axes(m: Match, axes: Sequence[int], rank: int | None) -> list[int]:
    """Axes counted from the front. rank: None where it is unknown; a miss if it is needed then."""
    if rank is None:
        m.require(all(axis >= 0 for axis in axes), "axes count from the back and the rank is unknown")
        return list(axes)
    m.require(all(-rank <= axis < rank for axis in axes), "an axis is out of range")
    return [axis % rank for axis in axes]


def rank_of(value: ir.Value | None) -> int | None:
    found = ir.dims(value)
    return None if found is None else len(found)


def perm_of(m: Match, node: ir.Node) -> list[int]:
    """The permutation of a Transpose; a miss where it is the default and the rank is unknown."""
    perm = ir.attribute(node, "perm")
    if perm is not None:
        return list(perm)
    return list(range(len(dims_of(m, value_in(m, node)))))[::-1]


def value_in(m: Match, node: ir.Node, index: int = 0) -> ir.Value:
    """An input that must be there."""
    value = input_of(node, index)
    if value is None:
        m.fail(f"{node.op_type} has no input {index}")
    return value


def producer(m: Match, value: ir.Value | None, *op_types: str, single: bool = True) -> ir.Node | None:
    """The node of the same graph that makes a value, if it is one of these operators of ai.onnx with plain attributes.

    single: it must also be able to vanish with its one consumer.
    """
    node = value.producer() if value is not None else None
    if node is None or node.domain or node.op_type not in op_types or node.graph is not m.root.graph:
        return None
    if any(attr.is_ref() for attr in node.attributes.values()):
        return None
    if value is not node.outputs[0] and node.op_type != "Split":
        return None
    return None if single and shared_reason(node) else node


def clip_limits(m: Match, node: ir.Node) -> tuple[Array | None, Array | None]:
    """The lower and upper limit of a Clip as scalars, None where absent; a miss where one is variable."""
    found: list[Array | None] = []
    for at, name in ((1, "min"), (2, "max")):
        value, attr = input_of(node, at), ir.attribute(node, name)
        if value is None and attr is None:
            found.append(None)
            continue
        array = ir.const(value) if value is not None else np.array(attr, np.float32)
        if array is None or array.size != 1:
            m.fail(f"{name} is not a constant scalar")
        found.append(array.reshape(()))
    return found[0], found[1]


# --- writing ---------------------------------------------------------------------------------------------------------


def clip(m: Match, x: ir.Value, low: Array | float | None, high: Array | float | None) -> ir.Value:
    """Clip between two numbers, None for no limit. x: of known type."""
    if m.opset < 11:
        made: ir.Value = m.op.Clip(
            x, min=None if low is None else float(low), max=None if high is None else float(high)
        )
    else:
        if x.dtype is None:
            m.fail(f"the type of {x.name} is unknown")
        kind = x.dtype.numpy()
        made = m.op.Clip(x, *(None if each is None else np.asarray(each, kind) for each in (low, high)))
    return made


def squeeze(m: Match, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    made: ir.Value = (
        m.op.Squeeze(x, list(axes)) if max(m.opset, m.rule.opset) >= 13 else m.op.Squeeze(x, axes=list(axes))
    )
    return made


def unsqueeze(m: Match, x: ir.Value, axes: Sequence[int]) -> ir.Value:
    made: ir.Value = (
        m.op.Unsqueeze(x, list(axes)) if max(m.opset, m.rule.opset) >= 13 else m.op.Unsqueeze(x, axes=list(axes))
    )
    return made


def reshape(m: Match, x: ir.Value, target: Sequence[int], allowzero: bool = False) -> ir.Value:
    if m.opset < 5:
        made: ir.Value = m.op.Reshape(x, shape=list(target))
    else:
        made = m.op.Reshape(x, list(target), allowzero=1 if allowzero else None)
    return made


def reshape_target(dims: Sequence[ir.Dim], source: Sequence[ir.Dim] | None) -> list[int] | None:
    """What Reshape needs to turn a value of shape `source` into shape `dims` for every size its symbols may take.

    A dimension that is not a number is copied from the same place of the source where it stands there as well; at most
    one other is left open, and then nothing is copied. None where that does not do.
    """
    if any(dim == 0 for dim in dims):
        return None
    target, open_ = [], 0
    for index, dim in enumerate(dims):
        if isinstance(dim, int):
            target.append(dim)
        elif isinstance(dim, str) and source is not None and index < len(source) and source[index] == dim:
            target.append(0)
        else:
            target.append(-1)
            open_ += 1
    symbols = sum(not isinstance(dim, int) for dim in dims)
    if open_ > 1 or (open_ and symbols > 1):
        return None
    return [-1 if symbols == 1 and each == 0 else each for each in target]


# --- slices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """start:end:step along one axis. Negative bounds count from the back; end INF is the end of the axis."""

    start: int
    end: int
    step: int = 1

    def covers(self, dim: ir.Dim) -> bool:
        """Whether it surely is the whole axis, in order."""
        return self.step == 1 and self.start == 0 and (self.end == INF or (isinstance(dim, int) and self.end >= dim))

    @property
    def plain(self) -> bool:
        """Whether it counts from the front and goes forwards."""
        return self.start >= 0 and self.end >= 0 and self.step > 0

    def length(self) -> int:
        """The number of elements of a plain range that lies inside its axis."""
        return max(0, -(-(self.end - self.start) // self.step))


ALL = Range(0, INF)
"""The whole axis."""


def slice_ranges(m: Match, node: ir.Node) -> dict[int, Range]:
    """What a Slice with constant bounds takes, by axis from the front; in range where the axis has a known size."""
    x = value_in(m, node)
    starts, ends = list_of(m, node, "starts", 1), list_of(m, node, "ends", 2)
    if starts is None or ends is None:
        m.fail("a Slice without bounds")
    axes, steps = list_of(m, node, "axes", 3), list_of(m, node, "steps", 4)
    axes = normal_axes(m, axes if axes is not None else range(len(starts)), rank_of(x))
    steps = steps if steps is not None else [1] * len(starts)
    m.require(len(starts) == len(ends) == len(axes) == len(steps) == len(set(axes)), "bounds do not belong together")
    dims = sure_dims(x)
    return {
        axis: _in_range(Range(start, end, step), dims[axis] if dims is not None and axis < len(dims) else None)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def _in_range(given: Range, dim: ir.Dim) -> Range:
    if given.step <= 0:
        return given
    start = 0 if given.start <= -_INT_MAX else given.start
    end = INF if given.end >= _INT_MAX else given.end
    if isinstance(dim, int):
        start = min(max(start + dim if start < 0 else start, 0), dim)
        end = min(max(end + dim if end < 0 else end, 0), dim)
    return Range(start, end, given.step)


def make_slice(m: Match, x: ir.Value, ranges: Mapping[int, Range]) -> ir.Value:
    """Slice with these bounds, in the form of the model's opset; x itself where nothing is left to take away."""
    dims = sure_dims(x)
    kept = {
        axis: each for axis, each in sorted(ranges.items()) if not each.covers(dims[axis] if dims is not None else None)
    }
    if not kept:
        return x
    starts, ends = [each.start for each in kept.values()], [each.end for each in kept.values()]
    steps = [each.step for each in kept.values()]
    if m.opset >= 10:
        made: ir.Value = m.op.Slice(x, starts, ends, list(kept), steps if any(step != 1 for step in steps) else None)
    else:
        m.require(all(step == 1 for step in steps), "an old Slice has no steps")
        made = m.op.Slice(x, starts=starts, ends=ends, axes=list(kept))
    return made


# --- splits ----------------------------------------------------------------------------------------------------------


def split_sizes(m: Match, node: ir.Node) -> list[int]:
    """The sizes of the parts of a Split along its axis. A miss where they are unknown."""
    sizes = list_of(m, node, "split", 1)
    if sizes is None:
        axis = int(ir.attribute(node, "axis", 0))
        x = value_in(m, node)
        dims = dims_of(m, x)
        dim = dims[normal_axes(m, [axis], len(dims))[0]]
        count = len(node.outputs)
        if not isinstance(dim, int):
            m.fail("the size of the axis is unknown")
        chunk = -(-dim // count)
        m.require(dim % count == 0 or m.opset >= 18, "the axis does not divide evenly")
        sizes = [chunk] * (count - 1) + [dim - chunk * (count - 1)]
    m.require(len(sizes) == len(node.outputs) and min(sizes, default=0) >= 0, "sizes and parts do not belong together")
    return sizes


def known_size(dims: Sequence[ir.Dim]) -> int | None:
    """The number of elements of a shape without symbols."""
    return prod(dim for dim in dims if isinstance(dim, int)) if all(isinstance(dim, int) for dim in dims) else None


def once(value: ir.Value) -> bool:
    """Whether a value has exactly one use, and is not an output."""
    return ir.use_count(value) == 1 and not value.is_graph_output()
