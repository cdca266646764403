"""What every kind of data gives: one feed set after the other, with labels where there are any."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.errors import UsageError

LABELS = "labels"
"""The name under which labels lie beside inputs."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Item:
    """One feed set as it was read. labels: those of its samples along the first axis."""

    values: Mapping[str, Any]
    where: str
    labels: Array | None = None


class Source(ABC):
    """Data of one kind at one place.

    where: for messages. prefix: what descriptions of feed sets leave out of their place. count: items, None when only
    reading tells. notes: what to know about the reading. batches: the number of samples in a feed set is its own.
    single: items are single samples with a leading axis of 1, also where a model wants more. slow: making an item takes
    more than reading a file.
    """

    where: str
    count: int | None = None
    notes: tuple[str, ...] = ()
    prefix: str = ""
    batches: bool = False
    single: bool = False
    slow: bool = False

    @abstractmethod
    def items(self, index: int = 0, of: int = 1) -> Iterator[Item]:
        """Every of-th feed set from number `index` on, in order; the same ones each time."""


def numeric_labels(labels: Array, where: str) -> Array:
    """Labels as they are. Raises UsageError unless they are numbers."""
    if labels.dtype.kind not in "iubf":
        hint = "give class numbers"
        raise UsageError(f"labels are {np.dtype(labels.dtype).name}, not numbers", where=where, hint=hint)
    return labels
