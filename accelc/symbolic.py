"""Symbolic shapes: the dimensions of every value, and the elements of the small tensors that do shape arithmetic.

    facts = ctx.analysis(symbolic.values, model)
    facts.shape(value)      # (batch, 12, seq, 32): numbers of dimexpr; None where the rank is unknown
    facts.content(value)    # object array of numbers, for small integer tensors; None where nothing is known

One walk in topological order, linear in the graph; a model without anything that reads a shape costs one look at each
node. The symbols of the model's inputs are trusted: they are the caller's contract, and one name is one size. Symbols
declared for inner values are not; where an operator's result cannot be told, numbers in the declared shape are used and
unknown dimensions get invented symbols, one for each value and axis, so that equal unknowns are recognized. Every fact
holds in each run that succeeds, for every size of every symbol, 0 and 1 included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accelc import dimexpr as e
from accelc import ir
from accelc.dimexpr import Number, Poly, Symbol
from accelc.symbolic_arithmetic import ARITHMETIC
from accelc.symbolic_contents import CONTENTS, INTS, KINDS, MAX_ELEMENTS, Array, Ratio, from_constant
from accelc.symbolic_kernels import KERNELS
from accelc.symbolic_shapes import SHAPES, Dims

Shape = tuple[int | Poly, ...]

_READS_SHAPES = frozenset(["ConstantOfShape", "Expand", "Range", "Reshape", "Resize", "Shape", "Size", "Slice", "Tile"])
"""Operators that give this analysis something to say; without any of them a model is not walked."""
_SHAPES = {**SHAPES, **KERNELS}
_CONTENTS = {**CONTENTS, **ARITHMETIC}
_LIMITS = {ir.DataType.INT64: 2**63, ir.DataType.INT32: 2**31}


@dataclass
class Facts:
    """What is known of a model's values.

    unless_zero: for an invented symbol, a number that it equals wherever that number is not 0 (a 0 in the shape given
    to Reshape copies a dimension). Values made after the analysis can be added with `learn`.
    """

    shapes: dict[ir.Value, Shape | None] = field(default_factory=dict)
    contents: dict[ir.Value, Array | None] = field(default_factory=dict)
    unless_zero: dict[Symbol, Number] = field(default_factory=dict)

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The dimensions of a value."""
        if value is None:
            return None
        if value not in self.shapes:
            self.shapes[value] = self._shape_of_source(value)
        return self.shapes[value]

    def content(self, value: ir.Value | None) -> Array | None:
        """The elements of a value (see symbolic_contents.py)."""
        if value is None:
            return None
        if value not in self.contents:
            tensor = ir.const_tensor(value)
            self.contents[value] = None if tensor is None else from_constant(tensor)
        return self.contents[value]

    def numbers(self, value: ir.Value | None) -> tuple[Number, ...] | None:
        """The elements of an integer tensor of rank 0 or 1."""
        array = self.content(value)
        if value is None or array is None or array.ndim > 1 or value.dtype not in INTS:
            return None
        return tuple(array.reshape(-1).tolist())

    def learn(self, value: ir.Value, like: ir.Value) -> None:
        """Take over for a new value what is known of one that it equals."""
        self.shapes[value], self.contents[value] = self.shape(like), self.content(like)

    def same_unless_zero(self, number: Number, dim: Number) -> bool:
        """Whether a dimension is surely `number` wherever that is not 0."""
        atom = e.single(dim)
        return number == dim or (atom is not None and number is not None and self.unless_zero.get(atom) == number)

    def _shape_of_source(self, value: ir.Value) -> Shape | None:
        """The shape of a value that no visited node makes."""
        tensor = ir.const_tensor(value)
        if tensor is not None:
            return tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]
        return self.invent(None, ir.dims(value)) if value.producer() is not None else None

    def invent(self, dims: Dims | None, declared: Sequence[ir.Dim] | None) -> Shape | None:
        """A shape with a number on every axis: declared sizes and new symbols stand where nothing was derived."""
        if dims is None:
            if declared is None:
                return None
            dims = (None,) * len(declared)
        known = declared if declared is not None and len(declared) == len(dims) else (None,) * len(dims)
        return tuple(self._settle(dim, size) for dim, size in zip(dims, known, strict=True))

    def _settle(self, dim: Number, declared: ir.Dim) -> int | Poly:
        if isinstance(dim, int):
            return dim
        atom = e.single(dim)
        if (dim is None or (atom is not None and atom.invented)) and isinstance(declared, int) and declared >= 0:
            return declared
        return self.new_symbol() if dim is None else dim

    def new_symbol(self) -> Poly:
        """A symbol for a dimension nobody knows."""
        self._count += 1
        return e.symbol(str(self._count), invented=True)

    _count: int = 0


def values(model: ir.Model) -> Facts:
    """Analyse a model, and write better dimensions into the shapes of its inner values.

    Numbers replace symbols and unknowns, symbols of the model's inputs (and their sums and products) replace other
    symbols and unknowns. A number is never replaced, inputs and outputs keep their shapes, invented symbols stay here.
    """
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    if not any(_reads_shapes(graph) or _has_unknown_ranks(graph) for graph in graphs):
        return Facts()
    with ir.paused_gc():
        return walk(model)


