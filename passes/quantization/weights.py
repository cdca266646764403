"""Products whose weights alone are stored in 4 or 8 bits, block by block along the summed axis, and tables likewise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from accelc import ir, opsets
from accelc.context import Context
from accelc.pattern import MICROSOFT

from .layers import Layer
from .numbers import quantize_rows
from .weights_numbers import BlockScheme, BlockWeight, quantize_blocks, row_block
from .writer import LayerWriter, Spend

__all__ = ["BlockScheme", "BlockWeight", "Blocked", "quantize_weights", "raise_opset", "refusal", "rounded_blocks"]

_OPSET = 21
"""The first in which DequantizeLinear has blocks and integers of 4 bits."""

Blocked = dict[tuple[int, bytes], BlockWeight]
"""Weights rounded before, by Layer.form; for one model, its copies and one scheme."""


def quantize_weights(
    model: ir.Model, layers: Iterable[Layer], blocks: BlockScheme, spend: Spend, known: Blocked | None = None
) -> list[Layer]:
    """Replace layers by their weight-only form, as long as spend(rule, node) allows. Returns those replaced.

    Ask `refusal` and call `raise_opset` before. In the portable form the activation is rounded only by sessions with
    the runtime's optimizations, which fuse it into the vendor's. known: is used and filled.
    """
    done = []
    for layer in layers:
        if not spend("quantize", layer.path):
            break
        done.append(layer)
    writer = _Writer(model, blocks, {} if known is None else known)
    writer.find_shared(done)
    for layer in done:
        writer.write(layer)
    writer.drop_unused()
    return done


def refusal(model: ir.Model, ctx: Context, blocks: BlockScheme) -> str:
    """Why the target cannot run what `quantize_weights` writes; empty when it can."""
    if blocks.vendor:
        types = {"T1": ir.DataType.FLOAT, "T2": ir.DataType.UINT8}
        table = {"T1": ir.DataType.UINT8, "T2": ir.DataType.FLOAT}
        answers = [
            ctx.allows(MICROSOFT, "MatMulNBits", 1, types),
            ctx.allows(MICROSOFT, "GatherBlockQuantized", 1, table),
        ]
    else:
        opset = max(_OPSET, model.graph.opset_imports.get("", 0))
        dtype = ir.DataType[f"{'INT' if blocks.symmetric else 'UINT'}{blocks.bits}"]
        blocked = ctx.opset_blocker(model.graph, _OPSET)
        answers = [
            f"blocks need opset {_OPSET}, and the model cannot be raised: {blocked}" if blocked else True,
            ctx.allows("", "DequantizeLinear", opset, {"T1": dtype, "T2": ir.DataType.FLOAT}),
        ]
    return next((answer for answer in answers if isinstance(answer, str)), "")


def raise_opset(model: ir.Model, ctx: Context, blocks: BlockScheme) -> None:
    """Raise the model's opset where the form needs it, and say so. Call only when `refusal` is empty."""
    before = model.graph.opset_imports.get("", 0)
    if not blocks.vendor and before < _OPSET:
        opsets.raise_to(model.graph, _OPSET, ir.names(model))
        opsets.settle_ir_version(model)
        ctx.note(f"opset raised from {before} to {_OPSET} for weights in blocks")


def rounded_blocks(layer: Layer, blocks: BlockScheme, known: Blocked) -> BlockWeight:
    """The weight of a product, or the rows of a table as columns [H, V]; known: is used and filled."""
    if layer.form not in known:
        known[layer.form] = _table(layer, blocks) if layer.is_gather else quantize_blocks(layer.matrix(), blocks)
    return known[layer.form]


def _table(layer: Layer, blocks: BlockScheme) -> BlockWeight:
    """A table by rows: in 8 bits one block for each, in 4 bits blocks of the scheme's size."""
    bits: Literal[4, 8] = 4 if blocks.table_bits == 4 and layer.n % 2 == 0 else 8
    scheme = BlockScheme(bits=bits, block_size=blocks.block_size, clip=blocks.clip)
    return quantize_blocks(layer.matrix().T, scheme, row_block(layer.n) if scheme.bits == 8 else None)


