"""Weights that are stored twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.pass_base import Pass, PassResult

_SMALL = 4096
"""Tensors up to this many bytes are compared by their bytes, larger ones by a hash of them."""
_CHUNK = 1 << 20
_SAMPLE = 64
"""Bytes looked at at the start, in the middle and at the end before a whole tensor is hashed."""


@dataclass(frozen=True)
class Dedup(Pass):
    """Merge initializers of the same type, shape and bytes.

    A weight of a subgraph may be merged into one of a graph around it. Initializers that a caller may override and
    those that are an output of their graph stay. External data is read in pieces, and only where another tensor of the
    same type and shape begins and ends alike.
    """

    name = "dedup"

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return ("same_weight",)

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        roots = (model.graph, *(function.graph for function in model.functions.values()))
        weights = [weight for root in roots for weight in _weights(root, ())]
        groups = _split([weights], lambda each: (each.tensor.dtype, tuple(each.tensor.shape.numpy())))
        merged, saved = 0, 0
        for group in _split(_split(groups, _sample), _content):
            kept: dict[ir.Graph, ir.Value] = {}
            for each in group:
                first = next((kept[graph] for graph in each.path if graph in kept), None)
                if first is None:
                    kept[each.path[-1]] = each.value
                elif ctx.spend("same_weight", f"weight {each.value.name}"):
                    saved += each.nbytes
                    each.value.replace_all_uses_with(first)
                    del each.path[-1].initializers[str(each.value.name)]
                    merged += 1
        return PassResult(merged, details={"bytes": saved})


@dataclass(frozen=True)
class _Weight:
    """An initializer that may be merged, with its graph and those around it, outer first."""

    value: ir.Value
    tensor: ir.TensorProtocol
    path: tuple[ir.Graph, ...]

    @cached_property
    def nbytes(self) -> int:
        return sum(map(len, self.tensor.numpy().reshape(-1))) if self.is_text else int(self.tensor.nbytes)

    @cached_property
    def is_text(self) -> bool:
        return self.tensor.dtype == ir.DataType.STRING

    @property
    def is_packed(self) -> bool:
        """Whether several values share a byte."""
        return not self.is_text and self.tensor.dtype.bitwidth < 8


def _weights(graph: ir.Graph, outer: tuple[ir.Graph, ...]) -> Iterator[_Weight]:
    path = (*outer, graph)
    for value in graph.initializers.values():
        if value.const_value is not None and not value.is_graph_input() and not value.is_graph_output():
            yield _Weight(value, value.const_value, path)
    for node in graph:
        for inner in ir.subgraphs(node):
            yield from _weights(inner, path)


def _split(groups: Iterable[list[_Weight]], key: Callable[[_Weight], Hashable]) -> Iterator[list[_Weight]]:
    """Each group of more than one cut into groups of equal keys; those of one are dropped."""
    for group in groups:
        if len(group) < 2:
            continue
        parts: dict[Hashable, list[_Weight]] = defaultdict(list)
        for weight in group:
            parts[key(weight)].append(weight)
        yield from (part for part in parts.values() if len(part) > 1)


def _sample(weight: _Weight) -> Hashable:
    """The whole of a small tensor; of a large one the bytes at three places."""
    tensor, size = weight.tensor, weight.nbytes
    if weight.is_text or weight.is_packed:
        return size
    if size <= _SMALL:
        return tensor.tobytes()
    places = (0, size // 2 // 16 * 16, size - _SAMPLE)
    if isinstance(tensor, ir.ExternalTensor):
        with open(tensor.path, "rb") as file:
            return b"".join(_read_at(file, (tensor.offset or 0) + place, _SAMPLE) for place in places)
    data = _bytes_of(tensor)
    return b"".join(data[place : place + _SAMPLE].tobytes() for place in places)


def _content(weight: _Weight) -> Hashable:
    """A hash of all of a tensor; nothing where the sample was all of it."""
    tensor = weight.tensor
    if weight.is_text:
        return tuple(tensor.numpy().reshape(-1).tolist())
    if weight.nbytes <= _SMALL and not weight.is_packed:
        return None
    digest = hashlib.blake2b()
    if isinstance(tensor, ir.ExternalTensor):
        with open(tensor.path, "rb") as file:
            file.seek(tensor.offset or 0)
            left = weight.nbytes
            while left and (piece := file.read(min(_CHUNK, left))):
                digest.update(piece)
                left -= len(piece)
    elif weight.is_packed:
        digest.update(tensor.tobytes())
    else:
        digest.update(_bytes_of(tensor).data)
    return digest.digest()


def _bytes_of(tensor: ir.TensorProtocol) -> np.ndarray[Any, np.dtype[np.uint8]]:
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8)


def _read_at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
