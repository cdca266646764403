"""Output shapes of reductions, products, convolutions, recurrences and branches (see symbolic_shapes.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from accelc import dimexpr as e
from accelc import ir
from accelc.dimexpr import Number
from accelc.symbolic_shapes import Dims, Rule, Table, broadcast, registrar

if TYPE_CHECKING:
    from accelc.symbolic import View

KERNELS: Table = {}


def shape_of(ops: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function for some operators."""
    return registrar(KERNELS, ops, domain)


@shape_of(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
def _reduce(v: View) -> Sequence[Dims | None]:
    dims, axes, keep = v.dims(0), v.ints("axes", 1), v.attr("keepdims", 1)
    if dims is None:
        return [None]
    if axes is None:
        return [(None,) * len(dims) if keep else None]
    if not axes and v.attr("noop_with_empty_axes", 0):
        return [dims]
    gone = {axis % len(dims) for axis in axes} if axes else set(range(len(dims)))
    kept = [1 if axis in gone else d for axis, d in enumerate(dims) if keep or axis not in gone]
    return [tuple(kept)]


@shape_of("ArgMax ArgMin")
def _arg(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if not dims:
        return [None]
    axis = v.attr("axis", 0) % len(dims)
    return [(*dims[:axis], *((1,) if v.attr("keepdims", 1) else ()), *dims[axis + 1 :])]


@shape_of("TopK")
def _top_k(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    if not dims:
        return [None, None]
    axis = v.attr("axis", -1) % len(dims)
    k = v.attr("k", None) if v.opset < 10 else v.scalar(1)
    result = (*dims[:axis], k, *dims[axis + 1 :])
    return [result, result]


@shape_of("NonZero")
def _non_zero(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    return [(None if dims is None else max(len(dims), 1), None)]


@shape_of("MatMul MatMulInteger")
def _matmul(v: View) -> Sequence[Dims | None]:
    return [_product_shape(v.dims(0), v.dims(1))]


@shape_of("QLinearMatMul")
def _quantized_matmul(v: View) -> Sequence[Dims | None]:
    return [_product_shape(v.dims(0), v.dims(3))]


def _product_shape(a: Dims | None, b: Dims | None) -> Dims | None:
    if not a or not b:
        return None
    batch = broadcast([a[:-2], b[:-2]])
    assert batch is not None
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


@shape_of("Gemm")
def _gemm(v: View) -> Sequence[Dims | None]:
    a, b = v.dims(0), v.dims(1)
    rows = None if a is None or len(a) != 2 else a[1 if v.attr("transA", 0) else 0]
    columns = None if b is None or len(b) != 2 else b[0 if v.attr("transB", 0) else 1]
    return [(rows, columns)]


@shape_of("Conv ConvInteger QLinearConv")
def _conv(v: View) -> Sequence[Dims | None]:
    dims, weight = v.dims(0), v.dims(3 if v.node.op_type == "QLinearConv" else 1)
    if dims is None or weight is None or len(weight) != len(dims):
        return [None]
    return [(dims[0], weight[0], *_windows(v, dims[2:], weight[2:]))]


@shape_of("AveragePool MaxPool LpPool")
def _pool(v: View) -> Sequence[Dims | None]:
    dims, kernel = v.dims(0), v.attr("kernel_shape", ())
    if dims is None or len(kernel) != len(dims) - 2 or v.attr("ceil_mode", 0):
        return [None if dims is None else (*dims[:2], *(None,) * (len(dims) - 2))] * len(v.node.outputs)
    return [(*dims[:2], *_windows(v, dims[2:], kernel))] * len(v.node.outputs)


def _windows(v: View, sizes: Dims, kernel: Sequence[Number]) -> Dims:
    """How often a kernel fits into each spatial dimension."""
    rank = len(sizes)
    strides, dilations = v.attr("strides", (1,) * rank), v.attr("dilations", (1,) * rank)
    pads, auto = v.attr("pads", (0,) * 2 * rank), str(v.attr("auto_pad", "NOTSET"))
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return tuple(e.ceildiv(size, stride) for size, stride in zip(sizes, strides, strict=True))
    if auto == "VALID":
        pads = (0,) * 2 * rank
    result: list[Number] = []
    for axis, size in enumerate(sizes):
        reach = e.add(e.mul(e.sub(kernel[axis], 1), dilations[axis]), 1)
        room = e.sub(e.add(size, pads[axis] + pads[axis + rank]), reach)
        result.append(e.add(e.floordiv(room, strides[axis]), 1))
    return tuple(result)


@shape_of("ConvTranspose")
def _conv_transpose(v: View) -> Sequence[Dims | None]:
    dims, weight = v.dims(0), v.dims(1)
    if dims is None or weight is None or len(weight) != len(dims):
        return [None]
    return [(dims[0], e.mul(weight[1], v.attr("group", 1)), *(None,) * (len(dims) - 2))]


@shape_of("GlobalAveragePool GlobalMaxPool GlobalLpPool")
def _global_pool(v: View) -> Sequence[Dims | None]:
    dims = v.dims(0)
    return [None if dims is None else (*dims[:2], *(1,) * (len(dims) - 2))]


@shape_of("Attention")
def _attention(v: View) -> Sequence[Dims | None]:
    q, values = v.dims(0), v.dims(2)
    if q is None or values is None or len(q) != len(values):
        return [None]
    if len(q) == 4:
        return [(*q[:3], values[3])]
    many, few = v.attr("q_num_heads"), v.attr("kv_num_heads")
    return [(*q[:2], values[2] if many == few else None)]


@shape_of("MultiHeadAttention", "com.microsoft")
def _multi_head_attention(v: View) -> Sequence[Dims | None]:
    q, values = v.dims(0), v.dims(2) if v.has("", 2) else None
    if q is None or len(q) != 3 or values is None:
        return [None]
    return [(*q[:2], values[2] if len(values) == 3 else e.product((values[1], values[3])))]


@shape_of("LSTM GRU RNN")
def _recurrent(v: View) -> Sequence[Dims | None]:
    dims, hidden = v.dims(0), v.attr("hidden_size", None)
    if dims is None or len(dims) != 3 or v.attr("layout", 0):
        return [None] * len(v.node.outputs)
    directions = 2 if str(v.attr("direction", "forward")) == "bidirectional" else 1
    state = (directions, dims[1], hidden)
    return [(dims[0], directions, dims[1], hidden), state, state][: len(v.node.outputs)]


@shape_of("If")
def _if(v: View) -> Sequence[Dims | None]:
    branches = [graph.outputs for graph in ir.subgraphs(v.node)]
    merged: list[Dims | None] = []
    for values in zip(*branches, strict=True):
        shapes = [v.shape(value) for value in values]
        same_rank = all(dims is not None and len(dims) == len(shapes[0] or ()) for dims in shapes)
        columns = zip(*(dims for dims in shapes if dims is not None), strict=True) if same_rank else ()
        merged.append(tuple(c[0] if all(d == c[0] for d in c) else None for c in columns) if same_rank else None)
    return merged
