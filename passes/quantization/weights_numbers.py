"""Weights in 4 or 8 bits with a scale for each block of some rows: rounding them, and laying them out in bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .grid import on_grid
from .numbers import Floats

Bytes = NDArray[np.uint8]

SMALLEST_BLOCK, LARGEST_BLOCK = 16, 256
BLOCK_SIZES = {4: 32, 8: 128}
"""By default, for each number of bits: with 8, smaller ones add more bytes for scales than they gain in accuracy."""
_SCALE_BYTES = 4
_TINY = float(np.finfo(np.float32).tiny)
_AT_ONCE = 1 << 18
"""Elements of a weight that are rounded at a time."""
_SHRINKS = tuple(1 - 0.05 * i for i in range(9))
"""Parts of a block's range that the search for a clipping tries."""
_PROBED_BLOCKS = 64


@dataclass(frozen=True)
class BlockScheme:
    """How weights are stored: integers of `bits`, and a float scale for each `block_size` or fewer of them along K.

    symmetric: without zero points. accuracy_level: 4 rounds the activation to int8 for the product, 0 does not. vendor:
    com.microsoft operators; else DequantizeLinear of opset 21 before a MatMul. clip: search each block's range for the
    least squared error. table_bits: of tables that no product shares; with 8, a scale for each row.

    Raises ValueError for a block size that is no power of two between 16 and 256.
    """

    bits: Literal[4, 8] = 4
    block_size: int = 32
    symmetric: bool = True
    accuracy_level: int = 4
    vendor: bool = True
    clip: bool = False
    table_bits: Literal[4, 8] = 8

    def __post_init__(self) -> None:
        check_block_size(self.block_size)

    @property
    def levels(self) -> int:
        """How many integers there are."""
        return 1 << self.bits

    @property
    def middle(self) -> int:
        """What stands for zero where there are no zero points."""
        return self.levels // 2

    def size_for(self, k: int) -> int:
        """The block size that takes the fewest bytes for k rows; the last block is filled up."""
        sizes = [self.block_size >> i for i in range((self.block_size // SMALLEST_BLOCK).bit_length())]
        return min(sizes, key=lambda size: -(-k // size) * (size * self.bits // 8 + _SCALE_BYTES))

    def __str__(self) -> str:
        points = "" if self.symmetric else ", zero points"
        return f"weights only, {self.bits} bits, blocks of {self.block_size}{points}"


def check_block_size(size: int) -> None:
    """Raise ValueError for a block size that no kernel has."""
    if not SMALLEST_BLOCK <= size <= LARGEST_BLOCK or size & (size - 1):
        raise ValueError(f"block_size={size} must be a power of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK}")


def row_block(columns: int) -> int:
    """The smallest block, a power of two, that holds a whole row."""
    return max(SMALLEST_BLOCK, 1 << (columns - 1).bit_length())


@dataclass(frozen=True)
class BlockWeight:
    """A weight [K, N] as (values - zeros) * scales.

    values: [N, B, block size] from 0 to 2**bits - 1; the last block is filled up with zeros of the weight. scales:
    [N, B]. zeros: [N, B], or None where it is the middle everywhere.
    """

    values: Bytes
    scales: Floats
    zeros: Bytes | None
    bits: int
    k: int

    def floats(self) -> Floats:
        """The weight [K, N] that the integers stand for."""
        middle = np.float32(1 << (self.bits - 1))
        zeros = middle if self.zeros is None else self.zeros[..., None].astype(np.float32)
        blocks = (self.values.astype(np.float32) - zeros) * self.scales[..., None]
        columns: Floats = blocks.reshape(len(blocks), -1)[:, : self.k]
        return columns.T

    def packed(self) -> Bytes:
        """The integers as the kernel reads them, [N, B, block size * bits / 8]: of two in a byte, the lower first."""
        return _pairs(self.values) if self.bits == 4 else self.values

    def packed_zeros(self) -> Bytes | None:
        """The zero points of each column in the same way, [N, B * bits / 8 rounded up]."""
        if self.zeros is None or self.bits == 8:
            return self.zeros
        return _pairs(np.pad(self.zeros, ((0, 0), (0, self.zeros.shape[1] % 2))))

    def columns(self) -> tuple[NDArray[Any], Floats, NDArray[Any] | None]:
        """(values, scales, zeros) as [K, N], [B, N] and [B, N]; without zero points the values are signed."""
        values = self.values.reshape(len(self.values), -1)[:, : self.k].T
        scales = np.ascontiguousarray(self.scales.T)
        if self.zeros is not None:
            return np.ascontiguousarray(values), scales, np.ascontiguousarray(self.zeros.T)
        return (values.astype(np.int16) - (1 << (self.bits - 1))).astype(np.int8), scales, None


def quantize_blocks(weight: Floats, scheme: BlockScheme, block_size: int | None = None) -> BlockWeight:
    """Round a finite weight [K, N]. Blocks that lie on a grid already keep its integers.

    block_size: instead of the scheme's; any multiple of 2.
    """
    k, n = weight.shape
    size = block_size or scheme.size_for(k)
    count = -(-k // size)
    values = np.empty((n, count, size), np.uint8)
    scales = np.empty((n, count), np.float32)
    zeros = None if scheme.symmetric else np.empty((n, count), np.uint8)
    step = max(1, _AT_ONCE // (count * size))
    snapped = looks_snapped(weight, size, scheme)
    for start in range(0, n, step):
        part = slice(start, start + step)
        blocks = in_blocks(weight[:, part], size)
        steps, origin = block_scales(blocks, scheme)
        if snapped:
            _keep_grid(blocks, steps, origin, scheme)
        values[part] = _rounded(blocks, steps, origin, scheme)
        scales[part] = steps
        if zeros is not None:
            zeros[part] = origin
    return BlockWeight(values, scales, zeros, scheme.bits, k)


def in_blocks(weight: Floats, size: int) -> Floats:
    """A weight [K, N] as [N, B, size], filled up with zeros."""
    k, n = weight.shape
    count = -(-k // size)
    columns = np.zeros((n, count * size), np.float32)
    columns[:, :k] = weight.T
    return columns.reshape(n, count, size)


def block_scales(blocks: Floats, scheme: BlockScheme) -> tuple[Floats, Floats]:
    """(scales, zero points) of blocks [..., size]; a scale may be negative."""
    best_scales, best_zeros = _range_scales(blocks, scheme, 1.0)
    if not scheme.clip:
        return best_scales, best_zeros
    least = _squared_error(blocks, best_scales, best_zeros, scheme)
    for shrink in _SHRINKS[1:]:
        scales, zeros = _range_scales(blocks, scheme, shrink)
        error = _squared_error(blocks, scales, zeros, scheme)
        better = error < least
        if not better.any():
            break
        least = np.where(better, error, least)
        best_scales = np.where(better, scales, best_scales)
        best_zeros = np.where(better, zeros, best_zeros)
    return best_scales, best_zeros


def _range_scales(blocks: Floats, scheme: BlockScheme, shrink: float) -> tuple[Floats, Floats]:
    """Scales and zero points for a part of each block's range."""
    high, low = blocks.max(axis=-1) * np.float32(shrink), blocks.min(axis=-1) * np.float32(shrink)
    middle = np.float32(scheme.middle)
    if not scheme.symmetric:
        high, low = np.maximum(high, 0), np.minimum(low, 0)
        scales = _nonzero((high - low) / np.float32(scheme.levels - 1))
        return scales, np.rint(-low / scales).clip(0, scheme.levels - 1)
    if scheme.bits == 8:
        scales = _nonzero(np.maximum(high, -low) / (middle - 1))
    else:
        # of 16 levels, 8 lie on one side of zero and 7 on the other: the extreme takes the 8
        scales = _nonzero(np.where(high > -low, high, low) / -middle)
    return scales, np.full(scales.shape, middle)


def _nonzero(scales: Floats) -> Floats:
    return np.where(np.abs(scales) < _TINY, np.float32(1), scales).astype(np.float32)


def _rounded(blocks: Floats, scales: Floats, zeros: Floats, scheme: BlockScheme) -> Bytes:
    levels = np.rint(blocks / scales[..., None]) + zeros[..., None]
    least = 1 if scheme.bits == 8 and scheme.symmetric else 0
    rounded: Bytes = levels.clip(least, scheme.levels - 1).astype(np.uint8)
    return rounded


def _squared_error(blocks: Floats, scales: Floats, zeros: Floats, scheme: BlockScheme) -> Floats:
    """Of each block; what `_rounded` gives, without making integers of it."""
    levels = np.rint(blocks / scales[..., None])
    origin = zeros[..., None]
    least = 1 if scheme.bits == 8 and scheme.symmetric else 0
    np.clip(levels, least - origin, scheme.levels - 1 - origin, out=levels)
    levels *= scales[..., None]
    levels -= blocks
    error: Floats = np.einsum("...i,...i->...", levels, levels)
    return error


# --- weights that were rounded before


def looks_snapped(weight: Floats, size: int, scheme: BlockScheme) -> bool:
    """Whether blocks spread over a weight lie on a grid."""
    k, n = weight.shape
    starts = np.linspace(0, max(k - size, 0), _PROBED_BLOCKS).astype(np.int64) // size * size
    places = np.linspace(0, n - 1, _PROBED_BLOCKS).astype(np.int64)
    blocks = np.zeros((_PROBED_BLOCKS, size), np.float32)
    for row, (start, column) in enumerate(zip(starts, places, strict=True)):
        found = weight[start : start + size, column]
        blocks[row, : found.size] = found
    scales, _ = grid_of(blocks, scheme)
    return bool(np.isfinite(scales).all())


def _keep_grid(blocks: Floats, scales: Floats, zeros: Floats, scheme: BlockScheme) -> None:
    """Replace scales and zero points by those of the grids that blocks lie on."""
    found, origin = grid_of(blocks.reshape(-1, blocks.shape[-1]), scheme)
    found, origin = found.reshape(scales.shape), origin.reshape(zeros.shape)
    known = np.isfinite(found)
    scales[known], zeros[known] = found[known], origin[known]


def grid_of(blocks: Floats, scheme: BlockScheme) -> tuple[Floats, Floats]:
    """(scales, zero points) with which blocks [R, size] are scale * (integer - zero point); nan where none are."""
    middle, highest = scheme.middle, scheme.levels - 1
    zeros = np.full(len(blocks), middle, np.float32)
    columns = np.ascontiguousarray(blocks.T)
    if not scheme.symmetric:
        scales = on_grid(columns, highest)
        known = np.isfinite(scales)
        levels = np.rint(columns[:, known] / scales[known])
        zeros[known] = np.maximum(-levels.min(axis=0), 0)
        wide = np.maximum(levels.max(axis=0), 0) + zeros[known] > highest
        scales[np.flatnonzero(known)[wide]] = np.nan
        return scales, zeros
    if scheme.bits == 8:
        return on_grid(columns, middle - 1), zeros
    scales = on_grid(columns, middle - 1, -middle)
    left = np.flatnonzero(np.isnan(scales))
    if left.size:
        scales[left] = -on_grid(-columns[:, left], middle - 1, -middle)
    return scales, zeros


def _pairs(values: Bytes) -> Bytes:
    """Two 4-bit integers in each byte, along the last axis."""
    return values[..., 0::2] | (values[..., 1::2] << np.uint8(4))
