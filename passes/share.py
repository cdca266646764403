"""Weights stored twice: once as they are, and once more transposed or in another shape."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.layout_axes import Perm, is_still

Array = np.ndarray[Any, Any]

_RULES = ("transposed_weight", "reshaped_weight")
_MAX_RANK = 4
_SAMPLES = 64
_CHUNK, _TILE = 1 << 20, 512
"""Elements of a vector and rows and columns of a matrix that are compared at a time."""
_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul")


@dataclass(frozen=True)
class Share(Pass):
    """Keep one of two weights that hold the same elements, transposed or in another shape.

    The other is made of it by a Transpose or Reshape, which the runtime carries out once, when it loads the model; a
    Gemm reads the transposed weight itself. Language models hold their embedding twice like this. Weights are read
    piece by piece, and only where their first, last and some other elements agree.

    min_bytes: of weights that are looked at; a smaller one is not worth a node.
    """

    name = "share"
    min_bytes: int = 4096

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return _RULES

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        scope, names = ir.Scope(model.graph, model.graph, model.graph), ir.names(model)
        merged = saved = 0
        for group in _alike(model.graph, self.min_bytes):
            kept: list[ir.Value] = []
            for value in sorted(group, key=_is_factor):
                found = next(((other, perm) for other in kept if (perm := relation(other, value)) is not None), None)
                if found is None:
                    kept.append(value)
                    continue
                other, perm = found
                if ctx.spend(_RULES[0] if perm else _RULES[1], f"weight {value.name}"):
                    saved += int(value.const_value.nbytes) if value.const_value is not None else 0
                    _replace(value, other, perm, scope, names)
                    merged += 1
        return PassResult(merged, details={"bytes": saved})


def _alike(graph: ir.Graph, least: int) -> Iterator[list[ir.Value]]:
    """Weights of one type and number of elements, with the same first and last element and the same sum of bytes."""
    sizes: dict[Any, list[ir.Value]] = defaultdict(list)
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or not ir.use_count(value):
            continue
        if tensor.dtype == ir.DataType.STRING or tensor.dtype.bitwidth < 8 or tensor.nbytes < least:
            continue
        sizes[tensor.dtype, int(tensor.size)].append(value)
    for same in sizes.values():
        ends: dict[bytes, list[ir.Value]] = defaultdict(list)
        for value in same if len(same) > 1 else ():
            flat = _array(value).reshape(-1)
            ends[flat[:1].tobytes() + flat[-1:].tobytes()].append(value)
        for group in ends.values():
            sums: dict[int, list[ir.Value]] = defaultdict(list)
            for value in group if len(group) > 1 else ():
                sums[_sum_of_bytes(_array(value))].append(value)
            yield from (each for each in sums.values() if len(each) > 1)


def _sum_of_bytes(array: Array) -> int:
    """The same for every order of the elements."""
    return int(np.ascontiguousarray(array).view(np.uint8).reshape(-1).sum(dtype=np.uint64))


def _array(value: ir.Value) -> Array:
    """The elements of a weight; not held by the caller longer than needed."""
    assert value.const_value is not None
    return value.const_value.numpy()


def _is_factor(value: ir.Value) -> bool:
    """Whether only matrix products use a weight; of two, that one is made of the other."""
    return all(use.node.op_type in _PRODUCTS for use in value.uses())


def relation(one: ir.Value, other: ir.Value) -> Perm | None:
    """The permutation that makes `other` of `one`, empty where a new shape does; None where neither."""
    a, b = _array(one), _array(other)
    if a.shape != b.shape and _same(a.reshape(-1), b.reshape(-1)):
        return ()
    if a.ndim != b.ndim or not 2 <= a.ndim <= _MAX_RANK:
        return None
    for perm in permutations(range(a.ndim)):
        if not is_still(perm) and tuple(a.shape[axis] for axis in perm) == b.shape and _same(a.transpose(perm), b):
            return perm
    return None


def _same(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape hold the same bytes."""
    places = np.unravel_index(np.linspace(0, a.size - 1, _SAMPLES).astype(np.int64), a.shape)
    if a[places].tobytes() != b[places].tobytes():
        return False
    if a.ndim == 1:
        return all(a[at : at + _CHUNK].tobytes() == b[at : at + _CHUNK].tobytes() for at in range(0, len(a), _CHUNK))
    tiles = [
        (slice(row, row + _TILE), ..., slice(column, column + _TILE))
        for row in range(0, a.shape[0], _TILE)
        for column in range(0, a.shape[-1], _TILE)
    ]
    return all(a[tile].tobytes() == b[tile].tobytes() for tile in tiles)


def _replace(value: ir.Value, source: ir.Value, perm: Perm, scope: ir.Scope, names: ir.Names) -> None:
    """Let `source` stand for a weight, which then goes."""
    uses = list(value.uses())
    if perm == (1, 0) and all(_reads_transposed(use.node, use.idx) for use in uses):
        for use in uses:
            use.node.attributes["transB"] = ir.make_attr("transB", 1 - int(ir.attribute(use.node, "transB", 0)))
        value.replace_all_uses_with(source)
    else:
        if perm:
            node = ir.new_node("Transpose", [source], {"perm": list(perm)})
        else:
            shape = ir.array_tensor(np.array(_array(value).shape, np.int64))
            wanted = ir.new_constant(scope, names, f"{value.name}_shape", shape)
            node = ir.new_node("Reshape", [source, wanted])
        node.name = names.fresh(f"{value.name}_shared")
        node.meta["accelc.rule"] = _RULES[0] if perm else _RULES[1]
        (made,) = node.outputs
        made.name, made.type, made.shape = names.fresh(f"{value.name}_view"), value.type, value.shape
        scope.graph.insert_before(scope.graph[0], node)
        value.replace_all_uses_with(made)
    del scope.graph.initializers[str(value.name)]


def _reads_transposed(node: ir.Node, index: int) -> bool:
    return node.op_type == "Gemm" and not node.domain and index == 1
