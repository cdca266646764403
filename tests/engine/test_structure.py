"""The check after every pass finds each fault it promises to find, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accelc import ir, structure
from accelc.errors import PassError

SOURCE = """<ir_version: 10, opset_import: ["": 20], metadata_props: ["author": "someone"]>
main (bool c, float[N] a, float[1] v = {1}) => (float[N] r, float[N] s) <float[1] w = {2}> {
    n = Mul(a, w)
    r = If(c) <
        then_branch = g () => (float[N] u) { t = Neg(n)  u = Abs(t) },
        else_branch = h () => (float[N] e) { e = Exp(n) }
    >
    s = Add(a, v)
}"""


@pytest.fixture
def model() -> ir.Model:
    return ir.parse(SOURCE)


def value(model: ir.Model, name: str) -> ir.Value:
    for graph in ir.all_graphs(model):
        for each in [*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)]:
            if each.name == name:
                return each
    raise KeyError(name)


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(each for each in ir.walk(model) if each.op_type == op_type)


def test_a_sound_model_passes(model: ir.Model) -> None:
    structure.check(model, structure.contract(model))


def test_the_contract_lists_what_callers_rely_on(model: ir.Model) -> None:
    contract = structure.contract(model)
    assert [(port.name, port.dims, port.optional) for port in contract.inputs] == [
        ("c", (), False),
        ("a", ("N",), False),
        ("v", (1,), True),
    ]
    assert [port.name for port in contract.outputs] == ["r", "s"]
    assert contract.metadata == (("author", "someone"),)


def _rename_output(model: ir.Model) -> None:
    model.graph.outputs[0].name = "other"


def _swap_outputs(model: ir.Model) -> None:
    first, second = model.graph.outputs[0], model.graph.outputs[1]
    model.graph.outputs[:] = [second, first]


def _drop_output(model: ir.Model) -> None:
    del model.graph.outputs[1]


def _rename_input(model: ir.Model) -> None:
    value(model, "a").name = "image"


def _drop_input(model: ir.Model) -> None:
    cond = value(model, "c")
    node(model, "If").replace_input_with(0, value(model, "v"))
    model.graph.inputs.remove(cond)


def _fix_dimension(model: ir.Model) -> None:
    value(model, "a").shape = ir.Shape([4])


def _forget_output_shape(model: ir.Model) -> None:
    model.graph.outputs[0].shape = None


def _retype_output(model: ir.Model) -> None:
    model.graph.outputs[1].type = ir.TensorType(ir.DataType.DOUBLE)


def _drop_default(model: ir.Model) -> None:
    model.graph.initializers.pop("v")


def _drop_metadata(model: ir.Model) -> None:
    model.metadata_props.clear()


def _change_metadata(model: ir.Model) -> None:
    model.metadata_props["author"] = "nobody"


def _duplicate_name(model: ir.Model) -> None:
    value(model, "n").name = "a"


def _duplicate_name_in_subgraph(model: ir.Model) -> None:
    value(model, "t").name = "n"


def _same_name_in_both_branches(model: ir.Model) -> None:
    value(model, "e").name = "t"


def _dead_weight(model: ir.Model) -> None:
    node(model, "Mul").replace_input_with(1, value(model, "a"))


def _wrong_order(model: ir.Model) -> None:
    mul, last = node(model, "Mul"), node(model, "Add")
    model.graph.remove(mul)
    model.graph.insert_after(last, mul)


def _dangling_use(model: ir.Model) -> None:
    node(model, "Add").replace_input_with(0, ir.Value(name="nowhere"))


def _dangling_use_in_subgraph(model: ir.Model) -> None:
    node(model, "Neg").replace_input_with(0, ir.Value(name="nowhere"))


def _use_from_inside_a_branch(model: ir.Model) -> None:
    node(model, "Add").replace_input_with(0, value(model, "t"))


def _use_from_the_other_branch(model: ir.Model) -> None:
    node(model, "Exp").replace_input_with(0, value(model, "t"))


def _removed_producer(model: ir.Model) -> None:
    model.graph.remove(node(model, "Add"))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_rename_output, r"changed the outputs from \(r, s\) to \(other, s\)"),
        (_swap_outputs, r"changed the outputs from \(r, s\) to \(s, r\)"),
        (_drop_output, r"changed the outputs from \(r, s\) to \(r\)"),
        (_rename_input, r"changed the inputs from \(c, a, v\) to \(c, image, v\)"),
        (_drop_input, r"changed the inputs from \(c, a, v\) to \(a, v\)"),
        (_fix_dimension, r"changed input a from .*\['N'\] to .*\[4\]"),
        (_forget_output_shape, "changed output r from .* to .* of unknown rank"),
        (_retype_output, "changed output s from .*FLOAT.* to .*DOUBLE"),
        (_drop_default, r"changed input v from .* with a default to .*\[1\]$"),
        (_drop_metadata, "dropped the metadata author"),
        (_change_metadata, "dropped the metadata author"),
        (_duplicate_name, "two values are named a"),
        (_duplicate_name_in_subgraph, "two values are named n"),
        (_same_name_in_both_branches, "two values are named t"),
        (_dead_weight, "left the weight w, which nothing uses"),
        (_wrong_order, "uses n before anything defines it"),
        (_dangling_use, r"\(Add\): uses nowhere before anything defines it"),
        (_dangling_use_in_subgraph, r"\(Neg\): uses nowhere before anything defines it"),
        (_use_from_inside_a_branch, "uses t before anything defines it"),
        (_use_from_the_other_branch, "uses t before anything defines it"),
        (_removed_producer, "nothing defines the output s"),
    ],
)
def test_each_fault_is_found(model: ir.Model, fault: Callable[[ir.Model], None], said: str) -> None:
    expected = structure.contract(model)
    fault(model)
    with pytest.raises(PassError, match=said):
        structure.check(model, expected)


def test_new_metadata_is_welcome(model: ir.Model) -> None:
    expected = structure.contract(model)
    model.metadata_props["accelc"] = "more"
    structure.check(model, expected)


def test_functions_are_checked_and_have_names_of_their_own() -> None:
    model = ir.parse(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] a) => (float[2] r) { r = f.F(a) }
        <domain: "f", opset_import: ["": 20]> F (a) => (r) { n = Neg(a) r = Abs(n) }"""
    )
    structure.check(model)
    (function,) = model.functions.values()
    function.graph[1].replace_input_with(0, ir.Value(name="nowhere"))
    with pytest.raises(PassError, match="uses nowhere before anything defines it"):
        structure.check(model)


def test_a_subgraph_may_return_an_outer_value(model: ir.Model) -> None:
    branch = node(model, "Exp").graph
    assert branch is not None
    branch.outputs[0] = value(model, "n")
    structure.check(model, structure.contract(model))
