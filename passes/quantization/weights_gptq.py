"""Weights in 4-bit blocks that are rounded by what their inputs hold, once for all plans of a search."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from accelc.calibration import Observe
from accelc.context import Context

from .gains import FEW_ROWS, Gains
from .gptq_numbers import Grid, blocks_on, gptq
from .layers import Layer
from .plan import Parts, Unit
from .weights import Blocked
from .weights_numbers import looks_snapped

_MOST_K = 4096
"""Of longer sums the matrix of products of inputs takes too much memory."""
_GRAM_BYTES = 256_000_000
"""Of the matrices that are held at a time."""
_GRAM_ITEM = 8


def round_by_data(ctx: Context, gains: Gains, seconds: float, *, all_rows: bool) -> Blocked:
    """Weights in the form weight4, rounded by GPTQ: those whose products take longest first, while time is left.

    all_rows: also of products with many rows, to which the form brings no speed. Empty without calibration data.
    Raises RuntimeFailure.
    """
    found: Blocked = {}
    if ctx.calibration is None:
        return found
    parts, end = gains.parts, time.monotonic() + seconds
    if any("weight4" in unit.forms for unit in parts.units):
        gains.find_rows()
    units = [unit for unit in parts.units if _is_suited(unit, parts) and (all_rows or _has_few_rows(unit, gains))]
    units.sort(key=lambda unit: (-gains.seconds(unit), unit.index))
    for group in _groups(units, parts):
        if time.monotonic() > end:
            break
        ctx.progress(f"quantize: inputs of {len(group)} layers for rounding their weights")
        names = {str(layer.a.name): Observe(gram=True) for unit in group for layer in _layers(unit, parts)}
        seen = ctx.calibration.statistics(parts.model, names)
        for unit in group:
            layers = _layers(unit, parts)
            observed = [seen.get(str(layer.a.name)) for layer in layers]
            grams = [each.gram for each in observed if each is not None and each.gram is not None]
            if len(grams) < len(layers) or time.monotonic() > end:
                continue
            weight, scheme = layers[0].matrix(), parts.schemes.weight4
            if looks_snapped(weight, scheme.size_for(len(weight)), scheme):
                continue
            grid = Grid.of(weight, scheme)
            rounded = blocks_on(grid, gptq(weight, sum(grams[1:], grams[0]), grid), scheme)
            found.update((layer.form, rounded) for layer in layers)
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


def _groups(units: Sequence[Unit], parts: Parts) -> Iterator[list[Unit]]:
    """Units whose inputs are observed together."""
    group: list[Unit] = []
    inputs: dict[str, int] = {}
    for unit in units:
        new = {str(layer.a.name): _GRAM_ITEM * layer.k**2 for layer in _layers(unit, parts)}
        if group and sum((inputs | new).values()) > _GRAM_BYTES:
            yield group
            group, inputs = [], {}
        group.append(unit)
        inputs |= new
    if group:
        yield group
