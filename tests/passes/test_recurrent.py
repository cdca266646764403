"""Recurrent layers written out step by step, or as the body of a Scan or Loop."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from accelc import ir
from accelc.context import Context
from accelc.decisions import Build
from accelc.pass_base import run_pass
from accelc.passes.recurrent import Recurrent
from accelc.passes.recurrent_choice import Case, models, pays
from accelc.testing import check as check_any
from accelc.testing import context, inputs, run, same_numbers, unchanged

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


# --- loops -----------------------------------------------------------------------------------------------------------


def looped(
    name: str,
    form: str = "Scan",
    *,
    batch: int | str = N,
    steps: int | str = T,
    axis: int = 0,
    reverse: bool = False,
    attrs: str = "",
    out: tuple[str, ...] = ("y", "h_last"),
) -> str:
    """A graph of a layer as Scan or Loop. x: [time, batch, inputs], or batch first. The body names its values *1."""
    cell, consts, _ = CELLS[name]
    step, _, _ = cell(1, "e", "h", "c")
    states = "hc" if "lstm" in name else "h"
    sizes = [batch, steps, I] if axis else [steps, batch, I]
    state = f"float[{batch},{H}]"
    olds = ", ".join(f"{state} {each}" for each in states)
    news = ", ".join(f"{state} {each}1" for each in states)
    shapes = {"y": f"float[{steps},{batch},{H}]"} | {f"{each}_last": state for each in states}
    head = f"(float[{','.join(map(str, sizes))}] x, {', '.join(f'{state} {each}0' for each in states)}) => "
    head += f"({', '.join(f'{shapes[each]} {each}' for each in out)}) "
    lasts, starts = (", ".join(f"{each}{tail}" for each in states) for tail in ("_last", "0"))
    if form == "Scan":
        given = f"num_scan_inputs=1, scan_input_axes=[{axis}], scan_input_directions=[{int(reverse)}]{attrs}"
        body = f"step ({olds}, float[{batch},{I}] e) => ({news}, {state} s) {{ {step} s = Identity(h1) }}"
        return head + f"<{consts}> {{ {lasts}, y = Scan<{given}, body={body}>({starts}, x) }}"
    place = f"at = Sub(end, i) e = Gather<axis={axis}>(x, at)" if reverse else f"e = Gather<axis={axis}>(x, i)"
    body = f"step (int64 i, bool go, {olds}) => (bool on, {news}, {state} s) {{ on = Identity(go) {place} {step} s = Identity(h1) }}"
    end = f"int64 end = {{{T - 1}}}, " if reverse else ""
    whole = f"{end}int64 trips = {{{T}}}, bool yes = {{1}}"
    return head + f"<{consts}, {whole}> {{ {lasts}, y = Loop<body={body}>(trips, yes, {starts}) }}"


def operators(name: str, *more: str) -> list[str]:
    return [CELLS[name][2], *["Unsqueeze"] * (2 if "lstm" in name else 1), "Squeeze", "Squeeze", *more]


@pytest.mark.parametrize("form", ["Scan", "Loop"])
@pytest.mark.parametrize("name", CELLS)
def test_a_loop_is_one_operator(name: str, form: str) -> None:
    check(Recurrent(), looped(name, form), operators(name))
    if "lstm" in name:
        check(Recurrent(), looped(name, form, out=("y", "h_last", "c_last")), operators(name, "Squeeze"))
    check(Recurrent(), looped(name, form, out=("h_last",)), operators(name)[:-1])


@pytest.mark.parametrize("name", ["lstm", "gru before"])
def test_a_scan_of_any_length_and_number(name: str) -> None:
    """Both graphs compute the same for all sizes, and neither runs without a step."""
    source = looped(name, batch="B", steps="L", out=("y", "h_last"))
    before = ir.to_proto(ir.parse(source)).SerializeToString()
    model = ir.parse(source)
    assert run_pass(Recurrent(), model, context()).changes == 1
    after = ir.to_proto(model).SerializeToString()
    rng = np.random.default_rng(3)
    for steps, batch in ((1, 1), (1, 3), (7, 1), (5, 4)):
        feeds = {"x": rng.standard_normal((steps, batch, I)), "h0": rng.standard_normal((batch, H))}
        feeds |= {"c0": rng.standard_normal((batch, H))} if "lstm" in name else {}
        given = {key: array.astype(np.float32) for key, array in feeds.items()}
        same_numbers(before, after, given, exact=False)
    with pytest.raises(Exception, match="Dimension 0 is 0"):
        run(before, given | {"x": np.zeros((0, batch, I), np.float32)})


def test_a_batch_without_sequences_is_told() -> None:
    """The runtime's LSTM ends the process on 0 sequences; RNN does not."""
    for name, batch, told in (("lstm", "B", True), ("lstm", N, False), ("rnn", "B", False)):
        ctx = context()
        model = ir.parse(looped(name, batch=batch))
        run_pass(Recurrent(), model, ctx)
        assert any("0 sequences" in note for note in ctx.notes) == told
    unchanged(Recurrent(), looped("lstm", batch=0))


