"""Distributions that can be added up in any order: bins whose width is a power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Histogram:
    """counts[i]: elements in [(first + i) * 2**exponent, (first + i + 1) * 2**exponent)."""

    exponent: int
    first: int
    counts: NDArray[np.signedinteger[Any]]
