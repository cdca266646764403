"""From what was seen at a tensor to the range that its integers are to cover."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from accelc.calibration.histogram import Histogram, exponent_for
from accelc.calibration.statistics import Statistics
from accelc.errors import UsageError

Name = Literal["minmax", "average", "percentile", "entropy", "mse"]
METHODS: tuple[Name, ...] = get_args(Name)
_BINS = {"percentile": 2048, "entropy": 128}
_LEVELS = 128
"""Bins that entropy quantizes to."""
_LEAST_SHARE, _SHARES, _FINER_SHARES = 0.1, 31, 13
_COARSER = 2
"""The error needs no finer bins than a quarter of ours."""
_SYMMETRIC = "+symmetric"

Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Method:
    """How a range is found.

    minmax: the extremes. average: the means over feed sets of their extremes. percentile: what leaves out
    100 - percentile % of the elements. entropy: the threshold whose quantized distribution is nearest by
    Kullback-Leibler divergence (Migacz 2017). mse: the clipping with the least squared error in 8 bits.
    symmetric: about zero.

    bins: of percentile and entropy over (-T, T), T the largest magnitude; 0: as many as ONNX Runtime's calibrators
    take, whose definitions these are: 2048 and 128. With 128 entropy has one threshold to choose from, the extremes.
    """

    name: Name = "minmax"
    percentile: float = 99.999
    symmetric: bool = False
    bins: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UsageError(f"there is no calibration method {self.name!r}", hint=f"they are {', '.join(METHODS)}")
        if not 0 < self.percentile <= 100:
            raise UsageError(f"percentile {self.percentile:g} is out of range", hint="it is above 0 and at most 100")
        if self.bins and (self.bins < _LEVELS or self.bins % 2 or self.bins > 1 << 15):
            raise UsageError(f"{self.bins} bins are out of range", hint=f"give an even number from {_LEVELS} to 32768")

    @property
    def needs_histogram(self) -> bool:
        return self.name in ("percentile", "entropy", "mse")

    @classmethod
    def parse(cls, text: str) -> Method:
        """A method from text: minmax, average, percentile=99.99, entropy, entropy=2048 (bins), mse, mse+symmetric.

        Raises UsageError.
        """
        head, symmetric = text.strip().removesuffix(_SYMMETRIC), text.strip().endswith(_SYMMETRIC)
        name, equals, value = head.replace(":", "=").partition("=")
        kind = next((each for each in METHODS if each == name), None)
        if kind is None:
            raise UsageError(f"there is no calibration method {name!r}", hint=f"they are {', '.join(METHODS)}")
        if not equals:
            return cls(kind, symmetric=symmetric)
        try:
            if kind == "percentile":
                return cls(kind, percentile=float(value.removesuffix("%")), symmetric=symmetric)
            if kind == "entropy":
                return cls(kind, bins=int(value), symmetric=symmetric)
        except ValueError:
            raise UsageError(f"{value!r} is not a number", where=f"calibration method {text}") from None
        raise UsageError(f"{kind} takes no number", where=f"calibration method {text}")

    def __str__(self) -> str:
        """As `parse` takes it; the bins of percentile are not told."""
        value = {"percentile": f"={self.percentile:.15g}", "entropy": f"={self.bins}" if self.bins else ""}
        return f"{self.name}{value.get(self.name, '')}{_SYMMETRIC if self.symmetric else ''}"


def find_range(seen: Statistics, method: Method) -> tuple[float, float]:
    """(low, high) of a tensor. Raises ValueError when the method needs a histogram and none was kept."""
    if method.name == "minmax":
        low, high = seen.low, seen.high
    elif method.name == "average":
        low, high = seen.average_low, seen.average_high
    elif seen.histogram is None:
        raise ValueError(f"{method.name} needs a histogram, and none was kept")
    elif seen.low == seen.high:
        low, high = seen.low, seen.high
    elif method.name == "percentile":
        low, high = _percentile(seen, seen.histogram, method)
    elif method.name == "entropy":
        low, high = _entropy(seen, seen.histogram, method.bins or _BINS["entropy"])
    else:
        return _least_error(seen, seen.histogram, method.symmetric)
    if not method.symmetric:
        return low, high
    reach = max(abs(low), abs(high))
    return -reach, reach


def _spread(seen: Statistics, histogram: Histogram, bins: int) -> tuple[Counts, Doubles]:
    """Counts and edges of so many equal bins over (-T, T), T the largest magnitude seen."""
    reach = max(abs(seen.low), abs(seen.high))
    edges = np.linspace(-reach, reach, bins + 1)
    return histogram.rebinned(edges, seen.low, seen.high), edges


def _percentile(seen: Statistics, histogram: Histogram, method: Method) -> tuple[float, float]:
    bins = method.bins or _BINS["percentile"]
    if method.symmetric:
        counts, edges = _spread(seen, histogram, 2 * bins)
        share = np.cumsum((counts[bins:] + counts[:bins][::-1]) / counts.sum())
        reach = float(edges[bins:][np.searchsorted(share, method.percentile / 100)])
        return -reach, reach
    counts, edges = _spread(seen, histogram, bins)
    share = np.cumsum(counts / counts.sum())
    tail = (100.0 - method.percentile) / 200.0
    low, high = edges[np.searchsorted(share, tail)], edges[np.searchsorted(share, 1.0 - tail)]
    return max(float(low), seen.low), min(float(high), seen.high)


def _entropy(seen: Statistics, histogram: Histogram, bins: int) -> tuple[float, float]:
    """The threshold of 64 to bins / 2 bins on either side of zero that loses least."""
    counts, edges = _spread(seen, histogram, bins)
    below = np.concatenate([[0], np.cumsum(counts)])
    half = bins // 2
    reaches = range(_LEVELS // 2, half + 1)
    losses = [_loss(counts, below, half - reach, min(half + reach + 1, bins)) for reach in reaches]
    reach = reaches[int(np.argmin(losses))]
    low, high = edges[half - reach], edges[min(half + reach + 1, bins)]
    return max(float(low), seen.low), min(float(high), seen.high)


def _loss(counts: Counts, below: Counts, start: int, end: int) -> float:
    """Kullback-Leibler divergence of counts[start:end] in _LEVELS bins from the same with all outliers at the ends."""
    inside = counts[start:end]
    clipped = inside.copy()
    clipped[0] += below[start]
    clipped[-1] += below[-1] - below[end]
    width = inside.size // _LEVELS
    whole = width * _LEVELS
    merged = inside[:whole].reshape(_LEVELS, width).sum(axis=1)
    merged[-1] += inside[whole:].sum()
    filled = (clipped[:whole] != 0).reshape(_LEVELS, width).sum(axis=1)
    quantized = np.zeros(inside.size, np.int64)
    quantized[:whole] = np.repeat(merged // np.maximum(filled, 1) * (filled != 0), width)
    p, q = _smoothed(clipped), _smoothed(quantized)
    if p is None or q is None:
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: Counts, least: float = 1e-4) -> NDArray[np.float32] | None:
    """Counts without zeros: what they get is taken from the others. None where all are zero."""
    zeros = counts == 0
    empty = int(zeros.sum())
    if empty == counts.size:
        return None
    values = counts.astype(np.float32)
    values += np.where(zeros, np.float32(least), np.float32(-least * empty / (counts.size - empty)))
    return values


def _least_error(seen: Statistics, histogram: Histogram, symmetric: bool) -> tuple[float, float]:
    """The clipping of both ends, then of either end alone, with the least squared error of 256 (255) levels."""
    histogram = histogram.coarser(exponent_for(seen.low, seen.high) + _COARSER)
    used = np.flatnonzero(histogram.counts)
    edges = np.clip(histogram.edges, seen.low, seen.high)
    centers = (edges[used] + edges[used + 1]) / 2
    weights = histogram.counts[used].astype(np.float64)
    steps = 254 if symmetric else 255

    def error(low: float, high: float) -> float:
        step = (high - low) / steps
        if step <= 0:
            return float("inf")
        # Zero is exact, as in every quantized tensor.
        first = np.rint(low / step)
        levels = np.clip(np.rint(centers / step), first, first + steps)
        return float(weights @ np.square(centers - levels * step))

    if symmetric:
        reach = max(abs(seen.low), abs(seen.high))
        reach *= _best(lambda share: error(-share * reach, share * reach))
        return -reach, reach
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    both = _best(lambda share: error(share * low, share * high))
    left = _best(lambda share: error(share * low, both * high))
    right = _best(lambda share: error(left * low, share * high))
    return max(left * low, seen.low), min(right * high, seen.high)


def _best(error: Callable[[float], float]) -> float:
    """The share with the least error: on a grid, then on a finer one around the best of it; the larger of equals."""
    grid = np.linspace(1.0, _LEAST_SHARE, _SHARES)
    best = float(min(grid, key=error))
    near = np.linspace(best + grid[0] - grid[1], best - grid[0] + grid[1], _FINER_SHARES)
    return float(min([best, *(share for share in near if share <= 1.0)], key=error))
