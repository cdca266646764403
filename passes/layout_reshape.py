"""Reshape in another order of axes: possible where it only splits and merges neighbours that stay neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from accelc import dimexpr as e
from accelc import ir
from accelc.dimexpr import Number
from accelc.passes.layout_axes import Build, Carry, Perm, View, is_still
from accelc.symbolic import Shape

Group = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes before and after that hold the same elements; axes of length 1 are left out."""


def groups(before: Shape, after: Shape) -> list[Group] | None:
    """The smallest parts of two shapes that hold the same elements, in order; None where that cannot be told."""
    if 0 in before or 0 in after:
        return None
    long = [[axis for axis, dim in enumerate(shape) if dim != 1] for shape in (before, after)]
    places: list[dict[Number, int]] = []
    for shape, axes in zip((before, after), long, strict=True):
        found: dict[Number, int] = {1: 0}
        size: Number = 1
        for count, axis in enumerate(axes, 1):
            size = e.mul(size, shape[axis])
            found[size] = count
        places.append(found)
    cuts = [(count, places[1][size]) for size, count in places[0].items() if size is not None and size in places[1]]
    if cuts[-1] != (len(long[0]), len(long[1])):
        return None
    return [(tuple(long[0][a:c]), tuple(long[1][b:d])) for (a, b), (c, d) in pairwise(cuts)]


def carried(perm: Perm, parts: Sequence[Group], rank: int) -> Perm | None:
    """What a permutation of one side becomes on the other, of this rank; axes of length 1 disturb least."""
    owner = {axis: part for part in parts for axis in part[0]}
    moving = [axis for axis in perm if axis in owner]
    order: list[int] = []
    while moving:
        mine, other = owner[moving[0]]
        if tuple(moving[: len(mine)]) != mine:
            return None
        order += other
        moving = moving[len(mine) :]
    for one in (axis for axis in range(rank) if axis not in order):
        order.insert(_place(one, order), one)
    return tuple(order)


def _place(one: int, order: Sequence[int]) -> int:
    """Where an axis of length 1 stands with the fewest others on the wrong side of it."""
    wrong = [
        sum(axis > one for axis in order[:at]) + sum(axis < one for axis in order[at:]) for at in range(len(order) + 1)
    ]
    return wrong.index(min(wrong))


def reshape(view: View) -> Carry | None:
    """Reshape or Flatten."""
    if view.at > 0:
        return None
    facts = view.facts()
    before, after = facts.shape(view.node.inputs[0]), facts.shape(view.node.outputs[0])
    if before is None or after is None:
        return None
    parts = groups(before, after)
    if parts is None:
        return None
    if view.from_input:
        first: Perm | None = view.perm
        second = carried(view.perm, parts, len(after))
    else:
        second = view.perm
        first = carried(view.perm, [(b, a) for a, b in parts], len(before))
    if first is None or second is None:
        return None
    old, new = [before[axis] for axis in first], [after[axis] for axis in second]
    target = _target(old, new)
    gathered = target is None and _can_gather(view)
    if target is None and not gathered:
        return None

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        if target is not None:
            wanted = b.ints(target)
            return b.node("Reshape", [inputs[0], wanted])
        (wanted,) = b.node("Gather", [inputs[1], b.ints(second)], axis=0)
        return b.node("Reshape", [inputs[0], wanted], allowzero=1)

    return Carry({0: first}, {0: second} if not is_still(second) else {}, make)


def _target(old: Sequence[Number], new: Sequence[Number]) -> list[int] | None:
    """What turns one shape into the other for every size of its symbols: one open dimension, others copied."""
    if all(isinstance(dim, int) for dim in new):
        return [dim for dim in new if isinstance(dim, int)]
    found = [
        dim if isinstance(dim, int) else 0 if axis < len(old) and old[axis] == dim else -1
        for axis, dim in enumerate(new)
    ]
    if sum(not isinstance(dim, int) for dim in new) == 1:
        return [dim if isinstance(dim, int) else -1 for dim in new]
    return found if -1 not in found else None


def _can_gather(view: View) -> bool:
    """Whether the target's elements are the sizes themselves, so that they may be put into another order."""
    if view.node.op_type != "Reshape" or view.opset < 14 or len(view.node.inputs) != 2:
        return False
    sizes = view.facts().numbers(view.node.inputs[1])
    return sizes is not None and all(size is not None and e.nonnegative(size) and size != 0 for size in sizes)
