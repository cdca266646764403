"""Operators that have an integer form: what each needs for it, and what it takes part in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from typing import Literal

import numpy as np

from accelc import ir

from .fit import misfit

Role = Literal["product", "glue", "mover"]


@dataclass(frozen=True, eq=False)
class StaticNode:
    """One operator that can compute on integers.

    role: product (Conv, Gemm, MatMul), glue (Add, Concat, pools: cheap, worth it between integers only) or mover (its
    results have the scale of its input). inputs: positions in node.inputs of activations. add: an Add of a constant
    row that follows, which is part of it. clamp: a Relu or Clip that follows and costs nothing in integers; it keeps
    [low, high]. cost: multiply-adds, with 1 for every unknown dimension. index: position among the nodes found.
    """

    node: ir.Node
    role: Role
    inputs: tuple[int, ...]
    add: ir.Node | None = None
    clamp: ir.Node | None = None
    low: float = -inf
    high: float = inf
    cost: int = 0
    index: int = -1

    @property
    def path(self) -> str:
        return ir.node_path(self.node)

    @property
    def reads(self) -> list[ir.Value]:
        """The activations, constants left out."""
        values = (self.node.inputs[index] for index in self.inputs)
        return [value for value in values if value is not None and not ir.is_constant(value)]

    @property
    def out(self) -> ir.Value:
        """What it computes first, with what it absorbed."""
        return (self.clamp or self.add or self.node).outputs[0]

    @property
    def outs(self) -> list[ir.Value]:
        """The activations that it computes."""
        return [self.out, *(self.node.outputs[1:] if self.node.op_type == "Split" else ())]

    @property
    def weight(self) -> ir.Value | None:
        """The constant factor of a product."""
        value = self.node.inputs[1] if self.role == "product" else None
        return value if ir.is_constant(value) else None

    @property
    def bias(self) -> ir.Value | None:
        """The constant term of a product."""
        if self.add is not None:
            return next(value for value in self.add.inputs if ir.is_constant(value))
        return self.node.inputs[2] if self.role == "product" and len(self.node.inputs) > 2 else None

    @property
    def may_stay_float(self) -> bool:
        """Whether its result can leave the integer kernel as floats at no cost."""
        return self.node.op_type in ("MatMul", "FusedMatMul", "Gemm")


def clamp_bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or a Clip keeps, where that includes zero; None for anything else."""
    if node.domain or node.op_type not in ("Relu", "Clip"):
        return None
    if node.op_type == "Relu":
        return 0.0, inf
    bounds = [-inf, inf]
    for index, name in enumerate(("min", "max")):
        value = node.inputs[index + 1] if len(node.inputs) > index + 1 else None
        array = ir.const(value)
        if value is not None and (array is None or array.size != 1):
            return None
        bounds[index] = float(array.reshape(())) if array is not None else ir.attribute(node, name, bounds[index])
    low, high = bounds
    return (low, high) if low <= 0 <= high and low < high else None


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _weight_refusal(value: ir.Value | None) -> str:
    tensor = ir.const_tensor(value)
    if tensor is None:
        return "its weight is not constant"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}"
    return misfit(tensor)


def _size(value: ir.Value | None) -> int:
    return prod(dim if isinstance(dim, int) else 1 for dim in ir.dims(value) or ())


def _input_refusal(node: ir.Node, rank: int) -> str:
    value = node.inputs[0]
    if not _is_float(value) or value is None:
        return "its input is not float"
    if ir.is_constant(value):
        return "its input is constant"
    if value.shape is None or len(value.shape) < rank:
        return "the rank of its input is unknown" if value.shape is None else f"its input has rank {len(value.shape)}"
    return ""


def _conv(node: ir.Node) -> StaticNode | str:
    reason = _weight_refusal(node.inputs[1]) or _input_refusal(node, 3)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if not reason and bias is not None and _weight_refusal(bias):
        reason = "its bias is not constant, finite floats"
    weight = ir.dims(node.inputs[1]) or ()
    cost = _size(node.outputs[0]) * prod(dim for dim in weight[1:] if isinstance(dim, int))
    return reason or StaticNode(node, "product", (0,), cost=cost)


def _matmul(node: ir.Node) -> StaticNode | str:
    first, second = node.inputs
    if ir.is_constant(first) and not ir.is_constant(second):
        return "its first factor is constant"
    inner = ir.dims(first)
    cost = _size(node.outputs[0]) * (inner[-1] if inner and isinstance(inner[-1], int) else 1)
    reason = _input_refusal(node, 2)
    if not ir.is_constant(second):
        if not _is_float(second) or second is None or second.shape is None or len(second.shape) < 2:
            reason = reason or "its second factor is no matrix of floats"
        return reason or StaticNode(node, "product", (0, 1), cost=cost)
    reason = reason or _weight_refusal(second)
    if not reason and len(ir.dims(second) or ()) != 2:
        reason = f"its weight has rank {len(ir.dims(second) or ())}"
    return reason or StaticNode(node, "product", (0,), cost=cost)


def _fused_matmul(node: ir.Node) -> StaticNode | str:
    """With a constant matrix; products of two activations stay as they are."""
    if not ir.is_constant(node.inputs[1]):
        return ""
    turning = next((name for name in ("transA", "transBatchA", "transBatchB") if ir.attribute(node, name, 0)), None)
    return _matmul(node) if turning is None else f"FusedMatMul with {turning}"


