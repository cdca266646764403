"""Operators: each node's operator exists at the imported version, and its arity and attributes fit."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx
from onnx import defs

from accelc.errors import ModelError
from accelc.importer.opsets import MICROSOFT, imported
from accelc.importer.scopes import NodeView, Scan, Scope, function_label

_A = onnx.AttributeProto


@dataclass(frozen=True)
class Formal:
    """What an operator takes. inputs, outputs: least and most.

    attributes: name -> (type name, required), or None when they are left to the runtime. typed: onnx can infer its
    types. foreign: ONNX Runtime has it in a domain of ONNX, onnx does not. required: some attributes must be given.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    attributes: dict[str, tuple[str, bool]] | None
    deprecated: bool
    typed: bool
    foreign: bool = False
    required: bool = False


@cache
def formal(domain: str, op: str, version: int) -> Formal | None:
    """The operator of a known domain at a version; None when there is none."""
    try:
        schema = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return _runtime_formal(domain, op, version) if domain in _with_schemas() else None
    attributes = {name: (_type_name(attr.type), attr.required) for name, attr in schema.attributes.items()}
    return Formal(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        attributes,
        schema.deprecated,
        schema.has_type_and_shape_inference_function,
        required=any(required for _, required in attributes.values()),
    )


def _type_name(kind: Any) -> str:
    return str(kind.name)


def _runtime_formal(domain: str, op: str, version: int) -> Formal | None:
    """The operator as ONNX Runtime adds it: its own domain, and some that were never or only later part of ONNX."""
    found = [schema for schema in _runtime_schemas().get((domain, op), ()) if schema.since_version <= version]
    if not found:
        return None
    schema = max(found, key=lambda schema: int(schema.since_version))
    arity = (schema.min_input, schema.max_input), (schema.min_output, schema.max_output)
    return Formal(*arity, None, schema.deprecated, typed=False, foreign=domain != MICROSOFT)


@cache
def _runtime_schemas() -> dict[tuple[str, str], list[Any]]:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    found: dict[tuple[str, str], list[Any]] = {}
    for schema in runtime.get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found


@cache
def _with_schemas() -> frozenset[str]:
    """Domains whose operators are all known."""
    return frozenset({MICROSOFT, *(schema.domain for schema in defs.get_all_schemas())})


@dataclass
class Used:
    """What the operators of a model mean for the checks to come.

    typed: onnx can infer the types of all nodes. foreign: operators of ONNX's domains that only ONNX Runtime has.
    """

    typed: bool = True
    foreign: frozenset[str] = frozenset()


def check_operators(scan: Scan) -> Used:
    """Check every node against its operator or function.

    Raises: ModelError for an unknown operator, a wrong number of inputs or outputs, a wrong attribute, a function that
    is defined twice or calls itself.
    """
    functions = _functions(scan)
    _refuse_recursion(functions)
    used = Used()
    _check_scopes(scan.main, imported(scan.proto), functions, used, inside=False)
    for (_, scope), proto in zip(scan.functions, scan.proto.functions, strict=True):
        _check_scopes(scope, imported(proto), functions, used, inside=True)
    return used


def _functions(scan: Scan) -> dict[tuple[str, str, str], Scope]:
    functions: dict[tuple[str, str, str], Scope] = {}
    for key, scope in scan.functions:
        if not key[1]:
            raise ModelError("a function has no name", where=scope.label, hint="export the model again")
        if key in functions:
            raise ModelError(f"the function '{function_label(key)}' is defined twice", hint="export the model again")
        functions[key] = scope
    return functions


def _refuse_recursion(functions: dict[tuple[str, str, str], Scope]) -> None:
    calls = {key: _calls(scope, functions) for key, scope in functions.items()}
    done: set[tuple[str, str, str]] = set()
    for start in calls:
        path: list[tuple[str, str, str]] = []
        stack = [(start, False)]
        while stack:
            key, leave = stack.pop()
            if leave:
                done.add(path.pop())
            elif key in path:
                shown = " -> ".join(function_label(item) for item in [*path[path.index(key) :], key])
                raise ModelError("a function calls itself", where=f"function '{function_label(key)}'", why=shown)
            elif key not in done:
                path.append(key)
                stack.append((key, True))
                stack.extend((callee, False) for callee in calls[key])


def _calls(root: Scope, functions: dict[tuple[str, str, str], Scope]) -> list[tuple[str, str, str]]:
    found: dict[tuple[str, str, str], None] = {}
    stack = [root]
    while stack:
        scope = stack.pop()
        for node in scope.nodes:
            key = (node.domain, node.op, node.overload)
            if key in functions:
                found[key] = None
            stack.extend(node.subgraphs)
    return list(found)


