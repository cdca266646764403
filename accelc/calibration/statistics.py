"""What was seen at a tensor while a model ran on calibration data, and what to look for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from accelc.calibration.histogram import Histogram
    from accelc.calibration.ranges import Method

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Observe:
    """What to learn of one tensor besides its lowest and highest element, which are always kept.

    histogram: the distribution, for percentile, entropy and mse. channels: the axis along which the lowest, the highest
    and the mean of each channel are kept, or None. rows: how many rows (the last axis, spread over all samples) are
    kept as they are. gram: the sum of xᵀ x over all rows, [K, K].
    """

    histogram: bool = False
    channels: int | None = None
    rows: int = 0
    gram: bool = False

    def __or__(self, other: Observe) -> Observe:
        """Both wishes in one. Raises ValueError for channels along different axes."""
        if None not in (self.channels, other.channels) and self.channels != other.channels:
            raise ValueError(f"channels along axis {self.channels} and along axis {other.channels}")
        return Observe(
            self.histogram or other.histogram,
            self.channels if self.channels is not None else other.channels,
            max(self.rows, other.rows),
            self.gram or other.gram,
        )

    def covers(self, other: Observe) -> bool:
        """Whether whoever learns this also learns the other."""
        return (
            self.histogram >= other.histogram
            and other.channels in (None, self.channels)
            and self.rows >= other.rows
            and self.gram >= other.gram
        )


@dataclass(frozen=True)
class Statistics:
    """What was seen at one tensor over `samples` feed sets.

    low, high: the extremes. average_low, average_high: the mean over the feed sets of their extremes. count: elements
    seen. channel_low, channel_high, channel_mean: [C]. rows: [R, K], drawn at random, and at the same places from all
    tensors with as many rows. gram: [K, K], over gram_rows rows.
    """

    low: float
    high: float
    average_low: float
    average_high: float
    count: int
    samples: int
    histogram: Histogram | None = None
    channel_low: Floats | None = None
    channel_high: Floats | None = None
    channel_mean: Floats | None = None
    rows: Floats | None = None
    gram: Floats | None = None
    gram_rows: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.channel_low, self.channel_high, self.channel_mean, self.rows, self.gram)
        counts = 0 if self.histogram is None else self.histogram.counts.nbytes
        return counts + sum(array.nbytes for array in arrays if array is not None)

    def only(self, wish: Observe) -> Statistics:
        """The same with no more rows than wished for."""
        if self.rows is None or len(self.rows) <= wish.rows:
            return self
        return replace(self, rows=self.rows[: wish.rows] if wish.rows else None)

    def range(self, method: Method) -> tuple[float, float]:
        """(low, high) by a calibration method. Raises ValueError when what it needs was not observed."""
        from accelc.calibration.ranges import find_range

        return find_range(self, method)
