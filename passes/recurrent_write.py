"""Writes recurrent operators into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from accelc import ir
from accelc.infer import infer_node
from accelc.passes.recurrent_chains import Weights, is_zero
from accelc.rewrite import remove_dead

Array = np.ndarray[Any, Any]


class Writer:
    """Puts new nodes before one of a graph. hint: what their names begin with."""

    def __init__(self, at: ir.Node, hint: str, scope: ir.Scope, names: ir.Names, rule: str) -> None:
        self.at, self.hint, self.scope, self.names, self.rule = at, hint, scope, names, rule
        self.made: list[ir.Node] = []

    def layer(
        self,
        kind: str,
        source: ir.Value,
        arrays: Weights,
        starts: Sequence[ir.Value | None],
        *,
        axis: int,
        is_reverse: bool,
    ) -> list[ir.Value]:
        """The operator's outputs Y, Y_h and of LSTM Y_c.

        source: [steps, batch, inputs], steps along `axis`. starts: the first states [batch, hidden], None for zero.
        """
        operator, _, detail = kind.partition(" ")
        sequence = source if axis == 0 else self.node("Transpose", [source], perm=[1, 0, 2])[0]
        given = [None if each is None or is_zero(each) else self.unsqueeze(each) for each in starts]
        attrs = {
            "hidden_size": arrays.hidden,
            "direction": "reverse" if is_reverse else None,
            "linear_before_reset": 1 if detail == "after" else None,
            "activations": [detail] if operator == "RNN" and detail != "Tanh" else None,
        }
        matrices = [self.constant(each) for each in (arrays.w, arrays.r, arrays.b)]
        return self.node(operator, [sequence, *matrices, None, *given], 3 if operator == "LSTM" else 2, **attrs)

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

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        return self.node("Transpose", [value], perm=list(perm))[0]

    def backwards(self, value: ir.Value) -> ir.Value:
        """A value with its first axis the other way round."""
        bounds = [self.constant(np.array([each], np.int64)) for each in (-1, np.iinfo(np.int64).min, 0, -1)]
        return self.node("Slice", [value, *bounds])[0]

    def finish(self, gone: Sequence[ir.Node]) -> None:
        """Remove what nobody uses any more."""
        remove_dead([*gone, *self.made])
