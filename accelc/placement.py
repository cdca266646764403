"""Where the runtime will run each node of a result, from the kernel table alone; no provider is needed for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx

from accelc import ir
from accelc.target import Target

_HOST_INPUTS = {
    "CumSum": {1},
    "Expand": {1},
    "If": {0},
    "Loop": {0, 1},
    "OneHot": {1, 2},
    "Pad": {1, 2, 3},
    "Range": {0, 1, 2},
    "Reshape": {1},
    "Resize": {1, 2, 3},
    "Slice": {1, 2, 3, 4},
    "Split": {1},
    "Squeeze": {1},
    "Tile": {1},
    "TopK": {1},
    "Trilu": {1},
    "Unsqueeze": {1},
    "Upsample": {1},
    "ConstantOfShape": {0},
}
"""Inputs that kernels of devices read on the host; those of reductions are their axes."""
_HOST_OUTPUTS = frozenset({"Shape", "Size"})
_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Stray:
    """A node that runs on the processor although the target is another one, and why."""

    node: str
    operator: str
    reason: str


@dataclass(frozen=True)
class Placement:
    """nodes: in all graphs. shape_arithmetic: small integers that the runtime keeps on the processor on purpose.

    strays: nodes without a kernel on the target. copied: names of values that must be copied between the target and the
    processor in every run, inputs and outputs of the model aside; the runtime makes no CUDA graph where there are any.
    unknown: why it is not known where the nodes will run; nothing but their number is told then.
    """

    target: str
    nodes: int
    shape_arithmetic: int = 0
    strays: tuple[Stray, ...] = ()
    copied: tuple[str, ...] = ()
    unknown: str = ""

    def __str__(self) -> str:
        if self.unknown:
            return f"not known: {self.unknown}"
        there = self.nodes - self.shape_arithmetic - len(self.strays)
        parts = [f"{there} of {self.nodes} nodes on {self.target}"]
        if self.shape_arithmetic:
            parts.append(f"{self.shape_arithmetic} of shape arithmetic stay on the processor by the runtime's choice")
        if self.strays:
            parts.append(f"{len(self.strays)} have no kernel there")
        if self.copied:
            more = f" and {len(self.copied) - 1} more" if len(self.copied) > 1 else ""
            parts.append(f"copied in each run: {self.copied[0]}{more}")
        return "; ".join(parts)


def place(model: ir.Model, target: Target) -> Placement:
    """Place every node of a model on the target or the processor."""
    if target.kernels is None:
        reason = f"accelc has no kernel table of {target.name}; the runtime decides when it loads the model"
        return Placement(target.name, sum(map(len, ir.all_graphs(model))), unknown=reason)
    total = 0
    kept: list[tuple[ir.Node, str]] = []
    copied: list[str] = []
    for graph in ir.all_graphs(model):
        found = _Graph(graph, model, target)
        total += len(graph)
        copied += [str(value.name) for value, _ in found.moved]
        kept += found.kept
    strays = tuple(Stray(ir.node_path(node), node.op_type, reason) for node, reason in kept if reason)
    return Placement(target.name, total, len(kept) - len(strays), strays, tuple(copied))


def kept_on_processor(model: ir.Model, target: Target) -> list[tuple[ir.Node, str]]:
    """The nodes that do not run on the target, each with the reason; empty where it is the runtime's choice."""
    return [each for graph in ir.all_graphs(model) for each in _Graph(graph, model, target).kept]


def not_on_processor(model: ir.Model) -> list[ir.Node]:
    """The nodes that the runtime cannot run on the processor, neither by a kernel nor by writing them as others.

    Types are not looked at: a kernel for float32 serves half precision, too, between two casts.
    """
    from accelc.plugins import find_backend

    target = find_backend("cpu")().target()
    functions = {(key[0], key[1]) for key in model.functions}
    return [
        node
        for graph in ir.all_graphs(model)
        for node in graph
        if (node.domain, node.op_type) not in functions
        and not target.has_kernel(node.domain, node.op_type, ir.opset(graph, model, node.domain))
        and not _is_function(node, ir.opset(graph, model, node.domain))
    ]


