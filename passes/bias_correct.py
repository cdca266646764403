"""Change biases by the mean error that rounding the weights causes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

from .quantization.linear import Linear, find_linear
from .quantization.numbers import Floats
from .quantization.observed import means, output_mean
from .quantization.quality import check_grid, elsewhere, grid_of, stored, without_kept
from .quantization.snap import Grid

_SAME = 1e-6
"""A mean error below this share of the output's spread is nothing."""


@dataclass(frozen=True)
class BiasCorrect(Pass):
    """Change biases by the mean error that rounding the weights causes.

    The mean input of a layer times what its weights lose when `quantize` rounds them is added to its bias. A layer
    without a bias gets one where its operator has a place for it. Weights that lie on the grid already lose nothing.

    bits, per_channel: how `quantize` is going to round; by default as for int8 on the target. block: in weight-only
    blocks of so many weights of a channel. keep: names of nodes to leave alone, as patterns with * separated by |.
    After Nagel et al. 2019.
    """

    name = "bias-correct"
    exact = False
    lossy = True

    bits: int | None = None
    per_channel: bool = True
    block: int = 0
    keep: str = ""

    def __post_init__(self) -> None:
        check_grid(self.bits, self.block, self.per_channel)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        if ctx.calibration is None:
            return PassResult(skipped="it needs calibration data (--calibration)")
        linears, refused = find_linear(model)
        linears = without_kept(linears, self.keep, refused)
        refused |= {each.path: "it has no place for a bias" for each in linears if each.bias_at is None}
        linears = [each for each in linears if each.bias_at is not None]
        details: dict[str, Any] = {"refused": refused}
        if not linears:
            return PassResult(skipped="no Conv, Gemm or MatMul with a place for a bias", details=details)
        grid = grid_of(ctx, self.bits, self.per_channel, self.block)
        ctx.progress("bias-correct: reading the mean inputs of layers")
        seen = means(ctx.calibration, model, linears)
        refused |= {each.path: "the calibration data shows nothing finite" for each in linears if each not in seen}
        layers = []
        for linear, mean in seen.items():
            shift, share = _shift(linear, mean, grid)
            if share < _SAME:
                refused[linear.path] = "rounding its weights shifts nothing"
                continue
            if not ctx.spend(self.name, linear.path):
                break
            linear.add_to_bias(shift)
            layers.append({"node": linear.path, "largest": round(float(np.abs(shift).max()), 6)})
        details["layers"] = layers
        if not layers:
            return PassResult(skipped="out of fuel" if ctx.fuel.empty else "there is no mean error", details=details)
        return PassResult(len(layers), notes=(f"biases of {len(layers)} layers corrected",), details=details)


def _shift(linear: Linear, mean: Floats, grid: Grid) -> tuple[Floats, float]:
    """What to add to the bias, and the largest of it over the largest mean output."""
    columns = linear.columns()
    shift = output_mean(mean, columns - stored(columns, grid)) * np.float32(linear.factor)
    size = float(np.abs(output_mean(np.abs(mean), np.abs(columns))).max())
    return shift, float(np.abs(shift).max()) / size if size > 0 else 0.0
