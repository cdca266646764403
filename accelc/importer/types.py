"""Types and shapes: the model without its weights goes through onnx's inference and checker."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import onnx

from accelc.errors import ModelError
from accelc.importer.operators import formal
from accelc.importer.opsets import MICROSOFT
from accelc.importer.scopes import Scan, Scope, locate, scan
from accelc.importer.skeleton import Skeleton
from accelc.importer.tensors import type_name
from accelc.shape_inference import infer_shapes

_T = onnx.TensorProto

_UNTYPED = "to have type but instead is null"
_WITH_BODIES = frozenset(("If", "Loop", "Scan", "SequenceMap"))
_MERGES = ("existing shape", "existing elem type", "existing type")


@dataclass(frozen=True)
class Settled:
    """What inference says about the declarations.

    outputs: better types, by index. reshaped: how many of them correct a declared shape. stale: value_info to drop, by
    the path of the graph. inferred: the skeleton with the types of inner values filled in.
    """

    inferred: onnx.ModelProto
    outputs: dict[int, onnx.TypeProto] = field(default_factory=dict)
    reshaped: int = 0
    stale: dict[tuple[tuple[int, int, int], ...], frozenset[int]] = field(default_factory=dict)


def infer(copy: Skeleton, read: Scan, *, typed: bool) -> Settled:
    """Infer all types of a skeleton afresh and compare them with what the model declares. The skeleton is changed.

    typed: whether the type of every node can be inferred; if not, what follows an opaque node is not held against it.
    Raises: ModelError where an operator cannot take its inputs, and where an output has another type than declared.
    """
    opaque = _opaque_values(read) if not typed else set()
    declared = {scope.path: list(scope.proto.value_info) for scope in _graphs(read)}
    _forget(copy.proto, read, opaque)
    bodies = _WITH_BODIES | {name for (_, name, _), _ in read.functions}
    inferred = _run(copy.proto, typed=typed, bodies=bodies)
    outputs: dict[int, onnx.TypeProto] = {}
    reshaped = 0
    for index, value in enumerate(read.proto.graph.output):
        found = inferred.graph.output[index].type
        if _is_better(value, found):
            reshaped += value.type.tensor_type.elem_type != 0 and _shape(value.type) is not None
            outputs[index] = found
    stale = {}
    for path, infos in declared.items():
        assert path is not None
        graph = locate(inferred, path)
        dropped = _stale(infos, graph, known=_defined(graph))
        if dropped:
            stale[path] = dropped
    return Settled(inferred, outputs, reshaped, stale)


def _graphs(read: Scan) -> list[Scope]:
    """The graphs below the main graph that declare types of inner values."""
    return [scope for scope in read.scopes() if scope.path is not None and scope.proto.value_info]


def _opaque_values(read: Scan) -> set[str]:
    """Names that only the model's own declarations give a type."""
    versions = {entry.domain: entry.version for entry in read.proto.opset_import}
    functions = {key for key, _ in read.functions}
    found: set[str] = set()
    for scope in read.scopes():
        for node in scope.nodes:
            if (node.domain, node.op, node.overload) in functions:
                continue
            known = formal(node.domain, node.op, versions.get(node.domain, 1))
            if known is None or not known.typed:
                found.update(node.outputs)
    return found


def _forget(copy: onnx.ModelProto, read: Scan, opaque: set[str]) -> None:
    """Remove declared types that inference can find by itself."""
    for scope in _graphs(read):
        assert scope.path is not None
        graph = locate(copy, scope.path)
        kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name in opaque]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    made = set(read.main.inputs) | set(read.main.initializers) | opaque
    for output in copy.graph.output:
        if output.name not in made:
            output.ClearField("type")


