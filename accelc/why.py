"""Why a rule does not fire, or a block stays in parts: the closest a rule comes, and what stops it there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelc import ir
from accelc.blocks import Block, users
from accelc.context import Context
from accelc.infer import infer_model
from accelc.pattern import Trace
from accelc.rewrite import RuleStats, discard, propose
from accelc.rules import Rule


@dataclass(frozen=True)
class Why:
    """roots: nodes of an operator that the rule starts at. fires: those where it would fire now. where, reason: the
    closest partial match and what stopped it, empty without one. depth: how many nodes of it matched.
    """

    roots: int
    fires: tuple[str, ...]
    where: str
    reason: str
    depth: int


@dataclass(frozen=True)
class BlockWhy:
    """Why a block is in parts. rule: the one that comes closest, None where none starts at any of its nodes.

    where, reason: the node it stops at and what stops it, empty when the rule would fire now.
    """

    block: Block
    rule: Rule | None
    where: str
    reason: str


def explain(rule: Rule, model: ir.Model, ctx: Context) -> Why:
    """Try a rule everywhere in a model without changing it."""
    infer_model(model)
    keys = {form.key for form in rule.before}
    trace, fires, roots = Trace(), [], 0
    for scope in ir.scopes(model):
        for node in [each for each in scope.graph if (each.domain, each.op_type) in keys]:
            roots += 1
            if _matched(rule, node, scope, ctx, trace):
                fires.append(ir.node_path(node))
    return Why(roots, tuple(fires), trace.where, trace.reason, max(trace.depth, 0))


def explain_block(block: Block, rules: Sequence[Rule], ctx: Context) -> BlockWhy:
    """Try rules at the nodes of a block and at those that use it, without changing anything.

    The model's types and shapes must have been inferred. The closest rule is the one that matches most of the block,
    of equals that which starts nearest to its end.
    """
    inside = frozenset(block.nodes)
    closest: tuple[int, int] = (0, 0)
    found = BlockWhy(block, None, "", "")
    for root in [*reversed(block.nodes), *users(block)]:
        if root.graph is not block.scope.graph:
            continue
        for rule in rules:
            if all(form.key != (root.domain, root.op_type) for form in rule.before):
                continue
            trace = Trace(among=inside)
            if inside.intersection(_matched(rule, root, block.scope, ctx, trace)):
                return BlockWhy(block, rule, "", "")
            if (trace.inside, trace.depth) > closest:
                closest = trace.inside, trace.depth
                found = BlockWhy(block, rule, trace.where, trace.reason)
    return found


def _matched(rule: Rule, root: ir.Node, scope: ir.Scope, ctx: Context, trace: Trace) -> tuple[ir.Node, ...]:
    """The nodes that a rule would replace at a root; none where it would not fire."""
    patch = propose(rule, root, scope, ctx, RuleStats(rule.name, rule.source), trace)
    if patch is None:
        return ()
    discard(patch.nodes)
    return patch.matched
