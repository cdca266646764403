"""Positions that are padding: what a model computes there is used by nobody, and small errors may look large."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAME = "attention_mask"


def visible(feeds: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """[batch, positions], False where an input called attention_mask says padding; None where nothing does."""
    for name, value in feeds.items():
        if _NAME not in name.lower() or not isinstance(value, np.ndarray) or value.ndim != 2:
            continue
        mask = value.astype(bool)
        if np.array_equal(mask, value) and mask.any(axis=1).all() and not mask.all():
            return mask
    return None


def without_padding(outputs: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> Mapping[str, Any]:
    """Outputs with [batch, positions, ...] reduced to the visible positions, [n, ...]; others as they are."""
    if mask is None:
        return outputs
    return {
        name: value[mask]
        if isinstance(value, np.ndarray) and value.ndim >= 3 and value.shape[:2] == mask.shape
        else value
        for name, value in outputs.items()
    }
