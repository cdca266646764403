"""Permutations of axes, what it costs to carry one out, and how operators are written again in another order of axes.

A permutation is written as Transpose writes it: axis i of the result is axis perm[i] of the operand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from accelc import ir
from accelc.dimexpr import Poly, evaluate
from accelc.infer import infer_node
from accelc.passes.forms import sure_dims
from accelc.symbolic import Facts

Perm = tuple[int, ...]
RULE = "transposes_of_region"
"""The name of the change, for the report and `--disable`."""

LAUNCH = 20_000
"""What starting an operator costs, in bytes that could be moved meanwhile (about 2 microseconds)."""
VIEW = 2_000
"""What a Transpose costs that moves only axes of length 1: the runtime copies nothing, or little."""
_TYPICAL = 32
"""The size taken for a symbol."""


def inverse(perm: Sequence[int]) -> Perm:
    """The permutation that undoes another."""
    return tuple(list(perm).index(axis) for axis in range(len(perm)))


def then(first: Sequence[int], second: Sequence[int]) -> Perm:
    """The one permutation that does what two do after each other."""
    return tuple(first[each] for each in second)


def is_still(perm: Sequence[int]) -> bool:
    return list(perm) == list(range(len(perm)))


def moves_only_ones(dims: Sequence[ir.Dim] | None, perm: Sequence[int]) -> bool:
    """Whether the elements stay where they are, because all axes longer than 1 keep their order."""
    if dims is None or len(dims) != len(perm):
        return False
    long = [axis for axis in perm if dims[axis] != 1]
    return long == sorted(long)


def bytes_of(value: ir.Value, facts: Callable[[], Facts]) -> int:
    """The size of a value, with a typical size for every symbol."""
    tensor = ir.const_tensor(value)
    if tensor is not None:
        return int(tensor.nbytes)
    width = value.dtype.bitwidth / 8 if value.dtype is not None else 4
    dims: Sequence[ir.Dim | Poly] = ir.dims(value) or ()
    if not all(isinstance(dim, int) for dim in dims):
        dims = facts().shape(value) or dims
    return int(prod(map(_typical, dims)) * width)


def _typical(dim: ir.Dim | Poly) -> int:
    if isinstance(dim, Poly):
        try:
            return max(1, evaluate(dim, dict.fromkeys(dim.symbols, _TYPICAL)))
        except ZeroDivisionError:  # a divisor that the typical sizes make 0
            return _TYPICAL
    return dim if isinstance(dim, int) else _TYPICAL


def transpose_cost(value: ir.Value, perm: Sequence[int], facts: Callable[[], Facts]) -> int:
    """What carrying out a permutation costs, in bytes moved."""
    dims = sure_dims(value)
    if dims is not None and len(dims) < len(perm):
        dims = (1,) * (len(perm) - len(dims)) + dims
    return VIEW if moves_only_ones(dims, perm) else LAUNCH + 2 * bytes_of(value, facts)


def perm_of_node(node: ir.Node) -> Perm | None:
    """The permutation of a Transpose; None where it is the default and the rank is unknown."""
    given = ir.attribute(node, "perm")
    if given is not None:
        return tuple(int(each) for each in given)
    dims = ir.dims(node.inputs[0])
    return None if dims is None or "perm" in node.attributes else tuple(reversed(range(len(dims))))


def as_transpose(node: ir.Node) -> Perm | None:
    """The permutation of a Transpose, else None."""
    return perm_of_node(node) if node.op_type == "Transpose" and not node.domain and node.inputs[0] else None


def acts_as(node: ir.Node, perm: Perm) -> bool:
    """Whether a node does to its first input what Transpose(perm) does: one itself, or a Reshape that moves ones."""
    if node.domain or not node.inputs or node.inputs[0] is None:
        return False
    if node.op_type == "Transpose":
        return perm_of_node(node) == perm
    if node.op_type != "Reshape" or len(node.outputs) != 1:
        return False
    before, after = sure_dims(node.inputs[0]), sure_dims(node.outputs[0])
    if before is None or after is None or len(before) != len(perm) or not moves_only_ones(before, perm):
        return False
    return None not in before and tuple(before[axis] for axis in perm) == after and not is_still(perm)


class Build:
    """Makes new nodes in a graph that is being changed, at the place that `before` or `after` last said."""

    def __init__(self, scope: ir.Scope, names: ir.Names) -> None:
        self.scope, self.names = scope, names
        self._at: ir.Node = scope.graph[0]
        self._behind = False

    @property
    def opset(self) -> int:
        return self.scope.opset

    def before(self, node: ir.Node) -> None:
        self._at, self._behind = node, False

    def after(self, value: ir.Value) -> None:
        """Behind what makes a value; first of all where no node of this graph does."""
        node = value.producer()
        inside = node is not None and node.graph is self.scope.graph
        self._at, self._behind = (node, True) if inside and node is not None else (self.scope.graph[0], False)

    def node(
        self, op_type: str, inputs: Sequence[ir.Value | None], *, domain: str = "", outputs: int = 1, **attrs: Any
    ) -> list[ir.Value]:
        """The outputs of a new node, with types and shapes."""
        values = list(inputs)
        while values and values[-1] is None:
            values.pop()
        node = ir.new_node(op_type, values, attrs, domain=domain, outputs=outputs)
        node.name = self.names.fresh(self._hint)
        last = len(self._at.outputs) - 1
        for index, value in enumerate(node.outputs):
            value.name = self.names.fresh(self._at.outputs[min(index, last)].name or node.name)
        node.meta["accelc.rule"] = RULE
        if self._behind:
            self.scope.graph.insert_after(self._at, node)
            self._at = node
        else:
            self.scope.graph.insert_before(self._at, node)
        infer_node(node, self.opset)
        return list(node.outputs)

    @property
    def _hint(self) -> str:
        return self._at.name or self._at.op_type

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None], **changed: Any) -> list[ir.Value]:
        """The same operator on other inputs; `changed` overrides attributes."""
        attrs = {**node.attributes, **changed}
        return self.node(node.op_type, inputs, domain=node.domain, outputs=len(node.outputs), **attrs)

    def constant(self, array: np.ndarray[Any, Any], dtype: ir.DataType | None = None) -> ir.Value:
        tensor = ir.array_tensor(np.asarray(array, order="C"), dtype)
        return ir.new_constant(self.scope, self.names, self._hint, tensor, self._at)

    def ints(self, numbers: Sequence[int]) -> ir.Value:
        return self.constant(np.array(numbers, np.int64))

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Transpose, made one with the Transpose above where there is one."""
        producer = value.producer()
        above = as_transpose(producer) if producer is not None else None
        if producer is not None and above is not None and not is_still(then(above, perm)):
            (source,) = producer.inputs
            return self.node("Transpose", [source], perm=list(then(above, perm)))[0]
        return self.node("Transpose", [value], perm=list(perm))[0]


