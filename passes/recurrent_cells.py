"""Cells of recurrent networks written out as plain operators: LSTM, GRU and the simple cell.

What goes into an activation is read as an affine form: a sum of sources times weights, and a bias. Which gate is stored
where in which matrix, how the matrices are joined and where biases are added then makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from accelc import ir

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Term:
    """A part of a weight that a source is multiplied by: rows and columns of the [inputs, units] matrix."""

    weight: ir.Value
    transposed: bool
    rows: tuple[int, int]
    columns: tuple[int, int]

    def array(self) -> Array:
        """The part as [units, inputs]."""
        whole = ir.const(self.weight)
        assert whole is not None
        matrix = whole.T if self.transposed else whole
        return matrix[slice(*self.rows), slice(*self.columns)].T


@dataclass(frozen=True)
class Affine:
    """sum(source @ term) + bias, of some width. rows: of the longest bias, which are all alike."""

    terms: Mapping[ir.Value, Term]
    bias: Array
    nodes: frozenset[ir.Node]
    rows: int = 1

    @property
    def width(self) -> int:
        return len(self.bias)

    def part(self, start: int, end: int, node: ir.Node) -> Affine:
        """Some columns of it."""
        terms = {
            source: Term(each.weight, each.transposed, each.rows, (each.columns[0] + start, each.columns[0] + end))
            for source, each in self.terms.items()
        }
        return Affine(terms, self.bias[start:end], self.nodes | {node}, self.rows)

    def key(self, x: ir.Value | None, h: ir.Value | None) -> Any:
        """What is the same in every step, given the input and the old state; None where there are other sources."""
        if set(self.terms) - {x, h}:
            return None
        of = [self.terms.get(each) if each is not None else None for each in (x, h)]
        return (*of, self.bias.tobytes())


class Reader:
    """Reads affine forms. Each value is read once. dims: says what shape a value has."""

    def __init__(self, dims: Callable[[ir.Value | None], tuple[ir.Dim, ...] | None] = ir.dims) -> None:
        self.dims = dims
        self._known: dict[ir.Value, Affine | None] = {}

    def read(self, value: ir.Value | None) -> Affine | None:
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None
            self._known[value] = self._read(value)
        return self._known[value]

    def _read(self, value: ir.Value) -> Affine | None:
        array = ir.const(value)
        node = value.producer()
        if array is not None:
            return _bias(array)
        if node is None or node.domain or value.dtype != ir.DataType.FLOAT:
            return None
        if node.op_type in ("Gemm", "MatMul"):
            return self._product(node)
        if node.op_type == "Add":
            return self._sum(node)
        if node.op_type in ("Split", "Slice"):
            return self._part(node, value)
        return None

    def _product(self, node: ir.Node) -> Affine | None:
        source, weight = node.inputs[:2]
        array, dims = ir.const(weight), self.dims(source)
        if source is None or weight is None or array is None or array.ndim != 2 or dims is None or len(dims) != 2:
            return None
        if node.op_type == "Gemm" and not _is_plain(node):
            return None
        turned = bool(ir.attribute(node, "transB", 0))
        rows, columns = array.shape[::-1] if turned else array.shape
        terms: dict[ir.Value, Term] = {}
        start = 0
        for part, size in self._parts(source, rows):
            if part in terms or ir.is_constant(part):
                return None
            terms[part] = Term(weight, turned, (start, start + size), (0, columns))
            start += size
        if start != rows:
            return None
        joint = source.producer()
        inner = {node} if joint is None or source in terms else {node, joint}
        found = Affine(terms, np.zeros(columns, array.dtype), frozenset(inner))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return found if bias is None else _add(found, self.read(bias), node)

    def _sum(self, node: ir.Node) -> Affine | None:
        left, right = (self.read(each) for each in node.inputs)
        return None if left is None else _add(left, right, node)

    def _part(self, node: ir.Node, value: ir.Value) -> Affine | None:
        whole, dims = self.read(node.inputs[0]), self.dims(node.inputs[0])
        if whole is None or dims is None or len(dims) != 2:
            return None
        if node.op_type == "Split":
            if ir.attribute(node, "axis", 0) not in (1, -1):
                return None
            sizes = _ints(node, "split", 1)
            count = len(node.outputs)
            if sizes is None:
                if whole.width % count or len(node.inputs) > 1:
                    return None
                sizes = [whole.width // count] * count
            index = value.index() or 0
            return whole.part(sum(sizes[:index]), sum(sizes[: index + 1]), node)
        starts, ends, axes = (_ints(node, name, at) for at, name in enumerate(("starts", "ends", "axes"), 1))
        steps = _ints(node, "steps", 4) if len(node.inputs) > 4 else [1]
        if starts is None or ends is None or axes not in ([1], [-1]) or steps != [1]:
            return None
        return whole.part(*slice(starts[0], ends[0]).indices(whole.width)[:2], node)

    def _parts(self, source: ir.Value, rows: int) -> list[tuple[ir.Value, int]]:
        """What a source is joined of along its last axis, with the sizes; itself where it is not joined."""
        node = source.producer()
        if node is None or node.op_type != "Concat" or node.domain or ir.attribute(node, "axis") not in (1, -1):
            return [(source, rows)]
        found = []
        for value in node.inputs:
            dims = self.dims(value)
            if value is None or dims is None or not isinstance(dims[-1], int):
                return [(source, rows)]
            found.append((value, dims[-1]))
        return found


def _is_plain(node: ir.Node) -> bool:
    return (
        not ir.attribute(node, "transA", 0)
        and ir.attribute(node, "alpha", 1.0) == ir.attribute(node, "beta", 1.0) == 1.0
    )


def _ints(node: ir.Node, name: str, index: int) -> list[int] | None:
    given = ir.attribute(node, name)
    if given is not None:
        return list(given)
    array = ir.const(node.inputs[index]) if index < len(node.inputs) else None
    return None if array is None else [int(each) for each in array.reshape(-1)]


def _bias(array: Array) -> Affine | None:
    """A constant that is the same for every row."""
    if array.dtype != np.float32 or array.ndim > 2 or array.size == 0:
        return None
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    return Affine({}, rows[0], frozenset(), len(rows)) if (rows == rows[0]).all() else None


def _add(one: Affine, other: Affine | None, node: ir.Node) -> Affine | None:
    if other is None or set(one.terms) & set(other.terms):
        return None
    if one.width != other.width and (one if one.width == 1 else other).terms:
        return None
    if one.width != other.width and 1 not in (one.width, other.width):
        return None
    nodes, rows = one.nodes | other.nodes | {node}, max(one.rows, other.rows)
    return Affine({**one.terms, **other.terms}, one.bias + other.bias, nodes, rows)


# --- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One step. gates: in the order of the ONNX operator. h, c: the new state; state, cell: the old one, where known.

    reset: of GRU, the value that the state is multiplied by before its product with the weights; None where after.
    """

    kind: str
    gates: tuple[Affine, ...]
    h: ir.Value
    nodes: frozenset[ir.Node]
    c: ir.Value | None = None
    cell: ir.Value | None = None
    state: ir.Value | None = None
    reset: ir.Value | None = None

    @property
    def sources(self) -> list[ir.Value]:
        return list(dict.fromkeys(s for gate in self.gates for s in gate.terms if s is not self.reset))

    def key(self, x: ir.Value, h: ir.Value | None) -> Any:
        """What is the same in every step, given which source is the input and which the old state."""
        keys = [gate.key(x, h) for gate in self.gates]
        if self.kind == "GRU before" and self.reset is not None:
            keys[2] = self.gates[2].key(x, self.reset)
        return None if None in keys else (self.kind, *keys)


