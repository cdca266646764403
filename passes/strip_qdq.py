"""Take quantization out of a model: QuantizeLinear, DequantizeLinear and integer operators become float."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class StripQdq(Pass):
    """Take quantization out of a model: QuantizeLinear, DequantizeLinear and integer operators become float."""

    name = "strip-qdq"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