class _Graph:
    """The placement of one graph."""

    def __init__(self, graph: ir.Graph, model: ir.Model, target: Target) -> None:
        self.model, self.target = model, target
        self.functions = {(key[0], key[1]) for key in model.functions}
        self.host: set[ir.Value] = set()
        self.chosen: set[ir.Value] = set()  # on the host by the runtime's choice
        self.device: set[ir.Value] = set()
        self.kept: list[tuple[ir.Node, str]] = []  # (node, why the target cannot run it)
        self.moved: dict[tuple[ir.Value, bool], None] = {}  # (value, whether it goes to the target)
        self.inputs = set(graph.inputs)
        for node in graph:
            self._place(node, ir.opset(graph, model, node.domain))

    def _place(self, node: ir.Node, opset: int) -> None:
        if node.op_type == "Constant":
            return
        reason = self._stray(node, opset)
        given = [(index, value) for index, value in enumerate(node.inputs) if value is not None]
        if reason:
            self.kept.append((node, reason))
        elif self._is_shape_arithmetic(node, given):
            self.kept.append((node, ""))
            self.chosen.update(node.outputs)
        if reason or node.outputs[0] in self.chosen:
            self.moved.update({(value, False): None for _, value in given if value in self.device})
            self.host.update(node.outputs)
            return
        reads = _host_inputs(node)
        for index, value in given:
            if index in reads and value in self.device:
                self.moved[value, False] = None
            elif index not in reads and value in self.host:
                self.moved[value, True] = None
        if node.op_type in _HOST_OUTPUTS:
            self.host.update(node.outputs)
            self.chosen.update(node.outputs)
        else:
            self.device.update(node.outputs)

    def _stray(self, node: ir.Node, opset: int) -> str:
        """Why the target cannot run a node; empty when it can."""
        if (node.domain, node.op_type) in self.functions:
            return ""
        if self.target.has_kernel(node.domain, node.op_type, opset, _types(node, opset)):
            return ""
        if self.target.has_kernel(node.domain, node.op_type, opset):
            given = (value.dtype for value in node.inputs if value is not None)
            kinds = ", ".join(dict.fromkeys(str(dtype) for dtype in given if dtype is not None))
            return f"no kernel for {kinds}"
        return "" if _is_function(node, opset) else f"no kernel at opset {opset}"

    def _is_shape_arithmetic(self, node: ir.Node, given: Sequence[tuple[int, ir.Value]]) -> bool:
        """Whether the runtime moves a node to the processor, because all it reads is there and small."""
        reads = _host_inputs(node)
        if not any(value in self.chosen for _, value in given) or any(ir.subgraphs(node)):
            return False
        for index, value in given:
            if value.dtype in _HALVES or (value in self.chosen and index in reads):
                return False
            if value not in self.chosen and value not in self.inputs and not ir.is_constant(value):
                return False
        return True


def _host_inputs(node: ir.Node) -> set[int]:
    if node.domain:
        return set()
    return {1} if node.op_type.startswith("Reduce") else _HOST_INPUTS.get(node.op_type, set())


def _types(node: ir.Node, opset: int) -> dict[str, str]:
    """Type parameter -> type, as far as the operator's schema and the graph tell."""
    found: dict[str, str] = {}
    for parameter, value in _parameters(node, opset):
        if value is not None and isinstance(value.type, ir.TensorType):
            found.setdefault(parameter, f"tensor({_name(value.type.dtype)})")
    return found


def _parameters(node: ir.Node, opset: int) -> Iterator[tuple[str, ir.Value | None]]:
    formal = _formal(node.domain, node.op_type, opset)
    if formal is None:
        # Vendor operators have no schema here: T is the type of what they compute with.
        floats = [value for value in node.inputs if value is not None and _is_float(value)]
        yield "T", floats[0] if floats else None
        return
    for declared, values in zip(formal, (node.inputs, node.outputs), strict=True):
        for index, value in enumerate(values):
            if declared:
                yield declared[min(index, len(declared) - 1)], value


@cache
def _formal(domain: str, op_type: str, opset: int) -> tuple[list[str], list[str]] | None:
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return [each.type_str for each in schema.inputs], [each.type_str for each in schema.outputs]


@cache
def _has_body(domain: str, op_type: str, opset: int) -> bool:
    try:
        schema: Any = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _is_function(node: ir.Node, opset: int) -> bool:
    """Whether the standard defines an operator by others, which the runtime then puts in its place."""
    return _has_body(node.domain, node.op_type, opset)


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _name(dtype: ir.DataType) -> str:
    return {"FLOAT": "float", "DOUBLE": "double"}.get(dtype.name, dtype.name.lower())
