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
from .quantization.observed import moments
from .quantization.quality import check_grid, elsewhere, grid_of, is_on, layer_details, relative, without_kept
from .quantization.rounding import better, importance, output_error
from .quantization.snap import Grid

_CLEARLY = 0.98
"""Layers whose squared error does not fall below this share of what it was stay as they are."""


@dataclass(frozen=True)
class Clip(Pass):
    """Clip weights where the squared error of rounding them becomes smaller.

    Few large weights make the steps of all others coarse. Weights of Conv, Gemm and MatMul are clipped and rounded to
    the finer grid, on which `quantize` finds them. Layers that would not gain stay as they are. With calibration data
    the error is that of a layer's output, else that of its weights.

    method: mse, the range with the least squared error; percentile, the range that holds `percentile` % of the weights.
    bits: of the grid, 2 to 8; by default those of int8 on the target. per_channel: a range for each output channel.
    block: instead one for so many weights of a channel. keep: names of nodes to leave alone, as patterns with *
    separated by |.
    """

    name = "clip"
    exact = False
    lossy = True

    method: Literal["mse", "percentile"] = "mse"
    percentile: float = 99.9
    bits: int | None = None
    per_channel: bool = True
    block: int = 0
    keep: str = ""

    def __post_init__(self) -> None:
        check_grid(self.bits, self.block, self.per_channel)
        if self.method not in ("mse", "percentile"):
            raise ValueError(f"method={self.method} must be mse or percentile")
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile={self.percentile:g} must be above 50 and at most 100")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        linears, refused = find_linear(model)
        linears = without_kept(linears, self.keep, refused)
        details: dict[str, Any] = {"refused": refused}
        if not linears:
            return PassResult(skipped="no Conv, Gemm or MatMul with constant float weights", details=details)
        grid = grid_of(ctx, self.bits, self.per_channel, self.block)
        seen = {}
        if ctx.calibration is not None:
            ctx.progress("clip: reading the inputs of layers")
            seen = {linear: found.gram for linear, found in moments(ctx.calibration, model, linears).items()}
        layers = []
        for linear in linears:
            columns = np.ascontiguousarray(linear.columns())
            if is_on(columns, grid):
                refused[linear.path] = "its weights are on a grid already"
                continue
            judged = _Judge(columns, seen.get(linear))
            found = self._clipped(judged, grid)
            before, after = judged.relative(grid.plain(columns)), judged.relative(found)
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

    def _clipped(self, judged: _Judge, grid: Grid) -> Floats:
        """Columns on a clipped grid where their error is lower, else on the plain one."""
        columns, plain = judged.columns, grid.plain(judged.columns)
        if self.method == "mse":
            weights = None if judged.gram is None else importance(judged.gram, columns.shape[1])
            steps = grid.best_steps(columns, weights)
        else:
            steps = grid.steps(np.minimum(grid.percentile(np.abs(columns), self.percentile), grid.largest(columns)))
        clipped = grid.nearest(columns, steps)
        return np.where(better(judged.errors(clipped), judged.errors(plain), grid), clipped, plain)


@dataclass(frozen=True)
class _Judge:
    """How far rounded columns are from these, by the outputs where gram says what they are multiplied by."""

    columns: Floats
    gram: Floats | None

    def errors(self, rounded: Floats) -> Floats:
        """Squared, [N]."""
        difference = rounded - self.columns
        return output_error(difference, self.gram) if self.gram is not None else (difference**2).sum(axis=0)

    def relative(self, rounded: Floats) -> float:
        return relative(self.errors(rounded), self.errors(np.zeros_like(rounded)))


def _summary(layers: list[dict[str, Any]], linears: list[Linear]) -> str:
    before, after = (float(np.mean([layer[key] for layer in layers])) for key in ("before", "after"))
    return (
        f"weights of {len(layers)} of {len(linears)} layers clipped; their mean error {after:.4f}, {before:.4f} before"
    )
