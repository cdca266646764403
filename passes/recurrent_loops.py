"""Recurrent layers written as the body of a Scan or Loop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from accelc import ir
from accelc.passes.recurrent_cells import Reader, cells
from accelc.passes.recurrent_chains import Step, roles
from accelc.passes.recurrent_counts import Counter, Pick, is_true
from accelc.symbolic import Facts, Shape

_SAME_SHAPE = frozenset(["Add", "Mul", "Sub", "Sigmoid", "Tanh", "Relu", "Split", "Slice", "MatMul", "Gemm", "Concat"])


@dataclass(frozen=True)
class State:
    """inner, new: the state that a step gets and the one that it leaves. start, final: before and after the loop."""

    inner: ir.Value
    new: ir.Value
    start: ir.Value
    final: ir.Value


@dataclass(frozen=True)
class Stack:
    """What a loop returns of every step. new: in the step. axis: of the steps. is_prepended: the last step is first."""

    new: ir.Value
    value: ir.Value
    axis: int = 0
    is_prepended: bool = False


@dataclass
class Body:
    """A loop: a Scan, whose step gets parts of sequences, or a Loop, whose step takes them by its number."""

    node: ir.Node
    states: Sequence[State]
    stacks: Sequence[Stack]
    facts: Facts
    picks: Mapping[ir.Value, Pick] = field(default_factory=dict)
    counter: Counter | None = None

    def pick(self, value: ir.Value) -> Pick | None:
        """What part of which sequence a value of the step is."""
        return self.picks.get(value) if self.counter is None else self.counter.pick(value)

    def dims(self, value: ir.Value | None) -> tuple[ir.Dim, ...] | None:
        """The shape of a value of the step; where nothing else is known, at least that it has two axes."""
        if value is None:
            return None
        taken = self.pick(value)
        if taken is not None:
            whole = _numbers_only(self.facts.shape(taken.source))
            return None if whole is None else (*whole[: taken.axis], *whole[taken.axis + 1 :])
        for state in self.states:
            if value is state.inner:
                return _numbers_only(self.facts.shape(state.start))
        own, node = ir.dims(value), value.producer()
        if own is not None or node is None or node.domain or node.op_type not in _SAME_SHAPE:
            return own
        return (None, None) if any(len(self.dims(each) or ()) == 2 for each in node.inputs) else None


def _numbers_only(shape: Shape | None) -> tuple[ir.Dim, ...] | None:
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


@dataclass(frozen=True)
class Layer:
    """A loop whose step is a cell. taken: what the cell's input is. h, c: its states; c of LSTM only."""

    body: Body
    step: Step
    taken: Pick
    h: State
    c: State | None

    @property
    def shape(self) -> tuple[ir.Dim, ...] | None:
        """The sequence's, without symbols."""
        return _numbers_only(self.body.facts.shape(self.taken.source))

    @property
    def stacks(self) -> list[Stack]:
        """The states of every step, as far as they are used."""
        return [each for each in self.body.stacks if each.new is self.h.new and is_used(each.value)]

    @property
    def kept(self) -> list[State]:
        """Used states that every step leaves as they are."""
        return [each for each in self.body.states if each.new is each.inner and is_used(each.final)]

    @property
    def is_whole(self) -> bool:
        """Whether nothing else of the loop is used than what the operator returns."""
        known = {self.h.final, *(each.value for each in self.stacks), *(each.final for each in self.kept)}
        known |= set() if self.c is None else {self.c.final}
        return all(value in known or not is_used(value) for value in self.body.node.outputs)

    def fits(self, hidden: int, inputs: int) -> bool:
        """Whether sizes agree in every run, and there is always a step where the loop could do without."""
        facts = self.body.facts
        shape = facts.shape(self.taken.source)
        if shape is None or len(shape) != 3 or self.taken.axis > 1 or shape[2] != inputs:
            return False
        steps, batch = shape[self.taken.axis], shape[1 - self.taken.axis]
        if any(facts.shape(each.start) != (batch, hidden) for each in (self.h, self.c) if each is not None):
            return False
        if any(gate.rows not in (1, batch) for gate in self.step.cell.gates):
            return False
        counter = self.body.counter
        return batch != 0 and steps != 0 and (counter is None or (steps == counter.steps and isinstance(steps, int)))


def is_used(value: ir.Value) -> bool:
    return value.is_graph_output() or ir.use_count(value) > 0


