"""The structure every pass must leave: the model's contract, sound names, order, and nothing dead.

Cost is linear and small; it runs after every pass that changed something.
"""

from __future__ import annotations

from collections import Counter
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
    """What a caller of the model relies on.

    idle: weights that nothing used from the beginning. twice: names that several values had from the beginning, as
    inputs of the subgraphs of vendor operators often have those of the main graph.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metadata: tuple[tuple[str, str], ...]
    idle: frozenset[str] = frozenset()
    twice: frozenset[str] = frozenset()


def contract(model: ir.Model) -> Contract:
    """The contract of a model as it stands."""
    return Contract(
        tuple(_port(value) for value in model.graph.inputs),
        tuple(_port(value) for value in model.graph.outputs),
        tuple(sorted(model.metadata_props.items())),
        frozenset(str(v.name) for graph in ir.all_graphs(model) for v in graph.initializers.values() if not v.uses()),
        _repeated_inputs(model),
    )


def _repeated_inputs(model: ir.Model) -> frozenset[str]:
    """Names that are inputs of more than one graph."""
    count = Counter(value.name for graph in ir.nested(model.graph) for value in graph.inputs)
    return frozenset(str(name) for name, times in count.items() if times > 1)


def _port(value: ir.Value) -> Port:
    return Port(str(value.name), str(value.type), ir.dims(value), ir.is_overridable(value))


def check(model: ir.Model, expected: Contract | None = None) -> None:
    """Raise PassError unless the model is well formed and still keeps its contract."""
    if expected is not None:
        _check_contract(contract(model), expected)
    given = expected or _NOTHING
    _check_graph(model.graph, (), set(), given)
    for function in model.functions.values():
        _check_graph(function.graph, (), set(), given)


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


_NOTHING = Contract((), (), ())


def _check_graph(graph: ir.Graph, outer: tuple[set[ir.Value], ...], seen: set[str], given: Contract) -> None:
    inside: set[ir.Value] = set()

    def define(value: ir.Value, where: ir.Node | str) -> None:
        name = value.name
        if name:
            if name in seen and name not in given.twice:
                place = where if isinstance(where, str) else ir.node_path(where)
                raise PassError(f"two values are named {name}", where=place)
            seen.add(name)
        inside.add(value)

    for value in graph.inputs:
        define(value, "the inputs")
    for value in list(graph.initializers.values()):
        if value.is_graph_input():
            continue
        define(value, "the weights")
        if not value.uses() and not value.is_graph_output() and value.name not in given.idle:
            raise PassError(f"left the weight {value.name}, which nothing uses")
    for node in ir.nodes(graph):
        for used in node.inputs:
            if used is not None and used not in inside and not _in_any(used, outer):
                raise PassError(f"uses {used.name} before anything defines it", where=ir.node_path(node))
        for inner in ir.subgraphs(node):
            _check_graph(inner, (*outer, inside), seen, given)
        for value in node.outputs:
            define(value, node)
    for value in graph.outputs:
        if value not in inside and not _in_any(value, outer):
            raise PassError(f"nothing defines the output {value.name}")


def _in_any(value: ir.Value, scopes: tuple[set[ir.Value], ...]) -> bool:
    return any(value in scope for scope in scopes)
