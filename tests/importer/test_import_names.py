"""Definitions, uses and order: cycles, single assignment across scopes, sorting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from import_helpers import (
    WITH_FUNCTIONS,
    branch,
    clean,
    loads,
    model_of,
    parse,
    refused,
    relu,
    repaired,
    session,
    value,
)
from import_helpers import weight as make_weight
from onnx import helper

from accelc import ir
from accelc.importer import import_proto, read_model


def test_unsorted_nodes_are_sorted() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Abs(b) b = Neg(a) a = Relu(x) c = Exp(x) }")
    result = repaired(model, "sorted 2 node(s)")
    assert [node.op_type for node in result.proto.graph.node] == ["Relu", "Neg", "Abs", "Exp"]


def test_sorted_nodes_keep_their_order() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { d = Exp(x) a = Relu(x) c = Neg(x) y = Add(a, c) }")
    assert [node.op_type for node in clean(model).proto.graph.node] == ["Exp", "Relu", "Neg", "Add"]


def test_what_a_subgraph_captures_comes_first() -> None:
    model = branch("t = Relu(q)", "t", after="q = Exp(x)")
    result = repaired(model, "sorted 1 node(s)")
    assert [node.op_type for node in result.proto.graph.node] == ["Neg", "Exp", "If"]
    assert loads(result.proto)


def test_subgraphs_are_sorted() -> None:
    result = repaired(branch("t = Relu(s) s = Exp(p)", "t"), "sorted 1 node(s)")
    body = result.proto.graph.node[1].attribute[0].g
    assert [node.op_type for node in body.node] == ["Exp", "Relu"]


def test_functions_are_sorted() -> None:
    body = '<domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Abs(c) c = Relu(a) }'
    model = parse(WITH_FUNCTIONS + "g (float[2,4] x) => (float[2,4] y) { y = own.f(x) } " + body)
    assert loads(repaired(model, "sorted 1 node(s)").proto)


def test_a_long_reversed_chain_is_sorted() -> None:
    count = 20_000
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}") for i in reversed(range(count))]
    model = model_of(nodes, [value("v0")], [value(f"v{count}")])
    result = import_proto(model)
    assert result.proto.graph.node[0].name == "n0"
    assert result.proto.graph.node[-1].name == f"n{count - 1}"


def test_a_wide_graph_is_sorted() -> None:
    uses = [helper.make_node("Relu", ["root"], [f"v{i}"]) for i in range(5000)]
    total = helper.make_node("Sum", [f"v{i}" for i in range(5000)], ["y"])
    model = model_of([total, *uses, helper.make_node("Abs", ["x"], ["root"])], [value("x")], [value("y")])
    assert [n.op_type for n in import_proto(model).proto.graph.node][:2] == ["Abs", "Relu"]


@pytest.mark.parametrize("nodes", ["a = Add(x, b) b = Relu(a) y = Neg(b)", "y = Add(x, y)", "a = Add(a, x) y = Neg(a)"])
def test_cycles(nodes: str) -> None:
    refused(parse(f"g (float[2,4] x) => (float[2,4] y) {{ {nodes} }}"), "cycle")


def test_a_cycle_through_a_subgraph() -> None:
    refused(branch("t = Relu(q)", "t", after="q = Exp(z)"), "cycle", "If")


@pytest.mark.parametrize("nodes", ["y = Relu(x) y = Abs(x)", "x = Relu(x) y = Abs(x)", "w = Relu(x) y = Abs(x)"])
def test_two_definitions(nodes: str) -> None:
    text = f"g (float[2,4] x) => (float[2,4] y) <float[2,4] w = {{1,1,1,1,1,1,1,1}}> {{ {nodes} }}"
    refused(parse(text), "defined twice")


def test_duplicate_inputs() -> None:
    model = relu()
    model.graph.input.append(model.graph.input[0])
    refused(model, "input 'x' is listed 2 times")


def test_duplicate_outputs() -> None:
    model = relu()
    model.graph.output.append(model.graph.output[0])
    refused(model, "output 'y' is listed 2 times")


def test_duplicate_initializers() -> None:
    model = relu()
    model.graph.initializer.extend([make_weight(), make_weight()])
    refused(model, "initializer 'w' is listed 2 times")


def test_a_sparse_initializer_with_a_taken_name() -> None:
    model = relu()
    model.graph.initializer.append(make_weight())
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0]))
    sparse.dims[:] = [4]
    refused(model, "initializer 'w' is listed 2 times")


def test_a_missing_input() -> None:
    refused(parse("g (float[2,4] x) => (float[2,4] y) { y = Add(x, w) }"), "Add", "'w'", "made by nothing")


def test_a_missing_input_of_a_node_nobody_uses() -> None:
    refused(parse("g (float[2,4] x) => (float[2,4] y) { y = Relu(x) q = Abs(gone) }"), "'gone'")


def test_a_missing_input_in_a_subgraph() -> None:
    refused(branch("t = Relu(gone)", "t"), "'gone'")


def test_a_missing_input_in_a_function() -> None:
    body = '<domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Add(a, x) }'
    text = WITH_FUNCTIONS + "g (float[2,4] x) => (float[2,4] y) { y = own.f(x) } " + body
    refused(parse(text), "'x'", "function 'own.f'")


def test_an_output_nobody_makes() -> None:
    model = relu()
    model.graph.output[0].name = "gone"
    refused(model, "output 'gone' is made by nothing")


def test_an_output_without_a_name() -> None:
    model = relu()
    model.graph.output.add()
    refused(model, "output has no name")


def test_an_input_without_a_name() -> None:
    model = relu()
    model.graph.input.append(value(""))
    refused(model, "input has no name")


@pytest.mark.parametrize("output", ["x", "p", "gone"])
def test_a_subgraph_output_from_outside(output: str) -> None:
    refused(branch("t = Relu(x)", output), f"output '{output}'", "Identity")


def test_a_function_output_nobody_makes() -> None:
    body = '<domain: "own", opset_import: ["": 17]> f (a) => (b) { c = Relu(a) }'
    text = WITH_FUNCTIONS + "g (float[2,4] x) => (float[2,4] y) { y = own.f(x) } " + body
    refused(parse(text), "output 'b'")


def test_outputs_may_be_inputs_and_initializers() -> None:
    model = relu()
    model.graph.initializer.append(make_weight())
    model.graph.output.extend([value("x"), value("w")])
    clean(model)


@pytest.mark.parametrize("name", ["x", "w", "p"])
def test_a_subgraph_may_not_make_a_visible_name(name: str) -> None:
    model = branch(f"{name} = Relu(c)", name)
    assert not loads(model)
    refused(model, f"'{name}' is defined twice", "visible")


@pytest.mark.parametrize(("body", "output", "after"), [("z = Relu(x)", "z", ""), ("q = Relu(x)", "q", "q = Exp(z)")])
def test_a_subgraph_may_use_a_later_name_which_is_renamed(body: str, output: str, after: str) -> None:
    model = branch(body, output, after)
    assert loads(model)
    result = repaired(model, "renamed 1 value(s)")
    feeds = {"c": np.array(True), "x": np.arange(-4, 4, dtype=np.float32).reshape(2, 4)}
    (before,), (after_,) = session(model).run(None, feeds), session(result.proto).run(None, feeds)
    np.testing.assert_array_equal(before, after_)


def test_a_subgraph_initializer_that_hides_one_outside_is_renamed() -> None:
    model = branch("t = Add(x, w)", "t", after="u = Neg(w)")
    hidden = model.graph.node[1].attribute[0].g.initializer.add()
    hidden.CopyFrom(make_weight())
    hidden.raw_data = np.full((2, 4), 5, np.float32).tobytes()
    result = repaired(model, "renamed 1 value(s)")
    feeds = {"c": np.array(True), "x": np.zeros((2, 4), np.float32)}
    np.testing.assert_array_equal(session(result.proto).run(None, feeds)[0], np.full((2, 4), 5, np.float32))


def test_sibling_subgraphs_may_share_names() -> None:
    clean(_named(branch("e = Relu(x)", "e")))


def test_subgraph_inputs_that_carry_meaning_keep_their_names() -> None:
    """Operators of other domains may look their subgraph's inputs up by name."""
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["t"], name="r")], "body", [value("x")], [value("t")])
    node = helper.make_node("Search", ["x"], ["y"], domain="custom", body=inner)
    clean(model_of([node], [value("x")], [value("y")], opsets=(("", 17), ("custom", 1))))


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    number = 0
    for node in model.graph.node:
        for attribute in node.attribute:
            for inner in attribute.g.node:
                inner.name = f"inner{number}"
                number += 1
    return model


