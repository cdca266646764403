"""Parallel products and convolutions of one input as one, taken apart again behind it.

    Conv(x, u), Conv(x, w)         ==  Split(Conv(x, [u, w]), axis=1)
    MatMul(x, u), MatMul(x, w)     ==  Split(MatMul(x, [u w]), axis=-1)         Gemm likewise

Products gain nothing by themselves on the CPU. Convolutions gain where few output channels, in two convolutions, leave
the kernel half idle; but not between other convolutions, where the runtime keeps values in blocks of channels that
Split cannot read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import onnx

from accelc import ir
from accelc.context import Context
from accelc.infer import infer_nodes
from accelc.pass_base import Pass, PassResult
from accelc.rewrite import remove_dead, replace_value

from . import _trial
from ._folding import Array

_FILTERS = 4
"""How many blocks of output channels the runtime's convolution works on at a time."""
_GAIN = 1.15
_SMALL_WINDOW = 9
_MANY = 16
"""More operators than this are not merged into one."""
_TYPICAL = 32
"""What stands for a size that is not known when alternatives are timed."""
_LEAVES_BLOCKS = frozenset(("Transpose", "Reshape", "Flatten"))
_LEAST_OPSET = 7


@dataclass(frozen=True)
class _Group:
    """Operators that differ in their constant weights only. axis: along which the merged result is taken apart."""

    rule: str
    nodes: tuple[ir.Node, ...]
    weight_axis: int
    axis: int

    @property
    def sizes(self) -> list[int]:
        return [_array(node.inputs[1]).shape[self.weight_axis] for node in self.nodes]

    def joined(self, index: int) -> Array | None:
        """The weights (1) or biases (2) of all of them as one."""
        parts = [node.inputs[index] for node in self.nodes if len(node.inputs) > index]
        if not parts or parts[0] is None:
            return None
        return np.concatenate([_array(part) for part in parts], axis=self.weight_axis if index == 1 else 0)


def _array(value: ir.Value | None) -> Array:
    array = ir.const(value)
    assert array is not None
    return array


# --- finding them ----------------------------------------------------------------------------------------------------


def _own_constant(value: ir.Value | None) -> bool:
    return value is None or (ir.const_tensor(value) is not None and ir.use_count(value) == 1)


def _kind(node: ir.Node) -> tuple[Any, ...] | None:
    """What two operators must have in common to be merged; None where one cannot be."""
    if node.domain or node.op_type not in ("Conv", "MatMul", "Gemm") or not all(map(_own_constant, node.inputs[1:])):
        return None
    weight = ir.const_tensor(node.inputs[1])
    if weight is None or any(attr.is_ref() for attr in node.attributes.values()):
        return None
    shape = [int(size) for size in weight.shape.numpy()]
    axis = _weight_axis(node)
    biases = [ir.const_tensor(value) for value in node.inputs[2:] if value is not None]
    if any(each is None or list(each.shape.numpy()) != [shape[axis]] for each in biases):
        return None
    if len(shape) != 2 if node.op_type != "Conv" else int(ir.attribute(node, "group", 1)) != 1:
        return None
    attrs = tuple(sorted((name, repr(attr.value)) for name, attr in node.attributes.items()))
    rest = tuple(size for index, size in enumerate(shape) if index != axis)
    return node.op_type, weight.dtype, rest, attrs, len(biases)


def _weight_axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if node.op_type == "Gemm" and ir.attribute(node, "transB", 0) else 1


def _groups(graph: ir.Graph) -> Iterator[_Group]:
    found: dict[tuple[ir.Value, tuple[Any, ...]], list[ir.Node]] = {}
    for node in graph:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        x = node.inputs[0]
        if x is not None and ir.use_count(x) > 1 and (kind := _kind(node)) is not None:
            found.setdefault((x, kind), []).append(node)
    for nodes in found.values():
        if 1 < len(nodes) <= _MANY:
            conv = nodes[0].op_type == "Conv"
            rule = "merge_conv" if conv else "merge_matmul"
            yield _Group(rule, tuple(nodes), _weight_axis(nodes[0]), 1 if conv else -1)


# --- which is faster -------------------------------------------------------------------------------------------------


