"""Weights in 4-bit blocks that are rounded by what their inputs hold, once for all plans of a search."""

from __future__ import annotations

import time

from accelc.context import Context

from .gains import FEW_ROWS, Gains
from .gptq_numbers import Grid, blocks_on, gptq
from .grams import grams
from .layers import Layer
from .plan import Parts, Unit
from .weights import Blocked
from .weights_numbers import looks_snapped

_MOST_K = 4096
"""Of longer sums the matrix of products of inputs takes too much memory."""


def round_by_data(ctx: Context, gains: Gains, seconds: float, *, all_rows: bool) -> Blocked:
    """Weights in the form weight4, rounded by GPTQ: those whose products take longest first, while time is left.

    all_rows: also of products with many rows, to which the form brings no speed. Empty without calibration data.
    Raises RuntimeFailure.
    """
    found: Blocked = {}
    if ctx.calibration is None or seconds <= 0:
        return found
    parts, end = gains.parts, time.monotonic() + seconds
    if any("weight4" in unit.forms for unit in parts.units):
        gains.find_rows()
    units = [unit for unit in parts.units if _is_suited(unit, parts) and (all_rows or _has_few_rows(unit, gains))]
    units.sort(key=lambda unit: (-gains.seconds(unit), unit.index))
    groups = [_layers(unit, parts) for unit in units]

    def tell(count: int) -> None:
        ctx.progress(f"quantize: inputs of {count} layers for rounding their weights")

    for layers, gram in grams(ctx.calibration, parts.model, groups, tell):
        weight, scheme = layers[0].matrix(), parts.schemes.weight4
        if gram is not None and not looks_snapped(weight, scheme.size_for(len(weight)), scheme):
            grid = Grid.of(weight, scheme)
            rounded = blocks_on(grid, gptq(weight, gram, grid), scheme)
            found.update((layer.form, rounded) for layer in layers)
        if time.monotonic() > end:
            break
    return found


def _layers(unit: Unit, parts: Parts) -> list[Layer]:
    return [parts.found.layers[i] for i in unit.layers]


def _is_suited(unit: Unit, parts: Parts) -> bool:
    """Whether all uses of a weight are the same product of values that can be observed."""
    layers = _layers(unit, parts)
    if "weight4" not in unit.forms or any(layer.is_gather or layer.k > _MOST_K for layer in layers):
        return False
    inside = all(layer.scope.graph is parts.model.graph for layer in layers)
    return inside and len({(layer.transposed, layer.alpha) for layer in layers}) == 1


def _has_few_rows(unit: Unit, gains: Gains) -> bool:
    shapes = gains.shapes(unit)
    return bool(shapes) and all(rows <= FEW_ROWS for rows, _, _ in shapes)