def walk(model: ir.Model) -> Facts:
    """`values`, also for a model where nothing reads a shape."""
    facts = Facts()
    for value in model.graph.inputs:
        facts.shapes[value] = _input_shape(facts, value)
    version = model.graph.opset_imports.get("", 0)
    _Walk(facts, version, False).graph(model.graph)
    for function in model.functions.values():
        _Walk(facts, function.graph.opset_imports.get("", 0) or version, True).graph(function.graph)
    taken = {name for value in model.graph.inputs for name in ir.dims(value) or () if isinstance(name, str)}
    for value, shape in facts.shapes.items():
        if shape is not None and value.producer() is not None and not value.is_graph_output():
            _write(value, shape, taken)
    return facts


def _reads_shapes(graph: ir.Graph) -> bool:
    """Whether a graph or one inside it has an operator that this analysis can say something about."""
    for node in graph:
        if node.op_type in _READS_SHAPES and not node.domain:
            return True
        if node.attributes and any(_reads_shapes(inner) for inner in ir.subgraphs(node)):
            return True
    return False


def _has_unknown_ranks(graph: ir.Graph) -> bool:
    """Whether the shape inference of onnx stopped at some operator, as at one that its opset does not have."""
    return any(value.shape is None and value.type is not None for node in ir.nodes(graph) for value in node.outputs)


def _input_shape(facts: Facts, value: ir.Value) -> Shape | None:
    declared = ir.dims(value)
    if declared is None:
        return facts._shape_of_source(value) if value.is_initializer() else None
    return tuple(
        e.symbol(dim)
        if isinstance(dim, str) and dim
        else dim
        if isinstance(dim, int) and dim >= 0
        else facts.new_symbol()
        for dim in declared
    )


def _write(value: ir.Value, shape: Shape, taken: set[str]) -> None:
    old = ir.dims(value)
    if value.type is None or (old is not None and len(old) != len(shape)):
        return
    new = [_better(a, b, taken) for a, b in zip(old or (None,) * len(shape), shape, strict=True)]
    if old is None or new != list(old):
        value.shape = ir.Shape(new)


def _better(old: ir.Dim, found: int | Poly, taken: set[str]) -> ir.Dim:
    if isinstance(old, int):
        return old
    if isinstance(found, int):
        return found
    text = e.text(found)
    if text is None or (text in taken and e.single(found) is None):
        return old
    return text


# --- the walk --------------------------------------------------------------------------------------------------------


class View:
    """A node as the transfer functions of symbolic_shapes and symbolic_contents see it."""

    def __init__(self, facts: Facts, opset: int) -> None:
        self._facts, self.opset = facts, opset
        self.node: ir.Node
        self.zeroes: list[tuple[int, Number]] = []

    def shape(self, value: ir.Value) -> Dims | None:
        """The dimensions of any value."""
        return self._facts.shape(value)

    def input(self, index: int) -> ir.Value | None:
        inputs = self.node.inputs
        return inputs[index] if index < len(inputs) else None

    def dims(self, index: int) -> Dims | None:
        """The dimensions of an input."""
        return self._facts.shape(self.input(index))

    def int_dims(self, index: int) -> tuple[int, ...] | None:
        """The dimensions of an input, where all are known ints."""
        return _ints(self.dims(index))

    def result_shape(self, index: int = 0) -> tuple[int, ...] | None:
        """The dimensions found for an output, where all are known ints."""
        return _ints(self._facts.shapes.get(self.node.outputs[index]))

    def content(self, index: int) -> Array | None:
        """The elements of an input."""
        return self._facts.content(self.input(index))

    def int_array(self, index: int) -> np.ndarray[Any, Any] | None:
        """An integer input, where every element is a known int."""
        array = self.content(index)
        if (
            array is None
            or self.input_dtype(index) not in INTS
            or not all(isinstance(item, int) for item in array.flat)
        ):
            return None
        return array.astype(np.int64)

    def vector(self, index: int) -> Dims | None:
        """The elements of a rank-1 integer input, None for those that are unknown."""
        array = self.content(index)
        if array is not None:
            return tuple(array.tolist()) if array.ndim == 1 and self.input_dtype(index) in INTS else None
        shape = self.int_dims(index)
        return (None,) * shape[0] if shape is not None and len(shape) == 1 and shape[0] <= MAX_ELEMENTS else None

    def scalar(self, index: int) -> Number:
        """The one element of an integer input."""
        array = self.content(index)
        if array is None or array.size != 1 or self.input_dtype(index) not in INTS:
            return None
        number: Number = array.reshape(-1)[0]
        return number

    def whole(self, index: int) -> Number:
        """The one element of an integer input, or of a float input that holds a whole number."""
        array = self.content(index)
        item = array.reshape(-1)[0] if array is not None and array.size == 1 else None
        if isinstance(item, Ratio):
            return item.top if item.bottom == 1 and not item.rounded else None
        return self.scalar(index)

    def has(self, name: str, index: int) -> bool:
        """Whether a parameter is given, as an attribute or as an input."""
        return (bool(name) and name in self.node.attributes) or self.input(index) is not None

    def ints(self, name: str, index: int) -> tuple[int, ...] | None:
        """A list of ints given as attribute or input: empty where it is absent, None where it is not known."""
        if name and name in self.node.attributes:
            value = self.attr(name)
            return tuple(value) if isinstance(value, tuple) else (value,)
        if self.input(index) is None:
            return ()
        array = self.int_array(index)
        return None if array is None else tuple(array.reshape(-1).tolist())

    def whole_scales(self, index: int) -> tuple[int, ...] | None:
        """A rank-1 float input, where every element is a whole number above 0."""
        array = self.content(index)
        if array is None or array.ndim != 1:
            return None
        scales = [item.top for item in array if isinstance(item, Ratio) and item.bottom == 1]
        whole = [scale for scale in scales if isinstance(scale, int) and scale > 0]
        return tuple(whole) if len(whole) == array.size else None

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return ir.attribute(self.node, name, default)

    def dtype(self) -> ir.DataType | None:
        """The type of the first output."""
        return self.node.outputs[0].dtype

    def input_dtype(self, index: int) -> ir.DataType | None:
        value = self.input(index)
        return None if value is None else value.dtype

    def same_unless_zero(self, number: Number, dim: Number) -> bool:
        """Whether a dimension is surely `number` wherever that is not 0."""
        return self._facts.same_unless_zero(number, dim)

    def unless_zero(self, axis: int, number: Number) -> None:
        """Say that an unknown dimension of the first output is `number` wherever that is not 0."""
        self.zeroes.append((axis, number))


