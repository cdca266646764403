import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from accelc import ir, structure
from accelc.context import Context, Fuel, Settings
from accelc.pass_base import run_pass
from accelc.passes.fold import Fold
from accelc.target import Target
from accelc.testing import check, run, same_arrays, same_numbers


@pytest.fixture
def ctx(runner):
    return Context(Target.cpu(), Settings(), runner=runner)


def folded(source: str, ctx: Context, changes: int | None = None, **options) -> ir.Model:
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    result = run_pass(Fold(**options), model, ctx)
    structure.check(model)
    assert changes is None or result.changes == changes, ir.text(model)
    if changes == 0:
        assert ir.to_proto(model).SerializeToString() == before
    return model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in ir.walk(model)]


def test_chain_becomes_one_constant(ctx):
    check(
        Fold(),
        "(float[2] x) => (float[2] y) "
        "<float[2] v = {1, 2}, float[2] w = {0.1, 3}> { a = Add(v, w)  b = Exp(a)  y = Mul(x, b) }",
        "(float[2] x) => (float[2] y) <float[2] b = {3.00416602, 148.413159}> { y = Mul(x, b) }",
        ctx=ctx,
    )


def test_constant_output_keeps_its_name(ctx):
    model = folded("(float[2] x) => (float[2] y, float[2] z) <float[2] v = {1, 2}> { y = Exp(v)  z = Neg(x) }", ctx, 1)
    assert sorted(operators(model)) == ["Constant", "Neg"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]
    assert not model.graph.initializers


def test_in_a_branch_with_constants_from_outside(ctx):
    model = folded(
        """(bool c, float[2] x) => (float[2] y) <float[2] v = {1, 2}> {
        y = If(c) <then_branch = a () => (float[2] t) { k = Exp(v)  t = Add(x, k) },
                   else_branch = b () => (float[2] e) { e = Neg(x) }> }""",
        ctx,
        1,
    )
    assert operators(model) == ["If", "Add", "Neg"]
    assert not model.graph.initializers


def test_in_a_function_the_result_is_a_node(ctx):
    model = folded(
        """<ir_version: 10, opset_import: ["": 20, "f": 1]> main (float[2] x) => (float[2] y) { y = f.g(x) }
        <domain: "f", opset_import: ["": 20]> g (p) => (q)
        { k = Constant<value = float[2] {1.0, 2.0}>()  l = Exp(k)  q = Add(p, l) }""",
        ctx,
        1,
    )
    (function,) = model.functions.values()
    assert [node.op_type for node in function.graph] == ["Constant", "Add"]


def test_sizes_that_depend_on_values_are_found_in_rounds(ctx):
    """Shape arithmetic decides the size of Expand, whose result decides the size of Range."""
    model = folded(
        """(int64[N] x) => (int64[N] y) <float[3,2] w = {1, 2, 3, 4, 5, 6}, int64[1] one = {1}, int64 i = {0}> {
        s = Shape(w)  n = Gather(s, i)  n1 = Unsqueeze(n, one2)  e = Expand(one, n1)  r = ReduceSum<keepdims = 0>(e)
        k = Range(i, r, one0)  y = Add(x, k) }""".replace("one2", "z")
        .replace("one0", "u")
        .replace("int64 i = {0}", "int64 i = {0}, int64[1] z = {0}, int64 u = {1}"),
        ctx,
        1,
    )
    assert operators(model) == ["Add"]
    assert ir.const(next(iter(model.graph)).inputs[1]).tolist() == [0, 1, 2]


def test_unknown_size_that_is_bounded(ctx):
    model = folded(
        "(int64[2,N] x) => (int64[2,N] y) <bool[4] b = {1, 0, 1, 1}> { n = NonZero(b)  y = Mul(x, n) }", ctx, 1
    )
    assert operators(model) == ["Mul"]


