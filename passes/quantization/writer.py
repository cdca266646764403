"""What every form of a quantized layer needs when it is written into a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT
from accelc.rewrite import drop_initializer, remove_dead, replace_value

from .layers import Layer

Spend = Callable[[str, str], bool]
Attributes = dict[str, Any]

_FLOAT = ir.DataType.FLOAT


class LayerWriter:
    """Puts nodes and weights into one model; a weight that several layers share is stored once.

    stored: what was stored, by whatever tells it from others. weights: the float weights that may have become unused.
    """

    def __init__(self, model: ir.Model) -> None:
        self.names = ir.names(model)
        self.scopes = {scope.graph: scope for scope in ir.scopes(model)}
        self.stored: dict[tuple[Any, ...], tuple[ir.Value, ...]] = {}
        self.weights: dict[ir.Value, None] = {}

    # --- around a product

    def smoothed(self, layer: Layer) -> ir.Value:
        """The activation, with its outliers made smaller where the layer wants it."""
        if layer.smooth is None or layer.divided:
            return layer.a
        factors = self.constant(1 / layer.smooth, f"{layer.node.name}_smooth", layer.scope, layer)
        return self.node("Mul", [layer.a, factors], layer)

    def bias(self, layer: Layer) -> ir.Value | None:
        """The constant term as [N]."""
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

    def finish(self, layer: Layer, value: ir.Value) -> None:
        """Add the late term and let the result stand for the layer."""
        if layer.late is not None:
            term = layer.late
            if layer.beta != 1.0:
                factor = self.constant(np.array(layer.beta, np.float32), f"{layer.node.name}_beta", layer.scope, layer)
                term = self.node("Mul", [term, factor], layer)
            value = self.node("Add", [value, term], layer)
        self.replace(layer, value)

    # --- tables

    def gather_rows(self, layer: Layer, rows: ir.Value, scales: ir.Value) -> None:
        """y = Cast(Gather(int8 rows, i)) * Gather(scales, i)."""
        axis = {"axis": ir.attribute(layer.node, "axis", 0)}
        chosen = self.node("Gather", [rows, layer.a], layer, axis, dtype=ir.DataType.INT8)
        floats = self.node("Cast", [chosen], layer, {"to": _FLOAT.value})
        steps = self.node("Gather", [scales, layer.a], layer, axis)
        self.replace(layer, self.node("Mul", [floats, steps], layer))

    def gathered_blocks(
        self, layer: Layer, values: ir.Value | None, scales: ir.Value, bits: int, block_size: int, axis: int
    ) -> ir.Value:
        """com.microsoft.GatherBlockQuantized with blocks along an axis."""
        attrs = {"gather_axis": 0, "quantize_axis": axis, "bits": bits, "block_size": block_size}
        return self.vendor_node("GatherBlockQuantized", [values, layer.a, scales], layer, attrs)

    # --- weights

    def owner(self, layer: Layer) -> ir.Scope:
        """The scope that holds a layer's weight, so that all of its users see what replaces it."""
        graph = layer.weight.graph
        return self.scopes[graph] if isinstance(graph, ir.Graph) and graph in self.scopes else layer.scope

    def constant(
        self,
        array: np.ndarray[Any, Any],
        hint: str,
        scope: ir.Scope,
        layer: Layer,
        dtype: ir.DataType | None = None,
    ) -> ir.Value:
        """A constant in a scope, where a layer's weight or node stands. dtype: where numpy's own does not say it."""
        before = layer.weight.producer() if scope.graph is not layer.scope.graph else layer.node
        return ir.new_constant(scope, self.names, hint, ir.array_tensor(array, dtype), before)

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

    # --- nodes

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        layer: Layer,
        attrs: Attributes | None = None,
        *,
        domain: str = "",
        dtype: ir.DataType = _FLOAT,
    ) -> ir.Value:
        """A node before the layer's own; its only output."""
        return self.nodes(op_type, inputs, layer, (dtype,), attrs, domain)[0]

    def vendor_node(
        self, op_type: str, inputs: Sequence[ir.Value | None], layer: Layer, attrs: Attributes | None = None
    ) -> ir.Value:
        """A node of com.microsoft that computes floats; absent inputs at the end are left out."""
        return self.node(op_type, trimmed(inputs), layer, attrs, domain=MICROSOFT)

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        layer: Layer,
        dtypes: Sequence[ir.DataType],
        attrs: Attributes | None = None,
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
        """Let a value stand for what the layer computed, under its name."""
        old = layer.out
        name = old.name
        replace_value(old, value)
        remove_dead([layer.add or layer.node])
        value.name = name


def trimmed(inputs: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Inputs without the absent ones at the end."""
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return kept
