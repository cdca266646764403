"""Raising a model's opset, only where every operator in it keeps its meaning or can be rewritten to keep it.

What changed between two versions of an operator is read from the schemas of onnx: a step that only adds types,
optional inputs or attributes with a default keeps the meaning. Every other step is listed in opset_changes, either with
the rewrite that keeps it or as one that blocks. Rewrites change nodes in place: a match waiting to be applied stays
valid.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import onnx

from accelc import ir
from accelc.opset_changes import CHANGES, Edit

if TYPE_CHECKING:
    from accelc.target import Target

Schema = Any
"""onnx.defs.OpSchema"""

_OLDEST = 7
"""Below it, broadcasting was an attribute and dropout knew whether it was a test."""
_VENDORS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "ai.onnx.ml"})
"""Domains whose operators are never functions of the model; the opset of ai.onnx does not change what they mean."""
_FOUND = "accelc.opsets.blocking"


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
                change = CHANGES.get((node.op_type, new.since_version))
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
    if target is not None and target.kernels is None:
        return f"it is not known what {target.name} runs at opset {to}"
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
        change = CHANGES.get((node.op_type, new.since_version))
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
    if not target.has_kernel("", node.op_type, old.since_version, _types(node, old)):
        return ""
    kept = target.has_kernel("", node.op_type, new.since_version, _types(node, new))
    return "" if kept else f"has no kernel at opset {to}"


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
