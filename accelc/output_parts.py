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

    The first dimension counts samples: what is joined along it are no parts. Of joints along two axes those along the
    shorter one count: it lists what is told of each place, the longer one the places. Weights are not read.
    """
    makers = {name: node for node in proto.graph.node for name in node.output if name}
    wanted = [output.name for output in proto.graph.output if _concat_behind(output.name, makers)]
    if not wanted:
        return {}
    try:
        graph = infer_shapes(without_weights(proto), data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    shapes: dict[str, _Shape] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes |= {
        info.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim)
        for info in (*graph.input, *graph.value_info, *graph.output)
        if info.type.tensor_type.HasField("shape")
    }
    joints = _Joints(makers, shapes)
    found = {name: joints.of(name) for name in wanted}
    return {
        name: parts
        for name, parts in found.items()
        if parts is not None and len(parts.sizes) > 1 and parts.axis > -len(shapes[name])
    }


_Shape = tuple[int | None, ...]
_MOVES = frozenset({"Identity", "Cast", "Reshape", "Transpose"})


def _concat_behind(name: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    node = makers.get(name)
    for _ in range(_MOST_STEPS):
        if node is None or node.op_type == "Concat":
            break
        node = makers.get(node.input[0]) if node.op_type in _MOVES else None
    return node is not None and node.op_type == "Concat" and not node.domain


class _Joints:
    """What values are made of; each is looked at once. makers: nodes by the names of their results."""

    def __init__(self, makers: Mapping[str, onnx.NodeProto], shapes: Mapping[str, _Shape]) -> None:
        self.makers, self.shapes = makers, shapes
        self._known: dict[str, Parts | None] = {}

    def of(self, name: str, steps: int = _MOST_STEPS) -> Parts | None:
        """The parts of a value, at most `steps` nodes back."""
        if name not in self._known:
            node = self.makers.get(name)
            able = node is not None and steps > 0 and not node.domain and name in self.shapes
            self._known[name] = self._made_by(node, steps) if node is not None and able else None
        return self._known[name]

    def _made_by(self, node: onnx.NodeProto, steps: int) -> Parts | None:
        if node.op_type == "Concat":
            return self._joined(node, steps)
        before = self.of(node.input[0], steps - 1) if node.op_type in _MOVES else None
        if before is None or node.op_type in ("Identity", "Cast"):
            return before
        shape = self.shapes[node.output[0]]
        if node.op_type == "Reshape":
            kept = self.shapes[node.input[0]][before.axis :]
            return before if None not in kept and shape[before.axis :] == kept else None
        perm = next((list(each.ints) for each in node.attribute if each.name == "perm"), [*range(len(shape))][::-1])
        return Parts(perm.index(len(shape) + before.axis) - len(shape), before.sizes)

    def _joined(self, node: onnx.NodeProto, steps: int) -> Parts | None:
        inside = [self.of(each, steps - 1) for each in node.input]
        rank = len(self.shapes[node.output[0]])
        given = next((each.i for each in node.attribute if each.name == "axis"), 1)
        axis = given - rank if given >= 0 else given
        across = inside[0] if all(each == inside[0] for each in inside) else None
        across = None if across is not None and across.axis == axis else across
        own = self._pieces(node, inside, axis) if axis > -rank else None
        if own is None or across is None:
            return own or across
        return min(across, own, key=lambda each: sum(each.sizes))

    def _pieces(self, node: onnx.NodeProto, inside: list[Parts | None], axis: int) -> Parts | None:
        """The inputs of a Concat, and their own parts where they were joined along the same axis."""
        sizes: list[int] = []
        for name, parts in zip(node.input, inside, strict=True):
            shape = self.shapes.get(name)
            size = shape[axis] if shape is not None and len(shape) >= -axis else None
            if size is None:
                return None
            same = parts is not None and parts.axis == axis
            sizes += parts.sizes if parts is not None and same else [size] * bool(size)
        return Parts(axis, tuple(sizes))
