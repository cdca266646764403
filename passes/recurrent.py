"""Recurrent layers whose steps are written out one after the other, as one LSTM, GRU or RNN."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelc import ir
from accelc.context import Context
from accelc.infer import infer_node
from accelc.pass_base import Pass, PassResult
from accelc.passes.recurrent_chains import Chain, Weights, chains, is_zero, weights
from accelc.rewrite import remove_dead, replace_value

Array = np.ndarray[Any, Any]

_RULES = {"LSTM": "unrolled_lstm", "GRU": "unrolled_gru", "RNN": "unrolled_rnn"}
_WIDEST = {"LSTM": 256, "GRU": 64, "RNN": 32}
"""The largest hidden size for which the operator is faster than its steps on the CPU, at 1 to 8 sequences at a time.

Steps over operator, 1 and 8 sequences: LSTM 8.6 and 3.1 (hidden 32), 3.2 and 1.5 (128), 1.2 and 0.9 (512); GRU 9.9 and
13.6 (32), 1.7 and 1.4 (64), 1.8 and 0.8 (128); RNN 3.5 and 0.9 (32), 0.7 and 0.4 (64)."""
_NODE_BYTES = 50
"""What a node takes in a file, at least."""
_OPSET = 14
"""The version of the recurrent operators that is written here."""


@dataclass(frozen=True)
class Recurrent(Pass):
    """Write the unrolled steps of a recurrent layer as one LSTM, GRU or RNN.

    Steps are cells of plain operators with the same weights, each of which takes the state of the one before and the
    next part of one sequence, forwards or backwards from end to end. The states may be used in any way.
    The runtime's kernels bound what goes into an activation, so a NaN or an infinity in the inputs does not spread as
    before; for finite inputs the results agree up to rounding.
    """

    name = "recurrent"
    exact = False

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return tuple(_RULES.values())

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        changes = 0
        for scope in ir.scopes(model):
            if scope.opset < _OPSET:
                continue
            while (found := _first(scope, ctx)) is not None:
                chain, arrays = found
                rule = _RULES[_operator(chain)]
                if not ctx.spend(rule, ir.node_path(chain.steps[-1].cell.h.producer())):  # type: ignore[arg-type]
                    break
                _Writer(chain, arrays, scope, ir.names(model), rule).write()
                changes += 1
        return PassResult(changes)


def _operator(chain: Chain) -> str:
    return chain.steps[0].cell.kind.partition(" ")[0]


def _first(scope: ir.Scope, ctx: Context) -> tuple[Chain, Weights] | None:
    """The first chain that an operator can stand for."""
    for chain in chains(scope.graph):
        operator = _operator(chain)
        allowed = ctx.allows("", operator, scope.opset, {"T": ir.DataType.FLOAT}) is True
        if not allowed or ctx.disabled(_RULES[operator]):
            continue
        arrays = weights(chain.steps[-1].key)
        if arrays is not None and _pays(chain, arrays) and _fits(chain, arrays) and _stays_small(chain, arrays):
            return chain, arrays
    return None


def _pays(chain: Chain, arrays: Weights) -> bool:
    """Whether the operator is faster than the steps. One that gains with one sequence at a time only needs to know."""
    operator = _operator(chain)
    batch = (ir.dims(chain.source) or ())[1 - chain.axis]
    return arrays.hidden <= _WIDEST[operator] and (operator != "RNN" or batch == 1)


def _fits(chain: Chain, arrays: Weights) -> bool:
    """Whether sizes agree, and the inner states of an LSTM are used by its steps alone."""
    dims = ir.dims(chain.source) or ()
    batch = dims[1 - chain.axis]
    first = chain.steps[0]
    for start in (first.state, first.cell.cell):
        if start is not None and not is_zero(start):
            shape = ir.dims(start)
            if shape is None or len(shape) != 2 or shape[1] != arrays.hidden or shape[0] != batch or batch is None:
                return False
    if dims[2] != arrays.w.shape[2]:
        return False
    inside = {node for step in chain.steps for node in step.cell.nodes}
    states = {step.cell.h for step in chain.steps} | {chain.steps[-1].cell.c}
    return not any(
        value not in states and (value.is_graph_output() or any(use.node not in inside for use in value.uses()))
        for node in inside
        for value in node.outputs
    )


def _stays_small(chain: Chain, arrays: Weights) -> bool:
    """Whether the weights that go make up for the new ones."""
    inside = {node for step in chain.steps for node in step.cell.nodes}
    old = {value for node in inside for value in node.inputs if value is not None and ir.is_constant(value)}
    gone = sum(_bytes(value) for value in old if all(use.node in inside for use in value.uses()))
    return arrays.nbytes <= gone + _NODE_BYTES * len(inside)


def _bytes(value: ir.Value) -> int:
    tensor = ir.const_tensor(value)
    return int(tensor.nbytes) if tensor is not None else 0


class _Writer:
    def __init__(self, chain: Chain, arrays: Weights, scope: ir.Scope, names: ir.Names, rule: str) -> None:
        self.chain, self.arrays, self.scope, self.names, self.rule = chain, arrays, scope, names, rule
        first = chain.steps[0].cell.h
        at = first.producer()
        assert at is not None
        self.hint, self.at = str(first.name), at  # all that the first step reads is there, and nobody reads it yet
        self.made: list[ir.Node] = []

    def write(self) -> None:
        chain, steps = self.chain, self.chain.steps
        sequence = chain.source if chain.axis == 0 else self.node("Transpose", [chain.source], perm=[1, 0, 2])[0]
        kind, _, detail = steps[0].cell.kind.partition(" ")
        starts = [steps[0].state, steps[0].cell.cell][: 2 if kind == "LSTM" else 1]
        given = [None if each is None or is_zero(each) else self.unsqueeze(each) for each in starts]
        attrs = {
            "hidden_size": self.arrays.hidden,
            "direction": "reverse" if chain.is_reverse else None,
            "linear_before_reset": 1 if detail == "after" else None,
            "activations": [detail] if kind == "RNN" and detail != "Tanh" else None,
        }
        matrices = [self.constant(each) for each in (self.arrays.w, self.arrays.r, self.arrays.b)]
        made = self.node(kind, [sequence, *matrices, None, *given], 3 if kind == "LSTM" else 2, **attrs)
        self.states(made[0], made[1])
        if kind == "LSTM":
            last = steps[-1].cell.c
            if last is not None and self.is_used_outside(last):
                replace_value(last, self.squeeze(made[2], 0))
        gone = [node for step in reversed(steps) for node in step.cell.nodes]
        remove_dead([*gone, *(node for step in steps if (node := step.x.producer()) is not None), *self.made])

    def states(self, every: ir.Value, final: ir.Value) -> None:
        """Replace what is outside of the steps reads of their new states."""
        by_place = {place: step.cell.h for place, step in zip(self.chain.places, self.chain.steps, strict=True)}
        ordered = [by_place[place] for place in sorted(by_place)]
        whole = None
        for joined, axis in _stacks(ordered):
            whole = whole or self.squeeze(every, 1)
            replace_value(joined.outputs[0], whole if axis == 0 else self.node("Transpose", [whole], perm=[1, 0, 2])[0])
            remove_dead([joined])
        for place, value in by_place.items():
            if not self.is_used_outside(value):
                continue
            if value is self.chain.steps[-1].cell.h:
                replace_value(value, self.squeeze(final, 0))
            else:
                whole = whole or self.squeeze(every, 1)
                index = self.constant(np.array(place, np.int64))
                replace_value(value, self.node("Gather", [whole, index], axis=0)[0])

    def is_used_outside(self, value: ir.Value) -> bool:
        inside = {node for step in self.chain.steps for node in step.cell.nodes}
        return value.is_graph_output() or any(use.node not in inside for use in value.uses())

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], outputs: int = 1, **attrs: object
    ) -> list[ir.Value]:
        values = list(inputs)
        while values and values[-1] is None:
            values.pop()
        node = ir.new_node(op_type, values, attrs, outputs=outputs, name=self.names.fresh(f"{self.hint}/{op_type}"))
        for value in node.outputs:
            value.name = self.names.fresh(f"{node.name}_out")
        node.meta["accelc.rule"] = self.rule
        self.scope.graph.insert_before(self.at, node)
        infer_node(node, self.scope.opset)
        self.made.append(node)
        return list(node.outputs)

    def constant(self, array: Array) -> ir.Value:
        tensor = ir.array_tensor(np.asarray(array, order="C"))
        return ir.new_constant(self.scope, self.names, f"{self.hint}/weight", tensor, self.at)

    def squeeze(self, value: ir.Value, axis: int) -> ir.Value:
        return self.node("Squeeze", [value, self.constant(np.array([axis], np.int64))])[0]

    def unsqueeze(self, value: ir.Value) -> ir.Value:
        return self.node("Unsqueeze", [value, self.constant(np.array([0], np.int64))])[0]


def _stacks(ordered: Sequence[ir.Value]) -> list[tuple[ir.Node, int]]:
    """The Concats that stack the states in the order of the sequence, with the axis."""
    found = []
    for use in ordered[0].uses():
        if use.node.op_type != "Unsqueeze" or use.node.domain:
            continue
        for outer in use.node.outputs[0].uses():
            joined = outer.node
            axis = ir.attribute(joined, "axis")
            if joined.op_type != "Concat" or axis not in (0, 1) or outer.idx != 0:
                continue
            if [_unsqueezed(value, axis) for value in joined.inputs] == list(ordered):
                found.append((joined, int(axis)))
    return found


def _unsqueezed(value: ir.Value | None, axis: int) -> ir.Value | None:
    """What a value is with one more axis; None where it is something else."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Unsqueeze" or node.domain:
        return None
    given = ir.attribute(node, "axes")
    array = np.array(given) if given is not None else ir.const(node.inputs[1])
    return node.inputs[0] if array is not None and array.reshape(-1).tolist() == [axis] else None
