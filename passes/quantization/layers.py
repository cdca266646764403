"""Which operators of a model can compute in int8: products with constant weights, and tables that are gathered from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT

from .fit import misfit
from .numbers import Floats

_LEAST_SAVED = 1024
"""Bytes that a layer must save; the new nodes and scales take some hundred themselves."""
_LEAST_SAVED_BY_TABLE = 256 * 1024
"""A table saves only space: its three more nodes cost a little time."""
_KINDS = frozenset({("", "MatMul"), ("", "Gemm"), ("", "Gather"), (MICROSOFT, "FusedMatMul")})
_TURNING = ("transA", "transBatchA", "transBatchB")


@dataclass(frozen=True, eq=False)
class Layer:
    """One MatMul, FusedMatMul or Gemm with weight [K, N], or one Gather from a table [V, H] (then k = V and n = H).

    transposed: the weight is stored [N, K], and a MatMul reads it through a Transpose. alpha: factor on the product.
    add: an Add that is absorbed. bias: a constant that adds one row to every row of the product, with the factor beta.
    smooth: divisors [K] of the activation, which the weight takes over; divided: the activation is divided by them
    already. index: its position among the layers.
    """

    scope: ir.Scope
    node: ir.Node
    weight: ir.Value
    k: int
    n: int
    transposed: bool = False
    alpha: float = 1.0
    add: ir.Node | None = None
    bias: ir.Value | None = None
    beta: float = 1.0
    smooth: Floats | None = None
    divided: bool = False
    index: int = -1

    @property
    def is_gather(self) -> bool:
        return self.node.op_type == "Gather"

    @property
    def a(self) -> ir.Value:
        """The activation, or the indices of a Gather, as the graph stands now."""
        return _input(self.node, 1 if self.is_gather else 0)

    @property
    def late(self) -> ir.Value | None:
        """The third input of a Gemm where it is not a bias: beta times it is added afterwards."""
        has_term = self.node.op_type == "Gemm" and len(self.node.inputs) > 2 and self.beta != 0.0
        return self.node.inputs[2] if has_term and self.bias is None else None

    @property
    def out(self) -> ir.Value:
        """The value that the layer computes, the absorbed Add included."""
        return (self.add or self.node).outputs[0]

    @property
    def path(self) -> str:
        return ir.node_path(self.node)

    def matrix(self) -> Floats:
        """The weight as it is multiplied, [K, N], with alpha and smooth in it; the table of a Gather."""
        array = ir.const(self.weight)
        assert array is not None
        weight: Floats = array.T if self.transposed else array
        if self.alpha != 1.0:
            weight = weight * np.float32(self.alpha)
        return weight if self.smooth is None else weight * self.smooth[:, None]

    @property
    def form(self) -> tuple[int, bytes]:
        """Tells one form of the weight from all others in copies of the model."""
        return self.index, b"" if self.smooth is None else self.smooth.tobytes()

    def bias_row(self) -> Floats | None:
        """The constant term as [N], with beta in it."""
        array = ir.const(self.bias)
        if array is None:
            return None
        return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), self.n) * np.float32(self.beta))


@dataclass(frozen=True)
class Found:
    """Layers in the order of the graph; units: positions of layers that share a weight and so go together.

    refused: path of a node -> the reason.
    """

    layers: tuple[Layer, ...]
    units: tuple[tuple[int, ...], ...]
    refused: dict[str, str]

    def tables(self, unit: tuple[int, ...]) -> bool:
        """Whether a unit is only gathered from."""
        return all(self.layers[index].is_gather for index in unit)


def find_layers(model: ir.Model, *, embeddings: bool, portable: bool) -> Found:
    """All layers that int8 could serve. Two copies of one model give the same layers in the same order."""
    refused: dict[str, str] = {}
    layers = [
        layer
        for scope in ir.scopes(model)
        for node in scope.graph
        if (layer := _layer(node, scope, embeddings, portable, refused)) is not None
    ]
    layers = [replace(each, index=i) for i, each in enumerate(_without_outside_users(layers, refused))]
    units: dict[ir.Value, list[int]] = {}
    for index, layer in enumerate(layers):
        units.setdefault(layer.weight, []).append(index)
    return Found(tuple(layers), tuple(map(tuple, units.values())), refused)


def _layer(node: ir.Node, scope: ir.Scope, embeddings: bool, portable: bool, refused: dict[str, str]) -> Layer | None:
    if (node.domain, node.op_type) not in _KINDS:
        return None
    place = 0 if node.op_type == "Gather" else 1
    weight = _turned(node.inputs[place]) or node.inputs[place]
    tensor = ir.const_tensor(weight)
    if weight is None or tensor is None or (place == 0 and (not embeddings or tensor.dtype != ir.DataType.FLOAT)):
        return None
    reason = _weight_refusal(weight, tensor) or _node_refusal(node, scope, portable)
    if reason:
        if len(tensor.shape) == 2 or place == 1:
            refused[ir.node_path(node)] = reason
        return None
    rows, columns = (int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
    if node.op_type in ("MatMul", "FusedMatMul"):
        transposed = weight is not node.inputs[1] or bool(ir.attribute(node, "transB", 0))
        layer = _with_add(node, scope, weight, *((columns, rows) if transposed else (rows, columns)), transposed)
    elif node.op_type == "Gemm":
        layer = _gemm(node, scope, weight, rows, columns)
    else:
        layer = Layer(scope, node, weight, rows, columns)
    scales = layer.k if layer.is_gather else layer.n
    if 3 * rows * columns - 8 * scales < (_LEAST_SAVED_BY_TABLE if layer.is_gather else _LEAST_SAVED):
        refused[layer.path] = f"too small to gain: {rows} x {columns}"
        return None
    return layer


def _weight_refusal(weight: ir.Value, tensor: ir.TensorProtocol) -> str:
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}"
    if len(tensor.shape) != 2:
        return f"its weight has rank {len(tensor.shape)}"
    if weight.is_graph_output():
        return "its weight is an output of the model"
    return misfit(tensor)


def _node_refusal(node: ir.Node, scope: ir.Scope, portable: bool) -> str:
    if node.op_type == "Gather":
        return "" if ir.attribute(node, "axis", 0) in (0, -2) else "it gathers columns"
    a = _input(node, 0)
    if ir.is_constant(a):
        return "both of its inputs are constant"
    if a.dtype != ir.DataType.FLOAT:
        return f"the type of its input is {a.dtype.name.lower() if a.dtype else 'unknown'}"
    if a.shape is None or len(a.shape) < 2:
        return "its input has " + ("an unknown rank" if a.shape is None else f"rank {len(a.shape)}")
    turning = next((name for name in _TURNING if ir.attribute(node, name, 0)), None)
    if turning is not None:
        return f"{node.op_type} with {turning}"
    if any(attr.is_ref() for attr in node.attributes.values()):
        return "its attributes are a function's"
    if portable and scope.opset < 11:
        return f"DynamicQuantizeLinear needs opset 11, the model has {scope.opset}"
    return ""


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _turned(value: ir.Value | None) -> ir.Value | None:
    """What a value is the transpose of, where it is the second factor of one or more MatMuls and nothing else."""
    node = value.producer() if value is not None else None
    if value is None or node is None or node.domain or node.op_type != "Transpose" or value.is_graph_output():
        return None
    if ir.attribute(node, "perm", (1, 0)) != (1, 0):
        return None
    plain = all(use.node.op_type == "MatMul" and not use.node.domain and use.idx == 1 for use in value.uses())
    return node.inputs[0] if plain else None


def _with_add(node: ir.Node, scope: ir.Scope, weight: ir.Value, k: int, n: int, transposed: bool) -> Layer:
    a, out = _input(node, 0), node.outputs[0]
    layer = Layer(scope, node, weight, k, n, transposed, float(ir.attribute(node, "alpha", 1.0)))
    uses = out.uses()
    if len(uses) != 1 or out.is_graph_output():
        return layer
    (use,) = uses
    add = use.node
    if add.graph is not node.graph or add.op_type != "Add" or add.domain:
        return layer
    other = add.inputs[1 - use.idx]
    tensor = ir.const_tensor(other)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or not _is_row(tensor, n, len(a.shape or ())):
        return layer
    return replace(layer, add=add, bias=other)


def _is_row(tensor: ir.TensorProtocol, n: int, rank: int) -> bool:
    """Whether adding a constant to a product [..., N] adds one row to each of its rows, and leaves the rank alone."""
    shape = tuple(tensor.shape)
    return len(shape) <= rank and shape[-1:] in ((), (1,), (n,)) and all(dim == 1 for dim in shape[:-1])


def _gemm(node: ir.Node, scope: ir.Scope, weight: ir.Value, rows: int, columns: int) -> Layer:
    transposed = bool(ir.attribute(node, "transB", 0))
    k, n = (columns, rows) if transposed else (rows, columns)
    alpha, beta = float(ir.attribute(node, "alpha", 1.0)), float(ir.attribute(node, "beta", 1.0))
    term = node.inputs[2] if len(node.inputs) > 2 and beta != 0.0 else None
    tensor = ir.const_tensor(term)
    is_bias = tensor is not None and tensor.dtype == ir.DataType.FLOAT and _is_row(tensor, n, 2)
    return Layer(scope, node, weight, k, n, transposed, alpha, bias=term if is_bias else None, beta=beta)


def _without_outside_users(layers: list[Layer], refused: dict[str, str]) -> list[Layer]:
    """Leave out layers whose weight somebody else needs in float: the file would hold it twice."""
    inside = {(layer.node, layer.weight) for layer in layers}
    blocked = {layer.weight: other for layer in layers for other in _outsiders(layer.weight, inside)}
    for layer in layers:
        if layer.weight in blocked:
            refused[layer.path] = f"its weight is also used by {ir.node_path(blocked[layer.weight])}"
    return [layer for layer in layers if layer.weight not in blocked]


def _outsiders(weight: ir.Value, inside: set[tuple[ir.Node, ir.Value]]) -> Iterator[ir.Node]:
    for use in weight.uses():
        out = use.node.outputs[0]
        if _turned(out) is weight and all((each.node, weight) in inside for each in out.uses()):
            continue
        place = 0 if use.node.op_type == "Gather" else 1
        if (use.node, weight) not in inside or use.idx != place:
            yield use.node
