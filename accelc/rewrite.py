"""The driver: applies rules to a fixpoint, one checked patch at a time.

Rules are tried only where the operators at their root can match (accelc.prefilter). A worklist holds the nodes a change
may have affected, so the cost grows with the graph and the number of patches, not with their product. A patch is
checked before it is applied: what replaces a value must have its type and shape, and the model's outputs keep their
names.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accelc import ir, opsets, stamps
from accelc.errors import RuleError
from accelc.infer import infer_nodes, refine
from accelc.pattern import Trace
from accelc.prefilter import Looks, Prefilter
from accelc.rules import Match, Miss, Rule

if TYPE_CHECKING:
    from accelc.context import Context

_MANY_USERS = 8
"""A value that lost a consumer requeues the others only when they are few; the next sweep sees the rest."""
_MAX_SWEEPS = 12
_PATCHES_PER_NODE, _FREE_PATCHES = 8, 1000
"""More patches than this in one sweep of a graph and the rules do not terminate."""


@dataclass
class RuleStats:
    """How often one rule was tried and fired, the time it took, and why its patches were refused."""

    rule: str
    source: str
    tried: int = 0
    fired: int = 0
    seconds: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Patch:
    """A replacement ready to be checked: new nodes and weights, and the value that stands for each root output."""

    rule: Rule
    root: ir.Node
    matched: tuple[ir.Node, ...]
    values: tuple[ir.Value | None, ...]
    nodes: tuple[ir.Node, ...]
    weights: tuple[ir.Value, ...]


class Refused(Exception):
    """The patch would change a type, a shape or the signature; it is not applied."""


class Driver:
    """Applies rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.stats = {rule.name: RuleStats(rule.name, rule.source) for rule in rules}
        self._prefilter = Prefilter(rules)

    def run(self, model: ir.Model, ctx: Context) -> int:
        """Apply until nothing fires or the fuel is spent. Returns the number of patches applied."""
        total = 0
        for _ in range(1 if ctx.repeats else _MAX_SWEEPS):
            fired = self._sweep(model, ctx)
            total += fired
            if fired == 0 or ctx.fuel.empty:
                break
        if total:
            opsets.settle_ir_version(model)
        return total

    def _sweep(self, model: ir.Model, ctx: Context) -> int:
        names = ir.names(model)
        return sum(self._sweep_graph(model, scope, names, ctx) for scope in ir.scopes(model))

    def _sweep_graph(self, model: ir.Model, scope: ir.Scope, names: ir.Names, ctx: Context) -> int:
        graph, fired = scope.graph, 0
        limit = _PATCHES_PER_NODE * len(graph) + _FREE_PATCHES
        queue = deque(self._prefilter.candidates(ctx.analysis(Looks, model).of(graph)))
        waiting = set(queue)
        while queue and not ctx.fuel.empty:
            node = queue.popleft()
            waiting.discard(node)
            if node.graph is not graph:
                continue
            patch = self._try(node, scope, ctx)
            if patch is None:
                continue
            where = ir.node_path(node)
            if scope.opset < patch.rule.opset:
                raise_opset(scope, patch.rule, ctx, names)
            ctx.spend(patch.rule.name, where)
            self.stats[patch.rule.name].fired += 1
            fired += 1
            if fired > limit:
                raise RuleError(
                    "does not terminate", where=f"rule {self._busiest()}", why=f"{fired} patches in one graph"
                )
            for each in apply(patch, scope, names):
                if each.graph is graph and each not in waiting:
                    waiting.add(each)
                    queue.append(each)
        return fired

    def _busiest(self) -> str:
        return max(self.stats.values(), key=lambda stats: stats.fired).rule

    def _try(self, node: ir.Node, scope: ir.Scope, ctx: Context) -> Patch | None:
        for rule in self._prefilter.rules(node):
            if ctx.disabled(rule.name):
                continue
            stats = self.stats[rule.name]
            stats.tried += 1
            started = time.perf_counter()
            try:
                patch = propose(rule, node, scope, ctx, stats)
            finally:
                stats.seconds += time.perf_counter() - started
            if patch is not None:
                return patch
        return None


