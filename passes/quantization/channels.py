"""Channels that are scaled together: values connected by operators that let a positive factor per channel pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from accelc import ir

from .linear import Linear

_SAME = frozenset(
    "Relu LeakyRelu Identity Abs Neg MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool".split()
)
"""f(s x) == s f(x) for s > 0, channel by channel, with one data input and the channels where they were."""
_SUMS = frozenset({"Add", "Sub", "Sum", "Max", "Min", "Mean"})
_REDUCES = frozenset({"ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2"})


@dataclass(frozen=True)
class Place:
    """Where the channels of a value are. repeat: consecutive elements along the axis that belong to one channel."""

    axis: int
    repeat: int = 1


@dataclass
class Group:
    """Values whose channels are scaled together. channels: how many.

    makers compute them, takers multiply them by weights; clips: Clip nodes among them, to be written with a bound per
    channel. reason: why they cannot be scaled; empty where they can.
    """

    channels: int
    values: dict[ir.Value, Place] = field(default_factory=dict)
    makers: list[Linear] = field(default_factory=list)
    takers: list[tuple[Linear, int]] = field(default_factory=list)
    clips: list[ir.Node] = field(default_factory=list)
    reason: str = ""

    @property
    def path(self) -> str:
        return self.makers[0].path


def find_groups(linears: Sequence[Linear], *, clips: bool) -> list[Group]:
    """Every group that a layer makes, usable or not, in the order of the graph. clips: Clip(0, c) may be in one."""
    made = {linear.out: linear for linear in linears}
    taken = {linear.node: linear for linear in linears}
    groups: list[Group] = []
    seen: set[ir.Value] = set()
    for linear in linears:
        if linear.out not in seen:
            group = _Walk(made, taken, clips).group(linear)
            seen.update(group.values)
            groups.append(group)
    return groups


@dataclass
class _Walk:
    made: Mapping[ir.Value, Linear]
    taken: Mapping[ir.Node, Linear]
    clips: bool

    def group(self, first: Linear) -> Group:
        rank = len(first.out.shape or ())
        group = Group(first.cout)
        stack = [(first.out, Place(1 if first.is_conv else rank - 1))]
        while stack and not group.reason:
            value, place = stack.pop()
            if value in group.values:
                if group.values[value] != place:
                    group.reason = f"the channels of {value.name} are in two places"
                continue
            group.values[value] = place
            group.reason = self.misfit(value, place, group)
            if not group.reason:
                stack += self.above(value, place, group)
            if not group.reason:
                stack += self.below(value, place, group)
        if not group.reason and not group.takers:
            group.reason = "nothing multiplies its channels by weights"
        order = {linear: index for index, linear in enumerate(self.taken.values())}
        group.makers.sort(key=lambda each: order[each])
        group.takers.sort(key=lambda each: order[each[0]])
        return group

    def misfit(self, value: ir.Value, place: Place, group: Group) -> str:
        dims = ir.dims(value)
        if value.is_graph_output():
            return f"{value.name} is an output of the model"
        if dims is None or not 0 < place.axis < len(dims) or dims[place.axis] != group.channels * place.repeat:
            return f"the channels of {value.name} are not known"
        if any(use.node.graph is not value.graph for use in value.uses()):
            return f"{value.name} is used inside of a subgraph"
        return ""

    def above(self, value: ir.Value, place: Place, group: Group) -> list[tuple[ir.Value, Place]]:
        maker = self.made.get(value)
        if maker is not None:
            if not maker.can_scale or place != Place(1 if maker.is_conv else len(value.shape or ()) - 1):
                group.reason = f"{maker.path} makes more than its weights"
            group.makers.append(maker)
            return []
        node = value.producer()
        found = None if node is None else self.through(node, value, place, group)
        if found is None:
            what = "an input of the model" if node is None else f"made by {ir.node_path(node)}"
            group.reason = f"{value.name} is {what}"
        return found or []

    def below(self, value: ir.Value, place: Place, group: Group) -> list[tuple[ir.Value, Place]]:
        found: list[tuple[ir.Value, Place]] = []
        for use in value.uses():
            taker = self.taken.get(use.node)
            if taker is not None and use.idx == 0:
                axis = 1 if taker.is_conv else len(value.shape or ()) - 1
                if place.axis != axis or (taker.is_conv and place.repeat != 1):
                    group.reason = f"{taker.path} adds up another axis"
                group.takers.append((taker, place.repeat))
                continue
            further = self.through(use.node, value, place, group)
            if further is None:
                group.reason = f"{value.name} is used by {ir.node_path(use.node)}"
                return []
            found += further
        return found

    def through(
        self, node: ir.Node, value: ir.Value, place: Place, group: Group
    ) -> list[tuple[ir.Value, Place]] | None:
        """The other values of a node that are scaled with one of them; None where a factor does not pass."""
        if node.domain or any(attr.is_ref() for attr in node.attributes.values()):
            return None
        if len([each for each in node.outputs if ir.use_count(each) or each.is_graph_output()]) != 1:
            return None
        data, out = node.inputs[0] if node.inputs else None, node.outputs[0]
        if data is None or (value is not out and value is not data and node.op_type not in _SUMS | {"Mul"}):
            return None
        if node.op_type in _SUMS:
            return _summed(node, place)
        if node.op_type == "Clip":
            if not (self.clips and _clips_from_zero(node)):
                return None
            if node not in group.clips:
                group.clips.append(node)
            return [(data, place), (out, place)]
        if node.op_type in ("Mul", "Div"):
            return _multiplied(node, place)
        if node.op_type in _SAME or _keeps(node, place):
            return [(data, place), (out, place)]
        moved = _MOVES.get(node.op_type)
        if moved is None:
            return None
        other = moved(node, place, value is data)
        return None if other is None else [(out if value is data else data, other)]


def _summed(node: ir.Node, place: Place) -> list[tuple[ir.Value, Place]] | None:
    """All operands have the channels at the same place; none is constant."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    ranks = {-1 if value.shape is None else len(value.shape) for value in values}
    if len(ranks) != 1 or -1 in ranks or any(map(ir.is_constant, values)):
        return None
    return [(value, place) for value in values]


