"""Random graphs of the operators that the exact rules speak of, through all these rules at once: every bit stays."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from accelc import ir, structure
from accelc.infer import infer_model
from accelc.passes.algebra import Algebra
from accelc.passes.cast import Cast
from accelc.passes.concat import Concat
from accelc.passes.identity import Identity
from accelc.passes.pad import Pad
from accelc.passes.reshape import Reshape
from accelc.passes.slice import Slice
from accelc.passes.transpose import Transpose
from accelc.rewrite import Driver
from accelc.testing import context, inputs, run, same_arrays

PASSES = (Identity, Algebra, Cast, Transpose, Reshape, Slice, Concat, Pad)
RULES = [rule for each in PASSES for rule in each.rules]
BATCHES, GRAPHS = 6, 20
_BIG = 2**63 - 1


class Maker:
    """Grows a random graph. Values are kept by name with their type and the shape they have at run time."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice([11, 13, 18, 20, 21]))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.infos: list[onnx.ValueInfoProto] = []
        self.values: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        for kind, shape in (("float32", (2, 3, 4)), ("float32", (3, 4)), ("int64", (2, 3, 4)), ("float32", (2, 1, 4))):
            name = f"in{len(self.infos)}"
            dims = [f"{name}_{i}" if self.rng.random() < 0.15 else size for i, size in enumerate(shape)]
            elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
            self.infos.append(onnx.helper.make_tensor_value_info(name, elem, dims))
            self.values[name], self.sizes[name] = (kind, shape), shape

    def pick(self, *kinds: str, rank: int | None = None) -> str | None:
        found = [
            name
            for name, (kind, shape) in self.values.items()
            if (not kinds or kind in kinds) and (len(shape) == rank if rank is not None else shape)
        ]
        if not found:
            return None
        recent = found[-4:] if self.rng.random() < 0.7 else found
        return str(self.rng.choice(recent))

    def chance(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def weight(self, array: Any, kind: str = "int64") -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(array, kind), name))
        return name

    def node(self, op: str, ins: list[str], outs: list[tuple[str, tuple[int, ...]]], **attrs: Any) -> None:
        names = [f"v{len(self.values) + index}" for index in range(len(outs))]
        self.nodes.append(onnx.helper.make_node(op, ins, names, name=f"n{len(self.nodes)}", **attrs))
        self.values.update(dict(zip(names, outs, strict=True)))

    def model(self) -> onnx.ModelProto:
        used = {name for node in self.nodes for name in node.input}
        made = [name for name in self.values if name.startswith("v")]
        leaves = [name for name in made if name not in used or self.rng.random() < 0.1]
        outputs = [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.values[name][0])), None
            )
            for name in leaves
        ]
        graph = onnx.helper.make_graph(self.nodes, "fuzz", self.infos, outputs, self.weights)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=8)


_UNARY = {
    "float32": ["Neg", "Abs", "Relu", "Identity", "Floor", "Ceil", "Round", "Sign", "Sigmoid", "Exp"],
    "float64": ["Neg", "Abs", "Identity"],
    "int64": ["Neg", "Abs", "Identity", "Sign"],
    "int32": ["Neg", "Abs", "Identity"],
    "int8": ["Neg", "Identity"],
    "bool": ["Not", "Identity"],
}


def unary(g: Maker, x: str) -> None:
    g.node(g.chance(*_UNARY[g.values[x][0]]), [x], [g.values[x]])


def constant(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    if kind == "int8":
        return
    if kind == "bool":
        g.node(g.chance("And", "Or", "Xor"), [x, g.weight(g.chance(True, False), "bool")], [g.values[x]])
        return
    value = g.chance(0.0, -0.0, 1, -1, 2, 3) if kind.startswith("float") else g.chance(0, 1, -1, 3, 2**30)
    op = g.chance("Add", "Sub", "Mul")
    other = g.weight(np.full(g.chance((), (1,), shape[-1:]), value), kind)
    g.node(op, g.chance([x, other], [other, x]), [g.values[x]])


def binary(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    z = g.pick(kind)
    if z is None or kind in ("bool", "int8"):
        return
    try:
        out = np.broadcast_shapes(shape, g.values[z][1])
    except ValueError:
        return
    op = g.chance("Add", "Sub", "Mul", "Less", *(["Sum", "Max"] if kind == "float32" else []))
    g.node(op, [x, z], [("bool" if op == "Less" else kind, out)])


def cast(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    to = g.chance(*{"float32": ["float64", "float32"], "float64": ["float32"], "int64": ["int32", "int64", "bool"],
                    "int32": ["int64", "int8"], "int8": ["int32", "int64"], "bool": ["int64", "bool"]}[kind])  # fmt: skip
    g.node("Cast", [x], [(to, shape)], to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to))))


