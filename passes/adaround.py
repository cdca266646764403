"""Round the weights of int8 layers up or down so that each layer's output stays closest to its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

from .quantization.linear import Linear, find_linear
from .quantization.observed import Moments, moments
from .quantization.quality import check_grid, elsewhere, grid_of, is_on, layer_details, relative, without_kept
from .quantization.rounding import output_error, round_for_output
from .quantization.snap import Grid


@dataclass(frozen=True)
class AdaRound(Pass):
    """Round the weights of int8 layers up or down so that each layer's output stays closest to its own.

    Weights of Conv, Gemm and MatMul stay float and lie on a grid afterwards, which `quantize` recognizes and stores as
    it is. Judged by its output on the calibration data no layer gets worse than by rounding to nearest.

    bits: of the grid, 2 to 8; by default those of int8 on the target. per_channel: a step for each output channel.
    block: instead a step for so many weights of a channel, as in weight-only layers; convolutions are then left alone.
    iterations: how often each weight is looked at, at most. bias: let biases take up the mean of what is left.
    keep: names of nodes to leave alone, as patterns with * separated by |.
    """

    name = "adaround"
    exact = False
    lossy = True

    bits: int | None = None
    per_channel: bool = True
    block: int = 0
    iterations: int = 8
    bias: bool = True
    keep: str = ""

    def __post_init__(self) -> None:
        check_grid(self.bits, self.block, self.per_channel)
        if self.iterations < 1:
            raise ValueError(f"iterations={self.iterations} must be at least 1")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        if ctx.calibration is None:
            return PassResult(skipped="it needs calibration data (--calibration)")
        linears, refused = find_linear(model)
        linears = without_kept(linears, self.keep, refused)
        if self.block:
            refused |= {each.path: "a convolution has no blocks" for each in linears if each.is_conv}
            linears = [each for each in linears if not each.is_conv]
        details: dict[str, Any] = {"refused": refused}
        if not linears:
            return PassResult(skipped="no Conv, Gemm or MatMul with constant float weights", details=details)
        grid = grid_of(ctx, self.bits, self.per_channel, self.block)
        ctx.progress("adaround: reading the inputs of layers")
        snapped = [each for each in linears if is_on(np.ascontiguousarray(each.columns()), grid)]
        refused |= {each.path: "its weights are on a grid already" for each in snapped}
        linears = [each for each in linears if each not in snapped]
        seen = moments(ctx.calibration, model, linears)
        refused |= {each.path: "the calibration data shows nothing finite" for each in linears if each not in seen}
        layers = []
        for linear, found in seen.items():
            ctx.progress(f"adaround: {linear.name}")
            layer = self._round(linear, found, grid, ctx)
            if layer is None:
                break
            layers.append(layer)
        details["layers"] = layers
        if not layers:
            return PassResult(skipped="out of fuel" if ctx.fuel.empty else "no layer is left to round", details=details)
        before, after = (float(np.mean([layer[key] for layer in layers])) for key in ("before", "after"))
        notes = (f"{len(layers)} layers rounded; mean error of their outputs {after:.4f}, {before:.4f} to nearest",)
        return PassResult(len(layers), notes=notes, details=details)

    def _round(self, linear: Linear, seen: Moments, grid: Grid, ctx: Context) -> dict[str, Any] | None:
        """Round one layer; None where the fuel is spent."""
        if not ctx.spend(self.name, linear.path):
            return None
        columns = np.ascontiguousarray(linear.columns())
        corrects = self.bias and linear.bias_at is not None
        gram = seen.centered() if corrects else seen.gram
        found = round_for_output(columns, gram, grid, self.iterations, seen.rows)
        linear.store(found)
        if corrects:
            linear.add_to_bias(seen.output_mean(columns - found) * np.float32(linear.factor))
        sizes = output_error(columns, seen.gram)
        before = output_error(grid.plain(columns) - columns, seen.gram)
        after = output_error(found - columns, gram)
        return layer_details(linear, relative(before, sizes), relative(after, sizes), rows=seen.rows)
