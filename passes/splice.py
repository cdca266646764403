"""Moves that several passes share: let one value stand for another, copy nodes, remove what became unused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from accelc import ir, stamps
from accelc.rewrite import drop_initializer, replace_value


def can_substitute(old: ir.Value, new: ir.Value, opset: int) -> bool:
    """Whether `substitute` can be done: where the two need an Identity between them, their type must allow one."""
    if not old.is_graph_output() or _can_take_over(new, old):
        return True
    if isinstance(new.type, ir.SequenceType):
        return opset >= 14
    return opset >= 16 if isinstance(new.type, ir.OptionalType) else True


def substitute(old: ir.Value, new: ir.Value, names: ir.Names) -> None:
    """Let `new` stand wherever `old`, an output of a node about to be removed, is used.

    Where `old` is an output of its graph, the output keeps its name: `new` takes it over when some node of that graph
    makes it and it is no output yet; else an Identity stands between them.
    """
    node = old.producer()
    if not old.is_graph_output() or _can_take_over(new, old) or node is None:
        replace_value(old, new)
        return
    heir = ir.Value(name=old.name, type=old.type or new.type, shape=old.shape, doc_string=old.doc_string)
    heir.metadata_props.update(old.metadata_props)
    identity = ir.new_node("Identity", [new], outputs=[heir], name=names.fresh(f"{node.name or old.name}/Identity"))
    assert isinstance(node.graph, ir.Graph)
    node.graph.insert_before(node, identity)
    old.replace_all_uses_with(heir, replace_graph_outputs=True)


def _can_take_over(new: ir.Value, old: ir.Value) -> bool:
    node, root = new.producer(), old.producer()
    return node is not None and root is not None and node.graph is root.graph and not new.is_graph_output()


def is_used(value: ir.Value) -> bool:
    """Whether a node reads the value or a graph returns it."""
    return value.is_graph_output() or ir.use_count(value) > 0


def remove_unused(nodes: Sequence[ir.Node]) -> int:
    """Remove those of some nodes that nothing uses, and the weights that only they used; how many nodes went.

    nodes: in topological order, a node in a subgraph before the node that holds the subgraph. Linear in their number,
    however many share one input.
    """
    removed = 0
    sources: dict[ir.Value, None] = {}
    for node in reversed(nodes):
        graph = node.graph
        if not isinstance(graph, ir.Graph) or any(is_used(value) for value in node.outputs):
            continue
        sources.update(dict.fromkeys(_constant_inputs(node)))
        graph.remove(node, safe=True)
        for inner in ir.subgraphs(node):
            ir.detach(inner)
        removed += 1
    for value in sources:
        producer = value.producer()
        if producer is None:
            drop_initializer(value)
        elif isinstance(producer.graph, ir.Graph) and not is_used(value):
            producer.graph.remove(producer, safe=True)
    return removed


def _constant_inputs(node: ir.Node) -> Iterable[ir.Value]:
    captured = [value for inner in ir.subgraphs(node) for value in ir.captured(inner)]
    for value in [*node.inputs, *captured]:
        if value is not None and (value.is_initializer() or _made_by_constant(value)):
            yield value


def _made_by_constant(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type == "Constant" and node.domain == ""


def set_constant(old: ir.Value, tensor: ir.TensorProtocol, scope: ir.Scope, names: ir.Names) -> None:
    """Let a constant stand for an output of a node, under the same name; the node itself stays, unused.

    It becomes an initializer; in a function's body, or where it is an output of its graph, a Constant node.
    """
    node = old.producer()
    assert node is not None
    as_node = scope.in_function or old.is_graph_output()
    kind, shape = old.type or ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
    new = ir.Value(name=old.name, type=kind, shape=shape, const_value=None if as_node else tensor)
    new.metadata_props.update(old.metadata_props)
    if as_node:
        if old.is_graph_output():
            new.shape, new.doc_string = old.shape, old.doc_string
        hint = f"{node.name}/Constant" if node.name else str(old.name)
        constant = ir.new_node("Constant", [], {"value": tensor}, outputs=[new], name=names.fresh(hint))
        scope.graph.insert_before(node, constant)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    else:
        old.replace_all_uses_with(new)
        scope.graph.register_initializer(new)


class Cloner:
    """Copies nodes with new names.

    values: what stands for values from outside, None for an absent one; it is filled with the copies.
    attributes: what references to a function's attributes stand for; one that is absent there is left out.
    """

    def __init__(
        self, values: dict[ir.Value, ir.Value | None], attributes: Mapping[str, ir.Attr], names: ir.Names
    ) -> None:
        self.values, self._attributes, self._names = values, attributes, names

    def node(self, node: ir.Node) -> ir.Node:
        attrs = [made for attr in node.attributes.values() if (made := self._attr(attr)) is not None]
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else self.values.get(value, value) for value in node.inputs],
            attrs,
            overload=node.overload,
            outputs=[self._value(value) for value in node.outputs],
            name=self._names.fresh(node.name or node.op_type),
            doc_string=node.doc_string,
            metadata_props=dict(node.metadata_props),
        )
        stamps.copy(node, copy)
        return copy

    def _value(self, value: ir.Value) -> ir.Value:
        dims = ir.dims(value)
        name = self._names.fresh(value.name) if value.name else value.name
        copy = ir.Value(
            name=name,
            type=value.type,
            shape=None if dims is None else ir.Shape(dims),
            doc_string=value.doc_string,
            const_value=value.const_value,
        )
        copy.metadata_props.update(value.metadata_props)
        self.values[value] = copy
        return copy

    def _attr(self, attr: ir.Attr) -> ir.Attr | None:
        if attr.is_ref():
            given = self._attributes.get(str(attr.ref_attr_name))
            if given is None or given.is_ref():
                return None if given is None else ir.Attr(attr.name, given.type, None, given.ref_attr_name)
            return ir.Attr(attr.name, given.type, given.value)
        if attr.type == ir.AttributeType.GRAPH:
            return ir.Attr(attr.name, attr.type, self._graph(attr.as_graph()))
        if attr.type == ir.AttributeType.GRAPHS:
            return ir.Attr(attr.name, attr.type, [self._graph(graph) for graph in attr.as_graphs()])
        return attr

    def _graph(self, graph: ir.Graph) -> ir.Graph:
        inputs = [self._value(value) for value in graph.inputs]
        weights = [
            self.values[value] if value.is_graph_input() else self._value(value)
            for value in graph.initializers.values()
        ]
        nodes = [self.node(node) for node in graph]
        outputs = [self.values.get(value, value) for value in graph.outputs]
        return ir.Graph(
            inputs,
            [value for value in outputs if value is not None],
            nodes=nodes,
            initializers=[value for value in weights if value is not None],
            doc_string=graph.doc_string,
            opset_imports=dict(graph.opset_imports),
            name=graph.name,
            metadata_props=dict(graph.metadata_props),
        )
