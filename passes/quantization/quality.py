"""What the passes that round weights have in common: their grid, and which layers they change."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from accelc.context import Context

from .grid import on_grid
from .linear import Linear
from .numbers import Floats
from .snap import Grid

LEAST_BITS, MOST_BITS = 2, 8


def check_grid(bits: int | None, block: int = 0, per_channel: bool = True) -> None:
    """Raises ValueError for options that make no grid."""
    if bits is not None and not LEAST_BITS <= bits <= MOST_BITS:
        raise ValueError(f"bits={bits} must be from {LEAST_BITS} to {MOST_BITS}")
    if block < 0 or (block and (block < 16 or block & (block - 1))):
        raise ValueError(f"block={block} must be 0 or a power of two of at least 16")
    if block and not per_channel:
        raise ValueError("per_channel=false and block contradict each other")


def elsewhere(ctx: Context) -> str:
    """Why a target has no use for weights that are made for integers; empty for the processor."""
    provider = ctx.target.provider
    return "" if provider == "CPUExecutionProvider" else f"quantize writes no integers for {provider}"


def kept(path: str, keep: str) -> str:
    """Which of the patterns, separated by |, keeps the node at a path as it is: a reason, or empty."""
    name = path.removeprefix("node ").rpartition(" (")[0]
    patterns = (each.strip() for each in keep.split("|"))
    return next((f"kept by keep={each}" for each in patterns if each and fnmatchcase(name, each)), "")


def without_kept(linears: Sequence[Linear], keep: str, refused: dict[str, str]) -> list[Linear]:
    """The layers that no pattern keeps; the others are added to those refused."""
    reasons = {each: kept(each.path, keep) for each in linears}
    refused.update({each.path: reason for each, reason in reasons.items() if reason})
    return [each for each, reason in reasons.items() if not reason]


def grid_of(ctx: Context, bits: int | None, per_channel: bool, block: int = 0) -> Grid:
    """The grid that options ask for; without bits that of int8 on the target: 7 bits where its products saturate."""
    chosen = bits or (8 if ctx.target.int8_dot_exact else 7)
    return Grid.of(chosen, per_channel, block)


def relative(errors: Floats, sizes: Floats) -> float:
    """The root of summed mean squares of errors over those of what they are errors of."""
    size = float(sizes.sum())
    return float(np.sqrt(float(errors.sum()) / size)) if size > 0 else 0.0


def layer_details(linear: Linear, before: float, after: float, **more: Any) -> dict[str, Any]:
    return {"node": linear.path, "before": round(before, 6), "after": round(after, 6), **more}


def stored(columns: Floats, grid: Grid) -> Floats:
    """Columns as `quantize` rounds them: to the nearest step of the whole range, but not where they are on a grid."""
    rounded = grid.plain(columns)
    if grid.block or not grid.per_channel:
        return columns if is_on(columns, grid) else rounded
    return np.where(np.isnan(on_grid(columns, grid.top)), rounded, columns)


def is_on(columns: Floats, grid: Grid) -> bool:
    """Whether all columns are on some grid with such steps."""
    if not grid.block:
        parts = columns if grid.per_channel else columns.reshape(-1, 1)
        return not np.isnan(on_grid(parts, grid.top)).any()
    starts = range(0, len(columns), grid.block)
    return not any(np.isnan(on_grid(columns[start : start + grid.block], grid.top)).any() for start in starts)
