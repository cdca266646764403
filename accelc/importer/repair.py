"""Repairs of what runs but is untidy: IR version, constants among the inputs, names of nodes, text, shapes."""

from __future__ import annotations

import onnx
from google.protobuf.unknown_fields import UnknownFieldSet

from accelc.errors import ModelError
from accelc.importer.names import fresh
from accelc.importer.scopes import Scan, Scope
from accelc.importer.tensors import STORAGE

_T = onnx.TensorProto

_IR_OF_TYPE: dict[int, int] = {
    **dict.fromkeys((_T.FLOAT8E4M3FN, _T.FLOAT8E4M3FNUZ, _T.FLOAT8E5M2, _T.FLOAT8E5M2FNUZ), 9),
    **dict.fromkeys((_T.UINT4, _T.INT4), 10),
    _T.FLOAT4E2M1: 11,
    _T.FLOAT8E8M0: 12,
    **dict.fromkeys((_T.UINT2, _T.INT2), 13),
    **dict.fromkeys((_T.FLOAT6E2M3, _T.FLOAT6E3M2), 14),
}
"""The IR version that brought a type; older types are in all."""

_ANY = "?"
"""What exporters write for every size they do not know; two of them are not one size, as two equal names would be."""


def settle_ir_version(scan: Scan) -> list[str]:
    """Raise the IR version where the model needs it. Below IR 4, initializers are constants even if listed as inputs.

    Raises: ModelError for a version that is missing, negative or newer than the installed onnx.
    """
    model = scan.proto
    found = model.ir_version
    if not model.HasField("ir_version") or found < 0:
        raise ModelError("the model has no IR version", why="the file is incomplete or damaged", hint="export it again")
    if found > onnx.IR_VERSION:
        raise ModelError(
            f"IR version {found} is too new",
            why=f"the installed onnx knows up to {onnx.IR_VERSION}",
            hint="update onnx and onnxruntime, or export with an older version",
        )
    wanted, why = _wanted(scan, found)
    repairs = []
    if wanted > found:
        model.ir_version = wanted
        repairs.append(f"raised the IR version from {found} to {wanted}: {why}")
    if found < 4 <= wanted:
        repairs += _drop_constant_inputs(scan)
    return repairs


def _wanted(scan: Scan, found: int) -> tuple[int, str]:
    graph = scan.proto.graph
    wanted, why = found, ""
    if found < 4 and scan.main.initializers:
        listed = set(scan.main.inputs).issuperset(scan.main.initializers)
        wanted = 4
        why = "initializers are constants, not inputs" if listed else "some initializers are not among the inputs"
    if found < 3 < 4 and wanted < 4:
        wanted, why = 4, "older versions have no opset imports"
    opset = _ir_of_opsets(scan)
    if opset > wanted:
        wanted, why = opset, "the opset needs it"
    kinds = {ref.proto.data_type for ref in scan.tensors} | _value_kinds(graph)
    typed = max((_IR_OF_TYPE.get(kind, 0) for kind in kinds), default=0)
    if typed > wanted:
        wanted, why = typed, "its element types need it"
    if scan.functions and wanted < 8:
        wanted, why = 8, "functions need it"
    if any(key[2] for key, _ in scan.functions) and wanted < 10:
        wanted, why = 10, "function overloads need it"
    return wanted, why


def _ir_of_opsets(scan: Scan) -> int:
    imports = [entry for entry in scan.proto.opset_import if entry.version > 0]
    return int(onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)) if imports else 0


def _value_kinds(graph: onnx.GraphProto) -> set[int]:
    return {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}


def _drop_constant_inputs(scan: Scan) -> list[str]:
    graph = scan.proto.graph
    constant = set(scan.main.initializers)
    listed = [value.name for value in graph.input if value.name in constant]
    for index in reversed(range(len(graph.input))):
        if graph.input[index].name in constant:
            del graph.input[index]
    scan.main.inputs = tuple(name for name in scan.main.inputs if name not in constant)
    if not listed:
        return []
    return [f"took {len(listed)} initializer(s) out of the inputs: below IR version 4 they are constants"]


