"""What holds for every rule of every pass, shown on the rule's own examples.

The examples are those of the other test modules of this folder: their calls of `check` and `unchanged` are recorded
instead of carried out. Each example is then wrapped into an If, its inner values are shown or used elsewhere, and its
types, attributes, constants, shapes and opset are varied: either the rule stays away, or the numbers stay equal.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from accelc import ir, structure
from accelc.context import Context
from accelc.errors import PluginError
from accelc.infer import infer_model
from accelc.pass_base import RulePass
from accelc.plugins import entries
from accelc.rewrite import Driver, RuleStats, propose
from accelc.rules import Rule
from accelc.testing import context, inputs, run, same_arrays, same_numbers

HERE = Path(__file__)


@dataclass
class Known:
    """What the tests say about one rule: graphs it changes (with the context they need), and how often it must not."""

    examples: list[tuple[str, Context | None]] = field(default_factory=list)
    negatives: int = 0

    def some(self) -> list[tuple[str, Context | None]]:
        """At most three examples, spread over all."""
        last = len(self.examples) - 1
        return [self.examples[index] for index in sorted({0, last // 2, last})] if self.examples else []


def registered() -> dict[str, Rule]:
    """Every rule of every pass that can be loaded; a name stands for one rule."""
    found: dict[str, Rule] = {}
    for entry in entries("pass").values():
        try:
            kind = entry.load()
        except PluginError:  # test_every_pass_loads reports it
            continue
        if issubclass(kind, RulePass):
            for rule in kind.rules:
                assert found.get(rule.name, rule) is rule, f"two rules are named {rule.name}"
                found[rule.name] = rule
    return found


RULES = registered()


@functools.cache
def recorded() -> dict[str, Known]:
    """The examples of every rule, by its name."""
    known: dict[str, Known] = {}

    def check(what: Any, before: str, after: Any, *_: Any, ctx: Context | None = None, **__: Any) -> ir.Model:
        if isinstance(what, Rule):
            known.setdefault(what.name, Known()).examples.append((before, ctx))
        return ir.parse(after if isinstance(after, str) else before)

    def unchanged(what: Any, *_: Any, **__: Any) -> None:
        if isinstance(what, Rule):
            known.setdefault(what.name, Known()).negatives += 1

    for path in sorted(HERE.parent.glob("test_*.py")):
        if path == HERE or "import check" not in path.read_text(encoding="utf-8"):
            continue
        module = _load(path)
        vars(module).update(check=check, unchanged=unchanged)
        for function in [each for name, each in vars(module).items() if name.startswith("test_")]:
            _record(function)
    return known


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _record(function: Callable[..., None]) -> None:
    """Call a test with every value of its parameters, if it calls check or unchanged and needs no fixture."""
    if not {"check", "unchanged"} & set(function.__code__.co_names):
        return
    choices: list[list[dict[str, Any]]] = []
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else list(mark.args[0])
            rows = [getattr(row, "values", row) if not isinstance(row, dict) else row for row in mark.args[1]]
            choices.append([dict(zip(names, row if len(names) > 1 else [row], strict=True)) for row in rows])
    given = {name for rows in choices for name in rows[0]}
    if given != set(inspect.signature(function).parameters):
        return
    for combination in itertools.product(*choices):
        with contextlib.suppress(AssertionError):  # what a test says about the result is told where it really runs
            function(**{name: value for part in combination for name, value in part.items()})


def fire(rule: Rule, model: ir.Model, ctx: Context | None) -> int:
    infer_model(model)
    count = Driver([rule]).run(model, ctx or context())
    structure.check(model)
    return count


def feeds_for(rule: Rule, model: ir.Model) -> list[dict[str, Any]]:
    """Random inputs; edge values as well for rules that keep every bit. (What infinities do to the others, their own
    tests say: sums in another order turn NaN into infinity and back.)
    """
    found = list(inputs(model))
    return found if rule.exact else found[:1]


def the_examples(rule: Rule) -> list[tuple[str, Context | None]]:
    known = recorded().get(rule.name)
    return known.some() if known else []


each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))


def test_every_pass_loads() -> None:
    for entry in entries("pass").values():
        assert entry.load().summary(), f"{entry.name} has no summary"


@each_rule
def test_has_a_law_an_example_and_a_negative(rule: Rule) -> None:
    known = recorded().get(rule.name, Known())
    assert "==" in rule.law, f"{rule.source}: the first line of the docstring is no law"
    assert known.examples, f"{rule.source}: no test checks it"
    taken_away = rule.law.rstrip().endswith("== x") and rule.shared and not rule.where and not callable(rule.after)
    assert known.negatives or taken_away, f"{rule.source}: no test shows where it stays away"


# --- inside an If ----------------------------------------------------------------------------------------------------


def wrapped(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The graph as both branches of an If; None for graphs this cannot be done with."""
    graph = proto.graph
    nested = any(attr.HasField("g") or attr.graphs for node in graph.node for attr in node.attribute)
    names = {value.name for value in graph.input}
    if nested or proto.functions or any(weight.name in names for weight in graph.initializer):
        return None
    outer = onnx.ModelProto()
    outer.CopyFrom(proto)
    del outer.graph.node[:], outer.graph.initializer[:], outer.graph.value_info[:]
    outer.graph.input.append(onnx.helper.make_tensor_value_info("if_condition", onnx.TensorProto.BOOL, []))
    branches = {f"{tag}_branch": _branch(graph, tag) for tag in ("then", "else")}
    outer.graph.node.append(
        onnx.helper.make_node("If", ["if_condition"], [out.name for out in graph.output], name="choose", **branches)
    )
    return outer


