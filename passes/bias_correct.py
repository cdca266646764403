"""Change biases by the mean error that rounding the weights causes."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class BiasCorrect(Pass):
    """Change biases by the mean error that rounding the weights causes."""

    name = "bias-correct"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