def settle_names(scan: Scan) -> tuple[list[str], frozenset[str]]:
    """Give every graph a name and every node a name of its own. Returns the repairs and the names of unnamed nodes.

    Those serve messages only and are not written, so they count as no repair.
    """
    repairs = []
    if not scan.proto.graph.name:
        scan.proto.graph.name = "main_graph"
        repairs.append("named the graph, which had no name")
    repeated = 0
    given: set[str] = set()
    trees = [[node for scope in _below(root) for node in scope.nodes] for root in scan.roots()]
    taken = {node.name for views in trees for node in views}
    for views in trees:
        seen: set[str] = set()
        number = 0
        for node in views:
            if node.name and node.name not in seen:
                seen.add(node.name)
                continue
            if node.name:
                repeated += 1
                node.name = fresh(node.name, taken)
            else:
                number += 1
                while (name := f"n{number}") in taken:
                    number += 1
                node.name = name
                given.add(name)
            node.proto.name = node.name
    if repeated:
        repairs.append(f"renamed {repeated} node(s) whose name was taken")
    return repairs, frozenset(given)


def _below(root: Scope) -> list[Scope]:
    found = [root]
    for scope in found:
        found.extend(inner for node in scope.nodes for inner in node.subgraphs)
    return found


def settle_text(scan: Scan) -> list[str]:
    """Remove doc strings that are no text: they mean nothing and no reader shows them."""
    for message in scan.bad_docs:
        message.ClearField("doc_string")
    count = len(scan.bad_docs)
    return [f"removed {count} doc string(s) that are not valid UTF-8"] if count else []


def settle_values(scan: Scan) -> list[str]:
    """Check the declared types of inputs and outputs; sizes below 0 and "?" become unknown; nameless initializers go.

    Raises: ModelError for an input without a type, and for element types that do not exist.
    """
    unknown = 0
    for scope in scan.scopes():
        if scope.proto.__class__ is onnx.FunctionProto:
            continue
        for value in scope.proto.input:
            if scope.is_main and value.type.WhichOneof("value") is None:
                raise ModelError(f"the input '{value.name}' has no type", where=scope.label, hint="export it again")
            unknown += _settle_type(value.type, f"input '{value.name}' of {scope.label}", required=scope.is_main)
        for value in (*scope.proto.output, *scope.proto.value_info):
            unknown += _settle_type(value.type, f"'{value.name}' of {scope.label}", required=False)
    repairs = [f"made {unknown} dimension(s) unknown that were negative or named {_ANY}"] if unknown else []
    return repairs + _drop_nameless(scan)


def _settle_type(kind: onnx.TypeProto, where: str, *, required: bool) -> int:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        tensor = kind.tensor_type if which == "tensor_type" else kind.sparse_tensor_type
        _check_element(tensor.elem_type, where, required=required)
        unknown = [dim for dim in tensor.shape.dim if dim.dim_value < 0 or dim.dim_param == _ANY]
        for dim in unknown:
            dim.Clear()
        return len(unknown)
    if which == "sequence_type":
        return _settle_type(kind.sequence_type.elem_type, where, required=required)
    if which == "optional_type":
        return _settle_type(kind.optional_type.elem_type, where, required=required)
    if which == "map_type":
        return _settle_type(kind.map_type.value_type, where, required=required)
    return 0


def _check_element(element: int, where: str, *, required: bool) -> None:
    if element not in STORAGE and (element or required):
        why = f"type {element}" if element else "the element type is not set"
        raise ModelError("a value has an unknown element type", where=where, why=why, hint="export the model again")


def _drop_nameless(scan: Scan) -> list[str]:
    count = 0
    for scope in scan.scopes():
        if "" in scope.initializers:
            for held in (scope.proto.initializer, scope.proto.sparse_initializer):
                for index in reversed(range(len(held))):
                    name = held[index].name if held is scope.proto.initializer else held[index].values.name
                    if not name:
                        del held[index]
                        count += 1
            scope.initializers = tuple(name for name in scope.initializers if name)
    return [f"removed {count} initializer(s) without a name, which nothing can use"] if count else []


def has_foreign_fields(model: onnx.ModelProto, copy: onnx.ModelProto) -> bool:
    """Whether parts of a model hold fields that are no part of ONNX. copy: the skeleton, which loses its own."""
    size = len(copy.SerializeToString())
    copy.DiscardUnknownFields()
    parts = (model.graph, *model.graph.initializer)
    return len(copy.SerializeToString()) != size or any(len(UnknownFieldSet(part)) for part in parts)