def _run(copy: onnx.ModelProto, *, typed: bool, bodies: frozenset[str]) -> onnx.ModelProto:
    try:
        return infer_shapes(copy, check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises its own, ValueError and RuntimeError; all carry the message
        problem = _problem(str(error), typed=typed, bodies=bodies)
        if problem is not None:
            raise problem from None
    try:
        return infer_shapes(copy)
    except Exception as error:
        raise ModelError("types cannot be inferred", why=_one_line(str(error)), hint="export it again") from None


_ENTRY = re.compile(r"^\(op_type:(?P<op>[^,)]*)(?:, node name: (?P<name>.*?))?\): ?(?P<why>.*)$", re.DOTALL)


def _problem(message: str, *, typed: bool, bodies: frozenset[str]) -> ModelError | None:
    """The first inference error that speaks against the model, as one line.

    bodies: operators whose bodies are part of the model. What onnx finds in its own body of another one does not count.
    """
    text = message.replace("[ShapeInferenceError] Inference error(s): ", "", 1)
    entries = [entry for entry in re.split(r"\n(?=\(op_type:)", text) if entry.strip()]
    for entry in entries:
        if any(phrase in entry for phrase in _MERGES) or (_UNTYPED in entry and not typed):
            continue
        entry = re.sub(r"^\[\w+\] ", "", entry.strip())
        match = _ENTRY.match(entry)
        if match and "(op_type:" in match["why"] and match["op"] not in bodies:
            continue
        op = match["op"] if match else ""
        where = f"node '{match['name']}' ({op})" if match and match["name"] else f"a {op} node" if match else ""
        why = re.sub(r"\[(?:Type|Shape)InferenceError\] ", "", match["why"] if match else entry)
        why = why.replace("Inference error(s): ", "")
        return ModelError(
            "the operator cannot take its inputs" if match else "the types of the model do not fit",
            where=where,
            why=_one_line(why),
            hint="export the model again",
        )
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _shape(kind: onnx.TypeProto) -> Any:
    tensor = kind.tensor_type
    return tensor.shape.dim if kind.HasField("tensor_type") and tensor.HasField("shape") else None


def _is_better(value: onnx.ValueInfoProto, found: onnx.TypeProto) -> bool:
    """Whether an inferred type should replace an output's declared one: it says more, or contradicts its shape.

    Raises: ModelError when the kinds or element types differ.
    """
    if found.WhichOneof("value") is None:
        return False
    declared = value.type
    if declared.WhichOneof("value") is None:
        return True
    if not declared.HasField("tensor_type") or not found.HasField("tensor_type"):
        if declared.WhichOneof("value") != found.WhichOneof("value"):
            raise _wrong_output(value, found)
        return False
    given, inferred = declared.tensor_type.elem_type, found.tensor_type.elem_type
    if given and inferred and given != inferred:
        raise _wrong_output(value, found)
    if not given and inferred:
        return True
    return _shape(found) is not None and (_shape(declared) is None or _shapes_conflict(declared, found))


def _wrong_output(value: onnx.ValueInfoProto, found: onnx.TypeProto) -> ModelError:
    return ModelError(
        f"the output '{value.name}' has another type than declared",
        why=f"declared {_kind(value.type)}, computed {_kind(found)}",
        hint="export the model again",
    )


def _kind(kind: onnx.TypeProto) -> str:
    if kind.HasField("tensor_type"):
        return type_name(kind.tensor_type.elem_type)
    return str(kind.WhichOneof("value")).removesuffix("_type")


def _shapes_conflict(left: onnx.TypeProto, right: onnx.TypeProto) -> bool:
    one, two = _shape(left), _shape(right)
    if one is None or two is None:
        return False
    return len(one) != len(two) or any(
        a.HasField("dim_value") and b.HasField("dim_value") and a.dim_value != b.dim_value
        for a, b in zip(one, two, strict=True)
    )


def _contradicts(declared: onnx.TypeProto, found: onnx.TypeProto) -> bool:
    """Whether a declared type and an inferred one cannot both hold."""
    kinds = declared.WhichOneof("value"), found.WhichOneof("value")
    if None in kinds:
        return False
    if kinds[0] != kinds[1]:
        return True
    if kinds[0] != "tensor_type":
        return False
    given, inferred = declared.tensor_type.elem_type, found.tensor_type.elem_type
    return bool(given and inferred and given != inferred) or _shapes_conflict(declared, found)


def _defined(graph: onnx.GraphProto) -> set[str]:
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names.update(sparse.values.name for sparse in graph.sparse_initializer)
    for node in graph.node:
        names.update(node.output)
    return names


def _stale(infos: list[onnx.ValueInfoProto], graph: onnx.GraphProto, known: set[str]) -> frozenset[int]:
    """Which declarations to drop: of values that do not exist, given twice, or against what was inferred."""
    found = {value.name: value.type for value in (*graph.value_info, *graph.output, *graph.input)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    dropped, seen = set(), set()
    for index, info in enumerate(infos):
        name = info.name
        constant = constants.get(name)
        inferred = found.get(name) if constant is None else _constant_type(constant)
        if name not in known or name in seen or (inferred is not None and _contradicts(info.type, inferred)):
            dropped.add(index)
        seen.add(name)
    return frozenset(dropped)


def _constant_type(tensor: onnx.TensorProto) -> onnx.TypeProto:
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def apply(settled: Settled, model: onnx.ModelProto) -> list[str]:
    """Write what inference settled into a model. Returns the repairs."""
    repairs = []
    for index, kind in settled.outputs.items():
        model.graph.output[index].type.CopyFrom(kind)
    filled = len(settled.outputs) - settled.reshaped
    if filled:
        repairs.append(f"filled in the type or shape of {filled} output(s)")
    if settled.reshaped:
        repairs.append(f"corrected the declared shape of {settled.reshaped} output(s)")
    for path, dropped in settled.stale.items():
        graph = locate(model, path)
        kept = [
            onnx.ValueInfoProto.FromString(info.SerializeToString())
            for index, info in enumerate(graph.value_info)
            if index not in dropped
        ]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    count = sum(map(len, settled.stale.values()))
    if count:
        repairs.append(f"dropped the stale type of {count} inner value(s)")
    return repairs


# --- the checker -----------------------------------------------------------------------------------------------------


def check(copy: Skeleton, foreign: frozenset[str]) -> None:
    """onnx's own checker on a skeleton, as a last net. The skeleton is changed.

    foreign: operators of the default domain that only ONNX Runtime has.
    Raises: ModelError with the checker's reason.
    """
    _stand_in(copy, foreign)
    try:
        onnx.checker.check_model(copy.proto, skip_opset_compatibility_check=True)
    except onnx.checker.ValidationError as error:
        reason, _, context = str(error).partition("==> Context:")
        named = re.search(r"Name: (.*?) OpType: (\w*)", context)
        where = f"node '{named[1]}' ({named[2]})" if named else ""
        raise ModelError(
            "the model breaks a rule of ONNX", where=where, why=_one_line(reason), hint="export it again"
        ) from None


def _stand_in(copy: Skeleton, foreign: frozenset[str]) -> None:
    """Make a skeleton complete in the checker's eyes, where it asks for more than the runtime does.

    Hollow tensors get no elements, values without a type some type, and operators that only the runtime has a domain
    that the checker leaves alone.
    """
    for value in (*copy.proto.graph.input, *copy.proto.graph.output):
        if value.type.WhichOneof("value") is None or value.type.HasField("tensor_type"):
            kind = value.type.tensor_type
            kind.elem_type = kind.elem_type or _T.FLOAT
            kind.shape.SetInParent()
    for tensor in copy.hollow:
        tensor.dims[:] = [0]
    if foreign:
        for scope in scan(copy.proto).scopes():
            for node in scope.nodes:
                if node.domain == "" and node.op in foreign:
                    node.proto.domain = MICROSOFT
        for imports in (copy.proto.opset_import, *(function.opset_import for function in copy.proto.functions)):
            if all(entry.domain != MICROSOFT for entry in imports):
                imports.add(domain=MICROSOFT, version=1)
