"""Opset imports, operators, attributes, functions."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from import_helpers import WITH_FUNCTIONS, clean, loads, model_of, parse, refused, relu, repaired, session, value
from onnx import helper

from accelc.importer import import_proto

F = '<domain: "own", opset_import: ["": 17]> f (a) => (b) { b = Relu(a) } '


def _with(opsets: list[tuple[str, int]], op: str = "Relu", domain: str = "") -> onnx.ModelProto:
    node = helper.make_node(op, ["x"], ["y"], domain=domain)
    return model_of([node], [value("x")], [value("y")], opsets=tuple(opsets))


def _calls(text: str, functions: str) -> onnx.ModelProto:
    return parse(f"{WITH_FUNCTIONS} g (float[2,4] x) => (float[2,4] y) {{ {text} }} {functions}")


# --- opsets


@pytest.mark.parametrize(("version", "words"), [(0, "does not exist"), (-1, "does not exist"), (999, "too new")])
def test_opsets_that_do_not_exist(version: int, words: str) -> None:
    refused(_with([("", version)]), f"opset {version}", words)


def test_a_runtime_domain_that_does_not_exist_yet() -> None:
    refused(_with([("", 17), ("com.microsoft", 5)]), "com.microsoft", "too new")


def test_one_domain_at_two_versions() -> None:
    refused(_with([("", 17), ("", 13)]), "two versions", "17 and 13")


def test_one_domain_at_two_versions_under_two_names() -> None:
    refused(_with([("", 17), ("ai.onnx", 13)]), "two versions")


def test_a_domain_imported_twice_is_imported_once() -> None:
    result = repaired(_with([("", 17), ("", 17)]), "removed 1 duplicate opset import(s)")
    assert len(result.proto.opset_import) == 1


def test_the_other_name_of_the_default_domain() -> None:
    result = repaired(_with([("ai.onnx", 17)], domain="ai.onnx"), "'ai.onnx'")
    assert result.proto.opset_import[0].domain == ""
    assert result.proto.graph.node[0].domain == ""


def test_a_known_domain_that_is_not_imported() -> None:
    result = repaired(_with([("", 17)], "Gelu", "com.microsoft"), "imported the domain 'com.microsoft' at version 1")
    assert loads(result.proto)


def test_the_ml_domain_that_is_not_imported() -> None:
    result = repaired(_with([("", 17)], "Normalizer", "ai.onnx.ml"), "imported the domain 'ai.onnx.ml'")
    assert loads(result.proto)


def test_the_default_domain_that_is_not_imported_means_what_the_runtime_takes_it_for() -> None:
    model = _with([("com.microsoft", 1)], "Softmax")
    result = repaired(model, "imported the domain 'ai.onnx'")
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}
    np.testing.assert_array_equal(session(model).run(None, feeds)[0], session(result.proto).run(None, feeds)[0])


def test_no_opset_at_all() -> None:
    model = relu()
    del model.opset_import[:]
    refused(model, "imports no operator set")


def test_no_opset_in_a_model_of_ir_version_1_means_opset_1() -> None:
    model = parse("g (float[2,4] x) => (float[2,4] y) { y = Identity(x) }")
    del model.opset_import[:]
    model.ir_version = 1
    result = repaired(model, "imported opset 1")
    assert result.proto.opset_import[0].version == 1


def test_a_custom_domain_that_is_not_imported() -> None:
    refused(_with([("", 17)], "Magic", "com.acme"), "com.acme.Magic", "not imported")


def test_a_custom_domain_passes_untouched() -> None:
    model = _with([("", 17), ("com.acme", 3)], "Magic", "com.acme")
    model.graph.node[0].attribute.add(name="level", type=onnx.AttributeProto.INT, i=3)
    clean(model)


def test_what_follows_a_custom_operator_is_not_held_against_it() -> None:
    nodes = [helper.make_node("Magic", ["x"], ["t"], domain="com.acme"), helper.make_node("Relu", ["t"], ["y"])]
    clean(model_of(nodes, [value("x")], [value("y")], opsets=(("", 17), ("com.acme", 1))))


def test_an_import_nobody_uses_is_kept() -> None:
    clean(_with([("", 17), ("com.acme", 0)]))


# --- operators


def test_an_unknown_operator() -> None:
    refused(_with([("", 17)], "Reluu"), "no operator Reluu", "did you mean Relu?")


def test_an_unknown_operator_of_the_runtime() -> None:
    refused(_with([("", 17), ("com.microsoft", 1)], "Gelluu", "com.microsoft"), "no operator Gelluu", "com.microsoft")


def test_an_operator_newer_than_the_opset() -> None:
    refused(_with([("", 17)], "Gelu"), "newer than the opset", "version 20")


def test_an_operator_that_no_longer_exists() -> None:
    refused(_with([("", 17)], "Upsample"), "no longer exists")


def test_an_operator_the_runtime_has_in_an_older_opset() -> None:
    text = '<ir_version: 7, opset_import: ["": 11]> g (float[2,4] x, float[4] s) => (float[2,4] y) { y = %s(x, s) }'
    model = parse(text % "LayerNormalization")
    assert loads(model)
    clean(model)


def test_no_operator() -> None:
    refused(_with([("", 17)], ""), "names no operator")


@pytest.mark.parametrize(("inputs", "outputs"), [(["x", "x", "x"], ["y"]), ([], ["y"]), (["x"], ["y", "z"])])
def test_wrong_arity(inputs: list[str], outputs: list[str]) -> None:
    refused(model_of([helper.make_node("Relu", inputs, outputs)], [value("x")], [value("y")]), "wrong number of")


def test_no_outputs() -> None:
    nodes = [helper.make_node("Relu", ["x"], []), helper.make_node("Abs", ["x"], ["y"])]
    refused(model_of(nodes, [value("x")], [value("y")]), "wrong number of outputs")


def test_an_empty_name_where_an_input_is_needed() -> None:
    refused(model_of([helper.make_node("Add", ["x", ""], ["y"])], [value("x")], [value("y")]), "Add")


def test_empty_names_of_optional_inputs() -> None:
    nodes = [helper.make_node("Clip", ["x", "", "top"], ["y"])]
    top = helper.make_tensor("top", onnx.TensorProto.FLOAT, [], [1.0])
    clean(model_of(nodes, [value("x")], [value("y")], (top,)))


# --- attributes


def _transpose(**attributes: object) -> onnx.ModelProto:
    node = helper.make_node("Transpose", ["x"], ["y"], **attributes)
    return model_of([node], [value("x")], [value("y", shape=(4, 2))])


def test_a_wrong_attribute_type() -> None:
    refused(_transpose(perm="10"), "'perm'", "STRING where INTS")
    refused(_transpose(perm=1), "'perm'", "INT where INTS")


def test_an_attribute_without_a_type() -> None:
    model = _transpose(perm=[1, 0])
    model.graph.node[0].attribute[0].ClearField("type")
    refused(model, "'perm'", "wrong type")


def test_an_attribute_with_two_values() -> None:
    model = _transpose(perm=[1, 0])
    model.graph.node[0].attribute[0].s = b"x"
    refused(model, "Transpose", "perm")


def test_an_unknown_attribute() -> None:
    refused(_transpose(perm=[1, 0], axes=[1]), "no attribute 'axes'")


def test_an_attribute_given_twice() -> None:
    model = _transpose(perm=[1, 0])
    model.graph.node[0].attribute.append(model.graph.node[0].attribute[0])
    refused(model, "'perm' is given twice")


def test_a_missing_attribute() -> None:
    refused(parse("g (float[2,4] x) => (float[2,4] y) { y = Cast(x) }"), "'to' is missing")


def test_a_function_attribute_outside_a_function() -> None:
    model = _transpose(perm=[1, 0])
    model.graph.node[0].attribute[0].ref_attr_name = "order"
    refused(model, "'order' of a function")


# --- functions


def test_functions() -> None:
    clean(_calls("t = own.f(x) y = own.f(t)", F))


def test_a_function_may_be_of_the_default_domain() -> None:
    clean(_calls("y = Relu(x)", '<domain: "", opset_import: ["": 17]> Relu (a) => (b) { b = Abs(a) }'))


def test_a_function_with_attributes() -> None:
    body = '<domain: "own", opset_import: ["": 17]> f <alpha>(a) => (b) { b = LeakyRelu <alpha: float = @alpha>(a) }'
    clean(_calls("y = own.f <alpha = 0.5>(x)", body))


def test_overloads_are_two_functions() -> None:
    model = _calls("t = own.f(x) y = own.f(t)", F + F.replace("Relu", "Abs"))
    model.functions[1].overload = model.graph.node[1].overload = "second"
    model.ir_version = 10
    clean(model)


def test_a_function_defined_twice() -> None:
    refused(_calls("y = own.f(x)", F + F), "'own.f' is defined twice")


@pytest.mark.parametrize("call", ["y = own.f(x, x)", "y, z = own.f(x)"])
def test_a_function_called_with_too_much(call: str) -> None:
    refused(_calls(call, F), "own.f", "the function takes 1")


def test_a_function_called_with_too_little() -> None:
    refused(_calls("y = own.f()", F), "node0")


def test_a_function_with_an_optional_input() -> None:
    body = '<domain: "own", opset_import: ["": 17]> f (a, top) => (b) { b = Clip(a, , top) }'
    model = _calls("y = own.f(x)", body)
    assert loads(model)
    clean(model)


@pytest.mark.parametrize("call", ["y = own.f(x)", "y = Relu(x)"])
def test_a_function_that_calls_itself(call: str) -> None:
    body = '<domain: "own", opset_import: ["": 17, "own": 1]> f (a) => (b) { b = own.f(a) }'
    refused(_calls(call, body), "calls itself", "own.f -> own.f")


def test_functions_that_call_each_other() -> None:
    first = '<domain: "own", opset_import: ["": 17, "own": 1]> f (a) => (b) { b = own.g(a) }'
    second = '<domain: "own", opset_import: ["": 17, "own": 1]> g (a) => (b) { b = own.f(a) }'
    refused(_calls("y = own.f(x)", first + second), "calls itself", "own.f -> own.g -> own.f")


def test_many_functions_that_call_each_the_next() -> None:
    head = '<domain: "own", opset_import: ["": 17, "own": 1]> '
    bodies = [head + f"f{i} (a) => (b) {{ b = own.f{i + 1}(a) }}" for i in range(60)]
    clean(_calls("y = own.f0(x)", " ".join(bodies) + F.replace("> f ", "> f60 ")))


def test_an_unknown_operator_in_a_function() -> None:
    refused(_calls("y = own.f(x)", F.replace("Relu", "Reluu")), "no operator Reluu")


def test_a_function_domain_that_is_not_imported() -> None:
    model = _calls("y = own.f(x)", F)
    del model.opset_import[1]
    assert loads(repaired(model, "imported the domain 'own' at version 1").proto)


def test_a_function_that_imports_nothing() -> None:
    model = _calls("y = own.f(x)", F)
    del model.functions[0].opset_import[:]
    result = repaired(model, "imported the domain 'ai.onnx' at version 17 in function 'own.f'")
    assert loads(result.proto)


def test_every_operator_of_a_big_model_is_looked_at() -> None:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    nodes[2999].op_type = "Nothing"
    refused(model_of(nodes, [value("v0")], [value("v3000")]), "no operator Nothing", "node2999")


def test_a_model_without_nodes() -> None:
    assert import_proto(model_of([], [value("x")], [value("x")])).repairs == ()
