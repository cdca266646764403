"""The structure every pass must leave: the model's contract, sound names, order, and nothing dead.

Cost is linear and small; it runs after every pass that changed something.
"""

from __future__ import annotations

from dataclasses import dataclass

from accelc import ir
from accelc.errors import PassError


@dataclass(frozen=True)
class Port:
    """An input or output as the caller sees it: name, type, dimensions, and whether an input has a default."""

    name: str
    type: str
    dims: tuple[ir.Dim, ...] | None
    optional: bool = False


@dataclass(frozen=True)
class Contract:
    """What a caller of the model relies on. idle: weights that nothing used from the beginning."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: tuple[tuple[str, str], ...]
    idle: frozenset[str] = frozenset()


def contract(model: ir.Model) -> Contract:
    """The contract of a model as it stands."""
    return Contract(
        tuple(_port(value) for value in model.graph.inputs),
        tuple(_port(value) for value in model.graph.outputs),
        tuple(sorted(model.metadata_props.items())),
        frozenset(str(v.name) for graph in ir.all_graphs(model) for v in graph.initializers.values() if not v.uses()),
    )


def _port(value: ir.Value) -> Port:
    return Port(str(value.name), str(value.type), ir.dims(value), ir.is_overridable(value))


def check(model: ir.Model, expected: Contract | None = None) -> None:
    """Raise PassError unless the model is well formed and still keeps its contract."""
    if expected is not None:
        _check_contract(contract(model), expected)
    idle = expected.idle if expected is not None else frozenset[str]()
    seen: set[str] = set()
    _check_graph(model.graph, (), seen, idle)
    for function in model.functions.values():
        _check_graph(function.graph, (), set(), idle)


def _check_contract(now: Contract, expected: Contract) -> None:
    for kind, before, after in (("input", expected.inputs, now.inputs), ("output", expected.outputs, now.outputs)):
        if [port.name for port in before] != [port.name for port in after]:
            raise PassError(f"changed the {kind}s from {_names(before)} to {_names(after)}")
        for old, new in zip(before, after, strict=True):
            if (old.type, old.dims, old.optional) != (new.type, new.dims, new.optional):
                raise PassError(f"changed {kind} {old.name} from {_describe(old)} to {_describe(new)}")
    missing = set(expected.metadata) - set(now.metadata)
    if missing:
        raise PassError(f"dropped the metadata {', '.join(sorted(key for key, _ in missing))}")


def _names(ports: tuple[Port, ...]) -> str:
    return "(" + ", ".join(port.name for port in ports) + ")"


def _describe(port: Port) -> str:
    shape = "of unknown rank" if port.dims is None else str(list(port.dims))
    return f"{port.type} {shape}" + (" with a default" if port.optional else "")


def _check_graph(graph: ir.Graph, outer: tuple[set[ir.Value], ...], seen: set[str], idle: frozenset[str]) -> None:
    inside: set[ir.Value] = set()

    def define(value: ir.Value, where: str) -> None:
        name = value.name
        if name:
            if name in seen:
                raise PassError(f"two values are named {name}", where=where)
            seen.add(name)
        inside.add(value)

    for value in graph.inputs:
        define(value, "the inputs")
    for value in list(graph.initializers.values()):
        if value.is_graph_input():
            continue
        define(value, "the weights")
        if not value.uses() and not value.is_graph_output() and value.name not in idle:
            raise PassError(f"left the weight {value.name}, which nothing uses")
    for node in graph:
        for used in node.inputs:
            if used is not None and used not in inside and not _in_any(used, outer):
                raise PassError(f"uses {used.name} before anything defines it", where=ir.node_path(node))
        for inner in ir.subgraphs(node):
            _check_graph(inner, (*outer, inside), seen, idle)
        for value in node.outputs:
            define(value, ir.node_path(node))
    for value in graph.outputs:
        if value not in inside and not _in_any(value, outer):
            raise PassError(f"nothing defines the output {value.name}")


def _in_any(value: ir.Value, scopes: tuple[set[ir.Value], ...]) -> bool:
    return any(value in scope for scope in scopes)
