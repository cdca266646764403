"""Which constant expressions are computed, and which results replace them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from accelc import ir
from accelc.context import Context
from accelc.passes.fold_run import Evaluator
from accelc.passes.fold_size import (
    SMALL,
    UNPREDICTABLE,
    Facts,
    divides_integers,
    is_safe_division,
    shape_result,
    spec_of,
)
from accelc.passes.purity import Purity
from accelc.passes.splice import is_used

_NEVER = frozenset(
    {
        "Constant",
        "DequantizeLinear",
        "Optional",
        "QuantizeLinear",
        "SequenceConstruct",
        "SequenceEmpty",
        "SplitToSequence",
        "ZipMap",
    }
)
"""A dequantized weight is larger than the quantized one and its pattern is lost; the others do not make tensors."""
_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_OPAQUE = frozenset(
    dtype
    for dtype in ir.DataType
    if dtype == ir.DataType.UNDEFINED
    or (dtype != ir.DataType.STRING and (dtype.bitwidth < 8 or dtype.name.startswith("FLOAT8")))
)
"""Types that hardly any kernel computes with; their constants pass through."""
_NODE_BYTES = 32
"""What a node takes in a file more than a constant does."""
_MOST_ROUNDS = 50


@dataclass(frozen=True)
class Limits:
    """value: bytes of one input or result. total: bytes of all results. spare: bytes by which the model may grow."""

    value: int
    total: int
    spare: int


def rule_of(node: ir.Node) -> str:
    """The name under which the folding of a node is counted and can be switched off."""
    return f"fold_{node.op_type}"


# --- candidates ------------------------------------------------------------------------------------------------------


def candidates(scope: ir.Scope, purity: Purity, facts: Facts, ctx: Context, limits: Limits) -> dict[ir.Node, ir.Scope]:
    """The nodes that depend on constants alone and may be computed ahead, in topological order, with their graphs."""
    found: dict[ir.Node, ir.Scope] = {}
    for node, where in _walk(scope):
        if _has_constant_inputs(node, found, facts) and _may_fold(node, scope.opset, purity, facts, ctx, limits):
            found[node] = where
    return found


def _walk(scope: ir.Scope) -> Iterator[tuple[ir.Node, ir.Scope]]:
    """Every node with its graph, those in a subgraph before the node that holds it."""
    for node in scope.graph:
        for inner in ir.subgraphs(node):
            yield from _walk(ir.Scope(inner, scope.root, scope.main))
        yield node, scope


def _has_constant_inputs(node: ir.Node, found: dict[ir.Node, ir.Scope], facts: Facts) -> bool:
    some = False
    for value in node.inputs:
        if value is None:
            continue
        if value.producer() not in found and facts.source(value) is None:
            return False
        some = True
    return some


def _may_fold(node: ir.Node, opset: int, purity: Purity, facts: Facts, ctx: Context, limits: Limits) -> bool:
    if node.op_type in _NEVER or purity.is_function(node) or ctx.disabled(rule_of(node)):
        return False
    for attr in node.attributes.data.values():
        if attr.is_ref() or attr.type in _GRAPHS:
            return False
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype in _OPAQUE:
            return False
    if not purity.pure(node, opset) or (node.op_type == "BatchNormalization" and _is_training(node)):
        return False
    if any(value.type is not None and not isinstance(value.type, ir.TensorType) for value in node.outputs):
        return False
    if _reads_shape_only(node):
        return True
    sources = [spec for v in node.inputs if v is not None and facts.source(v) is not None and (spec := facts.spec(v))]
    return all(spec.nbytes <= limits.value for spec in sources)


def _is_training(node: ir.Node) -> bool:
    return ir.attribute(node, "training_mode", 0) == 1 or sum(map(is_used, node.outputs)) > 1


def _reads_shape_only(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in ("Shape", "Size")


# --- what can be computed --------------------------------------------------------------------------------------------


class Admission:
    """Lets those candidates pass whose result has a bounded size and whose computation is safe.

    Where that depends on the values of their inputs, these are computed first, together, in rounds.
    """

    def __init__(self, facts: Facts, evaluator: Evaluator, limits: Limits) -> None:
        self._facts, self._evaluator, self._limits = facts, evaluator, limits
        self._admitted: dict[ir.Node, None] = {}
        self._tried: set[ir.Value] = set()

    def admit(self, nodes: Sequence[ir.Node]) -> list[ir.Node]:
        """The nodes that may be computed, in their order."""
        pending = nodes
        for _ in range(_MOST_ROUNDS):
            wanted: dict[ir.Value, None] = {}
            waiting: dict[ir.Node, None] = {}
            for node in pending:
                demand = self._judge(node, waiting)
                if demand is None:
                    continue
                if demand:
                    wanted.update(dict.fromkeys(demand))
                if demand or self._waits(node, waiting):
                    waiting[node] = None
                else:
                    self._admitted[node] = None
            if not wanted:
                break
            self._tried.update(wanted)
            self._evaluator.compute(list(wanted))
            pending = list(waiting)
        return [node for node in nodes if node in self._admitted]

    def _waits(self, node: ir.Node, waiting: dict[ir.Node, None]) -> bool:
        return any(value is not None and value.producer() in waiting for value in node.inputs)

    def _judge(self, node: ir.Node, waiting: dict[ir.Node, None]) -> Sequence[ir.Value] | None:
        """What must be computed before a node can be judged; nothing when it passes or waits; None to refuse it."""
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer in waiting:
                return ()
            if value is not None and self._facts.tensor(value) is None and producer not in self._admitted:
                return None
        if _reads_shape_only(node):
            return self._read_shape(node)
        if divides_integers(node, self._facts):
            missing = self._division(node)
            if missing is None or missing:
                return missing
        if not self._facts.predict(node):
            return self._measure(node)
        sizes = [spec.nbytes for value in node.outputs if is_used(value) and (spec := self._facts.spec(value))]
        return () if sum(sizes) <= self._limits.value else None

    def _read_shape(self, node: ir.Node) -> Sequence[ir.Value] | None:
        spec = None if node.inputs[0] is None else self._facts.spec(node.inputs[0])
        if spec is None:
            return None
        self._facts.learn(node.outputs[0], ir.array_tensor(shape_result(node, spec)))
        return ()

    def _division(self, node: ir.Node) -> Sequence[ir.Value] | None:
        left, right = node.inputs
        assert left is not None
        assert right is not None
        divisor = self._facts.tensor(right)
        if divisor is None:
            return self._demand([right])
        dividend = self._facts.tensor(left)
        safe = is_safe_division(None if dividend is None else dividend.numpy(), divisor.numpy())
        return self._demand([left]) if safe is None else () if safe else None

    def _measure(self, node: ir.Node) -> Sequence[ir.Value] | None:
        """The values that decide the size of a node's results."""
        if node.domain == "" and node.op_type in UNPREDICTABLE:
            bound = self._facts.bound(node)
            if bound is None or bound > self._limits.value:
                return None
            return self._demand([value for value in node.outputs if is_used(value)])
        unknown = [value for value in node.inputs if value is not None and self._facts.tensor(value) is None]
        return self._demand([v for v in unknown if (spec := self._facts.spec(v)) is not None and spec.nbytes <= SMALL])

    def _demand(self, values: Sequence[ir.Value]) -> Sequence[ir.Value] | None:
        return None if not values or any(value in self._tried for value in values) else values


