"""What the nodes of a run must at least compute and move, and the time that takes at the machine's peaks.

Williams, Waterman, Patterson 2009: a kernel is bound by arithmetic or by memory, whichever takes longer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from accelc import ir
from accelc.benchmark.events import Call, Tensor
from accelc.benchmark.profiled import Peaks
from accelc.cost import is_product, node_flops


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BITS = {
    **dict.fromkeys(_names("double int64 uint64 complex64"), 64),
    **dict.fromkeys(_names("float int32 uint32"), 32),
    **dict.fromkeys(_names("float16 bfloat16 int16 uint16"), 16),
    **dict.fromkeys(_names("int8 uint8 bool float8e4m3fn float8e4m3fnuz float8e5m2 float8e5m2fnuz float8e8m0"), 8),
    **dict.fromkeys(_names("int4 uint4 float4e2m1"), 4),
    **dict.fromkeys(_names("int2 uint2"), 2),
    "complex128": 128,
}
_VIEWS = _names("Reshape Squeeze Unsqueeze Flatten Identity Shape Size Dropout Constant")
"""Operators that give a tensor another shape, or read no more than its shape."""
_SELECTING = _names(
    "Gather GatherElements GatherND GatherBlockQuantized Slice Split Compress EmbedLayerNormalization "
    "QEmbedLayerNormalization SequenceAt"
)
"""Operators that read no more of an input than they write."""
_INTEGER = _names(
    "MatMulInteger ConvInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul QLinearConv QGemm QAttention "
    "DynamicQuantizeLSTM"
)


@dataclass(frozen=True)
class Work:
    """Of a node in one run. flops: None where they are unknown. bytes: read and written; weights: those among them."""

    flops: int | None
    bytes: int | None
    weights: int = 0
    integer: bool = False


class Counter:
    """Counts the work of calls. ran: the graph that the runtime made; its shapes come from the calls."""

    def __init__(self, ran: ir.Model) -> None:
        self._nodes = {(str(node.name), node.op_type): node for node in ir.walk(ran)}
        self.weight_bytes = ir.initializer_bytes(ran)
        self._known: dict[tuple[str, str, Call], Work] = {}

    def work(self, name: str, operator: str, calls: Sequence[Call]) -> Work:
        """The work of all calls of a node in one run."""
        node = self._nodes.get((name, operator))
        if node is None or not calls or any(ir.subgraphs(node)):
            return Work(None, None)
        each = [self._call(node, call) for call in calls]
        flops, moved = [one.flops for one in each], [one.bytes for one in each]
        return Work(
            None if None in flops else sum(filter(None, flops)),
            None if None in moved else sum(filter(None, moved)),
            sum(one.weights for one in each),
            each[0].integer,
        )

    def _call(self, node: ir.Node, call: Call) -> Work:
        key = (str(node.name), node.op_type, call)
        if key not in self._known:
            self._known[key] = self._count(node, call)
        return self._known[key]

    def _count(self, node: ir.Node, call: Call) -> Work:
        outputs = _paired([value for value in node.outputs if value.name], call.outputs)
        inputs = _paired([value for value in node.inputs if value is not None], call.inputs)
        if inputs is None or outputs is None:
            return Work(None, None)
        for value, (_, dims) in [*inputs, *outputs]:
            value.shape = ir.Shape(dims)
        written = sum(_bytes(tensor) for _, tensor in outputs)
        flops = node_flops(node)
        if node.op_type in _VIEWS:
            return Work(flops, 0)
        read, weights = 0, 0
        for value, tensor in inputs:
            size = _bytes(tensor)
            if node.op_type in _SELECTING:
                size = min(size, written)
            read += size
            weights += size if ir.is_constant(value) else 0
        return Work(flops, read + written, weights, _is_integer(node))


def limit_ms(work: Work, peaks: Peaks, weight_bytes: int) -> float | None:
    """The least milliseconds that the work can take. weight_bytes: of the whole model.

    Weights come from memory where all of them together do not stay in the caches from one run to the next. None where
    the work or a peak that it needs is unknown.
    """
    if work.flops is None or work.bytes is None:
        return None
    peak = peaks.int8_flops if work.integer else peaks.float_flops
    if peak is None or peaks.bandwidth is None:
        return None
    near = peaks.cache_bandwidth or peaks.bandwidth
    rest = work.bytes - work.weights
    seconds = rest / (near if rest <= peaks.cache_bytes else peaks.bandwidth)
    seconds += work.weights / (near if weight_bytes <= peaks.cache_bytes else peaks.bandwidth)
    return 1000 * max(work.flops / peak, seconds)


def _is_integer(node: ir.Node) -> bool:
    if node.op_type == "MatMulNBits":
        return int(ir.attribute(node, "accuracy_level", 0)) == 4
    return node.op_type in _INTEGER and is_product(node.op_type)


def _bytes(tensor: Tensor) -> int:
    kind, dims = tensor
    return math.prod(dims) * _BITS.get(kind, 0) // 8


def _paired(values: Sequence[ir.Value], listed: Sequence[Tensor]) -> list[tuple[ir.Value, Tensor]] | None:
    """Each value with its tensor; None where they cannot be told apart.

    The runtime lists no weights that it has repacked for a kernel: those are as the graph says.
    """
    rest, missing = list(listed), len(values) - len(listed)
    found: list[tuple[ir.Value, Tensor]] = []
    for value in values:
        weight = ir.const_tensor(value)
        dims = None if weight is None else tuple(int(dim) for dim in weight.shape.numpy())
        if missing and weight is not None and dims is not None and (not rest or rest[0][1] != dims):
            found.append((value, (_KINDS.get(weight.dtype.name, weight.dtype.name.lower()), dims)))
            missing -= 1
        elif rest:
            found.append((value, rest.pop(0)))
        else:
            return None
    return None if missing or rest else found


_KINDS = {"FLOAT": "float", "DOUBLE": "double"}
