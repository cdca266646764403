"""Recurrent layers whose steps are written out, or stand in a Scan or Loop, as one LSTM, GRU or RNN."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from accelc import ir, symbolic
from accelc.context import Context
from accelc.pass_base import Pass, PassResult
from accelc.passes.recurrent_chains import Chain, Weights, chains, is_made_of_zeros, is_zero, weights
from accelc.passes.recurrent_choice import case_of, pays
from accelc.passes.recurrent_loops import Layer, is_used, layers
from accelc.passes.recurrent_write import Writer
from accelc.rewrite import remove_dead, replace_value

_RULES = {"LSTM": "unrolled_lstm", "GRU": "unrolled_gru", "RNN": "unrolled_rnn"}
_LOOP_RULES = {"LSTM": "looped_lstm", "GRU": "looped_gru", "RNN": "looped_rnn"}
_NODE_BYTES = 50
"""What a node takes in a file, at least."""
_OPSET = 14
"""The version of the recurrent operators that is written here."""


@dataclass(frozen=True)
class Recurrent(Pass):
    """Write the steps of a recurrent layer as one LSTM, GRU or RNN.

    Steps are cells of plain operators with the same weights, each of which takes the state of the one before and the
    next part of one sequence, forwards or backwards from end to end. They are written out one after the other, or are
    the body of a Scan or a Loop. The states may be used in any way when written out, else the last ones and the state
    of every step.
    The runtime's kernels bound what goes into an activation, so a NaN or an infinity in the inputs does not spread as
    before; for finite inputs the results agree up to rounding. LSTM and GRU do not run on 0 sequences at a time; a note
    says so where the model leaves their number open. A Loop that may take no step stays: the operators then return
    other states, or fail. (A Scan fails, too.)
    """

    name = "recurrent"
    exact = False

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return (*_RULES.values(), *_LOOP_RULES.values())

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        changes = 0
        for write in (_write_loop, _write_chain):
            for scope in ir.scopes(model):
                while scope.opset >= _OPSET and write(model, scope, ctx):
                    changes += 1
        return PassResult(changes)


def _allowed(rule: str, operator: str, scope: ir.Scope, ctx: Context) -> bool:
    allows = ctx.allows("", operator, scope.opset, {"T": ir.DataType.FLOAT}) is True
    return allows and not ctx.disabled(rule)


def _tell(operator: str, batch: ir.Dim, ctx: Context) -> None:
    if operator != "RNN" and not isinstance(batch, int):
        ctx.note(
            "recurrent: the runtime's LSTM and GRU do not run on 0 sequences at a time, as the steps they replace do"
        )


def _stays_small(arrays: Weights, cell: Iterable[ir.Node], inside: set[ir.Node]) -> bool:
    """Whether the weights that go make up for the new ones. inside: all nodes that go, those of the cells with them."""
    old = {value for node in cell for value in node.inputs if value is not None and ir.is_constant(value)}
    gone = sum(_bytes(value) for value in old if all(use.node in inside for use in value.uses()))
    return arrays.nbytes <= gone + _NODE_BYTES * len(inside)


def _bytes(value: ir.Value) -> int:
    tensor = ir.const_tensor(value)
    return int(tensor.nbytes) if tensor is not None else 0


# --- loops -----------------------------------------------------------------------------------------------------------


def _write_loop(model: ir.Model, scope: ir.Scope, ctx: Context) -> bool:
    """Write the first loop that an operator can stand for."""
    if not any(node.op_type in ("Scan", "Loop") and not node.domain for node in ir.nodes(scope.graph)):
        return False
    for layer in layers(scope.graph, ctx.analysis(symbolic.walk, model)):
        kind, node = layer.step.cell.kind, layer.body.node
        operator = kind.partition(" ")[0]
        rule, arrays = _LOOP_RULES[operator], weights(layer.step.key)
        if arrays is None or not _allowed(rule, operator, scope, ctx):
            continue
        inside = {node, *(each for inner in ir.subgraphs(node) for graph in ir.nested(inner) for each in graph)}
        inputs, shape = arrays.w.shape[2], layer.shape
        if not layer.fits(arrays.hidden, inputs) or not _stays_small(arrays, layer.step.cell.nodes, inside):
            continue
        assert shape is not None
        case = case_of(node.op_type, kind, arrays.hidden, inputs, shape, layer.taken.axis)
        if not pays(rule, case, ctx) or not ctx.spend(rule, ir.node_path(node)):
            continue
        _tell(operator, shape[1 - layer.taken.axis], ctx)
        _write_layer(layer, arrays, Writer(node, str(layer.h.final.name), scope, ir.names(model), rule))
        return True
    return False


def _write_layer(layer: Layer, arrays: Weights, writer: Writer) -> None:
    taken, states = layer.taken, [each for each in (layer.h, layer.c) if each is not None]
    starts = [None if is_made_of_zeros(each.start) else each.start for each in states]
    made = writer.layer(
        layer.step.cell.kind, taken.source, arrays, starts, axis=taken.axis, is_reverse=taken.is_reverse
    )
    for stack in layer.stacks:
        whole = writer.squeeze(made[0], 1)
        if stack.is_prepended != taken.is_reverse:
            whole = writer.backwards(whole)
        perms = {0: None, 1: [1, 0, 2], 2: [1, 2, 0]}
        perm = perms[stack.axis]
        replace_value(stack.value, whole if perm is None else writer.transpose(whole, perm))
    for state, last in zip(states, made[1:], strict=True):
        if is_used(state.final):
            replace_value(state.final, writer.squeeze(last, 0))
    for state in layer.kept:
        replace_value(state.final, writer.node("Identity", [state.start])[0])
    writer.finish([layer.body.node])


# --- steps that are written out --------------------------------------------------------------------------------------


def _write_chain(model: ir.Model, scope: ir.Scope, ctx: Context) -> bool:
    """Write the first chain that an operator can stand for."""
    for chain in chains(scope.graph):
        kind = chain.steps[0].cell.kind
        operator = kind.partition(" ")[0]
        rule, arrays = _RULES[operator], weights(chain.steps[-1].key)
        if arrays is None or not _allowed(rule, operator, scope, ctx):
            continue
        inside = {node for step in chain.steps for node in step.cell.nodes}
        if not _fits(chain, arrays) or not _stays_small(arrays, inside, inside):
            continue
        dims = ir.dims(chain.source) or ()
        case = case_of("steps", kind, arrays.hidden, arrays.w.shape[2], dims, chain.axis)
        last = chain.steps[-1].cell.h.producer()
        assert last is not None
        if not pays(rule, case, ctx) or not ctx.spend(rule, ir.node_path(last)):
            continue
        _tell(operator, dims[1 - chain.axis], ctx)
        _ChainWriter(chain, arrays, scope, ir.names(model), rule).write()
        return True
    return False


def _fits(chain: Chain, arrays: Weights) -> bool:
    """Whether sizes agree, and the inner states of an LSTM are used by its steps alone."""
    dims = ir.dims(chain.source) or ()
    batch = dims[1 - chain.axis]
    first = chain.steps[0]
    if batch == 0 or any(gate.rows not in (1, batch) for step in chain.steps for gate in step.cell.gates):
        return False
    for start in (first.state, first.cell.cell):
        if start is not None and not is_zero(start):
            shape = ir.dims(start)
            if shape is None or len(shape) != 2 or shape[1] != arrays.hidden or shape[0] != batch or batch is None:
                return False
        elif start is not None and _rows(start) not in (1, batch):
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


def _rows(value: ir.Value) -> ir.Dim:
    dims = ir.dims(value) or ()
    return dims[0] if len(dims) == 2 else 1


class _ChainWriter(Writer):
    """Writes a chain as one operator, before its first step: all that this reads is there, and nobody reads it yet."""

    def __init__(self, chain: Chain, arrays: Weights, scope: ir.Scope, names: ir.Names, rule: str) -> None:
        self.chain, self.arrays = chain, arrays
        first = chain.steps[0].cell.h
        at = first.producer()
        assert at is not None
        super().__init__(at, str(first.name), scope, names, rule)

    def write(self) -> None:
        chain, steps = self.chain, self.chain.steps
        kind = steps[0].cell.kind
        starts = [steps[0].state, steps[0].cell.cell][: 2 if kind == "LSTM" else 1]
        made = self.layer(kind, chain.source, self.arrays, starts, axis=chain.axis, is_reverse=chain.is_reverse)
        self.states(made[0], made[1])
        if kind == "LSTM":
            last = steps[-1].cell.c
            if last is not None and self.is_used_outside(last):
                replace_value(last, self.squeeze(made[2], 0))
        gone = [node for step in reversed(steps) for node in step.cell.nodes]
        self.finish([*gone, *(node for step in steps if (node := step.x.producer()) is not None)])

    def states(self, every: ir.Value, final: ir.Value) -> None:
        """Replace what is outside of the steps reads of their new states."""
        by_place = {place: step.cell.h for place, step in zip(self.chain.places, self.chain.steps, strict=True)}
        ordered = [by_place[place] for place in sorted(by_place)]
        whole = None
        for joined, axis in _stacks(ordered):
            whole = whole or self.squeeze(every, 1)
            replace_value(joined.outputs[0], whole if axis == 0 else self.transpose(whole, [1, 0, 2]))
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
