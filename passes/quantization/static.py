"""Static int8 for ONNX Runtime's processor kernels: activations with ranges known beforehand.

    found = find_static(model, portable=False)
    ranges = {name: seen.range(method) for name, seen in calibration.statistics(model, found.wanted(observe)).items()}
    chosen = found.with_glue(products)
    quantize_static(model, found, chosen, ranges, StaticScheme.of(target), spend)

Only the main graph is looked at. Two copies of one model give the same nodes in the same order, so positions chosen on
one hold on the other.
"""

from __future__ import annotations

from .static_emit import quantize_static
from .static_errors import layer_errors
from .static_nodes import StaticFound, find_static
from .static_numbers import StaticScheme
from .static_operators import StaticNode

__all__ = ["StaticFound", "StaticNode", "StaticScheme", "find_static", "layer_errors", "quantize_static"]