def _branch(graph: onnx.GraphProto, tag: str) -> onnx.GraphProto:
    inner = onnx.GraphProto()
    inner.CopyFrom(graph)
    outside = {value.name for value in graph.input} | {""}
    del inner.input[:], inner.value_info[:]
    inner.name = tag
    for node in inner.node:
        node.name = f"{node.name}_{tag}" if node.name else ""
        node.input[:] = [name if name in outside else f"{name}_{tag}" for name in node.input]
        node.output[:] = [name and f"{name}_{tag}" for name in node.output]
    for each in [*inner.initializer, *inner.output]:
        each.name += f"_{tag}"
    return inner


@each_rule
def test_inside_an_if(rule: Rule) -> None:
    for text, ctx in the_examples(rule):
        fired = fire(rule, ir.parse(text), ctx)
        proto = wrapped(ir.to_proto(ir.parse(text)))
        if proto is None or not fired:
            continue
        before = proto.SerializeToString()
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
        assert fire(rule, model, ctx) == 2 * fired, text
        after = ir.to_proto(model).SerializeToString()
        for feeds in feeds_for(rule, ir.parse(text)):
            for choice in (True, False):
                same_numbers(before, after, {**feeds, "if_condition": np.array(choice)}, exact=rule.exact)


# --- inner values that others need -----------------------------------------------------------------------------------


def exposed(proto: onnx.ModelProto, name: str, *, as_output: bool) -> onnx.ModelProto | None:
    """The model with an inner value as one more output, or with one more consumer of it."""
    info = next((info for info in proto.graph.value_info if info.name == name), None)
    if info is None:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    output = made.graph.output.add()
    output.CopyFrom(info)
    if not as_output:
        output.name = f"{name}_seen"
        made.graph.node.append(onnx.helper.make_node("Identity", [name], [output.name], name=f"{name}_see"))
    else:
        kept = [each for each in made.graph.value_info if each.name != name]
        del made.graph.value_info[:]
        made.graph.value_info.extend(kept)
    return made


def vanishing(rule: Rule, text: str, ctx: Context | None) -> set[str]:
    """Names of the inner values that the pattern itself matches, at the first place where the rule fires."""
    model = ir.parse(text)
    infer_model(model)
    for scope in ir.scopes(model):
        for node in list(scope.graph):
            patch = propose(rule, node, scope, ctx or context(), RuleStats(rule.name, rule.source))
            if patch is not None:
                return {str(value.name) for inner in patch.matched[1:] for value in inner.outputs}
    return set()


@each_rule
def test_inner_values_that_others_need(rule: Rule) -> None:
    for text, ctx in the_examples(rule):
        fired = fire(rule, ir.parse(text), ctx)
        proto = ir.to_proto(ir.parse(text))
        outputs = {value.name for value in proto.graph.output}
        inner = [name for node in proto.graph.node for name in node.output if name and name not in outputs]
        matched = vanishing(rule, text, ctx)
        for name, as_output in itertools.product(inner[:5], (True, False)):
            shown = exposed(proto, name, as_output=as_output)
            if shown is None:
                continue
            model = ir.from_proto(shown)
            before = ir.to_proto(model).SerializeToString()
            count = fire(rule, model, ctx)
            if not rule.shared and fired == 1 and name in matched:
                assert count == 0, f"fires although {name} is needed:\n{ir.text(model)}"
            if count:
                after = ir.to_proto(model).SerializeToString()
                for feeds in feeds_for(rule, model):
                    same_numbers(before, after, feeds, exact=rule.exact)


# --- variants --------------------------------------------------------------------------------------------------------

Change = Callable[[onnx.ModelProto], None]
_TYPES = {"FLOAT": 1, "INT8": 3, "INT32": 6, "INT64": 7, "FLOAT16": 10, "DOUBLE": 11}


