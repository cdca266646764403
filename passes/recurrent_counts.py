"""What the steps of a Loop count, which of them are taken, and what they take from sequences by their number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.symbolic import Facts

_WIDE = 2**31 - 1
"""Trip counts from here on stand for no limit: the operator's number of steps is an int32."""
_INT32, _INT64 = ir.DataType.INT32, ir.DataType.INT64
_RESHAPES = frozenset(["Reshape", "Squeeze", "Unsqueeze"])


@dataclass(frozen=True)
class Pick:
    """A step's part of a sequence, which is taken along an axis from end to end."""

    source: ir.Value
    axis: int
    is_reverse: bool


def is_true(value: ir.Value) -> bool:
    array = ir.const(value)
    return array is not None and array.size == 1 and bool(array.reshape(-1)[0])


@dataclass(frozen=True)
class Linear:
    """slope * (number of the step) + offset, a whole number in a tensor of some rank."""

    slope: int
    offset: int
    rank: int


@dataclass
class Counter:
    """What is counted in a Loop. number: of the step. others: states that are counted up, with their first value.

    kept: states that stay as they are, with what they are. steps: how many are taken; None where it is not known.
    """

    number: ir.Value
    others: dict[ir.Value, Linear]
    kept: Mapping[ir.Value, ir.Value]
    facts: Facts
    steps: int | None = None

    def learn(self, inner: ir.Value, new: ir.Value, first: ir.Value) -> None:
        """Note a state to which every step adds 1. inner, new: before and after a step. first: before all."""
        start, node = self._fixed(first), new.producer()
        if start is None or node is None or node.op_type != "Add" or node.domain or inner not in node.inputs:
            return
        one = self._fixed(next((each for each in node.inputs if each is not inner), None))
        if one is not None and one.offset == 1 and one.rank <= start.rank:
            self.others[inner] = Linear(1, start.offset, start.rank)

    def _fixed(self, value: ir.Value | None) -> Linear | None:
        """An integer that is the same in every step."""
        numbers = self.facts.numbers(self.kept.get(value, value)) if value is not None else None
        if numbers is None or len(numbers) != 1 or not isinstance(numbers[0], int):
            return None
        array = self.facts.content(self.kept.get(value, value))  # type: ignore[arg-type]  # it is not None
        return Linear(0, numbers[0], 0 if array is None else array.ndim)

    def linear(self, value: ir.Value | None) -> Linear | None:
        """A value of the step as a number that is counted."""
        if value is None:
            return None
        if value is self.number:
            return Linear(1, 0, len(ir.dims(value) or ()))
        known = self.others.get(value) or self._fixed(value)
        node = value.producer()
        if known is not None or node is None or node.domain:
            return known
        of = [self.linear(each) for each in node.inputs[: 2 if node.op_type in ("Add", "Sub") else 1]]
        first = of[0] if of else None
        if first is None or None in of:
            return None
        if node.op_type == "Identity" or (node.op_type == "Cast" and value.dtype in (_INT32, _INT64)):
            return first
        if node.op_type in _RESHAPES:
            rank = _rank_after(node, first.rank)
            return None if rank is None else Linear(first.slope, first.offset, rank)
        if len(of) == 2 and of[1] is not None:
            sign = 1 if node.op_type == "Add" else -1
            offset = first.offset + sign * of[1].offset
            return Linear(first.slope + sign * of[1].slope, offset, max(first.rank, of[1].rank))
        return None

    def pick(self, value: ir.Value) -> Pick | None:
        """The part of a sequence that a value is, where the step takes it by its number."""
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "Gather":
            return self._gathered(node, 0)
        if node.op_type != "Squeeze" or node.inputs[0] is None:
            return None
        above, axes = node.inputs[0].producer(), _ints(node, "axes", 1)
        if above is None or above.domain or axes is None or len(axes) != 1:
            return None
        found = self._gathered(above, 1) if above.op_type == "Gather" else self._sliced(above)
        return found if found is not None and axes[0] in (found.axis, found.axis - 3) else None

    def _gathered(self, node: ir.Node, rank: int) -> Pick | None:
        source, at = node.inputs[0], self.linear(node.inputs[1])
        if source is None or at is None or at.rank != rank:
            return None
        return self._taken(source, ir.attribute(node, "axis", 0), at, from_end=True)

    def _sliced(self, node: ir.Node) -> Pick | None:
        axes, steps = _ints(node, "axes", 3), _ints(node, "steps", 4) if len(node.inputs) > 4 else [1]
        if node.op_type != "Slice" or len(node.inputs) < 4 or axes is None or len(axes) != 1 or steps != [1]:
            return None
        source, start, end = node.inputs[0], self.linear(node.inputs[1]), self.linear(node.inputs[2])
        if source is None or start is None or end != Linear(start.slope, start.offset + 1, start.rank):
            return None
        return self._taken(source, axes[0], start, from_end=False)

    def _taken(self, source: ir.Value, axis: int, at: Linear, *, from_end: bool) -> Pick | None:
        source = self.kept.get(source, source)
        shape = self.facts.shape(source)
        if shape is None or len(shape) != 3:
            return None
        axis %= 3
        if (at.slope, at.offset) == (1, 0):
            return Pick(source, axis, False)
        size = shape[axis]
        ends = ([size - 1] if isinstance(size, int) else []) + ([-1] if from_end else [])
        return Pick(source, axis, True) if at.slope == -1 and at.offset in ends else None

    def count(self, trips: ir.Value | None, going: ir.Value, goes_on: ir.Value) -> int | None:
        """How many steps are taken, where the first one is never held back by the condition."""
        limits = self._limits(goes_on, going)
        if limits is None:
            return None
        if trips is not None:
            fixed = self._fixed(trips)
            if fixed is None:
                return None
            limits = [*limits, fixed.offset]
        least = min(limits, default=_WIDE)
        return least if least < _WIDE else None

    def _limits(self, value: ir.Value | None, going: ir.Value) -> list[int] | None:
        """The numbers of steps after which a condition ends the loop; None where that is not known."""
        if value is None:
            return None
        if value is going or is_true(value):
            return []
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "Identity":
            return self._limits(node.inputs[0], going)
        if node.op_type == "And":
            of = [self._limits(each, going) for each in node.inputs]
            return None if None in of else [limit for each in of if each is not None for limit in each]
        if node.op_type not in ("Less", "Greater"):
            return None
        low, high = (self.linear(each) for each in (node.inputs if node.op_type == "Less" else node.inputs[::-1]))
        if low is None or high is None or low.slope != 1 or high.slope != 0:
            return None
        return [max(high.offset - low.offset + 1, 1)]  # the condition after step i lets step i + 1 be taken


def _rank_after(node: ir.Node, rank: int) -> int | None:
    """The rank of one number after its shape was changed."""
    if node.op_type == "Reshape":
        target = _ints(node, "shape", 1)
        return None if target is None else len(target)
    axes = _ints(node, "axes", 1)
    if axes is None:
        return 0 if node.op_type == "Squeeze" and len(node.inputs) == 1 else None
    return rank + len(axes) if node.op_type == "Unsqueeze" else rank - len(axes)


def _ints(node: ir.Node, name: str, index: int) -> list[int] | None:
    given = ir.attribute(node, name)
    if given is not None:
        return list(given)
    array = ir.const(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else [int(each) for each in np.asarray(array).reshape(-1)]
