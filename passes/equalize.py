"""Scale channels between layers so that their weights have ranges of one size."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels between layers so that their weights have ranges of one size."""

    name = "equalize"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
