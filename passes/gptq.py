"""Round the weights of low-bit layers one after the other, each making up for the errors so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

from .quantization.gptq_numbers import Grid, column_errors, gptq
from .quantization.grams import Gram, grams
from .quantization.layers import Layer, find_layers
from .quantization.linear import set_const
from .quantization.quality import elsewhere, kept
from .quantization.weights_numbers import BLOCK_SIZES, BlockScheme


@dataclass(frozen=True)
class Gptq(Pass):
    """Round the weights of low-bit layers one after the other, each making up for the errors so far.

    The weights of MatMul and Gemm stay float and lie on the grid of weight-only blocks afterwards; `quantize` with the
    same bits, block_size and symmetric finds them there and stores them as they are. It needs calibration data.

    bits, block_size, symmetric: of the grid; by default blocks of 32 in 4 bits, of 128 in 8. damping: share of the mean
    squared input that is added to all of them. order: weights of the largest inputs first. clip: search each block's
    range for the least squared error. keep: names of nodes to leave alone, as patterns with * separated by |.
    """

    name = "gptq"
    exact = False
    lossy = True

    bits: Literal[4, 8] = 4
    block_size: int | None = None
    symmetric: bool = True
    damping: float = 0.01
    order: bool = True
    clip: bool = False
    keep: str = ""

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits={self.bits} must be 4 or 8")
        if not self.damping > 0:
            raise ValueError(f"damping={self.damping:g} must be above 0")
        self._scheme()

    def _scheme(self) -> BlockScheme:
        size = BLOCK_SIZES[self.bits] if self.block_size is None else self.block_size
        return BlockScheme(self.bits, size, self.symmetric, clip=self.clip)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        if ctx.calibration is None:
            return PassResult(skipped="it needs calibration data (--calibration)")
        found = find_layers(model, embeddings=True, portable=False)
        refused = dict(found.refused)
        units = []
        for unit in found.units:
            if found.tables(unit):
                continue
            shared = [found.layers[index] for index in unit]
            reason = _refusal(shared, model) or next(filter(None, (kept(each.path, self.keep) for each in shared)), "")
            if reason:
                refused.update({layer.path: reason for layer in shared if not layer.is_gather})
            else:
                units.append(shared)
        done: list[dict[str, Any]] = []
        for layers, gram in grams(ctx.calibration, model, units):
            if gram is None:
                refused.update({layer.path: "of its inputs nothing finite was seen" for layer in layers})
                continue
            if not ctx.spend(self.name, layers[0].path):
                break
            done.append(self._round(layers, gram))
        return self._result(done, units, refused)

    def _round(self, unit: Sequence[Layer], gram: Gram) -> dict[str, Any]:
        """Snap the weight that layers share. Returns what became of it."""
        layer, scheme = unit[0], self._scheme()
        weight = layer.matrix()
        grid = Grid.of(weight, scheme)
        plain = grid.nearest(weight, np.arange(len(weight)))
        rounded = gptq(weight, gram, grid, damping=self.damping, order=self.order)
        stored = rounded if layer.alpha == 1.0 else rounded / np.float32(layer.alpha)
        set_const(layer.weight, stored.T if layer.transposed else stored)
        size = float(column_errors(weight, gram).sum())
        before, after = (
            float(np.sqrt(column_errors(each - weight, gram).sum() / size)) if size else 0.0
            for each in (plain, rounded)
        )
        return {"node": layer.path, "shape": [layer.k, layer.n], "before": before, "after": after}

    def _result(self, done: list[dict[str, Any]], units: Sequence[object], refused: dict[str, str]) -> PassResult:
        details = {"layers": done, "refused": refused}
        if not done:
            reason = "out of fuel" if units else "no MatMul or Gemm with constant float weights"
            return PassResult(skipped=reason, details=details)
        before, after = (float(np.mean([each[key] for each in done])) for key in ("before", "after"))
        blocks = f"{self.bits} bits in blocks of {self._scheme().block_size}"
        note = (
            f"weights of {len(done)} of {len(units)} layers rounded to {blocks}; "
            f"mean relative error of their results {after:.4f}, {before:.4f} when rounded to nearest"
        )
        return PassResult(len(done), notes=(note,), details=details)


def _refusal(layers: Sequence[Layer], model: ir.Model) -> str:
    """Why a weight is left alone; empty when it is not."""
    products = [layer for layer in layers if not layer.is_gather]
    if len(products) < len(layers):
        return "its weight is also a table"
    if any(layer.scope.graph is not model.graph for layer in layers):
        return "it stands in a subgraph, where inputs are not observed"
    if len({(layer.transposed, layer.alpha) for layer in layers}) > 1 or layers[0].alpha == 0.0:
        return "its weight is used with different factors"
    return ""