def _check_scopes(
    root: Scope, imports: dict[str, int], functions: dict[tuple[str, str, str], Scope], used: Used, *, inside: bool
) -> None:
    stack = [root]
    while stack:
        scope = stack.pop()
        for node in scope.nodes:
            if not node.op:
                raise ModelError("a node names no operator", where=node.where, hint="export the model again")
            called = functions.get((node.domain, node.op, node.overload)) if functions else None
            if called is not None:
                _check_call(node, called)
                continue
            known = _check_node(node, imports[node.domain], inside=inside)
            used.typed &= known is not None and known.typed
            if known is not None and known.foreign:
                used.foreign |= {node.op}
            stack.extend(node.subgraphs)


def _check_call(node: NodeView, called: Scope) -> None:
    for kind, given, taken in (("input", node.inputs, called.inputs), ("output", node.outputs, called.outputs)):
        if len(given) > len(taken):
            raise _arity(node, kind, len(given), f"the function takes {len(taken)}")


def _check_node(node: NodeView, version: int, *, inside: bool) -> Formal | None:
    if node.attributes:
        _check_attributes(node, inside=inside)
    if node.domain not in _with_schemas():
        return None
    known = formal(node.domain, node.op, version)
    if known is None:
        raise _unknown(node, version)
    if known.deprecated:
        raise ModelError(
            f"the operator {node.op} no longer exists",
            where=node.where,
            why=f"it was removed at or before opset {version}",
            hint="export the model again, or lower the opset import",
        )
    for kind, given, (least, most) in (
        ("input", node.inputs, known.inputs),
        ("output", node.outputs, known.outputs),
    ):
        if not least <= len(given) <= most:
            raise _arity(node, kind, len(given), f"opset {version} takes {_span(least, most)}")
    if known.attributes is not None and (node.attributes or known.required):
        _check_formals(node, known.attributes, version)
    return known


def _arity(node: NodeView, kind: str, count: int, why: str) -> ModelError:
    what = f"wrong number of {kind}s: {count}"
    return ModelError(what, where=node.where, why=why, hint="export the model again")


def _span(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most > 10**6 else f"{least} to {most}"


def _unknown(node: NodeView, version: int) -> ModelError:
    domain = node.domain or "ai.onnx"
    first = _first_version(node.domain, node.op)
    if first:
        why = f"it exists in '{domain}' from version {first}, the model imports {version}"
        return ModelError(f"the operator {node.op} is newer than the opset", where=node.where, why=why)
    close = difflib.get_close_matches(node.op, _operator_names(node.domain), 1)
    hint = f"did you mean {close[0]}?" if close else "the model may need a custom domain, or a newer onnx"
    return ModelError(
        f"there is no operator {node.op}", where=node.where, why=f"'{domain}' version {version} has none", hint=hint
    )


def _first_version(domain: str, op: str) -> int:
    versions = [
        schema.since_version
        for schema in defs.get_all_schemas_with_history()
        if schema.domain == domain and schema.name == op
    ]
    return min(versions, default=0)


def _operator_names(domain: str) -> list[str]:
    if domain == MICROSOFT:
        return [name for domain, name in _runtime_schemas() if domain == MICROSOFT]
    return [schema.name for schema in defs.get_all_schemas() if schema.domain == domain]


def _check_attributes(node: NodeView, *, inside: bool) -> None:
    names = [attribute.name for attribute in node.attributes]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ModelError(f"the attribute '{twice}' is given twice", where=node.where, hint="export the model again")
    for attribute in node.attributes:
        if attribute.ref_attr_name and not inside:
            raise ModelError(
                f"the attribute '{attribute.name}' refers to '{attribute.ref_attr_name}' of a function",
                where=node.where,
                why="the node is in no function",
                hint="export the model again",
            )


def _check_formals(node: NodeView, formals: dict[str, tuple[str, bool]], version: int) -> None:
    for attribute in node.attributes:
        expected = formals.get(attribute.name)
        if expected is None:
            raise ModelError(
                f"{node.op} has no attribute '{attribute.name}'",
                where=node.where,
                why=f"opset {version} knows {', '.join(sorted(formals)) or 'none'}",
                hint="the opset import may be wrong",
            )
        kind = str(_A.AttributeType.Name(attribute.type))
        if kind != expected[0]:
            raise ModelError(
                f"the attribute '{attribute.name}' has the wrong type",
                where=node.where,
                why=f"{kind} where {expected[0]} is needed",
                hint="export the model again",
            )
    given = {attribute.name for attribute in node.attributes}
    for name, (_, required) in formals.items():
        if required and name not in given:
            raise ModelError(
                f"the attribute '{name}' is missing", where=node.where, why=f"{node.op} needs it", hint="export again"
            )
