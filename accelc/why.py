"""Why a rule does not fire: the closest it comes in a model, and the reason why it stops there."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
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


def explain(rule: Rule, model: ir.Model, ctx: Context) -> Why:
    """Try a rule everywhere in a model without changing it."""
    infer_model(model)
    keys = {form.key for form in rule.before}
    trace, fires, roots = Trace(), [], 0
    for scope in ir.scopes(model):
        for node in [each for each in scope.graph if (each.domain, each.op_type) in keys]:
            roots += 1
            patch = propose(rule, node, scope, ctx, RuleStats(rule.name, rule.source), trace)
            if patch is not None:
                fires.append(ir.node_path(node))
                discard(patch.nodes)
    return Why(roots, tuple(fires), trace.where, trace.reason, max(trace.depth, 0))