def test_nodes_without_a_name_get_one_that_counts_as_no_repair() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { a = Relu(x) b = Abs(a) y = Neg(b) }")
    model.graph.node[0].name, model.graph.node[1].name, model.graph.node[2].name = "", "n1", ""
    clean(model)
    model.graph.node[2].name = "n1"
    result = repaired(model, "renamed 1 node(s)")
    names = [node.name for node in result.proto.graph.node]
    assert names[1] == "n1"
    assert all(names)
    assert len(set(names)) == 3
    assert result.generated_names == {names[0]}


UNNAMED = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (bool c, float[2,4] x) => (float[2,4] y) { a = local.f (c, x) b = Abs(a) y = Neg(b) }
<domain: "local", opset_import: ["": 17]>
f (c, v) => (r) { p = Tanh(v)
  r = If (c) <then_branch = t () => (float[2,4] o) { o = Relu(p) }, else_branch = e () => (float[2,4] q) { q = Abs(p) }>
}"""


def test_unnamed_nodes_come_back_unnamed(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(UNNAMED)
    model.graph.node[1].name = "n1"
    onnx.save(model, tmp_path / "m.onnx")
    result = read_model(tmp_path / "m.onnx")
    assert result.repairs == ()
    assert result.generated_names
    assert "n1" not in result.generated_names
    made = ir.from_proto(result.proto, generated_names=result.generated_names)
    assert all(node.name for node in ir.walk(made))
    written = ir.to_proto(made)
    assert [node.name for node in written.graph.node] == ["", "n1", ""]
    inner = [*written.functions[0].node, *(attr.g.node[0] for attr in written.functions[0].node[1].attribute)]
    assert [node.name for node in inner] == [""] * 4


def test_duplicate_node_names_are_made_unique() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { a = Relu(x) b = Abs(a) y = Neg(b) }")
    model.graph.node[0].name = model.graph.node[1].name = "same"
    result = repaired(model, "renamed 1 node(s)")
    names = [node.name for node in result.proto.graph.node]
    assert names[0] == "same"
    assert len(set(names)) == 3


def test_node_names_are_unique_across_subgraphs() -> None:
    model = _named(branch("t = Relu(x)", "t"))
    model.graph.node[1].attribute[0].g.node[0].name = model.graph.node[0].name
    repaired(model, "renamed 1 node(s)")


def test_a_graph_without_a_name_gets_one() -> None:
    model = relu()
    model.graph.name = ""
    assert repaired(model, "named the graph").proto.graph.name