def variants(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Models that differ from one in a single type, attribute, constant, dimension or in the opset."""
    for what, change in _changes(proto):
        made = onnx.ModelProto()
        made.CopyFrom(proto)
        del made.graph.value_info[:]
        for output in made.graph.output:
            output.ClearField("type")
        change(made)
        yield what, made


def _changes(proto: onnx.ModelProto) -> Iterator[tuple[str, Change]]:
    present = {value.type.tensor_type.elem_type for value in proto.graph.input}
    for old, new in itertools.product(sorted(present & set(_TYPES.values())), _TYPES.values()):
        if old != new:
            yield f"type {old} as {new}", functools.partial(_retype, old=old, new=new)
    for version in (7, 9, 10, 11, 13, 17, 18, 21, 23):
        yield f"opset {version}", functools.partial(_set_opset, version=version)
    for index, node in enumerate(proto.graph.node):
        for attr in node.attribute:
            if attr.name == "num_outputs":  # the runtime aborts the process where it is not positive
                continue
            for value in _other_values(onnx.helper.get_attribute_value(attr)):
                change = functools.partial(_set_attribute, index=index, name=attr.name, value=value)
                yield f"{node.op_type}.{attr.name} = {value}", change
    for index, weight in enumerate(proto.graph.initializer):
        array = onnx.numpy_helper.to_array(weight)
        for which, value in enumerate(_other_arrays(array)):
            change = functools.partial(_set_weight, index=index, value=value)
            yield f"weight {weight.name} changed ({which})", change
    for index, info in enumerate(proto.graph.input):
        yield f"symbols for {info.name}", functools.partial(_set_dims, index=index, axis=None, value=0)
        for axis in range(len(info.type.tensor_type.shape.dim)):
            for size in (0, 1, 5):
                change = functools.partial(_set_dims, index=index, axis=axis, value=size)
                yield f"{info.name} axis {axis} of length {size}", change


def _retype(proto: onnx.ModelProto, old: int, new: int) -> None:
    for info in proto.graph.input:
        if info.type.tensor_type.elem_type == old:
            info.type.tensor_type.elem_type = new
    dtype = onnx.helper.tensor_dtype_to_np_dtype(new)
    for weight in proto.graph.initializer:
        if weight.data_type == old:
            with np.errstate(all="ignore"):
                array = onnx.numpy_helper.to_array(weight).astype(dtype)
            weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))


def _set_opset(proto: onnx.ModelProto, version: int) -> None:
    for each in proto.opset_import:
        if not each.domain:
            each.version = version


def _other_values(value: Any) -> list[Any]:
    if isinstance(value, bool | int):
        return [each for each in (value + 1, value - 1, -value - 1, 1 - value) if each != value]
    if isinstance(value, float):
        return [value * 2 + 0.5, -value]
    if isinstance(value, list) and value and isinstance(value[0], int):
        others = (value[::-1], [value[0] + 1, *value[1:]], [*value[:-1], value[-1] - 1])
        return [each for each in others if each != value]
    return []


def _set_attribute(proto: onnx.ModelProto, index: int, name: str, value: Any) -> None:
    node = proto.graph.node[index]
    kept = [attr for attr in node.attribute if attr.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])


def _other_arrays(array: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Arrays of the same type that differ a little, and one of another rank."""
    if array.dtype.kind not in "bif" or array.size > 64:
        return []
    if array.dtype.kind == "b":
        return [~array, array.reshape(1, *array.shape)]
    first, last = array.copy(), array.copy()
    if array.size:
        with np.errstate(over="ignore"):
            first.reshape(-1)[0] += array.dtype.type(1)
            last.reshape(-1)[-1] -= array.dtype.type(1)
    rest = [array[::-1].copy(), array[:1].copy()] if array.ndim else []
    return [first, last, -array, array * 0, array.reshape(1, *array.shape), *rest]


def _set_weight(proto: onnx.ModelProto, index: int, value: np.ndarray[Any, Any]) -> None:
    weight = proto.graph.initializer[index]
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))


def _set_dims(proto: onnx.ModelProto, index: int, axis: int | None, value: int) -> None:
    dims = proto.graph.input[index].type.tensor_type.shape.dim
    for at, dim in enumerate(dims):
        if axis is None:
            dim.Clear()
            dim.dim_param = f"D{index}_{at}"
        elif axis == at:
            dim.dim_value = value


def outcome(model: bytes, feeds: dict[str, Any]) -> list[Any] | None:
    """What a model returns; None where the runtime refuses it or its inputs."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    refusals = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented)
    try:
        return run(model, feeds)
    except (*refusals, errors.RuntimeException, RuntimeError):
        return None


@each_rule
def test_variants(rule: Rule) -> None:
    for text, ctx in the_examples(rule)[:2]:
        original = ir.parse(text)
        for what, proto in variants(ir.to_proto(original)):
            before = proto.SerializeToString()
            sized = original if what.startswith("symbols") else ir.from_proto(onnx.ModelProto.FromString(before))
            feeds = feeds_for(rule, sized)
            # The runtime goes first: onnx's inference aborts the process on some graphs that are not valid.
            if outcome(before, feeds[0]) is None:
                continue
            model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
            if not fire(rule, model, ctx):
                continue
            after = ir.to_proto(model).SerializeToString()
            for each in feeds:
                try:
                    for a, b in zip(outcome(before, each) or [], run(after, each), strict=True):
                        same_arrays(a, b, exact=rule.exact)
                except AssertionError as error:
                    raise AssertionError(f"{what}: {error}\n{text}\n{ir.text(model)}") from error