@pytest.mark.parametrize("form", ["Scan", "Loop"])
def test_a_loop_over_the_second_axis(form: str) -> None:
    check(Recurrent(), looped("lstm", form, axis=1), operators("lstm", "Transpose"))


def test_a_scan_backwards() -> None:
    prepended = ", scan_output_directions=[1]"
    check(Recurrent(), looped("gru", reverse=True, attrs=prepended), operators("gru"))
    check(Recurrent(), looped("gru", reverse=True), operators("gru", "Slice"))
    check(Recurrent(), looped("gru", attrs=prepended), operators("gru", "Slice"))


@pytest.mark.parametrize("axis", [1, -1])
def test_a_scan_that_stacks_along_another_axis(axis: int) -> None:
    shape = f"{N},{T},{H}" if axis == 1 else f"{N},{H},{T}"
    source = looped("lstm", attrs=f", scan_output_axes=[{axis}]").replace(f"float[{T},{N},{H}] y", f"float[{shape}] y")
    check(Recurrent(), source, operators("lstm", "Transpose"))


def test_a_loop_backwards() -> None:
    check(Recurrent(), looped("lstm", "Loop", reverse=True), operators("lstm", "Slice"))
    from_end = looped("lstm", "Loop", reverse=True).replace("int64 end = {3}", "int64 end = {-1}")
    check(Recurrent(), from_end, operators("lstm", "Slice"))
    unchanged(Recurrent(), looped("lstm", "Loop", reverse=True).replace("int64 end = {3}", "int64 end = {-2}"))


def keras(*, slice_: bool = False, limit: int = T, step: int = 1, first: int = 0) -> str:
    """A Loop as tf2onnx writes it: it counts for itself, and goes on while the count is below the limit."""
    step_text, _, _ = joined(1, "e", "h", "c")
    state = f"float[{N},{H}]"
    take = (
        "q = Unsqueeze(t, zero) u = Unsqueeze(t1, zero) g = Slice(x, q, u, low) e = Squeeze(g, zero)"
        if slice_
        else "q = Unsqueeze(t, zero) g = Gather<axis=0>(x, q) e = Squeeze(g, zero)"
    )
    body = f"step (int64 i, bool go, int32 t, {state} h, {state} c, float[{T},{N},{I}] k) => "
    body += f"(bool on, int32 t1, {state} h1, {state} c1, float[{T},{N},{I}] kk, {state} s) "
    body += f"{{ t1 = Add(t, one) below = Less(t1, limit) fewer = Less(i, most) on = And(below, fewer) kk = Identity(k) {take} {step_text} s = Identity(h1) }}"
    body = body.replace("(x, q", "(k, q").replace("fo1 = Add(f1, one)", "fo1 = Add(f1, unit)")
    consts = KERAS.replace("float one", "float unit")
    low = "int32[1] low = {0}, " if slice_ else ""
    more = f"int32 one = {{{step}}}, int32 limit = {{{limit}}}, int64 most = {{99}}, int64[1] zero = {{0}}, {low}int32 t0 = {{{first}}}, bool yes = {{1}}"
    head = f"(float[{T},{N},{I}] x, {state} h0, {state} c0) => (float[{T},{N},{H}] y, {state} h_last, {state} c_last) "
    loop = f"t_last, h_last, c_last, k_last, y = Loop<body={body}>(, yes, t0, h0, c0, x)"
    return head + f"<{consts}, {more}> {{ {loop} }}"


def test_a_loop_that_counts_for_itself() -> None:
    check(Recurrent(), keras(), operators("keras lstm", "Squeeze"))
    check(Recurrent(), keras(slice_=True), operators("keras lstm", "Squeeze"))
    unchanged(Recurrent(), keras(limit=T - 1))
    unchanged(Recurrent(), keras(step=2))
    unchanged(Recurrent(), keras(first=1))
    counted = keras().replace(f"{H}] c_last) ", f"{H}] c_last, int32 t_last) ")
    unchanged(Recurrent(), counted)
    kept = keras().replace(f"{H}] c_last) ", f"{H}] c_last, float[{T},{N},{I}] k_last) ")
    check(Recurrent(), kept, operators("keras lstm", "Squeeze", "Identity"))


