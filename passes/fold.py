"""Constant folding: what depends on constants alone is computed once, here, by the runtime's own kernels."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.fold_plan import Admission, Limits, candidates, choose, rule_of
from accelc.passes.fold_run import Budget, Evaluator
from accelc.passes.fold_size import Facts
from accelc.passes.purity import Purity
from accelc.passes.splice import remove_unused, set_constant

_MOST_TRIES = 20
_SHOWN = 3


@dataclass(frozen=True)
class Fold(Pass):
    """Compute constant expressions and store their results where that does not make the model larger.

    Never folded: random and stateful operators, operators of unknown domains, control flow, quantization, division of
    integers that would trap, and what depends on an initializer that a caller may override. What fails
    stays as it was.

    max_bytes: the largest constant that is read or made; a larger weight would have to be loaded as a whole, and
    folding it rarely gains anything. total_bytes: of all results of one run. spare_bytes: by how much the results of
    one run, at most 1 KiB each, may exceed the constants they replace. seconds: that the runtime may spend in one run.
    """

    name = "fold"
    max_bytes: int = 64 << 20
    total_bytes: int = 512 << 20
    spare_bytes: int = 64 << 10
    seconds: float = 10.0

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("fold_*",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        purity, budget = Purity(model), Budget(self.seconds)
        folded = removed = 0
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            scope = ir.Scope(root, root, model.graph, root is not model.graph)
            kept, gone = self._graph(scope, model, purity, ctx, budget)
            folded, removed = folded + kept, removed + gone
        return PassResult(folded, details={"constants": folded, "nodes": removed})

    def _graph(self, scope: ir.Scope, model: ir.Model, purity: Purity, ctx: Context, budget: Budget) -> tuple[int, int]:
        """Fold in a main graph or a function's body. Returns how many results were stored and how many nodes went."""
        limits, facts = Limits(self.max_bytes, self.total_bytes, self.spare_bytes), Facts(scope.opset)
        found = candidates(scope, purity, facts, ctx, limits)
        if not found:
            return 0, 0
        evaluator = Evaluator(model, scope.root, facts, ctx, budget)
        nodes = Admission(facts, evaluator, limits).admit(list(found))
        ends: dict[ir.Node, list[ir.Value]] = {}
        for _ in range(_MOST_TRIES):
            nodes = [node for node in nodes if not evaluator.failed(node)]
            ends = {} if evaluator.stopped else choose(nodes, facts, limits)
            evaluator.compute([value for values in ends.values() for value in values])
            if evaluator.stopped:
                ends = {}
            if evaluator.stopped or not any(evaluator.failed(node) for node in nodes):
                break
        else:
            ends = {}
        _report(evaluator, ctx)
        names, count = ir.names(model), 0
        for node, values in ends.items():
            if ctx.spend(rule_of(node), ir.node_path(node)):
                for value in values:
                    set_constant(value, facts.data[value], found[node], names)
                count += 1
        return count, remove_unused(list(found)) if count else 0


def _report(evaluator: Evaluator, ctx: Context) -> None:
    """Say what the runtime could not compute."""
    if evaluator.stopped:
        ctx.note(f"constants stay unfolded: {evaluator.stopped}")
    failures = list(evaluator.failures.items())
    for node, reason in failures[:_SHOWN]:
        ctx.note(f"{ir.node_path(node)} is constant but was not folded: {reason}")
    if len(failures) > _SHOWN:
        ctx.note(f"{len(failures) - _SHOWN} more constant nodes were not folded")
