"""From what was seen at a tensor to the range that its integers are to cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from accelc.calibration.statistics import Statistics

METHODS = ("minmax", "average", "percentile", "entropy", "mse")


@dataclass(frozen=True)
class Method:
    """How a range is found.

    minmax: the extremes. average: the means over feed sets of their extremes. percentile: what leaves out
    100 - percentile % of the elements. entropy: the threshold whose quantized distribution is nearest by
    Kullback-Leibler divergence (Migacz 2017). mse: the clipping with the least squared error. symmetric: about zero.
    """

    name: Literal["minmax", "average", "percentile", "entropy", "mse"] = "minmax"
    percentile: float = 99.999
    symmetric: bool = False

    @property
    def needs_histogram(self) -> bool:
        return self.name in ("percentile", "entropy", "mse")


def find_range(seen: Statistics, method: Method) -> tuple[float, float]:
    """(low, high) of a tensor. Raises ValueError when the method needs a histogram and none was kept."""
    low, high = (seen.low, seen.high) if method.name == "minmax" else (seen.average_low, seen.average_high)
    return low, high
