"""Which weights integers and a scale in float32 can stand for."""

from __future__ import annotations

import numpy as np

from accelc import ir

_LARGEST, _SMALLEST = 1e18, 1e-30
"""Beyond these, scales, squares of errors or their products overflow or vanish in float32."""


def misfit(tensor: ir.TensorProtocol) -> str:
    """Why integers cannot stand for a weight of floats; empty where they can."""
    array = tensor.numpy()
    if not array.size or not np.isfinite(array).all():
        return "its weight is empty or not finite"
    largest = max(float(array.max()), -float(array.min()))
    if largest > _LARGEST:
        return f"its weight is too large for scales in float32: {largest:.3g}"
    if 0 < largest < _SMALLEST:
        return f"its weight is too small for scales in float32: {largest:.3g}"
    return ""
