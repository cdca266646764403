"""What a piece of a graph costs, before anything is measured: operations, bytes and launches as seconds.

Only the ratio of two costs means something. Sizes that are not numbers count as what is usual for their role (batch 1,
sequence 128, image 224): `annotate` works them out for a whole model, `sizes` tells those of one value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import onnx

from accelc import dimexpr, ir, symbolic
from accelc.data.dims import TYPICAL, Dimensions, evaluate
from accelc.data.specs import Hints, InputSpec

if TYPE_CHECKING:
    from accelc.context import Context
    from accelc.dimexpr import Number

Sizes = tuple[int, ...]

_SHAPE, _SIZES, _NUMBERS = "accelc.estimate.shape", "accelc.estimate.sizes", "accelc.estimate.numbers"
_FLOPS, _BYTES, _LAUNCH = 80e9, 12e9, 4e-6
"""Operations and bytes per second, and seconds per node: round figures of a processor with a few cores."""
_FLOATS = frozenset([ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
_VIEWS = frozenset(["Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant"])
_COSTLY = {"Gelu": 12, "BiasGelu": 12, "FastGelu": 10, "Erf": 10, "Tanh": 10, "Exp": 8, "Sigmoid": 8, "Softmax": 12}
_COSTLY |= {"LayerNormalization": 8, "Pow": 20, "Log": 10, "Sqrt": 4, "Div": 4, "Resize": 12}
"""Operations for each element that these operators make."""


@dataclass(frozen=True)
class Work:
    """flops: arithmetic operations. bytes: read and written. launches: how many operators."""

    flops: float = 0.0
    bytes: float = 0.0
    launches: int = 1

    @property
    def seconds(self) -> float:
        """The time it stands for: what is slower of computing and moving, and the start of each operator."""
        return max(self.flops / _FLOPS, self.bytes / _BYTES) + self.launches * _LAUNCH


def seconds(works: Iterable[Work]) -> float:
    """The time of operators that run one after the other."""
    return sum(work.seconds for work in works)


def elementwise(made: Sequence[int], *read: Sequence[int], kind: str = "", width: int = 4) -> Work:
    """An operator that makes a tensor of this shape from others. width: bytes of an element."""
    return Work(_COSTLY.get(kind, 1) * prod(made), width * (prod(made) + sum(map(prod, read))))


def product(rows: int, inner: int, columns: int, width: int = 4) -> Work:
    """A matrix product, or a convolution with `rows` places and `inner` inputs for each of `columns` outputs."""
    return Work(2.0 * rows * inner * columns, width * (rows * inner + inner * columns + rows * columns))


def node_work(node: ir.Node) -> Work | None:
    """The work of a node at typical sizes; None where a size is unknown."""
    made = sizes(node.outputs[0])
    read = [sizes(value) for value in node.inputs if value is not None]
    if made is None or any(each is None for each in read):
        return None
    known = [each for each in read if each is not None]
    moved = 4.0 * (prod(made) + sum(map(prod, known)))
    if node.op_type in _VIEWS:
        return Work(0, 0)
    if node.op_type == "MatMul" and known[0]:
        return Work(2.0 * prod(made) * known[0][-1], moved)
    if node.op_type == "Gemm":
        return Work(2.0 * prod(made) * known[0][0 if ir.attribute(node, "transA", 0) else 1], moved)
    if node.op_type == "Conv":
        return Work(2.0 * prod(made) * prod(known[1][1:]), moved)
    return Work(_COSTLY.get(node.op_type, 1) * prod(made), moved)


# --- sizes -----------------------------------------------------------------------------------------------------------


def annotate(model: ir.Model, ctx: Context) -> None:
    """Note the typical sizes of values whose shape is not static, and what is known of their shapes by symbols.

    A note holds as long as its value exists, for no change gives a value another meaning.
    """
    facts = ctx.analysis(symbolic.values, model)
    table = _symbols(model)
    for value in model.graph.inputs:
        _note(value, facts.shape(value), table)
    for node in ir.walk(model):
        for value in node.outputs:
            if value in facts.shapes:
                _note(value, facts.shapes[value], table)
            elif ir.dims(value) is not None:
                _note(value, None, table)
            content = facts.contents.get(value)
            if content is not None and content.ndim == 1 and value.dtype == ir.DataType.INT64:
                value.meta[_NUMBERS] = tuple(content.tolist())


def _symbols(model: ir.Model) -> dict[str, int]:
    """The typical size of every symbol of the model's inputs."""
    specs = [
        InputSpec(str(value.name), "tensor", int(value.dtype or 0), ir.dims(value))
        for value in model.graph.inputs
        if not value.is_initializer()
    ]
    return Dimensions(specs, Hints()).symbol_sizes(TYPICAL)


def _note(value: ir.Value, shape: symbolic.Shape | None, table: Mapping[str, int]) -> None:
    declared = ir.dims(value)
    if declared is None and shape is None:
        return
    if shape is not None:
        value.meta[_SHAPE] = shape
    found: Sequence[Number | ir.Dim] = shape if shape is not None else declared or ()
    dims = declared if declared is not None and len(declared) == len(found) else (None,) * len(found)
    known = [_size(dim, table) for dim in found]
    value.meta[_SIZES] = tuple(
        _size(dim, table) if size is None else size for dim, size in zip(dims, known, strict=True)
    )


