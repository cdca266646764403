"""Move the scale of outlying channels from activations into weights."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class Smooth(Pass):
    """Move the scale of outlying channels from activations into weights."""

    name = "smooth"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