def test_a_loop_with_another_number_of_steps() -> None:
    unchanged(Recurrent(), looped("lstm", "Loop").replace(f"trips = {{{T}}}", f"trips = {{{T - 1}}}"))
    unchanged(Recurrent(), looped("lstm", "Loop").replace("yes = {1}", "yes = {0}"))
    unchanged(Recurrent(), looped("lstm", "Loop", steps="L"))  # without a step the operator returns other states
    condition = "sum = ReduceSum<keepdims=0>(h1) on = Less(sum, far)"
    held_back = (
        looped("lstm", "Loop").replace("on = Identity(go)", "").replace("s = Identity", f"{condition} s = Identity")
    )
    unchanged(Recurrent(), held_back.replace("int64 trips", "float far = {99}, int64 trips"))


@pytest.mark.parametrize("form", ["Scan", "Loop"])
def test_other_results_of_a_loop(form: str) -> None:
    """The cell's state, a gate and a function of the state, for every step."""
    for value in ("c1", "oo1"):
        unchanged(Recurrent(), looped("lstm", form).replace("s = Identity(h1)", f"s = Identity({value})"))
    unchanged(Recurrent(), looped("lstm", form).replace("s = Identity(h1)", "s = Neg(h1)"))
    source = (
        looped("lstm", form)
        .replace(" s) {", f" s, float[{N},{H}] s2) {{")
        .replace("s = Id", "s2 = Identity(c1) s = Id")
    )
    two = source.replace("_last, y =", "_last, y, y2 =")
    check(Recurrent(), two, operators("lstm"))  # nobody uses the second
    unchanged(Recurrent(), two.replace("h_last) ", f"h_last, float[{T},{N},{H}] y2) "))


@pytest.mark.parametrize("form", ["Scan", "Loop"])
def test_results_that_are_one_value(form: str) -> None:
    """The runtime returns something else for a body that names one value twice."""
    unchanged(Recurrent(), looped("lstm", form).replace(f"float[{N},{H}] s)", f"float[{N},{H}] h1)").replace("s = Identity(h1)", ""))  # fmt: skip


@pytest.mark.parametrize("form", ["Scan", "Loop"])
def test_other_cells_in_a_loop(form: str) -> None:
    source = looped("lstm", form)
    unchanged(Recurrent(), source.replace("oo1 = Sigmoid", "oo1 = HardSigmoid"))
    unchanged(Recurrent(), source.replace("Mul(ff1, c)", "Mul(ff1, h)"))
    unchanged(Recurrent(), source.replace("Gemm<transB=1>(e, w, b)", "Gemm<transB=1>(h, w, b)"))
    unchanged(Recurrent(), source.replace("s = Identity(h1)", "s = Identity(h1) z = Neg(h1)").replace(f"] h1, float[{N},{H}] c1", f"] z, float[{N},{H}] c1"))  # fmt: skip
    unchanged(Recurrent(), looped("gru", form).replace("u1 = Sub(h, n1)", "u1 = Sub(e2, n1)").replace("s = Id", "e2 = Neg(h) s = Id"))  # fmt: skip


def test_weights_that_change_with_the_steps() -> None:
    """The input's weights are one more sequence."""
    source = looped("rnn", batch=1).replace(
        "num_scan_inputs=1, scan_input_axes=[0], scan_input_directions=[0]", "num_scan_inputs=2"
    )
    source = source.replace(f"float[1,{I}] e)", f"float[1,{I}] e, float[{H},{I}] w_t)").replace(
        "(e, w, b)", "(e, w_t, b)"
    )
    source = source.replace("(h0, x)", "(h0, x, w_all)").replace(") =>", f", float[{T},{H},{I}] w_all) =>", 1)
    unchanged(Recurrent(), source)


def test_one_of_several_sequences() -> None:
    source = looped("lstm").replace(
        "num_scan_inputs=1, scan_input_axes=[0], scan_input_directions=[0]", "num_scan_inputs=2"
    )
    source = source.replace(f"float[{N},{I}] e)", f"float[{N}] other, float[{N},{I}] e)").replace(
        "c0, x)", "c0, more, x)"
    )
    check(Recurrent(), source.replace(") =>", f", float[{T},{N}] more) =>", 1), operators("lstm"))