def _ints(dims: Dims | None) -> tuple[int, ...] | None:
    if dims is None:
        return None
    known = tuple(dim for dim in dims if isinstance(dim, int))
    return known if len(known) == len(dims) else None


class _Walk:
    def __init__(self, facts: Facts, opset: int, in_function: bool) -> None:
        self.facts, self.in_function = facts, in_function
        self.view = View(facts, opset)

    def graph(self, graph: ir.Graph) -> None:
        """Visit the nodes of a graph and of the graphs in them, in order."""
        for value in graph.inputs:
            self.facts.shapes.setdefault(value, None)
            self.facts.contents[value] = None
        for node in ir.nodes(graph):
            if node.attributes.data:
                for inner in ir.subgraphs(node):
                    self.graph(inner)
            self.visit(node)

    def visit(self, node: ir.Node) -> None:
        """Find the shapes and contents of a node's outputs."""
        if node.op_type == "Constant" and node.domain == "":
            return
        view, facts = self.view, self.facts
        view.node = node
        key = (node.domain, node.op_type)
        by_attribute = self.in_function and any(attr.is_ref() for attr in node.attributes.values())
        rule = None if by_attribute else _SHAPES.get(key)
        try:
            shapes: Sequence[Dims | None] = () if rule is None else rule(view)
        except (IndexError, ValueError):  # ranks that contradict the operator: nothing can be told
            shapes = ()
        for index, value in enumerate(node.outputs):
            found = shapes[index] if index < len(shapes) else None
            facts.shapes[value] = facts.invent(found, ir.dims(value))
        self._keep_zeroes(node)
        self._contents(node, None if by_attribute else _CONTENTS.get(key))

    def _keep_zeroes(self, node: ir.Node) -> None:
        shape = self.facts.shapes[node.outputs[0]] if self.view.zeroes else None
        for axis, number in self.view.zeroes:
            atom = e.single(shape[axis]) if shape is not None else None
            if atom is not None and atom.invented:
                self.facts.unless_zero[atom] = number
        self.view.zeroes.clear()

    def _contents(self, node: ir.Node, rule: Any) -> None:
        """Find the elements of the outputs, where they are few and of a type that does shape arithmetic."""
        facts = self.facts
        facts.contents.update(dict.fromkeys(node.outputs))
        if rule is None or not any(_small(value, facts.shapes[value]) for value in node.outputs):
            return
        try:
            found = rule(self.view)
        except (IndexError, ValueError):  # indices outside the data, or ranks that contradict the operator
            return
        for value, array in zip(node.outputs, found, strict=False):
            if array is not None and array.size <= MAX_ELEMENTS and value.dtype in KINDS:
                facts.contents[value] = _in_range(array, _LIMITS.get(value.dtype))
                facts.shapes[value] = tuple(array.shape)


def _small(value: ir.Value, shape: Shape | None) -> bool:
    if value.dtype not in KINDS or shape is None:
        return False
    size = 1
    for dim in shape:
        if not isinstance(dim, int):
            return False
        size *= dim
    return size <= MAX_ELEMENTS


def _in_range(array: Array, limit: int | None) -> Array:
    """The contents with what an integer type cannot hold made unknown."""
    if limit is None:
        return array
    outside = [isinstance(item, int) and not -limit <= item < limit for item in array.flat]
    if any(outside):
        array = array.copy()
        array[np.reshape(outside, array.shape)] = None
    return array