def propose(
    rule: Rule, root: ir.Node, scope: ir.Scope, ctx: Context, stats: RuleStats, trace: Trace | None = None
) -> Patch | None:
    """The first match of a rule at a node whose guards hold and whose replacement passes the checks."""
    opset = max(scope.opset, rule.opset)
    for match in rule.matches(root, scope.opset, ctx, trace):
        try:
            values = rule.build(match)
            if scope.opset < rule.opset:
                _require_opset(scope, rule, match)
            patch = Patch(rule, root, match.nodes, values, tuple(match.op.nodes), tuple(match.op.weights))
            infer_nodes(patch.nodes, opset)
            check(patch)
            return patch
        except Miss as miss:
            discard(match.op.nodes)
            if trace is not None:
                trace.note(match.nodes, ir.node_path(root), str(miss), 1)
        except Refused as refused:
            discard(match.op.nodes)
            stats.refused[str(refused)] = stats.refused.get(str(refused), 0) + 1
            if trace is not None:
                trace.note(match.nodes, ir.node_path(root), f"the patch was refused: {refused}", 2)
    return None


def _require_opset(scope: ir.Scope, rule: Rule, match: Match) -> None:
    """A miss unless the model's opset can be raised to what the rule's replacement needs."""
    if scope.root is not scope.main:
        match.fail(f"needs opset {rule.opset}, the function has {scope.opset}")
    reason = match.ctx.opset_blocker(scope.main, rule.opset)
    if reason:
        match.fail(f"needs opset {rule.opset}, the model has {scope.opset} and cannot be raised: {reason}")


def raise_opset(scope: ir.Scope, rule: Rule, ctx: Context, names: ir.Names) -> None:
    """Raise the model's opset for a rule that is about to fire, and say so."""
    before = scope.opset
    opsets.raise_to(scope.main, rule.opset, names)
    ctx.note(f"opset raised from {before} to {rule.opset} for {rule.name}")


def discard(nodes: Iterable[ir.Node]) -> None:
    """Detach the nodes of a replacement that is not used, so that they do not count as consumers."""
    for node in nodes:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def check(patch: Patch) -> None:
    """Raise Refused unless every used output of the root gets a value of the same type and shape."""
    root = patch.root
    new = {value for node in patch.nodes for value in node.outputs}
    renamed: dict[ir.Value, ir.Value] = {}  # what takes the name of a graph output -> that output
    for index, old in enumerate(root.outputs):
        replacement = patch.values[index] if index < len(patch.values) else None
        if replacement is None:
            if ir.use_count(old) or old.is_graph_output():
                raise Refused(f"output {index} is used but the rule gives nothing for it")
            continue
        if replacement in root.outputs:
            raise Refused("the rule replaces a value by itself")
        if old.is_graph_output() and replacement not in new and not _can_take_over(replacement, root):
            raise Refused(f"{old.name} is an output of the graph and would share its value with another name")
        if old.is_graph_output() and renamed.setdefault(replacement, old) is not old:
            raise Refused(f"one value would be the outputs {renamed[replacement].name} and {old.name} of the graph")
        if replacement.type is not None and old.type is not None and replacement.type != old.type:
            raise Refused(f"type {old.type} would become {replacement.type}")
        _check_shape(old, replacement)


def _can_take_over(value: ir.Value, root: ir.Node) -> bool:
    """Whether an existing value may take a graph output's name: a node of this graph makes it, for no other output."""
    node = value.producer()
    return node is not None and node.graph is root.graph and not value.is_graph_output()


def _check_shape(old: ir.Value, new: ir.Value) -> None:
    before, after = ir.dims(old), ir.dims(new)
    if before is None or after is None:
        return
    if len(before) != len(after):
        raise Refused(f"rank {len(before)} would become {len(after)}")
    for a, b in zip(before, after, strict=True):
        if isinstance(a, int) and isinstance(b, int) and a != b:
            raise Refused(f"shape {list(before)} would become {list(after)}")


