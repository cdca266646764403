"""Dead code: nodes, weights, outputs, functions and imports that nothing needs."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.splice import is_used

_OPTIONAL_OUTPUTS = {
    ("", "Dropout"): 1,
    ("", "MaxPool"): 1,
    ("", "LayerNormalization"): 1,
    ("", "SoftmaxCrossEntropyLoss"): 1,
    ("", "Unique"): 1,
    ("", "LSTM"): 1,
    ("", "GRU"): 1,
    ("", "RNN"): 1,
    ("com.microsoft", "SkipLayerNormalization"): 1,
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): 1,
}
"""Operators whose outputs after the first few may be left out without changing the others. (Those of Split count, and
those of BatchNormalization select its training mode.)"""


@dataclass(frozen=True)
class Dce(Pass):
    """Remove nodes, weights, functions and opset imports that nothing uses.

    Inputs of the graph stay, used or not; the default domain's import stays.
    """

    name = "dce"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("dead_node", "unused_output", "dead_weight", "dead_function", "unused_import")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        nodes = _nodes(model.graph, ctx)
        functions = _functions(model, ctx)
        nodes += sum(_nodes(function.graph, ctx) for function in model.functions.values())
        counts = {
            "nodes": nodes,
            "functions": functions,
            "outputs": sum(_outputs(node, ctx) for node in ir.walk(model)),
            "weights": sum(_weights(graph, ctx) for graph in ir.all_graphs(model)),
            "imports": _imports(model, ctx),
        }
        return PassResult(sum(counts.values()), details=counts)


def _nodes(graph: ir.Graph, ctx: Context) -> int:
    """Remove dead nodes of a graph and of the subgraphs of those that live, last first, so that one walk finds all."""
    removed = 0
    for node in reversed(ir.nodes(graph)):
        inner = list(ir.subgraphs(node))
        if any(is_used(value) for value in node.outputs):
            removed += sum(_nodes(each, ctx) for each in inner)
        elif ctx.spend("dead_node", ir.node_path(node)):
            graph.remove(node, safe=True)
            for each in inner:
                ir.detach(each)
            removed += 1
    return removed


def _outputs(node: ir.Node, ctx: Context) -> int:
    """Leave out unused optional outputs at the end of a node's list."""
    count = len(node.outputs)
    if count == 1:
        return 0
    least = _OPTIONAL_OUTPUTS.get((node.domain, node.op_type), count)
    while count > least and not is_used(node.outputs[count - 1]):
        count -= 1
    if count == len(node.outputs) or not ctx.spend("unused_output", ir.node_path(node)):
        return 0
    node.resize_outputs(count)
    return 1


def _weights(graph: ir.Graph, ctx: Context) -> int:
    removed = 0
    for name, value in list(graph.initializers.items()):
        if is_used(value) or value.is_graph_input() or not ctx.spend("dead_weight", f"weight {name}"):
            continue
        del graph.initializers[name]
        removed += 1
    return removed


def _functions(model: ir.Model, ctx: Context) -> int:
    """Remove functions that cannot be reached by calls from the main graph."""
    called: set[tuple[str, str, str]] = set()
    graphs = [model.graph]
    while graphs and model.functions:
        for inner in ir.nested(graphs.pop()):
            for node in inner:
                key = node.op_identifier()
                if key in model.functions and key not in called:
                    called.add(key)
                    graphs.append(model.functions[key].graph)
    removed = 0
    for key in [key for key in model.functions if key not in called]:
        if ctx.spend("dead_function", f"function {key[0]}.{key[1]}"):
            del model.functions[key]
            removed += 1
    return removed


def _imports(model: ir.Model, ctx: Context) -> int:
    used = {node.domain for node in ir.walk(model)} | {key[0] for key in model.functions}
    removed = 0
    for domain in [domain for domain in model.graph.opset_imports if domain and domain not in used]:
        if ctx.spend("unused_import", f"the opset import of {domain}"):
            del model.graph.opset_imports[domain]
            removed += 1
    return removed