def test_states_that_do_not_surely_fit() -> None:
    """A first state for one sequence is broadcast to all by the steps, not by the operator."""
    unchanged(Recurrent(), looped("gru", batch="B").replace(f"float[B,{H}] h0", f"float[C,{H}] h0"))
    unchanged(Recurrent(), looped("gru", "Loop").replace(f"float[{N},{H}] h0", f"float[1,{H}] h0").replace(f"float[{N},{H}] h)", f"float[D,{H}] h)"))  # fmt: skip


def test_a_state_of_zeros_for_any_number_of_sequences() -> None:
    source = looped("gru", batch="B", steps="L").replace(f", float[B,{H}] h0)", ")")
    made = "n = Shape<start=1, end=2>(x) size = Concat<axis=0>(n, width) h0 = ConstantOfShape(size)"
    source = source.replace("{ h_last", f"{{ {made} h_last").replace("> {", f", int64[1] width = {{{H}}}> {{", 1)
    check(Recurrent(), source, ["GRU", "Squeeze", "Squeeze"])
    other = source.replace("end=2>(x)", "end=3>(x)").replace("start=1", "start=2")
    unchanged(Recurrent(), other)


def test_loops_inside_loops_and_branches() -> None:
    inner = looped("gru").partition("> {")[2].rpartition("}")[0].replace("h_last, y", "h_in, y_in")
    branch = f"float[{T},{N},{H}] y_in"
    head, consts = looped("gru").split(") => ")[0], CELLS["gru"][1]
    source = f"{head}, bool p) => (float[{T},{N},{H}] y) <{consts}> "
    other = f"o ( ) => (float[{T},{N},{H}] y2) {{ q2 = Concat<axis=-1>(x, x) g2 = Slice(q2, a, z2, l) y2 = Neg(g2) }}".replace(
        " ( )", " ()"
    )
    source = source.replace("<", f"<int64[1] a = {{0}}, int64[1] z2 = {{{H}}}, int64[1] l = {{2}}, ", 1)
    source += f"{{ y = If<then_branch = t () => ({branch}) {{ {inner} }}, else_branch = {other}>(p) }}"
    model = ir.parse(source)
    before = ir.to_proto(model).SerializeToString()
    assert run_pass(Recurrent(), model, context()).changes == 1
    feeds = next(inputs(ir.parse(source)))
    for choice in (True, False):
        same_numbers(before, ir.to_proto(model).SerializeToString(), feeds | {"p": np.array(choice)}, exact=False)


def test_loops_of_old_opsets_and_switches() -> None:
    unchanged(Recurrent(), '<ir_version: 8, opset_import: ["": 13]> g ' + looped("rnn"))
    unchanged(Recurrent(), looped("lstm"), ctx=context(disabled=("looped_lstm",)))


# --- which is faster -------------------------------------------------------------------------------------------------


class Opposite(Context):
    """Decides against every default. asked: the cases."""

    def __init__(self) -> None:
        super().__init__(context().target)
        self.asked: list[str] = []

    def decide(self, rule: str, case: str, default: str, build: Build) -> str:
        self.asked.append(f"{rule}: {case}")
        return next(name for name in build() if name != default)


def test_the_decision_is_asked_for() -> None:
    ctx = Opposite()
    unchanged(Recurrent(), looped("lstm", batch="B", steps="L"), ctx=ctx)
    assert ctx.asked == [f"looped_lstm: Scan of LSTM, 16 steps of [any, {I}], hidden {H}"]
    ctx = Opposite()
    unchanged(Recurrent(), layer("gru"), ctx=ctx)
    assert ctx.asked == [f"unrolled_gru: steps of GRU after, {T} steps of [1, {I}], hidden {H}"]


@pytest.mark.parametrize("form", ["steps", "Scan", "Loop"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU after", "GRU before", "RNN Tanh", "RNN Relu"])
def test_what_is_measured_computes_the_same(form: str, kind: str) -> None:
    made = models(Case(form, kind, hidden=H, inputs=I, batch=N, steps=T))
    assert list(made) == [form, "operator"]
    operator = made["operator"].SerializeToString()
    feeds = next(inputs(ir.from_proto(made[form])))
    same_numbers(made[form].SerializeToString(), operator, feeds, exact=False)
    assert kind.partition(" ")[0] in {node.op_type for node in made["operator"].graph.node}


def test_large_layers_keep_their_steps() -> None:
    """By the shipped defaults, which depend on the sizes."""
    for case in (Case("Scan", "RNN Tanh", 512, 512, None, None), Case("steps", "LSTM", 512, 512, 1, 8)):
        assert not pays("rule", case, context())
    for case in (Case("Scan", "LSTM", 128, 128, None, None), Case("steps", "GRU before", 32, 8, 8, 8)):
        assert pays("rule", case, context())
