"""Graphs to calibrate: told apart by what they compute, and cut down to what is asked for."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelc import ir
from accelc.runner import Runner, Session

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
_MOST_BYTES = 1_000_000_000
"""Weights above this reach the child process in a file."""
_PATIENT = {"session.intra_op.allow_spinning": "0"}
"""Between two runs the processor belongs to the observers."""

_digests: dict[int, tuple[weakref.ref[Any], bytes]] = {}


def fingerprint(model: ir.Model) -> str:
    """Equal for models that are the same graph with the same names, operators and weights; names of nodes aside."""
    state = hashlib.blake2b(digest_size=16)

    def say(*parts: object) -> None:
        state.update(repr(parts).encode())

    say(sorted(model.opset_imports.items()))
    for graph in ir.all_graphs(model):
        say("graph", [(each.name, str(each.type), str(each.shape)) for each in graph.inputs])
        for name, value in sorted(graph.initializers.items()):
            tensor = value.const_value
            say(name, None if tensor is None else (tensor.dtype.name, str(tensor.shape), _digest(tensor)))
        for node in ir.nodes(graph):
            say(node.domain, node.op_type, node.overload, [None if v is None else v.name for v in node.inputs])
            say([value.name for value in node.outputs])
            for name, attr in sorted(node.attributes.items()):
                inner = attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) and not attr.is_ref()
                say(name, attr.type.name, "" if inner else ir.attr_proto(attr).SerializeToString(deterministic=True))
        say([each.name for each in graph.outputs])
    return state.hexdigest()


def _digest(tensor: ir.TensorProtocol) -> bytes:
    """Of a tensor's bytes; tensors do not change, so each is read once."""
    known = _digests.get(id(tensor))
    if known is not None and known[0]() is tensor:
        return known[1]
    digest = hashlib.blake2b(tensor.tobytes(), digest_size=16).digest()
    key = id(tensor)
    _digests[key] = (weakref.ref(tensor, lambda _: _digests.pop(key, None)), digest)
    return digest


def observable(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Why a value cannot be observed, by name; an empty text for those that can: float values of the main graph."""
    graph = model.graph
    found = {str(value.name): value for value in graph.inputs}
    for node in ir.nodes(graph):
        found |= {str(value.name): value for value in node.outputs}
    reasons = {}
    for name in names:
        value = found.get(name)
        if value is None:
            reasons[name] = "it is a constant" if name in graph.initializers else "it is no value of the main graph"
        elif value.dtype not in _FLOATS:
            reasons[name] = "it is not float"
        else:
            reasons[name] = ""
    return reasons


def cut(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy whose outputs are these values, without the nodes and weights that they do not need.

    Weights are shared. Inputs stay, and one that is asked for makes no output; the model's own outputs stay where there
    would be none.
    """
    copy = model.clone()
    copy.meta.update(model.meta)
    graph, wanted = copy.graph, set(names)
    nodes = ir.nodes(graph)
    outputs = [value for node in nodes for value in node.outputs if value.name in wanted] or list(graph.outputs)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    needed = set(outputs)
    for node in reversed(nodes):
        if needed.isdisjoint(node.outputs):
            for inner in ir.subgraphs(node):
                ir.detach(inner)
            graph.remove(node, safe=True)
            continue
        needed.update(value for value in node.inputs if value is not None)
        for inner in ir.subgraphs(node):
            needed.update(ir.captured(inner))
    for name, value in list(graph.initializers.items()):
        if value not in needed and not value.is_graph_input():
            del graph.initializers[name]
    return copy


@contextmanager
def loaded(runner: Runner, model: ir.Model, *, optimize: bool) -> Iterator[Session]:
    """The model in the child process, for as long as the context lasts. Raises RuntimeFailure."""
    with tempfile.TemporaryDirectory(prefix="accelc-") as name:
        session = _load(runner, model, Path(name), optimize)
        try:
            yield session
        finally:
            runner.close(session)


def _load(runner: Runner, model: ir.Model, folder: Path, optimize: bool) -> Session:
    held, home = 0, None
    for graph in ir.all_graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                home = Path(tensor.base_dir)
            elif tensor is not None:
                held += tensor.nbytes
    if held <= _MOST_BYTES:
        data = ir.to_proto(model).SerializeToString()
        return runner.load(data, optimize=optimize, config=_PATIENT, folder=home)
    from accelc.exporter import write_model

    path = folder / "model.onnx"
    write_model(model, path, external=True, value_info=False)
    return runner.load(path, optimize=optimize, config=_PATIENT)
