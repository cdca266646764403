"""Writing int8 layers into a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT
from accelc.rewrite import drop_initializer, remove_dead, replace_value

from .layers import Layer
from .numbers import Int8Weight, Scheme, quantize_rows, quantize_weight

_FLOAT, _UINT8, _INT32 = ir.DataType.FLOAT, ir.DataType.UINT8, ir.DataType.INT32
_DYNAMIC_QUANTIZE_LINEAR = 11  # the opset that has it

Spend = Callable[[str, str], bool]


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
            writer.gather(layer)
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


class _Writer:
    """Puts nodes and weights into one model; a weight that several layers share is stored once."""

    def __init__(self, model: ir.Model, scheme: Scheme, known: Rounded) -> None:
        self.scheme, self.known = scheme, known
        self.names = ir.names(model)
        self.scopes = {scope.graph: scope for scope in ir.scopes(model)}
        self.stored: dict[tuple[Any, ...], tuple[ir.Value, ...]] = {}
        self.weights: dict[ir.Value, None] = {}

    # --- tables

    def gather(self, layer: Layer) -> None:
        """y = Cast(Gather(int8 rows, i)) * Gather(scales, i)."""
        rows, scales = self.table(layer)
        axis = {"axis": ir.attribute(layer.node, "axis", 0)}
        chosen = self.node("Gather", [rows, layer.a], layer, axis, dtype=ir.DataType.INT8)
        floats = self.node("Cast", [chosen], layer, {"to": _FLOAT.value})
        steps = self.node("Gather", [scales, layer.a], layer, axis)
        self.replace(layer, self.node("Mul", [floats, steps], layer))

    def table(self, layer: Layer) -> tuple[ir.Value, ...]:
        key = (layer.weight, "rows")
        if key not in self.stored:
            self.stored[key] = tuple(self.store(rounded(layer, self.scheme, self.known), layer))
        self.weights[layer.weight] = None
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

    def smoothed(self, layer: Layer) -> ir.Value:
        """The activation, with its outliers made smaller where the layer wants it."""
        if layer.smooth is None:
            return layer.a
        factors = self.constant(1 / layer.smooth, f"{layer.node.name}_smooth", layer.scope, layer)
        return self.node("Mul", [layer.a, factors], layer)

    def fused(self, layer: Layer, a: ir.Value) -> ir.Value:
        """com.microsoft.DynamicQuantizeMatMul."""
        inputs = [a, *self.weight(layer), self.bias(layer)]
        return self.node("DynamicQuantizeMatMul", _trimmed(inputs), layer, domain=MICROSOFT)

    def product(self, layer: Layer, quantized: Sequence[ir.Value]) -> ir.Value:
        """The product of an activation that is quantized already: (values, scale, zero point)."""
        a, a_scale, a_zero = quantized
        values, scales, zero = self.weight(layer)
        bias = self.bias(layer)
        if self.scheme.vendor:
            inputs = [a, values, a_scale, scales, a_zero, zero, bias]
            return self.node("MatMulIntegerToFloat", _trimmed(inputs), layer, domain=MICROSOFT)
        integers = self.node("MatMulInteger", _trimmed([a, values, a_zero, zero]), layer, dtype=_INT32)
        floats = self.node("Cast", [integers], layer, {"to": _FLOAT.value})
        both = self.node("Mul", [a_scale, scales], layer)
        result = self.node("Mul", [floats, both], layer)
        return result if bias is None else self.node("Add", [result, bias], layer)

    def finish(self, layer: Layer, value: ir.Value) -> None:
        """Add the late term and let the result stand for the layer."""
        if layer.late is not None:
            term = layer.late
            if layer.beta != 1.0:
                factor = self.constant(np.array(layer.beta, np.float32), f"{layer.node.name}_beta", layer.scope, layer)
                term = self.node("Mul", [term, factor], layer)
            value = self.node("Add", [value, term], layer)
        self.replace(layer, value)

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

    def bias(self, layer: Layer) -> ir.Value | None:
        row = layer.bias_row()
        if row is None or layer.bias is None:
            return None
        tensor = ir.const_tensor(layer.bias)
        fits = tensor is not None and tuple(tensor.shape) == (layer.n,) and layer.beta == 1.0
        if fits and layer.bias.is_initializer():
            return layer.bias
        key = (layer.bias, layer.beta, layer.n, layer.scope.graph)
        if key not in self.stored:
            self.stored[key] = (self.constant(row, f"{layer.bias.name}_row", layer.scope, layer),)
        return self.stored[key][0]

    def owner(self, layer: Layer) -> ir.Scope:
        """The scope that holds a layer's weight, so that all of its users see what replaces it."""
        graph = layer.weight.graph
        return self.scopes[graph] if isinstance(graph, ir.Graph) and graph in self.scopes else layer.scope

    def constant(self, array: np.ndarray[Any, Any], hint: str, scope: ir.Scope, layer: Layer) -> ir.Value:
        before = layer.weight.producer() if scope.graph is not layer.scope.graph else layer.node
        return ir.new_constant(scope, self.names, hint, ir.array_tensor(array), before)

    # --- nodes

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        layer: Layer,
        attrs: dict[str, Any] | None = None,
        *,
        domain: str = "",
        dtype: ir.DataType = _FLOAT,
    ) -> ir.Value:
        """A node before the layer's own; its only output."""
        return self.nodes(op_type, inputs, layer, (dtype,), attrs, domain)[0]

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        layer: Layer,
        dtypes: Sequence[ir.DataType],
        attrs: dict[str, Any] | None = None,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """A node before the layer's own; its outputs."""
        name = self.names.fresh(f"{layer.node.name}/{op_type}")
        node = ir.new_node(op_type, inputs, attrs, domain=domain, outputs=len(dtypes), name=name)
        for value, dtype in zip(node.outputs, dtypes, strict=True):
            value.name = self.names.fresh(f"{name}_out")
            value.type = ir.TensorType(dtype)
        if domain:
            layer.scope.root.opset_imports.setdefault(domain, 1)
        layer.scope.graph.insert_before(layer.node, node)
        return node.outputs

    def replace(self, layer: Layer, value: ir.Value) -> None:
        old = layer.out
        name = old.name
        replace_value(old, value)
        remove_dead([layer.add or layer.node])
        value.name = name

    def drop_unused(self) -> None:
        """Remove the float weights that no layer uses any more."""
        for weight in self.weights:
            producer = weight.producer()
            if weight.uses():
                continue
            if producer is not None:
                remove_dead([producer])
            else:
                drop_initializer(weight)


def _trimmed(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Inputs without the absent ones at the end."""
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return kept
