"""Numbers in eight bits: how weights and tables are rounded, and what an int8 product costs in accuracy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accelc.target import Target

from .grid import on_grid
from .migration import cautious
from .static_numbers import MOST_PAIR, largest_pairs

Floats = NDArray[np.float32]

_TINY = float(np.finfo(np.float32).tiny)
_ZERO_OF_UNSIGNED = 128


@dataclass(frozen=True)
class Scheme:
    """How weights are stored and multiplied. Activations are always unsigned, quantized at run time per tensor.

    bits: 8, or 7 where products of u8 x s8 saturate in pairs. unsigned: weights are u8 with zero point 128 (exact
    everywhere, slower than s8). per_channel: one scale for each output column. vendor: com.microsoft kernels. paired:
    the 7 bits are the least; a column has as many up to 8 as no two neighbours need to overflow 16 bits.
    """

    bits: int = 8
    unsigned: bool = False
    per_channel: bool = True
    vendor: bool = True
    paired: bool = False

    @classmethod
    def of(cls, target: Target, *, bits: int | None, per_channel: bool, vendor: bool) -> Scheme:
        """The form that is exact and fast on a target; bits: what the user insists on."""
        exact = target.int8_dot_exact
        chosen = bits or (8 if exact else 7)
        return cls(
            chosen,
            unsigned=chosen == 8 and not exact,
            per_channel=per_channel,
            vendor=vendor,
            paired=bits is None and not exact,
        )

    @property
    def top(self) -> int:
        """The largest magnitude of a quantized weight."""
        return 127 if self.bits == 8 else 63

    @property
    def zero_point(self) -> int:
        """What stands for a weight of zero."""
        return _ZERO_OF_UNSIGNED if self.unsigned else 0

    def __str__(self) -> str:
        kind = "u8" if self.unsigned else "s8"
        bits = "7 to 8" if self.paired else self.bits
        return f"dynamic u8 x {kind}, {bits} bits, per {'channel' if self.per_channel else 'tensor'}"


@dataclass(frozen=True)
class Int8Weight:
    """A weight [K, N] as (values - zero_point) * scales. scales: [N], [] for the whole tensor, [V, 1] for a table."""

    values: NDArray[Any]
    scales: Floats
    zero_point: int

    def floats(self) -> Floats:
        """The weight that the integers stand for."""
        return (self.values.astype(np.float32) - np.float32(self.zero_point)) * self.scales


def quantize_weight(weight: Floats, scheme: Scheme) -> Int8Weight:
    """Symmetric rounding of a finite weight [K, N]; columns (or the tensor) reach from -top to top.

    Those that are integers times a scale already, of at most `top`, are stored as these.
    """
    scales, top = _weight_scales(weight, scheme), 127 if scheme.paired else scheme.top
    exact = on_grid(weight if scheme.per_channel else weight.reshape(-1, 1), scheme.top).reshape(scales.shape)
    scales = np.where(np.isnan(exact), scales, exact)
    rounded = np.rint(weight / scales).clip(-top, top)
    if scheme.unsigned:
        return Int8Weight((rounded + _ZERO_OF_UNSIGNED).astype(np.uint8), scales, _ZERO_OF_UNSIGNED)
    return Int8Weight(rounded.astype(np.int8), scales, 0)


def _weight_scales(weight: Floats, scheme: Scheme) -> Floats:
    """The finest scales with which a weight [K, N] fits: [N], or [] for the whole tensor."""
    steps = np.abs(weight).max(axis=0) / np.float32(127 if scheme.paired else scheme.top)
    if scheme.paired:
        steps = np.maximum(steps, largest_pairs(np.ascontiguousarray(weight.T)) / MOST_PAIR)
    return _scales(steps if scheme.per_channel else steps.max(), 1)


def quantize_rows(table: Floats) -> Int8Weight:
    """Symmetric rounding of a finite table [V, H] in 8 bits; scales: [V, 1]."""
    scales = _scales(np.abs(table).max(axis=1, keepdims=True), 127)
    return Int8Weight(np.rint(table / scales).clip(-127, 127).astype(np.int8), scales, 0)


def smoothing(a: Floats) -> Floats | None:
    """Divisors [K] that bring outlying columns of an activation [..., K] nearer to the others; None without outliers.

    (a / s) @ (s[:, None] * weight) == a @ weight, and both factors round better: a has one scale for all columns. No
    divisor is below 1, so a column that is quiet here cannot become an outlier elsewhere. After Xiao et al. 2023.
    """
    return cautious(np.abs(a.reshape(-1, a.shape[-1])).max(axis=0))


def _scales(largest: Any, top: int) -> Floats:
    """Steps that spread `largest` over `top`; 1 where everything is as good as zero."""
    steps = np.asarray(largest, np.float32) / np.float32(top)
    return np.where(steps < _TINY, np.float32(1), steps).astype(np.float32)


def dynamic_quantize(a: Floats) -> tuple[NDArray[np.uint8], np.float32, int]:
    """DynamicQuantizeLinear-11 of a finite, non-empty tensor: values, scale and zero point."""
    low, high = np.float32(min(a.min(), 0)), np.float32(max(a.max(), 0))
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = int(np.rint(np.float32(-low / scale)).clip(0, 255))
    return (np.rint(a / scale) + zero).clip(0, 255).astype(np.uint8), scale, zero


def product_error(a: Floats, weight: Floats, int8: Int8Weight) -> float:
    """Relative error of a row of a @ weight when both are quantized, root mean square over rows; a: [M, K].

    Rows count alike, for a norm may follow. Rows of zeros and activations that are not finite count nothing.
    """
    if not a.size or not np.isfinite(a).all():
        return 0.0
    values, scale, zero = dynamic_quantize(a)
    wanted = a @ weight
    got = ((values.astype(np.float32) - np.float32(zero)) * scale) @ int8.floats()
    sizes = np.linalg.norm(wanted, axis=1)
    some = sizes > 0
    errors = np.linalg.norm(got - wanted, axis=1)[some] / sizes[some]
    return float(np.sqrt(np.mean(errors**2))) if errors.size else 0.0
