"""Raising a model's opset, only where every operator in it keeps its meaning or can be rewritten to keep it.

What changed between two versions of an operator is read from the schemas of onnx: a step that only adds types,
optional inputs or attributes with a default keeps the meaning. Every other step is listed here, either with the rewrite
that keeps it or as one that blocks. Rewrites change nodes in place, so that a match waiting to be applied stays valid.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from accelc import ir

if TYPE_CHECKING:
    from accelc.target import Target

Schema = Any
"""onnx.defs.OpSchema"""

_OLDEST = 7
"""Below it, broadcasting was an attribute and dropout knew whether it was a test."""
_VENDORS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.ml"})
"""Domains whose operators are never functions of the model; the opset of ai.onnx does not change what they mean."""
_FOUND = "accelc.opsets.blocking"
_NO_LIMIT = 2**31 - 1


def blocker(graph: ir.Graph, to: int, target: Target | None = None) -> str:
    """Why the opset of a main graph (and its subgraphs) cannot be raised to a version; empty when it can.

    target: where given, what it can run today it must be able to run afterwards.
    """
    now = graph.opset_imports.get("", 0)
    if now >= to:
        return ""
    reason = _beyond_limits(now, to, target)
    if reason:
        return reason
    culprit = graph.meta.get(_FOUND, {}).get(to)
    if culprit is not None and culprit.graph is not None:
        reason = _node_blocker(culprit, now, to, target)
        if reason:
            return reason
    for inner in ir.nested(graph):
        for node in inner:
            reason = _node_blocker(node, now, to, target)
            if reason:
                graph.meta.setdefault(_FOUND, {})[to] = node
                return reason
    return ""


def raise_to(graph: ir.Graph, to: int, names: ir.Names) -> None:
    """Raise the opset of a main graph, rewriting operators whose form changed. Call only when `blocker` is empty.

    The caller then settles the IR version of the model (`ir_version_for`).
    """
    now = graph.opset_imports.get("", 0)
    constants: dict[tuple[ir.Graph, str, tuple[Any, ...]], ir.Value] = {}
    for inner in list(ir.nested(graph)):
        for node in list(inner):
            for _, new in _steps(node.op_type, now, to) if node.domain == "" else ():
                change = _CHANGES.get((node.op_type, new.since_version))
                if change is not None and change.rewrite is not None:
                    change.rewrite(Edit(node, inner, names, constants))
    graph.opset_imports[""] = max(now, to)


def ir_version_for(opset: int) -> int:
    """The oldest IR version whose models may import this version of the default domain."""
    return int(onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)], ignore_unknown=True))


def settle_ir_version(model: ir.Model) -> None:
    """Raise the IR version of a model to what its opset needs."""
    opset = model.graph.opset_imports.get("", 0)
    if opset > _OLDEST:
        model.ir_version = max(model.ir_version, ir_version_for(opset))


def _beyond_limits(now: int, to: int, target: Target | None) -> str:
    if now < _OLDEST:
        return f"opset {now} is older than {_OLDEST}"
    if to > onnx.defs.onnx_opset_version():
        return f"onnx {onnx.__version__} does not know opset {to}"
    limit = target.max_opset() if target is not None else None
    if limit is not None and to > limit:
        return f"the runtime accepts opset {limit} at most"
    if target is not None and ir_version_for(to) > target.ir_version:
        return f"the runtime accepts IR version {target.ir_version} at most, opset {to} needs {ir_version_for(to)}"
    return ""


# --- one node --------------------------------------------------------------------------------------------------------


def _node_blocker(node: ir.Node, now: int, to: int, target: Target | None) -> str:
    reason = _meaning_blocker(node, now, to) or (_kernel_blocker(node, now, to, target) if target else "")
    return f"{ir.node_path(node)}: {reason}" if reason else ""


def _meaning_blocker(node: ir.Node, now: int, to: int) -> str:
    if node.domain:
        return "" if node.domain in _VENDORS else f"may be a function or depend on the opset ({node.domain})"
    if node.op_type not in _schemas():
        return "is not an operator of onnx"
    attributes = set(node.attributes)
    given = {index for index, value in enumerate(node.inputs) if value is not None}
    for old, new in _steps(node.op_type, now, to):
        change = _CHANGES.get((node.op_type, new.since_version))
        if change is None:
            reason = _schema_blocker(attributes, given, old, new)
        else:
            reason = change.check(node)
            attributes -= change.moved.keys()
            given |= {index for index in change.moved.values() if index is not None}
        reason = reason or _type_blocker(node, new)
        if reason:
            return f"version {new.since_version} {reason}"
    return ""


def _kernel_blocker(node: ir.Node, now: int, to: int, target: Target) -> str:
    """Whether the target would lose its kernel for a node. One it has no kernel for today is not asked about."""
    steps = () if node.domain else _steps(node.op_type, now, to)
    if not steps:
        return ""
    old, new = steps[0][0], steps[-1][1]
    if not _has_kernel(node, old, target):
        return ""
    return "" if _has_kernel(node, new, target) else f"has no kernel at opset {to}"


def _has_kernel(node: ir.Node, schema: Schema, target: Target) -> bool:
    """Whether the runtime finds a kernel for this version of an operator.

    One without a last version serves only the version of the operator that it was made for.
    """
    if target.kernels is None:
        return False
    version = schema.since_version
    found = target.kernels.find("", node.op_type, version, _types(node, schema))
    return any(kernel.first == version or kernel.last < _NO_LIMIT for kernel in found)


def _types(node: ir.Node, schema: Schema) -> dict[str, str]:
    """Type parameter of the schema -> type, as far as a node's inputs tell."""
    found: dict[str, str] = {}
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype is not None and schema.inputs:
            declared = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            if not declared.startswith(("tensor(", "seq(", "optional(")) and not isinstance(
                value.type, ir.SequenceType | ir.OptionalType
            ):
                found[declared] = _type_text(value.dtype)
    return found


