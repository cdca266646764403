"""The integers of static quantization: schemes, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accelc import ir
from accelc.target import Target

from .grid import on_grid

Floats = NDArray[np.float32]
Activation = Literal["u8", "s8", "u16", "s16"]

_TINY = float(np.finfo(np.float32).tiny)
_MOST_BIAS = 2.0**30
"""Magnitude of an integer bias, so that the sum of products on top of it stays within 32 bits."""
MOST_PAIR = 127
"""Two neighbours at most 128 together cannot overflow: 128 * 255 < 2**15; rounding may add one."""
_LEAST_BIAS_STEPS = 2.0**20
"""Into how many steps the bias of a channel without weights is divided."""
_TYPES: dict[Activation, tuple[Any, ir.DataType]] = {
    "u8": (np.uint8, ir.DataType.UINT8),
    "s8": (np.int8, ir.DataType.INT8),
    "u16": (np.uint16, ir.DataType.UINT16),
    "s16": (np.int16, ir.DataType.INT16),
}


@dataclass(frozen=True)
class StaticScheme:
    """How activations and weights become integers.

    activation: unsigned or signed, 8 or 16 bits; asymmetric per tensor. The runtime computes only u8 in integers on
    every processor, s8 on ARM, and nothing of 16 bits. bits: of weights, 8 or 7. per_channel: a scale
    for each output channel. qoperator: integer operators are written where the runtime does not form them itself.
    vendor: com.microsoft operators may be used. exact: the processor adds products of u8 x s8 exactly; else no two
    neighbours in a weight may be so large that their products overflow 16 bits, and each channel has as many bits as
    that leaves it, 7 to 8. tiles: the processor multiplies tiles (AMX), which only the matrix kernels use.
    """

    activation: Activation = "u8"
    bits: int = 8
    per_channel: bool = True
    qoperator: bool = True
    vendor: bool = True
    exact: bool = True
    tiles: bool = False

    @classmethod
    def of(
        cls,
        target: Target,
        *,
        bits: int | None = None,
        activation: Activation = "u8",
        per_channel: bool = True,
        vendor: bool = True,
    ) -> StaticScheme:
        """The form that is exact and fast on a target; bits: what the user insists on."""
        exact, tiles = target.int8_dot_exact, "amx_int8" in target.isa
        return cls(activation, bits or (8 if exact else 7), per_channel, vendor, vendor, exact, tiles)

    @property
    def top(self) -> int:
        """The largest magnitude of a quantized weight."""
        return 127 if self.bits == 8 else 63

    @property
    def wide(self) -> bool:
        """Whether activations have more than 8 bits, for which no operator computes in integers."""
        return self.activation in ("u16", "s16")

    @property
    def numpy(self) -> Any:
        """The type of activations in numpy."""
        return _TYPES[self.activation][0]

    @property
    def dtype(self) -> ir.DataType:
        """The type of activations in a graph."""
        return _TYPES[self.activation][1]

    @property
    def least_opset(self) -> int:
        """The opset in which scales per channel and the types are standard."""
        return 21 if self.wide else 13

    def __str__(self) -> str:
        bits = f"{self.bits} bits" if self.exact else "7 to 8 bits"
        return f"static {self.activation} x s8, {bits}, per {'channel' if self.per_channel else 'tensor'}"


@dataclass(frozen=True)
class Params:
    """value = scale * (integer - zero)."""

    scale: np.float32
    zero: int

    def quantize(self, array: Any, kind: Any) -> NDArray[Any]:
        """QuantizeLinear."""
        info = np.iinfo(kind)
        with np.errstate(over="ignore"):  # infinity is clipped like everything else
            rounded = np.rint(np.asarray(array, np.float32) / self.scale) + self.zero
        result: NDArray[Any] = rounded.clip(info.min, info.max).astype(kind)
        return result


def params_of(low: float, high: float, scheme: StaticScheme) -> Params:
    """Scale and zero point whose integers cover [low, high] and zero. Raises ValueError when a bound is not finite."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"the range {low:g} to {high:g} is not finite")
    low, high = min(low, high, 0.0), max(low, high, 0.0)
    info = np.iinfo(scheme.numpy)
    scale = np.float32((high - low) / (float(info.max) - float(info.min)))
    if not scale > _TINY:
        return Params(np.float32(1), 0)
    return Params(scale, int(np.rint(info.min - low / float(scale)).clip(info.min, info.max)))


@dataclass(frozen=True)
class StaticWeight:
    """A weight with its output channels first, [N, ...], as values * scales, and its bias as integers.

    scales: [N], or [] for the whole tensor. bias: steps of x_scale * scales, [N].
    """

    values: NDArray[np.int8]
    scales: Floats
    bias: NDArray[np.int32] | None

    def floats(self) -> Floats:
        """The weight that the integers stand for."""
        return self.values * _beside(self.scales, self.values.ndim)


def quantize_weight(
    weight: Floats, bias: Floats | None, x_scale: np.float32, scheme: StaticScheme, *, alone: bool = False
) -> StaticWeight:
    """Symmetric rounding of a finite weight [N, K] or [N, C, kernel...]. A channel on a grid of integers keeps them.

    The scales are large enough for the integers of the bias to fit. bias: [N] or None. alone: no two products are ever
    added in 16 bits, as in depthwise convolutions.
    """
    rows = np.ascontiguousarray(np.moveaxis(weight, 1, -1)).reshape(len(weight), -1)
    top = 127 if alone else scheme.top
    largest = np.abs(rows).max(axis=1).astype(np.float64)
    scales = largest / top
    if not scheme.exact and not alone:
        scales = np.maximum(largest / 127, largest_pairs(rows) / MOST_PAIR)
    if scheme.per_channel:
        exact = on_grid(np.ascontiguousarray(rows.T), top if scheme.exact or alone else MOST_PAIR // 2)
        scales = np.where(np.isnan(exact) | (largest == 0), scales, exact)
    if bias is not None:
        size = np.abs(bias).astype(np.float64)
        scales = np.where(scales < _TINY, size / (float(x_scale) * _LEAST_BIAS_STEPS), scales)
        scales = np.maximum(scales, size / (float(x_scale) * _MOST_BIAS))
    if not scheme.per_channel:
        scales = np.full(len(rows), scales.max())
    steps = np.where(scales < _TINY, 1.0, scales).astype(np.float32)
    values = np.rint(weight / _beside(steps, weight.ndim)).clip(-127, 127).astype(np.int8)
    integers = None
    if bias is not None:
        limit = 2.0**31 - 1
        integers = np.rint(bias.astype(np.float64) / (float(x_scale) * steps)).clip(-limit, limit).astype(np.int32)
    return StaticWeight(values, steps if scheme.per_channel else steps[:1].reshape(()), integers)


def largest_pairs(rows: Floats) -> NDArray[np.float64]:
    """The largest magnitude in each row of the sum of two neighbours with the same sign."""
    if rows.shape[1] < 2:
        return np.zeros(len(rows))
    sums = np.abs(rows[:, :-1].astype(np.float64) + rows[:, 1:])
    result: NDArray[np.float64] = np.where(rows[:, :-1] * rows[:, 1:] > 0, sums, 0).max(axis=1)
    return result


def _beside(scales: Floats, rank: int) -> Floats:
    return scales.reshape(-1, *[1] * (rank - 1)) if scales.ndim else scales
