"""How large the results of constant expressions will be, and whether computing them is safe, before any is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from accelc import ir
from accelc.infer import infer_node

SMALL = 1024
"""Values up to this many bytes are free to compute, so that what depends on them becomes known."""
_STRING_BYTES = 16
Array = np.ndarray[Any, Any]

UNPREDICTABLE = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression"})
"""The sizes of their results depend on the values of their inputs, but are bounded by the sizes of these."""


@dataclass(frozen=True)
class Spec:
    """Type and shape of a constant."""

    dtype: ir.DataType
    dims: tuple[int, ...]

    @cached_property
    def nbytes(self) -> int:
        count = math.prod(self.dims)
        return count * _STRING_BYTES if self.dtype == ir.DataType.STRING else -(-count * self.dtype.bitwidth // 8)


def spec_of(tensor: ir.TensorProtocol) -> Spec:
    """Type and shape of a tensor."""
    return Spec(tensor.dtype, tuple(int(dim) for dim in tensor.shape.numpy()))


class Facts:
    """What is known about the values of constant expressions while they are being folded.

    data: values computed already. specs: types and shapes.
    """

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.data: dict[ir.Value, ir.TensorProtocol] = {}
        self._specs: dict[ir.Value, Spec] = {}
        self._sources: dict[ir.Value, ir.TensorProtocol | None] = {}

    def source(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The tensor of a value that the model itself holds: a fixed initializer or a Constant."""
        if value not in self._sources:
            self._sources[value] = ir.const_tensor(value)
        return self._sources[value]

    def tensor(self, value: ir.Value) -> ir.TensorProtocol | None:
        """The tensor of a value, held by the model or computed."""
        found = self.data.get(value)
        return found if found is not None else self.source(value)

    def spec(self, value: ir.Value) -> Spec | None:
        """Type and shape of a value, as far as they are settled."""
        found = self._specs.get(value)
        if found is None:
            tensor = self.tensor(value)
            found = spec_of(tensor) if tensor is not None else _declared(value)
            if found is not None:
                self._specs[value] = found
        return found

    def learn(self, value: ir.Value, tensor: ir.TensorProtocol) -> None:
        """Take over a computed value."""
        self.data[value] = tensor
        self._specs[value] = spec_of(tensor)

    def predict(self, node: ir.Node) -> bool:
        """Settle the specs of a node's used outputs; whether they all are."""
        used = [value for value in node.outputs if value.uses() or value.is_graph_output()]
        if all(self.spec(value) is not None for value in used):
            return True
        shadow = self._shadow(node)
        infer_node(shadow, self._opset)
        for value, copy in zip(node.outputs, shadow.outputs, strict=True):
            if self.spec(value) is None and (found := _declared(copy)) is not None:
                self._specs[value] = found
        return all(self.spec(value) is not None for value in used)

    def bound(self, node: ir.Node) -> int | None:
        """The most bytes that the outputs of an UNPREDICTABLE node take."""
        total = 0
        for value in node.inputs:
            if value is not None:
                spec = self.spec(value)
                if spec is None:
                    return None
                total += spec.nbytes + math.prod(spec.dims) * 8 * max(4, len(spec.dims))
        return total

    def _shadow(self, node: ir.Node) -> ir.Node:
        """A copy of a node on inputs that carry everything known, for inference."""
        inputs: list[ir.Value | None] = []
        weights = []
        for index, value in enumerate(node.inputs):
            if value is None:
                inputs.append(None)
                continue
            spec, tensor = self.spec(value), self.tensor(value)
            kind = value.type if spec is None else ir.TensorType(spec.dtype)
            shape = value.shape if spec is None else ir.Shape(spec.dims)
            copy = ir.Value(name=f"i{index}", type=kind, shape=shape)
            if spec is not None and spec.nbytes <= SMALL and tensor is not None:
                copy.const_value = tensor
                weights.append(copy)
            inputs.append(copy)
        if weights:
            ir.Graph([], [], nodes=[], initializers=weights)
        return ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), num_outputs=len(node.outputs))


def _declared(value: ir.Value) -> Spec | None:
    """What a value's own type and shape say, where they leave nothing open."""
    dims = ir.dims(value)
    if dims is None or not isinstance(value.type, ir.TensorType):
        return None
    sizes = tuple(dim for dim in dims if isinstance(dim, int))
    return Spec(value.type.dtype, sizes) if len(sizes) == len(dims) else None


def shape_result(node: ir.Node, spec: Spec) -> Array:
    """What Shape or Size give for an input of a known shape, without looking at its values."""
    if node.op_type == "Size":
        return np.array(math.prod(spec.dims), np.int64)
    start, end = ir.attribute(node, "start", 0), ir.attribute(node, "end", None)
    rank = len(spec.dims)

    def clamp(axis: int) -> int:
        return min(max(axis + rank if axis < 0 else axis, 0), rank)

    dims: Sequence[int] = spec.dims[clamp(start) : rank if end is None else clamp(end)]
    return np.array(dims, np.int64)


def divides_integers(node: ir.Node, facts: Facts) -> bool:
    """Whether a node divides integers, which ends the process for some operands."""
    if node.domain or node.op_type not in ("Div", "Mod") or len(node.inputs) != 2 or node.inputs[0] is None:
        return False
    spec = facts.spec(node.inputs[0])
    return spec is None or not spec.dtype.is_floating_point()


def is_safe_division(left: Array | None, right: Array) -> bool | None:
    """Whether no divisor is zero and no quotient overflows; None where that depends on a dividend not given."""
    if not right.all():
        return False
    if right.dtype.kind != "i" or not (right == -1).any():
        return True
    return None if left is None else not bool((left == np.iinfo(right.dtype).min).any())
