"""xᵀ x of the inputs of layers, observed for as many layers at a time as memory should hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc import ir
from accelc.calibration import Calibration, Observe

from .layers import Layer

_BYTES, _ITEM = 256_000_000, 8
"""Of the matrices that are held at a time, and of one of their elements."""

Gram = NDArray[np.floating[Any]]


def grams(
    calibration: Calibration,
    model: ir.Model,
    units: Iterable[Sequence[Layer]],
    tell: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[Sequence[Layer], Gram | None]]:
    """Layers that share a weight, with the sum of xᵀ x [K, K] over their inputs; None where one cannot be observed.

    Each group is observed when its first unit is asked for, so behind what was changed meanwhile. tell: is told how
    many units are observed next. Raises RuntimeFailure and UsageError.
    """
    for group in _groups(units):
        tell(len(group))
        names = {str(layer.a.name): Observe(gram=True) for unit in group for layer in unit}
        seen = calibration.statistics(model, names)
        for unit in group:
            found = [each.gram for layer in unit if (each := seen.get(str(layer.a.name))) is not None]
            known = [gram for gram in found if gram is not None]
            yield unit, sum(known[1:], known[0]) if len(known) == len(unit) else None


def _groups(units: Iterable[Sequence[Layer]]) -> Iterator[list[Sequence[Layer]]]:
    group: list[Sequence[Layer]] = []
    inputs: dict[ir.Value, int] = {}
    for unit in units:
        new = {layer.a: _ITEM * layer.k**2 for layer in unit}
        if group and sum((inputs | new).values()) > _BYTES:
            yield group
            group, inputs = [], {}
        group.append(unit)
        inputs |= new
    if group:
        yield group
