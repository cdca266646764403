"""Clip weights where the squared error of rounding them becomes smaller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

from .quantization.linear import Linear, find_linear
from .quantization.numbers import Floats
from .quantization.quality import check_grid, grid_of, is_on, layer_details
from .quantization.snap import Grid

_CLEARLY = 0.98
"""Layers whose squared error does not fall below this share of what it was stay as they are."""


@dataclass(frozen=True)
class Clip(Pass):
    """Clip weights where the squared error of rounding them becomes smaller.

    Few large weights make the steps of all others coarse. Weights of Conv, Gemm and MatMul are clipped and rounded to
    the finer grid, on which `quantize` finds them. Layers that would not gain stay as they are.

    method: mse, the range with the least squared error; percentile, the range that holds `percentile` % of the weights.
    bits: of the grid, 2 to 8; by default those of int8 on the target. per_channel: a range for each output channel.
    block: instead one for so many weights of a channel.
    """

    name = "clip"
    exact = False
    lossy = True

    method: Literal["mse", "percentile"] = "mse"
    percentile: float = 99.9
    bits: int | None = None
    per_channel: bool = True
    block: int = 0

    def __post_init__(self) -> None:
        check_grid(self.bits, self.block, self.per_channel)
        if self.method not in ("mse", "percentile"):
            raise ValueError(f"method={self.method} must be mse or percentile")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile={self.percentile:g} must be above 50 and at most 100")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        linears, refused = find_linear(model)
        details: dict[str, Any] = {"refused": refused}
        if not linears:
            return PassResult(skipped="no Conv, Gemm or MatMul with constant float weights", details=details)
        grid = grid_of(ctx, self.bits, self.per_channel, self.block)
        layers = []
        for linear in linears:
            columns = linear.columns()
            if is_on(columns, grid):
                refused[linear.path] = "its weights are on a grid already"
                continue
            found = self._clipped(columns, grid)
            before, after = _error(grid.plain(columns), columns), _error(found, columns)
            if after**2 >= _CLEARLY * before**2:
                refused[linear.path] = "clipping does not lower its error"
                continue
            if not ctx.spend(self.name, linear.path):
                break
            linear.store(found)
            layers.append(layer_details(linear, before, after))
        details["layers"] = layers
        if not layers:
            reason = "out of fuel" if ctx.fuel.empty else "no weights round better when they are clipped"
            return PassResult(skipped=reason, details=details)
        return PassResult(len(layers), notes=(_summary(layers, linears),), details=details)

    def _clipped(self, columns: Floats, grid: Grid) -> Floats:
        """Columns on a clipped grid where its error is lower, else on the plain one."""
        if self.method == "mse":
            return grid.nearest(columns, grid.best_steps(columns))
        ranges = np.minimum(grid.percentile(np.abs(columns), self.percentile), grid.largest(columns))
        plain, clipped = grid.steps(grid.largest(columns)), grid.steps(ranges)
        errors = [grid.total((grid.nearest(columns, steps) - columns) ** 2) for steps in (plain, clipped)]
        return grid.nearest(columns, np.where(errors[1] < errors[0], clipped, plain))


def _error(rounded: Floats, columns: Floats) -> float:
    """Relative, root mean square."""
    size = float(np.linalg.norm(columns))
    return float(np.linalg.norm(rounded - columns)) / size if size else 0.0


def _summary(layers: list[dict[str, Any]], linears: list[Linear]) -> str:
    before, after = (float(np.mean([layer[key] for layer in layers])) for key in ("before", "after"))
    return (
        f"weights of {len(layers)} of {len(linears)} layers clipped; their mean error {after:.4f}, {before:.4f} before"
    )
