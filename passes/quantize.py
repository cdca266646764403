"""Int8 and lower for the processor: each product, convolution and table in the form that pays, inside the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from accelc import ir
from accelc.calibration import Method
from accelc.context import Context
from accelc.errors import PassError
from accelc.pass_base import Pass, PassResult
from accelc.runner import RuntimeFailure

from .quantization.bench import Bench
from .quantization.gains import Asked, Gains
from .quantization.numbers import Floats
from .quantization.plan import BLOCK_FORMS, Form
from .quantization.preflight import preflight
from .quantization.prepare import Prepared, Wishes, prepare
from .quantization.quality import elsewhere
from .quantization.search import Outcome, Search
from .quantization.telling import METADATA, details, notes, record, stays
from .quantization.trial import Trial
from .quantization.weights import Blocked, raise_opset
from .quantization.weights_gptq import round_by_data
from .quantization.weights_numbers import check_block_size

__all__ = ["METADATA", "Quantize"]

_SECONDS = 60.0
_TRIED = ("minmax", "percentile", "mse")
"""Calibration methods that the search compares."""
_BITS = {"dynamic": (8, 7), "static": (8, 7), "weights": (8, 4), "auto": (8, 7, 4)}


@dataclass(frozen=True)
class Quantize(Pass):
    """Compute in int8 where quality stays inside the budget and the model gets faster.

    scheme: auto searches among all forms; dynamic (activations quantized while the model runs), static (ranges from
    calibration data) and weights (only weights are stored in fewer bits) quantize all that can be in that form. bits:
    of the weights; by default 8, or 7 to 8 where the processor's products saturate; for weights alone 4, and 8 for
    layers that need them.
    block_size, symmetric: of weights stored alone; by default blocks of 32 in 4 bits, of 128 in 8. per_channel: a
    scale for each output column instead of one. activations: their integers in static form. ranges: the calibration
    method (minmax, average, percentile:99.99, entropy, mse), by default the user's; auto compares more. embeddings:
    tables as well. measure: time it, unless measuring is switched off as a whole; else everything inside the quality
    budget is quantized. budget: seconds for timing. islands: leave sensitive layers in float when the budget for
    quality is exceeded. keep: names of nodes to leave in float, as patterns with * separated by |.
    """

    name = "quantize"
    exact = False
    lossy = True

    scheme: Literal["auto", "dynamic", "static", "weights"] = "auto"
    bits: Literal[8, 7, 4] | None = None
    block_size: int | None = None
    per_channel: bool = True
    symmetric: bool = True
    activations: Literal["u8", "s8", "u16", "s16"] = "u8"
    ranges: str = ""
    embeddings: bool = True
    measure: bool = True
    budget: float | None = None
    islands: bool = True
    keep: str = ""

    def __post_init__(self) -> None:
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget={self.budget:g} must be above 0 seconds")
        if self.block_size is not None:
            check_block_size(self.block_size)
        if self.bits is not None and self.bits not in _BITS[self.scheme]:
            known = " or ".join(map(str, _BITS[self.scheme]))
            raise ValueError(f"bits={self.bits} does not go with scheme={self.scheme}, which takes {known}")
        if self.ranges:
            Method.parse(self.ranges)

    @property
    def insists(self) -> bool:
        return self.scheme != "auto"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if ctx.fuel.empty:
            return PassResult(skipped="out of fuel")
        if ctx.target.provider != "CPUExecutionProvider":
            known = ctx.target.kernels is not None
            why = f"{ctx.target.provider} has no int8 kernels for products" if known else elsewhere(ctx)
            return PassResult(skipped=why)
        if self.scheme == "static" and ctx.calibration is None:
            raise PassError(
                "static int8 needs calibration data",
                where="pass quantize",
                hint="give --calibration, or use scheme=dynamic",
            )
        trial = Trial(model, ctx)
        ready = prepare(model, ctx, self._wishes(ctx))
        if not any(set(unit.forms) - {"table"} for unit in ready.parts.units):
            return PassResult(skipped=ready.nothing, notes=ready.notes, details=details(ready))
        obstacle = trial.obstacle()
        if obstacle:
            return PassResult(skipped=obstacle, details=details(ready))
        try:
            return self._search(model, ctx, trial, ready)
        except RuntimeFailure as failure:
            return PassResult(skipped=f"nothing could be tried: {failure}", details=details(ready))

    def _methods(self, ctx: Context) -> tuple[str, ...]:
        """Calibration methods to try, the first by default."""
        if self.ranges:
            return (self.ranges,)
        given = ctx.settings.calibration_method
        return (given,) if self.scheme != "auto" else tuple(dict.fromkeys((given, *_TRIED)))

    def _wishes(self, ctx: Context) -> Wishes:
        forms: dict[str, tuple[Form, ...]] = {
            "dynamic": ("dynamic",),
            "static": ("static",),
            "weights": ("weight8",) if self.bits == 8 else ("weight4", "weight8"),
            "auto": ("weight8", "weight4") if self.bits == 4 else ("dynamic", "static", "weight8", "weight4"),
        }
        chosen = forms[self.scheme]
        if self.scheme == "auto" and self.bits in (8, 7):
            chosen = tuple(form for form in chosen if form != "weight4")
        if self.scheme == "auto" and not self.measure:
            chosen = tuple(form for form in chosen if form not in ("weight8", "weight4")) or chosen
        return Wishes(
            (*chosen, "table") if self.embeddings else chosen,
            bits=None if self.bits == 4 else self.bits,
            block_size=self.block_size,
            per_channel=self.per_channel,
            symmetric=self.symmetric,
            activations=self.activations,
            ranges=[Method.parse(each) for each in self._methods(ctx)],
            embeddings=self.embeddings,
            keep=[each.strip() for each in self.keep.split("|") if each.strip()],
        )

    def _search(self, model: ir.Model, ctx: Context, trial: Trial, ready: Prepared) -> PassResult:
        parts = ready.parts
        bench, gains = Bench(trial, parts), Gains(trial, parts)
        key = ("quantize", bench.fingerprint, str(self), str(ctx.target), str(trial.budget))
        found: Found = ctx.decisions.once(key, lambda: self._find(bench, gains, ctx, ready))
        found.restore(gains)
        outcome = found.outcome
        if outcome.skipped:
            told = details(ready, outcome, gains, curve=found.curve)
            return PassResult(skipped=outcome.skipped, notes=(*ready.notes, *outcome.notes, *stays(ctx)), details=told)
        for form in {form for _, form in outcome.plan.forms} & {*BLOCK_FORMS}:
            raise_opset(model, ctx, parts.schemes.blocks(form))
        before = model.graph.opset_imports.get("", 0)
        done = parts.apply(model, outcome.plan, ctx.spend)
        after = model.graph.opset_imports.get("", 0)
        if after > before:
            ctx.note(f"opset raised from {before} to {after} for {parts.schemes.text('static')}")
        told = details(ready, outcome, gains, done, found.curve)
        if not done.changes:
            return PassResult(skipped="out of fuel", details=told)
        record(model, ctx.target, parts, outcome.plan, done)
        return PassResult(done.changes, notes=notes(ready, outcome, done), details=told)

    def _find(self, bench: Bench, gains: Gains, ctx: Context, ready: Prepared) -> Found:
        measure = self.measure and ctx.settings.measure and self.scheme == "auto"
        seconds = self.budget or ctx.settings.search_time or _SECONDS
        can_win = preflight(bench.parts.model, ctx.target)
        ctx.progress(f"quantize: {can_win}")
        rounded: Blocked = {}
        if "weight4" in ready.forms:
            rounded = round_by_data(ctx, gains, seconds, all_rows=not measure)
            bench.parts.blocks["weight4"] = dict(rounded)
        outcome = Search(bench, gains, ready.forms, self.islands, measure, seconds, ready.ranges).run()
        if any(form == "static" for _, form in outcome.plan.forms):
            outcome = replace(outcome, notes=(*outcome.notes, bench.read_back(outcome.plan)))
        outcome = replace(outcome, notes=(*outcome.notes, str(can_win)))
        improved = {index for index, _ in rounded} & {*bench.parts.layers(outcome.plan, "weight4")}
        if improved:
            outcome = replace(outcome, notes=(*outcome.notes, f"weights of {len(improved)} layers rounded by GPTQ"))
        divisors = {i: bench.parts.divisors[i] for i in outcome.plan.smooth}
        return Found(outcome, bench.curve.details(outcome.plan), gains.rows, gains.asked, divisors, rounded)


@dataclass(frozen=True)
class Found:
    """What a search found for one graph, without the graph: attempts of one compile share it."""

    outcome: Outcome
    curve: Sequence[Mapping[str, Any]]
    rows: dict[int, int]
    asked: list[Asked]
    divisors: dict[int, Floats]
    rounded: Blocked

    def restore(self, gains: Gains) -> None:
        """Let an attempt that did not search know what it would."""
        gains.parts.divisors.update(self.divisors)
        gains.parts.blocks.setdefault("weight4", {}).update(self.rounded)
        if gains.asked is not self.asked:
            gains.rows = self.rows
            gains.ask_again(self.asked)