def apply(patch: Patch, scope: ir.Scope, names: ir.Names) -> list[ir.Node]:
    """Put a checked patch into the graph. Returns the nodes it may have given new chances, in a stable order."""
    root, graph = patch.root, scope.graph
    _place_weights(patch, scope, names)
    _name_nodes(patch, names)
    for node in patch.nodes:
        node.meta[stamps.RULE] = patch.rule.name
        if node.domain:
            scope.root.opset_imports.setdefault(node.domain, 1)
    graph.insert_before(root, patch.nodes)
    affected: dict[ir.Node, None] = dict.fromkeys(patch.nodes)
    for old, new in zip(root.outputs, patch.values, strict=False):
        if new is not None:
            affected.update(dict.fromkeys(use.node for use in old.uses()))
            replace_value(old, new)
    affected.update(dict.fromkeys(remove_dead([root, *patch.matched])))
    return list(affected)


def _place_weights(patch: Patch, scope: ir.Scope, names: ir.Names) -> None:
    """Register the new weights that are used; in a function's body they become Constant nodes."""
    for weight in patch.weights:
        tensor = weight.const_value
        assert tensor is not None
        if not ir.use_count(weight) and weight not in patch.values:
            continue
        if scope.in_function:
            weight.replace_all_uses_with(ir.new_constant(scope, names, str(weight.name), tensor, patch.root))
        else:
            weight.name = names.fresh(str(weight.name))
            scope.graph.register_initializer(weight)


def _name_nodes(patch: Patch, names: ir.Names) -> None:
    """Name new nodes and values after the root they replace; the node that stands for it takes its name over."""
    root = patch.root
    taken_over = False
    for node in patch.nodes:
        heir = not taken_over and any(value in patch.values for value in node.outputs)
        node.name = names.fresh(node.name or f"{root.name}/{patch.rule.name}") if not heir else root.name
        taken_over |= heir
        for value in node.outputs:
            index = next((i for i, each in enumerate(patch.values) if each is value), None)
            if index is None:
                value.name = names.fresh(f"{node.name}_out")
            else:
                value.name = root.outputs[index].name


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let `new` stand wherever `old` is used. Where `old` is a graph output, `new` takes its name, type and shape.

    An output that was declared without a shape gets none.
    """
    if old.is_graph_output():
        new.name = old.name
        new.type = old.type if old.type is not None else new.type
        new.shape = old.shape
        new.metadata_props.update(old.metadata_props)
        new.doc_string = old.doc_string or new.doc_string
    else:
        refine(new, old.type, old.shape)
    old.replace_all_uses_with(new, replace_graph_outputs=True)


def remove_dead(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Remove nodes nobody uses, and what only they used. Returns the neighbours whose consumers became fewer."""
    touched: dict[ir.Node, None] = {}
    stack = list(nodes)
    while stack:
        node = stack.pop()
        graph = node.graph
        if not isinstance(graph, ir.Graph) or any(ir.use_count(v) or v.is_graph_output() for v in node.outputs):
            continue
        sources = [value for value in node.inputs if value is not None]
        inside = list(ir.subgraphs(node))
        captured = [value for inner in inside for value in ir.captured(inner)]
        graph.remove(node, safe=True)
        for inner in inside:
            ir.detach(inner)
        for value in [*sources, *captured]:
            producer = value.producer()
            users = ir.use_count(value)
            if producer is None:
                if value.is_initializer() and not users:
                    drop_initializer(value)
            elif not users and not value.is_graph_output():
                stack.append(producer)
            if 0 < users <= _MANY_USERS:
                touched.update(dict.fromkeys(use.node for use in value.uses()))
                if producer is not None:
                    touched[producer] = None
    return list(touched)


def drop_initializer(value: ir.Value) -> None:
    """Remove a weight nobody uses; one that is an input or output of its graph stays."""
    graph = value.graph
    unused = not ir.use_count(value) and not value.is_graph_input() and not value.is_graph_output()
    if isinstance(graph, ir.Graph) and unused:
        graph.initializers.pop(str(value.name), None)
