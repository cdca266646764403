"""Regions: the operators around a Transpose that could as well work on the other side of it.

A region knows two orders of axes, 0 and 1; Transposes lead from the one to the other. A *stream* is one tensor in both
orders: the value that some node makes, and every value that Transposes make of it. A *member* is an operator that can
work in either order. The order it works in as the model stands is its home.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from accelc import ir
from accelc.passes.forms import sure_dims
from accelc.passes.layout_axes import (
    Carry,
    Perm,
    View,
    acts_as,
    as_transpose,
    inverse,
    is_still,
    moves_only_ones,
    transpose_cost,
)
from accelc.passes.layout_operators import carry
from accelc.symbolic import Facts

MAX_MEMBERS = 1500
"""Operators of one region; what lies beyond is taken as bound to its order."""
_MAX_CONSTANT = 64 << 20
"""Bytes of the largest weight whose axes are put into another order."""


@dataclass(eq=False)
class Stream:
    """A tensor in both orders. root: the value that is made. perms: how each value of it goes to the other order.

    sides: the order each value has. made_by: the member that makes it. free: made in either order at the same cost.
    pinned: the orders that what is outside the region wants it in. users: the members that use it. cost: of a Transpose
    between the orders. constant: a weight. bound: must not be stored in both orders.
    """

    root: ir.Value
    cost: int
    perms: dict[ir.Value, Perm] = field(default_factory=dict)
    sides: dict[ir.Value, int] = field(default_factory=dict)
    made_by: ir.Node | None = None
    free: bool = False
    pinned: set[int] = field(default_factory=set)
    users: list[ir.Node] = field(default_factory=list)
    constant: bool = False
    bound: bool = False


@dataclass(frozen=True)
class Member:
    """An operator of a region. home: its order as the model stands."""

    node: ir.Node
    carry: Carry
    home: int


@dataclass(eq=False)
class Region:
    """What is connected with a Transpose."""

    scope: ir.Scope
    facts: Callable[[], Facts]
    members: dict[ir.Node, Member] = field(default_factory=dict)
    streams: list[Stream] = field(default_factory=list)
    of: dict[ir.Value, Stream] = field(default_factory=dict)
    constants: dict[tuple[ir.Value, Perm, int], Stream] = field(default_factory=dict)
    transposes: set[ir.Node] = field(default_factory=set)
    _queue: deque[tuple[ir.Node, int, ir.Value]] = field(default_factory=deque)

    def operand(self, member: Member, index: int) -> Stream:
        """The stream of an operand (input i, or ~i for output i) of a member."""
        value, perm = self.end(member.node, member.carry, index)
        found = self.constants.get((value, perm, member.home))
        return found if found is not None else self.of[value]

    @staticmethod
    def end(node: ir.Node, how: Carry, index: int) -> tuple[ir.Value, Perm]:
        """The value of an operand, and what happens to its axes."""
        value = node.inputs[index] if index >= 0 else node.outputs[~index]
        assert value is not None
        return value, how.inputs[index] if index >= 0 else how.outputs[~index]

    def grow(self, seed: ir.Node, perm: Perm) -> None:
        """Find everything connected with a Transpose."""
        source = seed.inputs[0]
        assert source is not None
        self._join(source, perm, 0)
        while self._queue:
            node, at, value = self._queue.popleft()
            if len(self.members) < MAX_MEMBERS:
                self._visit(node, at, value)
        self._settle()

    def _visit(self, node: ir.Node, at: int, value: ir.Value) -> None:
        if node in self.members or node.graph is not self.scope.graph:
            return
        stream = self.of[value]
        how = carry(View(node, at, stream.perms[value], self.scope.opset, self.facts))
        if how is None:
            return
        home = stream.sides[value]
        for index in operands(how):
            end, perm = self.end(node, how, index)
            if not self._agrees(end, perm, home):
                return
        self.members[node] = Member(node, how, home)

    def _agrees(self, value: ir.Value, perm: Perm, side: int) -> bool:
        """Whether a value goes to the other order like this in all of the region; it joins the region."""
        if is_constant(value):
            return _may_move(value, perm)
        dims = sure_dims(value)
        if dims is not None and len(dims) < len(perm):
            return False
        if value not in self.of:
            self._join(value, perm, side)
        stream = self.of[value]
        return stream.perms[value] == perm and stream.sides[value] == side

    def _join(self, value: ir.Value, perm: Perm, side: int) -> None:
        """Make the stream of a value: climb to what makes it, then take in every Transpose of it."""
        while True:
            node = value.producer()
            back = inverse(perm)
            if node is None or node.graph is not self.scope.graph or not acts_as(node, back):
                break
            above = node.inputs[0]
            if above is None or above in self.of:
                break
            value, perm, side = above, back, 1 - side
        stream = Stream(value, transpose_cost(value, perm, self.facts))
        self.streams.append(stream)
        self._take(stream, value, perm, side)
        node = value.producer()
        stream.free = node is not None and node.graph is self.scope.graph and as_transpose(node) is not None
        if node is not None and not stream.free:
            self._queue.append((node, ~value.index(), value))  # type: ignore[operator]

    def _take(self, stream: Stream, value: ir.Value, perm: Perm, side: int) -> None:
        self.of[value], stream.perms[value], stream.sides[value] = stream, perm, side
        for use in value.uses():
            node = use.node
            if use.idx == 0 and node.graph is self.scope.graph and acts_as(node, perm):
                self.transposes.add(node)
                out = node.outputs[0]
                if out not in self.of:
                    self._take(stream, out, inverse(perm), 1 - side)
            else:
                self._queue.append((node, use.idx, value))

    # --- what is known once the members are

    def _settle(self) -> None:
        for stream in self.streams:
            producer = stream.root.producer()
            stream.made_by = producer if producer in self.members else None
            users: dict[ir.Node, None] = {}
            for value, side in stream.sides.items():
                if value.is_graph_output():
                    stream.pinned.add(side)
                for use in value.uses():
                    if self._is_pin(use.node, use.idx, value):
                        stream.pinned.add(side)
                    elif use.node in self.members:
                        users[use.node] = None
            stream.users = list(users)
        for member in self.members.values():
            for index in operands(member.carry):
                value, perm = self.end(member.node, member.carry, index)
                if is_constant(value):
                    self._constant(value, perm, member)

    def _is_pin(self, node: ir.Node, index: int, value: ir.Value) -> bool:
        """Whether a use of a value wants it in the order it has."""
        member = self.members.get(node)
        if member is not None:
            return index not in member.carry.inputs
        if node in self.transposes and index == 0:
            return False
        if node.graph is not self.scope.graph:
            return True
        if as_transpose(node) is not None:
            return False  # it reads either order at the same cost
        return not _absorbs(node, self.of[value].perms[value])

    def _constant(self, value: ir.Value, perm: Perm, member: Member) -> None:
        key = (value, perm, member.home)
        stream = self.constants.get(key)
        if stream is None:
            nbytes = value.const_value.nbytes if value.const_value is not None else 0
            stream = Stream(value, 64 + int(nbytes), {value: perm}, {value: member.home}, free=True, constant=True)
            stream.bound = nbytes > 1024
            self.constants[key] = stream
            self.streams.append(stream)
        if member.node not in stream.users:
            stream.users.append(member.node)
        inside = sum(
            1
            for use in value.uses()
            if (other := self.members.get(use.node)) is not None
            and other.home == member.home
            and other.carry.inputs.get(use.idx) == perm
        )
        stream.pinned = {member.home} if inside < ir.use_count(value) or value.is_graph_output() else set()


def operands(how: Carry) -> list[int]:
    """The operands whose axes move."""
    return [
        *(index for index, perm in how.inputs.items() if not is_still(perm)),
        *(~index for index, perm in how.outputs.items() if not is_still(perm)),
    ]


def is_constant(value: ir.Value) -> bool:
    """Whether a value is a weight, whose axes are moved at no cost while compiling."""
    return ir.is_constant(value)


def _may_move(value: ir.Value, perm: Perm) -> bool:
    tensor = ir.const_tensor(value)
    if tensor is None or len(tensor.shape.numpy()) > len(perm) or tensor.dtype == ir.DataType.STRING:
        return False
    dims = [1] * (len(perm) - len(tensor.shape.numpy())) + list(tensor.shape.numpy())
    return moves_only_ones(dims, perm) or (tensor.nbytes <= _MAX_CONSTANT and tensor.dtype.bitwidth >= 8)


def _absorbs(node: ir.Node, perm: Perm) -> bool:
    """Whether the runtime reads an operand of this node in either order: MatMul with the last two axes swapped."""
    rank = len(perm)
    swapped = (*range(rank - 2), rank - 1, rank - 2) if rank >= 2 else ()
    return (
        node.op_type == "MatMul" and not node.domain and perm == swapped and node.outputs[0].dtype == ir.DataType.FLOAT
    )
