"""Moving the scale of channels from activations into weights: by how much, and what it is worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHARES = (0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
_CAUTIOUS_ALPHA = 0.7
_OUTLIER = 3.0
"""How many times the median of its columns a column must reach to be worth it where little is known."""
_MOST = 1e4
_LEVELS = 255


def divisors(activations: Floats, weights: Floats, alpha: float) -> Floats:
    """What columns of an activation are divided by, [K], and rows of the weights that it meets are multiplied by.

    activations, weights: largest magnitudes, [K]. alpha: how much of the difficulty goes to the weights, 0 to 1. Their
    geometric mean is 1; columns without values or weights get 1. After Xiao et al. 2023.
    """
    alive = (activations > 0) & (weights > 0)
    logs = alpha * np.log(np.where(alive, activations, 1)) - (1 - alpha) * np.log(np.where(alive, weights, 1))
    middle = logs[alive].mean() if alive.any() else 0.0
    limit = np.log(_MOST)
    scaled: Floats = np.exp(np.where(alive, (logs - middle).clip(-limit, limit), 0)).astype(np.float32)
    return scaled


def capped(activations: Floats, share: float) -> Floats | None:
    """Divisors [K] that bring columns above a share of the largest magnitude down to it, and leave the others alone.

    It disturbs the weights less where outliers are few. None where no column is below the share.
    """
    limit = np.float32(share) * activations.max()
    return np.maximum(activations / limit, 1).astype(np.float32) if limit > 0 and activations.min() < limit else None


def cautious(activations: Floats) -> Floats | None:
    """Divisors [K] from largest magnitudes [K] of a few inputs; None without outliers.

    No divisor is below 1, so a column that is quiet here cannot become an outlier elsewhere.
    """
    middle = float(np.median(activations))
    if not 0 < middle < np.inf or not np.isfinite(activations).all():
        return None
    found = np.maximum(activations / np.float32(middle), 1).astype(np.float32) ** np.float32(_CAUTIOUS_ALPHA)
    return found if found.max() > _OUTLIER**_CAUTIOUS_ALPHA else None


class Product:
    """rows @ weights, [R, K] by [K, N], as it is when both are quantized after columns were divided.

    low, high: the range of each column, [K]; the activation has one scale for all of them, over the whole range. top:
    the largest integer of a weight. per_channel: a scale for each column of the weights.
    """

    def __init__(
        self, rows: Floats, weights: Floats, low: Floats, high: Floats, *, top: int, per_channel: bool = True
    ) -> None:
        self.rows, self.weights, self.low, self.high = rows, weights, low, high
        self.top, self.axis = top, 0 if per_channel else None
        self.wanted = rows @ weights
        self.sizes = np.linalg.norm(self.wanted, axis=1)

    def error(self, divided: Floats | None) -> float:
        """The relative error of a row, root mean square over rows; rows count alike, for a norm may follow."""
        by = np.ones(len(self.weights), np.float32) if divided is None else divided
        low, high = min(float((self.low / by).min()), 0.0), max(float((self.high / by).max()), 0.0)
        scale = np.float32((high - low) / _LEVELS) or np.float32(1)
        zero = np.rint(-low / scale)
        rows = (np.rint(self.rows / by / scale).clip(-zero, _LEVELS - zero) * scale).astype(np.float32)
        scaled = self.weights * by[:, None]
        steps = np.maximum(np.abs(scaled).max(axis=self.axis) / self.top, np.finfo(np.float32).tiny)
        weights = (np.rint(scaled / steps) * steps).astype(np.float32)
        some = self.sizes > 0
        errors = np.linalg.norm(rows @ weights - self.wanted, axis=1)[some] / self.sizes[some]
        return float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0

    def best(self, choices: Sequence[Floats]) -> tuple[float, int]:
        """The least error of some divisors, and their position."""
        return min((self.error(choice), index) for index, choice in enumerate(choices))
