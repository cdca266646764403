"""Chains of equal cells: the steps of one recurrent layer, written out one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.passes.forms import sure_dims
from accelc.passes.recurrent_cells import Cell, Reader, Term, cells

_LEAST = 2
"""Steps from which on one operator is used."""


@dataclass(frozen=True)
class Step:
    """A cell, with what its sources are. x: the input of the step. state: the old state; None where it is zero."""

    cell: Cell
    x: ir.Value
    state: ir.Value | None
    key: Any


@dataclass(frozen=True)
class Chain:
    """Steps of one layer in the order they are taken. source, axis: the sequence. places: the part each takes."""

    steps: tuple[Step, ...]
    source: ir.Value
    axis: int
    places: tuple[int, ...]

    @property
    def is_reverse(self) -> bool:
        return len(self.places) > 1 and self.places[0] > self.places[1]


def chains(graph: ir.Graph) -> list[Chain]:
    """The chains of a graph, longest first in the order they end."""
    reader = Reader()
    steps: dict[ir.Value, list[Step]] = {}
    for node in graph:
        if node.op_type in ("Mul", "Add", "Tanh", "Relu", "Sigmoid") and not node.domain:
            found = [step for cell in cells(node.outputs[0], reader) for step in roles(cell)]
            if found:
                steps[node.outputs[0]] = found
    taken: set[ir.Value] = set()
    result = []
    for last in reversed(list(steps)):
        if last in taken:
            continue
        best: list[Step] = max((_back(step, steps) for step in steps[last]), key=len)
        chain = _chain(best[::-1]) if len(best) >= _LEAST else None
        if chain is not None:
            taken.update(step.cell.h for step in chain.steps)
            result.append(chain)
    return result[::-1]


def roles(cell: Cell) -> list[Step]:
    """The ways to tell a cell's input from its old state."""
    found = []
    for x in cell.sources:
        others = [each for each in cell.sources if each is not x]
        if len(others) > 1 or (others and cell.state is not None and others[0] is not cell.state):
            continue
        if cell.state is not None and not others and not ir.is_constant(cell.state) and cell.kind != "GRU before":
            continue
        state = cell.state if cell.state is not None else others[0] if others else None
        key = cell.key(x, state)
        if key is not None:
            found.append(Step(cell, x, state, key))
    return found


def _back(step: Step, steps: dict[ir.Value, list[Step]]) -> list[Step]:
    """The steps that lead to a step, last first."""
    chain = [step]
    while True:
        state = chain[-1].state
        before = [
            each
            for each in (steps.get(state, ()) if state is not None else ())
            if _follows(chain[-1], each) and each.cell.h is not chain[-1].cell.h
        ]
        if not before:
            return chain
        chain.append(before[0])
        if before[0].key != step.key:  # the first step, whose state is zero and was computed away
            return chain


def _follows(step: Step, before: Step) -> bool:
    """Whether a step goes on from the state that another leaves."""
    if step.cell.cell is not before.cell.c and step.cell.kind == "LSTM":
        return False
    return step.key == before.key or (
        _starts_at_zero(before) and _without_state(step.key) == _without_state(before.key)
    )


def _without_state(key: Any) -> Any:
    return (key[0], *((gate[0], gate[2]) for gate in key[1:]))


def _starts_at_zero(step: Step) -> bool:
    """Whether the old state has no part in a step because it is zero."""
    if any(gate[1] is not None for gate in step.key[1:]):
        return False
    return step.cell.state is None or is_zero(step.cell.state)


def is_zero(value: ir.Value | None) -> bool:
    array = ir.const(value)
    return array is not None and not array.any()


def is_made_of_zeros(value: ir.Value) -> bool:
    """The same for a value whose shape is known only when the model runs."""
    node = value.producer()
    if node is None or node.domain or is_zero(value):
        return is_zero(value)
    if node.op_type == "ConstantOfShape":
        fill = ir.attribute(node, "value")
        return "value" not in node.attributes or (fill is not None and not fill.numpy().any())
    return node.op_type == "Expand" and is_zero(node.inputs[0])


