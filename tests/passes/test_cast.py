"""Casts."""

# ruff: noqa: E501 - a graph stays on one line

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accelc import ir
from accelc.passes import cast as p
from accelc.testing import check, run, unchanged

F = "(float[2,4] x) => (float[2,4] y) "


def test_cast_to_own_type() -> None:
    check(p.cast_to_own_type, F + "{ a = Cast<to=1>(x) y = Relu(a) }", F + "{ y = Relu(x) }")
    unchanged(p.cast_to_own_type, "(float[2] x) => (double[2] y) { y = Cast<to=11>(x) }", reason="changes the type")


def test_cast_like() -> None:
    head = "(float[2] x, double[3] z) => (double[2] y) "
    check(p.cast_like, head + "{ y = CastLike(x, z) }", head + "{ y = Cast<to=11>(x) }")
    head = "(float[2] x, float[3] z) => (float[2] y) "
    check(p.cast_like, head + "{ a = CastLike(x, z) y = Relu(a) }", head + "{ y = Relu(x) }")
    unchanged(p.cast_like, "(float[2] x, float[3] z) => (float[2] y) { y = CastLike(x, z) }", reason="share its value")


def test_cast_of_cast() -> None:
    head = "(int32[4] x) => (int32[4] y) "
    check(p.cast_of_cast, head + "{ a = Cast<to=7>(x) b = Cast<to=6>(a) y = Abs(b) }", head + "{ y = Abs(x) }")
    head = "(int32[4] x) => (float[4] y) "
    check(p.cast_of_cast, head + "{ a = Cast<to=7>(x) y = Cast<to=1>(a) }", head + "{ y = Cast<to=1>(x) }")
    head = "(int64[4] x) => (int8[4] y) "
    check(p.cast_of_cast, head + "{ a = Cast<to=6>(x) y = Cast<to=3>(a) }", head + "{ y = Cast<to=3>(x) }",
          x=np.array([300, -(2**40) - 1, 2**63 - 1, -129]))  # fmt: skip


@pytest.mark.parametrize(
    ("source", "middle", "to"),
    [
        ("float", 10, 1),
        ("float", 6, 1),
        ("int64", 1, 7),
        ("int64", 11, 7),
        ("int32", 12, 7),
        ("float", 11, 6),
        ("int32", 9, 6),
    ],
)
def test_cast_of_cast_that_loses(source: str, middle: int, to: int) -> None:
    result = {1: "float", 6: "int32", 7: "int64"}[to]
    graph = f"({source}[4] x) => ({result}[4] y) {{ a = Cast<to={middle}>(x) y = Cast<to={to}>(a) }}"
    unchanged(p.cast_of_cast, graph, reason="is not")


def test_cast_around_move() -> None:
    head = "(float16[2,4] x) => (float16[4,2] y) "
    before = head + "{ a = Cast<to=1>(x) b = Transpose<perm=[1,0]>(a) y = Cast<to=10>(b) }"
    check(p.cast_around_move, before, head + "{ y = Transpose<perm=[1,0]>(x) }")
    head = "(int32[2,4] x) => (int32[8] y) <int64[1] s = {-1}> "
    before = head + "{ a = Cast<to=7>(x) b = Reshape(a, s) y = Cast<to=6>(b) }"
    check(p.cast_around_move, before, head + "{ y = Reshape(x, s) }")
    loses = (
        "(float[2,4] x) => (float[8] y) <int64[1] s = {-1}> { a = Cast<to=10>(x) b = Reshape(a, s) y = Cast<to=1>(b) }"
    )
    unchanged(p.cast_around_move, loses, reason="loses")
    ends = "(float16[2,4] x) => (double[8] y) <int64[1] s = {-1}> { a = Cast<to=1>(x) b = Reshape(a, s) y = Cast<to=11>(b) }"
    unchanged(p.cast_around_move, ends, reason="does not return")


_KINDS = [*p._INTS, *p._SIGNIFICANT, ir.DataType.BOOL]


def _edges(kind: ir.DataType) -> np.ndarray:  # type: ignore[type-arg]
    dtype = kind.numpy()
    if kind == ir.DataType.BOOL:
        return np.array([True, False])
    if kind in p._INTS:
        info = np.iinfo(dtype)
        some = [0, 1, 3, 100, 127, info.max, info.max - 1, info.min, info.min + 1, info.max // 2 + 1, info.max // 3]
        return np.array(some, dtype)
    numbers = [0.0, -0.0, 1.0, -1.5, 0.1, 3.3, 250.0, -250.0, 65504.0, 1e-7, np.inf, -np.inf, np.nan]
    return np.array(numbers).astype(dtype)


def test_every_skippable_chain_agrees_with_the_runtime() -> None:
    import onnx

    checked = 0
    for source, middle, to in itertools.product(_KINDS, repeat=3):
        if (
            middle in (source, to)
            or ir.DataType.BFLOAT16 in (source, middle, to)
            or not p.skippable(source, middle, to)
        ):
            continue
        values = _edges(source)
        if to in p._INTS and source in p._SIGNIFICANT:
            raise AssertionError(f"{source} to {to} is not defined for every value")
        both = []
        for chain in ((middle, to), (to,)):
            names = [f"v{index}" for index in range(len(chain) + 1)]
            nodes = [
                onnx.helper.make_node("Cast", [names[i]], [names[i + 1]], to=int(kind)) for i, kind in enumerate(chain)
            ]
            graph = onnx.helper.make_graph(
                nodes,
                "g",
                [onnx.helper.make_tensor_value_info(names[0], int(source), [len(values)])],
                [onnx.helper.make_tensor_value_info(names[-1], int(to), [len(values)])],
            )
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
            both.append(run(model.SerializeToString(), {"v0": values})[0])
        np.testing.assert_array_equal(both[0], both[1], err_msg=f"{source} {middle} {to}")
        checked += 1
    assert checked > 150


def test_lossless_is_an_order() -> None:
    for a, b, c in itertools.product(_KINDS, repeat=3):
        if p.lossless(a, b) and p.lossless(b, c):
            assert p.lossless(a, c)
    for a, b in itertools.combinations(_KINDS, 2):
        assert not (p.lossless(a, b) and p.lossless(b, a))
