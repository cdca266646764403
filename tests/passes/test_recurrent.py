"""Recurrent layers written out step by step."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.passes.recurrent import Recurrent
from accelc.testing import check as check_any
from accelc.testing import context, inputs, unchanged

N, I, H, T = 2, 3, 4, 4
SIZES = {"lstm": 4, "gru": 3, "gru_before": 3, "rnn": 1}


def check(what: Recurrent, before: str, after: list[str]) -> ir.Model:
    """`check` on finite inputs: the runtime's kernels bound what goes into an activation."""
    finite: dict[str, Any] = next(inputs(ir.parse(before)))
    return check_any(what, before, after, **finite)


def weights(name: str, *shape: int, seed: float = 1.7) -> str:
    array = np.sin(np.arange(np.prod(shape)) * seed)
    return f"float[{','.join(map(str, shape))}] {name} = {{" + ",".join(f"{each:.3f}" for each in array) + "}"


def lstm(t: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    body = f"p{t} = Gemm<transB=1>({x}, w, b) q{t} = Gemm<transB=1>({h}, r, d) s{t} = Add(p{t}, q{t}) "
    body += f"i{t}, f{t}, g{t}, o{t} = Split<axis=1, num_outputs=4>(s{t}) ii{t} = Sigmoid(i{t}) ff{t} = Sigmoid(f{t}) "
    body += f"gg{t} = Tanh(g{t}) oo{t} = Sigmoid(o{t}) k{t} = Mul(ff{t}, {c}) l{t} = Mul(gg{t}, ii{t}) "
    body += f"c{t} = Add(k{t}, l{t}) m{t} = Tanh(c{t}) h{t} = Mul(oo{t}, m{t}) "
    return body, f"h{t}", f"c{t}"


def joined(t: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    """An LSTM as Keras writes it: one product of the joined input and state, a bias of 1 at the forget gate."""
    body = f"j{t} = Concat<axis=-1>({x}, {h}) p{t} = MatMul(j{t}, w) s{t} = Add(b, p{t}) "
    body += (
        f"i{t}, g{t}, f{t}, o{t} = Split<axis=-1, num_outputs=4>(s{t}) fo{t} = Add(f{t}, one) ii{t} = Sigmoid(i{t}) "
    )
    body += f"ff{t} = Sigmoid(fo{t}) gg{t} = Tanh(g{t}) oo{t} = Sigmoid(o{t}) k{t} = Mul({c}, ff{t}) l{t} = Mul(ii{t}, gg{t}) "
    body += f"c{t} = Add(l{t}, k{t}) m{t} = Tanh(c{t}) h{t} = Mul(m{t}, oo{t}) "
    return body, f"h{t}", f"c{t}"


def gru(t: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    body = f"p{t} = Gemm<transB=1>({x}, w, b) q{t} = Gemm<transB=1>({h}, r, d) a{t}, e{t}, f{t} = Split<axis=1, num_outputs=3>(p{t}) "
    body += f"i{t}, j{t}, k{t} = Split<axis=1, num_outputs=3>(q{t}) l{t} = Add(a{t}, i{t}) r{t} = Sigmoid(l{t}) m{t} = Add(e{t}, j{t}) "
    body += (
        f"z{t} = Sigmoid(m{t}) o{t} = Mul(r{t}, k{t}) s{t} = Add(f{t}, o{t}) n{t} = Tanh(s{t}) u{t} = Sub({h}, n{t}) "
    )
    body += f"v{t} = Mul(u{t}, z{t}) h{t} = Add(v{t}, n{t}) "
    return body, f"h{t}", c


def gru_before(t: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    body = f"j{t} = Concat<axis=1>({x}, {h}) p{t} = MatMul(j{t}, w) q{t} = Add(p{t}, b) zz{t}, rr{t} = Split<axis=1, num_outputs=2>(q{t}) "
    body += f"z{t} = Sigmoid(zz{t}) r{t} = Sigmoid(rr{t}) o{t} = Mul(r{t}, {h}) k{t} = Concat<axis=1>({x}, o{t}) l{t} = MatMul(k{t}, r) "
    body += f"m{t} = Add(l{t}, d) n{t} = Tanh(m{t}) e{t} = Sub(one, z{t}) u{t} = Mul(e{t}, n{t}) v{t} = Mul(z{t}, {h}) h{t} = Add(u{t}, v{t}) "
    return body, f"h{t}", c


def rnn(t: int, x: str, h: str, c: str) -> tuple[str, str, str]:
    body = (
        f"p{t} = Gemm<transB=1>({x}, w, b) q{t} = Gemm<transB=1>({h}, r, d) s{t} = Add(p{t}, q{t}) h{t} = Tanh(s{t}) "
    )
    return body, f"h{t}", c


TORCH = {name: ", ".join([weights("w", n * H, I), weights("r", n * H, H, seed=0.3), weights("b", n * H), weights("d", n * H, seed=0.7)]) for name, n in SIZES.items()}  # fmt: skip
KERAS = ", ".join([weights("w", I + H, 4 * H), weights("b", 4 * H), "float one = {1}"])
BEFORE = ", ".join(
    [weights("w", I + H, 2 * H), weights("b", 2 * H), weights("r", I + H, H), weights("d", H), "float one = {1}"]
)
CELLS: dict[str, tuple[Callable[..., tuple[str, str, str]], str, str]] = {
    "lstm": (lstm, TORCH["lstm"], "LSTM"),
    "keras lstm": (joined, KERAS, "LSTM"),
    "gru": (gru, TORCH["gru"], "GRU"),
    "gru before": (gru_before, BEFORE, "GRU"),
    "rnn": (rnn, TORCH["rnn"], "RNN"),
}


def layer(
    name: str,
    *,
    axis: int = 1,
    reverse: bool = False,
    stacked: bool = True,
    steps: int = T,
    batch: int = 1,
    more: str = "",
) -> str:
    """A graph of an unrolled layer. x: [batch, time, inputs], or time first."""
    cell, consts, _ = CELLS[name]
    h, c, body = "h", "c", ""
    places = list(reversed(range(steps))) if reverse else list(range(steps))
    for t in places:
        body += f"x{t} = Gather<axis={axis}>(x, t{t}) "
        step, h, c = cell(t, f"x{t}", h, c)
        body += step
    shape = [batch, T, I] if axis else [T, batch, I]
    out = [batch, steps, H] if axis else [steps, batch, H]
    if stacked:
        body += "".join(f"y{t} = Unsqueeze(h{t}, axes) " for t in range(steps))
        body += f"y = Concat<axis={axis}>({', '.join(f'y{t}' for t in range(steps))}) "
    else:
        body += f"y = Neg({h}) "
        out = [batch, H]
    scalars = ", ".join([*(f"int64 t{t} = {{{t}}}" for t in range(T)), f"int64[1] axes = {{{axis}}}"] if stacked else [f"int64 t{t} = {{{t}}}" for t in places])  # fmt: skip
    cell_input = f", float[{batch},{H}] c" if "lstm" in name else ""
    head = f"(float[{','.join(map(str, shape))}] x, float[{batch},{H}] h{cell_input}) => (float[{','.join(map(str, out))}] y{more}) "
    return head + f"<{consts}, {scalars}> {{ {body} }}"


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_is_one_operator(name: str) -> None:
    starts = ["Unsqueeze"] * (2 if "lstm" in name else 1)
    left = [CELLS[name][2], *starts, "Transpose", "Squeeze", "Transpose"]
    check(Recurrent(), layer(name), left)


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_backwards(name: str) -> None:
    starts = ["Unsqueeze"] * (2 if "lstm" in name else 1)
    model = check(Recurrent(), layer(name, axis=0, reverse=True, batch=N), [CELLS[name][2], *starts, "Squeeze"])
    found = [ir.attribute(each, "direction") for each in model.graph if each.op_type == CELLS[name][2]]
    assert found == ["reverse"]


def test_the_last_state_alone() -> None:
    check(Recurrent(), layer("lstm", stacked=False), ["Transpose", "Unsqueeze", "Unsqueeze", "LSTM", "Squeeze", "Neg"])


def test_states_that_are_used_elsewhere() -> None:
    shown = layer("lstm", more=f", float[1,{H}] h1, float[1,{H}] c3")
    left = ["Transpose", "Unsqueeze", "Unsqueeze", "LSTM", "Squeeze", "Transpose", "Gather", "Squeeze"]
    check(Recurrent(), shown, left)
    unchanged(Recurrent(), layer("lstm", more=f", float[1,{H}] c1"))
    unchanged(Recurrent(), layer("lstm", more=f", float[1,{4 * H}] s2"))


def test_a_zero_state_that_was_computed_away() -> None:
    graph = layer("lstm")
    first = "p0 = Gemm<transB=1>(x0, w, b) s0 = Add(p0, d) "
    before, _, after = graph.partition("p0 = ")
    graph = before + first + after[after.index("i0, f0") :]
    graph = (
        graph.replace(f"float[1,{H}] h, ", "")
        .replace(f", float[1,{H}] c)", ")")
        .replace("Mul(ff0, c)", "Mul(ff0, zero)")
    )
    graph = graph.replace(f", float[1,{H}] h", "").replace("int64 t0", f"float[1,{H}] zero = {{0,0,0,0}}, int64 t0")
    check(Recurrent(), graph, ["Transpose", "LSTM", "Squeeze", "Transpose"])
    other = graph.replace("s0 = Add(p0, d)", "s0 = Add(p0, b)")  # the state was not zero: this step stays
    unchanged(Recurrent(), other)


def test_parts_of_the_sequence_that_are_missing() -> None:
    unchanged(Recurrent(), layer("lstm", steps=T - 1))
    unchanged(Recurrent(), layer("lstm").replace("(x, t2)", "(x, t1)"))


def test_weights_that_differ() -> None:
    graph = layer("lstm").replace("Gemm<transB=1>(h1, r, d)", "Gemm<transB=1>(h1, r, b)")
    unchanged(Recurrent(), graph)


def test_activations_and_wiring_that_differ() -> None:
    unchanged(Recurrent(), layer("lstm").replace("oo1 = Sigmoid", "oo1 = HardSigmoid"))
    unchanged(Recurrent(), layer("lstm").replace("k2 = Mul(ff2, c1)", "k2 = Mul(ff2, c0)"))
    unchanged(Recurrent(), layer("gru").replace("u2 = Sub(h1, n2)", "u2 = Sub(h0, n2)"))
    unchanged(Recurrent(), layer("lstm").replace("Gemm<transB=1>(h1, r, d)", "Gemm<transB=1, alpha=0.5>(h1, r, d)"))


def test_the_simple_cell_pays_for_one_sequence_only() -> None:
    unchanged(Recurrent(), layer("rnn", batch=N))


def test_weights_that_others_use_are_not_stored_again() -> None:
    big = ", ".join(
        [weights("w", 128, 3), weights("r", 128, 32, seed=0.3), weights("b", 128), weights("d", 128, seed=0.7)]
    )
    graph = layer("lstm").replace(TORCH["lstm"], big).replace(f",{H}]", ",32]")
    graph = graph.replace(f"float[1,{T},{H}] y", f"float[1,{T},32] y")
    check(Recurrent(), graph, ["Transpose", "Unsqueeze", "Unsqueeze", "LSTM", "Squeeze", "Transpose"])
    shown = graph.replace("32] y)", "32] y, float[128,32] e)").replace(" }", " e = Neg(r) }")
    unchanged(Recurrent(), shown)


def test_old_opsets_are_left_alone() -> None:
    unchanged(Recurrent(), '<ir_version: 8, opset_import: ["": 13]> g ' + layer("rnn"))


def test_it_can_be_switched_off() -> None:
    unchanged(Recurrent(), layer("lstm"), ctx=context(disabled=("unrolled_lstm",)))
