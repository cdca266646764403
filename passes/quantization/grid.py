"""Recognizing weights that are integers times a scale already, so that storing them in integers loses nothing."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_TOLERANCE = 1e-3
"""How far from an integer a weight may be, in steps: rounding to float32 stays far below, chance far above."""
_FIRST_ROWS = 4
_MORE_ROWS = 40
_AT_ONCE = 64
_LEAST_ROWS = 3
"""With fewer weights in a column chance decides, and a grid saves nothing."""


def on_grid(columns: Floats, top: int, lowest: int | None = None) -> Floats:
    """The coarsest scales [N] with which columns [K, N] are scale * integer, lowest <= integer <= top; nan where none.

    lowest: -top unless given. A column of zeros lies on every grid and gets 1.
    """
    lowest = -top if lowest is None else lowest
    rows, count = columns.shape
    scales = np.full(count, np.nan, np.float32)
    if not columns.size:
        return scales
    high, low = columns.max(axis=0), columns.min(axis=0)
    scales[(high == 0) & (low == 0)] = 1
    negative = -low > high
    largest = np.maximum(high, -low)
    usable = np.flatnonzero((largest > np.finfo(np.float32).tiny) & np.isfinite(largest) & (rows >= _LEAST_ROWS))
    if not usable.size:
        return scales
    steps = np.arange(1, max(top, -lowest) + 1, dtype=np.float32)
    columns_of, steps_of = np.meshgrid(usable, steps, indexing="ij")
    fits = np.where(negative[columns_of], steps_of <= -lowest, steps_of <= top)
    pairs, chosen = columns_of[fits], steps_of[fits]
    order = _spread(rows)
    for part in (order[:_FIRST_ROWS], order[_FIRST_ROWS:_MORE_ROWS]):
        kept = _whole(columns, part, pairs, chosen, largest)
        pairs, chosen = pairs[kept], chosen[kept]
    return _coarsest(columns, order[_MORE_ROWS:], pairs, chosen, largest, scales)


def _spread(rows: int) -> NDArray[np.int64]:
    """All rows, neighbours in this order far from each other."""
    stride = next(each for each in range(int(rows * 0.618) | 1, 2 * rows + 2, 2) if gcd(each, rows) == 1)
    return np.arange(rows, dtype=np.int64) * stride % rows


def _whole(
    columns: Floats, rows: NDArray[np.int64], pairs: NDArray[Any], steps: Floats, largest: Floats
) -> NDArray[np.bool_]:
    """Which (column, number of steps) have integers in all of some rows."""
    live = np.arange(pairs.size)
    for start in range(0, rows.size, _AT_ONCE):
        if not live.size:
            break
        names, where = np.unique(pairs[live], return_inverse=True)
        part = rows[start : start + _AT_ONCE]
        relative = columns[np.ix_(part, names)] / largest[names]
        for row in relative:
            scaled = row[where] * steps[live]
            whole = np.abs(scaled - np.rint(scaled)) <= _TOLERANCE
            if not whole.all():
                live, where = live[whole], where[whole]
    kept = np.zeros(pairs.size, bool)
    kept[live] = True
    return kept


def _coarsest(
    columns: Floats, rows: NDArray[np.int64], pairs: NDArray[Any], steps: Floats, largest: Floats, scales: Floats
) -> Floats:
    """Check the remaining rows for each column's candidates, fewest steps first."""
    while pairs.size:
        names, first = np.unique(pairs, return_index=True)  # pairs are in order of columns, then of steps
        kept = _whole(columns, rows, names, steps[first], largest)
        found = names[kept]
        scales[found] = largest[found] / steps[first][kept]
        left = np.ones(pairs.size, bool)
        left[first] = False
        left &= ~np.isin(pairs, found)
        pairs, steps = pairs[left], steps[left]
    return scales