def cells(value: ir.Value, reader: Reader) -> Iterator[Cell]:
    """The ways in which a value is the new state of a cell."""
    node = value.producer()
    if node is None or node.domain or value.dtype != ir.DataType.FLOAT or len(reader.dims(value) or ()) != 2:
        return
    if node.op_type == "Mul":
        yield from _lstm(node, reader)
    elif node.op_type == "Add":
        yield from _gru(node, reader)
    elif node.op_type in ("Tanh", "Relu", "Sigmoid"):
        pre = reader.read(node.inputs[0])
        if pre is not None and pre.terms:
            yield Cell(f"RNN {node.op_type}", (pre,), value, pre.nodes | {node})


def _made(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def _gate(value: ir.Value | None, activation: str, reader: Reader) -> tuple[Affine, ir.Node] | None:
    """The affine form under an activation."""
    node = _made(value, activation)
    pre = reader.read(node.inputs[0]) if node is not None else None
    return None if node is None or pre is None else (pre, node)


def _lstm(out: ir.Node, reader: Reader) -> Iterator[Cell]:
    for first, second in permutations(out.inputs):
        o, squashed = _gate(first, "Sigmoid", reader), _made(second, "Tanh")
        joined = _made(squashed.inputs[0], "Add") if squashed is not None else None
        if o is None or squashed is None or joined is None:
            continue
        for kept, new in permutations(joined.inputs):
            keep, take = _made(kept, "Mul"), _made(new, "Mul")
            if keep is None or take is None:
                continue
            for (a, cell), (b, g) in ((x, y) for x in permutations(keep.inputs) for y in permutations(take.inputs)):
                gates = [_gate(b, "Sigmoid", reader), o, _gate(a, "Sigmoid", reader), _gate(g, "Tanh", reader)]
                found = [each for each in gates if each is not None]
                if len(found) == 4 and cell is not None and len({gate.width for gate, _ in found}) == 1:
                    nodes = frozenset([out, squashed, joined, keep, take, *(node for _, node in found)])
                    nodes = nodes.union(*(gate.nodes for gate, _ in found))
                    yield Cell("LSTM", tuple(g for g, _ in found), out.outputs[0], nodes, joined.outputs[0], cell)


def _mixes(out: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value | None, ir.Value | None, list[ir.Node]]]:
    """(z, n, old state) where the result is (1 - z) * n + z * state, in either way to write it, with the nodes."""
    for left, right in permutations(out.inputs):
        mul = _made(left, "Mul")
        if mul is None:
            continue
        for a, z in permutations(mul.inputs):
            sub = _made(a, "Sub")
            if sub is None:
                continue
            if sub.inputs[1] is right:
                yield z, right, sub.inputs[0], [out, mul, sub]
            one, other = ir.const(sub.inputs[0]), _made(right, "Mul")
            if one is not None and bool(np.all(one == 1)) and other is not None:
                for same, state in permutations(other.inputs):
                    if same is sub.inputs[1]:  # here `z` names what 1 - z is multiplied by
                        yield same, z, state, [out, mul, sub, other]


