"""Interleaved rounds over lanes: what is compared is timed in turn, in random order, over several loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from accelc.runner import RuntimeFailure

Block = Callable[[int, int, int], NDArray[np.float64]]
"""(feed, runs, uncounted runs before) -> seconds of each run [runs]"""


class Lane(Protocol):
    """Something to time: a model that can be loaded again and again.

    feeds: how many input sets there are. group: lanes of one group are interleaved and compared.
    """

    feeds: int
    group: str

    def open(self, generation: int) -> Block:
        """Load anew and return what times a block. Raises RuntimeFailure."""

    def close(self) -> None:
        """Free what `open` made."""


@dataclass(frozen=True)
class Times:
    """Of one lane. runs: seconds of every run, in order. blocks: the median of each round; load_of: its generation."""

    runs: NDArray[np.float64]
    blocks: NDArray[np.float64]
    load_of: NDArray[np.int64]


def measure(
    lanes: Sequence[Lane],
    seconds: float,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Times | RuntimeFailure]:
    """Time every lane for about `seconds` each; a lane that fails has its failure, the others go on."""
    raise NotImplementedError
