"""Convolutions and products with constant weights as one thing: columns of weights, one for each output channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from accelc import ir
from accelc.pattern import MICROSOFT

from .fit import misfit
from .numbers import Floats

_CONVS = frozenset({("", "Conv"), (MICROSOFT, "FusedConv")})
_GEMMS = frozenset({("", "Gemm"), (MICROSOFT, "FusedGemm")})
_KINDS = _CONVS | _GEMMS | {("", "MatMul"), (MICROSOFT, "FusedMatMul")}
_TURNING = ("transA", "transBatchA", "transBatchB")
_RAMPS = frozenset({"", "Relu", "LeakyRelu"})
"""Activations inside of a layer that a positive factor passes."""
_FUSED_BIAS = frozenset({(MICROSOFT, "BiasGelu"), (MICROSOFT, "FastGelu")})


@dataclass(frozen=True, eq=False)
class Linear:
    """A Conv, Gemm, MatMul or FusedMatMul of the main graph, whose weight nothing else uses. An activation may be part
    of it.

    cin, cout: channels; group: of a Conv, in which an output channel sees cin / group input channels. add: an Add of a
    constant row that is part of the layer. bias: the constant row, or None; bias_at: the input that holds it or can.
    """

    scope: ir.Scope
    names: ir.Names
    node: ir.Node
    weight: ir.Value
    cin: int
    cout: int
    group: int = 1
    transposed: bool = False
    add: ir.Node | None = None
    bias_at: tuple[ir.Node, int] | None = None

    @property
    def is_conv(self) -> bool:
        return (self.node.domain, self.node.op_type) in _CONVS

    @property
    def is_gemm(self) -> bool:
        return (self.node.domain, self.node.op_type) in _GEMMS

    @property
    def can_scale(self) -> bool:
        """Whether scaling weights and bias of output channels scales what the layer computes, by positive factors."""
        activation = ir.attribute(self.node, "activation", "")
        has_place = self.bias_at is not None or not (self.is_conv or self.is_gemm)
        return activation in _RAMPS and has_place

    @property
    def k(self) -> int:
        """Weights of one output channel."""
        return int(self.array().size) // self.cout

    @property
    def path(self) -> str:
        return ir.node_path(self.node)

    @property
    def name(self) -> str:
        return self.node.name or str(self.node.outputs[0].name)

    @property
    def a(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def out(self) -> ir.Value:
        """What the layer computes, an absorbed Add included."""
        return (self.add or self.node).outputs[0]

    @property
    def bias(self) -> ir.Value | None:
        if self.bias_at is None:
            return None
        node, place = self.bias_at
        return node.inputs[place] if place < len(node.inputs) else None

    @property
    def factor(self) -> float:
        """What the product is multiplied by before the bias is added."""
        return 1.0 if self.is_conv else float(ir.attribute(self.node, "alpha", 1.0))

    @property
    def bias_factor(self) -> float:
        """What the stored bias is multiplied by."""
        return float(ir.attribute(self.node, "beta", 1.0)) if self.is_gemm else 1.0

    def array(self) -> Floats:
        array: Floats | None = ir.const(self.weight)
        assert array is not None
        return array

    def columns(self) -> Floats:
        """The weight as [K, N], a column for each output channel; K = cin / group * positions of the kernel."""
        array = self.array()
        if self.is_conv:
            array = array.reshape(self.cout, -1).T
        elif self.transposed:
            array = array.T
        return array

    def store(self, columns: Floats) -> None:
        """Take new columns [K, N] for the old ones."""
        array = columns.T if self.is_conv or self.transposed else columns
        set_const(self.weight, array.reshape(self.array().shape))

    def strongest(self) -> Floats:
        """The largest magnitudes over the positions of the kernel, [group, cout / group, cin / group]."""
        array = np.abs(self.array())
        if not self.is_conv:
            return (array if self.transposed else array.T)[None]
        split = array.reshape(self.group, self.cout // self.group, self.cin // self.group, -1)
        strongest: Floats = split.max(axis=3)
        return strongest

    def scale_inputs(self, factors: Floats) -> None:
        """Multiply the weights of input channels by factors [cin]."""
        array = self.array()
        if self.is_conv:
            split = array.reshape(self.group, self.cout // self.group, self.cin // self.group, -1)
            scaled = split * factors.reshape(self.group, 1, self.cin // self.group, 1)
            set_const(self.weight, scaled.reshape(array.shape))
        else:
            set_const(self.weight, array * (factors[None, :] if self.transposed else factors[:, None]))

    def scale_outputs(self, factors: Floats) -> None:
        """Multiply the output channels by factors [cout], the bias included."""
        self.store(self.columns() * factors)
        row = self.bias_row()
        if row is not None:
            self.set_bias_row(row * factors)

    def bias_row(self) -> Floats | None:
        """The bias as stored, [cout]; None where there is none."""
        array = ir.const(self.bias)
        return None if array is None else np.array(np.broadcast_to(array.reshape(-1), self.cout), np.float32)

    def add_to_bias(self, row: Floats) -> None:
        """Add a row [cout] to what the layer computes."""
        old = self.bias_row()
        scaled = row / np.float32(self.bias_factor)
        self.set_bias_row(scaled if old is None else old + scaled)

    def set_bias_row(self, row: Floats) -> None:
        """Store a bias [cout]; the old one stays for its other users."""
        assert self.bias_at is not None
        node, place = self.bias_at
        old = self.bias
        array = np.ascontiguousarray(row, np.float32)
        if old is not None and ir.use_count(old) == 1 and not old.is_graph_output():
            stored = ir.const(old)
            set_const(old, array.reshape(stored.shape) if stored is not None and stored.size == array.size else array)
            return
        value = ir.new_constant(self.scope, self.names, f"{self.name}_bias", ir.array_tensor(array), before=self.node)
        if place >= len(node.inputs):
            node.resize_inputs(place + 1)
        node.replace_input_with(place, value)


def set_const(value: ir.Value, array: Floats) -> None:
    """Give a constant another array of its type."""
    old = ir.const_tensor(value)
    assert old is not None
    new = ir.array_tensor(np.ascontiguousarray(array, np.float32), name=old.name)
    if value.is_initializer():
        value.const_value = new
    else:
        node = value.producer()
        assert node is not None
        node.attributes.clear()
        node.attributes["value"] = ir.make_attr("value", new)
    value.shape = ir.tensor_shape(new)


def find_linear(model: ir.Model) -> tuple[list[Linear], dict[str, str]]:
    """The layers of the main graph in order, and why others are left alone, by path."""
    scope = ir.Scope(model.graph, model.graph, model.graph)
    refused: dict[str, str] = {}
    found = []
    for node in ir.nodes(model.graph):
        if (node.domain, node.op_type) not in _KINDS or not ir.is_constant(node.inputs[1]):
            continue
        reason = _refusal(node)
        if reason:
            refused[ir.node_path(node)] = reason
        else:
            found.append(_linear(node, scope, ir.names(model)))
    return found, refused


def _refusal(node: ir.Node) -> str:
    weight, a = node.inputs[1], node.inputs[0]
    tensor = ir.const_tensor(weight)
    assert weight is not None
    assert tensor is not None
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}"
    rank = len(tensor.shape)
    if rank < 3 if (node.domain, node.op_type) in _CONVS else rank != 2:
        return f"its weight has rank {rank}"
    if ir.use_count(weight) != 1 or weight.is_graph_output():
        return "its weight is used elsewhere too"
    reason = misfit(tensor)
    if reason:
        return reason
    if a is None or ir.is_constant(a) or any(ir.attribute(node, name, 0) for name in _TURNING):
        return "it does not multiply an activation by its weight"
    if a.shape is None or len(a.shape) < 2:
        return "the rank of its input is " + ("unknown" if a.shape is None else str(len(a.shape)))
    if (node.domain, node.op_type) == (MICROSOFT, "FusedConv") and len(node.inputs) > 3 and node.inputs[3] is not None:
        return "a sum is part of it"
    if any(attr.is_ref() for attr in node.attributes.values()):
        return "its attributes are a function's"
    if float(ir.attribute(node, "alpha", 1.0)) == 0.0:
        return "its factor is zero"
    return ""


def _linear(node: ir.Node, scope: ir.Scope, names: ir.Names) -> Linear:
    weight = node.inputs[1]
    tensor = ir.const_tensor(weight)
    assert weight is not None
    assert tensor is not None
    shape = [int(dim) for dim in tensor.shape.numpy()]
    if (node.domain, node.op_type) in _CONVS:
        group = int(ir.attribute(node, "group", 1))
        return _with_input(Linear(scope, names, node, weight, shape[1] * group, shape[0], group))
    transposed = bool(ir.attribute(node, "transB", 0))
    cin, cout = reversed(shape) if transposed else shape
    linear = Linear(scope, names, node, weight, cin, cout, transposed=transposed)
    return _with_input(linear) if linear.is_gemm else _with_add(linear)


def _with_input(linear: Linear) -> Linear:
    """A layer with the bias input of its own node, where that holds a row or nothing."""
    old = linear.node.inputs[2] if len(linear.node.inputs) > 2 else None
    usable = is_row(old, linear.cout, 2) if old is not None else True
    return replace(linear, bias_at=(linear.node, 2)) if usable and linear.bias_factor != 0.0 else linear


def _with_add(linear: Linear) -> Linear:
    """A product with the constant row that is added to it, by an Add or inside of an activation."""
    out = linear.node.outputs[0]
    user = ir.only_user(out)
    if user is None or out.is_graph_output() or ir.use_count(out) != 1 or len(user.inputs) != 2:
        return linear
    (use,) = out.uses()
    rank = len(linear.a.shape or ())
    if not is_row(user.inputs[1 - use.idx], linear.cout, rank) or user.graph is not linear.node.graph:
        return linear
    if (user.domain, user.op_type) == ("", "Add"):
        return replace(linear, add=user, bias_at=(user, 1 - use.idx))
    if (user.domain, user.op_type) in _FUSED_BIAS and use.idx == 0:
        return replace(linear, bias_at=(user, 1))
    return linear


def is_row(value: ir.Value | None, count: int, rank: int) -> bool:
    """Whether a value is a float constant that adds one row of `count` to every row of a tensor of this rank."""
    tensor = ir.const_tensor(value)
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        return False
    shape = [int(dim) for dim in tensor.shape.numpy()]
    return len(shape) <= rank and shape[-1:] in ([], [1], [count]) and all(dim == 1 for dim in shape[:-1])
