"""Rules that cannot match are never tried, however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from accelc import ir, prefilter
from accelc.infer import infer_model
from accelc.pattern import Const, Maybe, Ops, Scalar, Var
from accelc.prefilter import Looks, Prefilter, look_of
from accelc.rewrite import Driver
from accelc.rules import Law, Rule, rule
from accelc.testing import context


def impossible(number: int) -> Rule:
    """A rule whose root is everywhere and whose input is nowhere."""
    wanted = f"Foreign{number % 50}"

    @rule(name=f"impossible_{number}")
    def law(op: Ops, x: Var, w: Scalar) -> Law:
        """_ == _"""
        forms = (
            op.Relu(getattr(op, wanted)(x)),
            op.Add(x, getattr(op, wanted)(x)),
            op.Add(op.Relu(op.Abs(getattr(op, wanted)(x))), w),
            op.Mul(op.Add(getattr(op, wanted)(x), x), 0.5),
        )
        return forms[number % 4], x

    return law


@rule()
def double_relu(op: Ops, x: Var) -> Law:
    """max(max(x, 0), 0) == max(x, 0)"""
    return op.Relu(op.Relu(x)), op.Relu(x)


def graph(count: int) -> ir.Model:
    steps = " ".join(
        f"a{i} = Add(v{i}, w) r{i} = Relu(a{i}) b{i} = Add(r{i}, s) v{i + 1} = Mul(b{i}, s)" for i in range(count)
    )
    weights = "float[2] w = {1, 2}, float[1] s = {3}"
    model = ir.parse(f"(float[2] v0) => (float[2] r) <{weights}> {{ {steps} q = Relu(v{count}) r = Relu(q) }}")
    infer_model(model)
    return model


def test_rules_that_cannot_match_are_never_tried() -> None:
    rules = [impossible(number) for number in range(2000)]
    driver = Driver([*rules, double_relu])
    assert driver.run(graph(30), context()) == 1
    assert {driver.stats[each.name].tried for each in rules} == {0}
    assert driver.stats["double_relu"].fired == 1


def test_the_work_for_a_node_does_not_grow_with_such_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each combination of operator and makers is compared with the rules once, not each node."""
    compared: list[Any] = []
    real = prefilter._can_match

    def counted(each: Rule, look: Any) -> bool:
        compared.append(look)
        return real(each, look)

    monkeypatch.setattr(prefilter, "_can_match", counted)
    counts = []
    for length in (20, 200):
        compared.clear()
        Driver([impossible(number) for number in range(100)]).run(graph(length), context())
        counts.append(len(compared))
    assert counts[0] == counts[1]


FORMS = [
    ("Relu(x)", "r = Relu(a)", True),
    ("Relu(Abs(x))", "b = Abs(a) r = Relu(b)", True),
    ("Relu(Abs(x))", "b = Neg(a) r = Relu(b)", False),
    ("Relu(Abs(Neg(x)))", "c = Neg(a) b = Abs(c) r = Relu(b)", True),
    ("Relu(Abs(Neg(x)))", "c = Exp(a) b = Abs(c) r = Relu(b)", False),
    ("Add(x, 1)", "r = Add(a, one)", True),
    ("Add(x, 1)", "r = Add(one, a)", True),
    ("Add(x, 1)", "c = Constant <value = float {1}> () r = Add(a, c)", True),
    ("Add(x, 1)", "r = Add(a, w)", False),
    ("Sub(x, 1)", "r = Sub(one, a)", False),
    ("Add(x, w)", "r = Add(a, w)", True),
    ("Add(x, w)", "r = Add(a, a)", False),
    ("Add(Relu(x), y)", "b = Relu(a) r = Add(w, b)", True),
    ("Add(any(Relu(x), Abs(x)), y)", "b = Abs(a) r = Add(b, w)", True),
    ("Add(any(Relu(x), Abs(x)), y)", "b = Neg(a) r = Add(b, w)", False),
    ("Clip(x, maybe)", "r = Clip(a)", True),
    ("Clip(x, maybe)", "r = Clip(a, one)", True),
    ("Clip(x, maybe)", "r = Clip(a, one, one)", False),
    ("Clip(x, ...)", "r = Clip(a, one, one)", True),
    ("Clip(x, None, y)", "r = Clip(a, , one)", True),
    ("Clip(x, None, y)", "r = Clip(a, one, one)", False),
]


def form(text: str) -> Any:
    op, x, y = Ops(), Var("x"), Var("y")
    return {
        "Relu(x)": op.Relu(x),
        "Relu(Abs(x))": op.Relu(op.Abs(x)),
        "Relu(Abs(Neg(x)))": op.Relu(op.Abs(op.Neg(x))),
        "Add(x, 1)": op.Add(x, 1.0),
        "Sub(x, 1)": op.Sub(x, 1.0),
        "Add(x, w)": op.Add(x, Const("w")),
        "Add(Relu(x), y)": op.Add(op.Relu(x), y),
        "Add(any(Relu(x), Abs(x)), y)": op.Add(op.any_of(op.Relu(x), op.Abs(x)), y),
        "Clip(x, maybe)": op.Clip(x, Maybe("m")),
        "Clip(x, ...)": op.Clip(x, ...),
        "Clip(x, None, y)": op.Clip(x, None, y),
    }[text]


@pytest.mark.parametrize(("pattern", "body", "fits"), FORMS)
def test_what_can_match(pattern: str, body: str, fits: bool) -> None:
    @rule()
    def law(op: Ops, x: Var) -> Law:
        """_ == _"""
        return form(pattern), x

    model = ir.parse(f"(float[2] a) => (float[2] r) <float[2] w = {{1, 2}}, float one = {{1}}> {{ {body} }}")
    root = model.graph[-1]
    known = Prefilter([law])
    assert known.rules(root) == ((law,) if fits else ())


def test_a_feeder_must_make_an_input() -> None:
    @rule(feeder="Shape")
    def law(op: Ops, x: Var, y: Var) -> Law:
        """_ == _"""
        return op.Reshape(x, y), x

    known = Prefilter([law])
    fed = ir.parse("(float[2] a) => (float[2] r) { s = Shape(a) r = Reshape(a, s) }")
    other = ir.parse("(float[2] a, int64[1] s) => (float[2] r) { r = Reshape(a, s) }")
    assert known.rules(fed.graph[-1]) == (law,)
    assert known.rules(other.graph[-1]) == ()


def test_candidates_stand_in_the_order_of_the_graph() -> None:
    model = graph(3)
    known = Prefilter([double_relu])
    looks = Looks(model).of(model.graph)
    assert sum(len(nodes) for nodes in looks.values()) == len(model.graph)
    assert [node.name for node in known.candidates(looks)] == [model.graph[-1].name]
    assert look_of(model.graph[-1]) in looks