class _Writer(LayerWriter):
    """Writes products with blocks, and tables by rows or in the blocks that a product reads too."""

    def __init__(self, model: ir.Model, blocks: BlockScheme, known: Blocked) -> None:
        super().__init__(model)
        self.blocks, self.known = blocks, known
        self.shared: dict[ir.Value, Layer] = {}

    def find_shared(self, layers: Sequence[Layer]) -> None:
        """Find tables that products multiply by, in the same bytes. (Zero points are packed differently.)"""
        tables = {layer.weight for layer in layers if layer.is_gather and layer.a.shape is not None}
        if not self.blocks.vendor or not self.blocks.symmetric:
            return
        for layer in layers:
            plain = layer.transposed and layer.alpha == 1.0 and layer.smooth is None
            if plain and layer.weight in tables and layer.k % self.blocks.size_for(layer.k) == 0:
                self.shared.setdefault(layer.weight, layer)

    def write(self, layer: Layer) -> None:
        self.weights[layer.weight] = None
        if layer.is_gather:
            self.table(layer)
            return
        a, bias = self.smoothed(layer), self.bias(layer)
        self.finish(layer, self.fused(layer, a, bias) if self.blocks.vendor else self.plain(layer, a, bias))

    # --- products

    def fused(self, layer: Layer, a: ir.Value, bias: ir.Value | None) -> ir.Value:
        """com.microsoft.MatMulNBits."""
        values, scales, zeros = self.packed(layer)
        attrs = {
            "K": layer.k,
            "N": layer.n,
            "bits": self.blocks.bits,
            "block_size": self.blocks.size_for(layer.k),
            "accuracy_level": self.blocks.accuracy_level,
        }
        return self.vendor_node("MatMulNBits", [a, values, scales, zeros, None, bias], layer, attrs)

    def packed(self, layer: Layer) -> tuple[ir.Value | None, ...]:
        """(values, scales, zero points or None) of a product's weight."""
        key = self.key(layer)
        if key not in self.stored:
            weight = rounded_blocks(layer, self.blocks, self.known)
            zeros = weight.packed_zeros()
            arrays: dict[str, np.ndarray[Any, Any]] = {"blocks": weight.packed(), "scale": weight.scales.reshape(-1)}
            if zeros is not None:
                arrays["zero_point"] = zeros.reshape(-1)
            self.stored[key] = tuple(self.weight(array, part, layer) for part, array in arrays.items())
        return (*self.stored[key], None)[:3]

    def plain(self, layer: Layer, a: ir.Value, bias: ir.Value | None) -> ir.Value:
        """MatMul with a DequantizeLinear of its own, which is the form that the runtime fuses.

        It does so only with weights of the same graph, and does not load models with weights around a subgraph.
        """
        key = (*self.key(layer), layer.scope.graph)
        if key not in self.stored:
            values, scales, zeros = rounded_blocks(layer, self.blocks, self.known).columns()
            dtype = ir.DataType[f"{'INT' if zeros is None else 'UINT'}{self.blocks.bits}"]
            arrays = {"blocks": (values, dtype), "scale": (scales, None), "zero_point": (zeros, dtype)}
            self.stored[key] = tuple(
                self.constant(array, f"{layer.weight.name}_{part}", layer.scope, layer, kind)
                for part, (array, kind) in arrays.items()
                if array is not None
            )
        attrs = {"axis": 0, "block_size": self.blocks.size_for(layer.k)}
        weight = self.node("DequantizeLinear", self.stored[key], layer, attrs)
        product = self.node("MatMul", [a, weight], layer)
        return product if bias is None else self.node("Add", [product, bias], layer)

    # --- tables

    def table(self, layer: Layer) -> None:
        product = self.shared.get(layer.weight)
        if product is not None:
            self.replace(layer, self.shared_rows(layer, product))
        elif self.blocks.vendor:
            self.replace(layer, self.rows(layer))
        else:
            values, scales = self.plain_rows(layer)
            self.gather_rows(layer, values, scales)

    def shared_rows(self, layer: Layer, product: Layer) -> ir.Value:
        """Rows from the blocks of a product: gathered as [..., B, block size], then as [..., H]."""
        values, flat, _ = self.packed(product)
        size = self.blocks.size_for(product.k)
        key = (product.weight, "scale of blocks")
        if key not in self.stored:
            count = product.k // size
            self.stored[key] = (self.weight(np.array([product.n, count, 1], np.int64), "scale_shape", product),)
        scales = self.node("Reshape", [flat, *self.stored[key]], layer)
        blocks = self.gathered_blocks(layer, values, scales, self.blocks.bits, size, 2)
        shape = np.array([0] * len(layer.a.shape or ()) + [layer.n], np.int64)
        return self.node("Reshape", [blocks, self.constant(shape, "row_shape", layer.scope, layer)], layer)

    def rows(self, layer: Layer) -> ir.Value:
        """Rows of a table that stands alone."""
        weight = rounded_blocks(layer, self.blocks, self.known)
        key = (layer.weight, "rows")
        if key not in self.stored:
            width = layer.n * weight.bits // 8
            packed = np.ascontiguousarray(weight.packed().reshape(layer.k, -1)[:, :width])
            self.stored[key] = (self.weight(packed, "rows", layer), self.weight(weight.scales, "row_scale", layer))
        values, scales = self.stored[key]
        return self.gathered_blocks(layer, values, scales, weight.bits, weight.values.shape[2], 1)

    def plain_rows(self, layer: Layer) -> tuple[ir.Value, ...]:
        """(rows in int8, scales)."""
        key = (layer.weight, "rows")
        if key not in self.stored:
            weight = quantize_rows(layer.matrix())
            self.stored[key] = (self.weight(weight.values, "rows", layer), self.weight(weight.scales, "scale", layer))
        return self.stored[key]

    # --- weights

    def key(self, layer: Layer) -> tuple[Any, ...]:
        return layer.weight, layer.transposed, layer.alpha, layer.form[1]

    def weight(
        self, array: np.ndarray[Any, Any], part: str, layer: Layer, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Something that belongs to a layer's weight, where the weight is."""
        return self.constant(array, f"{layer.weight.name}_{part}", self.owner(layer), layer, dtype)
