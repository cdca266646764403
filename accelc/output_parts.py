"""Which outputs are several things joined into one, such as the boxes and the scores of a detector.

Their parts may have very different sizes, so the quality of the whole says little about the smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from accelc.shape_inference import infer_shapes, without_weights

_MOST_STEPS = 64


@dataclass(frozen=True)
class Parts:
    """An output is made of pieces of these sizes along an axis, which is counted from the end: -1 is the last."""

    axis: int
    sizes: tuple[int, ...]

    def slices(self, shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
        """Where each piece lies in an array of this shape; nothing where the sizes do not fit it."""
        axis, start = len(shape) + self.axis, 0
        if axis < 0 or shape[axis] != sum(self.sizes):
            return
        for size in self.sizes:
            yield (*(slice(None) for _ in range(axis)), slice(start, start + size))
            start += size


def output_parts(proto: onnx.ModelProto) -> dict[str, Parts]:
    """The parts of outputs that a Concat of known sizes makes, also through what leaves its axis as it is.

    The first dimension counts samples: what is joined along it are no parts. Weights are not read.
    """
    makers = {name: node for node in proto.graph.node for name in node.output if name}
    wanted = [output.name for output in proto.graph.output if _concat_behind(output.name, makers)]
    if not wanted:
        return {}
    try:
        graph = infer_shapes(without_weights(proto), data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        return {}
    shapes = {
        info.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    found = {name: _parts(name, makers, shapes, _MOST_STEPS) for name in wanted}
    return {name: parts for name, parts in found.items() if parts is not None and len(parts.sizes) > 1}


_Shapes = Mapping[str, tuple[int | None, ...]]
_Makers = Mapping[str, onnx.NodeProto]


def _concat_behind(name: str, makers: _Makers) -> bool:
    node = makers.get(name)
    for _ in range(_MOST_STEPS):
        if node is None or node.op_type == "Concat":
            break
        node = makers.get(node.input[0]) if node.op_type in _MOVES else None
    return node is not None and node.op_type == "Concat" and not node.domain


_MOVES = frozenset({"Identity", "Cast", "Reshape", "Transpose"})


def _parts(name: str, makers: _Makers, shapes: _Shapes, steps: int) -> Parts | None:
    """What a value is made of, seen from its end."""
    node, shape = makers.get(name), shapes.get(name)
    if node is None or shape is None or node.domain or not steps:
        return None
    if node.op_type == "Concat":
        return _joined(node, makers, shapes, steps)
    if node.op_type not in _MOVES:
        return None
    before = _parts(node.input[0], makers, shapes, steps - 1)
    if before is None or node.op_type in ("Identity", "Cast"):
        return before
    if node.op_type == "Reshape":
        kept = shapes[node.input[0]][before.axis :]
        return before if None not in kept and shape[before.axis :] == kept and len(kept) < len(shape) else None
    perm = next((list(each.ints) for each in node.attribute if each.name == "perm"), [*range(len(shape))][::-1])
    return Parts(perm.index(len(shape) + before.axis) - len(shape), before.sizes)


def _joined(node: onnx.NodeProto, makers: _Makers, shapes: _Shapes, steps: int) -> Parts | None:
    """The parts of a Concat: those that all of its inputs have along another axis, else its inputs."""
    inside = {_parts(each, makers, shapes, steps - 1) for each in node.input}
    known = [shapes.get(each) for each in node.input]
    rank = next((len(shape) for shape in known if shape is not None), 0)
    given = next((each.i for each in node.attribute if each.name == "axis"), 0)
    axis = given - rank if given >= 0 else given
    if len(inside) == 1 and (same := next(iter(inside))) is not None and same.axis != axis:
        return same
    sizes = [shape[axis] if shape is not None else None for shape in known]
    if not rank or axis == -rank or any(size is None for size in sizes):
        return None
    return Parts(axis, tuple(int(size) for size in sizes if size))
