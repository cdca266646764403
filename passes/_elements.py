"""The elements of a shape that the graph puts together, by the dimensions that they are read from."""

from __future__ import annotations

from accelc import ir

from .forms import sure_dims

_KEEPS_ELEMENTS = ("Squeeze", "Unsqueeze", "Cast", "Identity")
_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})


def elements(value: ir.Value | None) -> tuple[ir.Dim, ...] | None:
    """The elements of a small integer tensor as numbers and symbols, None for those not known.

    None where not even their number is known. It follows constants, Shape, and Gather, Slice and Concat of these.
    """
    if value is None:
        return None
    array = ir.const(value)
    if array is not None:
        return tuple(int(each) for each in array.reshape(-1)) if array.dtype.kind == "i" and array.size <= 16 else None
    node = value.producer()
    if node is None or node.domain or value.dtype not in _WHOLE:
        return None
    if node.op_type in _KEEPS_ELEMENTS:
        return elements(node.inputs[0])
    if node.op_type == "Concat":
        parts = [_of_vector(each) for each in node.inputs]
        return None if any(part is None for part in parts) else tuple(dim for part in parts for dim in part or ())
    if node.op_type == "Shape":
        shape = sure_dims(node.inputs[0])
        start, end = ir.attribute(node, "start") or 0, ir.attribute(node, "end")
        return None if shape is None else shape[start:end]
    if node.op_type == "Gather":
        return _gathered(node)
    return _sliced(node) if node.op_type == "Slice" else None


def _gathered(node: ir.Node) -> tuple[ir.Dim, ...] | None:
    inner, index = _of_vector(node.inputs[0]), ir.const(node.inputs[1])
    if inner is None or index is None or not all(-len(inner) <= int(i) < len(inner) for i in index.reshape(-1)):
        return None
    return tuple(inner[int(i)] for i in index.reshape(-1))


def _sliced(node: ir.Node) -> tuple[ir.Dim, ...] | None:
    inner = _of_vector(node.inputs[0])
    bounds = [ir.const(each) if each is not None else None for each in node.inputs[1:]]
    if inner is None or len(bounds) < 2 or any(each is None or each.size != 1 for each in bounds):
        return None
    start, end, *rest = (int(each.reshape(())) for each in bounds if each is not None)
    step = rest[1] if len(rest) > 1 else 1
    return inner[start:end] if step == 1 else None


def _of_vector(value: ir.Value | None) -> tuple[ir.Dim, ...] | None:
    """The elements of a value of rank 1."""
    return elements(value) if len(ir.dims(value) or ()) == 1 else None
