"""Fixing input dimensions: what changes, what is refused, and that the model still computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from accelc import ir, structure
from accelc.context import Context, Fuel
from accelc.errors import UsageError
from accelc.pass_base import PassResult, run_pass
from accelc.passes.specialize import Specialize, parse_shapes
from accelc.pipeline import Pipeline
from accelc.testing import context, run

MODEL = (
    "(float[batch,seq,8] x, int64[batch] z) => (float[batch,seq,8] y, float[total,8] w) "
    "{ a = Relu(x) y = Neg(a) k = Constant<value_ints = [-1, 8]>() w = Reshape(a, k) }"
)


def specialized(
    text: str, shapes: dict[str, Sequence[int | str]], option: str = ""
) -> tuple[ir.Model, Context, PassResult]:
    model = ir.parse(text)
    ctx = context(shapes=shapes)
    ctx.contract = structure.contract(model)
    result = run_pass(Specialize(option), model, ctx)
    structure.check(model, ctx.contract)
    return model, ctx, result


def ports(model: ir.Model) -> dict[str, Any]:
    return {str(v.name): ir.dims(v) for v in [*model.graph.inputs, *model.graph.outputs]}


def test_an_inputs_shape_is_fixed_everywhere() -> None:
    model, _, result = specialized(MODEL, {"x": [2, 5, 8]})
    assert ports(model) == {"x": (2, 5, 8), "z": (2,), "y": (2, 5, 8), "w": (10, 8)}
    assert {ir.dims(v) for node in model.graph for v in node.outputs if v.name == "a"} == {(2, 5, 8)}
    assert result.changes == 2
    assert "batch=2" in result.notes[0]
    assert "seq=5" in result.notes[0]


def test_the_contract_follows() -> None:
    model, ctx, _ = specialized(MODEL, {"x": [2, 5, 8]})
    assert ctx.contract == structure.contract(model)
    assert ctx.contract is not None
    assert ctx.contract.inputs[0].dims == (2, 5, 8)


@pytest.mark.parametrize("shapes", [{"batch": [2]}, {"x": [2, "?", 8]}, {"x": [2, "seq", "8"]}, {"z": ["2"]}])
def test_a_symbol_alone(shapes: dict[str, Sequence[int | str]]) -> None:
    model, _, _ = specialized(MODEL, shapes)
    assert ports(model) == {"x": (2, "seq", 8), "z": (2,), "y": (2, "seq", 8), "w": ("total", 8)}


def test_unnamed_dimensions() -> None:
    model, _, result = specialized("(float[?,4] x) => (float[?,4] y) { a = Relu(x) y = Neg(a) }", {"x": [3, 4]})
    assert ports(model) == {"x": (3, 4), "y": (3, 4)}
    assert result.changes == 1


def test_as_text_in_a_pipeline() -> None:
    assert parse_shapes("x=1x128x?, batch=2") == {"x": [1, 128, "?"], "batch": [2]}
    model, _, _ = specialized(MODEL, {}, "x=2x5x8")
    assert ports(model)["x"] == (2, 5, 8)
    (each,) = Pipeline.parse('specialize{shapes="x=2x5x8, batch=2"}').steps
    assert each == Specialize("x=2x5x8, batch=2")


def test_the_numbers_stay_the_same() -> None:
    feeds = {"x": np.linspace(-1, 1, 80, dtype=np.float32).reshape(2, 5, 8), "z": np.zeros(2, np.int64)}
    wanted = run(ir.to_proto(ir.parse(MODEL)).SerializeToString(), feeds)
    model, _, _ = specialized(MODEL, {"x": [2, 5, 8]})
    for old, new in zip(wanted, run(ir.to_proto(model).SerializeToString(), feeds), strict=True):
        np.testing.assert_array_equal(old, new)


def test_stale_inner_shapes_are_found_again() -> None:
    text = "(float[n,4] x) => (float[m,2] y) <int64[2] k = {-1, 2}> { a = Reshape(x, k) y = Neg(a) }"
    model = ir.parse(text)
    value = next(v for node in model.graph for v in node.outputs if v.name == "a")
    value.shape = ir.Shape(["2*n", 2])
    ctx = context(shapes={"n": [3]})
    ctx.contract = structure.contract(model)
    run_pass(Specialize(), model, ctx)
    assert ir.dims(value) == (6, 2)
    assert ports(model) == {"x": (3, 4), "y": (6, 2)}


def test_subgraph_inputs_forget_what_they_declared() -> None:
    model, _, _ = specialized(
        "(float[n] x, int64 trip, bool go) => (float[m] y) { y = Loop(trip, go, x) <body = b "
        "(int64 i, bool c, float[n] state) => (bool c2, float[k] next) "
        "{ c2 = Identity(c) next = Concat<axis = 0>(state, state) }> }",
        {"n": [2]},
    )
    inner = next(graph for node in model.graph for graph in ir.subgraphs(node))
    assert ir.dims(inner.inputs[2]) in ((None,), None)


_REFUSED: list[tuple[dict[str, Sequence[int | str]], str]] = [
    ({"xx": [1, 2, 8]}, "no input or symbol xx"),
    ({"bacth": [1]}, "it has batch"),
    ({"x": [1, 2]}, "has 3 dimensions, not 2; it is batchxseqx8"),
    ({"x": [1, 2, 9]}, "is 8, not 9"),
    ({"x": [1, 2, 8], "z": [3]}, "is 1, not 3"),
    ({"x": [1, "tokens", 8]}, "cannot become 'tokens'"),
    ({"x": [1, -2, 8]}, "cannot be -2"),
    ({"batch": [1, 2]}, "is one dimension"),
]


@pytest.mark.parametrize(("shapes", "message"), _REFUSED, ids=[message for _, message in _REFUSED])
def test_refused(shapes: dict[str, Sequence[int | str]], message: str) -> None:
    model = ir.parse(MODEL)
    before = ports(model)
    with pytest.raises(UsageError) as caught:
        run_pass(Specialize(), model, context(shapes=shapes))
    assert message in str(caught.value)
    assert ports(model) == before


@pytest.mark.parametrize("text", ["x", "=1x2", "x=", "x=1x"])
def test_text_that_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the shape"):
        parse_shapes(text)


def test_an_unknown_rank_cannot_be_fixed() -> None:
    model = ir.parse("(float[n] x) => (float[n] y) { y = Relu(x) }")
    model.graph.inputs[0].shape = None
    with pytest.raises(UsageError, match="no known rank"):
        run_pass(Specialize(), model, context(shapes={"x": [1]}))


def test_nothing_to_do_is_said() -> None:
    _, _, result = specialized(MODEL, {})
    assert result.skipped
    _, _, result = specialized("(float[2] x) => (float[2] y) { y = Relu(x) }", {"x": [2]})
    assert result.changes == 0
    assert result.notes


def test_without_fuel_nothing_changes() -> None:
    model = ir.parse(MODEL)
    ctx = context(shapes={"batch": [2]})
    ctx.fuel = Fuel(0)
    assert run_pass(Specialize(), model, ctx).changes == 0
    assert ports(model)["x"] == ("batch", "seq", 8)