STAYS = {
    "random": "(float[2] x) => (float[2] y) <float[2] v = {1, 2}> { r = RandomNormalLike(v)  y = Add(x, r) }",
    "bernoulli": "(float[2] x) => (float[2] y) <float[2] v = {0.1, 0.2}> { r = Bernoulli(v)  y = Add(x, r) }",
    "training dropout": """(float[2] x) => (float[2] y) <float[2] v = {1, 2}, float p = {0.5}, bool t = {1}>
        { r = Dropout(v, p, t)  y = Add(x, r) }""",
    "overridable": "(float[2] x, float[2] v) => (float[2] y) <float[2] v = {1, 2}> { r = Exp(v)  y = Add(x, r) }",
    "dequantized": """(float[2] x) => (float[2] y) <int8[2] v = {1, 2}, float s = {0.5}>
        { r = DequantizeLinear(v, s)  y = Add(x, r) }""",
    "quantized": """(uint8[2] x) => (uint8[2] y) <float[2] v = {1, 2}, float s = {0.5}>
        { r = QuantizeLinear(v, s)  y = Add(x, r) }""",
    "division by zero": """(int32[2] x) => (int32[2] y) <int32[2] v = {1, 2}, int32[2] w = {1, 0}>
        { r = Div(v, w)  y = Add(x, r) }""",
    "remainder by zero": """(int64[2] x) => (int64[2] y) <int64[2] v = {1, 2}, int64[2] w = {1, 0}>
        { r = Mod(v, w)  y = Add(x, r) }""",
    "overflowing division": """(int64 x) => (int64 y) <int64 v = {-9223372036854775808}, int64 w = {-1}>
        { r = Div(v, w)  y = Add(x, r) }""",
    "zero computed before": """(int32 x) => (int32 y) <int32 v = {3}, int32 w = {-3}>
        { d = Add(v, w)  r = Div(v, d)  y = Add(x, r) }""",
    "bloat": """(float[1,1] x) => (float[1000,1000] y) <int64[2] n = {1000, 1000}> { r = ConstantOfShape(n)
        y = Add(x, r) }""",
    "bloat by Tile": """(float[1] x) => (float[N] y) <float[2] v = {1, 2}, int64[1] n = {9000}>
        { r = Tile(v, n)  y = Add(x, r) }""",
    "unknown domain": """<ir_version: 10, opset_import: ["": 20, "my.domain": 1]> g (float[2] x) => (float[2] y)
        <float[2] v = {1, 2}> { r = my.domain.Next(v)  y = Add(x, r) }""",
    "endless loop": """(float x) => (float y) <int64 m = {4611686018427387904}, bool c = {1}, float s = {1}> {
        l = Loop(m, c, s) <body = b (int64 i, bool k, float p) => (bool k2, float q) { k2 = Identity(k)  q = Neg(p) }>
        y = Add(x, l) }""",
    "sequence": """(float[2] x) => (float[2] y) <float[2] v = {1, 2}, int64 i = {0}>
        { q = SequenceConstruct(v)  e = SequenceAt(q, i)  y = Add(x, e) }""",
}


@pytest.mark.parametrize("graph", STAYS.values(), ids=STAYS.keys())
def test_stays(graph, ctx):
    if "d = Add(v, w)" in graph:
        assert "Div" in operators(folded(graph, ctx))
    else:
        folded(graph, ctx, 0)


def test_safe_integer_division_is_folded(ctx):
    model = folded(
        "(int32[2] x) => (int32[2] y) <int32[2] v = {-7, 2}, int32[2] w = {2, -1}> { r = Div(v, w)  y = Add(x, r) }",
        ctx,
        1,
    )
    assert ir.const(next(iter(model.graph)).inputs[1]).tolist() == [-3, -2]


def weights(**arrays) -> list[onnx.TensorProto]:
    return [numpy_helper.from_array(array, name) for name, array in arrays.items()]


def graph_of(nodes, dtype, shape, inits) -> ir.Model:
    infos = [[helper.make_tensor_value_info(name, dtype, shape)] for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *infos, inits), ir_version=10, opset_imports=[helper.make_opsetid("", 20)]
    )
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


BIG = np.arange(10000, dtype=np.float32).reshape(100, 100)


def test_a_result_as_large_as_the_weight_that_dies_is_kept(ctx):
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("Add", ["x", "t"], ["y"])]
    model = graph_of(nodes, TensorProto.FLOAT, [100, 100], weights(w=BIG))
    assert run_pass(Fold(), model, ctx).changes == 1
    assert ir.initializer_bytes(model) == BIG.nbytes


def test_a_weight_that_lives_on_pays_for_nothing(ctx):
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Add", ["w", "t"], ["u"]),
        helper.make_node("Add", ["x", "u"], ["v"]),
        helper.make_node("Mul", ["v", "w"], ["y"]),
    ]
    model = graph_of(nodes, TensorProto.FLOAT, [100, 100], weights(w=BIG))
    assert run_pass(Fold(), model, ctx).changes == 0


