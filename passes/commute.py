"""Move work to the side of resizing, selections, reductions and concatenations that has less data."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import estimate, ir
from accelc.context import Context
from accelc.pass_base import PassResult, RulePass
from accelc.passes import commute_linear, commute_resize, commute_select


@dataclass(frozen=True)
class Commute(RulePass):
    """Move work to the side of resizing, selections, reductions and concatenations that has less data."""

    name = "commute"
    exact = False
    rules = commute_resize.RULES + commute_linear.RULES + commute_select.RULES

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        estimate.annotate(model, ctx)
        return super().run(model, ctx)