def layers(graph: ir.Graph, facts: Facts) -> Iterator[Layer]:
    """The loops of a graph whose steps are cells."""
    for node in ir.nodes(graph):
        if node.domain or node.op_type not in ("Scan", "Loop"):
            continue
        outputs = getattr(ir.attribute(node, "body"), "outputs", ())
        if len(set(outputs)) != len(outputs):  # the runtime mixes up results that are one value
            continue
        body = _scan(node, facts) if node.op_type == "Scan" else _loop(node, facts)
        layer = _layer(body) if body is not None else None
        if layer is not None and layer.is_whole:
            yield layer


def _layer(body: Body) -> Layer | None:
    reader = Reader(body.dims)
    for state in body.states:
        for cell in cells(state.new, reader):
            other = [each for each in body.states if each.inner is cell.cell and each.new is cell.c]
            if cell.kind == "LSTM" and not other:
                continue
            for step in roles(cell):
                taken = body.pick(step.x) if step.state is state.inner else None
                if taken is not None:
                    return Layer(body, step, taken, state, other[0] if cell.kind == "LSTM" else None)
    return None


# --- Scan ------------------------------------------------------------------------------------------------------------


def _scan(node: ir.Node, facts: Facts) -> Body | None:
    graph, count = ir.attribute(node, "body"), ir.attribute(node, "num_scan_inputs")
    inputs = [value for value in node.inputs if value is not None]
    if graph is None or not count or len(inputs) != len(node.inputs) or len(graph.inputs) != len(inputs):
        return None
    number = len(inputs) - count
    outputs = len(node.outputs) - number
    read, written = (_list(node, f"scan_{each}_axes", size) for each, size in (("input", count), ("output", outputs)))
    back, front = (
        _list(node, f"scan_{each}_directions", size) for each, size in (("input", count), ("output", outputs))
    )
    if len(graph.outputs) != len(node.outputs) or {len(read), len(back)} != {count}:
        return None
    if outputs < 0 or {len(written), len(front)} != {outputs}:
        return None
    picks = {}
    for inner, source, axis, is_reverse in zip(graph.inputs[number:], inputs[number:], read, back, strict=True):
        shape = facts.shape(source)
        if shape is not None:
            picks[inner] = Pick(source, axis % len(shape) if shape else 0, is_reverse == 1)
    stacks = [
        Stack(_original(inner), value, axis % 3, is_front == 1)
        for inner, value, axis, is_front in zip(
            graph.outputs[number:], node.outputs[number:], written, front, strict=True
        )
    ]
    return Body(node, _states(graph.inputs, graph.outputs, inputs, node.outputs, number), stacks, facts, picks)


def _list(node: ir.Node, name: str, size: int) -> list[int]:
    return list(ir.attribute(node, name, (0,) * size))


def _states(
    inner: Sequence[ir.Value],
    new: Sequence[ir.Value],
    starts: Sequence[ir.Value],
    finals: Sequence[ir.Value],
    number: int,
) -> list[State]:
    """The first `number` values of each, which belong together."""
    rows = zip(inner[:number], new[:number], starts[:number], finals[:number], strict=True)
    return [State(old, _original(each), start, final) for old, each, start, final in rows]


def _original(value: ir.Value) -> ir.Value:
    """A value without the Identities after it."""
    while (node := value.producer()) is not None and node.op_type == "Identity" and not node.domain:
        if node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


# --- Loop ------------------------------------------------------------------------------------------------------------


def _loop(node: ir.Node, facts: Facts) -> Body | None:
    graph = ir.attribute(node, "body")
    count, going = node.inputs[:2] if len(node.inputs) > 2 else (None, None)
    starts = [value for value in node.inputs[2:] if value is not None]
    number = len(starts)
    if graph is None or len(node.inputs) != number + 2 or len(graph.inputs) != number + 2:
        return None
    if len(graph.outputs) != len(node.outputs) + 1 or len(node.outputs) < number:
        return None
    if going is not None and not is_true(going):
        return None
    states = _states(graph.inputs[2:], graph.outputs[1:], starts, node.outputs, number)
    stacks = [
        Stack(_original(inner), value)
        for inner, value in zip(graph.outputs[number + 1 :], node.outputs[number:], strict=True)
    ]
    counter = Counter(graph.inputs[0], {}, {each.inner: each.start for each in states if each.new is each.inner}, facts)
    for state in states:
        counter.learn(state.inner, state.new, state.start)
    counter.steps = counter.count(count, graph.inputs[1], graph.outputs[0])
    return Body(node, states, stacks, facts, counter=counter)