def _gru(out: ir.Node, reader: Reader) -> Iterator[Cell]:
    for z_value, n_value, state, nodes in _mixes(out):
        z, new = _gate(z_value, "Sigmoid", reader), _made(n_value, "Tanh")
        if z is None or new is None or state is None:
            continue
        nodes = [*nodes, z[1], new]
        yield from _reset_after(out.outputs[0], z[0], new, state, nodes, reader)
        yield from _reset_before(out.outputs[0], z[0], new, state, nodes, reader)


def _reset_after(
    h: ir.Value, z: Affine, new: ir.Node, state: ir.Value, nodes: list[ir.Node], reader: Reader
) -> Iterator[Cell]:
    add = _made(new.inputs[0], "Add")
    for left, right in permutations(add.inputs) if add is not None else ():
        ax, mul = reader.read(left), _made(right, "Mul")
        if add is None or ax is None or mul is None:
            continue
        for first, second in permutations(mul.inputs):
            r, ah = _gate(first, "Sigmoid", reader), reader.read(second)
            if r is not None and ah is not None and ax.width == ah.width == z.width == r[0].width:
                every = frozenset([*nodes, add, mul, r[1]]).union(*(g.nodes for g in (z, r[0], ax, ah)))
                yield Cell("GRU after", (z, r[0], ax, ah), h, every, state=state)


def _reset_before(
    h: ir.Value, z: Affine, new: ir.Node, state: ir.Value, nodes: list[ir.Node], reader: Reader
) -> Iterator[Cell]:
    n = reader.read(new.inputs[0])
    for source in n.terms if n is not None else ():
        mul = _made(source, "Mul")
        for first, second in permutations(mul.inputs) if mul is not None else ():
            r = _gate(first, "Sigmoid", reader)
            if n is not None and mul is not None and r is not None and second is state and n.width == r[0].width:
                every = frozenset([*nodes, mul, r[1]]).union(*(g.nodes for g in (z, r[0], n)))
                yield Cell("GRU before", (z, r[0], n), h, every, state=state, reset=source)