def transpose(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    perm = [int(each) for each in g.rng.permutation(len(shape))]
    g.node("Transpose", [x], [(kind, tuple(shape[axis] for axis in perm))], perm=perm)


def reshape(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    size = int(np.prod(shape))
    if size == 0:
        return
    options = [shape, (size,), (1, size), (*shape[:-1], 1, shape[-1])]
    options += [(size // d, d) for d in (2, 3, 4) if size % d == 0]
    out = g.chance(*options)
    target = list(out)
    if g.rng.random() < 0.4:
        target[int(g.rng.integers(len(target)))] = -1
    elif g.rng.random() < 0.4 and len(out) <= len(shape):
        target = [0 if index < len(shape) and dim == shape[index] else dim for index, dim in enumerate(target)]
    g.node("Reshape", [x, g.weight(target)], [(kind, out)])


def _with_axes(g: Maker, op: str, x: str, axes: list[int], out: tuple[str, tuple[int, ...]]) -> None:
    if g.opset >= 13:
        g.node(op, [x, g.weight(axes)], [out])
    else:
        g.node(op, [x], [out], axes=axes)


def unsqueeze(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape) + 1))
    out = (*shape[:axis], 1, *shape[axis:])
    _with_axes(g, "Unsqueeze", x, [g.chance(axis, axis - len(out))], (kind, out))


def squeeze(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    ones = [axis for axis, dim in enumerate(shape) if dim == 1]
    if ones:
        axis = g.chance(*ones)
        _with_axes(g, "Squeeze", x, [axis], (kind, tuple(dim for at, dim in enumerate(shape) if at != axis)))


def flatten(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape) + 1))
    g.node("Flatten", [x], [(kind, (int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))))], axis=axis)


def slice_(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape)))
    start, end, step = g.chance(0, 1, -2), g.chance(1, 2, 3, -1, _BIG), g.chance(1, 1, 1, 2)
    length = len(range(shape[axis])[start:end:step])
    out = (*shape[:axis], length, *shape[axis + 1 :])
    g.node("Slice", [x, g.weight([start]), g.weight([end]), g.weight([axis]), g.weight([step])], [(kind, out)])


def halves(g: Maker, x: str) -> None:
    """Two slices, or a Split, and all of it together again."""
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape)))
    cut = shape[axis] // 2
    parts = [(kind, (*shape[:axis], size, *shape[axis + 1 :])) for size in (cut, shape[axis] - cut)]
    first = len(g.values)
    if g.rng.random() < 0.5 and g.opset >= 13:
        g.node("Split", [x, g.weight([cut, shape[axis] - cut])], parts, axis=axis)
    else:
        for (start, end), part in zip(((0, cut), (cut, _BIG)), parts, strict=True):
            g.node("Slice", [x, g.weight([start]), g.weight([end]), g.weight([axis])], [part])
    g.node("Concat", [f"v{first}", f"v{first + 1}"], [(kind, shape)], axis=axis)


def concat(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape)))
    same = [
        name
        for name, (other, dims) in g.values.items()
        if other == kind
        and len(dims) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(dims, shape, strict=True)) if i != axis)
    ]
    parts = [str(each) for each in g.rng.choice(same, int(g.rng.integers(1, 4)))]
    length = sum(g.values[part][1][axis] for part in parts)
    if length <= 24:
        out = (*shape[:axis], length, *shape[axis + 1 :])
        g.node("Concat", parts, [(kind, out)], axis=g.chance(axis, axis - len(shape)))


