"""Rounding a weight row by row, where the rows that are left make up for the errors so far (Frantar et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numbers import Floats
from .weights_numbers import BlockScheme, BlockWeight, block_scales, in_blocks

_PANEL = 64
"""Rows whose errors are passed on among each other at once, and to all others by one product."""
_TRIES = 6
_SMALL = 64


@dataclass(frozen=True)
class Grid:
    """scales, zeros: [B, N], for each `size` rows of a weight [K, N]; levels: from least to most."""

    scales: Floats
    zeros: Floats
    size: int
    least: int
    most: int

    @classmethod
    def of(cls, weight: Floats, scheme: BlockScheme) -> Grid:
        """The grid on which `quantize_blocks` would round a weight [K, N]."""
        size = scheme.size_for(len(weight))
        scales, zeros = block_scales(in_blocks(weight, size), scheme)
        least = 1 if scheme.bits == 8 and scheme.symmetric else 0
        return cls(scales.T, zeros.T, size, least, scheme.levels - 1)

    def nearest(self, rows: Floats, index: NDArray[np.int64] | int) -> Floats:
        """Rows [..., N] of the weight, by position along K, on the grid."""
        block = index // self.size
        scales, zeros = self.scales[block], self.zeros[block]
        levels = (np.rint(rows / scales) + zeros).clip(self.least, self.most)
        rounded: Floats = (levels - zeros) * scales
        return rounded


def gptq(
    weight: Floats, gram: NDArray[np.floating[Any]], grid: Grid, *, damping: float = 0.01, order: bool = True
) -> Floats:
    """A weight [K, N] on a grid, such that the squared error of x @ weight over the rows x of the data is small.

    gram: the sum of xᵀ x, [K, K]. damping: share of its mean diagonal that is added. order: rows with the largest
    inputs first. No column is worse than rounded to nearest: where one would be, it is that.
    """
    k = len(weight)
    plain = grid.nearest(weight, np.arange(k))
    factor, places = _factor(gram, damping, order)
    if factor is None:
        return plain
    left = weight[places].astype(np.float32)
    rounded = np.empty_like(left)
    for start in range(0, k, _PANEL):
        end = min(start + _PANEL, k)
        errors = np.empty((end - start, left.shape[1]), np.float32)
        for row in range(start, end):
            rounded[row] = grid.nearest(left[row], int(places[row]))
            error = (left[row] - rounded[row]) / factor[row, row]
            left[row + 1 : end] -= np.outer(factor[row, row + 1 : end], error)
            errors[row - start] = error
        left[end:] -= factor[start:end, end:].T @ errors
    found = np.empty_like(rounded)
    found[places] = rounded
    better = column_errors(found - weight, gram) < column_errors(plain - weight, gram)
    return np.where(better, found, plain)


def blocks_on(grid: Grid, rounded: Floats, scheme: BlockScheme) -> BlockWeight:
    """A weight [K, N] that lies on a grid, as its integers."""
    k, n = rounded.shape
    count = len(grid.scales)
    levels = np.repeat(grid.zeros, grid.size, axis=0)
    levels[:k] += np.rint(rounded / np.repeat(grid.scales, grid.size, axis=0)[:k])
    values = np.ascontiguousarray(levels.T.astype(np.uint8)).reshape(n, count, grid.size)
    zeros = None if scheme.symmetric else np.ascontiguousarray(grid.zeros.T.astype(np.uint8))
    return BlockWeight(values, np.ascontiguousarray(grid.scales.T), zeros, scheme.bits, k)


def column_errors(difference: Floats, gram: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The squared error of each column of x @ weight over the data, for a difference [K, N] of weights."""
    errors: NDArray[np.floating[Any]] = (difference * (gram.astype(np.float32) @ difference)).sum(axis=0).clip(0)
    return errors


def _factor(gram: NDArray[np.floating[Any]], damping: float, order: bool) -> tuple[Floats | None, NDArray[np.int64]]:
    """(the upper Cholesky factor of the inverse of the gram matrix, [K, K]; the order of its rows).

    None where the matrix is not positive definite even with much damping. Inputs that are always zero stand alone.
    """
    matrix = np.array(gram, np.float64)
    diagonal = np.diag(matrix)
    places = np.argsort(-diagonal, kind="stable") if order else np.arange(len(matrix))
    mean = float(diagonal.mean())
    if not 0 < mean < np.inf:
        return None, places
    matrix = matrix[np.ix_(places, places)]
    unseen = np.flatnonzero(np.diag(matrix) <= 0)
    matrix[unseen, unseen] = mean
    every = np.arange(len(matrix))
    for attempt in range(_TRIES):
        damped = matrix.copy()
        damped[every, every] += mean * max(damping, 1e-6) * 10**attempt
        try:
            # from the last row to the first, so that the factor of the inverse is the inverse of the factor
            upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            continue
        return _inverse(upper).astype(np.float32), places
    return None, places


def _inverse(upper: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The inverse of an upper triangular matrix, by its quarters."""
    size = len(upper)
    if size <= _SMALL:
        return np.triu(np.linalg.inv(upper))
    half = size // 2
    result = np.zeros_like(upper)
    first, last = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    result[:half, :half], result[half:, half:] = first, last
    result[:half, half:] = -first @ (upper[:half, half:] @ last)
    return result
