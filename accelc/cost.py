"""The work in a model: arithmetic operations of every node, from its shapes.

A multiplication with its addition counts two. Convolutions, matrix products, attention and recurrent cells are counted
by their products (biases left out), pools and reductions by what they read, and everything else that computes by the
elements it makes. Operators that only move or rename data count nothing. The bodies of Loop and Scan count once, of an
If the dearer branch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner

from accelc import ir
from accelc.concrete import Shapes
from accelc.data.dims import TYPICAL, Dimensions, evaluate, innermost
from accelc.data.specs import Hints, infer_hints, signature
from accelc.errors import AccelcError

Dims = tuple[int, ...]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FREE = _names(
    "Constant ConstantOfShape Identity Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather GatherElements "
    "GatherND Scatter ScatterElements ScatterND Concat Split Expand Tile Pad Shape Size Cast CastLike "
    "DepthToSpace SpaceToDepth EyeLike Dropout SequenceAt SequenceConstruct SequenceEmpty SequenceErase "
    "SequenceInsert SequenceLength SplitToSequence ConcatFromSequence Optional OptionalGetElement "
    "OptionalHasElement ReverseSequence Range OneHot NonZero Compress Unique RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike If Loop Scan SequenceMap ReorderInput ReorderOutput MemcpyFromHost "
    "MemcpyToHost"
)
_REDUCING = ("Reduce", "Global", "QLinearReduce", "QLinearGlobal", "ArgM", "TopK", "Hardmax", "CumSum")
_WEIGHT_OF_CONV = {"QLinearConv": 3}
_CONVS = _names("Conv FusedConv NhwcFusedConv NhwcConv ConvInteger QLinearConv DeformConv")
_PRODUCTS = _names(
    "MatMul FusedMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul TransposeMatMul"
)
_GEMMS = _names("Gemm FusedGemm QGemm")
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
_RECURRENT = _names("LSTM GRU RNN DynamicQuantizeLSTM")
_ATTENTION = _names("Attention QAttention MultiHeadAttention GroupQueryAttention")


@dataclass(frozen=True)
class Cost:
    """flops: operations of one run. by_operator: the same by operator, most first. assumed: the sizes given to dynamic
    dimensions. uncounted: operators that compute but whose shapes stay unknown, with their number.
    """

    flops: int
    by_operator: Mapping[str, int]
    assumed: Mapping[str, int]
    uncounted: Mapping[str, int]


def estimate(
    proto: onnx.ModelProto,
    base_dir: Path,
    sizes: Mapping[str, int] | None = None,
    tell: Callable[[ir.Node, int], None] | None = None,
) -> Cost:
    """Count the work of one run. proto: an imported model; it is changed. sizes: of symbolic dimensions, by name;
    others get the size that is usual for their role (batch 1, sequence 128, image 224). tell: is told the
    work of each node, of both branches of an If.
    """
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    assumed = _fix_inputs(proto, sizes or {})
    model = ir.from_proto(proto, base_dir)
    counter = _Counter(Shapes(model), assumed, model.graph, tell)
    total = counter.graph(model.graph)
    return Cost(total, dict(counter.flops.most_common()), assumed, dict(counter.uncounted.most_common()))


def node_flops(node: ir.Node) -> int | None:
    """Operations of one execution of a node whose values have shapes; 0 where it only moves data.

    None where shapes are missing, for control flow, and for operators of domains that are not known here.
    """
    if node.domain not in _DOMAINS or any(ir.subgraphs(node)):
        return None
    if node.op_type in _FREE:
        return 0
    try:
        return _Work({}).of(node)
    except (_Unknown, IndexError):
        return None


def is_product(op_type: str) -> bool:
    """Whether an operator's work is in products of matrices or kernels."""
    known = _CONVS | _PRODUCTS | _GEMMS | _RECURRENT | _ATTENTION
    return op_type in known or op_type in ("ConvTranspose", "MatMulNBits", "Einsum")


def _fix_inputs(proto: onnx.ModelProto, wanted: Mapping[str, int]) -> dict[str, int]:
    """Give every dynamic dimension of the inputs a size, in place. Returns the sizes by symbol or by `input[axis]`."""
    specs = signature(proto)
    found = infer_hints(proto, wanted)
    dimensions = Dimensions(specs, Hints({**found.symbols, **wanted}, found.axes, found.bounds))
    shapes = dimensions.shapes(TYPICAL)
    assumed = dict(dimensions.symbol_sizes(TYPICAL))
    infos = {info.name: info for info in proto.graph.input}
    for spec in specs:
        inner = innermost(spec)
        if inner is None or spec.kind != "tensor" or spec.shape is None:
            continue
        for axis, (dim, size) in enumerate(zip(spec.shape, shapes[spec.name], strict=True)):
            if not isinstance(dim, int):
                infos[spec.name].type.tensor_type.shape.dim[axis].dim_value = size
            if dim is None:
                assumed[f"{spec.name}[{axis}]"] = size
    return assumed


