"""Computes constant expressions with the runtime's own kernels, in a child process and in batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from accelc import ir
from accelc.context import Context
from accelc.passes.fold_size import Facts, spec_of
from accelc.runner import RuntimeFailure

_BATCH_NODES = 1000
"""Loading a model costs the runtime more than linear time."""
_BATCH_BYTES = 128 << 20
_MOST_FAILURES = 60


@dataclass
class Budget:
    """Seconds that the runtime may still spend."""

    seconds: float


class Evaluator:
    """Runs parts of one model. Computed values go into the facts.

    failures: nodes that the runtime refused to compute, and why. stopped: why nothing more is tried; it hung, ran out
    of memory, or failed too often.
    """

    def __init__(self, model: ir.Model, root: ir.Graph, facts: Facts, ctx: Context, budget: Budget) -> None:
        imports = {**model.opset_imports, **root.opset_imports}
        self._imports = [onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()]
        self._ir_version = model.ir_version
        self._facts, self._ctx, self._budget = facts, ctx, budget
        self._refusals = 0
        self._unsupported: set[object] = set()
        self._bad: set[ir.Node] = set()
        self.failures: dict[ir.Node, str] = {}
        self.stopped = ""

    def compute(self, wanted: Sequence[ir.Value]) -> None:
        """Compute values into the facts, as far as the runtime can."""
        nodes = self._needed(wanted)
        ends = {value for value in wanted if value not in self._facts.data}
        held: list[ir.Value] = []
        for batch, rest in _batches(nodes, self._facts):
            if self.stopped:
                break
            held += self._batch(batch, ends, rest)
        for value in held:
            if value not in ends:
                self._facts.data.pop(value, None)

    def _needed(self, wanted: Iterable[ir.Value]) -> list[ir.Node]:
        """The nodes to run for some values, each after those it needs, and those of one value together."""
        order: list[ir.Node] = []
        done: set[ir.Node] = set()
        for end in wanted:
            stack = [(end, False)]
            while stack:
                value, ready = stack.pop()
                node = value.producer()
                if node is None or node in done or self._facts.tensor(value) is not None:
                    continue
                if ready:
                    done.add(node)
                    order.append(node)
                    continue
                stack.append((value, True))
                stack.extend((each, False) for each in reversed(node.inputs) if each is not None)
        return order

    def _batch(self, nodes: Sequence[ir.Node], ends: set[ir.Value], rest: set[ir.Node]) -> list[ir.Value]:
        """Run nodes and keep what is wanted at the end or needed by the rest. Halves them to find what fails."""
        nodes = [node for node in nodes if not self.failed(node)]
        if not nodes or self.stopped:
            return []
        inside = set(nodes)
        outputs = [
            value
            for node in nodes
            for value in node.outputs
            if value in ends or any(use.node in rest for use in value.uses())
        ]
        try:
            found = self._run(nodes, outputs)
        except RuntimeFailure as failure:
            self._refusals += 1
            if failure.kind in ("timeout", "memory") or self._refusals > _MOST_FAILURES:
                self.stopped = str(failure)
            elif len(nodes) == 1:
                self._mark(nodes[0], failure)
            else:
                half = len(nodes) // 2
                left = self._batch(nodes[:half], ends, rest | set(nodes[half:]))
                return left + self._batch(nodes[half:], ends, rest - inside)
            return []
        for value, array in found.items():
            self._accept(value, array)
        return outputs

    def failed(self, node: ir.Node) -> bool:
        """Whether a node, or one that it needs, could not be computed. To be asked in topological order."""
        if node not in self._bad and (
            (self._unsupported and self._kind(node) in self._unsupported)
            or any(value is not None and value.producer() in self._bad for value in node.inputs)
        ):
            self._bad.add(node)
        return node in self._bad

    def _mark(self, node: ir.Node, failure: RuntimeFailure) -> None:
        self._bad.add(node)
        if failure.unsupported:
            self._unsupported.add(self._kind(node))
        else:
            self.failures[node] = str(failure)

    def _kind(self, node: ir.Node) -> object:
        types = tuple(
            None if value is None or (spec := self._facts.spec(value)) is None else spec.dtype for value in node.inputs
        )
        return node.domain, node.op_type, types

    def _accept(self, value: ir.Value, array: object) -> None:
        """Take over a result that is what was predicted."""
        node, expected = value.producer(), self._facts.spec(value)
        assert node is not None
        tensor = ir.array_tensor(array) if isinstance(array, np.ndarray) else None
        if tensor is None or expected not in (None, spec_of(tensor)):
            self._bad.add(node)
            self.failures[node] = "its result is not of the type and shape that were inferred"
        else:
            self._facts.learn(value, tensor)

    def _run(self, nodes: Sequence[ir.Node], outputs: Sequence[ir.Value]) -> dict[ir.Value, object]:
        names = _Numbers()
        graph = onnx.GraphProto(name="constants")
        made = {value for node in nodes for value in node.outputs}
        sources: dict[ir.Value, None] = {}
        for node in nodes:
            proto = graph.node.add(op_type=node.op_type, domain=node.domain)
            for value in node.inputs:
                proto.input.append("" if value is None else names[value])
                if value is not None and value not in made:
                    sources[value] = None
            proto.output.extend("" if not value.name else names[value] for value in node.outputs)
            proto.attribute.extend(ir.attr_proto(attr) for attr in node.attributes.values())
        for value in sources:
            tensor = self._facts.tensor(value)
            assert tensor is not None, f"{value.name} is not constant"
            graph.initializer.append(tensor_proto(tensor, names[value]))
        for value in outputs:
            graph.output.add(name=names[value])
        model = onnx.ModelProto(graph=graph, ir_version=self._ir_version, opset_import=self._imports)
        if self._budget.seconds <= 0:
            raise RuntimeFailure("timeout", "the time for folding is spent")
        started = time.monotonic()
        try:
            found = self._ctx.runner.evaluate(model.SerializeToString(), {}, timeout=self._budget.seconds)
        finally:
            self._budget.seconds -= time.monotonic() - started
        return {value: found[names[value]] for value in outputs}


class _Numbers(dict[ir.Value, str]):
    """A short name for each value asked for."""

    def __missing__(self, value: ir.Value) -> str:
        name = self[value] = f"v{len(self)}"
        return name


def _batches(nodes: Sequence[ir.Node], facts: Facts) -> Iterator[tuple[list[ir.Node], set[ir.Node]]]:
    """Cut nodes, in their order, into batches of bounded size, each with the set of the nodes after it."""
    rest = set(nodes)
    batch: list[ir.Node] = []
    size = 0
    for node in nodes:
        specs = [facts.spec(value) for value in (*node.inputs, *node.outputs) if value is not None]
        cost = sum(spec.nbytes for spec in specs if spec is not None)
        if batch and (len(batch) >= _BATCH_NODES or size + cost > _BATCH_BYTES):
            yield batch, rest
            batch, size = [], 0
        batch.append(node)
        rest.discard(node)
        size += cost
    if batch:
        yield batch, rest


def tensor_proto(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    """A tensor as a proto that holds its data, wherever it came from."""
    proto = onnx.TensorProto(name=name, data_type=tensor.dtype.value, dims=tensor.shape.numpy())
    if tensor.dtype == ir.DataType.STRING:
        proto.string_data.extend(
            text if isinstance(text, bytes) else text.encode() for text in tensor.numpy().reshape(-1)
        )
    else:
        proto.raw_data = tensor.tobytes()
    return proto
