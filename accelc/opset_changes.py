"""Steps between operator versions that the schemas of onnx do not decide: how a node is brought over, or why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accelc import ir


@dataclass(frozen=True)
class Edit:
    """A node whose form is being brought up to date."""

    node: ir.Node
    graph: ir.Graph
    names: ir.Names
    constants: dict[tuple[ir.Graph, str, tuple[Any, ...]], ir.Value]

    def take(self, name: str, default: Any = None) -> Any:
        """Remove an attribute and return its value."""
        value = ir.attribute(self.node, name, default)
        self.node.attributes.pop(name, None)
        return value

    def put(self, name: str, value: Any) -> None:
        """Set an attribute."""
        self.node.attributes[name] = ir.make_attr(name, value)

    def feed(self, index: int, name: str, array: np.ndarray[Any, Any]) -> None:
        """Give the node a constant as an input; equal constants are shared within their graph."""
        key = (self.graph, f"{name}{array.dtype}{array.shape}", tuple(array.reshape(-1).tolist()))
        value = self.constants.get(key)
        if value is None:
            tensor = ir.array_tensor(array)
            value = ir.Value(name=self.names.fresh(name), type=ir.TensorType(tensor.dtype), const_value=tensor)
            value.shape = ir.Shape(list(array.shape))
            self.graph.register_initializer(value)
            self.constants[key] = value
        if len(self.node.inputs) <= index:
            self.node.resize_inputs(index + 1)
        self.node.replace_input_with(index, value)


@dataclass(frozen=True)
class Change:
    """A step that the schemas do not decide.

    check: why it blocks a node. rewrite: how a node is brought over it. moved: the attributes that the rewrite takes
    away, and the input each becomes (None: it is dropped).
    """

    check: Callable[[ir.Node], str]
    rewrite: Callable[[Edit], None] | None = None
    moved: Mapping[str, int | None] = field(default_factory=dict)


def _never(reason: str) -> Change:
    return Change(lambda node: reason)


def _fine(node: ir.Node) -> str:
    return ""


def _only_if(name: str, value: Any, reason: str) -> Change:
    return Change(lambda node: "" if _text(ir.attribute(node, name, value)) == value else reason)


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _axes_to_input(edit: Edit) -> None:
    axes = edit.take("axes")
    if axes:
        edit.feed(1, "axes", np.array(axes, np.int64))


def _clip_to_inputs(edit: Edit) -> None:
    limit = float(np.finfo(np.float32).max)
    edit.feed(1, "min", np.array(edit.take("min", -limit), np.float32))
    edit.feed(2, "max", np.array(edit.take("max", limit), np.float32))


def _is_float(node: ir.Node) -> str:
    value = node.inputs[0] if node.inputs else None
    return "" if value is not None and value.dtype == ir.DataType.FLOAT else "wants limits of its input's type"


def _pad_to_inputs(edit: Edit) -> None:
    data = edit.node.inputs[0]
    assert data is not None
    assert data.dtype is not None
    edit.feed(1, "pads", np.array(edit.take("pads"), np.int64))
    value = edit.take("value", 0.0)
    if value != 0:
        edit.feed(2, "pad_value", np.array(value, data.dtype.numpy()))


def _has_type(node: ir.Node) -> str:
    value = node.inputs[0] if node.inputs else None
    return "" if value is not None and value.dtype is not None else "needs the type of its input"


def _slice_to_inputs(edit: Edit) -> None:
    starts = edit.take("starts")
    axes = edit.take("axes", tuple(range(len(starts))))
    for index, (name, values) in enumerate((("starts", starts), ("ends", edit.take("ends")), ("axes", axes)), 1):
        edit.feed(index, name, np.array(values, np.int64))


def _topk_to_inputs(edit: Edit) -> None:
    edit.feed(1, "k", np.array([edit.take("k")], np.int64))


def _split_to_input(edit: Edit) -> None:
    sizes = edit.take("split")
    if sizes:
        edit.feed(1, "split", np.array(sizes, np.int64))


def _count_outputs(edit: Edit) -> None:
    if len(edit.node.inputs) < 2 or edit.node.inputs[1] is None:
        edit.put("num_outputs", len(edit.node.outputs))


def _first_output_only(reason: str) -> Callable[[ir.Node], str]:
    def check(node: ir.Node) -> str:
        return reason if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]) else ""

    return check


def _keep_first_output(edit: Edit) -> None:
    edit.take("ratio")
    if len(edit.node.outputs) > 1:
        edit.node.resize_outputs(1)


def _on_last_axis(node: ir.Node) -> str:
    """Until 12 the dimensions from `axis` on were flattened, from 13 on it is the one axis."""
    axis = ir.attribute(node, "axis", 1)
    rank = _rank(node.inputs[0])
    if axis == -1 or (rank is not None and axis == rank - 1):
        return ""
    return f"no longer flattens from axis {axis} on"


_KEEPS_RANK = frozenset(
    "Cast Dropout Identity Neg Relu Clip Exp Erf Sqrt Tanh Sigmoid Softmax LogSoftmax Concat Pad".split()
)
_BROADCASTS = frozenset("Add Sub Mul Div Pow Max Min Where MatMul".split())


def _rank(value: ir.Value | None, depth: int = 16) -> int | None:
    """The rank of a value, where need be from the operators before it: inference loses it at computed shapes."""
    if value is None or depth == 0:
        return None
    shape = ir.dims(value)
    if shape is not None:
        return len(shape)
    node = value.producer()
    if node is None or node.domain or not node.inputs:
        return None
    if node.op_type == "Transpose":
        perm = ir.attribute(node, "perm")
        return len(perm) if perm else _rank(node.inputs[0], depth - 1)
    if node.op_type in _KEEPS_RANK:
        return _rank(node.inputs[0], depth - 1)
    if node.op_type == "Reshape" and len(node.inputs) == 2:
        wanted = ir.dims(node.inputs[1])
        return wanted[0] if wanted and isinstance(wanted[0], int) else None
    if node.op_type in _BROADCASTS:
        ranks = [_rank(each, depth - 1) for each in node.inputs]
        known = [each for each in ranks if each is not None]
        small = node.op_type == "MatMul" and min(known, default=0) < 2
        return None if small or len(known) < len(ranks) else max(known)
    return None


def _explicit_axis(edit: Edit) -> None:
    edit.put("axis", ir.attribute(edit.node, "axis", 1))


_MASK_STEPS = frozenset({"Unsqueeze", "Cast", "Sub", "Mul", "Expand"})


def _attention_mask(node: ir.Node) -> str:
    """The runtime fuses attention only where the mask is unsqueezed by attributes: raising would undo that."""
    for _ in range(8):
        users = [use.node for use in node.outputs[0].uses()]
        if any(user.op_type == "Add" and _then(user, "Softmax") for user in users):
            return "would keep the runtime from fusing attention"
        following = [user for user in users if user.op_type in _MASK_STEPS]
        if not following:
            return ""
        node = following[0]
    return ""


def _then(node: ir.Node, op_type: str) -> bool:
    return any(use.node.op_type == op_type for use in node.outputs[0].uses())


_REDUCE_18 = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
_SAME = ["SAME_UPPER", "SAME_LOWER"]


def _no_same_padding(node: ir.Node) -> str:
    return "places the padding of SAME differently" if _text(ir.attribute(node, "auto_pad")) in _SAME else ""


CHANGES: dict[tuple[str, int], Change] = {
    ("BatchNormalization", 9): Change(
        _only_if("spatial", 1, "knows no statistics per element").check,
        lambda edit: edit.take("spatial"),
        {"spatial": None},
    ),
    ("BatchNormalization", 14): Change(_first_output_only("has other outputs"), _keep_first_output),
    ("Clip", 11): Change(_is_float, _clip_to_inputs, {"min": 1, "max": 2}),
    ("ConvTranspose", 11): Change(_no_same_padding),
    ("Dropout", 10): Change(_first_output_only("changed the mask"), None),
    ("Dropout", 12): Change(_first_output_only("changed the mask"), _keep_first_output, {"ratio": None}),
    ("Pad", 11): Change(_has_type, _pad_to_inputs, {"pads": 1, "value": 2}),
    ("RoiAlign", 16): Change(_fine, lambda edit: edit.put("coordinate_transformation_mode", "output_half_pixel")),
    ("Slice", 10): Change(_fine, _slice_to_inputs, {"starts": 1, "ends": 2, "axes": 3}),
    ("Split", 13): Change(_fine, _split_to_input, {"split": 1}),
    ("Split", 18): Change(_fine, _count_outputs),
    ("TopK", 10): Change(_fine, _topk_to_inputs, {"k": 1}),
    **{(name, 13): Change(_on_last_axis, _explicit_axis) for name in ("Softmax", "LogSoftmax", "Hardmax")},
    **{(name, 13): Change(_fine, _axes_to_input, {"axes": 1}) for name in ("Squeeze", "ReduceSum")},
    ("Unsqueeze", 13): Change(_attention_mask, _axes_to_input, {"axes": 1}),
    **{(f"Reduce{name}", 18): Change(_fine, _axes_to_input, {"axes": 1}) for name in _REDUCE_18},
    # The signature stays, or grows compatibly, but the meaning changes.
    ("AveragePool", 19): _only_if("ceil_mode", 0, "divides windows beyond the edge differently"),
    ("AveragePool", 22): _only_if("ceil_mode", 0, "drops windows that start in the padding"),
    ("LpPool", 22): _only_if("ceil_mode", 0, "drops windows that start in the padding"),
    ("MaxPool", 22): _only_if("ceil_mode", 0, "drops windows that start in the padding"),
    ("GroupNormalization", 21): _never("scales channels, not groups"),
    ("OneHot", 11): _never("counts negative indices from the end"),
    ("Resize", 11): _never("maps coordinates differently"),
    ("Resize", 18): _never("rounds sizes and regions differently"),
    ("Resize", 19): _never("maps symmetric half pixels differently"),
}
