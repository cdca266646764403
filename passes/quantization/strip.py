"""From integers back to the floats that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from accelc import ir
from accelc.infer import infer_node, refine

from .strip_ranges import DEEPEST, integer_range, never_negative

Array = np.ndarray[Any, Any]
Clamp = Literal["auto", "always", "never"]

_SIX = 6.0
"""Where the activation that mobile networks use ends. Quantizers leave it out, for the range says the same."""
_MOVES_FIRST = (
    "Compress DepthToSpace Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad ReduceMax ReduceMin Relu "
    "Reshape Resize ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Upsample"
).split()
_MOVES: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(_MOVES_FIRST, (0,)),
    "ScatterElements": (0, 2),
    "ScatterND": (0, 2),
    "Where": (1, 2),
}
"""Operators that hand integers on as they are (or the larger of them), with the inputs that hold them."""
_MOVES_ALL = ("Concat", "Max", "Min")
_PAD_VALUE = 2


@dataclass(frozen=True, eq=False)
class Grid:
    """integer -> (integer - zero) * scale. axis: of the channels, or of blocks of a size, where there are several
    scales. zero: None for 0.
    """

    scale: ir.Value
    zero: ir.Value | None = None
    axis: int = 1
    block: int = 0

    def same(self, other: Grid) -> bool:
        """Whether both mean the same floats."""
        if not _equal(self.scale, other.scale) or not _equal_zero(self.zero, other.zero):
            return False
        return self.is_single or (self.axis, self.block) == (other.axis, other.block)

    @property
    def is_single(self) -> bool:
        """Whether there is one scale for the whole tensor."""
        shape = ir.dims(self.scale)
        return shape is not None and all(dim == 1 for dim in shape)

    def numbers(self) -> tuple[Array, Array | None] | None:
        """Scales and zero points where both are constant."""
        scale, zero = ir.const(self.scale), ir.const(self.zero)
        if scale is None or (zero is None and self.zero is not None):
            return None
        return scale, zero


@dataclass(frozen=True, eq=False)
class Source:
    """The float that an integer value was rounded from. clamps: whether its range may cut something off. node: made
    the integer.
    """

    value: ir.Value
    grid: Grid
    node: ir.Node
    clamps: bool = True


class Restorer:
    """Finds or makes the float that an integer value stands for.

    sources: integer values that were rounded from a float, filled by who walks the model.
    """

    def __init__(self, model: ir.Model, clamp: Clamp) -> None:
        self.clamp = clamp
        self.names = ir.names(model)
        self.scopes = {scope.graph: scope for scope in ir.scopes(model)}
        self.sources: dict[ir.Value, Source] = {}
        self._folded: dict[tuple[Any, ...], ir.Value] = {}
        self._moved: dict[tuple[Any, ...], list[ir.Value]] = {}
        self._clamped: dict[Source, ir.Value] = {}

    # --- what is known

    def can(self, value: ir.Value, grid: Grid, depth: int = 0) -> bool:
        """Whether `real` finds a float."""
        if ir.is_constant(value):
            return grid.numbers() is not None
        source = self.sources.get(value)
        if source is not None:
            return source.grid.same(grid) and self._bounds(source) is not None
        node = value.producer()
        if node is None or depth > DEEPEST or not grid.is_single or not self._may_move(node, value, grid, depth):
            return False
        return all(self.can(each, grid, depth + 1) for each in _data(node))

    def real(self, value: ir.Value, grid: Grid) -> ir.Value:
        """The float that an integer value stands for; only where `can` says so."""
        tensor = ir.const_tensor(value)
        if tensor is not None:
            return self._fold(value, tensor, grid)
        source = self.sources.get(value)
        if source is not None:
            return self._clamp(source)
        node = value.producer()
        assert node is not None
        return self._move(node, grid)[value.index() or 0]

    def float_of(self, value: ir.Value, grid: Grid, before: ir.Node) -> ir.Value:
        """The same, with a DequantizeLinear where the integers come from outside."""
        if self.can(value, grid):
            return self.real(value, grid)
        several = None if grid.is_single else grid.axis
        inputs = [value, grid.scale] + ([grid.zero] if grid.zero is not None else [])
        made = self.node(before, "DequantizeLinear", inputs, {"axis": several})
        made.type = ir.TensorType(grid.scale.dtype or ir.DataType.FLOAT)
        refine(made, None, value.shape)
        return made

    # --- constants

    def _fold(self, value: ir.Value, tensor: ir.TensorProtocol, grid: Grid) -> ir.Value:
        several = (grid.axis, grid.block) if not grid.is_single else None
        key = (value, grid.scale, grid.zero, several)
        if key not in self._folded:
            numbers = grid.numbers()
            assert numbers is not None
            array = dequantized(tensor.numpy(), *numbers, axis=grid.axis, block=grid.block)
            self._folded[key] = self.constant(value, f"{value.name}_float", array)
        return self._folded[key]

    def constant(self, beside: ir.Value, hint: str, array: Array) -> ir.Value:
        """A constant in the graph of another one."""
        producer = beside.producer()
        graph = producer.graph if producer is not None else beside.graph
        assert isinstance(graph, ir.Graph)
        return ir.new_constant(self.scopes[graph], self.names, hint, ir.array_tensor(array), producer)

    # --- what hands integers on

    def _may_move(self, node: ir.Node, value: ir.Value, grid: Grid, depth: int) -> bool:
        if node.domain or (node.op_type not in _MOVES and node.op_type not in _MOVES_ALL):
            return False
        if node.op_type == "MaxPool" and value.index():
            return False
        numbers = grid.numbers()
        if node.op_type == "Relu":
            return numbers is not None and _is_zero(numbers[1])
        if node.op_type == "Pad":
            filling = _filling(node)
            return numbers is not None if filling is None else self.can(filling, grid, depth + 1)
        return node.op_type != "Resize" or "crop" not in str(ir.attribute(node, "coordinate_transformation_mode", ""))

    def _move(self, node: ir.Node, grid: Grid) -> list[ir.Value]:
        """A copy of a node on floats, beside it; its outputs."""
        first = _data(node)[0]
        floats = {value: self.real(value, grid) for value in _data(node)}
        key = (node, *floats.values())
        if key in self._moved:
            return self._moved[key]
        inputs = [None if value is None else floats.get(value, value) for value in node.inputs]
        if node.op_type == "Pad":
            inputs = self._padded(node, inputs, grid)
        attrs = dict(node.attributes)
        name = self.names.fresh(f"{node.name or node.op_type}_float")
        copy = ir.new_node(node.op_type, inputs, attrs, outputs=len(node.outputs), name=name)
        kind = floats[first].type
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = self.names.fresh(f"{old.name}_float")
            new.type = kind
            refine(new, None, old.shape)
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, copy)
        self._moved[key] = list(copy.outputs)
        return self._moved[key]

    def _padded(self, node: ir.Node, inputs: list[ir.Value | None], grid: Grid) -> list[ir.Value | None]:
        """The inputs of a Pad with the float that its integer stands for; absent, it is the integer 0."""
        filling = _filling(node)
        if filling is not None:
            return [*inputs[:_PAD_VALUE], self.real(filling, grid), *inputs[_PAD_VALUE + 1 :]]
        numbers = grid.numbers()
        if ir.attribute(node, "mode", "constant") != "constant" or len(inputs) < _PAD_VALUE or numbers is None:
            return inputs
        zero = dequantized(np.zeros((), np.int32), *numbers)
        return [*inputs[:_PAD_VALUE], self.constant(grid.scale, f"{node.name or 'Pad'}_value", zero), *inputs[3:]]

    # --- ranges

    def _bounds(self, source: Source) -> tuple[float | None, float | None] | None:
        """What to cut off below and above; None where that is wanted and not known."""
        if self.clamp == "never" or not source.clamps or ir.is_constant(source.value):
            return None, None
        numbers = source.grid.numbers()
        extent = integer_range(_integer_type(source))
        if numbers is None or extent is None or not source.grid.is_single:
            return None if self.clamp == "always" else (None, None)
        scale, zero = float(numbers[0].reshape(())), 0.0 if numbers[1] is None else float(numbers[1].reshape(()))
        low, high = (extent[0] - zero) * scale, (extent[1] - zero) * scale
        if self.clamp == "always":
            return low, high
        if zero != extent[0] or not np.isfinite(high) or _is_given(source.value) or never_negative(source.value):
            return None, None
        return 0.0, _SIX if abs(high - _SIX) < 1e-4 * _SIX else None

    def _clamp(self, source: Source) -> ir.Value:
        bounds = self._bounds(source)
        assert bounds is not None
        low, high = bounds
        if low is None and high is None:
            return source.value
        if source not in self._clamped:
            self._clamped[source] = self._cut(source, low, high)
        return self._clamped[source]

    def _cut(self, source: Source, low: float | None, high: float | None) -> ir.Value:
        node, value = source.node, source.value
        if low == 0.0 and high is None:
            return self.node(node, "Relu", [value])
        scope = self.scope(node)
        if scope.opset < 11:
            return self.node(node, "Clip", [value], {"min": low, "max": high})
        dtype = (value.dtype or ir.DataType.FLOAT).numpy()
        ends = [
            None
            if end is None
            else ir.new_constant(scope, self.names, hint, ir.array_tensor(np.array(end, dtype)), node)
            for hint, end in ((f"{value.name}_min", low), (f"{value.name}_max", high))
        ]
        return self.node(node, "Clip", [value, *ends])

    # --- nodes

    def scope(self, node: ir.Node) -> ir.Scope:
        assert isinstance(node.graph, ir.Graph)
        return self.scopes[node.graph]

    def node(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        like: ir.Value | None = None,
    ) -> ir.Value:
        """A node before another one; its only output. like: has its shape."""
        return self.nodes(before, op_type, inputs, attrs, domain=domain, likes=[like])[0]

    def nodes(
        self,
        before: ir.Node,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attrs: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        likes: Sequence[ir.Value | None],
    ) -> Sequence[ir.Value]:
        """A node before another one; its outputs, as many as likes. They have the type of the first input."""
        scope, given = self.scope(before), list(inputs)
        while given and given[-1] is None:
            given.pop()
        name = self.names.fresh(f"{before.name or before.op_type}/{op_type}")
        made = ir.new_node(op_type, given, attrs, domain=domain, outputs=len(likes), name=name)
        for like, value in zip(likes, made.outputs, strict=True):
            value.name = self.names.fresh(f"{name}_out")
            refine(value, None, like.shape if like is not None else None)
        infer_node(made, scope.opset)
        first = next((value for value in given if value is not None), None)
        for value in made.outputs:
            refine(value, first.type if first is not None else None, None)
        if domain:
            scope.root.opset_imports.setdefault(domain, 1)
        scope.graph.insert_before(before, made)
        return made.outputs


def dequantized(values: Array, scale: Array, zero: Array | None, *, axis: int = 0, block: int = 0) -> Array:
    """(values - zero) * scale in the type of the scales; several scales lie along an axis, or along it for blocks."""
    kind = scale.dtype
    scale = spread(scale.astype(np.float32), values.shape, axis, block)
    floats = values.astype(np.float64 if values.dtype.itemsize > 2 else np.float32)
    if zero is not None:
        floats = floats - spread(zero.astype(np.float32), values.shape, axis, block)
    return np.asarray(floats.astype(np.float32) * scale).astype(kind)


def spread(numbers: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """One number for the whole tensor, one for each channel, or one for each block along an axis, to broadcast."""
    if numbers.size == 1:
        return numbers.reshape(())
    if block:
        return np.repeat(numbers, block, axis)[tuple(map(slice, shape))]
    axis %= len(shape)
    return numbers.reshape([-1 if i == axis else 1 for i in range(len(shape))])


def _is_given(value: ir.Value) -> bool:
    """Whether a value is an input of the model, perhaps in another order."""
    node = value.producer()
    while node is not None and not node.domain and node.op_type in _MOVES_FIRST and node.inputs[0] is not None:
        value, node = node.inputs[0], node.inputs[0].producer()
    return value.is_graph_input()


def _filling(node: ir.Node) -> ir.Value | None:
    """What a Pad puts around, where it is given as an input."""
    return node.inputs[_PAD_VALUE] if len(node.inputs) > _PAD_VALUE else None


def _integer_type(source: Source) -> ir.DataType | None:
    """The type of the integers: that of the zero point, which is u8 where it is absent."""
    made = source.node.outputs[0].dtype
    zero = source.grid.zero
    return made if made is not None else zero.dtype if zero is not None else ir.DataType.UINT8


def _data(node: ir.Node) -> list[ir.Value]:
    """The inputs that hold what a node hands on."""
    places = range(len(node.inputs)) if node.op_type in _MOVES_ALL else _MOVES[node.op_type]
    found = [value for index in places if index < len(node.inputs) and (value := node.inputs[index]) is not None]
    return list(dict.fromkeys(found))


def _equal(a: ir.Value, b: ir.Value) -> bool:
    if a is b:
        return True
    one, two = ir.const(a), ir.const(b)
    return one is not None and two is not None and one.size == two.size and bool((one.ravel() == two.ravel()).all())


def _equal_zero(a: ir.Value | None, b: ir.Value | None) -> bool:
    if a is not None and b is not None:
        return _equal(a, b)
    other = a if a is not None else b
    return other is None or _is_zero(ir.const(other), unknown=False)


def _is_zero(array: Array | None, *, unknown: bool = True) -> bool:
    """Whether all are zero; unknown: what to say where there is no array."""
    return unknown if array is None else not array.astype(np.float32).any()
