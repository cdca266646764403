"""Clip weights where the squared error of rounding them becomes smaller."""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult


@dataclass(frozen=True)
class Clip(Pass):
    """Clip weights where the squared error of rounding them becomes smaller."""

    name = "clip"
    exact = False

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        return PassResult(skipped="not built yet")
