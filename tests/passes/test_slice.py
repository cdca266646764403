"""Slice, Split and Gather."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accelc import ir, symbolic
from accelc.concrete import Shapes
from accelc.infer import infer_model, infer_node
from accelc.passes import slice as p
from accelc.rewrite import Driver
from accelc.testing import check, context, same_numbers, unchanged

F = "(float[4,6] x) => (float[4,6] y) "
N = "(float[N,6] x) => (float[N,6] y) "
BIG = 2**63 - 1
OLD = '<ir_version: 8, opset_import: ["": 9]> g '


def bounds(start: object, end: object, axes: object = None, steps: object = None) -> str:
    names = {"s": start, "e": end, "a": axes, "t": steps}
    given = {name: value if isinstance(value, list) else [value] for name, value in names.items() if value is not None}
    return ", ".join(f"int64[{len(v)}] {n} = {{{', '.join(map(str, v))}}}" for n, v in given.items())


def test_slice_all() -> None:
    for start, end in ((0, 6), (0, BIG), (-6, 6), (-100, 100), (0, 2**31 - 1)):
        before = F + f"<{bounds(start, end, 1)}> {{ a = Slice(x, s, e, a) y = Relu(a) }}".replace(
            "a = Slice", "b = Slice"
        )
        check(p.slice_all, before.replace("Relu(a)", "Relu(b)"), F + "{ y = Relu(x) }")
    before = N + f"<{bounds(0, BIG)}> {{ b = Slice(x, s, e) y = Relu(b) }}"
    check(p.slice_all, before, N + "{ y = Relu(x) }")
    before = OLD + F + "{ b = Slice<starts=[0,0], ends=[4,9]>(x) y = Relu(b) }"
    check(p.slice_all, before, OLD + F + "{ y = Relu(x) }")


def test_slice_of_a_part() -> None:
    unchanged(p.slice_all, N + f"<{bounds(0, 100)}> {{ b = Slice(x, s, e) y = Relu(b) }}", reason="a part")
    unchanged(p.slice_all, F + f"<{bounds(-1, -7, 1, -1)}> {{ b = Slice(x, s, e, a, t) y = Relu(b) }}", reason="a part")
    unchanged(p.slice_all, f"(float[4] x) => (float[3] y) <{bounds(1, 9)}> {{ y = Slice(x, s, e) }}", reason="a part")
    dynamic = f"(float[4] x, int64[1] e) => (float[N] y) <{bounds(0, 4).split(', int')[0]}> {{ y = Slice(x, s, e) }}"
    unchanged(p.slice_all, dynamic, reason="not constant")


def test_slice_of_slice() -> None:
    head = "(float[4,6] x) => (float[2,3] y) "
    two = (
        "int64[1] s = {1}, int64[1] e = {3}, int64[1] a = {0}, int64[1] s2 = {2}, int64[1] e2 = {5}, int64[1] a2 = {-1}"
    )
    before = head + f"<{two}> {{ b = Slice(x, s, e, a) y = Slice(b, s2, e2, a2) }}"
    check(p.slice_of_slice, before, head + f"<{bounds([1, 2], [3, 5], [0, 1])}> {{ y = Slice(x, s, e, a) }}")
    old = OLD + head + "{ b = Slice<starts=[1], ends=[3], axes=[0]>(x) y = Slice<starts=[2], ends=[5], axes=[1]>(b) }"
    check(p.slice_of_slice, old, OLD + head + "{ y = Slice<starts=[1,2], ends=[3,5], axes=[0,1]>(x) }")
    back = (
        "(float[N] x) => (float[M] y) <int64[1] s = {-3}, int64[1] e = {-1}> { b = Slice(x, s, e) y = Slice(b, s, e) }"
    )
    unchanged(p.slice_of_slice, back, reason="from the back")


def _run_slices(length: int, first: tuple[int, int, int], second: tuple[int, int, int], symbol: bool) -> int:
    size = "N" if symbol else str(length)
    weights = ", ".join(
        f"int64[1] {n}{i} = {{{v}}}" for i, part in enumerate((first, second)) for n, v in zip("set", part, strict=True)
    )
    graph = f"(float[{size}] x) => (float[M] y) <{weights}, int64[1] a = {{0}}> "
    model = ir.parse(graph + "{ b = Slice(x, s0, e0, a, t0) y = Slice(b, s1, e1, a, t1) }")
    original = ir.to_proto(model).SerializeToString()
    fired = Driver(p.RULES).run(model, context())
    if fired:
        same_numbers(
            original, ir.to_proto(model).SerializeToString(), {"x": np.arange(length, dtype=np.float32)}, exact=True
        )
    return fired


def test_slices_of_slices_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    starts, ends, steps = (0, 1, 3, 9, -2, -9), (0, 2, 5, 9, -1, BIG), (1, 2, 3, -1)
    cases = list(itertools.product(starts, ends, steps))
    fired = 0
    for _ in range(250):
        first, second = (cases[int(rng.integers(len(cases)))] for _ in range(2))
        fired += _run_slices(int(rng.integers(1, 8)), first, second, bool(rng.integers(2)))
    assert fired > 80


@pytest.mark.parametrize("end", [BIG, 2**31 - 1])
def test_an_open_end_with_a_negative_step_has_an_unknown_length(end: int) -> None:
    """The runtime goes on to the front, and onnx stops at once: what is known of the length must be neither."""
    for start in (-1, 3, 0):
        for second in ((0, BIG, 1), (0, 3, 1), (1, BIG, 1)):
            _run_slices(4, (start, end, -1), second, False)
    source = f"(float[4] x) => (float[n] y) <{bounds(3, end, 0, -1)}> {{ b = Slice(x, s, e, a, t) y = Relu(b) }}"
    model = ir.parse(source)
    infer_model(model)
    cut = model.graph[0]
    infer_node(cut, 20)
    assert not any(isinstance(dim, int) for dim in ir.dims(cut.outputs[0]) or ())
    assert not any(isinstance(dim, int) for dim in symbolic.values(model).shape(cut.outputs[0]) or ())
    plus = ir.parse(source.replace("{3}", "{0}").replace(f"{{{end}}}", "{4}").replace("{-1}", "{1}"))
    assert ir.dims(plus.graph[0].outputs[0]) == (4,)
    (scope,) = ir.scopes(model)
    Shapes(model).complete(cut, scope)
    assert not any(isinstance(dim, int) for dim in ir.dims(cut.outputs[0]) or ())


def test_slice_of_concat() -> None:
    head = "(float[2,3] x, float[2,4] z) => (float[2,{}] y) "
    graph = "{{ b = Concat<axis=1>(x, z) c = Slice(b, s, e, a) y = Relu(c) }}".replace("{{", "{").replace("}}", "}")
    check(p.slice_of_concat, head.format(4) + f"<{bounds(3, 7, -1)}>" + graph, head.format(4) + "{ y = Relu(z) }")
    check(p.slice_of_concat, head.format(2) + f"<{bounds(4, 6, 1)}>" + graph,
          head.format(2) + f"<{bounds(1, 3, 1)}> {{ c = Slice(z, s, e, a) y = Relu(c) }}")  # fmt: skip
    unchanged(p.slice_of_concat, head.format(2) + f"<{bounds(2, 4, 1)}>" + graph, reason="several parts")
    unchanged(p.slice_of_concat, head.format(7) + f"<{bounds(0, 1, 0)}>" + graph, reason="not known")
    symbols = "(float[2,N] x, float[2,4] z) => (float[2,M] y) "
    unchanged(p.slice_of_concat, symbols + f"<{bounds(3, 7, 1)}>" + graph, reason="several parts")


def test_split_of_concat() -> None:
    head = "(float[2,3] x, float[2,5] z) => (float[2,3] y, float[2,5] w) "
    before = (
        head + "<int64[2] s = {3,5}> { b = Concat<axis=1>(x, z) c, d = Split<axis=1>(b, s) y = Relu(c) w = Relu(d) }"
    )
    check(p.split_of_concat, before, head + "{ y = Relu(x) w = Relu(z) }")
    beside = "(float[2,3] x, float[2,5] z) => (float[2,4] y, float[2,4] w) "
    body = "{ b = Concat<axis=1>(x, z) c, d = Split<axis=1, num_outputs=2>(b) y = Relu(c) w = Relu(d) }"
    unchanged(p.split_of_concat, beside + body, reason="beside the seams")
    twice = "(float[2,3] x) => (float[2,3] y, float[2,3] w) { a = Abs(x) b = Concat<axis=1>(a, a) y, w = Split<axis=1, num_outputs=2>(b) }"
    unchanged(p.split_of_concat, twice, reason="twice")


def test_split_into_one() -> None:
    check(p.split_into_one, F + "{ b = Split<num_outputs=1>(x) y = Relu(b) }", F + "{ y = Relu(x) }")
    two = "(float[4] x) => (float[2] y, float[2] z) { y, z = Split<num_outputs=2>(x) }"
    unchanged(p.split_into_one, two, reason="several parts")


def test_split_for_one_part() -> None:
    head = "(float[2,7] x) => (float[2,3] y) "
    before = head + "{ a, b, c = Split<axis=1, num_outputs=3>(x) y = Relu(b) }"
    check(p.split_for_one_part, before, head + f"<{bounds(3, 6, 1)}> {{ b = Slice(x, s, e, a) y = Relu(b) }}")
    old = '<ir_version: 8, opset_import: ["": 11]> g '
    before = old + head + "{ a, b = Split<axis=-1, split=[4,3]>(x) y = Relu(b) }"
    check(p.split_for_one_part, before, old + head + f"<{bounds(4, 7, 1)}> {{ b = Slice(x, s, e, a) y = Relu(b) }}")
    both = "(float[4] x) => (float[2] y, float[2] z) { a, b = Split<num_outputs=2>(x) y = Relu(a) z = Relu(b) }"
    unchanged(p.split_for_one_part, both, reason="several parts")
    unknown = "(float[N] x) => (float[M] y) { a, b = Split<num_outputs=2>(x) y = Relu(a) }"
    unchanged(p.split_for_one_part, unknown, reason="unknown")


def test_gather_run() -> None:
    check(
        p.gather_run,
        F + "<int64[6] i = {0,1,2,3,4,-1}> { b = Gather<axis=1>(x, i) y = Relu(b) }",
        F + "{ y = Relu(x) }",
    )
    indices = ",".join(str(2 * each + 1) for each in range(40))
    head = "(float[90] x) => (float[40] y) "
    before = head + f"<int64[40] i = {{{indices}}}> {{ y = Gather(x, i) }}"
    check(p.gather_run, before, head + f"<{bounds(1, 80, 0, 2)}> {{ y = Slice(x, s, e, a, t) }}")
    unchanged(
        p.gather_run, "(float[9] x) => (float[3] y) <int64[3] i = {3,4,5}> { y = Gather(x, i) }", reason="more room"
    )
    unchanged(p.gather_run, "(float[3] x) => (float[3] y) <int64[3] i = {2,1,0}> { y = Gather(x, i) }", reason="evenly")
    unchanged(p.gather_run, "(float[N] x) => (float[2] y) <int64[2] i = {0,1}> { y = Gather(x, i) }", reason="unknown")
    unchanged(p.gather_run, "(float[1] x) => (float y) <int64 i = {0}> { y = Gather(x, i) }", reason="no list")


def test_gather_of_slice() -> None:
    head = "(float[9] x) => (float[2] y) "
    before = head + f"<{bounds(2, 9, 0, 3)}, int64[2] i = {{-1, 1}}> {{ b = Slice(x, s, e, a, t) y = Gather(b, i) }}"
    check(p.gather_of_slice, before, head + "<int64[2] i = {8, 5}> { y = Gather<axis=0>(x, i) }")
    unknown = f"(float[N] x) => (float y) <{bounds(2, 9)}, int64 i = {{1}}> {{ b = Slice(x, s, e) y = Gather(b, i) }}"
    unchanged(p.gather_of_slice, unknown, reason="unknown")
    other = f"(float[4,4] x) => (float[2] y) <{bounds(2, 4, 1)}, int64 i = {{1}}> {{ b = Slice(x, s, e, a) y = Gather(b, i) }}"
    unchanged(p.gather_of_slice, other, reason="another axis")
