"""Convolutions of images with few channels, in the form that the integer kernels are fast on.

The kernels copy one pixel's channels after the other, and need not for multiples of 4 channels. A convolution with a
stride therefore reads neighbours in a row of pixels as channels of one, and channels of zeros make up the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from accelc import ir

from .static_numbers import Floats, Params

if TYPE_CHECKING:
    from .static_values import IntegerValues

_ALIGNMENT = 4
_MOST_GROWTH = 2.0
"""How many times the multiplications may become."""


@dataclass(frozen=True)
class Stem:
    """A convolution with a weight [N, C, high, wide], where `block` pixels of a row become one (1: none do).

    filled: channels of zeros that each pixel gets first. size: of the image. taps: width of the kernel in blocks. lead:
    pixels in its first block that come before the weight. attributes: of the convolution over blocks.
    """

    channels: int
    filled: int
    size: tuple[ir.Dim, ir.Dim]
    block: int = 1
    taps: int = 0
    lead: int = 0
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def weight(self, weight: Floats) -> Floats:
        """The weight over blocks: [N, (column in block, channel), high, taps]."""
        weight = np.pad(weight, ((0, 0), (0, self.filled), (0, 0), (0, 0)))
        if self.block == 1:
            return weight
        count, channels, high, wide = weight.shape
        large = np.zeros((count, channels, high, self.taps * self.block), np.float32)
        large[..., self.lead : self.lead + wide] = weight
        parts = large.reshape(count, channels, high, self.taps, self.block)
        return parts.transpose(0, 4, 1, 2, 3).reshape(count, -1, high, self.taps)

    def spread(self, values: IntegerValues, image: ir.Value, params: Params) -> ir.Value:
        """The image [batch, C, H, W] as the convolution over blocks reads it."""
        kind, batch = values.scheme.dtype, (ir.dims(image) or (None,))[0]
        channels = self.channels + self.filled
        if self.filled:
            pads = values.ints([0, 0, 0, 0, 0, self.filled, 0, 0])
            image = values.node("Pad", [image, pads, values.zero(params)], kind, [batch, channels, *self.size])
        if self.block > 1:
            high, wide = self.size
            assert isinstance(wide, int)
            image = values.node("Transpose", [image], kind, [batch, high, wide, channels], {"perm": [0, 2, 3, 1]})
            shape = values.ints([0, 0, wide // self.block, self.block * channels])
            rows = [batch, high, wide // self.block, self.block * channels]
            image = values.node("Reshape", [image, shape], kind, rows)
            image = values.node("Transpose", [image], kind, [batch, rows[3], high, rows[2]], {"perm": [0, 3, 1, 2]})
        return image


def find_stem(node: ir.Node, weight: tuple[int, ...], most: int) -> Stem | None:
    """How a convolution with a weight [N, C, high, wide] is better written; None where it is fine as it is.

    most: multiplications for one result, above which it is left alone.
    """
    dims = ir.dims(node.inputs[0])
    if len(weight) != 4 or dims is None or len(dims) != 4 or ir.attribute(node, "group", 1) != 1:
        return None
    channels = weight[1]
    if channels % _ALIGNMENT == 0:
        return None
    stem = _blocks(node, (dims[2], dims[3]), weight)
    if stem is None:
        stem = Stem(channels, -channels % _ALIGNMENT, (dims[2], dims[3]))
    wide = stem.taps * stem.block or weight[3]
    products, before = (channels + stem.filled) * weight[2] * wide, channels * weight[2] * weight[3]
    return stem if products <= min(_MOST_GROWTH * before, most) else None


def _blocks(node: ir.Node, size: tuple[ir.Dim, ir.Dim], weight: tuple[int, ...]) -> Stem | None:
    """As many pixels of a row in a block as the convolution steps over."""
    _, channels, high, kernel = weight
    strides = ir.attribute(node, "strides", (1, 1))
    block, wide = strides[1], size[1]
    if block < 2 or not isinstance(wide, int) or wide % block or ir.attribute(node, "dilations", (1, 1))[1] != 1:
        return None
    pads = _pads(node, size, (high, kernel), strides)
    if pads is None:
        return None
    top, left, bottom, right = pads
    start = -(-left // block)
    lead = start * block - left
    taps = -(-(lead + kernel) // block)
    steps = (wide + left + right - kernel) // block + 1
    after = steps - 1 + taps - wide // block - start
    if after < 0:
        return None
    filled = next(extra for extra in range(_ALIGNMENT) if (channels + extra) * block % _ALIGNMENT == 0)
    attributes: dict[str, Any] = {
        "kernel_shape": (high, taps),
        "strides": (strides[0], 1),
        "pads": (top, start, bottom, after),
    }
    return Stem(channels, filled, size, block, taps, lead, tuple(attributes.items()))


def _pads(
    node: ir.Node, size: tuple[ir.Dim, ir.Dim], kernel: tuple[int, int], strides: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Padding of a convolution in pixels: both axes before, both axes after; None where it is not known."""
    mode = ir.attribute(node, "auto_pad", "NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode in ("NOTSET", ""):
        top, left, bottom, right = ir.attribute(node, "pads", (0, 0, 0, 0))
        return top, left, bottom, right
    if mode == "VALID":
        return 0, 0, 0, 0
    totals = []
    for length, taps, stride in zip(size, kernel, strides, strict=True):
        if not isinstance(length, int):
            return None
        totals.append(max((-(-length // stride) - 1) * stride + taps - length, 0))
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    if mode == "SAME_UPPER":
        return less[0], less[1], more[0], more[1]
    return (more[0], more[1], less[0], less[1]) if mode == "SAME_LOWER" else None
