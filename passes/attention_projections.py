"""The projections that make q, k and v of one value, as one weight and one bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from accelc import ir
from accelc.guards import known_equal
from accelc.rules import Match

from ._folding import Array
from .attention_block import Block, rows


@dataclass(frozen=True)
class Projections:
    """[q k v] = x weight + bias, with x [B, S, E], weight [E, 3 H D] and bias [3 H D]."""

    x: ir.Value
    weight: Array
    bias: Array
    heads: int
    width: int


def projections(m: Match, block: Block) -> Projections:
    """The projections of a block. A miss where they are not three of one value that nothing else uses."""
    found = [_projection(m, each) for each in (rows(block.q), rows(block.kt, swapped=True), rows(m.v))]
    sources = [x for x, _, _ in found]
    m.require(all(x is sources[0] for x in sources), "q, k and v are projections of several values")
    weights = [weight for _, weight, _ in found]
    m.require(len({weight.shape for weight in weights}) == 1, "the projections have several sizes")
    width = weights[0].shape[1]
    biases = [np.zeros(width, weights[0].dtype) if bias is None else bias for _, _, bias in found]
    heads = (ir.dims(block.q) or (None, None))[1]
    m.require(isinstance(heads, int) and {heads} == {(ir.dims(m.v) or (None, None))[1]}, "the number of heads varies")
    assert isinstance(heads, int)
    return Projections(sources[0], np.concatenate(weights, 1), np.concatenate(biases), heads, width)


def _projection(m: Match, split: ir.Value | None) -> tuple[ir.Value, Array, Array | None]:
    """(x, weight [E, N], bias [N] or None) of a [B, S, H, D]."""
    node = split.producer() if split is not None else None
    m.require(node is not None and node.op_type == "Reshape" and not node.domain, "q, k or v is no projection")
    assert node is not None
    assert split is not None
    flat, shape = node.inputs[0], ir.dims(split) or ()
    before = ir.dims(flat) or ()
    width = shape[2] * shape[3] if isinstance(shape[2], int) and isinstance(shape[3], int) else None
    m.require(len(before) == 3 and known_equal(before[:2], shape[:2]) and before[2] == width, "heads are cut otherwise")
    assert flat is not None
    bias: Array | None = None
    product = flat.producer()
    if product is not None and product.op_type == "Add" and not product.domain:
        m.require(ir.use_count(flat) == 1, f"{flat.name} is used elsewhere too")
        flat, bias = _summands(m, product, width)
        product = flat.producer()
    m.require(product is not None and product.op_type == "MatMul" and not product.domain, "q, k or v is no projection")
    assert product is not None
    x, weight = product.inputs
    array = ir.const(weight)
    m.require(array is not None and array.ndim == 2 and array.shape[1] == width, f"{product.name} has no weight")
    used_once = ir.use_count(flat) == 1 and weight is not None and ir.use_count(weight) == 1
    m.require(used_once, f"the weight or result of {product.name} is used elsewhere too")
    m.require(x is not None and len(ir.dims(x) or ()) == 3, "what is projected is not [B, S, E]")
    assert x is not None
    assert array is not None
    return x, array, bias


def _summands(m: Match, node: ir.Node, width: int | None) -> tuple[ir.Value, Array]:
    """The product and the bias [N] of an Add."""
    for value, other in (node.inputs, node.inputs[::-1]):
        array = ir.const(other)
        if value is not None and array is not None and array.shape == (width,):
            return value, array
    return m.fail(f"{node.name} adds something else than one bias")
