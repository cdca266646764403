"""Common subexpressions: what is computed twice from the same inputs is computed once."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.purity import Purity
from accelc.rewrite import replace_value

_SMALL = 256
"""Tensors in attributes up to this many bytes are compared by their bytes, larger ones by a hash of them."""


@dataclass(frozen=True)
class Cse(Pass):
    """Merge nodes that compute the same from the same inputs.

    A node in a subgraph may also be merged into one of an outer graph. Nodes that draw random numbers, are of an
    unknown domain, or hold or call such nodes are never merged. Two outputs of a graph keep their own nodes.
    """

    name = "cse"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("same_expression",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        purity = Purity(model)
        changes = 0
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            opset = graph.opset_imports.get("", 0) or model.opset_imports.get("", 0)
            with ir.paused_gc():
                changes += _Walk(purity, opset, ctx).graph(graph, ())
        return PassResult(changes)


class _Walk:
    """One walk over a graph and its subgraphs; a graph sees its own expressions and those of the graphs around it."""

    def __init__(self, purity: Purity, opset: int, ctx: Context) -> None:
        self._purity, self._opset, self._ctx = purity, opset, ctx

    def graph(self, graph: ir.Graph, outer: tuple[dict[Any, ir.Node], ...]) -> int:
        """Merge what can be merged; the number of nodes that went."""
        seen: dict[Any, ir.Node] = {}
        visible = (*outer, seen)
        merged = 0
        for node in ir.nodes(graph):
            for inner in ir.subgraphs(node):
                merged += self.graph(inner, visible)
            key = self._key(node)
            if key is None:
                continue
            first = next((found for table in visible if (found := table.get(key)) is not None), None)
            if first is None:
                seen[key] = node
            elif _mergeable(first, node) and self._ctx.spend("same_expression", ir.node_path(node)):
                _merge(first, node)
                merged += 1
        return merged

    def _key(self, node: ir.Node) -> Any:
        if not self._purity.pure(node, self._opset):
            return None
        return _node_key(node, {})


def _mergeable(first: ir.Node, node: ir.Node) -> bool:
    """Whether the outputs of `first` can take over the names that outputs of the graph must keep."""
    return all(
        not new.is_graph_output() and first.graph is node.graph
        for new, old in zip(first.outputs, node.outputs, strict=True)
        if old.is_graph_output()
    )


def _merge(first: ir.Node, node: ir.Node) -> None:
    for new, old in zip(first.outputs, node.outputs, strict=True):
        replace_value(old, new)
    assert isinstance(node.graph, ir.Graph)
    node.graph.remove(node, safe=True)
    for inner in ir.subgraphs(node):
        ir.detach(inner)


# --- keys: equal only for nodes that compute the same ----------------------------------------------------------------


def _node_key(node: ir.Node, local: dict[ir.Value, int]) -> Any:
    """local: numbers of the values inside the subgraphs being compared; any other value stands for itself."""
    attributes = node.attributes
    return (
        node.op_type,
        node.domain,
        node.overload,
        tuple([local.get(value, value) if value is not None else None for value in node.inputs]),
        tuple([bool(value.name) for value in node.outputs]),
        tuple([(name, *_attr_key(attributes[name], local)) for name in sorted(attributes)]) if attributes else (),
    )


def _attr_key(attr: ir.Attr, local: dict[ir.Value, int]) -> tuple[Any, ...]:
    kinds = ir.AttributeType
    if attr.is_ref():
        return ("ref", attr.ref_attr_name, attr.type)
    if attr.type in (kinds.INT, kinds.STRING):
        return (attr.type, attr.value)
    if attr.type in (kinds.INTS, kinds.STRINGS):
        return (attr.type, tuple(attr.value))
    if attr.type == kinds.FLOAT:
        return (attr.type, struct.pack("<d", attr.value))
    if attr.type == kinds.FLOATS:
        return (attr.type, struct.pack(f"<{len(attr.value)}d", *attr.value))
    if attr.type == kinds.TENSOR:
        return (attr.type, _tensor_key(attr.as_tensor()))
    if attr.type == kinds.GRAPH:
        return (attr.type, _graph_key(attr.as_graph(), local))
    if attr.type == kinds.GRAPHS:
        return (attr.type, tuple(_graph_key(graph, local) for graph in attr.as_graphs()))
    return (attr.type, ir.attr_proto(attr).SerializeToString(deterministic=True))


def _tensor_key(tensor: ir.TensorProtocol) -> tuple[Any, ...]:
    shape = tuple(int(dim) for dim in tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        return (tensor.dtype, shape, tuple(tensor.numpy().reshape(-1).tolist()))
    data = tensor.tobytes()
    return (tensor.dtype, shape, data if len(data) <= _SMALL else hashlib.blake2b(data).digest())


def _graph_key(graph: ir.Graph, outer: dict[ir.Value, int]) -> Any:
    local = dict(outer)

    def define(values: Any) -> Iterator[Any]:
        for value in values:
            local[value] = len(local)
            yield (value.dtype, ir.dims(value))

    inputs = tuple(define(graph.inputs))
    weights = [value for value in graph.initializers.values() if not value.is_graph_input()]
    constants = tuple(define(weights)), tuple(_tensor_key(value.const_value) for value in weights if value.const_value)
    nodes = []
    for node in graph:
        nodes.append(_node_key(node, local))
        for value in node.outputs:
            local[value] = len(local)
    return (inputs, constants, tuple(nodes), tuple(local.get(value, value) for value in graph.outputs))
