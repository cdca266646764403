"""Move the scale of outlying channels from activations into weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.calibration import Observe
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

from .quantization.linear import Linear, find_linear
from .quantization.migrate_into import Migration
from .quantization.migration import ALPHAS, SHARES, Product, capped, cautious, divisors
from .quantization.numbers import Floats
from .quantization.quality import elsewhere
from .quantization.trial import Trial

_ROWS = 192
_MOST_COLUMNS = 1024
"""Columns of weights on which a choice is judged."""
_FREE_GAIN, _PAID_GAIN = 0.95, 0.8
"""What the error must fall to, for a change of constants and for one more operator."""
_PROBED_AT_ONCE = 16
_LARGEST = 1e18
"""Beyond it squares overflow."""


@dataclass(frozen=True)
class _Seen:
    """Rows [R, K] of an activation, and the range of each of its columns, [K]. few: of some generated inputs only."""

    rows: Floats
    low: Floats
    high: Floats
    few: bool


@dataclass(frozen=True)
class Smooth(Pass):
    """Move the scale of outlying channels from activations into weights.

    Columns of what MatMul and Gemm multiply are divided by max|a| ** alpha / max|w| ** (1 - alpha), and the rows of the
    weights that they meet are multiplied by it, so that one scale suits all columns. The division goes into the
    constants of the operators before (norms, products, projections before attention) or becomes a Mul. Without
    calibration data only clear outliers are made smaller.

    alpha: how much goes into the weights, 0 to 1, or auto: searched for each activation by the error of its products
    in int8, among these and divisors for the largest columns alone. insert: whether a Mul may be written. per_channel:
    how `quantize` is going to round weights. Activations whose products would not gain stay as they are. After Xiao et
    al. 2023.
    """

    name = "smooth"
    exact = False

    alpha: float | str = "auto"
    insert: bool = True
    per_channel: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.alpha, str):
            if self.alpha != "auto":
                raise ValueError(f"alpha={self.alpha} must be auto or a number from 0 to 1")
        elif not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha:g} must be auto or a number from 0 to 1")

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        if elsewhere(ctx):
            return PassResult(skipped=elsewhere(ctx))
        linears, refused = find_linear(model)
        products = [each for each in linears if not each.is_conv and each.a.name]
        groups: dict[ir.Value, list[Linear]] = {}
        for each in products:
            groups.setdefault(each.a, []).append(each)
        details: dict[str, Any] = {"refused": refused}
        if not groups:
            return PassResult(skipped="no MatMul or Gemm with constant float weights", details=details)
        ctx.progress("smooth: reading the inputs of products")
        seen = _calibrated(model, ctx, groups) if ctx.calibration is not None else _sampled(model, ctx, list(groups))
        migration = Migration(products[0].scope, products[0].names, {each.out: each for each in linears})
        done: list[dict[str, Any]] = []
        for value, group in groups.items():
            if value not in seen:
                refused[group[0].path] = "nothing finite of a usual size was seen of its input"
                continue
            entry = self._smooth(value, group, seen[value], migration, ctx)
            if entry is None:
                break
            if isinstance(entry, str):
                refused[group[0].path] = entry
            else:
                done.append(entry)
        details["groups"] = done
        if not done:
            return PassResult(skipped="out of fuel" if ctx.fuel.empty else "no products would gain", details=details)
        written = sum(entry["inserted"] for entry in done)
        also = f", {written} of them by a Mul" if written else ""
        where = "" if ctx.calibration is not None else "; without calibration data only clear outliers count"
        return PassResult(
            len(done), notes=(f"{len(done)} of {len(groups)} activations divided{also}{where}",), details=details
        )

    def _smooth(
        self, value: ir.Value, group: Sequence[Linear], seen: _Seen, migration: Migration, ctx: Context
    ) -> dict[str, Any] | str | None:
        """Divide one activation: what was done, or why not; None where the fuel is spent."""
        weights = np.concatenate([each.columns() for each in group], axis=1)
        choices = self._choices(seen, weights)
        if not choices:
            return "it has no outliers"
        step = -(-weights.shape[1] // _MOST_COLUMNS)
        top = 127 if ctx.target.int8_dot_exact else 63
        judged = Product(
            seen.rows,
            np.ascontiguousarray(weights[:, ::step]),
            seen.low,
            seen.high,
            top=top,
            per_channel=self.per_channel,
        )
        before = judged.error(None)
        after, index = judged.best([choice for _, choice in choices])
        name, chosen = choices[index]
        change = migration.into(value, len(weights), {each.node for each in group})
        if change is None and not self.insert:
            return "its divisors go into no constants and insert is off"
        if not after < (_PAID_GAIN if change is None else _FREE_GAIN) * before:
            return f"its products would not gain enough: error {after:.4f}, {before:.4f} before"
        if not ctx.spend(self.name, group[0].path):
            return None
        if change is not None:
            change(chosen)
        else:
            _insert(value, group, chosen)
        for each in group:
            each.scale_inputs(chosen)
        return {
            "nodes": [each.path for each in group],
            "by": name,
            "inserted": change is None,
            "divisors": [round(float(chosen.min()), 4), round(float(chosen.max()), 4)],
            "before": round(before, 6),
            "after": round(after, 6),
        }

    def _choices(self, seen: _Seen, weights: Floats) -> list[tuple[str, Floats]]:
        """Divisors to choose among, with how they were made."""
        largest = np.maximum(np.abs(seen.low), np.abs(seen.high))
        if seen.few:
            found = cautious(largest)
            return [] if found is None else [("outliers", found)]
        by_row = np.abs(weights).max(axis=1)
        if not isinstance(self.alpha, str):
            return [(f"alpha {self.alpha:g}", divisors(largest, by_row, self.alpha))]
        choices = [(f"alpha {alpha:g}", divisors(largest, by_row, alpha)) for alpha in ALPHAS]
        caps = [(f"cap {share:g}", capped(largest, share)) for share in SHARES]
        return choices + [(name, found) for name, found in caps if found is not None]


def _calibrated(model: ir.Model, ctx: Context, groups: Mapping[ir.Value, Sequence[Linear]]) -> dict[ir.Value, _Seen]:
    assert ctx.calibration is not None
    statistics = ctx.calibration.statistics(
        model, {str(value.name): Observe(channels=-1, rows=_ROWS) for value in groups}
    )
    found = {}
    for value in groups:
        seen = statistics.get(str(value.name))
        if seen is None or seen.rows is None or seen.channel_low is None or seen.channel_high is None:
            continue
        low, high, rows = (each.astype(np.float32) for each in (seen.channel_low, seen.channel_high, seen.rows))
        if max(np.abs(low).max(), np.abs(high).max()) < _LARGEST:
            found[value] = _Seen(rows, low, high, few=False)
    return found


def _sampled(model: ir.Model, ctx: Context, values: Sequence[ir.Value]) -> dict[ir.Value, _Seen]:
    """What values hold on the first verification input."""
    trial = Trial(model, ctx)
    if trial.obstacle():
        return {}
    found = {}
    for start in range(0, len(values), _PROBED_AT_ONCE):
        part = values[start : start + _PROBED_AT_ONCE]
        for place, a in trial.probe(part, trial.feeds[0], shapes=False).items():
            rows = a.reshape(-1, a.shape[-1]).astype(np.float32)
            if rows.size and np.abs(rows).max() < _LARGEST:
                kept = rows[:: max(1, len(rows) // _ROWS)]
                found[part[place]] = _Seen(kept, rows.min(axis=0), rows.max(axis=0), few=True)
    return found


def _insert(value: ir.Value, group: Sequence[Linear], divided: Floats) -> None:
    """Write a Mul before the products."""
    first = group[0]
    factors = ir.array_tensor(np.float32(1) / divided)
    constant = ir.new_constant(first.scope, first.names, f"{first.name}_smooth", factors, before=first.node)
    node = ir.new_node("Mul", [value, constant], name=first.names.fresh(f"{first.name}_smooth_mul"))
    made = node.outputs[0]
    made.name, made.type, made.shape = first.names.fresh(f"{node.name}_out"), value.type, value.shape
    first.scope.graph.insert_before(first.node, node)
    for each in group:
        each.node.replace_input_with(0, made)
