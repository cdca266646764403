"""Writing int8 layers into a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from accelc import ir

from .layers import Layer
from .numbers import Int8Weight, Scheme, quantize_rows, quantize_weight
from .weights_numbers import row_block
from .writer import LayerWriter, Spend, trimmed

_FLOAT, _UINT8, _INT32 = ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32
_MIDDLE = 128
_DYNAMIC_QUANTIZE_LINEAR = 11  # the opset that has it

Rounded = dict[tuple[int, bytes], Int8Weight]
"""Weights rounded before, by Layer.form; for one model, its copies and one scheme."""


def quantize_layers(
    model: ir.Model, layers: Iterable[Layer], scheme: Scheme, spend: Spend, known: Rounded | None = None
) -> list[Layer]:
    """Replace layers by their int8 form, as long as spend(rule, node) allows. Returns those replaced.

    known: is used and filled.
    """
    writer = _Writer(model, scheme, {} if known is None else known)
    done = []
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in layers:
        if not spend("quantize", layer.path):
            break
        done.append(layer)
        if layer.is_gather:
            writer.table(layer)
        else:
            groups.setdefault((layer.scope.graph, layer.a, layer.form[1]), []).append(layer)
    for group in groups.values():
        writer.products(group)
    writer.drop_unused()
    return done


def rounded(layer: Layer, scheme: Scheme, known: Rounded) -> Int8Weight:
    """The weight or table of a layer in int8; known: is used and filled."""
    if layer.form not in known:
        weight = layer.matrix()
        known[layer.form] = quantize_rows(weight) if layer.is_gather else quantize_weight(weight, scheme)
    return known[layer.form]


class _Writer(LayerWriter):
    """Writes tables as int8 rows, and products as integer products."""

    def __init__(self, model: ir.Model, scheme: Scheme, known: Rounded) -> None:
        super().__init__(model)
        self.scheme, self.known = scheme, known

    # --- tables

    def table(self, layer: Layer) -> None:
        """Gather rows as integers with a scale for each."""
        self.weights[layer.weight] = None
        rows, scales, *_ = self.rows(layer)
        if self.scheme.vendor:
            self.replace(layer, self.gathered_blocks(layer, rows, scales, 8, row_block(layer.n), 1))
        else:
            self.gather_rows(layer, rows, scales)

    def rows(self, layer: Layer) -> tuple[ir.Value, ...]:
        """(rows, scales) of a table; the rows around 128 where the vendor's operator reads them."""
        key = (layer.weight, "rows")
        if key not in self.stored:
            table = rounded(layer, self.scheme, self.known)
            if self.scheme.vendor:
                around = (table.values.view(np.uint8) ^ np.uint8(_MIDDLE)).reshape(table.values.shape)
                table = replace(table, values=around)
            self.stored[key] = tuple(self.store(table, layer))
        return self.stored[key]

    # --- products

    def products(self, group: Sequence[Layer]) -> None:
        """Layers with one input and one smoothing, in the order of the graph."""
        first = group[0]
        a = self.smoothed(first)
        if self.scheme.vendor and (len(group) == 1 or first.scope.opset < _DYNAMIC_QUANTIZE_LINEAR):
            for layer in group:
                self.finish(layer, self.fused(layer, a))
        else:
            quantized = self.nodes("DynamicQuantizeLinear", [a], first, (_UINT8, _FLOAT, _UINT8))
            for layer in group:
                self.finish(layer, self.product(layer, quantized))

    def fused(self, layer: Layer, a: ir.Value) -> ir.Value:
        """com.microsoft.DynamicQuantizeMatMul."""
        inputs = [a, *self.weight(layer), self.bias(layer)]
        return self.vendor_node("DynamicQuantizeMatMul", inputs, layer)

    def product(self, layer: Layer, quantized: Sequence[ir.Value]) -> ir.Value:
        """The product of an activation that is quantized already: (values, scale, zero point)."""
        a, a_scale, a_zero = quantized
        values, scales, zero = self.weight(layer)
        bias = self.bias(layer)
        if self.scheme.vendor:
            inputs = [a, values, a_scale, scales, a_zero, zero, bias]
            return self.vendor_node("MatMulIntegerToFloat", inputs, layer)
        integers = self.node("MatMulInteger", trimmed([a, values, a_zero, zero]), layer, dtype=_INT32)
        floats = self.node("Cast", [integers], layer, {"to": _FLOAT.value})
        both = self.node("Mul", [a_scale, scales], layer)
        result = self.node("Mul", [floats, both], layer)
        return result if bias is None else self.node("Add", [result, bias], layer)

    # --- weights

    def weight(self, layer: Layer) -> tuple[ir.Value, ir.Value, ir.Value | None]:
        """(values, scales, zero point or None) of a layer's weight."""
        key = (layer.weight, layer.transposed, layer.alpha, layer.form[1])
        if key not in self.stored:
            self.stored[key] = tuple(self.store(rounded(layer, self.scheme, self.known), layer))
        self.weights[layer.weight] = None
        values, scales, *zero = self.stored[key]
        return values, scales, zero[0] if zero else None

    def store(self, weight: Int8Weight, layer: Layer) -> Iterator[ir.Value]:
        hint, owner = str(layer.weight.name), self.owner(layer)
        yield self.constant(np.ascontiguousarray(weight.values), f"{hint}_int8", owner, layer)
        yield self.constant(weight.scales, f"{hint}_scale", owner, layer)
        if weight.zero_point:
            zeros = np.full(weight.scales.shape, weight.zero_point, np.uint8)
            yield self.constant(zeros, f"{hint}_zero_point", owner, layer)
