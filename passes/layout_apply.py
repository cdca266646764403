"""Carrying out what the cut decided: members in their new order, one Transpose for each stream that needs one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from accelc import ir
from accelc.infer import refine
from accelc.passes.layout_axes import Build, Perm, as_transpose, inverse, then
from accelc.passes.layout_region import Member, Region, Stream, operands
from accelc.rewrite import discard, drop_initializer, remove_dead, replace_value


def write(region: Region, order: Mapping[ir.Node, int], names: ir.Names) -> None:
    """Change the graph so that every member works in its order."""
    _Writer(region, order, names).write()


class _Writer:
    def __init__(self, region: Region, order: Mapping[ir.Node, int], names: ir.Names) -> None:
        self.region, self.graph = region, region.scope.graph
        moved = [member for member in region.members.values() if order[member.node] != member.home]
        self.moved = {member.node: member for member in moved}
        self.build = Build(region.scope, names)
        self.made: dict[tuple[Stream, int], ir.Value] = {}
        self.same: list[tuple[ir.Value, ir.Value]] = []
        self.heirs: list[tuple[ir.Node, str | None]] = []

    def write(self) -> None:
        in_order = [self.moved[node] for node in list(self.graph) if node in self.moved]
        touched = {self.region.operand(each, index): None for each in in_order for index in operands(each.carry)}
        inputs = dict.fromkeys(value for each in in_order for value in each.node.inputs if value is not None)
        for member in in_order:
            self._member(member)
        discard(self.moved)
        for old, new in self.same:
            replace_value(old, new)
        for stream in touched:
            if not stream.constant:
                self._rewire(stream)
        left = [node for value in inputs if (node := value.producer()) is not None]
        remove_dead([*self.region.transposes, *self.moved, *left])
        for value in inputs:
            if value.is_initializer():
                drop_initializer(value)
        for node, name in self.heirs:
            node.name = name

    def _member(self, member: Member) -> None:
        """Write a member in its new order, before the old one."""
        node, how, side = member.node, member.carry, 1 - member.home
        inputs = list(node.inputs)
        for index in operands(how):
            if index >= 0:
                inputs[index] = self._form(self.region.operand(member, index), side, node)
        self.build.before(node)
        found = how.make(self.build, inputs)
        if (producer := found[0].producer()) is not None:
            self.heirs.append((producer, node.name))
        for index, (old, new) in enumerate(zip(node.outputs, found, strict=True)):
            if ~index in operands(how):
                self.made[self.region.operand(member, ~index), side] = new
                self._describe(new, old, how.outputs[index])
            elif ir.use_count(old) or old.is_graph_output():
                self.same.append((old, new))

    def _describe(self, new: ir.Value, old: ir.Value, perm: Perm) -> None:
        """Say of a new value what is known of one of which it is the Transpose."""
        dims, shape = ir.dims(old), self.region.facts().shape(old)
        fits = dims is not None and len(dims) == len(perm) and not old.is_graph_output()
        refine(new, old.type, ir.Shape([dims[axis] for axis in perm]) if fits and dims is not None else None)
        if shape is not None and len(shape) == len(perm):
            self.region.facts().shapes[new] = tuple(shape[axis] for axis in perm)

    def _form(self, stream: Stream, side: int, user: ir.Node) -> ir.Value:
        """A stream in one order; a Transpose makes it where it is made in the other."""
        found = self.made.get((stream, side))
        if found is None:
            root, home, perm = stream.root, stream.sides[stream.root], stream.perms[stream.root]
            if stream.constant:
                found = self._constant(stream, user) if side != home else root
            elif stream.made_by in self.moved:
                source = self.made[stream, 1 - home]
                self.build.after(source)
                found = self.build.transpose(source, inverse(perm))
                refine(found, root.type, None if root.is_graph_output() else root.shape)
                self.region.facts().shapes[found] = self.region.facts().shape(root)
            elif side == home:
                found = root
            else:
                self.build.after(root)
                found = self.build.transpose(root, perm)
                self._describe(found, root, perm)
            self.made[stream, side] = found
        return found

    def _constant(self, stream: Stream, user: ir.Node) -> ir.Value:
        array, tensor = ir.const(stream.root), ir.const_tensor(stream.root)
        assert array is not None
        assert tensor is not None
        perm = stream.perms[stream.root]
        moved = np.transpose(array.reshape((1,) * (len(perm) - array.ndim) + array.shape), perm)
        if array.ndim < len(perm):
            first = next((axis for axis, size in enumerate(moved.shape) if size != 1), moved.ndim)
            moved = moved.reshape(moved.shape[first:])
        self.build.before(user)
        return self.build.constant(moved, tensor.dtype)

    def _rewire(self, stream: Stream) -> None:
        """Give those that use a stream and stay what they need of it now."""
        is_moved = stream.made_by in self.moved
        for value, side in stream.sides.items():
            if not is_moved and (value is stream.root or (stream, side) not in self.made):
                continue
            users = {use.node for use in value.uses()} - self.region.transposes - set(self.moved)
            others = [node for node in users if as_transpose(node) is None]
            if others or value.is_graph_output() or not is_moved:
                if users or value.is_graph_output():
                    replace_value(value, self._form(stream, side, stream.root.producer() or self.graph[0]))
                continue
            for node in sorted(users, key=lambda each: str(each.name)):
                self._compose(node, self.made[stream, 1 - stream.sides[stream.root]], value, stream, side)

    def _compose(self, node: ir.Node, made: ir.Value, value: ir.Value, stream: Stream, side: int) -> None:
        """Let a Transpose to a third order read what is made, where that is in the other order than what it read."""
        own = as_transpose(node)
        assert own is not None
        perm = own if side != stream.sides[stream.root] else then(inverse(stream.perms[value]), own)
        self.build.before(node)
        (new,) = self.build.node("Transpose", [made], perm=list(perm))
        self.heirs.append((new.producer(), node.name))  # type: ignore[arg-type]
        replace_value(node.outputs[0], new)
        remove_dead([node])
