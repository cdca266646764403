"""Shape arithmetic resolved by symbolic shapes (accelc/symbolic.py); dynamic dimensions stay dynamic.

Every rewrite holds for all sizes of the symbols, 0 included. So a 0 in the shape of a Reshape ("copy this dimension")
is preferred, and a -1 ("what is left") is written only where no other dimension can be 0: the runtime refuses to divide
by 0 elements, while the explicit size it replaces is no problem there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from accelc import dimexpr as e
from accelc import ir, rewrite, symbolic
from accelc.context import Context
from accelc.dimexpr import Number
from accelc.pass_base import Pass, PassResult
from accelc.rewrite import RuleStats
from accelc.symbolic import Facts, Shape
from accelc.symbolic_contents import FLOATS, Array, Ratio, objects
from accelc.symbolic_shapes import FAR, hole_is_certain, reaches, slices

_LAWS = {
    "shape-constant": "a value whose elements are all known == a constant",
    "reshape-noop": "Reshape(x, shape of x) == x",
    "reshape-constant": "Reshape(x, [.., batch, ..]) == Reshape(x, [.., 0, ..]) where batch is x's own dimension there",
    "expand-noop": "Expand(x, shape of x) == x",
    "expand-constant": "Expand(x, [batch, 12]) == Expand(x, [1, 12]) where batch is x's own dimension there",
    "slice-noop": "Slice(x, 0, size of x) == x",
    "tile-noop": "Tile(x, ones) == x",
    "shape-source": "Shape(y) == Shape(x) where x stands earlier and has the same shape",
    "shape-reuse": "dimensions computed twice == the first of them",
    "shape-direct": "dimensions of an input by any chain == Shape of that input",
}
_COUNT_LIMIT = 12


@dataclass(frozen=True)
class Shapes(Pass):
    """Resolve shape arithmetic (Shape, Gather, Concat, Reshape, Expand chains); dynamic dimensions stay dynamic."""

    name: ClassVar[str] = "shapes"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return tuple(_LAWS)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        facts = ctx.analysis(symbolic.values, model)
        if not facts.shapes:
            return PassResult()
        work = _Work(model, ctx, facts)
        for scope in ir.scopes(model):
            work.resolve(scope)
        scopes = {scope.graph: scope for scope in ir.scopes(model)}
        for root in [model.graph, *(function.graph for function in model.functions.values())]:
            work.share(root, [({}, {})], scopes)
        stats = tuple(work.stats.values())
        return PassResult(sum(each.fired for each in stats), rules=stats)


_Tables = tuple[dict[Any, ir.Value], dict[Shape, ir.Value]]
"""The first value for given dimensions, and the first value of a given shape."""


def _first(tables: list[_Tables], key: Any) -> ir.Value | None:
    """The first value that is still there for some dimensions, in the innermost graph that has it or one around it."""
    return next((computed[key] for computed, _ in tables if _alive(computed.get(key))), None)


def _alive(value: ir.Value | None) -> bool:
    """Whether a value is still part of a graph."""
    if value is None:
        return False
    producer = value.producer()
    return producer is None or producer.graph is not None


class _Work:
    def __init__(self, model: ir.Model, ctx: Context, facts: Facts) -> None:
        self.model, self.ctx, self.facts = model, ctx, facts
        self.names = ir.names(model)
        self.stats = {name: RuleStats(name, "passes/shapes.py") for name in _LAWS}
        self.made: dict[Any, ir.Value] = {}
        self.sources = [v for v in model.graph.inputs if v.type is not None and self.facts.shape(v)]
        self.rules: dict[str, Callable[[ir.Scope, ir.Node], None]] = {
            "Reshape": self.reshape,
            "Expand": self.expand,
            "Slice": self.slice,
            "Tile": self.tile,
        }

    def spend(self, rule: str, node: ir.Node) -> bool:
        """Account for a change; False where it must not be made."""
        if not self.ctx.spend(rule, ir.node_path(node)):
            return False
        self.stats[rule].fired += 1
        return True

    # --- constants and operators that take a shape

    def resolve(self, scope: ir.Scope) -> None:
        """Resolve the nodes of one graph: first those that take a shape, so that chains nobody needs then are gone."""
        for step in (self.operator, self.constants):
            for node in ir.nodes(scope.graph):
                if self.ctx.fuel.empty:
                    return
                if node.graph is scope.graph and not node.domain and node.op_type != "Constant":
                    step(scope, node)

    def operator(self, scope: ir.Scope, node: ir.Node) -> None:
        rule = self.rules.get(node.op_type)
        if rule is not None and not any(attr.is_ref() for attr in node.attributes.values()):
            self.stats_of(node.op_type)
            rule(scope, node)

    def constants(self, scope: ir.Scope, node: ir.Node) -> None:
        for value in node.outputs:
            self.constant(scope, node, value)

    def stats_of(self, op_type: str) -> None:
        """Count a try of the rules of an operator."""
        for name, each in self.stats.items():
            each.tried += name.startswith(op_type.lower())

    def constant(self, scope: ir.Scope, node: ir.Node, value: ir.Value) -> None:
        array = self.known(value)
        if array is None or value.is_graph_output() or not value.uses():
            return
        if all(all(self.known(out) is not None for out in use.node.outputs) for use in value.uses()):
            return  # what it leads to becomes a constant itself
        assert value.dtype is not None
        if self.spend("shape-constant", node):
            new = self.new_constant(scope, node, str(value.name), array.astype(value.dtype.numpy()))
            rewrite.replace_value(value, new)
            rewrite.remove_dead([node])

    def known(self, value: ir.Value) -> Array | None:
        """The elements of a computed value as Python numbers, where all are known."""
        array = self.facts.content(value)
        if array is None or value.is_graph_output() or value.dtype is None:
            return None
        elements: list[Any] = []
        for item in array.reshape(-1):
            if isinstance(item, Ratio) and not item.rounded and isinstance(item.top, int) and item.top:
                elements.append(item.top / item.bottom)
            elif isinstance(item, int) and value.dtype not in FLOATS:
                elements.append(item)
            else:
                return None
        return np.array(elements, object).reshape(array.shape)

    def new_constant(self, scope: ir.Scope, node: ir.Node, hint: str, array: np.ndarray[Any, Any]) -> ir.Value:
        key = (scope.graph, array.dtype.str, array.shape, array.tobytes())
        found = self.made.get(key)
        if found is not None and scope.graph.initializers.get(str(found.name)) is found:
            return found
        made = ir.new_constant(scope, self.names, hint, ir.array_tensor(array), node)
        self.made[key] = made
        return made

    def reshape(self, scope: ir.Scope, node: ir.Node) -> None:
        x, shape = (*node.inputs, None)[:2]
        if x is None or shape is None:
            return
        dims, target = self.facts.shape(x), self.facts.numbers(shape)
        if dims is None or target is None:
            return
        allowzero = bool(ir.attribute(node, "allowzero", 0))
        kept = [
            axis < len(dims) and self.copies(size, dims[axis], allowzero=allowzero) for axis, size in enumerate(target)
        ]
        if allowzero and -1 in target and not hole_is_certain(target, dims):
            return
        holes = sum(not keep for keep in kept)
        if len(target) == len(dims) and (holes == 0 or (holes == 1 and target[kept.index(False)] == -1)):
            self.bypass("reshape-noop", node, x)
            return
        if ir.is_constant(shape):
            return
        sizes = self.reshape_sizes(node, dims, target, kept, allowzero=allowzero)
        if allowzero and sizes is not None and -1 in sizes and -1 in target:
            return  # without allowzero the runtime refuses to find a -1 where there are no elements
        if sizes is not None and self.spend("reshape-constant", node):
            self.set_shape(scope, node, sizes)
            node.attributes.pop("allowzero", None)

    def copies(self, size: Number, dim: Number, *, allowzero: bool) -> bool:
        """Whether an element of a Reshape's shape surely gives the input's own dimension at its place."""
        if size == 0 and not allowzero:
            return True
        if size is None or size == -1:
            return False
        return size == dim or (not allowzero and self.facts.same_unless_zero(size, dim))

    def reshape_sizes(
        self, node: ir.Node, dims: Shape, target: Sequence[Number], kept: Sequence[bool], *, allowzero: bool
    ) -> list[int] | None:
        """A constant shape that gives the same result as `target`, or None."""
        result = self.facts.shape(node.outputs[0])
        sizes: list[int] = []
        new_hole = False
        for axis, size in enumerate(target):
            if isinstance(size, int) and size != -1:
                if allowzero and size == 0:
                    return None
                sizes.append(size)
            elif kept[axis]:
                sizes.append(0)
            elif size == -1:
                found = result[axis] if result is not None else None
                copied = axis < len(dims) and found is not None and found == dims[axis]
                sizes.append(found if isinstance(found, int) and found > 0 else 0 if copied else -1)
            else:
                new_hole = True
                sizes.append(-1)
        if sizes.count(-1) > 1:
            return None
        if new_hole and not all(
            size > 0 or size == -1 or (size == 0 and axis < len(dims) and e.positive(dims[axis]))
            for axis, size in enumerate(sizes)
        ):
            return None
        return sizes

    def set_shape(self, scope: ir.Scope, node: ir.Node, sizes: Sequence[int]) -> None:
        """Give a node a constant second input."""
        old = node.inputs[1]
        node.replace_input_with(1, self.new_constant(scope, node, f"{node.name}_shape", np.array(sizes, np.int64)))
        producer = None if old is None else old.producer()
        if producer is not None:
            rewrite.remove_dead([producer])

    def expand(self, scope: ir.Scope, node: ir.Node) -> None:
        x, shape = node.inputs
        dims, target = self.facts.shape(x), self.facts.numbers(shape)
        if x is None or dims is None or target is None or None in target:
            return
        lead = max(len(target) - len(dims), 0)
        own = (1,) * lead + dims[len(dims) - len(target) + lead :]
        if lead == 0 and all(size == 1 or size == dim for size, dim in zip(target, own, strict=True)):
            self.bypass("expand-noop", node, x)
            return
        sizes = [1 if size == dim else size for size, dim in zip(target, own, strict=True)]
        fixed = [size for size in sizes if isinstance(size, int)]
        if len(fixed) == len(sizes) and not ir.is_constant(shape) and self.spend("expand-constant", node):
            self.set_shape(scope, node, fixed)

    def slice(self, scope: ir.Scope, node: ir.Node) -> None:
        view = symbolic.View(self.facts, scope.opset)
        view.node = node
        dims, parts = view.dims(0), slices(view)
        if dims is None or parts is None or node.inputs[0] is None:
            return
        whole = all(
            step == 1 and (start == 0 or (isinstance(start, int) and start <= -FAR)) and reaches(end, dims[axis])
            for axis, start, end, step in parts
        )
        if whole:
            self.bypass("slice-noop", node, node.inputs[0])

    def tile(self, scope: ir.Scope, node: ir.Node) -> None:
        if scope.opset < 6 or node.inputs[0] is None:
            return
        repeats = self.facts.numbers(node.inputs[1])
        if repeats is not None and all(repeat == 1 for repeat in repeats):
            self.bypass("tile-noop", node, node.inputs[0])

    def bypass(self, rule: str, node: ir.Node, value: ir.Value) -> None:
        """Let a value stand for the output of a node that changes nothing."""
        old, producer = node.outputs[0], value.producer()
        free = producer is not None and producer.graph is node.graph and not value.is_graph_output()
        if (old.is_graph_output() and not free) or (old.dtype != value.dtype and old.dtype is not None):
            return
        if self.spend(rule, node):
            rewrite.replace_value(old, value)
            rewrite.remove_dead([node])

    # --- dimensions that are still computed

    def share(self, graph: ir.Graph, tables: list[_Tables], scopes: dict[ir.Graph, ir.Scope]) -> None:
        """Compute every dimension once, from the earliest value that has it. tables: what outer graphs offer."""
        shaped = tables[-1][1]
        for value in graph.inputs:
            self.offer(shaped, value)
        for node in list(graph):
            if self.ctx.fuel.empty:
                return
            if node.graph is not graph:
                continue
            for inner in ir.subgraphs(node):
                self.share(inner, [*tables, ({}, {})], scopes)
            if node.op_type == "Shape" and node.domain == "":
                self.shape_source(node, tables)
            for value in node.outputs:
                self.reuse(scopes[graph], node, value, tables)
                self.offer(shaped, value)

    def offer(self, shaped: dict[Shape, ir.Value], value: ir.Value) -> None:
        shape = self.facts.shape(value)
        dynamic = shape is not None and not all(isinstance(dim, int) for dim in shape)
        if shape is not None and dynamic and value.type is not None and not _alive(shaped.get(shape)):
            shaped[shape] = value

    def shape_source(self, node: ir.Node, tables: list[_Tables]) -> None:
        value = node.inputs[0]
        shape = self.facts.shape(value)
        if value is None or not shape or value.is_graph_input():
            return
        first = next((shaped[shape] for _, shaped in tables if _alive(shaped.get(shape))), None)
        if first is not None and first is not value and self.spend("shape-source", node):
            node.replace_input_with(0, first)
            producer = value.producer()
            if producer is not None:
                rewrite.remove_dead([producer])

    def reuse(self, scope: ir.Scope, node: ir.Node, value: ir.Value, tables: list[_Tables]) -> None:
        """Replace a computed dimension by an equal one that exists, or by a shorter way to it."""
        if node.op_type == "Constant" or node.graph is not scope.graph or value.is_graph_output():
            return
        numbers = self.facts.numbers(value)
        if not numbers or None in numbers or all(isinstance(number, int) for number in numbers):
            return
        key = (value.dtype, self.facts.shape(value), numbers)
        first = _first(tables, key)
        if first is None or first is value:
            tables[-1][0][key] = self.direct(scope, node, value, numbers, tables) or value
        elif self.spend("shape-reuse", node):
            rewrite.replace_value(value, first)
            rewrite.remove_dead([node])

    def direct(
        self, scope: ir.Scope, node: ir.Node, value: ir.Value, numbers: tuple[Number, ...], tables: list[_Tables]
    ) -> ir.Value | None:
        """Read dimensions straight from an input of the model, where that takes no more nodes than now."""
        place = self.find(numbers)
        if value.dtype != ir.DataType.INT64 or scope.root is not self.model.graph or place is None or self.near(node):
            return None
        source, start = place
        shape = self.facts.shape(source) or ()
        whole = len(numbers) == len(shape)
        scalar = self.facts.shape(value) == ()
        if scalar or (not whole and scope.opset < 15):
            axes = np.array(start, np.int64) if scalar else np.arange(start, start + len(numbers), dtype=np.int64)
            return self.direct_gather(scope, node, value, source, axes, tables)
        if not self.spend("shape-direct", node):
            return None
        bounds = {} if whole else {"start": start, "end": start + len(numbers)}
        return self.put(node, value, ir.new_node("Shape", [source], bounds))

    def direct_gather(
        self,
        scope: ir.Scope,
        node: ir.Node,
        value: ir.Value,
        source: ir.Value,
        axes: np.ndarray[Any, Any],
        tables: list[_Tables],
    ) -> ir.Value | None:
        """Gather(Shape(source), axes); the Shape is shared where it exists."""
        shape = self.facts.shape(source) or ()
        key = (ir.DataType.INT64, (len(shape),), shape)
        vector = _first(tables, key)
        producer = None if vector is None else vector.producer()
        there = producer is not None and self.near_shape(producer)
        if self.would_die(node, producer if there else None) < (1 if there else 2):
            return None
        if not self.spend("shape-direct", node):
            return None
        if not there or vector is None:
            reader = ir.new_node("Shape", [source], name=self.names.fresh(f"{node.name}/shape"))
            vector = reader.outputs[0]
            vector.name = self.names.fresh(f"{source.name}_shape")
            vector.type, vector.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([len(shape)])
            scope.graph.insert_before(node, reader)
            self.facts.shapes[vector], self.facts.contents[vector] = (len(shape),), objects(shape, (len(shape),))
            tables[-1][0][key] = vector
        index = self.new_constant(scope, node, f"{value.name}_axes", axes)
        return self.put(node, value, ir.new_node("Gather", [vector, index], {"axis": 0}))

    def put(self, node: ir.Node, value: ir.Value, new: ir.Node) -> ir.Value:
        """Let the output of a new node stand for a value of a node."""
        assert isinstance(node.graph, ir.Graph)
        made = new.outputs[0]
        new.name, made.name = self.names.fresh(f"{node.name}/dim"), self.names.fresh(str(value.name))
        made.type, made.shape = value.type, value.shape
        new.meta["accelc.rule"] = "shape-direct"
        node.graph.insert_before(node, new)
        self.facts.learn(made, value)
        rewrite.replace_value(value, made)
        rewrite.remove_dead([node])
        return made

    def near(self, node: ir.Node) -> bool:
        """Whether a node reads a shape of the model's inputs, or one element of it, as directly as can be."""
        if node.op_type == "Gather" and node.inputs[0] is not None and node.inputs[0].producer() is not None:
            shape = node.inputs[0].producer()
            return shape is not None and self.near_shape(shape)
        return self.near_shape(node)

    @staticmethod
    def near_shape(node: ir.Node) -> bool:
        return node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].is_graph_input()

    def find(self, numbers: Sequence[Number]) -> tuple[ir.Value, int] | None:
        """An input of the model, and the axis from which its dimensions are these numbers."""
        for source in self.sources:
            shape = self.facts.shape(source) or ()
            for start in range(len(shape) - len(numbers) + 1):
                if list(shape[start : start + len(numbers)]) == list(numbers):
                    return source, start
        return None

    def would_die(self, node: ir.Node, kept: ir.Node | None) -> int:
        """How many nodes fall away with a node's last consumer while one is kept, counted up to a limit."""
        dead: set[ir.Node] = set()
        stack = [node]
        while stack and len(dead) < _COUNT_LIMIT:
            each = stack.pop()
            used = any(use.node not in dead for v in each.outputs for use in v.uses()) if each is not node else False
            if each in dead or each is kept or used or any(v.is_graph_output() for v in each.outputs):
                continue
            dead.add(each)
            stack.extend(p for v in each.inputs if v is not None and (p := v.producer()) is not None)
        return sum(each.op_type != "Constant" for each in dead)