def _gemm(node: ir.Node) -> StaticNode | str:
    reason = _weight_refusal(node.inputs[1]) or _input_refusal(node, 2)
    term = node.inputs[2] if len(node.inputs) > 2 else None
    shape = ir.dims(node.inputs[1]) or (0, 0)
    columns = shape[0] if ir.attribute(node, "transB", 0) else shape[1]
    if not reason and ir.attribute(node, "transA", 0):
        reason = "Gemm with transA"
    if not reason and term is not None and ir.attribute(node, "beta", 1.0) != 0.0:
        size = ir.dims(term) or ()
        if _weight_refusal(term) or size[-1:] not in ((), (1,), (columns,)) or any(dim != 1 for dim in size[:-1]):
            reason = "its third input is not one constant row"
    inner = ir.dims(node.inputs[0])
    cost = _size(node.outputs[0]) * (inner[-1] if inner and isinstance(inner[-1], int) else 1)
    return reason or StaticNode(node, "product", (0,), cost=cost)


def _no_kernel(node: ir.Node) -> str:
    return f"the runtime has no integer kernel for {node.op_type}"


def _two(node: ir.Node) -> StaticNode | str:
    """Add and Mul; one side may be a constant."""
    constants = [ir.is_constant(value) for value in node.inputs]
    if not all(map(_is_float, node.inputs)) or all(constants) or "axis" in node.attributes:
        return ""
    if any(constants) and _weight_refusal(node.inputs[constants.index(True)]):
        return ""
    return StaticNode(node, "glue", (0, 1))


def _one(node: ir.Node) -> StaticNode | str:
    return "" if _input_refusal(node, 1) else StaticNode(node, "glue", (0,))


def _pool(node: ir.Node) -> StaticNode | str:
    plain = all(dim == 1 for dim in ir.attribute(node, "dilations", ()))
    # Where the last window reaches beyond the padding, the runtime's integer kernel divides by another count.
    beyond = ir.attribute(node, "ceil_mode", 0) and ir.attribute(node, "count_include_pad", 0)
    return StaticNode(node, "glue", (0,)) if plain and not beyond and not _input_refusal(node, 3) else ""


def _mean(node: ir.Node) -> StaticNode | str:
    """A mean over all axes but the first two, which is GlobalAveragePool."""
    rank = len(ir.dims(node.inputs[0]) or ())
    given = ir.const(node.inputs[1]) if len(node.inputs) > 1 else ir.attribute(node, "axes")
    if given is None or rank < 3 or _input_refusal(node, 3):
        return ""
    axes = sorted(int(axis) % rank for axis in np.asarray(given).reshape(-1))
    return StaticNode(node, "glue", (0,)) if axes == list(range(2, rank)) else ""


def _concat(node: ir.Node) -> StaticNode | str:
    fine = all(_is_float(value) and (not ir.is_constant(value) or not _weight_refusal(value)) for value in node.inputs)
    if not fine or len(node.inputs) < 2 or all(map(ir.is_constant, node.inputs)):
        return ""
    return StaticNode(node, "glue", tuple(range(len(node.inputs))))


def _mover(node: ir.Node) -> StaticNode | str:
    return "" if _input_refusal(node, 0) else StaticNode(node, "mover", (0,))


def _max_pool(node: ir.Node) -> StaticNode | str:
    """Its second output, where the maxima are, must be unused."""
    return "" if any(ir.use_count(value) or value.is_graph_output() for value in node.outputs[1:]) else _mover(node)


def _resize(node: ir.Node) -> StaticNode | str:
    """Nearest neighbours of what is there; a crop may reach outside, where it fills with a float."""
    crops = ir.attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    return _mover(node) if ir.attribute(node, "mode", "nearest") == "nearest" and not crops else ""


def _pad(node: ir.Node) -> StaticNode | str:
    """Padding with zeros or with what is there."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    array = ir.const(value)
    filled = ir.attribute(node, "mode", "constant") in ("constant", b"constant")
    zero = value is None or (array is not None and not array.any())
    return _mover(node) if "pads" not in node.attributes and (zero or not filled) else ""


def _clamp(node: ir.Node) -> StaticNode | str:
    return _mover(node) if clamp_bounds(node) is not None else ""


Finder = Callable[[ir.Node], StaticNode | str]
PRODUCTS: dict[str, Finder] = {"Conv": _conv, "MatMul": _matmul, "Gemm": _gemm, "ConvTranspose": _no_kernel}
VENDOR_PRODUCTS: dict[str, Finder] = {"FusedMatMul": _fused_matmul}
"""Of com.microsoft."""
OTHERS: dict[str, Finder] = {
    "Add": _two,
    "Mul": _two,
    "Concat": _concat,
    "Sigmoid": _one,
    "LeakyRelu": _one,
    "AveragePool": _pool,
    "GlobalAveragePool": _pool,
    "ReduceMean": _mean,
    "MaxPool": _max_pool,
    "Resize": _resize,
    "Pad": _pad,
    "Relu": _clamp,
    "Clip": _clamp,
    **dict.fromkeys(
        ("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "DepthToSpace", "Expand", "Tile"),
        _mover,
    ),
    "Gather": _mover,
    "Identity": _mover,
}
