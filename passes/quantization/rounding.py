"""Rounding weights up or down so that what a layer computes changes least."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .numbers import Floats
from .snap import Grid

_ROWS_AT_ONCE = 64
_SHRINKAGE = 0.3
"""How much correlations count less when there are far fewer rows than columns."""


def output_error(columns: Floats, gram: Floats) -> Floats:
    """The mean square of what each output channel computes, [N], from weights [K, N] and gram, [group, K, K].

    gram: the mean of xᵀ x over rows x that are multiplied by the weights. Linear, so of differences it is the error.
    """
    split = _split(columns, len(gram))
    squares: Floats = (split * np.matmul(gram, split)).sum(axis=1).reshape(-1)
    return np.maximum(squares, 0)


def round_for_output(columns: Floats, gram: Floats, grid: Grid, sweeps: int, rows: int = 0) -> Floats:
    """Weights [K, N] on the grid with the least output error that going through them one by one finds.

    Each weight becomes the integer below or above it, with steps for the whole range or, where that begins better, for
    a part of it. It is never worse than rounding to nearest over the whole range. gram: as above. sweeps: how often
    each weight is looked at, at most. rows: how many rows gram is the mean over, 0 for very many. After Nagel et al.
    2020, where a relaxation is optimized instead.
    """
    plain, clipped = grid.steps(grid.largest(columns)), grid.best_steps(columns, importance(gram, columns.shape[1]))
    nearest = grid.nearest(columns, plain)
    least = output_error(nearest - columns, gram)
    errors = output_error(grid.nearest(columns, clipped) - columns, gram)
    steps = np.where(better(errors, least, grid), clipped, plain)
    found = _descend(columns, _shrunk(gram, rows), grid.full(steps, len(columns)), grid.top, sweeps)
    return np.where(better(output_error(found - columns, gram), least, grid), found, nearest)


def better(errors: Floats, least: Floats, grid: Grid) -> NDArray[np.bool_]:
    """Which columns have less error, [N]; all or none, [1], where they share one step."""
    return errors < least if grid.per_channel else np.full(1, errors.sum() < least.sum())


def _shrunk(gram: Floats, rows: int) -> Floats:
    """What is known of other rows from few: correlations are smaller than they look."""
    count = gram.shape[1]
    share = np.float32(_SHRINKAGE * count / (count + rows) if rows else 0)
    shrunk = gram * (1 - share)
    shrunk[:, np.arange(count), np.arange(count)] += share * np.diagonal(gram, axis1=1, axis2=2)
    return shrunk


def importance(gram: Floats, count: int) -> Floats:
    """The mean squares of what weights [K, N] are multiplied by, [K, N]."""
    squares = np.maximum(np.diagonal(gram, axis1=1, axis2=2), 0).T
    return squares.repeat(count // len(gram), axis=1)


def _split(columns: Floats, groups: int) -> Floats:
    """[K, N] as [group, K, N / group]."""
    return columns.reshape(len(columns), groups, -1).transpose(1, 0, 2)


def _descend(columns: Floats, gram: Floats, steps: Floats, top: int, sweeps: int) -> Floats:
    """Coordinate descent from the nearest integers until nothing changes."""
    start = np.rint(columns / steps).clip(-top, top) * steps
    low = np.floor(columns / steps).clip(-top, top)
    below = _split(low * steps - columns, len(gram))
    above = _split((low + 1).clip(-top, top) * steps - columns, len(gram))
    difference = _split(start - columns, len(gram)).copy()
    slope = np.matmul(gram, difference)
    for _ in range(sweeps):
        changed = False
        for first in range(0, len(columns), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            moved = _descend_rows(
                difference[:, rows], slope[:, rows], gram[:, rows, rows], below[:, rows], above[:, rows]
            )
            if moved is not None:
                changed = True
                difference[:, rows] += moved
                slope += np.matmul(gram[:, :, rows], moved)
        if not changed:
            break
    found: Floats = difference.transpose(1, 0, 2).reshape(columns.shape) + columns
    snapped: Floats = np.rint(found / steps) * steps
    return snapped


def _descend_rows(difference: Floats, slope: Floats, gram: Floats, below: Floats, above: Floats) -> Floats | None:
    """How some rows of differences change when each in turn takes the better of its two values; None: not at all."""
    slope, moved, changed = slope.copy(), np.zeros_like(difference), False
    curvature = np.diagonal(gram, axis1=1, axis2=2)[:, :, None]
    inverse = np.where(curvature > 0, 1 / np.where(curvature > 0, curvature, 1), 0).astype(np.float32)
    middle = (below + above) / 2
    for row in range(difference.shape[1]):
        wanted = difference[:, row] - slope[:, row] * inverse[:, row]
        move = np.where(wanted > middle[:, row], above[:, row], below[:, row]) - difference[:, row]
        if move.any():
            changed = True
            moved[:, row] = move
            slope[:, row + 1 :] += gram[:, row + 1 :, row, None] * move[:, None, :]
    return moved if changed else None
