"""Calls of the model's own functions."""

from __future__ import annotations

import graphlib
from collections import defaultdict
from dataclasses import dataclass

import onnx

from accelc import ir
from accelc.context import Context
from accelc.infer import infer_nodes
from accelc.pass_base import Pass, PassResult
from accelc.passes.splice import Cloner, can_substitute, is_used, substitute
from accelc.rewrite import remove_dead

_Key = tuple[str, str, str]
_CALL_BYTES = 40
"""What a node takes in a file besides its names and attributes."""


@dataclass(frozen=True)
class Inline(Pass):
    """Replace calls of the model's functions by their bodies, where the model does not grow by it.

    growth: bytes that the model may grow by for one function, by estimate. A function is kept, and a note says why,
    where it imports an operator in another version than its caller or takes a graph as an attribute.
    """

    name = "inline"
    growth: int = 0

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("inline_call",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if not model.functions:
            return PassResult()
        names, changes = ir.names(model), 0
        calls_of = _calls(model)
        for key in _callees_first(model):
            function, calls = model.functions[key], calls_of[key]
            if not calls or _growth(function, calls) > self.growth:
                continue
            reason = next((reason for scope, call in calls if (reason := _obstacle(function, scope, call))), "")
            if reason:
                ctx.note(f"function {function.name} is kept: {reason}")
                continue
            done = [call for scope, call in calls if _replace(function, scope, call, names, ctx)]
            changes += len(done)
            if len(done) == len(calls):
                del model.functions[key]
        return PassResult(changes)


def _callees_first(model: ir.Model) -> list[_Key]:
    """The functions, each after those it calls; none where they call each other in a circle."""
    calls = {
        key: {node.op_identifier() for graph in ir.nested(function.graph) for node in graph} & model.functions.keys()
        for key, function in model.functions.items()
    }
    try:
        return list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError:
        return []


def _calls(model: ir.Model) -> dict[_Key, list[tuple[ir.Scope, ir.Node]]]:
    """Every call of a function, with the graph it stands in."""
    found: dict[_Key, list[tuple[ir.Scope, ir.Node]]] = defaultdict(list)
    for scope in ir.scopes(model):
        for node in scope.graph:
            key = node.op_identifier()
            if key in model.functions:
                found[key].append((scope, node))
    return found


def _growth(function: ir.Function, calls: list[tuple[ir.Scope, ir.Node]]) -> int:
    """Bytes by which a file grows when all calls are replaced by the function's body."""
    body = sum(_node_bytes(node) for node in function.graph)
    return (len(calls) - 1) * body - sum(_node_bytes(call) for _, call in calls)


def _node_bytes(node: ir.Node) -> int:
    total = _CALL_BYTES + len(node.op_type) + len(node.domain) + len(node.name or "")
    total += sum(len(value.name or "") + 2 for value in (*node.inputs, *node.outputs) if value is not None)
    return total + sum(len(attr.name) + _attr_bytes(attr) for attr in node.attributes.values())


def _attr_bytes(attr: ir.Attr) -> int:
    kinds = ir.AttributeType
    if attr.is_ref() or attr.type in (kinds.INT, kinds.FLOAT):
        return 8
    if attr.type in (kinds.GRAPH, kinds.GRAPHS):
        graphs = [attr.as_graph()] if attr.type == kinds.GRAPH else attr.as_graphs()
        return sum(_graph_bytes(graph) for graph in graphs)
    if attr.type == kinds.TENSOR and attr.as_tensor().dtype != ir.DataType.STRING:
        return int(attr.as_tensor().nbytes) + 16
    return ir.attr_proto(attr).ByteSize()


def _graph_bytes(graph: ir.Graph) -> int:
    weights = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    stored = sum(16 if each.dtype == ir.DataType.STRING else int(each.nbytes) + 16 for each in weights)
    return stored + sum(_node_bytes(node) for node in graph)


def _obstacle(function: ir.Function, scope: ir.Scope, call: ir.Node) -> str:
    """Why a call cannot be replaced by the function's body; empty when it can."""
    if len(call.inputs) > len(function.inputs) or len(call.outputs) > len(function.outputs):
        return f"{ir.node_path(call)} has more inputs or outputs than the function"
    graphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    if any(attr.type in graphs for attr in (*call.attributes.values(), *function.attributes.values())):
        return "it takes a graph as an attribute"
    defaults = {name for name, attr in function.attributes.items() if attr.value is not None}
    if any(attr.is_ref() and attr.name in defaults for attr in call.attributes.values()):
        return f"{ir.node_path(call)} passes on an attribute that may be absent"
    inputs = dict(zip(function.inputs, (*call.inputs, *[None] * len(function.inputs)), strict=False))
    for index, (old, new) in enumerate(zip(call.outputs, function.outputs, strict=False)):
        if new in inputs and is_used(old):
            source = inputs[new]
            if source is None:
                return f"output {index} is an input that {ir.node_path(call)} leaves out"
            if not can_substitute(old, source, scope.opset):
                return f"output {index} of {ir.node_path(call)} would need an Identity that its opset does not have"
    return _opset_conflict(function, scope)


def _opset_conflict(function: ir.Function, scope: ir.Scope) -> str:
    """The first operator of a body that means something else in the caller's versions of the operator sets."""
    differing = {}
    for domain, version in function.opset_imports.items():
        theirs = scope.root.opset_imports.get(domain) or scope.main.opset_imports.get(domain, version)
        if theirs != version:
            differing[domain] = (version, theirs)
    if not differing:
        return ""
    for graph in ir.nested(function.graph):
        for node in graph:
            versions = differing.get(node.domain)
            if versions is not None and not _same_meaning(node, *versions):
                shown = node.domain or "ai.onnx"
                return f"{node.op_type} is from {shown} {versions[0]} and the caller imports {versions[1]}"
    return ""


def _same_meaning(node: ir.Node, version: int, other: int) -> bool:
    try:
        one = onnx.defs.get_schema(node.op_type, version, node.domain)
        two = onnx.defs.get_schema(node.op_type, other, node.domain)
    except onnx.defs.SchemaError:
        return False
    return one.since_version == two.since_version


def _replace(function: ir.Function, scope: ir.Scope, call: ir.Node, names: ir.Names, ctx: Context) -> bool:
    """Put a copy of the body in place of a call."""
    if not isinstance(call.graph, ir.Graph) or not ctx.spend("inline_call", ir.node_path(call)):
        return False
    attributes = {name: attr for name, attr in function.attributes.items() if attr.value is not None}
    absent = [None] * (len(function.inputs) - len(call.inputs))
    cloner = Cloner(
        dict(zip(function.inputs, [*call.inputs, *absent], strict=True)), {**attributes, **call.attributes}, names
    )
    copies = [cloner.node(node) for node in function.graph]
    for domain, version in function.opset_imports.items():
        scope.root.opset_imports.setdefault(domain, version)
    scope.graph.insert_before(call, copies)
    infer_nodes(copies, scope.opset)
    for old, new in zip(call.outputs, function.outputs, strict=False):
        value = cloner.values.get(new, new)
        if value is not None:
            substitute(old, value, names)
    remove_dead([call, *copies])
    return True
