"""Round the weights of low-bit layers one after the other, each making up for the errors so far."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class Gptq(Pass):
    """Round the weights of low-bit layers one after the other, each making up for the errors so far."""

    name = "gptq"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