def _multiplied(node: ir.Node, place: Place) -> list[tuple[ir.Value, Place]] | None:
    """A product with a constant, or a quotient by one, of the shape of the other operand."""
    out = node.outputs[0]
    others = [value for value in node.inputs if value is not None and not ir.is_constant(value)]
    if len(others) != 1 or (node.op_type == "Div" and others[0] is not node.inputs[0]):
        return None
    return [(others[0], place), (out, place)] if ir.dims(others[0]) == ir.dims(out) else None


def _keeps(node: ir.Node, place: Place) -> bool:
    """Whether an operator with settings is positively homogeneous and leaves the channels where they are."""
    rank = len((node.inputs[0].shape if node.inputs[0] is not None else None) or ())
    if node.op_type == "PRelu":
        return True
    if node.op_type == "Dropout":
        return len(node.inputs) < 3 or node.inputs[2] is None
    if node.op_type in _REDUCES:
        others = {axis % rank for axis in _axes(node)} if rank else set()
        return bool(others) and bool(ir.attribute(node, "keepdims", 1)) and place.axis not in others
    if node.op_type == "Pad":
        return _pads_zeros_elsewhere(node, place, rank)
    if node.op_type == "Resize":
        plain = ir.attribute(node, "mode", "nearest") in ("nearest", "linear")
        return plain and ir.attribute(node, "coordinate_transformation_mode") != "tf_crop_and_resize"
    return False


def _pads_zeros_elsewhere(node: ir.Node, place: Place, rank: int) -> bool:
    if len(node.inputs) not in (2, 3):
        return False
    pads, fill = ir.const(node.inputs[1]), node.inputs[2] if len(node.inputs) == 3 else None
    value = ir.const(fill)
    if pads is None or pads.size != 2 * rank or (fill is not None and (value is None or value.any())):
        return False
    return not pads[place.axis] and not pads[place.axis + rank]


def _axes(node: ir.Node) -> tuple[int, ...]:
    given = ir.attribute(node, "axes")
    if given is None and len(node.inputs) > 1:
        array = ir.const(node.inputs[1])
        given = () if array is None else tuple(int(each) for each in array.reshape(-1))
    return tuple(given or ())


def _flat(node: ir.Node, place: Place, down: bool) -> Place | None:
    """[N, C, ...] as [N, C * ...]: the elements of a channel stay together."""
    source, out = ir.dims(node.inputs[0]), ir.dims(node.outputs[0])
    if source is None or out is None or len(out) != 2 or place.axis != 1 or source[0] is None or source[0] != out[0]:
        return None
    inside = [dim for dim in source[2:] if isinstance(dim, int)]
    if len(inside) != len(source) - 2 or not isinstance(source[1], int) or source[1] * prod(inside) != out[1]:
        return None
    if down:
        return Place(1, place.repeat * prod(inside))
    return Place(1, place.repeat // prod(inside)) if place.repeat % prod(inside) == 0 else None


def _squeezed(node: ir.Node, place: Place, down: bool) -> Place | None:
    rank = len(ir.dims(node.inputs[0]) or ())
    axes = {axis % rank for axis in _axes(node)} if rank else set()
    return place if axes and all(axis > place.axis for axis in axes) else None


def _transposed(node: ir.Node, place: Place, down: bool) -> Place | None:
    perm = ir.attribute(node, "perm")
    if perm is None:
        return None
    return Place(perm.index(place.axis) if down else perm[place.axis], place.repeat)


_MOVES: Mapping[str, Callable[[ir.Node, Place, bool], Place | None]] = {
    "Flatten": _flat,
    "Reshape": _flat,
    "Squeeze": _squeezed,
    "Transpose": _transposed,
}


def _clips_from_zero(node: ir.Node) -> bool:
    """Whether a Clip is that of [0, c] with constant c > 0."""
    bounds = clip_bounds(node)
    return bounds is not None and bounds[0] == 0 < bounds[1]


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The constant bounds of a Clip."""
    given = [ir.attribute(node, "min"), ir.attribute(node, "max")]
    for index, value in enumerate(node.inputs[1:]):
        if value is not None:
            array = ir.const(value)
            if array is None or array.size != 1:
                return None
            given[index] = float(array.reshape(()))
    low, high = given
    return (float("-inf") if low is None else low, float("inf") if high is None else high)


def reasons(groups: Iterable[Group]) -> dict[str, str]:
    """Why groups cannot be scaled, by the path of their first layer."""
    return {group.path: group.reason for group in groups if group.reason and group.makers}
