"""What surrounds a convolution folded into it."""

from __future__ import annotations

import numpy as np
import pytest
from fusion_graphs import cpu, graph

from accelc import ir
from accelc.passes import conv
from accelc.rewrite import Driver
from accelc.testing import check, unchanged

X = "(float[2,4,6,6] x) => (float[a,b,c,d] y)"


def weight(name: str, *shape: int) -> str:
    numbers = (
        np.random.default_rng(len(shape)).integers(1, 9, int(np.prod(shape))) / 8 * (-1) ** np.arange(np.prod(shape))
    )
    return f"float[{','.join(map(str, shape))}] {name} = {{{', '.join(map(str, numbers))}}}"


W = weight("w", 4, 4, 3, 3)
B = weight("b", 4)
C = weight("c", 4, 1, 1)


# --- after it


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("end", ["y = Add(a, c)", "y = Add(c, a)", "y = Sub(a, c)"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1, 1)])
def test_add(bias: str, end: str, shape: tuple[int, ...]) -> None:
    body = f"a = Conv<pads = [1,1,1,1]>(x, w{bias}) {end}"
    check(conv.conv_add, graph(body, X, ", ".join([W, weight("c", *shape)] + [B] * bool(bias))), ["Conv"], ctx=cpu())


def test_add_by_hand() -> None:
    signature = "(float[1,1,2,2] x) => (float[1,1,2,2] y)"
    before = graph(
        "a = Conv(x, w, b) y = Sub(a, c)", signature, "float[1,1,1,1] w = {3}, float[1] b = {5}, float c = {2}"
    )
    after = graph("y = Conv(x, w, b)", signature, "float[1,1,1,1] w = {3}, float[1] b = {3}")
    check(conv.conv_add, before, after, ctx=cpu())


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("end", ["y = Mul(a, c)", "y = Mul(c, a)", "y = Div(a, c)"])
@pytest.mark.parametrize("group", [1, 2])
def test_mul(bias: str, end: str, group: int) -> None:
    body = f"a = Conv<group = {group}>(x, w{bias}) {end}"
    check(
        conv.conv_mul,
        graph(body, X, ", ".join([weight("w", 4, 4 // group, 3, 3), C] + [B] * bool(bias))),
        ["Conv"],
        ctx=cpu(),
    )


def test_mul_by_a_scalar() -> None:
    check(conv.conv_mul, graph("a = Conv(x, w, b) y = Mul(a, half)", X, f"{W}, {B}"), ["Conv"], ctx=cpu())


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("end", ["Add", "Mul", "Div", "Sub"])
def test_after_conv_transpose(group: int, end: str) -> None:
    rule = conv.conv_add if end in ("Add", "Sub") else conv.conv_mul
    body = f"a = ConvTranspose<group = {group}, strides = [2,2]>(x, w, b) y = {end}(a, c)"
    check(rule, graph(body, X, ", ".join([weight("w", 4, 4 // group, 3, 3), B, C])), ["ConvTranspose"], ctx=cpu())


@pytest.mark.parametrize(
    ("c", "reason"),
    [
        ("float[4] c = {1, 2, 3, 4}", "not one value per channel"),
        ("float[2,1,1,1] c = {1, 2}", "not one value per channel"),
        ("float[1,1,4,1,1] c = {1, 2, 3, 4}", "widen"),
    ],
)
def test_another_constant_after_it_stays(c: str, reason: str) -> None:
    signature = "(float[2,4,6,6] x) => (float y)" if "1,1,4" not in c else "(float[2,4,6,6] x) => (float[a,b,c,d,e] y)"
    for rule, end in ((conv.conv_add, "Add"), (conv.conv_mul, "Mul")):
        before = graph(f"a = Conv(x, w) y = {end}(a, c)", signature.replace("float y", "float[p,q,r,s] y"), f"{W}, {c}")
        unchanged(rule, before, reason=reason, ctx=cpu())


def test_a_single_channel_that_is_widened_stays() -> None:
    before = graph("a = Conv(x, w) y = Add(a, c)", X, f"{weight('w', 1, 4, 3, 3)}, {C}")
    unchanged(conv.conv_add, before, reason="4 values for 1 channels", ctx=cpu())


def test_a_weight_or_result_that_others_use_stays() -> None:
    signature = "(float[2,4,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    unchanged(
        conv.conv_mul,
        graph("a = Conv(x, w) y = Mul(a, c) z = Conv(x, w)", signature, f"{W}, {C}"),
        reason="used elsewhere",
        ctx=cpu(),
    )
    unchanged(
        conv.conv_add,
        graph("a = Conv(x, w) y = Add(a, c) z = Relu(a)", signature, f"{W}, {C}"),
        reason="2 consumers",
        ctx=cpu(),
    )


def test_a_weight_that_others_use_takes_a_bias() -> None:
    signature = "(float[2,4,6,6] x) => (float[a,b,c,d] y, float[e,f,g,h] z)"
    model = ir.parse(graph("a = Conv(x, w) y = Add(a, c) z = Conv(x, w)", signature, f"{W}, {C}"))
    assert Driver([conv.conv_add]).run(model, cpu()) == 1


def test_division_by_zero_stays() -> None:
    before = graph("a = Conv(x, w) y = Div(a, c)", X, f"{W}, float[4,1,1] c = {{1, 0, 2, 3}}")
    unchanged(conv.conv_mul, before, reason="divides by zero", ctx=cpu())


def test_a_scalar_that_would_become_a_large_bias_stays() -> None:
    before = graph("a = Conv(x, w) y = Add(a, half)", X, weight("w", 40, 4, 1, 1))
    unchanged(conv.conv_add, before, reason="larger", ctx=cpu())


# --- before it


@pytest.mark.parametrize("start", ["a = Mul(x, c)", "a = Mul(c, x)", "a = Div(x, c)"])
@pytest.mark.parametrize("group", [1, 2])
def test_mul_before_it(start: str, group: int) -> None:
    body = f"{start} y = Conv<pads = [1,1,1,1], group = {group}>(a, w, b)"
    check(conv.mul_conv, graph(body, X, ", ".join([weight("w", 4, 4 // group, 3, 3), B, C])), ["Conv"], ctx=cpu())


@pytest.mark.parametrize("group", [1, 2])
def test_mul_before_conv_transpose(group: int) -> None:
    body = f"a = Mul(x, c) y = ConvTranspose<group = {group}>(a, w)"
    check(conv.mul_conv, graph(body, X, ", ".join([weight("w", 4, 2, 3, 3), C])), ["ConvTranspose"], ctx=cpu())


@pytest.mark.parametrize("start", ["a = Add(x, c)", "a = Add(c, x)", "a = Sub(x, c)"])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", ["", ", b"])
def test_add_before_it(start: str, group: int, bias: str) -> None:
    body = f'{start} y = Conv<auto_pad = "VALID", group = {group}>(a, w{bias})'
    check(
        conv.add_conv,
        graph(body, X, ", ".join([weight("w", 4, 4 // group, 3, 3), C] + [B] * bool(bias))),
        ["Conv"],
        ctx=cpu(),
    )


def test_an_image_normalized_before_it() -> None:
    model = ir.parse(
        graph("m = Sub(x, c) a = Div(m, d) y = Conv(a, w, b)", X, f"{W}, {B}, {C}, {weight('d', 1, 4, 1, 1)}")
    )
    assert Driver(conv.RULES).run(model, cpu()) == 2
    assert len(list(model.graph)) == 1


@pytest.mark.parametrize("attribute", ["pads = [1,1,1,1]", 'auto_pad = "SAME_UPPER"'])
def test_add_before_padding_stays(attribute: str) -> None:
    before = graph(f"a = Add(x, c) y = Conv<{attribute}>(a, w)", X, f"{W}, {C}")
    unchanged(conv.add_conv, before, reason="pads", ctx=cpu())


def test_add_before_conv_transpose_stays() -> None:
    unchanged(conv.Conv(), graph("a = Add(x, c) y = ConvTranspose(a, w)", X, f"{W}, {C}"), ctx=cpu())


def test_a_constant_that_widens_the_input_stays() -> None:
    before = graph("a = Mul(x, c) y = Conv(a, w)", X.replace("2,4,", "2,1,"), f"{W}, {C}")
    unchanged(conv.mul_conv, before, reason="input channels", ctx=cpu())
    before = graph(
        "a = Mul(x, c) y = Conv(a, w)", "(float[4,6,6] x) => (float[a,b,c,d] y)", f"{W}, {weight('c', 1, 4, 1, 1)}"
    )
    unchanged(conv.mul_conv, before, reason="widens", ctx=cpu())
