"""Writing static int8 into a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import prod
from typing import Any

import numpy as np

from accelc import ir, opsets
from accelc.pattern import MICROSOFT
from accelc.rewrite import remove_dead, replace_value
from accelc.target import Target

from .static_nodes import StaticFound
from .static_numbers import Floats, Params, StaticScheme, StaticWeight, quantize_weight
from .static_operators import StaticNode, clamp_bounds
from .static_ranges import Ranges, Scales
from .static_stem import Stem, find_stem
from .static_values import IntegerValues

Spend = Callable[[str, str], bool]

_FLOAT = ir.DataType.FLOAT
_MOST_STEM = {True: 256, False: 64}
"""Multiplications for one result up to which a stem is written anew, where products are exact and where not."""
_TILED_PRODUCTS = 768
_TILED_PIXELS = 256
"""Long sums at few places: there tiles beat the kernel that reads the image directly."""


def quantize_static(
    model: ir.Model,
    found: StaticFound,
    chosen: Collection[int],
    ranges: Ranges,
    scheme: StaticScheme,
    spend: Spend,
    target: Target | None = None,
) -> tuple[list[StaticNode], dict[str, str]]:
    """Let chosen nodes compute in integers, as long as spend(rule, node) allows.

    ranges: by value name. The opset is raised where it must be. Returns the nodes done, and of the others that were
    chosen: path -> the reason.
    """
    nodes = [each for each in found.nodes if each.index in chosen]
    reason = opset_reason(model, scheme, target)
    if reason:
        return [], {each.path: reason for each in nodes}
    nodes, refused = _with_ranges(nodes, found, ranges, scheme)
    granted = []
    for each in nodes:
        if not spend("quantize", each.path):
            break
        granted.append(each)
    if granted:
        raise_opset(model, scheme)
        Emitter(model, found, granted, ranges, scheme).run()
    return granted, refused


def raise_opset(model: ir.Model, scheme: StaticScheme) -> None:
    """Bring a model to the opset that a scheme needs, where `opset_reason` is empty."""
    if model.graph.opset_imports.get("", 0) < _opset(scheme):
        opsets.raise_to(model.graph, _opset(scheme), ir.names(model))
        opsets.settle_ir_version(model)


def _opset(scheme: StaticScheme) -> int:
    return 13 if scheme.wide and scheme.vendor else scheme.least_opset


def opset_reason(model: ir.Model, scheme: StaticScheme, target: Target | None = None) -> str:
    """Why the opset that a scheme needs cannot be had; empty when it can."""
    needed = _opset(scheme)
    reason = opsets.blocker(model.graph, needed, target)
    return f"needs opset {needed}, and the model cannot be raised: {reason}" if reason else ""


def _with_ranges(
    nodes: list[StaticNode], found: StaticFound, ranges: Ranges, scheme: StaticScheme
) -> tuple[list[StaticNode], dict[str, str]]:
    """The nodes whose scales are known, and why others stay in float."""
    refused: dict[str, str] = {}
    while True:
        scales = Scales(nodes, ranges, scheme)
        indices = {each.index for each in nodes}
        kept = []
        for each in nodes:
            try:
                for value in _scaled(each, found, indices):
                    scales.params(value)
                reason = "" if found.in_chosen(each.out, indices) else scales.mixture(each)
            except ValueError as error:
                reason = str(error)
            if reason:
                refused[each.path] = reason
            else:
                kept.append(each)
        if len(kept) == len(nodes):
            return kept, refused
        nodes = kept


def _scaled(each: StaticNode, found: StaticFound, chosen: Collection[int]) -> list[ir.Value]:
    """The values whose scales a node needs."""
    floats = each.may_stay_float and not found.in_chosen(each.out, chosen)
    return each.reads if floats else [*each.reads, *each.outs]


class Emitter:
    """Writes the integer form of nodes."""

    def __init__(
        self, model: ir.Model, found: StaticFound, nodes: list[StaticNode], ranges: Ranges, scheme: StaticScheme
    ) -> None:
        self.nodes, self.found, self.scheme = nodes, found, scheme
        self.chosen = {each.index for each in nodes}
        self.scales = Scales(nodes, ranges, scheme)
        self.values = IntegerValues(model, self.scales, scheme)
        self.stems: dict[tuple[ir.Value, Stem], ir.Value] = {}

    def run(self) -> None:
        """Put the integer forms in the place of the nodes, under their names."""
        for each in self.nodes:
            self.values.before = each.node
            self.emit(each)
        for each in reversed(self.nodes):
            for value in each.outs:
                if self.values.knows(value) and (value.uses() or value.is_graph_output()):
                    replace_value(value, self.values.real(self.values.integer(value)))
            remove_dead([node for node in (each.clamp, each.add, each.node) if node is not None])
        for old, heir in self.values.heirs.items():
            if old.graph is None:
                heir.name = old.name

    def emit(self, each: StaticNode) -> None:
        kind = each.node.op_type
        if kind == "Conv":
            self.conv(each)
        elif kind in ("MatMul", "FusedMatMul", "Gemm"):
            if each.weight is None:
                self.finish(each, *self.plain(each, [self.read(value) for value in each.node.inputs]))
            else:
                self.product(each)
        elif each.role == "mover" and not self.scheme.wide:
            self.move(each)
        elif kind == "Concat" and each in self.scales.joined and not self.scheme.wide:
            inputs = [self.values.integer(value) for value in each.reads]
            made = self.values.node(kind, inputs, self.scheme.dtype, ir.dims(each.out), self.attributes(each))
            self.values.adopt(each.out, made, self.values.params[inputs[0]])
        elif kind == "ReduceMean":
            self.mean(each)
        else:
            self.glue(each)

    # --- products

    def conv(self, each: StaticNode) -> None:
        """Conv between DequantizeLinear and QuantizeLinear, which the runtime makes QLinearConv."""
        node, x = each.node, self.values.integer(each.reads[0])
        weight, attrs = _array(each.weight), self.attributes(each)
        stem = None if self.scheme.wide else find_stem(node, weight.shape, _MOST_STEM[self.scheme.exact])
        if stem is not None:
            x = self.spread(each.reads[0], x, stem)
            weight = stem.weight(weight)
            attrs = {k: v for k, v in attrs.items() if not (stem.attributes and k == "auto_pad")} | dict(
                stem.attributes
            )
        depthwise = weight.shape[1] == 1 and ir.attribute(node, "group", 1) == len(weight)
        integers = self.weight(each, weight, self.values.params[x], alone=depthwise)
        zero = -1 if self.scheme.tiles and _prefers_tiles(weight.shape, ir.dims(node.outputs[0])) else 0
        inputs = [self.values.real(x), *self.constants(each, integers, 0, self.values.params[x], zero=zero)]
        self.finish(
            each, self.values.node("Conv", inputs, _FLOAT, ir.dims(node.outputs[0]), attrs, name=node.name or "")
        )

    def spread(self, value: ir.Value, integers: ir.Value, stem: Stem) -> ir.Value:
        """An image with few channels as one whose number of channels suits the kernel."""
        if (value, stem) not in self.stems:
            params = self.values.params[integers]
            made = stem.spread(self.values, integers, params)
            self.values.params[made] = params
            self.stems[value, stem] = made
        return self.stems[value, stem]

    def product(self, each: StaticNode) -> None:
        """A product with a constant weight. Its result stays integer only where integers are read."""
        node, x = each.node, self.values.integer(each.reads[0])
        params = self.values.params[x]
        weight = _array(each.weight)
        if ir.attribute(node, "transB", 0):
            weight = weight.T
        weight = weight * np.float32(ir.attribute(node, "alpha", 1.0))
        integers = self.weight(each, np.ascontiguousarray(weight.T), params)
        matrix = np.ascontiguousarray(integers.values.T)
        dims = ir.dims(node.outputs[0])
        to_integers = self.found.in_chosen(each.out, self.chosen)
        rank = len(ir.dims(each.reads[0]) or ())
        fused = self.scheme.vendor and self.scheme.qoperator and not self.scheme.wide
        if rank == 2 and (to_integers or node.op_type == "Gemm") and not (fused and not to_integers):
            inputs = [self.values.real(x), *self.constants(each, integers, 1, params, matrix)]
            self.finish(each, self.values.node("Gemm", inputs, _FLOAT, dims, name=node.name or ""))
        elif fused and (not to_integers or each.bias is not None):
            self.finish(each, self.to_float(each, x, integers, matrix))
        else:
            inputs = [self.values.real(x), self.constants(each, integers, 1, params, matrix)[0]]
            made = self.values.node("MatMul", inputs, _FLOAT, dims, name=node.name or "")
            row = self.bias_row(each, matrix.shape[1])
            if row is not None:
                made = self.values.node("Add", [made, self.values.constant(row, f"{node.name}_bias")], _FLOAT, dims)
            self.finish(each, made)

    def to_float(self, each: StaticNode, x: ir.Value, weight: StaticWeight, matrix: np.ndarray[Any, Any]) -> ir.Value:
        """com.microsoft.MatMulIntegerToFloat: the integer product, scaled and with its float bias."""
        params, values = self.values.params[x], self.values
        hint = f"{each.weight.name if each.weight is not None else ''}"
        inputs: list[ir.Value | None] = [
            x,
            values.constant(matrix, f"{hint}_quantized"),
            values.scale(params.scale),
            values.constant(weight.scales, f"{hint}_scale"),
            values.zero(params),
            values.constant(np.zeros(weight.scales.shape, np.int8), f"{hint}_zero_point"),
        ]
        row = self.bias_row(each, matrix.shape[1])
        if row is not None:
            inputs.append(values.constant(row, f"{each.node.name}_bias"))
        dims = ir.dims(each.node.outputs[0])
        return values.node("MatMulIntegerToFloat", inputs, _FLOAT, dims, domain=MICROSOFT, name=each.node.name or "")

    def weight(self, each: StaticNode, weight: Floats, x: Params, *, alone: bool = False) -> StaticWeight:
        """The integers of a weight [N, ...] and its bias."""
        return quantize_weight(weight, self.bias_row(each, len(weight)), x.scale, self.scheme, alone=alone)

    def constants(
        self,
        each: StaticNode,
        weight: StaticWeight,
        axis: int,
        x: Params,
        values: np.ndarray[Any, Any] | None = None,
        zero: int = 0,
    ) -> list[ir.Value]:
        """Weight and bias of a product as floats that come from integers. values: the weight in another order."""
        hint = str(each.weight.name if each.weight is not None else "")
        array = weight.values if values is None else values
        made = [self.values.dequantized(array, weight.scales, hint, axis, zero)]
        if weight.bias is not None:
            scales = np.float32(x.scale) * weight.scales
            name = str(each.bias.name if each.bias is not None else hint)
            made.append(self.values.dequantized(weight.bias, scales, name, 0))
        return made

    @staticmethod
    def bias_row(each: StaticNode, size: int) -> Floats | None:
        """The constant term as [N], with the beta of a Gemm in it."""
        array = ir.const(each.bias)
        beta = float(ir.attribute(each.node, "beta", 1.0)) if each.node.op_type == "Gemm" else 1.0
        if array is None or beta == 0.0:
            return None
        return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), size) * np.float32(beta))

    # --- everything else

    def glue(self, each: StaticNode) -> None:
        """The operator as it is, between DequantizeLinear and QuantizeLinear."""
        inputs = [self.read(value) if index in each.inputs else value for index, value in enumerate(each.node.inputs)]
        for value, made in zip(each.outs, self.plain(each, inputs), strict=True):
            if value is each.out:
                self.finish(each, made)
            elif ir.use_count(value) or value.is_graph_output():
                params = self.scales.params(value)
                self.values.adopt(value, self.values.quantize(made, params), params)

    def mean(self, each: StaticNode) -> None:
        """GlobalAveragePool, which has an integer kernel, and the shape of the mean."""
        dims = ir.dims(each.reads[0]) or ()
        kept = [*dims[:2], *[1] * (len(dims) - 2)]
        inputs = [self.read(each.reads[0])]
        pooled = self.values.node("GlobalAveragePool", inputs, _FLOAT, kept, name=each.node.name or "")
        params = self.scales.params(each.out)
        made = self.values.quantize(pooled, params)
        if not ir.attribute(each.node, "keepdims", 1):
            axes = self.values.ints(list(range(2, len(dims))))
            made = self.values.node("Squeeze", [made, axes], self.scheme.dtype, dims[:2])
        self.values.adopt(each.out, made, params)

    def move(self, each: StaticNode) -> None:
        """The operator on integers: what it moves keeps its scale."""
        node = each.node
        first = self.values.integer(each.reads[0])
        params = self.values.params[first]
        op_type, attrs = node.op_type, self.attributes(each)
        inputs = [first, *node.inputs[1:]]
        if op_type in ("Relu", "Clip"):
            op_type, attrs, inputs = "Clip", {}, [first, *self.bounds(node, params)]
        elif op_type == "Pad" and ir.attribute(node, "mode", "constant") in ("constant", b"constant"):
            inputs = [first, node.inputs[1], self.values.zero(params), *node.inputs[3:]]
        shapes = [ir.dims(value) for value in each.outs]
        outs = self.values.nodes(op_type, inputs, self.scheme.dtype, shapes, attrs, name=node.name or "")
        for value, made in zip(each.outs, outs, strict=True):
            self.values.adopt(value, made, params)

    def bounds(self, node: ir.Node, params: Params) -> list[ir.Value]:
        """The limits of a clamp in integers."""
        found = clamp_bounds(node)
        assert found is not None
        info = np.iinfo(self.scheme.numpy)
        reach = [(bound - params.zero) * float(params.scale) for bound in (info.min, info.max)]
        limits = params.quantize(np.clip(np.array(found), reach[0], reach[1]), self.scheme.numpy)
        return [self.values.constant(np.array(limit, self.scheme.numpy), "limit") for limit in limits]

    def plain(self, each: StaticNode, inputs: list[ir.Value | None]) -> Sequence[ir.Value]:
        """A copy of the operator with other inputs; its outputs."""
        node = each.node
        shapes = [ir.dims(value) for value in node.outputs[: len(each.outs)]]
        return self.values.nodes(node.op_type, inputs, _FLOAT, shapes, self.attributes(each), name=node.name or "")

    def read(self, value: ir.Value | None) -> ir.Value | None:
        """An activation as floats that come from integers."""
        return None if value is None else self.values.real(self.values.integer(value))

    def finish(self, each: StaticNode, made: ir.Value) -> None:
        """Make integers of a result, or let it stand as it is where nobody reads integers."""
        if self.found.in_chosen(each.out, self.chosen) or not each.may_stay_float:
            self.settle(each, self.values.quantize(made, self.scales.params(each.out)), self.scales.params(each.out))
            return
        if each.clamp is not None:
            inputs = [made, *each.clamp.inputs[1:]]
            attrs = ir.attributes(each.clamp)
            name = each.clamp.name or ""
            made = self.values.node(each.clamp.op_type, inputs, _FLOAT, ir.dims(each.out), attrs, name=name)
        self.settle(each, made, None)

    def settle(self, each: StaticNode, made: ir.Value, params: Params | None) -> None:
        """Let a result stand for what the node computes. params: of integers; None for floats."""
        if params is None:
            replace_value(each.out, made)
        else:
            self.values.adopt(each.out, made, params)

    @staticmethod
    def attributes(each: StaticNode) -> dict[str, Any]:
        return dict(ir.attributes(each.node))


def _prefers_tiles(weight: tuple[int, ...], out: tuple[ir.Dim, ...] | None) -> bool:
    """Whether a convolution is faster as a matrix product. The runtime makes it one where zero points are not zero."""
    places = [dim for dim in (out or ())[2:] if isinstance(dim, int)]
    return prod(weight[1:]) >= _TILED_PRODUCTS and len(places) == len(weight) - 2 and prod(places) <= _TILED_PIXELS


def _array(value: ir.Value | None) -> Floats:
    array = ir.const(value)
    assert array is not None
    return array
