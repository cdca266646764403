"""Control flow that is decided already."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.splice import can_substitute, is_used, substitute
from accelc.rewrite import drop_initializer, remove_dead


@dataclass(frozen=True)
class ControlFlow(Pass):
    """Replace If with a constant condition by the branch taken, and Loop that never runs by its initial values.

    A Loop whose scan outputs are used stays, since the shape of the empty outputs is not known.
    """

    name = "control-flow"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("constant_if", "loop_without_trips")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        names = ir.names(model)
        changes = 0
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            changes += _graph(ir.Scope(root, root, model.graph, root is not model.graph), names, ctx)
        return PassResult(changes)


def _graph(scope: ir.Scope, names: ir.Names, ctx: Context) -> int:
    """Resolve a graph and, in what is left of it, the subgraphs."""
    changes = 0
    queue = deque(node for node in scope.graph if any(True for _ in ir.subgraphs(node)))
    while queue:
        node = queue.popleft()
        if node.graph is not scope.graph:
            continue
        if node.domain == "" and node.op_type == "If" and (branch := _taken(node)) is not None:
            if _can_replace(node, branch.outputs, scope) and ctx.spend("constant_if", ir.node_path(node)):
                moved = _replace_if(node, branch, scope, names)
                queue.extend(each for each in moved if any(True for _ in ir.subgraphs(each)))
                changes += 1
                continue
        elif node.domain == "" and node.op_type == "Loop" and _never_runs(node):
            carried = node.inputs[2:]
            if _can_replace(node, carried, scope) and ctx.spend("loop_without_trips", ir.node_path(node)):
                for old, new in zip(node.outputs, carried, strict=False):
                    if new is not None:
                        substitute(old, new, names)
                remove_dead([node])
                changes += 1
                continue
        for inner in ir.subgraphs(node):
            changes += _graph(ir.Scope(inner, scope.root, scope.main), names, ctx)
    return changes


def _taken(node: ir.Node) -> ir.Graph | None:
    """The branch that an If always takes."""
    condition = ir.const(node.inputs[0]) if node.inputs else None
    if condition is None or condition.size != 1:
        return None
    attr = node.attributes.get("then_branch" if condition.reshape(-1)[0] else "else_branch")
    return None if attr is None or attr.is_ref() else attr.as_graph()


def _never_runs(node: ir.Node) -> bool:
    """Whether a Loop makes no trip: none are allowed, or its condition is false from the start."""
    trips, condition = (*node.inputs, None, None)[:2]
    limit, go = ir.const(trips), ir.const(condition)
    none_allowed = limit is not None and limit.size == 1 and int(limit.reshape(-1)[0]) <= 0
    return none_allowed or (go is not None and go.size == 1 and not go.reshape(-1)[0])


def _can_replace(node: ir.Node, values: Sequence[ir.Value | None], scope: ir.Scope) -> bool:
    """Whether every used output of the node has a value to stand for it."""
    for index, old in enumerate(node.outputs):
        if not is_used(old):
            continue
        new = values[index] if index < len(values) else None
        if new is None or not can_substitute(old, new, scope.opset):
            return False
    return True


def _replace_if(node: ir.Node, branch: ir.Graph, scope: ir.Scope, names: ir.Names) -> list[ir.Node]:
    """Move a branch's nodes and weights in front of its If and remove the If. Returns the nodes that are left of it."""
    outputs, moved, weights = list(branch.outputs), list(branch), list(branch.initializers.values())
    branch.outputs.clear()
    branch.remove(moved)
    branch.initializers.clear()
    for weight in weights:
        _move_weight(weight, outputs, node, scope, names)
    scope.graph.insert_before(node, moved)
    for old, new in zip(node.outputs, outputs, strict=True):
        substitute(old, new, names)
    remove_dead([*moved, node])
    for weight in weights:
        drop_initializer(weight)
    return [each for each in moved if each.graph is scope.graph]


def _move_weight(weight: ir.Value, outputs: list[ir.Value], node: ir.Node, scope: ir.Scope, names: ir.Names) -> None:
    """Give a weight of a branch to the graph around it, where it stands in the branch's outputs too."""
    tensor = weight.const_value
    if tensor is None or not (weight.uses() or weight in outputs):
        return
    if not scope.in_function:
        scope.graph.register_initializer(weight)
        return
    constant = ir.new_constant(scope, names, str(weight.name), tensor, node)
    weight.replace_all_uses_with(constant)
    outputs[:] = [constant if value is weight else value for value in outputs]
