"""The user's own data in memory, and accuracy when labels are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from accelc.data.dataset import bytes_of, joined_labels, open_dataset
from accelc.data.feeds import Feed
from accelc.data.items import Array
from accelc.data.specs import InputSpec
from accelc.errors import UsageError

if TYPE_CHECKING:
    from accelc.data.preprocessing import Preprocessing

BATCH_SIZE = 32
MOST_BYTES = 2 << 30
"""What verification holds at once; the outputs of every set are held besides."""


@dataclass(frozen=True)
class EvalData:
    """Feed sets in memory. parts: the labels of each set, or None. notes: conversions made."""

    feeds: tuple[Feed, ...]
    parts: tuple[Array, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> Array | None:
        """One per sample over all sets, in order, or None."""
        return np.concatenate(self.parts) if self.parts is not None else None


def load_feeds(path: str | Path, specs: Sequence[InputSpec], *, batch_size: int = BATCH_SIZE) -> list[Feed]:
    """The feed sets of data; see `load_data`."""
    return list(load_data(path, specs, batch_size=batch_size).feeds)


def load_data(
    path: str | Path,
    specs: Sequence[InputSpec],
    *,
    batch_size: int = BATCH_SIZE,
    preprocessing: Preprocessing | str | None = None,
    most: int | None = None,
) -> EvalData:
    """Feed sets of data with their labels; see `open_dataset` for what it may be. most: that many of them, spread over
    the data where its length is known; None for all.

    Raises: UsageError naming the place, the input, what was wanted and what was found; also when it is too much to
    hold in memory.
    """
    data = open_dataset(path, specs, batch_size=batch_size, preprocessing=preprocessing)
    if most is not None and data.count is not None and data.count > most:
        data = data.shard(0, data.count // most)
    feeds: list[Feed] = []
    parts: list[Array] = []
    held = 0
    for feed, labels in islice(data.labelled(), most):
        held += bytes_of(feed.values)
        if held > MOST_BYTES:
            hint = "give fewer samples to verify on; calibration takes any number"
            raise UsageError(f"holds more than {MOST_BYTES >> 30} GiB", where=data.where, hint=hint)
        feeds.append(feed)
        if labels is not None:
            parts.append(labels)
    joined_labels(parts, data.where)
    return EvalData(tuple(feeds), tuple(parts) if parts else None, tuple(data.notes))


def top1_accuracy(outputs: Sequence[Array], labels: Array) -> float:
    """The share of samples whose largest class equals the label, 0..1.

    outputs: one array per feed set, either scores [n, ..., classes] or class numbers [n, ...]; labels: [N, ...] over
    all sets. Raises: UsageError when their shapes do not belong together.
    """
    if not outputs or not labels.size:
        raise UsageError("there is nothing to compute the accuracy of", why="no outputs or no labels")
    rank = max(labels.ndim, 1)
    predicted = [np.argmax(array, axis=-1) if array.ndim == rank + 1 else array for array in outputs]
    if any(array.shape[1:] != labels.shape[1:] or array.ndim != rank for array in predicted):
        why = f"labels are {list(labels.shape)}, outputs {list(outputs[0].shape)}"
        raise UsageError("labels do not fit the output", why=why, hint="labels are class numbers, one per sample")
    classes = np.concatenate(predicted)
    if len(classes) != len(labels):
        raise UsageError("labels do not fit the output", why=f"{len(labels)} labels for {len(classes)} samples")
    return float(np.mean(classes == labels))