def _type_text(dtype: ir.DataType) -> str:
    return f"tensor({ {'FLOAT': 'float', 'DOUBLE': 'double'}.get(dtype.name, dtype.name.lower()) })"


def _schema_blocker(attributes: set[str], given: set[int], old: Schema, new: Schema) -> str:
    """Why a step cannot be shown to keep the meaning of a node from the schemas alone; empty when it can.

    attributes, given: the attributes and the inputs that the node has before the step.
    """
    if new.deprecated:
        return "removed it"
    if len(new.inputs) < len(old.inputs) or len(new.outputs) < len(old.outputs):
        return "has fewer inputs or outputs"
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for index, port in enumerate(new.inputs):
        if port.option == single and index not in given:
            return f"wants an input {port.name}"
    for name in sorted(attributes | set(old.attributes)):
        if name not in new.attributes:
            return f"has no attribute {name}"
    for name, attr in new.attributes.items():
        if name in attributes:
            continue
        if attr.required:
            return f"requires the attribute {name}"
        if name in old.attributes and _default(attr) != _default(old.attributes[name]):
            return f"changed the default of {name}"
    return ""


def _type_blocker(node: ir.Node, new: Schema) -> str:
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not isinstance(value.type, ir.TensorType) or not new.inputs:
            continue
        port = new.inputs[min(index, len(new.inputs) - 1)]
        if _type_text(value.dtype) not in port.types:
            return f"does not take {_type_text(value.dtype)} as {port.name}"
    return ""


def _default(attr: Any) -> bytes:
    data: bytes = attr.default_value.SerializeToString()
    return data


@lru_cache(maxsize=1)
def _schemas() -> dict[str, dict[int, Schema]]:
    found: dict[str, dict[int, Schema]] = defaultdict(dict)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name][schema.since_version] = schema
    return found


@lru_cache(maxsize=4096)
def _steps(op_type: str, now: int, to: int) -> tuple[tuple[Schema, Schema], ...]:
    """The pairs of neighbouring versions of an operator between two opsets."""
    versions = _schemas().get(op_type, {})
    path = sorted(version for version in versions if version <= to)
    first = max((version for version in path if version <= now), default=0)
    path = [versions[version] for version in path if version >= first]
    return tuple(pairwise(path))


# --- the steps that need more than the schemas -----------------------------------------------------------------------


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


_CHANGES: dict[tuple[str, int], Change] = {
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