class _Work:
    """The work of single nodes. sizes: of symbolic dimensions."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = sizes

    def _shape(self, value: ir.Value | None) -> Dims:
        found = ir.dims(value)
        if found is None:
            raise _Unknown
        return tuple(self._size(dim) for dim in found)

    def _size(self, dim: ir.Dim) -> int:
        size = dim if isinstance(dim, int) else None
        if isinstance(dim, str):
            size = self.sizes.get(dim)
            if size is None:
                size = evaluate(dim, self._term)
        if size is None or size < 0:  # onnx computes negative sizes where an input is smaller than a kernel
            raise _Unknown
        return size

    def _term(self, name: str) -> int:
        if name not in self.sizes:
            raise _Unknown
        return self.sizes[name]

    def of(self, node: ir.Node) -> int:
        """Operations of one execution. Raises _Unknown or IndexError where shapes or inputs are missing."""
        kind = node.op_type
        counted: Callable[[ir.Node], int] = self._elementwise
        if kind in _CONVS:
            counted = self._conv
        elif kind == "ConvTranspose":
            counted = self._conv_transpose
        elif kind in _PRODUCTS:
            counted = self._product
        elif kind in _GEMMS:
            counted = self._gemm
        elif kind == "MatMulNBits":
            return 2 * math.prod(self._shape(node.inputs[0])) * int(ir.attribute(node, "N", 0))
        elif kind == "Einsum":
            counted = self._einsum
        elif kind in _RECURRENT:
            counted = self._recurrent
        elif kind in _ATTENTION:
            counted = self._attention
        elif kind in ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"):
            kernel: tuple[int, ...] = ir.attribute(node, "kernel_shape", ())
            return self._elementwise(node) * math.prod(kernel)
        elif kind.startswith(_REDUCING):
            return math.prod(self._shape(node.inputs[0]))
        return counted(node)

    def _elementwise(self, node: ir.Node) -> int:
        return math.prod(self._shape(node.outputs[0]))

    def _conv(self, node: ir.Node) -> int:
        """weight: [out, in / groups, kernel...], or with the channels last."""
        weight = self._shape(node.inputs[_WEIGHT_OF_CONV.get(node.op_type, 1)])
        return 2 * math.prod(self._shape(node.outputs[0])) * math.prod(weight[1:])

    def _conv_transpose(self, node: ir.Node) -> int:
        """weight: [in, out / groups, kernel...]"""
        return 2 * math.prod(self._shape(node.inputs[0])) * math.prod(self._shape(node.inputs[1])[1:])

    def _product(self, node: ir.Node) -> int:
        left = self._shape(node.inputs[0])
        inner = left[-2] if ir.attribute(node, "transA", 0) else left[-1]
        try:
            made = math.prod(self._shape(node.outputs[0]))
        except _Unknown:
            right = self._shape(node.inputs[3 if node.op_type == "QLinearMatMul" else 1])
            columns = right[-2] if ir.attribute(node, "transB", 0) else right[-1]
            made = max(math.prod(left) // max(inner, 1), math.prod(right[:-2])) * columns
        return 2 * made * inner

    def _gemm(self, node: ir.Node) -> int:
        left = self._shape(node.inputs[0])
        right = self._shape(node.inputs[3 if node.op_type == "QGemm" else 1])
        columns = right[0] if ir.attribute(node, "transB", 0) else right[1]
        return 2 * math.prod(left) * columns

    def _einsum(self, node: ir.Node) -> int:
        """Every combination of labels is one multiplication and one addition. `...` is not counted."""
        terms = str(ir.attribute(node, "equation", "")).replace(" ", "").partition("->")[0].split(",")
        sizes: dict[str, int] = {}
        for term, value in zip(terms, node.inputs, strict=False):
            shape = self._shape(value)
            if "." in term or len(term) != len(shape):
                raise _Unknown
            sizes.update(zip(term, shape, strict=True))
        return 2 * math.prod(sizes.values())

    def _recurrent(self, node: ir.Node) -> int:
        """x: [steps, batch, in] or [batch, steps, in]; both weights are read once for each step and item."""
        weights = sum(math.prod(self._shape(node.inputs[index])) for index in (1, 2))
        return 2 * math.prod(self._shape(node.inputs[0])[:2]) * weights

    def _attention(self, node: ir.Node) -> int:
        """Projections, where the operator holds them, and two products of queries with keys and values."""
        query = self._shape(node.inputs[0])
        if node.domain and node.op_type in ("Attention", "QAttention"):
            width = self._shape(node.inputs[1])[1]
            steps = math.prod(query[:-1])
            return 2 * steps * query[-1] * width + 4 * steps * query[1] * (width // 3)
        if len(query) > 4:
            raise _Unknown
        key = node.inputs[1] if len(node.inputs) > 1 else None
        other = self._shape(key) if key is not None else query
        keys = (other[2] if len(other) == 4 else other[1]) + self._past(node)
        if len(query) == 4:
            return 4 * math.prod(query) * keys
        return 4 * math.prod(query[:3]) * keys

    def _past(self, node: ir.Node) -> int:
        """Keys from earlier runs: [batch, heads, past, size]."""
        place = {"Attention": 4, "MultiHeadAttention": 6, "GroupQueryAttention": 3}[node.op_type]
        value = node.inputs[place] if len(node.inputs) > place else None
        if value is None:
            return 0
        shape = self._shape(value)
        return shape[2] if len(shape) == 4 else 0


class _Counter(_Work):
    """Walks graphs in order, completes the shapes that onnx leaves open, and adds up the work."""

    def __init__(
        self,
        shapes: Shapes,
        sizes: Mapping[str, int],
        main: ir.Graph,
        tell: Callable[[ir.Node, int], None] | None,
    ) -> None:
        super().__init__(sizes)
        self.shapes, self.main, self.tell = shapes, main, tell
        self.flops: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()

    def graph(self, graph: ir.Graph) -> int:
        """Operations of one run of a graph."""
        scope = ir.Scope(graph, self.main, self.main)
        return sum(self._node(node, scope) for node in list(graph))

    def _node(self, node: ir.Node, scope: ir.Scope) -> int:
        bodies = list(ir.subgraphs(node))
        if node.op_type == "If" and not node.domain:
            return self._branch(node, bodies)
        if bodies:
            return self._loop(node, bodies)
        self.shapes.complete(node, scope)
        if node.op_type in _FREE:
            return 0
        name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        try:
            work = self.of(node)
        except (_Unknown, IndexError):
            self.uncounted[name] += 1
            return 0
        self.flops[name] += work
        if self.tell is not None:
            self.tell(node, work)
        return work

    def _branch(self, node: ir.Node, bodies: list[ir.Graph]) -> int:
        """The branch taken where that is known, else the dearer one."""
        condition = ir.const(node.inputs[0])
        names = [attr.name for attr in node.attributes.values() if attr.type == ir.AttributeType.GRAPH]
        if condition is not None and condition.size == 1 and len(bodies) == 2:
            wanted = "then_branch" if bool(condition.reshape(())) else "else_branch"
            bodies = [body for name, body in zip(names, bodies, strict=True) if name == wanted]
        parts = [_Counter(self.shapes, self.sizes, self.main, self.tell) for _ in bodies]
        totals = [part.graph(body) for part, body in zip(parts, bodies, strict=True)]
        best = totals.index(max(totals))
        self.flops.update(parts[best].flops)
        self.uncounted.update(parts[best].uncounted)
        _hand_over(bodies[best].outputs, node.outputs)
        return totals[best]

    def _loop(self, node: ir.Node, bodies: list[ir.Graph]) -> int:
        """One round. What is carried starts with the shapes it is given."""
        total = 0
        carried = len(node.inputs) - 2 if node.op_type == "Loop" else 0
        for body in bodies:
            if node.op_type == "Loop":
                _hand_over(node.inputs[2:], body.inputs[2:])
            total += self.graph(body)
            if node.op_type == "Loop":
                _hand_over(body.outputs[1 : 1 + carried], node.outputs[:carried])
        return total


def _hand_over(given: Sequence[ir.Value | None], taken: Sequence[ir.Value]) -> None:
    for source, value in zip(given, taken, strict=False):
        if source is not None and source.shape is not None:
            value.type, value.shape = source.type, source.shape


class _Unknown(AccelcError):
    """A shape that nothing decides."""

    def __init__(self) -> None:
        super().__init__("unknown shape")
