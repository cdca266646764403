"""Int8 for the processor: products with constant weights, and tables, quantized without calibration data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from accelc import ir
from accelc.context import Context
from accelc.measure import Comparison
from accelc.pass_base import Pass, PassResult
from accelc.pattern import MICROSOFT
from accelc.quality import Quality
from accelc.runner import RuntimeFailure

from .quantization.emit import quantize_layers
from .quantization.layers import Found, Layer, find_layers
from .quantization.numbers import Scheme
from .quantization.search import Search, Unit
from .quantization.trial import Trial, ratio_text

METADATA = "accelc.quantize"
_ALONE_SHARE = 0.3


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute MatMul, Gemm and Gather in int8 where quality stays inside the budget and the model gets faster.

    bits: of the weights; by default 8, or 7 where the processor's products saturate. per_channel: a scale for each
    output column instead of one. embeddings: tables as well. measure: time it, unless measuring is switched off as
    a whole; else everything inside the quality budget is quantized. budget: seconds for timing.
    """

    name = "quantize"
    exact = False
    lossy = True

    bits: Literal[8, 7] | None = None
    per_channel: bool = True
    embeddings: bool = True
    measure: bool = True
    budget: float = 15.0

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"budget={self.budget:g} must be above 0 seconds")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if ctx.fuel.empty:
            return PassResult(skipped="out of fuel")
        if ctx.target.provider != "CPUExecutionProvider":
            return PassResult(skipped=f"{ctx.target.provider} has no int8 kernels for products")
        scheme = Scheme.of(ctx.target, bits=self.bits, per_channel=self.per_channel, vendor=_has_vendor_kernels(ctx))
        found = find_layers(model, embeddings=self.embeddings, portable=not scheme.vendor)
        if all(layer.is_gather for layer in found.layers):
            return PassResult(skipped="no MatMul or Gemm with constant float weights", details=_details(found))
        trial = Trial(model, ctx)
        obstacle = trial.obstacle()
        if obstacle:
            return PassResult(skipped=obstacle, details=_details(found))
        search = Search(trial, found, scheme, portable=not scheme.vendor)
        try:
            return self._search(model, ctx, search)
        except RuntimeFailure as failure:
            return PassResult(skipped=f"nothing could be tried: {failure}", details=_details(found, search))

    def _search(self, model: ir.Model, ctx: Context, search: Search) -> PassResult:
        found = search.found
        units: list[Unit] = list(found.units)
        measure = self.measure and ctx.settings.measure
        if measure:
            ctx.progress("quantize: timing layers")
            search.find_rows()
            units = search.faster_alone(units, _ALONE_SHARE * self.budget)
        if all(found.tables(unit) for unit in units):
            reason = "nothing beats float: every layer is faster in float"
            return PassResult(skipped=reason, details=_details(found, search))
        ctx.progress("quantize: checking quality")
        units, quality, over = search.within_budget(units)
        if all(found.tables(unit) for unit in units):
            return PassResult(skipped=f"no layer stays inside --max-drop: {over}", details=_details(found, search))
        speed: Comparison | None = None
        if measure:
            ctx.progress("quantize: timing the model")
            units, speed = self._fastest(search, units)
            if speed.verdict != "faster":
                reason = f"nothing beats float: ratio {ratio_text(speed)}"
                return PassResult(skipped=reason, details=_details(found, search))
        layers = search.chosen(found.layers, {index for unit in units for index in unit})
        done = quantize_layers(model, layers, search.scheme, ctx.spend, search.known)
        if not done:
            return PassResult(skipped="out of fuel", details=_details(found, search))
        _record(model, ctx, search.scheme, done)
        notes = (_summary(found, done, search.scheme, quality, speed), *_warnings(search))
        return PassResult(len(done), notes=notes, details=_details(found, search, done))

    def _fastest(self, search: Search, units: list[Unit]) -> tuple[list[Unit], Comparison]:
        """The units with tables when that is not slower than without, and their speed against the model."""
        seconds = (1 - _ALONE_SHARE) * self.budget
        products = [unit for unit in units if not search.found.tables(unit)]
        choices = [units, products] if len(products) < len(units) else [units]

        def compare() -> list[Comparison]:
            return search.trial.compare([search.candidate(choice) for choice in choices], seconds)

        # The same layers of the same model: attempts of one compile differ in little else, and must choose alike.
        key = ("quantize", str(search.scheme), *(search.signature(choice) for choice in choices))
        speeds = search.trial.ctx.decisions.once(key, compare)
        if len(choices) > 1 and (speeds[0].high < speeds[1].low or _only_second_is_faster(*speeds)):
            for unit in set(units) - set(products):
                search.drop(unit, f"slower with it: {ratio_text(speeds[0])} against {ratio_text(speeds[1])}")
            return products, speeds[1]
        return units, speeds[0]


def _only_second_is_faster(one: Comparison, two: Comparison) -> bool:
    return one.verdict != "faster" and two.verdict == "faster"


def _has_vendor_kernels(ctx: Context) -> bool:
    """Whether the target has the fused kernels and may use them."""
    types = {"T1": ir.DataType.FLOAT, "T2": ir.DataType.INT8}
    integers = {"T1": ir.DataType.UINT8, "T2": ir.DataType.INT8, "T3": ir.DataType.FLOAT}
    fused = ctx.allows(MICROSOFT, "DynamicQuantizeMatMul", 1, types)
    return fused is True and ctx.allows(MICROSOFT, "MatMulIntegerToFloat", 1, integers) is True


def _record(model: ir.Model, ctx: Context, scheme: Scheme, done: list[Layer]) -> None:
    """Say in the model's metadata what was done, and for which processor; an earlier entry stays."""
    key, number = METADATA, 1
    while key in model.metadata_props:
        number += 1
        key = f"{METADATA}.{number}"
    entry = {
        "scheme": str(scheme),
        "bits": scheme.bits,
        "isa": sorted(ctx.target.isa),
        "layers": [layer.node.name for layer in done],
        "smoothed": [layer.node.name for layer in done if layer.smooth is not None],
    }
    model.metadata_props[key] = json.dumps(entry)


def _summary(found: Found, done: list[Layer], scheme: Scheme, quality: Quality | None, speed: Comparison | None) -> str:
    smoothed = sum(layer.smooth is not None for layer in done)
    also = f", {smoothed} smoothed" if smoothed else ""
    parts = [f"{len(done)} of {len(found.layers)} layers in int8 ({scheme}{also})"]
    if quality is not None:
        parts.append(str(quality))
    if speed is not None:
        parts.append(f"{ratio_text(speed)} times as fast")
    return "; ".join(parts)


def _warnings(search: Search) -> list[str]:
    left = len(search.dropped)
    return [f"{left} layer(s) left in float, see the details"] if left else []


def _details(found: Found, search: Search | None = None, done: list[Layer] | None = None) -> dict[str, Any]:
    """Every layer considered: what became of it and why."""
    dropped = search.dropped if search is not None else {}
    rows = search.rows if search is not None else {}
    changed = {layer.path: layer for layer in done or ()}
    layers = [
        {
            "node": layer.path,
            "shape": [rows.get(index), layer.k, layer.n],
            "int8": layer.path in changed,
            "smoothed": layer.path in changed and changed[layer.path].smooth is not None,
            "reason": dropped.get(index, ""),
        }
        for index, layer in enumerate(found.layers)
    ]
    refused = [{"node": node, "int8": False, "reason": reason} for node, reason in found.refused.items()]
    return {"layers": layers + refused}