def test_a_larger_type_is_not_kept_but_what_is_small_behind_it_is(ctx):
    inits = weights(w=BIG.astype(np.int8), r=np.array([0, 1]))
    nodes = [
        helper.make_node("Cast", ["w"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["v"]),
        helper.make_node("ReduceSum", ["f", "r"], ["s"]),
        helper.make_node("Mul", ["v", "s"], ["y"]),
    ]
    model = graph_of(nodes, TensorProto.FLOAT, [100, 100], inits)
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(Fold(), model, ctx).changes == 1
    assert operators(model) == ["Cast", "Add", "Mul"]
    same_numbers(before, ir.to_proto(model).SerializeToString(), {"x": BIG}, exact=True)


def test_a_chain_whose_end_is_too_large_is_folded_up_to_there(ctx):
    nodes = [
        helper.make_node("Add", ["n", "m"], ["k"]),
        helper.make_node("ConstantOfShape", ["k"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = graph_of(nodes, TensorProto.FLOAT, [100, 100], weights(n=np.array([50, 50]), m=np.array([50, 50])))
    assert run_pass(Fold(), model, ctx).changes == 1
    assert operators(model) == ["ConstantOfShape", "Add"]


def test_large_weights_are_not_loaded(ctx):
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("Add", ["x", "t"], ["y"])]
    model = graph_of(nodes, TensorProto.FLOAT, [100, 100], weights(w=BIG))
    assert run_pass(Fold(max_bytes=BIG.nbytes - 1), model, ctx).changes == 0


def test_what_fails_stays_and_the_rest_is_folded(ctx):
    """An index out of range is found by halving; nothing else suffers."""
    model = folded(
        """(float[2] x) => (float[2] y) <float[3] v = {1, 2, 3}, int64[2] bad = {0, 7}, int64[2] good = {0, 2}> {
        a = Exp(v)  g = GatherElements(a, bad)  h = GatherElements(a, good)  n = Neg(h)  m = Add(g, n)
            y = Add(x, m) }""",
        ctx,
    )
    assert "GatherElements" in operators(model)
    assert "Neg" not in operators(model)
    assert any("GatherElements" in note and "not folded" in note for note in ctx.notes)


def test_time_is_bounded(ctx):
    model = folded(
        "(float[2] x) => (float[2] y) <float[2] v = {1, 2}> { a = Exp(v)  y = Add(x, a) }", ctx, 0, seconds=0.0
    )
    assert operators(model) == ["Exp", "Add"]
    assert "constants stay unfolded" in ctx.notes[0]


def test_strings(ctx):
    source = """(string[2] x) => (string[2] y) <string[1] a = {"a"}, string[2] b = {"b", "c"}>
        { k = StringConcat(a, b)  y = StringConcat(x, k) }"""
    model = folded(source, ctx, 1)
    (result,) = run(ir.to_proto(model).SerializeToString(), {"x": np.array(["", "x"], object)})
    assert result.tolist() == ["ab", "xac"]


def test_fuel_and_disabled_rules(runner):
    source = (
        "(float[2] x) => (float[2] y) <float[2] v = {1, 2}> { a = Exp(v)  b = Neg(v)  c = Add(x, a)  y = Mul(c, b) }"
    )
    limited = Context(Target.cpu(), fuel=Fuel(1), runner=runner)
    assert operators(folded(source, limited, 1)) == ["Neg", "Add", "Mul"]
    disabled = Context(Target.cpu(), Settings(disabled=frozenset({"fold_Exp"})), runner=runner)
    assert operators(folded(source, disabled, 1)) == ["Exp", "Add", "Mul"]


UNARY = ["Exp", "Neg", "Sqrt", "Erf", "Tanh", "Reciprocal", "Sigmoid", "Floor", "Softmax", "Transpose", "Identity"]
BINARY = ["Add", "Sub", "Mul", "Div", "Max", "Pow", "MatMul"]


@st.composite
def expressions(draw) -> onnx.ModelProto:
    """A random expression of 3x3 constants, some of whose values meet the input x."""
    value = st.floats(width=32) | st.sampled_from([0.0, -0.0, 1.0, np.inf, -np.inf, np.nan])
    count = draw(st.integers(1, 3))
    inits = weights(
        **{
            f"w{i}": np.array(draw(st.lists(value, min_size=9, max_size=9)), np.float32).reshape(3, 3)
            for i in range(count)
        }
    )
    names, nodes = [init.name for init in inits], []
    for index in range(draw(st.integers(1, 7))):
        op_type = draw(st.sampled_from(UNARY + BINARY))
        inputs = [draw(st.sampled_from(names)) for _ in range(2 if op_type in BINARY else 1)]
        nodes.append(helper.make_node(op_type, inputs, [f"v{index}"], name=f"n{index}"))
        names.append(f"v{index}")
    ends = draw(st.lists(st.sampled_from(names[count:]), min_size=1, max_size=3, unique=True))
    nodes += [helper.make_node("Concat", ["x", end], [f"y{i}"], name=f"c{i}", axis=0) for i, end in enumerate(ends)]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [4, 3]) for i in range(len(ends))]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        outputs,
        [i for i in inits if i.name in used],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expressions())
def test_the_result_is_what_the_runtime_computes(runner, proto):
    from accelc.passes.dce import Dce

    feeds = {"x": np.ones((1, 3), np.float32)}
    wanted = run(proto.SerializeToString(), feeds)
    model = ir.from_proto(proto)
    ctx = Context(Target.cpu(), runner=runner)
    Dce().run(model, ctx)
    run_pass(Fold(), model, ctx)
    assert {node.op_type for node in model.graph} == {"Concat"}
    for old, new in zip(wanted, run(ir.to_proto(model).SerializeToString(), feeds), strict=True):
        same_arrays(old, new, exact=True)
