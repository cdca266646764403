"""Walking a model: its graphs, nodes, scopes and names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_ir import AttributeType, Graph, Model, Node, Value

_NAMES = "accelc.names"


def subgraphs(node: Node) -> Iterator[Graph]:
    """The graphs in a node's own attributes."""
    attributes = node.attributes.data
    if not attributes:
        return iter(())
    found: list[Graph] = []
    for attr in attributes.values():
        kind = attr.type
        if kind == AttributeType.GRAPH and not attr.is_ref():
            found.append(attr.as_graph())
        elif kind == AttributeType.GRAPHS and not attr.is_ref():
            found.extend(attr.as_graphs())
    return iter(found)


def nodes(graph: Graph) -> list[Node]:
    """The nodes of a graph in order. (Iterating over the graph itself takes six times as long.)"""
    root = graph._nodes._root
    box, found = root.next, []
    while box is not root:
        found.append(box.value)
        box = box.next
    return found  # type: ignore[return-value]  # only the root's box is empty


def nested(graph: Graph) -> Iterator[Graph]:
    """A graph and every graph inside it, outer before inner."""
    yield graph
    for node in nodes(graph):
        if node.attributes.data:
            for inner in subgraphs(node):
                yield from nested(inner)


def captured(graph: Graph) -> list[Value]:
    """The values of outer graphs that a subgraph, or one nested in it, uses."""
    order = list(nested(graph))
    inside = set(order)
    return [
        value
        for inner in order
        for value in [*(v for node in inner for v in node.inputs), *inner.outputs]
        if value is not None and value.graph is not None and value.graph not in inside
    ]


def detach(graph: Graph) -> None:
    """Let go of every value a removed subgraph uses, so that it no longer counts as a consumer."""
    for inner in list(nested(graph)):
        for node in nodes(inner):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)


def all_graphs(model: Model) -> Iterator[Graph]:
    """The main graph, the bodies of the model's functions, and every graph nested in them; outer before inner."""
    yield from nested(model.graph)
    for function in model.functions.values():
        yield from nested(function.graph)


@dataclass(frozen=True)
class Scope:
    """A graph and what holds in it. root: its main graph or function body. in_function: it is a function's own body,
    which can hold no initializers.
    """

    graph: Graph
    root: Graph
    main: Graph
    in_function: bool = False

    @property
    def opset(self) -> int:
        """The version of the default domain that holds here."""
        return self.root.opset_imports.get("", 0) or self.main.opset_imports.get("", 0)


def scopes(model: Model) -> Iterator[Scope]:
    """Every graph of the model with what holds in it; outer before inner. The graphs may be changed meanwhile."""
    for graph in list(nested(model.graph)):
        yield Scope(graph, model.graph, model.graph)
    for function in list(model.functions.values()):
        for graph in list(nested(function.graph)):
            yield Scope(graph, function.graph, model.graph, graph is function.graph)


class Names:
    """Every name of values and nodes in a model, so that new ones are unique across all scopes.

    They are gathered when the first fresh one is asked for: many changes need none.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._taken: set[str] | None = None
        self._count: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint` itself when it is free, else with a number behind it. The name is taken from then on."""
        taken = self._gathered()
        name = hint or "value"
        while name in taken:
            count = self._count.get(hint, 0) + 1
            self._count[hint] = count
            name = f"{hint}_{count}"
        taken.add(name)
        return name

    def _gathered(self) -> set[str]:
        if self._taken is None:
            self._taken = set()
            for graph in all_graphs(self._model):
                self._taken.update(str(v.name) for v in graph.inputs)
                self._taken.update(graph.initializers)
                for node in graph:
                    self._taken.add(node.name or "")
                    self._taken.update(value.name or "" for value in node.outputs)
        return self._taken


def names(model: Model) -> Names:
    """The names of a model; gathered once, kept up by everyone who asks for fresh ones."""
    found = model.meta.get(_NAMES)
    if found is None:
        found = model.meta[_NAMES] = Names(model)
    assert isinstance(found, Names)
    return found


def walk(model: Model) -> Iterator[Node]:
    """Every node of the model, in topological order within each graph."""
    for graph in all_graphs(model):
        yield from nodes(graph)


def opset(graph: Graph, model: Model, domain: str = "") -> int:
    """The version of a domain that holds in a graph (functions import their own), 0 where it is not imported."""
    return graph.opset_imports.get(domain) or model.opset_imports.get(domain, 0)