# --- what is kept ----------------------------------------------------------------------------------------------------


def choose(nodes: Sequence[ir.Node], facts: Facts, limits: Limits) -> dict[ir.Node, list[ir.Value]]:
    """The nodes whose results become constants, and these results: such that the model does not grow.

    A result is paid for by the constants that die with it. Their bytes are handed on from node to node, shared by all
    that use a value in proportion to the size of their results. A result that is not paid for stays computed; so do, if
    they are not paid for in turn, the ones it is computed from.
    """
    folded = dict.fromkeys(nodes)
    for attempt in range(_MOST_ROUNDS + 1):
        credit = _Credit(folded, facts) if attempt < _MOST_ROUNDS else None
        ends: dict[ir.Node, list[ir.Value]] = {}
        total, spare, complete = limits.total, limits.spare, True
        for node in reversed(list(folded)):
            outside = [value for value in node.outputs if _used_outside(value, folded)]
            if not outside:
                continue
            size = sum(_nbytes(value, facts) for value in outside)
            charge = max(0.0, size - _NODE_BYTES - (sum(map(credit.kept, outside)) if credit else 0.0))
            if size > total or charge > min(SMALL, spare):
                del folded[node]
                complete = False
                continue
            total, spare = total - size, spare - int(charge)
            ends[node] = outside
        if complete or credit is None:
            return dict(reversed(ends.items()))
    return {}


class _Credit:
    """How many bytes of dying constants pay for each value, given the nodes that are folded."""

    def __init__(self, folded: dict[ir.Node, None], facts: Facts) -> None:
        self._folded, self._facts = folded, facts
        self._of: dict[ir.Value, float] = {}
        self._weight = {
            node: 1 + sum(_nbytes(value, facts) for value in node.outputs if is_used(value)) for node in folded
        }
        self._total: dict[ir.Value, int] = {}
        for node in folded:
            paid = sum(
                self._share(value, self._weight[node]) for value in dict.fromkeys(node.inputs) if value is not None
            )
            for value in node.outputs:
                if is_used(value):
                    self._of[value] = paid * _nbytes(value, facts) / self._weight[node]

    def kept(self, value: ir.Value) -> float:
        """What pays for a folded value becoming a constant."""
        return self._share(value, _nbytes(value, self._facts))

    def _share(self, value: ir.Value, weight: int) -> float:
        if value not in self._total:
            self._total[value] = self._weigh(value)
        return self._of[value] * weight / max(self._total[value], 1)

    def _weigh(self, value: ir.Value) -> int:
        """The weights of all that share a value's credit."""
        outside = _used_outside(value, self._folded)
        if value not in self._of:
            tensor = self._facts.source(value)
            self._of[value] = 0.0 if outside or tensor is None else spec_of(tensor).nbytes
        users = dict.fromkeys(use.node for use in value.uses())
        inside = sum(self._weight[node] for node in users if node in self._folded)
        return inside + (_nbytes(value, self._facts) if outside else 0)


def _used_outside(value: ir.Value, folded: dict[ir.Node, None]) -> bool:
    return value.is_graph_output() or any(use.node not in folded for use in value.uses())


def _nbytes(value: ir.Value, facts: Facts) -> int:
    spec = facts.spec(value)
    return 0 if spec is None else spec.nbytes