def expand(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    target = g.chance(
        (1,), shape, (2, *shape) if len(shape) < 4 else shape, tuple(4 if dim == 1 else 1 for dim in shape)
    )
    g.node("Expand", [x, g.weight(target)], [(kind, np.broadcast_shapes(shape, target))])


def pad(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    if kind in ("float32", "int64"):
        pads = (
            [int(each) for each in g.rng.integers(0, 2, 2 * len(shape))]
            if g.rng.random() < 0.6
            else [0] * 2 * len(shape)
        )
        out = tuple(dim + a + b for dim, a, b in zip(shape, pads[: len(shape)], pads[len(shape) :], strict=True))
        g.node("Pad", [x, g.weight(pads)], [(kind, out)])


def gather(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    axis = int(g.rng.integers(len(shape)))
    if shape[axis]:
        indices = g.chance(np.arange(shape[axis]), np.array([0]), np.array([-1]), np.array(0))
        g.node(
            "Gather", [x, g.weight(indices)], [(kind, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))], axis=axis
        )


def reduce(g: Maker, x: str) -> None:
    kind, shape = g.values[x]
    if kind in ("float32", "int64") and min(shape) > 0:
        axis, keep = int(g.rng.integers(len(shape))), int(g.rng.integers(2))
        out = (*shape[:axis], *([1] * keep), *shape[axis + 1 :])
        if g.opset >= 13:
            g.node("ReduceSum", [x, g.weight([axis])], [(kind, out)], keepdims=keep)


def clip(g: Maker, x: str) -> None:
    if g.values[x][0] == "float32":
        low, high = g.chance("", g.weight(g.chance(-1, 0, 1), "float32")), g.chance("", g.weight(2, "float32"))
        g.node("Clip", [x, low, high], [g.values[x]])


STEPS: list[Callable[[Maker, str], None]] = [
    unary, unary, constant, constant, binary, binary, cast, transpose, transpose, reshape, reshape, unsqueeze, squeeze,
    flatten, slice_, slice_, halves, concat, expand, pad, gather, reduce, clip,
]  # fmt: skip


def random_model(seed: int) -> onnx.ModelProto:
    maker = Maker(seed)
    while len(maker.nodes) < 14:
        x = maker.pick()
        assert x is not None
        if int(np.prod(maker.values[x][1])) <= 600 and len(maker.values[x][1]) <= 5:
            maker.chance(*STEPS)(maker, x)
    proto = maker.model()
    used = {name for node in proto.graph.node for name in node.input}
    kept = [weight for weight in proto.graph.initializer if weight.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


fired: dict[str, int] = {}


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_bit_stays(batch: int) -> None:
    for seed in range(batch * GRAPHS, (batch + 1) * GRAPHS):
        proto = onnx.shape_inference.infer_shapes(random_model(seed), data_prop=True)
        before = proto.SerializeToString()
        model = ir.from_proto(proto)
        infer_model(model)
        driver = Driver(RULES)
        if not driver.run(model, context()):
            continue
        structure.check(model)
        for name, stats in driver.stats.items():
            fired[name] = fired.get(name, 0) + stats.fired
        after = ir.to_proto(model).SerializeToString()
        nodes = sum(1 for _ in model.graph)
        assert nodes <= len(proto.graph.node), f"seed {seed}: {nodes} nodes, were {len(proto.graph.node)}"
        for feeds in _sized(model, seed):
            with np.errstate(all="ignore"):
                old, new = run(before, feeds), run(after, feeds)
            try:
                for a, b in zip(old, new, strict=True):
                    same_arrays(a, b, exact=True)
            except AssertionError as error:
                texts = onnx.printer.to_text(proto.graph), ir.text(model)
                raise AssertionError("\n".join((f"seed {seed}: {error}", *texts))) from error


def _sized(model: ir.Model, seed: int) -> list[dict[str, Any]]:
    """Inputs of the sizes that the graph was grown for, whatever symbols stand in their place."""
    sizes = Maker(seed).sizes
    for value in model.graph.inputs:
        value.shape = ir.Shape(sizes[str(value.name)])
    return list(inputs(model, seed))


def test_most_rules_fire_on_random_graphs() -> None:
    for seed in range(20):
        model = ir.from_proto(onnx.shape_inference.infer_shapes(random_model(10_000 + seed), data_prop=True))
        driver = Driver(RULES)
        driver.run(model, context())
        for name, stats in driver.stats.items():
            fired[name] = fired.get(name, 0) + stats.fired
    assert sum(count > 0 for count in fired.values()) >= 25, sorted(name for name, count in fired.items() if count)
