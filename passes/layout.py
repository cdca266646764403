"""Transposes moved through whole regions of the graph until they meet and cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from accelc import ir, symbolic
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.layout_apply import write
from accelc.passes.layout_axes import RULE, Perm, as_transpose, is_still
from accelc.passes.layout_cut import orders
from accelc.passes.layout_region import Region

_MAX_ROUNDS = 4
_MAX_LOOKED = 6_000
"""Operators looked at in one sweep of a graph, those of several regions counted for each; bounds the time."""


@dataclass(frozen=True)
class Layout(Pass):
    """Move transposes through whole regions until they meet and cancel.

    Around every Transpose, the operators that work in any order of axes are found, and each is written in the order for
    which the least is moved in all: a minimum cut between the operators that are bound to one order and those that are
    bound to the other. Weights are put into their new order here. Applied where it is strictly cheaper.
    """

    name = "layout"
    exact = False

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return (RULE,)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        changes = 0
        for scope in ir.scopes(model):
            for _ in range(1 if ctx.repeats else _MAX_ROUNDS):
                found = _sweep(scope, model, ctx)
                changes += found
                if not found or ctx.fuel.empty:
                    break
        return PassResult(changes)


def _sweep(scope: ir.Scope, model: ir.Model, ctx: Context) -> int:
    """Look at the region of every Transpose of a graph once. Returns how many regions were written anew."""
    seeds = [(node, perm) for node in scope.graph if (perm := as_transpose(node)) is not None and not is_still(perm)]
    done: set[ir.Node] = set()
    changes = looked = 0

    @cache
    def known() -> symbolic.Facts:
        found: symbolic.Facts = ctx.analysis(symbolic.values, model)
        return found

    for seed, perm in seeds:
        if seed in done or seed.graph is not scope.graph:
            continue
        if looked > _MAX_LOOKED:
            ctx.note("layout: too many regions, the rest of them stays")
            break
        region = _region(scope, seed, perm, known)
        done |= region.transposes
        looked += len(region.members)
        order = orders(region) if region.members else None
        if order is None:
            continue
        if not ctx.spend(RULE, ir.node_path(seed)):
            break
        write(region, order, ir.names(model))
        changes += 1
    return changes


def _region(scope: ir.Scope, seed: ir.Node, perm: Perm, known: Callable[[], symbolic.Facts]) -> Region:
    region = Region(scope, known)
    region.grow(seed, perm)
    return region