def _size(dim: Number | ir.Dim, table: Mapping[str, int]) -> int | None:
    if isinstance(dim, dimexpr.Poly):
        by_symbol = {symbol: table[symbol.name] for symbol in dim.symbols if symbol.name in table}
        return dimexpr.evaluate(dim, by_symbol) if len(by_symbol) == len(dim.symbols) else None
    if isinstance(dim, str):
        return table[dim] if dim in table else evaluate(dim, lambda name: _term(name, table))
    return dim


def _term(name: str, table: Mapping[str, int]) -> int:
    if name not in table:
        raise ValueError(f"no size is usual for {name}")  # which `evaluate` takes for unknown
    return table[name]


def sizes(value: ir.Value | None) -> Sizes | None:
    """The dimensions of a value: numbers, and typical sizes where they are not. None where one is unknown.

    A first dimension of several that nothing is known about is taken for a batch of one.
    """
    if value is None:
        return None
    noted: Sequence[int | None] | None = value.meta.get(_SIZES)
    declared: Sequence[ir.Dim] | None = ir.dims(value)
    if declared is None:
        declared = noted
    if declared is None:
        return None
    if noted is None or len(noted) != len(declared):
        noted = (None,) * len(declared)
    found = [a if isinstance(a, int) else b for a, b in zip(declared, noted, strict=True)]
    if len(found) > 1 and found[0] is None:
        found[0] = 1
    known = tuple(size for size in found if size is not None)
    return known if len(known) == len(found) else None


def take_over(new: ir.Value, old: ir.Value, changed: Mapping[int, int] | None = None) -> ir.Value:
    """Note of a new value what is known of one with the same shape; `changed` gives other sizes by axis. Returns it."""
    for key in (_SHAPE, _SIZES):
        if key in old.meta:
            found = list(old.meta[key])
            for axis, size in (changed or {}).items():
                found[axis] = size
            new.meta[key] = tuple(found)
    return new


def shape(value: ir.Value | None) -> symbolic.Shape | None:
    """The dimensions of a value by symbols, as far as they were noted."""
    declared = ir.dims(value)
    if value is not None and declared is not None and all(isinstance(dim, int) for dim in declared):
        return tuple(dim for dim in declared if isinstance(dim, int))
    found: symbolic.Shape | None = value.meta.get(_SHAPE) if value is not None else None
    return found


def numbers(value: ir.Value | None) -> tuple[Number, ...] | None:
    """The elements of a vector of int64, by symbols."""
    array = ir.const(value)
    if array is not None:
        return tuple(array.reshape(-1).tolist())
    found: tuple[Number, ...] | None = value.meta.get(_NUMBERS) if value is not None else None
    return found


# --- small models ----------------------------------------------------------------------------------------------------


def can_be_small_model(nodes: Sequence[ir.Node]) -> bool:
    """Whether `small_model` can tell what the inputs of these nodes are: constants, and floats of known sizes."""
    made = {value for node in nodes for value in node.outputs}
    given = {value for node in nodes for value in node.inputs if value is not None} - made
    return all(ir.is_constant(each) or (each.dtype in _FLOATS and sizes(each) is not None) for each in given)


def small_model(nodes: Sequence[ir.Node], output: ir.Value, graph: ir.Graph) -> onnx.ModelProto:
    """A model of these nodes alone, at typical sizes. graph: whose opsets it has. nodes: in order.

    Inputs are named by what they are in the graph, so models of equal graphs take the same inputs.
    """
    made = {value for node in nodes for value in node.outputs}
    names: dict[ir.Value, str] = {}
    weights: list[onnx.TensorProto] = []
    inputs: list[onnx.ValueInfoProto] = []

    def name(value: ir.Value | None) -> str:
        if value is None:
            return ""
        if value not in names:
            is_input = value not in made and not ir.is_constant(value)
            names[value] = f"from_{value.name}" if is_input else f"value_{len(names)}"
            if value not in made:
                bring(value, names[value])
        return names[value]

    def bring(value: ir.Value, called: str) -> None:
        array = ir.const(value)
        if array is not None:
            weights.append(onnx.numpy_helper.from_array(array, called))
        else:
            inputs.append(onnx.helper.make_tensor_value_info(called, int(value.dtype or 0), sizes(value)))

    protos = []
    for node in nodes:
        proto = onnx.helper.make_node(
            node.op_type,
            [name(value) for value in node.inputs],
            [name(value) for value in node.outputs],
            domain=node.domain,
        )
        proto.attribute.extend(ir.attr_proto(attr) for attr in node.attributes.values())
        protos.append(proto)
    kind = int(output.dtype) if output.dtype is not None else onnx.TensorProto.FLOAT
    result = onnx.helper.make_tensor_value_info(name(output), kind, None)
    body = onnx.helper.make_graph(protos, "small", inputs, [result], weights)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in graph.opset_imports.items()]
    return onnx.helper.make_model(body, opset_imports=opsets, ir_version=10)
