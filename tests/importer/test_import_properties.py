"""What holds for every input: damage gives one clean error, and repairs keep what the model computes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_helpers import branch, model_of, parse, session, value, weight
from onnx import helper

from accelc.errors import AccelcError
from accelc.importer import Imported, import_proto, read_model

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(FEW, max_examples=250)

_FUNCTION = '<domain: "own", opset_import: ["": 17]> f <k>(a) => (b) { b = LeakyRelu <alpha: float = @k>(a) }'


def _seeds() -> list[bytes]:
    with_weights = parse("g (float[2,4] x) => (float[2,4] y) { s = Add(x, w) y = Relu(s) }")
    with_weights.graph.initializer.append(weight())
    with_function = parse(
        '<ir_version: 8, opset_import: ["": 17, "own": 1]> g (float[2,4] x) => (float[2,4] y) '
        "{ y = own.f <k = 0.5>(x) } " + _FUNCTION
    )
    return [model.SerializeToString() for model in (with_weights, branch("t = Relu(p)", "t"), with_function)]


SEEDS = _seeds()


def _outcome(read: Any, source: Any) -> Imported | None:
    """What was imported, or None when it was refused as it should be; any other exception fails the test."""
    try:
        result = read(source)
    except AccelcError:
        return None
    assert isinstance(result, Imported)
    return result


@MANY
@given(data=st.binary(max_size=200))
def test_any_bytes(tmp_path: Any, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    _outcome(read_model, path)


@MANY
@given(seed=st.sampled_from(SEEDS), changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=6))
def test_any_changed_bytes(tmp_path: Any, seed: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(seed)
    for at, byte in changes:
        data[at % len(data)] = byte
    path = tmp_path / "m.onnx"
    path.write_bytes(bytes(data))
    _outcome(read_model, path)


@FEW
@given(seed=st.sampled_from(SEEDS), cut=st.integers(0), inserted=st.binary(max_size=8), dropped=st.integers(0, 8))
def test_any_piece_lost_or_added(tmp_path: Any, seed: bytes, cut: int, inserted: bytes, dropped: int) -> None:
    at = cut % len(seed)
    path = tmp_path / "m.onnx"
    path.write_bytes(seed[:at] + inserted + seed[at + dropped :])
    _outcome(read_model, path)


def _messages(message: Any) -> list[Any]:
    found = [message]
    for field, content in message.ListFields():
        if field.message_type is not None:
            for inner in content if hasattr(content, "__len__") else [content]:
                found += _messages(inner)
    return found


@MANY
@given(seed=st.sampled_from(SEEDS), choice=st.randoms(use_true_random=False))
def test_any_changed_field(seed: bytes, choice: random.Random) -> None:
    """Valid protobufs with one field dropped, doubled or replaced: import, import again, or one clean error."""
    model = onnx.ModelProto.FromString(seed)
    message = choice.choice(_messages(model))
    fields = message.ListFields()
    if fields:
        field, content = choice.choice(fields)
        many = hasattr(content, "add") or hasattr(content, "append")
        action = choice.randrange(3)
        if action == 0 or (many and not len(content)):
            message.ClearField(field.name)
        elif many and action == 1:
            content.append(content[0])
        elif many:
            del content[choice.randrange(len(content))]
        elif isinstance(content, str):
            setattr(message, field.name, choice.choice(["", "x", "y", "Relu", "ai.onnx", "com.acme"]))
        elif isinstance(content, int):
            numbers = [0, 1, 2, 7, 16, 2**31 - 1] if field.enum_type is None else list(field.enum_type.values_by_number)
            setattr(message, field.name, choice.choice(numbers))
    first = _outcome(import_proto, model)
    assert first is None or import_proto(first.proto).repairs == ()


_UNARY = ("Relu", "Abs", "Neg", "Sigmoid", "Tanh")
_BINARY = ("Add", "Sub", "Mul", "Max", "Min")


@st.composite
def graphs(draw: st.DrawFn) -> list[onnx.NodeProto]:
    """Nodes in order over an input x; each uses values that came before; some are Ifs that capture values."""
    nodes: list[onnx.NodeProto] = []
    names = ["x"]
    for index in range(draw(st.integers(1, 14))):
        kind, name = draw(st.integers(0, 4)), f"v{index}"
        one, two = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        if kind == 0:
            bodies = {}
            for label, source in (("then_branch", one), ("else_branch", two)):
                body = [helper.make_node(draw(st.sampled_from(_UNARY)), [source], [f"{label}{index}"])]
                bodies[label] = helper.make_graph(body, label, [], [value(f"{label}{index}")])
            nodes.append(helper.make_node("If", ["c"], [name], **bodies))
        elif kind == 1:
            nodes.append(helper.make_node(draw(st.sampled_from(_BINARY)), [one, two], [name]))
        else:
            nodes.append(helper.make_node(draw(st.sampled_from(_UNARY)), [one], [name]))
        names.append(name)
    return nodes


@FEW
@given(nodes=graphs(), order=st.randoms(use_true_random=False))
def test_shuffled_graphs_are_sorted_back_to_the_same_function(
    nodes: list[onnx.NodeProto], order: random.Random
) -> None:
    shuffled = list(nodes)
    order.shuffle(shuffled)
    inputs = [value("x"), value("c", onnx.TensorProto.BOOL, ())]
    outputs = [value(nodes[-1].output[0])]
    result = import_proto(model_of(shuffled, inputs, outputs))
    assert import_proto(result.proto).repairs == ()
    seen = {"x", "c"}
    for node in result.proto.graph.node:
        captured = [name for part in node.attribute for inner in part.g.node for name in inner.input]
        assert seen.issuperset([*node.input, *captured])
        seen.update(node.output)
    x = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
    for condition in (True, False):
        feeds = {"x": x, "c": np.array(condition)}
        expected = session(model_of(nodes, inputs, outputs)).run(None, feeds)
        np.testing.assert_array_equal(session(result.proto).run(None, feeds)[0], expected[0])


@FEW
@given(nodes=graphs(), names=st.lists(st.sampled_from(["", "a", "b", "n1", "n2"]), min_size=14, max_size=14))
def test_node_names_become_unique_and_unique_ones_stay(nodes: list[onnx.NodeProto], names: list[str]) -> None:
    inputs = [value("x"), value("c", onnx.TensorProto.BOOL, ())]
    model = model_of(nodes, inputs, [value(nodes[-1].output[0])])
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    given_names = [node.name for node in model.graph.node]
    result = import_proto(model)
    found = [node.name for node in result.proto.graph.node]
    repeated = any(given_names.count(name) > 1 for name in given_names if name)
    assert bool(result.repairs) == repeated
    if repeated:
        assert all(found)
    named = [name for name in found if name]
    assert len(set(named)) == len(named)
    for before, after in zip(given_names, found, strict=True):
        if before and given_names.count(before) == 1:
            assert after == before


@pytest.mark.parametrize("seed", SEEDS)
def test_the_seeds_are_valid(seed: bytes) -> None:
    assert session(import_proto(onnx.ModelProto.FromString(seed)).proto) is not None
