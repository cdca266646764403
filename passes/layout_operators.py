"""Which operators work in any order of axes, and how each is written in another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from accelc import ir
from accelc.passes.forms import COMBINING, POINTWISE, REDUCE, sure_dims
from accelc.passes.layout_axes import LAUNCH, Build, Carry, Perm, View, bytes_of, inverse, is_still
from accelc.passes.layout_reshape import reshape

Handler = Callable[[View], Carry | None]

_MAX_WEIGHT = 64 << 20
_CONV_LOSS = 70
"""Multiplications that a convolution with a window of 1 takes longer than a product, for one byte moved."""
_PLAIN_WINDOW = (("strides", 1), ("dilations", 1), ("pads", 0), ("kernel_shape", 1))
_OLD = ("axis", "broadcast", "consumed_inputs")
"""Attributes of old opsets that align axes."""
_BROADCASTING = (*COMBINING, "BitShift", "Max", "Mean", "Min", "Mod", "Pow", "PRelu", "Sum")


def carry(view: View) -> Carry | None:
    """How a node works in the other order of axes; None where it does not."""
    handler = _HANDLERS.get((view.node.domain, view.node.op_type))
    if handler is None or any(attr.is_ref() for attr in view.node.attributes.values()):
        return None
    if not view.from_input and ~view.at >= len(view.node.outputs):
        return None
    return handler(view)


def _pointwise(view: View) -> Carry | None:
    """One input with axes; others have one element."""
    if view.at > 0 or len(view.node.outputs) != 1:
        return None
    if any(sure_dims(value) not in ((), (1,)) for value in view.node.inputs[1:] if value is not None):
        return None
    return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs))


def _broadcasting(view: View) -> Carry | None:
    if len(view.node.outputs) != 1 or any(name in view.node.attributes for name in _OLD):
        return None
    rank = len(view.perm)
    shapes = [sure_dims(value) for value in view.node.inputs]
    if any(shape is None or len(shape) > rank for shape in shapes):
        return None
    if max(len(shape or ()) for shape in shapes) != rank or (view.from_input and len(shapes[view.at] or ()) != rank):
        return None
    moving = {index: view.perm for index, shape in enumerate(shapes) if any(dim != 1 for dim in shape or ())}
    if view.from_input:
        moving[view.at] = view.perm
    return Carry(moving, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs))


def _axis_of(view: View, default: int | None = None) -> int | None:
    """The axis of a node, counted from the front."""
    rank = len(view.perm)
    axis = view.attr("axis", default)
    return int(axis) % rank if axis is not None and -rank <= axis < rank else None


def _concat(view: View) -> Carry | None:
    axis = _axis_of(view)
    if axis is None or any(value is None for value in view.node.inputs):
        return None
    moving = dict.fromkeys(range(len(view.node.inputs)), view.perm)
    moved = view.perm.index(axis)
    return Carry(moving, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs, axis=moved))


def _split(view: View) -> Carry | None:
    axis = _axis_of(view, 0)
    if axis is None or view.at > 0:
        return None
    moved = view.perm.index(axis)
    outputs = dict.fromkeys(range(len(view.node.outputs)), view.perm)
    return Carry({0: view.perm}, outputs, lambda b, inputs: b.copy(view.node, inputs, axis=moved))


def _slice(view: View) -> Carry | None:
    if view.at > 0:
        return None
    axes = view.axes("axes", 3)
    if axes is None:
        if view.attr("axes") is not None or view.input(3) is not None:
            return None
        starts = view.ints("starts", 1)
        if starts is None or len(starts) > len(view.perm):
            return None
        axes = list(range(len(starts)))
    moved = [view.perm.index(axis) for axis in axes]

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        if "starts" in view.node.attributes:
            return b.copy(view.node, inputs, axes=moved)
        inputs += [None] * (4 - len(inputs))
        kind = inputs[1].dtype if inputs[1] is not None else None
        inputs[3] = b.constant(np.array(moved, np.int32 if kind == ir.DataType.INT32 else np.int64))
        return b.copy(view.node, inputs)

    return Carry({0: view.perm}, {0: view.perm}, make)


def _pad(view: View) -> Carry | None:
    if view.at > 0:
        return None
    rank, axes = len(view.perm), view.axes("axes", 3)
    if view.input(3) is not None:
        if axes is None:
            return None
        moved = [view.perm.index(axis) for axis in axes]
        return Carry(
            {0: view.perm},
            {0: view.perm},
            lambda b, inputs: b.copy(view.node, [*inputs[:3], b.ints(moved)]),
        )
    pads = view.ints("pads", 1)
    if pads is None or len(pads) != 2 * rank:
        return None
    both = [pads[side * rank + axis] for side in (0, 1) for axis in view.perm]

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        if "pads" in view.node.attributes:
            return b.copy(view.node, inputs, pads=both)
        inputs[1] = b.ints(both)
        return b.copy(view.node, inputs)

    return Carry({0: view.perm}, {0: view.perm}, make)


def _kept(perm: Perm, axes: Sequence[int]) -> Perm:
    """What is left of a permutation when these axes are taken away."""
    order = [axis for axis in perm if axis not in axes]
    return tuple(sorted(order).index(axis) for axis in order)


def _reduce(view: View) -> Carry | None:
    """Reductions over given axes. Which axes the result had cannot be told from a result without them."""
    keepdims = view.attr("keepdims", 1)
    axes = view.axes("axes", 1)
    if not axes or keepdims not in (0, 1) or view.at > 0 or not (keepdims or view.from_input):
        return None
    moved = sorted(view.perm.index(axis) for axis in axes)
    rest = view.perm if keepdims else _kept(view.perm, axes)

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        if "axes" in view.node.attributes:
            return b.copy(view.node, inputs, axes=moved)
        return b.copy(view.node, [inputs[0], b.ints(moved)])

    return Carry({0: view.perm}, {0: rest}, make)


def _arg(view: View) -> Carry | None:
    keepdims, axis = view.attr("keepdims", 1), _axis_of(view, 0)
    if axis is None or keepdims not in (0, 1) or not (keepdims or view.from_input):
        return None
    moved = view.perm.index(axis)
    rest = view.perm if keepdims else _kept(view.perm, [axis])
    return Carry({0: view.perm}, {0: rest}, lambda b, inputs: b.copy(view.node, inputs, axis=moved))


def _global_pool(view: View) -> Carry | None:
    """Pooling over all places is a reduction, which works in any order of axes."""
    mean = view.node.op_type == "GlobalAveragePool"
    if view.node.inputs[0] is None or view.node.inputs[0].dtype != ir.DataType.FLOAT or len(view.perm) < 3:
        return None
    moved = sorted(view.perm.index(axis) for axis in range(2, len(view.perm)))

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        name = "ReduceMean" if mean else "ReduceMax"
        if b.opset >= 18:
            return b.node(name, [inputs[0], b.ints(moved)], keepdims=1)
        return b.node(name, inputs, axes=moved, keepdims=1)

    return Carry({0: view.perm}, {0: view.perm}, make)


def _softmax(view: View) -> Carry | None:
    last = len(view.perm) - 1
    axis = _axis_of(view, -1 if view.opset >= 13 else 1)
    if axis is None:
        return None
    moved = view.perm.index(axis)
    if view.opset < 13 and not (axis == last == moved):
        return None  # it flattens all axes behind
    cost = (
        2 * bytes_of(view.node.outputs[0], view.facts) * ((moved != last) - (axis != last))
    )  # its kernel transposes twice
    return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs, axis=moved), cost)


def _last_axis(view: View) -> Carry | None:
    """Operators on the last axis that take all others as rows."""
    rank = len(view.perm)
    if view.at > 0 or view.perm[-1] != rank - 1 or _axis_of(view, -1) != rank - 1:
        return None
    if any(len(ir.dims(each) or (0, 0)) > 1 for each in view.node.inputs[1:] if each is not None):
        return None  # a scale that may differ between rows
    if ~view.at > 0 or any(ir.use_count(each) or each.is_graph_output() for each in view.node.outputs[1:]):
        return None
    return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs))


def _matmul(view: View) -> Carry | None:
    """A product with a matrix goes row by row."""
    rank = len(view.perm)
    left, right = view.dims(0), view.dims(1)
    if view.at > 0 or left is None or right is None or len(left) != rank or len(right) != 2 or rank < 3:
        return None
    if view.perm[-1] != rank - 1:
        return _as_conv(view)
    return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs))


def _flops(view: View, depth: int) -> int:
    return 2 * depth * bytes_of(view.node.outputs[0], view.facts) // 4


def _own_weight(view: View) -> ir.TensorProtocol | None:
    """A float weight that nothing else uses, and which is not so large that moving its elements takes long."""
    value = view.input(1)
    tensor = ir.const_tensor(value)
    if value is None or tensor is None or ir.use_count(value) != 1 or value.is_graph_output():
        return None
    return tensor if tensor.dtype == ir.DataType.FLOAT and tensor.nbytes <= _MAX_WEIGHT else None


def _as_conv(view: View) -> Carry | None:
    """A product with a matrix is a convolution with a window of 1 where the channels come second."""
    rank, weight = len(view.perm), _own_weight(view)
    if weight is None or rank not in (3, 4) or view.perm != (0, rank - 1, *range(1, rank - 1)):
        return None
    depth = int(weight.shape.numpy()[0])

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        matrix = weight.numpy().T
        kernel = b.constant(matrix.reshape(*matrix.shape, *(1,) * (rank - 2)), weight.dtype)
        return b.node("Conv", [inputs[0], kernel])

    return Carry({0: view.perm}, {0: view.perm}, make, _flops(view, depth) // _CONV_LOSS)


def _conv(view: View) -> Carry | None:
    """A convolution with a window of 1 is a product with a matrix where the channels come last."""
    rank, weight = len(view.perm), _own_weight(view)
    if weight is None or rank not in (3, 4) or view.perm != (0, *range(2, rank), 1) or view.at > 0:
        return None
    plain = all(set(view.attr(name, ())) <= {neutral} for name, neutral in _PLAIN_WINDOW)
    shape = weight.shape.numpy()
    same = view.attr("group", 1) == 1 and view.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID") and len(shape) == rank
    if not plain or not same or any(size != 1 for size in shape[2:]):
        return None
    bias = view.input(2)

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        matrix = b.constant(weight.numpy().reshape(shape[0], shape[1]).T, weight.dtype)
        product = b.node("MatMul", [inputs[0], matrix])
        return product if bias is None else b.node("Add", [*product, bias])

    return Carry(
        {0: view.perm},
        {0: view.perm},
        make,
        0 if bias is None else LAUNCH + 2 * bytes_of(view.node.outputs[0], view.facts),
    )


def _quantize(view: View) -> Carry | None:
    if view.at > 0 or view.attr("block_size", 0):
        return None
    if sure_dims(view.input(1)) in ((), (1,)):
        return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs))
    axis = _axis_of(view, 1)
    if axis is None or len(view.dims(1) or ()) != 1:
        return None
    moved = view.perm.index(axis)
    return Carry({0: view.perm}, {0: view.perm}, lambda b, inputs: b.copy(view.node, inputs, axis=moved))


def _gather(view: View) -> Carry | None:
    """One index along an axis, or a vector of indices; or rows of a table at any indices."""
    indices, data = view.dims(1), view.dims(0)
    axis = view.attr("axis", 0)
    if indices is None or data is None or not -len(data) <= axis < len(data):
        return None
    axis %= len(data)
    if axis == 0 and len(data) == 2 and len(indices) > 1 and view.at != 0:
        perm = (*view.perm, len(indices)) if view.from_input else view.perm
        if perm[-1] != len(indices) or len(perm) != len(indices) + 1:
            return None
        return Carry({1: perm[:-1]}, {0: perm}, lambda b, inputs: b.copy(view.node, inputs))
    if view.at > 0 or len(indices) > 1 or not (view.from_input or indices) or len(view.perm) != len(data):
        return None
    moved = view.perm.index(axis)
    rest = view.perm if indices else _kept(view.perm, [axis])
    return Carry({0: view.perm}, {0: rest}, lambda b, inputs: b.copy(view.node, inputs, axis=moved))


def _with_new(perm: Perm, axes: Sequence[int]) -> Perm:
    """A permutation of the old axes, with new ones that stay at their places."""
    old = [axis for axis in range(len(perm) + len(axes)) if axis not in axes]
    order = iter(old[each] for each in perm)
    return tuple(axis if axis in axes else next(order) for axis in range(len(perm) + len(axes)))


def _places(view: View, rank: int) -> list[int] | None:
    axes = view.ints("axes", 1)
    if not axes or not all(-rank <= axis < rank for axis in axes):
        return None
    return sorted(axis % rank for axis in axes)


def _write_axes(view: View, moved: Sequence[int]) -> Callable[[Build, list[ir.Value | None]], list[ir.Value]]:
    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        if "axes" in view.node.attributes:
            return b.copy(view.node, inputs, axes=list(moved))
        return b.copy(view.node, [inputs[0], b.ints(moved)])

    return make


def _unsqueeze(view: View) -> Carry | None:
    given = view.ints("axes", 1)
    if view.at > 0 or not given:
        return None
    rank = len(view.perm) + (len(given) if view.from_input else 0)
    axes = _places(view, rank)
    if axes is None:
        return None
    after = _with_new(view.perm, axes) if view.from_input else view.perm
    before = view.perm if view.from_input else _kept(view.perm, axes)
    moved = sorted(after.index(axis) for axis in axes)
    return Carry({0: before}, {0: after}, _write_axes(view, moved))


def _squeeze(view: View) -> Carry | None:
    given = view.ints("axes", 1)
    if view.at > 0 or not given:
        return None
    rank = len(view.perm) + (0 if view.from_input else len(given))
    axes = _places(view, rank)
    if axes is None:
        return None
    before = view.perm if view.from_input else _with_new(view.perm, axes)
    moved = sorted(before.index(axis) for axis in axes)
    return Carry({0: before}, {0: _kept(before, axes)}, _write_axes(view, moved))


def _shape(view: View) -> Carry | None:
    """The shape of the other order, put back into the order of the model."""
    rank = len(view.perm)
    start, end = view.attr("start", 0), view.attr("end", rank)
    back = list(inverse(view.perm))[slice(start, end)]
    if not view.from_input or not back:
        return None

    def make(b: Build, inputs: list[ir.Value | None]) -> list[ir.Value]:
        (whole,) = b.node("Shape", inputs)
        return [whole] if is_still(back) and len(back) == rank else b.node("Gather", [whole, b.ints(back)], axis=0)

    return Carry({0: view.perm}, {}, make, 500)


_HANDLERS: dict[tuple[str, str], Handler] = {
    **{("", name): _pointwise for name in (*POINTWISE, "Identity", "Swish")},
    **{("com.microsoft", name): _pointwise for name in ("FastGelu", "Gelu", "QuickGelu")},
    **{("", name): _broadcasting for name in _BROADCASTING},
    **{("", name): _reduce for name in REDUCE},
    **{("", name): _arg for name in ("ArgMax", "ArgMin")},
    **{("", name): _softmax for name in ("Hardmax", "LogSoftmax", "Softmax")},
    **{("", name): _quantize for name in ("QuantizeLinear", "DequantizeLinear")},
    **{("", name): _global_pool for name in ("GlobalAveragePool", "GlobalMaxPool")},
    **{("", name): _last_axis for name in ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")},
    **{("", name): reshape for name in ("Flatten", "Reshape")},
    ("", "Concat"): _concat,
    ("", "Conv"): _conv,
    ("", "Gather"): _gather,
    ("", "MatMul"): _matmul,
    ("", "Pad"): _pad,
    ("", "Shape"): _shape,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
}