def _work(sizes: Sequence[int], block: int) -> int:
    """What the runtime's convolution does: each set of blocks of output channels reads the input once."""
    work = 0
    for size in sizes:
        blocks = -(-size // block)
        work += blocks + -(-blocks // _FILTERS)
    return work


def _default(group: _Group, ctx: Context) -> str:
    """The answer where nothing is measured."""
    if group.rule != "merge_conv" or ctx.target.provider != "CPUExecutionProvider":
        return "apart"
    if prod(_array(group.nodes[0].inputs[1]).shape[2:]) < _SMALL_WINDOW:
        return "apart"
    users = [use.node for node in group.nodes for use in node.outputs[0].uses()]
    if any(user.domain or user.op_type not in _LEAVES_BLOCKS for user in users):
        return "apart"
    block = 16 if {"avx512", "neon"} & ctx.target.isa else 8
    gain = _work(group.sizes, block) / _work([sum(group.sizes)], block)
    return "merged" if gain >= _GAIN else "apart"


def _choice(group: _Group, ctx: Context, opset: int) -> str:
    first = group.nodes[0]
    shape = ir.dims(first.inputs[0])
    if shape is None or first.inputs[0].dtype != ir.DataType.FLOAT:  # type: ignore[union-attr]
        return "apart"
    sizes = [1 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(shape)]
    known = [size if isinstance(size, int) else _TYPICAL for size in sizes]
    attrs = {name: attr.value for name, attr in first.attributes.items()}
    users = sorted({use.node.op_type for node in group.nodes for use in node.outputs[0].uses()})
    window = "x".join(map(str, _array(first.inputs[1]).shape[2:]))
    case = f"{first.op_type} float{known} {window} -> {'+'.join(map(str, group.sizes))} {attrs} before {users}"
    return ctx.decide(group.rule, case, _default(group, ctx), _alternatives(group, known, attrs, users, opset))


def _alternatives(
    group: _Group, shape: Sequence[int], attrs: Mapping[str, Any], users: Sequence[str], opset: int
) -> Callable[[], Mapping[str, onnx.ModelProto]]:
    """Both ways with what follows them: something that needs the plain layout, or a convolution."""
    first = group.nodes[0]

    def build() -> Mapping[str, onnx.ModelProto]:
        count = len(group.nodes)
        names = [f"o{index}" for index in range(count)]
        outputs = [f"y{index}" for index in range(count)]
        blocks = group.rule == "merge_conv" and not set(users) <= _LEAVES_BLOCKS
        weights: dict[str, Array] = {f"w{i}": _array(node.inputs[1]) for i, node in enumerate(group.nodes)}
        weights |= {f"b{i}": _array(node.inputs[2]) for i, node in enumerate(group.nodes) if len(node.inputs) > 2}
        tail: list[_trial.Step] = []
        for index, size in enumerate(group.sizes):
            if blocks:
                ones = np.ones((size, 1, *[1] * (len(shape) - 2)), np.float32)
                weights[f"t{index}"] = ones
                tail.append(("Conv", [names[index], f"t{index}"], [outputs[index]], {"group": size}))
            else:
                tail.append(("Relu", [names[index]], [outputs[index]], {}))
        biased = len(first.inputs) > 2
        apart: list[_trial.Step] = [
            (first.op_type, ["x", f"w{i}", *([f"b{i}"] if biased else [])], [names[i]], attrs) for i in range(count)
        ]
        joined = {"w": group.joined(1), "b": group.joined(2), "sizes": np.array(group.sizes, np.int64)}
        once: _trial.Step = (first.op_type, ["x", "w", *(["b"] if biased else [])], ["o"], attrs)
        split: _trial.Step = ("Split", ["o", "sizes"], names, {"axis": group.axis})
        if opset < 13:
            split = ("Split", ["o"], names, {"axis": group.axis, "split": group.sizes})
        more = {name: array for name, array in joined.items() if array is not None}
        return {
            "apart": _trial.model([*apart, *tail], {"x": shape}, weights, outputs, opset),
            "merged": _trial.model([once, split, *tail], {"x": shape}, {**weights, **more}, outputs, opset),
        }

    return build


# --- merging ---------------------------------------------------------------------------------------------------------


def _merge(group: _Group, scope: ir.Scope, names: ir.Names) -> None:
    first = group.nodes[0]
    label = names.fresh(f"{first.name}/{group.rule}")
    inputs: list[ir.Value | None] = [first.inputs[0]]
    for index, hint in ((1, "weight"), (2, "bias")):
        array = group.joined(index)
        if array is not None:
            inputs.append(_weight(array, f"{label}_{hint}", scope, names))
    merged = ir.new_node(first.op_type, inputs, first.attributes, name=label)
    merged.outputs[0].name = names.fresh(f"{label}_out")
    sizes, parts = group.sizes, len(group.nodes)
    if scope.opset >= 13:
        bounds = _weight(np.array(sizes, np.int64), f"{label}_sizes", scope, names)
        split = ir.new_node("Split", [merged.outputs[0], bounds], {"axis": group.axis}, outputs=parts)
    else:
        split = ir.new_node("Split", [merged.outputs[0]], {"axis": group.axis, "split": sizes}, outputs=parts)
    split.name = names.fresh(f"{label}/split")
    for node in (merged, split):
        node.meta["accelc.rule"] = group.rule
    infer_nodes([merged, split], scope.opset)
    scope.graph.insert_before(first, [merged, split])
    for node, part in zip(group.nodes, split.outputs, strict=True):
        part.name = node.outputs[0].name
        replace_value(node.outputs[0], part)
    remove_dead(group.nodes)


def _weight(array: Array, hint: str, scope: ir.Scope, names: ir.Names) -> ir.Value:
    tensor = ir.array_tensor(np.ascontiguousarray(array))
    name = names.fresh(hint)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.tensor_shape(tensor), const_value=tensor)
    scope.graph.register_initializer(value)
    return value


@dataclass(frozen=True)
class Merge(Pass):
    """Merge parallel convolutions and products of one input where that is faster."""

    name: ClassVar[str] = "merge"
    exact: ClassVar[bool] = False

    @classmethod
    def rule_names(cls) -> tuple[str, ...]:
        return "merge_conv", "merge_matmul"

    def run(self, model: ir.Model, ctx: Context) -> PassResult:
        names, changes = ir.names(model), 0
        for scope in ir.scopes(model):
            if scope.in_function or scope.opset < _LEAST_OPSET:
                continue
            for group in list(_groups(scope.graph)):
                if ctx.disabled(group.rule) or _choice(group, ctx, scope.opset) != "merged":
                    continue
                if ctx.spend(group.rule, ir.node_path(group.nodes[0])):
                    _merge(group, scope, names)
                    changes += 1
        return PassResult(changes)