Make = Callable[[Build, list[ir.Value | None]], list[ir.Value]]


@dataclass(frozen=True)
class Carry:
    """How an operator works on operands in another order of axes.

    inputs, outputs: by index, how each goes from its order in the model to the other one; an output that is absent has
    no axes to move. make: writes the operator for inputs in the other order. cost: what it takes more than before.
    """

    inputs: Mapping[int, Perm]
    outputs: Mapping[int, Perm]
    make: Make
    cost: int = 0


@dataclass(frozen=True)
class View:
    """A node that a permutation has reached. perm: what happens to the axes of the operand it came through.

    at: which operand; input i, or ~i for output i.
    """

    node: ir.Node
    at: int
    perm: Perm
    opset: int
    facts: Callable[[], Facts]

    @property
    def from_input(self) -> bool:
        return self.at >= 0

    def input(self, index: int) -> ir.Value | None:
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def dims(self, index: int) -> tuple[ir.Dim, ...] | None:
        """The shape of an input, as far as it can be relied on."""
        return sure_dims(self.input(index))

    def attr(self, name: str, default: Any = None) -> Any:
        return ir.attribute(self.node, name, default)

    def ints(self, name: str, index: int) -> list[int] | None:
        """Integers that are an attribute or a constant input; None where they are absent or vary."""
        given = self.attr(name)
        if given is not None:
            return list(given) if isinstance(given, tuple) else [int(given)]
        array = ir.const(self.input(index))
        return None if array is None or array.dtype.kind not in "iu" else [int(each) for each in array.reshape(-1)]

    def axes(self, name: str, index: int) -> list[int] | None:
        """`ints`, counted from the front; None where one is out of range for the rank of the permutation."""
        rank = len(self.perm)
        found = self.ints(name, index)
        if found is None or not all(-rank <= axis < rank for axis in found):
            return None
        return [axis % rank for axis in found]
