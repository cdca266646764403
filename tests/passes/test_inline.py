import numpy as np
import onnx

from accelc import ir, structure
from accelc.pass_base import run_pass
from accelc.passes.inline import Inline
from accelc.testing import context, same_numbers

HEAD = '<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x) => (float[2] y)'
CALLS = '<domain: "f", opset_import: ["": 20, "f": 1]>'
DOMAIN = '<domain: "f", opset_import: ["": 20]>'


def inlined(source: str, changes: int, **options) -> ir.Model:
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    ctx = context()
    assert run_pass(Inline(**options), model, ctx).changes == changes
    structure.check(model)
    feeds = {"x": np.array([1.5, -2.0], np.float32)}
    same_numbers(before, ir.to_proto(model).SerializeToString(), feeds, exact=True)
    model.meta["notes"] = ctx.notes
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_one_call():
    model = inlined(f"{HEAD} {{ a = f.g(x)  y = Neg(a) }} {DOMAIN} g (p) => (q) {{ r = Exp(p)  q = Abs(r) }}", 1)
    assert operators(model) == ["Exp", "Abs", "Neg"]
    assert not model.functions
    assert model.graph.outputs[0].name == "y"


def test_names_stay_unique():
    model = inlined(f"{HEAD} {{ r = f.g(x)  q = f.g(r)  y = Neg(q) }} {DOMAIN} g (p) => (q) {{ q = Exp(p) }}", 2)
    names = [value.name for node in model.graph for value in node.outputs]
    assert len(set(names)) == len(names) == 3


def test_nested_calls():
    model = inlined(
        f"{HEAD} {{ y = f.g(x) }} {CALLS} g (p) => (q) {{ q = f.h(p) "
        f"}} {DOMAIN} h (s) => (t) {{ u = Exp(s)  t = Neg(u) }}",
        2,
    )
    assert operators(model) == ["Exp", "Neg"]


def test_large_body_called_often_is_kept():
    body = "Constant<value = float[64] {" + ", ".join(["1.0"] * 64) + "}>()"
    source = f"""{HEAD} {{ a = f.g(x)  b = f.g(a)  y = Neg(b) }}
    {DOMAIN} g (p) => (q) {{ k = {body}  m = ReduceSum(k)  q = Add(p, m) }}"""
    assert operators(inlined(source.replace("(p) => (q)", "(p) => (q)"), 0)) == ["g", "g", "Neg"]
    assert len(inlined(source, 2, growth=10000).functions) == 0


def test_attributes_and_defaults():
    source = f"""{HEAD} {{ a = f.g<alpha = 0.5>(x)  b = f.g(a)  y = Neg(b) }}
    <domain: "f", opset_import: ["": 20]> g <alpha: float = 0.25> (p) => (q)
        {{ q = LeakyRelu<alpha: float = @alpha>(p) }}"""
    model = inlined(source, 2)
    assert [round(ir.attribute(node, "alpha"), 3) for node in list(model.graph)[:2]] == [0.5, 0.25]


def test_attribute_left_out_falls_back_to_the_operator():
    source = f"""{HEAD} {{ a = f.g(x)  y = Neg(a) }}
    <domain: "f", opset_import: ["": 20]> g <alpha> (p) => (q) {{ q = LeakyRelu<alpha: float = @alpha>(p) }}"""
    model = inlined(source, 1)
    assert "alpha" not in next(iter(model.graph)).attributes


def test_absent_input_stays_absent():
    source = f"{HEAD} {{ y = f.g(x) }} {DOMAIN} g (p, low) => (q) {{ q = Clip(p, low) }}"
    model = inlined(source, 1)
    assert next(iter(model.graph)).inputs[1] is None


def test_function_that_returns_its_input():
    """An output of the graph keeps its name. (The runtime does not load such a function.)"""
    model = ir.parse(f"{HEAD} {{ y, n = f.g(x) }} {DOMAIN} g (p) => (p, q) {{ q = Neg(p) }}")
    assert run_pass(Inline(), model, context()).changes == 1
    structure.check(model)
    assert operators(model) == ["Identity"]
    assert model.graph.outputs[0].name == "y"


def test_subgraphs_in_bodies_and_calls_in_subgraphs():
    source = f"""<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x, bool c) => (float[2] y) {{
    y = If(c) <then_branch = a () => (float[2] t) {{ t = f.g(x, c) }}, else_branch = b () => (float[2] e)
        {{ e = f.g(x, c) }}> }}
    {DOMAIN} g (p, d) => (q) {{ q = If(d) <then_branch = k () => (u) {{ v = Exp(p)  u = Neg(v) }},
    else_branch = l () => (w) {{ w = Abs(p) }}> }}"""
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(Inline(growth=10000), model, context()).changes == 2
    for flag in (True, False):
        feeds = {"x": np.array([1.5, -2.0], np.float32), "c": np.array(flag)}
        same_numbers(before, ir.to_proto(model).SerializeToString(), feeds, exact=True)


def test_another_opset_is_kept_where_an_operator_changed():
    source = f"""{HEAD} {{ y = f.g(x) }} <domain: "f", opset_import: ["": 12]> g (p) => (q)
        {{ q = ReduceSum<axes = [0]>(p) }}"""
    model = ir.parse(source.replace("(float[2] y)", "(float[1] y)"))
    ctx = context()
    assert run_pass(Inline(), model, ctx).changes == 0
    assert "ReduceSum is from ai.onnx 12" in ctx.notes[0]
    same = source.replace('"": 12', '"": 19').replace("ReduceSum<axes = [0]>", "Exp")
    assert operators(inlined(same, 1)) == ["Exp"]


def test_functions_that_call_each_other_in_a_circle_are_left_alone():
    source = f"{HEAD} {{ y = f.g(x) }} {CALLS} g (p) => (q) {{ q = f.h(p) }} {CALLS} h (p) => (q) {{ q = f.g(p) }}"
    model = ir.from_proto(onnx.parser.parse_model(source))
    assert run_pass(Inline(), model, context()).changes == 0
