"""One reading of a model's structure: graphs, subgraphs and functions as plain lists, which all checks share.

Reading a protobuf field costs far more than reading a Python attribute, so each field is read once, here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import onnx

from accelc.errors import ModelError

MAX_DEPTH = 32
"""Nested subgraphs; a protobuf reader stops at 100 nested messages, and a subgraph costs three."""

SMALL = 1024
"""Tensors up to this many bytes are kept where weights are stripped: shapes, axes and the like."""

_A = onnx.AttributeProto


@dataclass(slots=True)
class TensorRef:
    """A tensor of the model and where it stands. key: its place in scan order, equal for a copy of the model."""

    proto: onnx.TensorProto
    where: str


@dataclass(slots=True)
class SparseRef:
    """A sparse tensor of the model and where it stands."""

    proto: onnx.SparseTensorProto
    where: str


@dataclass(slots=True)
class NodeView:
    """The fields of one node. The domain "ai.onnx" is read as its canonical name, the empty string."""

    proto: onnx.NodeProto
    op: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[onnx.AttributeProto, ...] = ()
    subgraphs: tuple[Scope, ...] = ()

    @property
    def where(self) -> str:
        return node_label(self.name, self.domain, self.op, self.outputs)


@dataclass(slots=True)
class Scope:
    """A graph, subgraph or function body: one set of names. path: how to find it, see `locate`."""

    proto: Any
    label: str
    path: tuple[tuple[int, int, int], ...] | None
    parent: Scope | None
    owner: NodeView | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    initializers: tuple[str, ...]
    nodes: list[NodeView] = field(default_factory=list)

    @property
    def is_main(self) -> bool:
        return self.path == ()


@dataclass(slots=True)
class Scan:
    """A model as it was read. functions: (domain, name, overload) of each body, in file order, not made unique."""

    proto: onnx.ModelProto
    main: Scope
    functions: list[tuple[tuple[str, str, str], Scope]]
    tensors: list[TensorRef]
    sparse: list[SparseRef]
    bad_docs: list[Any]

    def roots(self) -> Iterator[Scope]:
        yield self.main
        for _, scope in self.functions:
            yield scope

    def scopes(self) -> Iterator[Scope]:
        """Every scope, outer before inner."""
        stack = list(self.roots())[::-1]
        while stack:
            scope = stack.pop()
            yield scope
            stack.extend(inner for node in reversed(scope.nodes) for inner in reversed(node.subgraphs))


def node_label(name: str, domain: str, op: str, outputs: tuple[str, ...]) -> str:
    """How messages name a node: by its name, or by what it produces."""
    kind = f"{domain}.{op}" if domain else op or "no operator"
    if name:
        return f"node '{name}' ({kind})"
    made = next((output for output in outputs if output), "")
    return f"the {kind} node that makes '{made}'" if made else f"a {kind} node"


def locate(model: onnx.ModelProto, path: tuple[tuple[int, int, int], ...]) -> onnx.GraphProto:
    """The graph at a path of (node index, attribute index, index in `graphs` or -1) from the main graph."""
    graph = model.graph
    for node, attribute, index in path:
        found = graph.node[node].attribute[attribute]
        graph = found.g if index < 0 else found.graphs[index]
    return graph


def canonical(domain: str) -> str:
    """The canonical name of a domain: "ai.onnx" is the empty string."""
    return "" if domain == "ai.onnx" else domain


def scan(model: onnx.ModelProto) -> Scan:
    """Read the whole structure once.

    Raises: ModelError for text that is not UTF-8, and for subgraphs nested deeper than any reader can follow.
    """
    return _Scanner(model).result


class _Scanner:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.tensors: list[TensorRef] = []
        self.sparse: list[SparseRef] = []
        self.bad_docs: list[Any] = []
        self._model_text(model)
        main = self._graph(model.graph, "the graph", (), None, None, 1)
        functions = [self._function(function) for function in model.functions]
        for info in model.training_info:
            self._graph(info.initialization, "the training initialization", None, None, None, 1)
            self._graph(info.algorithm, "the training algorithm", None, None, None, 1)
        self.result = Scan(model, main, functions, self.tensors, self.sparse, self.bad_docs)

    def _model_text(self, model: onnx.ModelProto) -> None:
        text = [model.producer_name, model.producer_version, model.domain]
        text += [part for entry in model.metadata_props for part in (entry.key, entry.value)]
        _utf8(text, "the model's metadata")
        _utf8([entry.domain for entry in model.opset_import], "the opset imports")
        self._doc(model)

    def _doc(self, message: Any) -> None:
        if message.doc_string.__class__ is bytes:
            self.bad_docs.append(message)

    def _graph(
        self,
        graph: onnx.GraphProto,
        label: str,
        path: tuple[tuple[int, int, int], ...] | None,
        parent: Scope | None,
        owner: NodeView | None,
        depth: int,
    ) -> Scope:
        if depth > MAX_DEPTH:
            raise ModelError(
                "subgraphs are nested too deep",
                where=label,
                why=f"more than {MAX_DEPTH} levels; protobuf readers, ONNX Runtime's among them, stop there",
                hint="flatten the control flow",
            )
        self._doc(graph)
        inputs, outputs = self._values(graph.input), self._values(graph.output)
        self._values(graph.value_info)
        names = [tensor.name for tensor in graph.initializer]
        _utf8([*inputs, *outputs, *names, graph.name], label)
        for name, tensor in zip(names, graph.initializer, strict=True):
            self.tensors.append(TensorRef(tensor, f"initializer '{name}'"))
            self._doc(tensor)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            _utf8([name], label)
            names.append(name)
            self._sparse_tensor(sparse, f"sparse initializer '{name}'")
        scope = Scope(graph, label, path, parent, owner, tuple(inputs), tuple(outputs), tuple(names))
        scope.nodes = self._nodes(graph.node, scope, depth)
        return scope

    def _values(self, values: Any) -> list[str]:
        names = []
        for value in values:
            names.append(value.name)
            if value.HasField("doc_string"):
                self._doc(value)
            _utf8(names[-1:], "a value")
            _type_text(value.type, names[-1])
        return names

    def _function(self, function: onnx.FunctionProto) -> tuple[tuple[str, str, str], Scope]:
        key = (canonical(function.domain), function.name, function.overload)
        label = f"function '{function_label(key)}'"
        inputs, outputs = tuple(function.input), tuple(function.output)
        _utf8([*key, *inputs, *outputs, *function.attribute], label)
        _utf8([entry.domain for entry in function.opset_import], label)
        self._doc(function)
        self._values(function.value_info)
        scope = Scope(function, label, None, None, None, inputs, outputs, ())
        for attribute in function.attribute_proto:
            self._attribute(attribute, 0, f"{label}, default of '{attribute.name}'", scope, None, 1)
        scope.nodes = self._nodes(function.node, scope, 1)
        return key, scope

    def _nodes(self, nodes: Any, scope: Scope, depth: int) -> list[NodeView]:
        views = []
        for index, node in enumerate(nodes):
            op, name = node.op_type, node.name
            inputs, outputs = tuple(node.input), tuple(node.output)
            view = NodeView(node, op, canonical(node.domain), node.overload, name, inputs, outputs)
            self._doc(node)
            try:
                "".join((op, name, view.domain, view.overload, *inputs, *outputs))
            except TypeError:
                raise _bad_text(f"a node of {scope.label}") from None
            attributes = tuple(node.attribute)
            if attributes:
                view.attributes = attributes
                self._attributes(view, scope, index, depth)
            views.append(view)
        return views

    def _attributes(self, view: NodeView, scope: Scope, index: int, depth: int) -> None:
        subgraphs: list[Scope] = []
        for position, attribute in enumerate(view.attributes):
            _utf8((attribute.name, attribute.ref_attr_name), f"an attribute of {view.where}")
            self._doc(attribute)
            if attribute.type not in _SCALAR_ATTRIBUTES:
                path = None if scope.path is None else (*scope.path, (index, position, -1))
                where = f"attribute '{attribute.name}' of {view.where}"
                subgraphs += self._attribute(attribute, depth, where, scope, view, index, path)
        view.subgraphs = tuple(subgraphs)

    def _attribute(
        self,
        attribute: onnx.AttributeProto,
        depth: int,
        where: str,
        scope: Scope,
        view: NodeView | None,
        index: int,
        path: tuple[tuple[int, int, int], ...] | None = None,
    ) -> list[Scope]:
        for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
            self.tensors.append(TensorRef(tensor, where))
            _utf8([tensor.name], where)
            self._doc(tensor)
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
            *attribute.sparse_tensors,
        ):
            self._sparse_tensor(sparse, where)
        found = [(attribute.g, path)] if attribute.HasField("g") else []
        for number, graph in enumerate(attribute.graphs):
            found.append((graph, None if path is None else (*path[:-1], (*path[-1][:2], number))))
        label = f"{attribute.name} of {view.where}" if view is not None else where
        return [self._graph(graph, label, at, scope, view, depth + 1) for graph, at in found]

    def _sparse_tensor(self, sparse: onnx.SparseTensorProto, where: str) -> None:
        self.sparse.append(SparseRef(sparse, where))
        self.tensors.append(TensorRef(sparse.values, f"values of {where}"))
        self.tensors.append(TensorRef(sparse.indices, f"indices of {where}"))
        _utf8([sparse.values.name, sparse.indices.name], where)


_SCALAR_ATTRIBUTES = frozenset((_A.FLOAT, _A.INT, _A.STRING, _A.FLOATS, _A.INTS, _A.STRINGS, _A.TYPE_PROTO))


def function_label(key: tuple[str, str, str]) -> str:
    """How messages name a function: domain.name, and :overload when it has one."""
    domain, name, overload = key
    return (f"{domain}." if domain else "") + name + (f":{overload}" if overload else "")


def _type_text(kind: onnx.TypeProto, name: str) -> None:
    if kind.HasField("tensor_type"):
        _utf8([dim.dim_param for dim in kind.tensor_type.shape.dim], f"the shape of '{name}'")


def _utf8(texts: Any, where: str) -> None:
    """Refuse text that is not UTF-8: protobuf hands it over as bytes."""
    if any(text.__class__ is bytes for text in texts):
        raise _bad_text(where)


def _bad_text(where: str) -> ModelError:
    return ModelError(
        "a name is not valid UTF-8",
        where=where,
        why="ONNX names are UTF-8 text",
        hint="the file may be damaged; export it again",
    )
