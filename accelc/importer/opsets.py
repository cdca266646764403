"""Operator sets: which domains a model and its functions import, at which versions."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
from onnx import defs

from accelc.errors import ModelError
from accelc.importer.scopes import Scan, Scope, canonical, function_label

MICROSOFT = "com.microsoft"

_RUNTIME_DOMAINS = (
    MICROSOFT,
    "com.microsoft.nchwc",
    "com.microsoft.experimental",
    "com.microsoft.dml",
    "com.ms.internal.nhwc",
    "org.pytorch.aten",
)
"""Domains of ONNX Runtime; all of them are at version 1 (the last but one follows the default domain)."""

_A = onnx.AttributeProto


def _newest() -> dict[str, int]:
    newest = dict.fromkeys(_RUNTIME_DOMAINS, 1)
    newest["com.ms.internal.nhwc"] = defs.onnx_opset_version()
    for schema in defs.get_all_schemas_with_history():
        newest[schema.domain] = max(newest.get(schema.domain, 0), schema.since_version)
    for row in onnx.helper.VERSION_TABLE:
        for domain, version in zip(("", "ai.onnx.ml", "ai.onnx.training"), row[2:], strict=False):
            newest[domain] = max(newest.get(domain, 0), int(version))
    newest[""] = defs.onnx_opset_version()
    return newest


@cache
def known_domains() -> dict[str, int]:
    """The domains that have a meaning without the model's own functions, and the newest version of each."""
    return _newest()


def settle_opsets(scan: Scan) -> list[str]:
    """Check and complete the opset imports of the model and its functions. Returns the repairs.

    Raises: ModelError for versions that do not exist, one domain at two versions, and domains that nobody knows.
    """
    model = scan.proto
    repairs: list[str] = []
    if not model.opset_import and model.ir_version >= 3:
        raise ModelError(
            "the model imports no operator set",
            where="the opset imports",
            why="which version of each operator is meant is unknown",
            hint="export the model again",
        )
    repairs += _tidy_imports(model, "the model")
    repairs += _canonical_nodes(scan)
    own = {key[0] for key, _ in scan.functions}
    defined = {key for key, _ in scan.functions}
    if model.ir_version < 3 and not model.opset_import:
        _add_import(model, "", 1)
        repairs.append("imported opset 1, which IR versions below 3 mean")
    for domain in sorted(_used_domains(scan.main) - imported(model).keys()):
        version = _version_for(domain, own, scan.main, defined)
        _add_import(model, domain, version)
        repairs.append(f"imported the domain '{domain or 'ai.onnx'}' at version {version}, which was missing")
    for (key, scope), function in zip(scan.functions, model.functions, strict=True):
        repairs += _tidy_imports(function, f"function '{function_label(key)}'")
        for domain in sorted(_used_domains(scope) - imported(function).keys()):
            version = imported(model).get(domain) or _version_for(domain, own, scope, defined)
            _add_import(function, domain, version)
            name = function_label(key)
            repairs.append(f"imported the domain '{domain or 'ai.onnx'}' at version {version} in function '{name}'")
    return repairs


def imported(holder: Any) -> dict[str, int]:
    """The imports of a model or a function: domain -> version."""
    return {entry.domain: entry.version for entry in holder.opset_import}


def _add_import(holder: Any, domain: str, version: int) -> None:
    entry = holder.opset_import.add()
    entry.domain, entry.version = domain, version


def _tidy_imports(holder: Any, where: str) -> list[str]:
    repairs = []
    seen: dict[str, int] = {}
    for entry in list(holder.opset_import):
        domain = canonical(entry.domain)
        _check_version(domain, entry.version, where)
        if seen.setdefault(domain, entry.version) != entry.version:
            raise ModelError(
                f"the domain '{domain or 'ai.onnx'}' is imported at two versions",
                where=where,
                why=f"{seen[domain]} and {entry.version}",
                hint="export the model again",
            )
    if len(seen) != len(holder.opset_import):
        repairs.append(f"removed {len(holder.opset_import) - len(seen)} duplicate opset import(s)")
    if len(seen) != len(holder.opset_import) or any(entry.domain == "ai.onnx" for entry in holder.opset_import):
        if len(seen) == len(holder.opset_import):
            repairs.append("wrote the domain 'ai.onnx' as the empty name in the opset imports")
        del holder.opset_import[:]
        for domain, version in seen.items():
            _add_import(holder, domain, version)
    return repairs


def _check_version(domain: str, version: int, where: str) -> None:
    newest = known_domains().get(domain)
    if newest is None:
        return
    shown = domain or "ai.onnx"
    if version < 1:
        raise ModelError(f"opset {version} of '{shown}' does not exist", where=where, why="versions start at 1")
    if version > newest:
        raise ModelError(
            f"opset {version} of '{shown}' is too new",
            where=where,
            why=f"the newest known version is {newest}",
            hint="update onnx and onnxruntime, or export with an older opset",
        )


def _canonical_nodes(scan: Scan) -> list[str]:
    renamed = 0
    for scope in scan.scopes():
        for node in scope.nodes:
            if node.domain == "" and node.proto.domain:
                node.proto.domain = ""
                renamed += 1
    for function in scan.proto.functions:
        if function.domain == "ai.onnx":
            function.domain = ""
            renamed += 1
    return [f"wrote the domain 'ai.onnx' as the empty name on {renamed} node(s)"] if renamed else []


def _used_domains(root: Scope) -> set[str]:
    found: set[str] = set()
    stack = [root]
    while stack:
        scope = stack.pop()
        found.update(node.domain for node in scope.nodes)
        stack.extend(inner for node in scope.nodes for inner in node.subgraphs)
    return found


def _version_for(domain: str, own: set[str], root: Scope, defined: set[tuple[str, str, str]]) -> int:
    """The version to import for a domain that a model uses without saying so."""
    if domain == "":
        return _runtime_opset()
    newest = known_domains().get(domain)
    if newest is not None:
        return newest
    if domain in own:
        return 1
    stack = [root]
    while stack:
        scope = stack.pop()
        for node in scope.nodes:
            if node.domain == domain and (node.domain, node.op, node.overload) not in defined:
                raise ModelError(
                    f"the domain '{domain}' is used and not imported",
                    where=node.where,
                    why="the model does not import it, and neither ONNX, ONNX Runtime nor the model defines it",
                    hint="export the model again with its custom operators",
                )
            stack.extend(node.subgraphs)
    raise AssertionError(domain)


def _runtime_opset() -> int:
    """The opset ONNX Runtime takes when a model imports none for the default domain: its own newest."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    for version in range(defs.onnx_opset_version(), 0, -1):
        head = f'<ir_version: 8, opset_import: ["": {version}]>'
        probe = onnx.parser.parse_model(head + "g (float x) => (float y) { y = Neg(x) }")
        try:
            onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception:  # the runtime's own types share no other base; each means that it refuses this opset
            continue
        return version
    raise AssertionError("ONNX Runtime runs no opset")