def _chain(steps: Sequence[Step]) -> Chain | None:
    """A chain whose steps take one part of a sequence after the other, from one end to the other."""
    picks = [pick(step.x) for step in steps]
    first = picks[0]
    if first is None:
        return None
    source, axis, _ = first
    if any(each is None or each[:2] != (source, axis) for each in picks):
        return None
    places = tuple(each[2] for each in picks if each is not None)
    dims = sure_dims(source)
    if dims is None or len(dims) != 3 or axis not in (0, 1):
        return None
    if places not in (tuple(range(len(places))), tuple(reversed(range(len(places))))) or dims[axis] != len(places):
        return None
    return Chain(tuple(steps), source, axis, places)


def pick(value: ir.Value) -> tuple[ir.Value, int, int] | None:
    """(sequence, axis, place) of a value that is one place along an axis of a sequence."""
    node = value.producer()
    if node is None or node.domain or node.inputs[0] is None:
        return None
    source = node.inputs[0]
    if node.op_type == "Gather":
        index, dims = ir.const(node.inputs[1]), ir.dims(source)
        axis = ir.attribute(node, "axis", 0)
        if index is None or index.ndim != 0 or dims is None:
            return None
        return _in_range(source, axis % len(dims), int(index), dims)
    if node.op_type != "Squeeze":
        return None
    above, axes = source.producer(), ir.attribute(node, "axes") or _numbers(node, 1)
    dims = ir.dims(source)
    if above is None or above.domain or dims is None or axes is None or len(axes) != 1 or above.inputs[0] is None:
        return None
    axis, whole = axes[0] % len(dims), ir.dims(above.inputs[0])
    if whole is None or dims[axis] != 1:
        return None
    if above.op_type == "Split" and ir.attribute(above, "axis", 0) % len(dims) == axis:
        if whole[axis] == len(above.outputs):
            return above.inputs[0], axis, source.index() or 0
    elif above.op_type == "Slice":
        starts, own = (
            ir.attribute(above, "starts") or _numbers(above, 1),
            ir.attribute(above, "axes") or _numbers(above, 3),
        )
        if starts is not None and own is not None and len(starts) == len(own) == 1 and own[0] % len(dims) == axis:
            return _in_range(above.inputs[0], axis, starts[0], whole)
    return None


def _in_range(source: ir.Value, axis: int, place: int, dims: tuple[ir.Dim, ...]) -> tuple[ir.Value, int, int] | None:
    size = dims[axis]
    if not isinstance(size, int) or not -size <= place < size:
        return None
    return source, axis, place % size


def _numbers(node: ir.Node, index: int) -> list[int] | None:
    array = ir.const(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else [int(each) for each in array.reshape(-1)]


# --- the operator's weights ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weights:
    """W [1, gates * hidden, inputs], R [1, gates * hidden, hidden] and B [1, 2 * gates * hidden] of the operator."""

    w: np.ndarray[Any, Any]
    r: np.ndarray[Any, Any]
    b: np.ndarray[Any, Any]

    @property
    def hidden(self) -> int:
        return int(self.r.shape[2])

    @property
    def nbytes(self) -> int:
        return int(self.w.nbytes + self.r.nbytes + self.b.nbytes)


def weights(key: Any) -> Weights | None:
    """The weights of a step in the form of the operator; None where some gate has no input or no state."""
    kind, *gates = key
    if kind == "GRU after":
        z, r, (x, other, bias), (none, state, own) = gates
        if other is not None or none is not None:
            return None
        gates = [z, r, (x, state, bias)]
        last = np.frombuffer(own, np.float32)
    if any(x is None or state is None for x, state, _ in gates):
        return None
    w, r_ = (np.concatenate([_array(gate[at]) for gate in gates])[None] for at in (0, 1))
    hidden = r_.shape[2]
    biases = [np.frombuffer(bias, np.float32) for _, _, bias in gates]
    if w.shape[1] != len(gates) * hidden or any(bias.size != hidden for bias in biases):
        return None
    state_bias = np.zeros(len(gates) * hidden, np.float32)
    if kind == "GRU after":
        state_bias[2 * hidden :] = last
    return Weights(w, r_, np.concatenate([*biases, state_bias])[None])


def _array(term: Term) -> np.ndarray[Any, Any]:
    return term.array()
